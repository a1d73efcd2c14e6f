"""What a sample says of its mean: intervals and p values. Needs SciPy: ``pip install 'fwdonly[stats]'``."""

import functools
import importlib
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..errors import UsageError

Value = float | int | None
Interval = tuple[float, float]


class Mean(NamedTuple):
    """``n`` values; ``mean`` is None without any, ``sd`` (n - 1) and ``interval`` (Student's t) below two."""

    n: int
    mean: float | None
    sd: float | None
    interval: Interval | None
    left_out: int


def mean_interval(values: Sequence[Value], *, confidence: float = 0.95) -> Mean:
    """Mean, standard deviation (n - 1) and Student's t interval; None and NaN are left out and counted.

    Raises:
        UsageError: an infinite value, a confidence that is none, or no SciPy.
    """
    check_numbers(confidence=confidence)
    x = np.array([finite(value) for value in values if not missing(value)])
    n, left_out = len(x), len(values) - len(x)
    if n < 2:
        return Mean(n, float(x[0]) if n else None, None, None, left_out)
    mean, sd = float(x.mean()), 0.0 if np.ptp(x) == 0 else float(x.std(ddof=1))
    return Mean(n, mean, sd, t_interval(mean, sd / math.sqrt(n), n - 1, confidence), left_out)


def sign_flip_p(d: np.ndarray) -> float:
    """The p value of "no difference" by flipping signs; exact up to 13 values, then from 10,000 flips."""
    flips = scipy_stats().permutation_test(  # of one sample: flips signs
        (d,),
        lambda sample, axis: np.mean(sample, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=10_000,
        rng=np.random.default_rng(0),
    )
    return float(flips.pvalue)


def bootstrap_t(
    values: Sequence[float | int], *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval | None:
    """Studentised bootstrap interval of a mean: the t of resamples takes the place of Student's table.

    SciPy has percentile, basic and BCa, all of which are too narrow for ten values. None below five values, and where
    so many resamples are without spread that a bound is infinite.
    """
    x, n = np.array(values, dtype=float), len(values)
    if n < 5 or np.ptp(x) == 0:
        return None
    drawn = x[np.random.default_rng(seed).integers(n, size=(resamples, n))]
    shift, sd = drawn.mean(axis=1) - x.mean(), drawn.std(axis=1, ddof=1)
    sd[np.ptp(drawn, axis=1) == 0] = 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.sort(np.nan_to_num(shift / sd, nan=0.0, posinf=np.inf, neginf=-np.inf))
    tail = max(round(resamples * (1 - confidence) / 2), 1)
    low, high = (float(x.mean() - t[at] * x.std(ddof=1)) for at in (-tail, tail - 1))
    return (low, high) if math.isfinite(low) and math.isfinite(high) else None


def scipy_stats() -> Any:
    """SciPy's statistics, imported where they are used."""
    try:
        return importlib.import_module("scipy.stats")
    except ImportError as error:
        raise UsageError("comparing rules needs scipy: pip install 'fwdonly[stats]'") from error


def t_interval(mean: float, error: float, df: float | int, confidence: float) -> Interval:
    """Student's t, around a mean with this standard error."""
    reach = _quantile(scipy_stats().t, df, confidence) * error
    return (mean - reach, mean + reach)


@functools.cache
def _quantile(law: Any, df: float | int, confidence: float) -> float:
    return float(law.ppf((1 + confidence) / 2, df))


def p_values(mean: Any, error: Any, df: Any, margin: Any) -> tuple[Any, Any]:
    """Two-sided p of "0", and of two one-sided tests "at least the margin"; numbers or arrays."""
    t = scipy_stats().t
    with np.errstate(divide="ignore", invalid="ignore"):
        return 2 * t.sf(np.abs(mean) / error, df), t.sf((margin - np.abs(mean)) / error, df)


def holm_levels(questions: Sequence[Sequence[float | None]]) -> list[list[float | None]]:
    """Corrected p values of the questions of a family: see `stats.holm`; None stays None.

    Args:
        questions: of each the p values of its tests, of whose null hypotheses at most one is true.
    """
    tests = sorted((p, i, at) for i, levels in enumerate(questions) for at, p in enumerate(levels) if p is not None)
    to_come = [max(1, sum(i == of for _, of, _ in tests)) for i in range(len(questions))]
    corrected: list[list[float | None]] = [[None] * len(levels) for levels in questions]
    least = 0.0
    for p, i, at in tests:
        least = max(least, min(1.0, p * sum(count > 0 for count in to_come)))
        corrected[i][at] = least
        to_come[i] -= 1
    return corrected


def missing(value: Value) -> bool:
    """None or NaN."""
    return value is None or math.isnan(value)


def finite(value: Any) -> float:
    """The value, if it is one."""
    if not math.isfinite(value):
        raise UsageError(f"a measured value is finite; got {value}; give None for what is missing")
    return float(value)


def check_numbers(margin: float | int = 1, confidence: float = 0.95) -> None:
    if not (math.isfinite(margin) and margin > 0):
        raise UsageError(f"a margin is the largest difference that does not matter, above 0; got {margin}")
    if not 0 < confidence < 1:
        raise UsageError(f"a confidence lies between 0 and 1; got {confidence}; 95 % is 0.95")


def check_percent(quantity: str, values: Sequence[Any], *, guess: bool) -> None:
    """Fractions would turn a margin of 0.25 points into one of 25, and any two rules into equals.

    They are guessed of accuracies alone, and where the caller has not said what the values are: an error rate of today
    is below 1 %.
    """
    if min(values) < 0 or max(values) > 100:
        raise UsageError(f"{quantity} is in percent, of which differences are points; mend what is not from 0 to 100")
    if guess and quantity.endswith("accuracy") and 0 < max(values) < 1:
        raise UsageError(
            f"{quantity} is in percent, of which differences are points; multiply fractions by 100, or say "
            "unit='points' where all are below 1 %"
        )
