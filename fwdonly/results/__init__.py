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
from .schema import check_summary

__all__ = [
    "METRIC_COLUMNS",
    "POWER_COLUMNS",
    "Predictions",
    "Summary",
    "check_summary",
    "environment",
    "join",
    "machine",
    "read_metrics",
    "read_power",
    "read_predictions",
    "statistics_of",
    "write_json",
    "write_metrics",
    "write_predictions",
    "write_rows",
    "write_text",
]
