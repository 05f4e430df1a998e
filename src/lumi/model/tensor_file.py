"""Tensors in files: safetensors, with the rights of any other file."""

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors, contiguous and on the CPU, into a file.

    Raises:
        OSError, SafetensorError: it cannot be written.
    """
    # safetensors writes a file for its owner alone and gives it the name: what the umask, or the folder's ACL, lets
    # others read is seen on a file of ours (os.umask would have to change it, for all threads, to tell it)
    path.touch()
    mode = path.stat().st_mode
    save_file(dict(tensors), path, metadata=None if metadata is None else dict(metadata))
    path.chmod(mode)
