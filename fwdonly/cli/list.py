"""``fwdonly list``: rules, networks, data sets, published settings and tables."""

import sys
from collections.abc import Sequence

from .. import data
from ..errors import UsageError
from ..nets import Spec
from ..report import print_table
from ..study import published, rules

TOPICS = ("rules", "nets", "data", "presets", "tables")


def main(words: Sequence[str], command_line: Sequence[str], prog: str = "fwdonly list") -> int:
    """Print one topic, or all; the exit code."""
    del command_line
    if {"-h", "--help"} & set(words):
        print(f"usage: {prog} [{'|'.join(TOPICS)}]\n\nList what commands know; all topics without a name.")
        return 0
    for topic in words:
        if topic not in TOPICS:
            raise UsageError(f"there is nothing to list called {topic!r}; choose {', '.join(TOPICS)}")
    for topic in words or TOPICS:
        globals()[f"_{topic}"]()
    return 0


def _rules() -> None:
    records = [rules.load(name) for name in rules.NAMES]
    lines = [[rule.name, rule.label, str(rule.module.CARD.net)] for rule in records]
    print_table("rules, and FILE.py for your own", ["name", "label", "default network"], lines)


def _nets() -> None:
    print(sys.modules[Spec.__module__].__doc__)


def _data() -> None:
    print(f"data sets: {', '.join(data.KNOWN)}, tfds:NAME, or NAME for NAME.npz in the data directory")
    print("your own: FILE.npz, folder:PATH (a sub-folder of images per class), csv:PATH#target=COLUMN, hf:NAME,")
    print("or FILE.py:FUNCTION, whose FUNCTION() returns a fwdonly.data.Dataset")


def _presets() -> None:
    lines = [
        [rule, name, preset.source] for rule, named in published.presets().items() for name, preset in named.items()
    ]
    print_table("published settings: fwdonly train RULE --preset NAME", ["rule", "name", "source"], lines, words=3)


def _tables() -> None:
    lines = [[name, table.source] for name, table in published.tables().items()]
    print_table("published tables: fwdonly reproduce NAME", ["name", "source"], lines, words=2)
