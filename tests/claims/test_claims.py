"""Claims, their verdicts from files, what pairs can decide, and how often verdicts are wrong on drawn numbers."""

import dataclasses
import importlib.util
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from fwdonly import UsageError, claims
from fwdonly.report import power, stats

scipy_stats = pytest.importorskip("scipy.stats")
statsmodels_power = pytest.importorskip("statsmodels.stats.power")

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def verdicts():
    return claims.judge(ROOT)


@pytest.fixture(scope="module")
def drawn():
    return benchmark("null_verdicts")


def benchmark(name):
    """A script of benchmarks/ as a module."""
    spec = importlib.util.spec_from_file_location(f"{name}_benchmark", ROOT / "benchmarks" / f"{name}.py")
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# The records


def test_there_are_claims_and_few_wait_for_a_gpu(verdicts):
    waiting = [v for v in verdicts.values() if v.word == "not measured" and v.claim.needs == "gpu"]
    assert len(verdicts) >= 24 and len(waiting) <= 6
    accuracy = [c for c in claims.all_claims().values() if c.family == "mf-accuracy"]
    assert len(accuracy) == 12 and {(c.dataset, c.protocol) for c in accuracy} == {
        (data, protocol)
        for data in ("mnist", "fashion_mnist", "cifar10", "cifar100")
        for protocol in ("as published", "own-convergence", "matched-passes")
    }


@pytest.mark.parametrize("claim", claims.all_claims().values(), ids=claims.all_claims())
def test_a_claim_says_what_decides_it_and_who_says_it(claim):
    assert claim.sentence.endswith(".") and claim.source and claim.sd_source and claim.traps
    assert claim.margin > 0 and claim.seeds >= 1 and claim.looks >= 1 and set(claim.minutes) == {"cpu", "gpu"}
    assert bool(claim.command) != bool(claim.how) and claim.kind in ("more", "less", "equal", "value")
    assert claim.kind != "value" or claim.published is not None
    assert claim.needs in ("", "gpu") and len(claim.id) <= 24


def test_files_of_claims_say_with_what_they_were_made(verdicts):
    for verdict in verdicts.values():
        for line in verdict.evidence.sources if verdict.evidence else ():
            assert "commit" in line and "jax" in line and "Python" in line and "None" not in line, line


def test_the_page_and_its_figures_are_what_the_files_give(verdicts):
    wanted = claims.files(verdicts)
    assert claims.differing(ROOT, wanted) == [], "run: fwdonly claims --write"
    changed = wanted | {"RESULTS.md": wanted["RESULTS.md"].replace("refuted", "confirmed")}
    assert claims.differing(ROOT, changed) == ["RESULTS.md"]
    shown = {place for place in wanted if place.endswith(".svg")}
    assert {f"docs/pictures/claims/{name}.svg" for name, v in verdicts.items() if v.answer} == shown


# Verdicts of planted files


def summary(path, sides, *, data="mnist", digest="a", **of_rules):
    """A result file with these values of test accuracy by rule; seeds count from 0."""
    runs = lambda values: [
        {"seed": seed, "test_accuracy": value, "diverged": False, "train_seconds": 40.0, "machine": "one"}
        for seed, value in enumerate(values)
    ]
    environment = {"python": "3", "packages": {"jax": "1"}, "cpu": "c", "cores": 2, "device": "cpu", "git_commit": "c"}
    rules = [{"rule": rule, "runs": runs(values)} | of_rules for rule, values in sides.items()]
    content = {"data": {"name": data, "digest": digest}, "rules": rules, "environment": environment}
    path.write_text(json.dumps(content))
    return path.name


def planted(folder, mf, bp, kind="more", **changes):
    """The verdict of one claim whose file has these accuracies in %."""
    name = summary(folder / "file.json", {"mf": [a / 100 for a in mf], "bp": [b / 100 for b in bp]})
    sides = {"ours": claims.Side("mf", (name,)), "theirs": claims.Side("bp", (name,))}
    claim = dataclasses.replace(claims.find("mf-mnist-own"), kind=kind, **{"looks": 1} | sides | changes)
    return claims.judge(folder, [claim])[claim.id]


SPREAD = np.array([0.1, -0.1] * 5)
"""Ten differences around 0; their mean has the standard error 0.0333, and a t of 2.26 is the 5 % bound."""


@pytest.mark.parametrize(
    ("shift", "kind", "word"),
    [
        (0.3, "more", "confirmed"),
        (0.3, "less", "refuted"),
        (0.3, "equal", "not decided"),
        (0.4, "equal", "refuted"),
        (0.0, "more", "refuted"),
        (0.1, "more", "refuted"),
        (0.1, "equal", "confirmed"),
        (0.0, "equal", "confirmed"),
        (-0.3, "more", "refuted"),
        (-0.3, "less", "confirmed"),
    ],
)
def test_words_of_ten_pairs(tmp_path, shift, kind, word):
    verdict = planted(tmp_path, 98 + shift + SPREAD, np.full(10, 98.0), kind)
    assert (verdict.word, verdict.n) == (word, 10)


def test_nothing_is_decided_between_or_by_nine_pairs_and_missing_ones_are_told(tmp_path):
    wide = planted(tmp_path, 98 + 0.2 + 5 * SPREAD, np.full(10, 98.0))
    assert wide.word == "not decided" and wide.more is not None and wide.more >= 1
    nine = planted(tmp_path, 99 + SPREAD[:9], np.full(9, 98.0))
    assert (nine.word, nine.more, nine.text) == ("not decided", 1, "not decided (9 seeds; 1 more needed)")
    assert planted(tmp_path, 99 + SPREAD, np.full(10, 98.0)).word == "confirmed"


def test_of_two_looks_each_has_half_of_the_level(tmp_path):
    """t = 2.4 of nine degrees: p = 0.04 is enough for one look, and not for one of two."""
    values = 98.8 + 10 * SPREAD
    once = planted(tmp_path, values, np.full(10, 98.0))
    assert once.word == "confirmed" and 0.025 < once.answer.p < 0.05
    assert planted(tmp_path, values, np.full(10, 98.0), looks=2).word == "not decided"


def test_a_value_is_reproduced_refuted_or_left_open(tmp_path):
    known = claims.find("foton-mnist").published
    for values, word in (
        ([98.3, 98.3, 98.4], "confirmed"),
        ([97.1, 97.2, 97.1], "refuted"),
        ([98.3, 98.3], "not decided"),
        ([97.0, 98.4, 99.5], "not decided"),
    ):
        verdict = planted(tmp_path, values, values, "value", theirs=None, published=known, margin=0.5)
        assert verdict.word == word, values


def test_equality_is_refuted_by_a_test_of_its_own_which_holm_corrects(tmp_path):
    """The mean is 0.1 beyond the margin, t = 3.0 of nine degrees: p = 0.015 alone, and 0.18 as the first of twelve."""
    alone = planted(tmp_path, 98.35 + SPREAD, np.full(10, 98.0), "equal")
    assert alone.word == "refuted"
    beyond = scipy_stats.ttest_1samp(98.35 + SPREAD - 98, 0.25, alternative="greater").pvalue
    empty = dataclasses.replace(alone.claim, ours=claims.Side("mf"), theirs=claims.Side("bp"))
    family = claims.judge(tmp_path, [alone.claim, *(dataclasses.replace(empty, id=str(i)) for i in range(11))])
    judged = family[alone.claim.id]
    assert judged.word == "not decided" and judged.answer.p_holm == pytest.approx(12 * 2 * beyond)
    assert judged.answer.p == alone.answer.p < 1e-5, "the p of a difference stays what it is"
    assert "not decided with 10 seeds" in claims.sentence(judged) and "0.350 points more" in claims.sentence(alone)
    more = claims.corrected([dataclasses.replace(empty, kind="more")] * 2, [alone.answer, None])
    assert more[0].p_holm == pytest.approx(2 * alone.answer.p), "control: of another kind it is that of a difference"


@pytest.mark.parametrize(("logarithm", "side"), [(0.09, "greater"), (-0.09, "less"), (0.02, None)])
def test_beyond_a_margin_of_ratios_is_tested_in_logarithms(logarithm, side):
    """The margin of 5 % is log 1.05 either way, so that exchanging the rules changes nothing."""
    logs = logarithm + SPREAD / 5
    ours = dict(enumerate(np.exp(logs)))
    question = stats.paired("time", ours, dict.fromkeys(ours, 1.0), relative=True, margin=5.0, resamples=2)
    end = np.log(1.05) if logarithm > 0 else -np.log(1.05)
    one_sided = scipy_stats.ttest_1samp(logs, end, alternative=side or "greater").pvalue
    assert stats.beyond_margin(question).p == pytest.approx(min(1.0, 2 * one_sided))
    outside = question.interval[0] > 5 or question.interval[1] < -100 / 21
    assert outside == (stats.beyond_margin(question).p < 0.05) == (side is not None)


def test_runs_that_decide_nothing_are_asked_and_not_measured(tmp_path):
    """An untuned claim of a sure difference within the margin would leave the other one of two alone with its own p."""
    strong = planted(tmp_path, 99 + SPREAD, np.full(10, 98.0))
    names = {}
    for name, shift, changes in (("weak", 0.1, {"tuned": False}), ("fair", 0.3, {})):
        spread = SPREAD / 10 if changes else 3.2 * SPREAD
        sides = {"mf": (98 + shift + spread) / 100, "bp": [0.98] * 10}
        names[name] = (summary(tmp_path / f"{name}.json", {k: list(v) for k, v in sides.items()}, **changes),)
    both = [
        dataclasses.replace(strong.claim, id=name, ours=claims.Side("mf", file), theirs=claims.Side("bp", file))
        for name, file in names.items()
    ]
    weak, fair = claims.judge(tmp_path, both).values()
    assert (weak.word, weak.answer.p_holm) == ("not decided", None)
    assert claims.sentence(weak).endswith("; no claim: mf was not tuned, bp was not tuned")
    assert fair.answer.p_holm == pytest.approx(2 * fair.answer.p), "the weak one counts"
    known = claims.corrected(both, [weak.answer, fair.answer])
    assert known[1].p_holm == pytest.approx(fair.answer.p), "control: it would not, if it were measured"
    few = dataclasses.replace(both[1], margin=0.01)
    judged = claims.judge(tmp_path, [both[0], dataclasses.replace(few, looks=2, id="few")])["few"]
    assert judged.more == claims.missing_pairs(judged.claim, judged.answer, 0.025 / 2), "each has half of the level"


def test_missing_pairs_of_equality_are_those_that_show_what_is_beyond_the_margin(tmp_path):
    wide = planted(tmp_path, 98.35 + 4 * SPREAD, np.full(10, 98.0), "equal")
    effect = 0.1 / wide.answer.sd
    powers = [
        statsmodels_power.TTestPower().power(effect, 10 + wide.more - less, 0.05, alternative="two-sided")
        for less in (0, 1)
    ]
    assert wide.word == "not decided" and powers[0] >= 0.8 > powers[1]
    value = claims.missing_pairs(dataclasses.replace(wide.claim, kind="more"), wide.answer, 0.05)
    assert value < wide.more, "control: a difference from 0 takes fewer"


def test_where_runs_diverged_unequally_no_seeds_are_promised(tmp_path):
    name = planted(tmp_path, 98 + 0.3 + 5 * SPREAD, np.full(10, 98.0)).claim.ours.files[0]
    words = {}
    for lost in (("mf",), ("mf", "bp")):
        content = json.loads((tmp_path / name).read_text())
        for rule in content["rules"]:
            rule["runs"][9]["diverged"] = rule["rule"] in lost
            for run in rule["runs"][:9]:
                run["diverged"] = False
        (tmp_path / name).write_text(json.dumps(content))
        claim = dataclasses.replace(claims.find("mf-mnist-own"), ours=claims.Side("mf", (name,)))
        claim = dataclasses.replace(claim, theirs=claims.Side("bp", (name,)))
        words[len(lost)] = claims.judge(tmp_path, [claim])[claim.id]
    assert words[1].text == "not decided (9 seeds): runs diverged" and words[1].more is None
    assert words[2].more is not None and "needed" in words[2].text, "control: one of each"
    values = {seed: 98.0 + 0.5 + 0.01 * seed for seed in range(10)}
    question = stats.paired(
        "accuracy", values, dict.fromkeys(values, 98.0), relative=False, margin=9.0, diverged=((9,), ())
    )
    median = claims.by_median(question)
    assert (median.p, median.equivalence_p) == (1.0, 1.0), "the survivors of the rule that diverged speak for it"
    equal = dataclasses.replace(question, diverged=(1, 1))
    assert claims.by_median(equal).p == claims.by_median(equal).equivalence_p * 2 == 2 / 2**9


def test_a_family_is_corrected_and_claims_without_files_count(tmp_path):
    """p is 0.02 alone (t = 2.8 of nine degrees); with eleven claims that nobody has measured it is 0.2."""
    alone = planted(tmp_path, 98.3 + 3.2 * SPREAD, np.full(10, 98.0))
    assert alone.word == "confirmed" and 0.01 < alone.answer.p < 0.03
    empty = dataclasses.replace(alone.claim, ours=claims.Side("mf"), theirs=claims.Side("bp"))
    others = [dataclasses.replace(empty, id=str(i)) for i in range(11)]
    family = claims.judge(tmp_path, [alone.claim, *others])
    assert family[alone.claim.id].word == "not decided" and family["0"].word == "not measured"
    assert family[alone.claim.id].answer.p_holm == pytest.approx(12 * alone.answer.p)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("data", "holds runs on mnist5k"),
        ("digest", "different data"),
        ("twice", "two files"),
        ("gone", "cannot be read"),
        ("network", "different networks: MLP 1000, MLP 500"),
        ("protocol", "has the protocol matched-passes, and mf-mnist-own is about own-convergence"),
        ("seed", "b.json has the seed '3' of bp, and a seed is a whole number"),
        ("measure", "b.json does not say test_accuracy of seed 3"),
    ],
)
def test_files_of_other_data_and_doubled_seeds_are_refused(tmp_path, fault, words):
    values = {"mf": [0.98] * 10, "bp": [0.97] * 10}
    names = (summary(tmp_path / "a.json", values), summary(tmp_path / "b.json", values))
    if fault == "data":
        summary(tmp_path / "a.json", values, data="mnist5k")
    if fault == "digest":
        summary(tmp_path / "b.json", values, digest="b")
    if fault in ("network", "protocol", "seed", "measure"):
        content = json.loads((tmp_path / "b.json").read_text())
        content["protocol"] = {"name": "matched-passes" if fault == "protocol" else "own-convergence"}
        content["rules"][1]["network"] = "MLP 500" if fault == "network" else "MLP 1000"
        run = content["rules"][1]["runs"][3]
        run["seed"] = "3" if fault == "seed" else 3
        if fault == "measure":
            del run["test_accuracy"]
        (tmp_path / "b.json").write_text(json.dumps(content))
        summary(tmp_path / "a.json", values, network="MLP 1000")
    if fault == "gone":
        (tmp_path / "b.json").unlink()
    ours = names if fault == "twice" else names[:1]
    claim = claims.find("mf-mnist-own")
    claim = dataclasses.replace(claim, ours=claims.Side("mf", ours), theirs=claims.Side("bp", names[1:]))
    with pytest.raises(UsageError, match=words):
        claims.judge(tmp_path, [claim])


def test_a_value_that_is_not_known_is_no_miss(tmp_path):
    """Of two runs that reached the target one has no seconds: it is left out, and only the third is a miss."""
    name = summary(tmp_path / "a.json", {"mf": [0.9] * 3, "bp": [0.9] * 3})
    content = json.loads((tmp_path / name).read_text())
    for rule in content["rules"]:
        for run, seconds in zip(rule["runs"], (40.0, None, None), strict=True):
            run |= {"target_epoch": None if run["seed"] == 2 else 5, "target_seconds": seconds, "train_seconds": 40.0}
    (tmp_path / name).write_text(json.dumps(content))
    sides = {"ours": claims.Side("mf", (name,)), "theirs": claims.Side("bp", (name,))}
    claim = dataclasses.replace(claims.find("mf-mnist-own"), measure="target_seconds", **sides)
    answer = claims.answer(claim, claims.gather(claim, tmp_path))
    assert (answer.seeds, answer.reached) == ((0, 2), (1, 1))


@pytest.mark.parametrize(
    ("values", "kind", "word"),
    [
        ([96.0], "less", "refuted"),
        ([95.2], "equal", "refuted"),
        ([104.9], "equal", "confirmed"),
        ([80.0], "less", "confirmed"),
        ([float("nan")], "less", None),
        ([0.0], "less", None),
        ([-1.0], "less", None),
        ([float("inf")], "less", None),
        ([None], "less", None),
        ([80.0, 120.0], "less", None),
    ],
)
def test_a_computed_number_is_one_above_0(tmp_path, values, kind, word):
    """5 % more is 4.76 % less the other way round: 95.2 against 100 lies outside of the margin."""
    environment = {"python": "3", "packages": {}, "cpu": "c", "cores": 2, "device": "cpu", "git_commit": "c"}
    rows = [{"rule": "mf", "mb": value} for value in values] + [{"rule": "bp", "mb": 100.0}]
    (tmp_path / "m.json").write_text(json.dumps({"memory": rows, "environment": environment}))
    sides = [
        claims.Side(rule, ("m.json",), {"list": "memory", "where": {"rule": rule}, "value": "mb"})
        for rule in ("mf", "bp")
    ]
    claim = dataclasses.replace(claims.find("mf-memory-naive"), kind=kind, ours=sides[0], theirs=sides[1], needs="")
    if word is None:
        with pytest.raises(UsageError, match="compares one number above 0 with another, and mf has"):
            claims.judge(tmp_path, [claim])
    else:
        assert claims.judge(tmp_path, [claim])[claim.id].word == word


@pytest.mark.parametrize(
    ("measure", "change", "words"),
    [
        ("test_accuracy", {"tuned": False}, "was not tuned"),
        ("train_seconds", {}, ""),
        ("train_seconds", {"runs": "together"}, "trained together"),
        ("train_seconds", {"runs": "short"}, "under 30 s"),
        ("train_seconds", {"runs": "elsewhere"}, "different machines"),
    ],
)
def test_runs_that_cannot_decide_say_why(tmp_path, measure, change, words):
    path = tmp_path / "a.json"
    name = summary(path, {"mf": 0.98 + SPREAD / 100, "bp": [0.97] * 10}, **{"tuned": change.get("tuned")})
    content = json.loads(path.read_text())
    for at, run in enumerate(content["rules"][0]["runs"]):
        run["train_seconds"] = {"together": None, "short": 20.0}.get(change.get("runs"), 60.0 + at)
        run["machine"] = "two" if change.get("runs") == "elsewhere" else "one"
    path.write_text(json.dumps(content))
    sides = {"ours": claims.Side("mf", (name,)), "theirs": claims.Side("bp", (name,))}
    claim = dataclasses.replace(claims.find("mf-mnist-own"), measure=measure, **sides)
    verdict = claims.judge(tmp_path, [claim])[claim.id]
    assert words in verdict.why and (verdict.word == "not decided") == bool(words)


def test_medians_go_by_sign_tests():
    """Ten of ten differences above 0: p = 2 / 2^10; nine of ten below the margin: p = 11 / 2^10."""
    values = dict(enumerate([0.1] * 9 + [3.0]))
    question = stats.paired(
        "accuracy", {s: 90 + v for s, v in values.items()}, dict.fromkeys(values, 90.0), relative=False, margin=0.25
    )
    median = claims.by_median(question)
    assert (median.p, median.equivalence_p) == (pytest.approx(2 / 2**10), pytest.approx(11 / 2**10))
    assert median.mean == pytest.approx(0.1)
    even = dataclasses.replace(question, each=(-0.3,) * 5 + (0.1,) * 5)
    assert claims.by_median(even).mean == pytest.approx(-0.1), "the middle of both, and not the larger one"
    far = dataclasses.replace(question, each=(0.3,) * 10)
    assert claims.by_median(far, beyond=True).p == pytest.approx(2 / 2**10)
    assert claims.by_median(question, beyond=True).p == 1.0, "control: one of ten is beyond"


def test_what_is_not_corrected_says_so_and_a_value_has_no_family(tmp_path):
    judged = planted(tmp_path, 98.1 + SPREAD, np.full(10, 98.0), "equal")
    names = [name for name, _ in claims.sensitivity(judged.claim, judged.evidence)]
    assert len(names) == 4 and all("without Holm" in name for name in names)
    value = dataclasses.replace(judged.claim, kind="value", theirs=None, published=claims.find("foton-mnist").published)
    words = claims.sensitivity(value, claims.gather(value, tmp_path))
    assert [name for name, _ in words] == ["half the margin", "twice the margin"]


@pytest.mark.parametrize(
    ("n", "looks", "words"),
    [
        (9, 2, "2, each at the level 0.025"),
        (10, 2, "2, each at the level 0.025; 10 seeds are the first one"),
        (15, 2, "2, each at the level 0.025; 15 seeds are the second and last one"),
        (10, 1, "1, at the level 0.05; 10 seeds are the only one"),
    ],
)
def test_the_page_says_which_look_the_runs_are(tmp_path, n, looks, words):
    judged = planted(tmp_path, 98.1 + 5 * np.resize(SPREAD, n), np.full(n, 98.0), looks=looks)
    assert dict(claims.facts(judged))["looks"] == words
    assert ("its last look" in judged.text) == ("last" in words or "only" in words)
    section = claims.files({judged.claim.id: judged})["RESULTS.md"]
    assert f"* looks: {words}\n" in section


def test_the_figure_shades_what_the_tests_take_for_the_margin(tmp_path):
    """Of ratios: 4.76 % below, 5 % above."""
    name = summary(tmp_path / "a.json", {"mf": [0.9] * 10, "bp": [0.9] * 10})
    content = json.loads((tmp_path / name).read_text())
    for at, run in enumerate(content["rules"][0]["runs"]):
        run["train_seconds"] = 40.0 + 0.1 * at
    (tmp_path / name).write_text(json.dumps(content))
    sides = {"ours": claims.Side("mf", (name,)), "theirs": claims.Side("bp", (name,))}
    claim = dataclasses.replace(claims.find("mf-mnist-own"), measure="train_seconds", margin=5.0, **sides)
    drawn = claims.files(claims.judge(tmp_path, [claim]))[f"docs/pictures/claims/{claim.id}.svg"]
    left, width = map(float, re.search(r'<rect x="([\d.]+)" y="\d+" width="([\d.]+)"', drawn).groups())
    centre = float(re.search(r'd="M([\d.]+) \d+V\d+" stroke="#\w+" stroke-dasharray', drawn).group(1))
    assert (left + width - centre) / (centre - left) == pytest.approx(1.05, abs=0.002)


# What pairs can decide


@pytest.mark.parametrize(("n", "level"), [(3, 0.05), (10, 0.05), (20, 0.025)])
def test_the_smallest_difference_is_that_of_statsmodels(n, level):
    ours = power.smallest_difference(n, 0.5, level=level)
    effect = statsmodels_power.TTestPower().solve_power(nobs=n, alpha=level, power=0.8, alternative="two-sided")
    assert ours == pytest.approx(0.5 * effect, rel=1e-4)
    assert power.pairs_for_difference(ours * 1.001, 0.5, level=level) == n
    assert power.pairs_for_difference(ours * 0.999, 0.5, level=level) == n + 1


@pytest.mark.parametrize(("n", "shift"), [(5, 0.0), (10, 0.1), (10, 0.25)])
def test_the_power_of_equivalence_is_that_of_drawn_differences(n, shift):
    draws = np.random.default_rng(0).normal(shift, 0.25, (20_000, n))
    error = draws.std(axis=1, ddof=1) / n**0.5
    bound = scipy_stats.t.ppf(0.95, n - 1)
    share = np.mean(np.abs(draws.mean(axis=1)) + bound * error < 0.25)
    assert power.of_equivalence(n, 0.25, shift, 0.25) == pytest.approx(share, abs=4 * 0.5 / 20_000**0.5)
    least = power.pairs_for_equivalence(0.25, 0.0, 0.25)
    assert power.of_equivalence(least, 0.25, 0.0, 0.25) >= 0.8 > power.of_equivalence(least - 1, 0.25, 0.0, 0.25)
    assert power.pairs_for_equivalence(0.25, 0.25, 0.1) is None


def test_what_fewer_than_ten_planned_seeds_decide_is_not_told_as_power():
    ten = dataclasses.replace(claims.find("mf-mnist-own"), family="none", looks=1)
    few = dataclasses.replace(ten, seeds=3)
    of = lambda claim: dict(claims.facts(claims.Verdict(claim, "not measured")))["seeds"]
    assert of(ten).startswith("10 planned; with 80 % power they show")
    least = power.smallest_difference(10, ten.sd)
    assert of(few).startswith(
        f"3 planned, and fewer than 10 decide nothing; with 80 % power 10 show {least:.2g} points"
    )
    assert claims.planned(dataclasses.replace(ten, kind="equal")) == pytest.approx(least + ten.margin)


# Drawn numbers, small; benchmarks/null_verdicts.py has the whole


@pytest.mark.parametrize(
    "case",
    [
        "difference, no difference",
        "equivalence, differ by the margin",
        "order of costs, no difference",
        "to target, a fifth misses, no difference",
        "value reproduced, half a point off",
    ],
)
def test_verdicts_on_nothing_are_rare(drawn, case):
    row = drawn.rates(case, 100, (3, 10))
    most = scipy_stats.binom.ppf(0.9999, 100, 0.05) / 100
    assert all(rate <= most for rate in row["rates"].values()), row


def test_mistakes_show_in_drawn_numbers(drawn):
    """Twelve claims that nobody corrects: any errs in 1 - 0.95^12 = 0.46 of the families, where each errs in 5 %.

    Equality at the margin is refuted in 2.5 % on one side: 1 - 0.975^12 = 0.26.
    """
    rates = [drawn.rates(name, 60, (10,))["rates"]["10"] for name in drawn.CASES if "twelve" in name]
    assert rates[0] < 0.12 < rates[1] and rates[2] < 0.12 < rates[3], rates


def test_a_committed_simulation_keeps_its_rates(drawn):
    rows = json.loads((ROOT / "benchmarks/results/null-verdicts.json").read_text())["rows"]
    assert [row["case"] for row in rows] == list(drawn.CASES)
    for row in rows:
        if row["nominal"] is not None:
            most = scipy_stats.binom.ppf(0.9999, row["draws"], row["nominal"]) / row["draws"]
            assert max(row["rates"].values()) <= most, row["case"]


@pytest.mark.parametrize("name", ["null_verdicts", "null_energy"])
def test_the_page_on_statistics_has_the_tables_of_the_files(name):
    content = json.loads((ROOT / f"benchmarks/results/{name.replace('_', '-')}.json").read_text())
    assert benchmark(name).table(content) in (ROOT / "docs/method/statistics.md").read_text()


def test_a_drift_falls_out_of_turns_and_not_out_of_blocks():
    """Power rises from 300 W by 30 W / 5 over four pairs: half of that lies between the middles of two blocks."""
    energy = benchmark("null_energy")
    quiet = ("drift of 30 W over the session", "control: drift, one rule after the other")
    means = {}
    for name in quiet:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(energy, "NOISE", 0.0)
            joules = energy.session(np.random.default_rng(0), energy.SCENES[name], 0.0, 4)
        means[name] = np.mean(list(joules[1].values())) / np.mean(list(joules[0].values())) - 1
    turns, blocks = means.values()
    assert abs(turns) < 0.001 and blocks > 0.005


# The commands


def test_the_list_fits_80_columns_and_names_every_claim(command, verdicts):
    code, out, _ = command("claims")
    lines = out.splitlines()
    assert code == 0 and max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines[: len(verdicts)]] == list(verdicts)


def test_a_claim_is_shown_in_full_and_an_unknown_one_refused(command):
    code, out, _ = command("claims", "mf-mnist-matched")
    assert code == 0
    for words in ("arXiv 2509.19063", "margin 0.25 points", "80 % power", "fwdonly train mf", "commit", "Holm"):
        assert words in " ".join(out.split()), words
    code, _, error = command("claims", "mf-mars")
    assert code == 2 and error.startswith("error: there is no claim 'mf-mars'")


def test_a_result_folder_is_taken_without_what_it_says_of_one_machine(command, tmp_path):
    folder, root = tmp_path / "run", tmp_path / "root"
    folder.mkdir()
    (root / "experiments/results").mkdir(parents=True)
    summary(folder / "summary.json", {"mf": [0.98, 0.97], "bp": [0.97]}, finished=False)
    line = "/opt/bin/python -m fwdonly train mf --seeds 2 --data-dir /secret/d --output-dir=/secret/o --resume"
    (folder / "config.json").write_text(json.dumps({"command": line}))
    assert command("claims", "--take", folder, "--name", "new", "--root", root)[0] == 0
    content = json.loads((root / "experiments/results/new.json").read_text())
    assert content["command"] == "fwdonly train mf --seeds 2"
    assert [len(rule["runs"]) for rule in content["rules"]] == [1, 1], "a seed that one rule lacks is left out"
    assert command("claims", "--take", folder, "--name", "new", "--root", root)[0] == 2


def test_a_claims_command_is_shown_and_is_a_study(command):
    code, out, _ = command("reproduce", "--claim", "mf-mnist-simultaneous", "--list", "--seeds", "3")
    assert code == 0 and "fwdonly train mf --against bp --dataset mnist --seeds 3" in out
    assert command("reproduce", "--claim", "mf-memory-naive", "--list")[0] == 2
    assert command("reproduce", "mf-2025", "--claim", "mf-mnist-own", "--list")[0] == 2
    code, _, error = command("reproduce", "--claim", "mf-mnist-own", "--margin", "1", "--list")
    assert code == 2 and "that of a claim stands in its record" in error


@pytest.mark.parametrize("name", [c.id for c in claims.all_claims().values() if c.command])
def test_every_command_of_a_claim_trains_its_arms_on_its_data(name, tmp_path):
    from fwdonly.cli import of_claim

    claim = claims.find(name)
    for at, search in enumerate(claim.searches, start=1):
        (tmp_path / search).mkdir()
        best = {"rule": search.rpartition("-")[2], "values": {"learning_rate": 0.01 * at}}
        (tmp_path / search / "best.json").write_text(json.dumps(best))
    study = of_claim.study_of(claim, 2, 0, None, Path("nowhere"), tuned=tmp_path if claim.searches else None)
    wanted = {claim.ours.rule} | ({claim.theirs.rule} if claim.theirs else set())
    assert wanted <= {arm.name for arm in study.arms} and study.data.dataset == claim.dataset
    assert all(arm.about.get("tuned", True) for arm in study.arms), "runs of an arm without settings decide nothing"
    if claim.searches:
        assert [arm.optimizer.learning_rate for arm in study.arms] == [0.01, 0.02]


def test_a_claim_is_run_and_continued(command, tmp_path):
    words = ("reproduce", "--claim", "foton-linear", "--quick", "--seeds", "1", "--output-dir", tmp_path / "o")
    code, out, error = command(*words)
    assert code == 0 and "shows nothing but that it runs" in out, error
    before = (tmp_path / "o/summary.json").read_text()
    assert command(*words)[0] == 0 and (tmp_path / "o/summary.json").read_text() == before
    assert command(*words[:2], "mf-mnist-own", *words[3:])[0] == 2, "the folder holds another run"
