"""fwdonly: backpropagation-free learning rules for JAX, and the experiments that measure them."""

from types import ModuleType

from . import (
    bp,
    cafo,
    cost,
    cwc,
    data,
    energy,
    feedback,
    ff,
    figures,
    foton,
    mf,
    nets,
    opinions,
    pepita,
    report,
    results,
    stats,
    tune,
)
from .alignment import alignment
from .base import Batch, LearningRule, UsageError
from .energy import Meter
from .quantity import Quantity
from .sweep import sweep
from .train import Plan, Progress, Result, fit

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
    "cost",
    "cwc",
    "data",
    "energy",
    "feedback",
    "ff",
    "figures",
    "fit",
    "foton",
    "mf",
    "nets",
    "opinions",
    "pepita",
    "report",
    "results",
    "stats",
    "sweep",
    "tune",
]
