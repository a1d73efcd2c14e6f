"""Many runs for one question: what a training gave, as records for the files of a result folder."""

from .records import metric_rows, power_rows, summarise

__all__ = [
    "metric_rows",
    "power_rows",
    "summarise",
]
