"""fwdonly: backpropagation-free learning rules for JAX, and the experiments that measure them.

Names are loaded when they are first used, so that ``import fwdonly.report`` loads no JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

from . import surroundings as _surroundings  # noqa: F401 (it notes forks from now on)

if TYPE_CHECKING:
    from . import (
        bp,
        cafo,
        cwc,
        data,
        deeperforward,
        feedback,
        ff,
        forward_gradient,
        foton,
        loggers,
        measure,
        mf,
        models,
        nets,
        pepita,
        phyll,
        report,
        results,
        scff,
        study,
        training,
        tune,
        zeroth_order,
    )
    from .base import Batch, LearningRule, RuleModule
    from .descent import by_layer
    from .errors import UsageError
    from .measure import Meter, Quantity, alignment
    from .models import load, save
    from .report import stats
    from .training import Interrupted, Plan, Progress, Result, fit, sweep

    RULES: dict[str, RuleModule]

__version__ = "0.1.0"

_RULES = ("bp", "mf", "ff", "cafo", "cwc", "deeperforward", "pepita", "foton", "feedback", "forward_gradient")
_RULES += ("zeroth_order", "phyll", "scff")
_ROOMS = (*_RULES, "data", "loggers", "measure", "models", "nets", "report", "results", "study", "training", "tune")
_NAMES = {
    "Batch": "base",
    "Interrupted": "training",
    "LearningRule": "base",
    "Meter": "measure",
    "Plan": "training",
    "Progress": "training",
    "Quantity": "measure",
    "Result": "training",
    "UsageError": "errors",
    "alignment": "measure",
    "by_layer": "descent",
    "fit": "training",
    "load": "models",
    "save": "models",
    "stats": "report",
    "sweep": "training",
}
"""Names with the module that has each."""

__all__ = [
    "RULES",
    "Batch",
    "Interrupted",
    "LearningRule",
    "Meter",
    "Plan",
    "Progress",
    "Quantity",
    "Result",
    "UsageError",
    "alignment",
    "bp",
    "by_layer",
    "cafo",
    "cwc",
    "data",
    "deeperforward",
    "feedback",
    "ff",
    "fit",
    "forward_gradient",
    "foton",
    "load",
    "loggers",
    "measure",
    "mf",
    "models",
    "nets",
    "pepita",
    "phyll",
    "report",
    "results",
    "save",
    "scff",
    "stats",
    "study",
    "sweep",
    "training",
    "tune",
    "zeroth_order",
]


def __getattr__(name: str) -> Any:
    """Load a name, and keep it."""
    if name == "RULES":
        value: Any = {rule: importlib.import_module(f".{rule}", __name__) for rule in _RULES}
    elif name in _ROOMS:
        value = importlib.import_module(f".{name}", __name__)
    elif name in _NAMES:
        value = getattr(importlib.import_module(f".{_NAMES[name]}", __name__), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
