"""How fast tokens come: Lumi's engine beside transformers' ``generate``, and on a CPU beside llama.cpp.

    python benchmarks/inference.py --sizes tiny small base --batches 1 8 64 --peers transformers compiled
    python benchmarks/inference.py --model_path RUN/final --peers transformers llama.cpp       # on a CPU
    PYTHONPATH=NANOCHAT python benchmarks/inference.py --peers nanochat                        # a clone of it

Each (but nanochat, see there) runs the same weights (freshly drawn ones where no checkpoint is named) on the same
prompts, greedily, without an end token, and writes the same number of tokens; tokens per second are those of the
answers, over the whole time from the prompts on. Runs take turns, so that a noisy machine is noisy for all; the best
of them counts.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from lumi.inference import Engine, GenerationConfig
from lumi.model import Llama, ModelConfig, choose_device, choose_dtype, create_model, load_model
from lumi.progress import say

SIZES = {
    "tiny": {"n_layer": 6, "d_model": 256, "n_head": 4},
    "small": {"n_layer": 12, "d_model": 512, "n_head": 8},
    "base": {"n_layer": 24, "d_model": 768, "n_head": 12},
}
SAME_WEIGHTS = {"llama.cpp f16": "lumi, fp16", "llama.cpp q8_0": "lumi, int8"}
Run = Callable[[], int]  # returns the tokens that it has written


class NoText:
    """Stands for a tokenizer where ids alone are timed."""

    def piece_text(self, _token: int) -> str:
        return "a "


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_path", type=Path, help="this checkpoint instead of sizes; llama.cpp needs it")
    parser.add_argument("--sizes", nargs="+", default=["tiny"], choices=SIZES)
    parser.add_argument("--batches", nargs="+", type=int, default=[1])
    parser.add_argument(
        "--peers", nargs="*", default=["transformers"], choices=["transformers", "compiled", "nanochat", "llama.cpp"]
    )
    parser.add_argument("--sampled", action="store_true", help="Lumi also with temperature 0.8 and top-p 0.95")
    parser.add_argument("--narrow", action="store_true", help="on a CPU: also weights in fp16 and int8, f16 and q8_0")
    parser.add_argument("--prompt_tokens", type=int, default=128)
    parser.add_argument("--new_tokens", type=int, default=256)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--dtype", default="auto", choices=["auto", "fp32", "bf16", "fp16"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    device = choose_device("auto")
    dtype = choose_dtype(options.dtype, device)
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    lengths = f"{options.prompt_tokens} prompt and {options.new_tokens} new tokens"
    say(f"{where}, {dtype}, {lengths}, torch {torch.__version__}")
    rows = []
    for size in [options.model_path.parent.name] if options.model_path else options.sizes:
        if options.model_path:
            model = load_model(options.model_path, device=device, dtype=dtype)
        else:
            model = create_model(ModelConfig(**SIZES[size], sequence_length=1024), seed=1).to(device).eval()
            model.compute_dtype = dtype
        for batch in options.batches:
            draw = torch.Generator().manual_seed(batch)
            prompts = torch.randint(6, model.config.vocab_size, (batch, options.prompt_tokens), generator=draw)
            rows += measure(size, batch, runners(model, prompts, options), options)
    if options.json:
        options.json.write_text(json.dumps({"where": where, "dtype": str(dtype), "rows": rows}, indent=1) + "\n")


def runners(model: Llama, prompts: torch.Tensor, options: argparse.Namespace) -> dict[str, Run]:
    """Return what is compared, by name."""
    device = model.lm_head.weight.device
    settings = {"max_new_tokens": options.new_tokens, "stop_ids": ()}
    found = {"lumi": lumi(model, prompts, GenerationConfig(temperature=0.0, **settings))}
    if options.sampled:
        found["lumi, sampled"] = lumi(model, prompts, GenerationConfig(temperature=0.8, top_p=0.95, **settings))
    if options.narrow:
        greedy, dtype = GenerationConfig(temperature=0.0, **settings), model.compute_dtype
        found["lumi, int8"] = lumi(model, prompts, greedy, int8=True)
        model.compute_dtype = torch.float16
        found["lumi, fp16"] = lumi(model, prompts, greedy)
        model.compute_dtype = dtype
    if "transformers" in options.peers or "compiled" in options.peers:
        from transformers import LlamaConfig, LlamaForCausalLM

        other = LlamaForCausalLM(LlamaConfig(**model.config.to_transformers()))
        other.load_state_dict(model.state_dict(), strict=False)
        other = other.to(device, model.compute_dtype).eval()
        if "transformers" in options.peers:
            found["transformers"] = transformers(other, prompts.to(device), options.new_tokens)
        if "compiled" in options.peers:
            found["transformers, static cache, compiled"] = transformers(
                other, prompts.to(device), options.new_tokens, cache_implementation="static"
            )
    if "nanochat" in options.peers:
        found["nanochat"] = nanochat(model, prompts, options.new_tokens)
    if "llama.cpp" in options.peers:
        for kind in ("f32", *(["f16", "q8_0"] if options.narrow else [])):
            found[f"llama.cpp {kind}"] = llama_cpp(options.model_path, prompts, options.new_tokens, kind)
    return found


def lumi(model: Llama, prompts: torch.Tensor, settings: GenerationConfig, *, int8: bool = False) -> Run:
    engine = Engine(model, NoText(), num_slots=len(prompts), int8=int8)  # type: ignore[arg-type]
    engine.warm_up()
    rows = prompts.tolist()

    def run() -> int:
        engine.forget()
        requests = [engine.submit(row, settings) for row in rows]
        engine.run()
        return sum(len(request.token_ids) for request in requests)

    return run


def transformers(model: torch.nn.Module, prompts: torch.Tensor, new_tokens: int, **options: str) -> Run:
    @torch.inference_mode()
    def run() -> int:
        out = model.generate(  # type: ignore[operator]
            prompts,
            attention_mask=torch.ones_like(prompts),
            do_sample=False,
            min_new_tokens=new_tokens,
            max_new_tokens=new_tokens,
            pad_token_id=3,
            **options,
        )
        return out.shape[0] * (out.shape[1] - prompts.shape[1])

    return run


def nanochat(model: Llama, prompts: torch.Tensor, new_tokens: int) -> Run:
    """Its engine with its own model, as deep and wide as ours, of drawn weights.

    It is no Llama, its engine answers one prompt in all rows, and on a card it is in bf16, its weights cast at each
    use; its kernel for attention is taken where it is at hand.
    """
    from nanochat.engine import Engine as NanochatEngine
    from nanochat.gpt import GPT, GPTConfig

    class NoEnds:
        """Stands for its tokenizer: no token ends an answer."""

        def encode_special(self, _text: str) -> int:
            return -1

        def get_bos_token_id(self) -> int:
            return -1

    shape = model.config
    with torch.device("meta"):
        config = GPTConfig(
            sequence_len=shape.sequence_length, vocab_size=shape.vocab_size, n_layer=shape.n_layer, n_head=shape.n_head,
            n_kv_head=shape.n_head, n_embd=shape.d_model, window_pattern="L",
        )  # fmt: skip
        other = GPT(config)
    other.to_empty(device=model.lm_head.weight.device)
    other.init_weights()
    engine = NanochatEngine(other.eval(), NoEnds())
    prompt = prompts[0].tolist()

    def run() -> int:
        answers = engine.generate(prompt, num_samples=len(prompts), max_tokens=new_tokens, temperature=0.0)
        return sum(len(column) for column, _ in answers)

    return run


def llama_cpp(checkpoint: Path, prompts: torch.Tensor, new_tokens: int, kind: str) -> Run:
    """The same checkpoint, exported, in llama.cpp with its own settings; one prompt at a time."""
    import xllamacpp

    from lumi.export import ExportConfig, export

    folder = Path(tempfile.mkdtemp())
    export(ExportConfig.from_values(
        {"model_path": str(checkpoint), "output_dir": str(folder / kind), "format": "gguf", "dtype": kind}, "benchmark"
    ))  # fmt: skip
    params = xllamacpp.CommonParams()
    params.model.path = str(next((folder / kind).glob("*.gguf")))
    params.n_ctx, params.n_parallel, params.port, params.verbosity = 1024, 1, 0, -1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = torch.get_num_threads()
    server = xllamacpp.Server(params)

    def run() -> int:
        written = 0
        for prompt in prompts.tolist():
            body = {"prompt": prompt, "n_predict": new_tokens, "temperature": 0, "ignore_eos": True}
            found = server.handle_completions({**body, "cache_prompt": False})
            written += found["timings"]["predicted_n"]
        return written

    return run


def measure(size: str, batch: int, runs: dict[str, Run], options: argparse.Namespace) -> list[dict[str, object]]:
    """Let all take turns; return a row for each."""
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()  # compiles, fills caches
    for _ in range(options.runs):
        for name, run in runs.items():
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            begin = time.perf_counter()
            tokens = run()
            rates[name].append(tokens / (time.perf_counter() - begin))
    rows = []
    for name, values in rates.items():
        ours = SAME_WEIGHTS.get(name, "lumi")
        ratio = max(rates[ours]) / max(values)
        say(
            f"{size} batch {batch:>3}  {name:<40} {max(values):>10,.0f} tokens/s"
            f" (median {statistics.median(values):,.0f})  {ours} is {ratio:.2f} times as fast"
        )
        rows.append({"size": size, "batch": batch, "name": name, "tokens_per_second": values, "lumi_ratio": ratio})
    return rows


if __name__ == "__main__":
    main()
