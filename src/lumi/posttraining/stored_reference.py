"""What the reference gives to the answers of a data set, worked out once and kept beside it.

NAME.reference-KEY/   train.npy, val.npy: float32 [pairs, 2], log-probabilities of chosen and rejected

KEY is the hash of what decides them: the data set, the model's weights, the type to compute in, and which matrices
were in four bits. Other data, or another model, find no such folder and get their own.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lumi.artifacts import Workspace, artifact_input, manifest_key, package_versions, read_manifest, verify
from lumi.config import Config
from lumi.errors import IntegrityError
from lumi.model import Llama
from lumi.posttraining.dpo_objective import DPOObjective
from lumi.posttraining.preference_dataset import PreferenceDataset
from lumi.posttraining.preference_losses import LossSettings
from lumi.progress import progress, say
from lumi.training import Ranks

KIND = "reference log-probabilities"


class ReferenceModel(Config):
    """What decides the log-probabilities, beside the data."""

    weights_sha256: str
    dtype: str
    """float32, bfloat16 or float16."""
    quantized: tuple[str, ...] = ()
    """Matrices in four bits."""


def reference_folder(data_dir: Path, reference: ReferenceModel) -> Path:
    """Return where they are kept."""
    data_dir = data_dir.absolute()
    key = manifest_key(KIND, reference.identity(), [artifact_input(data_dir, data_dir)])
    return data_dir.with_name(f"{data_dir.name}.reference-{key[:12]}")


def store_reference(
    datasets: tuple[PreferenceDataset, PreferenceDataset],
    reference: ReferenceModel,
    load: Callable[[], Llama],
    ranks: Ranks,
    *,
    rows_at_once: int,
) -> None:
    """Work them out for both splits of a data set, or find them there; all ranks share the work.

    Args:
        datasets: training and held-out pairs of one folder.
        reference: what the model is.
        load: returns the model, in its compute type, on its device.
        ranks: who shares the work; the first one writes.
        rows_at_once: rows of one forward pass.

    Raises:
        IntegrityError: another process is at it.
    """
    data_dir = datasets[0].path
    folder = reference_folder(data_dir, reference)
    with Workspace(folder, KIND, reference, [artifact_input(data_dir, folder)]) as work:
        with ranks.together():
            if ranks.is_first and not folder.exists() and work.finished() is None:
                work.open()
        todo = [dataset.split for dataset in datasets if work.recorded(f"{dataset.split}.npy") is None]
        there, todo = ranks.hosts.from_first((folder.exists(), todo))
        if there:
            return
        model = load()
        for dataset in datasets:
            if dataset.split not in todo:  # an interrupted run has done it
                continue
            found = reference_log_probs(dataset, model, rows_at_once=rows_at_once, ranks=ranks)
            if ranks.is_first:
                np.save(work.path / f"{dataset.split}.npy", found)
                work.record(f"{dataset.split}.npy", rows=len(found))
        if ranks.is_first:
            work.publish(counts={"pairs": [len(d.lengths) for d in datasets]}, versions=package_versions("torch"))
            say(f"reference: {folder}")
    ranks.barrier()  # the folder is there for all


@torch.no_grad()
def reference_log_probs(
    dataset: PreferenceDataset, model: Llama, *, rows_at_once: int, ranks: Ranks | None = None
) -> NDArray[np.float32]:
    """Return the log-probabilities of all pairs, [pairs, 2], in nats, on all ranks."""
    objective = DPOObjective("sigmoid", LossSettings(1.0), pairs_per_row=dataset.documents_per_row())
    device = next(model.parameters()).device
    out = np.zeros((len(dataset.lengths), 2), dtype=np.float32)
    rank, world_size = (ranks.rank, ranks.world_size) if ranks is not None else (0, 1)
    mine = np.arange(rank, len(dataset), world_size)
    with progress(f"reference, {dataset.split}", total=len(mine), unit="rows") as bar:
        for start in range(0, len(mine), rows_at_once):
            chosen = mine[start : start + rows_at_once]
            rows = torch.from_numpy(dataset.rows(chosen).astype("int64")).to(device)
            found = objective.log_probs(model, rows)[0].float().cpu().numpy()
            for row, sums in zip(chosen.tolist(), found, strict=True):
                pairs = dataset.pairs_in(row)
                out[pairs] = sums[: len(pairs)]
            bar.advance(len(chosen))
    if world_size == 1:
        return out
    assert ranks is not None
    all_parts: NDArray[np.float32] = ranks.sum(torch.from_numpy(out).to(ranks.device)).cpu().numpy()
    return all_parts


def read_reference(dataset: PreferenceDataset, reference: ReferenceModel, *, check: bool) -> NDArray[np.float32]:
    """Return what was stored for a split.

    Args:
        dataset: the split.
        reference: what the model is.
        check: hash the files.

    Raises:
        IntegrityError: it is damaged, or was put there from other data or another model.
    """
    folder = reference_folder(dataset.path, reference)
    way_out = f"remove {folder}: the next run works it out again"
    manifest = (verify if check else read_manifest)(folder, KIND, way_out)
    found = {**manifest.config, "data": manifest.inputs[0].sha256}
    expected = {**reference.identity(), "data": dataset.manifest_sha256}
    if found != expected:
        differing = ", ".join(
            f"{name} {str(found.get(name))[:12]} instead of {str(value)[:12]}"
            for name, value in expected.items()
            if found.get(name) != value
        )
        raise IntegrityError(f"the stored reference in {folder} is of another run ({differing})", way_out)
    values: NDArray[np.float32] = np.load(folder / f"{dataset.split}.npy", allow_pickle=False)
    if values.shape != dataset.lengths.shape:
        raise IntegrityError(
            f"{folder}/{dataset.split}.npy has {len(values):,} pairs, the data have {len(dataset.lengths):,}", way_out
        )
    return values
