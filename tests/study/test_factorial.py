"""The 2 x 2 of objective and locality finds effects that are known, paired by seed; memory's rival is the best BP."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from fwdonly import report
from fwdonly.report.effects import CELLS, EFFECTS, factorial_blocks
from fwdonly.report.folder import Folder
from fwdonly.report.intervals import holm_levels
from fwdonly.report.memory import memory_sentences
from fwdonly.study import design, protocols, rules

NAMES = dict(zip(CELLS, ("mf-joint-last", "mf-joint", "mf-last", "mf"), strict=True))
OBJECTIVE, LOCALITY, INTERACTION = 2.0, -3.0, 1.5


def folder(accuracies, cells=NAMES, memory=None, settings=None):
    """A folder of rules by name, with test accuracies in percent by seed; None is a run that diverged."""
    summaries = [
        {
            "rule": name,
            "label": name,
            "memory": {"value": (memory or {}).get(name)},
            "runs": [
                {"seed": seed, "diverged": value is None, "test_accuracy": None if value is None else value / 100}
                for seed, value in enumerate(values)
            ],
        }
        for name, values in accuracies.items()
    ]
    config = {"configuration": {"rules": settings or {}}}
    return Folder(Path(), config, {"rules": summaries, "protocol": {"factorial": cells} if cells else None}, [])


def drawn(seeds=12):
    """Cells that share the luck of a seed, which is large, and have little of their own."""
    rng = np.random.default_rng(0)
    luck, own = 90 + rng.normal(size=seeds), 0.1 * rng.normal(size=(4, seeds))
    shifts = np.array([0, OBJECTIVE, LOCALITY, OBJECTIVE + LOCALITY + INTERACTION])
    values = luck + shifts[:, None] + own
    return dict(zip(NAMES.values(), values.tolist(), strict=True))


def test_effects_are_found_and_add_up_to_the_difference():
    values = drawn()
    outcome = report.factorial(folder(values))
    by_name = {effect.name: effect for effect in outcome.effects}
    wanted = {
        "objective, back-propagated": OBJECTIVE,
        "locality, last loss alone": LOCALITY,
        "interaction": INTERACTION,
        "objective, local": OBJECTIVE + INTERACTION,
        "locality, every loss": LOCALITY + INTERACTION,
        "objective, mean of both": OBJECTIVE + INTERACTION / 2,
        "locality, mean of both": LOCALITY + INTERACTION / 2,
    }
    difference = by_name["difference"].mean
    assert abs(difference.mean - sum(list(wanted.values())[:3])) < 0.2
    for name, effect in wanted.items():
        low, high = by_name[name].mean.interval
        # Two standard errors; unpaired, the luck of seeds would make the interval 1.7 wide.
        assert low - 0.1 < effect < high + 0.1 and high - low < 0.5
    for split in (list(wanted)[:3], list(wanted)[-2:], ["objective, back-propagated", "locality, every loss"]):
        assert sum(by_name[name].mean.mean for name in split) == pytest.approx(difference.mean)
    paired = scipy.stats.ttest_rel(values["mf"], values["mf-joint-last"])
    assert difference.interval == pytest.approx(tuple(paired.confidence_interval()))


def test_p_values_are_holms():
    values = drawn(5)
    outcome = report.factorial(folder(values))
    cells = np.array(list(values.values()))
    raw = [scipy.stats.ttest_1samp(np.array(signs) @ cells, 0).pvalue for signs in EFFECTS.values()]
    order = np.argsort(raw)
    wanted = np.empty(8)
    wanted[order] = np.minimum(np.maximum.accumulate(np.array(raw)[order] * np.arange(8, 0, -1)), 1)
    np.testing.assert_allclose([effect.p for effect in outcome.effects], wanted, rtol=1e-9)
    levels = holm_levels([[0.9], [0.011], [None], [0.01]])  # what has no p was asked; 3 x 0.011 is less than 4 x 0.01
    assert levels == [[1.0], [0.04], [None], [0.04]]


def test_the_sentence_claims_nothing_from_few_seeds_and_says_which_are_left_out():
    values = drawn()
    assert "no claim" not in report.factorial_sentence(report.factorial(folder(values)))
    values["mf-last"][3:] = [None] * 9
    outcome = report.factorial(folder(values))
    told = report.factorial_sentence(outcome)
    assert outcome.left_out == 9 and "over 3 seeds; 9 left out; fewer than 10 seeds: no claim" in told
    assert told.startswith("mf minus mf-joint-last: ")
    values["mf-last"] = [None] * 12
    assert report.factorial(folder(values)) is None


def test_a_folder_without_four_cells_has_none():
    assert report.factorial(folder(drawn(), cells=None)) is None and factorial_blocks(folder(drawn(), cells=None)) == []
    three = {name: values for name, values in drawn().items() if name != "mf-last"}
    assert report.factorial(folder(three)) is None
    assert len(factorial_blocks(folder(drawn()))) == 5
    alike = {name: {"learning_rate": 0.001, "losses": name} for name in NAMES.values()}
    assert len(factorial_blocks(folder(drawn(), settings=alike))) == 5
    alike["mf"]["learning_rate"] = 0.002
    warned = factorial_blocks(folder(drawn(), settings=alike))
    assert warned[3].text.endswith("beside the two factors: learning_rate 0.001, 0.001, 0.001, 0.002.")


def arms(*names, **options):
    """Arms of rules; ``options`` of the first one."""
    loaded = [rules.load(name) for name in names]
    every = [design.make_arm(rule, rule.defaults(compared=True)) for rule in loaded]
    every = [dataclasses.replace(arm, about={**arm.about, "tuned": True}) for arm in every]
    return [every[0].changed(options), *every[1:]]


def test_rules_say_which_cell_is_theirs():
    four = ("mf", "mf-joint", "mf-last", "mf-joint-last")
    assert protocols.factorial(arms(*four)) == {cell: NAMES[cell] for cell in protocols.factorial(arms(*four))}
    literal = protocols.factorial(arms("bp", "mf-joint", "bp-frozen", "mf", "mf-last"))
    assert literal == dict(zip(CELLS, ("bp", "mf-joint", "bp-frozen", "mf"), strict=True))  # the first one named
    assert protocols.factorial(arms(*four[:3], "bp-sum", "mf-greedy", "ff")) == {}
    assert protocols.factorial(arms(*four, gradient="joint")) == {}  # what makes a cell are options, not names
    assert protocols.Protocol().record(arms(*four), VALUES)["reference"] == "mf-joint-last"
    assert "factorial" not in protocols.Protocol().record(arms("mf", "bp"), VALUES)


VALUES = {"epochs": 1, "patience": 1, "monitor": "loss", "min_delta": 0.0, "keep": "last", "validate_every": 1}
VALUES |= {"target": None}


def test_the_memory_of_a_rule_stands_beside_the_leanest_form_of_bp():
    runs = {name: [90.0] for name in ("mf", "bp", "bp-chunks", "bp-frozen")}
    memory = {"mf": 304e6, "bp": 926e6, "bp-chunks": 375e6, "bp-frozen": 1e6}
    settings = {"bp-chunks": {"chunks": 16}, "bp-frozen": {"hidden": "frozen"}, "bp": {}, "mf": {}}
    told = memory_sentences(folder(runs, None, memory, settings))
    rival = "bp-chunks, the leanest form of BP here, 375.0 MB."
    assert told == [f"memory: mf takes 304.0 MB a step, {rival}", f"memory: bp-frozen takes 1.0 MB a step, {rival}"]
    del runs["bp-chunks"]
    assert (
        "926.0 MB; no claim: BP takes the same step in less"
        in memory_sentences(folder(runs, None, memory, settings))[0]
    )
    del runs["bp"], runs["bp-frozen"]
    assert memory_sentences(folder(runs, None, memory)) == []
