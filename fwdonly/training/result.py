"""What a training tells on its way, and what it gives in the end."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from ..base import Precision, State
from ..errors import UsageError
from ..measure import Reading
from .drawing import figure_of


class Progress(NamedTuple):
    """What a callback sees between two compiled chunks; arrays have one entry per run in a sweep."""

    stage: int
    """Index of the stage, from 0."""
    epochs: tuple[int, ...]
    """The cap on the epochs of every stage."""
    epoch: int
    """Epochs finished in this stage."""
    step: int
    """Steps finished in the epoch under way."""
    steps: int
    """Steps per epoch."""
    seconds: float
    """Training time so far. Compilation, checkpoints and what callbacks do after a validation are not counted."""
    loss: np.ndarray
    """The rule's own loss, mean since the last validation; NaN where a run has stopped."""
    active: np.ndarray
    """False where a run has stopped."""
    record: dict[str, np.ndarray] | None
    """After a validation its row of the history, otherwise None."""
    runs: tuple[int, int, int]
    """First and last (not included) of the runs that these arrays are of, and how many the sweep has in all."""
    state: Callable[[], State]
    """Gives a copy of the newest state in host memory, which after a chunk may be one chunk further than ``step``.
    It waits for the device; the copying is not counted in ``seconds``. Call it before the callback returns."""


Callback = Callable[[Progress], bool | np.ndarray | None]
"""Sees a training between two compiled chunks, and may end it, or single runs of a sweep."""


@dataclasses.dataclass(frozen=True, repr=False)
class Result:
    """What training gave; arrays have a leading axis over runs in a sweep and none in a `fit`.

    Attributes:
        state: the kept state (see `Plan.keep`).
        history: per validated epoch (first axis): ``stage``, ``epoch`` (within the stage, from 1), ``train_loss``,
            ``layer_loss`` and, where `Plan.layer_accuracy` asks for it, ``layer_accuracy`` (lists of arrays, one per
            epoch, of rules whose layers have losses or scores of their own), ``val_loss``,
            ``val_accuracy`` and ``trained``; False and NaN in the rows of a run that has already stopped.
            ``seconds`` is the clock of ``train_seconds`` at that validation, of all runs together.
        epochs: epochs trained, all stages together.
        kept_epoch: the epoch whose state was kept, from 1, of the last stage that the run trained; 0 is the start
            state.
        target_epoch: epochs trained, all stages together, at the first of the two validations in a row that reached
            `Plan.target`; 0 where none did.
        val_loss, val_accuracy: of the kept state's prediction (that of the stage under way, where the training was
            stopped); NaN for a diverged run. Equal to its row of the history unless the rule steers by other scores.
        test_loss, test_accuracy: of the kept state; NaN for a diverged run, and where the training was stopped or the
            test was not asked for.
        readouts: ``val_accuracy`` and ``test_accuracy`` by name of further readouts, where the rule has any; they are
            evaluated once, on the kept state, after the training and outside of its clock and meter.
        diverged: the loss became NaN or infinite; the run was frozen, the others went on.
        finished: False where the callback stopped the training.
        compile_seconds, train_seconds: wall clock, apart; of all runs together. ``train_seconds`` includes the
            validation after each epoch and excludes the test and the writing of checkpoints.
        validation_seconds: the part of ``train_seconds`` from the last step of an epoch to the end of its validation,
            of the scores that steer the training alone.
        features_kept: for every stage, whether features of frozen layers were kept for it (see `Plan.cache_gb`).
        energy: what the meter read, of all runs together, where there was one: training, validation, the callback, the
            writing of checkpoints and the first execution of each program, but no compilation and no test. Of a
            resumed training the total is unavailable, since a part was not in this window. Its ``spans`` have the part
            of validation, measured where the counter can tell, and otherwise estimated and called so.
        run_bytes: device memory that a run takes, of the largest program of the training, by the compiler's account,
            with its kept features; None where it gives none.
        streamed: the training images stayed in host memory (see `Plan.stream`).
        precision: of the factors in matrix products and convolutions (see `Plan.precision`).
        normalise: how samples reached the network (see `Plan.normalise`).
        predictions: the classes that the kept state predicts for the test images, on the last axis, uint8 or, of more
            than 256 classes, uint16; without meaning for a diverged run. None where there is no test accuracy.
        seeds: of the runs.
        hyper: the numbers that the maker was given, by name, one per run.
        test_balanced_accuracy: the mean of the classes' own test accuracies, where classes are unequal by more than
            1.5 to 1 (`Dataset.unequal`), so that guessing the largest is no merit; None elsewhere.
    """

    state: State
    history: dict[str, Any]
    epochs: np.ndarray
    kept_epoch: np.ndarray
    target_epoch: np.ndarray
    val_loss: np.ndarray
    val_accuracy: np.ndarray
    test_loss: np.ndarray
    test_accuracy: np.ndarray
    readouts: dict[str, dict[str, np.ndarray]]
    diverged: np.ndarray
    finished: bool
    compile_seconds: float
    train_seconds: float
    validation_seconds: float = 0.0
    features_kept: tuple[bool, ...] = ()
    energy: Reading | None = None
    run_bytes: int | None = None
    streamed: bool = False
    precision: Precision = "float32"
    normalise: str = "pixel"
    predictions: np.ndarray | None = None
    test_balanced_accuracy: np.ndarray | None = None
    seeds: np.ndarray | None = None
    hyper: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def layer_accuracy(self) -> np.ndarray | None:
        """Validation accuracy (..., layers), 0..1, of every layer's own scores in the kept state.

        It is the history's row of the kept epoch, NaN where there is none; None unless `Plan.layer_accuracy` asked.
        """
        column = self.history.get("layer_accuracy")
        if column is None:
            return None
        runs, kept, trained = np.size(self.epochs), np.ravel(self.kept_epoch), np.asarray(self.history["trained"])
        out = np.full((runs, max(row.shape[-1] for row in column)), np.nan)
        for run in range(runs):
            of_run = np.flatnonzero(trained.reshape(len(column), -1)[:, run])
            last = self.history["stage"][of_run[-1]] if len(of_run) else -1
            for at in of_run:
                if (self.history["stage"][at], self.history["epoch"][at]) == (last, kept[run]):
                    values = column[at].reshape(runs, -1)[run]
                    out[run, : len(values)] = values
        return out if np.ndim(self.epochs) else out[0]

    def __repr__(self) -> str:
        """A few lines, whatever the number of runs: mean ± sd (n - 1) over those that did not diverge."""
        runs, sound = np.size(self.epochs), ~np.atleast_1d(self.diverged)
        head = f"Result of {runs} run{'s' * (runs != 1)}{'' if self.finished else ', stopped before the end'}"
        lines = [head + (f", {runs - sound.sum()} diverged" if not sound.all() else "")]
        validation, test = (self.val_accuracy, self.val_loss), (self.test_accuracy, self.test_loss)
        for part, values in (("validation", validation), ("test", test)):
            accuracy, loss = (np.atleast_1d(value)[sound] for value in values)
            lines.append(f"  {part:<10} accuracy {_mean_sd(100 * accuracy)} %, loss {_mean_sd(loss)}")
        lines.append(f"  epochs     {_mean_sd(np.atleast_1d(self.epochs)[sound])}")
        lines.append(
            f"  seconds    {self.train_seconds:.3g} training ({self.validation_seconds:.3g} of it validation), "
            f"{self.compile_seconds:.3g} compiling"
        )
        if self.energy is not None:
            energy = self.energy.energy
            text = f"{energy.value:.4g} J" if energy.value is not None else f"unavailable, {energy.reason}"
            span = self.energy.spans.get("validation")
            part = (
                f" ({span.energy.value:.3g} J of it validation, {span.energy.status})"
                if span and span.energy.value
                else ""
            )
            lines.append(f"  energy     {text}{part}")
        if self.layer_accuracy is not None:
            means = np.nanmean(np.atleast_2d(self.layer_accuracy)[sound], axis=0) if sound.any() else []
            lines.append(f"  by layer   {', '.join(f'{100 * mean:.4g}' for mean in means)} % validation accuracy")
        lines.append(f"  seeds      {_shown(self.seeds)}")
        lines += [f"  {name:<10} {_shown(values)}" for name, values in self.hyper.items()]
        return "\n".join([*lines, "  more: state, history, to_dataframe(), plot()"])

    def plot(self) -> Any:
        """A matplotlib figure: loss and validation accuracy over epochs, with `layer_accuracy` that over depth.

        A line per run; dotted, the end of a stage. ``figure.savefig("training.png")`` writes it.

        Raises:
            UsageError: matplotlib is not installed, or the training was stopped before its first validation.
        """
        by_layer = self.layer_accuracy
        return figure_of(self.history, None if by_layer is None else np.atleast_2d(by_layer))

    def to_dataframe(self) -> Any:
        """The history as a tidy pandas frame: one row per run, stage and validated epoch that the run trained.

        Columns are ``run`` (from 0), ``seed``, the names of ``hyper``, and those of `history` that hold one number for
        it; what has a value per layer stays there.

        Raises:
            UsageError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise UsageError("to_dataframe needs pandas: pip install 'fwdonly[data]'") from error
        count = np.size(self.epochs)
        columns = {name: value for name, value in self.history.items() if not isinstance(value, list)}
        shared = {name for name, value in columns.items() if value.ndim == 1 and np.ndim(self.epochs)}
        rows = len(self.history.get("epoch", ()))
        wide = {name: np.repeat(v, count) if name in shared else v.reshape(-1) for name, v in columns.items()}
        of_runs = {"run": np.arange(count)} | ({} if self.seeds is None else {"seed": self.seeds}) | dict(self.hyper)
        frame = pd.DataFrame({name: np.tile(np.ravel(v), rows) for name, v in of_runs.items()} | wide)
        return frame[frame.pop("trained").astype(bool)].reset_index(drop=True)


def _shown(values: Any) -> str:
    """The first few values."""
    shown = [f"{value:.6g}" for value in np.ravel(() if values is None else values)[:7]]
    return ", ".join([*shown[:6], *["..."] * (len(shown) > 6)]) or "not known"


def _mean_sd(values: np.ndarray) -> str:
    values = values[~np.isnan(values)]
    if not values.size:
        return "not known"
    mean = f"{values.mean():.4g}"
    return mean if values.size == 1 else f"{mean} ± {values.std(ddof=1):.2g}"


def history_of(rows: list[dict[str, np.ndarray]]) -> dict[str, Any]:
    """Columns from rows, NaN where a stage does not have them; values per layer stay a list, since stages differ."""
    columns: dict[str, Any] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        per_layer = any(row[name].ndim > row["train_loss"].ndim for row in rows if name in row)
        values = [
            row.get(name, np.full(row["train_loss"].shape + (0,) * per_layer, np.nan, np.float32)) for row in rows
        ]
        columns[name] = values if per_layer else np.stack(values)
    return columns


def join_groups(groups: list[Result], seeds: np.ndarray, hyper: Mapping[str, np.ndarray]) -> Result:
    """One result from those of groups; runs that had not begun when the training was stopped have NaN, 0 and False."""
    missing = len(seeds) - sum(len(group.epochs) for group in groups)

    def join(*parts: Any) -> np.ndarray:
        whole = np.concatenate([np.asarray(part) for part in parts])
        blank = np.full((missing, *whole.shape[1:]), np.nan if np.issubdtype(whole.dtype, np.floating) else 0)
        return np.concatenate([whole, blank.astype(whole.dtype)])

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

    def join_known(name: str) -> np.ndarray | None:
        parts = [getattr(group, name) for group in groups]
        return None if any(part is None for part in parts) else join(*parts)

    return Result(
        state=jax.tree.map(join, *(group.state for group in groups)),
        history=joined_history(groups, missing),
        readouts=jax.tree.map(join, *(group.readouts for group in groups)),
        finished=all(group.finished for group in groups) and not missing,
        compile_seconds=total("compile_seconds"),
        train_seconds=total("train_seconds"),
        validation_seconds=total("validation_seconds"),
        features_kept=groups[0].features_kept,
        energy=energy,
        run_bytes=groups[-1].run_bytes,
        streamed=groups[0].streamed,
        precision=groups[0].precision,
        normalise=groups[0].normalise,
        predictions=join_known("predictions"),
        test_balanced_accuracy=join_known("test_balanced_accuracy"),
        seeds=seeds,
        hyper=hyper,
        **joined,
    )


def joined_history(groups: list[Result], missing: int) -> dict[str, Any]:
    """A row for every validation that any group had; ``seconds`` is the sum of the groups' clocks there."""
    rows = [rows_of(group) for group in groups]
    keys = sorted({key for places in rows for key in places})

    def row(name: str, key: tuple[int, int]) -> np.ndarray:
        values = [
            group.history[name][places[key]] if key in places else None
            for group, places in zip(groups, rows, strict=True)
        ]
        like = np.asarray(next(value for value in values if value is not None))

        def blank(count: int) -> np.ndarray:
            return np.full((count, *like.shape[1:]), False if like.dtype == bool else np.nan, like.dtype)

        parts = [blank(len(g.epochs)) if value is None else value for g, value in zip(groups, values, strict=True)]
        return np.concatenate([*parts, blank(missing)])

    def clock(group: Result, places: dict[tuple[int, int], int], key: tuple[int, int]) -> float:
        return max((float(group.history["seconds"][at]) for k, at in places.items() if k <= key), default=0.0)

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


def rows_of(group: Result) -> dict[tuple[int, int], int]:
    """Where the history has the validation after (stage, epoch)."""
    position = (group.history.get(name, ()) for name in ("stage", "epoch"))
    return {(int(stage), int(epoch)): at for at, (stage, epoch) in enumerate(zip(*position, strict=True))}
