"""Multiply-accumulates against the published counts and against the compiler's own."""

import inspect

import jax
import jax.numpy as jnp
import optax
import pytest

import fwdonly
from fwdonly import Batch, UsageError, cost, nets

SMALL, LARGE = ((784,), (1000, 1000), 10), ((3072,), (2000, 2000, 2000), 10)


@pytest.mark.parametrize(
    ("case", "rule", "options", "expected"),
    [
        (SMALL, "bp", {}, 4_598_000),  # methods/mf.md 8.6 and fairness.md 8.1, own arithmetic there
        (SMALL, "mf", {}, 3_628_000),
        (SMALL, "mf", {"layer": 1}, 1_598_000),
        (SMALL, "mf", {"layer": 2}, 2_814_000),
        (LARGE, "bp", {}, 36_348_000),
        (LARGE, "mf", {}, 28_468_000),
        (LARGE, "mf", {"layer": 3}, 18_204_000),
        ((*LARGE[:2], 100), "mf", {}, 30_088_000),
    ],
)
def test_counts_are_the_published_ones(case, rule, options, expected):
    shape, widths, classes = case
    assert cost.macs(rule, nets.mlp(widths), shape, num_classes=classes, batch=1, **options) == expected


def test_ff_is_1_84_times_bp_on_three_layers_of_1000_and_1_73_on_four_of_2000():
    for widths, ratio in (((1000,) * 3, 1.84), ((2000,) * 4, 1.73)):
        ff, bp = (cost.macs(rule, nets.mlp(widths), (784,), num_classes=10, batch=1) for rule in ("ff", "bp"))
        assert abs(ff / bp - ratio) < 0.01


MLP = nets.mlp([300, 200], bias="none")
PATCHES = nets.cnn([32, 64], kernel=2, stride=2, padding="valid", pool="none", bias="none")
CNN = nets.cnn([32, 32], bias="none")
CASES = [
    ("bp", MLP, {}),
    ("bp", CNN, {}),
    ("mf", MLP, {}),
    ("mf", CNN, {}),
    ("mf", MLP, {"layer": 2}),
    ("ff", MLP, {}),
    ("pepita", MLP, {}),
    ("pepita", CNN, {}),
    ("pepita", MLP, {"presynaptic": "clean", "output_error": "first"}),
    ("foton", MLP, {}),
    ("foton", PATCHES, {}),
    ("foton", MLP, {"retract_iterations": 3}),
    ("feedback", MLP, {}),
    ("feedback", CNN, {"mode": "fa"}),
    ("feedback", MLP, {"mode": "dfa"}),
    ("feedback", CNN, {"mode": "drtp"}),
]


@pytest.mark.filterwarnings("ignore::fwdonly.foton.ExpansionWarning")
@pytest.mark.parametrize(("rule", "net", "options"), CASES)
def test_the_compiler_counts_the_same_within_3_percent(rule, net, options):
    shape, count = (12, 12, 32), 64  # channels enough for products to outweigh what is done per element
    own = options | ({"dropout": 0.0} if rule == "pepita" else {"peer": 0.0} if rule == "ff" else {})
    made = fwdonly.RULES[rule].rule(net, optax.sgd(0.1), num_classes=10, **own)
    batch = Batch(jax.ShapeDtypeStruct((count, *shape), jnp.float32), jax.ShapeDtypeStruct((count,), jnp.int32))
    key = jax.random.key(0)
    state = jax.eval_shape(made.init, key, batch.x)
    analysis = jax.jit(made.update).lower(state, batch, key).compile().cost_analysis()
    parts = cost.work(rule, net, shape, num_classes=10, batch=count, **options)
    counted, products = analysis["flops"] / 2, sum(part.macs for part in parts)
    assert abs(counted / products - 1) < 0.03
    largest = max(part.macs for part in parts)
    assert abs(counted / (products - largest) - 1) > 0.03  # the control: one product forgotten


def test_a_rule_that_is_not_counted_is_refused_in_one_line():
    with pytest.raises(UsageError, match="choose one of"):
        inspect.unwrap(cost.work)("cafo", MLP, (784,), num_classes=10, batch=1)
