"""Published tables, run again: each cell ends as reproduced, not reproduced or not run, with the interval."""

import dataclasses
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import _common
import tyro
from _tables import TABLES, Cell, Run

from fwdonly import UsageError, report, results, stats

QUICK = {"epochs": 3, "seeds": 3}
SMALL = "--dataset mnist5k --split fixed"


@dataclasses.dataclass(frozen=True)
class Options:
    """Run a published table again, a script of ours for each row, and set the numbers side by side.

    A cell is reproduced if the 90 % interval of the difference lies within the margin, and not otherwise: because it
    differs, or because these seeds cannot tell. Repeat the command to continue; finished runs are not repeated.
    """

    table: Literal[tuple(TABLES)]  # ty: ignore[invalid-type-form]
    """Which one."""
    only: tuple[str, ...] = ()
    """Only these rows, such as mnist."""
    seeds: int | None = None
    """Number of seeds. None: as many as the table has, at least ten."""
    first_seed: int = 0
    """The seeds are first-seed, first-seed + 1, ..."""
    margin: float = 0.5
    """Percentage points that count as no difference; twice this number of epochs does."""
    quick: bool = False
    """Three epochs and seeds; rows on MNIST on 5,000 embedded images. Shows that all runs, reproduces nothing: every
    cell ends as not run, with the number it gave."""
    data_dir: Path | None = None
    """Folder with data files (.npz, IDX, CIFAR batches). Default: $FWDONLY_DATA."""
    output_dir: Path | None = None
    """Folder of the runs' result folders. Default: results/reproduce-TABLE."""
    list: bool = False
    """Show the table's commands and published numbers, and run nothing."""


def main() -> int:
    """Parse, run row by row, and tell."""
    options = tyro.cli(Options)
    if options.seeds is not None and options.seeds < 1:
        raise UsageError(f"--seeds must be at least 1; got {options.seeds}")
    if not 0 < options.margin < float("inf"):
        raise UsageError(f"--margin must be above 0; got {options.margin}")
    table = TABLES[options.table]
    unknown = set(options.only) - {run.name for run in table.runs}
    if unknown:
        rows = ", ".join(run.name for run in table.runs)
        raise UsageError(f"--only {' '.join(sorted(unknown))} is not a row of {options.table}; it has {rows}")
    folder = options.output_dir or Path("results") / f"reproduce-{options.table}{'-quick' if options.quick else ''}"
    print(f"{options.table}: {table.source}")
    found: list[dict[str, Any]] = []
    for number, run in enumerate(table.runs, start=1):
        words = command(run, options, folder / run.name)
        if options.list:
            print(f"  {shlex.join(['python', f'experiments/{words[0]}', *words[1:]])}")
        elif not options.only or run.name in options.only:
            print(f"\n{run.name} ({number} of {len(table.runs)}): {shlex.join(words)}", flush=True)
        skip = options.list or (options.only and run.name not in options.only)
        why = "left out" if skip else train(words, folder / run.name)
        found += [cell(run, own, folder / run.name, why, options) for own in run.cells]
        if why == "interrupted":
            print("interrupted; the same command continues", file=sys.stderr)
            return 130
        if not options.list:
            tell(folder, options, table.source, found)
    rows = [[record[name] for name in COLUMNS] for record in found]
    report.print_table(f"{options.table}: {table.source}", COLUMNS, rows, words=len(COLUMNS))
    if not options.list:
        print(f"results: {folder}/ (reproduction.json, reproduction.md, and a folder per row)")
    return 0


COLUMNS = ["row", "rule", "what", "published", "measured", "difference", "outcome"]


def command(run: Run, options: Options, folder: Path) -> list[str]:
    """The script and its arguments."""
    script, *words = shlex.split(run.command)
    seeds = options.seeds or (QUICK["seeds"] if options.quick else run.seeds)
    words += ["--seeds", str(seeds), "--first-seed", str(options.first_seed), "--output-dir", str(folder)]
    words += ["--data-dir", str(options.data_dir)] if options.data_dir is not None else []
    if options.quick:
        epochs = str(QUICK["epochs"])
        words += ["--epochs", epochs, "--validate-every", epochs if "paper" in run.command else "1"]
        words += ["--bp.epochs", epochs] if script == "mf_mlp.py" else []
        words += ["--block-epochs", epochs] if script == "cafo_cnn.py" else []
        if (
            run.name.removeprefix("dfa_")
            .removeprefix("cnn_")
            .startswith(("mnist", "hinton", "ff_py", "paper_4", "paper_mnist"))
        ):
            words += shlex.split(SMALL)
    return [script, *words]


def train(words: list[str], folder: Path) -> str | None:
    """Run a script, or what is left of it; why there is nothing to show, if so."""
    if finished(folder):
        return None
    resume = ["--resume"] if (folder / "config.json").exists() else []
    script = Path(__file__).parent / words[0]
    try:
        done = subprocess.run([sys.executable, str(script), *words[1:], *resume], stderr=subprocess.PIPE, text=True)
    except KeyboardInterrupt:
        return "interrupted"
    sys.stderr.write(done.stderr)
    if done.returncode == 130:
        return "interrupted"
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return None if done.returncode in (0, 3) else lines[-1].removeprefix("error: ")


def finished(folder: Path) -> bool:
    """Whether the folder holds all of its run."""
    try:
        return bool(json.loads((folder / "summary.json").read_text(encoding="utf-8"))["finished"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def cell(run: Run, own: Cell, folder: Path, why: str | None, options: Options) -> dict[str, Any]:
    """One published number and what became of it."""
    unit = "" if own.metric == "epochs" else " %"
    spread = "" if own.sd is None else f" ± {own.sd:g}"
    record: dict[str, Any] = {
        "row": run.name,
        "rule": own.rule.upper(),
        "what": {"test_accuracy": "test %", "epochs": "epochs"}.get(own.metric, f"{own.metric} test %"),
        "published": f"{own.value:g}{spread}" + (" (repeated seed)" if own.repeated else ""),
        "measured": "-",
        "difference": "-",
        "outcome": "-" if options.list else f"not run: {why.split('. ')[0]}" if why else "not run",
        "why": why,
        "values": None,
        "statistics": None,
    }
    if not finished(folder):
        return record
    summaries = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["rules"]
    runs = next(summary["runs"] for summary in summaries if summary["rule"] == own.rule)
    values = [_value(each, own.metric) for each in runs]
    counted = [value for value in values if value is not None]
    record |= {"values": values, "measured": report.mean_sd(counted) + f" (n = {len(counted)})"}
    if options.quick:
        return record | {"outcome": "not run: the quick form shows nothing but that it runs"}
    margin = options.margin * (2 if own.metric == "epochs" else 1)
    said = stats.against_published(
        values, own.value, own.sd, own.n, margin=margin, unit="epochs" if not unit else "points"
    )
    if said.interval is not None:
        low, high = said.interval
        record["difference"] = f"{said.difference:+.2f} [{low:+.2f}, {high:+.2f}]"
    elif said.difference is not None:
        record["difference"] = f"{said.difference:+.2f}"
    more = {"differs": ": it differs", "not decided": f": {len(counted)} seeds cannot tell within {margin:g}"}
    outcome = said.outcome + more.get(said.why or "", "")
    return record | {"outcome": outcome, "statistics": dataclasses.asdict(said)}


def _value(run: dict[str, Any], metric: str) -> float | None:
    if metric == "epochs":
        return float(run["epochs"])
    value = run["test_accuracy"] if metric == "test_accuracy" else run["readouts"].get(metric, {}).get("test_accuracy")
    return None if value is None else 100 * value


def tell(folder: Path, options: Options, source: str, found: list[dict[str, Any]]) -> None:
    """Write what there is so far."""
    rows = [[record[name] for name in COLUMNS] for record in found]
    about = "Difference: measured minus published, 90 % interval. Reproduced: it lies within "
    about += f"{options.margin:g} points, of epochs within {2 * options.margin:g}."
    heading = f"{options.table}: {source}"
    results.write_text(folder / "reproduction.md", "\n".join([heading, "", report.markdown(COLUMNS, rows), about, ""]))
    content = {
        "table": options.table,
        "source": source,
        "margin": options.margin,
        "quick": options.quick,
        "cells": found,
    }
    results.write_json(folder / "reproduction.json", content | {"environment": results.environment()})


if __name__ == "__main__":
    sys.exit(_common.well_behaved(main))
