"""``status.json`` in a run's folder: what the run is doing, for those who watch it from outside."""

import json
import os
import socket
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from lumi.artifacts import write_atomically

STATUS = "status.json"
State = Literal["training", "finished", "interrupted", "failed"]


@dataclass
class RunStatus:
    """The state of one run; times are unix seconds."""

    name: str
    first_step: int  # of the present data phase
    last_step: int
    world_size: int
    device: str
    step: int = 0
    state: State = "training"
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    started: float = field(default_factory=time.time)
    time: float = 0.0

    def write(self, run_folder: Path, step: int, state: State) -> None:
        """Tell how far the run is; a full disk must not end it."""
        self.step, self.state, self.time = step, state, time.time()
        try:
            write_atomically(run_folder / STATUS, json.dumps(asdict(self), indent=1).encode())
        except OSError:
            return


def read_status(run_folder: Path) -> dict[str, Any] | None:
    """Read the status of a run; None where there is none."""
    path = run_folder / STATUS
    if not path.is_file():
        return None
    status: dict[str, Any] = json.loads(path.read_text(encoding="utf8"))
    return status
