"""Studies that the same command continues: what is finished is not repeated, what is foreign is left alone."""

import dataclasses
import json
import sys
from pathlib import Path

import jax

from ..errors import UsageError, first_difference
from ..study import Arm, Study, run
from ..study import folder as folders
from . import tell

QUICK = {"epochs": 3, "seeds": 3}
"""Length of runs that show nothing but that all runs."""


def quick(study: Study) -> Study:
    """The study with few epochs, and on embedded images instead of MNIST."""
    epochs = QUICK["epochs"]
    short = {"epochs": epochs, "validate_every": 1}
    arms = [
        _short(arm.changed(short | ({"block_epochs": epochs} if arm.options.get("blocks") == "dfa" else {})))
        for arm in study.arms
    ]
    if study.data.dataset == "mnist":
        study = dataclasses.replace(study, data=dataclasses.replace(study.data, dataset="mnist5k", split="fixed"))
    return dataclasses.replace(study, arms=tuple(arms))


def _short(arm: Arm) -> Arm:
    """The arm with few epochs in those stages, too, to which a protocol has given a length."""
    limit = lambda plan: (
        plan if plan.get("epochs") is None else {**plan, "epochs": min(plan["epochs"], QUICK["epochs"])}
    )
    return dataclasses.replace(arm, stages=tuple(map(limit, arm.stages)))


def run_row(study: Study, folder: Path) -> str | None:
    """Run a study, or what is left of it; why there is nothing to show, if so."""
    if finished(folder):
        return None
    output = dataclasses.replace(study.output, resume=(folder / "config.json").exists())
    try:
        done = run(dataclasses.replace(study, output=output), tell.render)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return str(error)
    finally:
        jax.clear_caches()  # the programs of a row serve no other one
    return None if done.contents.finished else "interrupted"


def foreign(study: Study, folder: Path) -> str:
    """How the run that a folder holds differs from this one; empty if it does not, or the folder holds nothing."""
    try:
        if not folder.exists() or not folders.holds_something(folder):
            return ""
        there = json.loads((folder / "config.json").read_text(encoding="utf-8"))["configuration"]["rules"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "no config.json says which"
    return first_difference(there, json.loads(json.dumps(study.settings())))


def finished(folder: Path) -> bool:
    """Whether the folder holds all of its run."""
    try:
        return bool(json.loads((folder / "summary.json").read_text(encoding="utf-8"))["finished"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
