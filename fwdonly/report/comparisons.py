"""Every rule against the reference, quantity by quantity: what the pairs say, or why nothing is compared."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..results import Summary
from . import stats
from .folder import Folder
from .numbers import label, side_by_side, value_of, without_outcome
from .sentences import verdict
from .tables import SHORTEST, SIDE_BY_SIDE


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
        return "; ".join([verdict(self.answer), *self.notes])


def questions(folder: Folder) -> list[Question]:
    """Every rule against the reference, paired by seed: test accuracy, and the costs that were measured run by run.

    The p values are not yet corrected; see `answers`. Without a protocol no cost is compared: its sign would be that
    of the stopping rules. Nothing is claimed of a rule, or against one, that was not ``tuned``.
    """
    reference = folder.reference
    rules = [summary for summary in folder.rules if summary is not reference]
    return [] if reference is None else [q for rule in rules for q in _questions_of(folder, rule, reference)]


def answers(folders: Sequence[Folder]) -> list[list[Question]]:
    """The questions of all folders, a list per folder, corrected as one family (Holm).

    Answers that ``notes`` weaken are corrected, too, but help no other: to the others they are asked, without p values.
    """
    groups = [questions(folder) for folder in folders]
    known = [(q.answer, bool(q.notes)) for group in groups for q in group if q.answer is not None]
    every = stats.holm([answer for answer, _ in known])
    fair = stats.holm([_asked(answer) if weak else answer for answer, weak in known])
    corrected = iter([of[0] if weak else of[1] for *of, (_, weak) in zip(every, fair, known, strict=True)])
    return [[q if q.answer is None else q._replace(answer=next(corrected)) for q in group] for group in groups]


def _asked(answer: stats.Difference | stats.Reach) -> stats.Difference | stats.Reach:
    """The question without its p values."""
    without = {"p": None} if isinstance(answer, stats.Reach) else {"p": None, "equivalence_p": None}
    return dataclasses.replace(answer, **without)


def _questions_of(folder: Folder, rule: Summary, reference: Summary) -> list[Question]:
    names = label(rule), label(reference)
    protocol, both = folder.protocol, (rule, reference)
    target = protocol.get("name") == "to-target"
    margins = float(protocol.get("margin_points", 0.25)), float(protocol.get("margin_percent", 5.0))
    if not {run["seed"] for run in rule["runs"]} & {run["seed"] for run in reference["runs"]}:
        return [Question(*names, "accuracy", None, "no seed was run with both rules")]
    untuned = tuple(f"no claim: {label(summary)} was not tuned" for summary in both if summary.get("tuned") is False)
    accuracies = [_by_seed(s, lambda r: None if without_outcome(r) else 100 * r["test_accuracy"]) for s in both]
    diverged = tuple([run["seed"] for run in s["runs"] if run["diverged"]] for s in both)
    classes = folder.summary["data"].get("classes")
    how = {"diverged": diverged, "chance": 100 / classes if classes else None}
    answer = _paired("accuracy", accuracies, names, relative=False, margin=margins[0], unit="points", **how)
    answer = _with_images(folder, answer, rule["rule"], reference["rule"])
    comparisons = [Question(*names, "accuracy", answer, notes=untuned)]
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
            answer = _paired(quantity, [ours, theirs], names, relative=True, margin=margins[1], diverged=diverged)
        if quantity == "time" and min(known, default=SHORTEST) < SHORTEST:
            short = f"no claim: a run took {min(known):.2g} s, and times under {SHORTEST:g} s vary with what else the "
            notes = (short + "machine does", *untuned)
        comparisons.append(Question(*names, quantity, answer, reason, notes))
    return comparisons


def _paired(quantity: str, values: Sequence[dict[int, Any]], names: tuple[str, str], **how: Any) -> stats.Difference:
    return stats.paired(quantity, values[0], values[1], names=names, **how)


def _with_images(folder: Folder, answer: stats.Difference, rule: str, reference: str) -> stats.Difference:
    """The difference, with an interval over test images where the folder has predictions."""
    if folder.predictions is None:
        return answer
    of = [
        {seed: c for (name, seed), c in folder.predictions.runs.items() if name == side} for side in (rule, reference)
    ]
    return stats.with_images(answer, *of, folder.predictions.labels)


def _by_seed(summary: Summary, of_run: Any) -> dict[int, Any]:
    return {run["seed"]: of_run(run) for run in summary["runs"]}


def _cost(quantity: str, run: dict[str, Any], *, target: bool) -> float | int | None:
    """What a run took, or took until the target. None if the run diverged, or missed the target."""
    if run.get("target_epoch") is None if target else without_outcome(run):
        return None
    if quantity == "passes":
        return run["target_epoch"] if target else run["epochs"]
    if quantity == "time":
        return run.get("target_seconds") if target else run.get("train_seconds")
    return value_of((run.get("energy") or {}).get("energy"))


def _why_not(quantity: str, both: Sequence[Summary], *, target: bool) -> str | None:
    """The reason why the costs of these runs decide nothing. None if they do decide."""
    runs = [run for summary in both for run in summary["runs"] if target or not without_outcome(run)]
    if quantity in ("time", "energy") and any(map(side_by_side, both)):
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
        energy = reading["energy"]
        if energy["status"] != "measured":
            why = energy["reason"] if energy["value"] is None else f"{energy['source']}; an estimate decides nothing"
            return f"it is {energy['status']} ({why})"
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
    """The reason why the costs of the paired runs cannot be compared: they are of several machines. None if not."""
    by_seed = [{run["seed"]: run for run in summary["runs"] if target or not without_outcome(run)} for summary in both]
    pairs = by_seed[0].keys() & by_seed[1].keys()
    machines = {runs[seed].get("machine") for runs in by_seed for seed in pairs}
    return "the runs were made on different machines" if len(machines) > 1 else None
