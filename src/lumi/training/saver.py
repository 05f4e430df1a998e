"""Checkpoints written behind the training step's back, by all ranks together.

    main thread    copies begin -> next steps -> ...                     -> next save waits for this one
    its own        wait for copies -> write, hash -> all done? -> publish -> best -> drop old ones

All ranks learn of a failure on any of them; the folder that could not be completed is deleted, older checkpoints
stay, and training goes on.
"""

import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from torch import Tensor

from lumi.artifacts import OutputFile
from lumi.errors import LumiError
from lumi.progress import say
from lumi.training.checkpoint import (
    TrainingState,
    begin_checkpoint,
    drop_old_checkpoints,
    link_checkpoint,
    partial_folder,
    publish_checkpoint,
    write_common,
    write_index,
    write_share,
)
from lumi.training.distributed import Channel, Ranks
from lumi.training.model_files import ModelFiles
from lumi.training.snapshot import Snapshot

RETRY_SECONDS = 60.0  # after a save that failed
_LAST_TRIES = 3  # of the save that a run ends with

T = TypeVar("T")


@dataclass(frozen=True)
class RunFolder:
    """Where a run keeps its things, and what identifies it."""

    path: Path
    identity: dict[str, Any]  # decides what the run produces; goes into each checkpoint's manifest
    description: dict[str, Any]  # run.json, less step and tokens

    def step_folder(self, step: int) -> Path:
        return self.path / f"step_{step}"


@dataclass(frozen=True)
class Moment:
    """What a checkpoint is made of, some of it still on its way to the host.

    The snapshot's names are ``weights.NAME``, ``optimizer.KIND.NAME`` and ``progress.KEY`` (scalars).
    """

    state: TrainingState
    snapshot: Snapshot
    is_best: bool  # the lowest held-out loss so far

    def arrive(self) -> tuple[TrainingState, dict[str, Tensor]]:
        """Wait for the copies; return the state and the weights."""
        kinds: dict[str, dict[str, Tensor]] = {"weights": {}, "optimizer": {}, "progress": {}}
        for name, tensor in self.snapshot.tensors().items():
            kind, _, rest = name.partition(".")
            kinds[kind][rest] = tensor
        progress = {**self.state.progress, **{key: value.item() for key, value in kinds["progress"].items()}}
        return replace(self.state, progress=progress, optimizer=kinds["optimizer"]), kinds["weights"]


class _SaveFailed(Exception):
    pass


class CheckpointSaver:
    """Writes the checkpoints of one run.

    Args:
        run: where to.
        files: writes what they hold of the model.
        ranks: all of them take part in every call.
        keep: how many of the newest step folders stay; None: all.
    """

    def __init__(self, run: RunFolder, files: ModelFiles, ranks: Ranks, keep: int | None) -> None:
        self.run, self.files, self.ranks, self.keep = run, files, ranks, keep
        self._channel = Channel(ranks.world_size)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="lumi-saver")
        self._writing: Future[None] | None = None
        self._failed_at: float | None = None

    @property
    def wants_retry(self) -> bool:
        """Whether the last save failed, long enough ago for another try to make sense."""
        done = self._writing is None or self._writing.done()
        return done and self._failed_at is not None and time.monotonic() - self._failed_at >= RETRY_SECONDS

    def save(self, moment: Moment) -> None:
        """Begin to write a checkpoint; waits for the one before it."""
        self.wait()
        self._writing = self._writer.submit(self._write, moment)

    def wait(self) -> bool:
        """Wait until nothing is being written; say whether the last save succeeded."""
        if self._writing is not None:
            self._writing.result()
            self._writing = None
        return self._failed_at is None

    def save_last(self, take: Callable[[], Moment]) -> None:
        """Write the checkpoint that a run ends with, trying again where that fails.

        Raises:
            LumiError: it cannot be written.
        """
        for attempt in range(_LAST_TRIES):
            if attempt:
                time.sleep(RETRY_SECONDS / 10)
            self.save(take())
            if self.wait():
                return
        with self.ranks.together():
            raise LumiError(
                f"the last checkpoint could not be saved in {self.run.path}; the older ones are whole",
                "make room and run the same command again: it continues from the newest of them",
            )

    def close(self) -> None:
        self._writer.shutdown(wait=True)

    def _write(self, moment: Moment) -> None:
        state, weights = moment.arrive()
        folder = self.run.step_folder(state.progress["step"])
        first = self.ranks.is_first
        try:
            self._all(lambda: begin_checkpoint(folder) if first else None, folder)
            outputs = self._all(lambda: self._write_files(folder, state, weights), folder)
            rows = self._channel.gather(None if state.rows is None else dict(state.rows))
            self._all(lambda: self._publish(folder, moment, state, outputs, rows) if first else None, folder)
        except _SaveFailed as failure:
            self._failed_at = time.monotonic()
            if first:
                shutil.rmtree(partial_folder(folder), ignore_errors=True)
                say(
                    f"WARNING: {folder} could not be saved: {failure}\n"
                    "  training goes on, older checkpoints stay, and the save is tried again; make room on that disk"
                )
        else:
            self._failed_at = None

    def _write_files(self, folder: Path, state: TrainingState, weights: dict[str, Tensor]) -> list[dict[str, Any]]:
        outputs = write_share(folder, state, self.ranks.rank)
        if self.ranks.is_first:
            run = {**self.run.description, "step": state.progress["step"], "tokens": state.progress["tokens"]}
            outputs += write_common(folder, lambda partial: self.files.write(weights, partial), state, run)
        return [output.resolved() for output in outputs]

    def _publish(
        self, folder: Path, moment: Moment, state: TrainingState, outputs: list[list[dict[str, Any]]], rows: list[Any]
    ) -> None:
        files = [OutputFile.from_values(output, "checkpoint") for each in outputs for output in each]
        if state.rows is not None:
            files += write_index(folder, rows)
        publish_checkpoint(folder, files, self.run.identity, state.progress)
        if moment.is_best:
            link_checkpoint(folder, self.run.path / "best")
        drop_old_checkpoints(self.run.path, self.keep)

    def _all(self, act: Callable[[], T], folder: Path) -> list[T]:
        """Do something on every rank, and return what each got.

        Raises:
            _SaveFailed: one of them could not.
        """
        result, failure = None, None
        try:
            result = act()
        except OSError as error:
            failure = os.strerror(error.errno) if error.errno else str(error)
        except SafetensorError as error:
            failure = str(error)
        told = self._channel.gather([result, failure])
        if failures := dict.fromkeys(failure for _, failure in told if failure):
            raise _SaveFailed("; ".join(failures))
        return [result for result, _ in told]
