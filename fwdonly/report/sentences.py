"""A compared quantity as one sentence that claims no more than its interval."""

import math

from .intervals import Interval
from .stats import CLAIM, Difference, Reach, band, level_of

_VERBS = {
    **dict.fromkeys(("time", "memory"), ("takes", "less", "more")),
    "energy": ("uses", "less", "more"),
    **dict.fromkeys(("passes", "epochs", "steps"), ("needs", "fewer", "more")),
}


def verdict(question: Difference | Reach, alpha: float = 0.05) -> str:
    """One sentence that says what is decided, at the corrected p values where `holm` gave some.

    It begins with the runs that diverged, and says "no claim" where something is decided from fewer than `CLAIM`
    seeds. Intervals hold one by one: "unadjusted", where p values are corrected. Sign flips and bootstrap are named
    where they do not agree with the t test, and could.
    """
    n, out = question.n, len(question.left_out)
    notes = f"; {out} seed{'s' * (out > 1)} left out" if out else ""
    decided = notes + (f"; fewer than {CLAIM} seeds: no claim" if n < CLAIM else "")
    if min(question.p or 1, getattr(question, "equivalence_p", None) or 1) <= alpha:
        notes = f"; not after correction for the other questions{notes}"  # of use where nothing is decided
    if isinstance(question, Reach):
        return _of_reach(question, alpha, notes, decided)
    told = _of_difference(question, alpha, notes, decided)
    return "; ".join([*_divergences(question), told, *_disagreement(question, alpha), *_at_chance(question)])


def _words(quantity: str) -> tuple[str, str, str]:
    """Verb, less and more of a quantity."""
    return next((_VERBS[word] for word in quantity.split() if word in _VERBS), ("has", "lower", "higher"))


def _undecided(question: Difference | Reach) -> str:
    return f"{question.quantity}: not decided with {question.n} seed{'s' * (question.n > 1)}"


def _of_reach(question: Reach, alpha: float, notes: str, decided: str) -> str:
    n, p, (verb, less, more) = question.n, level_of(question, "p"), _words(question.quantity)
    if p is None:
        return f"{question.quantity} unavailable: no seed has a cost of both rules{notes}"
    medians = ["never" if m is None else f"{m:.4g} {question.unit}".strip() for m in question.medians]
    facts = f"reached {question.reached[0]} of {n} against {question.reached[1]} of {n}, "
    facts += f"median {medians[0]} against {medians[1]}, sign test p {p:.2g}"
    if p > alpha:
        won = f"{question.ours} {less} in {question.wins} of {n}, {more} in {question.losses}"
        return f"{_undecided(question)} ({won}; {facts}){notes}"
    word, count = (less, question.wins) if question.wins > question.losses else (more, question.losses)
    claim = f"{verb} {word} {question.quantity} to the target than {question.theirs} in {count} of {n} seeds"
    return f"{question.ours} {claim} ({facts}){decided}"


def _of_difference(question: Difference, alpha: float, notes: str, decided: str) -> str:
    p, equivalence = level_of(question, "p"), level_of(question, "equivalence_p")
    mean, interval, unit = question.mean, question.interval, question.unit
    if mean is None:
        return f"{question.quantity} unavailable: {question.reason}{notes}"
    if p is None or interval is None:
        return f"{_undecided(question)} ({_show(mean, 2)} {unit}){notes}"
    equivalent = equivalence is not None and equivalence <= alpha
    if p > alpha:
        size = f"{_show(mean, _places(interval))} {unit}"
        around = _interval(question, interval) + _over_images(question)
        if not equivalent or question.sd == 0:
            around = f"{size}, {'the same in every pair' if question.sd == 0 else around}"
        if not equivalent:
            why = f": these are the seeds that {question.diverging} got through" if question.diverging else ""
            return f"{_undecided(question)}{why} ({around}){notes}"
        low, high = band(question.margin, relative=question.relative)
        if not low < interval[0] <= interval[1] < high and question.equivalence_interval:
            around += f", 90 % {_span(question.equivalence_interval)}"  # the one that this test goes by
        what = "" if question.quantity == "accuracy" else f" in {question.quantity}"
        claim = f"no difference{what} larger than {question.margin:g} {unit} from {question.theirs}"
        return f"{question.ours}: {claim} ({around}){decided}"
    verb, less, more = _words(question.quantity)
    sign, size = math.copysign(1, mean), f"{_show(abs(mean), _places(interval))} {unit}"
    around = _interval(question, interval, sign) + _over_images(question, sign)
    around = "the same in every pair" if question.sd == 0 else around
    smaller = f": smaller than the margin of {question.margin:g} {unit}" if equivalent else ""
    if question.quantity.endswith("accuracy"):
        kind = question.quantity.removesuffix("accuracy").strip()
        claim = (
            f"is {size} {'more' if sign > 0 else 'less'} accurate than {question.theirs}{f' in {kind}' * bool(kind)}"
        )
    else:
        claim = f"{verb} {size} {more if sign > 0 else less} {question.quantity} than {question.theirs}"
    return f"{question.ours} {claim}, {around}{smaller}{decided}"


def _divergences(question: Difference) -> list[str]:
    """How many runs diverged, where any did."""
    if not any(question.diverged):
        return []
    of = zip((question.ours, question.theirs), question.diverged, question.runs, strict=True)
    (ours, *first), (theirs, *second) = of
    return [f"{ours} diverged with {first[0]} of {first[1]} seeds, {theirs} with {second[0]} of {second[1]}"]


def _at_chance(question: Difference) -> list[str]:
    """The sentence of the sensitivity check. Nothing if no run diverged."""
    check = question.at_chance
    if check is None:
        return []
    words = f"with diverged runs at chance ({check.level:.3g} %) {_show(check.mean, _places(check.interval))} "
    around = f", {_interval(question, check.interval)}" if check.interval else ""
    return [words + question.unit + around]


def _disagreement(question: Difference, alpha: float) -> list[str]:
    """What sign flips and bootstrap say, where it is not what the t test says and they have pairs enough to say it."""
    p, flips, both = question.p, question.sign_flip_p, (question.interval, question.bootstrap)
    if p is None or question.sd == 0 or (question.diverging and question.favoured == question.diverging):
        return []
    able = 2 / 2**question.n <= alpha
    other = [f"sign flips p {flips:.2g}"] if flips is not None and able and (flips <= alpha) != (p <= alpha) else []
    if question.bootstrap and len({low <= 0 <= high for low, high in filter(None, both)}) > 1:
        other.append(f"bootstrap {100 * question.confidence:g} % interval {_span(question.bootstrap)}")
    return [f"t test p {p:.2g}, but {' and '.join(other)}"] if other else []


def _over_images(question: Difference, sign: float = 1.0) -> str:
    """The interval over seeds and test images. Empty if there are no predictions."""
    estimate = question.two_way
    return "" if estimate is None else f", {_span(estimate.interval, sign)} over seeds and test images"


def _interval(question: Difference, interval: Interval, sign: float = 1.0) -> str:
    """An interval, and what it covers."""
    unadjusted = "" if question.p_holm is None else "unadjusted "
    where = " at one test set" if question.quantity == "accuracy" else ""
    return f"{unadjusted}{100 * question.confidence:g} % interval {_span(interval, sign)} over seeds{where}"


def _show(value: float, places: int) -> str:
    return f"{round(value, places) + 0.0:.{places}f}"  # + 0.0: no "-0.00"


def _places(interval: Interval | None) -> int:
    """Two digits of half the interval's width."""
    half = (interval[1] - interval[0]) / 2 if interval else 0.0
    return min(max(1 - math.floor(math.log10(half)), 0), 4) if 0 < half < math.inf else 2


def _span(interval: Interval, sign: float = 1.0) -> str:
    low, high = sorted(sign * bound for bound in interval)
    return f"{_show(low, _places(interval))} to {_show(high, _places(interval))}"
