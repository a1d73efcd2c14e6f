"""The weights of a study's runs as files that `fwdonly.load` reads: written when a run is done, the best by default."""

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .. import results
from ..base import LearningRule
from ..data import Dataset, Preprocessing, preprocessing
from ..errors import UsageError
from ..surroundings import numerics
from ..training import Result, arrays_of
from .design import Arm
from .folder import Contents
from .records import last_stage

METRICS = ("val_accuracy", "val_loss", "test_accuracy", "test_loss", "epochs", "kept_epoch")
"""Numbers of a run that its model carries."""


def model_path(folder: Path, rule: str, seed: int | str) -> Path:
    """The file of a run's model in a result folder."""
    return folder / f"model-{rule}-{seed}.safetensors"


def best_seed(summaries: Sequence[results.Summary], rule: str) -> int | None:
    """The run with the highest validation accuracy, of equal ones the lower loss, then the lower seed."""
    runs = [run for s in summaries if s["rule"] == rule and s["finished"] for run in s["runs"]]
    sound = [run for run in runs if not run["diverged"] and run["val_accuracy"] is not None]
    worst = float("inf")
    rank = {run["seed"]: (-run["val_accuracy"], worst if run["val_loss"] is None else run["val_loss"]) for run in sound}
    return min(rank, key=lambda seed: (rank[seed], seed), default=None)


def keep_models(
    contents: Contents,
    arm: Arm,
    stages: Sequence[LearningRule],
    dataset: Dataset,
    trained: tuple[Sequence[int], Result],
) -> None:
    """Write the models of runs that have just been ``trained``, (seeds, their result), as far as they are wanted.

    The contents have these runs already. Of the best one alone, an earlier best is removed when its better is written.

    Raises:
        UsageError: the folder cannot be written.
    """
    (seeds, result), folder, which = trained, contents.folder, contents.wanted.models
    best = best_seed(contents.summaries, arm.name)
    wanted = {"all": set(seeds), "best": {best}, "none": set()}[which]
    for at, seed in enumerate(seeds):
        if seed in wanted and not result.diverged[at]:
            rule = stages[last_stage(result, at)]
            try:
                saved = saved_run(arm, rule, dataset, (seed, at), result)
            except UsageError as error:  # the numbers are more than the weights
                print(f"note: no model of {arm.name}, seed {seed}, is kept: {error}", file=sys.stderr, flush=True)
                return
            results.write_model(model_path(folder, arm.name, seed), saved)
    if which == "best":
        drop_others(folder, arm.name, best)


def note_runs_without(contents: Contents, folder: Path) -> None:
    """Say of which finished runs no model will be there: those of earlier starts that kept none."""
    which, without = contents.wanted.models, []
    for summary in contents.summaries if which != "none" else ():
        rule = summary["rule"]
        finished = {run["seed"] for run in summary["runs"] if summary["finished"] and not run["diverged"]}
        there = {seed for seed in finished if model_path(folder, rule, seed).exists()}
        missing = finished - there if which == "all" else finished if not there else set()
        without += [f"{rule} (seed {', '.join(map(str, sorted(missing)))})"] if missing else []
    if without:
        print(
            f"note: runs that were trained before kept no models, and get none now: {'; '.join(without)}; for models "
            "train them anew in another --output-dir",
            file=sys.stderr,
            flush=True,
        )


def drop_others(folder: Path, rule: str, best: int | None) -> None:
    """Remove the rule's models but that of one seed, once that one is there."""
    if best is None or not model_path(folder, rule, best).exists():
        return
    for path in folder.glob(f"model-{rule}-*.safetensors"):
        if path.stem.removeprefix(f"model-{rule}-").isdigit() and path != model_path(folder, rule, best):
            path.unlink(missing_ok=True)


def take_models(part: Path, folder: Path) -> None:
    """Move the models of one process's part to the folder of all."""
    for path in part.glob("model-*.safetensors"):
        with contextlib.suppress(FileNotFoundError):  # another process joins the same parts
            os.replace(path, folder / path.name)


def saved_run(arm: Arm, rule: LearningRule, dataset: Dataset, run: tuple[int, int], result: Result) -> results.Saved:
    """The record of one run of a rule, ``run`` being (its seed, its place in the result).

    Raises:
        UsageError: a state that no file can hold.
    """
    seed, at = run
    inputs = preprocessing(dataset, arm.plan.normalise)
    state = jax.tree.map(lambda leaf: np.asarray(leaf)[at], result.state)
    files = {"rule": arm.rule.digest, "network": arm.net.digest()}
    net = arm.net._replace(kind=Path(arm.net.kind).name) if arm.net.function else arm.net
    name = arm.name if arm.rule.path is None else f"{arm.rule.path.name}:{arm.rule.name}"
    return saved_of(
        inputs,
        arrays_of(rule, state, inputs.shape),
        dataset,
        rule=name,
        options=arm.options,
        network=str(net),
        files={kind: digest for kind, digest in files.items() if digest},
        stage=last_stage(result, at),
        seed=int(seed),
        settings=arm.settings() | {"net": str(net)},
        metrics={name: _number(getattr(result, name)[at]) for name in METRICS},
    )


def saved_of(inputs: Preprocessing, state: dict[str, np.ndarray], dataset: Dataset, **more: Any) -> results.Saved:
    """A record with what every model has: preprocessing, data and versions."""
    return results.Saved(
        preprocessing=inputs.as_json(),
        data={"name": dataset.name, "digest": dataset.digest},
        versions=numerics(),
        mean=np.asarray(inputs.mean),
        sd=np.asarray(inputs.sd),
        state=state,
        **more,
    )


def _number(value: Any) -> float | int | None:
    number = np.asarray(value).item()
    return number if np.isfinite(number) else None
