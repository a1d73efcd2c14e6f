"""The result folder of a study: looked into, described, and read back where a run was interrupted."""

import contextlib
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from .. import results
from ..data import Dataset
from ..errors import DAMAGE, UsageError, first_difference, short, words_of
from ..files import PART, is_empty, make_folder, sync_folder
from .terminal import noted

VERSION = 3
"""Version of a result folder. Files without a version are 1; up to 2 the configuration names no switches."""

LOCK = ".lock"
"""Ends the names of files that keep other launches out of a folder."""


def claim(study: str, dataset: Dataset) -> Path:
    """Make a result folder of a default name that nobody else has, on whatever machine and in the same second.

    Raises:
        UsageError: it cannot be made.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S")
    base = Path("results") / f"{study}-{dataset.name.replace(':', '-').replace('/', '-')}-{stamp}"
    make(base.parent)
    for number in itertools.count(1):
        folder = base if number == 1 else base.with_name(f"{base.name}-{number}")
        try:
            folder.mkdir()  # one process alone can
            sync_folder(folder.parent)
            return folder
        except FileExistsError:
            continue
        except OSError as error:
            raise _cannot_make(folder, error) from error
    raise AssertionError


def give_up(folder: Path) -> None:
    """Remove a claimed folder in which nothing was written."""
    with contextlib.suppress(OSError):
        folder.rmdir()


def holds_something(folder: Path) -> bool:
    """Whether a folder holds more than locks, and files that a death left half written or empty."""
    left = (LOCK, PART)
    return any(
        path.suffix not in left and not (path.name == "config.json" and is_empty(path)) for path in folder.iterdir()
    )


def look_into(folder: Path, config: dict[str, Any], *, resume: bool) -> None:
    """Refuse a result folder that holds something else. It may not be there yet: then ``resume`` begins the run."""
    try:
        there = folder.exists()
        if there and not folder.is_dir():
            raise UsageError(f"{folder} is a file; give another --output-dir")
        filled = there and holds_something(folder)
    except OSError as error:
        raise UsageError(f"cannot look into {folder}: {error.strerror}; give another --output-dir") from error
    if not filled:
        return
    path = folder / "config.json"
    if not path.exists():
        raise UsageError(f"{folder} is not empty and not a result folder; give another --output-dir")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        configuration, version = content["configuration"], content.get("version", 1)
    except (OSError, *DAMAGE) as error:
        raise UsageError(f"{path} is damaged ({words_of(error)}); give another --output-dir") from error
    if version != VERSION:
        raise UsageError(
            f"{folder} has files of version {short(version)}, and this fwdonly writes version {VERSION}; "
            "reports read it, but to train more give another --output-dir"
        )
    difference = first_difference(configuration, config)
    if difference:
        raise UsageError(
            f"{folder} holds another configuration ({difference}); repeat it, or give another --output-dir"
        )
    if not resume:
        raise UsageError(f"{folder} already holds this run; add --resume to continue it, or give another --output-dir")


def make(folder: Path) -> Path:
    """Make a result folder, if it is not there."""
    try:
        make_folder(folder)
    except OSError as error:
        raise _cannot_make(folder, error) from error
    return folder


def _cannot_make(folder: Path, error: OSError) -> UsageError:
    return UsageError(f"cannot make the folder {folder}: {error.strerror}; give a writable --output-dir")


def describe(folder: Path, config: dict[str, Any], dataset: Dataset, command: str) -> None:
    """Say in the folder what it is, if it does not yet."""
    if is_empty(folder / "config.json"):
        opened = {"version": VERSION, "configuration": config, "command": command}
        results.write_json(folder / "config.json", opened | {"data_source": dataset.source})


def agree(folder: Path, config: dict[str, Any]) -> None:
    """Refuse a process whose configuration differs from those of the processes beside it.

    Each process writes its own configuration first, and then reads the others. So the later of two sees the earlier.

    Raises:
        UsageError: its settings, switches or versions differ.
    """
    for path in [folder / "config.json", *sorted(folder.glob("part-*/config.json"))]:
        try:
            configuration = json.loads(path.read_text(encoding="utf-8"))["configuration"]
        except OSError:  # not there yet, or joined in the meantime
            continue
        except DAMAGE as error:
            raise UsageError(f"{path} is damaged ({words_of(error)}); give another --output-dir") from error
        difference = first_difference(configuration, config)
        if difference:
            raise UsageError(f"{path} is of a process that trains otherwise ({difference}); start all of them alike")


class Wanted(NamedTuple):
    """What a study is to leave in its folder."""

    config: dict[str, Any]
    protocol: dict[str, Any] | None
    rules: list[str]
    seeds: list[int]
    classes: int | None = None
    """How many classes the data has."""
    models: Literal["best", "all", "none"] = "best"
    """Runs of every rule whose weights are kept."""


class Contents:
    """What a result folder holds of a study: read back where a run was interrupted, and added to."""

    def __init__(self, folder: Path, wanted: Wanted) -> None:
        self.folder, self.wanted, self.heading = folder, wanted, ""
        self.summaries: list[results.Summary] = []
        self.rows: list[dict[str, Any]] = []
        self.powers: list[dict[str, Any]] = []
        self.predictions: results.Predictions | None = None
        if is_empty(folder / "summary.json"):
            return
        try:
            content = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
            results.check_summary(content, wanted.rules)
            self.summaries = content["rules"]
            self.powers = results.read_power(folder / "power.csv") if (folder / "power.csv").exists() else []
            self.rows = results.read_metrics(folder / "metrics.csv")
            path = folder / "predictions.npz"  # not there in folders of before it, nor without finished runs
            self.predictions = results.read_predictions(path) if path.exists() else None
        except (OSError, *DAMAGE) as error:
            raise UsageError(
                f"the results in {folder} are damaged ({words_of(error)}); give another --output-dir"
            ) from error

    def has(self, rule: str, seed: int) -> bool:
        """Whether this run of the rule is finished."""
        return any(
            run["seed"] == seed for s in self.summaries if s["rule"] == rule and s["finished"] for run in s["runs"]
        )

    def take_in(self, other: "Contents") -> None:
        """Add the finished runs of another one."""
        for summary in other.summaries:
            if summary["finished"]:
                of_rule = [
                    [row for row in rows if row["rule"] == summary["rule"]] for rows in (other.rows, other.powers)
                ]
                self.add(summary, *of_rule, other.predictions)

    def add(
        self,
        summary: results.Summary,
        rows: list[dict[str, Any]],
        powers: list[dict[str, Any]],
        predictions: results.Predictions | None = None,
    ) -> None:
        """Take in runs, in the place of unfinished ones of the same rule."""
        rule, new = summary["rule"], {run["seed"] for run in summary["runs"]}
        before = [s for s in self.summaries if s["rule"] == rule and s["finished"]]
        if before and not summary["finished"]:
            return  # what is begun does not undo what is done; its checkpoint has it
        before = [s | {"runs": [run for run in s["runs"] if run["seed"] not in new]} for s in before]
        before = [s for s in before if s["runs"]]
        others = [s for s in self.summaries if s["rule"] != rule]
        self.summaries = sorted(
            [*others, results.join([*before, summary])], key=lambda s: self.wanted.rules.index(s["rule"])
        )
        self.rows = [row for row in self.rows if row["rule"] != rule or row["seed"] not in new] + rows
        self.rows.sort(key=lambda row: self.wanted.rules.index(row["rule"]))
        old = [row for row in self.powers if row["rule"] != rule or (before and row["seed"] not in new)]
        self.powers = old + powers
        held = {} if self.predictions is None else self.predictions.runs
        runs = {key: classes for key, classes in held.items() if key[0] != rule or (before and key[1] not in new)}
        if predictions is not None:
            runs |= {key: classes for key, classes in predictions.runs.items() if key[0] == rule and key[1] in new}
        known = predictions or self.predictions
        self.predictions = None if known is None else results.Predictions(known.labels, runs)

    @property
    def finished(self) -> bool:
        """Whether every rule has every seed."""
        return all(self.has(rule, seed) for rule in self.wanted.rules for seed in self.wanted.seeds)

    def write(self, render: "Render | None" = None) -> None:
        """Write the result files of what there is so far, then what ``render`` makes of them: it may fail."""
        if self.powers:
            results.write_rows(self.folder / "power.csv", results.POWER_COLUMNS, self.powers)
        results.write_metrics(self.folder / "metrics.csv", self.rows)
        if self.predictions is not None:
            results.write_predictions(self.folder / "predictions.npz", self.predictions)
        content: dict[str, Any] = {"version": VERSION, "finished": self.finished, "title": self.heading}
        content |= {"data": self.wanted.config["data"] | {"classes": self.wanted.classes}}
        content |= {"protocol": self.wanted.protocol} if self.wanted.protocol else {}
        content |= {"rules": self.summaries}
        content["statistics"] = {summary["rule"]: results.statistics_of(summary) for summary in self.summaries}
        # After the rows: a rule that this file calls finished has them.
        results.write_json(self.folder / "summary.json", content | {"environment": results.environment()})
        if render is not None:
            with noted(f"tables and figures of {self.folder}"):
                render(self)


Render = Callable[[Contents], None]
"""Makes tables and figures in the folder of what it is given."""
