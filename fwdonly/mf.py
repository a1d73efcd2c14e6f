r"""Mono-Forward (MF): every layer has its own bias-free class readout and learns from that readout's loss alone.

Gong, Li, Abdulla, *Mono-Forward*, arXiv 2501.09238 (per-batch simultaneous schedule); Spyra, arXiv 2509.19063,
equations 2.7-2.11, and arXiv 2511.01061 (greedy layer-by-layer schedule). `rule` is the simultaneous schedule,
`stages` the greedy one. ``gradient="joint"`` is the control MF-Joint, which detaches nothing and is not local.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any, Literal, NamedTuple, cast, get_args

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from . import nets
from .base import (
    Batch,
    LearningRule,
    Metrics,
    Net,
    Products,
    Statistics,
    after,
    at_state,
    begin,
    check_classes,
    check_labels,
    cross_entropy,
    descend,
    every,
    flat,
    kept,
    predicting,
    run_block,
)
from .card import Card, Setting, Stage, Variant
from .errors import UsageError, check_word

Gradient = Literal["local", "joint"]
Prediction = Literal["last", "sum"]


class Options(NamedTuple):
    """How a training with MF goes."""

    schedule: Literal["simultaneous", "greedy"] = "simultaneous"
    """simultaneous: every batch updates all layers. greedy: layers one after another, --epochs for each."""
    input_readout: bool = False
    """Also train M_0, a readout of the raw input."""
    prediction: Prediction = "last"
    """Predict from the last layer's goodness, or from the sum of all layers'; the other one is reported beside it."""
    sum_includes_input: bool = False
    """Let M_0's scores enter the sum."""
    gradient: Gradient = "local"
    """local: no gradient crosses a layer. joint: MF-Joint, the control that back-propagates the sum of all losses
    through everything; simultaneous schedule only."""
    auxiliary_weight: float = 1.0
    """With --gradient joint: factor on the losses of all layers but the last one."""


class Layer(NamedTuple):
    """What layer i owns: ``block`` holds W_i and b_i, ``M`` the readout M_i of shape (classes, n_i)."""

    block: Any
    M: Float[Array, "classes n"]


Params = tuple[Layer | None, ...]
"""Layers 1..L; with the input readout one more in front, M_0, whose block is empty."""


class State(NamedTuple):
    """``params``, one optimizer state per layer, so that no optimizer can couple layers, and per layer the
    ``statistics`` of its block (`fwdonly.base.Block`).
    """

    params: Params
    opt_state: tuple[Any, ...]
    statistics: Statistics = ()


def init(
    key: Array,
    x: Float[Array, "batch *features"],
    *,
    net: Net,
    tx: optax.GradientTransformation,
    num_classes: int,
    input_readout: bool = False,
) -> State:
    """Start values: blocks as the network draws them (`fwdonly.nets.he_uniform`), every M_i uniform on +-1/sqrt(n_i).

    Args:
        key: random key; blocks and readouts have separate streams, so M_0 changes no other start value.
        x: example inputs, used for shapes.
        net: the hidden layers, a tuple of blocks.
        tx: any optax transformation; each layer gets a state of its own.
        num_classes: C, the number of rows of each M_i.
        input_readout: also train M_0, a softmax regression on the raw input.

    Raises:
        UsageError: fewer than two classes, or inputs the network cannot take.
    """
    check_classes(num_classes)
    block_key, readout_key = jax.random.split(key)
    blocks, statistics, activations = nets.init(block_key, x, net)
    if input_readout:
        blocks, activations = (nets.Identity().init(block_key, x), *blocks), (x, *activations)
        statistics = ({}, *statistics) if statistics else ()
    readouts = nets.output.class_readouts(readout_key, activations, num_classes, first=1 - input_readout)
    params = tuple(Layer(*pair) for pair in zip(blocks, readouts, strict=True))
    return State(params, tuple(begin(tx, layer) for layer in params), statistics)


def grads(
    params: Params,
    batch: Batch,
    key: Array,
    *,
    net: Net,
    statistics: Statistics = (),
    layer: int | None = None,
    gradient: Gradient = "local",
    auxiliary_weight: float | Array = 1.0,
) -> tuple[Params, Metrics]:
    r"""The gradient of each layer's own loss with respect to that layer's own parameters.

    For i = 1..L, with a_0 = x (arXiv 2509.19063, eqs 2.7-2.11; row vectors, B samples, C classes)::

        z_i = a_{i-1} W_i + b_i     a_i = max(0, z_i)     G_i = a_i M_i^T                  (goodness, (B, C))
        loss_i = -(1/B) sum_b log softmax(G_i)[b, y_b]                                     (nats)

    which differentiates to, with E = (softmax(G_i) - onehot(y)) / B::

        dM_i = E^T a_i     dZ = (E M_i) * [z_i > 0]     dW_i = a_{i-1}^T dZ     db_i = sum_b dZ

    Held constant while loss_i is differentiated: a_{i-1} and all parameters of all other layers. No gradient crosses
    a layer; within one, the two products above are taken by automatic differentiation, so that a block may be any
    differentiable map (a convolution's readout M_i reads the flattened pooled map).

    MF-Joint (``gradient="joint"``), the control that has MF's losses and prediction but back-propagates, is the
    gradient of ``loss_L + auxiliary_weight * (loss_1 + ... + loss_{L-1})`` with respect to all parameters at once,
    nothing held constant but the data. With lambda for the weight, c_L = 1, c_i = lambda below, and E_i as E above::

        dM_i = c_i E_i^T a_i     dZ_L = (E_L M_L) * [z_L > 0]
                                 dZ_i = (c_i E_i M_i + dZ_{i+1} W_{i+1}^T) * [z_i > 0]     dW_i, db_i from dZ_i as above

    M_0, where it is trained, enters with lambda; no layer lies below it. With lambda = 1 the sum is MF's, and the
    gradients differ by the detached hand-overs alone: those of layer L and of every M_i are MF's own.

    Args:
        params: from `init`; one entry more than ``net`` means that M_0 is trained too.
        batch: inputs (B, *features) and labels (B,).
        key: of the noise of blocks that have some; MF itself is deterministic.
        net: the hidden layers.
        statistics: of blocks that have some, ``state.statistics``.
        layer: train this layer alone (1..L, or 0 for M_0); None trains all. Entries of the others are None.
        gradient: "local" for MF, "joint" for MF-Joint.
        auxiliary_weight: lambda, for "joint" alone; it may be traced.

    Returns:
        Gradients shaped like ``params`` and the metrics ``loss`` (sum of the trained layers' losses; "joint": weighted)
        and ``layer_loss`` (trained layers,), never weighted, both in nats and taken before any update.

    Raises:
        UsageError: labels that are missing or out of range (values are seen outside compiled code only), an
            unknown gradient, a single layer for "joint", or a weight for "local".

    Example:
        >>> import jax, optax, fwdonly
        >>> net, batch = fwdonly.nets.mlp([8, 8]), fwdonly.Batch(jax.numpy.ones((4, 6)), jax.numpy.array([0, 1, 2, 0]))
        >>> state = fwdonly.mf.init(jax.random.key(0), batch.x, net=net, tx=optax.adam(1e-3), num_classes=3)
        >>> grads, metrics = fwdonly.mf.grads(state.params, batch, jax.random.key(1), net=net)
        >>> metrics["layer_loss"].shape
        (2,)

    Deviations:
        * The full text of arXiv 2501.09238 was not available; the simultaneous schedule follows public restatements.
          All layers see activations computed with the weights before the update, as the order of statements there
          implies, and M_i in dW_i is the value before its update (Jacobi, not Gauss-Seidel).
        * arXiv 2509.19063 describes the greedy schedule as *the* algorithm and says "best validation checkpoint"; its
          code keeps the last epoch of each stage. Which state is kept is an option of the training loop here.
        * Whether the published convolutional nets flatten before or after pooling is not known; here after.
        * Start values: the public code's ``kaiming_uniform_(W, a=sqrt(5), nonlinearity="relu")`` is uniform on
          +-sqrt(6/n_{i-1}) (PyTorch ignores ``a`` for "relu"), not on +-1/sqrt(n_{i-1}) as restatements have it. The
          published training curves of Fashion-MNIST are met with the former and missed by 2-4 % with the latter.
        * Published runs train no M_0, the public code does; here an option, off by default.
        * MF-Joint follows the re-measurement of 2026 (GitHub Przemyslaw11/BeyondBackpropagation, ``bp_ds.py``), whose
          lambda is 1 unless tuned (between 0.01 and 10). It trains M_0 and has one Adam over everything; here there is
          a state per layer as in MF, which is the same for element-wise optimizers and not for clipping by global norm.
        * lambda scales the step of M_i (i < L), too, which Adam undoes.
    """
    return _pass(params, every(statistics, params), batch, key, net, (layer, gradient, auxiliary_weight))[:2]


def _pass(
    params: Params, statistics: Statistics, batch: Batch, key: Array, net: Net, how: tuple[Any, Any, Any]
) -> tuple[Params, Metrics, Statistics]:
    """Gradients, metrics and the statistics after this batch; ``how``: layer, gradient and auxiliary weight."""
    layer, gradient, auxiliary_weight = how
    _check_gradient(gradient, auxiliary_weight, layer)
    doubt = check_labels(batch, cast(Layer, params[-1]).M.shape[0])
    if gradient == "joint":
        joint = jax.value_and_grad(_joint_loss, has_aux=True)
        (total, (layer_loss, moved)), everything = joint(params, statistics, batch, key, net, auxiliary_weight)
        return everything, {"loss": total + doubt, "layer_loss": layer_loss}, moved
    a, gradients, losses, moved = batch.x, [], [], []
    for (i, block, weights), known in zip(_layers(net, params), statistics, strict=True):
        if layer is None or i == layer:
            layer_key = jax.random.fold_in(key, i)
            (loss, (a, known)), g = jax.value_and_grad(_local_loss, has_aux=True)(
                weights, known, block, a, batch.y, layer_key
            )
            losses.append(loss)
            a = after(a, g)
        elif i < layer:  # as it is: layers below do not learn any more
            a, g = run_block(block, weights.block, known, a)[0], None
        else:
            g = None
        gradients.append(g)
        moved.append(known)
    layer_loss = jnp.stack(losses)
    return tuple(gradients), {"loss": layer_loss.sum() + doubt, "layer_loss": layer_loss}, kept(moved)


def _local_loss(
    weights: Layer, known: Any, block: Any, a: Array, y: Array, key: Array
) -> tuple[Array, tuple[Array, Any]]:
    """loss_i, then a_i and the block's statistics, given a_{i-1}."""
    a, known = run_block(block, weights.block, known, a, key)
    G = flat(a) @ weights.M.T
    return cross_entropy(G, y), (a, known)


def _joint_loss(
    params: Params, statistics: Statistics, batch: Batch, key: Array, net: Net, auxiliary_weight: float | Array
) -> tuple[Array, tuple[Array, Statistics]]:
    """loss_L and the weighted others, with nothing detached; then every loss_i and the statistics."""
    a, losses, moved = batch.x, [], []
    for (i, block, weights), known in zip(_layers(net, params), statistics, strict=True):
        loss, (a, known) = _local_loss(weights, known, block, a, batch.y, jax.random.fold_in(key, i))
        losses.append(loss)
        moved.append(known)
    return losses[-1] + auxiliary_weight * sum(losses[:-1]), (jnp.stack(losses), kept(moved))


def update(
    state: State,
    batch: Batch,
    key: Array,
    *,
    net: Net,
    tx: optax.GradientTransformation,
    layer: int | None = None,
    gradient: Gradient = "local",
    auxiliary_weight: float | Array = 1.0,
) -> tuple[State, Metrics]:
    """One step: `grads` at the old parameters, then one optax step in every trained layer.

    Args and metrics as for `grads`. With ``layer`` given, every other layer keeps its parameters, optimizer state and
    statistics, and runs as in `predict`; an optimizer that searches along a line (`optax.lbfgs`) is given this layer's
    loss as a function.
    """
    how = layer, gradient, auxiliary_weight
    known = every(state.statistics, state.params)
    gradients, metrics, moved = _pass(state.params, known, batch, key, net, how)

    def loss_of(at: int, weights: Layer) -> Array:
        there = (*state.params[:at], weights, *state.params[at + 1 :])
        return _pass(there, known, batch, key, net, how)[1]["loss"]

    # Only a layer that trains alone has one loss from step to step: below the others, inputs move.
    objectives = [None if layer is None else partial(loss_of, at) for at in range(len(state.params))]
    losses = iter(metrics["layer_loss"])
    stepped = [
        (weights, opt) if g is None else descend(tx, g, opt, weights, next(losses), objective)
        for g, opt, weights, objective in zip(gradients, state.opt_state, state.params, objectives, strict=True)
    ]
    params, opt_state = zip(*stepped, strict=True)
    return State(params, opt_state, moved), metrics


@predicting
def predict(
    state: State,
    x: Float[Array, "batch *features"],
    *,
    net: Net,
    prediction: Literal["last", "sum"] = "last",
    sum_includes_input: bool = False,
    layer: int | None = None,
) -> Float[Array, "batch classes"]:
    """Class scores: G_L ("last"), or the sum of G_1..G_L ("sum"; scores are summed, not probabilities).

    Args:
        state: from `init` or `update`.
        x: inputs (batch, *features).
        net: the hidden layers.
        prediction: "last" or "sum".
        sum_includes_input: let G_0 = x M_0^T enter the sum (the literature does not say); needs M_0.
        layer: predict with the network cut off after this layer, as greedy stages do; None means all of it.

    Raises:
        UsageError: an unknown prediction mode, or a sum over an input readout that is not there.
    """
    return _scores(state, x, net, (prediction, sum_includes_input, layer))


def training_scores(
    state: State,
    x: Float[Array, "batch *features"],
    key: Array,
    *,
    net: Net,
    prediction: Literal["last", "sum"] = "last",
    sum_includes_input: bool = False,
    layer: int | None = None,
) -> Float[Array, "batch classes"]:
    """The scores of `predict` as a step with ``key`` sees them: statistics of the batch and noise in trained layers."""
    return _scores(state, x, net, (prediction, sum_includes_input, layer), key)


def _scores(state: State, x: Array, net: Net, how: tuple[Any, Any, Any], key: Array | None = None) -> Array:
    """As `predict`, or with a key as `training_scores`; ``how``: prediction, sum_includes_input and layer."""
    prediction, sum_includes_input, layer = how
    _check(prediction, sum_includes_input, len(state.params) > len(net))
    last, total = len(net) if layer is None else layer, jnp.zeros(())
    for i, a, weights in _outputs(state, x, net, layer, key):
        if i == last or (prediction == "sum" and (i > 0 or sum_includes_input)):
            total = total + flat(a) @ weights.M.T
    return total


@predicting
def layer_scores(
    state: State, x: Float[Array, "batch *features"], *, net: Net, layer: int | None = None
) -> Float[Array, "layers batch classes"]:
    """G_1..G_L, with G_0 in front where M_0 is trained; no layer after ``layer``, where one is given."""
    return jnp.stack([flat(a) @ weights.M.T for _, a, weights in _outputs(state, x, net, layer)])


@predicting
def activations(
    state: State, x: Float[Array, "batch *features"], *, net: Net, layer: int | None = None
) -> tuple[Float[Array, "batch *_"], ...]:
    """a_1..a_L; no layer after ``layer``, where one is given."""
    return tuple(a for i, a, _ in _outputs(state, x, net, layer) if i > 0)


def rule(
    net: Net,
    tx: optax.GradientTransformation,
    *,
    num_classes: int,
    input_readout: bool = False,
    prediction: Literal["last", "sum"] = "last",
    sum_includes_input: bool = False,
    layer: int | None = None,
    gradient: Gradient = "local",
    auxiliary_weight: float | Array = 1.0,
) -> LearningRule:
    """MF with the simultaneous schedule: every batch updates all layers (or ``layer`` alone, one greedy stage).

    ``gradient="joint"`` is MF-Joint, which back-propagates (see `grads`). The other prediction, without M_0, is
    reported beside this one.

    Raises:
        UsageError: an unknown prediction mode, a sum over an input readout that is not there, or options of `grads`
            that do not fit.
    """
    nets.check_net(net)
    _check(prediction, sum_includes_input, input_readout)
    _check_gradient(gradient, auxiliary_weight, layer)
    first = 1 - input_readout
    if layer is not None and not first <= layer <= len(net):
        raise UsageError(f"layer is one of {first}..{len(net)} for this network; got {layer}")
    last_or_sum: dict[str, Any] = {"prediction": prediction, "sum_includes_input": sum_includes_input}
    common: dict[str, Any] = {"net": net, "layer": layer}
    other = "sum" if prediction == "last" else "last"
    return LearningRule(
        init=partial(init, net=net, tx=tx, num_classes=num_classes, input_readout=input_readout),
        update=partial(update, net=net, tx=tx, layer=layer, gradient=gradient, auxiliary_weight=auxiliary_weight),
        predict=partial(predict, **common, **last_or_sum),
        readouts=((other, partial(predict, **common, prediction=other)),),
        grads=at_state(grads, "statistics", **common, gradient=gradient, auxiliary_weight=auxiliary_weight),
        training_scores=partial(training_scores, **common, **last_or_sum),
        layer_scores=partial(layer_scores, **common),
        activations=partial(activations, **common),
    )


def stages(net: Net, tx: optax.GradientTransformation, *, input_readout: bool = False, **options: Any) -> tuple:
    """MF with the greedy schedule: one `LearningRule` per layer over one state, to be trained one after another.

    Stage i trains layer i alone on a_{i-1}, which is recomputed with the layers below as they are, and predicts with
    the network cut off after layer i. Options as for `rule`; with ``input_readout`` stage 0 trains M_0.
    """
    nets.check_net(net)
    numbers = range(1 - input_readout, len(net) + 1)
    return tuple(rule(net, tx, input_readout=input_readout, layer=i, **options) for i in numbers)


def work(
    layers: tuple[nets.LayerSize, ...],
    num_classes: int,
    batch: int,
    *,
    layer: int | None = None,
    gradient: str = "local",
    input_readout: bool = False,
) -> Products:
    """Multiply-accumulates of layer i, per sample: F_i forward, F_i for the weights, three products with M_i.

    ``layer=i``: layers below i forward only. "joint": F_i for the input but in layer 1 besides. ``input_readout``: two
    products with M_0, of the first layer's inputs.
    """
    _check_gradient(gradient, 1.0, layer)
    products: Products = []
    if input_readout and layer in (None, 0):
        products += [(1, "input readout", 2 * batch * num_classes * layers[0].inputs)]
    for i, size in enumerate(layers[:layer], start=1):
        products.append((i, "forward", batch * size.macs))
        if layer in (None, i):
            readout = 3 * batch * num_classes * size.n
            products += [(i, "weight gradient", batch * size.macs), (i, "readout", readout)]
        products += [(i, "input gradient", batch * size.macs)] if gradient == "joint" and i > 1 else []
    return products


def _check(prediction: str, sum_includes_input: bool, input_readout: bool) -> None:
    if prediction not in ("last", "sum"):
        raise UsageError(f"prediction is 'last' or 'sum'; got {prediction!r}")
    if sum_includes_input and not (input_readout and prediction == "sum"):
        raise UsageError("sum_includes_input needs input_readout=True and prediction='sum'")


def _check_gradient(gradient: str, auxiliary_weight: float | Array, layer: int | None) -> None:
    check_word("gradient", gradient, get_args(Gradient))
    if gradient == "joint" and layer is not None:
        raise UsageError(f"gradient='joint' trains all layers at once; leave layer={layer} and greedy stages out")
    if gradient == "local" and not (isinstance(auxiliary_weight, int | float) and auxiliary_weight == 1):
        raise UsageError("auxiliary_weight needs gradient='joint'; local losses have no weight")


def _layers(net: Net, params: Params) -> list[tuple[int, Any, Any]]:
    """(i, block, parameters) for i = 1..L, with i = 0 in front where M_0 is trained."""
    has_input = len(params) - len(net)
    blocks = (nets.Identity(),) * has_input + net
    return list(zip(range(1 - has_input, len(net) + 1), blocks, params, strict=True))


def _outputs(
    state: State, x: Array, net: Net, layer: int | None, key: Array | None = None
) -> Iterator[tuple[int, Array, Layer]]:
    """(i, a_i, parameters) up to ``layer``, with i = 0 in front where M_0 is trained; with a key as in training."""
    a = x
    statistics = every(state.statistics, state.params)
    for (i, block, weights), known in zip(_layers(net, state.params), statistics, strict=True):
        if i <= (len(net) if layer is None else layer):
            is_trained = key is not None and layer in (None, i)
            a, _ = run_block(block, weights.block, known, a, jax.random.fold_in(key, i) if is_trained else None)
            yield i, a, weights


def training(setting: Setting) -> tuple[Stage, ...]:
    """One stage, or one per layer with the greedy schedule."""
    options = setting.of(Options)
    greedy = options.pop("schedule") == "greedy"
    options |= {"num_classes": setting.num_classes}
    rules = (stages if greedy else _alone)(setting.net, setting.tx, **options)
    return tuple(Stage(stage_rule) for stage_rule in rules)


def _alone(net: Net, tx: optax.GradientTransformation, **options: Any) -> tuple[LearningRule, ...]:
    return (rule(net, tx, **options),)


CARD = Card(
    variants={
        "mf": Variant("MF", tuned={"learning_rate": 0.0021762316, "weight_decay": 1.208e-6}),
        "mf-joint": Variant("MF, joint gradient", {"gradient": "joint"}),
        "mf-greedy": Variant("MF, greedy", {"schedule": "greedy"}),
        "mf-greedy-m0": Variant("MF, greedy, with M_0", {"schedule": "greedy", "input_readout": True}),
    },
    options=(Options,),
    recipe={"epochs": 16},
    compared={"optimizer": "adamw"},
)
