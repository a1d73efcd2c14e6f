"""Result files: plain JSON and CSV, written whole or not at all, and read back.

A result folder holds ``config.json``, ``summary.json``, ``metrics.csv``, ``predictions.npz``, ``table.md`` and
``learning_curves.png``, and where power was measured ``power.csv`` and ``power.png``. Missing numbers are null or empty
cells, never 0.
"""

import csv
import io
import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import UsageError
from ..files import open_arrays, readable, write_whole
from .schema import number_in

Summary = dict[str, Any]
"""One rule's results as JSON: ``rule``, ``runs`` (one record per seed), seconds, and whether it finished."""
METRIC_COLUMNS = ["rule", "seed", "stage", "epoch", "train_loss", "val_loss", "val_accuracy", "layer_loss"]
POWER_COLUMNS = ["rule", "seed", "seconds", "device", "watts", "mark"]


class Predictions(NamedTuple):
    """Predicted classes of the test images by (rule, seed), and the right ones; (images,) each, uint8 or uint16."""

    labels: np.ndarray
    runs: dict[tuple[str, int], np.ndarray]


def join(summaries: Sequence[Summary]) -> Summary:
    """One rule's summary from those of parts of its runs."""
    last = summaries[-1]
    runs = sorted((run for summary in summaries for run in summary["runs"]), key=lambda run: run["seed"])
    names = [name for name in ("compile_seconds", "train_seconds", "validation_seconds") if name in last]
    seconds = {name: sum(summary[name] for summary in summaries) for name in names}
    finished = all(summary["finished"] for summary in summaries)
    energy = last["energy"] if len(summaries) == 1 else None  # of the runs apart
    return last | seconds | {"finished": finished, "energy": energy, "runs": runs}


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
    rows = list(rows)
    columns = list(dict.fromkeys([*columns, *(name for row in rows for name in row)]))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="")
    writer.writeheader()
    writer.writerows(rows)
    _write(path, text.getvalue())


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a ``metrics.csv``; of `METRIC_COLUMNS` numbers as numbers, missing ones as NaN; others as text."""
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if missing := [name for name in METRIC_COLUMNS if name not in (reader.fieldnames or ())]:
            raise ValueError(f"it has no column {missing[0]}")
        return [
            {
                name: value
                if name in ("rule", "layer_loss") or name not in METRIC_COLUMNS
                else int(value)
                if name in ("seed", "stage", "epoch")
                else number_in(value)
                for name, value in row.items()
            }
            for row in reader
        ]


def read_power(path: Path) -> list[dict[str, Any]]:
    """The rows of a ``power.csv``; missing numbers are None, and so are seeds in older files."""
    with open(path, newline="", encoding="utf-8") as file:
        return [
            row
            | {"seed": int(row["seed"]) if row.get("seed") else None}
            | {name: number_in(row[name]) if row[name] else None for name in ("seconds", "watts")}
            for row in csv.DictReader(file)
        ]


def statistics_of(summary: Summary) -> dict[str, Any]:
    """Mean and sample sd (n - 1; None for one run) over the runs that finished and did not diverge."""
    counted = [run for run in summary["runs"] if run["test_accuracy"] is not None]
    out: dict[str, Any] = {"n": len(counted), "diverged": sum(run["diverged"] for run in summary["runs"])}
    columns = {name: [run[name] for run in counted] for name in ("val_accuracy", "test_accuracy", "epochs")}
    if balanced := [run["test_balanced_accuracy"] for run in counted if "test_balanced_accuracy" in run]:
        columns["test_balanced_accuracy"] = balanced
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


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Write ``predictions.npz``: ``labels``, and an array ``RULE/SEED`` for every run.

    Raises:
        UsageError: the file cannot be written.
    """
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {f"{rule}/{seed}": classes for (rule, seed), classes in predictions.runs.items()}
    np.savez_compressed(buffer, **arrays, **{"labels": predictions.labels})
    _write(path, buffer.getvalue())


def read_predictions(path: Path) -> Predictions:
    """The arrays of a ``predictions.npz``.

    Raises:
        ValueError: it is none.
    """
    with open_arrays(path) as archive:
        arrays = {name: archive[name] for name in archive.names}
    labels = arrays.pop("labels", None)
    names = {name: tuple(name.rpartition("/")[::2]) for name in arrays}
    if labels is None or not all(rule and seed.isdigit() for rule, seed in names.values()):
        raise ValueError("it lacks labels, or holds arrays that are not named RULE/SEED")
    if any(array.shape != labels.shape or array.dtype.kind != "u" for array in (labels, *arrays.values())):
        raise ValueError("its arrays are not one class for each test image")
    return Predictions(labels, {(rule, int(seed)): arrays[name] for name, (rule, seed) in names.items()})


def _write(path: Path, content: str | bytes) -> None:
    """Text as UTF-8, whatever the locale."""
    written = readable(content).encode() if isinstance(content, str) else content
    try:
        write_whole(path, lambda file: file.write(written))
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}; choose a writable folder") from error
