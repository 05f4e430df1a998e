"""All that is known of a finished model: what its folder holds, what its run recorded, what stands behind it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lumi.conversation.template import TEMPLATE_FILE
from lumi.errors import LumiError
from lumi.model import ModelConfig, read_model_config
from lumi.training.checkpoint import STATE, read_run
from lumi.training.cost import Cost, cost_of
from lumi.training.lineage import Ancestor, MakingStep, making_steps, trace
from lumi.training.metrics import METRICS, read_metrics
from lumi.training.training_data import DataSet, data_sets, hub_licence


@dataclass(frozen=True)
class ModelFacts:
    """Of one model; what is not known is empty."""

    name: str
    checkpoint: Path
    run: Mapping[str, Any]
    shape: ModelConfig
    cost: Cost
    can_chat: bool
    own_data: tuple[DataSet, ...]
    earlier_data: tuple[DataSet, ...]  # of the models that it began with
    lineage: tuple[Ancestor, ...]
    steps: tuple[MakingStep, ...]

    @property
    def settings(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.run.get("config", {})
        return found

    @property
    def stage(self) -> str:
        if "base" not in self.run:
            return "pretraining"
        return "preference tuning" if "beta" in self.settings else "supervised fine-tuning"

    @property
    def all_data(self) -> tuple[DataSet, ...]:
        return (*self.own_data, *self.earlier_data)

    @property
    def licence(self) -> str | None:
        """The hub's name of the licence of all the data; ``other`` where they differ."""
        return hub_licence([source.licence for data in self.all_data for source in data.sources])

    @property
    def languages(self) -> list[str]:
        return sorted({language for data in self.all_data for language in data.languages})

    @property
    def base_name(self) -> str | None:
        """The run of the model that this one began with; on the hub it may be called otherwise."""
        if "base" not in self.run:
            return None
        parts = [part for part in Path(self.run["base"]["path"]).absolute().parts if part != "final"]
        return "-".join(parts[-2:]).strip("/")


def read_model_facts(checkpoint: Path) -> ModelFacts:
    """Read what is known of the whole model in a checkpoint folder.

    Raises:
        ConfigError: the folder holds no model.
        OSError: run.json is not there.
    """
    run = read_run(checkpoint)
    log = checkpoint / STATE / METRICS
    metrics = read_metrics(log) if log.is_file() else []
    try:
        lineage, steps = trace(checkpoint, raw_files=False), making_steps(checkpoint)
    except LumiError:  # something behind the model is damaged: that is not this model's fault
        lineage, steps = (), ()
    bases = list(_bases(run))
    return ModelFacts(
        name=run.get("config", {}).get("name") or checkpoint.absolute().parent.name,
        checkpoint=checkpoint,
        run=run,
        shape=read_model_config(checkpoint),
        cost=cost_of(checkpoint, metrics, run.get("tokens", 0)),
        can_chat=(checkpoint / TEMPLATE_FILE).is_file(),
        own_data=data_sets(run, metrics),
        earlier_data=tuple(data for base in bases for data in data_sets(base, [])),
        lineage=lineage,
        steps=steps,
    )


def _bases(run: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield run.json of the models that a model came from, as far back as they are still there."""
    while "base" in run and (Path(run["base"]["path"]) / "run.json").is_file():
        run = read_run(Path(run["base"]["path"]))
        yield run
