"""A claim's verdict from its runs: confirmed, refuted, not decided or not measured, by `report.stats` alone."""

import dataclasses
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from ..report import power, stats, verdict
from .evidence import Evidence, gather
from .registry import LEVEL, MEASURES, Claim, Side, all_claims

Word = Literal["confirmed", "refuted", "not decided", "not measured"]
Answer = stats.Difference | stats.Reach | stats.Reproduction
HOLM = ("p_holm", "equivalence_p_holm")
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
        if self.last_look:
            return f"not decided ({seeds}, its last look; {more} needed in a new claim)"
        return f"not decided ({seeds}; {more} needed)"

    @property
    def look(self) -> int:
        """Which of the claim's looks these runs are: the first up to the planned seeds; 0 below what can decide."""
        least = VALUES if self.claim.kind == "value" else stats.CLAIM
        if self.n < least or self.claim.what.computed or (self.evidence is not None and self.evidence.weak):
            return 0
        return min(1 if self.n <= max(self.claim.seeds, least) else 2, self.claim.looks)

    @property
    def last_look(self) -> bool:
        """Whether no level is left for more seeds."""
        return self.look == self.claim.looks and self.n >= self.claim.seeds


def judge(folder: Path, claims: Sequence[Claim] | None = None) -> dict[str, Verdict]:
    """The verdicts of claims from the files below ``folder``; families are corrected as wholes (Holm).

    A claim whose runs decide nothing was asked, and counts as one without runs.

    Raises:
        UsageError: a file that a claim names is missing, damaged or of other data.
    """
    claims = list(all_claims().values()) if claims is None else claims
    evidence = {claim.id: gather(claim, folder) for claim in claims}
    answers = {claim.id: answer(claim, evidence[claim.id]) for claim in claims}
    counted = {name: None if known is None or known.weak else answers[name] for name, known in evidence.items()}
    for family in dict.fromkeys(claim.family for claim in claims):
        members = [claim for claim in claims if claim.family == family and compared(claim)]
        answers |= {
            claim.id: known
            for claim, known in zip(members, corrected(members, [counted[c.id] for c in members]), strict=True)
            if counted[claim.id] is not None
        }
    counted = {name: None if known is None else answers[name] for name, known in counted.items()}
    open_ones = {claim.id: _open(claim, claims, counted) for claim in claims}
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
    equivalence, and refuted by a difference that is shown to be larger than the margin.
    """
    if isinstance(answer, stats.Reproduction):
        return _of_value(answer)
    if answer.n < stats.CLAIM:
        return "not decided"
    return by_tests(claim, answer, corrected=corrected)


def by_tests(claim: Claim, answer: stats.Difference | stats.Reach, *, corrected: bool = True) -> Word:
    """The word by the tests alone, however few pairs there are."""
    return _by_p(claim, tested(claim, answer), corrected=corrected)


def tested(claim: Claim, answer: stats.Difference | stats.Reach) -> stats.Difference | stats.Reach:
    """The answer with the ``p`` that goes against "no difference", or against "within the margin" of a claim "equal".

    A cost to a target has no margin: there, "equal" is not tested at all.
    """
    if claim.kind != "equal":
        return answer
    return dataclasses.replace(answer, p=None) if isinstance(answer, stats.Reach) else stats.beyond_margin(answer)


def _by_p(claim: Claim, answer: stats.Difference | stats.Reach, *, corrected: bool) -> Word:
    """The word by the p values of an answer, as `tested` gives it."""
    p, equivalence = (stats.level_of(answer, name, corrected=corrected) for name in ("p", "equivalence_p"))
    different = p is not None and p <= claim.level
    equivalent = equivalence is not None and equivalence <= claim.level
    if claim.kind == "equal":
        return "confirmed" if equivalent else "refuted" if different else "not decided"
    if equivalent:
        return "refuted"
    if not different:
        return "not decided"
    sign = answer.losses - answer.wins if isinstance(answer, stats.Reach) else answer.mean or 0.0
    wanted = 1 if claim.kind == "more" else -1
    return "confirmed" if sign * wanted > 0 else "refuted"


def sensitivity(claim: Claim, evidence: Evidence) -> list[tuple[str, Word]]:
    """The words without Holm, with half and twice the margin, and by medians; none of runs that decide nothing."""
    words: list[tuple[str, Word]] = []
    if evidence.weak:
        return words
    alone = ", without Holm" * compared(claim)
    for name, factor in (("without Holm", 1.0), (f"half the margin{alone}", 0.5), (f"twice the margin{alone}", 2.0)):
        answered = answer(claim, evidence, factor * claim.margin, resamples=2)
        if answered is not None and (compared(claim) or factor != 1.0):
            words.append((name, decide(claim, answered, corrected=False)))
    answered = answer(claim, evidence, resamples=2)
    if isinstance(answered, stats.Difference) and answered.n:
        by_p = _by_p(claim, by_median(answered, beyond=claim.kind == "equal"), corrected=False)
        words.append((f"medians{alone}", by_p if answered.n >= stats.CLAIM else "not decided"))
    return words


def by_median(question: stats.Difference, *, beyond: bool = False) -> stats.Difference:
    """The question with sign tests of the median in the place of t tests of the mean, and its median as mean.

    Its ``p`` goes against "no difference", or with ``beyond`` against "within the margin", as `tested` has it.
    """
    binomial = stats.scipy_stats().binomtest
    low, high = stats.band(question.margin, relative=question.relative)
    up, down = sum(d > 0 for d in question.each), sum(d < 0 for d in question.each)
    p = float(binomial(up, up + down).pvalue) if up + down else 1.0
    one_sided = lambda count: float(binomial(count, question.n, alternative="greater").pvalue)
    if beyond:
        outside = (sum(d < low for d in question.each), sum(d > high for d in question.each))
        p = min(1.0, 2 * min(map(one_sided, outside)))
    sides = (sum(d > low for d in question.each), sum(d < high for d in question.each))
    changed = {"p": p, "equivalence_p": max(map(one_sided, sides)), "mean": statistics.median(question.each)}
    return stats.guarded(dataclasses.replace(question, **changed, p_holm=None, equivalence_p_holm=None))


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
    words = verdict(tested(claim, known), claim.level)
    weak = judged.evidence.weak if judged.evidence is not None else ()
    return words + (f"; no claim: {', '.join(weak)}" if weak else "")


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
    why = evidence.weak
    if not why and word == "not decided" and _lost(answered):
        why = ("runs diverged",)
    more = missing_pairs(claim, answered, claim.level / others) if word == "not decided" and not why else None
    return Verdict(claim, word, n, more, "; ".join(why), answered, None, evidence)


def _lost(answer: Answer) -> bool:
    """Whether runs that diverged keep an answer from being decided: seeds of the same kind do not mend that."""
    if isinstance(answer, stats.Reproduction):
        return bool(answer.diverged)
    return isinstance(answer, stats.Difference) and answer.diverging is not None


def missing_pairs(claim: Claim, answer: Answer, level: float | int) -> int | None:
    """Pairs that are missing for 80 % power, if the estimate stays; below three runs by the assumed spread.

    It is the smaller of what a difference takes and what equivalence takes; of "equal" and of a value the difference is
    that beyond the margin. None: more than `power.MOST`.
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
    if claim.kind in ("more", "less"):
        enough.append(power.pairs_for_difference(mean or margin, sd, level=level))
    elif abs(mean) > margin:  # shown by what lies beyond the margin, for a value at one side
        level = 2 * level if claim.kind == "value" else level
        enough.append(power.pairs_for_difference(abs(mean) - margin, sd, level=level))
    known = [pairs for pairs in enough if pairs is not None]
    return max(least - n, min(known) - n, 1) if known else None


def planned(claim: Claim, family: int = 1, seeds: int | None = None) -> float | None:
    """The smallest difference that the planned ``seeds`` decide with 80 % power, in points or %.

    At the level of one look, shared by a family of this size as at the worst. Of "equal" it is one that they show to be
    beyond the margin. Of a value: the equivalence is not a difference, and the number is that of a one-sample test.
    """
    if claim.what.computed or claim.measure.startswith("target_"):
        return None
    sd = math.log1p(claim.sd / 100) if claim.what.relative else claim.sd
    least = power.smallest_difference(seeds or claim.seeds, sd, level=claim.level / family)
    if least is None:
        return None
    if claim.kind == "equal":
        least += math.log1p(claim.margin / 100) if claim.what.relative else claim.margin
    return 100 * math.expm1(least) if claim.what.relative else least


def family_size(claim: Claim) -> int:
    """Claims that are corrected with this one."""
    if not compared(claim):
        return 1
    return max(1, sum(other.family == claim.family for other in all_claims().values() if compared(other)))


def compared(claim: Claim) -> bool:
    """Whether a claim is decided by a test of pairs, and corrected with its family."""
    return claim.theirs is not None and not claim.what.computed


def _computed(claim: Claim, evidence: Evidence) -> Verdict:
    assert evidence.theirs is not None
    ours, theirs = (next(iter(side.by_seed.values())) for side in (evidence.ours, evidence.theirs))
    assert ours and theirs, "files that hold other numbers are refused"
    change = 100 * (ours / theirs - 1)
    low, high = stats.band(claim.margin, relative=True)
    inside = low <= change <= high
    right = inside if claim.kind == "equal" else not inside and (change > 0) == (claim.kind == "more")
    return Verdict(claim, "confirmed" if right else "refuted", 1, None, "", None, change, evidence)


def _of_value(answer: stats.Reproduction) -> Word:
    if answer.measured.n < VALUES:
        return "not decided"
    if answer.outcome == "reproduced":
        return "confirmed"
    return "refuted" if answer.why == "differs" else "not decided"


def corrected(claims: Sequence[Claim], answers: Sequence[Answer | None]) -> list[stats.Difference | stats.Reach]:
    """The answers of a family after Holm, each ``p`` as it was; a claim that was not measured was asked, and counts.

    The corrected p value of a claim "equal" is that of `tested`.
    """
    questions = [_question(claim, known) for claim, known in zip(claims, answers, strict=True)]
    after = stats.holm([tested(claim, known) for claim, known in zip(claims, questions, strict=True)])
    levels = [{name: level for name in HOLM if (level := getattr(known, name, None)) is not None} for known in after]
    return [dataclasses.replace(known, **of) for known, of in zip(questions, levels, strict=True)]


def _question(claim: Claim, known: Answer | None) -> stats.Difference | stats.Reach:
    if isinstance(known, stats.Difference | stats.Reach):
        return known
    what = MEASURES[claim.measure]
    return stats.Difference(what.quantity, what.unit, "", "", (), (), what.relative, claim.margin, 1 - LEVEL)


def _open(claim: Claim, claims: Sequence[Claim], answers: dict[str, Answer | None]) -> int:
    """Claims of the family that are not decided, at least one: the share of the level that a new one can count on."""
    if not compared(claim):
        return 1
    open_ones = 0
    for other in claims:
        known = answers[other.id]
        if other.family == claim.family and compared(other):
            open_ones += known is None or decide(other, known) == "not decided"
    return max(open_ones, 1)
