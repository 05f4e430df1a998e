"""The model under evaluation: text to ids, ids to probabilities, whoever made it.

`LumiModel` is ours. `TransformersModel` is any other causal model that transformers loads, so that GPT-2 can stand
beside ours under one protocol.

Shapes: B rows, T columns, N chosen places, V vocabulary.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor

from lumi.artifacts import MANIFEST, canonical_json, sha256_bytes
from lumi.errors import DataError
from lumi.inference import Completion, GenerationConfig, generate
from lumi.model import IGNORE, Llama, count_parameters, load_model, next_token_losses
from lumi.model.loss import chunk_positions
from lumi.progress import say
from lumi.tokenizer import BOS_ID, Tokenizer

_LONGEST_CONTEXT = 1 << 17  # tokens: a tokenizer that knows no limit says 10 ** 30


class LanguageModel(Protocol):
    """What an evaluation needs of a model."""

    context: int
    """Tokens that it sees at once."""
    parameters: int
    tokenizer_sha256: str
    begin: tuple[int, ...]
    """What stands before every prompt: ``<s>`` for ours, nothing for GPT-2."""
    prefix: int
    """What stands before a text whose first token is scored too."""
    branches: bool
    """Whether one row may hold several continuations of one prompt (`predict` takes positions and a mask)."""
    device: torch.device

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, nothing added."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""
        ...

    def losses(self, tokens_BT: Tensor, labels_BT: Tensor) -> Tensor:
        """Return the loss of every label in nats, float32 [B, T]; 0 where it is `IGNORE`."""
        ...

    def predict(
        self,
        tokens_BT: Tensor,
        places_N: tuple[Tensor, Tensor],
        targets_N: Tensor,
        *,
        positions_BT: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return, for (rows, columns) and the token that follows there, its log-probability and whether no other
        token is likelier, [N] each.
        """
        ...

    def complete(self, prompts: Sequence[str | Sequence[int]], settings: GenerationConfig) -> list[Completion]:
        """Continue every prompt."""
        ...


def log_probs(logits_NV: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    """Return the log-probabilities of targets, and whether no other token is likelier; float32 logits are used up."""
    wide_NV = logits_NV.float()
    chosen_N = wide_NV.gather(1, targets_N.unsqueeze(1)).squeeze(1)
    highest_N = wide_NV.amax(1)
    log_sum_N = wide_NV.sub_(highest_N.unsqueeze(1)).exp_().sum(1).log()  # in place: memory is what takes the time
    return chosen_N - highest_N - log_sum_N, chosen_N == highest_N


class LumiModel:
    """A checkpoint of ours. The head runs only where something is asked, which is most of the work saved."""

    branches = True
    begin: tuple[int, ...] = (BOS_ID,)
    prefix = BOS_ID

    def __init__(self, model: Llama, tokenizer: Tokenizer) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.context = model.config.sequence_length
        self.parameters = count_parameters(model.config).total
        self.tokenizer_sha256 = tokenizer.sha256
        self.device = model.lm_head.weight.device

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids)

    def losses(self, tokens_BT: Tensor, labels_BT: Tensor) -> Tensor:
        return next_token_losses(self.model, tokens_BT, labels_BT)

    def predict(
        self,
        tokens_BT: Tensor,
        places_N: tuple[Tensor, Tensor],
        targets_N: Tensor,
        *,
        positions_BT: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        hidden_BTD = self.model.hidden(tokens_BT, positions_BT=positions_BT, mask=mask)
        hidden_ND = hidden_BTD[places_N]
        step = chunk_positions(self.device.type, self.model.config.vocab_size)
        found = [
            log_probs(self.model.lm_head(hidden), targets)
            for hidden, targets in zip(torch.split(hidden_ND, step), torch.split(targets_N, step), strict=True)
        ]
        return torch.cat([values for values, _ in found]), torch.cat([greedy for _, greedy in found])

    def complete(self, prompts: Sequence[str | Sequence[int]], settings: GenerationConfig) -> list[Completion]:
        return generate(self.model, self.tokenizer, prompts, settings)


class TransformersModel:
    """Any causal model that transformers loads, run by transformers.

    Args:
        model: on its device, in eval mode.
        tokenizer: its own.
        tokenizer_sha256: what tells its tokenizer from others.
    """

    branches = False

    def __init__(self, model: Any, tokenizer: Any, tokenizer_sha256: str) -> None:
        self.model, self.tokenizer, self.tokenizer_sha256 = model, tokenizer, tokenizer_sha256
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        names = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")
        lengths = [length for name in names if (length := getattr(model.config, name, None))]
        longest = lengths[0] if lengths else tokenizer.model_max_length  # BLOOM names none
        self.context = int(min(longest, _LONGEST_CONTEXT))
        self.device = model.device
        self.begin: tuple[int, ...] = (
            tuple(tokenizer("")["input_ids"])[:1] if tokenizer.bos_token_id is not None else ()
        )
        named = (tokenizer.bos_token_id, tokenizer.eos_token_id)
        self.prefix = next(token for token in named if token is not None)

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    @torch.inference_mode()
    def _logits(self, tokens_BT: Tensor) -> Tensor:
        logits: Tensor = self.model(input_ids=tokens_BT, use_cache=False).logits
        return logits

    def losses(self, tokens_BT: Tensor, labels_BT: Tensor) -> Tensor:
        logits_BTV = self._logits(tokens_BT)
        rows = [
            F.cross_entropy(logits.float(), labels, ignore_index=IGNORE, reduction="none")
            for logits, labels in zip(logits_BTV, labels_BT, strict=True)
        ]
        return torch.stack(rows)

    def predict(
        self,
        tokens_BT: Tensor,
        places_N: tuple[Tensor, Tensor],
        targets_N: Tensor,
        *,
        positions_BT: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        assert positions_BT is None, "one continuation a row"
        return log_probs(self._logits(tokens_BT)[places_N], targets_N)

    @torch.inference_mode()
    def complete(self, prompts: Sequence[str | Sequence[int]], settings: GenerationConfig) -> list[Completion]:
        """Continue prompts one by one; sampling is transformers' own.

        Raises:
            DataError: a prompt leaves no room for an answer.
        """
        found = []
        for number, prompt in enumerate(prompts):
            ids = [*self.begin, *self.encode(prompt)] if isinstance(prompt, str) else list(prompt)
            ids = ids or [self.prefix]
            room = min(settings.max_new_tokens, self.context - len(ids))
            if room <= 0:
                raise DataError(
                    f"prompt {number + 1} has {len(ids):,} tokens, the model's context is {self.context:,}: there is no"
                    " room for an answer",
                    "shorten it, or leave the texts out: --prompts None",
                )
            torch.manual_seed(settings.seed + number)
            sampled = settings.temperature > 0
            options = {"temperature": settings.temperature, "top_p": settings.top_p} if sampled else {}
            tokens = torch.tensor([ids], device=self.device)
            out = self.model.generate(
                tokens,
                attention_mask=torch.ones_like(tokens),
                max_new_tokens=room,
                do_sample=sampled,
                pad_token_id=self.prefix,
                **options,
            )
            new = out[0, len(ids) :].tolist()
            ended = bool(new) and new[-1] == self.tokenizer.eos_token_id
            kept = tuple(new[:-1] if ended else new)
            text = prompt if isinstance(prompt, str) else self.decode(prompt)
            found.append(Completion(text, self.decode(kept), kept, "stop" if ended else "length", len(ids)))
        return found


def load_language_model(path: Path, *, device: torch.device, dtype: torch.dtype) -> LumiModel | TransformersModel:
    """Load a checkpoint of ours, or a model of others from a folder or from the hub.

    Raises:
        DataError: there is no such model, or it cannot be loaded.
        IntegrityError: a checkpoint of ours is incomplete or damaged.
    """
    if _is_ours(path):
        return LumiModel(load_model(path, device=device, dtype=dtype), Tokenizer.load(path))
    return _load_of_others(path, device, dtype)


def _is_ours(path: Path) -> bool:
    """Say whether a path is meant for a checkpoint of ours, complete or not."""
    if path.is_dir():
        foreign = (path / "config.json").is_file() and not (path / "training_state").is_dir()
        return (path / MANIFEST).is_file() or not foreign
    return path.is_absolute() or len(path.parts) > 2 or path.parts[0] in (".", "..", "checkpoints", "runs")


def _load_of_others(path: Path, device: torch.device, dtype: torch.dtype) -> TransformersModel:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    here = path.is_dir() or _is_cached(path)
    if not here and (why := hub_out_of_reach("model", str(path))):
        raise _no_model(path, f"is no folder, and the hub did not give it ({why})")
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            str(path), dtype=dtype, use_safetensors=True, local_files_only=here, output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(str(path), local_files_only=here)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise _no_model(path, f"cannot be loaded ({reason})") from None
    if lacking := sorted(info["missing_keys"]):
        raise _no_model(path, f"lacks weights, which would be drawn anew: {', '.join(lacking[:3])}")
    if len(tokenizer) > model.config.vocab_size or not len(tokenizer("a")["input_ids"]):
        raise _no_model(path, f"has no tokenizer that fits it ({len(tokenizer):,} pieces, {model.config.vocab_size:,})")
    if tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
        raise _no_model(path, "has a tokenizer without beginning and end: nothing can stand before a text")
    sha256 = sha256_bytes(canonical_json(tokenizer.get_vocab()))
    return TransformersModel(model.to(device).eval(), tokenizer, sha256)


def _no_model(path: Path, why: str) -> DataError:
    return DataError(
        f"no model at {path}: it {why}",
        "check --model_path: a checkpoint such as checkpoints/pretrain/tiny/final, a folder with safetensors, or a name"
        " on the hub",
    )


def _is_cached(path: Path) -> bool:
    from huggingface_hub import try_to_load_from_cache

    try:
        return isinstance(try_to_load_from_cache(str(path), "config.json"), str)
    except ValueError:  # no name that the hub could have
        return False


def hub_out_of_reach(kind: Literal["model", "dataset"], name: str) -> str:
    """Ask the hub once for a model or data set; return why it does not answer, nothing where it does.

    What loads them would try again and again for a minute.
    """
    from huggingface_hub import HfApi

    say(f"asking the hub for {name}")
    try:
        if kind == "model":
            HfApi().model_info(name, timeout=10)
        else:
            HfApi().dataset_info(name, timeout=10)
    except Exception as error:  # noqa: BLE001  # whatever it is, there is nothing to be had
        return type(error).__name__
    return ""
