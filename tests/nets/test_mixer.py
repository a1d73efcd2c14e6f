"""MLP-Mixer blocks: their equation, their sizes, their specification, and every rule on them."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference.mixer
from comparing import differ, drawn, jit, near

import fwdonly
from fwdonly import RULES, Batch, UsageError, measure, mf, nets

CLASSES, KEY = 3, jax.random.key(5)
PATCH, TOKENS, HIDDEN, CHANNELS = 2, 5, 8, 6
NET = nets.mixer([CHANNELS] * 2, patch=PATCH, tokens=TOKENS, hidden=HIDDEN, head="mean")
SHAPE, PATCHES = (6, 6, 2), 9
BATCH = Batch(jax.random.normal(KEY, (12, *SHAPE)), jnp.arange(12) % CLASSES)
TAKE = {"bp": {}, "mf": {}, "ff": {}, "cwc": {}, "deeperforward": {}, "zeroth_order": {}}
TAKE |= {"cafo": {"part": "blocks", "block_tx": optax.sgd(0.1)}, "forward_gradient": {"perturb": "weights"}}
"""Rules that take blocks whose parts nobody knows, with the form that trains the blocks."""


def rule_of(name, net=NET, tx=None, **form):
    return RULES[name].rule(net, tx or optax.adam(0.01), num_classes=CLASSES, **form)


@pytest.mark.parametrize(
    ("block", "shape", "form"),
    [
        (NET[0], SHAPE, {"patch": PATCH}),
        (NET[1], (3, 3, CHANNELS), {"head": "mean"}),
        (nets.Mixer(4, 3, 7, patch=3), (6, 3, 2), {"patch": 3}),
    ],
    ids=["first", "last", "a grid of 2x1"],
)
def test_a_mixer_block_equals_the_restatement(float64, block, shape, form):
    x = jax.random.normal(KEY, (2, *shape), jnp.float64)
    params = drawn(jax.eval_shape(block.init, KEY, x)["params"])
    outcome, weights = jit(block.apply)({"params": params}, x), jax.tree.map(np.asarray, params)
    near(outcome, reference.mixer.block(np.asarray(x), weights, **form))
    assert differ(outcome, reference.mixer.block(np.asarray(x), weights, **form, skip=0.0))


def test_parameters_are_as_many_as_the_closed_form_has():
    x = jax.ShapeDtypeStruct((2, *SHAPE), jnp.float32)
    params = jax.eval_shape(lambda x: nets.init(KEY, x, NET)[0], x)
    mixing = 2 * 2 * CHANNELS  # scales and shifts of two norms
    mixing += PATCHES * TOKENS + TOKENS + TOKENS * PATCHES + PATCHES
    mixing += CHANNELS * HIDDEN + HIDDEN + HIDDEN * CHANNELS + CHANNELS
    wanted = [mixing + (PATCH**2 * SHAPE[-1] + 1) * CHANNELS, mixing + 2 * CHANNELS]
    assert [sum(leaf.size for leaf in jax.tree.leaves(block)) for block in params] == wanted


def test_widths_are_those_of_the_papers_networks():
    """Table 1 of arXiv 2105.01601: hidden size, token and channel width of Mixer-S, -B and -L."""
    for channels, hidden, tokens in ((512, 2048, 256), (768, 3072, 384), (1024, 4096, 512)):
        (block,) = nets.mixer([channels])
        assert (block.hidden, block.tokens) == (hidden, tokens)


def test_products_are_counted_and_locality_saves_none_of_them():
    """A scale in front of the first product needs the error behind it, whether or not a layer below needs it, too."""
    stem = PATCHES * PATCH**2 * SHAPE[-1] * CHANNELS
    mixing = 2 * PATCHES * TOKENS * CHANNELS + 2 * PATCHES * CHANNELS * HIDDEN
    blocks = 2 * stem + 2 * 3 * mixing
    readouts = {"bp": 3 * CLASSES * CHANNELS, "mf": 3 * CLASSES * (PATCHES + 1) * CHANNELS}
    for name, of_readouts in readouts.items():
        assert measure.macs(RULES[name], NET, SHAPE, num_classes=CLASSES, batch=4) == 4 * (blocks + of_readouts)
    pooled = measure.macs(mf, NET, SHAPE, num_classes=CLASSES, batch=4, readout_pool=1)
    assert pooled == 4 * (blocks + 3 * CLASSES * 2 * CHANNELS)


def test_readouts_read_maps_their_means_or_the_head():
    for pool, lengths in ((0, [PATCHES * CHANNELS, CHANNELS]), (1, [CHANNELS] * 2)):
        rule = rule_of("mf", readout_pool=pool)
        params = jax.eval_shape(rule.init, KEY, BATCH.x).params
        assert [layer.M.shape for layer in params] == [(CLASSES, length) for length in lengths]


def test_blocks_are_equal_by_value_and_pickle():
    again = pickle.loads(pickle.dumps(NET))
    assert again == NET and hash(again) == hash(NET)
    assert again != nets.mixer([CHANNELS] * 2, patch=PATCH, tokens=TOKENS, hidden=HIDDEN)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("mixer:64,64,64", "Mixer 64-64-64 patch 4"),
        ("mixer:8,8,8,8,8;activation=relu;head=mean;hidden=16;patch=2;start=he_normal;tokens=3",
         "Mixer 5 x 8 patch 2 relu"),
    ],
)  # fmt: skip
def test_a_specification_builds_what_it_describes(text, label):
    spec = nets.parse(text)
    net = spec.build(CLASSES)
    assert str(spec) == text and spec.label == label and nets.parse(str(spec)).build(2) == net
    assert nets.described(net, CLASSES) == text
    assert nets.described((*net, *nets.mlp([3])), CLASSES) is None and nets.described(net[1:], CLASSES) is None
    other = net[1].clone(tokens=7, parent=None)
    assert nets.described((net[0], other, *net[2:]), CLASSES) is None


def test_a_short_specification_is_that_of_the_builder():
    spec = nets.parse("mixer:64x8;patch=4;tokens=32;hidden=128")
    assert spec.build(10) == nets.mixer([64] * 8, patch=4, tokens=32, hidden=128)
    assert nets.parse("mixer:8").build(10) == nets.mixer([8]) and str(nets.parse("mixer:8x2")) == "mixer:8,8"


@pytest.mark.parametrize(
    ("text", "shape", "line"),
    [
        ("mixer:8;patch=0", None, "--net 'mixer:8;patch=0': patch is a whole number from 1; got '0'"),
        ("mixer:8;pool=max", None, "mixer has no option 'pool=max'; its options are activation, start, patch"),
        ("mixer:8;head=sum", None, "head is one of none, mean; got 'sum'"),
        ("mixer:8,6", None, "all blocks of a mixer have the same channels; got (8, 6): write 64x8 for eight of 64"),
        ("mixer:8", (6, 9, 1), "block 1 cannot cut images of 6x9 into patches of 4; patch is one of 1, 3"),
        ("mixer:8", (7,), "block 1 needs images (batch, height, width, channels); it is given (2, 7): use an mlp"),
    ],
)
def test_what_makes_no_mixer_is_one_line(text, shape, line):
    with pytest.raises(UsageError) as refused:
        net = nets.parse(text).build(CLASSES)
        jax.eval_shape(lambda: nets.init(KEY, jnp.ones((2, *(shape or SHAPE))), net))
    assert line in str(refused.value) and "\n" not in str(refused.value)


def test_blocks_that_do_not_fit_each_other_are_one_line():
    """In a network of one's own; and images of another size than in training."""
    with pytest.raises(UsageError, match=r"^block 2 of 4 channels without patch adds its inputs, and they have 6"):
        jax.eval_shape(lambda: nets.init(KEY, BATCH.x, (NET[0], nets.Mixer(4, 3, 7))))
    rule = rule_of("mf")
    state = jax.eval_shape(rule.init, KEY, BATCH.x)
    with pytest.raises(UsageError, match="another shape"):
        jax.eval_shape(rule.predict, state, jnp.ones((2, 8, 8, 2)))


@pytest.mark.parametrize("name", RULES)
def test_every_rule_takes_a_mixer_or_says_in_one_line_why_not(name):
    """Shapes alone: that rules learn is the next test."""
    if name not in TAKE:
        with pytest.raises(UsageError, match="its linear part and its activation apart") as refused:
            jax.eval_shape(rule_of(name).init, KEY, BATCH.x)
        assert "\n" not in str(refused.value)
        return
    rule = rule_of(name, **TAKE[name])
    state = jax.eval_shape(rule.init, KEY, BATCH.x)
    stepped, metrics = jax.eval_shape(rule.update, state, BATCH, KEY)
    assert jax.tree.structure(stepped) == jax.tree.structure(state) and metrics["loss"].shape == ()
    assert jax.eval_shape(rule.predict, state, BATCH.x).shape == (12, CLASSES)


FORMS = {name: (name, form) for name, form in TAKE.items() if name != "zeroth_order"}
FORMS |= {"mf-joint": ("mf", {"gradient": "joint"}), "mf-asge": ("mf", mf.CARD.variants["mf-asge"].options)}
FORMS |= {"mf-pooled": ("mf", {"readout_pool": 1}), "bp-deep": ("bp", {"readouts": "deep"})}
FORMS |= {"bp-lean": ("bp", {"remat": "block", "chunks": 2}), "cafo": ("cafo", {})}


@pytest.mark.parametrize("name", FORMS)
def test_rules_learn_on_a_mixer(name, tiny):
    module, form = FORMS[name]
    images, labels = jnp.asarray(tiny.x_train[:96] / 128.0 - 1.0, jnp.float32), jnp.asarray(tiny.y_train[:96])
    net = nets.mixer([8, 8], patch=3, hidden=16, head="mean" if name == "mf-pooled" else "none")
    rule = RULES[module].rule(net, optax.adam(0.02), num_classes=4, **form)
    start = jax.jit(rule.init)(KEY, images)

    @jax.jit
    def right(y):
        """The share of training images whose label is right after steps on the labels y."""
        keys = jax.random.split(KEY, 40)
        state = jax.lax.scan(lambda s, key: (rule.update(s, Batch(images, y), key)[0], None), start, keys)[0]
        return (rule.predict(state, images).argmax(1) == labels).mean()

    assert right(labels) > 0.8
    assert right((labels + 1) % 4) < 0.2  # the control: it is the labels that are learnt


def test_mf_is_local_on_a_mixer():
    """Another second block changes nothing of the first one's gradient; with MF-Joint it does."""
    for form, is_local in (({}, True), ({"gradient": "joint"}, False)):
        below, above = drawn(jax.eval_shape(rule_of("mf", **form).init, KEY, BATCH.x).params)
        first = jit(lambda params, form=form: mf.grads(params, BATCH, KEY, net=NET, **form)[0][0])
        one, other = (first((below, layer)) for layer in (above, drawn(above, seed=2)))
        assert differ(one, other, 0.0) != is_local


def test_a_comparison_on_a_mixer_is_one_command(command, tmp_path):
    words = ["--dataset", "digits", "--batch-size", "64", "--seeds", 1, "--quiet", "--epochs", 1, "--patience", "None"]
    code, _, err = command("compare", "mf", "bp", *words, "--net", "mixer:12x2", "--output-dir", tmp_path / "c")
    assert code == 0, err
    page = (tmp_path / "c" / "report.html").read_text()
    assert "Mixer 12-12 patch 4" in page and fwdonly.__version__ in page
