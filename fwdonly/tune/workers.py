"""Several workers on one study: signs of life, trials of dead workers, and outcomes told once."""

import contextlib
import math
import os
import platform
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from .storage import CONNECT

HEARTBEAT = 20.0
"""Seconds between two signs of life of a trial under way. Optuna's own heartbeats exist for `RDBStorage` alone and are
driven by `study.optimize`; these are a user attribute, which every storage has."""
GRACE = 120.0
"""Seconds without a sign of life after which a trial is taken from its worker."""

SIGN, AGAIN, WORKER, GIVEN_UP = "heartbeat", "again", "worker", "given up"
"""User attributes of a trial: its latest sign of life, the number of the trial whose settings it tries again, who
trains it, and that it failed by itself."""


def identity() -> list[Any]:
    """Machine, process and thread of this worker."""
    return [platform.node(), os.getpid(), threading.get_ident()]


def elsewhere(optuna: Any, study: Any) -> int:
    """How many trials other workers than this process have under way: what it left itself is nobody's."""
    running = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
    return sum(trial.user_attrs.get(WORKER, [])[:2] != identity()[:2] for trial in running)


def settings_of(trial: Any, names: set[str]) -> dict[str, Any] | None:
    """The settings of a trial, drawn or given; None where its worker died before all were drawn and none was given."""
    return trial.params if set(trial.params) == names else trial.system_attrs.get("fixed_params")  # Optuna's


class Pulse:
    """Within it a thread signs the trials of a round, until they are told."""

    def __init__(self, optuna: Any, trials: Sequence[Any], interval: float) -> None:
        self.refusal = optuna.exceptions.UpdateFinishedTrialError
        self.trials, self.interval, self.beats = list(trials), interval, 0
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> None:
        self._sign()  # here, so that the thread adds no key to what this thread may be copying
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join(timeout=CONNECT)

    def _run(self) -> None:
        while not self.ended.wait(self.interval):
            # A storage that is gone shows in the search itself, and one that comes back is to be signed again.
            with contextlib.suppress(Exception):
                self._sign()

    def _sign(self) -> None:
        self.beats += 1
        for trial in list(self.trials):
            try:
                trial.set_user_attr(SIGN, self.beats)
            except self.refusal:
                self.trials.remove(trial)


class Others:
    """The trials under way elsewhere, and when this worker saw them signed, by its own clock."""

    def __init__(self, optuna: Any, study: Any, names: set[str], grace: float) -> None:
        self.optuna, self.study, self.names, self.grace = optuna, study, names, grace
        self.seen: dict[int, tuple[Any, float]] = {}
        """The latest sign of each, and when it was first seen."""
        self.signed: dict[int, float] = {}
        """When one was seen to follow another."""
        self.taken: set[int] = set()
        """Those that this worker has failed."""
        self.owed_since: dict[int, float] = {}
        """When a failed trial was first seen whose settings nobody tries again."""

    def retire(self) -> bool:
        """Fail the trials of dead workers, and have their settings tried again; whether that is settled.

        Of several workers that notice, the storage lets one tell the failure, and that one asks for the repetition. If
        it dies in between, another one asks, `CONNECT` seconds later. It is not settled either while a trial has been
        begun and does not say yet by whom: it will in a moment, or its worker has died.
        """
        running = self._running()
        for trial in running:
            now, sign = time.monotonic(), trial.user_attrs.get(SIGN)
            if trial.number not in self.seen:
                self.seen[trial.number] = sign, now
            elif self.seen[trial.number][0] != sign:
                self.seen[trial.number], self.signed[trial.number] = (sign, now), now
            host, process, *thread = trial.user_attrs.get(WORKER, (None, None))
            dead = host == platform.node() and not is_alive(process, *thread)
            silent = now - self.seen[trial.number][1] >= (self.grace if host else min(CONNECT, self.grace))
            fail = self.optuna.trial.TrialState.FAIL
            if (dead or silent) and tell(self.optuna, self.study, trial.number, state=fail):
                self.taken.add(trial.number)
        settled = True
        for trial in self._owed():
            since = self.owed_since.setdefault(trial.number, time.monotonic())
            if trial.number in self.taken or time.monotonic() - since >= CONNECT:
                self.study.enqueue_trial(settings_of(trial, self.names), user_attrs={AGAIN: trial.number})
            else:
                settled = False
        return settled and all(WORKER in trial.user_attrs for trial in self._running())

    def _owed(self) -> list[Any]:
        """Failed trials with known settings that no later trial repeats."""
        trials = self.study.get_trials(deepcopy=False)
        again = {trial.user_attrs.get(AGAIN) for trial in trials}
        return [
            trial
            for trial in trials
            if trial.state == self.optuna.trial.TrialState.FAIL
            and GIVEN_UP not in trial.user_attrs
            and (WORKER in trial.user_attrs or AGAIN in trial.user_attrs)
            and trial.number not in again
            and settings_of(trial, self.names) is not None
        ]

    def all_signed(self, since: float) -> bool:
        """Whether every trial under way elsewhere was signed since then."""
        return all(self.signed.get(trial.number, -math.inf) > since for trial in self._running())

    def _running(self) -> list[Any]:
        return self.study.get_trials(deepcopy=False, states=(self.optuna.trial.TrialState.RUNNING,))


def tell(optuna: Any, study: Any, trial: Any, attributes: Mapping[str, Any] | None = None, **outcome: Any) -> bool:
    """Tell a trial's outcome; false if it has been told by somebody else in the meantime."""
    try:
        for name, value in (attributes or {}).items():
            trial.set_user_attr(name, value)
        study.tell(trial, **outcome)
    except (optuna.exceptions.UpdateFinishedTrialError, ValueError):  # the storage's word, or that of the study before
        return False
    return True


def is_alive(process: int, thread: int | None = None) -> bool:
    """Whether a process of this machine, or another thread of this one, is there."""
    if process == os.getpid():
        return thread != threading.get_ident() and thread in [other.ident for other in threading.enumerate()]
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
