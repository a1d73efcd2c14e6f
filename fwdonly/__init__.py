"""fwdonly: backpropagation-free learning rules for JAX, and the experiments that measure them."""

import importlib
from types import ModuleType
from typing import Any

from . import (
    bp,
    cafo,
    cwc,
    data,
    feedback,
    ff,
    foton,
    measure,
    mf,
    nets,
    pepita,
    report,
    results,
    tune,
)
from .base import Batch, LearningRule
from .errors import UsageError
from .measure import Meter, Quantity, alignment
from .report import stats
from .training import Plan, Progress, Result, fit, sweep

RULES: dict[str, ModuleType] = {
    "bp": bp,
    "mf": mf,
    "ff": ff,
    "cafo": cafo,
    "cwc": cwc,
    "pepita": pepita,
    "foton": foton,
    "feedback": feedback,
}
"""Every learning rule by the name that scripts and result files use."""

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Load `fwdonly.study` when it is asked for: it needs the extra ``experiments``."""
    if name == "study":
        return importlib.import_module(".study", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "RULES",
    "Batch",
    "LearningRule",
    "Meter",
    "Plan",
    "Progress",
    "Quantity",
    "Result",
    "UsageError",
    "alignment",
    "bp",
    "cafo",
    "cwc",
    "data",
    "feedback",
    "ff",
    "fit",
    "foton",
    "measure",
    "mf",
    "nets",
    "pepita",
    "report",
    "results",
    "stats",
    "study",
    "sweep",
    "tune",
]
