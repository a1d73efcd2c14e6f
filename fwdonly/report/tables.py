"""The result table and what must be said beside it."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ..results import Summary
from .numbers import alone, figure_of, label, machines, mean_sd, percent, readings_of, side_by_side, span, value_of

METERED = (
    "Energy: of all seeds together, gross; training, validation and writing checkpoints, without compilation and "
    "test. Stopping as configured, one window per rule: no difference between rules may be claimed from it "
    "(benchmarks/energy.py measures differences at matched passes)."
)
METERED_ALONE = (
    "Energy: of each run in a window of its own, gross; training, validation and writing checkpoints, without "
    "compilation and test. net: less idle power times seconds."
)
ACCURACY = (
    "Joules of NVML: NVIDIA states how accurate power readings are for Fermi and Kepler boards alone (within 5 %), and "
    "the sensors of the A100 and H100 look at 25 % of the time (arXiv 2312.02741); a constant gain cancels in ratios "
    "of energies of one board."
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
ANGLES = {
    "cosine": "direction °",
    "norm_ratio": "norm ratio",
    "feedback_cosine": "B to W °",
    "error_cosine": "errors °",
}
"""Columns of ``metrics.csv`` that compare with backpropagation, by their heads in the table of angles."""
PER_STEP = 0.05
"""Share of a step's arithmetic that does not depend on the batch, from which a reader is told."""


def table_rows(summaries: Sequence[Summary]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the result table: a row per rule and seed, then mean ± sd (n - 1) per rule.

    Accuracies in percent. The mean covers finished runs that did not diverge, and says how many there are. Of seconds
    and energies, see `footnotes`. Where seeds were trained together, the mean row has the energy of all.
    """
    others = list(dict.fromkeys(name for s in summaries for run in s["runs"] for name in run.get("readouts", {})))
    balanced = ["test_balanced_accuracy"] * any("test_balanced_accuracy" in r for s in summaries for r in s["runs"])
    header = [
        "rule",
        "seed",
        "val %",
        "test %",
        *["balanced %"] * len(balanced),
        *(f"{name} test %" for name in others),
    ]
    header += ["epochs", "train s", "compile s"]
    energies = [energy for summary in summaries for energy in readings_of(summary)]
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
                    percent(run["val_accuracy"]),
                    percent(run["test_accuracy"]),
                    *(percent(run.get(name)) for name in balanced),
                    *(percent(other(run, name)) for name in others),
                    str(run["epochs"]),
                    f"{run['train_seconds']:.1f}" if own_clock else f"~{run['train_seconds_share']:.1f}",
                    "",
                    *(figure_of(run["energy"].get(key)) if run.get("energy") else "" for key in figures.values()),
                ]
            )
        counted = [run for run in summary["runs"] if run["test_accuracy"] is not None]
        rows.append(
            [
                name,
                f"mean of {len(counted)}",
                mean_sd([100 * run["val_accuracy"] for run in counted]),
                mean_sd([100 * run["test_accuracy"] for run in counted]),
                *(mean_sd([100 * v for r in counted if (v := r.get(of)) is not None]) for of in balanced),
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


def layer_rows(summaries: Sequence[Summary]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of layers: for every rule the validation accuracy of each layer's own scores.

    In percent, mean ± sd over the runs that did not diverge; no rows where nobody asked for it.
    """
    known = {label(s): [r["layer_accuracy"] for r in s["runs"] if r.get("layer_accuracy")] for s in summaries}
    deepest = max((len(values) for runs in known.values() for values in runs), default=0)
    rows = [
        [name, str(at + 1), mean_sd([100 * values[at] for values in runs if len(values) > at])]
        for name, runs in known.items()
        for at in range(deepest)
        if any(len(values) > at for values in runs)
    ]
    return ["rule", "layer", "val %"], rows


def angle_rows(
    rows: Sequence[Mapping[str, Any]], labels: Mapping[str, str] | None = None
) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of angles with backpropagation, of a training's last epoch, in degrees.

    Per layer, the output layer last: the angle between the rule's direction and BP's gradient, the ratio of their
    norms, and, for hidden layers that are sent errors by other matrices, the angles of these matrices with the weights
    and of the errors with BP's. Mean ± sd over seeds; no rows where nobody asked for it.
    """
    last: dict[str, dict[Any, Mapping[str, Any]]] = {}
    for row in rows:
        if row.get("cosine"):
            last.setdefault(row["rule"], {})[row["seed"]] = row
    table = []
    for rule, seeds in last.items():
        columns = [
            [[float(value) for value in str(row.get(name) or "").split()] for row in seeds.values()] for name in ANGLES
        ]
        for at in range(max(map(len, columns[0]))):
            cells = [
                mean_sd([value if name == "norm_ratio" else _degrees(value) for value in _at(column, at)])
                for name, column in zip(ANGLES, columns, strict=True)
            ]
            table.append([(labels or {}).get(rule, rule.upper()), str(at + 1), *cells])
    return ["rule", "layer", *ANGLES.values()], table


def _at(column: list[list[float]], at: int) -> list[float]:
    """What every seed has of layer ``at`` + 1."""
    return [values[at] for values in column if len(values) > at]


def _degrees(cosine: float) -> float:
    return math.degrees(math.acos(min(1.0, max(-1.0, cosine)))) if math.isfinite(cosine) else cosine


def footnotes(summaries: Sequence[Summary]) -> list[str]:
    """What a reader of the table must know: how seconds are shared, and where every rule's energy comes from."""
    own_clock = [alone(summary) for summary in summaries if summary["runs"]]
    lines = [ALONE] if any(own_clock) else []
    lines += [] if all(own_clock) else [FOOTNOTE]
    lines += [line] if (line := _validation(summaries)) else []
    rounded = {label(s): s["precision"] for s in summaries if s.get("precision", "float32") != "float32"}
    lines += [f"{name}: matrix products and convolutions of {word} factors." for name, word in rounded.items()]
    lines += [
        f"{label(s)}: {100 * share:.0f} % of its arithmetic is the same for every batch size; larger batches share it."
        for s in summaries
        if (share := s.get("arithmetic_per_step") or 0) >= PER_STEP
    ]
    where = machines(summaries)
    lines += [f"Seconds: {SIDE_BY_SIDE}."] if any(map(side_by_side, summaries)) else []
    lines += [f"Seconds and energies are of different machines ({'; '.join(where)})."] if len(where) > 1 else []
    metered = [summary for summary in summaries if readings_of(summary)]
    lines += [METERED] if any(summary.get("energy") for summary in metered) else []
    lines += [METERED_ALONE] if any(not summary.get("energy") for summary in metered) else []
    sources = {reading["energy"]["source"] for summary in metered for reading in readings_of(summary)}
    lines += [ACCURACY] if any(str(source).startswith("nvml") for source in sources) else []
    labels_by_note: dict[str, list[str]] = {}
    for summary in summaries:
        readings = readings_of(summary)
        notes = ["; ".join([_energy_words(readings), *_notes(readings)]) + "."] if readings else []
        notes += ["trained without --energy."] if metered and not readings else []
        carbon = [reading["co2e"] for reading in readings if value_of(reading.get("co2e")) is not None]
        notes += dict.fromkeys(f"CO2e {co2e['status']}, {co2e['source']}." for co2e in carbon)
        for words in notes:
            labels_by_note.setdefault(words, []).append(label(summary))
    return lines + [f"{', '.join(names)}: {words}" for words, names in labels_by_note.items()]


def _validation(summaries: Sequence[Summary]) -> str | None:
    """What validation took of every rule's training seconds, in one line; None where nobody has noted it."""
    shares, joules = [], []
    for summary in summaries:
        of, spent = summary.get("train_seconds"), summary.get("validation_seconds")
        if alone(summary):
            of, spent = (
                sum(run.get(name) or 0.0 for run in summary["runs"]) for name in ("train_seconds", "validation_seconds")
            )
        if of and spent:
            shares.append(f"{label(summary)}: {100 * spent / of:.0f} %")
        joules += [words] if (words := _validation_energy(summary)) else []
    lines = [f"Part of validation in train s: {', '.join(shares)}."] if shares else []
    lines += [f"Part of validation in energy J: {', '.join(joules)}."] if joules else []
    return " ".join(lines) or None


def _validation_energy(summary: Summary) -> str | None:
    """What validation took of a rule's energy, and how that is known; None where a run has no such number."""
    all_joules = joules = 0.0
    kinds = set()
    for reading in readings_of(summary):
        span = (reading.get("spans") or {}).get("validation")
        of, spent = value_of(reading["energy"]), None if span is None else value_of(span["energy"])
        if span is None or not of or spent is None:
            return None
        all_joules, joules = all_joules + of, joules + spent
        kinds.add(span["energy"]["status"])
    if not kinds:
        return None
    share = joules / all_joules
    return f"{label(summary)}: {100 * share:.0f} % ({' and '.join(sorted(kinds))})"


def _energy_words(readings: Sequence[dict[str, Any]]) -> str:
    """The source of a rule's energy in words, from one reading or from those of all runs."""
    kinds: dict[str, int] = {}
    for reading in readings:
        energy = reading["energy"]
        if energy["value"] is None:
            source = f"unavailable: {energy['reason']}"
        else:
            source = f"{energy['status']} ({energy['source']})" + (f", {energy['reason']}" if energy["reason"] else "")
        kinds[source] = kinds.get(source, 0) + 1
    words = "energy " + " and ".join(
        kinds if len(kinds) == 1 else (f"of {n} runs {source}" for source, n in kinds.items())
    )
    known = [reading for reading in readings if reading["energy"]["value"] is not None]
    parts: dict[str, list[dict[str, Any]]] = {}
    for part in (part for reading in known for part in reading["parts"]):
        parts.setdefault(part["name"], []).append(part)
    for name, entries in parts.items():
        limit = entries[0]["about"].get("power_limit_w")
        words += f"; {name} idle {span([value_of(part['idle']) for part in entries], '.4g')} W"
        words += f", limit {limit:g} W" if limit is not None else ""
        busy = [100 * part["utilisation"] for part in entries if part["utilisation"] is not None]
        words += f", busy {span(busy, '.0f')} %" if busy else ""
    short = sum(reading["seconds"]["value"] < SHORTEST for reading in known)
    if short:
        words += f"; {f'{short} of {len(known)} windows ' * (len(readings) > 1)}under {SHORTEST:g} s: not for a claim"
    for name in dict.fromkeys(name for reading in readings for name in reading["opinions"]):
        opinions = [reading["opinions"][name] for reading in readings if name in reading["opinions"]]
        values = [opinion["value"] for opinion in opinions if opinion["value"] is not None]
        mean = "mean " * (len(opinions) > 1)
        value = f"{mean}{statistics.fmean(values):.4g} {opinions[0]['unit']}" if values else opinions[0]["reason"]
        words += f"; {name} {opinions[0]['status']} {value}"
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


def _mean_figure(summary: Summary, counted: Sequence[dict[str, Any]], name: str) -> str:
    """A figure of a reading for the mean row."""
    if summary.get("energy"):
        return figure_of(summary["energy"].get(name))
    return mean_sd([v for run in counted if (v := value_of((run.get("energy") or {}).get(name))) is not None], ".4g")
