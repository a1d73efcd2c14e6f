"""A training's result as plain JSON types and rows, for the files of a result folder."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import plain
from ..measure import Intensity, Reading
from ..results import METRIC_COLUMNS, Predictions, Summary, machine
from ..training import Result


def summarise(
    rule: str, seeds: Sequence[int], result: Result, intensity: Intensity | None = None, processes: int = 1
) -> Summary:
    """A rule's `Result` over several seeds as plain JSON types: one record per seed, in the order of ``seeds``.

    A run that was trained alone has its own energy and seconds: ``train_seconds``, ``kept_seconds`` (until the state
    that was kept) and ``target_seconds``. Runs of a sweep are not timed one by one: ``train_seconds_share`` is a run's
    share of the wall clock in proportion to its epochs, and energy is not shared out. ``intensity`` adds CO2e. Every
    run has the `machine` of this process, since an experiment may be continued on another one, and how many
    ``processes`` worked side by side, perhaps on that machine.
    """
    alone = len(seeds) == 1
    energy = None if result.energy is None else _energy(result.energy, intensity)
    where = machine()
    total = max(int(result.epochs.sum()), 1)
    runs = []
    for i, seed in enumerate(seeds):
        trained, stages = int(result.epochs[i]), _stage_epochs(result, i)
        kept = sum(stages[: last_stage(result, i)]) + int(result.kept_epoch[i])
        runs.append(
            {
                "seed": int(seed),
                "val_accuracy": _number(result.val_accuracy[i]),
                "val_loss": _number(result.val_loss[i]),
                "test_accuracy": _number(result.test_accuracy[i]),
                "test_loss": _number(result.test_loss[i]),
                "epochs": trained,
                "stage_epochs": stages,
                "kept_epoch": int(result.kept_epoch[i]),
                "target_epoch": int(result.target_epoch[i]) or None,
                "train_seconds_share": result.train_seconds * trained / total,
                "train_seconds": result.train_seconds if alone else None,
                "validation_seconds": result.validation_seconds if alone else None,
                "kept_seconds": _seconds_at(result, kept) if alone and result.kept_epoch[i] else None,
                "target_seconds": _seconds_at(result, int(result.target_epoch[i])) if alone else None,
                "energy": energy if alone else None,
                "diverged": bool(result.diverged[i]),
                "machine": where,
                "processes": processes,
                "readouts": {
                    name: {metric: _number(values[i]) for metric, values in metrics.items()}
                    for name, metrics in result.readouts.items()
                },
            }
        )
        if result.layer_accuracy is not None:
            of_run = result.layer_accuracy[i].tolist()
            runs[-1]["layer_accuracy"] = [value for value in of_run if math.isfinite(value)]  # early stages have fewer
        if result.test_balanced_accuracy is not None:
            runs[-1]["test_balanced_accuracy"] = _number(result.test_balanced_accuracy[i])
    return {
        "rule": rule,
        "finished": result.finished,
        "compile_seconds": result.compile_seconds,
        "train_seconds": result.train_seconds,
        "validation_seconds": result.validation_seconds,
        "energy": energy,
        "precision": result.precision,
        "run_bytes": result.run_bytes,
        "streamed": result.streamed,
        "runs": runs,
    }


def last_stage(result: Result, run: int) -> int:
    """The last stage that a run trained, from 0: its kept state is of that one."""
    return max((at for at, epochs in enumerate(_stage_epochs(result, run)) if epochs), default=0)


def _stage_epochs(result: Result, run: int) -> list[int]:
    """The epochs that a run trained in every stage."""
    epochs: dict[int, int] = {}
    for at in range(len(result.history.get("epoch", ()))):
        stage = int(result.history["stage"][at])
        epochs.setdefault(stage, 0)
        if np.ravel(result.history["trained"][at])[run]:
            epochs[stage] = int(result.history["epoch"][at])
    return list(epochs.values())


def _seconds_at(result: Result, epoch: int) -> float | None:
    """The clock of a single run's training at the validation after this epoch, of all stages."""
    ends = np.cumsum([0, *_stage_epochs(result, 0)])
    for stage, of_stage, seconds in zip(
        *(result.history.get(n, ()) for n in ("stage", "epoch", "seconds")), strict=True
    ):
        if epoch and ends[stage] + of_stage == epoch:
            return float(seconds)
    return None


def _energy(reading: Reading, intensity: Intensity | None) -> dict[str, Any]:
    more = {} if intensity is None else {"co2e": reading.carbon(intensity).as_json()}
    return plain(reading.as_json() | more, "the energy")  # as it comes back from the file: lists for tuples


def metric_rows(rule: str, seeds: Sequence[int], result: Result) -> list[dict[str, Any]]:
    """The history as one row per epoch and seed, for ``metrics.csv``; epochs a stopped run did not train are left out.

    Values per layer fill one cell, joined with spaces. Further measurements of a rule have a column each. A run trained
    alone has the seconds of its training clock.
    """
    history, rows = result.history, []
    plain = {*METRIC_COLUMNS[:-1], "trained", "seconds"}
    for at in range(len(history.get("epoch", ()))):
        for i, seed in enumerate(seeds):
            if not history["trained"][at][i]:
                continue
            extras = {name: np.ravel(column[at][i]) for name, column in history.items() if name not in plain}
            clock = {"seconds": round(float(history["seconds"][at]), 3)} if len(seeds) == 1 else {}
            rows.append(
                {
                    "rule": rule,
                    "seed": int(seed),
                    "stage": int(history["stage"][at]),
                    "epoch": int(history["epoch"][at]),
                    **{name: _number(history[name][at][i]) for name in ("train_loss", "val_loss", "val_accuracy")},
                    "layer_loss": "",
                    **{name: " ".join(f"{value:.6g}" for value in values) for name, values in extras.items()},
                    **clock,
                }
            )
    return rows


def power_rows(rule: str, seeds: Sequence[int], result: Result) -> list[dict[str, Any]]:
    """The power trace as rows for ``power.csv``: W of every device over seconds, idle power (no seconds), and marks.

    A run trained alone has its seed, and seconds from its own beginning; seeds trained together have one trace and no
    seed.
    """
    reading = result.energy
    if reading is None or not any(part.trace for part in reading.parts):
        return []
    of = {"rule": rule, "seed": int(seeds[0]) if len(seeds) == 1 else None}
    rows: list[dict[str, Any]] = []
    for part in reading.parts:
        columns = of | {"device": part.name}
        rows += [columns | {"seconds": round(at, 4), "watts": round(watts, 3), "mark": ""} for at, watts in part.trace]
        if part.idle.value is not None:
            rows.append(columns | {"seconds": None, "watts": round(part.idle.value, 3), "mark": "idle"})
    return rows + [
        of | {"device": "", "seconds": round(at, 4), "watts": None, "mark": name} for at, name in reading.marks
    ]


def predictions_of(rule: str, seeds: Sequence[int], result: Result, labels: np.ndarray) -> Predictions | None:
    """The predicted classes of the test images, of runs that did not diverge; None where there was no test."""
    if result.predictions is None:
        return None
    runs = zip(seeds, result.predictions, result.diverged, strict=True)
    kept = {(rule, int(seed)): classes for seed, classes, diverged in runs if not diverged}
    return Predictions(np.asarray(labels, result.predictions.dtype), kept)


def _number(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None
