"""What every experiment script shares: its options, the run, the result folder and its manners."""

import argparse
import contextlib
import dataclasses
import io
import json
import os
import signal
import sys
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import _folder
import _processes as workers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import rich.progress
import tyro
from rich.console import Console

from fwdonly import (
    LearningRule,
    Plan,
    Progress,
    Result,
    UsageError,
    bp,
    data,
    ff,
    foton,
    measure,
    nets,
    results,
    study,
    sweep,
)
from fwdonly import _programs as programs
from fwdonly import stream as streams
from fwdonly.base import DOT, setting
from fwdonly.errors import one_line
from fwdonly.measure import Intensity, Meter, Quantity, total
from fwdonly.sweep import MemoryWarning
from fwdonly.train import check_classes, steps_per_epoch

Optimizer = Literal["adam", "adamw", "sgd", "momentum"]
LRSchedule = Literal["constant", "cosine", "half_linear", "drops"]
Keep = Literal["best_loss", "best_accuracy", "last"]


@dataclasses.dataclass(frozen=True)
class Shared:
    """Options that all rules of an experiment have in common: data, length of training, measuring and results."""

    seeds: int = 10
    """Number of seeds."""
    first_seed: int = 0
    """The seeds are first-seed, first-seed + 1, ..."""
    alone: bool = False
    """Train every seed by itself, the rules taking turns, so that every run has its own seconds and energy. Otherwise
    the seeds of a rule are trained together as one compiled program."""
    dataset: str = "auto"
    """mnist, fashion_mnist, cifar10, cifar100, mnist5k, digits, tfds:NAME, or NAME for NAME.npz in the data
    directory. auto: full MNIST where it can be had, otherwise 5,000 embedded MNIST images."""
    data_dir: Path | None = None
    """Folder with data files (.npz, IDX, CIFAR batches). Default: $FWDONLY_DATA."""
    split: Literal["fixed", "paper"] = "fixed"
    """Validation images. fixed: stratified, the same for all seeds. paper: MNIST's last 10,000, else a random tenth
    drawn from the seed."""
    normalise: Literal["pixel", "paper", "half", "none"] = "pixel"
    """Pixel constants: of the training set, of the papers' code, half (pixels in [-1, 1]) or none (in [0, 1])."""
    augment: bool = False
    """Random crop after reflect padding by 4, then random horizontal flip."""
    batch_size: int | None = 128
    """Images per step; the incomplete last batch of an epoch is dropped. None: all, one step per epoch."""
    epochs: int = 16
    """Cap on the epochs; of every stage, where a rule trains in stages."""
    monitor: Literal["loss", "accuracy"] = "loss"
    """What patience watches on the validation images."""
    patience: int | None = None
    """Stop after this many epochs without a better validation loss (or accuracy). None: train to the cap."""
    min_delta: float = 0.0
    """It is better if it is better by more than this (accuracies lie in 0..1)."""
    target: float | None = None
    """Validation accuracy (0..1) at which a run ends, at the second of two validations in a row that reach it."""
    keep: Keep = "best_accuracy"
    """The state that is kept and tested: of the epoch with the best validation loss or accuracy, or the last one."""
    validate_every: int = 1
    """Epochs from one validation to the next."""
    cache_gb: float | None = None
    """Memory for features of frozen layers, in GB; they are computed with every batch where they do not fit. None: half
    of what is free. 0: never keep them."""
    how: Literal["auto", "map", "vmap"] = "auto"
    """Seeds one after another (map) or all at once (vmap). auto: map on a CPU, vmap elsewhere."""
    devices: int | None = None
    """Devices over which the seeds are spread. None: all that this process sees, no more than there are seeds."""
    at_once: int | None = None
    """Seeds that train together; the others wait. None: as many as fit into memory."""
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    """Of the factors in matrix products and convolutions; sums and state are float32. A CPU has float32 alone."""
    stream: bool | None = None
    """Keep the training images in host memory and bring them to the device in time (extra stream). None: where they
    would take more than half of the device's memory."""
    compilation_cache: bool = True
    """Keep compiled programs in the user's cache folder, so that the next start compiles nothing; they may be deleted.
    $JAX_COMPILATION_CACHE_DIR names another folder. Compile seconds are then those of fetching."""
    coordinator: str | None = None
    """HOST:PORT of process 0, where several processes share the seeds; the two options below, and the same
    --output-dir, belong to it. Started by srun, none of the three is needed. On a GPU machine give every process
    GPUs of its own ($CUDA_VISIBLE_DEVICES)."""
    num_processes: int | None = None
    """Of this run, on all machines."""
    process_id: int | None = None
    """Of this process, from 0."""
    join_seconds: float = 300.0
    """Give up if not all processes have come together in so many seconds."""
    energy: bool = False
    """Measure the energy of every rule's training where there is a sensor (NVML on GPUs, RAPL on processors; elsewhere
    it is said to be unavailable), and draw the power over time."""
    idle_seconds: float = 30.0
    """With --energy: how long idle power is measured before and after every rule. 0: not at all."""
    carbon_intensity: float | None = None
    """With --energy: g of CO2 equivalents per kWh of your electricity; needs --carbon-source."""
    carbon_source: str | None = None
    """Who says so, and of which year; printed with the number."""
    codecarbon: str | None = None
    """With --energy: CodeCarbon's estimate beside the measurement, for the country with these three letters (ISO
    3166)."""
    output_dir: Path | None = None
    """Result folder. Default: results/SCRIPT-DATASET-TIME."""
    resume: bool = False
    """Continue the interrupted run in --output-dir; all other options as they were."""
    quiet: bool = False
    """No progress, only the table."""


@dataclasses.dataclass(frozen=True)
class Optimisation:
    """Options of a rule's own optimisation."""

    preset: str | None = None
    """Start from published settings; other options override them."""
    learning_rate: float = 1.2e-3
    """Learning rate, at its peak."""
    lr_schedule: LRSchedule = "cosine"
    """constant; cosine: from the peak to 0 at the epoch cap; half_linear: constant for half of it, then down to 1/E;
    drops: a tenth of it after each of the epochs of --lr-drops."""
    lr_drops: tuple[int, ...] = (60, 90)
    """Epochs after which the learning rate falls to a tenth, for the schedule drops."""
    optimizer: Optimizer = "adam"
    """momentum is sgd with momentum 0.9. All but adamw add weight decay to the gradient; adamw decouples it."""
    weight_decay: float = 0.0
    """Weight decay."""


@dataclasses.dataclass(frozen=True)
class Options(Shared, Optimisation):
    """Options of every experiment that trains one rule, and others beside it."""


@dataclasses.dataclass(frozen=True)
class MLPOptions(Options):
    """Options of experiments with fully connected networks."""

    widths: tuple[int, ...] = (1000, 1000)
    """Widths of the hidden layers."""


@dataclasses.dataclass(frozen=True)
class NetOptions(MLPOptions):
    """Options of experiments with a fully connected network or a convolutional one."""

    net: Literal["mlp", "cnn"] = "mlp"
    """Fully connected layers of --widths, or convolutions of --channels before them."""
    channels: tuple[int, ...] = (32,)
    """Channels of the convolutions, for --net cnn."""
    activation: Literal[tuple(nets.ACTIVATIONS)] = "relu"  # ty: ignore[invalid-type-form]
    """Of the hidden layers."""
    optimizer: Optimizer = "sgd"
    """momentum is sgd with momentum 0.9. All but adamw add weight decay to the gradient; adamw decouples it."""

    def build(self, convolution: dict[str, Any], **layers: Any) -> tuple[Any, str]:
        """The network and its name; ``convolution`` and ``layers`` are options of `nets.Conv` and of all layers."""
        if not self.widths and self.net == "mlp":
            raise UsageError("--widths needs at least one hidden layer")
        layers["activation"] = nets.ACTIVATIONS[self.activation]
        dense = nets.mlp(self.widths, **layers) if self.widths else ()
        if self.net == "mlp":
            return dense, f"{mlp_name(self.widths)} {self.activation}"
        name = "-".join(map(str, (*self.channels, *self.widths)))
        return (*nets.cnn(self.channels, **layers, **convolution), *dense), f"CNN {name} {self.activation}"


@dataclasses.dataclass(frozen=True)
class BPOptions:
    """Where BP's settings differ; None: as for the rule it stands beside."""

    learning_rate: float | None = None
    lr_schedule: LRSchedule | None = None
    lr_drops: tuple[int, ...] | None = None
    optimizer: Optimizer | None = None
    weight_decay: float | None = None
    batch_size: int | None = None
    epochs: int | None = None
    validate_every: int | None = None
    monitor: Literal["loss", "accuracy"] | None = None
    patience: int | None = None
    min_delta: float | None = None
    keep: Keep | None = None


class Setting(NamedTuple):
    """What a rule is built with."""

    options: Options
    num_classes: int
    learning_rate: Any
    """The peak, traced."""
    steps: int
    """Per epoch."""

    @property
    def tx(self) -> optax.GradientTransformation:
        """The optimizer that the options name."""
        return optimizer(self.options, self.learning_rate, self.steps * self.options.epochs, self.steps)


class Arm(NamedTuple):
    """One rule of an experiment."""

    name: str
    build: Callable[[Setting], LearningRule | Sequence[LearningRule]]
    """To the rule, or to its stages."""
    options: Options
    """This rule's settings; they may differ from the other arms' in how it is optimised and stopped, not in data."""
    network: str
    """In words, for tables and figures."""
    net: Any
    """Its blocks, or a function of the number of classes that gives them."""
    stages: tuple[dict[str, Any], ...] = ()
    """Where the plans of single stages differ from the options."""
    about: Mapping[str, Any] = MappingProxyType({})
    """What else the summary says of this rule: ``label``, ``published``."""


def bp_arm(options: Options, bp_options: BPOptions, net: Any, network: str, **start: Any) -> Arm:
    """Backpropagation on the same blocks, start values, split and data order; ``start`` are options of `bp.rule`."""
    names = [field.name for field in dataclasses.fields(Options)]
    values = {name: getattr(options, name) for name in names}
    values |= {name: value for name, value in dataclasses.asdict(bp_options).items() if value is not None}
    return Arm(
        "bp",
        lambda setting: bp.rule(net, setting.tx, num_classes=setting.num_classes, **start),
        Options(**values),
        network,
        net,
    )


def mlp_name(widths: Sequence[int]) -> str:
    """A network of fully connected layers, in words."""
    alike = len(widths) > 4 and len(set(widths)) == 1
    return f"MLP {len(widths)} x {widths[0]}" if alike else f"MLP {'-'.join(map(str, widths))}"


SIZES = ("learning_rate", "weight_decay", "min_delta", "head_learning_rate", "head_weight_decay", "block_learning_rate")
SIZES += ("block_weight_decay", "ridge", "eps", "peer", "alpha", "feedback_scale", "mirror_rate", "mirror_decay")
SIZES += ("mirror_noise", "decay", "auxiliary_weight")
"""Options that are numbers of 0 or more, wherever a script has them."""

METERING = ("energy", "idle_seconds", "carbon_intensity", "carbon_source", "codecarbon")
PLACES = ("cache_gb", "devices", "at_once", "stream", "compilation_cache")
NOT_CONFIGURATION = (
    "data_dir",
    "output_dir",
    "resume",
    "quiet",
    "join_seconds",
    *PLACES,
    *workers.PROCESSES,
    *METERING,
)


def parse(kind: type[Options], presets: dict[str, dict[str, Any]]) -> Any:
    """The options from the command line, over those of the preset, over the defaults."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--preset")
    preset = presets.get(early.parse_known_args()[0].preset, {})
    return tyro.cli(kind, default=kind(**preset))


def main(script: str, kind: type[Options], presets: dict[str, dict[str, Any]], arms: Callable[[Any], list[Arm]]) -> int:
    """The whole of a script that trains one rule, and others beside it; the exit code."""

    def work() -> int:
        options = parse(kind, presets)
        return run(script, options, arms(options))

    return well_behaved(work)


def well_behaved(work: Callable[[], int]) -> int:
    """Call ``work``; the exit code: its own (0 done, 3 a seed diverged), 2 bad input, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without "±" must not end a training
    usual = warnings.formatwarning

    def one_line_for_ours(
        message: Any, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        ours = issubclass(category, foton.ExpansionWarning | MemoryWarning)
        return f"warning: {message}\n" if ours else usual(message, category, filename, lineno, line)

    warnings.formatwarning = one_line_for_ours  # ty: ignore[invalid-assignment]
    try:
        return work()
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; what was saved before is kept", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as in `| head`
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (the interpreter flushes it when it exits)
        return 130


def run(
    script: str,
    options: Shared,
    arms: Sequence[Arm],
    *,
    protocol: dict[str, Any] | None = None,
    finish: Callable[[Path], None] | None = None,
) -> int:
    """Train every arm over the same seeds, split and data order, and write the result folder.

    ``protocol`` is what `fwdonly.report` needs to know of a comparison; ``finish`` is called with the folder when all
    is trained.
    """
    check(options)
    keep_programs(options)
    plans = [plan(arm.options) for arm in arms]
    of_stages = [[dataclasses.replace(p, **own) for own in arm.stages] for arm, p in zip(arms, plans, strict=True)]
    dataset = data.load(options.dataset, options.data_dir)
    print(
        f"data: {dataset.name}, {len(dataset.x_train):,} + {len(dataset.x_test):,} images, {dataset.source}", flush=True
    )
    seeds = list(range(options.first_seed, options.first_seed + options.seeds))
    split = split_of(options, dataset, seeds)
    config = configuration(script, arms, dataset, split) | ({"protocol": protocol} if protocol else {})
    folder = options.output_dir or _folder.new_name(script, dataset)
    _folder.look_into(folder, config, resume=options.resume)
    process, processes = workers.which(options)
    with _folder.Work(folder, process, processes, config, protocol, [arm.name for arm in arms], seeds) as work:
        workers.meet(options, process, processes)  # after the folder was read, and before any result is written to it
        missing = [[i for i, seed in enumerate(seeds) if not work.done(arm.name, seed)] for arm in arms]
        mine = [[i for i in own if i % processes == process] for own in missing]
        todo = turns(mine, options.alone, processes)
        if todo:
            check_machine(options, max(len(numbers) for _, numbers in todo))
        metering, intensity = meter(options)
        rules = [rule_maker(arm, arm_plan, dataset, split) for arm, arm_plan in zip(arms, plans, strict=True)]
        _folder.make(folder)
        work.keep_others_out()
        if process == 0:
            _folder.describe(folder, config, dataset)
        found = work.open(title(arms, dataset, rules))

        def train(at: int, numbers: Sequence[int], **more: Any) -> Result:
            return sweep(
                rules[at],
                dataset,
                of_stages[at] or plans[at],
                seeds=[seeds[i] for i in numbers],
                hyper={"learning_rate": arms[at].options.learning_rate},
                split=split if split[0].ndim == 1 else (split[0][list(numbers)], split[1][list(numbers)]),
                how=options.how,
                devices=options.devices,
                at_once=options.at_once,
                **more,
            )

        ready: dict[int, StageCosts] = {}
        stopped = False
        with interruptible() as interrupted:
            if metering is not None:
                metering.hurry = interrupted
            for number, (at, numbers) in enumerate(todo, start=1):
                arm, own = arms[at], [seeds[i] for i in numbers]
                name, checkpoint = arm.name.upper(), work.checkpoint(arm.name, own)
                compile_seconds = 0.0
                if processes > 1:
                    name = f"[{process + 1}/{processes}] {name}"
                if options.alone:
                    name += f" seed {own[0]} (run {number} of {len(todo)})"
                    if at not in ready:  # compiles, and executes once: what comes first would be slower
                        first = train(at, numbers, callback=lambda _: True)
                        compile_seconds = first.compile_seconds
                        ready[at] = stage_costs(rules[at](arm.options.learning_rate), plans[at], dataset, first)
                with Reporter(name, quiet=options.quiet, stop=interrupted) as reporter:
                    result = train(
                        at,
                        numbers,
                        callback=reporter,
                        checkpoint=checkpoint,
                        # A training in two parts has no energy as a whole: where that is asked for, it begins anew.
                        resume=not (options.alone and options.energy),
                        meter=metering,
                    )
                if result.finished or not options.alone:
                    summary = study.summarise(arm.name, own, result, intensity, processes)
                    summary |= {**arm.about, "network": arm.network}
                    summary["compile_seconds"] += compile_seconds
                    if options.alone:
                        images = steps_per_epoch(plans[at], split[0].shape[-1])
                        images *= plans[at].batch_size or split[0].shape[-1]
                        add_costs(summary, ready[at], images, sum(part.shape[-1] for part in split))
                    rows = study.metric_rows(arm.name, own, result)
                    found.add(summary, rows, study.power_rows(arm.name, own, result))
                    found.write()
                if stopped := not result.finished:
                    break
                for path in folder.glob(f"{checkpoint.name.removesuffix('.npz')}*.npz"):  # of groups, too
                    path.unlink()
        return work.end(found, finish, stopped=stopped)


class StageCosts(NamedTuple):
    """What training takes by the compiler's account."""

    memory: Quantity
    """Of one step, of the largest stage."""
    step: list[Quantity]
    """FLOP per image and step, of every stage."""
    features: list[Quantity | None]
    """FLOP per image for the features of frozen layers, where a stage keeps them: spent once."""


def stage_costs(
    made: LearningRule | Sequence[LearningRule], plan: Plan, dataset: data.Dataset, first: Result
) -> StageCosts:
    """The costs of every stage, as the first training did it."""
    memories, steps, features = [], [], []
    shape, batch = dataset.x_train.shape[1:], plan.batch_size or len(dataset.y_train)
    stages = (made,) if isinstance(made, LearningRule) else made
    for rule, kept in zip(stages, first.features_kept, strict=True):
        with jax.default_matmul_precision(DOT[plan.precision]):
            step = measure.compile_step(rule, shape, batch, kept=kept)
        memories.append(measure.memory(step.compiled))
        steps.append(measure.flops(step.compiled).times(1 / batch, "FLOP"))
        once = None
        if kept and rule.frozen is not None:
            x = jax.ShapeDtypeStruct((batch, *shape), jnp.float32)
            features_of = jax.jit(rule.frozen.features).lower(step.state_shape, x).compile()
            once = measure.flops(features_of).times(1 / batch, "FLOP")
        features.append(once)
    missing = next((memory for memory in memories if memory.value is None), None)
    return StageCosts(missing or max(memories, key=lambda memory: memory.value or 0), steps, features)


def add_costs(summary: results.Summary, costs: StageCosts, images: int, features: int) -> None:
    """Add memory, and every run's arithmetic: ``images`` per epoch, and once the features of ``features`` images."""
    summary["memory"] = costs.memory.as_json()
    for record in summary["runs"]:
        spent = []
        for step, once, epochs in zip(costs.step, costs.features, record["stage_epochs"], strict=False):
            spent.append(step.times(images * epochs, "FLOP"))
            spent += [once.times(features, "FLOP")] if once is not None and epochs else []
        record |= {"images": images * record["epochs"], "arithmetic": total(spent, "FLOP").as_json()}


def split_of(options: Shared, dataset: data.Dataset, seeds: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Training and validation indices: the same for all seeds, or a row for each."""
    split = data.split(dataset)
    if options.split == "paper":
        parts = [data.paper_split(dataset, seed=seed) for seed in seeds]
        split = np.stack([train for train, _ in parts]), np.stack([val for _, val in parts])
    check_classes(dataset, split[0])
    return split


def turns(missing: Sequence[Sequence[int]], alone: bool, processes: int = 1) -> list[tuple[int, list[int]]]:
    """(arm, seeds by position) in the order of training, of every arm's missing seeds: alone in the order A B, B A,
    A B, ..., so that no rule always comes first and a slow drift of the machine meets all alike. Of several
    ``processes`` number k has the seeds at k, k + processes, ..., and takes turns over those."""
    if not alone:
        return [(arm, list(own)) for arm, own in enumerate(missing) if own]
    order = []
    for seed in sorted({seed for own in missing for seed in own}):
        arms = [arm for arm, own in enumerate(missing) if seed in own]
        order += [(arm, [seed]) for arm in (arms if seed // processes % 2 == 0 else reversed(arms))]
    return order


def keep_programs(options: Shared) -> None:
    """Set up the persistent cache of compiled programs, or switch it off."""
    if not options.compilation_cache:
        jax.config.update("jax_enable_compilation_cache", False)
    elif not setting("compilation_cache_dir"):
        folder = data.cache_folder()
        if folder is not None:
            jax.config.update("jax_compilation_cache_dir", str(folder / "programs"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # all of them: a start has many small ones
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def check(options: Shared) -> None:
    """Refuse what no training can use or this installation has not, before anything is loaded or written."""
    for name, low in (
        ("seeds", 1),
        ("first_seed", 0),
        ("batch_size", 1),
        ("epochs", 1),
        ("patience", 1),
        ("validate_every", 1),
        ("mirror_epochs", 0),
        ("devices", 1),
        ("at_once", 1),
        ("join_seconds", 1),
    ):
        value = getattr(options, name, None)
        if value is not None and value < low:
            raise UsageError(f"--{name.replace('_', '-')} must be at least {low}; got {value}")
    if options.first_seed + options.seeds > 2**32:
        raise UsageError(
            f"seeds lie below 2**32; --first-seed {options.first_seed} with --seeds {options.seeds} do not"
        )
    for name in ("carbon_intensity", "carbon_source", "codecarbon"):
        if getattr(options, name) is not None and not options.energy:
            raise UsageError(f"--{name.replace('_', '-')} needs --energy")
    if (options.carbon_intensity is None) != (not (options.carbon_source or "").strip()):
        raise UsageError("--carbon-intensity and --carbon-source belong together: a number, and whose it is")
    for name in ("carbon_intensity", "idle_seconds"):
        if not 0 <= (getattr(options, name) or 0.0) < float("inf"):
            raise UsageError(f"--{name.replace('_', '-')} must be 0 or more; got {getattr(options, name)}")
    if options.resume and options.output_dir is None:
        raise UsageError("--resume needs --output-dir, the folder to continue in")
    if options.stream:
        streams.grain()


def check_machine(options: Shared, runs: int) -> None:
    """Refuse what this machine cannot do for so many runs together, before anything is written."""
    programs.check_precision(options.precision)
    programs.mesh_of(min(runs, options.at_once or runs), options.devices)


def meter(options: Shared) -> tuple[Meter | None, Intensity | None]:
    """What --energy asks for; says on the way what cannot be measured here, and how long it takes."""
    if not options.energy:
        return None, None
    second = [] if options.codecarbon is None else [measure.CodeCarbon(options.codecarbon)]
    made = Meter(idle_seconds=options.idle_seconds, opinions=second)
    intensity = None
    if options.carbon_intensity is not None:
        intensity = Intensity(options.carbon_intensity, str(options.carbon_source))
    if made.kind in made.missing:
        print(f"energy: unavailable, {made.missing[made.kind]}")
    elif options.idle_seconds:
        what = "run" if options.alone else "rule"
        print(f"energy: idle power is measured for {options.idle_seconds:g} s before and after every {what}")
    return made, intensity


def plan(options: Options) -> Plan:
    """The training plan of one arm."""
    if min(options.lr_drops, default=1) < 1:
        raise UsageError(f"--lr-drops are epochs, counted from 1; got {options.lr_drops}")
    for name in SIZES:
        if not 0 <= getattr(options, name, 0.0) < float("inf"):
            raise UsageError(f"--{name.replace('_', '-')} must be 0 or more; got {getattr(options, name)}")
    return Plan(
        epochs=options.epochs,
        batch_size=options.batch_size,
        monitor=options.monitor,
        patience=options.patience,
        min_delta=options.min_delta,
        target=options.target,
        keep=options.keep,
        normalise=options.normalise,
        augment=options.augment,
        validate_every=options.validate_every,
        cache_gb=options.cache_gb,
        precision=options.precision,
        stream=options.stream,
    )


def rule_maker(arm: Arm, plan: Plan, dataset: data.Dataset, split: Sequence[np.ndarray]) -> Callable[..., Any]:
    """The arm's rule as a function of the learning rate, which is traced: a new value does not compile anew.

    Raises:
        UsageError: batches, options or images that this rule and network cannot take.
    """
    options = arm.options
    steps = steps_per_epoch(plan, split[0].shape[-1])

    def make(learning_rate: Any) -> Any:
        return arm.build(Setting(options, dataset.num_classes, learning_rate, steps))

    made = make(options.learning_rate)
    first = made if isinstance(made, LearningRule) else made[0]
    example = jax.ShapeDtypeStruct((1, *dataset.x_train.shape[1:]), jnp.float32)
    with one_line():
        jax.eval_shape(first.init, jax.random.key(0), example)
    return make


def optimizer(options: Any, learning_rate: Any, steps: int, steps_per_epoch: int) -> optax.GradientTransformation:
    """What ``options.optimizer``, ``lr_schedule`` and ``weight_decay`` name, for a training of ``steps`` steps."""
    if options.lr_schedule == "cosine":
        learning_rate = optax.cosine_decay_schedule(learning_rate, steps)
    elif options.lr_schedule == "half_linear":
        learning_rate = ff.half_then_linear(learning_rate, steps_per_epoch, steps // steps_per_epoch)
    elif options.lr_schedule == "drops":
        drops = {epoch * steps_per_epoch: 0.1 for epoch in options.lr_drops}
        learning_rate = optax.piecewise_constant_schedule(learning_rate, drops)
    if options.optimizer == "adamw":
        return optax.adamw(learning_rate, weight_decay=options.weight_decay)
    known = {
        "adam": optax.adam(learning_rate),
        "sgd": optax.sgd(learning_rate),
        "momentum": optax.sgd(learning_rate, momentum=0.9),
    }
    if options.optimizer not in known:
        raise UsageError(f"--optimizer {options.optimizer} belongs to another rule; choose adamw, {', '.join(known)}")
    tx, decay = known[options.optimizer], options.weight_decay
    # A search hands in a traced decay, which is neither 0 nor not.
    return tx if isinstance(decay, float | int) and decay == 0 else optax.chain(optax.add_decayed_weights(decay), tx)


# ---------------------------------------------------------------------------------------------------------------------
# What a result folder says of the experiment


def configuration(
    script: str, arms: Sequence[Arm], dataset: data.Dataset, split: Sequence[np.ndarray]
) -> dict[str, Any]:
    """Everything that decides the numbers, as plain JSON."""
    settings = {
        arm.name: {k: v for k, v in dataclasses.asdict(arm.options).items() if k not in NOT_CONFIGURATION}
        for arm in arms
    }
    described = {
        "name": dataset.name,
        "digest": dataset.digest,
        "train": split[0].shape[-1],
        "validation": split[1].shape[-1],
        "test": len(dataset.y_test),
    }
    return json.loads(json.dumps({"script": script, "rules": settings, "data": described}))


def title(arms: Sequence[Arm], dataset: data.Dataset, rules: Sequence[Callable[..., Any]]) -> str:
    """Network, data and passes in one line, for the table and the figure."""
    options, caps = arms[0].options, []
    for arm, make_rule in zip(arms, rules, strict=True):
        made = make_rule(arm.options.learning_rate)
        stages = "" if isinstance(made, LearningRule) else f"{len(made)} x "
        own = [changes.get("epochs", arm.options.epochs) for changes in arm.stages]
        caps.append(f"{arm.name.upper()} " + ("+".join(map(str, own)) if own else f"{stages}{arm.options.epochs}"))
    embedded = "" if dataset.name != "mnist5k" else " (5,000 embedded images, not full MNIST)"
    batch = f"batch {options.batch_size}" if options.batch_size else "full batch"
    return f"{arms[0].network} on {dataset.name}{embedded}, {batch}; epochs at most: {', '.join(caps)}"


# ---------------------------------------------------------------------------------------------------------------------
# On the terminal


@contextlib.contextmanager
def interruptible() -> Generator[Callable[[], bool], None, None]:
    """Within it the first Ctrl-C (or SIGTERM) only asks to stop at the next chunk, the second one stops at once."""
    asked: list[int] = []

    def ask(number: int, _: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        print("\nstopping after the steps under way; once more to stop at once", file=sys.stderr, flush=True)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Reporter:
    """The callback of the scripts: a progress bar on a terminal, elsewhere a line per epoch; asks for a stop.

    The time left is what the epoch caps allow; early stopping may end sooner.
    """

    def __init__(self, name: str, *, quiet: bool, stop: Callable[[], bool]) -> None:
        self.name, self.stop, self.console = name, stop, Console()
        self.quiet, self.lines = quiet, not self.console.is_terminal
        self.bar = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(bar_width=20),
            rich.progress.TextColumn("{task.fields[numbers]}"),
            rich.progress.TimeElapsedColumn(),
            rich.progress.TextColumn("left"),
            rich.progress.TimeRemainingColumn(),
            console=self.console,
            disable=quiet or self.lines,
        )
        self.task = self.bar.add_task(self.name, total=None, numbers="compiling")
        self.accuracy = float("nan")

    def __enter__(self) -> "Reporter":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def __call__(self, progress: Progress) -> bool:
        caps, stages = progress.epochs, len(progress.epochs)
        total = sum(caps) * progress.steps
        done = (sum(caps[: progress.stage]) + progress.epoch) * progress.steps + progress.step
        ended = progress.record is not None
        if not progress.active.any():
            done = sum(caps[: progress.stage + 1]) * progress.steps
        if progress.record is not None:
            self.accuracy = 100 * _mean(progress.record["val_accuracy"])
        stage = f" stage {progress.stage + 1}/{stages}" if stages > 1 else ""
        first, last, runs = progress.runs
        if last - first < runs:  # of this group; the others take as long
            stage = f" seeds {first + 1}-{last} of {runs}{stage}"
            done, total = done * (last - first) + total * first, total * runs
        numbers = f"epoch {progress.epoch + (not ended)}/{caps[progress.stage]}  loss {_mean(progress.loss):.4f}"
        numbers += f"  val {self.accuracy:.2f} %" if np.isfinite(self.accuracy) else ""
        training = int(progress.active.sum())
        numbers += f"  {training}/{progress.active.size} seeds" if 0 < training < progress.active.size else ""
        self.bar.update(self.task, total=total, completed=done, description=self.name + stage, numbers=numbers)
        if self.lines and ended and not self.quiet:
            begun = done - total * progress.runs[0] // progress.runs[2]  # by this group, whose seconds these are
            left = progress.seconds / begun * (total - done)
            print(f"{self.name}{stage}  {numbers}  {_clock(progress.seconds)} gone, {_clock(left)} left", flush=True)
        return self.stop()


def _mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else float("nan")


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
