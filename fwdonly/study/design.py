"""A study as a record: its rules with all their settings, its data, seeds, machine and measurements."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ..card import Optimizer, Setting, Stage
from ..data import Dataset
from ..errors import UsageError, check_whole, one_line, plain, settle_numbers
from ..files import expanded
from ..nets import Spec, parse
from ..options import check_effects
from ..surroundings import numerics
from ..training import Plan
from .optimizers import transformation
from .rules import Rule


def _at_least(record: Any, **lowest: int) -> None:
    settle_numbers(record, "--{}")
    for name, low in lowest.items():
        value = getattr(record, name)
        if value is not None and value < low:
            raise UsageError(f"--{name.replace('_', '-')} must be at least {low}; got {value}")


@dataclasses.dataclass(frozen=True)
class Data:
    """The images."""

    dataset: str = "auto"
    """mnist, fashion_mnist, cifar10, cifar100, mnist5k, digits, tfds:NAME, or NAME for NAME.npz in the data
    directory. Of your own: FILE.npz, folder:PATH (a sub-folder of images per class), csv:PATH#target=COLUMN, hf:NAME
    (Hugging Face's hub, or a saved folder), FILE.py:FUNCTION (returns a Dataset); see `fwdonly.data.load`. auto: full
    MNIST where it can be had, otherwise 5,000 embedded MNIST images."""
    data_dir: Path | None = None
    """Folder with data files (.npz, IDX, CIFAR batches). Default: $FWDONLY_DATA."""
    split: Literal["fixed", "paper"] = "fixed"
    """Validation images. fixed: stratified, the same for all seeds. paper: MNIST's last 10,000, else a random tenth
    drawn from the seed."""

    def __post_init__(self) -> None:
        if self.data_dir is not None:
            object.__setattr__(self, "data_dir", expanded(self.data_dir, "--data-dir"))


@dataclasses.dataclass(frozen=True)
class Runs:
    """The seeds."""

    seeds: int = 10
    """Number of seeds."""
    first_seed: int = 0
    """The seeds are first-seed, first-seed + 1, ..."""
    alone: bool = False
    """Train every seed by itself, the rules taking turns, so that every run has its own seconds and energy. Otherwise
    the seeds of a rule train together as one compiled program."""

    def __post_init__(self) -> None:
        for name in ("seeds", "first_seed"):
            object.__setattr__(self, name, check_whole(getattr(self, name), f"--{name.replace('_', '-')}"))
        _at_least(self, seeds=1, first_seed=0)
        if self.first_seed + self.seeds > 2**32:
            raise UsageError(f"seeds lie below 2**32; --first-seed {self.first_seed} with --seeds {self.seeds} do not")

    @property
    def numbers(self) -> list[int]:
        """Every seed."""
        return list(range(self.first_seed, self.first_seed + self.seeds))


@dataclasses.dataclass(frozen=True)
class Measuring:
    """What is measured beside accuracy and time."""

    energy: bool = False
    """Measure the energy of every rule's training where there is a sensor (NVML on GPUs, RAPL on processors), and draw
    the power over time. Without a sensor the report says "unavailable"."""
    idle_seconds: float = 30.0
    """With --energy: seconds of idle power before and after every rule. 0: none."""
    carbon_intensity: float | None = None
    """With --energy: g of CO2 equivalents per kWh of your electricity; needs --carbon-source."""
    carbon_source: str | None = None
    """Source and year of the carbon intensity; printed beside the number."""
    codecarbon: str | None = None
    """With --energy: CodeCarbon's estimate beside the measurement, for the country with these three letters (ISO
    3166)."""
    alignment: bool = False
    """Compare every step with backpropagation's gradient: the cosine and the ratio of norms, per layer and epoch."""

    def __post_init__(self) -> None:
        settle_numbers(self, "--{}")
        for name in ("carbon_intensity", "carbon_source", "codecarbon"):
            if getattr(self, name) is not None and not self.energy:
                raise UsageError(f"--{name.replace('_', '-')} needs --energy")
        if (self.carbon_intensity is None) != (not (self.carbon_source or "").strip()):
            raise UsageError("--carbon-intensity and --carbon-source belong together: a number, and whose it is")
        for name in ("carbon_intensity", "idle_seconds"):
            if not 0 <= (getattr(self, name) or 0.0) < float("inf"):
                raise UsageError(f"--{name.replace('_', '-')} must be 0 or more; got {getattr(self, name)}")


@dataclasses.dataclass(frozen=True)
class Machine:
    """Where and how the runs are computed."""

    how: Literal["auto", "map", "vmap"] = "auto"
    """Seeds one after another (map) or all at once (vmap). auto: map on a CPU, vmap elsewhere."""
    devices: int | None = None
    """Devices over which the seeds are spread. None: all that this process sees, no more than there are seeds."""
    at_once: int | None = None
    """Seeds that train together; the others wait. None: as many as fit into memory."""
    compilation_cache: bool = True
    """Keep compiled programs in the user's cache folder, so that the next start compiles nothing.
    $JAX_COMPILATION_CACHE_DIR names another folder. Compile seconds are then those of fetching."""
    coordinator: str | None = None
    """HOST:PORT of process 0, where several processes share the seeds; needs --num-processes, --process-id and one
    --output-dir. srun sets all three. Give every process GPUs of its own ($CUDA_VISIBLE_DEVICES)."""
    num_processes: int | None = None
    """Number of processes of this run, on all machines."""
    process_id: int | None = None
    """Number of this process, from 0."""
    join_seconds: float = 300.0
    """Give up if not all processes have come together after so many seconds."""
    slurm: bool = True
    """Take from srun's environment which process this is. --no-slurm in a shell that srun started with several tasks,
    where this process is alone."""

    def __post_init__(self) -> None:
        _at_least(self, devices=1, at_once=1, join_seconds=1)


@dataclasses.dataclass(frozen=True)
class Output:
    """Where results go."""

    output_dir: Path | None = None
    """Result folder. Default: results/COMMAND-RULE-DATASET-TIME."""
    resume: bool = False
    """Continue the run in --output-dir, or begin it where there is none yet, so that a job that may be interrupted
    always says it; all other options as they were."""
    quiet: bool = False
    """Show no progress, only the table."""
    log: tuple[str, ...] = ()
    """Send the numbers of every epoch to tensorboard[:FOLDER], mlflow[:URI], wandb[:PROJECT] or FILE.py:FUNCTION, one
    or several. Default of tensorboard: a folder in the result folder."""
    save_models: Literal["best", "all", "none"] = "best"
    """Which trained weights to keep as model-RULE-SEED.safetensors: of every rule the run with the best validation
    accuracy, all runs, or none. `fwdonly predict` and `fwdonly.load` take them."""

    def __post_init__(self) -> None:
        settle_numbers(self, "--{}")
        if self.output_dir is not None:
            object.__setattr__(self, "output_dir", expanded(self.output_dir, "--output-dir"))
        if self.resume and self.output_dir is None:
            raise UsageError("--resume needs --output-dir, the folder to continue in")


PLACES = ("cache_gb", "stream", "chunk_steps")
"""Fields of a `Plan` that say where data lie, and do not belong to a configuration."""

STOPPING = ("epochs", "patience", "min_delta", "monitor", "keep", "validate_every")
"""Fields of a `Plan` that say how long to train and what to keep."""


@dataclasses.dataclass(frozen=True)
class Arm:
    """One rule of a study with all its settings."""

    name: str
    rule: Rule
    options: Mapping[str, Any]
    """The rule's options by name."""
    net: Spec
    optimizer: Optimizer
    plan: Plan
    stages: tuple[Mapping[str, Any], ...] = ()
    """What a protocol says of the stages' plans; a rule's own stages are in `Stage.plan`."""
    preset: str | None = None
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What else the summary says of this rule: ``label``, ``tuned``."""
    alignment: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "about", plain(self.about, f"what is said about {self.name}"))

    @property
    def label(self) -> str:
        """For tables and figures."""
        return self.about.get("label") or self.rule.label

    def settings(self) -> dict[str, Any]:
        """All settings that decide the numbers, by the names of the options."""
        plan = {name: value for name, value in vars(self.plan).items() if name not in PLACES}
        values = {"net": str(self.net), "preset": self.preset, **self.options, **self.optimizer._asdict(), **plan}
        if self.rule.path is not None:
            values |= {"rule": self.rule.path.name, "rule_sha256": self.rule.digest}
        return values | ({"net_sha256": self.net.digest()} if self.net.function else {})

    def changed(self, values: Mapping[str, Any]) -> "Arm":
        """The arm with other settings, which may be traced.

        Raises:
            UsageError: the rule has no such setting, or one that does not fit.
        """
        options, optimizer, plan, net = dict(self.options), {}, {}, self.net
        for name, value in values.items():
            if name in options:
                options[name] = value
            elif name in Optimizer._fields:
                optimizer[name] = value
            elif name in Plan.__dataclass_fields__:
                plan[name] = value
            elif name == "net":
                net = parse(value).with_defaults(self.rule.start)
            else:
                known = ", ".join([*options, *Optimizer._fields, "net"])
                raise UsageError(f"{self.name} has no option {name!r}; its options are {known}")
        card = self.rule.card
        usual = {name: (value, card.compared.get(name, value)) for name, value in self.rule.default_options.items()}
        for kind in card.options:
            check_effects(kind, options, values, usual)
        changed = {"options": options, "optimizer": self.optimizer._replace(**optimizer), "net": net}
        return dataclasses.replace(self, plan=dataclasses.replace(self.plan, **plan), **changed)

    def value(self, name: str) -> Any:
        """What a setting is."""
        return getattr(self.optimizer, name) if name in Optimizer._fields else self.options[name]

    def check(self) -> None:
        """Refuse numbers that no training can use.

        Raises:
            UsageError: a number that is not finite, or below 0 where that makes no sense.
        """
        signed = self.rule.card.signed
        for name, value in (*self.options.items(), *self.optimizer._asdict().items()):
            if not isinstance(value, int | float) or isinstance(value, bool):
                continue
            if not math.isfinite(value) or (value < 0 and name not in signed):
                raise UsageError(f"--{name.replace('_', '-')} must be 0 or more; got {value}")
        if min(self.optimizer.lr_drops, default=1) < 1:
            raise UsageError(f"--lr-drops are epochs, counted from 1; got {self.optimizer.lr_drops}")
        if not all(0 <= rate < math.inf for rate in self.optimizer.layer_rates):
            raise UsageError(f"--layer-rates must be 0 or more; got {self.optimizer.layer_rates}")

    def training(self, num_classes: int, steps: int) -> tuple[Stage, ...]:
        """The rule's stages; ``steps`` are those of an epoch."""
        plan = self.stages[0] if self.stages else {}
        setting = Setting(
            net=self.net.build(num_classes),
            num_classes=num_classes,
            options=self.options,
            optimizer=self.optimizer,
            start=self.net.start,
            epochs=plan.get("epochs", self.plan.epochs),
            steps=steps,
            make=transformation,
        )
        return self.rule.training(setting)

    def plans(self, stages: Sequence[Stage]) -> list[Plan]:
        """One plan per stage. It is the plan of the arm; the rule changes it first, the protocol second."""
        of_protocol = self.stages or ({},) * len(stages)
        plans = []
        for stage, changes in zip(stages, of_protocol, strict=True):
            by_layer = self.plan.layer_accuracy and stage.rule.layer_scores is not None
            plans.append(dataclasses.replace(self.plan, **{**stage.plan, **changes}, layer_accuracy=by_layer))
        return plans

    def maker(self, dataset: Dataset, steps: int) -> Callable[..., Any]:
        """The rule as a function of its numeric settings, which are traced: a new value compiles nothing anew.

        Raises:
            UsageError: batches, options or images that this rule and network cannot take.
        """

        def make(**values: Any) -> Any:
            stages = self.changed(values).training(dataset.num_classes, steps)
            rules = tuple(self._watched(stage.rule) for stage in stages)
            return rules[0] if len(rules) == 1 else rules

        outcome = make(learning_rate=self.optimizer.learning_rate)
        first = outcome[0] if type(outcome) is tuple else outcome
        example = jax.ShapeDtypeStruct((1, *dataset.x_train.shape[1:]), jnp.float32)
        with one_line():
            jax.eval_shape(first.init, jax.random.key(0), example)
        return make

    def _watched(self, rule: Any) -> Any:
        """The rule, with the comparison with backpropagation's gradient in every step where that is asked for."""
        if not self.alignment:
            return rule
        from ..measure import with_alignment

        if rule.grads is None:
            raise UsageError(f"--alignment needs a rule that has grads, and {self.name} has none")
        return with_alignment(rule)


@dataclasses.dataclass(frozen=True)
class Study:
    """Several rules on the same data and seeds."""

    name: str
    """The command's name; result folders are named by it."""
    arms: tuple[Arm, ...]
    data: Data = Data()
    runs: Runs = Runs()
    measuring: Measuring = Measuring()
    machine: Machine = Machine()
    output: Output = Output()
    protocol: Mapping[str, Any] | None = None
    """What `fwdonly.report` needs to know of a comparison."""
    command_line: tuple[str, ...] = ()
    """The command that started it, for the record."""

    def __post_init__(self) -> None:
        if self.output.log and self.measuring.energy:
            raise UsageError("--log writes within what --energy measures; leave out one of the two")

    def settings(self) -> dict[str, dict[str, Any]]:
        """All settings of every rule, with those that are common to all."""
        shared = {"dataset": self.data.dataset, "split": self.data.split, **vars(self.runs)}
        shared |= {"how": self.machine.how, "alignment": self.measuring.alignment}
        return {arm.name: arm.settings() | shared for arm in self.arms}

    def configuration(self, dataset: Dataset, split: Sequence[Any]) -> dict[str, Any]:
        """Everything that decides the numbers, as plain JSON; JAX's switches and the packages' versions, too."""
        described = {
            "name": dataset.name,
            "digest": dataset.digest,
            "train": split[0].shape[-1],
            "validation": split[1].shape[-1],
            "test": len(dataset.y_test),
        }
        content = {"command": self.name, "rules": self.settings(), "data": described, "numerics": numerics()}
        content |= {"protocol": dict(self.protocol)} if self.protocol else {}
        return plain(content, "the configuration")


def _number(value: Any) -> Any:
    """A setting, with NumPy's numbers as numbers: what is traced comes later, by `Arm.changed`."""
    return value.item() if isinstance(value, np.generic) else value


def make_arm(rule: Rule, values: Mapping[str, Any], *, net: str | None = None, name: str | None = None) -> Arm:
    """An arm from flat settings, over the defaults of the records.

    Raises:
        UsageError: a setting that the rule does not have, or one that does not fit.
    """
    network = parse(net or values.get("net") or rule.card.net).with_defaults(rule.start)
    empty = Arm(name or rule.name, rule, rule.default_options, network, Optimizer(), Plan())
    about = {"label": rule.label}
    settings = {key: _number(value) for key, value in values.items() if key not in ("net", "preset")}
    arm = dataclasses.replace(empty.changed(settings), about=about, preset=values.get("preset"))
    arm.check()
    return arm
