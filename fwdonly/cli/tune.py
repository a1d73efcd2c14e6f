"""``fwdonly tune RULE``: the same budget, sampler and size of space for every rule; never on the test set."""

import dataclasses
import importlib
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .. import data, report, results
from .. import tune as search
from ..card import Space
from ..study import (
    Arm,
    Data,
    Machine,
    Measuring,
    Output,
    Runs,
    Study,
    check_machine,
    declared,
    keep_programs,
    load,
    make_arm,
    prepare,
    split_of,
    terminal,
)
from ..study import folder as folders
from ..training import interruptible, steps_per_epoch
from . import options, train
from .compare import check_scores
from .options import Group

DESCRIPTION = """Search two settings of {label} with Optuna for the highest validation accuracy, mean over seeds.

Several trials and all their seeds train as one compiled program. Ends with the command line that trains the best
settings. Repeat the same command to continue a search that was stopped or killed; start it on several machines with one
--storage URL to search together. What a dead worker left is tried again by the others."""


@dataclasses.dataclass(frozen=True)
class Search:
    """How settings are searched."""

    trials: int = 50
    """Number of trials, of all workers together."""
    parallel: int = 5
    """Trials that are proposed and trained at a time. Keep it the same for all rules."""
    prune: bool = True
    """End a trial when its accuracy falls below the median of the earlier ones."""
    storage: str | None = None
    """URL of a database (postgresql://..., sqlite:///...) or of fwdonly serve (grpc://host:13000), or a file for a
    journal. None: study.journal in the result folder."""
    study: str | None = None
    """Name of the study in the storage. None: from rule, data and network."""


DEFAULTS = {"seeds": 3, "first_seed": 1000, "epochs": 10, "keep": "best_loss"}
LEFT_OUT = (
    "alone",
    "target",
    "resume",
    "save_models",
    "log",
    "at_once",
    "coordinator",
    "num_processes",
    "process_id",
    "join_seconds",
    "slurm",
    "layer_accuracy",
    *(field.name for field in declared(Measuring)),
)
"""Options of trainings that a search does not have."""


class Task(NamedTuple):
    """What the words of the command ask for."""

    arm: Arm
    search: Search
    data: Data
    runs: Runs
    machine: Machine
    output: Output

    @property
    def space(self) -> Space:
        """What is searched."""
        return self.arm.rule.space


PLAIN = str.maketrans(" :/", "---")
"""Makes one file's name of a study's."""


def task_of(words: Sequence[str], prog: str = "fwdonly tune") -> Task:
    """The search that the words of a command describe.

    Raises:
        UsageError: words that describe none.
    """
    names, words = options.names_first(words)
    options.check_names(names, words, prog, "RULE", len(names) == 1)
    rule = load(names[0])
    groups = [
        Group("search", declared(Search)),
        options.rule_group(rule),
        options.optimizer_group(rule),
        *options.shared_groups(*LEFT_OUT),
    ]
    start = {"net": rule.card.net if rule.card.net.startswith("cwc") else options.NET.default}
    start |= rule.defaults(compared=True) | DEFAULTS
    values = options.parse(
        words, groups, start, prog=f"{prog} {names[0]}", description=DESCRIPTION.format(label=rule.label)
    )
    arm = make_arm(rule, train.arm_values(rule, start | values))
    check_scores(arm)
    kinds = (Search, Data, Runs, Machine, Output)
    return Task(arm, *(options.make(kind, values) for kind in kinds))


def main(words: Sequence[str], command_line: Sequence[str], prog: str = "fwdonly tune") -> int:
    """Parse, search, report; the exit code."""
    del command_line
    task = task_of(words, prog)
    keep_programs(task.machine)
    arm, seeds = task.arm, task.runs.numbers
    dataset = data.load(task.data.dataset, task.data.data_dir)
    print(f"data: {dataset.name}, {len(dataset.x_train):,} training images, {dataset.source}", flush=True)
    split = split_of(task.data, dataset, seeds)
    name = task.search.study or f"{arm.name}-{dataset.name}-{arm.net.label}".translate(PLAIN)
    folder = task.output.output_dir or Path("results") / f"tune-{name}"
    storage = task.search.storage or str(folder / "study.journal")
    plans = prepare(arm, dataset, split).plans  # refuses what the rule or the network cannot take
    check_machine(Study("tune", (arm,), machine=task.machine), task.search.parallel * task.runs.seeds)
    folders.make(folder)  # before the search: its results go there
    steps = steps_per_epoch(plans[0], split[0].shape[-1])

    def make() -> Any:
        def rule(**values: Any) -> Any:
            stages = tuple(stage.rule for stage in arm.changed(values).training(dataset.num_classes, steps))
            return stages[0] if len(stages) == 1 else stages

        return rule, plans if len(plans) > 1 else plans[0]

    settings = arm.settings() | {"dataset": task.data.dataset, "split": task.data.split, **vars(task.runs)}
    about = {"rule": arm.name, "settings": {k: v for k, v in settings.items() if k not in task.space}}
    with interruptible() as interrupted:
        study = search.tune(
            make,
            task.space,
            dataset,
            trials=task.search.trials,
            seeds=seeds,
            name=name,
            storage=storage,
            parallel=task.search.parallel,
            prune=task.search.prune,
            first={key: arm.value(key) for key in task.space},
            about=about,
            split=split,
            how=task.machine.how,
            devices=task.machine.devices,
            callback=lambda progress: interrupted() or say(progress, task.output.quiet),
            watch=lambda _: interrupted(),
        )
    with search.reachable(storage):
        return print_outcome(study, task, folder, storage, name, dataset)


def say(progress: search.Round, quiet: bool) -> None:
    """Print a line of progress, and one about the trials that other workers took from this one."""
    if progress.refused:
        numbers = ", ".join(map(str, progress.refused))
        print(f"note: this worker was silent too long, others took its trials {numbers}", file=sys.stderr, flush=True)
    if quiet:
        return
    best = "no complete trial yet"
    if progress.best is not None:
        best = f"best {100 * progress.best:.2f} % (trial {progress.best_trial})"
    left = "" if progress.left is None else f", {terminal.clock(progress.left)} left"
    counts = f"{progress.done}/{progress.trials} trials, {progress.pruned} of them pruned"
    counts += f", {progress.elsewhere} under way elsewhere" if progress.elsewhere else ""
    print(f"{counts}  {best}  {terminal.clock(progress.seconds)} gone{left}", flush=True)


def print_outcome(study: Any, task: Task, folder: Path, storage: str, name: str, dataset: data.Dataset) -> int:
    """Write the trial table, the figure and the best settings, and print the command that trains them."""
    rows = _trial_rows(study)
    results.write_rows(folders.make(folder) / "trials.csv", ["trial", "state", "val_accuracy"], rows)
    best, optuna = search.best(study), importlib.import_module("optuna")
    under_way = search.elsewhere(optuna, study)
    told = [row for row in rows if row["state"] in ("complete", "pruned")]
    command = shlex.join(_command(task, dataset, best.params))
    space = task.space
    remarks = [
        f"{key} lies at the border of its space" for key, value in best.params.items() if value in space[key][:2]
    ]
    remarks += ["these settings are the first guess, not a find of the search"] if best.number == 0 else []
    content = {
        "rule": task.arm.name,
        "study": name,
        "val_accuracy": best.value,
        "per_seed": best.user_attrs["per_seed"],
        "values": best.params,
        "command": command,
        "trials": len(told),
        "remarks": remarks,
        "trial": best.number,
        "facts": study.user_attrs["facts"],
        "sampler": study.user_attrs["facts"]["sampler"],
        "train_seconds": sum(row["train_seconds"] or 0.0 for row in told),
        "environment": results.environment(),
    }
    results.write_json(folder / "best.json", content)
    heading = f"{name}: {len(told)} trials x {task.runs.seeds} seeds"
    with terminal.noted(f"the figure {folder / 'search.png'}"):
        report.search_figure(folder / "search.png", told, list(space), heading)
    words = ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in best.params.items()
    )
    print(f"best of {len(told)} trials: {100 * best.value:.2f} % validation accuracy (trial {best.number}; {words})")
    for remark in remarks:
        print(f"note: {remark}")
    print(f"to train it:\n  {command}")
    where = storage if "://" in storage or Path(storage).is_absolute() else f"./{storage}"
    if not where.startswith("grpc://"):  # the dashboard reads the database behind it
        print(f"to look at the study: optuna-dashboard {shlex.quote(search.masked(where))}")
    print(f"results: {folder}/ (best.json, trials.csv, search.png)")
    if len(told) + under_way < task.search.trials:
        print("stopped before the last trial; the same command continues")
        return 130
    if len(told) < task.search.trials:
        print(f"{under_way} trials are still under way elsewhere")
    return 0


def _trial_rows(study: Any) -> list[dict[str, Any]]:
    return [
        {
            "trial": trial.number,
            "state": trial.state.name.lower(),
            "val_accuracy": trial.value,
            **trial.params,
            "per_seed": " ".join("nan" if a is None else f"{a:.6f}" for a in trial.user_attrs.get("per_seed", ())),
            "epochs": " ".join(map(str, trial.user_attrs.get("epochs", ()))),
            "train_seconds": trial.user_attrs.get("train_seconds"),
        }
        for trial in study.get_trials(deepcopy=False)
    ]


def _command(task: Task, dataset: data.Dataset, best: Mapping[str, Any]) -> list[str]:
    """The command that trains what was tuned, with the best settings."""
    arm = task.arm.changed(best)
    name = arm.name if arm.rule.path is None else f"{arm.rule.path}:{arm.name}"
    values = {**arm.settings(), **vars(task.data), "preset": None}
    values |= {"dataset": dataset.name} if task.data.dataset == "auto" else {}
    groups = [g for g in train.groups_of(arm.rule) if g.name not in ("seeds", "measuring", "output")]
    return ["fwdonly", "train", name, *options.words_of(groups, values, train.defaults_of(arm.rule, None))]
