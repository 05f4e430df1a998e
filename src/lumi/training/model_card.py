"""README.md of a finished model: its card in the form of the Hugging Face hub, ready to be uploaded with it.

    manifests, run.json, metrics, results --> YAML front matter (for machines) + sections (for people)

What is not recorded is left out. The card is no part of the manifest: it is written anew when results come.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from lumi.artifacts import write_atomically
from lumi.model import count_parameters
from lumi.training.checkpoint import MODEL_CARD
from lumi.training.cost import HOW_TIME_IS_KNOWN
from lumi.training.model_facts import ModelFacts, read_model_facts
from lumi.training.training_data import DataSet

_HERE = "With Lumi-Lab itself, in this folder:"
_GENERATE = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

path = "."  # this folder, or its name on the hub
tokenizer = AutoTokenizer.from_pretrained(path)
model = AutoModelForCausalLM.from_pretrained(path)
inputs = tokenizer("<s>The history of", return_tensors="pt")  # every document began with <s>
output = model.generate(inputs["input_ids"], max_new_tokens=60, temperature=0.7, top_k=50)
print(tokenizer.decode(output[0], skip_special_tokens=True))"""
_CHAT = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

path = "."  # this folder, or its name on the hub
tokenizer = AutoTokenizer.from_pretrained(path)
model = AutoModelForCausalLM.from_pretrained(path)
messages = [{"role": "user", "content": "What is water?"}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
output = model.generate(inputs["input_ids"], max_new_tokens=120, temperature=0.7, top_k=50)
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))"""


@dataclass(frozen=True)
class CardTable:
    """A table of results; ``notes`` (the protocol) belong under it."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class CardFigure:
    """One figure for the hub's index of results."""

    dataset: str  # its name on the hub, where it is there
    dataset_name: str  # for people
    metric: str  # accuracy, perplexity...
    metric_name: str  # for people
    value: float


@dataclass(frozen=True)
class CardResults:
    """What an evaluation gives a card."""

    tables: tuple[CardTable, ...]
    figures: tuple[CardFigure, ...]


def write_model_card(checkpoint: Path, results: CardResults | None = None) -> Path:
    """Write ``README.md`` into a checkpoint folder that holds a whole model, over an older one; return its path.

    Raises:
        ConfigError: the folder holds no model.
        OSError: run.json is not there.
    """
    path = checkpoint / MODEL_CARD
    write_atomically(path, _card(checkpoint, results))
    return path


def ensure_model_card(checkpoint: Path) -> None:
    """Write the card of a model that was just finished; one that is there stays, as it may hold results."""
    if not (checkpoint / MODEL_CARD).exists():
        write_model_card(checkpoint)


def card_for_others(checkpoint: Path) -> bytes:
    """Return the card for a copy of the model that Lumi itself does not read."""
    path = checkpoint / MODEL_CARD
    card = path.read_bytes() if path.is_file() else _card(checkpoint)
    before, here, after = card.partition(_HERE.encode())
    return before + after.split(b"```\n\n", 1)[-1] if here else card


def _card(checkpoint: Path, results: CardResults | None = None) -> bytes:
    return "\n".join(_lines(read_model_facts(checkpoint), results)).encode("utf8", errors="replace")


def _lines(facts: ModelFacts, results: CardResults | None) -> Iterator[str]:
    import yaml  # comes with transformers

    front = yaml.safe_dump(_front_matter(facts, results), sort_keys=False, allow_unicode=True, width=1000)
    yield from ("---", front.rstrip("\n"), "---", "", f"# {escape(facts.name, quote=False)}", "")
    yield from _about(facts)
    yield from _usage(facts)
    yield from _training_data(facts)
    yield from _procedure(facts)
    yield from _results(results)
    yield from _limits(facts)
    yield from _origin(facts)


def _front_matter(facts: ModelFacts, results: CardResults | None) -> dict[str, Any]:
    stage_tag = {"pretraining": "pretraining", "preference tuning": "dpo"}.get(facts.stage, "sft")
    tags = ["lumi-lab", "llama", stage_tag]
    if facts.settings.get("method") in ("lora", "qlora"):
        tags.append(facts.settings["method"])
    if facts.can_chat:
        tags.append("conversational")
    hub_names = [source.hub_name for data in facts.all_data for source in data.sources if source.hub_name]
    front: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "language": facts.languages,
        "license": facts.licence,
        "license_name": "licences-of-the-training-data" if facts.licence == "other" else None,
        "tags": tags,
        "datasets": list(dict.fromkeys(hub_names)),
        "base_model": facts.base_name,
        "base_model_relation": "finetune" if facts.base_name else None,
    }
    if results and results.figures:
        front["model-index"] = [{"name": facts.name, "results": _index(results.figures)}]
    return {key: value for key, value in front.items() if value}


def _index(figures: Sequence[CardFigure]) -> list[dict[str, Any]]:
    """Return the hub's form of results: one entry a data set."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for figure in figures:
        metric = {"type": figure.metric, "name": figure.metric_name, "value": figure.value}
        found.setdefault((figure.dataset, figure.dataset_name), []).append(metric)
    task = {"type": "text-generation", "name": "Text generation"}
    return [
        {"task": dict(task), "dataset": {"type": kind, "name": name}, "metrics": metrics}
        for (kind, name), metrics in found.items()
    ]


def _about(facts: ModelFacts) -> Iterator[str]:
    shape, parameters = facts.shape, count_parameters(facts.shape)
    made = {
        "pretraining": "trained from scratch",
        "supervised fine-tuning": "taught to answer by supervised fine-tuning",
        "preference tuning": "taught which answers are preferred",
    }[facts.stage]
    base = f", beginning with `{facts.base_name}`" if facts.base_name else ""
    if description := facts.settings.get("description"):
        yield from (escape(description, quote=False), "")
    yield from (
        f"A small language model of the Llama architecture, {made} with Lumi-Lab{base}.",
        "",
        "| | |",
        "| --- | ---: |",
        f"| parameters | {parameters.total:,} |",
        f"| without embedding and head | {parameters.non_embedding:,} |",
    )
    trained = facts.run.get("parameters", {}).get("trained")
    if trained and trained != parameters.total:
        yield f"| trained in this stage | {trained:,} |"
    yield from (
        f"| layers | {shape.n_layer} |",
        f"| width; feed-forward | {shape.d_model:,}; {shape.d_ffn:,} |",
        f"| heads; key/value heads; width of a head | {shape.n_head}; {shape.num_kv_heads}; {shape.head_dim} |",
        f"| context, tokens | {shape.sequence_length:,} |",
        f"| vocabulary | {shape.vocab_size:,} |",
        f"| head | {'shared with' if shape.tie_embeddings else 'apart from'} the embedding |",
        "",
    )


def _usage(facts: ModelFacts) -> Iterator[str]:
    yield from ("## How to use it", "", "```python", _CHAT if facts.can_chat else _GENERATE, "```", "")
    command = (
        'lumi chat --model_path . --message "What is water?"' if facts.can_chat else "lumi generate --model_path ."
    )
    yield from (_HERE, "", "```bash", command)
    yield from ('lumi generate --model_path . --prompt "The history of"', "```", "") if facts.can_chat else ("```", "")


def _training_data(facts: ModelFacts) -> Iterator[str]:
    if not facts.all_data:
        return
    yield from ("## Training data", "")
    yield from _data_tables(facts.own_data)
    if facts.earlier_data:
        yield from ("The models that it began with were trained on:", "", *_data_tables(facts.earlier_data))


def _data_tables(data: Sequence[DataSet]) -> Iterator[str]:
    rows = [
        (
            one.name,
            f"{one.rows:,}",
            "" if one.tokens is None else f"{one.tokens:,}",
            "" if one.share is None else f"{one.share:.1%}",
        )
        for one in data
    ]
    yield from _table(("data set", "rows", "tokens", "share of what was drawn"), rows)
    sources = list(dict.fromkeys(source for one in data for source in one.sources))
    if sources:
        listed = [(s.name, s.licence, f"{s.documents:,}", f"{s.bytes:,}", s.citation) for s in sources]
        yield from _table(("source", "licence", "documents", "bytes", "where it comes from"), listed)


def _procedure(facts: ModelFacts) -> Iterator[str]:
    rows = list(_procedure_rows(facts))
    if rows:
        yield from ("## Training procedure", "", *_table(("", ""), rows))
    if facts.cost.seconds is not None:
        yield from (HOW_TIME_IS_KNOWN, "")


def _procedure_rows(facts: ModelFacts) -> Iterator[tuple[str, str]]:
    run, settings = facts.run, facts.settings
    optimizer, schedule, training = (settings.get(part, {}) for part in ("optimizer", "schedule", "training"))
    yield "stage", facts.stage
    if run.get("step"):
        yield "steps", f"{run['step']:,}"
    if run.get("tokens"):
        yield "tokens", f"{run['tokens']:,} ({run['tokens'] / count_parameters(facts.shape).total:,.1f} per parameter)"
    if training.get("batch_size"):
        yield "rows in a step", f"{training['batch_size']:,}"
    if method := settings.get("method"):
        lora = settings.get("lora", {})
        yield "method", method if method == "full" else f"{method}, rank {lora['r']}, alpha {lora['alpha']:g}; merged"
    if "beta" in settings:
        yield "loss", f"{settings['loss']}, beta {settings['beta']:g}"
    if optimizer:
        yield (
            "optimiser",
            f"AdamW, beta {optimizer['beta1']:g} and {optimizer['beta2']:g}, epsilon {optimizer['epsilon']:g},"
            f" weight decay {optimizer['weight_decay']:g} on matrices, gradients clipped at"
            f" {optimizer['max_grad_norm']:g}",
        )
    if schedule and optimizer:
        yield (
            "learning rate",
            f"{optimizer['learning_rate']:g}, {schedule['lr_schedule']}, warm-up over"
            f" {schedule['warmup_ratio']:.0%} of the steps, at the end"
            f" {1 if schedule['lr_schedule'] == 'constant' else schedule['min_learning_rate_ratio']:.0%} of it",
        )
    if precision := training.get("precision"):
        # on a card, auto is bf16 or fp16, and which of them is not recorded
        known = "fp32" if precision == "auto" and facts.cost.device == "CPU" else precision
        yield "precision", f"{known}, weights in float32"
    if "seed" in training:
        yield "seed", str(training["seed"])
    for what, value in facts.cost.rows():
        yield what if what[:2].isupper() else what[:1].lower() + what[1:], value
    if run.get("versions"):
        yield "software", ", ".join(f"{name} {version}" for name, version in run["versions"].items())


def _results(results: CardResults | None) -> Iterator[str]:
    if results is None or not results.tables:
        return
    yield from ("## Evaluation", "")
    for table in results.tables:
        yield from (f"### {escape(table.title, quote=False)}", "", *_table(table.header, table.rows))
        if table.notes:
            yield from (*(f"- {escape(note, quote=False)}" for note in table.notes), "")


def _limits(facts: ModelFacts) -> Iterator[str]:
    yield from (
        "## Limits",
        "",
        f"- With {count_parameters(facts.shape).total / 1e6:,.1f} million parameters it knows little and makes things"
        " up, in fluent sentences. Nothing that it says should be relied on.",
        "- It was not made safe: what stands in its training data, unfair or offensive, it may write.",
    )
    if facts.languages == ["en"]:
        yield "- It was trained on English text alone."
    if not facts.can_chat:
        yield "- It continues texts; it was not taught to answer questions or to follow instructions."
    checked = {name for data in facts.all_data for name in data.checked}
    if checked:
        yield (
            f"- Paragraphs that the test sets {', '.join(sorted(checked))} have too were cut from training data;"
            " what is said there in other words may have stayed."
        )
    elif any(data.has_corpus for data in facts.all_data):
        yield "- Its training data were not compared with test sets: they may hold some of their questions."
    missing = sorted({name for data in facts.all_data for name in data.not_checked})
    if checked and missing:
        yield f"- Not compared with the training data, as they were not there: {', '.join(missing)}."
    yield ""


def _origin(facts: ModelFacts) -> Iterator[str]:
    rows = [(one.kind, one.name, one.sha256 or one.expected or "") for one in facts.lineage]
    if rows:
        yield from ("## Where it comes from", "")
        # raw files may be many: the manifests of the corpora name them
        yield (
            "An artifact names those that it was made from by the sha256 of their manifests (a model: of its weights)."
        )
        yield from ("", *_table(("artifact", "name", "sha256"), rows))
    if commit := facts.run.get("git_commit"):
        yield from (f"Source code: commit `{commit}`.", "")
    if known := [step.line for step in facts.steps if step.command]:
        yield from ("## Make it again", "", "```bash", *known, "```", "")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a Markdown table whose cells are text, not markup."""
    yield _row(header)
    yield _row(["---"] * len(header))
    yield from (_row(row) for row in rows)
    yield ""


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(escape(" ".join(cell.split()), quote=False).replace("|", "\\|") for cell in cells) + " |"
