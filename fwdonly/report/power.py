"""What a number of pairs can decide: power of the paired t test and of equivalence, in the unit of the differences.

Differences are taken as normal with a known standard deviation, each pair on its own. Of relative changes, give
logarithms.
Needs SciPy: ``pip install 'fwdonly[stats]'``.
"""

import functools
import math
from collections.abc import Callable

import numpy as np

from .intervals import scipy_stats

MOST = 10_000
"""Pairs beyond which nothing is searched."""


def of_difference(n: int, difference: float | int, sd: float | int, *, level: float = 0.05) -> float:
    """The probability that the two-sided paired t test rejects "no difference" where there is ``difference``."""
    if n < 2:
        return 0.0
    bound, shift = _bound(n, level / 2), difference / sd * math.sqrt(n)
    law = scipy_stats().nct
    return float(law.sf(bound, n - 1, shift) + law.cdf(-bound, n - 1, shift))


def of_equivalence(
    n: int, margin: float | int, difference: float | int, sd: float | int, *, level: float = 0.05
) -> float:
    """The probability that two one-sided t tests reject "at least the margin" where there is ``difference``.

    The mean and the sample's deviation are independent, so it is one integral over the latter, here by 2,000 quantiles.
    """
    if n < 2:
        return 0.0
    stats, error, bound = scipy_stats(), sd / math.sqrt(n), _bound(n, level)
    spread = stats.chi.ppf((np.arange(2000) + 0.5) / 2000, n - 1) / math.sqrt(n - 1)
    high = stats.norm.cdf((margin - difference) / error - bound * spread)
    low = stats.norm.cdf((-margin - difference) / error + bound * spread)
    return float(np.clip(high - low, 0.0, None).mean())


@functools.cache
def smallest_difference(n: int, sd: float | int, *, level: float = 0.05, power: float = 0.8) -> float | None:
    """The difference that ``n`` pairs show with this power; None below two pairs."""
    if n < 2:
        return None
    low, high = 0.0, sd
    while of_difference(n, high, sd, level=level) < power:
        high *= 2
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if of_difference(n, middle, sd, level=level) >= power else (middle, high)
    return high


def pairs_for_difference(
    difference: float | int, sd: float | int, *, level: float = 0.05, power: float = 0.8
) -> int | None:
    """The fewest pairs that show ``difference`` with this power; None above `MOST`."""
    return _fewest(lambda n: of_difference(n, abs(difference), sd, level=level) >= power)


def pairs_for_equivalence(
    margin: float | int, difference: float | int, sd: float | int, *, level: float = 0.05, power: float = 0.8
) -> int | None:
    """The fewest pairs that show that ``difference`` is within the margin; None above `MOST` or outside of it."""
    if abs(difference) >= margin:
        return None
    return _fewest(lambda n: of_equivalence(n, margin, difference, sd, level=level) >= power)


def _bound(n: int, tail: float) -> float:
    return float(scipy_stats().t.ppf(1 - tail, n - 1))


def _fewest(enough: Callable[[int], bool]) -> int | None:
    """The smallest number from 2 on that is enough, if all larger ones are, too."""
    high = 2
    while not enough(high):
        high *= 2
        if high > MOST:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
