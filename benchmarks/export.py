"""A checkpoint in Lumi and, exported, elsewhere: the same ids? the same greedy text? by type of the weights.

    python benchmarks/export.py --model_path checkpoints/pretrain/tiny/final --text_files data/raw/wikipedia/*.jsonl.xz
    python benchmarks/export.py --model_path checkpoints/sft/tiny/final --base_path checkpoints/pretrain/tiny/final ...

Elsewhere is llama.cpp, with everything in float32 and by its defaults, and transformers; all on the CPU. With
--base_path it is llama.cpp alone, with base and adapter in two files, against the merged model in Lumi. Texts are
stretches of the documents, evenly spread, and some that are made to be difficult. Prompts are the beginnings of these
stretches, or for a tuned model questions about them.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM

from difficult_texts import DIFFICULT, stretches
from llama_server import LlamaServer
from lumi.conversation import Message, read_template, render
from lumi.export import ExportConfig, export
from lumi.inference import GenerationConfig, generate
from lumi.model import load_model
from lumi.tokenizer import BOS_ID, EOS_ID, PAD_ID, Tokenizer

Ids = Sequence[int]


@dataclass(frozen=True)
class Way:
    """An export in another program."""

    dtype: str
    program: str
    num_bytes: int
    seconds: float  # to export it
    answer: Callable[[Ids, int], tuple[int, ...]]
    server: LlamaServer | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_path", type=Path, required=True)
    parser.add_argument("--base_path", type=Path)
    parser.add_argument("--text_files", type=Path, nargs="+", required=True)
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--max_new_tokens", type=int, default=64)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    tokenizer, template = Tokenizer.load(options.model_path), read_template(options.model_path)
    texts = [*DIFFICULT, *stretches(options.text_files, options.texts)]
    beginnings = [" ".join(text.split()[:8]) for text in texts[-options.prompts :]]
    chats = [[Message("user", f"What is {beginning}?")] for beginning in beginnings] if template else []
    prompts = [render(chat, template, tokenizer, asks=True).ids.tolist() for chat in chats] or [
        [BOS_ID, *tokenizer.encode(beginning)] for beginning in beginnings
    ]
    stop_ids = template.stop_ids if template else (EOS_ID,)
    settings = GenerationConfig(temperature=0, max_new_tokens=options.max_new_tokens, stop_ids=stop_ids)
    ours = [one.token_ids for one in generate(load_model(options.model_path), tokenizer, prompts, settings)]
    found, checked = [], False
    for way in ways(options.model_path, options.base_path):
        if way.server and not checked and not options.base_path:
            equal = share([way.server.encode(text) == tokenizer.encode(text) for text in texts])
            print(f"the same ids: {equal:.2%} of {len(texts)} texts")
            asked = [way.server.chat_ids([message.to_json() for message in chat]) for chat in chats]
            if chats:
                equal = share([theirs == prompt for theirs, prompt in zip(asked, prompts, strict=True)])
                print(f"the same ids: {equal:.2%} of {len(chats)} prompts of conversations")
            checked = True
        pairs = [(our, way.answer(prompt, options.max_new_tokens)) for our, prompt in zip(ours, prompts, strict=True)]
        found.append(
            {
                "type": way.dtype,
                "program": way.program,
                "bytes": way.num_bytes,
                "seconds": way.seconds,
                "same_text": share([our == theirs for our, theirs in pairs]),
                "same_first_token": share([our[:1] == theirs[:1] for our, theirs in pairs]),
                "alike_tokens": statistics.fmean(alike(our, theirs) for our, theirs in pairs),
            }
        )
    show(found, f"greedy text of {len(prompts)} prompts, up to {options.max_new_tokens} tokens")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


def ways(model_path: Path, base_path: Path | None) -> Iterator[Way]:
    """Export a model, or base and adapter, in every type, and run it."""
    for dtype in ("f32", "f16", "q8_0"):
        with tempfile.TemporaryDirectory() as root:
            started, adapter = time.perf_counter(), None
            folder = exported(base_path or model_path, Path(root) / "model", "gguf", dtype)
            if base_path:
                more = {"adapter": True, "base_path": base_path}
                adapter = exported(model_path, Path(root) / "adapter", "gguf", "f32", **more) / "adapter-f32.gguf"
            seconds, file = time.perf_counter() - started, folder / f"model-{dtype}.gguf"
            for name, in_float32 in (("llama.cpp, float32", True), ("llama.cpp", False)):
                server = LlamaServer(file, adapter=adapter, in_float32=in_float32)

                def answer(ids: Ids, max_new_tokens: int, server: LlamaServer = server) -> tuple[int, ...]:
                    return server.continue_greedily(ids, max_new_tokens).ids

                yield Way(dtype, name, file.stat().st_size, seconds, answer, server)
    for dtype in () if base_path else ("fp32", "fp16", "bf16"):
        with tempfile.TemporaryDirectory() as root:
            started = time.perf_counter()
            folder = exported(model_path, Path(root) / "model", "hf", dtype)
            seconds, size = time.perf_counter() - started, (folder / "model.safetensors").stat().st_size
            model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")

            def answer(ids: Ids, max_new_tokens: int, model: AutoModelForCausalLM = model) -> tuple[int, ...]:
                prompt = torch.tensor([list(ids)])
                ends = (*model.generation_config.eos_token_id, PAD_ID)
                made = model.generate(prompt, do_sample=False, max_new_tokens=max_new_tokens)[0, len(ids) :].tolist()
                return tuple(made[:-1] if made and made[-1] in ends else made)

            yield Way(dtype, "transformers", size, seconds, answer)


def exported(model_path: Path, folder: Path, form: str, dtype: str, **more: object) -> Path:
    return export(ExportConfig(model_path=model_path, output_dir=folder, format=form, dtype=dtype, **more))


def share(outcomes: list[bool]) -> float:
    return sum(outcomes) / len(outcomes)


def alike(ours: Ids, theirs: Ids) -> int:
    """Return how many tokens two answers have in common at their beginning."""
    pairs = zip(ours, theirs, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(theirs)))


def show(found: list[dict], title: str) -> None:
    print(f"{platform.machine()}, {os.cpu_count()} cores")
    table = Table(title=title)
    for name in ("type", "program", "MB", "export, s", "same text", "same first token", "tokens alike, mean"):
        table.add_column(name, justify="left" if name in ("type", "program") else "right")
    for row in found:
        figures = (
            f"{row['bytes'] / 1e6:.1f}",
            f"{row['seconds']:.1f}",
            f"{row['same_text']:.0%}",
            f"{row['same_first_token']:.0%}",
            f"{row['alike_tokens']:.1f}",
        )
        table.add_row(row["type"], row["program"], *figures)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
