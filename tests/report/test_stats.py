"""Comparing rules over seeds: against SciPy, against closed forms, and against simulations whose truth is known.

Every simulation has a control: the common mistake, which must show.
"""

import dataclasses
import importlib
import itertools
import json
import math

import jaxtyping
import numpy as np
import pytest

with jaxtyping.install_import_hook("fwdonly.report.stats", "beartype.beartype"):
    from fwdonly import stats

from fwdonly import UsageError, report

scipy_stats = pytest.importorskip("scipy.stats")

NAMES = ("MF", "BP")


def by_seed(values) -> dict[int, float]:
    return {seed: float(value) for seed, value in enumerate(values)}


def accuracy(ours, theirs, **options):
    return stats.paired(
        "accuracy", by_seed(ours), by_seed(theirs), relative=False, names=NAMES, **{"margin": 0.25, **options}
    )


def cost(ours, theirs, quantity="energy", **options):
    return stats.paired(
        quantity, by_seed(ours), by_seed(theirs), relative=True, names=NAMES, **{"margin": 5, **options}
    )


def differences(values, **options):
    """Accuracies with these paired differences."""
    return accuracy(90 + np.array(values), np.full(len(values), 90.0), **options)


def likely(hits, repeats: int, rate: float) -> bool:
    """Whether so many hits of so many repeats are among the middle 99.9 % at this rate."""
    low, high = scipy_stats.binom.interval(0.999, repeats, rate)
    return bool(low <= np.sum(hits) <= high)


def likely_at_most(hits, repeats: int, rate: float) -> bool:
    return bool(np.sum(hits) <= scipy_stats.binom.isf(0.001, repeats, rate))


@pytest.fixture
def rng():
    return np.random.default_rng(11)


@pytest.fixture
def runs(rng):
    """Eight accuracies of each rule."""
    seed = rng.normal(90, 1, 8)
    return seed + rng.normal(0.1, 0.2, 8), seed + rng.normal(0, 0.2, 8)


# --- one question ----------------------------------------------------------------------------------------------------


def test_three_differences_by_hand():
    found = differences([1, 2, 3], margin=4)
    reach = 4.302652729911275 / math.sqrt(3)  # Student's t, two degrees of freedom, 97.5 %
    assert (found.n, found.seeds, found.left_out, found.bootstrap) == (3, (0, 1, 2), (), None)
    np.testing.assert_allclose([found.mean, found.sd, *found.interval], [2, 1, 2 - reach, 2 + reach])
    t = 2 * math.sqrt(3)
    tail = lambda t: 0.5 - t / (2 * math.sqrt(2 + t * t))  # of Student's t with two degrees of freedom
    np.testing.assert_allclose([found.p, found.sign_flip_p], [2 * tail(t), 2 / 8])
    np.testing.assert_allclose(found.equivalence_p, tail((4 - 2) * math.sqrt(3)))


def test_a_difference_is_scipys(runs):
    ours, theirs = runs
    found, theirs_found = accuracy(*runs), scipy_stats.ttest_rel(ours, theirs)
    np.testing.assert_allclose(found.interval, theirs_found.confidence_interval(0.95))
    np.testing.assert_allclose(found.equivalence_interval, theirs_found.confidence_interval(0.9))
    one_sided = [
        scipy_stats.ttest_1samp(ours - theirs, 0.25, alternative="less").pvalue,
        scipy_stats.ttest_1samp(ours - theirs, -0.25, alternative="greater").pvalue,
    ]
    np.testing.assert_allclose([found.p, found.equivalence_p], [theirs_found.pvalue, max(one_sided)])
    signs = np.array(list(itertools.product([-1, 1], repeat=8)))
    flipped = np.abs(signs @ (ours - theirs)) >= abs(np.sum(ours - theirs)) - 1e-9
    np.testing.assert_allclose(found.sign_flip_p, flipped.mean())


def test_equivalence_is_that_of_statsmodels(runs):
    weightstats = pytest.importorskip("statsmodels.stats.weightstats")
    ours, theirs = runs
    expected = weightstats.ttost_paired(ours, theirs, -0.25, 0.25)[0]
    np.testing.assert_allclose(accuracy(ours, theirs).equivalence_p, expected)
    expected = weightstats.ttost_paired(ours, theirs, 1 / 1.05, 1.05, transform=np.log)[0]
    np.testing.assert_allclose(cost(ours, theirs).equivalence_p, expected)


def test_a_relative_change_is_that_of_geometric_means_and_the_same_from_either_side(runs):
    ours, theirs = runs
    found, back = cost(ours, theirs), cost(theirs, ours)
    assert found.unit == "%"
    np.testing.assert_allclose(found.mean, 100 * (scipy_stats.gmean(ours) / scipy_stats.gmean(theirs) - 1))
    np.testing.assert_allclose(found.each, 100 * (ours / theirs - 1))
    np.testing.assert_allclose((1 + found.mean / 100) * (1 + back.mean / 100), 1)
    np.testing.assert_allclose((1 + np.array(found.interval) / 100) * (1 + np.array(back.interval[::-1]) / 100), 1)
    np.testing.assert_allclose([found.p, found.equivalence_p], [back.p, back.equivalence_p])
    expected = scipy_stats.ttest_rel(np.log(ours), np.log(theirs)).confidence_interval()
    np.testing.assert_allclose(found.interval, 100 * np.expm1(expected))


def test_pairing_is_by_seed_and_matters(rng):
    seed = rng.normal(90, 1, 12)
    ours, theirs = seed + rng.normal(0, 0.1, 12), seed + rng.normal(0, 0.1, 12)
    width = lambda found: found.interval[1] - found.interval[0]
    whole = accuracy(ours, theirs)
    backwards = dict(reversed(by_seed(ours).items()))
    assert stats.paired("accuracy", backwards, by_seed(theirs), relative=False, margin=0.25, names=NAMES) == whole
    assert width(accuracy(rng.permutation(ours), theirs)) > 4 * width(whole)  # control: pairs torn apart


def test_what_is_left_out_is_named_and_moves_nothing(runs):
    ours, theirs = map(by_seed, runs)
    whole = stats.paired("accuracy", ours, theirs, relative=False, margin=0.25, names=NAMES)
    ours |= {8: None, 9: math.nan, 10: 90.0}
    theirs |= {8: 90.0, 9: None, 11: 90.0}
    found = stats.paired("accuracy", ours, theirs, relative=False, margin=0.25, names=NAMES)
    assert found.left_out == (
        "seed 8: MF has no value",
        "seed 9: MF has no value, BP has no value",
        "seed 10: BP was not run",
        "seed 11: MF was not run",
    )
    assert dataclasses.replace(found, left_out=(), runs=whole.runs) == whole and found.runs == (11, 11)
    assert report.verdict(found).endswith("; 4 seeds left out")


def test_one_pair_has_a_mean_and_no_interval():
    found = accuracy([90.5], [90.25])
    assert (found.n, found.mean, found.sd, found.interval, found.p, found.equivalence_p) == (1, 0.25, *[None] * 4)


def test_identical_differences_have_no_spread_and_are_judged_by_signs():
    same = accuracy([98.3, 97.5, 91.1], [98.3, 97.5, 91.1])
    assert (same.mean, same.sd, same.interval, same.p, same.equivalence_p) == (0, 0, (0, 0), 1, 1 / 8)
    shifted = accuracy([98.3, 97.5, 91.1], [98.1, 97.3, 90.9])  # 0.2 each, but not in binary
    assert (shifted.sd, shifted.p, shifted.bootstrap) == (0, 2 / 8, None)  # a t test would have p of about 1e-30
    np.testing.assert_allclose(shifted.interval, (0.2, 0.2))
    halved = cost([1, 2, 3, 4, 5], [2, 4, 6, 8, 10])
    np.testing.assert_allclose([halved.mean, *halved.interval], -50)
    assert (halved.p, halved.equivalence_p) == (2 / 32, 1)


def test_it_is_plain_json(runs):
    found = stats.holm([accuracy(*runs), accuracy([90], [91]), cost([1, 1], [1, 1])])
    reach = stats.to_target("energy", {0: 1.0, 1: None}, {0: None, 1: None})
    published = stats.against_published([90, None], 90, None, None, margin=1)
    for each in (*found, reach, published):
        again = json.loads(json.dumps(each.as_json(), allow_nan=False))
        assert again and again.get("n", 0) == getattr(each, "n", 0)


# --- intervals -------------------------------------------------------------------------------------------------------

SAMPLES = {
    "normal": lambda rng, shape: rng.normal(1, 1, shape),
    "skewed": lambda rng, shape: rng.gamma(4, 0.25, shape),  # skewness 1, mean 1
}


def covers(interval, truth: float) -> bool:
    return interval[0] <= truth <= interval[1]


@pytest.mark.parametrize("n", [5, 10])
def test_the_t_interval_covers_a_normal_mean_as_often_as_it_says(rng, n):
    samples = SAMPLES["normal"](rng, (1500, n)).tolist()
    assert likely([covers(stats.mean_interval(x).interval, 1) for x in samples], 1500, 0.95)
    assert likely([covers(stats.mean_interval(x, confidence=0.8).interval, 1) for x in samples], 1500, 0.8)


def test_the_intervals_cover_a_mildly_skewed_mean_nearly_as_often(rng):
    samples = SAMPLES["skewed"](rng, (1500, 10)).tolist()
    assert 0.92 < np.mean([covers(stats.mean_interval(x).interval, 1) for x in samples]) < 0.965


def test_the_interval_of_a_relative_change_covers_it(rng):
    ratio = np.exp(rng.normal(math.log(0.9), 0.05, (300, 5)))
    found = [cost(100 * r, np.full(5, 100.0), resamples=40).interval for r in ratio]
    assert likely([covers(interval, -10) for interval in found], 300, 0.95)


@pytest.mark.parametrize("kind", SAMPLES)
def test_the_studentised_bootstrap_covers_ten_values_and_the_percentile_bootstrap_does_not_cover_five(rng, kind):
    samples = SAMPLES[kind](rng, (600, 10))
    found = [stats.bootstrap_t(x.tolist(), resamples=599, seed=i) for i, x in enumerate(samples)]
    assert likely([covers(interval, 1) for interval in found], 600, 0.95)
    few = SAMPLES[kind](rng, (1000, 5))  # control: 83 % of normal ones
    means = np.take_along_axis(few[:, None], rng.integers(5, size=(1000, 400, 5)), axis=2).mean(axis=2)
    low, high = np.quantile(means, [0.025, 0.975], axis=1)
    assert 0.76 < np.mean((low <= 1) & (high >= 1)) < 0.87


def test_the_studentised_bootstrap_by_hand(rng):
    """Against a plain loop over the same resamples."""
    x, n = rng.normal(size=6), 6
    t = []
    for drawn in x[np.random.default_rng(3).integers(n, size=(200, n))]:
        t.append((drawn.mean() - x.mean()) / (drawn.std(ddof=1) / math.sqrt(n)))
    error, t = x.std(ddof=1) / math.sqrt(n), sorted(t)
    expected = (x.mean() - t[-5] * error, x.mean() - t[4] * error)
    np.testing.assert_allclose(stats.bootstrap_t(x.tolist(), resamples=200, seed=3), expected)


def test_the_bootstrap_is_none_where_it_is_undefined_and_repeats(runs):
    assert stats.bootstrap_t([1, 2, 3, 4]) is None
    assert stats.bootstrap_t([1, 1, 1, 1, 1]) is None
    assert stats.bootstrap_t([1, 1, 1, 1, 2]) is None  # a third of the resamples have no spread
    assert accuracy(*runs).bootstrap == accuracy(*runs).bootstrap


def test_a_mean_counts_what_it_leaves_out():
    found = stats.mean_interval([1, None, 3, math.nan])
    assert (found.n, found.mean, found.left_out) == (2, 2.0, 2)
    reach = 12.706204736432095 * math.sqrt(2) / math.sqrt(2)
    np.testing.assert_allclose([found.sd, *found.interval], [math.sqrt(2), 2 - reach, 2 + reach])
    assert stats.mean_interval([]) == (0, None, None, None, 0)
    assert stats.mean_interval([4]) == (1, 4.0, None, None, 0)
    assert stats.mean_interval([0.5] * 3) == (3, 0.5, 0.0, (0.5, 0.5), 0)


# --- rates of error --------------------------------------------------------------------------------------------------


def p_values(rng, means, sd: float, n: int, repeats: int, margin: float = 0.25):
    """Of the t test and of equivalence, (repeats, questions) each."""
    d = rng.normal(means, sd, (repeats, n, len(means)))
    return stats.p_values(d.mean(axis=1), d.std(axis=1, ddof=1) / math.sqrt(n), n - 1, margin)


def test_the_simulated_p_values_are_those_of_the_module(rng):
    d = rng.normal(0.1, 0.2, 6)
    found = differences(d)
    expected = stats.p_values(d.mean(), d.std(ddof=1) / math.sqrt(6), 5, 0.25)
    np.testing.assert_allclose([found.p, found.equivalence_p], expected, rtol=1e-6)


def test_equivalence_errs_at_the_margin_as_often_as_it_says_and_finds_more_with_more_pairs(rng):
    _, p = p_values(rng, [0.25], 0.1, 10, 4000)
    assert likely(p <= 0.05, 4000, 0.05)
    _, p = p_values(rng, [0.25], 0.4, 10, 4000)
    assert likely_at_most(p <= 0.05, 4000, 0.05)
    difference, _ = p_values(rng, [0.25], 0.4, 10, 4000)
    assert np.mean(difference > 0.05) > 0.5  # control: "not significant" would call most of them equal
    power = [np.mean(p_values(rng, [0.0], 0.4, n, 4000)[1] <= 0.05) for n in (10, 20, 40)]
    np.testing.assert_allclose(power, [0.22, 0.71, 0.98], atol=0.03)  # measurement.md, section 11


def families(p, equivalence_p):
    """Corrected p values of every repeat, as arrays."""
    one = differences([0.0, 0.1])
    found = []
    for row, equivalence_row in zip(p.tolist(), equivalence_p.tolist(), strict=True):
        pairs = zip(row, equivalence_row, strict=True)
        questions = [dataclasses.replace(one, p=a, equivalence_p=b) for a, b in pairs]
        found.append([(each.p_holm, each.equivalence_p_holm) for each in stats.holm(questions)])
    corrected = np.array(found, dtype=float)
    return corrected[..., 0], corrected[..., 1]


def test_the_family_errs_no_more_than_one_test_would(rng):
    p, equivalence_p = p_values(rng, [0.0] * 6, 0.4, 10, 1000)
    corrected, _ = families(p, equivalence_p)
    assert likely_at_most((corrected <= 0.05).any(axis=1), 1000, 0.05)
    assert np.mean((p <= 0.05).any(axis=1)) > 0.2  # control: uncorrected, 1 - 0.95^6


def test_the_family_of_differences_and_equivalences_keeps_its_level_and_two_families_do_not(rng):
    """Three questions without a difference and three at the margin: each has one true null hypothesis."""
    p, equivalence_p = p_values(rng, [0.0] * 3 + [0.25] * 3, 0.05, 10, 1500)
    wrong = lambda p, e: (p[:, :3] <= 0.05).any(axis=1) | (e[:, 3:] <= 0.05).any(axis=1)
    assert likely_at_most(wrong(*families(p, equivalence_p)), 1500, 0.05)
    none = np.full(p.shape, None)
    apart = wrong(families(p, none)[0], families(none, equivalence_p)[1])
    assert not likely_at_most(apart, 1500, 0.05) and likely(apart, 1500, 1 - 0.95**2)  # control


def test_one_family_of_one_kind_is_holms_and_both_kinds_beat_holms_over_all(rng):
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    p, equivalence_p = p_values(rng, [0.0, 0.1, 0.2, 0.3], 0.2, 10, 3)
    of_one_kind, of_both = families(p, np.full(p.shape, None))[0], families(p, equivalence_p)
    for i in range(3):  # each call of multipletests collects garbage, which takes long
        np.testing.assert_allclose(of_one_kind[i], multitest.multipletests(p[i], method="holm")[1])
        over_all = multitest.multipletests([*p[i], *equivalence_p[i]], method="holm")[1]
        assert (np.concatenate([of_both[0][i], of_both[1][i]]) <= over_all + 1e-12).all()


def test_holm_by_hand():
    one = differences([0.0, 0.1])
    questions = [
        dataclasses.replace(one, p=0.001, equivalence_p=0.004),  # closed after the second step
        dataclasses.replace(one, p=0.02, equivalence_p=0.9),
        dataclasses.replace(one, p=None, equivalence_p=None),  # asked, so it counts
    ]
    found = stats.holm(questions)
    np.testing.assert_allclose([found[0].p_holm, found[0].equivalence_p_holm, found[1].p_holm], [0.003, 0.012, 0.04])
    assert (found[1].equivalence_p_holm, found[2].p_holm, found[2].equivalence_p_holm) == (1, None, None)
    assert stats.holm(found) == found  # from the raw ones, each time
    reach = stats.to_target("energy", by_seed([1] * 6), by_seed([2] * 6))
    assert stats.holm([reach, questions[2]])[0].p_holm == 2 * reach.p == 4 / 64
    assert stats.holm([]) == ()


# --- sentences -------------------------------------------------------------------------------------------------------

SPREAD = np.array([-1.0, 1] * 5) / 3 * math.sqrt(9 / 10) * math.sqrt(10)  # mean 0, sd / sqrt(n) = 1 / 3
T9 = 2.2621571628  # times 1 / 3 = 0.754 is half the 95 % interval of ten pairs


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (
            differences(0.42 + 0.2 * SPREAD),
            "MF is 0.42 points more accurate than BP, 95 % interval 0.27 to 0.57 over seeds at one test set",
        ),
        (
            differences(-0.42 - 0.2 * SPREAD),
            "MF is 0.42 points less accurate than BP, 95 % interval 0.27 to 0.57 over seeds at one test set",
        ),
        (
            differences(0.1 + 0.1 * SPREAD),
            "MF is 0.100 points more accurate than BP, 95 % interval 0.025 to 0.175 over seeds at one test set: "
            "smaller than the margin of 0.25 points; t test p 0.015, but sign flips p 0.062",
        ),
        (
            differences(0.01 + 0.15 * SPREAD),
            "MF: no difference larger than 0.25 points from BP (95 % interval -0.10 to 0.12 over seeds at one test "
            "set)",
        ),
        (
            differences(0.1 + 0.21 * SPREAD),
            "MF: no difference larger than 0.25 points from BP (95 % interval -0.06 to 0.26 over seeds at one test "
            "set, 90 % -0.03 to 0.23)",
        ),
        (
            differences(0.1 + 0.3 * SPREAD),
            "accuracy: not decided with 10 seeds (0.10 points, 95 % interval -0.13 to 0.33 over seeds at one test set)",
        ),
        (
            cost(100 * np.exp(math.log(0.88) + 0.05 * SPREAD), [100] * 10),
            "MF uses 12.0 % less energy than BP, 95 % interval 8.6 to 15.3 over seeds",
        ),
        (
            cost(100 * np.exp(math.log(3.64) + 0.05 * SPREAD), [100] * 10, "time"),
            "MF takes 264 % more time than BP, 95 % interval 251 to 278 over seeds",
        ),
        (
            cost(100 * np.exp(math.log(0.9) + 0.02 * SPREAD), [100] * 10, "memory"),
            "MF takes 10.0 % less memory than BP, 95 % interval 8.6 to 11.3 over seeds",
        ),
        (
            cost(100 * np.exp(math.log(0.9) + 0.02 * SPREAD), [100] * 10, "passes"),
            "MF needs 10.0 % fewer passes than BP, 95 % interval 8.6 to 11.3 over seeds",
        ),
        (
            cost(100 * np.exp(math.log(1.1) + 0.02 * SPREAD), [100] * 10, "energy per pass"),
            "MF uses 10.0 % more energy per pass than BP, 95 % interval 8.4 to 11.7 over seeds",
        ),
        (
            cost(100 * np.exp(math.log(1.1) + 0.02 * SPREAD), [100] * 10, "mean power"),
            "MF has 10.0 % higher mean power than BP, 95 % interval 8.4 to 11.7 over seeds",
        ),
        (
            cost(100 * np.exp(0.02 * SPREAD), [100] * 10),
            "MF: no difference in energy larger than 5 % from BP (95 % interval -1.5 to 1.5 over seeds)",
        ),
        (
            cost([97, 90, 95, 105, 98], [100] * 5),
            "energy: not decided with 5 seeds (-3.1 %, 95 % interval -9.6 to 3.8 over seeds)",
        ),
        (
            differences([0.4, 0.42, 0.44]),
            "MF is 0.420 points more accurate than BP, 95 % interval 0.370 to 0.470 over seeds at one test set; "
            "fewer than 10 seeds: no claim",
        ),
        (
            differences([-0.01, 0.01, 0.02]),
            "MF: no difference larger than 0.25 points from BP (95 % interval -0.031 to 0.045 over seeds at one "
            "test set); "
            "fewer than 10 seeds: no claim",
        ),
        (cost([50], [100]), "energy: not decided with 1 seed (-50.00 %)"),
        (cost([75] * 10, [100] * 10, "memory"), "MF takes 25.00 % less memory than BP, the same in every pair"),
        (
            cost([75] * 3, [100] * 3, "memory"),
            "memory: not decided with 3 seeds (-25.00 %, the same in every pair)",
        ),
        (
            cost([75] * 10, [75] * 10, "passes"),
            "MF: no difference in passes larger than 5 % from BP (0.00 %, the same in every pair)",
        ),
        (
            stats.paired("energy", {1: None}, {1: 2.0}, relative=True, margin=5, reason="no power sensor"),
            "energy unavailable: no power sensor; 1 seed left out",
        ),
        (
            stats.paired("energy", {1: None, 2: 1.0}, {1: 2.0, 2: None}, relative=True, margin=5),
            "energy unavailable: no seed has a value of both rules; 2 seeds left out",
        ),
        (
            dataclasses.replace(differences(0.42 + 0.2 * SPREAD), p_holm=0.06, equivalence_p_holm=1.0),
            "accuracy: not decided with 10 seeds (0.42 points, unadjusted 95 % interval 0.27 to 0.57 over seeds at one "
            "test set); not after correction for the other questions",
        ),
        (
            dataclasses.replace(differences(0.42 + 0.2 * SPREAD), quantity="validation accuracy"),
            "MF is 0.42 points more accurate than BP in validation, 95 % interval 0.27 to 0.57 over seeds",
        ),
    ],
)
def test_a_verdict_is_one_plain_sentence(found, sentence):
    assert report.verdict(found) == sentence


def test_the_half_width_of_the_sentences_is_students():
    found = differences(0.42 + 0.2 * SPREAD)
    np.testing.assert_allclose(found.interval, [0.42 - 0.2 * T9 / 3, 0.42 + 0.2 * T9 / 3])


# --- cost to a target ------------------------------------------------------------------------------------------------


def test_a_miss_costs_more_than_any_success_and_two_misses_tie():
    ours = {0: 1.0, 1: None, 2: None, 3: 5.0, 4: 2, 5: math.nan, 6: 1.0}
    theirs = {0: None, 1: 9.0, 2: None, 3: 5.0, 4: 3, 5: 1.0}
    found = stats.to_target("energy", ours, theirs, names=NAMES, unit="J")
    assert (found.wins, found.losses, found.n, found.reached) == (2, 1, 5, (3, 3))
    assert found.medians == (5.0, 9.0)  # of 1 2 5 inf inf, and of 3 5 9 inf inf
    assert found.left_out == ("seed 5: MF has no value", "seed 6: BP was not run")
    assert found.p == scipy_stats.binomtest(2, 3).pvalue == 1
    assert stats.to_target("energy", {0: None}, {0: None}).p == 1
    assert stats.to_target("energy", {0: None}, {0: 1}).medians == (None, 1.0)


def test_dropping_the_misses_would_reverse_the_verdict():
    ours = {seed: 1.0 if seed < 2 else None for seed in range(12)}  # cheap where the task is easy
    theirs = {seed: 5.0 for seed in range(12)}
    found = stats.to_target("energy", ours, theirs, names=NAMES, unit="J")
    assert (found.wins, found.losses, found.medians) == (2, 10, (None, 5.0))
    np.testing.assert_allclose(found.p, 2 * (1 + 12 + 66) / 2**12)
    assert report.verdict(found) == (
        "MF uses more energy to the target than BP in 10 of 12 seeds (reached 2 of 12 against 12 of 12, median never "
        "against 5 J, sign test p 0.039)"
    )
    kept = stats.to_target("energy", {seed: cost for seed, cost in ours.items() if cost}, theirs, names=NAMES)
    assert kept.wins == 2 and kept.losses == 0 and kept.medians[0] < kept.medians[1]  # control: the misses dropped
    other = stats.to_target("passes", theirs, ours, names=NAMES)
    assert report.verdict(other).startswith("MF needs fewer passes to the target than BP in 10 of 12 seeds (")


def test_verdicts_of_costs_to_a_target_that_decide_nothing():
    few = stats.to_target("time", by_seed([1, 2, 3, 4, 5]), by_seed([2, 3, 4, 5, 6]), names=NAMES, unit="s")
    assert report.verdict(few) == (
        "time: not decided with 5 seeds (MF less in 5 of 5, more in 0; reached 5 of 5 against 5 of 5, median 3 s "
        "against 4 s, sign test p 0.062)"
    )
    assert report.verdict(few, alpha=0.1).endswith("; fewer than 10 seeds: no claim")
    assert "not after correction" in report.verdict(dataclasses.replace(few, p_holm=0.2), alpha=0.1)
    nothing = stats.to_target("time", {0: math.nan}, {0: 1.0})
    assert report.verdict(nothing) == "time unavailable: no seed has a cost of both rules; 1 seed left out"


# --- against published means -----------------------------------------------------------------------------------------


def test_against_a_published_mean_is_welchs(rng):
    ours, theirs = rng.normal(62, 0.5, 10), rng.normal(62.1, 0.3, 6)
    published = (float(theirs.mean()), float(theirs.std(ddof=1)), 6)
    found = stats.against_published(ours.tolist(), *published, margin=1)
    expected = scipy_stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.9)
    np.testing.assert_allclose(found.interval, expected)
    assert (found.method, found.outcome, found.why) == ("welch", "reproduced", None)
    for margin in (0.3, 0.5, 0.7):  # the interval and the two tests say the same
        found = stats.against_published(ours.tolist(), *published, margin=margin)
        assert (found.outcome == "reproduced") == (found.equivalence_p < 0.05)


@pytest.mark.parametrize(("sd", "n"), [(None, 3), (0.5, None), (0.5, 1), (None, None)])
def test_without_a_published_spread_the_mean_is_taken_as_exact_and_it_says_so(rng, sd, n):
    ours = rng.normal(62, 0.5, 10)
    found = stats.against_published(ours.tolist(), 62, sd, n, margin=1)
    np.testing.assert_allclose(found.interval, np.array(scipy_stats.ttest_1samp(ours, 0).confidence_interval(0.9)) - 62)
    assert found.method == "one-sample"


def test_what_is_not_reproduced_differs_or_is_not_decided():
    why = lambda *args, **kwargs: stats.against_published(*args, **kwargs).why
    values = [61.9, 62.0, 62.1, 62.0]
    assert why(values, 62, 0.1, 4, margin=0.5) is None
    assert why(values, 64, 0.1, 4, margin=0.5) == "differs"
    assert why(values, 62.4, 0.1, 4, margin=0.5) == "not decided"
    assert why([62.0], 62, 0.1, 4, margin=0.5) == "not decided"
    assert why([], 62, 0.1, 4, margin=0.5) == "not decided"
    assert why([62.0, None], 70, 0.1, 4, margin=0.5) == "not decided"
    assert why([61.5, 62.5] * 500, 62, 0.58, 3, margin=0.25) == "not decided"  # three published runs are too vague


@pytest.mark.parametrize(("sd", "n"), [(0.0, 3), (None, 3), (None, None), (0.4, 1)])
def test_without_any_spread_the_difference_alone_decides(sd, n):
    """Numbers of epochs that are the same in every run; a published spread, or a single value of ours, decides less."""
    found = lambda values: stats.against_published(values, 24.0, sd, n, margin=1, unit="epochs")
    same, off = found([24.0] * 10), found([25.5] * 10)
    assert (same.outcome, same.why, same.difference, same.interval) == ("reproduced", None, 0, None)
    assert (off.outcome, off.why, off.difference) == ("not reproduced", "differs", 1.5)
    assert found([23.0] * 2).why == "differs" and found([23.1] * 2).why is None  # the margin itself is too much
    assert found([24.0]).why == "not decided" and found([24.0, None]).why == "not decided"
    spread = stats.against_published([24.0] * 10, 24.0, 4.0, 3, margin=1, unit="epochs")
    assert spread.why == "not decided" and spread.interval is not None


def test_a_mean_off_by_the_margin_is_seldom_reproduced(rng):
    def reproduced(shift):
        found = []
        for _ in range(600):
            theirs = rng.normal(62, 0.3, 10)
            ours = rng.normal(62 + shift, 0.3, 10).tolist()
            published = float(theirs.mean()), float(theirs.std(ddof=1))
            found.append(stats.against_published(ours, *published, 10, margin=0.5).outcome == "reproduced")
        return found

    assert likely_at_most(reproduced(0.5), 600, 0.05)
    assert np.mean(reproduced(0.0)) > 0.9  # control


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "fault"),
    [
        (lambda: stats.paired("time", {1: 1}, {2: 1}, relative=True, margin=5), "no seed in common"),
        (lambda: stats.paired("time", {1: 1, 2: 0}, {1: 1, 2: 1}, relative=True, margin=5), "drop seed 2"),
        (lambda: stats.paired("time", {1: math.inf}, {1: 1}, relative=True, margin=5), "is finite"),
        (lambda: accuracy([0.981, 0.982], [0.979, 0.98]), "multiply fractions by 100"),
        (lambda: accuracy([98, 101], [98, 98]), "in percent"),
        (lambda: accuracy([98, -1], [98, 98], unit="points"), "from 0 to 100"),
        (lambda: accuracy([98], [97], margin=0), "above 0"),
        (lambda: accuracy([98], [97], confidence=95.0), "95 % is 0.95"),
        (lambda: stats.mean_interval([math.inf]), "is finite"),
        (lambda: stats.to_target("time", {1: 1}, {2: 1}), "no seed in common"),
        (lambda: stats.to_target("time", {1: -1}, {1: 1}), "not negative"),
        (lambda: stats.against_published([98], 98, -1, 3, margin=1), "give None"),
        (lambda: stats.against_published([98], math.nan, 1, 3, margin=1), "is finite"),
        (lambda: stats.against_published([0.98], 0.98, 0.01, 3, margin=1), "multiply fractions by 100"),
        (lambda: stats.against_published([98], 98, 1, 3, margin=-1), "above 0"),
    ],
)
def test_bad_input_is_one_line(call, fault):
    with pytest.raises(UsageError, match=fault) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_without_scipy_the_extra_is_named(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", missing)
    for call in (lambda: accuracy([1, 2], [1, 3]), lambda: stats.mean_interval([1, 2])):
        with pytest.raises(UsageError, match=r"pip install 'fwdonly\[stats\]'"):
            call()
