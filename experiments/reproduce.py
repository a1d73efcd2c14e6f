"""Published tables, run again: each cell ends as reproduced, not reproduced or not run, with the interval."""

import collections
import dataclasses
import json
import shlex
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TextIO

import _common
import _folder
import _presets
import tyro
from _tables import TABLES, Cell, Run, Table

from fwdonly import UsageError, report, results, stats
from fwdonly.errors import first_difference

QUICK = {"epochs": 3, "seeds": 3}
SMALL = "--dataset mnist5k --split fixed"


@dataclasses.dataclass(frozen=True)
class Options:
    """Run a published table again, a script of ours for each row, and set the numbers side by side.

    A cell is reproduced if the 90 % interval of the difference lies within the margin, and not otherwise: because it
    differs, or because these seeds cannot tell. Repeat the command to continue; finished runs are not repeated. Each
    row's folder gets a page, report.html, with the published numbers beside the measured ones.
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
    """Show the table's commands, its published numbers and what is left out of it, and run nothing."""


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
    print(f"{options.table}: {table.source}" + (f"\n{table.left_out}" if table.left_out else ""))
    chosen = [] if options.list else [run for run in table.runs if not options.only or run.name in options.only]
    for run in chosen:  # before any of them trains for hours
        other = foreign(run, command(run, options, folder / run.name), folder / run.name)
        if other:
            raise UsageError(f"{folder / run.name} holds another run ({other}); give another --output-dir")
    found: list[dict[str, Any]] = []
    for number, run in enumerate(table.runs, start=1):
        own = folder / run.name
        words, why = command(run, options, own), "left out"
        if options.list:
            print(f"  {shlex.join(['python', f'experiments/{words[0]}', *words[1:]])}")
        elif run in chosen:
            print(f"\n{run.name} ({number} of {len(table.runs)}): {shlex.join(words)}", flush=True)
            why = train(words, own)
        there = not options.list and finished(own) and (run in chosen or not foreign(run, words, own))
        if there and run in chosen and not options.quick:
            publish(run, table.source, own)
        found += [cell(run, each, own if there else None, why, options) for each in run.cells]
        if not options.list:
            tell(folder, options, table, found)
        if why == "interrupted":
            print("interrupted; the same command continues", file=sys.stderr)
            return 130
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
        words += ["--bp.epochs", epochs] if script == "mf_mlp.py" or "--compare" in words else []
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
    child = subprocess.Popen(
        [sys.executable, str(script), *words[1:], *resume], stderr=subprocess.PIPE, text=True, errors="replace"
    )
    last: collections.deque[str] = collections.deque(maxlen=1)
    reader = threading.Thread(target=relay, args=(child.stderr, last), daemon=True)
    reader.start()
    interrupted = False
    try:
        child.wait()
    except KeyboardInterrupt:  # the child has got it, too, and ends when it has written its checkpoint
        interrupted = True
        try:
            child.wait()
        except KeyboardInterrupt:
            child.kill()
            child.wait()
    reader.join(timeout=10)
    if interrupted or child.returncode == 130:
        return "interrupted"
    said = last[0] if last else f"exit code {child.returncode}"
    return None if child.returncode in (0, 3) else said.removeprefix("error: ")


def relay(stream: TextIO, last: collections.deque[str]) -> None:
    """Pass on lines to stderr as they come, and keep the last one that is not empty."""
    with stream:
        for line in stream:
            sys.stderr.write(line)
            sys.stderr.flush()
            if line.strip():
                last.append(line.strip())


IGNORED = ("--output-dir", "--data-dir", "--resume", "--quiet")
"""Arguments that say nothing of what is trained."""


def arguments(words: Sequence[str]) -> dict[str, str]:
    """Options and what is given to them; of an option given twice the last, as the scripts take it."""
    found: dict[str, list[str]] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            name = name.replace("_", "-")
            found[name] = [value] if equals else []
        else:
            found.setdefault(name, []).append(word)
    return {name: " ".join(values) or "given" for name, values in found.items() if name not in IGNORED}


def foreign(run: Run, words: list[str], folder: Path) -> str:
    """How the run that a folder holds differs from this one; empty if it does not, or the folder holds nothing."""
    try:
        if not folder.exists() or not _folder.holds_something(folder):
            return ""
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        _, script, *others = shlex.split(config["command"])
        settings = config["configuration"]["rules"]
        there = arguments(others)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "no config.json says which"
    if Path(script).name != words[0]:
        return f"of {Path(script).name}, not {words[0]}"
    here = arguments(words[1:])
    if difference := first_difference(there, here):
        return difference
    # The same words mean something else where a preset has changed since.
    preset = preset_of(words[0], here.get("--preset"))
    wanted = {name: value for name, value in preset.items() if f"--{name.replace('_', '-')}" not in here}
    own = settings.get(run.cells[0].rule, {})
    return first_difference({name: own.get(name) for name in wanted}, json.loads(json.dumps(wanted)))


def preset_of(script: str, name: str | None) -> dict[str, Any]:
    """The settings of a script's preset, but for those of BP beside it."""
    presets: dict[str, dict[str, dict[str, Any]]] = {
        "mf_mlp.py": {key: both["mf"] for key, both in _presets.PUBLISHED.items()},
        "bp_mlp.py": {key: both["bp"] for key, both in _presets.PUBLISHED.items()},
        "ff_mlp.py": _presets.FF_PUBLISHED,
        "ff_cnn.py": _presets.CWC_PUBLISHED,
        "cafo_cnn.py": _presets.CAFO_PUBLISHED,
        "pepita_mlp.py": _presets.PEPITA_PUBLISHED,
        "foton_mlp.py": _presets.FOTON_PUBLISHED,
        "feedback_mlp.py": _presets.FEEDBACK_PUBLISHED,
    }
    found = presets.get(script, {}).get(name or "", {})
    return {key: value for key, value in found.items() if key not in ("bp", "preset")}


def finished(folder: Path) -> bool:
    """Whether the folder holds all of its run."""
    try:
        return bool(json.loads((folder / "summary.json").read_text(encoding="utf-8"))["finished"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


UNITS = {"test_accuracy": "%", "epochs": "passes"}
"""Of published numbers, in result folders."""


def publish(run: Run, source: str, folder: Path) -> None:
    """Write the published numbers into the row's folder, beside the measured ones, and the page that shows both."""
    path = folder / "summary.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    before = json.dumps(content)
    for summary in content["rules"]:
        beside = [own for own in run.cells if own.rule == summary["rule"] and own.metric in UNITS]
        if beside:
            summary["published"] = [
                {"metric": own.metric, "value": own.value, "sd": own.sd, "n": own.n, "unit": UNITS[own.metric]}
                | {"source": source + (f"; {own.note}" if own.note else "")}
                for own in beside
            ]
    if json.dumps(content) != before:
        results.write_json(path, content)
    try:
        results.write_text(folder / "report.html", report.html_report([folder]))
    except UsageError as error:  # the table does not need it
        print(f"warning: no report.html: {error}", file=sys.stderr)


def cell(run: Run, own: Cell, folder: Path | None, why: str | None, options: Options) -> dict[str, Any]:
    """One published number and what became of it in the folder, if there is one."""
    unit = "" if own.metric == "epochs" else " %"
    spread = "" if own.sd is None else f" ± {own.sd:g}"
    seeds = f"{own.n} distinct seed{'s' * (own.n != 1)}"
    record: dict[str, Any] = {
        "row": run.name,
        "rule": own.rule.upper(),
        "what": {"test_accuracy": "test %", "epochs": "epochs"}.get(own.metric, f"{own.metric} test %"),
        "published": f"{own.value:g}{spread}" + (f" ({seeds})" if own.repeated else ""),
        "measured": "-",
        "difference": "-",
        "outcome": "-" if options.list else f"not run: {why.split('. ')[0]}" if why else "not run",
        "why": why,
        "values": None,
        "statistics": None,
    }
    if folder is None:
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
    outcome = said.outcome + more.get(said.why or "", "") + (f"; published from {seeds}" if own.repeated else "")
    return record | {"outcome": outcome, "statistics": dataclasses.asdict(said)}


def _value(run: dict[str, Any], metric: str) -> float | None:
    if metric == "epochs":
        return float(run["epochs"])
    value = run["test_accuracy"] if metric == "test_accuracy" else run["readouts"].get(metric, {}).get("test_accuracy")
    return None if value is None else 100 * value


def tell(folder: Path, options: Options, table: Table, found: list[dict[str, Any]]) -> None:
    """Write what there is so far."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the folder {folder}: {error.strerror}; give a writable --output-dir") from error
    rows = [[record[name] for name in COLUMNS] for record in found]
    about = "Difference: measured minus published, 90 % interval. Reproduced: it lies within "
    about += f"{options.margin:g} points, of epochs within {2 * options.margin:g}."
    lines = [f"{options.table}: {table.source}", "", report.markdown_table(COLUMNS, rows), about, ""]
    lines += [table.left_out, ""] if table.left_out else []
    results.write_text(folder / "reproduction.md", "\n".join(lines))
    content = {
        "table": options.table,
        "source": table.source,
        "left_out": table.left_out,
        "margin": options.margin,
        "quick": options.quick,
        "cells": found,
    }
    results.write_json(folder / "reproduction.json", content | {"environment": results.environment()})


if __name__ == "__main__":
    sys.exit(_common.well_behaved(main))
