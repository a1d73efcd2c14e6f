"""What a paired difference of accuracies owes to seeds and to test images, both drawn from many."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from ..errors import UsageError
from .intervals import Interval, check_numbers, scipy_stats


class TwoWay(NamedTuple):
    """A paired difference of accuracies over seeds and images, in points.

    ``sd_seeds``: standard error of ``mean`` at these test images; ``sd_images``: what the choice of test images adds.
    """

    seeds: int
    images: int
    mean: float
    interval: Interval
    confidence: float
    sd_seeds: float
    sd_images: float


def two_way(
    ours: Mapping[int, np.ndarray],
    theirs: Mapping[int, np.ndarray],
    labels: np.ndarray,
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> TwoWay | None:
    """Bootstrap of the paired difference of accuracies over seeds x images; None below two seeds or images.

    The difference of a seed and image is 1 where only our run is right, -1 where only theirs is, and 0 otherwise. Two
    errors are drawn and added. That of seeds is Student's, from the means of seeds, as for the interval over seeds; it
    holds what seeds and images do together. That of images comes from resampling images of their effects, that is what
    an image does with every seed: its mean over seeds, shrunk so that chance within one run is not counted again.
    Plain resampling of rows and columns counts this chance three times (Owen, The pigeonhole bootstrap, 2007), and its
    rows are too few for percentiles.

    Args:
        ours: predicted classes of the test images, (images,), by seed.
        theirs: likewise; seeds that both have are paired.
        labels: the right classes, (images,).
        confidence: of the interval.
        resamples: of both errors.
        seed: of the random numbers.

    Raises:
        UsageError: no seed in common, arrays of other shapes than the labels', a confidence that is none, or no SciPy.
    """
    check_numbers(confidence=confidence)
    pairs = sorted(ours.keys() & theirs.keys())
    if not pairs:
        raise UsageError("the predictions have no seed in common; give those of paired runs")
    if any(side[at].shape != labels.shape or labels.ndim != 1 for side in (ours, theirs) for at in pairs):
        raise UsageError("predictions and labels are one class for each test image; give those of one test set")
    right = [np.array([side[at] == labels for at in pairs], np.float32) for side in (ours, theirs)]
    d = 100 * (right[0] - right[1])
    n, images = d.shape
    if n < 2 or images < 2:
        return None
    mean = float(d.mean(dtype=float))
    of_seeds, of_images = d.mean(axis=1, dtype=float), d.mean(axis=0, dtype=float)
    sd_seeds = float(of_seeds.std(ddof=1)) / math.sqrt(n)
    effects = of_images - mean
    raw = float(effects.var(ddof=1))
    within = d - of_seeds[:, None] - effects
    chance = float((within**2).sum(dtype=float)) / ((n - 1) * (images - 1)) / n  # of a mean over seeds, in ``raw``
    shrunk = math.sqrt(max(raw - chance, 0.0) / raw) if raw else 0.0
    rng = np.random.default_rng(seed)
    drawn = sd_seeds * scipy_stats().t.ppf((rng.permutation(resamples) + 0.5) / resamples, n - 1)
    if shrunk:
        drawn = drawn + shrunk * _resampled_means(effects, resamples, rng)
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    spread = shrunk * math.sqrt(raw / images)
    return TwoWay(n, images, mean, (mean + float(low), mean + float(high)), confidence, sd_seeds, spread)


def _resampled_means(values: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Means of resamples with replacement. Few values are distinct, so that their counts are drawn and no values."""
    distinct, counts = np.unique(values.round(9), return_counts=True)
    return rng.multinomial(len(values), counts / len(values), size=resamples) @ distinct / len(values)
