"""How often verdicts are wrong: both arms from one distribution, and arms that differ by the margin.

``python benchmarks/null_verdicts.py --draws 10000 --output benchmarks/results/null-verdicts.json`` takes some ten
minutes on one core. The verdicts are those of `fwdonly.claims`, without the rule that fewer than ten pairs decide
nothing: with it, columns below ten are 0.
"""

import argparse
import dataclasses
import functools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from fwdonly import claims, report, results
from fwdonly.report import stats

PAIRS = (3, 5, 10, 20)
SD, MARGIN = 0.25, 0.25
"""Differences of accuracy in points: what ten seeds of MNIST have, and the usual margin."""
COST_SD, COST_MARGIN = 0.05, 5.0
"""Logarithms of costs, and the usual margin in %."""

Law = Callable[[np.random.Generator, int], np.ndarray]
"""Draws n differences around 0."""


def normal(rng: np.random.Generator, n: int) -> np.ndarray:
    """Differences of the normal law."""
    return rng.normal(0.0, SD, n)


def heavy(rng: np.random.Generator, n: int) -> np.ndarray:
    """Differences of Student's law with three degrees of freedom."""
    return SD * rng.standard_t(3, n) / math.sqrt(3)


def skewed(rng: np.random.Generator, n: int) -> np.ndarray:
    """A tenth of the runs of one side is a point and a half worse; the mean is 0 all the same."""
    return rng.normal(0.0, SD, n) - 1.5 * (rng.random(n) < 0.1) + 0.15


@functools.cache
def claim(kind: Any, measure: str = "test_accuracy", looks: int = 1) -> claims.Claim:
    """A claim for drawn numbers."""
    margin = COST_MARGIN if claims.MEASURES[measure].relative else MARGIN
    return dataclasses.replace(
        claims.find("mf-mnist-own"), kind=kind, measure=measure, looks=looks, margin=margin, id="drawn"
    )


def difference(differences: np.ndarray, margin: float = MARGIN) -> stats.Difference:
    """The statistics of drawn differences of accuracies."""
    ours = {seed: 50.0 + d for seed, d in enumerate(differences.tolist())}
    return stats.paired(
        "accuracy", ours, dict.fromkeys(ours, 50.0), relative=False, margin=margin, unit="points", resamples=2
    )


def wrong_side(answer: stats.Difference | stats.Reach, more: claims.Claim, less: claims.Claim) -> bool:
    """Whether a difference is decided in either direction."""
    return "confirmed" in (claims.by_tests(more, answer), claims.by_tests(less, answer))


def of_differences(rng: np.random.Generator, n: int, shift: float, law: Law = normal) -> bool:
    """Whether accuracies that differ by ``shift`` end as a difference."""
    return wrong_side(difference(law(rng, n) + shift), claim("more"), claim("less"))


def of_equivalence(rng: np.random.Generator, n: int, shift: float, word: str = "confirmed") -> bool:
    """Whether accuracies that differ by ``shift`` end as no difference larger than the margin (or as refuted)."""
    return claims.by_tests(claim("equal"), difference(normal(rng, n) + shift)) == word


def of_costs(rng: np.random.Generator, n: int, shift: float) -> bool:
    """Whether costs whose ratio is 1 + ``shift`` end in an order."""
    ours, theirs = (np.exp(rng.normal(0.0, COST_SD / math.sqrt(2), n)) for _ in range(2))
    sides = [dict(enumerate((100 * side).tolist())) for side in (ours * (1 + shift), theirs)]
    answer = stats.paired("time", *sides, relative=True, margin=COST_MARGIN, resamples=2)
    return wrong_side(answer, claim("more", "train_seconds"), claim("less", "train_seconds"))


def of_targets(rng: np.random.Generator, n: int, shift: float) -> bool:
    """Whether passes to a target, a fifth of them misses, end in an order; ``shift`` lowers ours and their misses."""
    sides = []
    for factor in (1 - shift, 1.0):
        passes = np.ceil(5 * factor * np.exp(rng.normal(0.0, 0.3, n)))
        missed = rng.random(n) < 0.2 * factor
        sides.append({seed: None if missed[seed] else float(passes[seed]) for seed in range(n)})
    answer = stats.to_target("passes", *sides)
    return wrong_side(answer, claim("more", "target_epoch"), claim("less", "target_epoch"))


def of_values(rng: np.random.Generator, n: int, shift: float, word: str = "confirmed") -> bool:
    """Whether a published mean of ten runs, ``shift`` away, is reproduced within half a point (or refuted)."""
    mean = float(rng.normal(98.0, 0.2, 10).mean())
    answer = stats.against_published(
        rng.normal(98.0 + shift, 0.2, n).tolist(), mean, 0.2, 10, margin=0.5, unit="points"
    )
    return claims.decide(claim("value"), answer) == word


def of_looks(rng: np.random.Generator, n: int, shift: float, looks: int = 2) -> bool:
    """Whether a difference is decided at n or at 2 n pairs, each at half of the level (``looks`` 1: the whole)."""
    differences = normal(rng, 2 * n) + shift
    more, less = claim("more", looks=looks), claim("less", looks=looks)
    return any(wrong_side(difference(differences[:k]), more, less) for k in (n, 2 * n))


MIXED = (("more", 0.0, ("confirmed",)), ("equal", MARGIN, ("confirmed",)), ("equal", MARGIN, ("refuted",)))
EQUAL = MIXED[-1:]
"""Kind, true difference and wrong words of claims in a family. At the margin, "equal" is wrong either way in the limit:
confirmed just outside of it, refuted just within."""


def of_family(
    rng: np.random.Generator,
    n: int,
    shift: float,
    kinds: Sequence[tuple[str, float, Sequence[str]]] = MIXED,
    corrected: bool = True,
) -> bool:
    """Whether any of twelve claims errs, of these kinds in turn; of a difference that is not there, in either way."""
    del shift
    planted = [kinds[i % len(kinds)] for i in range(12)]
    members = [claim(kind) for kind, _, _ in planted]
    answers = [difference(normal(rng, n) + there) for _, there, _ in planted]
    if corrected:
        answers = claims.corrected(members, answers)
    return any(
        wrong_side(answer, member, claim("less")) if member.kind == "more" else claims.by_tests(member, answer) in wrong
        for member, answer, (_, _, wrong) in zip(members, answers, planted, strict=True)
    )


CASES: dict[str, tuple[Callable[..., bool], float, dict[str, Any], float | None]] = {
    "difference, no difference": (of_differences, 0.0, {}, 0.05),
    "difference, heavy tails": (of_differences, 0.0, {"law": heavy}, 0.05),
    "difference, one run in ten far off": (of_differences, 0.0, {"law": skewed}, None),
    "equivalence, differ by the margin": (of_equivalence, MARGIN, {}, 0.05),
    "equality refuted, differ by the margin": (of_equivalence, MARGIN, {"word": "refuted"}, 0.05),
    "equality refuted, no difference": (of_equivalence, 0.0, {"word": "refuted"}, 0.05),
    "order of costs, no difference": (of_costs, 0.0, {}, 0.05),
    "to target, a fifth misses, no difference": (of_targets, 0.0, {}, 0.05),
    "value reproduced, half a point off": (of_values, 0.5, {}, 0.05),
    "value refuted, equal": (of_values, 0.0, {"word": "refuted"}, 0.05),
    "difference, two looks (n and 2 n)": (of_looks, 0.0, {}, 0.05),
    "control: two looks at the whole level": (of_looks, 0.0, {"looks": 1}, None),
    "any of twelve, Holm": (of_family, 0.0, {}, 0.05),
    "control: any of twelve, not corrected": (of_family, 0.0, {"corrected": False}, None),
    "any of twelve equal refuted, Holm": (of_family, 0.0, {"kinds": EQUAL}, 0.05),
    "control: the same twelve, not corrected": (of_family, 0.0, {"kinds": EQUAL, "corrected": False}, None),
    "power: difference of the margin": (of_differences, MARGIN, {}, None),
    "power: equivalence, no difference": (of_equivalence, 0.0, {}, None),
    "power: costs 5 % apart": (of_costs, 0.05, {}, None),
    "power: to target, 30 % fewer passes": (of_targets, 0.3, {}, None),
    "power: value reproduced, equal": (of_values, 0.0, {}, None),
}
"""What is drawn, by its name: the function, the shift, further arguments, and the rate that may not be exceeded."""


def rates(name: str, draws: int, pairs: tuple[int, ...] = PAIRS) -> dict[str, Any]:
    """How often a case ends as its name says, by number of pairs."""
    of, shift, how, nominal = CASES[name]
    seed = sum(map(ord, name))
    # Slow, and no word depends on them.
    with mock.patch.multiple(stats, sign_flip_p=lambda d: 1.0, bootstrap_t=lambda *d, **how: None):
        counts = {n: sum(of(np.random.default_rng((seed, n, i)), n, shift, **how) for i in range(draws)) for n in pairs}
    shares = {str(n): counts[n] / draws for n in pairs}
    return {"case": name, "nominal": nominal, "draws": draws, "seed": seed, "rates": shares}


def table(content: dict[str, Any]) -> str:
    """The rates in % as a Markdown table, as the page on statistics has them."""
    lines = [["drawn", "may be", *(f"n = {n}" for n in PAIRS)]]
    for row in content["rows"]:
        nominal = "-" if row["nominal"] is None else f"{100 * row['nominal']:g}"
        lines.append([row["case"], nominal, *(f"{100 * row['rates'][str(n)]:.1f}" for n in PAIRS)])
    return report.markdown_table(lines[0], lines[1:])


def main() -> None:
    """Draw, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=10_000)
    parser.add_argument("--family-draws", type=int, default=2_000, help="of the families of twelve")
    parser.add_argument("--output", type=Path, default=None)
    parser.add_argument("--show", type=Path, default=None, help="print the table of a file, and draw nothing")
    options = parser.parse_args()
    if options.show is not None:
        print(table(json.loads(options.show.read_text(encoding="utf-8"))), end="")
        return
    rows = []
    for name in CASES:
        rows.append(rates(name, options.family_draws if "twelve" in name else options.draws))
        print(name, rows[-1]["rates"], flush=True)
        if options.output is not None:
            command = "python benchmarks/null_verdicts.py"
            command += f" --draws {options.draws} --family-draws {options.family_draws}"
            content = {"command": command, "rows": rows}
            content |= {"generator": "numpy.random.default_rng((seed, pairs, draw))"}
            setting = {"sd": SD, "margin": MARGIN, "cost_sd": COST_SD, "cost_margin": COST_MARGIN}
            results.write_json(options.output, content | {"setting": setting, "environment": results.environment()})


if __name__ == "__main__":
    main()
