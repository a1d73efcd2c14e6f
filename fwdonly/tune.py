"""The search for settings: Optuna proposes several trials at a time, and they train together as one compiled sweep.

Needs the extra ``tune``. Every rule is to be searched alike: the same number of trials, seeds and epochs, the same
sampler, and a space of the same size (``CARD.space`` of each rule). The test set is never read, not even copied to
the device.
"""

import contextlib
import functools
import hashlib
import importlib
import json
import math
import os
import platform
import re
import socket
import sys
import threading
import time
import urllib.parse
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from . import data as datasets
from .base import LearningRule
from .card import Range, Space
from .errors import UsageError, first_difference
from .training import Plan, Progress, sweep

Make = Callable[..., tuple[Callable[..., LearningRule | Sequence[LearningRule]], Plan | Sequence[Plan]]]
"""From choices, as keywords, to the arguments of `fwdonly.sweep`: a function of the numbers, and the plan."""

PRUNE_AFTER = 5
"""Finished trials before any is pruned."""

HEARTBEAT = 20.0
"""Seconds between two signs of life of a trial under way. Optuna's own heartbeats exist for `RDBStorage` alone and are
driven by `study.optimize`; these are a user attribute, which every storage has."""
GRACE = 120.0
"""Seconds without a sign of life after which a trial is taken from its worker."""
CONNECT = 10
"""Seconds until a database or proxy that does not answer counts as unreachable."""

PASSWORD = r"(://[^:/@\s]*):(\S*)@"
"""In a URL, which may be one that no driver can read."""
SIGN, AGAIN = "heartbeat", "again"
"""User attributes of a trial: its latest sign of life, and the number of the trial whose settings it tries again."""


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
        seeds: of every trial.
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
    with reachable(storage):
        study = _open(optuna, name, storage, prune, facts, None if first is None else _within(space, first))
        others = _Others(optuna, study, set(space), grace)
        made: dict[str, Any] = {}
        settings: dict[str, Any] = {"space": space, "data": data, "seeds": seeds, "size": parallel, "split": split}
        settings |= {"how": how, "devices": devices, "watch": watch}
        train = functools.partial(_train, optuna, study, **settings)
        mine, waiting_since = 0, None
        running = optuna.trial.TrialState.RUNNING
        while True:
            others.retire()
            found = study.get_trials(deepcopy=False)
            count = min(parallel, trials - sum(trial.state in (*_told(optuna), running) for trial in found))
            if count <= 0:
                waiting_since = waiting_since or time.monotonic()
                seconds = time.perf_counter() - started
                if others.all_signed(waiting_since) or (
                    callback is not None and callback(_round(optuna, study, trials, mine, seconds))
                ):
                    return study
                time.sleep(heartbeat / 4)
                continue
            waiting_since = None
            batch = _ask(optuna, study, name, space, count)
            refused: list[int] = []
            with _Pulse(optuna, batch, heartbeat):
                groups: dict[str, list[Any]] = {}
                for trial in batch:
                    choices = {key: trial.params[key] for key, own in space.items() if not isinstance(own, Range)}
                    groups.setdefault(json.dumps(choices), []).append(trial)
                for key, group in groups.items():
                    if key not in made:
                        made[key] = make(**{name: _unpacked(value) for name, value in json.loads(key).items()})
                    try:
                        whole = train(group=group, made=made[key], refused=refused)
                    except _losses(optuna):
                        raise
                    except Exception:
                        for trial in batch:  # or they would be tried again first, and fail again
                            _tell(optuna, study, trial.number, state=optuna.trial.TrialState.FAIL)
                        raise
                    if not whole:
                        return study
            mine += count
            seconds = time.perf_counter() - started
            if callback is not None and callback(_round(optuna, study, trials, mine, seconds, refused)):
                return study


def _train(
    optuna: Any,
    study: Any,
    *,
    group: list[Any],
    made: Any,
    space: Space,
    data: datasets.Dataset,
    seeds: Sequence[int],
    size: int,
    split: tuple[np.ndarray, np.ndarray] | None,
    how: Literal["auto", "vmap", "map"],
    devices: int | None,
    watch: Callable[[Progress], bool | None] | None,
    refused: list[int],
) -> bool:
    """Train the trials of a group over all seeds as one sweep of ``size`` trials, and tell what they reached.

    Trials that others have taken in the meantime are added to ``refused``. False if ``watch`` asked to stop.
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
        if progress.runs[1] - progress.runs[0] < len(latest):
            raise UsageError(
                f"a round of {size} trials x {len(seeds)} seeds does not fit into the device's memory; "
                "search with fewer parallel trials"
            )
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
                    try:
                        trial.report(float(accuracies[i]), step)
                    except optuna.exceptions.UpdateFinishedTrialError:  # somebody took it: no need to train it on
                        pruned[i] = True
                        continue
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
        devices=devices,
        callback=judge,
        test=False,
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
        outcome = (
            {"state": optuna.trial.TrialState.PRUNED}
            if pruned[i]
            else {"values": float(_means(per_seed[i], len(seeds))[0])}
        )
        if not _tell(optuna, study, trial, reached, **outcome):
            refused.append(trial.number)
    return True


def _means(accuracies: np.ndarray, seeds: int) -> np.ndarray:
    """The mean of every trial; a diverged seed counts as 0."""
    return np.nan_to_num(accuracies, nan=0.0).reshape(-1, seeds).mean(axis=1).astype(float)


def _round(optuna: Any, study: Any, trials: int, mine: int, seconds: float, refused: Sequence[int] = ()) -> Round:
    everything = study.get_trials(deepcopy=False)
    found = [trial for trial in everything if trial.state in _told(optuna)]
    complete = [trial for trial in found if trial.state == optuna.trial.TrialState.COMPLETE]
    best = max(complete, key=lambda trial: trial.value, default=None)
    left = seconds / mine * (trials - len(found)) if mine else None
    value, number = (None, None) if best is None else (best.value, best.number)
    elsewhere = sum(trial.state == optuna.trial.TrialState.RUNNING for trial in everything)
    pruned = len(found) - len(complete)
    return Round(len(found), trials, pruned, value, number, seconds, left, elsewhere, tuple(refused))


def open_storage(where: Any) -> Any:
    """An Optuna storage.

    Args:
        where: the URL of a database (``postgresql://...``, ``sqlite:///...``), ``grpc://host:port`` of Optuna's proxy
            (``experiments/serve_study.py``), a path for a journal file, None for memory, or a storage.

    Raises:
        UsageError: it cannot be opened, or does not answer within `CONNECT` seconds.
    """
    optuna = _optuna()
    if where is None or not isinstance(where, str | os.PathLike):
        return where if where is not None else optuna.storages.InMemoryStorage()
    text = os.fspath(where)
    try:
        if text.startswith("grpc://"):
            return _proxy(optuna, text)
        if "://" in text:
            return _database(optuna, text)
        journal = importlib.import_module("optuna.storages.journal")
        return optuna.storages.JournalStorage(journal.JournalFileBackend(text))
    except UsageError:
        raise
    except Exception as error:  # of whatever database driver
        raise UsageError(
            f"cannot open the storage {masked(text)} ({_words(error, text)}); give a writable path, or the URL of a "
            "database that runs"
        ) from error


def masked(text: str) -> str:
    """The text with the passwords of its URLs as ``***``."""
    return re.sub(r"(?<=password=)[^&\s]*", "***", re.sub(PASSWORD, r"\1:***@", text))


@contextlib.contextmanager
def reachable(storage: Any) -> Generator[None, None, None]:
    """Within it a storage that fails, such as a database that went down, is a `UsageError`."""
    optuna = _optuna()
    try:
        yield
    except _losses(optuna) as error:
        where = f" {masked(os.fspath(storage))}" if isinstance(storage, str | os.PathLike) else ""
        raise UsageError(
            f"lost the storage{where} ({_words(error)}); finished trials are kept: repeat the command when it is back"
        ) from error


def _losses(optuna: Any) -> tuple[type[Exception], ...]:
    """What Optuna raises when the server of a storage is gone. Asked late: `reachable` may be what loads a driver."""
    found = [optuna.exceptions.StorageInternalError]
    for module, name in (("sqlalchemy.exc", "SQLAlchemyError"), ("grpc", "RpcError")):
        if module in sys.modules:
            found.append(getattr(sys.modules[module], name))
    return tuple(found)


def _words(error: BaseException, url: str = "") -> str:
    """The first line of the first reason a driver gave, without passwords, nor parts of one that broke the URL."""
    reason, before = error, error
    while before := before.__cause__ or before.__context__:
        if type(before).__module__ != "builtins" and re.search(r"\w", str(before)):  # a pool's own says "()"
            reason = before
    details = getattr(reason, "details", None)  # of gRPC, whose errors print as a block
    lines = str(details() if callable(details) else reason).strip().splitlines()
    words = masked(lines[0]) if lines else type(reason).__name__
    secret = re.search(PASSWORD, url)
    for part in re.split(r"[@/]", secret[2]) if secret else ():
        words = words.replace(part, "***") if part else words
    return words


def _proxy(optuna: Any, text: str) -> Any:
    _grpc()
    parts = urllib.parse.urlsplit(text)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or "localhost"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        storage = optuna.storages.GrpcStorageProxy(host=host, port=parts.port or 13000)
    try:
        storage.wait_server_ready(timeout=CONNECT)
    except ConnectionError as error:
        storage.close()
        raise UsageError(
            f"nothing answers at {masked(text)} within {CONNECT} s; start it there: python experiments/serve_study.py"
        ) from error
    return storage


def serve(storage: Any, host: str = "localhost", port: int = 13000) -> None:
    """Put Optuna's gRPC proxy in front of a database, until a KeyboardInterrupt.

    Raises:
        UsageError: it is no database, cannot be opened, or the port is taken.
    """
    optuna = _optuna()
    _grpc()
    if not isinstance(storage, str) or "://" not in storage or storage.startswith("grpc://"):
        raise UsageError(f"the proxy needs the URL of a database; got {masked(str(storage))}")
    try:
        socket.create_server((host, port)).close()  # gRPC itself would share a port that is taken
    except (OSError, OverflowError) as error:
        raise UsageError(f"cannot listen on {host}:{port} ({error}); give another port") from error
    cached = optuna.storages.get_storage(open_storage(storage))
    with warnings.catch_warnings(), contextlib.suppress(KeyboardInterrupt):
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        optuna.storages.run_grpc_proxy_server(cached, host=host, port=port)


def _grpc() -> None:
    try:
        importlib.import_module("grpc")
        importlib.import_module("google.protobuf")
    except ImportError as error:
        raise UsageError("Optuna's gRPC proxy needs grpcio and protobuf: pip install 'fwdonly[tune-grpc]'") from error


def _database(optuna: Any, text: str) -> Any:
    url = importlib.import_module("sqlalchemy").make_url(text)  # Optuna requires it
    faults = importlib.import_module("sqlalchemy.exc")
    driver, more = url.get_driver_name(), {}
    waits: dict[str, Any] = {"connect_timeout": CONNECT}
    if driver in ("psycopg", "psycopg2"):
        waits["tcp_user_timeout"] = 3000 * CONNECT  # milliseconds: a machine that vanished answers nothing at all
    if driver in ("psycopg", "psycopg2", "pymysql", "mysqldb"):
        more["connect_args"] = {key: value for key, value in waits.items() if key not in url.query}
    if url.get_backend_name() != "sqlite":
        more["pool_pre_ping"] = True  # a server that was restarted between two rounds is found again
    for attempt in range(5):
        try:
            return optuna.storages.RDBStorage(text, engine_kwargs=dict(more))
        except ImportError as error:
            if url.get_backend_name() != "postgresql":
                raise
            raise UsageError("PostgreSQL needs a driver: pip install 'fwdonly[tune-postgres]'") from error
        except (faults.IntegrityError, faults.ProgrammingError):
            if attempt == 4:
                raise
            time.sleep(0.2 * (attempt + 1))  # workers that start together on an empty database make its tables at once


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
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # its warnings repeat with statements what we raise in a line
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


def _ask(optuna: Any, study: Any, name: str, space: Space, count: int) -> list[Any]:
    """The trials of a round.

    The sampler is seeded anew by the study's name and the place of the round's first new trial, that is its number less
    the trials before it that only repeat taken ones. So a continued search equals a whole one, and two workers that ask
    at the same moment are not proposed the same.
    """
    batch, seeded = [], False
    for _ in range(count):
        trial = study.ask()  # nothing is drawn yet
        if not seeded and AGAIN not in trial.user_attrs:
            before = study.get_trials(deepcopy=False)[: trial.number]
            place = trial.number - sum(AGAIN in other.user_attrs for other in before)
            seed = int.from_bytes(hashlib.sha256(f"{name} {place}".encode()).digest()[:4], "big")
            study.sampler, seeded = optuna.samplers.TPESampler(seed=seed), True
        for key, own in space.items():
            if isinstance(own, Range):
                trial.suggest_float(key, own.low, own.high, log=own.log)
            else:  # Optuna keeps numbers and text; anything else travels as JSON
                trial.suggest_categorical(key, [_packed(choice) for choice in own])
        batch.append(trial)
    return batch


def _open(
    optuna: Any, name: str, storage: Any, prune: bool, facts: dict[str, Any], first: Mapping[str, Any] | None
) -> Any:
    pruner = optuna.pruners.MedianPruner(n_startup_trials=PRUNE_AFTER) if prune else optuna.pruners.NopPruner()
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
    difference = first_difference(known, facts) if known else ""
    if difference:
        raise UsageError(f"the study {name} is another one: {difference}; repeat its settings, or give another name")
    if known is None:
        if first is not None and not study.get_trials(deepcopy=False):
            study.enqueue_trial(first)
        study.set_user_attr("sampler", f"TPESampler of Optuna {optuna.__version__}, seeded per round by the name")
        study.set_user_attr("facts", facts)  # last: with it other workers begin
    return study


class _Pulse:
    """Within it a thread signs the trials of a round, until they are told."""

    def __init__(self, optuna: Any, trials: Sequence[Any], interval: float) -> None:
        self.refusal = optuna.exceptions.UpdateFinishedTrialError
        self.trials, self.interval, self.beats = list(trials), interval, 0
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> None:
        for trial in self.trials:
            trial.set_user_attr("worker", [platform.node(), os.getpid(), threading.get_ident()])
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


class _Others:
    """The trials under way elsewhere, and when this worker saw them signed, by its own clock."""

    def __init__(self, optuna: Any, study: Any, names: set[str], grace: float) -> None:
        self.optuna, self.study, self.names, self.grace = optuna, study, names, grace
        self.seen: dict[int, tuple[Any, float]] = {}
        """The latest sign of each, and when it was first seen."""
        self.signed: dict[int, float] = {}
        """When one was seen to follow another."""

    def retire(self) -> None:
        """Fail the trials of dead workers, and have their settings tried again.

        Of several workers that notice, the storage lets one tell the failure, and that one asks for the repetition.
        """
        for trial in self._running():
            now, sign = time.monotonic(), trial.user_attrs.get(SIGN)
            if trial.number not in self.seen:
                self.seen[trial.number] = sign, now
            elif self.seen[trial.number][0] != sign:
                self.seen[trial.number], self.signed[trial.number] = (sign, now), now
            host, process, *thread = trial.user_attrs.get("worker", (None, None))
            dead = host == platform.node() and not _alive(process, *thread)
            silent = now - self.seen[trial.number][1] >= self.grace
            fail = self.optuna.trial.TrialState.FAIL
            taken = (dead or silent) and _tell(self.optuna, self.study, trial.number, state=fail)
            if taken and set(trial.params) == self.names:  # else its worker died before all were proposed
                self.study.enqueue_trial(trial.params, user_attrs={AGAIN: trial.number})

    def all_signed(self, since: float) -> bool:
        """Whether every trial under way elsewhere was signed since then."""
        return all(self.signed.get(trial.number, -math.inf) > since for trial in self._running())

    def _running(self) -> list[Any]:
        return self.study.get_trials(deepcopy=False, states=(self.optuna.trial.TrialState.RUNNING,))


def _tell(optuna: Any, study: Any, trial: Any, attributes: Mapping[str, Any] | None = None, **outcome: Any) -> bool:
    """Tell a trial's outcome; false if it has been told by somebody else in the meantime."""
    try:
        for name, value in (attributes or {}).items():
            trial.set_user_attr(name, value)
        study.tell(trial, **outcome)
    except (optuna.exceptions.UpdateFinishedTrialError, ValueError):  # the storage's word, or that of the study before
        return False
    return True


def _alive(process: int, thread: int | None = None) -> bool:
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
