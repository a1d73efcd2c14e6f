"""Local by its definition: what happens in deeper layers changes nothing in a layer. BP is the control.

So are PEPITA, FOTON and feedback alignment, which need the output's error; that PEPITA and FOTON need no automatic
differentiation is shown in `test_equations_two_pass`.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fwdonly
from fwdonly import Batch, base, bp, cafo, ff, mf

CLASSES = 3


def layers_of(params):
    """The parameters (or gradients, or updates) of a rule by layer, the output layer of BP last.

    Of Cascaded-Forward, where blocks are fixed, these are the heads; of Forward-Forward the blocks, since its head is
    one softmax over all layers. A readout of BP belongs to its block.
    """
    if hasattr(params, "W"):
        M = getattr(params, "M", None)
        blocks = params.blocks if M is None else zip(params.blocks, M, strict=True)
        return [*blocks, (params.W, params.b)]
    if isinstance(params, cafo.Params):
        return list(params.heads)
    return [own.block if isinstance(own, ff.Layer) else own for own in params]


def put_layers(params, layers):
    """The inverse: parameters with the given layers."""
    if isinstance(params, bp.Params) and params.M is not None:
        blocks, M = zip(*layers[:-1], strict=True)
        return bp.Params(blocks, *layers[-1], M)
    if hasattr(params, "W"):
        return type(params)(tuple(layers[:-1]), *layers[-1])
    if isinstance(params, cafo.Params):
        return params._replace(heads=tuple(layers))
    pairs = zip(params, layers, strict=True)
    return tuple(own._replace(block=layer) if isinstance(own, ff.Layer) else layer for own, layer in pairs)


LOCAL = [
    ("mf", {}),
    ("mf", {"input_readout": True}),
    ("ff", {"negatives": "uniform"}),  # hard ones are drawn by a head that reads all layers
    ("ff", {"negatives": "uniform", "loss": "logistic", "first": 1}),
    ("cafo", {}),
    ("cafo", {"loss": "sl"}),
    ("cwc", {}),
    ("deeperforward", {}),
    ("scff", {}),
    ("scff", {"pairs": ("anew", "carried")}),
    ("feedback", {"mode": "drtp"}),
    ("forward_gradient", {}),
    ("forward_gradient", {"perturb": "weights", "readout": "estimated"}),
    ("phyll", {"inner_steps": 1}),
]
GLOBAL = [("bp", {}), ("pepita", {}), ("foton", {}), ("feedback", {"mode": "fa"})]  # all of them use the output's error
GLOBAL += [("forward_gradient", {"loss": "global"}), ("zeroth_order", {})]
GLOBAL += [("mf", {"gradient": "joint"}), ("bp", {"readouts": "deep"}), ("bp", {"readouts": "sum"})]
CASES = [pytest.param(*case, id="_".join([case[0], *map(str, case[1].values())])) for case in LOCAL + GLOBAL]
TX = optax.adam(0.01)
FIXED = {"F": "pepita, foton", "B": "feedback", "xi": "phyll", "phases": "phyll"}
"""Feedback and other fixed numbers by the name it has in a state and as an argument of ``grads``."""
pytestmark = [
    pytest.mark.filterwarnings("ignore::fwdonly.foton.ExpansionWarning"),
    pytest.mark.filterwarnings("ignore::fwdonly.feedback.UnboundedWarning"),
]


def noise(tree, seed):
    """``tree`` with random numbers of the size of parameters added to every leaf, none of them constant shifts."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: a + jnp.asarray(rng.normal(size=a.shape), a.dtype), tree)


def equal(one, other):
    """Exactly equal in every leaf."""
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def start(module, net, batch, key, tx=TX, **options):
    """A state of random parameters; every optimizer here starts at zero."""
    init = partial(module.init, net=net, tx=tx, num_classes=CLASSES, **options)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(init, key, batch.x))
    fixed = {name: noise(getattr(zeros, name), 5) for name in FIXED if name in zeros._fields}
    return zeros._replace(params=noise(zeros.params, 1), **fixed)


@pytest.fixture
def case(name, options, net, batch, key):
    """(state, f): a start state, and f(params, batch) = gradients and updates by layer, compiled once."""
    module = fwdonly.RULES[name]
    state = start(module, net, batch, key, **{k: v for k, v in options.items() if k != "gradient"})
    own = {k: v for k, v in options.items() if k != "input_readout"}
    own |= {"num_classes": CLASSES} if name in ("cwc", "deeperforward", "phyll") else {}

    sent = {what: getattr(state, what) for what, rules in FIXED.items() if name in rules}

    @jax.jit
    def both(params, batch):
        gradient = module.grads(params, batch, key, net=net, **own, **sent)[0]
        stepped = module.update(state._replace(params=params), batch, key, net=net, tx=TX, **own)[0].params
        update = jax.tree.map(jnp.subtract, stepped, params)
        return list(zip(layers_of(gradient), layers_of(update), strict=True))

    return state, both


@pytest.mark.parametrize(("name", "options"), CASES)
def test_layers_see_what_is_below_them_and_no_bit_of_what_is_above(case, name, options, batch):
    """Their gradients and updates. The two halves share a program, which takes most of the time."""
    state, both = case
    before, layers = both(state.params, batch), layers_of(state.params)
    for first in range(1, len(layers)):
        disturbed = [*layers[:first], *noise(layers[first:], 2)]
        after = both(put_layers(state.params, disturbed), batch)
        unchanged = [equal(*pair) for pair in zip(before, after, strict=True)]
        if (name, options) in GLOBAL:  # the control: the layers below feel it, each of them
            assert not any(unchanged)
        else:
            assert unchanged == [at < first for at in range(len(layers))]
    relabelled = batch._replace(y=(batch.y + 1) % CLASSES)
    for other in (Batch(noise(batch.x, 3), batch.y), relabelled):
        after = both(state.params, other)
        unsupervised = (
            len(layers) - 1 if name == "scff" and other is relabelled else 0
        )  # labels reach its readout alone
        assert [equal(*pair) for pair in zip(before, after, strict=True)] == [
            at < unsupervised for at in range(len(layers))
        ]
    first = 1 if options.get("input_readout") else 0  # M_0 is a layer beside the others, not below them
    if name == "cafo":  # heads stand beside each other, on the blocks
        after = both(state.params._replace(blocks=noise(state.params.blocks, 4)), batch)
        assert not any(equal(*pair) for pair in zip(before, after, strict=True))
        return
    after = both(put_layers(state.params, [*layers[:first], noise(layers[first], 4), *layers[first + 1 :]]), batch)
    changed = [not equal(*pair) for pair in zip(before, after, strict=True)]
    assert changed == [at >= first for at in range(len(layers))]


def test_every_rule_is_examined():
    assert {name for name, _ in LOCAL + GLOBAL} == set(fwdonly.RULES)


def test_without_detachment_only_the_last_layer_keeps_its_gradient(net, batch, key):
    params = start(mf, net, batch, key).params

    def summed_losses(params):
        a, total = batch.x, 0.0
        for block, layer in zip(net, params, strict=True):
            a = block.apply(layer.block, a)
            total += base.cross_entropy(a.reshape(len(a), -1) @ layer.M.T, batch.y)
        return total

    joint = jax.jit(jax.grad(summed_losses))(params)
    local = jax.jit(partial(mf.grads, net=net))(params, batch, key)[0]
    for at, (one, other) in enumerate(zip(joint, local, strict=True)):
        last = at == len(net) - 1
        gaps = [np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (one.block, other.block)), strict=True)]
        assert all(gap < 1e-6 if last else gap > 1e-3 for gap in gaps)
        np.testing.assert_allclose(one.M, other.M, atol=1e-6)  # readouts lie on no other layer's path


LIMIT = 1e-3
CLIPPED = optax.chain(optax.clip_by_global_norm(LIMIT), optax.sgd(1.0))


def clipped_updates(module, net, batch, key):
    """The updates of each layer under clipping, and again with the last layer disturbed."""
    state = start(module, net, batch, key, CLIPPED)
    *below, last = layers_of(state.params)
    step = jax.jit(partial(module.update, net=net, tx=CLIPPED))
    for layers in ([*below, last], [*below, noise(last, 2)]):
        params = put_layers(state.params, layers)
        stepped, _ = step(state._replace(params=params), batch, key)
        yield layers_of(jax.tree.map(jnp.subtract, stepped.params, params))


def norms(updates):
    return np.array([optax.tree.norm(update) for update in updates])


def test_clipping_by_global_norm_clips_each_mf_layer_by_itself(net, batch, key):
    updates, disturbed = clipped_updates(mf, net, batch, key)
    np.testing.assert_allclose(norms(updates), LIMIT, rtol=1e-2)
    assert equal(updates[:-1], disturbed[:-1])


def test_control_clipping_by_global_norm_couples_the_layers_of_bp(net, batch, key):
    updates, _ = clipped_updates(bp, net, batch, key)
    np.testing.assert_allclose(np.sqrt((norms(updates) ** 2).sum()), LIMIT, rtol=1e-2)
    assert (norms(updates) < 0.999 * LIMIT).all()


def test_control_one_optimizer_state_over_all_mf_layers_would_couple_them(net, batch, key):
    params = start(mf, net, batch, key, CLIPPED).params
    disturbed = (*params[:-1], noise(params[-1], 2))

    def first_step(params):
        gradient, _ = mf.grads(params, batch, key, net=net)
        stepped, _ = base.descend(CLIPPED, gradient, CLIPPED.init(params), params)
        return jax.tree.map(jnp.subtract, stepped[0], params[0])

    assert not equal(*map(jax.jit(first_step), (params, disturbed)))
