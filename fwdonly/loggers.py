"""Loggers: the numbers of every validated epoch, to TensorBoard, MLflow, Weights & Biases or a function of your own.

A logger is one function ``write(run, epoch, numbers)``. `log` makes a callback of it, for `fwdonly.fit` and
`fwdonly.sweep`; ``fwdonly train mf --log tensorboard`` and its like do so for every rule and seed.
"""

import contextlib
import importlib
import inspect
import time
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .errors import UsageError
from .files import expanded, module_of
from .training import Callback, Progress

Write = Callable[[str, int, Mapping[str, float]], Any]
"""Takes a run's name, its epoch (from 1, counted over all stages by their caps) and its numbers by name. A logger that
has a method ``close()`` is closed at the end of a command."""


class LoggerWarning(UserWarning):
    """A logger failed. It costs its log, never the training."""


def log(write: Write, names: Sequence[str] | None = None) -> Callback:
    """A callback that hands every validated epoch of every run to ``write``.

    The numbers are those of `Result.history`: losses in nats, accuracies as fractions; ``layer_loss`` has an entry per
    layer, ``layer_loss_1`` and so on. Runs that have stopped write nothing more.

    Args:
        write: see `Write`. Where it raises, the log ends with a `LoggerWarning` and the training goes on.
        names: of the runs, in their order; default run-0, run-1, ...

    Raises:
        UsageError: no function, or fewer names than runs.

    Example:
        >>> import fwdonly, optax
        >>> digits, net = fwdonly.data.load("digits"), fwdonly.nets.mlp([16])
        >>> rows = []
        >>> write = lambda run, epoch, numbers: rows.append((run, epoch, sorted(numbers)[-1]))
        >>> plan, rule = fwdonly.Plan(epochs=2), fwdonly.mf.rule(net, optax.adam(1e-3), num_classes=10)
        >>> _ = fwdonly.fit(rule, digits, plan, callback=fwdonly.loggers.log(write))
        >>> rows
        [('run-0', 1, 'val_loss'), ('run-0', 2, 'val_loss')]
    """
    if not callable(write):
        raise UsageError(f"a logger is a function write(run, epoch, numbers); got {write!r}")
    failed = False

    def call(progress: Progress) -> None:
        nonlocal failed
        if progress.record is None or failed:
            return
        first, last, runs = progress.runs
        labels = [f"run-{at}" for at in range(runs)] if names is None else names
        if len(labels) < runs:
            raise UsageError(f"there are {runs} runs and {len(labels)} names; give each run its name")
        epoch = sum(progress.epochs[: progress.stage]) + progress.epoch
        try:
            for at, label in enumerate(labels[first:last]):
                if numbers := numbers_of(progress.record, at if np.ndim(progress.active) else None):
                    write(label, epoch, numbers)
        except Exception as error:  # a full disk, a server that is gone: anything
            failed = True
            words = " ".join(str(error).split())[:200] or type(error).__name__
            warnings.warn(f"the logger failed ({words}); the training goes on without it", LoggerWarning, stacklevel=2)

    return call


def numbers_of(record: Mapping[str, np.ndarray], run: int | None) -> dict[str, float]:
    """The finite numbers of one run in a row of the history; none where it has stopped."""
    values = {name: value if run is None or not value.ndim else value[run] for name, value in record.items()}
    if not values.pop("trained"):
        return {}
    numbers: dict[str, float] = {}
    for name, value in values.items():
        if name in ("stage", "epoch"):
            continue
        parts = {name: value} if not value.ndim else {f"{name}_{i}": part for i, part in enumerate(value, start=1)}
        numbers |= {key: float(part) for key, part in parts.items() if np.isfinite(part)}
    return numbers


def _package(name: str, install: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UsageError(f"this log needs {install}: pip install {install}") from error


class TensorBoard:
    """Event files for TensorBoard, a folder per run."""

    def __init__(self, folder: str | Path) -> None:
        self.module, self.folder = _package("tensorboardX", "tensorboardX"), Path(folder)
        self.writers: dict[str, Any] = {}

    def __call__(self, run: str, epoch: int, numbers: Mapping[str, float]) -> None:
        if run not in self.writers:
            self.writers[run] = self.module.SummaryWriter(str(self.folder / run))
        for name, value in numbers.items():
            self.writers[run].add_scalar(name, value, epoch)
        self.writers[run].flush()

    def close(self) -> None:
        """Close the files."""
        for writer in self.writers.values():
            writer.close()


class MLflow:
    """A run of MLflow per run, under one experiment; ``uri`` names the store or server, default MLflow's own.

    MLflow 3 writes to a folder only where MLFLOW_ALLOW_FILE_STORE=true is set.
    """

    def __init__(self, uri: str | None = None, experiment: str = "fwdonly") -> None:
        package = _package("mlflow", "mlflow")
        self.entities, self.client = importlib.import_module("mlflow.entities"), package.MlflowClient(uri or None)
        known = self.client.get_experiment_by_name(experiment)
        self.experiment = known.experiment_id if known else self.client.create_experiment(experiment)
        self.runs: dict[str, str] = {}

    def __call__(self, run: str, epoch: int, numbers: Mapping[str, float]) -> None:
        if run not in self.runs:
            self.runs[run] = self.client.create_run(self.experiment, run_name=run.replace("/", " ")).info.run_id
        now = time.time_ns() // 10**6  # in milliseconds, as MLflow counts
        metrics = [self.entities.Metric(name, value, now, epoch) for name, value in numbers.items()]
        self.client.log_batch(self.runs[run], metrics)

    def close(self) -> None:
        """Mark the runs as finished."""
        for key in self.runs.values():
            self.client.set_terminated(key)


class WeightsAndBiases:
    """A run of Weights & Biases per run, in one project. ``WANDB_MODE=offline`` writes to a local folder."""

    def __init__(self, project: str = "fwdonly", folder: str | Path = ".") -> None:
        self.module, self.project, self.folder = _package("wandb", "wandb"), project, Path(folder)
        self.runs: dict[str, Any] = {}

    def __call__(self, run: str, epoch: int, numbers: Mapping[str, float]) -> None:
        if run not in self.runs:
            more: dict[str, Any] = {"project": self.project, "dir": str(self.folder), "reinit": "create_new"}
            self.runs[run] = self.module.init(name=run.replace("/", " "), **more)
        self.runs[run].log(dict(numbers), step=epoch)

    def close(self) -> None:
        """Finish the runs."""
        for run in self.runs.values():
            run.finish()


KINDS: dict[str, Callable[[str, Path], Write]] = {
    "tensorboard": lambda place, folder: TensorBoard(
        expanded(Path(place), "--log") if place else folder / "tensorboard"
    ),
    "mlflow": lambda place, folder: MLflow(place),
    "wandb": lambda place, folder: WeightsAndBiases(place or "fwdonly", folder),
}
"""Loggers that commands know; each takes what stands behind the colon, and the result folder."""


def logger_of(word: str, folder: Path) -> Write:
    """The logger that ``--log`` names: ``tensorboard[:FOLDER]``, ``mlflow[:URI]``, ``wandb[:PROJECT]`` or
    ``FILE.py:FUNCTION``, a function ``write(run, epoch, numbers)``.

    Raises:
        UsageError: no such logger, a package that is not installed, a store that cannot be opened, or a file without
            the function.
    """
    kind, _, rest = word.partition(":")
    if kind in KINDS:
        try:
            return KINDS[kind](rest, folder)
        except UsageError:
            raise
        except Exception as error:  # whatever the package raises
            raise UsageError(f"--log {word}: {' '.join(str(error).split())[:300]}") from error
    if not kind.endswith(".py") or not rest:
        raise UsageError(f"--log {word!r} is no logger; give {', '.join(KINDS)} or FILE.py:FUNCTION")
    if not Path(kind).is_file():
        raise UsageError(f"--log: there is no file {kind}; give FILE.py:FUNCTION with a file that exists")
    write = getattr(module_of(Path(kind).resolve()), rest, None)
    if not callable(write):
        raise UsageError(f"--log: {kind} has no function {rest}; write {rest}(run, epoch, numbers)")
    try:
        if isinstance(write, type):
            raise TypeError("it is a class")
        inspect.signature(write).bind("run", 1, {})
    except TypeError as error:
        raise UsageError(f"--log: {rest} of {kind} cannot be called with (run, epoch, numbers): {error}") from error
    return write


@contextlib.contextmanager
def opened(words: Sequence[str], folder: Path) -> Generator[list[Write], None, None]:
    """The loggers that ``words`` name, within the block; those that can be closed are closed after it.

    Raises:
        UsageError: as of `logger_of`.
    """
    writes: list[Write] = []
    try:
        writes += (logger_of(word, folder) for word in words)
        yield writes
    finally:
        for write in writes:
            with contextlib.suppress(Exception):  # the numbers are written
                getattr(write, "close", lambda: None)()
