"""One run as arrays: what it holds, how it starts, and how it enters a stage."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .. import data as datasets
from ..base import Batch, LearningRule, Metrics, State
from ..errors import UsageError, short
from .plan import Plan
from .programs import Setup

EVALUATION_BATCH = 500
"""Images that pass through the network together where nothing is trained."""

EXAMPLES = 1024
"""Training images that start values may depend on."""


Source = LearningRule | tuple[LearningRule, ...] | Callable[..., Any]
"""A rule, its stages, or a function of the numeric hyperparameters that returns one of these."""


class Learner(NamedTuple):
    """What a training step changes."""

    state: State
    step: Array  # int32, steps since the start of the run, over all stages; numbers the random streams
    metrics: Metrics  # sums over the steps since the last validation


class Tracker(NamedTuple):
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


class Run(NamedTuple):
    """What stays as it is throughout a stage of a run."""

    train: Array  # (train,) int32, indices into the training set
    val: Array  # (validation,) int32, indices into `Arrays.x`
    example: Array  # (at most EXAMPLES,) int32, likewise: training images spread evenly over the split
    hyper: Mapping[str, Array]
    cache: tuple[Any, Any] | None  # the frozen layers' features of the training and the validation split


class Arrays(NamedTuple):
    """The data set on the device; of a streamed one, of its training images those that `Run` points at, no others."""

    x: Array
    y: Array
    x_test: Array
    y_test: Array


class Job(NamedTuple):
    """Everything static about a stage; equal jobs share compiled programs."""

    source: Source
    plan: Plan
    setup: Setup
    stage: int
    steps: int  # from one validation to the next
    mean: tuple[float, ...]
    sd: tuple[float, ...]


INIT, ORDER, STEP = range(3)
"""Random streams of a run."""


def stream_key(key: Array, stream: int, number: Array | int) -> Array:
    return jax.random.fold_in(jax.random.fold_in(jax.random.wrap_key_data(key), stream), number)


def stages_of(source: Source, hyper: Mapping[str, Array]) -> tuple[LearningRule, ...]:
    """The stages, built inside the traced function so that a new hyperparameter value does not compile anew."""
    rules = source if isinstance(source, tuple) else source(**hyper)
    stages = rules if isinstance(rules, Sequence) and not isinstance(rules, LearningRule) else (rules,)
    for stage in stages:
        if not isinstance(stage, LearningRule):
            raise UsageError(
                "a rule is a LearningRule, such as mf.rule(net, tx, num_classes=10), a sequence of such stages, or a "
                f"function that makes one; got {short(stage)[:60]}"
            )
    return tuple(stages)


def normalised(job: Job, x: Array) -> Array:
    """As the network takes it, from uint8 pixels or float features."""
    scale = datasets.normalise if x.dtype == jnp.uint8 else datasets.standardise
    return scale(x, job.mean, job.sd)


def example_batch(job: Job, run: Run, arrays: Arrays) -> Batch:
    """Training images for shapes, and for rules whose start values depend on data."""
    return Batch(normalised(job, arrays.x[run.example]), arrays.y[run.example])


def start_run(job: Job, seed: Array, run: Run, arrays: Arrays) -> tuple[Learner, Tracker]:
    rule = stages_of(job.source, run.hyper)[0]
    key = jax.random.key_data(jax.random.key(seed))
    state = rule.init(stream_key(key, INIT, 0), example_batch(job, run, arrays).x)
    learner = Learner(state, jnp.int32(0), {})
    false, zero, inf = jnp.bool_(False), jnp.int32(0), jnp.float32(jnp.inf)
    tracker = Tracker(state, zero, inf, inf, zero, zero, run.train, key, ~false, false, false, zero, zero, zero)
    return enter_stage(job, learner, tracker, run, arrays)


def start_scores(job: Job, seed: Array, run: Run, arrays: Arrays) -> Array:
    """What the rule predicts at the start, for the shape of it."""
    rule, x = stages_of(job.source, run.hyper)[job.stage], example_batch(job, run, arrays).x
    return rule.predict(rule.init(jax.random.key(seed), x), x)


def enter_stage(job: Job, learner: Learner, tracker: Tracker, run: Run, arrays: Arrays) -> tuple[Learner, Tracker]:
    """Begin a stage from the state that was kept."""
    rule = stages_of(job.source, run.hyper)[job.stage]
    state = jax.tree.map(jnp.copy, tracker.kept)  # a copy, since the learner's buffers are donated and the kept are not
    batch = jax.tree.map(lambda a: a[: job.plan.batch_size], example_batch(job, run, arrays))
    shapes = jax.eval_shape(rule.update, state, batch, jax.random.key(0))[1]
    learner = learner._replace(state=state, metrics=jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes))
    zero, inf = jnp.int32(0), jnp.float32(jnp.inf)
    return learner, tracker._replace(
        kept_epoch=jnp.where(tracker.ended, tracker.kept_epoch, zero),
        stage=jnp.where(tracker.ended, tracker.stage, job.stage),
        kept_score=inf,
        best_score=inf,
        waited=zero,
        epoch=zero,
        order=draw_order(job, learner, tracker, run),
        active=~(tracker.diverged | tracker.ended),
        hits=zero,
    )


def draw_order(job: Job, learner: Learner, tracker: Tracker, run: Run) -> Array:
    key = stream_key(tracker.key, ORDER, learner.step // job.steps)
    return jax.random.permutation(key, jnp.arange(len(run.train), dtype=jnp.int32))


def frozen_features(job: Job, state: State, run: Run, arrays: Arrays) -> tuple[Any, Any]:
    """The frozen layers' features of the training and the validation split."""
    frozen = stages_of(job.source, run.hyper)[job.stage].frozen
    assert frozen is not None

    def part(indices: Array) -> Any:
        def of(at: Array) -> Any:
            return frozen.features(state, normalised(job, arrays.x[at]))

        whole = len(indices) // EVALUATION_BATCH * EVALUATION_BATCH
        if whole == 0:
            return of(indices)
        out = jax.lax.map(of, indices[:whole].reshape(-1, EVALUATION_BATCH))
        out = jax.tree.map(lambda a: a.reshape(whole, *a.shape[2:]), out)
        if whole == len(indices):
            return out
        return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), out, of(indices[whole:]))

    return part(run.train), part(run.val)
