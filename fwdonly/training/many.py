"""Train many runs, seeds and numeric hyperparameters together, as one compiled program."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, SupportsIndex

import jax
import numpy as np
from jaxtyping import Array

from .. import data as datasets
from ..base import LearningRule
from ..errors import UsageError, check_seeds
from ..measure import Meter
from . import checkpoint as checkpoints
from .host import Hooks, callbacks_of
from .interrupts import Interrupted
from .line import line
from .loop import train
from .memory import DoesNotFit, MemoryWarning
from .plan import Plan
from .prepare import Placement, Runs, check_call, prepare, values_of
from .result import Callback, Progress, Result, join_groups


def sweep(
    make_rule: Callable[..., LearningRule | Sequence[LearningRule]],
    data: datasets.Dataset,
    plan: Plan | Sequence[Plan] | None = None,
    *,
    seeds: Sequence[SupportsIndex] | np.ndarray | Array,
    hyper: Mapping[str, float | Sequence[float] | np.ndarray | Array] | None = None,
    split: tuple[np.ndarray, np.ndarray] | None = None,
    how: Literal["auto", "vmap", "map"] = "auto",
    callback: Callback | Sequence[Callback] | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    meter: Meter | None = None,
    test: bool = True,
    devices: int | None = None,
    at_once: int | None = None,
    repeats: bool = False,
    progress: bool | None = None,
) -> Result:
    """Train one run per entry of ``seeds``, each with its own numeric hyperparameters.

    A run's numbers equal those of `fwdonly.fit` with the same seed: bit for bit with "map", to rounding with "vmap" and
    where one of them keeps the features of frozen layers and the other one does not (`Plan.cache_gb`).
    A run that stops early, or diverges, is frozen while the others go on; with "map" it then costs nothing.

    The runs are spread over the devices of this process, and each trains where it lies: nothing is communicated, and
    its numbers do not depend on how many devices there are ("map": bit for bit). Runs that do not fit into the devices'
    memory together train in groups, one group after another. Under ``jax.distributed`` every process trains the runs
    that it is given.

    Args:
        make_rule: called with ``hyper`` as keywords, inside the compiled program, once per run; returns a rule or its
            stages. Passing the same function again, whatever the values, compiles nothing new.
        data: images and labels, from `fwdonly.data.load`.
        plan: lengths, stopping and preprocessing; default `Plan()`. One for every stage, where they differ.
        seeds: one per run, integers as for `fwdonly.fit`. For a grid, repeat them: seeds [0, 1, 0, 1], learning rates
            [a, a, b, b].
        hyper: numbers by name, each one value for all runs or one per run.
        split: (training indices, validation indices), of shape (n,) for all runs or (runs, n); default
            `fwdonly.data.split`, the same for all.
        how: "vmap" trains all runs at once, "map" one after another within each chunk; "auto" is "map" on a CPU and
            "vmap" elsewhere.
        callback: as for `fwdonly.fit`; arrays in `Progress` have one entry per run of the group under way.
        checkpoint: as for `fwdonly.fit`; the second group and those that follow have files of their own beside it,
            ``NAME.FIRST.npz`` by the position of their first run.
        resume: as for `fwdonly.fit`; the number of devices may be another one.
        meter: as for `fwdonly.fit`; its reading is of all runs together. Of runs in several groups there is none.
        test: as for `fwdonly.fit`.
        devices: how many of this process's devices to use; default all, but no more than there are runs. All must be
            of one kind. Where their number does not divide that of the runs, the last ones idle in part.
        at_once: runs that train together, whatever the compiled programs say they need. Default: all, or as many as the
            memory that they ask for allows (`Result.run_bytes` for each). Where memory runs out after all, half of
            them, with a `MemoryWarning`. For every group of another size the programs are compiled again.
        repeats: train equal runs, of one seed, hyperparameters and split. They are one run that would be counted twice,
            and refused otherwise.
        progress: as for `fwdonly.fit`.

    Returns:
        A `Result` whose arrays have a leading axis over runs.

    Raises:
        UsageError: no seeds, seeds out of range, equal runs, hyperparameters that fit neither all runs nor each, more
            devices than there are or devices of different kinds, a single run too large for the memory, and whatever
            `fwdonly.fit` raises.

    Example:
        >>> import fwdonly, optax
        >>> digits, net = fwdonly.data.load("digits"), fwdonly.nets.mlp([32])
        >>> make = lambda learning_rate: fwdonly.mf.rule(net, optax.adam(learning_rate), num_classes=10)
        >>> plan = fwdonly.Plan(epochs=2, batch_size=32)
        >>> fwdonly.sweep(make, digits, plan, seeds=[0, 1], hyper={"learning_rate": [1e-3, 3e-3]}).test_accuracy.shape
        (2,)
    """
    place = check_call(data, plan, split, checkpoint)
    numbers = check_seeds(seeds)
    count = len(numbers)
    if how not in ("auto", "vmap", "map"):
        raise UsageError(f"how is 'auto', 'vmap' or 'map'; got {how!r}")
    if at_once is not None and at_once < 1:
        raise UsageError(f"at_once must be at least 1; got {at_once}")
    train_indices, val_indices = (
        np.broadcast_to(part, (count, np.shape(part)[-1])).astype(np.int32)
        for part in (datasets.split(data) if split is None else split)
    )
    both = train_indices, val_indices
    runs = Runs(np.asarray(numbers, np.uint32), values_of(hyper or {}, count), both)
    if not repeats:
        check_runs(runs)
    lifted = how if how != "auto" else ("map" if jax.default_backend() == "cpu" else "vmap")

    def group(first: int, size: int, placement: Placement, hooks: Hooks) -> Result:
        members = jax.tree.map(lambda a: a[first : first + size], runs[:3])
        work = prepare(make_rule, data, plan, Runs(*members, (first, first + size, count)), placement, test)
        return train(work, hooks)

    with line(progress) as shown:
        hooks = Hooks((*callbacks_of(callback), *shown), place, resume, meter)
        return train_groups(group, runs, at_once, Placement(lifted, devices), hooks)


def check_runs(runs: Runs) -> None:
    """Refuse runs that are equal: they would be counted as several draws.

    Raises:
        UsageError: two are.
    """
    seen: dict[Any, int] = {}
    for at, seed in enumerate(runs.seeds.tolist()):
        identity = (
            seed,
            *(value[at].tobytes() for value in runs.hyper.values()),
            *(part[at].tobytes() for part in runs.split),
        )
        first = seen.setdefault(identity, at)
        if first != at:
            raise UsageError(
                f"runs {first} and {at} are equal, with seed {seed}; give each its own seed, hyperparameters or split, "
                "or repeats=True"
            )


def train_groups(
    group: Callable[..., Result], runs: Runs, at_once: int | None, placement: Placement, hooks: Hooks
) -> Result:
    """Train groups of runs one after another, as large as memory allows; ``group(first, size, placement, hooks)``."""
    stops: list[bool] = []

    def watched(callback: Callback) -> Callback:
        def call(progress: Progress) -> bool | np.ndarray | None:
            answer = callback(progress)
            stops.append(not isinstance(answer, np.ndarray) and bool(answer))
            return answer

        return call

    groups: list[Result] = []
    count = len(runs.seeds)
    first, most = 0, min(at_once or count, count)
    while first < count:
        path = None if hooks.checkpoint is None else path_of(hooks.checkpoint, first)
        going_on = path is not None and hooks.resume and path.exists()
        size = min(saved_runs(path) if going_on else most, count - first)
        group_hooks = hooks._replace(callbacks=tuple(map(watched, hooks.callbacks)), checkpoint=path, resume=going_on)
        # What was asked for, and what has been saved, is tried, whatever is said of its size.
        must_fit = at_once is None and not going_on
        try:
            groups.append(group(first, size, placement._replace(must_fit=must_fit), group_hooks))
        except KeyboardInterrupt as stop:
            groups += [stop.result] if isinstance(stop, Interrupted) else []
            if not groups:
                raise
            raise Interrupted(joined(groups, runs)) from None
        except DoesNotFit as error:
            most = error.runs
            warn(f"{size} runs at once would not fit into the device's memory; training {most} at a time")
        except jax.errors.JaxRuntimeError as error:
            most = smaller(size, error)
            begun = " from their start" if going_on else ""
            if path is not None:
                path.unlink(missing_ok=True)
            warn(f"{size} runs at once do not fit into the device's memory; going on with {most}{begun}")
        else:
            first += size
            if not groups[-1].finished or any(stops):  # asked at the end of a group, too
                break
    return joined(groups, runs)


def joined(groups: list[Result], runs: Runs) -> Result:
    """The result of all runs."""
    whole = len(groups) == 1 and len(groups[0].epochs) >= len(runs.seeds)
    return groups[0] if whole else join_groups(groups, runs.seeds, runs.hyper)


def smaller(size: int, error: jax.errors.JaxRuntimeError) -> int:
    """Half of a group that ran out of memory.

    Raises:
        UsageError: a single run did.
    """
    if "RESOURCE_EXHAUSTED" not in str(error):
        raise error
    if size == 1:
        words = str(error).splitlines()[0]
        raise UsageError(
            f"a single run does not fit into the device's memory ({words}); use a smaller batch or network, or fewer "
            "chunk_steps where images are streamed"
        ) from None
    return -(-size // 2)


def warn(message: str) -> None:
    """Say that groups became smaller."""
    warnings.warn(message, MemoryWarning, stacklevel=4)


def path_of(checkpoint: str | Path, first: int) -> Path:
    """The checkpoint of the group that begins with run ``first``."""
    path = Path(checkpoint)
    return path if first == 0 else path.with_name(f"{path.stem}.{first}{path.suffix}")


def saved_runs(checkpoint: Path | None) -> int:
    """How many runs a group had when it was saved."""
    assert checkpoint is not None
    seeds = checkpoints.read_meta(checkpoint).get("fingerprint", {}).get("seeds", [])
    return max(1, len(seeds)) if isinstance(seeds, list) else 1
