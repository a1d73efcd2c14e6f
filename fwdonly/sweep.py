"""Many runs, seeds and numeric hyperparameters together, as one compiled program."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Array

from . import data as datasets
from .base import LearningRule, UsageError
from .energy import Meter
from .train import Callback, Plan, Result, train


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
) -> Result:
    """Train one run per entry of ``seeds``, each with its own numeric hyperparameters.

    A run's numbers equal those of `fwdonly.fit` with the same seed: bit for bit with "map", to rounding with "vmap" and
    where one of them keeps the features of frozen layers and the other one does not (`Plan.cache_gb`).
    A run that stops early, or diverges, is frozen while the others go on; with "map" it then costs nothing.

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
        callback: as for `fwdonly.fit`; arrays in `Progress` have one entry per run.
        checkpoint: as for `fwdonly.fit`.
        resume: as for `fwdonly.fit`.
        meter: as for `fwdonly.fit`; its reading is of all runs together.
        test: as for `fwdonly.fit`.

    Returns:
        A `Result` whose arrays have a leading axis over runs.

    Raises:
        UsageError: no seeds, seeds out of range, hyperparameters that fit neither all runs nor each, and whatever
            `fwdonly.fit` raises.

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
    return train(
        make_rule,
        data,
        plan,
        how=how if how != "auto" else ("map" if jax.default_backend() == "cpu" else "vmap"),
        seeds=np.asarray(seeds, np.uint32),
        hyper=values,
        split=(train_indices, val_indices),
        callback=callback,
        checkpoint=checkpoint,
        resume=resume,
        meter=meter,
        test=test,
    )
