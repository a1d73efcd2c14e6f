r"""Physical local learning (PhyLL): black boxes in a row learn by a digital linear layer behind each.

Momeni, Rahmani, Mallejac, del Hougne, Fleury, *Backpropagation-free training of deep physical neural networks*, Science
382, 1297 (2023), arXiv 2304.11042; equations from the official code (GitHub MomeniAli/PhyLL). Each layer alone is
trained so that inputs with their true label point along a fixed random direction, and those with a false label do not.
The physics is measured, never differentiated: any function of JAX, or one of the host (`on_host`).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from . import _labels, nets
from .base import (
    Batch,
    LearningRule,
    Metrics,
    Net,
    Products,
    after,
    at_state,
    begin_layers,
    check_classes,
    check_labels,
    chosen,
    descend,
    flat,
    predicting,
    stepping,
)
from .card import Card, Variant
from .descent import of_layers
from .errors import UsageError

SMALLEST = 1e-6
"""The least length by which a cosine divides."""


class Options(NamedTuple):
    """How layers see and learn; keywords of `init`, `grads`, `update`, `predict` and `rule`.

    ``theta`` and ``label_strength`` may be traced.
    """

    physics: Literal["optics", "none"] = "optics"
    """optics: a simulated medium, a random complex matrix made of lenses and phase plates, of which the amplitude is
    seen. none: no physics, a network of digital layers. From Python ``black_box`` takes the place of both."""
    skip: Literal["none", "concat"] = "none"
    """What a digital layer is given: what the physics gives alone, or also the state that went into it."""
    goodness: Literal["abs", "activation"] = "abs"
    """What is held against the direction: the outputs without their signs, or the block's activation of them."""
    theta: float | Array = 4.0
    """Sharpness of the pair loss."""
    inner_steps: int = 5
    """Optimizer steps of a layer on one measurement of the physics."""
    label_strength: float | Array | None = None
    """Value of the label's input. None: its square is 0.4 of the sample's energy."""


class State(NamedTuple):
    """``params``, W_t and b_t of every digital layer; an optimizer state per layer; the directions ``xi`` (of u_t, as
    vectors of length 1); ``phases`` of the simulated medium, (2, inputs) per layer, or ().
    """

    params: tuple[Any, ...]
    opt_state: tuple[Any, ...]
    xi: tuple[Array, ...]
    phases: tuple[Array, ...] = ()


Box = Callable[[Array, Array], Array]
"""A physical system: ``(h, key) -> features``, for states (batch, *features)."""


def on_host(function: Callable[[np.ndarray], np.ndarray], size: int) -> Box:
    """A black box of a host function, such as one that drives an instrument: by `jax.pure_callback`.

    Args:
        function: states (batch, features) to features (batch, size), NumPy arrays; it may be called from any thread.
        size: how many features it gives.
    """

    def box(h: Array, key: Array) -> Array:
        del key
        shape = jax.ShapeDtypeStruct((len(h), size), h.dtype)
        measured = lambda values: np.asarray(function(np.asarray(values)), h.dtype)
        return jax.pure_callback(measured, shape, flat(h), vmap_method="sequential")

    return box


def optics(h: Float[Array, "batch *features"], phases: Float[Array, "2 n"]) -> Float[Array, "batch *features"]:
    """|T h| of a medium T = F^-1 D_2 F D_1, where F is the unitary Fourier transform (a lens) and D are phase plates.

    T is a unitary complex matrix over all features of a sample, drawn by its ``phases``, uniform in an angle.
    """
    first, second = jnp.exp(1j * phases[0][None]), jnp.exp(1j * phases[1][None])
    field = jnp.fft.ifft(second * jnp.fft.fft(first * flat(h)))
    return jnp.abs(field).astype(h.dtype).reshape(h.shape)


def init(
    key: Array,
    x: Float[Array, "batch *features"],
    *,
    net: Net,
    tx: optax.GradientTransformation,
    num_classes: int,
    black_box: Box | tuple[Box, ...] | None = None,
    **options: Any,
) -> State:
    """Start values: blocks as the network draws them, xi_t normal and of length 1, phases uniform.

    Args:
        key: random key; blocks, directions and medium have separate streams.
        x: example inputs, used for shapes.
        net: the digital layers; only the linear part (and the pooling) of a block is used, unless
            ``goodness="activation"``.
        tx: any optax transformation; each layer gets a state of its own.
        num_classes: K.
        black_box: the physics of every layer, or a tuple of one per layer, in the place of ``physics``.
        **options: see `Options`.

    Raises:
        UsageError: fewer than two classes, inputs the network cannot take, or an option that does not fit.
    """
    settings = _checked(options, net, black_box)
    check_classes(num_classes)
    block_key, other_key = jax.random.split(key)
    _labelled(x, jnp.zeros(len(x), jnp.int32), num_classes, settings)
    h, params, directions, phases = x, [], [], []
    for t, block in enumerate(net, start=1):
        direction_key, phase_key = jax.random.split(jax.random.fold_in(other_key, t))
        if black_box is None and settings.physics == "optics":
            phases.append(jax.random.uniform(phase_key, (2, h[0].size), h.dtype, 0, 2 * jnp.pi))
        how = _How(net, num_classes, (), tuple(phases), black_box, settings)
        F = jax.eval_shape(lambda h, how=how, at=t - 1, key=phase_key: _features(at, h, how, key), h)
        (weights,), known, _ = nets.init(block_key, jnp.zeros(F.shape, F.dtype), (block,), first=t)
        if known:
            raise UsageError(f"block {t} has {', '.join(known[0])} beside its parameters; a digital layer has none")
        u = jax.eval_shape(partial(_linear, block), weights, F)
        h = jnp.zeros(u.shape, u.dtype)
        xi = jax.random.normal(direction_key, (h[0].size,), h.dtype)
        params.append(weights)
        directions.append(xi / jnp.linalg.norm(xi))
    return State(tuple(params), begin_layers(tx, params), tuple(directions), tuple(phases))


def grads(
    params: tuple[Any, ...],
    batch: Batch,
    key: Array,
    *,
    net: Net,
    num_classes: int,
    xi: tuple[Array, ...],
    phases: tuple[Array, ...] = (),
    black_box: Box | tuple[Box, ...] | None = None,
    **options: Any,
) -> tuple[tuple[Any, ...], Metrics]:
    r"""The gradient of every layer's own pair loss with respect to W_t and b_t, at these parameters.

    For t = 1..T, with h_0 the labelled input (row vectors, B samples; the black box phi_t is never differentiated)::

        F_t = phi_t(h_{t-1})  or  [phi_t(h_{t-1}), h_{t-1}]     u_t = F_t W_t + b_t     h_t = u_t
        c_t = (|u_t| . xi_t) / (|u_t|_2 |xi_t|_2)                                                (goodness, in [-1, 1])
        loss_t = mean_b log(1 + exp(-theta (c_t on positive - c_t on negative)))                    (nats)

    Positive: x with its label y; negative: with a wrong label, drawn uniformly. In closed form, with xi of length 1::

        k = -theta sigmoid(-theta (c_pos - c_neg)) / B
        du_pos =  k sign(u_pos) (xi - c_pos |u_pos| / |u_pos|_2) / |u_pos|_2
        du_neg = -k sign(u_neg) (xi - c_neg |u_neg| / |u_neg|_2) / |u_neg|_2
        dW = F_pos^T du_pos + F_neg^T du_neg     db = sum_b du_pos + du_neg

    The label is written over the first K inputs: 0, and ``label_strength`` at y.

    Held constant for layer t: F_t, and so the physics, all other layers and the input; xi_t. A black box refuses any
    derivative, of predictions as well.

    Args:
        params: from `init`.
        batch: inputs (B, *features) and labels (B,).
        key: draws the wrong labels, and is handed on to the black boxes.
        net: the digital layers.
        num_classes: K.
        xi: directions, of the state.
        phases: of the simulated medium, of the state.
        black_box: as for `init`.
        **options: see `Options`.

    Returns:
        Gradients shaped like ``params``, and the metrics ``layer_loss`` (T,) and its sum ``loss``, in nats. `update`
        takes ``inner_steps`` steps along such gradients, and every layer in it sees what the stepped ones hand on.

    Raises:
        UsageError: labels that are missing or out of range (values are seen outside compiled code only), or an option
            that does not exist or does not fit.

    Example:
        >>> import jax, optax, fwdonly
        >>> net, batch = fwdonly.nets.mlp([8, 8]), fwdonly.Batch(jax.numpy.ones((4, 6)), jax.numpy.array([0, 1, 2, 0]))
        >>> rule = fwdonly.phyll.rule(net, optax.adam(1e-3), num_classes=3)
        >>> state = rule.init(jax.random.key(0), batch.x)
        >>> grads, metrics = rule.grads(state, batch, jax.random.key(1))
        >>> metrics["layer_loss"].shape
        (2,)

    Deviations:
        * The text of the paper was not available; everything follows the official code.
        * There the label's value is the largest of the batch, so that test inputs depend on their batch; here it is the
          sample's own, by its energy. Two blocks of 10 x 28 label pixels (optics) are one pixel here, and stronger.
        * The official medium is a measured matrix with masks and pooling around it; here one of lenses and phase
          plates, of as many features as inputs. Noise, converters and drift are the black box's own affair.
        * xi is of length 1 exactly; there 1e-4 is added before it is divided.
        * The convolutional form (linear part and pooling of a block) is this library's.
        * ``goodness="activation"`` with GELU is the digital network of the same repository.
    """
    how = _How(net, num_classes, xi, phases, black_box, _checked(options, net, black_box))
    return _pass(batch, key, how, lambda at, of_layer: (params[at], *of_layer(params[at])))


class _How(NamedTuple):
    """What does not change in a step."""

    net: Net
    num_classes: int
    xi: tuple[Array, ...]
    phases: tuple[Array, ...]
    black_box: Box | tuple[Box, ...] | None
    options: Options


def _pass(batch: Batch, key: Array, how: _How, learn: Callable[..., Any]) -> tuple[tuple[Any, ...], Metrics]:
    """What ``learn`` keeps of every layer, and the metrics.

    ``learn(at, of_layer)`` gives the weights that the layer hands on with, what is kept of it, and its loss;
    ``of_layer(weights)`` is the layer's gradient and loss. The physics is measured once per layer.
    """
    doubt = check_labels(batch, how.num_classes)
    draw_key, box_key = jax.random.split(key)
    y = jnp.concatenate([batch.y, wrong_labels(draw_key, batch.y, how.num_classes)])
    h = _labelled(jnp.concatenate([batch.x, batch.x]), y, how.num_classes, how.options)
    kept, losses = [], []
    for at, (block, _) in enumerate(zip(how.net, how.xi, strict=True)):
        F = _features(at, h, how, box_key)
        weights, of_step, loss = learn(at, partial(_gradient, block=block, F=F, xi=how.xi[at], options=how.options))
        kept.append(of_step)
        losses.append(loss)
        h = after(_linear(block, weights, F), weights)
    layer_loss = jnp.stack(losses)
    return tuple(kept), {"loss": layer_loss.sum() + doubt, "layer_loss": layer_loss}


def _features(at: int, h: Array, how: _How, key: Array) -> Array:
    """F of the layer at this place."""
    box = how.black_box[at] if isinstance(how.black_box, tuple | list) else how.black_box
    if box is None and how.options.physics == "none":
        return h
    measured = _measured(box, h, jax.random.fold_in(key, at)) if box else optics(h, how.phases[at])
    if how.options.skip == "concat":
        below = flat(h) if measured.ndim == 2 else h
        measured = jnp.concatenate([measured, below], axis=-1)
    return measured


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _measured(box: Box, h: Array, key: Array) -> Array:
    """What the black box gives."""
    return box(h, key)


@_measured.defjvp
def _no_derivative(box: Box, primals: Any, tangents: Any) -> Any:
    raise UsageError("a black box is measured and has no derivative: leave out what asks for one, such as alignment")


def _linear(block: Any, weights: Any, F: Array) -> Array:
    """u of the block."""
    return nets.pooled(block, nets.linear(block).apply(weights, F))


def _strengths(block: Any, u: Array, options: Options) -> Array:
    """What is held against the direction, one vector per sample."""
    return flat(jnp.abs(u) if options.goodness == "abs" else block.activation(u))


def _cosine(m: Array, xi: Array) -> tuple[Array, Array]:
    """c and the lengths of the vectors ``m``."""
    length = jnp.maximum(jnp.sqrt((m**2).sum(1)), SMALLEST)
    return (m * xi[None]).sum(1) / length, length


def _gradient(weights: Any, *, block: Any, F: Array, xi: Array, options: Options) -> tuple[Any, Array]:
    """The closed form of a layer's gradient, and its loss; the first half of ``F`` is positive, the second negative."""
    u, to_weights = jax.vjp(lambda weights: _linear(block, weights, F), weights)
    m, to_outputs = jax.vjp(lambda u: _strengths(block, u, options), u)
    c, length = _cosine(m, xi)
    c_pos, c_neg = jnp.split(c, 2)
    difference = options.theta * (c_pos - c_neg)
    k = -options.theta * jax.nn.sigmoid(-difference) / len(c_pos)
    dm = (jnp.concatenate([k, -k]) / length)[:, None] * (xi[None] - (c / length)[:, None] * m)
    return to_weights(to_outputs(dm)[0])[0], jax.nn.softplus(-difference).mean()


def wrong_labels(key: Array, y: Int[Array, " batch"], num_classes: int) -> Int[Array, " batch"]:
    """A wrong label for every sample, all of them alike."""
    further = jax.random.randint(key, y.shape, 1, num_classes).astype(y.dtype)
    return ((y.astype(jnp.int32) + further) % num_classes).astype(y.dtype)


def _labelled(x: Array, y: Array, num_classes: int, options: Options) -> Array:
    """``x`` with the label in the place of its first K values."""
    label = _labels.scaled(x, jax.nn.one_hot(y, num_classes, dtype=x.dtype), options.label_strength, 0.4)
    return _labels.overlaid(x, label, f"put {num_classes} columns of zeros in front,")


@stepping(State)
def update(
    state: State,
    batch: Batch,
    key: Array,
    *,
    net: Net,
    tx: optax.GradientTransformation,
    num_classes: int,
    black_box: Box | tuple[Box, ...] | None = None,
    **options: Any,
) -> tuple[State, Metrics]:
    """One batch: layer by layer one measurement, ``inner_steps`` optimizer steps, and what the stepped layer hands on.

    Args as for `grads`. Every ``layer_loss`` is that of the first inner step.
    """
    settings = _checked(options, net, black_box)
    how = _How(net, num_classes, state.xi, state.phases, black_box, settings)
    optimizers = of_layers(tx, len(net))

    def learn(at: int, of_layer: Callable[[Any], tuple[Any, Array]]) -> tuple[Any, Any, Array]:
        def step(layer: tuple[Any, Any], _: Any) -> tuple[tuple[Any, Any], Array]:
            weights, opt = layer
            gradient, loss = of_layer(weights)
            return descend(optimizers[at], gradient, opt, weights, loss), loss

        layer = state.params[at], state.opt_state[at]
        layer, losses = jax.lax.scan(step, layer, length=settings.inner_steps)
        return layer[0], layer, losses[0]

    layers, metrics = _pass(batch, key, how, learn)
    params, opt_state = (tuple(part) for part in zip(*layers, strict=True))
    return state._replace(params=params, opt_state=opt_state), metrics


@predicting
def predict(
    state: State, x: Float[Array, "batch *features"], *, net: Net, num_classes: int, **how: Any
) -> Float[Array, "batch classes"]:
    """Class scores: sum_t c_t of x with every label. K passes through the physics, with one fixed key."""
    return layer_scores(state, x, net=net, num_classes=num_classes, **how).sum(0)


@predicting
def layer_scores(
    state: State,
    x: Float[Array, "batch *features"],
    *,
    net: Net,
    num_classes: int,
    black_box: Box | tuple[Box, ...] | None = None,
    **options: Any,
) -> Float[Array, "layers batch classes"]:
    """c_t of every layer for every label."""
    settings = _checked(options, net, black_box)
    how = _How(net, num_classes, state.xi, state.phases, black_box, settings)

    def goodness_of(label: Array) -> Array:
        h, goodness = _labelled(x, jnp.broadcast_to(label, len(x)), num_classes, settings), []
        for at, (block, weights) in enumerate(zip(net, state.params, strict=True)):
            h = _linear(block, weights, _features(at, h, how, jax.random.key(0)))
            goodness.append(_cosine(_strengths(block, h, settings), state.xi[at])[0])
        return jnp.stack(goodness)

    return jax.lax.map(goodness_of, jnp.arange(num_classes)).transpose(1, 2, 0)


def rule(
    net: Net,
    tx: optax.GradientTransformation,
    *,
    num_classes: int,
    black_box: Box | tuple[Box, ...] | None = None,
    **options: Any,
) -> LearningRule:
    """PhyLL with its options bound; ``black_box`` as for `init`.

    Raises:
        UsageError: an option that does not exist or does not fit.
    """
    _checked(options, net, black_box)
    how: dict[str, Any] = {"net": net, "num_classes": num_classes, "black_box": black_box, **options}
    return LearningRule(
        init=partial(init, tx=tx, **how),
        update=partial(update, tx=tx, **how),
        predict=partial(predict, **how),
        grads=at_state(grads, "xi", "phases", **how),
        layer_scores=partial(layer_scores, **how),
    )


def work(
    layers: tuple[nets.LayerSize, ...], num_classes: int, batch: int, *, inner_steps: int = 5, skip: str = "none"
) -> Products:
    """Per sample and layer, of positives and negatives: n steps forward and for the weights, and once handed on.

    ``skip="concat"``: twice as many inputs, as of physics that gives as many features as it is given. The physics,
    simulated or not, is no digital product.
    """
    del num_classes
    products: Products = []
    for t, size in enumerate(layers, start=1):
        macs = (2 if skip == "concat" else 1) * batch * size.macs
        products += [(t, "forward", 2 * (inner_steps + (t < len(layers))) * macs)]
        products += [(t, "weight gradient", 2 * inner_steps * macs)]
    return products


def _checked(options: dict[str, Any], net: Net, black_box: Any) -> Options:
    nets.check_parts(net)
    settings = chosen(Options, options, "PhyLL")
    if settings.skip == "concat" and settings.physics == "none" and black_box is None:
        raise UsageError("skip='concat' is for layers behind physics; leave skip out where physics='none'")
    if settings.physics == "none" and black_box is not None:
        raise UsageError("physics='none' and black_box contradict each other; leave one of them out")
    for name, value in (("theta", settings.theta), ("label_strength", settings.label_strength)):
        if isinstance(value, float | int) and not value > 0:
            raise UsageError(f"{name} is above 0; got {value}")
    if settings.inner_steps < 1:
        raise UsageError(
            f"inner_steps is how many steps a layer takes on one measurement, from 1; got {settings.inner_steps}"
        )
    boxes = black_box if isinstance(black_box, tuple | list) else [black_box] * len(net)
    if len(boxes) != len(net):
        raise UsageError(f"there are {len(boxes)} black boxes for {len(net)} layers; give one, or one per layer")
    if black_box is not None and not all(map(callable, boxes)):
        raise UsageError("a black box is a function (h, key) -> features; give one, or one per layer")
    return settings


CARD = Card(
    variants={
        "phyll": Variant("PhyLL"),
        "phyll-skip": Variant("PhyLL, skip", {"skip": "concat"}),
        "phyll-digital": Variant("PhyLL, no physics", {"physics": "none"}),
    },
    options=(Options,),
    net="mlp:784,784",
    recipe={"epochs": 16, "lr_schedule": "constant", "monitor": "accuracy", "learning_rate": 1e-3},
    compared={"optimizer": "adamw", "learning_rate": 1e-3},
    monitor="accuracy",
)
