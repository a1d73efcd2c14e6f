"""What a comparison must not forget: runs that diverged, and what its intervals do not cover.

Every simulation has a control: the common mistake, which must show.
"""

import dataclasses
import random
import re

import numpy as np
import pytest
from test_page import make, run_of

from fwdonly import UsageError, report, results
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


def test_an_interval_without_end_is_written_out():
    """From forged files: half of its width is beyond the largest float."""
    found = compared(91 + SPREAD, np.full(20, 90.0))
    endless = dataclasses.replace(found, interval=(-1.7e308, 1.7e308))
    assert re.search(r"interval -1[67]\d{306,}\.00 to 1[67]\d{306,}\.00 over seeds", report.verdict(endless))


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


# --- test images are drawn, too --------------------------------------------------------------------------------------


def predictions(rng, seeds, shared, images=1000, own=0.004):
    """Classes, 0 being right, of two rules of equal accuracy over all seeds and images.

    A ``shared`` part of the images is always right with one of them and wrong with the other, with every seed, and as
    many the other way round; a run's accuracy on the rest varies by ``own``.
    """
    kind = rng.choice(3, images, p=[shared, shared, 1 - 2 * shared])

    def side(mine):
        right = rng.random((seeds, images)) < 0.95 + own * rng.standard_normal((seeds, 1))
        right[:, kind == mine], right[:, kind == 1 - mine] = True, False
        return dict(enumerate((~right).astype(np.uint8)))

    return side(0), side(1), np.zeros(images, np.uint8)


def covered(rng, repeats=300, **world):
    """How often the two-way interval and that over seeds cover 0, and the ratio of their widths."""
    found = []
    for _ in range(repeats):
        drawn = predictions(rng, **world)
        accuracy = [[100 * float((own == drawn[2]).mean()) for own in side.values()] for side in drawn[:2]]
        one = stats.mean_interval((np.array(accuracy[0]) - accuracy[1]).tolist()).interval
        two = stats.two_way(*drawn, resamples=2000).interval
        found.append([two[0] <= 0 <= two[1], one[0] <= 0 <= one[1], (two[1] - two[0]) / (one[1] - one[0])])
    return np.mean(found, axis=0)


@pytest.mark.parametrize("seeds", [5, 10])
def test_the_two_way_interval_covers_other_test_images_and_the_one_over_seeds_does_not(rng, seeds):
    two, one, _ = covered(rng, seeds=seeds, shared=0.03)
    assert 0.91 < two < 0.985 and one < 0.85  # 95 % of 300: 0.95 +- 0.04; 0.78 and 0.61 with the interval over seeds


def test_where_images_share_nothing_over_seeds_both_intervals_are_alike(rng):
    """Chance within a run is in the seeds' part; plain resampling of rows and columns would count it three times."""
    two, one, wider = covered(rng, seeds=10, shared=0.0)
    assert min(two, one) > 0.91 and 0.97 < wider < 1.05
    ours, theirs, labels = predictions(rng, 10, 0.0)
    d = (np.array([*ours.values()]) == labels) * 100.0 - (np.array([*theirs.values()]) == labels) * 100.0
    rows, columns = rng.integers(10, size=(300, 10)), rng.integers(1000, size=(300, 1000))
    plain = [d[np.ix_(row, column)].mean() for row, column in zip(rows, columns, strict=True)]
    found = stats.two_way(ours, theirs, labels)
    assert np.std(plain) > 1.25 * found.sd_seeds > 5 * found.sd_images  # control


def test_two_way_components_are_those_of_a_closed_form():
    """Two images of which each is right with one rule alone, over identical seeds: images are all there is."""
    labels = np.zeros(400, np.uint8)
    ours, theirs = (np.zeros(400, np.uint8) for _ in range(2))
    theirs[:40], ours[40:60] = 1, 1
    found = stats.two_way(dict.fromkeys(range(6), ours), dict.fromkeys(range(6), theirs), labels)
    values = np.repeat([100.0, -100.0, 0.0], [40, 20, 340])
    assert (found.seeds, found.images, found.sd_seeds) == (6, 400, 0) and round(found.mean, 9) == 5
    np.testing.assert_allclose(found.sd_images, values.std(ddof=1) / 20, rtol=1e-3)
    reach = 1.96 * found.sd_images
    np.testing.assert_allclose(found.interval, [5 - reach, 5 + reach], atol=0.15)
    assert stats.two_way({0: ours}, {0: theirs}, labels) is None
    assert found == stats.two_way(dict.fromkeys(range(6), ours), dict.fromkeys(range(6), theirs), labels)


@pytest.mark.parametrize(
    ("ours", "theirs", "fault"),
    [({0: np.zeros(3)}, {1: np.zeros(3)}, "no seed in common"), ({0: np.zeros(3)}, {0: np.zeros(2)}, "one test set")],
)
def test_predictions_that_make_no_pairs_are_refused(ours, theirs, fault):
    with pytest.raises(UsageError, match=fault):
        stats.two_way(ours, theirs, np.zeros(3))


def with_predictions(folder, rng, missing=()):
    """A recorded folder whose accuracies are those of made-up predictions of 1,000 images."""
    ours, theirs, labels = predictions(rng, 10, 0.03)
    runs = {("mf", seed): own for seed, own in ours.items()} | {("bp", seed): own for seed, own in theirs.items()}

    def edit(summary):
        for rule in summary["rules"]:
            for run in rule["runs"]:
                run["test_accuracy"] = float((runs[rule["rule"], run["seed"]] == labels).mean())

    made = make(folder, edit=edit)
    kept = {key: own for key, own in runs.items() if key not in missing}
    results.write_predictions(made / "predictions.npz", results.Predictions(labels, kept))
    return made


def test_the_page_shows_the_interval_over_seeds_and_images_beside_that_over_seeds(tmp_path, rng):
    folder = with_predictions(tmp_path / "a", rng)
    found = report.load(folder).predictions
    assert (found.labels == 0).all() and len(found.runs) == 20
    answer = report.questions(report.load(folder))[0].answer
    assert answer.two_way.images == 1000 and answer.as_json()["two_way"]["images"] == 1000
    for page in (report.markdown_report([folder]), report.html_report([folder])):
        assert len(re.findall(r"\d over seeds and test images", page)) == 1
    partly = report.markdown_report([with_predictions(tmp_path / "b", rng, missing={("bp", 3)})])
    assert not re.search(r"\d over seeds and test images", partly)


def spoilt(content):
    return lambda path: path.write_bytes(content(path.read_bytes()))


@pytest.mark.parametrize(
    "spoil",
    [
        spoilt(lambda whole: whole[: len(whole) // 2]),
        spoilt(lambda whole: b""),
        spoilt(lambda whole: b"no zip"),
        spoilt(lambda whole: whole[:200] + bytes(40) + whole[240:]),
        lambda path: np.savez(path, **{"mf/0": np.zeros(3, np.uint8)}),
        lambda path: np.savez(path, labels=np.zeros(3, np.uint8), mf=np.zeros(3, np.uint8)),
        lambda path: np.savez(path, labels=np.zeros(3, np.uint8), **{"mf/0": np.zeros(2, np.uint8)}),
        lambda path: np.savez(path, labels=np.zeros(3), **{"mf/0": np.zeros(3)}),
        lambda path: np.savez(path, labels=np.zeros(3, np.uint8), **{"mf/0": np.ones(3, np.uint8)}),
    ],
    ids=["cut", "empty", "text", "overwritten", "no labels", "bad name", "lengths", "no classes", "another run's"],
)
def test_damaged_predictions_are_one_line(tmp_path, rng, spoil):
    folder = with_predictions(tmp_path / "a", rng)
    spoil(folder / "predictions.npz")
    with pytest.raises(UsageError, match=r"predictions.npz is damaged") as caught:
        report.load(folder)
    assert "\n" not in str(caught.value)


def test_predictions_come_back_as_they_were_and_leave_no_half_file(tmp_path, rng, monkeypatch):
    many = rng.integers(0, 1000, (2, 50)).astype(np.uint16)
    given = results.Predictions(many[0], {("./my_rule.py", 12): many[1]})
    path = tmp_path / "predictions.npz"
    results.write_predictions(path, given)
    found = results.read_predictions(path)
    assert (found.labels == given.labels).all() and (found.runs["./my_rule.py", 12] == many[1]).all()
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(UsageError, match="No space left"):
        results.write_predictions(path, given._replace(runs={}))
    assert path.read_bytes() == before
