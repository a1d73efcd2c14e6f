"""``fwdonly reproduce TABLE``: each published cell ends as reproduced, not reproduced or not run; or a claim."""

import dataclasses
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import claims, report, results
from ..errors import UsageError
from ..report import stats
from ..study import Study, declared, published, terminal
from ..study import folder as folders
from . import of_claim, options, train
from .again import QUICK, finished, foreign, quick, run_row
from .options import Group

DESCRIPTION = """Run a published table again, one command per row, and set the numbers side by side.

A cell is reproduced if the 90 % interval of the difference lies within the margin, and not otherwise: because it
differs, or because these seeds cannot tell. Repeat the command to continue; finished runs are not repeated. Each row's
folder gets a page, report.html, with the published numbers beside the measured ones. In the place of a table,
--claim ID runs one of fwdonly claims. The tables: {tables}."""


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
    """Percentage points that count as no difference; of epochs twice this number. Of a table: a claim has its own."""
    quick: bool = False
    """Three epochs and seeds; rows on MNIST on 5,000 embedded images. Shows that all runs and reproduces nothing: every
    cell ends as not run, with the number it gave."""
    data_dir: Path | None = None
    """Folder with data files (.npz, IDX, CIFAR batches). Default: $FWDONLY_DATA."""
    output_dir: Path | None = None
    """Folder of the runs' result folders. Default: results/reproduce-TABLE."""
    claim: str | None = None
    """In the place of a table: run this claim, one of `fwdonly claims`, and print its verdict."""
    tuned: Path | None = None
    """With --claim: folder with the result folders of fwdonly tune that the claim's command names."""
    list: bool = False
    """Show the table's commands, its published numbers and what is left out of it, and run nothing."""


COLUMNS = ["row", "rule", "what", "published", "measured", "difference", "outcome"]


def main(words: Sequence[str], command_line: Sequence[str], prog: str = "fwdonly reproduce") -> int:
    """Parse, run row by row, and tell; the exit code."""
    del command_line
    names, words = options.names_first(words)
    known, early = published.tables(), options.early(words, claim=None, margin=None)
    of_a_claim = early["claim"] is not None
    if not {"-h", "--help"} & set(words) and not of_a_claim and (len(names) != 1 or names[0] not in known):
        raise UsageError(f"there is no table {' '.join(names)!r}; the tables are {', '.join(known)}")
    description = DESCRIPTION.format(tables=", ".join(known))
    values = options.parse(words, [Group("table", declared(Choice))], {}, prog=prog, description=description)
    choice = options.make(Choice, values)
    if choice.claim is not None:
        if early["margin"] is not None:
            raise UsageError("--margin is a table's; that of a claim stands in its record")
        return _claim(choice, choice.claim, names)
    name = names[0]
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


def _claim(choice: Choice, name: str, tables: Sequence[str]) -> int:
    """Run a claim in the place of a table; the exit code."""
    if tables or choice.only:
        raise UsageError("give a table, or --claim ID, and --only with a table alone")
    _check_numbers(choice)
    claim = claims.find(name)
    folder = choice.output_dir or Path("results") / f"claim-{name}{'-quick' if choice.quick else ''}"
    study = of_claim.study_of(
        claim,
        choice.seeds or (QUICK["seeds"] if choice.quick else claim.seeds),
        choice.first_seed,
        choice.data_dir,
        folder,
        quick=choice.quick,
        tuned=choice.tuned,
    )
    return of_claim.run_claim(claim, study, folder, quick=choice.quick, show=choice.list)


def _check(choice: Choice, name: str, table: published.Table) -> None:
    _check_numbers(choice)
    if choice.tuned is not None:
        raise UsageError("--tuned goes with --claim ID; the rows of a table have settings of their own")
    unknown = set(choice.only) - {row.name for row in table.rows}
    if unknown:
        rows = ", ".join(row.name for row in table.rows)
        raise UsageError(f"--only {' '.join(sorted(unknown))} is not a row of {name}; it has {rows}")


def _check_numbers(choice: Choice) -> None:
    if choice.seeds is not None and choice.seeds < 1:
        raise UsageError(f"--seeds must be at least 1; got {choice.seeds}")
    if not 0 < choice.margin < float("inf"):
        raise UsageError(f"--margin must be above 0; got {choice.margin}")


def study_of(row: published.Row, choice: Choice, folder: Path) -> Study:
    """The study of a row."""
    command, *words = shlex.split(row.command)
    seeds = choice.seeds or (QUICK["seeds"] if choice.quick else row.seeds)
    words += ["--seeds", str(seeds), "--first-seed", str(choice.first_seed), "--output-dir", str(folder)]
    words += ["--data-dir", str(choice.data_dir)] if choice.data_dir is not None else []
    study = train.study_of(words, ("fwdonly", command, *words))
    return quick(study) if choice.quick else study


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
