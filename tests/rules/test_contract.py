"""What every learning rule promises, whatever it computes (see `fwdonly.base`)."""

import doctest
import inspect
import itertools
from functools import partial
from operator import itemgetter
from types import SimpleNamespace
from typing import NamedTuple, get_args

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest

import fwdonly
from fwdonly import (
    Batch,
    UsageError,
    base,
    bp,
    cafo,
    cwc,
    deeperforward,
    feedback,
    ff,
    foton,
    mf,
    nets,
    pepita,
    scff,
    zeroth_order,
)
from fwdonly.base import RuleModule

pytestmark = [
    pytest.mark.filterwarnings("ignore::fwdonly.foton.ExpansionWarning"),
    pytest.mark.filterwarnings("ignore::fwdonly.feedback.UnboundedWarning"),
]

CLASSES = 3
NETS = {"mlp": lambda: nets.mlp([6, 9]), "cnn": lambda: nets.cnn([3, 6])}


FORMS = {
    "joint": {"gradient": "joint", "auxiliary_weight": 0.5},
    "deep": {"readouts": "deep", "auxiliary_weight": 0.5},
    "sum": {"readouts": "sum"},
    "frozen": {"hidden": "frozen"},
    "normalised": {"batch_norm": True},
}
"""Forms of a rule that compute something else throughout."""


def make_rules(name, schedule, net, rate=0.01):
    """The rule, or a form of it, as a tuple of one, or its stages."""
    build = fwdonly.RULES[name].stages if schedule == "stages" else fwdonly.RULES[name].rule
    made = build(net, optax.adam(rate, eps=1e-3), num_classes=CLASSES, **FORMS.get(schedule, {}))
    return (made,) if isinstance(made, fwdonly.LearningRule) else tuple(made)


SCHEDULES = [
    (name, schedule)
    for name, module in fwdonly.RULES.items()
    for schedule in ("rule", "stages")
    if schedule == "rule" or hasattr(module, "stages")
]
SCHEDULES += [("mf", "joint"), ("bp", "deep"), ("bp", "sum"), ("bp", "frozen"), ("bp", "normalised")]


@pytest.fixture(scope="module", params=NETS)
def net_name(request):
    return request.param


@pytest.fixture(scope="module", params=SCHEDULES, ids="_".join)
def case(request, net_name):
    """make(rate) -> rule: the rule itself, or the last of its stages, which builds on the layers before it."""
    name, schedule = request.param
    return lambda rate=0.01: make_rules(name, schedule, NETS[net_name](), rate)[-1]


def draw(count, seed=0):
    """``count`` batches in one `Batch` with a leading axis."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 6, 8, 8, 1)).astype(np.float32)
    return Batch(jnp.asarray(x), jnp.asarray(rng.integers(0, CLASSES, size=(count, 6)), jnp.int32))


class Looped(NamedTuple):
    """Two seeds of one rule, trained on four batches by a Python loop."""

    rule: fwdonly.LearningRule
    """With its ``init`` compiled: a program for each line of it takes longer."""
    batches: Batch
    keys: jax.Array
    starts: list
    ends: list
    metrics: dict


def loop(update, state, batches):
    for at in range(len(batches.y)):
        state, metrics = update(state, jax.tree.map(itemgetter(at), batches), jax.random.key(0))
    return state, metrics


@pytest.fixture(scope="module")
def looped(case):
    rule, batches, keys = case(), draw(4), jax.random.split(jax.random.key(7), 2)
    rule = rule._replace(init=jax.jit(rule.init))
    update = jax.jit(rule.update)
    starts = [rule.init(key, batches.x[0]) for key in keys]
    ends, metrics = zip(*(loop(update, state, batches) for state in starts), strict=True)
    assert all(moved(*pair) for pair in zip(starts, ends, strict=True))
    assert moved(*ends)
    return Looped(rule, batches, keys, starts, ends, metrics[0])


def signature(tree):
    """Structure, shapes, dtypes and weak types: what decides whether a function is traced anew."""
    return jax.tree.structure(tree), [(a.shape, a.dtype, a.weak_type) for a in jax.tree.leaves(tree)]


def assert_close(one, other, atol=1e-6):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=atol), one, other)


def equal(one, other):
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def refused(call):
    """The one line of the error that the call must raise."""
    with pytest.raises(UsageError) as caught:
        call()
    message = str(caught.value)
    assert message
    assert "\n" not in message
    return message


def moved(old, new):
    return not equal(old.params, new.params)


# --- modules ---------------------------------------------------------------------------------------------------------

NEEDED = {
    "init": (["key", "x"], ["net", "tx", "num_classes"]),
    "grads": (["params", "batch", "key"], ["net"]),
    "update": (["state", "batch", "key"], ["net", "tx"]),
    "predict": (["state", "x"], ["net"]),
    "rule": (["net", "tx"], ["num_classes"]),
}
OPTIONAL = {"stages": NEEDED["rule"], "work": (["layers", "num_classes", "batch"], []), "factors": (["options"], [])}
"""Arguments by position, and keywords that every rule takes."""


def faults(module):
    """Functions that a module lacks or that cannot be called as those of every rule are."""
    found = [name for name in NEEDED if not callable(getattr(module, name, None))]
    for name, (leading, keywords) in (NEEDED | OPTIONAL).items():
        if name in found or not hasattr(module, name):
            continue
        own = inspect.signature(getattr(module, name)).parameters.values()
        positional = [one.name for one in own if one.kind is one.POSITIONAL_OR_KEYWORD]
        named = [one.name for one in own if one.kind is one.KEYWORD_ONLY]
        passes_on = any(one.kind is one.VAR_KEYWORD for one in own)
        demanded = {one.name for one in own if one.kind is one.KEYWORD_ONLY and one.default is one.empty}
        fits = positional == leading and (passes_on or set(keywords) <= set(named))
        alone = demanded <= set(keywords) or name in ("grads", "update", "predict")  # which rules bind themselves
        found += [] if fits and alone else [name]
    return found


@pytest.mark.parametrize("name", fwdonly.RULES)
def test_a_rules_file_offers_what_a_rules_file_must(name):
    module = fwdonly.RULES[name]
    assert isinstance(module, RuleModule) and not faults(module)
    assert set(NEEDED) == set(RuleModule.__annotations__)
    assert hasattr(module, "work")
    whole = {each: getattr(module, each) for each in (*NEEDED, "work")}
    for each in NEEDED:  # the controls: one function less, and one that is called otherwise
        less = SimpleNamespace(**{other: f for other, f in whole.items() if other != each})
        assert not isinstance(less, RuleModule) and faults(less) == [each]
        assert faults(SimpleNamespace(**whole | {each: lambda first, second=None: None})) == [each]
    assert faults(SimpleNamespace(**whole | {"work": lambda layers, *, batch: []})) == ["work"]


def test_a_file_with_a_rule_alone_is_trained_compared_and_counted(batch):
    """Forty lines of a user: no more than ``rule`` and what it binds."""

    def rule(net, tx, *, num_classes):
        own = bp.rule(net, tx, num_classes=num_classes)
        return fwdonly.LearningRule(own.init, own.update, own.predict, grads=own.grads)

    file = SimpleNamespace(rule=rule)
    made = file.rule(nets.mlp([6]), optax.sgd(0.1), num_classes=CLASSES)
    step = jax.jit(fwdonly.measure.with_alignment(made).update)
    metrics = step(made.init(jax.random.key(0), batch.x), batch, jax.random.key(0))[1]
    np.testing.assert_allclose(metrics["cosine"], np.ones(2), rtol=1e-5)
    common = {"num_classes": CLASSES, "batch": 6}
    counted = fwdonly.measure.work(file, nets.mlp([6]), batch.x.shape[1:], **common)
    assert counted == ((0, "update", fwdonly.measure.macs(bp, nets.mlp([6]), batch.x.shape[1:], **common)),)


# --- shapes and trees ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("net_name", NETS, indirect=True)
@pytest.mark.parametrize(("name", "schedule"), SCHEDULES)
def test_shapes_and_types_of_scores_metrics_and_state(name, schedule, net_name, batch, key):
    net = NETS[net_name]()
    rules = make_rules(name, schedule, net)
    readout = name == "scff"  # it counts as a layer
    assert len(rules) == (len(net) + readout if schedule == "stages" else 1)
    for rule in rules:
        state = jax.eval_shape(rule.init, key, batch.x)
        new, metrics = jax.eval_shape(rule.update, state, batch, key)
        scores = jax.eval_shape(rule.predict, state, batch.x)
        assert (scores.shape, scores.dtype) == ((len(batch.y), CLASSES), jnp.float32)
        assert (metrics["loss"].shape, metrics["loss"].dtype) == ((), jnp.float32)
        if "layer_loss" in metrics:
            layers = 1 if schedule == "stages" else len(net) + (schedule == "deep" or readout)  # and the output layer
            assert metrics["layer_loss"].shape == (layers,)
        assert isinstance(state, tuple)
        assert state._fields[:2] == ("params", "opt_state")
        assert signature(new) == signature(state)


def test_layer_losses_sum_to_the_loss(looped):
    weight = getattr(looped.rule.update, "keywords", {}).get("auxiliary_weight", 1.0)
    if "layer_loss" in looped.metrics:
        *others, last = looped.metrics["layer_loss"]
        np.testing.assert_allclose(last + weight * sum(others), looped.metrics["loss"], rtol=1e-6)
    assert looped.metrics["loss"] > 0


def test_a_state_holds_arrays_only(looped):
    for state in (looped.starts[0], looped.ends[0]):
        leaves = jax.tree.leaves(state)
        assert leaves
        assert all(isinstance(leaf, jax.Array) for leaf in leaves)
        assert not any(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in leaves)


# --- tracing ---------------------------------------------------------------------------------------------------------


def test_one_trace_serves_two_steps_and_two_learning_rates(case, batch, key):
    traces = []

    @jax.jit
    def step(state, batch, key, rate):
        traces.append(rate)
        return case(rate).update(state, batch, key)

    state, ends = jax.jit(case().init)(key, batch.x), []
    for rate in (0.1, 0.2):
        once, _ = step(state, batch, key, rate)
        twice, _ = step(once, batch, key, rate)
        ends.append(twice)
        assert moved(state, once)
        assert moved(once, twice)
    assert moved(*ends)  # the rate is not a constant of the program
    assert len(traces) == 1


def test_control_an_optimizer_closed_over_is_traced_anew_for_every_value(case, batch, key):
    traces = []

    @partial(jax.jit, static_argnums=0)
    def step(rule, state, batch, key):
        traces.append(rule)
        return rule.update(state, batch, key)

    for rate in (0.1, 0.2):
        rule = case(rate)
        step.trace(rule, jax.eval_shape(rule.init, key, batch.x), batch, key)
    assert len(traces) == 2


@pytest.mark.parametrize("name", fwdonly.RULES)
def test_equal_nets_built_anew_share_one_trace(name, net_name, batch, key):
    traces = []

    @partial(jax.jit, static_argnums=0)
    def step(net, state, batch, key):
        traces.append(net)
        rule = fwdonly.RULES[name].rule(net, optax.sgd(0.1), num_classes=CLASSES)
        return rule.update(state, batch, key)

    wider = {"mlp": nets.mlp([6, 12]), "cnn": nets.cnn([3, 9])}[net_name]
    for net, expected in [(NETS[net_name](), 1), (NETS[net_name](), 1), (wider, 2)]:
        init = partial(fwdonly.RULES[name].init, net=net, tx=optax.sgd(0.1), num_classes=CLASSES)
        step.trace(net, jax.eval_shape(init, key, batch.x), batch, key)
        assert len(traces) == expected


# --- loops -----------------------------------------------------------------------------------------------------------


def scanned(rule, batches, state):
    return jax.lax.scan(lambda s, batch: rule.update(s, batch, jax.random.key(0)), state, batches)[0]


def test_scan_equals_a_python_loop(looped):
    end = jax.jit(partial(scanned, looped.rule, looped.batches))(looped.starts[1])
    assert_close(end, looped.ends[1])


def test_vmap_over_seeds_equals_a_python_loop(looped):
    starts = jax.jit(jax.vmap(looped.rule.init, in_axes=(0, None)))(looped.keys, looped.batches.x[0])
    ends = jax.jit(jax.vmap(partial(scanned, looped.rule, looped.batches)))(starts)
    # PEPITA, FF (SymBa) and SPSA learn from small differences, whose rounding Adam makes the size of a step.
    atol = {pepita.State: 1e-4, ff.State: 1e-5, zeroth_order.State: 1e-4}.get(type(starts), 1e-6)
    assert_close(ends, jax.tree.map(lambda *leaves: np.stack(leaves), *looped.ends), atol)


@pytest.mark.parametrize(("module", "form"), [(mf, "joint"), (bp, "deep")], ids=["mf_joint", "bp_deep"])
def test_the_auxiliary_weight_may_be_traced_and_vmapped(module, form, batch, key):
    options, traces = {"net": nets.mlp([6, 9]), "tx": optax.sgd(0.1)}, []

    def stepped(weight):
        traces.append(weight)
        rule = module.rule(num_classes=CLASSES, **options, **(FORMS[form] | {"auxiliary_weight": weight}))
        return rule.update(rule.init(key, batch.x), batch, key)[0].params

    weights, step = jnp.array([0.0, 0.5, 2.0]), jax.jit(stepped)
    singles = [step(weight) for weight in weights]
    assert len(traces) == 1
    assert_close(jax.jit(jax.vmap(stepped))(weights), jax.tree.map(lambda *leaves: np.stack(leaves), *singles))
    assert not any(equal(*pair) for pair in itertools.pairwise(singles))


def test_donating_the_state_changes_nothing(looped):
    update = jax.jit(looped.rule.update, donate_argnums=0)
    start = jax.tree.map(jnp.copy, looped.starts[0])
    end, _ = loop(update, start, looped.batches)
    assert any(leaf.is_deleted() for leaf in jax.tree.leaves(start))  # it was donated indeed
    assert_close(end, looped.ends[0])


# --- gradients -------------------------------------------------------------------------------------------------------


class Seen(NamedTuple):
    """The optimizer's state is what it was last given to descend; not a number before the first step."""

    gradients: object


def spy():
    """Plain descent that keeps the gradients it was given."""
    return optax.GradientTransformation(
        lambda params: Seen(jax.tree.map(lambda a: jnp.full_like(a, jnp.nan), params)),
        lambda gradients, state, params=None: (jax.tree.map(lambda g: -0.1 * g, gradients), Seen(gradients)),
    )


def seen(opt_state):
    """Leaves of all gradients that a `spy` was given."""
    kept = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, Seen))
    leaves = jax.tree.leaves([node for node in kept if isinstance(node, Seen)])
    return [leaf for leaf in leaves if not np.isnan(leaf).any()]


FIELDS = {"ff": ("m",), "cafo": ("statistics",), "pepita": ("F",), "foton": ("F",), "feedback": ("B",)}
FIELDS |= {"phyll": ("xi", "phases")}
"""Of the state, that a module's ``grads`` takes as keywords."""

DIRECTIONS = [
    ("bp", {}),
    ("bp", {"readouts": "deep", "auxiliary_weight": 0.5}),
    ("bp", {"readouts": "sum"}),
    ("bp", {"hidden": "frozen"}),
    ("mf", {}),
    ("mf", {"layer": 2}),
    ("mf", {"gradient": "joint", "auxiliary_weight": 0.5}),
    ("ff", {}),
    ("ff", {"loss": "logistic", "first": 1, "peer": 0.1}),
    ("cafo", {}),
    ("cafo", {"part": 2, "loss": "sl", "head_bias": True, "eps": 0.1}),
    ("cwc", {}),
    ("pepita", {}),
    ("pepita", {"form": "hebbian", "dropout": 0.3}),
    ("pepita", {"feedback": "mirrored", "sign": -1.0}),
    ("foton", {}),
    ("foton", {"temperature": 4.0, "presynaptic": "modulated"}),
    *(("feedback", {"mode": mode}) for mode in get_args(feedback.Mode)),
    ("feedback", {"mode": "brsf", "readout_init": nets.orthogonal, "output": "sigmoid"}),
    ("forward_gradient", {}),
    ("forward_gradient", {"loss": "global", "readout": "estimated"}),
    ("zeroth_order", {}),
    ("deeperforward", {}),
    ("scff", {}),
]


def directed(name, options, tx, batch):
    """The rule, its state after one step, and its module's ``grads`` of a state."""
    net, module = nets.mlp([6, 9]), fwdonly.RULES[name]
    rule = module.rule(net, tx, num_classes=CLASSES, **options)
    state = jax.jit(rule.update)(jax.jit(rule.init)(jax.random.key(3), batch.x), batch, jax.random.key(4))[0]
    own = {"net": net} | options | ({"num_classes": CLASSES} if name in ("cwc", "deeperforward") else {})

    def of_module(state, batch, key):
        fields = {field: getattr(state, field) for field in FIELDS.get(name, ())}
        return module.grads(state.params, batch, key, **own, **fields)

    return rule, state, of_module


@pytest.mark.parametrize(
    ("name", "options"), DIRECTIONS, ids=[f"{name}-{at}" for at, (name, _) in enumerate(DIRECTIONS)]
)
def test_a_rules_gradients_are_its_modules_and_what_its_update_descends(name, options, batch, key):
    rule, state, of_module = directed(name, options, spy(), batch)
    found, metrics = jax.jit(rule.grads)(state, batch, key)
    want, expected = jax.jit(of_module)(state, batch, key)
    fresh = state._replace(opt_state=jax.jit(rule.init)(key, batch.x).opt_state)
    new, of_update = jax.jit(rule.update)(fresh, batch, key)
    assert equal((found, metrics), (want, expected)) and jax.tree.structure(found) == jax.tree.structure(want)
    assert_close(jax.tree.leaves(found), seen(new.opt_state))
    assert_close(metrics, {of: of_update[of] for of in metrics})
    other = jax.jit(rule.grads)(state, batch._replace(y=(batch.y + 1) % CLASSES), key)[0]  # the control
    assert not all(np.allclose(*pair) for pair in zip(jax.tree.leaves(found), jax.tree.leaves(other), strict=True))


def test_the_gradients_of_cascaded_forwards_blocks_are_those_of_dfa(batch, key):
    rule = cafo.stages(nets.mlp([6, 9]), optax.sgd(0.1), num_classes=CLASSES, block_tx=spy())[0]
    state = rule.init(key, batch.x)
    found, metrics = jax.jit(rule.grads)(state, batch, key)
    new, expected = jax.jit(rule.update)(state, batch, key)
    assert_close(jax.tree.leaves(found), seen(new.opt_state))
    assert_close(metrics, expected)
    assert found.heads == (None, None)


@pytest.mark.parametrize(("name", "schedule"), SCHEDULES)
def test_any_rule_is_compared_with_backpropagation(name, schedule, batch, key):
    for rule in make_rules(name, schedule, nets.mlp([6, 9])):
        state = jax.jit(rule.init)(key, batch.x)
        _, metrics = jax.jit(fwdonly.measure.with_alignment(rule).update)(state, batch, key)
        gradients, _ = jax.eval_shape(rule.grads, state, batch, key)
        trained = [leaf for leaf in jax.tree.leaves(gradients) if leaf.ndim > 1]
        assert metrics["cosine"].shape == metrics["norm_ratio"].shape
        assert 1 <= len(metrics["cosine"]) <= len(trained)
        assert (np.abs(metrics["cosine"]) < 1 + 1e-5).all()
        if name == "bp":
            np.testing.assert_allclose(metrics["cosine"][-1], 1, rtol=1e-5)
    with pytest.raises(UsageError, match="no grads"):
        fwdonly.measure.with_alignment(rule._replace(grads=None))


# --- seeds -----------------------------------------------------------------------------------------------------------


def test_the_key_decides_the_start(looped):
    again = looped.rule.init(looped.keys[0], looped.batches.x[0])
    assert equal(again, looped.starts[0])
    assert moved(again, looped.starts[1])


def test_equal_keys_give_equal_blocks_to_every_rule(net_name, batch, key):
    options = {"net": NETS[net_name](), "tx": optax.sgd(0.1), "num_classes": CLASSES}
    local, glob = (module.init(key, batch.x, **options).params for module in (mf, bp))
    others = (module.init(key, batch.x, **options).params for module in (ff, cafo, cwc, deeperforward))
    assert equal(scff.init(key, batch.x, **options).params[:2], glob.blocks)
    for module in (pepita, feedback):
        assert equal(list(module.init(key, batch.x, **options).params.blocks), list(glob.blocks))
    orthonormal = {"mlp": nets.mlp, "cnn": nets.cnn}[net_name]([6, 3], kernel_init=nets.orthogonal)  # FOTON makes it so
    both = (module.init(key, batch.x, **options | {"net": orthonormal}).params.blocks for module in (foton, bp))
    assert_close(list(next(both)), list(next(both)))
    for own in (next(others), next(others).blocks, next(others)):
        blocks = [layer["params"]["block"] if isinstance(layer, dict) else layer.block for layer in own]
        assert equal(blocks, list(glob.blocks))
    with_input = mf.init(key, batch.x, input_readout=True, **options).params
    other = bp.init(jax.random.key(8), batch.x, **options).params
    assert equal([layer.block for layer in local], list(glob.blocks))
    assert equal(local, with_input[1:])
    assert not equal(glob.blocks, other.blocks)


@pytest.mark.parametrize("name", fwdonly.RULES)
def test_every_layer_has_a_random_stream_of_its_own(name, batch, key):
    module, x = fwdonly.RULES[name], batch.x.reshape(6, 64)[:, :5]

    def starts(*widths):  # (layer, leaf) -> numbers
        params = module.init(key, x, net=nets.mlp(widths), tx=optax.sgd(0.1), num_classes=CLASSES).params
        drawn = [np.asarray(leaf) for leaf in jax.tree.leaves(params) if leaf.any() and not (leaf == 1).all()]
        return sorted(drawn, key=np.size, reverse=True)  # weights first, in their order

    alike = starts(6, 6, 6)
    for at, one in enumerate(alike):
        assert not any(np.array_equal(one, other) for other in alike[at + 1 :])
    np.testing.assert_array_equal(
        starts(6)[0], alike[[a.shape for a in alike].index((5, 6))]
    )  # whatever stands above it


# --- docstrings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", fwdonly.RULES)
def test_grads_says_what_it_must(name):
    doc = fwdonly.RULES[name].grads.__doc__
    assert all(word in doc for word in ("Held constant", "Example", "Deviations"))


@pytest.mark.parametrize("name", fwdonly.RULES)
def test_doctests_run(name):
    module = fwdonly.RULES[name]
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner()
    attempted = {}
    # Function by function, for doctest's own search passes over functions that the type checker has wrapped.
    for found, function in vars(module).items():
        if callable(function) and getattr(function, "__module__", None) == module.__name__:
            for example in finder.find(function, found, module=False, globs={}):
                attempted[found] = runner.run(example).attempted
    assert runner.summarize(verbose=False).failed == 0
    assert attempted["grads"] > 0


# --- bad input -------------------------------------------------------------------------------------------------------

TX, VECTORS, IMAGES = optax.sgd(0.1), jnp.ones((2, 5)), jnp.ones((2, 4, 4, 1))


def build(name, net, x=VECTORS, num_classes=CLASSES):
    """Start a rule, as a caller would."""
    return fwdonly.RULES[name].rule(net, TX, num_classes=num_classes).init(jax.random.key(0), x)


@pytest.mark.parametrize("name", fwdonly.RULES)
def test_bad_networks_and_classes_are_refused_in_one_line(name):
    refused(lambda: build(name, nets.mlp([4]), num_classes=1))
    refused(lambda: build(name, nets.mlp([4]), num_classes=0))
    refused(lambda: build(name, ()))
    refused(lambda: build(name, nets.cnn([3])))  # on vectors
    refused(lambda: build(name, nets.cnn([3, 3, 3]), IMAGES))  # pooled to nothing
    refused(lambda: build(name, (*nets.mlp([6]), *nets.cnn([3])), IMAGES))
    jax.eval_shape(lambda: build(name, nets.cnn([3, 3]), IMAGES))  # the control: two poolings fit


@pytest.mark.parametrize(
    "make",
    [
        lambda: nets.mlp([]),
        lambda: nets.mlp([0]),
        lambda: nets.mlp([3, -1]),
        lambda: nets.cnn([]),
        lambda: nets.cnn([0]),
    ],
)
def test_empty_layers_are_refused_in_one_line(make):
    refused(make)


@pytest.mark.parametrize(
    "options",
    [
        {"prediction": "mean"},
        {"sum_includes_input": True, "prediction": "sum"},
        {"sum_includes_input": True, "input_readout": True},
        {"layer": 3},
        {"layer": 0},
        {"layer": -1, "input_readout": True},
        {"gradient": "global"},
        {"gradient": "joint", "layer": 1},
        {"auxiliary_weight": 0.5},
        {"auxiliary_weight": jnp.ones(())},
        {"losses": "first"},
        {"losses": "last", "layer": 1},
        {"losses": "last", "input_readout": True},
        {"losses": "last", "gradient": "joint", "auxiliary_weight": 0.5},
        {"readout": "fixed", "input_readout": True},
        {"readout_pool": -1},
    ],
    ids=str,
)
def test_bad_mf_options_are_refused_in_one_line(options):
    unchecked = inspect.unwrap(mf.rule)  # past the type checker of this session, which refuses "mean" as well
    refused(lambda: unchecked(nets.mlp([4, 4]), TX, num_classes=CLASSES, **options))
    mf.rule(nets.mlp([4, 4]), TX, num_classes=CLASSES, prediction="sum", sum_includes_input=True, input_readout=True)
    mf.rule(nets.mlp([4, 4]), TX, num_classes=CLASSES, layer=0, input_readout=True)
    mf.rule(nets.mlp([4, 4]), TX, num_classes=CLASSES, gradient="joint", auxiliary_weight=0.5)


def test_options_of_the_ladder_that_do_not_fit_are_refused_in_one_line(batch, key):
    options = {"net": nets.mlp([4, 4]), "tx": TX}
    unchecked = inspect.unwrap(bp.rule)
    for bad in ({"readouts": "all"}, {"auxiliary_weight": 0.5}, {"readouts": "sum", "auxiliary_weight": 0.0}):
        refused(lambda bad=bad: unchecked(num_classes=CLASSES, **options, **bad))
    refused(lambda: mf.stages(num_classes=CLASSES, gradient="joint", **options))
    local, plain, deep = (
        bp_or_mf.init(key, batch.x, num_classes=CLASSES, **options, **more)
        for bp_or_mf, more in ((mf, {}), (bp, {}), (bp, {"readouts": "deep"}))
    )
    refused(lambda: mf.update(local, batch, key, gradient="joint", layer=1, **options))
    refused(lambda: mf.update(local, batch, key, auxiliary_weight=0.5, **options))
    refused(lambda: bp.update(plain, batch, key, readouts="deep", **options))  # there are no M_l
    refused(lambda: bp.predict(plain, batch.x, net=options["net"], readouts="sum"))
    bp.update(deep, batch, key, readouts="deep", auxiliary_weight=0.5, **options)  # the control
    bp.predict(deep, batch.x, net=options["net"], readouts="sum")


LABELLED = [(name, {}) for name in fwdonly.RULES] + [
    ("mf", {"gradient": "joint"}),
    ("mf", {"layer": 2}),
    ("bp", {"readouts": "deep"}),
    ("bp", {"readouts": "sum"}),
    ("bp", {"hidden": "frozen"}),
    ("cafo", {"loss": "mse"}),
    ("cafo", {"loss": "sl"}),
    ("cafo", {"part": 1}),
    ("cafo", {"part": "blocks", "block_tx": TX}),
    ("pepita", {"form": "hebbian"}),
    ("pepita", {"form": "time_local"}),
    ("feedback", {"mode": "drtp", "output": "sigmoid"}),
]
"""Rules and those of their forms that have a loss of their own."""


@pytest.fixture(params=LABELLED, ids=lambda own: "_".join([own[0], *(str(v) for v in own[1].values() if v != TX)]))
def labelled(request, batch, key):
    """A rule and a state of it."""
    name, options = request.param
    rule = fwdonly.RULES[name].rule(nets.mlp([6, 3]), TX, num_classes=CLASSES, **options)
    return rule, jax.tree.map(lambda a: jnp.ones(a.shape, a.dtype), jax.eval_shape(rule.init, key, batch.x))


UNUSABLE = {
    "none": None,
    "floats": jnp.ones(6),
    "too few": jnp.array([0, 1]),
    "too high": jnp.array([0, 1, 2, 0, 1, 3]),
    "negative": jnp.array([0, 1, -1, 0, 1, 2]),
    "a column": jnp.ones((6, 1), int),
}


def test_batches_that_no_rule_can_use_are_refused_in_one_line(labelled, batch, key):
    """Small batches of uneven data have one class by chance: the data set is checked, not every batch."""
    rule, state = labelled
    for y in UNUSABLE.values():
        refused(lambda y=y: rule.update(state, Batch(batch.x, y), key))
        refused(lambda y=y: rule.grads(state, Batch(batch.x, y), key))
    rule.update(state, batch._replace(y=jnp.ones(6, int)), key)  # the control: one class will do
    jax.jit(lambda state: rule.update(state, batch, key)).trace(state)  # known, but within a traced function
    empty, single = (jax.tree.map(lambda a, at=at: a[at], batch) for at in (slice(0), 0))
    assert refused(lambda: rule.update(state, empty, key)) == "the batch is empty; give it at least one sample"
    line = "a batch has samples along its first axis; give a single sample as x[None], y[None]"
    assert refused(lambda: rule.update(state, single, key)) == line


@pytest.mark.parametrize(
    ("y", "found"),
    [
        (np.ones(6, np.float32), "float32[6]: pass y.astype(int)"),
        (np.ones(6, bool), "bool[6]: pass y.astype(int)"),
        (np.eye(6), "float64[6, 6]: pass y.argmax(1), if they are one-hot"),
        (np.ones((6, 1), int), "int64[6, 1]: pass y[:, 0]"),
        (np.array(["a"] * 6), "<U1[6]: number the classes, as data.from_arrays does"),
        ([0] * 6, "list[]: pass jnp.asarray(y)"),
        (np.zeros(5, int), "int64[5]"),
        (None, "none"),
    ],
)
def test_labels_of_a_wrong_form_are_refused_with_their_mend(y, found, batch):
    words = f"a batch needs integer labels of shape (6,), one per sample; got {found}"
    assert refused(lambda: base.check_labels(Batch(batch.x, y), CLASSES)) == words


def test_labels_that_no_compiled_function_sees_make_the_loss_nan(labelled, batch, key):
    """-1 is JAX's last class, and 3 of 3 is none: an update that is compiled must show either of them."""
    rule, state = labelled
    compiled = [jax.jit(f) for f in (rule.update, rule.grads)]
    for bad in (-1, CLASSES, 2**31 - 1):
        for f in compiled:
            assert np.isnan(f(state, Batch(batch.x, batch.y.at[4].set(bad)), key)[1]["loss"])
    if rule.frozen is not None:
        features = rule.frozen.features(state, batch.x)
        frozen = jax.jit(rule.frozen.update)
        assert np.isnan(frozen(state, Batch(features, batch.y.at[4].set(-1)), key)[1]["loss"])
    sound, seen = jax.jit(rule.update)(state, batch, key)[1], rule.update(state, batch, key)[1]
    assert np.isfinite(sound["loss"])
    assert signature(sound) == signature(seen)


@pytest.mark.parametrize(("dtype", "classes"), [("uint8", 256), ("int8", 300), ("uint8", 255), ("int64", 3)])
def test_every_width_of_labels_is_read_under_jit(dtype, classes):
    with jax.enable_x64(dtype == "int64"):
        y = jnp.asarray([0, min(classes - 1, jnp.iinfo(dtype).max), 1], dtype)
        check = jax.jit(lambda y: base.check_labels(Batch(jnp.ones((3, 2)), y), classes))
        assert check(y) == 0
        assert classes > jnp.iinfo(dtype).max or np.isnan(check(y.at[1].add(1)))


@pytest.mark.parametrize("module", [bp, mf, ff, cafo, cwc], ids=lambda module: module.__name__)
def test_a_network_without_layers_is_refused_where_states_are_drawn(module):
    with pytest.raises(UsageError, match="the network has no hidden layer"):
        module.init(jax.random.key(0), VECTORS, net=(), tx=TX, num_classes=3)


POOLED = nets.cnn([3], pool="max")
PAIR = Batch(IMAGES, jnp.array([0, 1]))
WITHOUT_A = cafo.init(jax.random.key(0), VECTORS, net=nets.mlp([4]), tx=TX, num_classes=3)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ff.rule(nets.mlp([4]), TX, num_classes=6).init(jax.random.key(0), VECTORS),
        lambda: ff.rule(nets.cnn([4]), TX, num_classes=3, label="append").init(jax.random.key(0), IMAGES),
        lambda: ff.rule(nets.mlp([4]), TX, num_classes=3, negatives="hybrid"),
        lambda: ff.rule(nets.mlp([4]), TX, num_classes=3, loss="hinge"),
        lambda: ff.rule(nets.mlp([4]), TX, num_classes=3, goodness="max"),
        lambda: ff.rule(nets.mlp([4]), TX, num_classes=3, first=0),
        lambda: ff.rule(nets.mlp([4]), TX, num_classes=3, pear=0.1),
        lambda: ff.rule(POOLED, TX, num_classes=3, peer=0.03),
        lambda: cafo.rule(POOLED, TX, num_classes=3, loss="hinge"),
        lambda: cafo.rule(POOLED, TX, num_classes=3, loss="mse", head_bias=True),
        lambda: cafo.rule(POOLED, TX, num_classes=3, part=2),
        lambda: nets.cnn([3], pool="avg")[0].init(jax.random.key(0), IMAGES),
        lambda: nets.cnn([3], bias="unifrom")[0].init(jax.random.key(0), IMAGES),
        lambda: cafo.predict(WITHOUT_A, VECTORS, net=nets.mlp([4]), part="blocks"),
        lambda: cafo.update(WITHOUT_A, PAIR, jax.random.key(0), net=nets.mlp([4]), tx=TX, part="blocks", block_tx=TX),
        lambda: ff.update(
            *(ff.rule(POOLED, TX, num_classes=3).init(jax.random.key(0), IMAGES), PAIR, jax.random.key(0)),
            **{"net": POOLED, "tx": TX, "peer": 0.03},
        ),
        lambda: cafo.rule(POOLED, TX, num_classes=3, part="blocks"),
        lambda: cafo.rule(POOLED, TX, num_classes=3, rigde=0.1),
        lambda: cwc.rule(nets.cnn([4]), TX, num_classes=3).init(jax.random.key(0), IMAGES),
        lambda: nets.cwc([20, 25], 10),
    ],
)
def test_bad_options_of_ff_cafo_and_cwc_are_refused_in_one_line(make, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # or it would speak first
    refused(make)


def test_control_options_that_fit_are_taken():
    ff.rule(nets.mlp([4]), TX, num_classes=5).init(jax.random.key(0), VECTORS)  # a label of all inputs
    ff.rule(nets.mlp([4]), TX, num_classes=6, label="append").init(jax.random.key(0), VECTORS)
    ff.rule(POOLED, TX, num_classes=3)  # without peer normalisation, which it cannot have
    cafo.rule(POOLED, TX, num_classes=3, part=1)


class Weighted(NamedTuple):
    W: jax.Array
    b: jax.Array


W, B = jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([5.0, 6.0])


@pytest.mark.parametrize(
    ("params", "layers"),
    [(W, 1), ({"W": W, "b": B}, 1), (Weighted(W, B), 1), ([W, B], 2), ((Weighted(W, B), {"W": W}), 2)],
    ids=["an array", "a dict", "a layer", "a list", "a tuple of layers"],
)
def test_alignment_takes_the_parameters_of_a_users_rule(params, layers):
    """At gradients that are twice those of backpropagation: cosine 1, ratio 2."""

    class State(NamedTuple):
        params: object
        opt_state: object = None

    def predict(state, x):
        leaves = jax.tree.leaves(state.params)
        return x @ sum(leaf if leaf.ndim == 2 else leaf[None] for leaf in leaves)

    batch = Batch(jnp.array([[1.0, 0.5], [-1.0, 2.0], [0.3, 0.1]]), jnp.array([0, 1, 0]))
    exact = jax.grad(lambda p: base.cross_entropy(predict(State(p), batch.x), batch.y))(params)
    angles = fwdonly.alignment(predict, State(params), jax.tree.map(lambda g: 2 * g, exact), batch)
    np.testing.assert_allclose(angles.cosine, np.ones(layers), rtol=1e-6)
    np.testing.assert_allclose(angles.norm_ratio, np.full(layers, 2.0), rtol=1e-6)


def test_foton_refuses_every_pooling_that_is_not_linear(monkeypatch):
    maxima = nets.POOLINGS["max"].function
    monkeypatch.setitem(nets.POOLINGS, "largest", nets.POOLINGS["max"]._replace(function=maxima))
    for name, pooling in nets.POOLINGS.items():
        x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, 4, 1)), jnp.float32)
        signs = np.allclose(pooling.function(-x), -pooling.function(x))  # what is linear turns its sign with its input
        assert signs == pooling.is_linear
        net = nets.cnn([2], pool=name)
        if pooling.is_linear:
            foton.rule(net, optax.sgd(0.1), num_classes=2)
        else:
            with pytest.raises(UsageError, match=f"block 1 pools by {name}, which is not linear"):
                foton.rule(net, optax.sgd(0.1), num_classes=2)


@pytest.mark.parametrize("statistics", ["examples", "identity"])
def test_cascaded_forward_with_every_option_named_is_compared_with_backpropagation(statistics, batch, key):
    """As commands make it: the option names what `init` computes, and the state has it then."""
    options = cafo.Options(statistics=statistics)._asdict()
    rule = cafo.rule(nets.mlp([6, 9]), optax.sgd(0.1), num_classes=CLASSES, **options)
    state = jax.jit(rule.init)(key, batch.x)
    metrics = jax.jit(fwdonly.measure.with_alignment(rule).update)(state, batch, key)[1]
    assert metrics["cosine"].shape == (2,) and np.isfinite(metrics["cosine"]).all()
    got = rule.grads(state, batch, key)[0].heads
    want = cafo.grads(state.params, batch, key, net=nets.mlp([6, 9]), statistics=state.statistics)[0].heads
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one.V, other.V, rtol=1e-5, atol=1e-7)


def test_alignment_takes_all_of_a_layer_but_its_readout():
    """Scale and shift of CwC count, M of Mono-Forward and U of Forward-Forward do not; the vector is written out."""
    x = jnp.array([[1.0, 0.5], [-1.0, 2.0], [0.3, 0.1]])
    batch = Batch(x, jnp.array([0, 1, 0]))

    class State(NamedTuple):
        params: object
        opt_state: object = None

    class Scaled(NamedTuple):
        block: object
        gamma: object
        beta: object

    def angles_where_one_part_is_turned(layer, predict, name):
        exact = jax.grad(lambda p: base.cross_entropy(predict(State(p), x), batch.y))((layer,))
        turned = (exact[0]._replace(**{name: -getattr(exact[0], name)}),)
        parts = {n: np.asarray(v, np.float64) for n, v in exact[0]._asdict().items()}
        return fwdonly.alignment(predict, State((layer,)), turned, batch).cosine, parts

    def scaled(state, x):
        (layer,) = state.params
        return x @ layer.block * layer.gamma[None] + layer.beta[None]

    def read(state, x):
        (layer,) = state.params
        return jnp.tanh(x @ layer.block) @ next(m for m in layer if m is not layer.block)

    cosine, parts = angles_where_one_part_is_turned(Scaled(W, B, B - 1), scaled, "gamma")
    square = {name: (value**2).sum() for name, value in parts.items()}
    want = (square["block"] + square["beta"] - square["gamma"]) / sum(square.values())
    assert abs(want) < 0.999  # the control: gamma is seen
    np.testing.assert_allclose(cosine, [want], rtol=1e-5)
    for layer, name in ((mf.Layer(W, W), "M"), (ff.Layer(W, W), "U")):
        np.testing.assert_allclose(angles_where_one_part_is_turned(layer, read, name)[0], [1.0], rtol=1e-6)
