"""What runs took, side by side: the stages behind one model, or the models of a comparison."""

from collections import Counter
from collections.abc import Mapping

from lumi.evaluation.tables import Table
from lumi.reporting.markup import note, section, titled_table
from lumi.reporting.run_record import RunRecord
from lumi.training.cost import HOW_TIME_IS_KNOWN, Cost


def costs_section(record: RunRecord) -> str:
    """Show what the run took, and the stages before it."""
    table = costs_table(record.costs)
    if not table.rows:
        return section("What it took", note("Left out: the log has no throughput."))
    return section("What it took", titled_table(table, ""))


def costs_table(costs: Mapping[str, Cost]) -> Table:
    """Return a column for each run, by its label; what no run recorded has no row."""
    columns = {label: dict(cost.rows()) for label, cost in costs.items()}
    names = dict.fromkeys(name for column in columns.values() for name in column)
    rows = [(name, *(column.get(name, "-") for column in columns.values())) for name in names]
    notes = [HOW_TIME_IS_KNOWN] if any(cost.seconds is not None for cost in costs.values()) else []
    if len(costs) > 1 and (total := total_hours(costs)):
        notes.append(f"Together: {total}.")
    return Table("What it took", ("", *columns), rows, notes)


def total_hours(costs: Mapping[str, Cost]) -> str:
    """Return the hours of all runs by kind of device; empty where one of them is not known."""
    totals: Counter[str] = Counter()
    for cost in costs.values():
        if cost.device_hours is None:
            return ""
        totals[cost.hours_of] += cost.device_hours  # type: ignore[assignment]  # a Counter of hours
    return ", ".join(f"{hours:,.3g} {kind}" for kind, hours in totals.items())
