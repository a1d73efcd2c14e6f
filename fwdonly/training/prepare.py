"""From what a user gives to what the loop trains: checks, plans, and arrays on their devices."""

import dataclasses
import functools
import hashlib
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from .. import data as datasets
from ..base import TRACED
from ..errors import UsageError, one_line, short
from ..files import expanded
from ..surroundings import forked_from_jax, numerics
from . import memory, programs
from .images import Feeder
from .plan import PLACES, Plan, plans_of_stages, steps_per_epoch
from .programs import Lift, Setup, shapes_of
from .run import EXAMPLES, Arrays, Job, Run, Source, stages_of, start_scores

CHECKPOINT_FORMAT = 2
"""Version of what a checkpoint says beside its arrays."""


class Runs(NamedTuple):
    """The runs that train together, every array with their axis in front; none of a single run."""

    seeds: np.ndarray
    hyper: Mapping[str, np.ndarray]
    split: tuple[np.ndarray, np.ndarray]
    """Training and validation indices."""
    group: tuple[int, int, int] = (0, 1, 1)
    """First and last (not included) of these runs, and how many the sweep has in all."""


def values_of(hyper: Mapping[str, Any], count: int | None = None) -> dict[str, np.ndarray]:
    """One value per run of every hyperparameter, or one of each for a single run.

    Raises:
        UsageError: no mapping, another number of values, or something that is no number.
    """
    if not isinstance(hyper, Mapping):
        raise UsageError(f"hyper has numbers by name, such as {{'learning_rate': 0.01}}; got {hyper!r}")
    values: dict[str, Any] = {}
    for name, value in hyper.items():
        try:
            array = np.asarray(value, np.float32)
        except (TypeError, ValueError):
            raise UsageError(f"{name} must be a number, or one for each run; got {value!r}") from None
        if array.shape not in ((), (count,)):
            more = "" if count is None else f", or one for each of the {count} runs"
            raise UsageError(f"{name} has shape {array.shape}; give one number{more}")
        values[name] = array if count is None else np.broadcast_to(array, (count,))
    return values


class Placement(NamedTuple):
    """Where runs are computed."""

    how: Lift
    devices: int | None = None
    must_fit: bool = False
    """Refuse runs whose programs ask for more memory than there is."""


class Work(NamedTuple):
    """A training that can be compiled."""

    jobs: list[Job]
    """One per stage."""
    seeds: Any
    run: Run
    arrays: Arrays
    setup: Setup
    feeder: Feeder | None
    """Brings images that stay in host memory."""
    padding: int
    """Copies of the last run, so that every device has as many runs."""
    group: tuple[int, int, int]
    fingerprint: dict[str, Any]
    """By which a checkpoint knows its training."""
    must_fit: bool
    test: bool
    unequal: np.ndarray | None
    """The test labels, where classes are so unequal that accuracy alone misleads."""

    @property
    def plans(self) -> tuple[Plan, ...]:
        """One per stage."""
        return tuple(job.plan for job in self.jobs)

    @property
    def start(self) -> tuple[Any, Run, Arrays]:
        """The arguments with which the training begins."""
        return self.seeds, self.run, self.arrays

    @property
    def real(self) -> Any:
        """Selects the runs without the padding."""
        return slice(self.group[1] - self.group[0]) if self.padding else ...

    @property
    def rules(self) -> tuple[Any, ...]:
        """The stages' rules, built with the hyperparameters of the first run."""
        with jax.transfer_guard("allow"):  # a few numbers, also where the user forbids unseen transfers
            return stages_of(self.jobs[0].source, jax.tree.map(lambda a: jnp.asarray(a).ravel()[0], self.run.hyper))


def check_call(
    data: datasets.Dataset,
    plan: Plan | Sequence[Plan] | None,
    split: tuple[np.ndarray, np.ndarray] | None,
    checkpoint: str | Path | None,
) -> Path | None:
    """Refuse a training that cannot begin; returns the place of its checkpoint.

    Raises:
        UsageError: something that is no data set, plan, split or path, or a process in which JAX would wait for ever.
    """
    check_process()
    datasets.check_dataset(data)
    several = plan if isinstance(plan, list | tuple) else [plan]
    if not (plan is None or (several and all(isinstance(one, Plan) for one in several))):
        raise UsageError(f"a plan is a fwdonly.Plan, or a sequence with one for each stage; got {short(plan)[:60]}")
    if split is not None and not (isinstance(split, list | tuple) and len(split) == 2):
        raise UsageError("split is a pair, (training indices, validation indices); got something else")
    if split is not None and any(np.asarray(part).dtype.kind == "b" for part in split):
        raise UsageError("split is of indices, and this one of truth values; pass mask.nonzero()[0]")
    return None if checkpoint is None else expanded(checkpoint, "the checkpoint")


def check_process() -> None:
    """Refuse a process in which JAX would wait for ever.

    Raises:
        UsageError: it was forked from one that had used JAX.
    """
    if forked_from_jax():
        raise UsageError(
            "this process was forked from one that had used JAX, whose threads a fork does not copy; start it with "
            'multiprocessing.get_context("spawn")'
        )


def count_stages(source: Source, hyper: Mapping[str, Any]) -> int:
    """How many stages a rule has, or those that a maker makes of hyperparameters.

    Raises:
        UsageError: none, or a maker that takes other hyperparameters or needs the value of one.
    """
    if callable(source):
        try:
            inspect.signature(source).bind(**hyper)
        except TypeError as error:
            raise UsageError(f"hyper ({', '.join(hyper) or 'empty'}) does not fit the function: {error}") from None
    counts: list[int] = []
    shapes = {name: jax.ShapeDtypeStruct((), jax.dtypes.canonicalize_dtype(v.dtype)) for name, v in hyper.items()}
    try:
        with one_line():
            jax.eval_shape(lambda hyper: counts.append(len(stages_of(source, hyper))), shapes)
    except TRACED as error:
        raise UsageError(
            f"make_rule needs the value of {', '.join(hyper)}, which is known only when the program runs: hyper is for "
            "numbers such as learning rates; of a width or a choice make one sweep for each"
        ) from error
    if counts[0] == 0:
        raise UsageError("there is nothing to train: the sequence of stages is empty")
    return counts[0]


def prepare(
    source: Source,
    data: datasets.Dataset,
    plan: Plan | Sequence[Plan] | None,
    runs: Runs,
    placement: Placement,
    test: bool,
) -> Work:
    """Check everything that can be checked before a program is compiled, and bring the arrays to their devices.

    Raises:
        UsageError: data, split, plans or rules that do not fit together.
    """
    check_data(data, runs.split)
    count = count_stages(source, runs.hyper)
    check_split(runs.split, len(data.y_train))
    plans = plans_of_stages(plan, count)
    steps = plans[0].validate_every * steps_per_epoch(plans[0], runs.split[0].shape[-1])
    if plans[0].augment and data.x_train.ndim != 4:
        raise UsageError(f"augment crops images, and {data.name} has samples {data.x_train.shape[1:]}; leave it out")
    mean, sd = datasets.statistics(data, plans[0].normalise)
    programs.check_precision(plans[0].precision)
    mesh = None if placement.how == "single" else programs.mesh_of(len(runs.seeds), placement.devices)
    setup = Setup(placement.how, mesh, plans[0].precision)
    jobs = [Job(source, stage_plan, setup, stage, steps, mean, sd) for stage, stage_plan in enumerate(plans)]
    padding = 0 if placement.how == "single" else -len(runs.seeds) % setup.devices
    pad = functools.partial(pad_runs, padding)
    x, y, (train, val) = data.x_train, data.y_train, runs.split
    example = train[..., :: max(1, train.shape[-1] // EXAMPLES)][..., :EXAMPLES]
    feeder = None
    if is_streamed(plans[0], x):
        feeder = Feeder(x, y, pad(train), cast(int, plans[0].batch_size), setup)
        rows = np.unique(np.concatenate([example, val], axis=None))
        x, y = x[rows], y[rows]
        val, example = (np.searchsorted(rows, part).astype(np.int32) for part in (val, example))
    run = setup.place(jax.tree.map(pad, Run(*cast(Any, (train, val, example, dict(runs.hyper), None)))))
    tested = slice(None if test else 0)  # a search for settings does not even bring the test set to the device
    arrays = setup.share(Arrays(*cast(Any, (x, y, data.x_test[tested], data.y_test[tested]))))
    fingerprint = fingerprint_of(data, plans, runs, placement.how)
    work = Work(
        jobs, setup.place(pad(runs.seeds)), run, arrays, setup, feeder, padding, runs.group, fingerprint,
        placement.must_fit, test, data.y_test if test and data.unequal else None,
    )  # fmt: skip
    if any(plan.layer_accuracy for plan in plans) and not any(rule.layer_scores for rule in work.rules):
        raise UsageError(
            "layer_accuracy needs a rule whose layers have scores of their own, such as mf; leave it out, or train "
            "probes on the layers (fwdonly.measure.probe)"
        )
    with one_line():
        classes = shapes_of(start_scores, jobs[-1], *work.start).shape[-1]
    if classes != data.num_classes:
        raise UsageError(f"the rule scores {classes} classes and {data.name} has {data.num_classes}; set num_classes")
    return work


def is_streamed(plan: Plan, x: np.ndarray) -> bool:
    """Whether the training images stay in host memory: as the plan says, else where they take half of what is free."""
    if plan.stream is not None:
        return plan.stream
    free = memory.free_bytes()
    return plan.batch_size is not None and free is not None and x.nbytes > free / 2


def fingerprint_of(data: datasets.Dataset, plans: Sequence[Plan], runs: Runs, how: Lift) -> dict[str, Any]:
    """What a checkpoint must agree with."""
    parts = b"".join(np.ascontiguousarray(part).tobytes() for part in runs.split)
    return {
        "format": CHECKPOINT_FORMAT,
        "how": how,
        "split": hashlib.sha256(parts).hexdigest()[:16],
        "plan": [dataclasses.asdict(plan) | dict.fromkeys(PLACES) for plan in plans],
        "seeds": runs.seeds.tolist(),
        "hyper": {name: value.tolist() for name, value in sorted(runs.hyper.items())},
        "data": data.digest,
        "stages": len(plans),
        "numerics": numerics(),
    }


def check_data(data: datasets.Dataset, split: tuple[np.ndarray, np.ndarray]) -> None:
    """Refuse a split without images in one of its parts, and training images of one class.

    Raises:
        UsageError: one of these.
    """
    if 0 in (split[0].shape[-1], split[1].shape[-1]):
        raise UsageError(f"{data.name} needs images to train on and to validate; give a split that has both")
    check_classes(data, split[0])


def check_classes(data: datasets.Dataset, train: np.ndarray) -> None:
    """Refuse training images, by their indices (n,) or (runs, n), that are all of one class.

    Raises:
        UsageError: they are.
    """
    for indices in np.atleast_2d(train):
        y = data.y_train[indices[(indices >= 0) & (indices < len(data.y_train))]]
        if len(y) and (y == y[0]).all():
            raise UsageError(
                f"every training image of {data.name} has label {y[0]}; training needs images of at least two classes"
            )


def check_split(split: tuple[np.ndarray, np.ndarray], images: int) -> None:
    """Refuse indices outside the training images, and images that are used twice."""
    for train, val in zip(*map(np.atleast_2d, split), strict=True):
        both = np.concatenate([train, val])
        if both.min() < 0 or both.max() >= images:
            raise UsageError(
                f"a split index lies outside the training images 0..{images - 1}: {both.min()}..{both.max()}"
            )
        if len(np.unique(both)) != len(both):
            raise UsageError("the split uses an image twice; training and validation indices must all differ")


def pad_runs(padding: int, a: np.ndarray) -> np.ndarray:
    """Append copies of the last run, so that every device has as many runs; the loop ends the copies at once."""
    return np.concatenate([a, np.repeat(a[-1:], padding, axis=0)]) if padding else a
