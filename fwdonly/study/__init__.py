"""Studies: rules with their settings on the same data and seeds, trained, shared out, searched and recorded.

A study is a record (`Study`), which `run` trains into a result folder. Nothing here prints tables or draws:
`fwdonly.cli` hands `run` a function that does. Needs the extra ``experiments``.
"""

from . import costs, design, fields, folder, optimizers, processes, published, rules, terminal
from .design import Arm, Data, Machine, Measuring, Output, Runs, Study, make_arm
from .execute import check_machine, keep_programs, prepare, run, split_of, turns
from .fields import Field, declared
from .folder import Contents, Wanted
from .protocols import Protocol
from .records import metric_rows, power_rows, summarise
from .rules import NAMES, Rule, load
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
    "keep_programs",
    "load",
    "make_arm",
    "metric_rows",
    "optimizers",
    "power_rows",
    "prepare",
    "processes",
    "published",
    "rules",
    "run",
    "split_of",
    "summarise",
    "terminal",
    "turns",
]
