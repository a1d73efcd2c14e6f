"""The claims of the field as data, and their verdicts from committed result files. Nothing here trains, or imports JAX."""

from .evidence import Evidence, Values, gather, root
from .registry import LEVEL, MEASURES, Claim, Measure, Published, Side, find, registry
from .verdicts import Verdict, answer, by_tests, decide, family_size, judge, planned, sensitivity, sentence

__all__ = [
    "LEVEL",
    "MEASURES",
    "Claim",
    "Evidence",
    "Measure",
    "Published",
    "Side",
    "Values",
    "Verdict",
    "answer",
    "by_tests",
    "decide",
    "family_size",
    "find",
    "gather",
    "judge",
    "planned",
    "registry",
    "root",
    "sensitivity",
    "sentence",
]
