"""Tables and the report, from result files alone. Missing numbers are dashes, never 0."""

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from . import results, stats
from .errors import UsageError
from .results import Summary

METERED = (
    "Energy: of all seeds together, gross; training, validation and writing checkpoints, without compilation and "
    "test. Stopping as configured, one window per rule: no difference between rules may be claimed from it "
    "(benchmarks/energy.py measures differences at matched passes)."
)

METERED_ALONE = (
    "Energy: of each run in a window of its own, gross; training, validation and writing checkpoints, without "
    "compilation and test. net: less idle power times seconds."
)

FOOTNOTE = (
    "train s of a seed is its share of the rule's wall clock by epochs (seeds are trained in one program); train s and "
    "compile s of a rule are its measured totals."
)

SIDE_BY_SIDE = "runs were trained by several processes side by side, which may have shared a machine"

ALONE = (
    "Every seed was trained by itself: train s of a seed is its own wall clock, without compilation; of a rule, "
    "train s is the mean, and compile s the total of all seeds."
)

SHORTEST = 30.0
"""Seconds below which the energy of a window decides nothing, and its time supports no claim."""


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


class Question(NamedTuple):
    """One rule against the reference in one quantity: what the pairs say, or the reason why nothing is compared."""

    rule: str
    reference: str
    quantity: str
    answer: stats.Difference | stats.Reach | None
    reason: str | None = None
    notes: tuple[str, ...] = ()
    """What weakens the answer."""

    @property
    def sentence(self) -> str:
        """What is decided."""
        if self.answer is None:
            return f"{self.quantity}: not compared; {self.reason}"
        return "; ".join([stats.verdict(self.answer), *self.notes])


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
        rows = results.read_metrics(folder / name)
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


def questions(folder: Folder) -> list[Question]:
    """Every rule against the reference, paired by seed: test accuracy, and the costs that were measured run by run.

    The p values are not yet corrected; see `answers`. Without a protocol no cost is compared: its sign would be that
    of the stopping rules. Nothing is claimed of a rule, or against one, that was not ``tuned``.
    """
    reference = folder.reference
    rules = [summary for summary in folder.rules if summary is not reference]
    return [] if reference is None else [q for rule in rules for q in _questions_of(folder, rule, reference)]


def answers(folders: Sequence[Folder]) -> list[list[Question]]:
    """The questions of all folders, a list per folder, corrected as one family (Holm)."""
    asked = [questions(folder) for folder in folders]
    corrected = iter(stats.holm([q.answer for own in asked for q in own if q.answer is not None]))
    return [[q if q.answer is None else q._replace(answer=next(corrected)) for q in own] for own in asked]


def _questions_of(folder: Folder, rule: Summary, reference: Summary) -> list[Question]:
    names = label(rule), label(reference)
    protocol, both = folder.protocol, (rule, reference)
    target = protocol.get("name") == "to-target"
    margins = float(protocol.get("margin_points", 0.25)), float(protocol.get("margin_percent", 5.0))
    if not {run["seed"] for run in rule["runs"]} & {run["seed"] for run in reference["runs"]}:
        return [Question(*names, "accuracy", None, "no seed was run with both rules")]
    untuned = tuple(f"no claim: {label(summary)} was not tuned" for summary in both if summary.get("tuned") is False)
    accuracies = [_by_seed(s, lambda r: None if gone(r) else 100 * r["test_accuracy"]) for s in both]
    answer = _paired("accuracy", accuracies, names, relative=False, margin=margins[0])
    found = [Question(*names, "accuracy", answer, notes=untuned)]
    for quantity, unit in (("passes", "passes"), ("time", "s"), ("energy", "J")):
        reason = "no protocol was recorded" if not protocol else _why_not(quantity, both, target=target)
        cost = lambda run, quantity=quantity: _cost(quantity, run, target=target)
        ours, theirs = (_by_seed(summary, cost) for summary in both)
        known = [value for value in (*ours.values(), *theirs.values()) if value is not None]
        if reason is None and not known and not target:
            reason = "no run has a value"
        if reason is None and quantity == "passes" and len(set(known)) == 1 and not target:
            reason = f"it is {known[0]:g} in every run"
        if reason is None and min(known, default=1) <= 0:
            reason = "it is 0 in a run"
        answer, notes = None, untuned
        if reason is None and target:
            answer = stats.to_target(quantity, ours, theirs, names=names, unit=unit)
        elif reason is None:
            answer = _paired(quantity, [ours, theirs], names, relative=True, margin=margins[1])
        if quantity == "time" and min(known, default=SHORTEST) < SHORTEST:
            short = f"no claim: a run took {min(known):.2g} s, and times under {SHORTEST:g} s vary with what else the "
            notes = (short + "machine does", *untuned)
        found.append(Question(*names, quantity, answer, reason, notes))
    return found


def _paired(quantity: str, values: Sequence[dict[int, Any]], names: tuple[str, str], **how: Any) -> stats.Difference:
    return stats.paired(quantity, values[0], values[1], names=names, **how)


def _by_seed(summary: Summary, of_run: Any) -> dict[int, Any]:
    return {run["seed"]: of_run(run) for run in summary["runs"]}


def gone(run: dict[str, Any]) -> bool:
    """Whether a run has no outcome."""
    return run["diverged"] or run["test_accuracy"] is None


def _cost(quantity: str, run: dict[str, Any], *, target: bool) -> float | int | None:
    """What a run took, or took until the target; None of a run that diverged, or that missed the target."""
    if run.get("target_epoch") is None if target else gone(run):
        return None
    if quantity == "passes":
        return run["target_epoch"] if target else run["epochs"]
    if quantity == "time":
        return run.get("target_seconds") if target else run.get("train_seconds")
    return _value((run.get("energy") or {}).get("energy"))


def _why_not(quantity: str, both: Sequence[Summary], *, target: bool) -> str | None:
    """Why the runs' costs decide nothing, if so."""
    runs = [run for summary in both for run in summary["runs"] if target or not gone(run)]
    if quantity in ("time", "energy") and any(map(_side_by_side, both)):
        return SIDE_BY_SIDE
    if quantity == "time":
        known = [_cost("time", run, target=target) is not None for run in runs if not target or run.get("target_epoch")]
        together = "seeds were trained together, so none has seconds of its own"
        return _elsewhere(both, target=target) if all(known) else together
    if quantity != "energy":
        return None
    readings = [run.get("energy") for run in runs]
    if not all(readings):
        together = any(summary.get("energy") for summary in both)
        return "it is that of all seeds together" if together else "not every run was trained with --energy"
    for reading in (r for r in readings if r is not None):
        own = reading["energy"]
        if own["status"] != "measured":
            said = own["reason"] if own["value"] is None else f"{own['source']}; an estimate decides nothing"
            return f"it is {own['status']} ({said})"
    if elsewhere := _elsewhere(both, target=target):
        return elsewhere
    shortest = min(r["seconds"]["value"] for r in readings if r is not None)
    if shortest < SHORTEST:
        return f"a window took {shortest:.3g} s, and under {SHORTEST:g} s decide nothing"
    if any(r["net"]["value"] is None for r in readings if r is not None):
        return "idle power was not measured"
    if len({(r["energy"]["source"], *(part["name"] for part in r["parts"])) for r in readings if r is not None}) > 1:
        return "the runs were measured by different sensors or on different devices"
    return None


def _elsewhere(both: Sequence[Summary], *, target: bool) -> str | None:
    """Why costs of the paired runs are of no single machine, if so."""
    by_seed = [{run["seed"]: run for run in summary["runs"] if target or not gone(run)} for summary in both]
    pairs = by_seed[0].keys() & by_seed[1].keys()
    found = {own[seed].get("machine") for own in by_seed for seed in pairs}
    return "the runs were made on different machines" if len(found) > 1 else None


def machines(summaries: Sequence[Summary]) -> dict[str, dict[str, list[int]]]:
    """The machines on which runs were made, and of each the seeds of every rule by label."""
    found: dict[str, dict[str, list[int]]] = {}
    for summary in summaries:
        for run in summary["runs"]:
            found.setdefault(run.get("machine") or "unknown", {}).setdefault(label(summary), []).append(run["seed"])
    return found


def _side_by_side(summary: Summary) -> bool:
    return any(run.get("processes", 1) > 1 for run in summary["runs"])


def html(folders: Sequence[Path | str]) -> str:
    """The report of one or several result folders of one data set as a self-contained page.

    Raises:
        UsageError: as of `load_all`.
    """
    from . import page  # which needs this module

    found = load_all(folders)
    return page.document(page.title(found), page.blocks(found))


def markdown_report(folders: Sequence[Path | str]) -> str:
    """The same as Markdown, without figures.

    Raises:
        UsageError: as of `load_all`.
    """
    from . import page

    return page.markdown(page.blocks(load_all(folders)))


def table_rows(summaries: Sequence[Summary]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the result table: a row per rule and seed, then mean ± sd (n - 1) per rule.

    Accuracies in percent. The mean covers finished runs that did not diverge, and says how many there are. Of seconds
    and energies, see `footnotes`. Where seeds were trained together, the mean row has the energy of all.
    """
    others = list(dict.fromkeys(name for s in summaries for run in s["runs"] for name in run.get("readouts", {})))
    header = ["rule", "seed", "val %", "test %", *(f"{name} test %" for name in others)]
    header += ["epochs", "train s", "compile s"]
    energies = [energy for summary in summaries for energy in _readings(summary)]
    figures = {"energy J": "energy", "net J": "net", "mean W": "mean_power", "CO2e g": "co2e"} if energies else {}
    figures = {column: name for column, name in figures.items() if any(name in energy for energy in energies)}
    header += list(figures)

    def other(run: dict[str, Any], name: str) -> float | None:
        return run.get("readouts", {}).get(name, {}).get("test_accuracy")

    rows = []
    for summary in summaries:
        name, own_clock = label(summary), alone(summary)
        for run in summary["runs"]:
            note = " diverged" if run["diverged"] else ""
            rows.append(
                [
                    name,
                    str(run["seed"]) + note,
                    _percent(run["val_accuracy"]),
                    _percent(run["test_accuracy"]),
                    *(_percent(other(run, name)) for name in others),
                    str(run["epochs"]),
                    f"{run['train_seconds']:.1f}" if own_clock else f"~{run['train_seconds_share']:.1f}",
                    "",
                    *(_figure(run["energy"].get(key)) if run.get("energy") else "" for key in figures.values()),
                ]
            )
        counted = [run for run in summary["runs"] if run["test_accuracy"] is not None]
        rows.append(
            [
                name,
                f"mean of {len(counted)}",
                mean_sd([100 * run["val_accuracy"] for run in counted]),
                mean_sd([100 * run["test_accuracy"] for run in counted]),
                *(mean_sd([100 * v for run in counted if (v := other(run, name)) is not None]) for name in others),
                mean_sd([run["epochs"] for run in counted], ".1f"),
                mean_sd([r["train_seconds"] for r in counted], ".1f")
                if own_clock
                else f"{summary['train_seconds']:.1f}",
                f"{summary['compile_seconds']:.1f}",
                *(_mean_figure(summary, counted, key) for key in figures.values()),
            ]
        )
    return header, rows


def footnotes(summaries: Sequence[Summary]) -> list[str]:
    """What a reader of the table must know: how seconds are shared, and where every rule's energy comes from."""
    own_clock = [alone(summary) for summary in summaries if summary["runs"]]
    lines = [ALONE] if any(own_clock) else []
    lines += [] if all(own_clock) else [FOOTNOTE]
    rounded = {label(s): s["precision"] for s in summaries if s.get("precision", "float32") != "float32"}
    lines += [f"{name}: matrix products and convolutions of {word} factors." for name, word in rounded.items()]
    where = machines(summaries)
    lines += [f"Seconds: {SIDE_BY_SIDE}."] if any(map(_side_by_side, summaries)) else []
    lines += [f"Seconds and energies are of different machines ({'; '.join(where)})."] if len(where) > 1 else []
    metered = [summary for summary in summaries if _readings(summary)]
    lines += [METERED] if any(summary.get("energy") for summary in metered) else []
    lines += [METERED_ALONE] if any(not summary.get("energy") for summary in metered) else []
    said: dict[str, list[str]] = {}
    for summary in summaries:
        readings = _readings(summary)
        own = ["; ".join([_energy_words(readings), *_notes(readings)]) + "."] if readings else []
        own += ["trained without --energy."] if metered and not readings else []
        carbon = [reading["co2e"] for reading in readings if _value(reading.get("co2e")) is not None]
        own += dict.fromkeys(f"CO2e {co2e['status']}, {co2e['source']}." for co2e in carbon)
        for words in own:
            said.setdefault(words, []).append(label(summary))
    return lines + [f"{', '.join(names)}: {words}" for words, names in said.items()]


def label(summary: Summary) -> str:
    """The rule's name for readers."""
    return summary.get("label") or summary["rule"].upper()


def _energy_words(readings: Sequence[dict[str, Any]]) -> str:
    """Where a rule's energy comes from, over one reading or those of all runs."""
    kinds: dict[str, int] = {}
    for reading in readings:
        own = reading["energy"]
        if own["value"] is None:
            said = f"unavailable: {own['reason']}"
        else:
            said = f"{own['status']} ({own['source']})" + (f", {own['reason']}" if own["reason"] else "")
        kinds[said] = kinds.get(said, 0) + 1
    words = "energy " + " and ".join(kinds if len(kinds) == 1 else (f"of {n} runs {said}" for said, n in kinds.items()))
    known = [reading for reading in readings if reading["energy"]["value"] is not None]
    parts: dict[str, list[dict[str, Any]]] = {}
    for part in (part for reading in known for part in reading["parts"]):
        parts.setdefault(part["name"], []).append(part)
    for name, found in parts.items():
        limit = found[0]["about"].get("power_limit_w")
        words += f"; {name} idle {_span([_value(part['idle']) for part in found], '.4g')} W"
        words += f", limit {limit:g} W" if limit is not None else ""
        busy = [100 * part["utilisation"] for part in found if part["utilisation"] is not None]
        words += f", busy {_span(busy, '.0f')} %" if busy else ""
    short = sum(reading["seconds"]["value"] < SHORTEST for reading in known)
    if short:
        words += f"; {f'{short} of {len(known)} windows ' * (len(readings) > 1)}under {SHORTEST:g} s: not for a claim"
    for name in dict.fromkeys(name for reading in readings for name in reading["opinions"]):
        said = [reading["opinions"][name] for reading in readings if name in reading["opinions"]]
        values = [opinion["value"] for opinion in said if opinion["value"] is not None]
        mean = "mean " * (len(said) > 1)
        value = f"{mean}{statistics.fmean(values):.4g} {said[0]['unit']}" if values else said[0]["reason"]
        words += f"; {name} {said[0]['status']} {value}"
    return words


def _notes(readings: Sequence[dict[str, Any]]) -> list[str]:
    """The notes of readings, each once; of several, with how many have it."""
    every = [
        dict.fromkeys([*reading["notes"], *(note for part in reading["parts"] for note in part["notes"])])
        for reading in readings
    ]
    count: dict[str, int] = {}
    for note in (note for notes in every for note in notes):
        count[note] = count.get(note, 0) + 1
    return [note if n == len(readings) else f"{note} ({n} of {len(readings)} runs)" for note, n in count.items()]


def mean_sd(values: Sequence[float | int], form: str = ".2f") -> str:
    """``mean ± sd`` with the sample standard deviation; a dash without values, no sd for a single one."""
    if not values:
        return "-"
    mean = format(statistics.fmean(values), form)
    return f"{mean} ± {format(statistics.stdev(values), form)}" if len(values) > 1 else mean


def number(value: float | int | None, like: float | int | None = None) -> str:
    """Four digits, more before the decimal point, without an exponent; as many decimals as ``like`` would have."""
    if value is None:
        return "-"
    size = abs(value if like is None else like)
    if size and not 1e-4 <= size < 1e9:
        return f"{value:.3e}"
    return f"{value:,.{max(3 - math.floor(math.log10(size)), 0) if size else 0}f}"


def spread(values: Sequence[float | int]) -> str:
    """As `mean_sd`, in the digits of `number`."""
    if not values:
        return "-"
    mean = statistics.fmean(values)
    return f"{number(mean)} ± {number(statistics.stdev(values), mean)}" if len(values) > 1 else number(mean)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], words: int = 2) -> None:
    """Print a table to the terminal (extra ``experiments``); rows that hold a mean are set off.

    The first ``words`` columns are text, the others numbers; where all are text, the last one is wrapped.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for i, name in enumerate(header):
        table.add_column(name, justify="left" if i < words else "right", no_wrap=i < words - 1 or words < len(header))
    for row in rows:
        mean = row[1].startswith("mean")
        table.add_row(*row, style="bold" if mean else None, end_section=mean)
    console = Console()
    # A table cut off at the width of a narrow terminal, or at the 80 columns of piped output, helps nobody.
    needed = Measurement.get(Console(width=1000), console.options.update(width=1000), table).maximum
    Console(width=max(console.width, needed if words < len(header) else 100)).print(table)


def _readings(summary: Summary) -> list[dict[str, Any]]:
    """Energy readings: that of the sweep, or those of the runs."""
    own = summary.get("energy")
    return [own] if own else [run["energy"] for run in summary["runs"] if run.get("energy")]


def alone(summary: Summary) -> bool:
    """Whether every run has seconds of its own."""
    return bool(summary["runs"]) and all(run.get("train_seconds") is not None for run in summary["runs"])


def _mean_figure(summary: Summary, counted: Sequence[dict[str, Any]], name: str) -> str:
    """A figure of a reading for the mean row."""
    if summary.get("energy"):
        return _figure(summary["energy"].get(name))
    return mean_sd([v for run in counted if (v := _value((run.get("energy") or {}).get(name))) is not None], ".4g")


def _value(quantity: Mapping[str, Any] | None) -> float | int | None:
    return None if quantity is None else quantity["value"]


def _span(values: Sequence[float | int | None], form: str) -> str:
    """Lowest and highest; a dash without any."""
    known = [value for value in values if value is not None]
    ends = [format(end, form) for end in (min(known), max(known))] if known else ["-"]
    return " to ".join(dict.fromkeys(ends))


def _figure(quantity: dict[str, Any] | None) -> str:
    """A quantity of a result file for a table; a dash where there is no value."""
    return "-" if quantity is None or quantity["value"] is None else f"{quantity['value']:.4g}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"
