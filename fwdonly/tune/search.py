"""The search for settings: Optuna proposes several trials at a time, and they train together as one compiled sweep.

Needs the extra ``tune``. Every rule is to be searched alike: the same number of trials, seeds and epochs, the same
sampler, and a space of the same size (``CARD.space`` of each rule). The test set is never read, not even copied to
the device."""

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, SupportsIndex

import numpy as np

from .. import data as datasets
from ..base import LearningRule
from ..card import Range, Space
from ..errors import UsageError, check_seeds, first_difference, plain, short
from ..surroundings import numerics
from ..training import Plan, Progress, sweep
from .spaces import distributions, packed, settled, unpacked, within
from .storage import load_optuna, losses, open_storage, reachable
from .workers import AGAIN, GIVEN_UP, GRACE, HEARTBEAT, WORKER, Others, Pulse, identity, settings_of, tell

Make = Callable[..., tuple[Callable[..., LearningRule | Sequence[LearningRule]], Plan | Sequence[Plan]]]
"""From choices, as keywords, to the arguments of `fwdonly.sweep`: a function of the numbers, and the plan."""
OBJECTIVE = "validation accuracy of the kept state, mean over the seeds, 0 for one that diverged"
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
    elsewhere: int = 0
    """Trials under way in other workers."""
    refused: tuple[int, ...] = ()
    """Trials of this round that another worker took over while this one gave no sign of life; their results are not
    counted."""


class Setup(NamedTuple):
    """How the trials of a round train."""

    space: Space
    data: datasets.Dataset
    seeds: Sequence[int]
    size: int
    """Trials of a sweep; a group that has fewer is filled up."""
    split: tuple[np.ndarray, np.ndarray] | None
    how: Literal["auto", "vmap", "map"]
    devices: int | None
    watch: Callable[[Progress], bool | None] | None

    def tiled(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The split of every run."""
        if self.split is None or self.split[0].ndim == 1:
            return self.split
        train, val = (np.tile(part, (self.size, 1)) for part in self.split)
        return train, val


def tune(
    make: Make,
    space: Space,
    data: datasets.Dataset,
    *,
    trials: int = 50,
    seeds: Sequence[SupportsIndex] | np.ndarray = (1000, 1001, 1002),
    name: str = "study",
    storage: Any = None,
    parallel: int = 5,
    prune: bool = True,
    first: Mapping[str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
    split: tuple[np.ndarray, np.ndarray] | None = None,
    how: Literal["auto", "vmap", "map"] = "auto",
    devices: int | None = None,
    callback: Callable[[Round], bool | None] | None = None,
    watch: Callable[[Progress], bool | None] | None = None,
    heartbeat: float = HEARTBEAT,
    grace: float = GRACE,
) -> Any:
    """Search ``space`` for the highest validation accuracy of the kept state, mean over ``seeds``.

    Trials are asked for in rounds of ``parallel``; those of a round that share their choices are one sweep of trials x
    seeds. A round that has fewer is filled up with runs that end at once, so that the number of runs, and with it the
    program, stays the same. Within a round a trial is pruned after a validation at which its mean accuracy lies below
    the median of the earlier trials there (Optuna's ``MedianPruner``, from a quarter of the epochs on).

    A diverged seed counts as accuracy 0. Use other seeds for the final numbers.

    A killed search is continued by the same call: finished trials are kept, those that a dead worker left are tried
    again, and the proposals are those that an uninterrupted search would have made (where one worker searches: with
    several they depend on timing). Workers on several machines share a storage by URL; each further one may exceed the
    budget by a round.

    A worker signs its trials every ``heartbeat`` seconds. Whoever sees none for ``grace`` seconds (by its own clock:
    clocks need not agree), or a process of its own machine gone, takes the trial: it fails, and its settings are tried
    again, once for each such death. That is looked for before every round and before the end, which waits until every
    trial under way elsewhere was either signed or taken. A worker that was only asleep has its result refused, and goes
    on.

    Args:
        make: see `Make`; called once for each combination of choices.
        space: what is searched.
        data: images and labels.
        trials: of all calls and workers together.
        seeds: of every trial; distinct integers, as for `fwdonly.fit`.
        name: of the study in the storage; the sampler's seed follows from it.
        storage: as for `open_storage`.
        parallel: trials per round. It decides what the sampler knows when it proposes: keep it the same for all rules.
        prune: end hopeless trials early.
        first: the settings of the first trial, such as published ones; moved to the border where they lie outside.
        about: what else decides the numbers; kept with the study, and compared when it is continued.
        split: as for `fwdonly.fit`.
        how: as for `fwdonly.sweep`.
        devices: as for `fwdonly.sweep`. A round trains as one group: where it does not fit, give fewer ``parallel``.
        callback: called after every round, and while trials elsewhere are waited for; a true return value ends the
            search there.
        watch: called within a round as the callback of `fwdonly.sweep`; a true return value ends the search at once.
            The trials under way are tried again when it is continued.
        heartbeat: seconds between two signs of life; the same for all workers.
        grace: seconds without one after which a trial is taken; several heartbeats.

    Returns:
        The Optuna study. Every finished trial has the user attributes ``per_seed`` (accuracies, 0..1; None diverged),
        ``epochs`` and ``train_seconds`` (its share of its sweep).

    Raises:
        UsageError: an empty space or budget, numbers out of order, a storage that cannot be opened or is lost in
            mid-search, or a study that was begun with other settings.
    """
    optuna = load_optuna()
    datasets.check_dataset(data)
    space, numbers = settled(space), check_seeds(seeds)
    check(space, trials, numbers, parallel)
    started = time.perf_counter()
    facts = {
        "space": plain(space, "the space"),
        "seeds": numbers,
        "data": data.digest,
        "parallel": int(parallel),
        "prune": bool(prune),
        "objective": OBJECTIVE,
        "sampler": f"TPESampler of Optuna {optuna.__version__}, seeded per trial by the name",
        "numerics": numerics(),
        "about": plain(about or {}, "about"),
    }
    with reachable(storage):
        study = open_study(optuna, name, storage, space, facts, None if first is None else within(space, first))
        others = Others(optuna, study, set(space), grace)
        arguments_of = Arguments(make)
        setup = Setup(space, data, numbers, parallel, split, how, devices, watch)
        mine, waiting_since = 0, None
        running = optuna.trial.TrialState.RUNNING
        while True:
            if not others.retire():
                time.sleep(0.1)
                continue
            everything = study.get_trials(deepcopy=False)
            count = min(parallel, trials - sum(trial.state in (*told_states(optuna), running) for trial in everything))
            if count <= 0:
                waiting_since = waiting_since or time.monotonic()
                seconds = time.perf_counter() - started
                if others.all_signed(waiting_since) or (
                    callback is not None and callback(round_of(optuna, study, trials, mine, seconds))
                ):
                    return study
                time.sleep(heartbeat / 4)
                continue
            waiting_since = None
            batch = ask(optuna, study, name, space, count, int(parallel))
            refused: list[int] = []
            with Pulse(optuna, batch, heartbeat):
                if not train_round(optuna, study, setup, batch, arguments_of, refused):
                    return study
            mine += len(batch)
            seconds = time.perf_counter() - started
            if callback is not None and callback(round_of(optuna, study, trials, mine, seconds, refused)):
                return study


class Arguments(dict[str, Any]):
    """The rule and plan of every combination of choices, by the choices as JSON. ``make`` is called once for each."""

    def __init__(self, make: Make) -> None:
        super().__init__()
        self.make = make

    def __missing__(self, key: str) -> Any:
        self[key] = self.make(**{name: unpacked(value) for name, value in json.loads(key).items()})
        return self[key]


def train_round(
    optuna: Any, study: Any, setup: Setup, batch: list[Any], arguments_of: Arguments, refused: list[int]
) -> bool:
    """Train the trials of a round. Trials with equal choices train together. False if ``watch`` asked to stop."""
    groups: dict[str, list[Any]] = {}
    for trial in batch:
        choices = {key: trial.params[key] for key, domain in setup.space.items() if not isinstance(domain, Range)}
        groups.setdefault(json.dumps(choices), []).append(trial)
    for key, group in groups.items():
        arguments = arguments_of[key]
        try:
            whole = train_group(optuna, study, setup, group, arguments, refused)
        except losses(optuna):
            raise
        except Exception:
            for trial in batch:  # or they would be tried again first, and fail again
                tell(optuna, study, trial, {GIVEN_UP: True}, state=optuna.trial.TrialState.FAIL)
            raise
        if not whole:
            return False
    return True


def train_group(optuna: Any, study: Any, setup: Setup, group: list[Any], arguments: Any, refused: list[int]) -> bool:
    """Train the trials of a group over all seeds as one sweep of ``setup.size`` trials, and tell what they reached.

    Trials that others have taken in the meantime are added to ``refused``. False if ``watch`` asked to stop.
    """
    make_rule, plan = arguments
    size, seeds = setup.size, setup.seeds
    filled = [*group, *[group[-1]] * (size - len(group))]
    hyper = {
        name: np.repeat([trial.params[name] for trial in filled], len(seeds))
        for name, domain in setup.space.items()
        if isinstance(domain, Range)
    }
    judge = Judge(optuna, setup, group)
    result = sweep(
        make_rule,
        setup.data,
        plan,
        seeds=[*seeds] * size,
        hyper=hyper,
        split=setup.tiled(),
        how=setup.how,
        devices=setup.devices,
        callback=judge,
        test=False,
        repeats=True,  # a group is filled up
        progress=False,
    )
    if not result.finished:
        return False
    per_seed = result.val_accuracy.reshape(size, -1)
    epochs = result.epochs.reshape(size, -1)
    for i, trial in enumerate(group):
        share = result.train_seconds * float(epochs[i].sum() / max(epochs.sum(), 1))
        reached = {
            "per_seed": [float(a) if math.isfinite(a) else None for a in per_seed[i]],
            "epochs": epochs[i].tolist(),
            "train_seconds": share,
        }
        outcome: dict[str, Any] = {"values": float(means(per_seed[i], len(seeds))[0])}
        if judge.pruned[i]:
            outcome = {"state": optuna.trial.TrialState.PRUNED}
        if not tell(optuna, study, trial, reached, **outcome):
            refused.append(trial.number)
    return True


class Judge:
    """The callback of a round: reports accuracies, and ends trials that are pruned or taken by others."""

    def __init__(self, optuna: Any, setup: Setup, group: Sequence[Any]) -> None:
        self.taken = optuna.exceptions.UpdateFinishedTrialError
        self.setup, self.group = setup, group
        self.unused = np.repeat(np.arange(setup.size) >= len(group), len(setup.seeds))
        self.pruned = np.zeros(setup.size, bool)
        self.latest = np.zeros(setup.size * len(setup.seeds))

    def __call__(self, progress: Progress) -> np.ndarray | bool:
        """Runs to end, or true to stop the round."""
        size, seeds = self.setup.size, len(self.setup.seeds)
        if progress.runs[1] - progress.runs[0] < len(self.latest):
            raise UsageError(
                f"a round of {size} trials x {seeds} seeds does not fit into the device's memory; search with fewer "
                "parallel trials"
            )
        if self.setup.watch is not None and self.setup.watch(progress):
            return True
        if progress.record is not None:
            # A seed that has stopped keeps its last accuracy; of one that diverged it is 0.
            trained = np.asarray(progress.record["trained"])
            self.latest[trained] = np.nan_to_num(progress.record["val_accuracy"][trained], nan=0.0)
            accuracies = means(self.latest, seeds)
            training = np.asarray(progress.active.reshape(size, -1).any(axis=1))
            for i, trial in enumerate(self.group):
                if training[i] and not self.pruned[i]:
                    self.pruned[i] = self.ends(trial, float(accuracies[i]), progress)
        return self.unused | np.repeat(self.pruned, seeds)

    def ends(self, trial: Any, accuracy: float, progress: Progress) -> bool:
        """Whether a trial is over, after its accuracy is reported."""
        step = sum(progress.epochs[: progress.stage]) + progress.epoch
        try:
            trial.report(accuracy, step)
        except self.taken:  # somebody took it: no need to train it on
            return True
        return bool(step > sum(progress.epochs) // 4 and trial.should_prune())


def means(accuracies: np.ndarray, seeds: int) -> np.ndarray:
    """The mean of every trial; a diverged seed counts as 0."""
    return np.nan_to_num(accuracies, nan=0.0).reshape(-1, seeds).mean(axis=1).astype(float)


def round_of(optuna: Any, study: Any, trials: int, mine: int, seconds: float, refused: Sequence[int] = ()) -> Round:
    everything = study.get_trials(deepcopy=False)
    ended = [trial for trial in everything if trial.state in told_states(optuna)]
    complete = [trial for trial in ended if trial.state == optuna.trial.TrialState.COMPLETE]
    best = max(complete, key=lambda trial: trial.value, default=None)
    left = seconds / mine * (trials - len(ended)) if mine else None
    value, number = (None, None) if best is None else (best.value, best.number)
    elsewhere = sum(trial.state == optuna.trial.TrialState.RUNNING for trial in everything)
    pruned = len(ended) - len(complete)
    return Round(len(ended), trials, pruned, value, number, seconds, left, elsewhere, tuple(refused))


def best(study: Any) -> Any:
    """The complete trial with the highest value; the earlier one where several share it.

    Raises:
        UsageError: there is none.
    """
    optuna = load_optuna()
    complete = [trial for trial in study.get_trials(deepcopy=False) if trial.state == optuna.trial.TrialState.COMPLETE]
    if not complete:
        raise UsageError(f"the study {study.study_name} has no complete trial yet; continue it")
    return max(complete, key=lambda trial: (trial.value, -trial.number))


def check(space: Space, trials: int, seeds: Sequence[int], parallel: int) -> None:
    """Reject a space, budget or seeds with which nothing can be searched."""
    if not space:
        raise UsageError("there is nothing to search: the space is empty")
    for name, domain in space.items():
        if isinstance(domain, Range) and not (domain.low < domain.high and (domain.low > 0 or not domain.log)):
            raise UsageError(f"the range of {name} needs low < high, and low > 0 if it is logarithmic; got {domain}")
        if not isinstance(domain, Range) and not domain:
            raise UsageError(f"{name} has no choices")
    for what, count in (("trials", trials), ("parallel", parallel)):
        if not isinstance(count, int | np.integer) or count < 1:
            raise UsageError(f"{what} must be a whole number, at least 1; got {count!r}")
    if len(set(seeds)) != len(seeds):
        raise UsageError(f"the seeds of a trial must differ; got {list(seeds)}")


def told_states(optuna: Any) -> tuple[Any, Any]:
    """States of trials that are over and count."""
    return optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED


def ask(optuna: Any, study: Any, name: str, space: Space, count: int, parallel: int) -> list[Any]:
    """The trials of a round: first those to be tried again, then new ones.

    The study's name and the trial's place seed its sampler. The place is the trial's number among those that count; a
    trial that repeats another one has the place of that one. New trials join repeated ones only within their round of
    ``parallel`` places, so that they know no more results than without the interruption. So a continued search equals
    an uninterrupted one, and two workers that ask at the same moment get different proposals.
    """
    batch, again = [], False
    while len(batch) < count:
        everything = study.get_trials(deepcopy=False)
        waits = any(trial.state == optuna.trial.TrialState.WAITING for trial in everything)
        if again and not waits and place_of(optuna, everything, space) % parallel == 0:
            break
        trial = study.ask()  # nothing is drawn yet
        trial.set_user_attr(WORKER, identity())  # at once: whoever dies from here on is known to be dead
        everything, first = study.get_trials(deepcopy=False), trial.number
        while (earlier := everything[first].user_attrs.get(AGAIN)) is not None:
            first, again = earlier, True
        place = place_of(optuna, everything[:first], space)
        seed = int.from_bytes(hashlib.sha256(f"{name} {place}".encode()).digest()[:4], "big")
        study.sampler = optuna.samplers.TPESampler(seed=seed)
        for key, domain in space.items():
            if isinstance(domain, Range):
                trial.suggest_float(key, domain.low, domain.high, log=domain.log)
            else:  # Optuna keeps numbers and text; anything else travels as JSON
                trial.suggest_categorical(key, [packed(choice) for choice in domain])
        batch.append(trial)
    return batch


def place_of(optuna: Any, before: Sequence[Any], space: Space) -> int:
    """How many of these trials are new ones, and not lost before all their settings were drawn."""
    failed, names = optuna.trial.TrialState.FAIL, set(space)
    return sum(
        AGAIN not in trial.user_attrs and not (trial.state == failed and settings_of(trial, names) is None)
        for trial in before
    )


def open_study(
    optuna: Any, name: str, storage: Any, space: Space, facts: dict[str, Any], first: Mapping[str, Any] | None
) -> Any:
    """Make the study, or join it where it is ours: of our direction, space, sampler, objective and other facts.

    Raises:
        UsageError: it is another one.
    """
    pruner = optuna.pruners.MedianPruner(n_startup_trials=PRUNE_AFTER) if facts["prune"] else optuna.pruners.NopPruner()
    opened = open_storage(storage)
    how = {"study_name": name, "storage": opened, "pruner": pruner}
    try:
        study, ours = optuna.create_study(**how, direction="maximize"), True
    except optuna.exceptions.DuplicatedStudyError:
        study, ours = optuna.load_study(**how), False
    for _ in range(0 if ours else 20):  # whoever made it writes its facts next, unless it died there
        if "facts" in study.user_attrs:
            break
        time.sleep(0.1)
    known = study.user_attrs.get("facts")
    difference = difference_of(optuna, study, space, known, facts)
    if difference:
        raise UsageError(
            f"the study {name} is another one: {short(difference)}; repeat its settings, or give another name"
        )
    if known is None:
        if first is not None and not study.get_trials(deepcopy=False):
            study.enqueue_trial(first)
        study.set_user_attr("facts", facts)  # last: with it other workers begin
    return study


def difference_of(optuna: Any, study: Any, space: Space, known: dict[str, Any] | None, facts: dict[str, Any]) -> str:
    """The difference between this study and ours in words; empty if there is none."""
    directions = [direction.name.lower() for direction in study.directions]
    if directions != ["maximize"]:
        return f"its direction is {' and '.join(directions)}, and accuracy is maximized"
    trials = study.get_trials(deepcopy=False)
    begun = [trial for trial in trials if trial.state != optuna.trial.TrialState.WAITING]
    if known is None and begun:
        return f"it has trials ({len(begun)}) and does not say of what"
    spread = distributions(optuna, space)
    for trial in trials:
        for name, distribution in trial.distributions.items():
            if distribution != spread.get(name):
                return f"its trial {trial.number} drew {name} from {distribution}"
    return first_difference(known, facts) if known else ""
