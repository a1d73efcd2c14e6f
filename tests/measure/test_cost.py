"""Multiply-accumulates against the published counts and against the compiler's own; the optimizer's bytes; a step."""

import doctest
import time
import typing
from types import SimpleNamespace
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fwdonly
from fwdonly import RULES, Batch, UsageError, measure, nets

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
        # Own arithmetic: BP or MF as above, and the input gradients and 3 C n_l of each readout that they lack.
        (SMALL, "mf", {"gradient": "joint"}, 3_628_000 + 1000 * 1000),
        (LARGE, "mf", {"gradient": "joint"}, 28_468_000 + 2 * 2000 * 2000),
        (SMALL, "bp", {"readouts": "deep"}, 4_598_000 + 2 * 30_000),
        (SMALL, "bp", {"readouts": "sum"}, 4_598_000 + 2 * 30_000),
        (LARGE, "bp", {"readouts": "deep"}, 36_348_000 + 3 * 60_000),
    ],
)
def test_counts_are_the_published_ones(case, rule, options, expected):
    shape, widths, classes = case
    assert measure.macs(RULES[rule], nets.mlp(widths), shape, num_classes=classes, batch=1, **options) == expected


def test_ff_is_1_84_times_bp_on_three_layers_of_1000_and_1_73_on_four_of_2000():
    for widths, ratio in (((1000,) * 3, 1.84), ((2000,) * 4, 1.73)):
        ff, bp = (measure.macs(RULES[rule], nets.mlp(widths), (784,), num_classes=10, batch=1) for rule in ("ff", "bp"))
        assert abs(ff / bp - ratio) < 0.01


def test_cafo_is_0_14_and_0_67_times_bp_on_the_published_network():
    net, shape = nets.cnn([32, 128, 512], pool="max"), (32, 32, 3)
    bp = measure.macs(RULES["bp"], net, shape, num_classes=10, batch=1)
    heads = [measure.macs(RULES["cafo"], net, shape, num_classes=10, batch=1, part=i) for i in (1, 2, 3)]
    # methods/fairness.md 8.3; own arithmetic: the blocks take 884,736, 9,437,184 and 37,748,736, D_i is 8192
    assert heads == [884_736 + 163_840, 10_321_920 + 163_840, 48_070_656 + 163_840]
    assert abs(sum(heads) / 3 / bp - 0.14) < 0.005
    assert abs(measure.macs(RULES["cafo"], net, shape, num_classes=10, batch=1, part="blocks") / bp - 0.67) < 0.005


def test_cafo_on_kept_features_is_its_heads_alone():
    net = nets.cnn([32, 128, 512], pool="max")
    common = {"num_classes": 10, "batch": 7, "kept": True}
    assert measure.macs(RULES["cafo"], net, (32, 32, 3), **common) == 7 * 3 * 2 * 10 * 8192
    assert measure.macs(RULES["cafo"], net, (32, 32, 3), part=3, **common) == 7 * 2 * 10 * 8192


def test_the_closed_form_has_the_operations_of_a_cholesky_factorisation():
    parts = measure.work(RULES["cafo"], nets.mlp([500]), (20,), num_classes=10, batch=64, loss="mse")
    found = {part.what: part.macs for part in parts}
    assert round(2 * found["factorisation"] / 1e6) == 42  # measurement.md 10: a true 42 MFLOP
    assert found["normal equations"] == 64 * (500 * 500 + 500 * 10)
    assert found["solution"] == 10 * 2 * (500 * 500 / 2)  # two triangular matrices, once per class


def test_every_second_layer_of_cwc_counts_one_tenth_for_its_ten_groups():
    net = nets.cwc([20, 80, 240, 480], 10)  # of arXiv 2312.12668 for CIFAR-10
    found = [
        part.macs
        for part in measure.work(RULES["cwc"], net, (32, 32, 3), num_classes=10, batch=1)
        if part.what == "forward"
    ]
    windows = [3 * 3 * n for n in (3, 20 // 10, 80, 240 // 10)]
    positions = [32 * 32, 32 * 32, 16 * 16, 16 * 16]  # before pooling, after every second layer
    outputs = zip(windows, [20, 80, 240, 480], positions, strict=True)
    assert found == [window * channels * count for window, channels, count in outputs]
    assert measure.macs(RULES["cwc"], net, (32, 32, 3), num_classes=10, batch=1) == 2 * sum(found)


def test_every_rule_is_counted():
    for rule in RULES:
        found = measure.work(RULES[rule], nets.mlp([40, 20]), (30,), num_classes=10, batch=6)
        forward = {part.layer: part.macs for part in found if part.what == "forward"}
        assert forward[1] >= 6 * 30 * 40 and forward[2] >= 6 * 40 * 20, rule
        assert sum(part.macs for part in found) > sum(forward.values()), rule


REFUSED = [
    ("monoforward", {}),
    ("cafo", {"part": 3}),
    ("cafo", {"loss": "l2"}),
    ("bp", {"readouts": "all"}),
    ("mf", {"gradient": "global"}),
    ("mf", {"layer": 1, "gradient": "joint"}),
]


def test_a_rule_or_a_word_that_does_not_exist_is_refused_in_one_line():
    for rule, options in REFUSED:
        with pytest.raises(UsageError) as refused:
            measure.work(RULES.get(rule, rule), MLP, (784,), num_classes=10, batch=1, **options)
        assert "\n" not in str(refused.value)
        assert str(next(iter(options.values()), rule)) in str(refused.value)


SHAPE = (12, 12, 32)  # channels enough for products to outweigh what is done per element
MLP = nets.mlp([300, 200], bias="none")
WIDE = nets.mlp([600, 500], bias="none")  # a weight needs products enough to outweigh the noise that a mirror draws
PATCHES = nets.cnn([32, 64], kernel=2, stride=2, padding="valid", pool="none", bias="none")
CNN = nets.cnn([32, 32], bias="none")
MAX = nets.cnn([32, 32], bias="none", pool="max")
PADDED = nets.cnn([8, 12], kernel=5, padding="reflect", pool="max4")
GROUPED = (nets.Conv(40, kernel=5, pool="none"), nets.Conv(80, kernel=5, pool="max", groups=2))
CASES = [
    ("bp", MLP, {}),
    ("bp", CNN, {}),
    ("bp", MLP, {"readouts": "deep"}),
    ("bp", CNN, {"readouts": "sum"}),
    ("bp", CNN, {"hidden": "frozen"}),
    ("mf", MLP, {}),
    ("mf", CNN, {}),
    ("mf", MLP, {"layer": 2}),
    ("mf", MLP, {"gradient": "joint"}),
    ("mf", CNN, {"gradient": "joint"}),
    ("ff", MLP, {}),
    ("cafo", MLP, {}),
    ("cafo", MAX, {"part": 1}),
    ("cafo", MLP, {"kept": True}),
    ("cafo", MAX, {"kept": True, "part": 2}),
    ("cafo", MAX, {"kept": True, "loss": "sl"}),
    ("cafo", MLP, {"loss": "mse", "batch": 384}),
    ("cafo", MLP, {"loss": "mse", "batch": 384, "kept": True}),
    ("cafo", MLP, {"part": "blocks"}),
    ("cafo", MAX, {"part": "blocks"}),
    ("cwc", MLP, {}),
    ("cwc", GROUPED, {}),
    ("pepita", MLP, {}),
    ("pepita", CNN, {}),
    ("pepita", MLP, {"presynaptic": "clean", "output_error": "first"}),
    ("pepita", MLP, {"form": "hebbian"}),
    ("pepita", CNN, {"form": "time_local"}),
    ("pepita", WIDE, {"feedback": "mirrored", "batch": 256}),
    ("pepita", WIDE, {"feedback": "mirrored", "batch": 256, "part": "mirror"}),
    ("foton", MLP, {}),
    ("foton", PATCHES, {}),
    ("foton", MLP, {"retract_iterations": 3}),
    ("feedback", MLP, {}),
    ("feedback", CNN, {"mode": "fa"}),
    ("feedback", MLP, {"mode": "dfa"}),
    ("feedback", CNN, {"mode": "drtp"}),
    ("feedback", WIDE, {"mode": "wm", "batch": 256}),
    ("feedback", WIDE, {"mode": "wm", "batch": 256, "mirror_spread": 0.5}),
    ("feedback", WIDE, {"mode": "wm", "batch": 256, "part": "mirror"}),
    ("deeperforward", MLP, {}),
    ("scff", nets.mlp([1500, 300], bias="none"), {}),  # its inputs are standardised three times
]
LIBRARY = ("factorisation", "solution")  # LAPACK's, which the compiler does not see


def counts(rule, net, *, num_classes=10, batch=64, kept=False, **options):
    """The compiler's multiply-accumulates, and the parts that it should have seen."""
    own = options | ({"dropout": 0.0} if rule == "pepita" else {})
    own |= {"block_tx": optax.sgd(0.1)} if options.get("part") == "blocks" else {}
    made = RULES[rule].rule(net, optax.sgd(0.1), num_classes=num_classes, **own)
    step = measure.compile_step(made, SHAPE, batch, kept=kept)
    options |= {"kept": kept} if kept else {}
    parts = measure.work(RULES[rule], net, SHAPE, num_classes=num_classes, batch=batch, **options)
    return measure.flops(step.compiled).value / 2, [part.macs for part in parts if part.what not in LIBRARY]


@pytest.mark.filterwarnings("ignore::fwdonly.foton.ExpansionWarning")
@pytest.mark.filterwarnings("ignore::fwdonly.feedback.UnboundedWarning")
@pytest.mark.parametrize(("rule", "net", "options"), CASES)
def test_the_compiler_counts_the_same_within_3_percent(rule, net, options):
    """5 % where normal noise is drawn, which takes some 80 operations a number, and none of them is a product."""
    within = 0.05 if options.get("feedback") == "mirrored" else 0.03
    counted, parts = counts(rule, net, **options)
    assert abs(counted / sum(parts) - 1) < within
    assert abs(counted / (sum(parts) - max(parts)) - 1) > within  # the control: one product forgotten


@pytest.mark.parametrize(
    ("rule", "options"),
    [
        ("bp", {}),
        ("bp", {"readouts": "deep"}),
        ("bp", {"readouts": "sum"}),
        ("bp", {"hidden": "frozen", "kept": True}),
        ("mf", {}),
        ("mf", {"gradient": "joint"}),
        ("feedback", {"mode": "dfa"}),
        ("cafo", {}),
        ("cafo", {"part": 1}),
        ("cafo", {"loss": "mse"}),
        ("cafo", {"part": "blocks"}),
    ],
)
def test_products_with_the_classes_alone_are_the_compilers(rule, options):
    # They are too few beside the layers' to be seen above, so: what a hundred classes more add.
    (few, before), (many, after) = (counts(rule, MLP, num_classes=n, **options) for n in (10, 110))
    added = [a - b for a, b in zip(after, before, strict=True)]
    assert abs((many - few) / sum(added) - 1) < 0.03
    for part in filter(None, added):  # the control: any one of them forgotten
        assert abs(many - few - (sum(added) - part)) > 0.03 * sum(added)


def bare(rule):
    """A rule's file that says nothing of its products."""
    return SimpleNamespace(rule=RULES[rule].rule)


@pytest.mark.parametrize(
    ("rule", "net", "options"),
    [
        ("bp", MLP, {}),
        ("bp", CNN, {}),
        ("bp", GROUPED, {}),
        ("bp", MLP, {"readouts": "deep"}),
        ("bp", CNN, {"readouts": "sum"}),
        ("mf", MLP, {}),
        ("mf", PATCHES, {}),
        ("mf", MLP, {"layer": 2}),
        ("mf", CNN, {"gradient": "joint"}),
        ("cwc", GROUPED, {}),
        ("feedback", MLP, {"mode": "fa"}),
        ("feedback", MLP, {"mode": "dfa"}),
        ("deeperforward", nets.cnn([10] * 5, pool="none", bias="none"), {"shortcuts": ("concat", "concat")}),
        ("scff", PADDED, {"layer": 2, "pairs": ("anew", "carried"), "readout_pool": (4, 2)}),
        ("scff", PADDED, {"readout_pool": (4, 2)}),
    ],
)
def test_the_products_of_an_update_that_says_nothing_are_counted_as_it_is_traced(rule, net, options):
    common = {"num_classes": 10, "batch": 64} | options
    assert measure.macs(bare(rule), net, SHAPE, **common) == measure.macs(RULES[rule], net, SHAPE, **common)

    def twice(*args, **more):  # the control: a step that makes its products twice, and the formula does not know
        own = RULES[rule].rule(*args, **more)
        return own._replace(update=lambda state, *rest: own.update(own.update(state, *rest)[0], *rest))

    doubled = measure.macs(SimpleNamespace(rule=twice), net, SHAPE, **common)
    assert doubled == 2 * measure.macs(RULES[rule], net, SHAPE, **common)


OF_TRAININGS = {"readout_start", "schedule", "sum_includes_input"}
"""Options that ``rule`` does not take, or not alone."""
IN_THE_MEAN = {"feedback_every", "retract_every", "mirror_every"}
"""Numbers of steps: a trace has the dearer step, the formula the mean."""
FURTHER = [
    ("mf", {"input_readout": True, "layer": 0}),
    ("mf", {"input_readout": True, "layer": 2}),
    ("pepita", {"feedback": "mirrored", "part": "mirror"}),
    ("pepita", {"feedback": "normal", "form": "hebbian"}),
    ("foton", {"retract_iterations": 2, "retract_output": False}),
    ("feedback", {"mode": "wm", "part": "mirror", "mirror_spread": 0.5}),
    ("feedback", {"mode": "wm", "mirror_spread": 0.5}),
    ("scff", {"layer": 1}),
    ("scff", {"layer": 2}),
    ("scff", {"layer": 2, "pairs": ("anew", "carried")}),
    ("scff", {"layer": 3, "pairs": ("anew", "carried")}),
    ("scff", {"readout_layers": (2,)}),
]


def every_word():
    """All rules with every word and switch of theirs that is not the default, one at a time, and what it needs."""
    for name, module in RULES.items():
        yield name, {}
        record = module.CARD.options[0]
        for option, kind in typing.get_type_hints(record).items():
            parts = (kind, *typing.get_args(kind))
            words = [w for part in parts if typing.get_origin(part) is Literal for w in typing.get_args(part)]
            words += [False, True] if kind is bool else []
            for word in words:
                if word != record._field_defaults[option] and option not in OF_TRAININGS | IN_THE_MEAN:
                    others = getattr(record, "NEEDS", {}).get(option, {})
                    with_effect = {other: wanted[0] for other, wanted in others.items() if isinstance(wanted, tuple)}
                    yield (
                        name,
                        {option: word}
                        | {
                            other: value
                            for other, value in with_effect.items()
                            if record._field_defaults[other] != value
                        },
                    )


@pytest.mark.filterwarnings("ignore::fwdonly.foton.ExpansionWarning")
@pytest.mark.filterwarnings("ignore::fwdonly.feedback.UnboundedWarning")
@pytest.mark.parametrize(
    ("rule", "options"),
    [*every_word(), *FURTHER],
    ids=lambda own: own if isinstance(own, str) else "-".join(map(str, own.values())),
)
def test_every_option_of_every_rule_is_counted_as_it_is_traced(rule, options):
    """An option that changes the products is one of ``work``; one that changes none is taken, too."""
    common = {"num_classes": 10, "batch": 64} | options
    # What LAPACK does a trace does not see; the closed form is held against the compiler above.
    parts = [part for part in measure.work(RULES[rule], MLP, SHAPE, **common) if part.what not in LIBRARY]
    counted = sum(part.macs for part in parts)
    assert counted == pytest.approx(measure.macs(bare(rule), MLP, SHAPE, **common), rel=1e-4)


def test_what_is_not_due_in_every_step_counts_in_the_mean():
    common = {"num_classes": 10, "batch": 64}

    def of(rule, **options):
        return measure.macs(RULES[rule], MLP, SHAPE, **common, **options)

    mirrors = of("pepita", feedback="mirrored") - of("pepita")
    assert mirrors > 0
    for every in (2, 100):
        assert of("pepita", feedback="mirrored", mirror_every=every) - of("pepita") == pytest.approx(mirrors / every)
    assert of("pepita", feedback="mirrored", mirror_every=0) == of("pepita")


@pytest.mark.parametrize(
    ("rule", "options"), [("bp", {"readout": "deep"}), ("mf", {"epochs": 3}), ("pepita", {"mode": "fa"})]
)
def test_an_option_that_a_rule_has_not_is_refused(rule, options):
    with pytest.raises(UsageError, match=next(iter(options))):
        measure.macs(RULES[rule], MLP, SHAPE, num_classes=10, batch=64, **options)


def test_the_retraction_is_thirteen_fourteenths_of_fotons_arithmetic_at_batch_128():
    """Own arithmetic: per iteration 2 n m^2 + 3 m^3 for a matrix of sides n >= m, over 128 samples; BP's as above."""
    per_step = sum(2 * n * m**2 + 3 * m**3 + 5 * m**2 for n, m in ((1000, 784), (1000, 1000), (1000, 10)))
    parts = measure.work(RULES["foton"], nets.mlp([1000, 1000]), (784,), num_classes=10, batch=128)
    assert sum(part.macs for part in parts if part.what == "retraction") == per_step
    assert round(sum(part.macs for part in parts) / (128 * 4_598_000), 1) == 14.1
    assert round(per_step / (128 * 4_598_000), 1) == 13.1


A, IMAGES, KERNEL = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((5, 5), (2, 8, 8, 3), (3, 3, 3, 7)))


def convolved(x, kernel, stride=1):
    return jax.lax.conv_general_dilated(x, kernel, (stride,) * 2, "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))


@pytest.mark.parametrize(
    ("f", "args", "expected"),
    [
        (lambda a: a @ a, (A,), 125),
        (lambda a: a + a, (A,), 0),
        (lambda a: jax.lax.scan(lambda b, _: (b @ a, None), a, length=7)[0], (A,), 7 * 125),
        (lambda a: jax.lax.map(lambda row: a @ row, a), (A,), 5 * 25),
        (lambda a: jax.lax.fori_loop(0, 3, lambda _, b: b @ a, a), (A,), 3 * 125),
        (lambda a: jax.lax.cond(a[0, 0] > 0, lambda: a @ a @ a, lambda: a @ a), (A,), 2 * 125),
        (lambda a: jax.jit(lambda b: (b @ b, b @ b @ b))(a)[0], (A,), 125),  # nobody reads the other
        (lambda a: (a @ a, a)[1], (A,), 0),
        (jax.vmap(lambda row, a: row @ a, in_axes=(0, None)), (A, A), 125),
        (jax.checkpoint(lambda a: a @ a), (A,), 125),
        (jax.grad(lambda a: (a @ a).sum()), (A,), 2 * 125),  # what is summed is not read
        (convolved, (IMAGES, KERNEL), 2 * 36 * 27 * 7),
        (lambda x, k: convolved(x, k, 2), (IMAGES, KERNEL), 2 * 9 * 27 * 7),
        (jax.grad(lambda k, x: convolved(x, k, 2).sum()), (KERNEL, IMAGES), 2 * 9 * 27 * 7),
        (jax.grad(lambda x, k: convolved(x, k).sum()), (IMAGES, KERNEL), 2 * 36 * 27 * 7),
        (jax.grad(lambda x, k: convolved(x, k, 2).sum()), (IMAGES, KERNEL), 2 * 9 * 27 * 7),
    ],
)
def test_products_by_hand(f, args, expected):
    assert measure.products(f, *args) == expected


@pytest.mark.parametrize("net", [CNN, PATCHES, GROUPED], ids=["cnn", "patches", "grouped"])
def test_a_count_is_the_same_where_convolutions_are_no_matrix_products(net, monkeypatch):
    common = {"num_classes": 10, "batch": 64}
    here = [measure.macs(bare(rule), net, SHAPE, **common) for rule in ("bp", "mf")]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    traced = str(jax.make_jaxpr(net[0].init)(jax.random.key(0), jnp.zeros((1, *SHAPE))))
    assert "conv_general_dilated" in traced
    assert [measure.macs(bare(rule), net, SHAPE, **common) for rule in ("bp", "mf")] == here


def test_products_that_nobody_knows_the_number_of_are_refused():
    def until_it_is_large(a):
        return jax.lax.while_loop(lambda b: b.sum() < 9, lambda b: b @ a, a)

    with pytest.raises(UsageError, match="while_loop"):
        measure.products(until_it_is_large, A)
    assert measure.products(lambda a: jax.lax.while_loop(lambda b: b.sum() < 9, lambda b: b + a, a), A) == 0


@pytest.mark.parametrize(
    ("tx", "per_weight"), [(optax.sgd(0.1), 12), (optax.sgd(0.1, momentum=0.9), 20), (optax.adam(0.1), 28)]
)
def test_an_optimizer_reads_the_gradient_and_reads_and_writes_weights_and_state(tx, per_weight):
    params = {"W": jnp.zeros((50, 30)), "b": jnp.zeros(30)}
    assert measure.optimizer_bytes(tx, params) - 1530 * per_weight in (0, 8)  # Adam counts its steps
    half = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, jnp.bfloat16), params)
    assert measure.optimizer_bytes(tx, half) - 1530 * per_weight // 2 in (0, 8)


def test_adam_on_14_million_weights_moves_0_4_gb():
    rule = fwdonly.bp.rule(nets.mlp([2000] * 3), optax.adam(1e-3), num_classes=10)
    state = jax.eval_shape(rule.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 3072), jnp.float32))
    assert abs(measure.optimizer_bytes(optax.adam(1e-3), state.params) / 0.4e9 - 1) < 0.02  # methods/fairness.md 8.4


def test_mf_joint_and_deep_supervision_hold_the_activations_that_mf_lets_go_of():
    width, batch, depth = 512, 2048, 6

    def held(module, **options):
        rule = module.rule(nets.mlp([width] * depth), optax.sgd(0.1), num_classes=10, **options)
        return measure.memory(measure.compile_step(rule, (width,), batch).compiled).value

    local, enough = held(fwdonly.mf), (depth - 1) * batch * width * 4  # MF holds one at least, and others' errors none
    for module, options in (
        (fwdonly.bp, {}),
        (fwdonly.bp, {"readouts": "deep"}),
        (fwdonly.mf, {"gradient": "joint"}),
    ):
        assert held(module, **options) - local > enough


def test_a_compiled_step_is_the_rules_update_and_takes_the_states_buffers(batch, key):
    rule = fwdonly.mf.rule(nets.mlp([9, 6]), optax.adam(0.1), num_classes=3)
    start = time.perf_counter()
    step = measure.compile_step(rule, batch.x.shape[1:], len(batch.y))
    assert 0 < step.seconds.value < time.perf_counter() - start
    assert (step.seconds.unit, step.seconds.status) == ("s", "measured")
    state = jax.jit(rule.init)(key, batch.x)
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(lambda leaf: leaf.shape, step.state_shape)
    expected, _ = jax.jit(rule.update)(state, batch, key)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(state))  # the control: not donated
    found, _ = step.compiled(state, batch, key)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), found, expected)


def test_a_compiled_step_takes_kept_features(batch, key):
    rule = fwdonly.cafo.rule(nets.mlp([9, 6]), optax.sgd(0.1), num_classes=3)
    step = measure.compile_step(rule, batch.x.shape[1:], len(batch.y), kept=True)
    state = jax.jit(rule.init)(key, batch.x)
    expected, _ = jax.jit(rule.update)(state, batch, key)
    with pytest.raises((TypeError, ValueError)):  # the control: images are not what it was compiled for
        step.compiled(state, batch, key)
    found, _ = step.compiled(state, Batch(jax.jit(rule.frozen.features)(state, batch.x), batch.y), key)
    for a, b in zip(found.params.heads, expected.params.heads, strict=True):
        np.testing.assert_allclose(a.V, b.V, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("net", "kept", "fault"), [(nets.mlp([4]), True, "leave kept out"), (nets.cnn([4]), False, "needs images")]
)
def test_a_step_that_cannot_be_compiled_is_refused_in_one_line(net, kept, fault):
    rule = fwdonly.bp.rule(net, optax.sgd(0.1), num_classes=3)
    with pytest.raises(UsageError, match=fault) as refused:
        measure.compile_step(rule, (7,), 5, kept=kept)
    assert "\n" not in str(refused.value) and not getattr(refused.value, "__notes__", None)  # jax would add some


def compiled_product(steps):
    a = jax.ShapeDtypeStruct((200, 200), jnp.float32)
    return jax.jit(lambda a: jax.lax.scan(lambda b, _: (b @ a, None), a, length=steps)[0]).lower(a).compile()


def test_the_compilers_count_is_that_of_a_product_and_of_a_loops_body_once(monkeypatch):
    one, ten = (measure.flops(compiled_product(steps)) for steps in (1, 10))
    assert abs(one.value / (2 * 200**3) - 1) < 0.01
    assert abs(ten.value / one.value - 1) < 0.01  # the trap that the docstring names
    assert (one.unit, one.status, one.source) == ("FLOP", "estimated", "xla_cost_analysis")
    program = compiled_product(1)
    for analysis, value in (([{"flops": 5.0}], 5.0), ({"flops": 7.0}, 7.0), ({"flops": -1.0}, None), (None, None)):
        monkeypatch.setattr(jax.stages.Compiled, "cost_analysis", lambda self, found=analysis: found)
        assert measure.flops(program).value == value


@pytest.mark.parametrize("name", ["work", "optimizer_bytes", "compile_step"])
def test_examples_run(name):
    (example,) = doctest.DocTestFinder(recurse=False).find(getattr(measure, name), name, module=False, globs={})
    result = doctest.DocTestRunner().run(example)
    assert result.attempted > 0 and result.failed == 0
