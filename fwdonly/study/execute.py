"""Run a study: train every rule over the same seeds, split and data order, and fill the result folder."""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from .. import data, loggers, measure
from ..base import setting
from ..data import Dataset
from ..measure import Intensity, Meter
from ..training import (
    Plan,
    Result,
    check_classes,
    check_precision,
    grain,
    interruptible,
    mesh_of,
    steps_per_epoch,
    sweep,
)
from . import folder as folders
from . import processes as workers
from .costs import StageCosts, add_costs, share_per_step, stage_costs
from .design import Arm, Data, Machine, Study
from .folder import Contents, Render, Wanted
from .records import metric_rows, power_rows, predictions_of, summarise
from .saving import keep_models, note_runs_without
from .sharing import Outcome, Work
from .terminal import Display

Split = tuple[np.ndarray, np.ndarray]


class Ready(NamedTuple):
    """An arm that can train."""

    arm: Arm
    make: Callable[..., Any]
    plans: list[Plan]
    images: int
    """Training images of an epoch."""


class Watching(NamedTuple):
    """What looks at the trainings."""

    meter: Meter | None
    intensity: Intensity | None
    writes: list[loggers.Write]


def run(study: Study, render: Render | None = None) -> Outcome:
    """Train what is missing and write the result folder; ``render`` makes its tables and figures.

    Raises:
        UsageError: a study that cannot be trained, or a folder that holds something else; nothing is lost.
    """
    if any(arm.plan.stream for arm in study.arms):
        grain()
    keep_programs(study.machine)
    dataset = data.load(study.data.dataset, study.data.data_dir)
    print(
        f"data: {dataset.name}, {len(dataset.x_train):,} + {len(dataset.x_test):,} images, {dataset.source}", flush=True
    )
    if words := dataset.balance():
        print(f"note: {words}", flush=True)
    process, processes = workers.which(study)
    folder, claimed = study.output.output_dir, False
    if folder is None:
        folder, claimed = folders.claim(study.name, dataset), True
    try:
        return _run_in(folder, study, dataset, (process, processes), render)
    finally:
        if claimed:
            folders.give_up(folder)  # unless something is in it


def _run_in(folder: Path, study: Study, dataset: Dataset, place: tuple[int, int], render: Render | None) -> Outcome:
    """Train what is missing in this folder; ``place`` is the number of this process and that of all."""
    split = split_of(study.data, dataset, study.runs.numbers)
    config = study.configuration(dataset, split)
    folders.look_into(folder, config, resume=study.output.resume)
    process, processes = place
    protocol = config.get("protocol")
    names = [arm.name for arm in study.arms]
    wanted = Wanted(config, protocol, names, study.runs.numbers, dataset.num_classes, study.output.save_models)
    with Work(folder, wanted, process, processes) as work:
        workers.meet(study.machine, process, processes)  # after the folder is read, before any result is written
        todo = _todo(study, work)
        if todo:
            check_machine(study, max(len(numbers) for _, numbers in todo))
        meter, intensity = meter_of(study)
        ready = [prepare(arm, dataset, split) for arm in study.arms]
        with loggers.opened(study.output.log, folder) as writes:  # a refusal leaves no folder
            folders.make(folder)
            work.keep_others_out()
            if process == 0:
                folders.describe(folder, config, dataset, shlex.join(study.command_line))
            contents = work.open(title(ready, dataset))
            note_runs_without(contents, folder)
            if processes > 1:
                folders.describe(contents.folder, config, dataset, shlex.join(study.command_line))
                folders.agree(folder, config)
            watching = Watching(meter, intensity, writes)
            stopped = _Training(study, dataset, split, ready, work, contents, watching).train(todo, render)
        return work.end(contents, render, stopped=stopped)


class _Training:
    """The turns of one process."""

    def __init__(
        self,
        study: Study,
        dataset: Dataset,
        split: Split,
        ready: Sequence[Ready],
        work: Work,
        contents: Contents,
        watching: Watching,
    ) -> None:
        self.study, self.dataset, self.split, self.ready = study, dataset, split, ready
        self.work, self.contents, self.meter, self.intensity = work, contents, watching.meter, watching.intensity
        self.writes = watching.writes
        self.costs: dict[int, StageCosts] = {}

    def train(self, todo: Sequence[tuple[int, list[int]]], render: Render | None) -> bool:
        """All turns; whether they were stopped before the last one."""
        alone, quiet = self.study.runs.alone, self.study.output.quiet
        weights = [len(numbers) * sum(plan.epochs for plan in self.ready[at].plans) for at, numbers in todo]
        with interruptible() as interrupted, Display(weights, quiet=quiet, stop=interrupted) as display:
            if self.meter is not None:
                self.meter.hurry = interrupted
            for number, (at, numbers) in enumerate(todo, start=1):
                display.begin(self.name(at, numbers))
                first = self.warm_up(at, numbers) if alone and at not in self.costs else 0.0
                result, checkpoint = self.turn(at, numbers, display)
                last = number == len(todo) or not result.finished
                if result.finished or not alone:
                    self.record(at, numbers, result, first)
                    self.contents.write(render if last or not alone else None)
                elif self.contents.rows:
                    self.contents.write(render)
                if not result.finished:
                    return True
                for path in checkpoint.parent.glob(f"{checkpoint.name.removesuffix('.npz')}*.npz"):  # of groups, too
                    path.unlink()
        return False

    def name(self, at: int, numbers: Sequence[int]) -> str:
        """The title of a turn, for the terminal."""
        name = self.ready[at].arm.label
        if self.work.processes > 1:
            name = f"[{self.work.process + 1}/{self.work.processes}] {name}"
        return f"{name} seed {self.study.runs.numbers[numbers[0]]}" if self.study.runs.alone else name

    def sweep(self, at: int, numbers: Sequence[int], **more: Any) -> Result:
        """Train these seeds of an arm."""
        ready, machine, split = self.ready[at], self.study.machine, self.split
        return sweep(
            ready.make,
            self.dataset,
            ready.plans if len(ready.plans) > 1 else ready.plans[0],
            seeds=[self.study.runs.numbers[i] for i in numbers],
            hyper={"learning_rate": ready.arm.optimizer.learning_rate},
            split=split if split[0].ndim == 1 else (split[0][list(numbers)], split[1][list(numbers)]),
            how=machine.how,
            devices=machine.devices,
            at_once=machine.at_once,
            progress=False,
            **more,
        )

    def warm_up(self, at: int, numbers: Sequence[int]) -> float:
        """Compile and execute once, since the first execution is slower; the seconds of compilation."""
        first = self.sweep(at, numbers, callback=lambda _: True)
        self.costs[at] = stage_costs(self.stages(at), self.ready[at].plans, self.dataset, first)
        return first.compile_seconds

    def stages(self, at: int) -> tuple[Any, ...]:
        """The rules of an arm's stages."""
        ready = self.ready[at]
        rules = ready.make(learning_rate=ready.arm.optimizer.learning_rate)
        return rules if type(rules) is tuple else (rules,)

    def turn(self, at: int, numbers: Sequence[int], display: Display) -> tuple[Result, Path]:
        """Train with progress, checkpoint and meter."""
        seeds = [self.study.runs.numbers[i] for i in numbers]
        checkpoint = self.work.checkpoint(self.ready[at].arm.name, seeds)
        # A training in two parts has no energy as a whole: where that is asked for, it begins anew.
        whole = self.study.runs.alone and self.study.measuring.energy
        more: dict[str, Any] = {"checkpoint": checkpoint, "resume": not whole, "meter": self.meter}
        names = [f"{self.ready[at].arm.name}/seed-{seed}" for seed in seeds]
        callbacks = [display, *(loggers.log(write, names) for write in self.writes)]
        return self.sweep(at, numbers, callback=callbacks, **more), checkpoint

    def record(self, at: int, numbers: Sequence[int], result: Result, first_compile_seconds: float) -> None:
        """Take the result into the folder's contents."""
        arm, seeds = self.ready[at].arm, [self.study.runs.numbers[i] for i in numbers]
        summary = summarise(arm.name, seeds, result, self.intensity, self.work.processes)
        summary |= {**arm.about, "network": arm.net.label}
        summary["compile_seconds"] += first_compile_seconds
        if at in self.costs:
            add_costs(summary, self.costs[at], self.ready[at].images, sum(part.shape[-1] for part in self.split))
            share = share_per_step(arm, self.ready[at].plans, self.dataset)
            summary |= {} if share is None else {"arithmetic_per_step": share}
        rows, powers = metric_rows(arm.name, seeds, result), power_rows(arm.name, seeds, result)
        predictions = predictions_of(arm.name, seeds, result, self.dataset.y_test)
        self.contents.add(summary, rows, powers, predictions)
        if result.finished:
            keep_models(self.contents, arm, self.stages(at), self.dataset, (seeds, result))


def prepare(arm: Arm, dataset: Dataset, split: Split) -> Ready:
    """The arm's rule and plans for this data.

    Raises:
        UsageError: settings, a network or batches that do not fit together or not to the images.
    """
    count = split[0].shape[-1]
    first = arm.training(dataset.num_classes, 1)  # plans do not depend on the number of steps
    plans = arm.plans(first)
    steps = steps_per_epoch(plans[0], count)
    make = arm.maker(dataset, steps)
    return Ready(arm, make, plans, steps * (plans[0].batch_size or count))


def split_of(choice: Data, dataset: Dataset, seeds: Sequence[int]) -> Split:
    """Training and validation indices: the same for all seeds, or a row for each."""
    split = data.split(dataset)
    if choice.split == "paper":
        parts = [data.paper_split(dataset, seed=seed) for seed in seeds]
        split = np.stack([train for train, _ in parts]), np.stack([val for _, val in parts])
    check_classes(dataset, split[0])
    return split


def _todo(study: Study, work: Work) -> list[tuple[int, list[int]]]:
    """What this process has to train, in the order of training."""
    seeds = study.runs.numbers
    missing = [[i for i, seed in enumerate(seeds) if not work.done(arm.name, seed)] for arm in study.arms]
    mine = [[i for i in positions if i % work.processes == work.process] for positions in missing]
    return turns(mine, study.runs.alone, work.processes)


def turns(missing: Sequence[Sequence[int]], alone: bool, processes: int = 1) -> list[tuple[int, list[int]]]:
    """(arm, positions of seeds) in the order of training. ``missing`` has the positions that every arm lacks.

    Runs alone go in the order A B, B A, A B, ... So no rule always comes first, and a machine that slows down does so
    for all rules. With several ``processes``, process k has the positions k, k + processes, ...
    """
    if not alone:
        return [(arm, list(positions)) for arm, positions in enumerate(missing) if positions]
    order = []
    for seed in sorted({seed for positions in missing for seed in positions}):
        arms = [arm for arm, positions in enumerate(missing) if seed in positions]
        order += [(arm, [seed]) for arm in (arms if seed // processes % 2 == 0 else reversed(arms))]
    return order


def keep_programs(machine: Machine) -> None:
    """Set up the persistent cache of compiled programs, or switch it off."""
    if not machine.compilation_cache:
        jax.config.update("jax_enable_compilation_cache", False)
    elif not setting("compilation_cache_dir"):
        folder = data.cache_folder()
        if folder is not None:
            jax.config.update("jax_compilation_cache_dir", str(folder / "programs"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # all of them: a start has many small ones
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def check_machine(study: Study, runs: int) -> None:
    """Refuse what this machine cannot do for so many runs together, before anything is written."""
    for arm in study.arms:
        check_precision(arm.plan.precision)
    mesh_of(min(runs, study.machine.at_once or runs), study.machine.devices)


def meter_of(study: Study) -> tuple[Meter | None, Intensity | None]:
    """What --energy asks for; says what cannot be measured here, and how long it takes."""
    choice = study.measuring
    if not choice.energy:
        return None, None
    second = [] if choice.codecarbon is None else [measure.CodeCarbon(choice.codecarbon)]
    meter = Meter(idle_seconds=choice.idle_seconds, opinions=second)
    intensity = None
    if choice.carbon_intensity is not None:
        intensity = Intensity(choice.carbon_intensity, str(choice.carbon_source))
    if meter.kind in meter.missing:
        print(f"energy: unavailable, {meter.missing[meter.kind]}")
    elif choice.idle_seconds:
        what = "run" if study.runs.alone else "rule"
        print(f"energy: idle power is measured for {choice.idle_seconds:g} s before and after every {what}")
    return meter, intensity


def title(ready: Sequence[Ready], dataset: Dataset) -> str:
    """Network, data and passes in one line, for the table and the figure."""
    caps = []
    for entry in ready:
        epochs = [plan.epochs for plan in entry.plans]
        alike = len(set(epochs)) == 1
        words = "+".join(map(str, epochs)) if not alike else f"{len(epochs)} x {epochs[0]}"
        caps.append(f"{entry.arm.label} {epochs[0] if len(epochs) == 1 else words}")
    embedded = "" if dataset.name != "mnist5k" else " (5,000 embedded images, not full MNIST)"
    networks = dict.fromkeys(entry.arm.net.label for entry in ready)
    sizes = dict.fromkeys(entry.plans[0].batch_size for entry in ready)
    batch = "batch " + " and ".join(map(str, sizes)) if None not in sizes else "full batch"
    return f"{', '.join(networks)} on {dataset.name}{embedded}, {batch}; epochs at most: {', '.join(caps)}"
