r"""Backpropagation (BP), the baseline: the same blocks, one output layer, one global loss.

Rumelhart, Hinton, Williams, *Learning representations by back-propagating errors*, Nature 323, 1986. Start values of
the output layer as in the BP twin of arXiv 2509.19063. ``readouts`` adds the class readouts of Mono-Forward, for the
controls between the two rules: "deep" is deep supervision (BP-DS; Lee et al., *Deeply-supervised nets*, AISTATS 2015),
"sum" one loss of all readouts together. ``hidden="frozen"`` is the control of every rule for hidden layers: they keep
their start values, and the output layer alone learns. ``remat`` and ``chunks`` take less memory for the same gradient:
what the memory of any other rule must be compared with.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from . import nets
from .base import (
    Batch,
    Frozen,
    LearningRule,
    Metrics,
    Net,
    Products,
    Statistics,
    at_state,
    begin,
    check_classes,
    check_labels,
    chosen,
    cross_entropy,
    descend,
    every,
    flat,
    for_prediction,
    needs,
    predicting,
    stepping,
)
from .card import Card, Setting, Stage, Variant
from .errors import UsageError

Readouts = Literal["output", "deep", "sum"]
Hidden = Literal["trained", "frozen"]


class Start(NamedTuple):
    """How the output layer starts."""

    readout_start: Literal["small_normal", "network"] = "small_normal"
    """Start of the output layer: N(0, 0.01^2), or the law of the network's start weights."""
    readout_bias: bool = True
    """Give the output layer a bias."""


class Options(NamedTuple):
    """How one step goes: of a training, and keywords of all functions here, as ``form``."""

    readouts: Readouts = "output"
    """output: the loss of the output layer. deep: BP-DS, deep supervision, with the losses of Mono-Forward's readouts
    added to it. sum: one loss of the sum of the output layer's scores and all readouts', which also predicts."""
    auxiliary_weight: float | Array = 1.0
    """With --readouts deep: factor on the losses of the readouts."""
    hidden: Hidden = "trained"
    """frozen: hidden layers keep their start values; what a rule for hidden layers must beat."""
    batch_norm: bool = False
    """Batch normalisation after every block, with a scale and a shift that learn: the twin of rules that have it."""
    remat: nets.savings.Remat = "none"
    """Outputs to compute again in the backward pass instead of keeping them. block: all within a block. sqrt: all but
    every ceil(sqrt L)-th block's of L; the same gradient for at most one more forward pass."""
    chunks: int = 1
    """Take every batch in so many parts, one after another, and add up their gradients; the same step."""
    label_smoothing: float | Array = 0.0
    """Share eps of every target that goes to all classes alike: (1 - eps) onehot(y) + eps / C."""
    NEEDS = needs("auxiliary_weight", readouts=("deep",))


class Params(NamedTuple):
    """``blocks`` holds W_l and b_l of the hidden layers, with ``batch_norm`` gamma_l and beta_l beside them (see
    `fwdonly.nets.Normalised`); ``W`` (n_L, classes) and ``b`` (classes,) the output layer.

    ``b`` is None where the output layer has no bias, ``M`` where there are no readouts M_l (classes, n_l) beside it.
    """

    blocks: tuple[Any, ...]
    W: Float[Array, "n classes"]
    b: Float[Array, " classes"] | None
    M: tuple[Float[Array, "classes _"], ...] | None = None


class State(NamedTuple):
    """``params``, one optimizer state over all of them (with frozen hidden layers over the output layer's), and the
    ``statistics`` of the blocks that have some (`fwdonly.base.Block`).
    """

    params: Params
    opt_state: Any
    statistics: Statistics = ()


def init(
    key: Array,
    x: Float[Array, "batch *features"],
    *,
    net: Net,
    tx: optax.GradientTransformation,
    num_classes: int,
    readout_init: nets.Initializer = nets.small_normal,
    readout_bias: bool = True,
    **form: Any,
) -> State:
    """Start values: blocks as the network draws them (equal to MF's for one key), output W ~ N(0, 0.01^2), b = 0.

    The readouts M_l of "deep" and "sum" are MF's for one key, too, and change no other start value. ``form`` as of
    `Options`; with ``batch_norm`` gamma and running variance start at 1, beta and running mean at 0.

    Raises:
        UsageError: fewer than two classes, inputs the network cannot take, or a form that does not fit.
    """
    how = _formed(form)
    check_classes(num_classes)
    block_key, readout_key = jax.random.split(key)
    blocks, statistics, activations = nets.init(block_key, x, _normalised(net, how))
    W, b = nets.output.layer(readout_key, activations[-1], num_classes, readout_init, readout_bias)
    M = None if how.readouts == "output" else nets.output.class_readouts(readout_key, activations, num_classes)
    params = Params(blocks, W, b, M)
    return State(params, begin(tx, _trained(params, how.hidden)), statistics)


def grads(
    params: Params,
    batch: Batch,
    key: Array,
    *,
    net: Net,
    statistics: Statistics = (),
    **form: Any,
) -> tuple[Params, Metrics]:
    r"""The gradient of one global loss with respect to every parameter.

    For l = 1..L, with a_0 = x (row vectors, B samples, C classes)::

        a_l = max(0, a_{l-1} W_l + b_l)     s = a_L W + b     loss = -(1/B) sum_b log softmax(s)[b, y_b]    (nats)

    and, with D = (softmax(s) - onehot(y)) / B, dW = a_L^T D, db = sum_b D, the errors travel back as
    ``D_L = (D W^T) * [z_L > 0]``, ``D_{l-1} = (D_l W_l^T) * [z_{l-1} > 0]``, ``dW_l = a_{l-1}^T D_l``.

    With readouts G_l = a_l M_l^T of every hidden layer, and lambda for ``auxiliary_weight``::

        "deep"  loss = CE(s) + lambda sum_l CE(G_l)     D_l = (D_{l+1} W_{l+1}^T + lambda E_l M_l) * [z_l > 0]
        "sum"   loss = CE(s + sum_l G_l)                D_l = (D_{l+1} W_{l+1}^T + D M_l) * [z_l > 0]

    where CE is the loss above of other scores, E_l = (softmax(G_l) - onehot(y)) / B, W_{L+1} is W, and dM_l is
    lambda E_l^T a_l or D^T a_l. "deep" predicts from s, "sum" from its sum.

    With ``batch_norm`` (Ioffe, Szegedy, ICML 2015, arXiv 1502.03167) a_l is ``gamma_l n_l + beta_l``, and for the
    layer's output h_l, per channel::

        n_l = (h_l - mean(h_l)) / sqrt(var(h_l) + 1e-5)     mean and biased variance over the batch and all positions

    Every step moves running statistics by a tenth (``running <- 0.9 running + 0.1 batch``); `predict` takes these in
    the place of the batch's.

    ``remat`` and ``chunks`` change no gradient but by rounding: with parts of B_1..B_c samples it is
    ``sum_j (B_j / B) grad_j``, of the losses that are means over each part (see `fwdonly.nets.savings`).

    Held constant: nothing but the data; with ``hidden="frozen"`` also W_l and b_l of the hidden layers. Taken by
    reverse-mode automatic differentiation of the loss.

    Args:
        params: from `init`, with the same ``readouts``.
        batch: inputs (B, *features) and labels (B,).
        key: of the noise of blocks that have some; BP itself is deterministic.
        net: the hidden layers.
        statistics: of blocks that have some, ``state.statistics``.
        **form: see `Options`; auxiliary_weight and label_smoothing (Szegedy et al., arXiv 1512.00567) may be traced.

    Returns:
        Gradients shaped like ``params`` (None for every frozen block) and the metric ``loss``, and for "deep"
        ``layer_loss`` (L + 1,), never weighted, that of the output layer last; in nats, taken before any update.

    Raises:
        UsageError: labels that are missing or out of range (values are seen outside compiled code only),
            unknown words, readouts that ``params`` have not or of frozen layers, a weight for others than "deep",
            batch normalisation or smoothing of frozen layers, remat beside readouts, or chunks where blocks have
            statistics.

    Example:
        >>> import jax, optax, fwdonly
        >>> net, batch = fwdonly.nets.mlp([8, 8]), fwdonly.Batch(jax.numpy.ones((4, 6)), jax.numpy.array([0, 1, 2, 0]))
        >>> state = fwdonly.bp.init(jax.random.key(0), batch.x, net=net, tx=optax.adam(1e-3), num_classes=3)
        >>> grads, metrics = fwdonly.bp.grads(state.params, batch, jax.random.key(1), net=net)
        >>> grads.W.shape
        (8, 3)

    Deviations:
        * "output" has none.
        * BP-DS follows the re-measurement of 2026 (GitHub Przemyslaw11/BeyondBackpropagation, ``bp_ds.py``): every
          hidden layer has a loss, the last one too, and lambda is 1 unless tuned (between 0.01 and 10). It also trains
          M_0 on the raw input, which no other parameter feels under an element-wise optimizer; here there is none.
        * "sum" is this library's reading of "BP with all of MF's readouts": one loss of their sum, as MF predicts with
          ``prediction="sum"``, and the output layer among them. No publication has it.
        * lambda scales the step of M_l, too, which Adam undoes.
        * ``hidden="frozen"`` is a control and no rule. Weight decay does not reach frozen layers. Blocks with running
          statistics keep those of the start there, and noise is off.
        * ``batch_norm`` stands behind activation and pooling, where CaFo and CwC have it; in the paper it stands before
          the activation (``norm=batch`` of a network's specification). The running variance averages the biased one;
          the paper's inference, and PyTorch, take the unbiased one.
        * Noise of blocks differs from chunk to chunk and so from that of a whole batch; its law does not.
    """
    how = _formed(form)
    if how.hidden == "frozen":
        return _output_grads(params, _above(params, statistics, batch, net))
    return _gradients(params, statistics, batch, key, _normalised(net, how), how)[:2]


def _normalised(net: Net, how: Options) -> Net:
    """The blocks, each with batch normalisation where that is asked for."""
    return nets.normalised(net) if how.batch_norm else net


def _gradients(
    params: Params, statistics: Statistics, batch: Batch, key: Array, net: Net, how: Options
) -> tuple[Params, Metrics, Statistics]:
    """Gradients where hidden layers are trained, and the statistics after this batch."""
    doubt = check_labels(batch, params.W.shape[1])
    if how.chunks > 1 and any(statistics):
        raise UsageError("chunks would have statistics of their own, and these blocks take the batch's; leave it at 1")
    of_batch = partial(jax.value_and_grad(_objective(statistics, net, how), has_aux=True), params)
    (loss, (more, moved)), gradients = _taken(of_batch, batch, key, how)
    return gradients, {"loss": loss + doubt} | more, moved


def _objective(statistics: Statistics, net: Net, how: Options) -> Callable[..., Any]:
    """``(params, batch, key) -> (loss, (metrics, statistics))``."""

    def objective(params: Params, batch: Batch, key: Array) -> tuple[Array, tuple[Metrics, Any]]:
        if how.remat != "none":
            known = every(statistics, net)
            a, moved = nets.savings.recomputed(net, params.blocks, known, batch.x, key, how.remat)
            return cross_entropy(nets.output.read(params, a), batch.y, how.label_smoothing), ({}, moved)
        s, G, moved = _pass(params, statistics, batch.x, net, how.readouts, key)
        loss = cross_entropy(s, batch.y, how.label_smoothing)
        if how.readouts != "deep":
            return loss, ({}, moved)
        local = [cross_entropy(G_l, batch.y, how.label_smoothing) for G_l in G]
        return loss + how.auxiliary_weight * sum(local), ({"layer_loss": jnp.stack([*local, loss])}, moved)

    return objective


def _taken(of_batch: Callable[[Batch, Array], Any], batch: Batch, key: Array, how: Options) -> Any:
    """What a function of a batch gives, for all of it or as the mean over its chunks."""
    return of_batch(batch, key) if how.chunks == 1 else nets.savings.accumulated(of_batch, batch, key, how.chunks)


def features(
    params: Params, x: Float[Array, "batch *features"], net: Net, statistics: Statistics = ()
) -> Float[Array, "batch n"]:
    """a_L, every sample as one vector: what the output layer reads in prediction, and of frozen layers always."""
    return flat(nets.outputs(net, params.blocks, statistics, x)[0][-1])


def _above(params: Params, statistics: Statistics, batch: Batch, net: Net) -> Batch:
    """The batch as the output layer is given it."""
    check_labels(batch, params.W.shape[1])
    return Batch(features(params, batch.x, net, statistics), batch.y)


def _output_grads(params: Params, batch: Batch) -> tuple[Params, Metrics]:
    """As `grads` with frozen hidden layers; ``batch.x`` holds a_L."""
    doubt = check_labels(batch, params.W.shape[1])

    def objective(output: Params) -> Array:
        return cross_entropy(nets.output.read(output, batch.x), batch.y)

    loss, gradients = jax.value_and_grad(objective)(_trained(params, "frozen"))
    return gradients._replace(blocks=(None,) * len(params.blocks)), {"loss": loss + doubt}


def _trained(params: Params, hidden: Hidden) -> Params:
    """What the optimizer sees."""
    return params if hidden == "trained" else params._replace(blocks=())


def _pass(
    params: Params,
    statistics: Statistics,
    x: Float[Array, "batch *features"],
    net: Net,
    readouts: Readouts,
    key: Array | None = None,
) -> tuple[Array, list[Array], Statistics]:
    """The scores that are predicted from, G_1..G_L unless ``readouts`` are the "output" alone, and new statistics."""
    M = () if readouts == "output" else params.M
    if M is None:
        raise UsageError(f"there are no readouts M_l in these parameters; give init readouts={readouts!r}, too")
    a, moved = nets.outputs(net, params.blocks, statistics, x, key)
    G = [flat(a_l) @ M_l.T for a_l, M_l in zip(a, M, strict=True)] if M else []
    s = nets.output.read(params, a[-1])
    return (s + sum(G) if readouts == "sum" else s), G, moved


@stepping(State)
def update(
    state: State, batch: Batch, key: Array, *, net: Net, tx: optax.GradientTransformation, **form: Any
) -> tuple[State, Metrics]:
    """One step: `grads`, then one optax step over all parameters together, or over the output layer's alone.

    Blocks with running statistics move them, unless they are frozen. An optimizer that searches along a line
    (`optax.lbfgs`) is given the loss as a function of what it steps, on this batch.
    """
    how = _formed(form)
    if how.hidden == "frozen":
        return _update_output(state, _above(state.params, state.statistics, batch, net), key, tx=tx)
    net = _normalised(net, how)
    gradients, metrics, moved = _gradients(state.params, state.statistics, batch, key, net, how)

    def loss_of(params: Params) -> Array:
        return _taken(partial(_objective(state.statistics, net, how), params), batch, key, how)[0]

    return State(*descend(tx, gradients, state.opt_state, state.params, metrics["loss"], loss_of), moved), metrics


def _update_output(
    state: State, batch: Batch, key: Array, *, tx: optax.GradientTransformation
) -> tuple[State, Metrics]:
    """As `update` with frozen hidden layers; ``batch.x`` holds a_L."""
    del key
    gradients, metrics = _output_grads(state.params, batch)
    old, gradients = _trained(state.params, "frozen"), _trained(gradients, "frozen")

    def loss_of(output: Params) -> Array:
        return _output_grads(output, batch)[1]["loss"]

    output, opt_state = descend(tx, gradients, state.opt_state, old, metrics["loss"], loss_of)
    return State(output._replace(blocks=state.params.blocks), opt_state, state.statistics), metrics


@predicting
def predict(
    state: State, x: Float[Array, "batch *features"], *, net: Net, **form: Any
) -> Float[Array, "batch classes"]:
    """Class scores of shape (batch, classes): s = a_L W + b, for the readouts "sum" with G_1..G_L added."""
    return training_scores(state, x, None, net=net, **form)


def training_scores(
    state: State, x: Float[Array, "batch *features"], key: Array | None, *, net: Net, **form: Any
) -> Float[Array, "batch classes"]:
    """The scores of `predict` as a step with ``key`` sees them: statistics of the batch, and noise."""
    how = _formed(form)
    readouts = "sum" if how.readouts == "sum" else "output"
    key = None if how.hidden == "frozen" else key
    return _pass(state.params, state.statistics, x, _normalised(net, how), readouts, key)[0]


@predicting
def layer_scores(
    state: State, x: Float[Array, "batch *features"], *, net: Net, **form: Any
) -> Float[Array, "layers batch classes"]:
    """G_1..G_L of deep supervision, and the output layer's scores."""
    s, G, _ = _pass(state.params, state.statistics, x, _normalised(net, _formed(form)), "deep", None)
    return jnp.stack([*G, s])


@predicting
def activations(
    state: State, x: Float[Array, "batch *features"], *, net: Net, **form: Any
) -> tuple[Float[Array, "batch *_"], ...]:
    """a_1..a_L."""
    return nets.outputs(_normalised(net, _formed(form)), state.params.blocks, state.statistics, x)[0]


def rule(
    net: Net,
    tx: optax.GradientTransformation,
    *,
    num_classes: int,
    readout_init: nets.Initializer = nets.small_normal,
    readout_bias: bool = True,
    **form: Any,
) -> LearningRule:
    """BP with its options bound; ``form`` as of `Options`, the others as of `init`.

    Raises:
        UsageError: what is no network, or a form that does not fit, as of `grads`.
    """
    nets.check_net(net)
    hidden = _formed(form).hidden
    halves = Frozen(
        lambda state, x: features(state.params, x, net, state.statistics),
        partial(_update_output, tx=tx),
        lambda state, a: nets.output.read(for_prediction(state).params, a),
    )
    start = {"num_classes": num_classes, "readout_init": readout_init, "readout_bias": readout_bias}
    return LearningRule(
        init=partial(init, net=net, tx=tx, **start, **form),
        update=partial(update, net=net, tx=tx, **form),
        predict=partial(predict, net=net, **form),
        frozen=halves if hidden == "frozen" else None,
        grads=at_state(grads, "statistics", net=net, **form),
        training_scores=partial(training_scores, net=net, **form),
        layer_scores=partial(layer_scores, net=net, **form) if _formed(form).readouts == "deep" else None,
        activations=partial(activations, net=net, **form),
    )


def work(
    layers: tuple[nets.LayerSize, ...],
    num_classes: int,
    batch: int,
    *,
    readouts: str = "output",
    hidden: str = "trained",
    batch_norm: bool = False,
    remat: str = "none",
    kept: bool = False,
) -> Products:
    """Multiply-accumulates of layer l, per sample: F_l forward, F_l for the weights, F_l for the input but in layer 1.

    F_l is the product of the layer, n_{l-1} n_l where it is dense. Three products of the output layer; "deep" and
    "sum": three more with every M_l. Frozen hidden layers: F_l forward (none where they were ``kept``, see
    `fwdonly.base.Frozen`), and two products of the output layer. Batch normalisation has none. ``remat``: F_l once more
    in all segments but the last one.
    """
    _formed({"readouts": readouts, "hidden": hidden, "batch_norm": batch_norm, "remat": remat})
    products: Products = []
    if hidden == "frozen":
        products += [(i, "forward", batch * size.macs) for i, size in enumerate(layers, start=1) if not kept]
        return [*products, (len(layers), "output layer", 2 * batch * num_classes * layers[-1].n)]
    for i, size in enumerate(layers, start=1):
        products += [(i, "forward", batch * size.macs), (i, "weight gradient", batch * size.macs)]
        products += [(i, "input gradient", batch * size.macs)] if i > 1 else []
        again = i <= nets.savings.segments(len(layers), remat)[-1].start
        products += [(i, "forward again", batch * size.macs)] if again else []
        products += [(i, "readout", 3 * batch * num_classes * size.n)] if readouts != "output" else []
    return [*products, (len(layers), "output layer", 3 * batch * num_classes * layers[-1].n)]


def factors(options: Mapping[str, Any]) -> dict[str, str]:
    """Where a training with these options stands in the 2 x 2 of objective and locality; {} of summed readouts."""
    locality = "local" if options["hidden"] == "frozen" else "back-propagated"
    objective = {"output": "last", "deep": "every"}.get(options["readouts"])
    return {"objective": objective, "locality": locality} if objective else {}


def _formed(form: dict[str, Any]) -> Options:
    how = chosen(Options, form, "BP")
    _check(how)
    return how


def _check(how: Options) -> None:
    smoothing, is_frozen = how.label_smoothing, how.hidden == "frozen"
    if is_frozen and how.readouts != "output":
        raise UsageError("hidden='frozen' trains the output layer alone; leave readouts at 'output'")
    if is_frozen and how.batch_norm:
        raise UsageError("batch_norm learns with the hidden layers, and hidden='frozen' trains none; leave it out")
    is_known = isinstance(smoothing, float | int)
    if is_known and not 0 <= smoothing < 1:
        raise UsageError(f"label_smoothing is a share, at least 0 and below 1; got {smoothing}")
    if is_frozen and not (is_known and smoothing == 0):
        raise UsageError("label_smoothing is not for hidden='frozen', the control of plain losses; leave it out")
    if how.chunks < 1:
        raise UsageError(f"chunks are parts of a batch, at least 1; got {how.chunks}")
    if how.remat != "none" and (is_frozen or how.readouts != "output"):
        raise UsageError("remat keeps no outputs: leave readouts at 'output' and hidden at 'trained'")
    if how.chunks > 1 and (is_frozen or how.batch_norm):
        raise UsageError("chunks save memory of layers that learn, without batch_norm, whose statistics are a batch's")


def training(setting: Setting) -> tuple[Stage, ...]:
    """One stage."""
    start, options = setting.of(Start), setting.of(Options)
    start["readout_init"] = setting.start if start.pop("readout_start") == "network" else nets.small_normal
    learning_rule = rule(setting.net, setting.tx, num_classes=setting.num_classes, **start, **options)
    return (Stage(learning_rule),)


TUNED = {"learning_rate": 0.0012, "weight_decay": 1e-6}
CARD = Card(
    variants={
        "bp": Variant("BP", tuned=TUNED),
        "bp-deep": Variant("BP, deep supervision", {"readouts": "deep"}),
        "bp-sum": Variant("BP, all readouts", {"readouts": "sum"}),
        "bp-frozen": Variant("frozen hidden layers", {"hidden": "frozen"}),
        "bp-remat": Variant("BP, remat", {"remat": "sqrt"}, TUNED),
        "bp-chunks": Variant("BP, in 16 chunks", {"chunks": 16}, TUNED),
    },
    options=(Options, Start),
    recipe={"epochs": 16},
    compared={"optimizer": "adamw"},
)
