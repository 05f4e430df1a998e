"""`lumi generate`: continue prompts with a checkpoint, the text printed while it is written."""

from pathlib import Path

from pydantic import Field

from lumi.config import Config
from lumi.devices import DeviceName, DtypeName
from lumi.inference.generation import generate, stream
from lumi.inference.settings import GenerationConfig
from lumi.model import choose_device, choose_dtype, load_model, read_stop_ids
from lumi.tokenizer import Tokenizer, require_same_tokenizer


class GenerateConfig(Config):
    """Continue one prompt, or several at once."""

    model_path: Path
    """Checkpoint folder, such as checkpoints/pretrain/tiny/final."""
    prompt: tuple[str, ...] = Field(default=("",), min_length=1)
    """Text to continue; several texts are answered together. Empty: the model begins a document of its own."""
    tokenizer_path: Path | None = None
    """The checkpoint has its tokenizer; when one is given, it must be the same."""
    device: DeviceName = "auto"
    """Where to compute."""
    dtype: DtypeName = "auto"
    """Type to compute in."""
    generation: GenerationConfig = GenerationConfig()


def run_generate(config: GenerateConfig) -> None:
    """Write prompts and continuations to standard output; a single one as it comes."""
    device = choose_device(config.device)
    model = load_model(config.model_path, device=device, dtype=choose_dtype(config.dtype, device))
    tokenizer = Tokenizer.load(config.model_path)
    if config.tokenizer_path is not None:
        asked = Tokenizer.load(config.tokenizer_path)
        require_same_tokenizer(tokenizer.sha256, asked.sha256, str(config.tokenizer_path))
    stop_ids = tuple(sorted({*config.generation.stop_ids, *read_stop_ids(config.model_path)}))
    settings = config.generation.model_copy(update={"stop_ids": stop_ids})
    if len(config.prompt) == 1:
        deltas = stream(model, tokenizer, config.prompt, settings)
        print(config.prompt[0], end="", flush=True)
        for delta in deltas:
            print(delta.text, end="", flush=True)
        print()
        return
    for completion in generate(model, tokenizer, config.prompt, settings):
        print(f"{completion.prompt}{completion.text}\n{'-' * 40}")
