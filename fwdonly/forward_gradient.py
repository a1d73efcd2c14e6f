r"""Forward gradients: the slope of the loss along a random direction, times that direction. Nothing is sent back.

Baydin, Pearlmutter, Syme, Wood, Torr, *Gradients without backpropagation*, arXiv 2202.08587 (directions of the weights,
one loss); Ren, Kornblith, Liao, Hinton, *Scaling forward gradient with local losses*, arXiv 2210.03310 (directions of
the activities, a loss in every layer). The slope is one forward-mode derivative, `jax.jvp`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from . import _forward_passes, nets
from .base import (
    Batch,
    LearningRule,
    Metrics,
    Net,
    Products,
    Statistics,
    after,
    as_params,
    at_state,
    begin,
    begin_layers,
    check_labels,
    chosen,
    cross_entropy,
    descend,
    descend_layers,
    every,
    flat,
    kept,
    predicting,
    run_block,
    stepping,
)
from .card import Card, Variant
from .errors import UsageError

Layer = _forward_passes.Layer
Params = _forward_passes.Params


class Options(NamedTuple):
    """What is moved, and what its slope is of; keywords of `init`, `grads`, `update`, `predict` and `rule`."""

    perturb: Literal["activities", "weights"] = "activities"
    """activities: a direction for the sums of every sample, which needs layers of a linear part and an activation.
    weights: one direction for all weights."""
    loss: Literal["local", "global"] = "local"
    """local: every layer has a readout and a loss of its own. global: one readout and one loss, of the last layer."""
    distribution: _forward_passes.Distribution = "normal"
    """Law of the directions' entries: N(0, 1), or a fair sign."""
    readout: Literal["exact", "estimated"] = "exact"
    """exact: the readout's gradient in closed form, for which nothing is sent back. estimated: as all others."""
    num_directions: int = 1
    """Directions per step; their estimates are averaged."""


class State(NamedTuple):
    """``params``, their optimizer states, and the ``statistics`` of blocks that have some (`fwdonly.base.Block`).

    Local losses have one optimizer state per layer, so that no optimizer can couple layers; a global loss has one.
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
    **options: Any,
) -> State:
    """Start values: blocks as the network draws them, every readout M_i uniform on +-1/sqrt(n_i), as MF's for one key.

    ``x`` are example inputs, used for shapes; ``options`` as of `Options`.

    Raises:
        UsageError: fewer than two classes, inputs the network cannot take, or an option that does not fit.
    """
    settings = _checked(options, net)
    is_local = settings.loss == "local"
    params, statistics = _forward_passes.start(key, x, net, num_classes, only_last=not is_local)
    return State(params, begin_layers(tx, params) if is_local else begin(tx, params), statistics)


def grads(
    params: Params, batch: Batch, key: Array, *, net: Net, statistics: Statistics = (), **options: Any
) -> tuple[Params, Metrics]:
    r"""An unbiased estimate of the gradient of every loss, from forward passes alone.

    For i = 1..L, with a_0 = x (row vectors, B samples, C classes)::

        z_i = a_{i-1} W_i + b_i     a_i = max(0, z_i)     G_i = a_i M_i^T     loss_i = mean_b loss_ib
        loss_ib = -log softmax(G_i)[b, y_b]                                                       (nats)

    A loss belongs to its layer and to the layers before it that have none: with ``loss="local"`` to one layer, with
    "global" loss_L alone exists and belongs to all. Let theta, of size P, be the weights that belong to one loss.
    With v of independent entries of mean 0 and variance 1, ``perturb="weights"`` is (2202.08587)::

        g = (grad loss . v) v     v ~ N(0, I)     E[g] = grad loss     E|g - E[g]|^2 = (P + 1) |grad loss|^2

    and signs ("rademacher") in the place of normal numbers have (P - 1) |grad loss|^2. ``perturb="activities"``
    (2210.03310) moves z_i of every sample b, and G, by a direction v_b of its own, and makes the step of a linear
    layer of that, where v_b(z_i) is the part of v_b that moves z_i::

        slope_b = sum_i dloss_b/dz_i . v_b(z_i) + dloss_b/dG . v_b(G)     g(z_i) = slope_b v_b(z_i), g(G) likewise
        dW_i = a_{i-1}^T g(z_i) / B     db_i = mean_b g(z_i)     dM_i = g(G_i)^T a_i / B

    With ``readout="exact"`` no direction moves M_i (or G_i), whose gradient is ``dM_i = E^T a_i`` with
    E = (softmax(G_i) - onehot(y)) / B. With k directions the estimates are averaged: their variance is one k-th.

    Held constant: the inputs of the first layer that a loss belongs to, so that no slope crosses from one loss to
    another; all v while the slope is taken. Slopes are taken by forward-mode automatic differentiation (`jax.jvp`).

    Args:
        params: from `init`, whose readouts say which losses there are.
        batch: inputs (B, *features) and labels (B,).
        key: draws the directions, layer by layer, and the noise of blocks that have some.
        net: the hidden layers.
        statistics: of blocks that have some, ``state.statistics``.
        **options: see `Options`.

    Returns:
        Estimates shaped like ``params``, and the metrics ``layer_loss`` (losses,) and its sum ``loss``, in nats, taken
        before any update and at the unmoved weights.

    Raises:
        UsageError: labels that are missing or out of range (values are seen outside compiled code only), an option
            that does not exist, or layers that ``perturb="activities"`` cannot take apart.

    Example:
        >>> import jax, optax, fwdonly
        >>> net, batch = fwdonly.nets.mlp([8, 8]), fwdonly.Batch(jax.numpy.ones((4, 6)), jax.numpy.array([0, 1, 2, 0]))
        >>> rule = fwdonly.forward_gradient.rule(net, optax.adam(1e-3), num_classes=3)
        >>> state = rule.init(jax.random.key(0), batch.x)
        >>> grads, metrics = fwdonly.forward_gradient.grads(state.params, batch, jax.random.key(1), net=net)
        >>> metrics["layer_loss"].shape
        (2,)

    Deviations:
        * arXiv 2210.03310 was not available in full; equations follow the library's reference sheet. Its networks have
          many losses in every layer (groups, patches) and their own mixer blocks; here is one loss per layer.
        * 2202.08587 estimates the readout, too (``readout="estimated"``). Here its gradient is exact by default: it
          needs nothing that is sent back, and the noise that directions of M add reaches all other estimates.
        * Readouts have no bias and start as MF's, also the one of a global loss, so that the two losses differ in
          nothing else.
        * Directions share the primal pass; XLA keeps the tangents of all k directions at once.
    """
    return _pass(params, every(statistics, net), batch, key, net, _checked(options, net))[:2]


class _Part(NamedTuple):
    """The layers that one loss belongs to."""

    numbers: tuple[int, ...]
    blocks: Net
    layers: Params
    statistics: tuple[Any, ...]


def _pass(
    params: Params, statistics: Statistics, batch: Batch, key: Array, net: Net, options: Options
) -> tuple[Params, Metrics, Statistics]:
    """Estimates, metrics and the statistics after this batch."""
    doubt = check_labels(batch, _forward_passes.readout(params[-1]).shape[0])
    estimate = _by_activities if options.perturb == "activities" else _by_weights
    a, gradients, losses, moved = batch.x, [], [], []
    for part in _parts(params, statistics, net):
        g, loss, a, known = estimate(part, a, batch.y, key, options)
        gradients += as_params(g, part.layers)
        losses.append(loss)
        moved += known
        a = after(a, g)
    layer_loss = jnp.stack(losses)
    return tuple(gradients), {"loss": layer_loss.sum() + doubt, "layer_loss": layer_loss}, kept(moved)


def _parts(params: Params, statistics: Statistics, net: Net) -> list[_Part]:
    """The network cut behind every readout."""
    ends = [at + 1 for at, layer in enumerate(params) if layer.M is not None]
    spans = [slice(*pair) for pair in zip([0, *ends[:-1]], ends, strict=True)]
    numbers = tuple(range(1, len(net) + 1))
    return [_Part(numbers[of], net[of], params[of], statistics[of]) for of in spans]


def _by_weights(part: _Part, a: Array, y: Array, key: Array, options: Options) -> tuple[Params, Array, Array, Any]:
    """The estimate for a part's layers, its loss, what it hands on, and the statistics of its blocks."""
    M, is_exact = _forward_passes.readout(part.layers[-1]), options.readout == "exact"

    def loss_of(layers: Params) -> tuple[Array, tuple[Array, Array, list[Any]]]:
        out, moved = a, []
        for i, block, layer, known in zip(part.numbers, part.blocks, layers, part.statistics, strict=True):
            out, known = run_block(block, layer.block, known, out, jax.random.fold_in(key, i))
            moved.append(known)
        G = flat(out) @ (M if is_exact else _forward_passes.readout(layers[-1])).T
        return cross_entropy(G, y), (G, out, moved)

    layers = (*part.layers[:-1], part.layers[-1]._replace(M=None if is_exact else M))
    v = tuple(_directions(key, i, layer, options) for i, layer in zip(part.numbers, layers, strict=True))
    slopes, loss, (G, out, moved) = _slopes(loss_of, layers, v)
    g = jax.tree.map(lambda v: jax.vmap(jnp.multiply)(slopes, v).mean(0), v)
    if is_exact:
        g = (*g[:-1], g[-1]._replace(M=_error(G, y).T @ flat(out)))
    return g, loss, out, moved


def _by_activities(part: _Part, a: Array, y: Array, key: Array, options: Options) -> tuple[Params, Array, Array, Any]:
    """As `_by_weights`, with directions of the sums of every sample; such blocks have no statistics."""
    M, is_exact = _forward_passes.readout(part.layers[-1]), options.readout == "exact"

    def losses_of(shifts: Any) -> tuple[Array, tuple[list[Array], list[Array]]]:
        """Every sample's loss with shifted sums and scores; what every layer is given and hands on; the sums."""
        outputs, sums = [a], []
        for at, (block, layer) in enumerate(zip(part.blocks, part.layers, strict=True)):
            z = nets.linear(block).apply(layer.block, outputs[-1])
            sums.append(z)
            h = block.activation(z if shifts is None else z + shifts[at])
            outputs.append(nets.pooled(block, h))
        G = flat(outputs[-1]) @ M.T
        shifted = G if shifts is None or is_exact else G + shifts[-1]
        return optax.softmax_cross_entropy_with_integer_labels(shifted, y), (outputs, [*sums, G])

    *sums, G = jax.eval_shape(lambda: losses_of(None)[1][1])
    v = [_directions(key, i, z, options) for i, z in zip(part.numbers, sums, strict=True)]
    v += [] if is_exact else [_directions(jax.random.fold_in(key, part.numbers[-1]), 0, G, options)]
    zeros = [jnp.zeros(v_z.shape[1:], v_z.dtype) for v_z in v]
    slopes, losses, (outputs, [*_, G]) = _slopes(losses_of, zeros, v)
    errors = [jax.vmap(jax.vmap(jnp.multiply))(slopes, v_z).mean(0) / len(y) for v_z in v]
    errors += [_error(G, y)] if is_exact else []
    layers = [
        Layer(nets.weight_gradient(block, layer.block, below, g_z), None)
        for block, layer, below, g_z in zip(part.blocks, part.layers, outputs[:-1], errors[:-1], strict=True)
    ]
    layers[-1] = layers[-1]._replace(M=errors[-1].T @ flat(outputs[-1]))
    return tuple(layers), losses.mean(), outputs[-1], part.statistics


def _error(G: Array, y: Array) -> Array:
    """E, the gradient of the loss with respect to its scores."""
    return (jax.nn.softmax(G) - jax.nn.one_hot(y, G.shape[1], dtype=G.dtype)) / len(y)


def _slopes(f: Callable[[Any], tuple[Array, Any]], at: Any, v: Any) -> tuple[Array, Array, Any]:
    """The slopes of f at ``at`` along every direction, f's value there, and what else it gives."""

    def along(direction: Any) -> tuple[Array, Array, Any]:
        value, slope, more = jax.jvp(f, (at,), (direction,), has_aux=True)
        return slope, value, more

    return jax.vmap(along, out_axes=(0, None, None))(v)


def _directions(key: Array, number: int, like: Any, options: Options) -> Any:
    """v for a tree of arrays, with the directions as a leading axis. Every layer has its own stream."""
    layer_key = jax.random.fold_in(jax.random.fold_in(key, 0), number)
    return _forward_passes.directions(layer_key, like, options.distribution, (options.num_directions,))


@stepping(State)
def update(
    state: State, batch: Batch, key: Array, *, net: Net, tx: optax.GradientTransformation, **options: Any
) -> tuple[State, Metrics]:
    """One step: `grads` at the old parameters, then one optax step per loss. Args and metrics as for `grads`."""
    settings = _checked(options, net)
    gradients, metrics, moved = _pass(state.params, every(state.statistics, net), batch, key, net, settings)
    if settings.loss == "global":
        return State(*descend(tx, gradients, state.opt_state, state.params, metrics["loss"]), moved), metrics
    params, opt_state = descend_layers(tx, gradients, state.opt_state, state.params, metrics["layer_loss"])
    return State(params, opt_state, moved), metrics


@predicting
def predict(
    state: State, x: Float[Array, "batch *features"], *, net: Net, **options: Any
) -> Float[Array, "batch classes"]:
    """Class scores G_L of the last layer. ``options`` as of `Options`; none of them changes what is predicted."""
    _checked(options, net)
    return _forward_passes.training_scores(state, x, None, net=net)


@predicting
def layer_scores(state: State, x: Float[Array, "batch *features"], *, net: Net) -> Float[Array, "layers batch classes"]:
    """G_i of every layer that has a readout."""
    pairs = zip(_forward_passes.activations(state, x, net=net), state.params, strict=True)
    return jnp.stack([_forward_passes.scores(a, layer) for a, layer in pairs if layer.M is not None])


def rule(net: Net, tx: optax.GradientTransformation, *, num_classes: int, **options: Any) -> LearningRule:
    """Forward gradients with their options bound.

    Raises:
        UsageError: an option that does not exist, or layers that ``perturb="activities"`` cannot take apart.
    """
    settings = _checked(options, net)
    return LearningRule(
        init=partial(init, net=net, tx=tx, num_classes=num_classes, **options),
        update=partial(update, net=net, tx=tx, **options),
        predict=partial(predict, net=net, **options),
        grads=at_state(grads, "statistics", net=net, **options),
        training_scores=partial(_forward_passes.training_scores, net=net),
        layer_scores=partial(layer_scores, net=net) if settings.loss == "local" else None,
        activations=partial(_forward_passes.activations, net=net),
    )


def work(layers: tuple[nets.LayerSize, ...], num_classes: int, batch: int, **options: Any) -> Products:
    """Multiply-accumulates of layer i, per sample, with k directions: F_i forward, and for the readout C n_i.

    The slopes take k F_i for what moves W_i, and k F_i for what moves the layer's inputs, which nothing does in the
    first layer of a loss; in the readout k C n_i for each of both. Directions of activities move z_i itself, and take
    F_i for W_i instead. An exact readout has no direction, and takes C n_i for M_i.
    """
    settings = chosen(Options, options, "forward gradient")
    by_weights, k = settings.perturb == "weights", settings.num_directions
    products: Products = []
    for i, size in enumerate(layers, start=1):
        is_first, has_readout = i == 1 or settings.loss == "local", i == len(layers) or settings.loss == "local"
        products += [(i, "forward", batch * size.macs)]
        products += [(i, "slope", k * (by_weights + (not is_first)) * batch * size.macs)]
        products += [] if by_weights else [(i, "weight gradient", batch * size.macs)]
        of_readout = 1 + 2 * k if by_weights and settings.readout == "estimated" else 2 + k
        products += [(i, "readout", of_readout * batch * num_classes * size.n)] if has_readout else []
    return [product for product in products if product[2]]


def _checked(options: dict[str, Any], net: Net) -> Options:
    settings = chosen(Options, options, "forward gradient")
    if settings.num_directions < 1:
        raise UsageError(f"num_directions is how many directions a step has, from 1; got {settings.num_directions}")
    if settings.perturb == "weights":
        nets.check_net(net)
        return settings
    try:
        nets.check_parts(net)
    except UsageError as error:
        raise UsageError(f"{error}; or perturb='weights', which takes any block") from error
    return settings


WEIGHTS = {"perturb": "weights", "loss": "global", "readout": "estimated"}
CARD = Card(
    variants={
        "forward-gradient": Variant("forward gradient"),
        "forward-gradient-global": Variant("forward gradient, one loss", {"loss": "global"}),
        "forward-gradient-weights": Variant("forward gradient, weights", WEIGHTS),
    },
    options=(Options,),
    recipe={"epochs": 16},
    compared={"optimizer": "adamw"},
)
