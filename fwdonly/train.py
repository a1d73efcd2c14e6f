"""The training loop: compiled chunks of steps under a host loop that evaluates, stops early, reports and resumes.

One loop serves every rule, a single run (`fit`) and many runs at once (`fwdonly.sweep`). A *run* is one seed with one
set of numeric hyperparameters; what happens within a run is written here for one run alone and lifted over many.
"""

import contextlib
import dataclasses
import functools
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from . import _programs as programs
from . import checkpoint as checkpoints
from . import data as datasets
from . import stream as streams
from ._programs import Lift, Setup
from .base import Batch, LearningRule, Metrics, Precision, State
from .errors import UsageError, one_line
from .measure import Meter, Reading, Window

EVALUATION_BATCH = 500
EXAMPLES = 1024  # training images that start values may depend on
CHECKPOINT_SECONDS = 60.0
_WHERE = ("cache_gb", "stream")  # settings that say where data lie, and change numbers by rounding at most

Source = LearningRule | tuple[LearningRule, ...] | Callable[..., Any]
"""A rule, its stages, or a function of the numeric hyperparameters that returns one of these."""

Normalise = Literal["pixel", "paper", "half", "none"]
Monitor = Literal["loss", "accuracy"]
Keep = Literal["best_loss", "best_accuracy", "last"]
_WORDS = {"monitor": Monitor, "keep": Keep, "normalise": Normalise, "precision": Precision}


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long to train, when to stop and how images reach the network. Equal plans share compiled programs.

    Attributes:
        epochs: the cap, passes over the training split; of every stage, where a rule has stages.
        batch_size: images per step; the incomplete last batch of an epoch is dropped. None: all of them, one step per
            epoch.
        patience: stop after this many epochs in a row without improvement; None trains to the cap.
        min_delta: an improvement is a decrease of the monitored loss (an increase of the accuracy) by more than this.
        monitor: what ``patience`` watches: validation "loss" (mean cross-entropy of the prediction) or "accuracy".
        target: validation accuracy (0..1) at which a run ends, in whatever stage: at the second of two validations in a
            row that reach it. None: none.
        keep: the state that is kept and tested: of the epoch with the best validation loss ("best_loss") or accuracy
            ("best_accuracy"; the first such epoch), or of the "last" one.
        normalise: pixel constants, see `fwdonly.data.statistics`.
        augment: random crop after reflect padding by 4, then random horizontal flip, in the compiled step.
        validate_every: epochs from one validation to the next; the history has a row, and images are shuffled anew,
            once per validation.
        cache_gb: memory for the features of frozen layers (see `fwdonly.base.Frozen`), in 10^9 bytes: if the features
            of all runs fit they are computed once per stage, otherwise with every batch; the numbers are equal to
            rounding. None: half of the memory that is free when the training begins (a resumed run does as it did
            before). 0: never. Augmented and streamed images are never kept.
        precision: of the factors in matrix products and convolutions: "float32", "tf32" (Ampere and newer) or
            "bfloat16"; on a CPU "float32" alone. Sums, everything else and the state are float32 with all of them; but
            what comes out of a convolution of bfloat16 factors is rounded to bfloat16, too.
        stream: the training images stay in host memory, and Grain (extra ``stream``) brings them to the device chunk by
            chunk, ahead of the training. The numbers are those of images on the device; to rounding, where features of
            frozen layers would be kept there. None: where they would take more than half of the memory that is free.
        chunk_steps: steps (of every run of a sweep) per compiled call, after which the host reports and may stop.
    """

    epochs: int = 20
    batch_size: int | None = 128
    patience: int | None = None
    min_delta: float = 0.0
    monitor: Monitor = "loss"
    target: float | None = None
    keep: Keep = "best_accuracy"
    normalise: Normalise = "pixel"
    augment: bool = False
    validate_every: int = 1
    cache_gb: float | None = None
    precision: Precision = "float32"
    stream: bool | None = None
    chunk_steps: int = 128

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "chunk_steps", "patience", "validate_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} must be at least 1; got {value}")
        if not self.min_delta >= 0:
            raise UsageError(f"min_delta must be 0 or more; got {self.min_delta}")
        if self.target is not None and not 0 < self.target <= 1:
            raise UsageError(f"target is an accuracy, above 0 and at most 1; got {self.target}")
        if self.cache_gb is not None and not self.cache_gb >= 0:
            raise UsageError(f"cache_gb must be 0 or more; got {self.cache_gb}")
        if self.epochs % self.validate_every:
            raise UsageError(f"validate_every must divide epochs; {self.validate_every} does not divide {self.epochs}")
        if self.stream and self.batch_size is None:
            raise UsageError("a full batch needs all images on the device; give a batch_size, or leave out stream")
        for name, known in _WORDS.items():
            if getattr(self, name) not in get_args(known):
                raise UsageError(f"{name} is one of {', '.join(get_args(known))}; got {getattr(self, name)!r}")


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
    """Training time so far, compilation and checkpoint writing not counted."""
    loss: np.ndarray
    """The rule's own loss, mean since the last validation; NaN where a run has stopped."""
    active: np.ndarray
    """False where a run has stopped."""
    record: dict[str, np.ndarray] | None
    """After a validation its row of the history, otherwise None."""
    runs: tuple[int, int, int] = (0, 1, 1)
    """First and last (not included) of the runs that these arrays are of, and how many the sweep has in all."""


Callback = Callable[[Progress], bool | np.ndarray | None]
"""Sees a training between two compiled chunks, and may end it, or single runs of a sweep."""


@dataclasses.dataclass(frozen=True)
class Result:
    """What training gave; arrays have a leading axis over runs in a sweep and none in a `fit`.

    Attributes:
        state: the kept state (see `Plan.keep`).
        history: per validated epoch (first axis): ``stage``, ``epoch`` (within the stage, from 1), ``train_loss``,
            ``layer_loss`` (a list of arrays, one per epoch, where the rule has local losses), ``val_loss``,
            ``val_accuracy`` and ``trained``; False and NaN in the rows of a run that has already stopped. A rule with
            further readouts adds ``val_accuracy_<name>``. ``seconds`` is the clock of ``train_seconds`` at that
            validation, of all runs together.
        epochs: epochs trained, all stages together.
        kept_epoch: the epoch whose state was kept, from 1, of the last stage that the run trained; 0 is the start
            state.
        target_epoch: epochs trained, all stages together, at the first of the two validations in a row that reached
            `Plan.target`; 0 where none did.
        val_loss, val_accuracy: of the kept state's prediction (that of the stage under way, where the training was
            stopped); NaN for a diverged run. Equal to its row of the history unless the rule steers by other scores.
        test_loss, test_accuracy: of the kept state; NaN for a diverged run, and where the training was stopped or the
            test was not asked for.
        readouts: ``val_accuracy`` and ``test_accuracy`` by name of further readouts, where the rule has any.
        diverged: the loss became NaN or infinite; the run was frozen, the others went on.
        finished: False where the callback stopped the training.
        compile_seconds, train_seconds: wall clock, apart; of all runs together. ``train_seconds`` includes the
            validation after each epoch and excludes the test and the writing of checkpoints.
        features_kept: for every stage, whether features of frozen layers were kept for it (see `Plan.cache_gb`).
        energy: what the meter read, of all runs together, where there was one: training, validation, the callback, the
            writing of checkpoints and the first execution of each program, but no compilation and no test. Of a
            resumed training the total is unavailable, since a part was not in this window.
        run_bytes: device memory that a run takes, of the largest program of the training, by the compiler's account,
            with its kept features; None where it gives none.
        streamed: the training images stayed in host memory (see `Plan.stream`).
        precision: of the factors in matrix products and convolutions (see `Plan.precision`).
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
    features_kept: tuple[bool, ...] = ()
    energy: Reading | None = None
    run_bytes: int | None = None
    streamed: bool = False
    precision: Precision = "float32"


def fit(
    rule: LearningRule | Sequence[LearningRule],
    data: datasets.Dataset,
    plan: Plan | Sequence[Plan] | None = None,
    *,
    seed: int = 0,
    split: tuple[np.ndarray, np.ndarray] | None = None,
    callback: Callback | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    meter: Meter | None = None,
    test: bool = True,
) -> Result:
    """Train one run: a rule, or stages one after another over the same state.

    Everything random follows from ``seed`` and the number of the step, so equal seeds give two rules equal data order
    and, where shapes agree, equal start values.

    Args:
        rule: one `LearningRule`, or several as stages (``fwdonly.mf.stages``).
        data: images and labels, from `fwdonly.data.load`.
        plan: lengths, stopping and preprocessing; default `Plan()`. One for every stage, where lengths or stopping
            differ between stages.
        seed: of start values, data order and the rule's own randomness.
        split: (training indices, validation indices) into ``data.x_train``; default `fwdonly.data.split`.
        callback: called after every compiled chunk and epoch; a true return value stops the training there. In a sweep
            it may return one truth value per run: those runs end there, and the training goes on.
        checkpoint: file to write about once a minute and on a stop; a resumed run equals an uninterrupted one bit
            for bit, unless it is given another ``cache_gb`` or ``stream``. It knows plan, data, split and seed, and the
            shapes of the state, but not the rule's own options.
        resume: continue from ``checkpoint`` if that file exists.
        meter: reads the energy of the training; everything is compiled before its window begins, and the test lies
            after it. Epochs are its marks. A meter that fails costs the reading, never the training.
        test: False leaves the test set alone: a search for settings must not see it. It is not even copied to the
            device then.

    Raises:
        UsageError: labels outside the classes, a batch larger than the training split, images the network cannot
            take, or a checkpoint that belongs to something else.
    """
    if not 0 <= seed < 2**32:
        raise UsageError(f"a seed lies in 0..2**32-1; got {seed}")
    source = rule if isinstance(rule, LearningRule) else tuple(rule)
    train_indices, val_indices = datasets.split(data) if split is None else split
    return train(
        source,
        data,
        plan,
        how="single",
        seeds=np.asarray(seed, np.uint32),
        hyper={},
        split=(np.asarray(train_indices, np.int32), np.asarray(val_indices, np.int32)),
        callback=callback,
        checkpoint=checkpoint,
        resume=resume,
        meter=meter,
        test=test,
    )


# ---------------------------------------------------------------------------------------------------------------------
# One run, as pure functions


class _Learner(NamedTuple):
    """What a training step changes."""

    state: State
    step: Array  # int32, steps since the start of the run, over all stages; numbers the random streams
    metrics: Metrics  # sums over the steps since the last validation


class _Tracker(NamedTuple):
    """What the end of an epoch changes."""

    kept: State
    kept_epoch: Array
    kept_score: Array
    best_score: Array
    waited: Array
    epoch: Array  # finished in this stage
    order: Array  # (train,) int32, the order in which an epoch takes the images of the training split
    key: Array  # (2,) uint32, the seed's key as plain data: typed keys do not fit into checkpoints
    active: Array
    diverged: Array
    ended: Array  # for good, in this stage and those that follow: it reached the target, or the callback ended it
    stage: Array  # to which the kept state belongs
    hits: Array  # validations in a row that reached the target
    target_epoch: Array


class _Run(NamedTuple):
    """What stays as it is throughout a stage of a run."""

    train: Array  # (train,) int32, indices into the training set
    val: Array  # (validation,) int32, indices into `_Arrays.x`
    example: Array  # (at most EXAMPLES,) int32, likewise: training images spread evenly over the split
    hyper: Mapping[str, Array]
    cache: tuple[Any, Any] | None  # the frozen layers' features of the training and the validation split


class _Arrays(NamedTuple):
    """The data set on the device; of a streamed one, of its training images those that `_Run` points at, no others."""

    x: Array
    y: Array
    x_test: Array
    y_test: Array


class _Job(NamedTuple):
    """Everything static about a stage; equal jobs share compiled programs."""

    source: Source
    plan: Plan
    setup: Setup
    stage: int
    steps: int  # from one validation to the next
    mean: tuple[float, ...]
    sd: tuple[float, ...]


_INIT, _ORDER, _STEP = range(3)  # random streams of a run


def _stream(key: Array, stream: int, number: Array | int) -> Array:
    return jax.random.fold_in(jax.random.fold_in(jax.random.wrap_key_data(key), stream), number)


def _stages(source: Source, hyper: Mapping[str, Array]) -> tuple[LearningRule, ...]:
    """The stages, built inside the traced function so that a new hyperparameter value does not compile anew."""
    made = source if isinstance(source, tuple) else source(**hyper)
    return (made,) if isinstance(made, LearningRule) else tuple(made)


def _images(job: _Job, x: Array) -> Array:
    return datasets.normalise(x, job.mean, job.sd)


def _example(job: _Job, run: _Run, arrays: _Arrays) -> Batch:
    """Training images for shapes, and for rules whose start values depend on data."""
    return Batch(_images(job, arrays.x[run.example]), arrays.y[run.example])


def _start(job: _Job, seed: Array, run: _Run, arrays: _Arrays) -> tuple[_Learner, _Tracker]:
    rule = _stages(job.source, run.hyper)[0]
    key = jax.random.key_data(jax.random.key(seed))
    state = rule.init(_stream(key, _INIT, 0), _example(job, run, arrays).x)
    learner = _Learner(state, jnp.int32(0), {})
    false, zero, inf = jnp.bool_(False), jnp.int32(0), jnp.float32(jnp.inf)
    tracker = _Tracker(state, zero, inf, inf, zero, zero, run.train, key, ~false, false, false, zero, zero, zero)
    return _enter(job, learner, tracker, run, arrays)


def _scores(job: _Job, seed: Array, run: _Run, arrays: _Arrays) -> Array:
    """What the rule predicts at the start, for the shape of it."""
    rule, x = _stages(job.source, run.hyper)[job.stage], _example(job, run, arrays).x
    return rule.predict(rule.init(jax.random.key(seed), x), x)


def _enter(job: _Job, learner: _Learner, tracker: _Tracker, run: _Run, arrays: _Arrays) -> tuple[_Learner, _Tracker]:
    """Begin a stage from the state that was kept."""
    rule = _stages(job.source, run.hyper)[job.stage]
    state = jax.tree.map(jnp.copy, tracker.kept)  # a copy, since the learner's buffers are donated and the kept are not
    shapes = jax.eval_shape(rule.update, state, _example(job, run, arrays), jax.random.key(0))[1]
    learner = learner._replace(state=state, metrics=jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes))
    zero, inf = jnp.int32(0), jnp.float32(jnp.inf)
    return learner, tracker._replace(
        kept_epoch=jnp.where(tracker.ended, tracker.kept_epoch, zero),
        stage=jnp.where(tracker.ended, tracker.stage, job.stage),
        kept_score=inf,
        best_score=inf,
        waited=zero,
        epoch=zero,
        order=_order(job, learner, tracker, run),
        active=~(tracker.diverged | tracker.ended),
        hits=zero,
    )


def _order(job: _Job, learner: _Learner, tracker: _Tracker, run: _Run) -> Array:
    key = _stream(tracker.key, _ORDER, learner.step // job.steps)
    return jax.random.permutation(key, jnp.arange(len(run.train), dtype=jnp.int32))


def _features(job: _Job, state: State, run: _Run, arrays: _Arrays) -> tuple[Any, Any]:
    """The frozen layers' features of the training and the validation split."""
    frozen = _stages(job.source, run.hyper)[job.stage].frozen
    assert frozen is not None

    def part(indices: Array) -> Any:
        def of(at: Array) -> Any:
            return frozen.features(state, _images(job, arrays.x[at]))

        whole = len(indices) // EVALUATION_BATCH * EVALUATION_BATCH
        if whole == 0:
            return of(indices)
        out = jax.lax.map(of, indices[:whole].reshape(-1, EVALUATION_BATCH))
        out = jax.tree.map(lambda a: a.reshape(whole, *a.shape[2:]), out)
        if whole == len(indices):
            return out
        return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), out, of(indices[whole:]))

    return part(run.train), part(run.val)


def _chunk(
    job: _Job,
    count: int,
    learner: _Learner,
    order: Array,
    key: Array,
    active: Array,
    fed: Batch | None,
    run: _Run,
    arrays: _Arrays,
) -> tuple[_Learner, Array]:
    """``count`` training steps, and the mean loss since the last validation; a stopped run is left as is, with NaN.

    ``fed`` are the batches of a streamed set, (count, batch, ...).
    """
    rule, images = _stages(job.source, run.hyper)[job.stage], len(run.train)
    size = job.plan.batch_size or images

    def step(learner: _Learner, fed: Batch | None) -> tuple[_Learner, None]:
        augment_key, rule_key = jax.random.split(_stream(key, _STEP, learner.step))
        first = learner.step % job.steps % (images // size) * size
        # A batch of everything is taken as it lies: no order of it is better, and a copy in another one costs much.
        at = jax.lax.dynamic_slice_in_dim(order, first, size) if size < images else None
        y = arrays.y[run.train if at is None else run.train[at]] if fed is None else fed.y
        if rule.frozen is not None and run.cache is not None:
            h = run.cache[0] if at is None else jax.tree.map(lambda a: a[at], run.cache[0])
            state, metrics = rule.frozen.update(learner.state, Batch(h, y), rule_key)
        else:
            x = arrays.x[run.train if at is None else run.train[at]] if fed is None else fed.x
            if job.plan.augment:
                x = datasets.crop_flip(augment_key, x)
            state, metrics = rule.update(learner.state, Batch(_images(job, x), y), rule_key)
        return _Learner(state, learner.step + 1, jax.tree.map(jnp.add, learner.metrics, metrics)), None

    learner = jax.lax.cond(active, lambda s: jax.lax.scan(step, s, fed, length=count)[0], lambda s: s, learner)
    done = (learner.step - 1) % job.steps + 1
    return learner, jnp.where(active, learner.metrics["loss"] / done, jnp.nan)


def _end_epoch(
    job: _Job, learner: _Learner, tracker: _Tracker, run: _Run, arrays: _Arrays
) -> tuple[_Learner, _Tracker, dict[str, Any]]:
    """Validate, remember the best, decide whether to stop; the third value is the epoch's row of the history."""
    rule, plan = _stages(job.source, run.hyper)[job.stage], job.plan
    y = arrays.y[run.val]

    def steering(state: State, at: Array) -> Array:
        if rule.frozen is not None and run.cache is not None:
            return rule.frozen.validate(state, jax.tree.map(lambda a: a[at], cast(Any, run.cache)[1]))
        return (rule.validate or rule.predict)(state, _images(job, arrays.x[run.val[at]]))

    def close(learner: _Learner, tracker: _Tracker) -> tuple[_Learner, _Tracker, dict[str, Any]]:
        row = {f"train_{k}" if k == "loss" else k: v / job.steps for k, v in learner.metrics.items()}
        row["trained"] = jnp.bool_(True)
        row["val_loss"], row["val_accuracy"] = _evaluate(functools.partial(steering, learner.state), y)
        for name, read in rule.readouts:
            scores = functools.partial(_read, job, read, learner.state, arrays.x, run.val)
            row[f"val_accuracy_{name}"] = _evaluate(scores, y)[1]
        finite = jnp.isfinite(row["train_loss"]) & jnp.isfinite(row["val_loss"])
        row |= {k: jnp.where(finite, v, jnp.nan) for k, v in row.items() if k.startswith("val_accuracy")}
        score = row["val_loss"] if plan.monitor == "loss" else -row["val_accuracy"]
        improved = score < tracker.best_score - plan.min_delta
        waited = jnp.where(improved, 0, tracker.waited + plan.validate_every)
        keep_score = {"best_loss": row["val_loss"], "best_accuracy": -row["val_accuracy"], "last": -jnp.inf}[plan.keep]
        keep = finite & ((keep_score < tracker.kept_score) | (plan.keep == "last"))
        epoch = tracker.epoch + plan.validate_every
        stop = (epoch >= plan.epochs) | (waited >= (plan.patience or plan.epochs + 1))
        hits = jnp.where(row["val_accuracy"] >= (jnp.inf if plan.target is None else plan.target), tracker.hits + 1, 0)
        trained = learner.step // job.steps * plan.validate_every
        tracker = tracker._replace(
            kept=jax.tree.map(lambda new, old: jnp.where(keep, new, old), learner.state, tracker.kept),
            kept_epoch=jnp.where(keep, epoch, tracker.kept_epoch),
            kept_score=jnp.where(keep, keep_score, tracker.kept_score),
            best_score=jnp.where(improved, score, tracker.best_score),
            waited=waited,
            epoch=epoch,
            order=_order(job, learner, tracker, run),
            active=finite & ~stop & (hits < 2),
            diverged=~finite,
            ended=tracker.ended | (hits == 2),
            hits=hits,
            target_epoch=jnp.where(hits == 2, trained - plan.validate_every, tracker.target_epoch),
        )
        return learner._replace(metrics=jax.tree.map(jnp.zeros_like, learner.metrics)), tracker, row

    def skip(learner: _Learner, tracker: _Tracker) -> tuple[_Learner, _Tracker, dict[str, Any]]:
        row = jax.eval_shape(close, learner, tracker)[2]
        missing = {name: jnp.full(s.shape, jnp.nan, s.dtype) for name, s in row.items() if name != "trained"}
        return learner, tracker, missing | {"trained": jnp.bool_(False)}

    return jax.lax.cond(tracker.active, close, skip, learner, tracker)


def _final(job: _Job, tests: bool, kept: State, run: _Run, arrays: _Arrays) -> dict[str, Any]:
    """The metrics of the kept state on the validation split and, if ``tests``, on the test set, read only here."""
    rule, out = _stages(job.source, run.hyper)[job.stage], {}
    everything = jnp.arange(len(arrays.y_test), dtype=jnp.int32)
    parts = [("val", arrays.x, arrays.y[run.val], run.val), ("test", arrays.x_test, arrays.y_test, everything)]
    for part, x, y, indices in parts if tests else parts[:1]:
        for name, read in (("", rule.predict), *rule.readouts):
            loss, accuracy = _evaluate(functools.partial(_read, job, read, kept, x, indices), y)
            out.setdefault(name, {}).update({f"{part}_loss": loss, f"{part}_accuracy": accuracy})
    return out


def _read(job: _Job, read: Callable[[State, Array], Array], state: State, x: Array, indices: Array, at: Array) -> Array:
    """The scores of the images at positions ``at`` of ``indices``."""
    return read(state, _images(job, x[indices[at]]))


def _evaluate(scores: Callable[[Array], Array], y: Array) -> tuple[Array, Array]:
    """Mean cross-entropy (nats) and accuracy (0..1) of ``scores``, a function of positions, against labels ``y``."""
    size = min(EVALUATION_BATCH, len(y))
    batches = -(-len(y) // size)
    real = jnp.arange(batches * size) < len(y)
    padded = jnp.where(real, jnp.arange(batches * size, dtype=jnp.int32), 0)

    def add(sums: tuple[Array, Array], at_real: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
        at, real = at_real
        found = scores(at)
        log_p = jax.nn.log_softmax(found.astype(jnp.float32))
        nats = -jnp.take_along_axis(log_p, y[at][:, None], axis=1)[:, 0]
        right = found.argmax(axis=1) == y[at]
        return (sums[0] + jnp.sum(jnp.where(real, nats, 0.0)), sums[1] + jnp.sum(right & real, dtype=jnp.int32)), None

    both = padded.reshape(batches, size), real.reshape(batches, size)
    (loss, right), _ = jax.lax.scan(add, (jnp.float32(0), jnp.int32(0)), both)
    return loss / len(y), right / len(y)


def _chunk_sizes(steps: int, limit: int) -> list[int]:
    """Split steps into chunks of at most ``limit`` steps, equal ones if they need not be too short for that."""
    if steps == 0:  # an epoch left after its last step, before its validation
        return []
    divisor = max(size for size in range(1, min(limit, steps) + 1) if steps % size == 0)
    if 2 * divisor >= min(limit, steps):
        return [divisor] * (steps // divisor)
    return [limit] * (steps // limit) + ([steps % limit] if steps % limit else [])


# ---------------------------------------------------------------------------------------------------------------------
# The host loop


def train(
    source: Source,
    data: datasets.Dataset,
    plan: Plan | Sequence[Plan] | None,
    *,
    how: Lift,
    seeds: np.ndarray,
    hyper: Mapping[str, np.ndarray],
    split: tuple[np.ndarray, np.ndarray],
    callback: Callback | None,
    checkpoint: str | Path | None,
    resume: bool,
    meter: Meter | None,
    test: bool,
    devices: int | None = None,
    runs: tuple[int, int, int] = (0, 1, 1),
    must_fit: bool = False,
) -> Result:
    """The loop behind `fit` and `fwdonly.sweep`; arguments as there, every array with its runs axis already on.

    ``runs`` are the first and last of these runs, and the number of all, in a sweep of several groups; with
    ``must_fit`` they are refused if their programs ask for more memory than there is.

    Raises:
        DoesNotFit: they do.
    """
    if not test:
        data = dataclasses.replace(data, x_test=data.x_test[:0], y_test=data.y_test[:0])
    if 0 in (split[0].shape[-1], split[1].shape[-1], len(data.y_test) if test else 1):
        raise UsageError(
            f"{data.name} needs images to train on, to validate and to test; give a split and a data set that have some"
        )
    for name, y in (("training", data.y_train), ("test", data.y_test)):
        if len(y) and (y.min() < 0 or y.max() >= data.num_classes):
            raise UsageError(
                f"{name} labels of {data.name} must lie in 0..{data.num_classes - 1}; found {y.min()}..{y.max()}; "
                "correct the labels or num_classes"
            )
    check_classes(data, split[0])
    count = len(_stages(source, {name: jnp.asarray(value).ravel()[0] for name, value in hyper.items()}))
    if count == 0:
        raise UsageError("there is nothing to train: the sequence of stages is empty")
    _check_split(split, len(data.y_train))
    plans = _plans(plan, count)
    steps = plans[0].validate_every * steps_per_epoch(plans[0], split[0].shape[-1])
    mean, sd = datasets.statistics(data, plans[0].normalise)
    programs.check_precision(plans[0].precision)
    setup = Setup(how, None if how == "single" else programs.mesh_of(len(seeds), devices), plans[0].precision)
    jobs = [_Job(source, plan, setup, stage, steps, mean, sd) for stage, plan in enumerate(plans)]
    padding = 0 if how == "single" else -len(seeds) % setup.devices
    pad = functools.partial(_pad, padding)
    streamed = plans[0].stream
    if streamed is None:
        free = programs.free_bytes()
        streamed = plans[0].batch_size is not None and free is not None and data.x_train.nbytes > free / 2
    x, y, val = data.x_train, data.y_train, split[1]
    example = split[0][..., :: max(1, split[0].shape[-1] // EXAMPLES)][..., :EXAMPLES]
    feeder = None
    if streamed:
        feeder = streams.Feeder(x, y, pad(split[0]), cast(int, plans[0].batch_size), setup)
        rows = np.unique(np.concatenate([example, val], axis=None))
        x, y = x[rows], y[rows]
        val, example = (np.searchsorted(rows, part).astype(np.int32) for part in (val, example))
    run = setup.place(jax.tree.map(pad, _Run(*cast(Any, (split[0], val, example, dict(hyper), None)))))
    arrays = setup.share(_Arrays(*cast(Any, (x, y, data.x_test, data.y_test))))
    fingerprint = {
        "how": how,
        "split": hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in split)).hexdigest()[:16],
        "plan": [dataclasses.asdict(plan) | dict.fromkeys(_WHERE) for plan in plans],
        "seeds": seeds.tolist(),
        "hyper": {name: value.tolist() for name, value in sorted(hyper.items())},
        "data": data.digest,
        "stages": count,
    }
    start = (setup.place(pad(seeds)), run, arrays)
    with one_line():
        classes = _shapes(_scores, jobs[-1], *start).shape[-1]
    if classes != data.num_classes:
        raise UsageError(f"the rule scores {classes} classes and {data.name} has {data.num_classes}; set num_classes")
    host = _Host(callback, checkpoint, fingerprint, plans, meter, setup, feeder, runs, padding)
    resumed = resume and checkpoint is not None and Path(checkpoint).exists()
    if resumed:
        learner, tracker = host.restore(jobs, start)
    else:
        learner, tracker = host.run(_start, jobs[0], *start)
    tracker = host.end_runs(tracker)
    jax.block_until_ready((learner, tracker))
    host.prepare(jobs, learner, tracker, run, arrays, must_fit=must_fit)
    with contextlib.nullcontext() if meter is None else meter.window("training") as host.window:
        learner, tracker, stopped = _loop(host, jobs, learner, tracker, run, arrays)
        if host.window is not None:
            host.window.idle_after = not stopped
            if not stopped:  # before the wait for idle power, which somebody may interrupt
                host.save(learner, tracker)
    energy = None if host.window is None else host.window.reading
    if energy is not None and resumed:
        last = f"this reading has its last {energy.seconds.value:.1f} s alone"
        energy = energy.without(f"the training was resumed; {last}")
    # Asked to stop at the very end: there is nothing left to stop.
    stopped = stopped and (host.stage < count - 1 or bool(host.active.any()))

    diverged, kept_epoch = host.see(tracker.diverged), host.see(tracker.kept_epoch)
    tested, stage_of = test and not stopped, host.see(tracker.stage)
    rules, final = _stages(source, jax.tree.map(lambda a: a.ravel()[0], run.hyper)), {}
    for stage in np.unique(stage_of).tolist():  # more than one where runs reached the target in different stages
        if tested or rules[stage].validate is not None or rules[stage].frozen is not None:
            found = host.run(_final, jobs[stage], tracker.kept, run, arrays, static=(tested,))
        else:
            found = host.kept_rows(stage, kept_epoch)
        for name, metrics in found.items():
            for metric, value in metrics.items():
                before = final.setdefault(name, {}).get(metric, np.full(stage_of.shape, np.nan))
                final[name][metric] = np.where(stage_of == stage, host.see(value), before)
    untested = dict.fromkeys(("test_loss", "test_accuracy"), np.full(seeds.shape, np.nan))
    final = {name: untested | found for name, found in final.items()}
    measured = final.pop("")
    readouts = {name: {k: v for k, v in found.items() if "accuracy" in k} for name, found in final.items()}
    if not stopped:
        host.save(learner, tracker)

    def unless_diverged(value: Any) -> np.ndarray:
        return np.asarray(np.where(diverged, np.nan, value))

    return Result(
        state=jax.tree.map(lambda a: a[host.real], tracker.kept) if padding else tracker.kept,
        history=_history(host.rows),
        epochs=np.asarray(host.see(learner.step) // steps * plans[0].validate_every),
        kept_epoch=kept_epoch,
        target_epoch=host.see(tracker.target_epoch),
        diverged=diverged,
        finished=not stopped,
        compile_seconds=host.compiled_before + host.run.compile_seconds,
        train_seconds=host.seconds,
        features_kept=tuple(host.features_kept.get(stage, False) for stage in range(count)),
        energy=energy,
        run_bytes=host.run_bytes,
        streamed=streamed,
        precision=plans[0].precision,
        readouts=jax.tree.map(unless_diverged, readouts),
        **{name: unless_diverged(value) for name, value in measured.items()},
    )


def _loop(
    host: "_Host", jobs: list[_Job], learner: _Learner, tracker: _Tracker, run: _Run, arrays: _Arrays
) -> tuple[_Learner, _Tracker, bool]:
    """Train from where the host stands to the end, or until the callback asks to stop; the third value says so."""
    stopped = False
    while True:
        job = jobs[host.stage]
        host.enter(job, tracker)
        host.start_clock()
        run = run._replace(cache=host.keep_features(job, tracker, run, arrays))
        host.stop_clock()
        while host.active.any() and not stopped:
            host.start_clock()
            sizes = _chunk_sizes(job.steps - host.step, host.longest(job, run))
            for size, fed in zip(sizes, host.feed(tracker, sizes), strict=False):  # a stopped one is fed no further
                order, key, active = tracker.order, tracker.key, tracker.active
                learner, loss = host.run(
                    _chunk, job, learner, order, key, active, fed, run, arrays, static=(size,), donate=(0,)
                )
                # Waits for the chunk before this one only, so that the device always has the next chunk to work on.
                stopped = host.tell_chunk(size, loss)
                tracker = host.end_runs(tracker)
                if stopped or host.checkpoint_due():
                    host.pause(learner, tracker)
                if stopped:
                    break
            else:
                learner, tracker, row = host.run(_end_epoch, job, learner, tracker, run, arrays, donate=(0, 1))
                stopped = host.tell_epoch(tracker, row)
                tracker = host.end_runs(tracker)
                if stopped or host.checkpoint_due():
                    host.pause(learner, tracker)
        run = run._replace(cache=None)  # before the next one is made: there may be room for one of them only
        if stopped or host.stage == len(jobs) - 1:
            return learner, tracker, stopped
        host.stage += 1
        learner, tracker = host.run(_enter, jobs[host.stage], learner, tracker, run, arrays)


def _plans(plan: Plan | Sequence[Plan] | None, stages: int) -> tuple[Plan, ...]:
    """One plan per stage."""
    plans = (plan or Plan(),) * stages if plan is None or isinstance(plan, Plan) else tuple(plan)
    if len(plans) != stages:
        raise UsageError(f"there are {len(plans)} plans for {stages} stages; give one plan, or one for each stage")
    for name in ("batch_size", "normalise", "augment", "validate_every", "precision", "stream"):
        found = {getattr(one, name) for one in plans}
        if len(found) > 1:
            raise UsageError(f"all stages need the same {name}; the plans have {sorted(map(str, found))}")
    return plans


def steps_per_epoch(plan: Plan, images: int) -> int:
    """Steps in a pass over ``images`` training images.

    Raises:
        UsageError: a batch is larger than that.
    """
    if (plan.batch_size or 1) > images:
        raise UsageError(
            f"a batch of {plan.batch_size} images is larger than the training split of {images}; "
            "use a smaller batch size"
        )
    return images // plan.batch_size if plan.batch_size else 1


def _wait(array: Array) -> None:
    """Wait for the device in Python, so that a Ctrl-C is noticed at once and not when the array is ready."""
    while not cast(Any, array).is_ready():
        time.sleep(0.002)


def _pad(padding: int, a: np.ndarray) -> np.ndarray:
    """With copies of the last run, which the loop ends at once, so that every device has as many runs."""
    return np.concatenate([a, np.repeat(a[-1:], padding, axis=0)]) if padding else a


def _shapes(f: Callable[..., Any], job: _Job, *args: Any) -> Any:
    """What ``f(job, ...)`` gives for these runs."""
    return jax.eval_shape(programs.lift(functools.partial(f, job), job.setup._replace(mesh=None)), *args)


class DoesNotFit(Exception):
    """A group of runs needs more memory than there is; ``runs`` would fit."""

    def __init__(self, runs: int) -> None:
        super().__init__(f"{runs} runs fit")
        self.runs = runs


class _Host:
    """Where the training stands, as the host knows it: position, history, clock, callback and checkpoint."""

    def __init__(
        self,
        callback: Callback | None,
        checkpoint: str | Path | None,
        fingerprint: dict[str, Any],
        plans: tuple[Plan, ...],
        meter: Meter | None,
        setup: Setup,
        feeder: streams.Feeder | None,
        runs: tuple[int, int, int],
        padding: int,
    ) -> None:
        self.callback, self.checkpoint, self.fingerprint, self.plans = callback, checkpoint, fingerprint, plans
        self.meter, self.setup, self.feeder, self.runs, self.padding = meter, setup, feeder, runs, padding
        self.real = slice(runs[1] - runs[0]) if padding else ...
        self.run_bytes: int | None = None
        self.window: Window | None = None
        self.run = programs.Programs()
        self.stage = self.epoch = self.step = 0
        self.features_kept: dict[int, bool] = {}  # by stage; a resumed run does as it did before
        self.rows: list[dict[str, np.ndarray]] = []
        self.active = np.asarray(True)
        self.ending: np.ndarray | None = None  # runs that the callback has asked to end
        if padding:
            self.ending = np.zeros(runs[1] - runs[0], bool)  # those that only fill the last device end at once
        self.pending: tuple[int, Array] | None = None
        self.seconds = self.compiled_before = 0.0
        self.saved_at = time.perf_counter()
        if checkpoint is not None:
            checkpoints.check_writable(checkpoint)

    def see(self, array: Any) -> np.ndarray:
        """Values of the runs, without those that only fill the last device."""
        return np.asarray(array)[self.real]

    def feed(self, tracker: _Tracker, sizes: Sequence[int]) -> Iterator[Batch | None]:
        """The batches of the chunks that follow, where they do not lie on the device."""
        if self.feeder is None:
            return iter([None] * len(sizes))
        return self.feeder.blocks(np.asarray(tracker.order), self.step, sizes)

    def longest(self, job: _Job, run: _Run) -> int:
        """Steps per compiled call, at most. A full batch that passes through the frozen layers again is a long step."""
        if self.feeder is not None:
            return min(self.feeder.longest(), job.plan.chunk_steps)
        return 1 if job.plan.batch_size is None and run.cache is None else job.plan.chunk_steps

    def enter(self, job: _Job, tracker: _Tracker) -> None:
        """Take up a stage, at its start or where a checkpoint left it."""
        self.job, self.active = job, self.see(tracker.active)
        self.per_epoch = job.steps // job.plan.validate_every
        self.epoch = int(np.asarray(tracker.epoch).max())

    def prepare(
        self, jobs: list[_Job], learner: Any, tracker: Any, run: _Run, arrays: _Arrays, *, must_fit: bool
    ) -> None:
        """Compile what the stages from here on will run, so that neither clock nor meter sees a compilation."""
        step = self.step
        if self.stage == len(jobs) - 1 and not np.asarray(tracker.active).any():
            return  # a finished training, resumed
        features = blocks = 0  # bytes: of all runs' features, and of all runs' batches on their way
        for job in jobs[self.stage :]:
            if job.stage > self.stage:
                entered = self.run.prepare(_enter, job, learner, tracker, run, arrays).out_info
                learner, tracker = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype), entered)
            own = run
            if self.keeps_features(job, tracker, run, arrays):
                own = run._replace(cache=self.run.prepare(_features, job, tracker.kept, run, arrays).out_info)
                features = max(features, programs.tree_bytes(own.cache))
            order, key, active = tracker.order, tracker.key, tracker.active
            for size in {size for at in {step, 0} for size in _chunk_sizes(job.steps - at, self.longest(job, own))}:
                fed = None if self.feeder is None else self.feeder.shapes(size)
                blocks = max(blocks, streams.BLOCKS * programs.tree_bytes(fed))
                given = learner, order, key, active, fed, own, arrays
                self.run.prepare(_chunk, job, *given, static=(size,), donate=(0,))
            self.run.prepare(_end_epoch, job, learner, tracker, own, arrays, donate=(0, 1))
            step = 0
        self.check_memory(programs.tree_bytes((learner, tracker, run)), features, blocks, must_fit)

    def check_memory(self, held: int, features: int, blocks: int, must_fit: bool) -> None:
        """Note what a run takes, and whether there is so much: of all runs ``held`` bytes are there already, and those
        of ``features`` and of streamed ``blocks`` will come. Blocks of fewer runs are longer, and not smaller.

        Raises:
            DoesNotFit: there is not, and fewer runs would do.
        """
        working = self.run.working_bytes()
        if working is None or self.setup.how == "single":
            return
        count, devices, together = self.runs[1] - self.runs[0], self.setup.devices, self.setup.how == "vmap"
        on_device = (count + self.padding) // devices
        per_run = (held + features) / devices / on_device + (working / on_device if together else 0.0)
        self.run_bytes = round(per_run)
        free = programs.free_bytes()
        if free is None or not must_fit or count == 1:
            return
        free /= devices if jax.default_backend() == "cpu" else 1
        if working + (features + blocks) / devices > free:
            shared = blocks / devices + (0 if together else working)
            fit = int((free + held / devices - shared) // per_run) * devices
            raise DoesNotFit(min(max(fit, 1), count - 1))

    def keeps_features(self, job: _Job, tracker: Any, run: _Run, arrays: _Arrays) -> bool:
        """Whether features of frozen layers are kept: there are any, the images stay as they are, and they fit."""
        first_run = jax.tree.map(lambda a: jnp.asarray(a).ravel()[0], run.hyper)
        if job.plan.augment or self.feeder is not None or _stages(job.source, first_run)[job.stage].frozen is None:
            return False
        room = job.plan.cache_gb
        fits = self.features_kept.get(job.stage) if room is None else None
        if fits is None:
            need = programs.tree_bytes(_shapes(_features, job, tracker.kept, run, arrays))
            free = (programs.free_bytes() or 0) * (1 if jax.default_backend() == "cpu" else job.setup.devices)
            fits = need <= (free / 2 if room is None else 1e9 * room)
        self.features_kept[job.stage] = fits
        return fits

    def keep_features(self, job: _Job, tracker: _Tracker, run: _Run, arrays: _Arrays) -> tuple[Any, Any] | None:
        """The features of the frozen layers, where they are kept."""
        if not self.active.any() or not self.keeps_features(job, tracker, run, arrays):
            return None
        features = self.run(_features, job, tracker.kept, run, arrays)
        for leaf in jax.tree.leaves(features):
            _wait(leaf)
        return features

    def tell_chunk(self, size: int, loss: Array) -> bool:
        """Note a chunk that is under way, wait for the one before it and report that; true if asked to stop."""
        self.step += size
        done, self.pending = self.pending, (self.step, loss)
        if done is None:
            return False
        _wait(done[1])
        self.stop_clock()
        if self.meter is not None:
            self.meter.sample()
        return self.tell(done[0], self.see(done[1]))

    def tell_epoch(self, tracker: _Tracker, row: dict[str, Array]) -> bool:
        """Wait for the end of an epoch, add its row to the history and report it; true if asked to stop."""
        _wait(tracker.active)
        self.epoch += self.job.plan.validate_every
        self.stop_clock()
        position = {"stage": self.stage, "epoch": self.epoch, "seconds": self.seconds}
        own = {name: self.see(value) for name, value in row.items()}
        self.rows.append({name: np.asarray(value) for name, value in (position | own).items()})
        self.active, self.pending = self.see(tracker.active), None
        self.step = 0
        if self.window is not None:
            self.window.mark(
                f"stage {self.stage + 1} epoch {self.epoch}" if len(self.plans) > 1 else f"epoch {self.epoch}"
            )
        return self.tell(0, self.rows[-1]["train_loss"], self.rows[-1])

    def tell(self, step: int, loss: np.ndarray, row: dict[str, np.ndarray] | None = None) -> bool:
        """Call the callback; true if it asks to stop."""
        if self.callback is None:
            return False
        epoch, step = self.epoch + step // self.per_epoch, step % self.per_epoch
        position = (self.stage, tuple(plan.epochs for plan in self.plans), epoch, step, self.per_epoch)
        asked = self.callback(Progress(*position, self.seconds, loss, self.active, row, self.runs))
        if not isinstance(asked, np.ndarray):
            return bool(asked)
        self.ending = np.asarray(asked, bool)
        if self.ending.shape != self.active.shape:
            raise UsageError(
                f"the callback may end single runs by {self.active.shape} truth values; it gave {self.ending.shape}"
            )
        return False

    def end_runs(self, tracker: _Tracker) -> _Tracker:
        """End the runs that the callback has asked to end."""
        ending, self.ending = self.ending, None
        if ending is None:
            return tracker
        self.active = self.active & ~ending
        ending = np.concatenate([ending, np.ones(self.padding, bool)]) if self.padding else ending
        active, ended = self.setup.place((tracker.active & ~ending, tracker.ended | ending))
        return tracker._replace(active=active, ended=ended)

    def kept_rows(self, stage: int, kept_epoch: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
        """What the history says of the kept state's validation, in the form of `_final`; NaN before the first one."""
        of_stage = {int(row["epoch"]): row for row in self.rows if row["stage"] == stage}
        names = dict.fromkeys(n for row in of_stage.values() for n in row if n.startswith("val_"))
        found: dict[str, dict[str, np.ndarray]] = {"": {}}
        for name in names or ("val_loss", "val_accuracy"):
            value = np.full(kept_epoch.shape, np.nan)
            for epoch, row in of_stage.items():
                value = np.where(kept_epoch == epoch, row[name], value)
            metric = name if name in ("val_loss", "val_accuracy") else "val_accuracy"
            found.setdefault(name.removeprefix("val_accuracy_") if metric != name else "", {})[metric] = value
        return found

    def start_clock(self) -> None:
        self.clock = time.perf_counter(), self.run.compile_seconds

    def stop_clock(self) -> None:
        """Add the time since the clock was started, less what was spent on compilation."""
        began, compiled = self.clock
        now = time.perf_counter()
        self.seconds += now - began - (self.run.compile_seconds - compiled)
        self.clock = now, self.run.compile_seconds

    def pause(self, learner: _Learner, tracker: _Tracker) -> None:
        """Wait for the steps under way and save, off the clock."""
        _wait(learner.step)
        self.stop_clock()
        self.save(learner, tracker)
        self.start_clock()

    def checkpoint_due(self) -> bool:
        return time.perf_counter() - self.saved_at > CHECKPOINT_SECONDS

    def save(self, learner: _Learner, tracker: _Tracker) -> None:
        """Write the checkpoint, if there is to be one."""
        if self.checkpoint is None:
            return
        meta = {
            "fingerprint": self.fingerprint,
            "stage": self.stage,
            "step": self.step,
            "features_kept": list(self.features_kept.items()),
            "train_seconds": self.seconds,
            "compile_seconds": self.compiled_before + self.run.compile_seconds,
            "rows": [{name: (value.tolist(), str(value.dtype)) for name, value in row.items()} for row in self.rows],
        }
        checkpoints.save(self.checkpoint, jax.tree.map(self.see, (learner, tracker)), meta)
        self.saved_at = time.perf_counter()

    def restore(self, jobs: list[_Job], start: tuple) -> tuple[_Learner, _Tracker]:
        """Read the checkpoint; ``start`` are the arguments with which the training would begin."""
        assert self.checkpoint is not None
        meta = checkpoints.read_meta(self.checkpoint)
        _check_fingerprint(self.checkpoint, meta.get("fingerprint", {}), self.fingerprint)
        self.stage, self.step = meta["stage"], meta["step"]
        self.features_kept = dict(meta["features_kept"])
        self.seconds, self.compiled_before = meta["train_seconds"], meta["compile_seconds"]
        self.rows = [{name: np.asarray(value, dtype) for name, (value, dtype) in row.items()} for row in meta["rows"]]
        shapes = _shapes(_start, jobs[0], *start)
        shapes = _shapes(_enter, jobs[self.stage], *shapes, *start[1:])
        if not self.padding:
            return self.setup.place(checkpoints.load(self.checkpoint, shapes))
        shapes = jax.tree.map(
            lambda s: jax.ShapeDtypeStruct((s.shape[0] - self.padding, *s.shape[1:]), s.dtype), shapes
        )
        saved = checkpoints.load(self.checkpoint, shapes)
        return self.setup.place(jax.tree.map(functools.partial(_pad, self.padding), saved))


def check_classes(data: datasets.Dataset, train: np.ndarray) -> None:
    """Refuse training images, by their indices (n,) or (runs, n), that are all of one class.

    Raises:
        UsageError: they are.
    """
    for indices in np.atleast_2d(train):
        y = data.y_train[indices[(indices >= 0) & (indices < len(data.y_train))]]
        if len(y) and (y == y[0]).all():
            raise UsageError(
                f"every training image of {data.name} has label {y[0]}; training needs images of at least two classes"
            )


def _check_split(split: tuple[np.ndarray, np.ndarray], images: int) -> None:
    for train, val in zip(*map(np.atleast_2d, split), strict=True):
        both = np.concatenate([train, val])
        if both.min() < 0 or both.max() >= images:
            raise UsageError(
                f"a split index lies outside the training images 0..{images - 1}: {both.min()}..{both.max()}"
            )
        if len(np.unique(both)) != len(both):
            raise UsageError("the split uses an image twice; training and validation indices must all differ")


def _check_fingerprint(path: str | Path, found: dict[str, Any], expected: dict[str, Any]) -> None:
    differing = [name for name in expected if found.get(name) != expected[name]]
    if differing:
        name = differing[0]
        raise UsageError(
            f"the checkpoint {path} belongs to another training: its {name} is {found.get(name)}, here it is "
            f"{expected[name]}; repeat the earlier settings, or give another output folder"
        )


def _history(rows: list[dict[str, np.ndarray]]) -> dict[str, Any]:
    """Columns from rows, NaN where a stage does not have them; values per layer stay a list, since stages differ."""
    columns: dict[str, Any] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        per_layer = any(row[name].ndim > row["train_loss"].ndim for row in rows if name in row)
        values = [
            row.get(name, np.full(row["train_loss"].shape + (0,) * per_layer, np.nan, np.float32)) for row in rows
        ]
        columns[name] = values if per_layer else np.stack(values)
    return columns
