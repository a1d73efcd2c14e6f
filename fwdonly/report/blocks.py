"""The blocks of a report: headings, text, lists, tables, figures and facts."""

from collections.abc import Sequence
from typing import NamedTuple


class Heading(NamedTuple):
    """Level 1 is the title."""

    level: int
    text: str


class Text(NamedTuple):
    """A paragraph; ``kind`` is "", "note" (small) or "warning"."""

    text: str
    kind: str = ""


class Items(NamedTuple):
    """A list."""

    items: Sequence[str]
    kind: str = ""


class Table(NamedTuple):
    """Cells of several lines have the number first, and words about it after it.

    ``looks`` numbers the rows' rules, for the markers in the first column; ``strong`` are rows to set off.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    looks: Sequence[int] = ()
    strong: Sequence[int] = ()


class Figures(NamedTuple):
    """Inline SVG side by side, as (caption, SVG), with one legend: (look, rule)."""

    figures: Sequence[tuple[str, str]]
    legend: Sequence[tuple[int, str]]


class Facts(NamedTuple):
    """Names and values."""

    facts: Sequence[tuple[str, str]]


Block = Heading | Text | Items | Table | Figures | Facts
