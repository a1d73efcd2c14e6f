"""The claims of the field as records, read from ``records/*.toml``: what is claimed, and what decides it."""

import dataclasses
import functools
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ..errors import UsageError

FOLDER = Path(__file__).parent / "records"
LEVEL = 0.05
"""The level of a claim that is looked at once."""
TUNED = "DIR/"
"""Begins the places of searches in a claim's command."""


class Measure(NamedTuple):
    """A quantity of a run."""

    quantity: str
    unit: str
    relative: bool
    """Compared by ratios."""
    factor: float = 1.0
    """From result files to the unit."""
    computed: bool = False
    """A number of a program, the same for every seed: no test, the number decides."""


MEASURES = {
    "test_accuracy": Measure("accuracy", "points", False, 100.0),
    "val_loss": Measure("validation loss", "nats", True),
    "epochs": Measure("passes", "passes", True),
    "train_seconds": Measure("time", "s", True),
    "energy": Measure("energy", "J", True),
    "co2e": Measure("CO2e", "g", True),
    "arithmetic": Measure("arithmetic", "FLOP", True),
    "target_epoch": Measure("passes", "passes", True),
    "target_seconds": Measure("time", "s", True),
    "temporary_memory": Measure("memory", "MB", True, computed=True),
    "joules_per_pass": Measure("energy per pass", "J", True),
    "seconds_per_pass": Measure("time per pass", "s", True),
}


class Side(NamedTuple):
    """A rule, and the committed files with its runs."""

    rule: str
    files: tuple[str, ...] = ()
    """Result files, below the root of the repository."""
    rows: Mapping[str, Any] | None = None
    """In files of benchmarks: where the rows are ("list"), which ones ("where"), the columns of the value ("value") and
    of the pair ("by"), and where the seconds of a window are ("seconds")."""
    named: str = ""
    """How files call the rule, where that is not its name."""

    @property
    def recorded(self) -> str:
        """The rule as files call it."""
        return self.named or self.rule


class Published(NamedTuple):
    """The number of the source, in the unit of the measure; of two rules the difference, or the change in %."""

    value: float | int
    sd: float | int | None = None
    n: int | None = None
    low: float | int | None = None
    high: float | int | None = None
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Claim:
    """A sentence of the field, and what decides it. All of it is written before the runs.

    Attributes:
        id: a name for commands.
        sentence: what is claimed, of ``ours`` against ``theirs``.
        group: its heading on pages.
        source: where it is claimed.
        family: claims that are corrected together.
        kind: "more" or "less" of the measure, "equal" within the margin, or a "value" that is reproduced within it.
        measure: a name of `MEASURES`.
        ours: the rule that the sentence is about.
        theirs: the one that it is compared with; None for a value.
        dataset: as result files name it.
        network: its specification.
        protocol: one of compare's, or "as published".
        margin: the largest difference that does not matter, in points or %.
        seeds: how many are planned at the first look.
        looks: times that the runs may be looked at; each has an equal share of the level.
        sd: assumed of the paired differences (of a value: of the runs), in points or %.
        sd_source: where that comes from.
        command: the words after ``fwdonly``; empty where ``how`` says what makes the files. ``DIR/`` begins the
            folders of searches, which the user names.
        how: a command that is not ``fwdonly``'s.
        minutes: estimates for all planned seeds, "cpu" (two cores) and "gpu".
        needs: "gpu", or nothing.
        traps: what misleads.
        published: None where no number is known.
    """

    id: str
    sentence: str
    group: str
    source: str
    family: str
    kind: Literal["more", "less", "equal", "value"]
    measure: str
    ours: Side
    theirs: Side | None
    dataset: str
    network: str
    protocol: str
    margin: float | int
    seeds: int
    sd: float | int
    sd_source: str
    minutes: Mapping[str, float | int]
    traps: tuple[str, ...]
    command: str = ""
    how: str = ""
    looks: int = 1
    needs: str = ""
    published: Published | None = None

    @property
    def what(self) -> Measure:
        """What is measured."""
        return MEASURES[self.measure]

    @property
    def level(self) -> float:
        """The level of one look."""
        return LEVEL / self.looks

    @property
    def searches(self) -> tuple[str, ...]:
        """Names of the folders below ``DIR`` that hold the searches whose settings the command takes."""
        return tuple(word.removeprefix(TUNED) for word in self.command.split() if word.startswith(TUNED))

    @property
    def line(self) -> str:
        """What a user types to run it."""
        if not self.command:
            return self.how
        return f"fwdonly reproduce --claim {self.id}" + (" --tuned DIR" if self.searches else "")


@functools.cache
def all_claims() -> dict[str, Claim]:
    """All claims by id, in the order of the files and of the records in them."""
    known: dict[str, Claim] = {}
    for path in sorted(FOLDER.glob("*.toml")):
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        usual = content.pop("usual", {})
        for name, record in content.items():
            known[name] = _claim(name, usual | record)
    return known


def find(name: str) -> Claim:
    """One claim.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in all_claims():
        raise UsageError(f"there is no claim {name!r}; fwdonly claims lists them")
    return all_claims()[name]


def _claim(name: str, record: dict[str, Any]) -> Claim:
    sides = [_side(record.pop(side)) if record.get(side) else None for side in ("ours", "theirs")]
    record.pop("theirs", None)
    published = record.pop("published", None)
    changed: dict[str, Any] = {"traps": tuple(record.pop("traps", ()))}
    changed |= {"published": Published(**published) if published else None}
    claim = Claim(id=name, ours=sides[0] or Side(""), theirs=sides[1], **record | changed)
    assert claim.measure in MEASURES, f"{name}: unknown measure {claim.measure}"
    assert (claim.theirs is None) == (claim.kind == "value"), f"{name}: a value has one side, a comparison two"
    return claim


def _side(record: str | Mapping[str, Any]) -> Side:
    if isinstance(record, str):
        return Side(record)
    return Side(record["rule"], tuple(record.get("files", ())), record.get("rows"), record.get("named", ""))
