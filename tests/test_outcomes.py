"""What a comparison must not forget: runs that diverged, and what its intervals do not cover.

Every simulation has a control: the common mistake, which must show.
"""

import numpy as np
import pytest
from test_page import make, run_of

from fwdonly import report
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
    """A rule equal to BP that diverges in a share of 20 seeds; ``chosen``: with those that would have been its worst."""
    theirs = rng.normal(90, 1, 20)
    ours = theirs + rng.normal(0, 0.3, 20)
    order = np.argsort(ours - theirs) if chosen else rng.permutation(20)
    return ours, theirs, [int(seed) for seed in order[: rng.binomial(20, share)]]


@pytest.mark.parametrize("chosen", [False, True], ids=["any seeds", "its worst seeds"])
def test_a_rule_that_diverges_more_often_is_neither_equal_nor_better(rng, chosen):
    """With a control: the same pairs as if nothing had diverged. Before, "no difference" in about 9 of 10."""
    said, dropped = [], []
    for _ in range(150):
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
        "MF diverged with 6 of 20 seeds, BP with 0 of 20; accuracy: not decided with 14 seeds: these are the seeds that "
        "MF got through (0.02 points, "
    )
    filled = np.where(np.arange(20) < 6, 10.0, ours) - 90
    mean, interval = filled.mean(), stats.mean_interval(filled.tolist()).interval
    np.testing.assert_allclose([found.at_chance.mean, *found.at_chance.interval], [mean, *interval])
    assert "with diverged runs at chance (10 %) -24 points, 95 % interval" in sentence
    assert (found.p, found.equivalence_p) != (1, 1) and found.equivalence_p == 1
    assert found.left_out[0] == "seed 0: MF diverged"


def test_against_the_rule_that_diverges_the_other_one_may_win_and_equal_counts_hide_nothing():
    theirs = np.full(20, 90.0)
    worse = report.verdict(compared(theirs - 1 + SPREAD, theirs, ([3, 7], ()), chance=10))
    assert worse.startswith("MF diverged with 2 of 20 seeds, BP with 0 of 20; MF is 1.00")
    better = report.verdict(compared(theirs + 1 + SPREAD, theirs, ((), [3, 7]), chance=10))
    assert better.startswith("MF diverged with 0 of 20 seeds, BP with 2 of 20; MF is 1.00")
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
    import random

    for seed in (2, 5, 6):
        summary["rules"][0]["runs"][seed] = run_of(seed, 0.95, random.Random(0), diverged=True)
    summary["data"]["classes"] = 10
    summary["rules"][0]["published"][0] |= {"value": 95.0, "sd": 0.2, "n": 10}


def test_the_page_says_it_of_accuracy_costs_and_published_numbers(tmp_path):
    text = report.markdown_report([make(tmp_path / "a", edit=diverging)])
    begun = "MF, greedy diverged with 3 of 10 seeds, BP with 0 of 10; "
    assert text.count(begun) >= 3 and "with diverged runs at chance (10 %)" in text
    assert "not reproduced: 3 of 10 runs diverged" in text
