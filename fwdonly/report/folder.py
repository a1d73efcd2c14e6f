"""A result folder: read, and checked to be whole."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import UsageError
from ..results import Summary, read_metrics
from .numbers import label
from .tables import footnotes, table_rows


class Folder(NamedTuple):
    """What a result folder says."""

    path: Path
    config: dict[str, Any]
    summary: dict[str, Any]
    rows: list[dict[str, Any]]
    """Of ``metrics.csv``."""

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
        found = {run["seed"] for summary in self.rules for run in summary["runs"]}
        for own in wanted.values():
            first, count = own.get("first_seed"), own.get("seeds")
            if isinstance(first, int) and isinstance(count, int):
                found |= set(range(first, first + count))
        names = dict.fromkeys([*(summary["rule"] for summary in self.rules), *wanted])
        return {name: sorted(found) for name in names}


class _Kind(NamedTuple):
    """What a value of a result file has to be."""

    words: str
    fits: Callable[[Any], bool]


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _quantity(value: Any) -> bool:
    if not isinstance(value, dict) or not {"value", "unit", "status"} <= value.keys():
        return False
    texts = isinstance(value["unit"], str) and isinstance(value["status"], str)
    return texts and (value["value"] is None or _finite(value["value"]))


_TEXT = _Kind("text", lambda value: isinstance(value, str))
_OBJECT = _Kind("an object", lambda value: isinstance(value, dict))
_LIST = _Kind("a list", lambda value: isinstance(value, list))
_TEXTS = _Kind("a list of sentences", lambda v: isinstance(v, list) and all(isinstance(part, str) for part in v))
_SWITCH = _Kind("true or false", lambda value: isinstance(value, bool))
_WHOLE = _Kind("an integer", lambda value: isinstance(value, int) and _finite(value))
_NUMBER = _Kind("a finite number", _finite)
_POSITIVE = _Kind("a finite number above 0", lambda value: _finite(value) and value > 0)
_QUANTITY = _Kind("an object with value, unit and status", _quantity)


def load(folder: Path | str) -> Folder:
    """Read a result folder and check that it is whole.

    Raises:
        UsageError: a file is missing or damaged, there is no run, or a rule or seed comes twice.
    """
    folder = Path(folder)
    for name in ("config.json", "summary.json", "metrics.csv"):
        if not (folder / name).is_file():
            raise UsageError(f"{folder} has no {name}; give a result folder in which a rule has been trained")
    name = "config.json"
    try:
        config = json.loads((folder / name).read_text(encoding="utf-8"))
        settings = config["configuration"].get("rules", {})
        if not isinstance(settings, dict) or not all(isinstance(own, dict) for own in settings.values()):
            raise TypeError("it holds no settings of rules")
        name = "summary.json"
        summary = json.loads((folder / name).read_text(encoding="utf-8"))
        found = Folder(folder, config, summary if isinstance(summary, dict) else {"rules": None}, [])
        _check(found)
        name = "metrics.csv"
        if not (folder / name).read_bytes().endswith(b"\n"):
            raise ValueError("its last line is cut off")
        rows = read_metrics(folder / name)
        there: dict[tuple[str, int], int] = {}
        for row in rows:
            row["seconds"] = float(row["seconds"]) if row.get("seconds") else None
            there[row["rule"], row["seed"]] = max(row["epoch"], there.get((row["rule"], row["seed"]), 0))
        runs = {(rule["rule"], run["seed"]): run for rule in found.rules for run in rule["runs"]}
        for (rule, seed), run in runs.items():
            if run["kept_epoch"] and (rule, seed) not in there:
                raise ValueError(f"no line of {rule} with seed {seed}")
    except UsageError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        what = f"it has no {error}" if isinstance(error, KeyError) else str(error).split("\n")[0]
        raise UsageError(f"{folder / name} is damaged ({what}); run the experiment again, or leave it out") from error
    return found._replace(rows=[row for row in rows if (row["rule"], row["seed"]) in runs])


def _check(folder: Folder) -> None:
    """Raises KeyError, TypeError or the like where a summary is not what `results` writes, UsageError for bad runs."""
    if not isinstance(folder.summary["rules"], list):
        raise TypeError("it holds no list of rules")
    _check_types(folder)
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


def _check_types(folder: Folder) -> None:
    """Raises TypeError with the name of the first thing that is of a wrong type, KeyError where it is missing."""
    top, protocol = folder.summary, folder.summary.get("protocol")
    _are(top, "the summary", _TEXT, "title")
    _are(top, "the summary", _OBJECT, "data")
    _are(top, "the summary", _OBJECT, "protocol", "environment", needed=False)
    _are(top.get("environment") or {}, "the environment", _OBJECT, "packages", needed=False)
    _are(top["data"], "the data", _TEXT, "name", "digest")
    _are(top["data"], "the data", _WHOLE, "train", "validation", "test")
    for at, summary in enumerate(folder.rules, start=1):
        _is(summary, f"rule {at}", _OBJECT)
        where = f"rule {at}"
        _are(summary, where, _TEXT, "rule")
        _are(summary, where, _TEXT, "label", "network", needed=False)
        _are(summary, where, _NUMBER, "train_seconds", "compile_seconds")
        _are(summary, where, _SWITCH, "finished")
        _are(summary, where, _SWITCH, "tuned", needed=False)
        _are(summary, where, _LIST, "runs")
        _check_costs(summary, where)
        _are(summary, where, _LIST, "published", needed=False)
        for own in summary.get("published") or ():
            _is(own, f"a published number of {where}", _OBJECT)
            _are(own, f"a published number of {where}", _TEXT, "metric", "unit", "source")
            _are(own, f"a published number of {where}", _NUMBER, "value")
            _are(own, f"a published number of {where}", _NUMBER, "sd", "n", needed=False)
        for number, run in enumerate(summary["runs"], start=1):
            where = f"run {number} of rule {at}"
            _is(run, where, _OBJECT)
            _are(run, where, _WHOLE, "seed", "epochs", "kept_epoch")
            _are(run, where, _WHOLE, "target_epoch", needed=False)
            _are(run, where, _NUMBER, "train_seconds_share")
            numbers = ("val_accuracy", "test_accuracy", "train_seconds", "kept_seconds", "target_seconds")
            _are(run, where, _NUMBER, *numbers, needed=False)
            _are(run, where, _SWITCH, "diverged")
            _are(run, where, _TEXT, "machine", needed=False)
            _are(run, where, _OBJECT, "readouts", needed=False)
            for name, readout in (run.get("readouts") or {}).items():
                _is(readout, f"readout {name} of {where}", _OBJECT)
                _are(readout, f"readout {name} of {where}", _NUMBER, "test_accuracy", needed=False)
            _check_costs(run, where)
    if protocol is not None:
        _are(protocol, "the protocol", _TEXT, "name", "words", "reference", needed=False)
        _are(protocol, "the protocol", _POSITIVE, "target", needed=False)
        _are(protocol, "the protocol", _WHOLE, "passes", needed=False)
        _are(protocol, "the protocol", _POSITIVE, *{"margin_points", "margin_percent"} & protocol.keys())
        _are(protocol, "the protocol", _TEXTS, "notes", needed=False)
        reference = protocol.get("reference")
        if reference is not None and reference not in folder.planned:
            raise ValueError(f"the protocol's reference, {reference}, is no rule of it")


def _check_costs(of: Mapping[str, Any], where: str) -> None:
    """Of a rule or a run."""
    _are(of, where, _QUANTITY, "memory", "arithmetic", needed=False)
    _are(of, where, _OBJECT, "energy", needed=False)
    reading, where = of.get("energy"), f"the energy of {where}"
    if reading is None:
        return
    _are(reading, where, _QUANTITY, "energy", "net", "seconds")
    _are(reading, where, _QUANTITY, "mean_power", "co2e", needed=False)
    _are(reading["energy"], where, _TEXT, "source")
    _are(reading["energy"], where, _TEXT, "reason", needed=False)
    _are(reading["seconds"], where, _NUMBER, "value")
    _are(reading.get("co2e") or {}, where, _TEXT, "source", needed=False)
    _are(reading, where, _OBJECT, "opinions")
    _are(reading["opinions"], where, _QUANTITY, *reading["opinions"])
    _are(reading, where, _TEXTS, "notes")
    _are(reading, where, _LIST, "parts")
    for part in reading["parts"]:
        _is(part, f"a part of {where}", _OBJECT)
        _are(part, where, _TEXT, "name")
        _are(part, where, _QUANTITY, "idle")
        _are(part, where, _NUMBER, "utilisation", needed=False)
        _are(part, where, _TEXTS, "notes")
        _are(part, where, _OBJECT, "about")
        _are(part["about"], where, _NUMBER, "power_limit_w", needed=False)


def _are(of: Mapping[str, Any], where: str, kind: _Kind, *names: str, needed: bool = True) -> None:
    """Raises TypeError where an entry is of another kind, KeyError where one that is needed is missing."""
    for name in names:
        if needed or of.get(name) is not None:
            _is(of[name], f"{name} of {where}", kind)


def _is(value: Any, what: str, kind: _Kind) -> None:
    if not kind.fits(value):
        raise TypeError(f"{what} is not {kind.words}")


def load_all(folders: Sequence[Path | str]) -> list[Folder]:
    """Read the folders of one report.

    Raises:
        UsageError: as of `load`, no folder, one given twice, or data sets that differ.
    """
    if not folders:
        raise UsageError("a report needs at least one result folder")
    found = [load(folder) for folder in folders]
    if len({folder.path.resolve() for folder in found}) < len(found):
        raise UsageError("a result folder is given twice; give each once")
    names = {f"{folder.summary['data']['name']} ({folder.summary['data']['digest']})" for folder in found}
    if len(names) > 1:
        raise UsageError(f"mixed data sets: {', '.join(sorted(names))}; make one report per data set")
    return found
