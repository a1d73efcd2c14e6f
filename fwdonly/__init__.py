"""fwdonly: backpropagation-free learning rules for JAX, and the experiments that measure them."""

from types import ModuleType

from . import bp, cafo, cwc, data, ff, mf, nets, report
from .base import Batch, LearningRule, UsageError
from .sweep import sweep
from .train import Plan, Progress, Result, fit

RULES: dict[str, ModuleType] = {"bp": bp, "mf": mf, "ff": ff, "cafo": cafo, "cwc": cwc}
"""Every learning rule by the name that scripts and result files use."""

__version__ = "0.1.0"

__all__ = [
    "RULES",
    "Batch",
    "LearningRule",
    "Plan",
    "Progress",
    "Result",
    "UsageError",
    "bp",
    "cafo",
    "cwc",
    "data",
    "ff",
    "fit",
    "mf",
    "nets",
    "report",
    "sweep",
]
