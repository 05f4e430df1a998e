"""The server under load: many streams at once, clients that leave, readers that are slow, bodies that are nonsense.

    python benchmarks/serving_load.py --model_path checkpoints/sft_industrial/tiny/final --json serving_load.json
    python benchmarks/serving_load.py --clients 32 --seconds 10          # a model with random weights, made here

First 1, 16, 64, 256 streams by turns, for latencies as a client sees them; then, for half of the time, all clients
with everything mixed. Every answer that came to its end is held against the one that the engine gives alone, in this
process (greedy and seeded ones); of an answer that was cut, what had come. Where the texts differ, the deciding gap is
how little the logits must move (normal noise of that size, the model in float32, 64 tries) for another token to be
drawn there; ``--all_gaps`` says how often that is so anywhere. In the end the slots have to be free, and the memory
where it was.
"""

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import torch

from lumi.conversation import Message, find_template, read_template, render
from lumi.inference import Engine, GenerationConfig
from lumi.inference.sampling import Sampling, sample
from lumi.inference.stepper import draws
from lumi.model import ModelConfig, choose_device, choose_dtype, create_model, load_model
from lumi.model.pretrained import weights
from lumi.tokenizer import BOS_ID, Tokenizer
from lumi.training import WholeModel
from lumi.training.checkpoint import TrainingState, begin_checkpoint, publish_checkpoint, write_common, write_share

NONSENSE = [
    b"", b"{", b"[]", b"null", b'{"model": "x"}', b'{"model": 1, "messages": []}', b"\xff\xfe", b"[" * 10_000,
    b'{"model": "MODEL", "messages": [{"role": "user", "content": "\\ud800"}]}',
    b'{"model": "MODEL", "messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
    b'{"model": "MODEL", "messages": [{"role": "user", "content": "x"}], "n": 100000}',
    b'{"model": "MODEL", "messages": [{"role": "user", "content": "x"}], "tools": [{}]}',
]  # fmt: skip


WORDS = ["the", "old", "mill", "river", "town", "water", "history", "of", "many", "people", "lived", "in", "weather"]


NOISE = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 3e-2, 1e-1)  # of logits; see `deciding_gaps`


@dataclass(frozen=True)
class Case:
    """A body, and what the engine answers alone."""

    number: int
    body: dict
    text: str
    pieces: list[str]
    prompt_ids: list[int]
    token_ids: list[int]
    config: GenerationConfig

    @property
    def is_greedy(self) -> bool:
        return self.config.temperature == 0


@dataclass
class Outcome:
    """What a client saw."""

    status: int = 0
    text: str = ""
    ended: bool = False
    error: str = ""
    first: float = 0.0  # seconds to the first event
    gaps: list[float] = field(default_factory=list)  # between events


@dataclass
class Tally:
    """What all clients saw."""

    statuses: Counter = field(default_factory=Counter)
    kinds: Counter = field(default_factory=Counter)
    compared: int = 0
    firsts: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    different: Counter = field(default_factory=Counter)  # (number of a case, token at which it differs)
    problems: Counter = field(default_factory=Counter)

    def join(self, other: "Tally") -> None:
        for name, mine in vars(self).items():
            if isinstance(mine, Counter):
                mine.update(getattr(other, name))
            else:
                setattr(self, name, mine + getattr(other, name))

    def add(self, kind: str, case: Case, outcome: Outcome) -> None:
        self.kinds[kind] += 1
        self.statuses[outcome.status] += 1
        if outcome.error:
            self.problems[f"{kind}: {outcome.error}"] += 1
        if kind == "nonsense":
            if not 400 <= outcome.status < 500:
                self.problems[f"nonsense was answered with {outcome.status}"] += 1
            return
        if outcome.status != 200:
            return
        if outcome.first:  # a whole answer has no first event
            self.firsts.append(outcome.first)
        self.gaps += outcome.gaps
        self.compared += 1
        if kind != "leaves" and not (outcome.ended or outcome.error):
            self.problems[f"{kind}: cut"] += 1
        if outcome.text != case.text if outcome.ended else not case.text.startswith(outcome.text):
            pairs = zip(outcome.text, case.text, strict=False)
            place = next((at for at, (one, other) in enumerate(pairs) if one != other), len(outcome.text))
            ends = np.cumsum([len(piece) for piece in case.pieces])
            ends -= ends[-1] - len(case.text)  # spaces at the beginning of a chat's answer are left out
            token = min(int(np.searchsorted(ends, place, side="right")), len(case.pieces) - 1)
            self.different[case.number, max(0, token)] += 1

    def latencies(self) -> dict[str, float]:
        def milliseconds(values: list[float], percent: int) -> float:
            return round(1000 * float(np.percentile(values, percent)), 1) if values else 0.0

        return {
            f"{name}_p{percent}_ms": milliseconds(values, percent)
            for name, values in (("first", self.firsts), ("between", self.gaps))
            for percent in (50, 99)
        }


def make_model(folder: Path) -> Path:
    """Write a tuned model with random weights."""
    from small_data import make_small_data

    make_small_data(folder)
    tokenizer = Tokenizer.load(folder / "tokenizer")
    shape = ModelConfig(vocab_size=tokenizer.vocab_size, n_layer=2, d_model=64, n_head=2, sequence_length=256)
    files, nothing = WholeModel(shape, tokenizer, find_template("chatml")), {}
    state = TrainingState({"step": 0, "tokens": 0}, nothing, nothing, ())
    begin_checkpoint(folder / "made/final")
    run = {"tokenizer_sha256": tokenizer.sha256, "config": {}, "phases": [], "step": 0}
    outputs = write_share(folder / "made/final", state, 0) + write_common(
        folder / "made/final", lambda partial: files.write(weights(create_model(shape, seed=1)), partial), state, run
    )
    publish_checkpoint(folder / "made/final", outputs, {}, state.progress)
    return folder / "made/final"


def make_cases(options: argparse.Namespace, model_id: str, count: int = 32) -> list[Case]:
    """Ask the engine, one thing at a time; half of the questions begin alike."""
    device = choose_device(options.device)
    model = load_model(options.model_path, device=device, dtype=choose_dtype(options.dtype, device))
    tokenizer, template = Tokenizer.load(options.model_path), read_template(options.model_path)
    ends = template.stop_ids if template else (2,)
    engine = Engine(model, tokenizer, num_slots=1)
    chance = random.Random(0)
    cases = []
    for number in range(count):
        asked = " ".join(chance.choices(WORDS, k=chance.randint(1, 8)))
        told = [Message("system", "Be brief and kind, and say what you know.")] if number % 2 else []
        settings = {"temperature": 0.0} if number % 4 < 2 else {"temperature": 0.9, "top_p": 0.9, "seed": number}
        settings |= {"max_tokens": chance.randint(1, options.max_tokens)}
        if template:
            messages = [*told, Message("user", asked)]
            ids = render(messages, template, tokenizer, asks=True).ids.tolist()
            body = {"model": model_id, "messages": [message.to_json() for message in messages], **settings}
        else:
            ids = [BOS_ID, *tokenizer.encode(asked)]
            body = {"model": model_id, "prompt": asked, **settings}
        config = GenerationConfig(**{"max_new_tokens": settings.pop("max_tokens"), "stop_ids": ends, **settings})
        request = engine.submit(ids, config)
        engine.run()
        written = [*request.token_ids, *ends[: request.finish_reason == "stop"]]
        pieces = [tokenizer.decode([token]) for token in written]
        text = request.text.lstrip() if template else request.text
        cases.append(Case(number, body, text, pieces, ids, written, config))
    return cases


@torch.inference_mode()
def deciding_gaps(
    options: argparse.Namespace, cases: Sequence[Case], places: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], float | None]:
    """Return for tokens of cases the least of ``NOISE`` that draws another token there in one of 64 tries, if any."""
    device = choose_device(options.device)
    model, noise = load_model(options.model_path, device=device, dtype=torch.float32), torch.Generator(device)
    found = {}
    for number, token in places:
        case = cases[number]
        ids = torch.tensor([case.prompt_ids + case.token_ids[:token]], device=device)
        logits_V = model(ids)[0, -1].float()
        uniform = float(draws(case.config.seed, token + 1)[token])
        sampling, uniform_B = Sampling.of([case.config] * 64, device), torch.full((64,), uniform).double().to(device)
        for size in NOISE:
            noise.manual_seed(0)
            moved_BV = logits_V + size * torch.randn(64, len(logits_V), generator=noise, device=device)
            if len(sample(moved_BV, uniform_B, sampling).unique()) > 1:
                found[number, token] = size
                break
        else:
            found[number, token] = None
    return found


async def ask(
    address: tuple[str, int], body: dict | bytes, *, leave_after: int | None = None, pause: float = 0.0
) -> Outcome:
    """Send one request, and read the answer; perhaps only the first events of it, perhaps slowly."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    path = "completions" if b'"prompt"' in data else "chat/completions"
    outcome, begun = Outcome(), time.perf_counter()
    sock = socket.create_connection(address)
    if pause:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=sock, limit=1 << 22)
    try:
        head = f"POST /v1/{path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
        writer.write(head.encode() + f"Content-Length: {len(data)}\r\n\r\n".encode() + data)
        outcome.status = int((await reader.readline()).split()[1])
        while (await reader.readline()).strip():
            pass
        last = begun
        num_events = 0
        async for line in reader:
            if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
                if line.startswith(b"{"):
                    read_whole(outcome, json.loads(line))
                continue
            now = time.perf_counter()
            read_event(outcome, json.loads(line[6:]))
            if num_events == 0:
                outcome.first = now - begun
            else:
                outcome.gaps.append(now - last)
            last, num_events = now, num_events + 1
            if num_events == leave_after:
                outcome.ended = False
                break
            if pause:
                await asyncio.sleep(pause)
    except (OSError, ValueError, IndexError) as error:
        outcome.error = type(error).__name__
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    return outcome


def read_event(outcome: Outcome, event: dict) -> None:
    if "error" in event:
        outcome.error = event["error"]["code"]
        return
    for choice in event["choices"]:
        if choice["index"] == 0:
            outcome.text += choice["text"] if "text" in choice else choice["delta"]["content"]
            outcome.ended = choice["finish_reason"] is not None


def read_whole(outcome: Outcome, answer: dict) -> None:
    if outcome.status == 200:
        choice = answer["choices"][0]
        outcome.text, outcome.ended = choice["text"] if "text" in choice else choice["message"]["content"], True


async def level(address: tuple[str, int], cases: list[Case], numbers: Sequence[int], seconds: float) -> Tally:
    """Let these clients stream, one answer behind the other."""
    tally, until = Tally(), time.perf_counter() + seconds

    async def client(number: int) -> None:
        chance = random.Random(number)
        while time.perf_counter() < until:
            case = chance.choice(cases)
            tally.add("stream", case, await ask(address, {**case.body, "stream": True}))

    await asyncio.gather(*(client(number) for number in numbers))
    return tally


async def mixture(address: tuple[str, int], cases: list[Case], numbers: Sequence[int], seconds: float) -> Tally:
    """Let these clients do everything."""
    tally, until = Tally(), time.perf_counter() + seconds
    model_id = cases[0].body["model"]
    kinds = {"stream": 50, "whole": 15, "leaves": 20, "slow": 5, "nonsense": 10}

    async def client(number: int) -> None:
        chance = random.Random(1000 + number)
        while time.perf_counter() < until:
            (kind,), case = chance.choices([*kinds], weights=[*kinds.values()]), chance.choice(cases)
            if kind == "nonsense":
                outcome = await ask(address, chance.choice(NONSENSE).replace(b"MODEL", model_id.encode()))
            elif kind == "leaves":
                outcome = await ask(address, {**case.body, "stream": True}, leave_after=chance.randint(1, 20))
            elif kind == "slow":
                likely = {"logprobs": 20} if "prompt" in case.body else {"logprobs": True, "top_logprobs": 20}
                body = {**case.body, **likely, "n": 4, "stream": True}
                outcome = await ask(address, body, pause=0.02)
                outcome.gaps = []
            else:
                outcome = await ask(address, {**case.body, "stream": kind == "stream"})
            tally.add(kind, case, outcome)

    await asyncio.gather(*(client(number) for number in numbers))
    return tally


def run_clients(what: Callable[..., Awaitable[Tally]], *arguments: object) -> tuple[Tally, float]:
    """Run clients in this process; return what they saw, and the processor's seconds that it took."""
    used = time.process_time()
    return asyncio.run(what(*arguments)), time.process_time() - used  # type: ignore[arg-type]


def spread(
    pool: ProcessPoolExecutor, processes: int, what: Callable[..., Awaitable[Tally]], url: str, pid: int | None,
    cases: list[Case], clients: int, seconds: float,
) -> tuple[Tally, dict]:  # fmt: skip
    """Share out clients over processes, so that they are not what is measured."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    address, tally = (host, int(port)), Tally()
    written, used, began = metrics(url)["generated_tokens_total"], processor_seconds(pid), time.perf_counter()
    shares = [share for first in range(processes) if (share := range(first, clients, processes))]
    running = [pool.submit(run_clients, what, address, cases, share, seconds) for share in shares]
    busy = []
    for one in running:
        found, seconds_used = one.result()
        tally.join(found)
        busy.append(seconds_used)
    took = time.perf_counter() - began
    return tally, {
        "tokens_per_second": round((metrics(url)["generated_tokens_total"] - written) / took),
        "server_cpus": round((processor_seconds(pid) - used) / took, 2),
        "busiest_client_cpus": round(max(busy) / took, 2),
    }


@contextlib.contextmanager
def server(options: argparse.Namespace) -> Iterator[tuple[str, int | None]]:
    """Give the address of a server, and its process, if it is ours."""
    if options.url:
        yield options.url, None
        return
    command = [
        sys.executable, "-m", "lumi.cli", "serve", "--port", "0", "--model_path", str(options.model_path),
        "--max_requests_per_key", str(4 * options.clients), "--max_waiting", str(4 * options.clients),
        "--device", options.device, "--dtype", options.dtype,
        *(["--num_slots", str(options.num_slots)] if options.num_slots else []),
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        said = ""
        while (found := re.search(r"http://\S+:\d+", said)) is None:
            line = process.stderr.readline()
            if not line:
                raise SystemExit(said)
            said += line
        yield found[0], process.pid
    finally:
        process.terminate()
        rest = process.communicate(timeout=60)[1]
        print(f"the server ended with {process.returncode}", rest.strip(), file=sys.stderr)


def processor_seconds(pid: int | None) -> float:
    return sum(psutil.Process(pid).cpu_times()[:2]) if pid else 0.0


def megabytes(pid: int | None) -> float:
    return round(psutil.Process(pid).memory_info().rss / 1e6, 1) if pid else 0.0


def metrics(url: str) -> dict[str, float]:
    """Return what /metrics says of slots, answers, tokens and failures, over all models."""
    with urllib.request.urlopen(url + "/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    out: Counter = Counter()
    for line in lines:
        if found := re.match(
            r"lumi_(answers_running|answers_waiting|slots|engine_failures|\w+_total){model.*} (\S+)", line
        ):
            out[found[1]] += float(found[2])
    return dict(out)


def measure(options: argparse.Namespace) -> dict:
    with (
        server(options) as (url, pid),
        ProcessPoolExecutor(options.processes, multiprocessing.get_context("spawn")) as pool,
    ):
        with urllib.request.urlopen(url + "/v1/models", timeout=30) as answer:
            model_id = json.load(answer)["data"][0]["id"]
        cases = make_cases(options, model_id)
        counts = [count for count in (1, 16, 64, 256) if count <= options.clients]
        common = (url, pid, cases)
        for started in [pool.submit(time.sleep, 1.0) for _ in range(options.processes)]:  # they import what they need
            started.result()
        memory, rows = [megabytes(pid)], []
        for streams in counts:
            seconds = options.seconds / 2 / len(counts)
            tally, rates = spread(pool, options.processes, level, *common, streams, seconds)
            rows.append({"streams": streams, **rates, **tally.latencies(), **counted(tally, cases)})
        memory.append(megabytes(pid))
        tally, rates = spread(pool, options.processes, mixture, *common, options.clients, options.seconds / 2)
        mixed = f"{options.clients} mixed"
        rows.append({"streams": mixed, **rates, **tally.latencies(), **counted(tally, cases)})
        until = time.perf_counter() + 10
        while (state := metrics(url))["answers_running"] + state["answers_waiting"] and time.perf_counter() < until:
            time.sleep(0.1)
        memory.append(megabytes(pid))
    return {
        "model": model_id, "device": str(choose_device(options.device)), "dtype": options.dtype,
        "clients": options.clients, "rows": rows, "kinds": dict(tally.kinds),
        "share_decided_within": add_gaps(options, cases, rows),
        "gauges_at_the_end": state, "rss_mb": dict(zip(("start", "after_levels", "end"), memory, strict=True)),
    }  # fmt: skip


def add_gaps(options: argparse.Namespace, cases: Sequence[Case], rows: list[dict]) -> dict[str, dict[float, float]]:
    """Add to what differs in rows its deciding gap; return, if it was asked for, how narrow tokens are anywhere."""
    different = [one for row in rows for one in row["different"]]
    places = {(one["case"], one["token"]) for one in different}
    if options.all_gaps:
        places |= {(case.number, token) for case in cases for token in range(len(case.pieces))}
    gaps = deciding_gaps(options, cases, sorted(places)) if places else {}
    for one in different:
        one["gap"] = gaps[one["case"], one["token"]]
    shares = {}
    for name, greedy in (("greedy", True), ("seeded", False)) if options.all_gaps else ():
        alike = [gap for (number, _), gap in gaps.items() if cases[number].is_greedy is greedy]
        shares[name] = {
            size: round(sum(gap is not None and gap <= size for gap in alike) / len(alike), 4) for size in NOISE
        }
    return shares


def counted(tally: Tally, cases: Sequence[Case]) -> dict:
    different = [
        {"case": number, "token": token, "greedy": cases[number].is_greedy, "count": count}
        for (number, token), count in sorted(tally.different.items())
    ]
    return {
        "statuses": {str(status): count for status, count in sorted(tally.statuses.items())},
        "compared": tally.compared, "different": different, "problems": dict(tally.problems),
    }  # fmt: skip


def show(found: dict) -> None:
    print(f"{found['model']} on {found['device']}, {found['dtype']}\n")
    print(
        "| streams | tokens/s | first token p50 / p99 (ms) | between events p50 / p99 (ms) | compared | different |"
        " widest deciding gap, greedy / seeded | CPUs: server, busiest clients |"
    )
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for row in found["rows"]:
        widest = [
            max((one["gap"] for one in row["different"] if one["greedy"] is greedy), default=0)
            for greedy in (True, False)
        ]
        print(
            f"| {row['streams']} | {row['tokens_per_second']} | {row['first_p50_ms']} / {row['first_p99_ms']} |"
            f" {row['between_p50_ms']} / {row['between_p99_ms']} | {row['compared']} |"
            f" {sum(one['count'] for one in row['different'])} | {widest[0]:g} / {widest[1]:g} |"
            f" {row['server_cpus']}, {row['busiest_client_cpus']} |"
        )
    print(f"\nmixed: {found['kinds']}")
    for row in found["rows"]:
        print(f"{row['streams']}: statuses {row['statuses']}, problems {row['problems'] or 'none'}")
    for kind, shares in found["share_decided_within"].items():
        print(f"of all tokens of {kind} answers, decided within noise of: {shares}")
    print(f"at the end: {found['gauges_at_the_end']}\nresident MB: {found['rss_mb']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_path", type=Path, help="a checkpoint; default: one with random weights")
    parser.add_argument("--url", help="of a server that runs already, with this model as its first, without a key")
    parser.add_argument("--clients", type=int, default=256)
    parser.add_argument("--processes", type=int, default=max(1, min(4, (os.cpu_count() or 1) // 4)), help="of clients")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--max_tokens", type=int, default=48)
    parser.add_argument("--all_gaps", action="store_true", help="also how many tokens are decided so narrowly anywhere")
    parser.add_argument("--num_slots", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        options.model_path = options.model_path or make_model(Path(folder))
        found = measure(options)
    show(found)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
