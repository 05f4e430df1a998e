"""Validation during training: the loss on fixed held-out rows, data set by data set, over all ranks."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from lumi.data import Rows
from lumi.data.dataset import names_of
from lumi.model import IGNORE, Llama, next_token_losses
from lumi.training.distributed import Ranks
from lumi.training.objective import CausalLMObjective


class HeldOutLoss:
    """Mean loss in nats per scored token, over the first ``rows`` rows of each data set's held-out split.

    Rows are shared out over the ranks and weighed by their tokens, so the figure does not depend on the
    number of ranks or on the micro-batch.
    """

    def __init__(
        self, datasets: Sequence[Rows], objective: CausalLMObjective, *, rows: int, micro_batch_size: int, ranks: Ranks
    ) -> None:
        self.datasets, self.objective = datasets, objective
        self.rows, self.micro_batch_size, self.ranks = rows, micro_batch_size, ranks

    def __call__(self, model: Llama) -> Mapping[str, Mapping[str, float]]:
        """Return ``val_loss``, by data set."""
        named = zip(names_of(self.datasets), self.datasets, strict=True)
        return {"val_loss": {name: self._loss(model, dataset) for name, dataset in named}}

    def _loss(self, model: Llama, dataset: Rows) -> float:
        ranks, rows = self.ranks, min(self.rows, len(dataset))
        share = -(-rows // ranks.world_size)
        sums = torch.zeros(2, dtype=torch.float64, device=ranks.device)
        for start in range(0, share, self.micro_batch_size):
            places = np.arange(start, min(start + self.micro_batch_size, share)) * ranks.world_size + ranks.rank
            # past the end a row stands in that does not count: shards need all ranks at every forward pass
            chosen = dataset.rows(np.minimum(places, rows - 1)).astype("int64")
            batch = self.objective.batch(torch.from_numpy(chosen).to(ranks.device), model.compute_dtype)
            batch.labels_BT[torch.from_numpy(places >= rows).to(ranks.device)] = IGNORE
            losses_BT = next_token_losses(model, batch.tokens_BT, batch.labels_BT, mask=batch.mask)
            sums[0] += losses_BT.double().sum()
            sums[1] += (batch.labels_BT != IGNORE).sum()
        total, count = ranks.sum(sums).tolist()
        return float(total / max(count, 1.0))
