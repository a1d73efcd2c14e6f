"""Train one run."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import SupportsIndex

import numpy as np
from jaxtyping import Array

from .. import data as datasets
from ..base import LearningRule
from ..errors import UsageError, check_seed
from ..measure import Meter
from .host import Hooks, callbacks_of
from .line import line
from .loop import train
from .plan import Plan
from .prepare import Placement, Runs, check_call, prepare, values_of
from .result import Callback, Result


def fit(
    rule: LearningRule | Sequence[LearningRule] | Callable[..., LearningRule | Sequence[LearningRule]],
    data: datasets.Dataset,
    plan: Plan | Sequence[Plan] | None = None,
    *,
    seed: SupportsIndex = 0,
    hyper: Mapping[str, float | np.ndarray | Array] | None = None,
    split: tuple[np.ndarray, np.ndarray] | None = None,
    callback: Callback | Sequence[Callback] | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    meter: Meter | None = None,
    test: bool = True,
    progress: bool | None = None,
) -> Result:
    """Train one run: a rule, or stages one after another over the same state.

    Everything random follows from ``seed`` and the number of the step, so equal seeds give two rules equal data order
    and, where shapes agree, equal start values.

    Args:
        rule: one `LearningRule`, or several as stages (``fwdonly.mf.stages``); or a function that makes one of these of
            ``hyper``, inside the compiled program. A loop over learning rates should give the function: passing the
            same one again compiles nothing new, whereas every rule built anew is compiled anew.
        data: images and labels, from `fwdonly.data.load`.
        plan: lengths, stopping and preprocessing; default `Plan()`. One for every stage, where lengths or stopping
            differ between stages.
        seed: of start values, data order and the rule's own randomness; an integer of Python, NumPy or JAX,
            0 <= seed < 2**32.
        hyper: the numbers that the function takes, by name.
        split: (training indices, validation indices) into ``data.x_train``; default `fwdonly.data.split`.
        callback: called with a `Progress` after every compiled chunk and epoch, or several, called in their order; a
            true return value stops the training there. In a sweep it may return one truth value per run: those runs
            end there, and the training goes on.
        checkpoint: file to write about once a minute and on a stop; a resumed run equals an uninterrupted one bit
            for bit, unless it is given another ``cache_gb`` or ``stream``. It knows plan, data, split and seed, and the
            shapes of the state, but not the rule's own options.
        resume: continue from ``checkpoint`` if that file exists.
        meter: reads the energy of the training; everything is compiled before its window begins, and the test lies
            after it. Epochs are its marks. A meter that fails costs the reading, never the training.
        test: False leaves the test set alone: a search for settings must not see it. It is not even copied to the
            device then.
        progress: show a line with epoch, loss, validation accuracy and time left on standard error; None: where that
            is a terminal, or in a notebook.

    Raises:
        UsageError: ``hyper`` without a function, labels outside the classes, a batch larger than the training split,
            images the network cannot take, or a checkpoint that belongs to something else.
        Interrupted: there was a Ctrl-C. The steps under way are finished and the checkpoint is written before; what the
            training gave is in the exception's ``result``. A second Ctrl-C is a KeyboardInterrupt at once.
    """
    place = check_call(data, plan, split, checkpoint)
    number = np.asarray(check_seed(seed), np.uint32)
    source = (
        rule
        if isinstance(rule, LearningRule) or callable(rule)
        else tuple(rule if isinstance(rule, Sequence) else [rule])
    )
    if hyper and not callable(source):
        raise UsageError(f"hyper ({', '.join(hyper)}) is for a function that makes the rule of it; give the function")
    values = values_of(hyper or {})
    train_indices, val_indices = datasets.split(data) if split is None else split
    both = np.asarray(train_indices, np.int32), np.asarray(val_indices, np.int32)
    work = prepare(source, data, plan, Runs(number, values, both), Placement("single"), test)
    with line(progress) as shown:
        return train(work, Hooks((*callbacks_of(callback), *shown), place, resume, meter))
