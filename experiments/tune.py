"""Search a rule's settings: the same budget, sampler and size of space for every rule; never on the test set."""

import dataclasses
import importlib
import shlex
import sys
from pathlib import Path
from typing import Any, Literal

import _common
import _folder
import tyro
from _rules import RULES, arm_of, options_of, value_of, words
from tyro.conf import Suppress

from fwdonly import UsageError, data, report, results
from fwdonly import tune as search


@dataclasses.dataclass(frozen=True)
class Options(_common.Shared):
    """Search two settings of one rule with Optuna for the highest validation accuracy, mean over seeds.

    Several trials and all their seeds train as one compiled program. Ends with the command line that trains the best
    settings. Repeat the same command to continue a search that was stopped or killed; start it on several machines with
    one --storage URL to search together. What a dead worker left is tried again by the others.
    """

    rule: Literal[tuple(RULES)] = "mf"  # ty: ignore[invalid-type-form]
    """What is tuned; its space is in _rules.py."""
    trials: int = 50
    """Of all workers together."""
    seeds: int = 3
    """Seeds of every trial."""
    first_seed: int = 1000
    """The seeds are first-seed, first-seed + 1, ...; final numbers should come from others."""
    parallel: int = 5
    """Trials that are proposed and trained at a time. Keep it the same for all rules."""
    prune: bool = True
    """End a trial when its accuracy falls below the median of the earlier ones."""
    storage: str | None = None
    """URL of a database (postgresql://..., sqlite:///...) or of serve_study.py (grpc://host:13000), or a file for a
    journal. None: study.journal in the result folder."""
    study: str | None = None
    """Name of the study in the storage. None: from rule, data and network."""
    widths: tuple[int, ...] = (1000, 1000)
    """Widths of the hidden layers of an MLP."""
    channels: tuple[int, ...] | None = None
    """Channels of a CNN's blocks. None: those of the rule's script."""
    set: str = ""
    """Further options of the rule's own script, such as '--prediction sum'."""
    epochs: int = 10
    """Cap on the epochs of a trial; of every stage, where a rule trains in stages."""
    keep: _common.Keep = "best_loss"
    """The state whose validation accuracy counts: of the epoch with the best validation loss or accuracy, or the last
    one."""
    output_dir: Path | None = None
    """Result folder. Default: results/tune-STUDY."""
    quiet: bool = False
    """No progress, only the result."""
    alone: Suppress[bool] = False
    target: Suppress[float | None] = None
    resume: Suppress[bool] = False
    at_once: Suppress[int | None] = None
    coordinator: Suppress[str | None] = None
    num_processes: Suppress[int | None] = None
    process_id: Suppress[int | None] = None
    join_seconds: Suppress[float] = 300.0
    energy: Suppress[bool] = False
    idle_seconds: Suppress[float] = 0.0
    carbon_intensity: Suppress[float | None] = None
    carbon_source: Suppress[str | None] = None
    codecarbon: Suppress[str | None] = None


def main() -> int:
    """Parse, search, report."""
    options = tyro.cli(Options)
    _common.check(options)
    _common.keep_programs(options)
    known = RULES[options.rule]
    own = options_of(options.rule, options, *_said(options), tuned=())
    arm = arm_of(options.rule, own)
    dataset = data.load(options.dataset, options.data_dir)
    print(f"data: {dataset.name}, {len(dataset.x_train):,} training images, {dataset.source}", flush=True)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    split = _common.split_of(options, dataset, seeds)
    name = options.study or f"{options.rule}-{dataset.name}-{arm.network}".replace(" ", "-").replace(":", "-")
    folder = options.output_dir or Path("results") / f"tune-{name}"
    storage = options.storage or str(folder / "study.journal")
    plan = _common.plan(arm.options)
    _common.rule_maker(arm, plan, dataset, split)  # refuses what the rule or the network cannot take
    _common.check_machine(options, options.parallel * options.seeds)
    if options.storage is None:
        _folder.make(folder)

    def make() -> Any:
        def rule(**values: Any) -> Any:
            tried = arm_of(options.rule, own, values)
            steps = _common.steps_per_epoch(plan, split[0].shape[-1])
            return tried.build(_common.Setting(tried.options, dataset.num_classes, tried.options.learning_rate, steps))

        return rule, [dataclasses.replace(plan, **changes) for changes in arm.stages] or plan

    settings = {key: value for key, value in dataclasses.asdict(own).items() if key not in _common.NOT_CONFIGURATION}
    about = {"rule": options.rule, "settings": {k: v for k, v in settings.items() if k not in known.space}}
    first = {key: value_of(options.rule, own, key) for key in known.space}
    with _common.interruptible() as interrupted:
        study = search.tune(
            make,
            known.space,
            dataset,
            trials=options.trials,
            seeds=seeds,
            name=name,
            storage=storage,
            parallel=options.parallel,
            prune=options.prune,
            first=first,
            about=about,
            split=split,
            how=options.how,
            devices=options.devices,
            callback=lambda found: interrupted() or say(found, options.quiet),
            watch=lambda _: interrupted(),
        )
    with search.reachable(storage):
        return print_outcome(study, options, known.space, folder, storage, name, dataset)


def say(found: search.Round, quiet: bool) -> None:
    """A line of progress, and one about what was taken from this worker."""
    if found.refused:
        numbers = ", ".join(map(str, found.refused))
        print(f"note: this worker was silent too long, others took its trials {numbers}", file=sys.stderr, flush=True)
    if quiet:
        return
    best = (
        "no complete trial yet" if found.best is None else f"best {100 * found.best:.2f} % (trial {found.best_trial})"
    )
    left = "" if found.left is None else f", {_common._clock(found.left)} left"
    counts = f"{found.done}/{found.trials} trials, {found.pruned} of them pruned"
    counts += f", {found.elsewhere} under way elsewhere" if found.elsewhere else ""
    print(f"{counts}  {best}  {_common._clock(found.seconds)} gone{left}", flush=True)


def print_outcome(
    study: Any, options: Options, space: search.Space, folder: Path, storage: str, name: str, dataset: data.Dataset
) -> int:
    """Write the trial table, the figure and the best settings, and print the command that trains them."""
    rows: list[dict[str, Any]] = [
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
    results.write_rows(_folder.make(folder) / "trials.csv", ["trial", "state", "val_accuracy"], rows)
    best, optuna = search.best(study), importlib.import_module("optuna")
    under_way = len(study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)))
    told = [row for row in rows if row["state"] in ("complete", "pruned")]
    chosen = words(options.rule, best.params)
    script = f"experiments/{RULES[options.rule].script}.py"
    command = shlex.join(["python", script, *_training(options, dataset), *chosen])
    remarks = [
        f"{key} lies at the border of its space" for key, value in best.params.items() if value in space[key][:2]
    ]
    remarks += ["these settings are the first guess, not a find of the search"] if best.number == 0 else []
    content = {
        "rule": options.rule,
        "study": name,
        "val_accuracy": best.value,
        "per_seed": best.user_attrs["per_seed"],
        "values": best.params,
        "options": chosen,
        "command": command,
        "trials": len(told),
        "remarks": remarks,
        "trial": best.number,
        "facts": study.user_attrs["facts"],
        "sampler": study.user_attrs["sampler"],
        "train_seconds": sum(row["train_seconds"] or 0.0 for row in told),
        "environment": results.environment(),
    }
    results.write_json(folder / "best.json", content)
    report.search_figure(
        folder / "search.png", told, list(space), f"{name}: {len(told)} trials x {options.seeds} seeds"
    )
    found = ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in best.params.items()
    )
    print(f"best of {len(told)} trials: {100 * best.value:.2f} % validation accuracy (trial {best.number}; {found})")
    for remark in remarks:
        print(f"note: {remark}")
    print(f"to train it:\n  {command}")
    where = storage if "://" in storage else f"./{storage}" if not Path(storage).is_absolute() else storage
    if not where.startswith("grpc://"):  # the dashboard reads the database behind it
        print(f"to look at the study: optuna-dashboard {shlex.quote(search.masked(where))}")
    print(f"results: {folder}/ (best.json, trials.csv, search.png)")
    if len(told) + under_way < options.trials:
        print("stopped before the last trial; the same command continues")
        return 130
    if len(told) < options.trials:
        print(f"{under_way} trials are still under way elsewhere")
    return 0


def _training(options: Options, dataset: data.Dataset) -> list[str]:
    """The options, but those searched, with which the rule's own script trains what was tuned."""
    said = shlex.split(RULES[options.rule].arguments)
    own = options_of(options.rule, options, *_said(options), tuned=())
    of_bp = {field.name for field in dataclasses.fields(_common.BPOptions)} if RULES[options.rule].twin else set()
    for field in dataclasses.fields(_common.Shared):
        name, value = field.name, getattr(own, field.name)
        if name in (*_common.NOT_CONFIGURATION, "seeds", "first_seed", "alone", "how", "target"):
            continue
        flag = f"{'bp.' if name in of_bp else ''}{name.replace('_', '-')}"
        if isinstance(value, bool):
            said += [f"--{'' if value else 'no-'}{flag}"]
        else:
            said += [f"--{flag}", dataset.name if name == "dataset" else str(value)]
    said += [] if options.data_dir is None else ["--data-dir", str(options.data_dir)]
    for name in ("widths", "channels"):
        if hasattr(own, name):
            said += [f"--{name}", *map(str, getattr(own, name))]
    return [*said, f"--{'bp.' if of_bp else ''}lr-schedule", own.lr_schedule, *_said(options)]


def _said(options: Options) -> list[str]:
    try:
        return shlex.split(options.set)
    except ValueError as error:
        raise UsageError(f"--set: {error} in {options.set!r}") from error


if __name__ == "__main__":
    sys.exit(_common.well_behaved(main))
