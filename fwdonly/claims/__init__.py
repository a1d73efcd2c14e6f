"""The claims of the field as data, and their verdicts from committed files. Nothing here trains, or imports JAX."""

from .evidence import Evidence, Values, gather, root
from .page import differing, facts, files, tally
from .registry import LEVEL, MEASURES, TUNED, Claim, Measure, Published, Side, all_claims, find
from .verdicts import (
    Verdict,
    answer,
    by_median,
    by_tests,
    corrected,
    decide,
    family_size,
    judge,
    missing_pairs,
    planned,
    sensitivity,
    sentence,
    tested,
)

__all__ = [
    "LEVEL",
    "MEASURES",
    "TUNED",
    "Claim",
    "Evidence",
    "Measure",
    "Published",
    "Side",
    "Values",
    "Verdict",
    "all_claims",
    "answer",
    "by_median",
    "by_tests",
    "corrected",
    "decide",
    "differing",
    "facts",
    "family_size",
    "files",
    "find",
    "gather",
    "judge",
    "missing_pairs",
    "planned",
    "root",
    "sensitivity",
    "sentence",
    "tally",
    "tested",
]
