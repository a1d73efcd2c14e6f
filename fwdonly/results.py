"""Result files: what trainings gave as plain JSON and CSV, written whole or not at all, and read back.

A result folder holds ``config.json``, ``summary.json``, ``metrics.csv``, ``table.md`` and ``learning_curves.png``, and
where power was measured ``power.csv`` and ``power.png``. Missing numbers are null or empty cells, never 0.
"""

import csv
import json
import math
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .errors import UsageError
from .measure import Intensity, Reading
from .train import Result

Summary = dict[str, Any]
"""One rule's results as JSON: ``rule``, ``runs`` (one record per seed), seconds, and whether it finished."""

METRIC_COLUMNS = ["rule", "seed", "stage", "epoch", "train_loss", "val_loss", "val_accuracy", "layer_loss"]

POWER_COLUMNS = ["rule", "seed", "seconds", "device", "watts", "mark"]


def summarise(
    rule: str, seeds: Sequence[int], result: Result, intensity: Intensity | None = None, processes: int = 1
) -> Summary:
    """A rule's `Result` over several seeds as plain JSON types: one record per seed, in the order of ``seeds``.

    A run that was trained alone has its own energy and seconds: ``train_seconds``, ``kept_seconds`` (until the state
    that was kept) and ``target_seconds``. Runs of a sweep are not timed one by one: ``train_seconds_share`` is a run's
    share of the wall clock in proportion to its epochs, and energy is not shared out. ``intensity`` adds CO2e. Every
    run has the `machine` of this process, since an experiment may be continued on another one, and how many
    ``processes`` worked side by side, perhaps on that machine.
    """
    alone = len(seeds) == 1
    energy = None if result.energy is None else _energy(result.energy, intensity)
    where = machine()
    total = max(int(result.epochs.sum()), 1)
    runs = []
    for i, seed in enumerate(seeds):
        trained, stages = int(result.epochs[i]), _stage_epochs(result, i)
        last = max((at for at, epochs in enumerate(stages) if epochs), default=0)
        kept = sum(stages[:last]) + int(result.kept_epoch[i])
        runs.append(
            {
                "seed": int(seed),
                "val_accuracy": _number(result.val_accuracy[i]),
                "val_loss": _number(result.val_loss[i]),
                "test_accuracy": _number(result.test_accuracy[i]),
                "test_loss": _number(result.test_loss[i]),
                "epochs": trained,
                "stage_epochs": stages,
                "kept_epoch": int(result.kept_epoch[i]),
                "target_epoch": int(result.target_epoch[i]) or None,
                "train_seconds_share": result.train_seconds * trained / total,
                "train_seconds": result.train_seconds if alone else None,
                "kept_seconds": _seconds_at(result, kept) if alone and result.kept_epoch[i] else None,
                "target_seconds": _seconds_at(result, int(result.target_epoch[i])) if alone else None,
                "energy": energy if alone else None,
                "diverged": bool(result.diverged[i]),
                "machine": where,
                "processes": processes,
                "readouts": {
                    name: {metric: _number(values[i]) for metric, values in found.items()}
                    for name, found in result.readouts.items()
                },
            }
        )
    return {
        "rule": rule,
        "finished": result.finished,
        "compile_seconds": result.compile_seconds,
        "train_seconds": result.train_seconds,
        "energy": energy,
        "precision": result.precision,
        "run_bytes": result.run_bytes,
        "streamed": result.streamed,
        "runs": runs,
    }


def join(summaries: Sequence[Summary]) -> Summary:
    """One rule's summary from those of parts of its runs."""
    last = summaries[-1]
    runs = sorted((run for summary in summaries for run in summary["runs"]), key=lambda run: run["seed"])
    seconds = {name: sum(summary[name] for summary in summaries) for name in ("compile_seconds", "train_seconds")}
    finished = all(summary["finished"] for summary in summaries)
    energy = last["energy"] if len(summaries) == 1 else None  # of the runs apart
    return last | seconds | {"finished": finished, "energy": energy, "runs": runs}


def _stage_epochs(result: Result, run: int) -> list[int]:
    """Epochs that a run trained, of every stage."""
    found: dict[int, int] = {}
    for at in range(len(result.history.get("epoch", ()))):
        stage = int(result.history["stage"][at])
        found.setdefault(stage, 0)
        if np.ravel(result.history["trained"][at])[run]:
            found[stage] = int(result.history["epoch"][at])
    return list(found.values())


def _seconds_at(result: Result, epoch: int) -> float | None:
    """The clock of a single run's training at the validation after this epoch, of all stages."""
    ends = np.cumsum([0, *_stage_epochs(result, 0)])
    for stage, of_stage, seconds in zip(
        *(result.history.get(n, ()) for n in ("stage", "epoch", "seconds")), strict=True
    ):
        if epoch and ends[stage] + of_stage == epoch:
            return float(seconds)
    return None


def _energy(reading: Reading, intensity: Intensity | None) -> dict[str, Any]:
    more = {} if intensity is None else {"co2e": reading.carbon(intensity).as_json()}
    return json.loads(json.dumps(reading.as_json() | more))  # as it comes back from the file: lists for tuples


def metric_rows(rule: str, seeds: Sequence[int], result: Result) -> list[dict[str, Any]]:
    """The history as one row per epoch and seed, for ``metrics.csv``; epochs a stopped run did not train are left out.

    A value per layer becomes one cell, joined with spaces; what a rule measures besides gets columns of its own. A run
    trained alone has the seconds of its training clock.
    """
    history, rows = result.history, []
    plain = {*METRIC_COLUMNS[:-1], "trained", "seconds"}
    for at in range(len(history.get("epoch", ()))):
        for i, seed in enumerate(seeds):
            if not history["trained"][at][i]:
                continue
            own = {name: np.ravel(column[at][i]) for name, column in history.items() if name not in plain}
            clock = {"seconds": round(float(history["seconds"][at]), 3)} if len(seeds) == 1 else {}
            rows.append(
                {
                    "rule": rule,
                    "seed": int(seed),
                    "stage": int(history["stage"][at]),
                    "epoch": int(history["epoch"][at]),
                    **{name: _number(history[name][at][i]) for name in ("train_loss", "val_loss", "val_accuracy")},
                    "layer_loss": "",
                    **{name: " ".join(f"{value:.6g}" for value in values) for name, values in own.items()},
                    **clock,
                }
            )
    return rows


def environment() -> dict[str, Any]:
    """The software and hardware of this process, as far as it can be read; unknown entries are None."""
    device = jax.devices()[0]
    names = ("fwdonly", "jax", "jaxlib", "flax", "optax", "numpy")
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in names},
        "git_commit": _git_commit(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "backend": jax.default_backend(),
        "device": device.device_kind,
        "devices": len(jax.devices()),
        "xla_flags": os.environ.get("XLA_FLAGS"),
        "matmul_precision": str(getattr(jax.config, "jax_default_matmul_precision", None)),
    }


def machine() -> str:
    """What seconds and energies of this process depend on, in short: "AMD EPYC, 2 cores, cpu, jax 0.10.2"."""
    found = environment()
    cores = f"{found['cores'] or 'unknown'} cores"
    return ", ".join([found["cpu"] or "unknown CPU", cores, found["device"], f"jax {found['packages']['jax']}"])


def write_json(path: Path, content: Any) -> None:
    """Write JSON whole or not at all; NaN is refused.

    Raises:
        UsageError: the file cannot be written.
    """
    _write(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_metrics(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write ``metrics.csv``; a missing number is an empty cell.

    Raises:
        UsageError: the file cannot be written.
    """
    write_rows(path, METRIC_COLUMNS, rows)


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
    """Write a CSV whole or not at all; columns that only rows have come last, a missing number is an empty cell.

    Raises:
        UsageError: the file cannot be written.
    """
    temporary = path.with_name(path.name + ".part")
    rows = list(rows)
    columns = list(dict.fromkeys([*columns, *(name for row in rows for name in row)]))
    try:
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(rows)
        os.replace(temporary, path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}; choose a writable folder") from error


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a ``metrics.csv``; of `METRIC_COLUMNS` numbers as numbers, missing ones as NaN; others as text."""
    with open(path, newline="", encoding="utf-8") as file:
        return [
            {
                name: value
                if name in ("rule", "layer_loss") or name not in METRIC_COLUMNS
                else int(value)
                if name in ("seed", "stage", "epoch")
                else float(value or "nan")
                for name, value in row.items()
            }
            for row in csv.DictReader(file)
        ]


def power_rows(rule: str, seeds: Sequence[int], result: Result) -> list[dict[str, Any]]:
    """The power trace as rows for ``power.csv``: W of every device over seconds, idle power (no seconds), and marks.

    A run trained alone has its seed, and seconds from its own beginning; seeds trained together have one trace and no
    seed.
    """
    reading = result.energy
    if reading is None or not any(part.trace for part in reading.parts):
        return []
    of = {"rule": rule, "seed": int(seeds[0]) if len(seeds) == 1 else None}
    rows: list[dict[str, Any]] = []
    for part in reading.parts:
        own = of | {"device": part.name}
        rows += [own | {"seconds": round(at, 4), "watts": round(watts, 3), "mark": ""} for at, watts in part.trace]
        if part.idle.value is not None:
            rows.append(own | {"seconds": None, "watts": round(part.idle.value, 3), "mark": "idle"})
    return rows + [
        of | {"device": "", "seconds": round(at, 4), "watts": None, "mark": name} for at, name in reading.marks
    ]


def read_power(path: Path) -> list[dict[str, Any]]:
    """The rows of a ``power.csv``; missing numbers as None, and seeds where the file is of before it had them."""
    with open(path, newline="", encoding="utf-8") as file:
        return [
            row
            | {"seed": int(row["seed"]) if row.get("seed") else None}
            | {name: float(row[name]) if row[name] else None for name in ("seconds", "watts")}
            for row in csv.DictReader(file)
        ]


def statistics_of(summary: Summary) -> dict[str, Any]:
    """Mean and sample sd (n - 1; None for one run) over the runs that finished and did not diverge."""
    counted = [run for run in summary["runs"] if run["test_accuracy"] is not None]
    out: dict[str, Any] = {"n": len(counted), "diverged": sum(run["diverged"] for run in summary["runs"])}
    columns = {name: [run[name] for run in counted] for name in ("val_accuracy", "test_accuracy", "epochs")}
    for name in {name: None for run in counted for name in run.get("readouts", {})}:
        columns[f"{name}_test_accuracy"] = [run["readouts"][name]["test_accuracy"] for run in counted]
    for name, values in columns.items():
        out[name] = {
            "mean": statistics.fmean(values) if values else None,
            "sd": statistics.stdev(values) if len(values) > 1 else None,
        }
    return out


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all.

    Raises:
        UsageError: the file cannot be written.
    """
    _write(path, text)


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".part")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}; choose a writable folder") from error


def _number(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    here = Path(__file__).parents[1]
    if not (here / ".git").exists():  # an installed wheel; the repository around it, if any, is somebody else's
        return None
    try:
        out = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return out.stdout.strip()


def _cpu() -> str | None:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or None
