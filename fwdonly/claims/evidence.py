"""The committed result files of a claim, as values by seed. A file of other data is refused, however it is named."""

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import DAMAGE, UsageError, words_of
from ..report import SHORTEST
from .registry import Claim, Side


class Values(NamedTuple):
    """One side: a value by seed, or None where a run has none."""

    by_seed: dict[int, float | int | None]
    diverged: frozenset[int] = frozenset()
    """Seeds of runs that diverged."""


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What the files of a claim say.

    Attributes:
        ours, theirs: values by seed.
        weak: reasons why nothing is decided by these runs, whatever the numbers are.
        sources: a line for each file: its name, commit, versions and machine.
    """

    ours: Values
    theirs: Values | None
    weak: tuple[str, ...]
    sources: tuple[str, ...]


def root() -> Path:
    """The folder below which the files of claims lie: the repository, or the copy in an installed package."""
    packed = Path(__file__).parent / "results"
    return packed if packed.is_dir() else Path(__file__).parents[2]


def gather(claim: Claim, folder: Path) -> Evidence | None:
    """The runs of a claim; None where a side has no file.

    Raises:
        UsageError: a file is missing or damaged, or holds another data set or protocol, a seed twice, or a run without
            the measure; or the two sides have different data or networks, or a computed number is none above 0.
    """
    sides = [claim.ours, *([claim.theirs] if claim.theirs else [])]
    if not all(side.files for side in sides):
        return None
    contents = {name: _read(folder / name) for side in sides for name in side.files}
    try:
        values = [_values(claim, side, contents) for side in sides]
        _check_alike(claim, sides, contents)
        if claim.what.computed:
            _check_numbers(claim, sides, values)
        weak = _weak(claim, sides, contents)
        sources = tuple(source(name, content) for name, content in contents.items())
    except UsageError:
        raise
    except DAMAGE as error:
        raise UsageError(f"the files of {claim.id} are no result files ({words_of(error)})") from error
    return Evidence(values[0], values[1] if claim.theirs else None, weak, sources)


def _check_alike(claim: Claim, sides: Iterable[Side], contents: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse files of other images or networks than the others, and of another protocol than the claim's."""
    digests = {c["data"]["digest"] for c in contents.values() if "data" in c}
    if len(digests) > 1:
        raise UsageError(f"the files of {claim.id} hold different data; runs are paired on the same images alone")
    records = [_record(side, contents[name]) for side in sides for name in side.files if side.rows is None]
    networks = dict.fromkeys(record["network"] for record in records if record.get("network") is not None)
    if len(networks) > 1:
        raise UsageError(f"the files of {claim.id} hold different networks: {', '.join(networks)}")
    for name, content in contents.items():
        there = (content.get("protocol") or {}).get("name", claim.protocol)
        if there != claim.protocol:
            raise UsageError(f"{name} has the protocol {there}, and {claim.id} is about {claim.protocol}")


def _check_numbers(claim: Claim, sides: Iterable[Side], values: Iterable[Values]) -> None:
    """Refuse what is no computed number: one of each side, above 0."""
    for side, known in zip(sides, values, strict=True):
        numbers = list(known.by_seed.values())
        if len(numbers) != 1 or numbers[0] is None or not 0 < numbers[0] < math.inf:
            words = ", ".join(map(str, numbers))
            raise UsageError(f"{claim.id} compares one number above 0 with another, and {side.rule} has {words}")


def source(name: str, content: Mapping[str, Any]) -> str:
    """A file, its commit, versions and machine in a line."""
    known = content["environment"]
    packages = known.get("packages") or {}
    device = known.get("device", "")
    machine = f"{known['cores']} cores of {known['cpu']}" if device in ("cpu", "") else str(device)
    commit = known.get("git_commit") or content.get("commit") or "unknown"
    return f"{name}: commit {commit}, jax {packages.get('jax')}, Python {known['python']}, {machine}"


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, *DAMAGE) as error:
        raise UsageError(f"{path} is named by a claim and cannot be read: {words_of(error)}") from error


def _values(claim: Claim, side: Side, contents: Mapping[str, Mapping[str, Any]]) -> Values:
    by_seed: dict[int, float | int | None] = {}
    diverged = set()
    for name in side.files:
        if side.rows is not None:
            pairs = _of_rows(claim, side.rows, contents[name])
        else:
            runs = _runs(claim, side, name, contents[name])
            diverged |= {run["seed"] for run in runs if run["diverged"]}
            pairs = [(run["seed"], _value(claim, name, run)) for run in runs]
        for seed, value in pairs:
            if type(seed) is not int:
                raise UsageError(f"{name} has the seed {seed!r} of {side.rule}, and a seed is a whole number")
            if seed in by_seed:
                raise UsageError(f"seed {seed} of {side.rule} is in two files of {claim.id}; name one of them")
            by_seed[seed] = value
    return Values(by_seed, frozenset(diverged))


def _runs(claim: Claim, side: Side, name: str, content: Mapping[str, Any]) -> list[dict[str, Any]]:
    there = content["data"]["name"]
    if there != claim.dataset:
        raise UsageError(f"{name} holds runs on {there}, and {claim.id} is about {claim.dataset}")
    record = _record(side, content)
    if record is None:
        raise UsageError(f"{name} holds no runs of {side.recorded}")
    return list(record["runs"])


def _record(side: Side, content: Mapping[str, Any]) -> Any:
    """A rule in a result file; None without it."""
    return next((record for record in content["rules"] if record["rule"] == side.recorded), None)


def _value(claim: Claim, name: str, run: Mapping[str, Any]) -> float | int | None:
    """The value of a run. None: it diverged, or has none; of a cost to a target, it missed the target.

    NaN: the run reached the target, and what it took is not known.
    """
    if run["diverged"]:
        return None
    whole, measure = run, claim.measure
    if measure in ("energy", "co2e"):
        whole = run["energy"] or {measure: None}  # None: not metered
    if measure not in whole:
        raise UsageError(f"{name} does not say {measure} of seed {run['seed']}, which {claim.id} is about")
    value = whole[measure]
    if isinstance(value, Mapping):
        value = value["value"]
    if value is None and measure == "target_seconds" and run["target_epoch"] is not None:
        return math.nan
    if value is None:
        return None
    if not math.isfinite(value):
        return math.nan
    return claim.what.factor * value


def _of_rows(
    claim: Claim, rows: Mapping[str, Any], content: Mapping[str, Any]
) -> Iterable[tuple[int, float | int | None]]:
    """Values of rows in a benchmark's file."""
    table: Any = content
    for name in rows["list"].split("."):
        table = table[name]
    kept = [row for row in table if all(row[name] == value for name, value in rows["where"].items())]
    if not kept:
        raise UsageError(f"no row of {claim.id}'s file is {rows['where']}")
    by = rows.get("by")
    values = [row[rows["value"]] for row in kept]
    scaled = [None if value is None else claim.what.factor * value for value in values]
    return [(row[by] if by else at, scaled[at]) for at, row in enumerate(kept)]


def _weak(claim: Claim, sides: Iterable[Side], contents: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """Why these runs decide nothing."""
    reasons = []
    timed = claim.measure in ("train_seconds", "target_seconds", "energy", "co2e")
    for side in sides:
        for name in side.files:
            if side.rows is not None:
                seconds = side.rows.get("seconds")
                if seconds is not None and seconds < SHORTEST:
                    reasons.append(f"windows of {seconds:g} s decide nothing, {SHORTEST:g} s are asked")
                continue
            record = _record(side, contents[name])
            if record.get("tuned") is False:
                reasons.append(f"{side.rule} was not tuned")
            if timed:
                known = [run.get("train_seconds") for run in record["runs"]]
                if not all(known):
                    reasons.append(f"seeds of {side.rule} were trained together, so none has seconds of its own")
                elif min(known) < SHORTEST:
                    reasons.append(f"a run of {side.rule} took under {SHORTEST:g} s")
    records = [record for content in contents.values() for record in content.get("rules", ())]
    if timed and len({run.get("machine") for record in records for run in record["runs"]}) > 1:
        reasons.append("the runs were made on different machines")
    return tuple(dict.fromkeys(reasons))
