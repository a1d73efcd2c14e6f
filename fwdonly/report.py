"""Tables from result files alone. Missing numbers are dashes, never 0."""

import statistics
from collections.abc import Sequence
from typing import Any

from .results import Summary

METERED = (
    "Energy: of all seeds together, gross; training, validation and writing checkpoints, without compilation and "
    "test. Stopping as configured, one window per rule: no difference between rules may be claimed from it "
    "(benchmarks/energy.py measures differences at matched passes)."
)

FOOTNOTE = (
    "train s of a seed is its share of the rule's wall clock by epochs (seeds are trained in one program); in the mean "
    "row, train s and compile s are the measured totals of the rule."
)


def table_rows(summaries: Sequence[Summary]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the result table: a row per rule and seed, then mean ± sd (n - 1) per rule.

    Accuracies in percent. The mean covers finished runs that did not diverge, and says how many there are. Of the
    seconds, see `FOOTNOTE`; of energies, `footnotes`. Where energy was asked for, the mean row has the sweep's.
    """
    others = list(dict.fromkeys(name for s in summaries for run in s["runs"] for name in run.get("readouts", {})))
    header = ["rule", "seed", "val %", "test %", *(f"{name} test %" for name in others)]
    header += ["epochs", "train s", "compile s"]
    energies = [summary["energy"] for summary in summaries if summary.get("energy")]
    figures = {"energy J": "energy", "net J": "net", "mean W": "mean_power", "CO2e g": "co2e"} if energies else {}
    figures = {column: name for column, name in figures.items() if any(name in energy for energy in energies)}
    header += list(figures)

    def other(run: dict[str, Any], name: str) -> float | None:
        return run.get("readouts", {}).get(name, {}).get("test_accuracy")

    rows = []
    for summary in summaries:
        name = summary["rule"].upper()
        for run in summary["runs"]:
            note = " diverged" if run["diverged"] else ""
            rows.append(
                [
                    name,
                    str(run["seed"]) + note,
                    _percent(run["val_accuracy"]),
                    _percent(run["test_accuracy"]),
                    *(_percent(other(run, name)) for name in others),
                    str(run["epochs"]),
                    f"~{run['train_seconds_share']:.1f}",
                    "",
                    *("" for _ in figures),
                ]
            )
        counted = [run for run in summary["runs"] if run["test_accuracy"] is not None]
        rows.append(
            [
                name,
                f"mean of {len(counted)}",
                mean_sd([100 * run["val_accuracy"] for run in counted]),
                mean_sd([100 * run["test_accuracy"] for run in counted]),
                *(mean_sd([100 * v for run in counted if (v := other(run, name)) is not None]) for name in others),
                mean_sd([run["epochs"] for run in counted], ".1f"),
                f"{summary['train_seconds']:.1f}",
                f"{summary['compile_seconds']:.1f}",
                *(_figure((summary.get("energy") or {}).get(name)) for name in figures.values()),
            ]
        )
    return header, rows


def footnotes(summaries: Sequence[Summary]) -> list[str]:
    """What a reader of the table must know: how seconds are shared, and where every rule's energy comes from."""
    lines = [FOOTNOTE]
    metered = [summary for summary in summaries if summary.get("energy")]
    if metered:
        lines.append(METERED)
    for summary in summaries:
        energy = summary.get("energy")
        if not energy:
            lines += [f"{summary['rule'].upper()}: trained without --energy."] if metered else []
            continue
        own = energy["energy"]
        words = f"{summary['rule'].upper()}: energy "
        if own["value"] is None:
            words += f"unavailable: {own['reason']}"
        else:
            words += f"{own['status']} ({own['source']})" + (f", {own['reason']}" if own["reason"] else "")
            for part in energy["parts"]:
                limit, busy = part["about"].get("power_limit_w"), part["utilisation"]
                words += f"; {part['name']} idle {_figure(part['idle'])} W"
                words += f", limit {limit:g} W" if limit is not None else ""
                words += f", busy {100 * busy:.0f} %" if busy is not None else ""
            words += "; under 30 s: not for a claim" if energy["seconds"]["value"] < 30 else ""
        for name, opinion in energy["opinions"].items():
            value = f"{opinion['value']:.4g} {opinion['unit']}" if opinion["value"] is not None else opinion["reason"]
            words += f"; {name} {opinion['status']} {value}"
        notes = [*energy["notes"], *(note for part in energy["parts"] for note in part["notes"])]
        lines.append("; ".join([words, *notes]) + ".")
        co2e = energy.get("co2e")
        if co2e and co2e["value"] is not None:
            lines.append(f"{summary['rule'].upper()}: CO2e {co2e['status']}, {co2e['source']}.")
    return lines


def mean_sd(values: Sequence[float | int], form: str = ".2f") -> str:
    """``mean ± sd`` with the sample standard deviation; a dash without values, no sd for a single one."""
    if not values:
        return "-"
    mean = format(statistics.fmean(values), form)
    return f"{mean} ± {format(statistics.stdev(values), form)}" if len(values) > 1 else mean


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table to the terminal (extra ``experiments``); rows that hold a mean are set off."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for i, name in enumerate(header):
        table.add_column(name, justify="left" if i < 2 else "right", no_wrap=True)
    for row in rows:
        mean = row[1].startswith("mean")
        table.add_row(*row, style="bold" if mean else None, end_section=mean)
    console = Console()
    # A table cut off at the width of a narrow terminal, or at the 80 columns of piped output, helps nobody.
    needed = Measurement.get(Console(width=1000), console.options.update(width=1000), table).maximum
    Console(width=max(console.width, needed)).print(table)


def _figure(quantity: dict[str, Any] | None) -> str:
    """A quantity of a result file for a table; a dash where there is no value."""
    return "-" if quantity is None or quantity["value"] is None else f"{quantity['value']:.4g}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"
