r"""Zeroth order (SPSA, MeZO): the loss to both sides along a random direction, and no derivative.

Spall, *Multivariate stochastic approximation using a simultaneous perturbation gradient approximation*, IEEE Trans.
Automatic Control 37, 1992 (SPSA); Malladi et al., *Fine-tuning language models with just forward passes* (MeZO), arXiv
2305.17333: the direction is drawn again from its key wherever it is needed, and is never kept. ``history`` takes out of
the estimate what past parameters show to be noise.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

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
    Unless,
    after,
    at_state,
    begin_layers,
    check_labels,
    chosen,
    cross_entropy,
    descend,
    every,
    flat,
    kept,
    needs,
    predicting,
    read_options,
    run_block,
    stepping,
)
from .card import Card, Variant
from .descent import of_layers
from .errors import UsageError

SMALL = 1e-5
"""Principal directions with less variance than this, in units of the largest one, are rounding and are left alone."""

Layer = _forward_passes.Layer
Params = _forward_passes.Params


class Options(NamedTuple):
    """How slopes are estimated; keywords of `init`, `grads`, `update`, `predict` and `rule`. eps and variance may be
    traced."""

    eps: float | Array = 0.01
    """Length of the way to either side, in units of the direction. In float32 a loss near 1 has an error of 1e-7, which
    the slope has divided by 2 eps."""
    num_directions: int = 1
    """Directions per step; their estimates are averaged."""
    distribution: _forward_passes.Distribution = "normal"
    """Law of the direction's entries: N(0, 1) as in MeZO, or a fair sign as in SPSA."""
    history: int = 0
    """Steps whose parameters are kept for the subspace, which is renewed as often; 0: no subspace. They and their
    principal directions take that many times the memory of the parameters, twice."""
    variance: float | Array = 0.9
    """With a history: the share of its variance whose principal directions stay in the estimate."""
    NEEDS = needs("variance", history=Unless(0))


class Subspace(NamedTuple):
    """``past``: the last tau parameters; ``noise``: directions to take out (rows of 0 do nothing); ``count``: steps."""

    past: Any
    noise: Any
    count: Array


class State(NamedTuple):
    """``params``, one optimizer state per layer, so that a layer's estimate is used up before the next one is drawn,
    the ``statistics`` of blocks that have some (`fwdonly.base.Block`), and the ``subspace``, or ().
    """

    params: Params
    opt_state: tuple[Any, ...]
    statistics: Statistics = ()
    subspace: Subspace | tuple[()] = ()


def init(
    key: Array,
    x: Float[Array, "batch *features"],
    *,
    net: Net,
    tx: optax.GradientTransformation,
    num_classes: int,
    **options: Any,
) -> State:
    """Start values: blocks as the network draws them, M uniform on +-1/sqrt(n_L), both as MF's for one key.

    ``x`` are example inputs, used for shapes; ``options`` as of `Options`.

    Raises:
        UsageError: fewer than two classes, inputs the network cannot take, or an option that does not fit.
    """
    settings = _checked(options, net)
    params, statistics = _forward_passes.start(key, x, net, num_classes, only_last=True)
    subspace: Subspace | tuple[()] = ()
    if settings.history:
        zeros = jax.tree.map(lambda a: jnp.zeros((settings.history, *a.shape), a.dtype), params)
        subspace = Subspace(zeros, zeros, jnp.zeros((), jnp.int32))
    return State(params, begin_layers(tx, params), statistics, subspace)


def grads(
    params: Params,
    batch: Batch,
    key: Array,
    *,
    net: Net,
    statistics: Statistics = (),
    subspace: Subspace | tuple[()] = (),
    **options: Any,
) -> tuple[Params, Metrics]:
    r"""An estimate of the gradient of the network's loss, from 2 k forward passes.

    theta are all parameters, P numbers; f is the loss of this batch; v is drawn from its key::

        a_i = max(0, a_{i-1} W_i + b_i), a_0 = x     f = -(1/B) sum_b log softmax(a_L M^T)[b, y_b]           (nats)
        g = (f(theta + eps v) - f(theta - eps v)) / (2 eps) v     v ~ N(0, I), or signs    (eq. 2 of 2305.17333)
        E[g] = grad f + O(eps^2)     E|g - E[g]|^2 = (P + 1) |grad f|^2 + O(eps^2), signs: (P - 1) |grad f|^2

    On a quadratic f the quotient is the directional derivative grad f . v itself. With k directions the estimates are
    averaged. v is drawn again, layer by layer, in both passes and for g; the weights of a layer are moved only when the
    pass reaches it, and a layer's part of g is used up before the next one is drawn: temporary memory is that of one
    layer (with a history, of all of g).

    With a history of tau parameters theta_1..theta_tau (the rows of H, their mean taken off), the principal directions
    q_1, q_2, ... of H, in the order of their variance lambda_1 >= lambda_2 >= ..., and nu for ``variance``::

        r = the fewest directions with lambda_1 + ... + lambda_r >= nu sum_j lambda_j
        g <- g - sum_{j>r} q_j (q_j . g)

    Held constant: nothing is differentiated. The noise of blocks is the same on both sides.

    Args:
        params: from `init`.
        batch: inputs (B, *features) and labels (B,).
        key: draws the directions, and the noise of blocks that have some.
        net: the hidden layers.
        statistics: of blocks that have some, ``state.statistics``.
        subspace: ``state.subspace``; () takes nothing out.
        **options: see `Options`.

    Returns:
        The estimate, shaped like ``params``, and the metric ``loss``: the mean of all 2 k values of f, in nats, which
        is f(theta) but for O(eps^2).

    Raises:
        UsageError: labels that are missing or out of range (values are seen outside compiled code only), or an option
            that does not exist or does not fit.

    Example:
        >>> import jax, optax, fwdonly
        >>> net, batch = fwdonly.nets.mlp([8, 8]), fwdonly.Batch(jax.numpy.ones((4, 6)), jax.numpy.array([0, 1, 2, 0]))
        >>> state = fwdonly.zeroth_order.init(jax.random.key(0), batch.x, net=net, tx=optax.adam(1e-3), num_classes=3)
        >>> grads, metrics = fwdonly.zeroth_order.grads(state.params, batch, jax.random.key(1), net=net)
        >>> grads[-1].M.shape
        (3, 8)

    Deviations:
        * SPSA divides by the entries of v, which is multiplying by them for signs; MeZO multiplies.
        * MeZO moves the weights in place by +eps, -2 eps, +eps, which leaves rounding in them; here they are not
          touched. Its step is plain descent; here every layer's part of g goes through an optax transformation.
        * The subspace follows the library's reference sheet; the full text of its source was not available. What is
          taken out are the weak principal directions of the past alone. Directions in which the past has not moved at
          all stay, for a projection onto what it moved in could never leave it.
        * The history is renewed as a whole every tau steps, by the eigenvectors of the tau x tau products of its rows;
          until the first tau steps are over, nothing is taken out.
        * Blocks with running statistics move them by the last direction's first pass, at moved weights.
    """
    settings = _checked(options, net)
    line, metrics, _ = _values(params, every(statistics, net), batch, key, net, settings)
    g = _all(params, line, settings)
    return (_without(g, subspace.noise) if isinstance(subspace, Subspace) else g), metrics


class _Line(NamedTuple):
    """The ``slopes`` (k,) along the directions of ``keys``."""

    slopes: Array
    keys: Array


def _values(
    params: Params, statistics: Statistics, batch: Batch, key: Array, net: Net, options: Options
) -> tuple[_Line, Metrics, Statistics]:
    """All slopes, metrics and the statistics after this batch."""
    doubt = check_labels(batch, _forward_passes.readout(params[-1]).shape[0])
    keys = jax.random.split(jax.random.fold_in(key, 0), options.num_directions)

    def along(direction_key: Array) -> tuple[Array, Array, tuple[Any, ...]]:
        def loss_at(step: Array) -> tuple[Array, tuple[Any, ...]]:
            """f(theta + step v). A layer's v is drawn when its input is there: the number of its key waits for it."""
            a, moved = batch.x, []
            for i, (block, layer, known) in enumerate(zip(net, params, statistics, strict=True), start=1):
                layer = shifted(_key_of(direction_key, i, a), layer, step, options)
                a, known = run_block(block, layer.block, known, a, jax.random.fold_in(key, i))
                moved.append(known)
            return cross_entropy(_forward_passes.scores(a, layer), batch.y), tuple(moved)

        return slope(loss_at, options.eps)

    if options.num_directions == 1:  # without a loop, which would be compiled anew outside compiled code
        slopes, losses, moved = jax.tree.map(lambda a: jnp.asarray(a)[None], along(keys[0]))
    else:
        slopes, losses, moved = jax.lax.map(along, keys)
    last = [jax.tree.map(lambda s: s[-1], known) for known in moved]
    return _Line(slopes, keys), {"loss": losses.mean() + doubt}, kept(last)


def _estimate(layer: Layer, number: int, line: _Line, options: Options, wait_for: Any = ()) -> Layer:
    """A layer's part of g: the mean of slope_j v_j, one direction at a time, not before ``wait_for`` is there."""

    def add(total: Layer, pair: tuple[Array, Array]) -> tuple[Layer, None]:
        v = _forward_passes.directions(_key_of(pair[1], number, wait_for), layer, options.distribution)
        return jax.tree.map(lambda a, v: a + pair[0].astype(v.dtype) * v, total, v), None

    start = jax.tree.map(jnp.zeros_like, layer)
    if options.num_directions == 1:
        return add(start, jax.tree.map(lambda a: a[0], line))[0]
    total, _ = jax.lax.scan(add, start, line)
    return jax.tree.map(lambda g: g / options.num_directions, total)


def _all(params: Params, line: _Line, options: Options) -> Params:
    """All of g."""
    return tuple(_estimate(layer, i, line, options) for i, layer in enumerate(params, start=1))


def _key_of(direction_key: Array, number: int, wait_for: Any) -> Array:
    """The key of a layer's direction."""
    data = jnp.asarray(number, jnp.uint32)
    return jax.random.fold_in(direction_key, after(data, wait_for) if jax.tree.leaves(wait_for) else data)


def slope(f: Callable[[Array], tuple[Array, Any]], eps: float | Array) -> tuple[Array, Array, Any]:
    """(f(eps) - f(-eps)) / (2 eps) for ``f(step) -> (value, more)``, the mean of both values, and ``more`` at eps.

    The second value is computed after the first, never beside it.
    """
    step = jnp.asarray(eps, jnp.result_type(float))
    plus, more = f(step)
    minus, _ = f(after(-step, plus))
    return (plus - minus) / (2 * step.astype(plus.dtype)), (plus + minus) / 2, more


def shifted(key: Array, params: Any, step: Array, options: Options) -> Any:
    """params + step v, with the v that `_estimate` draws of the same key."""
    v = _forward_passes.directions(key, params, options.distribution)
    return jax.tree.map(lambda a, v: a + step.astype(a.dtype) * v, params, v)


def _without(g: Any, noise: Any) -> Any:
    """g - sum_j q_j (q_j . g), where the rows of ``noise`` are the q_j."""
    parts = jax.tree.map(lambda q, a: flat(q) @ a.ravel(), noise, g)
    along = sum(jax.tree.leaves(parts))
    return jax.tree.map(lambda q, a: a - (along @ flat(q)).reshape(a.shape), noise, g)


def _remembered(subspace: Subspace, params: Params, options: Options) -> Subspace:
    """The history with these parameters in it, and its noise anew where it has been filled once more."""
    tau, count = options.history, subspace.count
    past = jax.tree.map(lambda rows, a: rows.at[count % tau].set(a), subspace.past, params)
    is_full = count % tau == tau - 1
    noise = jax.lax.cond(is_full, lambda: noise_of(past, options.variance), lambda: subspace.noise)
    return Subspace(past, noise, count + 1)


def noise_of(past: Any, variance: float | Array) -> Any:
    """The principal directions of rows, trees (tau, *shape), that are not among the fewest with this share of variance.

    They come as such rows of length 1, over all leaves together; rows that stay in the estimate are 0.
    """
    centred = jax.tree.map(lambda rows: flat(rows) - flat(rows).mean(0, keepdims=True), past)
    products = jnp.asarray(sum(rows @ rows.T for rows in jax.tree.leaves(centred)))
    lambdas, vectors = (a[..., ::-1] for a in jnp.linalg.eigh(products))  # the largest first
    lambdas = jnp.maximum(lambdas, 0)
    before = jnp.cumsum(lambdas) - lambdas
    is_noise = (before >= variance * lambdas.sum()) & (lambdas > SMALL * lambdas[0])
    scale = jnp.where(is_noise, 1 / jnp.sqrt(jnp.where(is_noise, lambdas, 1.0)), 0.0)
    mix = (vectors * scale[None, :]).T
    return jax.tree.map(lambda rows, like: (mix @ rows).reshape(like.shape), centred, past)


@stepping(State)
def update(
    state: State, batch: Batch, key: Array, *, net: Net, tx: optax.GradientTransformation, **options: Any
) -> tuple[State, Metrics]:
    """One step: `grads`, then one optax step over all parameters; the new ones join the history, where there is one."""
    settings = _checked(options, net)
    line, metrics, moved = _values(state.params, every(state.statistics, net), batch, key, net, settings)
    subspace, stepped, done = state.subspace, [], ()
    noise = subspace.noise if isinstance(subspace, Subspace) else None
    whole = None if noise is None else _without(_all(state.params, line, settings), noise)
    optimizers = of_layers(tx, len(state.params))
    for at, (one, layer, opt) in enumerate(zip(optimizers, state.params, state.opt_state, strict=True)):
        g = _estimate(layer, at + 1, line, settings, done) if whole is None else whole[at]
        stepped.append(descend(one, g, opt, layer, metrics["loss"]))
        done = stepped[-1][0]
    params, opt_state = (tuple(part) for part in zip(*stepped, strict=True))
    if isinstance(subspace, Subspace):
        subspace = _remembered(subspace, params, settings)
    return State(params, opt_state, moved, subspace), metrics


@predicting
def predict(
    state: State, x: Float[Array, "batch *features"], *, net: Net, **options: Any
) -> Float[Array, "batch classes"]:
    """Class scores a_L M^T. ``options`` as of `Options`; none of them changes what is predicted."""
    _checked(options, net)
    return _forward_passes.training_scores(state, x, None, net=net)


def rule(net: Net, tx: optax.GradientTransformation, *, num_classes: int, **options: Any) -> LearningRule:
    """SPSA or MeZO with its options bound.

    Raises:
        UsageError: an option that does not exist or does not fit.
    """
    _checked(options, net)
    return LearningRule(
        init=partial(init, net=net, tx=tx, num_classes=num_classes, **options),
        update=partial(update, net=net, tx=tx, **options),
        predict=partial(predict, net=net, **options),
        grads=at_state(grads, "statistics", "subspace", net=net, **options),
        training_scores=partial(_forward_passes.training_scores, net=net),
        activations=partial(_forward_passes.activations, net=net),
    )


def work(layers: tuple[nets.LayerSize, ...], num_classes: int, batch: int, **options: Any) -> Products:
    """Multiply-accumulates of layer i, per sample: 2 k F_i forward; 2 k C n_L for the readout.

    A history of tau takes 2 tau products per parameter to take the noise out, and 2 tau^2 every tau steps to renew it.
    """
    settings = read_options(Options, options, "zeroth order")
    passes, tau = 2 * settings.num_directions, settings.history
    products: Products = []
    for i, size in enumerate(layers, start=1):
        weights = size.matrix[0] * size.matrix[1] + size.matrix[1]
        products += [(i, "forward", passes * batch * size.macs)]
        products += [(i, "subspace", 4 * tau * weights)] if tau else []
    products += [(len(layers), "readout", passes * batch * num_classes * layers[-1].n)]
    return products + ([(len(layers), "subspace", 4 * tau * num_classes * layers[-1].n)] if tau else [])


def _checked(options: dict[str, Any], net: Net) -> Options:
    nets.check_net(net)
    settings = chosen(Options, options, "zeroth order")
    if isinstance(settings.eps, float | int) and not settings.eps > 0:
        raise UsageError(f"eps is the length of a way and above 0; got {settings.eps}")
    if settings.num_directions < 1:
        raise UsageError(f"num_directions is how many directions a step has, from 1; got {settings.num_directions}")
    if settings.history < 0 or settings.history == 1:
        raise UsageError(f"history is how many past parameters are kept, 0 or at least 2; got {settings.history}")
    if isinstance(settings.variance, float | int) and not 0 < settings.variance <= 1:
        raise UsageError(f"variance is a share, above 0 and at most 1; got {settings.variance}")
    return settings


CARD = Card(
    variants={
        "mezo": Variant("MeZO"),
        "spsa": Variant("SPSA", {"distribution": "rademacher"}),
        "mezo-subspace": Variant("MeZO, subspace", {"history": 10}),
    },
    options=(Options,),
    recipe={"epochs": 16},
    compared={"optimizer": "adamw"},
)
