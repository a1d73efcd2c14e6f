"""Result folders: what trainings gave as plain JSON and CSV, written whole or not at all, and read back.

A result folder holds ``config.json``, ``summary.json``, ``metrics.csv``, ``predictions.npz``, ``table.md`` and
``learning_curves.png``, and where power was measured ``power.csv`` and ``power.png``. Missing numbers are null or empty
cells, never 0.
"""

from .files import (
    METRIC_COLUMNS,
    POWER_COLUMNS,
    Predictions,
    Summary,
    join,
    read_metrics,
    read_power,
    read_predictions,
    statistics_of,
    write_json,
    write_metrics,
    write_predictions,
    write_rows,
    write_text,
)
from .machines import environment, machine
from .models import CONSTANTS, Saved, damaged, read_model, write_model
from .schema import check_summary
from .tensors import DTYPES, HEADER_LIMIT, Tensors, read_tensors, write_tensors

__all__ = [
    "CONSTANTS",
    "DTYPES",
    "HEADER_LIMIT",
    "METRIC_COLUMNS",
    "POWER_COLUMNS",
    "Predictions",
    "Saved",
    "Summary",
    "Tensors",
    "check_summary",
    "damaged",
    "environment",
    "join",
    "machine",
    "read_metrics",
    "read_model",
    "read_power",
    "read_predictions",
    "read_tensors",
    "statistics_of",
    "write_json",
    "write_metrics",
    "write_model",
    "write_predictions",
    "write_rows",
    "write_tensors",
    "write_text",
]
