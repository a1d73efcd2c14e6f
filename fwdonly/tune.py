"""The search for settings: Optuna proposes several trials at a time, and they train together as one compiled sweep.

Needs the extra ``tune``. Every rule is to be searched alike: the same number of trials, seeds and epochs, the same
sampler, and a space of the same size (see ``experiments/_rules.py``). The test set is never read, not even copied to
the device.
"""

import hashlib
import importlib
import json
import math
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from . import data as datasets
from .base import LearningRule, UsageError, first_difference
from .sweep import sweep
from .train import Plan, Progress


class Range(NamedTuple):
    """Numbers from ``low`` to ``high``, uniform in their logarithm, or plainly with ``log=False``."""

    low: float
    high: float
    log: bool = True


Space = Mapping[str, Range | tuple[Any, ...]]
"""Settings by name: a `Range` of numbers, which are traced and compile nothing new, or a tuple of choices (widths,
batch sizes, optimizers), each combination of which is a program of its own."""

Make = Callable[..., tuple[Callable[..., LearningRule | Sequence[LearningRule]], Plan | Sequence[Plan]]]
"""From choices, as keywords, to the arguments of `fwdonly.sweep`: a function of the numbers, and the plan."""

PRUNE_AFTER = 5
"""Finished trials before any is pruned."""


class Round(NamedTuple):
    """What a callback sees when trials have been told."""

    done: int
    """Trials finished or pruned, of all workers."""
    trials: int
    """The budget."""
    pruned: int
    best: float | None
    """The highest mean validation accuracy, 0..1."""
    best_trial: int | None
    seconds: float
    """Since this call began."""
    left: float | None
    """Seconds to go, if the next trials take as long as those of this call."""


def tune(
    make: Make,
    space: Space,
    data: datasets.Dataset,
    *,
    trials: int = 50,
    seeds: Sequence[int] = (1000, 1001, 1002),
    name: str = "study",
    storage: Any = None,
    parallel: int = 5,
    prune: bool = True,
    first: Mapping[str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
    split: tuple[np.ndarray, np.ndarray] | None = None,
    how: Literal["auto", "vmap", "map"] = "auto",
    callback: Callable[[Round], bool | None] | None = None,
    watch: Callable[[Progress], bool | None] | None = None,
) -> Any:
    """Search ``space`` for the highest validation accuracy of the kept state, mean over ``seeds``.

    Trials are asked for in rounds of ``parallel``; those of a round that share their choices are one sweep of trials x
    seeds. A round that has fewer is filled up with runs that end at once, so that the number of runs, and with it the
    program, stays the same. Within a round a trial is pruned after a validation at which its mean accuracy lies below
    the median of the earlier trials there (Optuna's ``MedianPruner``, from a quarter of the epochs on).

    A diverged seed counts as accuracy 0. Use other seeds for the final numbers.

    A killed search is continued by the same call: finished trials are kept, those that a dead process of this machine
    left are tried again (those of another machine stay under way, and count), and the proposals are those that an
    uninterrupted search would have made (where one worker searches: with several they depend on timing). Workers on
    several machines share a storage by URL; together they may exceed the budget by a round.

    Args:
        make: see `Make`; called once for each combination of choices.
        space: what is searched.
        data: images and labels.
        trials: of all calls and workers together.
        seeds: of every trial.
        name: of the study in the storage; the sampler's seed follows from it.
        storage: an Optuna storage, a URL of one (``sqlite:///...``, ``postgresql://...``), a path for a journal file,
            or None for memory.
        parallel: trials per round. It decides what the sampler knows when it proposes: keep it the same for all rules.
        prune: end hopeless trials early.
        first: the settings of the first trial, such as published ones; moved to the border where they lie outside.
        about: what else decides the numbers; kept with the study, and compared when it is continued.
        split: as for `fwdonly.fit`.
        how: as for `fwdonly.sweep`.
        callback: called after every round; a true return value ends the search there.
        watch: called within a round as the callback of `fwdonly.sweep`; a true return value ends the search at once.
            The trials under way are tried again when it is continued.

    Returns:
        The Optuna study. Every finished trial has the user attributes ``per_seed`` (accuracies, 0..1; None diverged),
        ``epochs`` and ``train_seconds`` (its share of its sweep).

    Raises:
        UsageError: an empty space or budget, numbers out of order, a storage that cannot be opened, or a study that was
            begun with other settings.
    """
    optuna = _optuna()
    _check(space, trials, seeds, parallel)
    started = time.perf_counter()
    facts = {
        "space": json.loads(json.dumps(space)),
        "seeds": [int(seed) for seed in seeds],
        "data": data.digest,
        "parallel": parallel,
        "prune": prune,
        "about": json.loads(json.dumps(dict(about or {}))),
    }
    study = _open(optuna, name, storage, prune, facts)
    _retire(optuna, study)
    if first is not None and not study.get_trials(deepcopy=False):
        study.enqueue_trial(_within(space, first))
    distributions = {key: _distribution(optuna, own) for key, own in space.items()}
    made: dict[str, Any] = {}
    mine = 0
    while True:
        running = optuna.trial.TrialState.RUNNING
        taken = sum(trial.state in (*_told(optuna), running) for trial in study.get_trials(deepcopy=False))
        count = min(parallel, trials - taken)
        if count <= 0:
            return study
        study.sampler = _sampler(optuna, f"{name} {taken}")
        batch = [study.ask(distributions) for _ in range(count)]
        for trial in batch:
            trial.set_user_attr("worker", [platform.node(), os.getpid()])
        groups: dict[str, list[Any]] = {}
        for trial in batch:
            choices = {key: trial.params[key] for key, own in space.items() if not isinstance(own, Range)}
            groups.setdefault(json.dumps(choices), []).append(trial)
        for key, group in groups.items():
            if key not in made:
                made[key] = make(**{name: _unpacked(value) for name, value in json.loads(key).items()})
            try:
                whole = _train(optuna, study, group, space, made[key], data, seeds, parallel, split, how, watch)
            except Exception:
                for trial in batch:  # or they would be tried again first, and fail again
                    _tell_once(study, trial.number, optuna.trial.TrialState.FAIL)
                raise
            if not whole:
                return study
        mine += count
        if callback is not None and callback(_round(optuna, study, trials, mine, time.perf_counter() - started)):
            return study


def _train(
    optuna: Any,
    study: Any,
    group: list[Any],
    space: Space,
    made: Any,
    data: datasets.Dataset,
    seeds: Sequence[int],
    size: int,
    split: tuple[np.ndarray, np.ndarray] | None,
    how: Literal["auto", "vmap", "map"],
    watch: Callable[[Progress], bool | None] | None,
) -> bool:
    """Train the trials of a group over all seeds as one sweep of ``size`` trials, and tell what they reached.

    False if ``watch`` asked to stop.
    """
    make_rule, plan = made
    filled = [*group, *[group[-1]] * (size - len(group))]
    hyper = {
        name: np.repeat([trial.params[name] for trial in filled], len(seeds))
        for name, own in space.items()
        if isinstance(own, Range)
    }
    unused = np.repeat(np.arange(size) >= len(group), len(seeds))
    pruned, latest = np.zeros(size, bool), np.zeros(size * len(seeds))

    def judge(progress: Progress) -> np.ndarray | bool:
        if watch is not None and watch(progress):
            return True
        if progress.record is not None:
            # A seed that has stopped keeps its last accuracy; of one that diverged it is 0.
            trained = np.asarray(progress.record["trained"])
            latest[trained] = np.nan_to_num(progress.record["val_accuracy"][trained], nan=0.0)
            accuracies = _means(latest, len(seeds))
            step = sum(progress.epochs[: progress.stage]) + progress.epoch
            training = np.asarray(progress.active.reshape(size, -1).any(axis=1))
            for i, trial in enumerate(group):
                if training[i] and not pruned[i]:
                    trial.report(float(accuracies[i]), step)
                    pruned[i] = step > sum(progress.epochs) // 4 and trial.should_prune()
        return unused | np.repeat(pruned, len(seeds))

    result = sweep(
        make_rule,
        data,
        plan,
        seeds=[*seeds] * size,
        hyper=hyper,
        split=split
        if split is None or split[0].ndim == 1
        else (np.tile(split[0], (size, 1)), np.tile(split[1], (size, 1))),
        how=how,
        callback=judge,
        test=False,
    )
    if not result.finished:
        return False
    per_seed = result.val_accuracy.reshape(size, -1)
    epochs = result.epochs.reshape(size, -1)
    for i, trial in enumerate(group):
        trial.set_user_attr("per_seed", [float(a) if math.isfinite(a) else None for a in per_seed[i]])
        trial.set_user_attr("epochs", epochs[i].tolist())
        trial.set_user_attr("train_seconds", result.train_seconds * float(epochs[i].sum() / max(epochs.sum(), 1)))
        if pruned[i]:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(trial, float(_means(per_seed[i], len(seeds))[0]))
    return True


def _means(accuracies: np.ndarray, seeds: int) -> np.ndarray:
    """The mean of every trial; a diverged seed counts as 0."""
    return np.nan_to_num(accuracies, nan=0.0).reshape(-1, seeds).mean(axis=1).astype(float)


def _round(optuna: Any, study: Any, trials: int, mine: int, seconds: float) -> Round:
    found = [trial for trial in study.get_trials(deepcopy=False) if trial.state in _told(optuna)]
    complete = [trial for trial in found if trial.state == optuna.trial.TrialState.COMPLETE]
    best = max(complete, key=lambda trial: trial.value, default=None)
    left = seconds / mine * (trials - len(found)) if mine else None
    value, number = (None, None) if best is None else (best.value, best.number)
    return Round(len(found), trials, len(found) - len(complete), value, number, seconds, left)


def open_storage(where: Any) -> Any:
    """An Optuna storage from a URL, a path for a journal file, None for memory, or such a storage.

    Raises:
        UsageError: it cannot be opened.
    """
    optuna = _optuna()
    if where is None or not isinstance(where, str | os.PathLike):
        return where if where is not None else optuna.storages.InMemoryStorage()
    text = os.fspath(where)
    try:
        if "://" in text:
            return optuna.storages.RDBStorage(text)
        journal = importlib.import_module("optuna.storages.journal")
        return optuna.storages.JournalStorage(journal.JournalFileBackend(text))
    except Exception as error:  # of whatever database driver
        words = str(error).strip().splitlines()
        raise UsageError(
            f"cannot open the storage {text} ({words[0] if words else type(error).__name__}); give a writable path, or "
            "the URL of a database that runs"
        ) from error


def best(study: Any) -> Any:
    """The complete trial with the highest value; the earlier one where several share it.

    Raises:
        UsageError: there is none.
    """
    optuna = _optuna()
    complete = [trial for trial in study.get_trials(deepcopy=False) if trial.state == optuna.trial.TrialState.COMPLETE]
    if not complete:
        raise UsageError(f"the study {study.study_name} has no complete trial yet; continue it")
    return max(complete, key=lambda trial: (trial.value, -trial.number))


def _optuna() -> Any:
    try:
        optuna = importlib.import_module("optuna")
    except ImportError as error:
        raise UsageError("the search needs Optuna: pip install 'fwdonly[tune]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _check(space: Space, trials: int, seeds: Sequence[int], parallel: int) -> None:
    if not space:
        raise UsageError("there is nothing to search: the space is empty")
    for name, own in space.items():
        if isinstance(own, Range) and not (own.low < own.high and (own.low > 0 or not own.log)):
            raise UsageError(f"the range of {name} needs low < high, and low > 0 if it is logarithmic; got {own}")
        if not isinstance(own, Range) and not own:
            raise UsageError(f"{name} has no choices")
    for what, number in (("trials", trials), ("seeds", len(seeds)), ("parallel", parallel)):
        if number < 1:
            raise UsageError(f"{what} must be at least 1; got {number}")
    if len(set(seeds)) != len(seeds):
        raise UsageError(f"the seeds of a trial must differ; got {list(seeds)}")


def _told(optuna: Any) -> tuple[Any, Any]:
    return optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED


def _sampler(optuna: Any, text: str) -> Any:
    """A sampler for one round, seeded by name and trials before: a continued search equals a whole one."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
    return optuna.samplers.TPESampler(seed=seed)


def _open(optuna: Any, name: str, storage: Any, prune: bool, facts: dict[str, Any]) -> Any:
    pruner = optuna.pruners.MedianPruner(n_startup_trials=PRUNE_AFTER) if prune else optuna.pruners.NopPruner()
    study = optuna.create_study(
        study_name=name, storage=open_storage(storage), direction="maximize", pruner=pruner, load_if_exists=True
    )
    known = study.user_attrs.get("facts")
    difference = first_difference(known, facts) if known else ""
    if difference:
        raise UsageError(f"the study {name} is another one: {difference}; repeat its settings, or give another name")
    if known is None:
        study.set_user_attr("facts", facts)
        study.set_user_attr("sampler", f"TPESampler of Optuna {optuna.__version__}, seeded per round by the name")
    return study


def _retire(optuna: Any, study: Any) -> None:
    """Fail the trials that a dead process of this machine left behind, and try their settings again."""
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        host, process = trial.user_attrs.get("worker", (None, None))
        dead = host == platform.node() and not _alive(process)
        if dead and _tell_once(study, trial.number, optuna.trial.TrialState.FAIL):
            study.enqueue_trial(trial.params)


def _tell_once(study: Any, number: int, state: Any) -> bool:
    """Tell a trial's state; false if it has been told by somebody else in the meantime."""
    try:
        study.tell(number, state=state)
    except (RuntimeError, ValueError):
        return False
    return True


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return process != os.getpid()


def _distribution(optuna: Any, own: Range | tuple[Any, ...]) -> Any:
    if isinstance(own, Range):
        return optuna.distributions.FloatDistribution(own.low, own.high, log=own.log)
    # Optuna keeps numbers and text; anything else travels as JSON.
    return optuna.distributions.CategoricalDistribution([_packed(choice) for choice in own])


def _packed(choice: Any) -> Any:
    return choice if isinstance(choice, str | int | float | bool | None) else "json:" + json.dumps(choice)


def _unpacked(choice: Any) -> Any:
    if not (isinstance(choice, str) and choice.startswith("json:")):
        return choice
    found = json.loads(choice.removeprefix("json:"))
    return tuple(found) if isinstance(found, list) else found


def _within(space: Space, values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that belong to the space, moved to its border where they lie outside."""
    inside = {}
    for name, own in space.items():
        if name in values and isinstance(own, Range):
            inside[name] = min(max(float(values[name]), own.low), own.high)
        elif name in values and not isinstance(own, Range) and values[name] in own:
            inside[name] = _packed(values[name])
    return inside
