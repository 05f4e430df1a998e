"""Validation of preference tuning: loss, accuracies and distance from the reference on fixed held-out rows."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from lumi.data.dataset import names_of
from lumi.model import IGNORE, Llama
from lumi.posttraining.dpo_objective import DPOObjective, Reference
from lumi.posttraining.preference_dataset import SIDES, PreferenceDataset
from lumi.training import Ranks

_POSITIONS = 2048  # whose distributions stand side by side at once


class HeldOutPreferences:
    """Means over the pairs of the first ``rows`` rows of each data set's held-out split.

    Rows are shared out over the ranks and weighed by their pairs, so the figures do not depend on the number of ranks
    or on the micro-batch.

    Args:
        datasets: the held-out splits.
        objective: the run's.
        reference: for the distance; None: it is not measured.
        rows: of each data set.
        micro_batch_size: rows of one forward pass.
        ranks: who shares the work.
    """

    def __init__(
        self,
        datasets: Sequence[PreferenceDataset],
        objective: DPOObjective,
        *,
        reference: Reference | None,
        rows: int,
        micro_batch_size: int,
        ranks: Ranks,
    ) -> None:
        self.datasets, self.objective, self.reference = datasets, objective, reference
        self.rows, self.micro_batch_size, self.ranks = rows, micro_batch_size, ranks

    def __call__(self, model: Llama) -> Mapping[str, Mapping[str, float]]:
        """Return ``val_loss``, ``val_preference_accuracy``, ``val_likelihood_accuracy``, ``val_reward_margin``.

        And ``val_kl``: KL(policy || reference) in nats a token, exact, over the tokens of the held-out answers.
        """
        found = [self._figures(model, dataset) for dataset in self.datasets]
        names = names_of(self.datasets)
        return {
            f"val_{key}": {name: figures[key] for name, figures in zip(names, found, strict=True)} for key in found[0]
        }

    @torch.no_grad()
    def _figures(self, model: Llama, dataset: PreferenceDataset) -> dict[str, float]:
        ranks, rows, metrics = self.ranks, min(self.rows, len(dataset)), self.objective.metrics
        share = -(-rows // ranks.world_size)
        sums = torch.zeros(2 + len(metrics) + 2, dtype=torch.float64, device=ranks.device)
        for start in range(0, share, self.micro_batch_size):
            places = np.arange(start, min(start + self.micro_batch_size, share)) * ranks.world_size + ranks.rank
            # past the end a row stands in that does not count: shards need all ranks at every forward pass
            chosen = dataset.rows(np.minimum(places, rows - 1)).astype("int64")
            chosen[places >= rows, :, SIDES] = 0
            batch = torch.from_numpy(chosen).to(ranks.device)
            loss, figures = self.objective.loss(model, batch)
            sums[0] += loss
            sums[1] += self.objective.count(batch)
            sums[2:-2] += figures
            if self.reference is not None:
                sums[-2:] += self._divergence(model, batch)
        total, pairs, *values = ranks.sum(sums).tolist()
        *values, divergence, tokens = values
        means = {name: value / max(pairs, 1) for name, value in zip(metrics, values, strict=True)}
        shown = ("preference_accuracy", "likelihood_accuracy", "reward_margin")
        out = {"loss": total / max(pairs, 1), **{name: means[name] for name in shown}}
        return out if self.reference is None else {**out, "kl": divergence / max(tokens, 1)}

    def _divergence(self, model: Llama, rows: Tensor) -> Tensor:
        """Return the summed divergence over the tokens of answers, and how many they are, float64 [2]."""
        assert self.reference is not None
        tokens, labels, mask = self.objective.batch(rows, model.compute_dtype)
        scored = (labels != IGNORE).flatten()

        def log_probs(other: Llama, hidden: Tensor) -> Tensor:
            return torch.log_softmax(other.lm_head(hidden).float(), -1)

        def hidden(other: Llama) -> Tensor:
            return other.hidden(tokens, mask=mask).flatten(0, 1)[scored]

        mine, theirs = hidden(model), self.reference(model, hidden)
        total = torch.zeros((), dtype=torch.float64, device=rows.device)
        for start in range(0, len(mine), _POSITIONS):
            here = slice(start, start + _POSITIONS)
            policy = log_probs(model, mine[here])
            base = self.reference(model, lambda other, here=here: log_probs(other, theirs[here]))  # type: ignore[misc]
            total += (policy.exp() * (policy - base)).sum().double()
        return torch.stack([total, scored.sum().double()])
