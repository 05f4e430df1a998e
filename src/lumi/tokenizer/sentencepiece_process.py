"""SentencePiece's trainer, in a process of its own.

Its C++ does not answer Ctrl-C, ends the whole process where one of its checks fails, and tells only its log how
far it is. From outside it can be ended at once, an end of its own is an error like others, and the log is a bar.

    stdin   the settings as a line of JSON, then parts of text, each behind its length in 4 bytes; length 0 ends them
    stdout  the model
    stderr  SentencePiece's log
"""

import io
import json
import re
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from threading import Thread
from typing import IO, Any

from lumi.progress import Bar, progress

_MERGES = re.compile(r"merges=(\d+)")
_SAID = 5  # last lines of the log that an error shows
_REFUSED = 3  # exit code where SentencePiece said no


class TrainerError(Exception):
    """What SentencePiece said when it gave up."""


def train_sentencepiece(parts: Iterable[str], settings: dict[str, Any]) -> bytes:
    """Return the model that `SentencePieceTrainer.train` makes of the parts (none of them empty).

    Raises:
        TrainerError: it refused the settings or the text, or was ended.
    """
    command = [sys.executable, "-c", f"from {__name__} import main; main()"]
    said: deque[str] = deque(maxlen=_SAID)
    with (
        progress("tokenizer: training", total=settings["vocab_size"], unit="pieces") as bar,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        follower = Thread(target=_follow, args=(process.stderr, bar, said))
        follower.start()
        try:
            _send(process.stdin, parts, settings)
            model = process.stdout.read()
        except BaseException:  # Ctrl-C above all
            process.kill()
            raise
        finally:
            follower.join()
        if process.wait() != 0:
            raise TrainerError(" ".join(said) or f"SentencePiece ended with code {process.returncode}")
        bar.advance(settings["vocab_size"] - bar.done)
    return model


def _send(pipe: IO[bytes], parts: Iterable[str], settings: dict[str, Any]) -> None:
    with suppress(BrokenPipeError), pipe:  # it has ended; its exit code and log tell why
        pipe.write(json.dumps(settings).encode() + b"\n")
        for part in parts:
            data = part.encode()
            pipe.write(len(data).to_bytes(4) + data)
        pipe.write(bytes(4))


def _follow(log: IO[bytes], bar: Bar, said: deque[str]) -> None:
    for line in log:
        text = line.decode(errors="replace").rstrip()
        if found := _MERGES.search(text):
            bar.advance(int(found[1]) - bar.done)
        else:
            said.append(text)


def _receive(pipe: IO[bytes]) -> Iterator[str]:
    while size := int.from_bytes(_exactly(pipe, 4)):
        yield _exactly(pipe, size).decode()


def _exactly(pipe: IO[bytes], size: int) -> bytes:
    data = pipe.read(size)
    if len(data) < size:  # the parent is gone
        raise SystemExit(1)
    return data


def main() -> None:
    """Be the process."""
    from sentencepiece import SentencePieceTrainer

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers
    settings = json.loads(sys.stdin.buffer.readline())
    written = io.BytesIO()
    try:
        SentencePieceTrainer.train(sentence_iterator=_receive(sys.stdin.buffer), model_writer=written, **settings)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        raise SystemExit(_REFUSED) from None
    sys.stdout.buffer.write(written.getvalue())
