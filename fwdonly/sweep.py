"""Many runs, seeds and numeric hyperparameters together, as one compiled program."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Array

from . import checkpoint as checkpoints
from . import data as datasets
from .base import LearningRule
from .errors import UsageError
from .measure import Meter
from .train import Callback, DoesNotFit, Plan, Progress, Result, train


def sweep(
    make_rule: Callable[..., LearningRule | Sequence[LearningRule]],
    data: datasets.Dataset,
    plan: Plan | Sequence[Plan] | None = None,
    *,
    seeds: Sequence[int],
    hyper: Mapping[str, float | Sequence[float] | np.ndarray | Array] | None = None,
    split: tuple[np.ndarray, np.ndarray] | None = None,
    how: Literal["auto", "vmap", "map"] = "auto",
    callback: Callback | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    meter: Meter | None = None,
    test: bool = True,
    devices: int | None = None,
    at_once: int | None = None,
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
        seeds: one per run, 0 <= seed < 2**32. For a grid, repeat them: seeds [0, 1, 0, 1], learning rates [a, a, b, b].
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

    Returns:
        A `Result` whose arrays have a leading axis over runs.

    Raises:
        UsageError: no seeds, seeds out of range, hyperparameters that fit neither all runs nor each, more devices than
            there are or devices of different kinds, a single run too large for the memory, and whatever `fwdonly.fit`
            raises.

    Example:
        >>> import fwdonly, optax
        >>> digits, net = fwdonly.data.load("digits"), fwdonly.nets.mlp([32])
        >>> make = lambda learning_rate: fwdonly.mf.rule(net, optax.adam(learning_rate), num_classes=10)
        >>> plan = fwdonly.Plan(epochs=2, batch_size=32)
        >>> fwdonly.sweep(make, digits, plan, seeds=[0, 1], hyper={"learning_rate": [1e-3, 3e-3]}).test_accuracy.shape
        (2,)
    """
    runs = len(seeds)
    if runs == 0 or min(seeds) < 0 or max(seeds) >= 2**32:
        raise UsageError(
            f"a sweep needs at least one seed, each in 0..2**32-1; got {runs} from {min(seeds, default=None)} on"
        )
    if how not in ("auto", "vmap", "map"):
        raise UsageError(f"how is 'auto', 'vmap' or 'map'; got {how!r}")
    values: dict[str, Any] = {}
    for name, value in (hyper or {}).items():
        array = np.asarray(value, np.float32)
        if array.shape not in ((), (runs,)):
            raise UsageError(f"{name} has shape {array.shape}; give one number, or one for each of the {runs} runs")
        values[name] = np.broadcast_to(array, (runs,))
    train_indices, val_indices = (
        np.broadcast_to(part, (runs, np.shape(part)[-1])).astype(np.int32)
        for part in (datasets.split(data) if split is None else split)
    )
    if at_once is not None and at_once < 1:
        raise UsageError(f"at_once must be at least 1; got {at_once}")
    arrays = np.asarray(seeds, np.uint32), values, (train_indices, val_indices)
    stops: list[bool] = []

    def watched(progress: Progress) -> bool | np.ndarray | None:
        assert callback is not None
        answer = callback(progress)
        stops.append(not isinstance(answer, np.ndarray) and bool(answer))
        return answer

    settings: dict[str, Any] = {"callback": callback and watched, "meter": meter, "test": test, "devices": devices}
    settings["how"] = how if how != "auto" else ("map" if jax.default_backend() == "cpu" else "vmap")
    groups: list[Result] = []
    first, size = 0, min(at_once or runs, runs)
    while first < runs:
        path = None if checkpoint is None else _path(checkpoint, first)
        going_on = path is not None and resume and path.exists()
        count = min(_saved(path) if going_on else size, runs - first)
        # What was asked for, and what has been saved, is tried, whatever is said of its size.
        settings["must_fit"] = at_once is None and not going_on
        try:
            groups.append(_group(make_rule, data, plan, arrays, first, count, runs, path, going_on, settings))
        except DoesNotFit as error:
            size = error.runs
            _warn(f"{count} runs at once would not fit into the device's memory; training {size} at a time")
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            if count == 1:
                words = str(error).splitlines()[0]
                raise UsageError(
                    f"a single run does not fit into the device's memory ({words}); use a smaller batch or network, or "
                    "fewer chunk_steps where images are streamed"
                ) from None
            size = -(-count // 2)
            begun = " from their start" if going_on else ""
            if path is not None:
                path.unlink(missing_ok=True)
            _warn(f"{count} runs at once do not fit into the device's memory; going on with {size}{begun}")
        else:
            first += count
            if not groups[-1].finished or any(stops):  # asked at the end of a group, too
                break
    return groups[0] if len(groups) == 1 and first >= runs else _joined(groups, runs)


class MemoryWarning(UserWarning):
    """Runs had to be trained in smaller groups than was planned."""


def _warn(message: str) -> None:
    warnings.warn(message, MemoryWarning, stacklevel=3)


def _path(checkpoint: str | Path, first: int) -> Path:
    path = Path(checkpoint)
    return path if first == 0 else path.with_name(f"{path.stem}.{first}{path.suffix}")


def _saved(checkpoint: Path | None) -> int:
    """How many runs a group had when it was saved."""
    assert checkpoint is not None
    seeds = checkpoints.read_meta(checkpoint).get("fingerprint", {}).get("seeds", [])
    return max(1, len(seeds)) if isinstance(seeds, list) else 1


def _group(
    make_rule: Any,
    data: datasets.Dataset,
    plan: Any,
    arrays: tuple[np.ndarray, dict[str, np.ndarray], tuple[np.ndarray, np.ndarray]],
    first: int,
    count: int,
    runs: int,
    checkpoint: Path | None,
    resume: bool,
    settings: dict[str, Any],
) -> Result:
    """Train runs ``first`` to ``first + count``."""
    seeds, hyper, split = jax.tree.map(lambda a: a[first : first + count], arrays)
    own: dict[str, Any] = {"seeds": seeds, "hyper": hyper, "split": split, "checkpoint": checkpoint, "resume": resume}
    return train(make_rule, data, plan, runs=(first, first + count, runs), **own, **settings)


def _joined(groups: list[Result], runs: int) -> Result:
    """One result from those of groups; runs that had not begun when the training was stopped have NaN, 0 and False."""
    missing = runs - sum(len(group.epochs) for group in groups)

    def join(*parts: Any) -> np.ndarray:
        found = np.concatenate([np.asarray(part) for part in parts])
        blank = np.full((missing, *found.shape[1:]), np.nan if np.issubdtype(found.dtype, np.floating) else 0)
        return np.concatenate([found, blank.astype(found.dtype)])

    def total(name: str) -> float:
        return sum(getattr(group, name) for group in groups)

    joined = {
        name: join(*(getattr(group, name) for group in groups))
        for name in (
            *("epochs", "kept_epoch", "target_epoch", "val_loss", "val_accuracy", "test_loss", "test_accuracy"),
            "diverged",
        )
    }
    energy = groups[0].energy
    if energy is not None:
        energy = energy.without("the runs were trained in groups, each with a window of its own")
    return Result(
        state=jax.tree.map(join, *(group.state for group in groups)),
        history=_history(groups, missing),
        readouts=jax.tree.map(join, *(group.readouts for group in groups)),
        finished=all(group.finished for group in groups) and not missing,
        compile_seconds=total("compile_seconds"),
        train_seconds=total("train_seconds"),
        features_kept=groups[0].features_kept,
        energy=energy,
        run_bytes=groups[-1].run_bytes,
        streamed=groups[0].streamed,
        precision=groups[0].precision,
        **joined,
    )


def _history(groups: list[Result], missing: int) -> dict[str, Any]:
    """A row for every validation that any group had; ``seconds`` is the sum of the groups' clocks there."""
    rows = [_rows(group) for group in groups]
    keys = sorted({key for own in rows for key in own})

    def row(name: str, key: tuple[int, int]) -> np.ndarray:
        found = [group.history[name][own[key]] if key in own else None for group, own in zip(groups, rows, strict=True)]
        like = np.asarray(next(value for value in found if value is not None))

        def blank(count: int) -> np.ndarray:
            return np.full((count, *like.shape[1:]), False if like.dtype == bool else np.nan, like.dtype)

        parts = [blank(len(g.epochs)) if value is None else value for g, value in zip(groups, found, strict=True)]
        return np.concatenate([*parts, blank(missing)])

    def clock(group: Result, own: dict[tuple[int, int], int], key: tuple[int, int]) -> float:
        return max((float(group.history["seconds"][at]) for k, at in own.items() if k <= key), default=0.0)

    if not keys:
        return {}
    joined: dict[str, Any] = {
        "stage": np.array([stage for stage, _ in keys]),
        "epoch": np.array([epoch for _, epoch in keys]),
        "seconds": np.array([sum(clock(*both, key) for both in zip(groups, rows, strict=True)) for key in keys]),
    }
    for name, first in groups[0].history.items():
        if name not in joined:
            column = [row(name, key) for key in keys]
            joined[name] = column if isinstance(first, list) else np.stack(column)
    return joined


def _rows(group: Result) -> dict[tuple[int, int], int]:
    """Where the history has the validation after (stage, epoch)."""
    position = (group.history.get(name, ()) for name in ("stage", "epoch"))
    return {(int(stage), int(epoch)): at for at, (stage, epoch) in enumerate(zip(*position, strict=True))}
