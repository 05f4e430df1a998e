"""llama.cpp on a GGUF file, as its own server answers (the wheel xllamacpp has it in it)."""

import json
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xllamacpp


@dataclass(frozen=True)
class Continuation:
    """What was written behind a prompt, greedily."""

    ids: tuple[int, ...]  # without the token that ended it
    text: str
    first: dict[int, float]  # log-probabilities of the likeliest first tokens
    ended: bool  # by a token that ends an answer


class LlamaServer:
    """A model in llama.cpp.

    Args:
        model: GGUF file.
        adapter: GGUF file of a LoRA adapter for it.
        in_float32: attention too, as we compute it; else as llama.cpp does by default, with float16 in it.
    """

    def __init__(self, model: Path, *, adapter: Path | None = None, in_float32: bool = True) -> None:
        params = xllamacpp.CommonParams()
        params.model.path = str(model)
        params.n_ctx, params.n_parallel, params.port, params.warmup, params.verbosity = 1024, 1, 0, False, -1
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 2
        if in_float32:
            params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
            # its kernel of flash attention computes in float16 on a CPU
            params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        if adapter is not None:
            params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(adapter), 1.0)]
        self._server = xllamacpp.Server(params)

    def encode(self, text: str, *, whole_prompt: bool = False) -> list[int]:
        """Return the ids of a text; of a whole prompt, with ``<s>`` and with names of control symbols read as such."""
        body = {"content": text, "add_special": whole_prompt, "parse_special": whole_prompt}
        return self._post("/tokenize", body)["tokens"]

    def decode(self, ids: Sequence[int]) -> str:
        return self._post("/detokenize", {"tokens": list(ids)})["content"]

    def chat_ids(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """Return the ids of the prompt for an answer, by the chat template in the file."""
        prompt = self._post("/apply-template", {"messages": list(messages)})["prompt"]
        return self.encode(prompt, whole_prompt=True)

    def chat(self, messages: Sequence[dict[str, str]], max_new_tokens: int) -> str:
        """Return the most likely answer."""
        body = {"messages": list(messages), "temperature": 0, "max_tokens": max_new_tokens}
        return self._post("/v1/chat/completions", body)["choices"][0]["message"]["content"]

    def continue_greedily(self, ids: Sequence[int], max_new_tokens: int) -> Continuation:
        body = {
            "prompt": list(ids), "n_predict": max_new_tokens, "temperature": 0, "return_tokens": True, "n_probs": 10,
            "cache_prompt": False,
        }  # fmt: skip
        found = self._post("/completion", body)
        first = {one["id"]: one["logprob"] for one in found["completion_probabilities"][0]["top_logprobs"]}
        ids, ended = found["tokens"], found["stop_type"] == "eos"
        return Continuation(tuple(ids[:-1] if ended else ids), found["content"], first, ended)

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        data, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
        request = urllib.request.Request(self._server.listening_address + path, data, headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)
