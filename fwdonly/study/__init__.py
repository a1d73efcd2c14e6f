"""Studies: rules with their settings on the same data and seeds, trained, shared out, searched and recorded.

A study is a record (`Study`), which `run` trains into a result folder. Nothing here prints tables or draws:
`fwdonly.cli` hands `run` a function that does. Needs the extra ``experiments``.
"""

from . import costs, design, fields, folder, inventory, optimizers, processes, published, rules, terminal
from .design import Arm, Data, Machine, Measuring, Output, Runs, Study, make_arm
from .execute import check_machine, keep_programs, prepare, run, split_of, turns
from .fields import Field, declared
from .folder import Contents, Wanted
from .protocols import Protocol
from .records import last_stage, metric_rows, power_rows, summarise
from .rules import NAMES, Rule, load
from .saving import model_path, saved_of
from .sharing import Outcome, Work

__all__ = [
    "NAMES",
    "Arm",
    "Contents",
    "Data",
    "Field",
    "Machine",
    "Measuring",
    "Outcome",
    "Output",
    "Protocol",
    "Rule",
    "Runs",
    "Study",
    "Wanted",
    "Work",
    "check_machine",
    "costs",
    "declared",
    "design",
    "fields",
    "folder",
    "inventory",
    "keep_programs",
    "last_stage",
    "load",
    "make_arm",
    "metric_rows",
    "model_path",
    "optimizers",
    "power_rows",
    "prepare",
    "processes",
    "published",
    "rules",
    "run",
    "saved_of",
    "split_of",
    "summarise",
    "terminal",
    "turns",
]
