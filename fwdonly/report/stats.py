"""Two rules compared over seeds: what the runs decide, what they do not, and one sentence that says which.

The pair is two runs of one seed. Differences of accuracies are in points, those of costs relative, from log ratios.
"No difference" is a test of its own (equivalence, at a margin stated beforehand); a large p is not equality.
A missing value is None or NaN, and what is left out is named. Needs SciPy: ``pip install 'fwdonly[stats]'``.
"""

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np

from ..errors import UsageError
from .intervals import (
    Interval,
    Mean,
    Value,
    bootstrap_t,
    check_numbers,
    check_percent,
    finite,
    holm_levels,
    mean_interval,
    missing,
    p_values,
    scipy_stats,
    sign_flip_p,
    t_interval,
)
from .two_way import TwoWay, two_way

CLAIM = 10
"""Pairs that a claim takes at least: with 5, no two-sided sign-flip test can fall below 0.06."""


class AtChance(NamedTuple):
    """The difference where diverged runs count at chance ``level``, a sensitivity check: nothing is decided by it."""

    level: float | int
    n: int
    mean: float
    interval: Interval | None


@dataclasses.dataclass(frozen=True)
class Paired:
    """Rule ``ours`` against rule ``theirs``, paired by seed.

    Attributes:
        quantity: such as "accuracy", "time", "energy", "memory", "passes", or "energy per pass".
        unit: of the numbers.
        seeds: of the pairs.
        left_out: the seeds that make no pair, and why.
    """

    quantity: str
    unit: str
    ours: str
    theirs: str
    seeds: tuple[int, ...]
    left_out: tuple[str, ...]

    @property
    def n(self) -> int:
        """Pairs."""
        return len(self.seeds)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**dataclasses.asdict(self), "n": self.n}


@dataclasses.dataclass(frozen=True)
class Difference(Paired):
    """A difference in points, or a relative change in %, 100 (exp(mean log ratio) - 1). None means: not available.

    Attributes:
        relative: from log ratios; ``sd`` is then theirs.
        margin: the largest difference that does not matter, in ``unit``, stated beforehand. Of relative changes it is
            log(1 + margin / 100) either way, so that exchanging the rules changes nothing.
        confidence: of ``interval`` and ``bootstrap``.
        each: one difference per pair.
        sd: of the paired differences (n - 1).
        interval: Student's t, from two pairs on. Without spread it is the mean twice.
        equivalence_interval: the same at 90 %: inside the margin if and only if ``equivalence_p`` < 0.05.
        bootstrap: see `bootstrap_t`.
        p: two-sided paired t test of "no difference".
        sign_flip_p: of the same by flipping signs, free of the normal law; exact up to 13 pairs, then 10,000 flips.
        equivalence_p: the larger of two one-sided t tests of "the difference is at least the margin".
        p_holm: corrected for the other questions by `holm`, as is ``equivalence_p_holm``.
        reason: why there is no pair.
        diverged: runs that diverged, ours and theirs, of ``runs``. Where the counts differ, the pairs that are left are
            those that the rule with more of them got through: ``equivalence_p`` is 1, and so are ``p`` and
            ``sign_flip_p`` where the mean favours that rule (less is better, but of accuracies more).
        at_chance: None without a diverged run or a chance level.
        two_way: see `with_images`.
    """

    relative: bool
    margin: float | int
    confidence: float
    each: tuple[float, ...] = ()
    mean: float | None = None
    sd: float | None = None
    interval: Interval | None = None
    equivalence_interval: Interval | None = None
    bootstrap: Interval | None = None
    p: float | None = None
    sign_flip_p: float | None = None
    equivalence_p: float | None = None
    p_holm: float | None = None
    equivalence_p_holm: float | None = None
    reason: str | None = None
    diverged: tuple[int, int] = (0, 0)
    runs: tuple[int, int] = (0, 0)
    at_chance: AtChance | None = None
    two_way: TwoWay | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        parts = {"at_chance": self.at_chance, "two_way": self.two_way}
        return super().as_json() | {name: part and part._asdict() for name, part in parts.items()}

    @property
    def diverging(self) -> str | None:
        """The rule with more diverged runs, if there is one."""
        ours, theirs = self.diverged
        return None if ours == theirs else self.ours if ours > theirs else self.theirs

    @property
    def favoured(self) -> str | None:
        """The rule for which the mean speaks."""
        if not self.mean:
            return None
        return self.ours if (self.mean > 0) == self.quantity.endswith("accuracy") else self.theirs


@dataclasses.dataclass(frozen=True)
class Reach(Paired):
    """Cost to a target, where a run that never reached it costs more than any that did.

    Attributes:
        reached: runs that reached the target, ours and theirs, of n each.
        medians: ours and theirs, with misses at infinity; None is infinity.
        wins: pairs in which ours costs less; in ``losses`` it costs more. The rest are ties, such as both missed.
        p: exact two-sided sign test of wins against losses; None without a pair. ``p_holm``: see `holm`.
    """

    reached: tuple[int, int]
    medians: tuple[float | None, float | None]
    wins: int
    losses: int
    p: float | None
    p_holm: float | None = None


@dataclasses.dataclass(frozen=True)
class Reproduction:
    """Measured runs against a published mean, in one unit.

    Attributes:
        margin: the largest difference that does not matter.
        difference: measured minus published; None without a value.
        interval: of the difference, at 90 %; None below two values or without spread.
        method: "welch", or "one-sample": the published sd or n is not known, and its mean was taken as exact.
        equivalence_p: two one-sided tests at the margin.
        outcome: "reproduced" if and only if the interval (without spread: the difference) lies inside the margin, and
            no run diverged.
        why: not reproduced. "differs": it lies outside the margin; "diverged": it does not, but runs diverged, and
            the values are of those that got through; else "not decided".
    """

    measured: Mean
    published: float | int
    margin: float | int
    difference: float | None
    interval: Interval | None
    method: Literal["welch", "one-sample"]
    equivalence_p: float | None
    outcome: Literal["reproduced", "not reproduced"]
    why: Literal["differs", "diverged", "not decided"] | None
    diverged: int = 0

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**dataclasses.asdict(self), "measured": self.measured._asdict()}


def paired(
    quantity: str,
    ours: Mapping[int, Value],
    theirs: Mapping[int, Value],
    *,
    relative: bool,
    margin: float | int,
    names: tuple[str, str] = ("ours", "theirs"),
    unit: str | None = None,
    confidence: float = 0.95,
    resamples: int = 10_000,
    reason: str | None = None,
    diverged: tuple[Collection[int], Collection[int]] = ((), ()),
    chance: float | int | None = None,
) -> Difference:
    """The difference of two rules, paired by seed.

    Student's t takes the differences (or log ratios) to be normal and the pairs independent: one window, one pair.
    Where all differences are the same there is no spread for it: the interval is the mean twice, and p values are
    those of flipping signs, 2 / 2^n (1 if the mean is 0) and 1 / 2^n for equivalence (1 outside the margin).
    A divergence is an outcome: see ``diverged`` of `Difference`.

    Args:
        quantity: what is compared.
        ours: value by seed; accuracies in percent. None and NaN are missing.
        theirs: likewise.
        relative: compare by ratios (time, energy, memory, passes), not differences (accuracy).
        margin: the largest difference that does not matter, in points or %.
        names: of the two rules.
        unit: of a difference that is not relative. None is "points", of accuracies that must not look like fractions;
            "points" says that they are in percent, and nothing is guessed.
        confidence: of the intervals.
        resamples: of the bootstrap.
        reason: why values are missing, if the caller knows better, such as "no power sensor".
        diverged: the seeds with which our runs and theirs diverged; their values are not looked at.
        chance: the value that counts for a diverged run in the sensitivity check, such as 10 of ten classes.

    Raises:
        UsageError: no seed in common, a ratio of values that are not positive, an infinite value, accuracies that
            look like fractions, a margin or confidence that is none, or no SciPy.
    """
    check_numbers(margin=margin, confidence=confidence)
    sides = [
        values | dict.fromkeys(bad_seeds, None)
        for values, bad_seeds in zip(map(dict, (ours, theirs)), diverged, strict=True)
    ]
    seeds, a, b, left_out = _pairs(sides[0], sides[1], names, diverged=diverged)
    start = Difference(
        quantity, "%" if relative else unit or "points", *names, seeds, left_out, relative, margin, confidence
    )
    start = dataclasses.replace(
        start,
        diverged=(len(diverged[0]), len(diverged[1])),
        runs=(len(sides[0]), len(sides[1])),
        at_chance=None if relative or chance is None else _at_chance(sides, diverged, chance, confidence),
    )
    n = len(seeds)
    if n == 0:
        return dataclasses.replace(start, reason=reason or "no seed has a value of both rules")
    if relative and min(a.min(), b.min()) <= 0:
        at = seeds[int(np.argmax((a <= 0) | (b <= 0)))]
        raise UsageError(f"a relative change of {quantity} needs values above 0; mend or drop seed {at}")
    if start.unit == "points":
        check_percent(quantity, [*a, *b], guess=unit is None)
    x, y = (np.log(a), np.log(b)) if relative else (a, b)
    d = x - y
    noise = 1e-12 * max(1.0, float(np.abs([x, y]).max()))  # 98.3 - 98.1 is not 97.5 - 97.3 in binary
    if np.ptp(d) <= noise:
        d = np.full(n, 0.0 if abs(d.mean()) <= noise else d[0])
    shown = lambda value: float(100 * np.expm1(value) if relative else value)
    pair = lambda interval: interval and (shown(interval[0]), shown(interval[1]))
    start = dataclasses.replace(start, each=tuple(map(shown, d)), mean=shown(d.mean()))
    if n < 2:
        return start
    flips = sign_flip_p(d)
    bound = math.log1p(margin / 100) if relative else float(margin)
    estimate = mean_interval(d.tolist(), confidence=confidence)
    mean, sd = float(d.mean()), estimate.sd or 0.0
    p, equivalence_p = p_values(mean, sd / math.sqrt(n), n - 1, bound)
    if sd == 0:
        p, equivalence_p = flips, 0.5**n if abs(mean) < bound else 1.0
    question = dataclasses.replace(
        start,
        sd=sd,
        interval=pair(estimate.interval),
        equivalence_interval=pair(t_interval(mean, sd / math.sqrt(n), n - 1, 0.9)),
        bootstrap=pair(bootstrap_t(d.tolist(), confidence=confidence, resamples=resamples)),
        p=float(p),
        sign_flip_p=flips,
        equivalence_p=float(equivalence_p),
    )
    return guarded(question)


def guarded(question: Difference) -> Difference:
    """The question after the guard of unequal divergences, see ``diverged`` of `Difference`."""
    if not question.diverging or question.p is None:
        return question
    if question.favoured == question.diverging:
        question = dataclasses.replace(question, p=1.0, sign_flip_p=1.0)
    return dataclasses.replace(question, equivalence_p=1.0)


def band(margin: float | int, *, relative: bool) -> Interval:
    """The differences within a margin; of relative changes in %, where exchanging the rules changes nothing."""
    return (-100 * margin / (100 + margin) if relative else -float(margin), float(margin))


def beyond_margin(question: Difference) -> Difference:
    """The question with "within the margin" in the place of "no difference": ``p`` is what a larger one is shown by.

    It is twice the p value of a one-sided t test at the nearer end of the margin: at most a level if and only if the
    two-sided interval at this level lies outside the margin. Nothing is known of it by sign flips and bootstrap.
    With `holm` it goes as "no difference" does: the null hypotheses "within the margin" and "at least the margin" are
    never true together.
    """
    if question.p is None or question.mean is None or question.sd is None:
        return question
    shown = lambda value: math.log1p(value / 100) if question.relative else value
    over = abs(shown(question.mean)) - shown(question.margin)
    if question.sd == 0:
        p = 2 * 0.5**question.n if over > 0 else 1.0
    else:
        p = min(1.0, 2 * float(scipy_stats().t.sf(over / (question.sd / math.sqrt(question.n)), question.n - 1)))
    return guarded(dataclasses.replace(question, p=p, sign_flip_p=None, bootstrap=None))


def level_of(question: Difference | Reach, name: str, *, corrected: bool = True) -> float | None:
    """ "p" or "equivalence_p" of a question, after `holm` where it went through it."""
    after = getattr(question, f"{name}_holm", None) if corrected else None
    return getattr(question, name, None) if after is None else after


def with_images(
    question: Difference, ours: Mapping[int, np.ndarray], theirs: Mapping[int, np.ndarray], labels: np.ndarray
) -> Difference:
    """A difference of test accuracies with its `two_way` interval, from the predicted classes by seed.

    It stays as it is if a pair has no predictions.
    """
    if not all(seed in side for seed in question.seeds for side in (ours, theirs)):
        return question
    sides = [{seed: side[seed] for seed in question.seeds} for side in (ours, theirs)]
    interval = two_way(*sides, labels, confidence=question.confidence) if question.n > 1 else None
    return dataclasses.replace(question, two_way=interval)


def _at_chance(
    sides: Sequence[Mapping[int, Value]], diverged: Sequence[Collection[int]], chance: float | int, confidence: float
) -> AtChance | None:
    """The mean difference over the seeds of both rules, where a diverged run has the accuracy ``chance``."""
    if not any(diverged):
        return None
    filled = [
        side | dict.fromkeys(bad_seeds, float(chance))
        for side, bad_seeds in zip(map(dict, sides), diverged, strict=True)
    ]
    seeds = [s for s in sorted(filled[0].keys() & filled[1].keys()) if not any(missing(f[s]) for f in filled)]
    estimate = mean_interval([finite(filled[0][s]) - finite(filled[1][s]) for s in seeds], confidence=confidence)
    return None if estimate.mean is None else AtChance(chance, estimate.n, estimate.mean, estimate.interval)


def to_target(
    quantity: str,
    ours: Mapping[int, Value],
    theirs: Mapping[int, Value],
    *,
    names: tuple[str, str] = ("ours", "theirs"),
    unit: str = "",
) -> Reach:
    """Cost to a target, paired by seed; None is a run that never reached it, and NaN a cost that is not known.

    Assumes one target and one cap for both rules. Misses count as infinite and are never dropped: the successes alone
    are the easy seeds, and the rule that misses more would keep the fewest of them.

    Raises:
        UsageError: no seed in common, a negative cost, or no SciPy.
    """
    costs = [{seed: math.inf if cost is None else cost for seed, cost in side.items()} for side in (ours, theirs)]
    seeds, a, b, left_out = _pairs(costs[0], costs[1], names, infinite=True)
    if seeds and min(a.min(), b.min()) < 0:
        raise UsageError(f"a cost to a target is not negative; mend {quantity} of {names[0]} and {names[1]}")
    wins, losses = int((a < b).sum()), int((a > b).sum())
    reached = (int(np.isfinite(a).sum()), int(np.isfinite(b).sum()))
    p = None if not seeds else 1.0 if wins == losses else float(scipy_stats().binomtest(wins, wins + losses).pvalue)
    return Reach(quantity, unit, *names, seeds, left_out, reached, (_median(a), _median(b)), wins, losses, p)


def against_published(
    values: Sequence[Value],
    mean: float | int,
    sd: Value,
    n: int | None,
    *,
    margin: float | int,
    unit: str | None = None,
    diverged: int = 0,
) -> Reproduction:
    """Whether measured runs reproduce a published ``mean`` ± ``sd`` (n - 1) over ``n`` runs, within a margin.

    By Welch's interval of the difference, unpaired. Without ``sd`` or with ``n`` below two the published mean is taken
    as exact, which makes the interval too narrow. A published mean of few runs may be too vague for any outcome but
    "not decided", however many runs are measured. Where nothing has a spread, as with fixed numbers of epochs, two
    values or more decide by the difference alone: within the margin it is reproduced, else it differs. Runs that
    ``diverged`` have no value, and with any of them a mean of the others reproduces nothing.

    Raises:
        UsageError: numbers that are not finite, a margin or sd that is none, accuracies that look like fractions, or
            no SciPy.
    """
    check_numbers(margin=margin)
    if sd is not None and not (math.isfinite(sd) and sd >= 0):
        raise UsageError(f"a standard deviation is not negative; got {sd}; give None if none was published")
    ours, mean = mean_interval(values), finite(mean)
    if unit in (None, "points"):
        check_percent("accuracy", [mean, *(v for v in values if not missing(v))], guess=unit is None)
    welch = sd is not None and n is not None and n > 1
    theirs = sd**2 / n if welch else 0.0
    difference = None if ours.mean is None else ours.mean - mean
    interval = p = None
    if difference is not None and ours.sd is not None and (variance := ours.sd**2 / ours.n + theirs) > 0:
        df = variance**2 / ((ours.sd**2 / ours.n) ** 2 / (ours.n - 1) + (theirs**2 / (n - 1) if welch else 0.0))
        interval = t_interval(difference, math.sqrt(variance), df, 0.9)
        p = float(p_values(difference, math.sqrt(variance), df, margin)[1])
    inside = interval is not None and -margin < interval[0] and interval[1] < margin
    outside = interval is not None and (interval[1] < -margin or interval[0] > margin)
    if difference is not None and ours.sd is not None and interval is None:  # no spread at all
        inside, outside = abs(difference) < margin, abs(difference) >= margin
    why = "differs" if outside else "diverged" if diverged else None if inside else "not decided"
    outcome, method = "not reproduced" if why else "reproduced", "welch" if welch else "one-sample"
    return Reproduction(ours, mean, margin, difference, interval, method, p, outcome, why, diverged)


_Question = TypeVar("_Question", Difference, Reach, Difference | Reach)


def holm(questions: Sequence[_Question]) -> tuple[_Question, ...]:
    """The questions of one family, declared beforehand, with corrected p values.

    The chance that any of the sentences is wrong, of a difference or of equivalence, is then at most the level it is
    tested at. Holm's procedure with Shaffer's count (1986): p values from small to large, each times the number of
    questions that still have a test to come. A question without p values counts: it was asked.

    Why: a difference cannot be 0 and at least the margin, so each question has at most one true null hypothesis. When
    the first of the true ones is rejected, wrongly, each of the k true ones is still to come and each in a question of
    its own; so the smallest of their p values was times at least k and is below level / k with at most that
    probability. Two families, one of differences and one of equivalences, would be wrong up to twice as often: some
    questions err in the one, some in the other. One family of all tests would keep the level, but counts the null
    hypotheses twice.
    """
    fields = ("p", "equivalence_p")
    corrected = holm_levels([[getattr(question, name, None) for name in fields] for question in questions])
    return tuple(
        dataclasses.replace(
            question, **{f"{name}_holm": p for name, p in zip(fields, levels, strict=True) if p is not None}
        )
        for question, levels in zip(questions, corrected, strict=True)
    )


def _pairs(
    ours: Mapping[int, Value],
    theirs: Mapping[int, Value],
    names: tuple[str, str],
    *,
    infinite: bool = False,
    diverged: tuple[Collection[int], Collection[int]] = ((), ()),
) -> tuple[tuple[int, ...], np.ndarray, np.ndarray, tuple[str, ...]]:
    """Seeds with both values, the values, and what is left out."""
    if not set(ours) & set(theirs):
        raise UsageError(f"{names[0]} and {names[1]} have no seed in common; run both with the same seeds")
    seeds, left_out = [], []
    for seed in sorted(set(ours) | set(theirs)):
        faults = [
            f"{name} {'diverged' if seed in bad_seeds else 'has no value' if seed in side else 'was not run'}"
            for name, side, bad_seeds in zip(names, (ours, theirs), diverged, strict=True)
            if missing(side.get(seed))
        ]
        if faults:
            left_out.append(f"seed {seed}: {', '.join(faults)}")
        else:
            seeds.append(seed)
    number: Any = float if infinite else finite
    a, b = (np.array([number(side[seed]) for seed in seeds]) for side in (ours, theirs))
    return tuple(seeds), a, b, tuple(left_out)


def _median(costs: np.ndarray) -> float | None:
    median = float(np.median(costs)) if len(costs) else math.inf
    return median if math.isfinite(median) else None
