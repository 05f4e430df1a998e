"""Where a run begins: anew, exactly where it stopped, or as a new data phase on an older checkpoint.

    --fresh                        -> anew, the old run set aside
    --resume_from_checkpoint X     -> X is verified; same data: continue X; other data: a new phase on X's weights
    nothing                        -> the newest complete checkpoint of the run folder, if there is one

Nothing here ever falls back: what cannot be continued as asked is an error.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from lumi.errors import ResumeError
from lumi.progress import say
from lumi.training.checkpoint import STATE, newest_complete, read_run, step_folders, verify_checkpoint


@dataclass(frozen=True)
class Start:
    """What to load before the first step."""

    checkpoint: Path | None  # None: freshly drawn weights
    new_phase: bool = False  # keep weights and optimiser, begin with new data at position 0
    finished: bool = False  # nothing is left to do

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "checkpoint": None if self.checkpoint is None else str(self.checkpoint)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        checkpoint = data["checkpoint"]
        return cls(**{**data, "checkpoint": None if checkpoint is None else Path(checkpoint)})


@dataclass(frozen=True)
class Wanted:
    """What the present command asks for."""

    run_folder: Path
    settings: dict[str, Any]  # must equal the checkpoint's for an automatic resume
    fixed: frozenset[str]  # those of them that must equal it for any
    fingerprint: str  # of data sets, weights, seed and row length
    max_steps: int
    early_stopping_patience: int | None = None


def find_start(wanted: Wanted, *, explicit: Path | None, fresh: bool) -> Start:
    """Decide where a run begins.

    Raises:
        ResumeError: a checkpoint is missing, or was made with other settings or data than asked for.
        IntegrityError: the checkpoint that was named is incomplete or damaged.
    """
    if fresh:
        _set_aside(wanted.run_folder)
        return Start(None)
    if explicit is not None:
        return _explicit(wanted, explicit)
    newest = newest_complete(wanted.run_folder)
    if newest is None:
        if broken := step_folders(wanted.run_folder):
            raise ResumeError(
                f"none of the {len(broken)} checkpoints in {wanted.run_folder} is complete",
                "pass --fresh to start anew (the old folder is set aside), or give --resume_from_checkpoint",
            )
        return Start(None)
    if changes := _changes(newest, wanted):
        raise ResumeError(
            f"{wanted.run_folder} holds a run with other settings ({', '.join(changes.values())})",
            "use its settings, another --output_dir, or --fresh (the old run is set aside)",
        )
    if _progress(newest)["loader"]["fingerprint"] != wanted.fingerprint:
        raise ResumeError(
            f"{wanted.run_folder} holds a run on other data (data sets, weights, seed or row length differ)",
            f"to go on with new data as a new phase: --resume_from_checkpoint {newest}; to start anew: --fresh",
        )
    return _continue(wanted, newest)


def _changes(checkpoint: Path, wanted: Wanted) -> dict[str, str]:
    """Return the settings that are not those of a checkpoint: name -> what it was and is."""
    made = read_run(checkpoint)["settings"]
    different = sorted(k for k in {*made, *wanted.settings} if made.get(k) != wanted.settings.get(k))
    return {name: f"{name}: {made.get(name)} -> {wanted.settings.get(name)}" for name in different}


def _explicit(wanted: Wanted, checkpoint: Path) -> Start:
    verify_checkpoint(checkpoint)
    changes = _changes(checkpoint, wanted)
    if fixed := [change for name, change in changes.items() if name in wanted.fixed]:
        raise ResumeError(
            f"{checkpoint} cannot go on as another model ({', '.join(fixed)})",
            "use its settings, or begin a run of its own from the weights: --model_path RUN/final",
        )
    if changes:
        say(f"{checkpoint} goes on with other settings: {', '.join(changes.values())}")
    if _progress(checkpoint)["loader"]["fingerprint"] == wanted.fingerprint:
        return _continue(wanted, checkpoint)
    # Other data: a new phase. The same command again finds the phase's own newest checkpoint.
    origin = _progress(checkpoint)["step"]
    newest = newest_complete(wanted.run_folder)
    if newest is not None and newest.resolve() != checkpoint.resolve():
        done = _progress(newest)
        if done["phase_start"] == origin and done["loader"]["fingerprint"] == wanted.fingerprint:
            return _continue(wanted, newest)
    say(f"new data phase: weights and optimiser of {checkpoint}, data from the beginning, {wanted.max_steps} steps")
    return Start(checkpoint, new_phase=True)


def _continue(wanted: Wanted, checkpoint: Path) -> Start:
    done = _progress(checkpoint)
    finished = done["step"] >= done["phase_start"] + wanted.max_steps
    if done["stopped_early"]:
        patience = read_run(checkpoint)["config"]["training"]["early_stopping_patience"]
        finished = finished or wanted.early_stopping_patience == patience
    if not finished:
        say(f"resuming from {checkpoint}")
    return Start(checkpoint, finished=finished)


def _progress(checkpoint: Path) -> dict[str, Any]:
    progress: dict[str, Any] = json.loads((checkpoint / STATE / "state.json").read_text(encoding="utf8"))
    return progress


def _set_aside(run_folder: Path) -> None:
    if not run_folder.exists():
        return
    number = 1
    while (aside := run_folder.with_name(f"{run_folder.name}.old-{number}")).exists():
        number += 1
    run_folder.rename(aside)
    say(f"the old run now stands in {aside}")


@contextmanager
def only_run_in(run_folder: Path) -> Iterator[None]:
    """Keep a second process from training in the same folder, as long as this one lives.

    Raises:
        ResumeError: another process does.
    """
    run_folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(run_folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ResumeError(
                f"another process is training in {run_folder}", "wait for it, end it, or use another --output_dir"
            ) from None
        except OSError:  # a file system that cannot lock folders
            pass
        yield
    finally:
        os.close(handle)
        with suppress(OSError):  # nothing came of it
            run_folder.rmdir()
