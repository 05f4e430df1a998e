"""Batches in the sampler's order, with one integer of state and a fingerprint that guards it."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from lumi.artifacts import canonical_json, sha256_bytes
from lumi.data.array_file import Tokens
from lumi.data.dataset import Rows, names_of
from lumi.data.sampler import WeightedMultiDatasetSampler
from lumi.errors import ConfigError, ResumeError


class BatchLoader:
    """Gives one rank's share of each global batch; the next one is read while this one is trained on.

    The global batch at position p is the rows of positions p..p + batch_size - 1. Rank r takes its r-th equal
    part, so the order of the data depends neither on the number of ranks nor on micro-batches.

    Args:
        datasets: of one row length.
        sampler: over the lengths of these data sets.
        batch_size: rows of one optimiser step, over all ranks.
        rank: this process.
        world_size: how many share a batch; divides batch_size.

    Raises:
        ConfigError: data sets of different row lengths, or a batch that cannot be shared evenly.
    """

    def __init__(
        self,
        datasets: Sequence[Rows],
        sampler: WeightedMultiDatasetSampler,
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        assert [len(dataset) for dataset in datasets] == list(sampler.num_rows), "the sampler is of other data sets"
        if len({dataset.sequence_length for dataset in datasets}) > 1:
            shown = ", ".join(f"{dataset.path}: {dataset.sequence_length}" for dataset in datasets)
            raise ConfigError(f"data sets of different row lengths ({shown})", "pack them with one --sequence_length")
        if batch_size % world_size:
            raise ConfigError(
                f"batch_size {batch_size} cannot be shared by {world_size} ranks", f"use a multiple of {world_size}"
            )
        self.datasets, self.sampler = tuple(datasets), sampler
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size
        self.sequence_length, self.tokens_per_row = datasets[0].sequence_length, datasets[0].tokens_per_row
        self.position = 0
        self.fingerprint = sha256_bytes(
            canonical_json(
                {
                    "datasets": [dataset.manifest_sha256 for dataset in datasets],
                    "rows": [len(dataset) for dataset in datasets],  # conversations may be packed or not
                    "shares": [str(share) for share in sampler.shares],
                    "seed": sampler.seed,
                    "sequence_length": self.sequence_length,
                }
            )
        )
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="lumi-loader")
        self._ahead: tuple[int, Future[Tokens]] | None = None

    def next_batch(self) -> Tokens:
        """Return the next rows of this rank, uint16 [batch_size / world_size, *row_shape]."""
        if self._ahead is None or self._ahead[0] != self.position:
            self._ahead = (self.position, self._reader.submit(self._read, self.position))
        batch = self._ahead[1].result()
        self.position += self.batch_size
        self._ahead = (self.position, self._reader.submit(self._read, self.position))
        return batch

    def _read(self, position: int) -> Tokens:
        share = self.batch_size // self.world_size
        dataset, row = self.sampler.samples(position + self.rank * share, share)
        batch = np.empty((share, *self.datasets[0].row_shape), dtype=np.uint16)
        for index in np.unique(dataset):
            chosen = dataset == index
            batch[chosen] = self.datasets[index].rows(row[chosen])
        return batch

    def rows_drawn(self) -> dict[str, int]:
        """Return how many rows of each data set were given out so far: the observed mix.

        Data sets go by name, by path where two share a name.
        """
        return dict(zip(names_of(self.datasets), self.sampler.rows_drawn(self.position), strict=True))

    def epochs(self) -> dict[str, float]:
        """Return how often each data set was gone through so far."""
        return dict(zip(names_of(self.datasets), self.sampler.epochs(self.position), strict=True))

    def require_unchanged(self) -> None:
        """Check that the data sets are still those that were opened.

        Raises:
            IntegrityError: a file was written to.
        """
        for dataset in self.datasets:
            dataset.require_unchanged()

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position, "fingerprint": self.fingerprint}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue at a saved position.

        Raises:
            ResumeError: the state belongs to other data sets, weights, seed or row length.
        """
        if state["fingerprint"] != self.fingerprint:
            raise ResumeError(
                f"the saved position belongs to other data (fingerprint {state['fingerprint'][:12]}, these data have"
                f" {self.fingerprint[:12]}): data sets, weights, seed or row length differ",
                "use the same data, or begin a new data phase with --resume_from_checkpoint",
            )
        self.position = state["position"]

    def close(self) -> None:
        """Stop the reading thread."""
        self._reader.shutdown(wait=True, cancel_futures=True)
