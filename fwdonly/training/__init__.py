"""The training loop: compiled chunks of steps under a host loop that evaluates, stops early, reports and resumes.

One loop serves every rule, a single run (`fit`) and many runs at once (`sweep`). A *run* is one seed with one set of
numeric hyperparameters; what happens within a run is written for one run alone and lifted over many.
"""

from . import checkpoint, memory, programs
from .images import grain
from .interrupts import SIGNALS, Interrupted, interruptible
from .line import clock, describe, position
from .many import sweep
from .memory import DoesNotFit, MemoryWarning, free_bytes, tree_bytes
from .plan import Plan, steps_per_epoch
from .prepare import check_classes
from .programs import Programs, Setup, check_precision, mesh_of
from .result import Callback, Progress, Result
from .single import fit
from .states import arrays_of, state_of

__all__ = [
    "SIGNALS",
    "Callback",
    "DoesNotFit",
    "Interrupted",
    "MemoryWarning",
    "Plan",
    "Programs",
    "Progress",
    "Result",
    "Setup",
    "arrays_of",
    "check_classes",
    "check_precision",
    "checkpoint",
    "clock",
    "describe",
    "fit",
    "free_bytes",
    "grain",
    "interruptible",
    "memory",
    "mesh_of",
    "position",
    "programs",
    "state_of",
    "steps_per_epoch",
    "sweep",
    "tree_bytes",
]
