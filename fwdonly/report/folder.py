"""A result folder: read, and checked to be whole."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import DAMAGE, UsageError, words_of
from ..files import is_empty
from ..results import Predictions, Summary, check_summary, read_metrics, read_predictions
from .numbers import label
from .tables import footnotes, table_rows

MOST_SEEDS = 10**6
"""A configuration that gives a rule more seeds is damaged."""


class Folder(NamedTuple):
    """What a result folder says."""

    path: Path
    config: dict[str, Any]
    summary: dict[str, Any]
    rows: list[dict[str, Any]]
    """Rows of ``metrics.csv``."""
    predictions: Predictions | None = None
    """Contents of ``predictions.npz``, where the folder has it."""

    @property
    def rules(self) -> list[Summary]:
        """A summary per rule."""
        return self.summary["rules"]

    @property
    def protocol(self) -> dict[str, Any]:
        """How the rules were compared; empty where none was recorded."""
        return self.summary.get("protocol") or {}

    @property
    def reference(self) -> Summary | None:
        """The rule that the others are compared with: the protocol's, else BP."""
        name = self.protocol.get("reference") or "bp"
        return next((summary for summary in self.rules if summary["rule"] == name), None)

    @property
    def partial(self) -> bool:
        """Whether the experiment was interrupted."""
        return not self.summary["finished"] or not all(summary["finished"] for summary in self.rules)

    @property
    def planned(self) -> dict[str, list[int]]:
        """The seeds of every rule that the configuration asks for, or that any rule has."""
        wanted = self.config["configuration"].get("rules", {})
        seeds = {run["seed"] for summary in self.rules for run in summary["runs"]}
        for settings in wanted.values():
            first, count = settings.get("first_seed"), settings.get("seeds")
            if isinstance(first, int) and isinstance(count, int):
                if count > MOST_SEEDS:
                    raise ValueError(f"{count} seeds of a rule")
                seeds |= set(range(first, first + count))
        names = dict.fromkeys([*(summary["rule"] for summary in self.rules), *wanted])
        return {name: sorted(seeds) for name in names}


def load(folder: Path | str) -> Folder:
    """Read a result folder and check that it is whole.

    Raises:
        UsageError: a file is missing or damaged, there is no run, or a rule or seed comes twice.
    """
    folder = Path(folder)
    for name in ("config.json", "summary.json", "metrics.csv"):
        if not (folder / name).is_file() or is_empty(folder / name):
            raise UsageError(f"{folder} has no {name}; give a result folder in which a rule has been trained")
    name = "config.json"
    try:
        config = json.loads((folder / name).read_text(encoding="utf-8"))
        settings = config["configuration"].get("rules", {})
        if not isinstance(settings, dict) or not all(isinstance(values, dict) for values in settings.values()):
            raise TypeError("it holds no settings of rules")
        name = "summary.json"
        summary = json.loads((folder / name).read_text(encoding="utf-8"))
        content = Folder(folder, config, summary if isinstance(summary, dict) else {"rules": None}, [])
        _check(content)
        name = "metrics.csv"
        if not (folder / name).read_bytes().endswith(b"\n"):
            raise ValueError("its last line is cut off")
        rows = read_metrics(folder / name)
        there: dict[tuple[str, int], int] = {}
        for row in rows:
            row["seconds"] = float(row["seconds"]) if row.get("seconds") else None
            there[row["rule"], row["seed"]] = max(row["epoch"], there.get((row["rule"], row["seed"]), 0))
        runs = {(rule["rule"], run["seed"]): run for rule in content.rules for run in rule["runs"]}
        for (rule, seed), run in runs.items():
            if run["kept_epoch"] and (rule, seed) not in there:
                raise ValueError(f"no line of {rule} with seed {seed}")
        name = "predictions.npz"
        predictions = _predictions(folder / name, runs)
    except UsageError:
        raise
    except (OSError, *DAMAGE) as error:
        raise UsageError(
            f"{folder / name} is damaged ({words_of(error)}); run the experiment again, or leave it out"
        ) from error
    rows = [row for row in rows if (row["rule"], row["seed"]) in runs]
    return content._replace(rows=rows, predictions=predictions)


def _predictions(path: Path, runs: dict[tuple[str, int], dict[str, Any]]) -> Predictions | None:
    """The predictions of these runs. A ValueError says that they do not give the test accuracies."""
    if not path.exists():
        return None
    predictions = read_predictions(path)
    kept = {key: classes for key, classes in predictions.runs.items() if key in runs}
    for (rule, seed), classes in kept.items():
        accuracy = runs[rule, seed]["test_accuracy"]
        if accuracy is None or abs(float((classes == predictions.labels).mean()) - accuracy) > 1e-5:
            raise ValueError(f"those of {rule} with seed {seed} do not give its test accuracy")
    return predictions._replace(runs=kept)


def _check(folder: Folder) -> None:
    """Raises KeyError, TypeError or the like where a summary is not what `results` writes, UsageError for bad runs."""
    if not isinstance(folder.summary["rules"], list):
        raise TypeError("it holds no list of rules")
    check_summary(folder.summary, folder.config["configuration"].get("rules", {}))
    if not any(summary["runs"] for summary in folder.rules):
        raise UsageError(f"{folder.path} holds no finished run; train first, or leave it out")
    names = [summary["rule"] for summary in folder.rules]
    if len(set(names)) < len(names):
        raise UsageError(f"{folder.path} holds a rule twice ({', '.join(names)}); give every rule a name of its own")
    for summary in folder.rules:
        seeds = [run["seed"] for run in summary["runs"]]
        if len(set(seeds)) < len(seeds):
            again = next(seed for seed in seeds if seeds.count(seed) > 1)
            raise UsageError(
                f"{folder.path} holds seed {again} of {label(summary)} twice, which is no second run; leave one out"
            )
        for run in summary["runs"]:
            _ = run["train_seconds_share"]
    _ = table_rows(folder.rules), footnotes(folder.rules), folder.planned, folder.partial, folder.summary["title"]


def load_all(folders: Sequence[Path | str]) -> list[Folder]:
    """Read the folders of one report.

    Raises:
        UsageError: as of `load`, no folder, one given twice, or data sets that differ.
    """
    if not folders:
        raise UsageError("a report needs at least one result folder")
    contents = [load(folder) for folder in folders]
    if len({folder.path.resolve() for folder in contents}) < len(contents):
        raise UsageError("a result folder is given twice; give each once")
    names = {f"{folder.summary['data']['name']} ({folder.summary['data']['digest']})" for folder in contents}
    if len(names) > 1:
        raise UsageError(f"mixed data sets: {', '.join(sorted(names))}; make one report per data set")
    return contents
