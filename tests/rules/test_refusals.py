"""What every rule refuses in one line: states and optimizers that are not its, options that do nothing, other sizes.

Nothing is computed: shapes are enough to refuse.
"""

import difflib
import functools
import inspect
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import pytest

from fwdonly import RULES, Batch, UsageError, nets
from fwdonly.options import Unless, check_effects, chosen, effective, needs
from fwdonly.study.design import make_arm
from fwdonly.study.rules import load

pytestmark = pytest.mark.filterwarnings("ignore::fwdonly.foton.ExpansionWarning")
KEY = jax.eval_shape(lambda: jax.random.key(0))
NET, CONVOLUTIONS = nets.mlp([8, 8]), nets.cnn([4, 4], pool="none")
NO_STATE = "state is what the rule's init or update returned; got "
OTHER_OPTIMIZER = "opt_state is that of another optimizer; pass the state of a rule with this one"
OTHER_LAYERS = "the state has another number of layers than the network; pass the state of this rule and network"


def batch(*shape):
    return Batch(jax.ShapeDtypeStruct((8, *shape), jnp.float32), jax.ShapeDtypeStruct((8,), jnp.int32))


ROWS = batch(8)


SGD, ADAM = optax.sgd(0.1), optax.adam(0.1)


def rule_of(name, net=NET, tx=SGD, **options):
    return RULES[name].rule(net, tx, num_classes=4, **options)


@functools.cache
def started(name, tx=SGD):
    """A rule and its first state."""
    rule = rule_of(name, tx=tx)
    return rule, start(rule)


def start(rule, x=ROWS.x):
    return jax.eval_shape(rule.init, KEY, x)


def line(call, *args):
    with pytest.raises(UsageError) as refused:
        jax.eval_shape(call, *args)
    words = str(refused.value).splitlines()[0]  # JAX adds its advice on tracebacks
    assert len(words) < 300
    return words


@pytest.mark.parametrize("name", RULES)
def test_states_that_are_not_the_rules_are_refused(name):
    other = "bp" if name != "bp" else "mf"
    (rule, state), (_, foreign) = started(name), started(other)
    assert line(rule.update, None, ROWS, KEY) == f"{NO_STATE}a NoneType"
    assert line(rule.update, foreign, ROWS, KEY) == f"{NO_STATE}a State of fwdonly.{other}"
    assert line(rule.update, state._asdict(), ROWS, KEY) == f"{NO_STATE}a dict"
    assert line(rule.grads, None, ROWS, KEY) == f"{NO_STATE[:-4]}a NoneType has no params"
    assert line(rule_of(name, nets.mlp([8])).update, state, ROWS, KEY) == OTHER_LAYERS
    assert jax.eval_shape(rule.update, state, ROWS, KEY)[0] == state  # control


@pytest.mark.parametrize("name", ["bp", "mf"])  # one optimizer, and one per layer
def test_states_of_another_optimizer_are_refused(name):
    """optax.sgd would take Adam's state in silence."""
    (adam, state), (sgd, plain) = started(name, ADAM), started(name)
    assert line(sgd.update, state, ROWS, KEY) == OTHER_OPTIMIZER
    assert line(adam.update, plain, ROWS, KEY) == OTHER_OPTIMIZER
    renewed = rule_of(name, tx=optax.adam(0.2))  # a control: another rate is the same optimizer
    assert jax.tree.structure(jax.eval_shape(renewed.update, state, ROWS, KEY)[0]) == jax.tree.structure(state)


@pytest.mark.parametrize("name", ["bp", "mf", "ff", "cafo", "cwc", "phyll", "forward_gradient"])
def test_predictions_from_another_rules_state_are_refused(name):
    other = "bp" if name != "bp" else "mf"
    words = line(started(name)[0].predict, started(other)[1], ROWS.x)
    assert words in (f"{NO_STATE}a State of fwdonly.{other}", OTHER_LAYERS)


@pytest.mark.parametrize("name", RULES)
def test_an_unknown_option_names_the_nearest_one(name):
    declared = {**inspect.signature(RULES[name].rule).parameters, **RULES[name].CARD.options[0].__annotations__}
    option = max(RULES[name].CARD.options[0].__annotations__, key=len)
    with pytest.raises(UsageError, match=rf"has no option '{option}s'; did you mean '{option}'\?$"):
        rule_of(name, **{f"{option}s": 1})
    with pytest.raises(UsageError, match=r"has no option 'qqq'; its options are \w+, "):
        rule_of(name, qqq=1)
    keyword = next(iter(inspect.signature(RULES[name].rule).parameters.keys() - {"net", "tx", "form", "options"}))
    near = difflib.get_close_matches(f"{keyword}_", declared, n=1)
    with pytest.raises(UsageError, match=rf"did you mean '{near[0]}'\?$"):
        rule_of(name, **{f"{keyword}_": 1})


# ---------------------------------------------------------------------------------------------------------------------
# Options that do nothing


class Idle(NamedTuple):
    """An option at a value of its own, others with which it does nothing, and others with which it does something."""

    rule: str
    option: str
    value: Any
    without: dict[str, Any]
    having: dict[str, Any]


PAIRS, LOGISTIC, MIRRORED, MIRROR = {"loss": "symba"}, {"loss": "logistic"}, {"feedback": "mirrored"}, {"mode": "wm"}
CASES = [
    Idle("ff", "threshold", 2.0, PAIRS, LOGISTIC),
    Idle("ff", "temperature", 2.0, PAIRS, LOGISTIC),
    Idle("ff", "alpha", 4.0, LOGISTIC, {"loss": "swish"}),
    Idle("ff", "peer_momentum", 0.5, PAIRS, LOGISTIC),
    Idle("bp", "auxiliary_weight", 0.5, {}, {"readouts": "deep"}),
    Idle("mf", "auxiliary_weight", 0.5, {}, {"gradient": "joint"}),
    Idle("mf", "auxiliary_weight", 0.5, {"gradient": "joint", "losses": "last"}, {"gradient": "joint"}),
    Idle("cafo", "ridge", 0.1, {}, {"loss": "mse"}),
    Idle("pepita", "presynaptic", "clean", {"form": "hebbian"}, {}),
    Idle("pepita", "output_error", "first", {"form": "time_local"}, {}),
    *(Idle("pepita", f"mirror_{name}", 3, {}, MIRRORED) for name in ("rate", "decay", "noise", "every")),
    Idle("foton", "temperature", 2.0, {"error": "mse"}, {}),
    Idle("foton", "perturbation", 0.5, {"jvp": True}, {}),
    Idle("feedback", "feedback_law", "xavier", {}, {"mode": "dfa"}),
    Idle("feedback", "decay", 0.1, {}, {"mode": "kp"}),
    Idle("feedback", "feedback_scale", 2.0, {"mode": "shallow"}, {"mode": "brsf"}),
    Idle("feedback", "error_clip", 2.0, {"mode": "shallow"}, {}),
    *(Idle("feedback", f"mirror_{name}", 0.2, {}, MIRROR) for name in ("rate", "decay", "noise", "spread")),
    Idle("zeroth_order", "variance", 0.5, {}, {"history": 2}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.rule}-{case.option}")
def test_options_that_do_nothing_are_refused(case):
    default = RULES[case.rule].CARD.options[0]._field_defaults[case.option]
    with pytest.raises(UsageError, match=rf"^{case.option} does nothing with \w+=.*; leave it out, or set "):
        rule_of(case.rule, **{case.option: case.value}, **case.without)
    rule_of(case.rule, **{case.option: case.value}, **case.having)  # control
    rule_of(case.rule, **{case.option: default}, **case.without)


def test_the_cases_are_all_declared_needs():
    declared = {
        (name, option) for name, module in RULES.items() for option in getattr(module.CARD.options[0], "NEEDS", {})
    }
    assert declared == {case[:2] for case in CASES} - {("ff", "peer_momentum")}


def test_a_traced_option_that_does_nothing_is_refused():
    with pytest.raises(UsageError, match="temperature does nothing with loss='symba'"):
        jax.eval_shape(lambda T: start(rule_of("ff", temperature=T)), jnp.float32(1))
    jax.eval_shape(lambda T: start(rule_of("ff", temperature=T, loss="logistic")), jnp.float32(1))


class Toy(NamedTuple):
    """A user's options."""

    mode: str = "a"
    size: int = 3
    share: float = 0.5
    NEEDS = needs("size", mode=("b",)) | needs("share", size=Unless(3))


def test_needs_are_of_any_record():
    assert chosen(Toy, {"size": 4, "mode": "b", "share": 0.1}, "toy") == ("b", 4, 0.1)
    for options in ({"size": 4}, {"size": 4, "mode": "c"}, {"mode": "b", "share": 0.1}):
        with pytest.raises(UsageError, match="does nothing with"):
            chosen(Toy, options, "toy")
    idle = {"mode": "a", "size": 4, "share": 0.1}
    assert effective(Toy, idle) == {"mode": "a", "size": 3, "share": 0.1}  # what an older file may hold
    check_effects(Toy, {"mode": "a", "size": 4, "share": 0.5}, ["size"], {"size": (4,)})  # a recipe's


def test_commands_refuse_what_somebody_set_and_not_what_a_recipe_says():
    for name, setting, words in (
        ("cwc", {"readout_learning_rate": 0.5}, "readout_learning_rate does nothing with readout=False"),
        ("cafo", {"block_epochs": 7}, "block_epochs does nothing with blocks='random'"),
        ("pepita", {"mirror_every": 7}, "mirror_every does nothing with feedback='uniform'"),
        ("fa", {"mirror_epochs": 7}, "mirror_epochs does nothing with mode='fa'"),
    ):
        with pytest.raises(UsageError, match=words):
            make_arm(load(name), setting)
    for name in ("pepita", "cwc", "cafo", "fa", "ff"):
        rule = load(name)
        for compared in (False, True):
            arm = make_arm(rule, rule.defaults(compared=compared))
            assert arm.training(10, 4) and arm.options.get("mirror_every", 100) == 100


# ---------------------------------------------------------------------------------------------------------------------
# Images of another size: a function takes what its arrays can take. `fit` and saved models know the size.

TAKES_MORE = {
    ("cwc", "update"): "the mean over positions is a goodness for every size",
    ("cwc", "predict"): "as above",
    ("deeperforward", "update"): "the mean over positions is a goodness, and its norm one, for every size",
    ("deeperforward", "predict"): "as above",
    ("scff", "update"): "readouts of pooled maps, and a goodness that is a mean over positions, are for every size",
    ("scff", "predict"): "as above",
    ("ff", "predict"): "goodness is of the whole map; the softmax head and m, which update needs, are of one size",
    ("mf-pooled", "update"): "readouts of pooled maps are for every size",
    ("mf-pooled", "predict"): "as above",
}


@pytest.mark.parametrize("name", [*RULES, "mf-pooled"])
def test_images_of_another_size_are_refused_or_have_a_meaning(name):
    options = {"readout_pool": 2} if name == "mf-pooled" else {}
    rule = rule_of(name.partition("-")[0], CONVOLUTIONS, **options)
    state, larger = start(rule, batch(8, 8, 1).x), batch(12, 12, 1)
    for what, call in (
        ("update", lambda: jax.eval_shape(rule.update, state, larger, KEY)),
        ("predict", lambda: jax.eval_shape(rule.predict, state, larger.x)),
    ):
        if (name, what) in TAKES_MORE:
            call()
            continue
        with pytest.raises(UsageError, match=r"takes inputs of another shape than \(8, 12, 12, 1\)"):
            call()
    with pytest.raises(UsageError, match="takes inputs of another shape than"):  # channels are no question of size
        jax.eval_shape(rule.update, state, batch(8, 8, 3), KEY)
