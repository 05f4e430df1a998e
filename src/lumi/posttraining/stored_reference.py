"""What the reference gives to the answers of a data set, worked out once and kept beside it.

NAME.reference-WEIGHTS-TYPE/   train.npy, val.npy: float32 [pairs, 2], log-probabilities of chosen and rejected

They are of one data set, one model's weights and one type to compute in, each named by its hash in the manifest.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lumi.artifacts import Workspace, artifact_input, package_versions, read_manifest, verify
from lumi.config import Config
from lumi.errors import IntegrityError
from lumi.model import Llama
from lumi.posttraining.adapter_files import Base
from lumi.posttraining.dpo_objective import DPOObjective
from lumi.posttraining.preference_dataset import PreferenceDataset
from lumi.posttraining.preference_losses import LossSettings
from lumi.progress import progress, say

KIND = "reference log-probabilities"


class _Settings(Config):
    weights_sha256: str
    dtype: str


def reference_folder(data_dir: Path, base: Base, dtype: torch.dtype) -> Path:
    """Return where they are kept."""
    data_dir = data_dir.absolute()
    return data_dir.with_name(f"{data_dir.name}.reference-{base.weights_sha256[:12]}-{_name(dtype)}")


def store_reference(
    datasets: tuple[PreferenceDataset, PreferenceDataset], base: Base, model: Llama, *, rows_at_once: int
) -> None:
    """Work them out for both splits of a data set, or find them there.

    Args:
        datasets: training and held-out pairs of one folder.
        base: what the model is.
        model: the reference, in its compute type, on its device.
        rows_at_once: rows of one forward pass.

    Raises:
        IntegrityError: the folder holds something else, or is damaged.
    """
    data_dir = datasets[0].path
    folder = reference_folder(data_dir, base, model.compute_dtype)
    settings = _Settings(weights_sha256=base.weights_sha256, dtype=_name(model.compute_dtype))
    with Workspace(folder, KIND, settings, [artifact_input(data_dir, folder)]) as work:
        if work.finished() is not None:
            return
        work.open()
        for dataset in datasets:
            found = reference_log_probs(dataset, model, rows_at_once=rows_at_once)
            np.save(work.path / f"{dataset.split}.npy", found)
            work.record(f"{dataset.split}.npy", rows=len(found))
        work.publish(counts={"pairs": [len(d.lengths) for d in datasets]}, versions=package_versions("torch"))
    say(f"reference: {folder}")


@torch.no_grad()
def reference_log_probs(dataset: PreferenceDataset, model: Llama, *, rows_at_once: int) -> NDArray[np.float32]:
    """Return the log-probabilities of all pairs, [pairs, 2], in nats."""
    objective = DPOObjective("sigmoid", LossSettings(1.0), pairs_per_row=dataset.documents_per_row())
    device = next(model.parameters()).device
    out = np.full((len(dataset.lengths), 2), np.nan, dtype=np.float32)
    with progress(f"reference, {dataset.split}", total=len(dataset), unit="rows") as bar:
        for start in range(0, len(dataset), rows_at_once):
            chosen = np.arange(start, min(start + rows_at_once, len(dataset)))
            rows = torch.from_numpy(dataset.rows(chosen).astype("int64")).to(device)
            found = objective.log_probs(model, rows)[0].float().cpu().numpy()
            for row, sums in zip(chosen.tolist(), found, strict=True):
                pairs = dataset.pairs_in(row)
                out[pairs] = sums[: len(pairs)]
            bar.advance(len(chosen))
    return out


def read_reference(dataset: PreferenceDataset, base: Base, dtype: torch.dtype, *, check: bool) -> NDArray[np.float32]:
    """Return what was stored for a split.

    Raises:
        IntegrityError: it is damaged, or belongs to other data or another model.
    """
    folder = reference_folder(dataset.path, base, dtype)
    way_out = f"remove {folder}: the next run works it out again"
    manifest = (verify if check else read_manifest)(folder, KIND, way_out)
    expected = (base.weights_sha256, _name(dtype), dataset.manifest_sha256)
    found = (manifest.config["weights_sha256"], manifest.config["dtype"], manifest.inputs[0].sha256)
    if found != expected:
        names = ("weights", "type", "data")
        differing = ", ".join(
            f"{name} {was[:12]} instead of {is_[:12]}"
            for name, was, is_ in zip(names, found, expected, strict=True)
            if was != is_
        )
        raise IntegrityError(f"the stored reference in {folder} is of another run ({differing})", way_out)
    values: NDArray[np.float32] = np.load(folder / f"{dataset.split}.npy", allow_pickle=False)
    if values.shape != dataset.lengths.shape:
        raise IntegrityError(
            f"{folder}/{dataset.split}.npy has {len(values):,} pairs, the data have {len(dataset.lengths):,}", way_out
        )
    return values


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
