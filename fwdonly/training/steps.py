"""What compiled programs do for one run: a chunk of steps, the end of an epoch, the final metrics."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .. import data as datasets
from ..base import Batch, State, for_prediction
from .run import (
    EVALUATION_BATCH,
    STEP,
    Arrays,
    Job,
    Learner,
    Run,
    Tracker,
    draw_order,
    normalised,
    stages_of,
    stream_key,
)


class Feed(NamedTuple):
    """What a chunk of steps reads of the tracker, and the batches of a streamed set."""

    order: Array
    key: Array
    active: Array
    batches: Batch | None
    """(count, batch, ...)."""


def chunk(job: Job, count: int, learner: Learner, feed: Feed, run: Run, arrays: Arrays) -> tuple[Learner, Array]:
    """``count`` training steps, and the mean loss since the last validation; a stopped run is left as is, with NaN."""
    order, key, active, fed = feed
    rule, images = stages_of(job.source, run.hyper)[job.stage], len(run.train)
    size = job.plan.batch_size or images

    def step(learner: Learner, fed: Batch | None) -> tuple[Learner, None]:
        augment_key, rule_key = jax.random.split(stream_key(key, STEP, learner.step))
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
            state, metrics = rule.update(learner.state, Batch(normalised(job, x), y), rule_key)
        return Learner(state, learner.step + 1, jax.tree.map(jnp.add, learner.metrics, metrics)), None

    learner = jax.lax.cond(active, lambda s: jax.lax.scan(step, s, fed, length=count)[0], lambda s: s, learner)
    done = (learner.step - 1) % job.steps + 1
    return learner, jnp.where(active, learner.metrics["loss"] / done.astype(jnp.float32), jnp.nan)


def end_epoch(
    job: Job, learner: Learner, tracker: Tracker, run: Run, arrays: Arrays
) -> tuple[Learner, Tracker, dict[str, Any]]:
    """Validate, remember the best, decide whether to stop; the third value is the epoch's row of the history."""
    rule, plan = stages_of(job.source, run.hyper)[job.stage], job.plan
    y = arrays.y[run.val]

    def steering(state: State, at: Array) -> Array:
        if rule.frozen is not None and run.cache is not None:
            return rule.frozen.validate(state, jax.tree.map(lambda a: a[at], cast(Any, run.cache)[1]))
        return (rule.validate or rule.predict)(state, normalised(job, arrays.x[run.val[at]]))

    def close(learner: Learner, tracker: Tracker) -> tuple[Learner, Tracker, dict[str, Any]]:
        predicting = for_prediction(learner.state)
        row = {f"train_{k}" if k == "loss" else k: v / job.steps for k, v in learner.metrics.items()}
        row["trained"] = jnp.bool_(True)
        row["val_loss"], row["val_accuracy"] = evaluate(functools.partial(steering, predicting), y)
        if plan.layer_accuracy and rule.layer_scores is not None:
            scores = functools.partial(read_scores, job, rule.layer_scores, predicting, arrays.x, run.val)
            row["layer_accuracy"] = layer_accuracy(scores, y)
        finite = jnp.isfinite(row["train_loss"]) & jnp.isfinite(row["val_loss"])
        row |= {k: jnp.where(finite, v, jnp.nan) for k, v in row.items() if "_accuracy" in k}
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
            order=draw_order(job, learner, tracker, run),
            active=finite & ~stop & (hits < 2),
            diverged=~finite,
            ended=tracker.ended | (hits == 2),
            hits=hits,
            target_epoch=jnp.where(hits == 2, trained - plan.validate_every, tracker.target_epoch),
        )
        return learner._replace(metrics=jax.tree.map(jnp.zeros_like, learner.metrics)), tracker, row

    def skip(learner: Learner, tracker: Tracker) -> tuple[Learner, Tracker, dict[str, Any]]:
        row = jax.eval_shape(close, learner, tracker)[2]
        missing = {name: jnp.full(s.shape, jnp.nan, s.dtype) for name, s in row.items() if name != "trained"}
        return learner, tracker, missing | {"trained": jnp.bool_(False)}

    return jax.lax.cond(tracker.active, close, skip, learner, tracker)


def final(job: Job, tests: bool, kept: State, run: Run, arrays: Arrays) -> tuple[dict[str, Any], Array | None]:
    """The metrics of the kept state on the validation split and, if ``tests``, on the test set, read only here.

    The second value: the predicted classes of the test images, uint8 or, of more than 256 classes, uint16.
    """
    rule, out = stages_of(job.source, run.hyper)[job.stage], {}
    predicted, kept = None, for_prediction(kept)
    everything = jnp.arange(len(arrays.y_test), dtype=jnp.int32)
    parts = [("val", arrays.x, arrays.y[run.val], run.val), ("test", arrays.x_test, arrays.y_test, everything)]
    for part, x, y, indices in parts if tests else parts[:1]:
        for name, read in (("", rule.predict), *rule.readouts):
            scores = functools.partial(read_scores, job, read, kept, x, indices)
            loss, accuracy, *classes = evaluate(scores, y, classes=part == "test" and not name)
            out.setdefault(name, {}).update({f"{part}_loss": loss, f"{part}_accuracy": accuracy})
            predicted = classes[0] if classes else predicted
    return out, predicted


def read_scores(
    job: Job, read: Callable[[State, Array], Array], state: State, x: Array, indices: Array, at: Array
) -> Array:
    """The scores of the images at positions ``at`` of ``indices``."""
    return read(state, normalised(job, x[indices[at]]))


def evaluate(scores: Callable[[Array], Array], y: Array, *, classes: bool = False) -> tuple[Array, ...]:
    """Mean cross-entropy (nats) and accuracy (0..1) of ``scores``, a function of positions, against labels ``y``.

    With ``classes`` a third value: the predicted ones, (n,).
    """

    def add(sums: tuple[Array, Array], at_real: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array | None]:
        at, real = at_real
        values = scores(at)
        log_p = jax.nn.log_softmax(values.astype(jnp.float32))
        nats = -jnp.take_along_axis(log_p, y[at][:, None], axis=1)[:, 0]
        best = values.argmax(axis=1)
        right = best == y[at]
        best = best.astype(jnp.uint8 if values.shape[1] <= 256 else jnp.uint16) if classes else None
        return (sums[0] + jnp.sum(jnp.where(real, nats, 0.0)), sums[1] + jnp.sum(right & real, dtype=jnp.int32)), best

    (loss, right), best = jax.lax.scan(add, (jnp.float32(0), jnp.int32(0)), in_batches(len(y)))
    return (loss / len(y), right / len(y), *([] if best is None else [best.reshape(-1)[: len(y)]]))


def layer_accuracy(scores: Callable[[Array], Array], y: Array) -> Array:
    """Accuracy (layers,), 0..1, of ``scores``, a function of positions that gives (layers, batch, classes)."""
    positions = in_batches(len(y))

    def add(right: Array, at_real: tuple[Array, Array]) -> tuple[Array, None]:
        at, real = at_real
        hits = (scores(at).argmax(-1) == y[at][None, :]) & real[None, :]
        return right + hits.sum(-1, dtype=jnp.int32), None

    layers = jax.eval_shape(scores, positions[0][0]).shape[0]
    return jax.lax.scan(add, jnp.zeros(layers, jnp.int32), positions)[0] / len(y)


def in_batches(count: int) -> tuple[Array, Array]:
    """The positions 0..count-1 in batches of equal size, and which of them are no filling."""
    size = min(EVALUATION_BATCH, count)
    batches = -(-count // size)
    real = jnp.arange(batches * size) < count
    padded = jnp.where(real, jnp.arange(batches * size, dtype=jnp.int32), 0)
    return padded.reshape(batches, size), real.reshape(batches, size)


def chunk_sizes(steps: int, limit: int) -> list[int]:
    """Split steps into chunks of at most ``limit`` steps, equal ones if they need not be too short for that."""
    if steps == 0:  # an epoch left after its last step, before its validation
        return []
    divisor = max(size for size in range(1, min(limit, steps) + 1) if steps % size == 0)
    if 2 * divisor >= min(limit, steps):
        return [divisor] * (steps // divisor)
    return [limit] * (steps // limit) + ([steps % limit] if steps % limit else [])
