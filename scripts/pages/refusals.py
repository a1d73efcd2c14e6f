"""The page of bad inputs, from the table of them in the tests: ``python -m scripts.pages.refusals`` writes it."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "bad-inputs.md"

BAR = "\u2223"
"""In the place of a bar."""

HEAD = """# Bad inputs

What fwdonly refuses, door by door, with the line that it says. Every line is a `fwdonly.UsageError`. Commands print it
after `error:` and exit with code 2, see [exit codes](exit-codes.md). A line stands here from its beginning: some go on
with what to choose from. `HERE` is a folder of yours. The page is made from a table in the tests, which provoke each
line.
"""

DOORS = {
    "Dataset": "`data.Dataset`",
    "arrays": "`data.from_arrays`",
    "data by name": "`data.load` and `--dataset`",
    "npz": "An .npz file",
    "csv": "A table: `csv:PATH#target=COLUMN`",
    "folder": "A folder of images: `folder:PATH`",
    "network by its words": "A network by its words: `--net`",
    "network": "A network: `nets.mlp` and others",
    "foreign block": "Blocks of your own",
    "rule": "A rule and its options",
    "optimizer": "An optimizer",
    "update": "`rule.update`",
    "rule.predict": "`rule.predict`",
    "Plan": "`Plan`",
    "fit": "`fit`",
    "sweep": "`sweep`",
    "tune": "`tune`",
    "Result": "`Result`",
    "save and load": "Model files: `save` and `load`",
    "loggers": "Loggers: `--log`",
}
"""Titles of the doors, in the order of the page."""


def page(doors: dict[str, dict[str, Any]]) -> str:
    """The Markdown of the page; ``doors`` have cases by name, each with its ``line``."""
    return "\n".join([HEAD, *(line for door, title in DOORS.items() for line in _section(title, doors[door]))])


def _section(title: str, cases: dict[str, Any]) -> Iterator[str]:
    yield from (f"## {title}", "", "| input | line |", "|---|---|")
    for name, case in cases.items():
        yield f"| {_cell(name)} | {_code(case.line)} |"
    yield ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|") or "nothing"


def _code(line: str) -> str:
    """A line as code; a bar would end the cell of the table."""
    fence, text = "``" if "`" in line else "`", line.strip().replace("|", BAR)
    return f"{fence}{text}{fence}"


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "tests" / "cli"))
    from test_bad_inputs import DOORS as PROVOKED  # ty: ignore[import-not-found]

    PAGE.write_text(page(PROVOKED))
    print(PAGE.relative_to(ROOT))
