"""``fwdonly reproduce TABLE``: each published cell ends as reproduced, not reproduced or not run."""

import dataclasses
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from .. import report, results
from ..errors import UsageError, first_difference
from ..report import stats
from ..study import Study, declared, published, run, terminal
from ..study import folder as folders
from . import options, tell, train
from .options import Group

QUICK = {"epochs": 3, "seeds": 3}
DESCRIPTION = """Run a published table again, one command per row, and set the numbers side by side.

A cell is reproduced if the 90 % interval of the difference lies within the margin, and not otherwise: because it
differs, or because these seeds cannot tell. Repeat the command to continue; finished runs are not repeated. Each row's
folder gets a page, report.html, with the published numbers beside the measured ones. The tables: {tables}."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """What is run."""

    only: tuple[str, ...] = ()
    """Only these rows, such as mnist."""
    seeds: int | None = None
    """Number of seeds. None: as many as the table has, at least ten."""
    first_seed: int = 0
    """The seeds are first-seed, first-seed + 1, ..."""
    margin: float = 0.5
    """Percentage points that count as no difference; of epochs twice this number."""
    quick: bool = False
    """Three epochs and seeds; rows on MNIST on 5,000 embedded images. Shows that all runs and reproduces nothing: every
    cell ends as not run, with the number it gave."""
    data_dir: Path | None = None
    """Folder with data files (.npz, IDX, CIFAR batches). Default: $FWDONLY_DATA."""
    output_dir: Path | None = None
    """Folder of the runs' result folders. Default: results/reproduce-TABLE."""
    list: bool = False
    """Show the table's commands, its published numbers and what is left out of it, and run nothing."""


COLUMNS = ["row", "rule", "what", "published", "measured", "difference", "outcome"]


def main(words: Sequence[str], command_line: Sequence[str], prog: str = "fwdonly reproduce") -> int:
    """Parse, run row by row, and tell; the exit code."""
    del command_line
    names, words = options.names_first(words)
    known = published.tables()
    if not {"-h", "--help"} & set(words) and (len(names) != 1 or names[0] not in known):
        raise UsageError(f"there is no table {' '.join(names)!r}; the tables are {', '.join(known)}")
    description = DESCRIPTION.format(tables=", ".join(known))
    values = options.parse(words, [Group("table", declared(Choice))], {}, prog=prog, description=description)
    choice, name = options.make(Choice, values), names[0]
    table = known[name]
    _check(choice, name, table)
    folder = choice.output_dir or Path("results") / f"reproduce-{name}{'-quick' if choice.quick else ''}"
    print(f"{name}: {table.source}" + (f"\n{table.left_out}" if table.left_out else ""))
    rows = [] if choice.list else [row for row in table.rows if not choice.only or row.name in choice.only]
    studies = {row.name: study_of(row, choice, folder / row.name) for row in table.rows}
    for row in rows:  # before any of them trains for hours
        if other := foreign(studies[row.name], folder / row.name):
            raise UsageError(f"{folder / row.name} holds another run ({other}); give another --output-dir")
    records: list[dict[str, Any]] = []
    for number, row in enumerate(table.rows, start=1):
        row_folder, study, why = folder / row.name, studies[row.name], "left out"
        if choice.list:
            print(f"  {shlex.join(study.command_line)}")
        elif row in rows:
            print(f"\n{row.name} ({number} of {len(table.rows)}): {shlex.join(study.command_line)}", flush=True)
            why = run_row(study, row_folder)
        there = not choice.list and finished(row_folder) and (row in rows or not foreign(study, row_folder))
        if there and row in rows and not choice.quick:
            publish(row, table.source, row_folder)
        records += [outcome(row, cell, row_folder if there else None, why, choice) for cell in row.cells]
        if not choice.list:
            write(folder, name, choice, table, records)
        if why == "interrupted":
            print("interrupted; the same command continues", file=sys.stderr)
            return 130
    lines = [[record[column] for column in COLUMNS] for record in records]
    report.print_table(f"{name}: {table.source}", COLUMNS, lines, words=len(COLUMNS))
    if not choice.list:
        print(f"results: {folder}/ (reproduction.json, reproduction.md, and a folder per row)")
    return 0


def _check(choice: Choice, name: str, table: published.Table) -> None:
    if choice.seeds is not None and choice.seeds < 1:
        raise UsageError(f"--seeds must be at least 1; got {choice.seeds}")
    if not 0 < choice.margin < float("inf"):
        raise UsageError(f"--margin must be above 0; got {choice.margin}")
    unknown = set(choice.only) - {row.name for row in table.rows}
    if unknown:
        rows = ", ".join(row.name for row in table.rows)
        raise UsageError(f"--only {' '.join(sorted(unknown))} is not a row of {name}; it has {rows}")


def study_of(row: published.Row, choice: Choice, folder: Path) -> Study:
    """The study of a row."""
    command, *words = shlex.split(row.command)
    seeds = choice.seeds or (QUICK["seeds"] if choice.quick else row.seeds)
    words += ["--seeds", str(seeds), "--first-seed", str(choice.first_seed), "--output-dir", str(folder)]
    words += ["--data-dir", str(choice.data_dir)] if choice.data_dir is not None else []
    study = train.study_of(words, ("fwdonly", command, *words))
    return quick(study) if choice.quick else study


def quick(study: Study) -> Study:
    """The study with few epochs, and on embedded images instead of MNIST."""
    epochs = QUICK["epochs"]
    short = {"epochs": epochs, "validate_every": 1}
    arms = [
        arm.changed(short | ({"block_epochs": epochs} if arm.options.get("blocks") == "dfa" else {}))
        for arm in study.arms
    ]
    if study.data.dataset == "mnist":
        study = dataclasses.replace(study, data=dataclasses.replace(study.data, dataset="mnist5k", split="fixed"))
    return dataclasses.replace(study, arms=tuple(arms))


def run_row(study: Study, folder: Path) -> str | None:
    """Run a study, or what is left of it; why there is nothing to show, if so."""
    if finished(folder):
        return None
    output = dataclasses.replace(study.output, resume=(folder / "config.json").exists())
    try:
        done = run(dataclasses.replace(study, output=output), tell.render)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return str(error)
    finally:
        jax.clear_caches()  # the programs of a row serve no other one
    return None if done.contents.finished else "interrupted"


def foreign(study: Study, folder: Path) -> str:
    """How the run that a folder holds differs from this one; empty if it does not, or the folder holds nothing."""
    try:
        if not folder.exists() or not folders.holds_something(folder):
            return ""
        there = json.loads((folder / "config.json").read_text(encoding="utf-8"))["configuration"]["rules"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "no config.json says which"
    return first_difference(there, json.loads(json.dumps(study.settings())))


def finished(folder: Path) -> bool:
    """Whether the folder holds all of its run."""
    try:
        return bool(json.loads((folder / "summary.json").read_text(encoding="utf-8"))["finished"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


UNITS = {"test_accuracy": "%", "epochs": "passes"}
"""Units of published numbers, by their names in result folders."""


def publish(row: published.Row, source: str, folder: Path) -> None:
    """Write the published numbers into the row's folder, beside the measured ones, and the page that shows both."""
    path = folder / "summary.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    before = json.dumps(content)
    for summary in content["rules"]:
        beside = [cell for cell in row.cells if cell.rule == summary["rule"] and cell.metric in UNITS]
        if beside:
            summary["published"] = [
                {"metric": cell.metric, "value": cell.value, "sd": cell.sd, "n": cell.n, "unit": UNITS[cell.metric]}
                | {"source": source + (f"; {cell.note}" if cell.note else "")}
                for cell in beside
            ]
    if json.dumps(content) != before:
        results.write_json(path, content)
    with terminal.noted(f"the page {folder / 'report.html'}"):  # the table does not need it
        results.write_text(folder / "report.html", report.html_report([folder]))


def outcome(
    row: published.Row, cell: published.Cell, folder: Path | None, why: str | None, choice: Choice
) -> dict[str, Any]:
    """One published number, and the measured one of the folder. Without a folder nothing was measured."""
    unit = "" if cell.metric == "epochs" else " %"
    spread = "" if cell.sd is None else f" ± {cell.sd:g}"
    seeds = f"{cell.n} distinct seed{'s' * (cell.n != 1)}"
    record: dict[str, Any] = {
        "row": row.name,
        "rule": cell.rule.upper(),
        "what": {"test_accuracy": "test %", "epochs": "epochs"}.get(cell.metric, f"{cell.metric} test %"),
        "published": f"{cell.value:g}{spread}" + (f" ({seeds})" if cell.repeated else ""),
        "measured": "-",
        "difference": "-",
        "outcome": "-" if choice.list else f"not run: {why.split('. ')[0]}" if why else "not run",
        "why": why,
        "values": None,
        "statistics": None,
    }
    if folder is None:
        return record
    summaries = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["rules"]
    runs = next(summary["runs"] for summary in summaries if summary["rule"] == cell.rule)
    values = [_value(seed_run, cell.metric) for seed_run in runs]
    counted = [value for value in values if value is not None]
    record |= {"values": values, "measured": report.mean_sd(counted) + f" (n = {len(counted)})"}
    if choice.quick:
        return record | {"outcome": "not run: the quick form shows nothing but that it runs"}
    margin = choice.margin * (2 if cell.metric == "epochs" else 1)
    lost = sum(seed_run["diverged"] for seed_run in runs)
    verdict = stats.against_published(
        values, cell.value, cell.sd, cell.n, margin=margin, unit="epochs" if not unit else "points", diverged=lost
    )
    if verdict.interval is not None:
        low, high = verdict.interval
        record["difference"] = f"{verdict.difference:+.2f} [{low:+.2f}, {high:+.2f}]"
    elif verdict.difference is not None:
        record["difference"] = f"{verdict.difference:+.2f}"
    more = {"differs": ": it differs", "not decided": f": {len(counted)} seeds cannot tell within {margin:g}"}
    more |= {"diverged": f": {lost} of {len(runs)} runs diverged"}
    outcome = verdict.outcome + more.get(verdict.why or "", "") + (f"; published from {seeds}" if cell.repeated else "")
    return record | {"outcome": outcome, "statistics": dataclasses.asdict(verdict)}


def _value(run: dict[str, Any], metric: str) -> float | None:
    if metric == "epochs":
        return None if run["diverged"] else float(run["epochs"])
    value = run["test_accuracy"] if metric == "test_accuracy" else run["readouts"].get(metric, {}).get("test_accuracy")
    return None if value is None else 100 * value


def write(folder: Path, name: str, choice: Choice, table: published.Table, records: list[dict[str, Any]]) -> None:
    """Write the table as far as it is filled."""
    folders.make(folder)
    rows = [[record[name] for name in COLUMNS] for record in records]
    about = "Difference: measured minus published, 90 % interval. Reproduced: it lies within "
    about += f"{choice.margin:g} points, of epochs within {2 * choice.margin:g}."
    lines = [f"{name}: {table.source}", "", report.markdown_table(COLUMNS, rows), about, ""]
    lines += [table.left_out, ""] if table.left_out else []
    results.write_text(folder / "reproduction.md", "\n".join(lines))
    content = {
        "table": name,
        "source": table.source,
        "left_out": table.left_out,
        "margin": choice.margin,
        "quick": choice.quick,
        "cells": records,
    }
    results.write_json(folder / "reproduction.json", content | {"environment": results.environment()})
