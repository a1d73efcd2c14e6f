"""What a comparison must not forget: runs that diverged, and what its intervals do not cover.

Every simulation has a control: the common mistake, which must show.
"""

import random
import re

import numpy as np
import pytest
from test_page import make, run_of

from fwdonly import UsageError, report
from fwdonly.report import stats

pytest.importorskip("scipy.stats")

NAMES = ("MF", "BP")
SPREAD = np.array([-1.0, 1] * 10) * 0.1


@pytest.fixture
def rng():
    return np.random.default_rng(23)


def compared(ours, theirs, gone=((), ()), **options):
    """Accuracies by seed, without those of runs that diverged."""
    sides = [
        {seed: None if seed in own else float(value) for seed, value in enumerate(values)}
        for values, own in zip((ours, theirs), gone, strict=True)
    ]
    options = {"relative": False, "margin": 0.25, "names": NAMES, "resamples": 40, "diverged": gone} | options
    return stats.paired(options.pop("quantity", "accuracy"), *sides, **options)


# --- a divergence is an outcome --------------------------------------------------------------------------------------


def equal_rules(rng, share, chosen=False):
    """A rule equal to BP that diverges in a share of 20 seeds; ``chosen``: in its worst ones."""
    theirs = rng.normal(90, 1, 20)
    ours = theirs + rng.normal(0, 0.3, 20)
    order = np.argsort(ours - theirs) if chosen else rng.permutation(20)
    return ours, theirs, [int(seed) for seed in order[: rng.binomial(20, share)]]


@pytest.mark.parametrize("chosen", [False, True], ids=["any seeds", "its worst seeds"])
def test_a_rule_that_diverges_more_often_is_neither_equal_nor_better(rng, chosen):
    """With a control: the same pairs as if nothing had diverged. Before, "no difference" in about 9 of 10."""
    said, dropped = [], []
    for _ in range(100):
        ours, theirs, gone = equal_rules(rng, 0.3, chosen)
        found = compared(ours, theirs, (gone, ()), chance=10)
        said.append((bool(gone), report.verdict(stats.holm([found])[0])))
        kept = [seed for seed in range(20) if seed not in gone]
        dropped.append(report.verdict(compared(ours[kept], theirs[kept])))
    won = lambda sentence: "no difference larger" in sentence or "more accurate" in sentence
    assert not any(won(sentence) for diverged, sentence in said if diverged)
    assert all(sentence.startswith("MF diverged with ") for diverged, sentence in said if diverged)
    assert np.mean([won(sentence) for sentence in dropped]) > 0.75  # control


def test_the_sentence_begins_with_the_counts_and_ends_with_the_accuracy_at_chance():
    ours = 90 + 0.02 + SPREAD
    found = compared(ours, np.full(20, 90.0), ([0, 1, 2, 3, 4, 5], ()), chance=10)
    sentence = report.verdict(found)
    assert sentence.startswith(
        "MF diverged with 6 of 20 seeds, BP with 0 of 20; accuracy: not decided with 14 seeds: these are the seeds "
        "that MF got through ("
    )
    assert found.diverging == "MF" and found.runs == (20, 20)
    filled = np.where(np.arange(20) < 6, 10.0, ours) - 90
    mean, interval = filled.mean(), stats.mean_interval(filled.tolist()).interval
    np.testing.assert_allclose([found.at_chance.mean, *found.at_chance.interval], [mean, *interval])
    assert "with diverged runs at chance (10 %) -24 points, 95 % interval" in sentence
    assert found.p == found.sign_flip_p == found.equivalence_p == 1 and round(found.mean, 6) == 0.02
    assert found.left_out[0] == "seed 0: MF diverged"


def test_against_the_rule_that_diverges_the_other_one_may_win_and_equal_counts_hide_nothing():
    theirs = np.full(20, 90.0)
    worse = report.verdict(compared(theirs - 1 + SPREAD, theirs, ([3, 7], ()), chance=10))
    assert worse.startswith("MF diverged with 2 of 20 seeds, BP with 0 of 20; MF is 1.0")
    better = report.verdict(compared(theirs + 1 + SPREAD, theirs, ((), [3, 7]), chance=10))
    assert better.startswith("MF diverged with 0 of 20 seeds, BP with 2 of 20; MF is 0.98")
    lost = report.verdict(compared(theirs - 1 + SPREAD, theirs, ((), [3, 7]), chance=10))
    assert "BP with 2 of 20; accuracy: not decided with 18 seeds: these are the seeds that BP got through" in lost
    both = report.verdict(compared(theirs + 0.01 + SPREAD, theirs, ([3, 7], [7, 8]), chance=10))
    assert both.startswith("MF diverged with 2 of 20 seeds, BP with 2 of 20; MF: no difference larger than 0.25 points")
    assert "; with diverged runs at chance" in both


@pytest.mark.parametrize(("quantity", "word"), [("time", "takes"), ("energy", "uses"), ("passes", "needs")])
def test_no_cost_is_saved_by_runs_that_diverged(quantity, word):
    base = 100 + 10 * SPREAD
    how = {"quantity": quantity, "relative": True, "margin": 5.0}
    cheap, dear = (report.verdict(compared(f * base, np.full(20, 100.0), ([1, 2], ()), **how)) for f in (0.5, 2.0))
    assert f"{quantity}: not decided with 18 seeds: these are the seeds that MF got through" in cheap
    assert f"MF {word} 100" in dear and "at chance" not in cheap + dear


def test_with_every_run_diverged_the_counts_are_all_there_is():
    found = compared(np.full(12, 90.0), np.full(12, 90.0), (range(12), ()))
    assert report.verdict(found) == (
        "MF diverged with 12 of 12 seeds, BP with 0 of 12; accuracy unavailable: no seed has a value of both rules; "
        "12 seeds left out"
    )


@pytest.mark.parametrize(("values", "why"), [([62.0, 61.9, 62.1], "diverged"), ([70.0, 70.1, 69.9], "differs")])
def test_a_published_mean_is_not_reproduced_by_the_runs_that_got_through(values, why):
    published = {"margin": 0.5}
    assert stats.against_published([*values, None], 62, 0.1, 10, **published, diverged=1).why == why
    assert stats.against_published(values, 62, 0.1, 10, **published).why == (None if why == "diverged" else why)


def diverging(summary):
    for seed in (2, 5, 6):
        summary["rules"][0]["runs"][seed] = run_of(seed, 0.95, random.Random(0), diverged=True)
    summary["data"]["classes"] = 10
    summary["rules"][0]["published"][0] |= {"value": 95.0, "sd": 0.2, "n": 10}


def test_the_page_says_it_of_accuracy_costs_and_published_numbers(tmp_path):
    text = report.markdown_report([make(tmp_path / "a", edit=diverging)])
    begun = "MF, greedy diverged with 3 of 10 seeds, BP with 0 of 10; "
    assert text.count(begun) >= 3 and "with diverged runs at chance (10 %)" in text
    assert "not reproduced: 3 of 10 runs diverged" in text


# --- what intervals and p values do not cover ------------------------------------------------------------------------


def test_an_interval_is_called_unadjusted_where_p_values_are_corrected_and_says_what_it_covers():
    found = compared(91 + SPREAD, np.full(20, 90.0))
    assert "unadjusted" not in report.verdict(found)
    (corrected,) = stats.holm([found])
    assert ", unadjusted 95 % interval 0.952 to 1.048 over seeds at one test set" in report.verdict(corrected)
    (undecided,) = stats.holm([compared(90 + 10 * SPREAD + 0.1, np.full(20, 90.0))])
    assert ", unadjusted 95 % interval -0.38 to 0.58 over seeds at one test set)" in report.verdict(undecided)
    how = {"quantity": "time", "relative": True, "margin": 5.0}
    (cost,) = stats.holm([compared(100 + SPREAD, np.full(20, 100.0), **how)])
    assert "unadjusted 95 % interval" in report.verdict(cost) and "over seeds)" in report.verdict(cost)


def test_the_page_says_what_its_intervals_and_verdicts_rest_on(tmp_path):
    for text in (report.html_report([make(tmp_path / "a")]), report.markdown_report([make(tmp_path / "b")])):
        for words in ("they are unadjusted", "at one fixed test set", "the one setting of each rule", "disagree"):
            assert words in text
        assert "unadjusted 95 % interval" in text and not re.search(r"(?<!unadjusted )95 % interval", text)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            [0.1, 0.1, 0.2, 0.1, 0.3, 0.2, 0.1, 0.15, 2, 1.9],
            "; t test p 0.061, but sign flips p 0.002 and bootstrap 95 % ",
        ),
        (
            [-0.4, 0.5, 0.5, 0.5, 0.5, 0.6, 0.4, 0.5, 0.55, -0.3],
            "; t test p 0.018, but bootstrap 95 % interval -1.29 to ",
        ),
    ],
)
def test_sign_flips_and_bootstrap_are_named_where_they_disagree(values, said):
    found = compared(90 + np.array(values), np.full(len(values), 90.0), resamples=10_000)
    assert said in report.verdict(found)


def test_where_the_tests_agree_none_of_them_is_named(rng):
    """And with fewer than six pairs, where no flip of signs could decide."""
    for n in (4, 12, 20):
        found = compared(95 + rng.normal(0, 0.1, n), np.full(n, 90.0), resamples=10_000)
        assert found.p < 0.05 and "t test" not in report.verdict(found)


# --- percent is said, or guessed of accuracies alone -----------------------------------------------------------------

ERRORS = [0.77, 0.79, 0.81, 0.78]
"""Percent: MNIST errors of today."""


def test_errors_below_one_percent_are_compared():
    theirs = [0.8 + 0.01 * at for at in range(4)]
    found = stats.against_published(ERRORS, 0.79, 0.02, 10, margin=0.1, unit="points")
    assert (found.outcome, round(found.difference, 4)) == ("reproduced", -0.0025)
    assert stats.against_published([0.2, 0.3], 0.0, None, None, margin=0.1, unit="points").why is not None
    assert compared(ERRORS, theirs, quantity="error").mean < 0
    assert compared(ERRORS, theirs, unit="points").mean < 0  # such as accuracies of a thousand classes
    for call in (lambda: compared(ERRORS, theirs), lambda: stats.against_published(ERRORS, 0.79, 0.02, 10, margin=0.1)):
        with pytest.raises(UsageError, match="multiply fractions by 100, or say unit='points'"):
            call()  # control: 98 % as 0.98 is still found


def test_a_page_shows_rules_below_one_percent(tmp_path):
    def edit(summary):
        for rule in summary["rules"]:
            for run in rule["runs"]:
                run["test_accuracy"] /= 200
        summary["rules"][0]["published"][0] |= {"value": 0.47, "sd": 0.01}

    assert "Verdicts" in report.markdown_report([make(tmp_path / "a", edit=edit)])
