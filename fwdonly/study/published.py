"""Published settings by rule and name, read from ``presets/*.toml``: one file per paper."""

import functools
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import UsageError

FOLDER = Path(__file__).parent / "presets"


class Preset(NamedTuple):
    """Settings of a rule as a paper or its code has them."""

    source: str
    settings: dict[str, Any]
    """By the names of options; "net" is the network's specification."""
    against: dict[str, dict[str, Any]]
    """Settings of other rules beside it, by rule."""


@functools.cache
def presets() -> dict[str, dict[str, Preset]]:
    """All presets: rule -> name -> `Preset`."""
    by_rule: dict[str, dict[str, Preset]] = {}
    for path in sorted(FOLDER.glob("*.toml")):
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        source = content.pop("source")
        for rule, named in content.items():
            for name, settings in named.items():
                beside = {other: _plain(values) for other, values in settings.pop("against", {}).items()}
                by_rule.setdefault(rule, {})[name] = Preset(source, _plain(settings), beside)
    return by_rule


def preset(rule: str, name: str) -> Preset:
    """One preset.

    Raises:
        UsageError: the rule has no preset of that name.
    """
    known = presets().get(rule, {})
    if name not in known:
        there = f"its presets are {', '.join(known)}" if known else "it has no presets"
        raise UsageError(f"{rule} has no preset {name!r}; {there}")
    return known[name]


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """TOML has no None and no tuples."""
    changed = {name: None if value == "None" else value for name, value in settings.items()}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in changed.items()}


class Cell(NamedTuple):
    """A published number."""

    rule: str
    """As result files name it."""
    value: float
    sd: float | None = None
    """None where it is not known, or comes from one seed."""
    n: int | None = None
    """Number of different seeds; None where it is not known."""
    metric: str = "test_accuracy"
    """test_accuracy; epochs: passes over the data, all stages together; or the name of a further readout."""
    repeated: bool = False
    """There are more runs than different seeds."""
    note: str = ""
    """How the value differs from what is printed."""


class Row(NamedTuple):
    """A command of ours, and the published numbers beside it."""

    name: str
    command: str
    """The words after ``fwdonly``."""
    cells: tuple[Cell, ...]
    seeds: int = 10


class Table(NamedTuple):
    """A published table."""

    source: str
    rows: tuple[Row, ...]
    left_out: str = ""
    """What the source has and this table has not, and where the two differ in what they train."""


@functools.cache
def tables() -> dict[str, Table]:
    """The published tables by name, read from ``tables/*.toml``."""
    by_name = {}
    for path in sorted((FOLDER.parent / "tables").glob("*.toml")):
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        rows = [Row(**row | {"cells": tuple(Cell(**cell) for cell in row["cells"])}) for row in content["runs"]]
        by_name[path.stem] = Table(content["source"], tuple(rows), content.get("left_out", ""))
    return by_name
