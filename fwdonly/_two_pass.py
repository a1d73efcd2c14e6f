r"""The error-modulated second pass that PEPITA and FOTON share: the network runs again on an input moved by its error.

The published rules differ in five switches (`Switches`), in where the feedback F comes from and in what happens after
the step; those live in `fwdonly.pepita` and `fwdonly.foton`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from . import nets
from .base import Batch, Metrics, Net, Products, as_params, check_labels, cross_entropy
from .errors import UsageError

Params = nets.output.Params
Presynaptic = Literal["modulated", "clean"]
OutputError = Literal["second", "first"]
Form = Literal["difference", "hebbian", "time_local"]
Error = Literal["ce", "mse"]
ConvScale = Literal["sum", "sqrt", "mean"]
HiddenNorm = Literal["none", "batch"]


class Switches(NamedTuple):
    """What separates the rules of the family."""

    sign: float | Array
    """s, of the modulation x~ = x + s e F^T."""
    presynaptic: Presynaptic
    """p: the activities of the second ("modulated") or of the first ("clean") pass."""
    output_error: OutputError
    """d, of the output layer: e~ of the second or e of the first pass."""
    form: Form = "difference"
    """"hebbian": products of both passes subtracted; "time_local" has the same gradient."""
    error: Error = "ce"
    """e = softmax(T s) - t, or s - t."""
    temperature: float | Array = 1.0
    """T."""
    perturbation: float | Array = 1.0
    """eps, of x~ = x + s eps e F^T; the difference of the activities is divided by it."""
    error_sign: bool = False
    """Modulate by the sign of e."""
    dropout: float = 0.0
    """Share of hidden activities set to 0 in both passes, the others divided by the share that is kept."""
    hidden_norm: HiddenNorm = "none"
    """"batch": the activities of a hidden layer are divided by the root of the sum of all squares in the batch."""
    jvp: bool = False
    """The change of activities by the derivative along the modulation, in the place of a second pass: eps to 0."""
    conv_scale: ConvScale = "sum"
    """A convolution's products are summed over positions, or divided by (the root of) their number."""


def check(switches: Switches, net: Net) -> None:
    """Refuse numbers that no rule of the family has, and networks whose layers cannot be taken apart.

    Raises:
        UsageError: one line that names the switch or the layer.
    """
    nets.check_parts(net)
    for name in ("temperature", "perturbation"):
        value = getattr(switches, name)
        if isinstance(value, float | int) and not 0 < value < math.inf:
            raise UsageError(f"{name} must be a number above 0; got {value}: try 1.0")
    if switches.jvp and switches.presynaptic != "clean":
        raise UsageError('jvp has no modulated activities; leave presynaptic at "clean"')
    if not 0 <= switches.dropout < 1:
        raise UsageError(f"dropout is the share of activities to drop, at least 0 and below 1; got {switches.dropout}")


def pseudo_gradients(
    params: Params,
    F: Float[Array, "classes *features"],
    batch: Batch,
    key: Array,
    *,
    net: Net,
    switches: Switches,
) -> tuple[Params, Metrics]:
    """The update direction of every parameter; equations in `fwdonly.pepita.grads`.

    ``F`` has one input-shaped row per class, F^T in the papers. The second pass enters the first layer through
    (x + s e F^T) W_1 = x W_1 + s e (F^T W_1): the same number from ``classes`` rows instead of a whole batch.
    """
    doubt = check_labels(batch, params.W.shape[1])
    t = jax.nn.one_hot(batch.y, params.W.shape[1], dtype=batch.x.dtype)

    masks = _masks(params, batch.x, key, net, switches)
    z_1 = nets.linear(net[0]).apply(params.blocks[0], batch.x)

    def one_pass(z: Array) -> tuple[list[Array], list[Array], Array]:
        return _run(params, batch.x, z, masks, net, switches)

    (h, a, s), along = jax.linearize(one_pass, z_1) if switches.jvp else (one_pass(z_1), None)
    y, e = _error(s, t, switches)
    metrics = {"loss": _loss(s, t, batch.y, switches) + doubt}

    m = _modulation(e, switches)
    dz = jnp.tensordot(m, nets.linear(net[0], bias=False).apply(params.blocks[0], F), 1)
    if along is not None:
        change = [-dh / switches.perturbation for dh in along(dz)[0]]
        return as_params(_products(params, change, a, e, net, switches), params), metrics
    h_mod, a_mod, s_mod = _run(params, batch.x + jnp.tensordot(m, F, 1), z_1 + dz, masks, net, switches)

    if switches.form != "difference":
        both = _products(params, h, a, y, net, switches), _products(params, h_mod, a_mod, t, net, switches)
        return as_params(jax.tree.map(jnp.subtract, *both), params), metrics
    p = a if switches.presynaptic == "clean" else a_mod
    d = e if switches.output_error == "first" else _error(s_mod, t, switches)[1]
    change = [(one - other) / switches.perturbation for one, other in zip(h, h_mod, strict=True)]
    return as_params(_products(params, change, p, d, net, switches), params), metrics


def time_local(
    params: Params,
    F: Float[Array, "classes *features"],
    batch: Batch,
    key: Array,
    *,
    net: Net,
    switches: Switches,
) -> tuple[tuple[Callable[[Params], Params], ...], Metrics]:
    """The halves of the Hebbian direction, each at the parameters it is given, by the error of ``params``."""
    doubt = check_labels(batch, params.W.shape[1])
    t = jax.nn.one_hot(batch.y, params.W.shape[1], dtype=batch.x.dtype)

    masks = _masks(params, batch.x, key, net, switches)

    def one_pass(params: Params, x: Array) -> tuple[list[Array], list[Array], Array]:
        return _run(params, x, nets.linear(net[0]).apply(params.blocks[0], x), masks, net, switches)

    h, a, s = one_pass(params, batch.x)
    y, e = _error(s, t, switches)
    x_mod = batch.x + jnp.tensordot(_modulation(e, switches), F, 1)

    def first(params: Params) -> Params:
        return as_params(_products(params, h, a, y, net, switches), params)

    def second(params: Params) -> Params:
        h_mod, a_mod, _ = one_pass(params, x_mod)
        return as_params(jax.tree.map(jnp.negative, _products(params, h_mod, a_mod, t, net, switches)), params)

    return (first, second), {"loss": _loss(s, t, batch.y, switches) + doubt}


def work(
    layers: tuple[nets.LayerSize, ...],
    num_classes: int,
    batch: int,
    presynaptic: str,
    output_error: str,
    form: str = "difference",
) -> Products:
    """Products of two passes and of the weights. The second pass takes ``num_classes`` rows per batch through layer 1.

    The other forms have a product for the weights in both passes, and do not read the output layer twice. The second
    pass of "time_local" has other weights, so it is a whole pass.
    """
    C, first, both = num_classes, layers[0], form != "difference"
    entry = (
        batch * first.macs if form == "time_local" else C * first.macs + batch * C * first.h
    )  # F^T W_1, and e times it
    products: Products = [(1, "second pass", entry)]
    products += [(1, "modulated input", batch * C * first.inputs)] if both or presynaptic == "modulated" else []
    for i, size in enumerate(layers, start=1):
        products += [(i, "forward", batch * size.macs), (i, "weight gradient", (1 + both) * batch * size.macs)]
        products += [(i, "second pass", batch * size.macs)] if i > 1 else []
    out = batch * C * layers[-1].n
    return [*products, (len(layers), "output layer", (3 if both or output_error == "second" else 2) * out)]


def _products(params: Params, h: list[Array], a: list[Array], d: Array, net: Net, switches: Switches) -> Params:
    """a_{l-1}^T h_l / B for every hidden layer, and a_{L-1}^T d / B; a bias has a 1 in the place of a."""
    blocks, count = [], d.shape[0]
    for at, (block, weights) in enumerate(zip(net, params.blocks, strict=True)):
        positions = 1 if h[at].ndim == 2 else h[at].shape[1] * h[at].shape[2]
        share = count * positions ** {"sum": 0.0, "sqrt": 0.5, "mean": 1.0}[switches.conv_scale]
        total = nets.weight_gradient(block, weights, a[at], h[at])
        blocks.append(jax.tree.map(lambda g, share=share: g / share, total))
    top = a[-1].reshape(count, -1)
    return Params(tuple(blocks), top.T @ d / count, None if params.b is None else d.sum(0) / count)


def _run(
    params: Params, x: Array, z: Array, masks: Sequence[Array | float], net: Net, switches: Switches
) -> tuple[list[Array], list[Array], Array]:
    """One pass: every h_l (before pooling), a_0..a_{L-1}, and s. It starts from z, the first layer's sums for ``x``."""
    h, a = [], [x]
    for at, (block, weights, m) in enumerate(zip(net, params.blocks, masks, strict=True)):
        z = nets.linear(block).apply(weights, a[-1]) if at else z
        h.append(m * block.activation(z))
        if switches.hidden_norm == "batch":
            h[-1] = h[-1] / jnp.sqrt(jnp.maximum((h[-1] ** 2).sum(), jnp.finfo(h[-1].dtype).tiny))
        a.append(nets.pooled(block, h[-1]))
    return h, a, nets.output.read(params, a[-1])


def _masks(params: Params, x: Array, key: Array, net: Net, switches: Switches) -> list[Array | float]:
    """m_l of every hidden layer, drawn once for both passes. Only the matrix products take more time."""

    def pass_without() -> list[Array]:
        return _run(params, x, nets.linear(net[0]).apply(params.blocks[0], x), [1.0] * len(net), net, switches)[0]

    return [mask(jax.random.fold_in(key, at), h, switches.dropout) for at, h in enumerate(jax.eval_shape(pass_without))]


def mask(key: Array, h: Any, dropout: float) -> Array | float:
    """Inverted dropout of what has the shape and type of ``h``: 0, or 1 over the share that is kept."""
    if dropout == 0:
        return 1.0
    return jnp.where(jax.random.bernoulli(key, 1 - dropout, h.shape), 1 / (1 - dropout), 0).astype(h.dtype)


def _modulation(e: Array, switches: Switches) -> Array:
    """What the rows of F^T are added to the input with."""
    return switches.sign * switches.perturbation * (jnp.sign(e) if switches.error_sign else e)


def answer(s: Array, error: Error, temperature: float | Array = 1.0) -> Array:
    """y, what is compared with the target."""
    return jax.nn.softmax(temperature * s) if error == "ce" else s


def _error(s: Array, t: Array, switches: Switches) -> tuple[Array, Array]:
    """y and e = y - t."""
    y = answer(s, switches.error, switches.temperature)
    return y, y - t


def _loss(s: Array, t: Array, y: Array, switches: Switches) -> Array:
    if switches.error == "ce":
        return cross_entropy(switches.temperature * s, y)
    return 0.5 * ((s - t) ** 2).sum(1).mean()
