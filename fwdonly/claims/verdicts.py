"""A claim's verdict from its runs: confirmed, refuted, not decided or not measured, by `report.stats` alone."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from ..report import power, stats, verdict
from .evidence import Evidence, gather
from .registry import LEVEL, MEASURES, Claim, Side, all_claims

Word = Literal["confirmed", "refuted", "not decided", "not measured"]
Answer = stats.Difference | stats.Reach | stats.Reproduction
VALUES = 3
"""Runs that a claim of a number takes at least: two that agree by chance have no spread."""


class Verdict(NamedTuple):
    """What the committed files say of a claim."""

    claim: Claim
    word: Word
    n: int = 0
    """Pairs, or runs of a claim of a number."""
    more: int | None = None
    """Pairs that are missing for 80 % power if the estimate stays; None where that is above `power.MOST`."""
    why: str = ""
    """Why nothing is decided, where it is not for want of seeds."""
    answer: Answer | None = None
    change: float | None = None
    """Ours against theirs in %, of computed numbers."""
    evidence: Evidence | None = None

    @property
    def text(self) -> str:
        """The verdict in a few words."""
        if self.word == "not measured":
            return self.word + (f" (needs a {self.claim.needs.upper()})" if self.claim.needs else "")
        seeds = f"{self.n} seed{'s' * (self.n != 1)}"
        if self.claim.what.computed:
            return f"{self.word} (a computed number)"
        if self.word != "not decided":
            return f"{self.word} ({seeds})"
        if self.why:
            return f"not decided ({seeds}): {self.why}"
        more = f"over {power.MOST} more" if self.more is None else f"{self.more} more"
        return f"not decided ({seeds}; {more} needed)"


def judge(folder: Path, claims: Sequence[Claim] | None = None) -> dict[str, Verdict]:
    """The verdicts of claims from the files below ``folder``; families are corrected as wholes (Holm).

    Raises:
        UsageError: a file that a claim names is missing, damaged or of other data.
    """
    claims = list(all_claims().values()) if claims is None else claims
    evidence = {claim.id: gather(claim, folder) for claim in claims}
    answers = {claim.id: answer(claim, evidence[claim.id]) for claim in claims}
    for family in dict.fromkeys(claim.family for claim in claims):
        answers |= _corrected([claim for claim in claims if claim.family == family], answers)
    open_ones = {claim.id: _open(claim, claims, answers) for claim in claims}
    return {c.id: _verdict(c, evidence[c.id], answers[c.id], open_ones[c.id]) for c in claims}


def answer(
    claim: Claim, evidence: Evidence | None, margin: float | int | None = None, resamples: int = 2000
) -> Answer | None:
    """The statistics of a claim's runs; None without runs, and of computed numbers."""
    if evidence is None or claim.what.computed:
        return None
    what, margin = claim.what, claim.margin if margin is None else margin
    ours, theirs = evidence.ours, evidence.theirs
    if theirs is None:
        assert claim.published is not None
        known, values = claim.published, list(ours.by_seed.values())
        unit = what.unit if what.unit == "points" else what.quantity
        return stats.against_published(
            values, known.value, known.sd, known.n, margin=margin, unit=unit, diverged=len(ours.diverged)
        )
    names = (claim.ours.rule.upper(), claim.theirs.rule.upper() if claim.theirs else "")
    if claim.measure.startswith("target_"):
        return stats.to_target(what.quantity, ours.by_seed, theirs.by_seed, names=names, unit=what.unit)
    unit = None if what.relative else what.unit
    return stats.paired(
        what.quantity,
        ours.by_seed,
        theirs.by_seed,
        relative=what.relative,
        margin=margin,
        names=names,
        unit=unit,
        resamples=resamples,
        diverged=(ours.diverged, theirs.diverged),
    )


def decide(claim: Claim, answer: Answer, *, corrected: bool = True) -> Word:
    """The word for an answer, at the level of one look at the claim; fewer than ten pairs decide nothing.

    "more" and "less" are refuted by equivalence, however surely there is a difference: it is smaller than what matters.
    Otherwise a difference in their direction confirms, and one in the other refutes. "equal" is confirmed by
    equivalence, and refuted by a difference with its interval outside the margin.
    """
    if isinstance(answer, stats.Reproduction):
        return _of_value(answer)
    if answer.n < stats.CLAIM:
        return "not decided"
    return by_tests(claim, answer, corrected=corrected)


def by_tests(claim: Claim, answer: stats.Difference | stats.Reach, *, corrected: bool = True) -> Word:
    """The word by the tests alone, however few pairs there are."""
    p, equivalence = (_p(answer, name, corrected) for name in ("p", "equivalence_p"))
    wanted = 1 if claim.kind == "more" else -1
    different = p is not None and p <= claim.level
    equivalent = equivalence is not None and equivalence <= claim.level
    sign = answer.losses - answer.wins if isinstance(answer, stats.Reach) else answer.mean or 0.0
    if claim.kind == "equal":
        if equivalent:
            return "confirmed"
        return "refuted" if different and _outside(answer) else "not decided"
    if equivalent:
        return "refuted"
    if not different:
        return "not decided"
    return "confirmed" if sign * wanted > 0 else "refuted"


def sensitivity(claim: Claim, evidence: Evidence) -> list[tuple[str, Word]]:
    """The words with half and twice the margin, without Holm, and by medians; none of runs that decide nothing."""
    words: list[tuple[str, Word]] = []
    if evidence.weak:
        return words
    for name, factor in (("without Holm", 1.0), ("half the margin", 0.5), ("twice the margin", 2.0)):
        answered = answer(claim, evidence, factor * claim.margin, resamples=2)
        if answered is not None:
            words.append((name, decide(claim, answered, corrected=False)))
    answered = answer(claim, evidence, resamples=2)
    if isinstance(answered, stats.Difference) and answered.n:
        words.append(("medians", decide(claim, by_median(answered), corrected=False)))
    return words


def by_median(question: stats.Difference) -> stats.Difference:
    """The question with sign tests of the median in the place of t tests of the mean, and its median as mean."""
    binomial = stats.scipy_stats().binomtest
    bound = question.margin
    low = 100 * math.expm1(-math.log1p(bound / 100)) if question.relative else -bound
    up, down = sum(d > 0 for d in question.each), sum(d < 0 for d in question.each)
    p = float(binomial(up, up + down).pvalue) if up + down else 1.0
    sides = (sum(d > low for d in question.each), sum(d < bound for d in question.each))
    equivalence = max(float(binomial(side, question.n, alternative="greater").pvalue) for side in sides)
    middle = sorted(question.each)[question.n // 2]
    return dataclasses.replace(
        question, p=p, equivalence_p=equivalence, mean=middle, p_holm=None, equivalence_p_holm=None
    )


def sentence(judged: Verdict) -> str:
    """What the numbers say, in a sentence."""
    claim, known = judged.claim, judged.answer
    if judged.change is not None and claim.theirs is not None:
        change = f"{abs(judged.change):.1f} % {'less' if judged.change < 0 else 'more'} {claim.what.quantity}"
        return f"{_label(claim.ours)} takes {change} than {_label(claim.theirs)}, by the compiler's account"
    if known is None:
        return "no file"
    if isinstance(known, stats.Reproduction):
        mean, around = known.measured.mean, ""
        if mean is None:
            return "no run has a value"
        if known.interval is not None:
            around = f", 90 % interval of the difference {known.interval[0]:+.2f} to {known.interval[1]:+.2f}"
        spread = "" if known.measured.sd is None else f" ± {known.measured.sd:.2f}"
        return f"{mean:.2f}{spread} against {known.published:g}{around}"
    return verdict(known, claim.level)


def _label(side: Side) -> str:
    """A rule, with what its rows in a benchmark's file are."""
    where = (side.rows or {}).get("where", {})
    more = ", ".join(f"{name} {value}" for name, value in where.items() if name != "rule")
    return side.rule.upper() + (f" ({more})" if more else "")


def _verdict(claim: Claim, evidence: Evidence | None, answered: Answer | None, others: int) -> Verdict:
    if evidence is None:
        return Verdict(claim, "not measured")
    if claim.what.computed:
        return _computed(claim, evidence)
    assert answered is not None
    n = answered.measured.n if isinstance(answered, stats.Reproduction) else answered.n
    word: Word = "not decided" if evidence.weak else decide(claim, answered)
    more = missing_pairs(claim, answered, claim.level / others) if word == "not decided" else None
    return Verdict(claim, word, n, more, "; ".join(evidence.weak), answered, None, evidence)


def missing_pairs(claim: Claim, answer: Answer, level: float | int) -> int | None:
    """Pairs that are missing for 80 % power, if the estimate stays; below three runs by the assumed spread.

    It is the smaller of what a difference takes and what equivalence takes. None: more than `power.MOST`.
    """
    what = claim.what
    log = (lambda v: math.log1p(v / 100)) if what.relative else float
    if isinstance(answer, stats.Reproduction):
        n, sd, mean = answer.measured.n, answer.measured.sd, answer.difference
        least, margin = VALUES, claim.margin
    elif isinstance(answer, stats.Difference):
        n, sd, mean = answer.n, answer.sd, None if answer.mean is None else log(answer.mean)
        least, margin = stats.CLAIM, log(claim.margin)
    else:
        return max(stats.CLAIM, claim.seeds) - answer.n if answer.n < stats.CLAIM else answer.n
    mean, sd = mean or 0.0, sd if n >= VALUES and sd else log(claim.sd)
    enough = [power.pairs_for_equivalence(margin, mean, sd, level=level)]
    if claim.kind != "value":
        enough.append(power.pairs_for_difference(mean or margin, sd, level=level))
    elif abs(mean) > margin:  # one-sided: a number beyond the margin
        enough.append(power.pairs_for_difference(abs(mean) - margin, sd, level=2 * level))
    known = [pairs for pairs in enough if pairs is not None]
    return max(least - n, min(known) - n, 1) if known else None


def planned(claim: Claim, family: int = 1) -> float | None:
    """The smallest difference that the planned seeds decide with 80 % power, in points or %.

    At the level of one look, shared by a family of this size as at the worst. Of a value: the equivalence is not a
    difference, and the number is that of a one-sample test.
    """
    if claim.what.computed or claim.measure.startswith("target_"):
        return None
    sd = math.log1p(claim.sd / 100) if claim.what.relative else claim.sd
    least = power.smallest_difference(claim.seeds, sd, level=claim.level / family)
    if least is None:
        return None
    return 100 * math.expm1(least) if claim.what.relative else least


def family_size(claim: Claim) -> int:
    """Claims that are corrected with this one."""
    return 1 if claim.kind == "value" else sum(other.family == claim.family for other in all_claims().values())


def _computed(claim: Claim, evidence: Evidence) -> Verdict:
    assert evidence.theirs is not None
    ours, theirs = (next(iter(side.by_seed.values())) for side in (evidence.ours, evidence.theirs))
    assert ours is not None and theirs is not None
    change = 100 * (ours / theirs - 1)
    inside = abs(change) <= claim.margin
    right = inside if claim.kind == "equal" else not inside and (change > 0) == (claim.kind == "more")
    return Verdict(claim, "confirmed" if right else "refuted", 1, None, "", None, change, evidence)


def _of_value(answer: stats.Reproduction) -> Word:
    if answer.measured.n < VALUES:
        return "not decided"
    if answer.outcome == "reproduced":
        return "confirmed"
    return "refuted" if answer.why == "differs" else "not decided"


def _corrected(claims: Sequence[Claim], answers: dict[str, Answer | None]) -> dict[str, Answer | None]:
    """The answers of a family after Holm; a claim that was not measured was asked, too, and counts."""
    compared = [claim for claim in claims if claim.theirs is not None and not claim.what.computed]
    questions = [_question(claim, answers[claim.id]) for claim in compared]
    return {
        claim.id: corrected
        for claim, corrected in zip(compared, stats.holm(questions), strict=True)
        if answers[claim.id] is not None
    }


def _question(claim: Claim, known: Answer | None) -> stats.Difference | stats.Reach:
    if isinstance(known, stats.Difference | stats.Reach):
        return known
    what = MEASURES[claim.measure]
    return stats.Difference(what.quantity, what.unit, "", "", (), (), what.relative, claim.margin, 1 - LEVEL)


def _open(claim: Claim, claims: Sequence[Claim], answers: dict[str, Answer | None]) -> int:
    """Claims of the family that are not decided, at least one: the share of the level that a new one can count on."""
    if claim.theirs is None:
        return 1
    open_ones = 0
    for other in claims:
        known = answers[other.id]
        if other.family == claim.family and (known is None or decide(other, known) == "not decided"):
            open_ones += 1
    return max(open_ones, 1)


def _outside(answer: stats.Difference | stats.Reach) -> bool:
    """Whether the interval of a difference lies outside the margin."""
    if isinstance(answer, stats.Reach) or answer.interval is None:
        return False
    high = answer.margin
    low = 100 * math.expm1(-math.log1p(high / 100)) if answer.relative else -high
    return answer.interval[1] < low or answer.interval[0] > high


def _p(answer: stats.Difference | stats.Reach, name: str, corrected: bool) -> float | None:
    after = getattr(answer, f"{name}_holm", None) if corrected else None
    return getattr(answer, name, None) if after is None else after
