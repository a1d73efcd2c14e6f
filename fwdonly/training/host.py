"""Where a training stands, as the host knows it: position, history, clock, callback and checkpoint."""

import contextlib
import functools
import inspect
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..base import Batch, State
from ..errors import UsageError, first_difference
from ..measure import Meter, Window
from . import checkpoint as checkpoints
from . import memory, programs
from .images import BLOCKS
from .prepare import Work, pad_runs
from .programs import shapes_of
from .result import Callback, Progress
from .run import Arrays, Job, Learner, Run, Tracker, enter_stage, frozen_features, start_run
from .steps import Feed, chunk, chunk_sizes, end_epoch

CHECKPOINT_SECONDS = 60.0
"""From one checkpoint to the next."""


class Hooks(NamedTuple):
    """What looks at a training from outside."""

    callbacks: tuple[Callback, ...] = ()
    checkpoint: str | Path | None = None
    resume: bool = False
    meter: Meter | None = None


def callbacks_of(callback: Callback | Sequence[Callback] | None) -> tuple[Callback, ...]:
    """One callback, several or none, as a tuple.

    Raises:
        UsageError: one of them cannot be called.
    """
    several = () if callback is None else tuple(callback) if isinstance(callback, Sequence) else (callback,)
    for one in several:
        if not callable(one):
            raise UsageError(f"a callback is a function of the progress; got {one!r}")
        if not _takes_one(one):
            signature = inspect.signature(one)
            raise UsageError(f"a callback is given the progress and nothing else; this one takes {signature}")
    return cast(tuple[Callback, ...], several)


def _takes_one(function: Callable[..., Any]) -> bool:
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):  # some builtins have none
        return True
    with contextlib.suppress(TypeError):
        signature.bind(None)
        return True
    return False


def learned(out: Any) -> Any:
    """The part of a program's output that has to be finite: parameters and metrics."""
    learners = [part for part in (out if isinstance(out, tuple) else ()) if isinstance(part, Learner)]
    return [(getattr(learner.state, "params", learner.state), learner.metrics) for learner in learners]


def wait(array: Array) -> None:
    """Wait for the device in Python, so that a Ctrl-C is noticed at once and not when the array is ready."""
    while not cast(Any, array).is_ready():
        time.sleep(0.002)


class Host:
    """Where the training stands, as the host knows it: position, history, clock, callback and checkpoint."""

    def __init__(self, work: Work, hooks: Hooks) -> None:
        self.work, self.callbacks, self.checkpoint, self.meter = work, hooks.callbacks, hooks.checkpoint, hooks.meter
        self.run_bytes: int | None = None
        self.window: Window | None = None
        self.must_stop: Callable[[], bool] = lambda: False
        self.run = programs.Programs(learned)
        self.stage = self.epoch = self.step = 0
        self.features_kept: dict[int, bool] = {}  # by stage; a resumed run does as it did before
        self.rows: list[dict[str, np.ndarray]] = []
        self.active = np.asarray(True)
        self.ending: np.ndarray | None = None  # runs that the callback has asked to end
        if work.padding:
            self.ending = np.zeros(work.group[1] - work.group[0], bool)  # those that only fill the last device
        self.pending: tuple[int, Array] | None = None
        self.seconds = self.validation_seconds = self.compiled_before = 0.0
        self.saved_at = time.perf_counter()
        if hooks.checkpoint is not None:
            checkpoints.check_writable(hooks.checkpoint, work.fingerprint)

    def without_padding(self, array: Any) -> np.ndarray:
        """Values of the runs, without those that only fill the last device."""
        return np.asarray(array)[self.work.real]

    def feed(self, tracker: Tracker, sizes: Sequence[int]) -> Iterator[Batch | None]:
        """The batches of the chunks that follow, where they do not lie on the device."""
        if self.work.feeder is None:
            return iter([None] * len(sizes))
        return self.work.feeder.blocks(np.asarray(tracker.order), self.step, sizes)

    def longest(self, job: Job, run: Run) -> int:
        """Steps per compiled call, at most. A full batch that passes through the frozen layers again is a long step."""
        if self.work.feeder is not None:
            return min(self.work.feeder.longest(), job.plan.chunk_steps)
        return 1 if job.plan.batch_size is None and run.cache is None else job.plan.chunk_steps

    def enter(self, job: Job, tracker: Tracker) -> None:
        """Take up a stage, at its start or where a checkpoint left it."""
        self.job, self.active = job, self.without_padding(tracker.active)
        self.per_epoch = job.steps // job.plan.validate_every
        self.epoch = int(np.asarray(tracker.epoch).max())

    def prepare(self, learner: Any, tracker: Any) -> None:
        """Compile what the stages from here on will run, so that neither clock nor meter sees a compilation."""
        jobs, run, arrays = self.work.jobs, self.work.run, self.work.arrays
        step = self.step
        if self.checkpoint is not None:
            checkpoints.check_tree((learner, tracker))
        if self.stage == len(jobs) - 1 and not np.asarray(tracker.active).any():
            return  # a finished training, resumed
        features = blocks = 0  # bytes: of all runs' features, and of all runs' batches on their way
        for job in jobs[self.stage :]:
            if job.stage > self.stage:
                entered = self.run.prepare(enter_stage, job, learner, tracker, run, arrays).out_info
                learner, tracker = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype), entered)
            stage_run = run
            if self.keeps_features(job, tracker, run, arrays):
                cache = self.run.prepare(frozen_features, job, tracker.kept, run, arrays).out_info
                stage_run = run._replace(cache=cache)
                features = max(features, memory.tree_bytes(stage_run.cache))
            longest = self.longest(job, stage_run)
            for size in {size for at in {step, 0} for size in chunk_sizes(job.steps - at, longest)}:
                fed = None if self.work.feeder is None else self.work.feeder.shapes(size)
                blocks = max(blocks, BLOCKS * memory.tree_bytes(fed))
                feed = Feed(tracker.order, tracker.key, tracker.active, fed)
                arguments = learner, feed, stage_run, arrays
                self.run.prepare(chunk, job, *arguments, static=(size,), donate=(0,))
            self.run.prepare(end_epoch, job, learner, tracker, stage_run, arrays, donate=(0, 1))
            step = 0
        self.check_memory(memory.tree_bytes((learner, tracker, run)), features, blocks)

    def check_memory(self, held: int, features: int, blocks: int) -> None:
        """Note what a run takes, and whether there is so much: of all runs ``held`` bytes are there already, and those
        of ``features`` and of streamed ``blocks`` will come. Blocks of fewer runs are longer, and not smaller.

        Raises:
            DoesNotFit: there is not, and fewer runs would do.
        """
        working = self.run.working_bytes()
        if working is None or self.work.setup.how == "single":
            return
        count, devices, together = (
            self.work.group[1] - self.work.group[0],
            self.work.setup.devices,
            self.work.setup.how == "vmap",
        )
        on_device = (count + self.work.padding) // devices
        per_run = (held + features) / devices / on_device + (working / on_device if together else 0.0)
        self.run_bytes = round(per_run)
        free = memory.free_bytes()
        if free is None or not self.work.must_fit or count == 1:
            return
        free /= devices if jax.default_backend() == "cpu" else 1
        if working + (features + blocks) / devices > free:
            shared = blocks / devices + (0 if together else working)
            fit = int((free + held / devices - shared) // per_run) * devices
            raise memory.DoesNotFit(min(max(fit, 1), count - 1))

    def keeps_features(self, job: Job, tracker: Any, run: Run, arrays: Arrays) -> bool:
        """Whether features of frozen layers are kept: there are any, the images stay as they are, and they fit."""
        if job.plan.augment or self.work.feeder is not None or self.work.rules[job.stage].frozen is None:
            return False
        room = job.plan.cache_gb
        fits = self.features_kept.get(job.stage) if room is None else None
        if fits is None:
            need = memory.tree_bytes(shapes_of(frozen_features, job, tracker.kept, run, arrays))
            free = (memory.free_bytes() or 0) * (1 if jax.default_backend() == "cpu" else job.setup.devices)
            fits = need <= (free / 2 if room is None else 1e9 * room)
        self.features_kept[job.stage] = fits
        return fits

    def keep_features(self, job: Job, tracker: Tracker, run: Run, arrays: Arrays) -> tuple[Any, Any] | None:
        """The features of the frozen layers, where they are kept."""
        if not self.active.any() or not self.keeps_features(job, tracker, run, arrays):
            return None
        features = self.run(frozen_features, job, tracker.kept, run, arrays)
        for leaf in jax.tree.leaves(features):
            wait(leaf)
        return features

    def tell_chunk(self, size: int, loss: Array, learner: Learner) -> bool:
        """Note a chunk that is under way, wait for the one before it and report that; true if asked to stop."""
        self.step += size
        done, self.pending = self.pending, (self.step, loss)
        if done is None:
            return False
        wait(done[1])
        self.stop_clock()
        if self.meter is not None:
            self.meter.sample()
        return self.tell(done[0], self.without_padding(done[1]), learner)

    def tell_epoch(self, learner: Learner, tracker: Tracker, row: dict[str, Array]) -> bool:
        """Wait for the end of an epoch, add its row to the history and report it; true if asked to stop."""
        if self.pending is not None:  # the last steps: what the device does after them is validation
            wait(self.pending[1])
        self.stop_clock()
        steps_done = self.seconds
        with contextlib.nullcontext() if self.window is None else self.window.span("validation"):
            wait(tracker.active)
        self.epoch += self.job.plan.validate_every
        self.stop_clock()
        self.validation_seconds += self.seconds - steps_done
        position = {"stage": self.stage, "epoch": self.epoch, "seconds": self.seconds}
        metrics = {name: self.without_padding(value) for name, value in row.items()}
        self.rows.append({name: np.asarray(value) for name, value in (position | metrics).items()})
        self.active, self.pending = self.without_padding(tracker.active), None
        self.step = 0
        if self.window is not None:
            self.window.mark(
                f"stage {self.stage + 1} epoch {self.epoch}" if len(self.work.plans) > 1 else f"epoch {self.epoch}"
            )
        stopped = self.tell(0, self.rows[-1]["train_loss"], learner, self.rows[-1])
        self.start_clock()  # nothing trains meanwhile: what callbacks do here is not counted
        return stopped

    def tell(self, step: int, loss: np.ndarray, learner: Learner, row: dict[str, np.ndarray] | None = None) -> bool:
        """Call the callbacks in their order; true if one, or a Ctrl-C, asks to stop."""
        if not self.callbacks:
            return self.must_stop()
        epoch, step = self.epoch + step // self.per_epoch, step % self.per_epoch
        position = (self.stage, tuple(plan.epochs for plan in self.work.plans), epoch, step, self.per_epoch)
        state = functools.partial(self.copy_state, learner, steps_under_way=row is None)
        progress = Progress(*position, self.seconds, loss, self.active, row, self.work.group, state)
        answers = [callback(progress) for callback in self.callbacks]
        for ending in (np.asarray(answer, bool) for answer in answers if isinstance(answer, np.ndarray)):
            if ending.shape != self.active.shape:
                raise UsageError(
                    f"the callback may end single runs by {self.active.shape} truth values; it gave {ending.shape}"
                )
            self.ending = ending if self.ending is None else self.ending | ending
        return any(bool(answer) for answer in answers if not isinstance(answer, np.ndarray)) or self.must_stop()

    def copy_state(self, learner: Learner, *, steps_under_way: bool) -> State:
        """The state in host memory, keys of JAX aside; waiting for steps counts as training, copying does not.

        Raises:
            UsageError: later steps have taken its place.
        """
        if any(leaf.is_deleted() for leaf in jax.tree.leaves(learner.state)):
            raise UsageError("this state has been trained on; ask for it before the callback returns")
        if steps_under_way:
            wait(learner.step)
            self.stop_clock()
        state = jax.tree.map(self.copy_leaf, learner.state)
        if steps_under_way:
            self.start_clock()
        return state

    def copy_leaf(self, leaf: Array) -> Any:
        """An array that no later step writes into."""
        if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):  # keys have no form in NumPy
            return jnp.copy(leaf)[self.work.real]
        return np.array(self.without_padding(leaf))

    def end_runs(self, tracker: Tracker) -> Tracker:
        """End the runs that the callback has asked to end."""
        ending, self.ending = self.ending, None
        if ending is None:
            return tracker
        self.active = self.active & ~ending
        ending = np.concatenate([ending, np.ones(self.work.padding, bool)]) if self.work.padding else ending
        active, ended = self.work.setup.place((tracker.active & ~ending, tracker.ended | ending))
        return tracker._replace(active=active, ended=ended)

    def kept_rows(self, stage: int, kept_epoch: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
        """What the history says of the kept state's validation, in the form of `final`; NaN before the first one."""
        of_stage = {int(row["epoch"]): row for row in self.rows if row["stage"] == stage}
        metrics: dict[str, np.ndarray] = {}
        for name in ("val_loss", "val_accuracy"):
            metrics[name] = np.full(kept_epoch.shape, np.nan)
            for epoch, row in of_stage.items():
                metrics[name] = np.where(kept_epoch == epoch, row[name], metrics[name])
        return {"": metrics}

    def start_clock(self) -> None:
        self.clock = time.perf_counter(), self.run.compile_seconds

    def stop_clock(self) -> None:
        """Add the time since the clock was started, less what was spent on compilation."""
        began, compiled = self.clock
        now = time.perf_counter()
        self.seconds += now - began - (self.run.compile_seconds - compiled)
        self.clock = now, self.run.compile_seconds

    def pause(self, learner: Learner, tracker: Tracker) -> None:
        """Wait for the steps under way and save, off the clock."""
        wait(learner.step)
        self.stop_clock()
        self.save(learner, tracker)
        self.start_clock()

    def checkpoint_due(self) -> bool:
        return time.perf_counter() - self.saved_at > CHECKPOINT_SECONDS

    def save(self, learner: Learner, tracker: Tracker) -> None:
        """Write the checkpoint, if there is to be one."""
        if self.checkpoint is None:
            return
        meta = {
            "fingerprint": self.work.fingerprint,
            "stage": self.stage,
            "step": self.step,
            "features_kept": list(self.features_kept.items()),
            "train_seconds": self.seconds,
            "validation_seconds": self.validation_seconds,
            "compile_seconds": self.compiled_before + self.run.compile_seconds,
            "rows": [{name: (value.tolist(), str(value.dtype)) for name, value in row.items()} for row in self.rows],
        }
        checkpoints.save(self.checkpoint, jax.tree.map(self.without_padding, (learner, tracker)), meta)
        self.saved_at = time.perf_counter()

    def restore(self) -> tuple[Learner, Tracker]:
        """Read the checkpoint."""
        jobs, start = self.work.jobs, self.work.start
        assert self.checkpoint is not None
        meta = checkpoints.read_meta(self.checkpoint)
        check_fingerprint(self.checkpoint, meta.get("fingerprint", {}), self.work.fingerprint)
        with checkpoints.refusing_damage(self.checkpoint):
            self.stage, self.step = range(len(jobs))[meta["stage"]], int(meta["step"])
            self.features_kept = dict(meta["features_kept"])
            seconds = (float(meta[f"{of}_seconds"]) for of in ("train", "compile", "validation"))
            self.seconds, self.compiled_before, self.validation_seconds = seconds
            self.rows = [
                {name: np.asarray(value, np.dtype(dtype)) for name, (value, dtype) in row.items()}
                for row in meta["rows"]
            ]
        shapes = shapes_of(start_run, jobs[0], *start)
        shapes = shapes_of(enter_stage, jobs[self.stage], *shapes, *start[1:])
        if not self.work.padding:
            return self.work.setup.place(checkpoints.load(self.checkpoint, shapes))
        shapes = jax.tree.map(
            lambda s: jax.ShapeDtypeStruct((s.shape[0] - self.work.padding, *s.shape[1:]), s.dtype), shapes
        )
        saved = checkpoints.load(self.checkpoint, shapes)
        return self.work.setup.place(jax.tree.map(functools.partial(pad_runs, self.work.padding), saved))


def check_fingerprint(path: str | Path, stored: dict[str, Any], expected: dict[str, Any]) -> None:
    """Refuse a checkpoint of another training, or of one under other switches or versions.

    Raises:
        UsageError: it is.
    """
    difference = first_difference({name: stored.get(name) for name in expected}, expected)
    if difference:
        raise UsageError(
            f"the checkpoint {path} belongs to another training: its {difference}; repeat the earlier settings, or "
            "give another output folder"
        )
