"""The host loop: compiled chunks of steps, the end of each epoch, and one stage after another."""

import contextlib
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ..measure import Meter, Reading
from .host import Hooks, Host
from .interrupts import Interrupted, keyboard
from .prepare import Work
from .result import Result, history_of
from .run import Learner, Tracker, enter_stage, start_run
from .steps import Feed, chunk, chunk_sizes, end_epoch, final


def train(work: Work, hooks: Hooks) -> Result:
    """Train to the end, or until the callback asks to stop; the loop behind `fwdonly.fit` and `fwdonly.sweep`.

    Raises:
        DoesNotFit: these runs ask for more memory than there is, and must fit.
        Interrupted: there was a Ctrl-C; all is saved.
    """
    host = Host(work, hooks)
    resumed = hooks.resume and hooks.checkpoint is not None and Path(hooks.checkpoint).exists()
    learner, tracker = host.restore() if resumed else host.run(start_run, work.jobs[0], *work.start)
    tracker = host.end_runs(tracker)
    jax.block_until_ready((learner, tracker))
    host.prepare(learner, tracker)
    with keyboard() as host.must_stop, hurried(hooks.meter, host.must_stop):
        with contextlib.nullcontext() if hooks.meter is None else hooks.meter.window("training") as host.window:
            learner, tracker, stopped = train_stages(host, work, learner, tracker)
            if host.window is not None:
                host.window.idle_after = not stopped
                if not stopped:  # before the wait for idle power, which somebody may interrupt
                    host.save(learner, tracker)
        # Asked to stop at the very end: there is nothing left to stop.
        stopped = stopped and (host.stage < len(work.jobs) - 1 or bool(host.active.any()))
        result = result_of(host, work, learner, tracker, reading_of(host, resumed), stopped)
        if host.must_stop():
            raise Interrupted(result)
    return result


@contextlib.contextmanager
def hurried(meter: Meter | None, must_stop: Callable[[], bool]) -> Generator[None, None, None]:
    """Within it a meter's wait for idle power ends where a Ctrl-C asks to stop."""
    if meter is None:
        yield
        return
    before = meter.hurry
    meter.hurry = lambda: before() or must_stop()
    try:
        yield
    finally:
        meter.hurry = before


def train_stages(host: Host, work: Work, learner: Learner, tracker: Tracker) -> tuple[Learner, Tracker, bool]:
    """Train from where the host stands to the end, or until the callback asks to stop; the third value says so."""
    run, arrays = work.run, work.arrays
    stopped = False
    while True:
        job = work.jobs[host.stage]
        host.enter(job, tracker)
        host.start_clock()
        run = run._replace(cache=host.keep_features(job, tracker, run, arrays))
        host.stop_clock()
        while host.active.any() and not stopped:
            host.start_clock()
            sizes = chunk_sizes(job.steps - host.step, host.longest(job, run))
            for size, fed in zip(sizes, host.feed(tracker, sizes), strict=False):  # a stopped one is fed no further
                feed = Feed(tracker.order, tracker.key, tracker.active, fed)
                learner, loss = host.run(chunk, job, learner, feed, run, arrays, static=(size,), donate=(0,))
                # Waits for the chunk before this one only, so that the device always has the next chunk to work on.
                stopped = host.tell_chunk(size, loss, learner)
                tracker = host.end_runs(tracker)
                if stopped or host.checkpoint_due():
                    host.pause(learner, tracker)
                if stopped:
                    break
            else:
                learner, tracker, row = host.run(end_epoch, job, learner, tracker, run, arrays, donate=(0, 1))
                stopped = host.tell_epoch(learner, tracker, row)
                tracker = host.end_runs(tracker)
                if stopped or host.checkpoint_due():
                    host.pause(learner, tracker)
        run = run._replace(cache=None)  # before the next one is made: there may be room for one of them only
        if stopped or host.stage == len(work.jobs) - 1:
            return learner, tracker, stopped
        host.stage += 1
        learner, tracker = host.run(enter_stage, work.jobs[host.stage], learner, tracker, run, arrays)


def reading_of(host: Host, resumed: bool) -> Reading | None:
    """What the meter read; of a resumed training no total."""
    energy = None if host.window is None else host.window.reading
    if energy is None or not resumed:
        return energy
    last = f"this reading has its last {energy.seconds.value:.1f} s alone"
    return energy.without(f"the training was resumed; {last}")


def final_metrics(
    host: Host, work: Work, tracker: Tracker, tested: bool
) -> tuple[dict[str, dict[str, np.ndarray]], np.ndarray | None]:
    """Losses and accuracies of the kept state by readout, "" for the prediction; of every run in its own stage.

    The second value: the predicted classes of the test images, if they were used.
    """
    kept_epoch, stage_of = host.without_padding(tracker.kept_epoch), host.without_padding(tracker.stage)
    rules, found_of, classes = work.rules, {}, None
    for stage in np.unique(stage_of).tolist():  # more than one where runs reached the target in different stages
        rule = rules[stage]
        if tested or rule.validate is not None or rule.frozen is not None or rule.readouts:
            args = tracker.kept, work.run, work.arrays
            metrics_of_stage, predicted = host.run(final, work.jobs[stage], *args, static=(tested,))
            if predicted is not None:
                labels = host.without_padding(predicted)
                classes = labels if classes is None else np.where((stage_of == stage)[..., None], labels, classes)
        else:
            metrics_of_stage = host.kept_rows(stage, kept_epoch)
        for name, metrics in metrics_of_stage.items():
            for metric, value in metrics.items():
                before = found_of.setdefault(name, {}).get(metric, np.full(stage_of.shape, np.nan))
                found_of[name][metric] = np.where(stage_of == stage, host.without_padding(value), before)
    untested = dict.fromkeys(("test_loss", "test_accuracy"), np.full(stage_of.shape, np.nan))
    return {name: untested | values for name, values in found_of.items()}, classes


def balanced_accuracy(predicted: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Mean over the classes that occur in ``y`` of the share of their samples that is found; samples are last."""
    shares = [(predicted[..., y == label] == label).mean(-1) for label in np.unique(y)]
    return np.asarray(np.mean(shares, axis=0))


def result_of(
    host: Host, work: Work, learner: Learner, tracker: Tracker, energy: Reading | None, stopped: bool
) -> Result:
    """What the training gave."""
    diverged = host.without_padding(tracker.diverged)
    metrics, predictions = final_metrics(host, work, tracker, work.test and not stopped)
    measured = metrics.pop("")
    readouts = {name: {k: v for k, v in values.items() if "accuracy" in k} for name, values in metrics.items()}
    if not stopped:
        host.save(learner, tracker)

    def unless_diverged(value: Any) -> np.ndarray:
        return np.asarray(np.where(diverged, np.nan, value))

    balanced = None
    if work.unequal is not None and predictions is not None:
        balanced = unless_diverged(balanced_accuracy(predictions, work.unequal))

    plan, steps = work.plans[0], work.jobs[0].steps
    return Result(
        state=jax.tree.map(lambda a: a[work.real], tracker.kept) if work.padding else tracker.kept,
        history=history_of(host.rows),
        epochs=np.asarray(host.without_padding(learner.step) // steps * plan.validate_every),
        kept_epoch=host.without_padding(tracker.kept_epoch),
        target_epoch=host.without_padding(tracker.target_epoch),
        diverged=diverged,
        finished=not stopped,
        compile_seconds=host.compiled_before + host.run.compile_seconds,
        train_seconds=host.seconds,
        validation_seconds=host.validation_seconds,
        features_kept=tuple(host.features_kept.get(stage, False) for stage in range(len(work.jobs))),
        energy=energy,
        run_bytes=host.run_bytes,
        streamed=work.feeder is not None,
        precision=plan.precision,
        normalise=plan.normalise,
        predictions=predictions,
        test_balanced_accuracy=balanced,
        seeds=host.without_padding(work.seeds),
        hyper={name: host.without_padding(value) for name, value in work.run.hyper.items()},
        readouts=jax.tree.map(unless_diverged, readouts),
        **{name: unless_diverged(value) for name, value in measured.items()},
    )
