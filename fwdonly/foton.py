r"""FOTON: forward-only training of orthogonal networks; the error's way back is the product of the weights themselves.

Caillon, Colagrande, Fagnou, Delattre, Allauzen, ECAI 2025, arXiv 2512.20668, with the equations of its public code.
On a linear network of orthonormal layers that do not widen, the step is that of backpropagation.
"""

import math
import warnings
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from . import _two_pass, nets
from .base import (
    Batch,
    LearningRule,
    Metrics,
    Net,
    Products,
    at_state,
    begin,
    chosen,
    descend,
    needs,
    predicting,
    stepping,
)
from .card import Card, Range, Setting, Stage, Variant
from .errors import UsageError

Params = nets.output.Params

ORDER = 6
"""Coefficients of Björck's series: seven terms from three products of the smaller side."""

SERIES = tuple(math.comb(2 * i, i) / 4**i for i in range(ORDER + 1))
"""1, 1/2, 3/8, 5/16, ...: (1 - E)^(-1/2) = sum_i SERIES[i] E^i."""

POWER_ITERATIONS = 4
"""For the largest singular value, from where the last retraction left them."""

BOUND = 1.9
"""A bound on (largest singular value / sigma)^2, for the series converges below 2."""


class Options(NamedTuple):
    """How the rule learns; keywords of `init`, `grads`, `update` and `rule`."""

    error: _two_pass.Error = "ce"
    """e = softmax(T s) - t, or s - t ("mse")."""
    temperature: float | Array = 1.0
    """T. Orthonormal weights bound the scores by the length of the last activity; T > 1 makes them bolder. The
    code has 1. 92.4, 93.2, 93.1 % with 1 and 93.1, 93.0, 93.1 % with 4: docs/hostile-reader.md has the command."""
    feedback_every: int = 1
    """Steps from one refresh of F to the next."""
    retract_every: int = 1
    """Steps from one retraction to the next. Under `vmap` the steps between cost as much, for a condition over several
    runs computes both sides."""
    retract_iterations: int | None = None
    """Björck iterations per retraction; None: 1 after every step, 4 where steps add up in between."""
    retract_output: bool = True
    """Also keep the output layer orthonormal."""
    perturbation: float | Array = 1.0
    """eps, of x~ = x - eps e F^T; the difference of the activities is divided by it."""
    jvp: bool = False
    """The second pass as one derivative along -e F^T (`jax.jvp`), which is the limit of eps to 0: the same to rounding
    where activations are linear, and without kinks crossed where they are not. Needs presynaptic clean."""
    presynaptic: _two_pass.Presynaptic = "clean"
    """p: activities of the first ("clean") or of the second ("modulated") pass."""
    dropout: float = 0.0
    """Share of hidden activities set to 0, the same ones in both passes."""
    NEEDS = needs("temperature", error=("ce",)) | needs("perturbation", jvp=(False,))


class State(NamedTuple):
    """``params``, one optimizer state (with that of `retraction`), ``F`` (classes, *features), F^T, and ``step``."""

    params: Params
    opt_state: Any
    F: Float[Array, "classes *features"]
    step: Int[Array, ""]


class ExpansionWarning(UserWarning):
    """The network has layers that cannot be orthonormal, so that the step is not backpropagation's even if linear."""


def init(
    key: Array,
    x: Float[Array, "batch *features"],
    *,
    net: Net,
    tx: optax.GradientTransformation,
    num_classes: int,
    readout_bias: bool = False,
    **options: Any,
) -> State:
    """Start values: weights as drawn, made orthonormal (the polar factor), and F their product.

    Draw from ``nets.mlp(widths, kernel_init=nets.orthogonal, bias="none")``, which is orthonormal already.

    Warns:
        ExpansionWarning: once, where a layer has more outputs than inputs, or windows of a convolution overlap.

    Raises:
        UsageError: fewer than two classes, no hidden layer, inputs that do not fit, maximum pooling, or an option that
            does not exist or does not fit.
    """
    settings = _checked(options, net)
    params = nets.output.draw(key, x, net, num_classes, nets.orthogonal, readout_bias)
    _warn(params, x, net)
    params = jax.tree.map(lambda W: W if W.ndim < 2 else _folded(polar(_matrix(W)), W), params)
    return State(
        params,
        begin(_with_retraction(tx, settings), params),
        feedback(params, x.shape[1:], net),
        jnp.zeros((), jnp.int32),
    )


def grads(
    params: Params, batch: Batch, key: Array, *, net: Net, F: Float[Array, "classes *features"], **options: Any
) -> tuple[Params, Metrics]:
    r"""The pseudo-gradient of every layer, from two forward passes.

    Row vectors, B samples, one-hot targets t, L weight matrices W_l (n_{l-1}, n_l), F = W_1 W_2 ... W_L (n_0, C)::

        h_0 = x     h_l = phi(h_{l-1} W_l)     s = h_{L-1} W_L     e = softmax(T s) - t               (first pass)
        x~ = x - e F^T                         h~_l likewise from x~                                  (second pass)

        dW_l = h_{l-1}^T (h_l - h~_l) / B     l = 1..L-1          dW_L = h_{L-1}^T e / B

    If phi is the identity and W_i^T W_i = I for every i <= l (so n_i <= n_{i-1}), h_l - h~_l = e W_L^T ... W_{l+1}^T,
    and dW_l is the gradient of (1/T) times the cross-entropy of T s. If W_i^T W_i = c_i I instead, the direction is
    exact and the length that of the gradient times c_1 c_2 ... c_l.

    With ``jvp`` the difference is the forward-mode derivative of h_l at x along -e F^T, times -1.

    Held constant: both passes use the same weights, F and dropout masks. Nothing is differentiated, but with ``jvp``.

    Args:
        params: from `init`.
        batch: inputs (B, *features), standardised, for the difference needs |x| well above |e F^T|; labels (B,).
        key: draws the dropout masks.
        net: the hidden layers, of `fwdonly.nets.Dense` or `Conv`.
        F: one input-shaped row per class, ``state.F`` or `feedback`.
        **options: see `Options`.

    Returns:
        Pseudo-gradients shaped like ``params``, to be subtracted, and the metric ``loss``, in nats: the cross-entropy
        of T s (or half the squared error of s), before any update.

    Raises:
        UsageError: labels that are missing or out of range (values are seen outside compiled code only), or
            an option that does not exist or does not fit.

    Example:
        >>> import jax, optax, fwdonly
        >>> net, batch = fwdonly.nets.mlp([6, 4]), fwdonly.Batch(jax.numpy.ones((4, 6)), jax.numpy.array([0, 1, 2, 0]))
        >>> state = fwdonly.foton.init(jax.random.key(0), batch.x, net=net, tx=optax.sgd(0.1), num_classes=3)
        >>> grads, metrics = fwdonly.foton.grads(state.params, batch, jax.random.key(1), net=net, F=state.F)
        >>> grads.W.shape
        (4, 3)

    Deviations:
        * The paper's text was not available; the algorithm is the public code's.
        * Divided by the batch's own size; the code divides by the configured one.
        * Dropout comes after the activation; the code has it before, which is the same for ReLU only.
        * The output layer is orthonormal from the start; in the code after the first step.
        * One iteration of Björck of order 6 per step, where the code has 20 of order 1: near an orthonormal matrix it
          is enough, see `bjorck`.
        * Optimizer moments are neither transported nor restarted by the retraction, as in the code.
        * Biases, which the code's flag for them breaks, learn from the mean of h_l - h~_l.
        * The code for convolutions was never published. Here a kernel is made orthonormal as a matrix (windows times
          input channels, output channels). That is an orthonormal layer where windows do not overlap (stride = kernel);
          otherwise the step is an approximation. Average pooling divides lengths by 2, which leaves the step of what is
          before it exact and makes that of what is behind it 1/4; ``pool="isometric"`` does not. Maximum pooling is
          refused.
        * A singular layer stays singular: Björck leaves a singular value of 0 where it is, and `orthogonality_error` is
          then at least 1 / sqrt(m).
    """
    return _two_pass.pseudo_gradients(params, F, batch, key, net=net, switches=_switches(_checked(options, net)))


def feedback(params: Params, shape: tuple[int, ...], net: Net) -> Float[Array, "classes *features"]:
    """F^T = W_L^T ... W_1^T, from the output's end: one row of the input's ``shape`` per class.

    The linear parts only, pooling included; a convolution's transpose is that of its linear map.
    """
    shapes = [shape]
    for block, weights in zip(net, params.blocks, strict=True):
        below = jax.ShapeDtypeStruct((1, *shapes[-1]), params.W.dtype)
        shapes.append(jax.eval_shape(block.apply, weights, below).shape[1:])
    rows = params.W.T.reshape(-1, *shapes[-1])
    for block, weights, below in zip(net[::-1], params.blocks[::-1], shapes[-2::-1], strict=True):
        rows = nets.send_back(block, weights, nets.unpooled(block, weights, rows, below), below)
    return rows


# ---------------------------------------------------------------------------------------------------------------------
# The retraction


class RetractionState(NamedTuple):
    """``step``, and per matrix the unit vector ``v`` (smaller side,) at its largest singular value."""

    step: Int[Array, ""]
    v: Any


def retraction(every: int = 1, iterations: int | None = None, *, output: bool = True) -> optax.GradientTransformation:
    """Keeps matrices orthonormal: the last link of an optax chain, for FOTON and for any rule that is compared with it.

    ``optax.chain(optax.sgd(0.1), foton.retraction())`` makes every array of two or more dimensions orthonormal, by
    `bjorck`, after every ``every``-th step. Convolution kernels count as matrices (windows times input channels,
    output channels). The arrays must be orthonormal, or nearly, at the start.

    Args:
        every: steps from one retraction to the next.
        iterations: of Björck; None: 1 after every step, 4 where steps add up in between.
        output: also treat the output layer. False is for parameters that are `Params`, with a field W.

    Raises:
        UsageError: a number below 1.
    """
    count = default_iterations(iterations, every)
    for name, number in (("retract_every", every), ("retract_iterations", count)):
        if number < 1:
            raise UsageError(f"{name} counts from 1; got {number} (leave the retraction out to have none)")

    def treated(tree: Any) -> Any:
        matrices = jax.tree.map(lambda W: W if W.ndim > 1 else None, tree)
        return matrices if output else matrices._replace(W=None)

    def start(params: Any) -> RetractionState:
        v = jax.tree.map(lambda W: _start_vector(min(_matrix(W).shape), W.dtype), treated(params))
        return RetractionState(jnp.zeros((), jnp.int32), v)

    def retracted(W: Array, v: Array) -> tuple[Array, Array]:
        Q, v = bjorck(_matrix(W), v, count, POWER_ITERATIONS)
        return _folded(Q, W), v

    def step(updates: Any, state: RetractionState, params: Any = None) -> tuple[Any, RetractionState]:
        moved, old = (jax.tree.leaves(treated(tree)) for tree in (optax.apply_updates(params, updates), params))
        vs, shape = jax.tree.flatten(state.v)

        def retract(vs: list[Array]) -> tuple[list[Array], list[Array]]:
            pairs = [retracted(W, v) for W, v in zip(moved, vs, strict=True)]
            return [Q for Q, _ in pairs], [v for _, v in pairs]

        if every == 1:
            new, vs = retract(vs)
        else:
            new, vs = jax.lax.cond((state.step + 1) % every == 0, retract, lambda vs: (moved, vs), vs)
        changes = jax.tree.unflatten(shape, [Q - W for Q, W in zip(new, old, strict=True)])
        updates = jax.tree.map(
            lambda change, update: update if change is None else change, changes, updates, is_leaf=lambda a: a is None
        )
        return updates, RetractionState(state.step + 1, jax.tree.unflatten(shape, vs))

    return optax.GradientTransformation(cast(Any, start), cast(Any, step))


def default_iterations(iterations: int | None, every: int) -> int:
    """Björck iterations per retraction: as asked for, or 1 after every step and 4 where steps add up in between."""
    return iterations if iterations is not None else 1 if every == 1 else 4


def bjorck(
    W: Float[Array, "n m"], v: Float[Array, " k"], iterations: int, power_iterations: int
) -> tuple[Float[Array, "n m"], Float[Array, " k"]]:
    """The orthonormal matrix nearest to W, in the limit: W / sigma, then W <- W (I + E/2 + 3/8 E^2 + ...) repeatedly.

    E = I - W^T W, and the series is that of (I - E)^(-1/2), cut after E^`ORDER`: Björck, Bowie, SIAM J. Numer. Anal.
    8(2), 1971. One iteration leaves E^7 / 5 of an error E. sigma is the largest singular value by the power method,
    from ``v`` (length k, the smaller side), which is returned as the method leaves it; since that is a bound from
    below and the series diverges where it is too low, sigma^2 is at least the largest row sum of |W^T W| / `BOUND`.
    Wide matrices are transposed. Singular values of 0 stay 0, all others tend to 1.
    """
    if W.shape[0] < W.shape[1]:
        Q, v = bjorck(W.T, v, iterations, power_iterations)
        return Q.T, v
    tiny, eye = jnp.finfo(W.dtype).tiny, jnp.eye(W.shape[1], dtype=W.dtype)
    G = W.T @ W
    for _ in range(power_iterations):
        u = G @ v
        length = jnp.linalg.norm(u)
        v = jnp.where(length > 0, u / jnp.maximum(length, tiny), v)  # a matrix of zeros leaves v as it was
    square = jnp.maximum(jnp.maximum(v @ (G @ v), jnp.abs(G).sum(0).max() / BOUND), tiny)
    W, G = W / jnp.sqrt(square), G / square
    for at in range(iterations):
        E = eye - (W.T @ W if at else G)
        E2 = E @ E
        E3 = E2 @ E
        c = SERIES
        low, high = c[0] * eye + c[1] * E + c[2] * E2, c[3] * eye + c[4] * E + c[5] * E2 + c[6] * E3
        W = W @ (low + E3 @ high)
    return W, v


def polar(W: Float[Array, "n m"]) -> Float[Array, "n m"]:
    """The orthonormal matrix nearest to W, by its singular value decomposition; for start values."""
    U, _, Vt = jnp.linalg.svd(W, full_matrices=False)
    return U @ Vt


def orthogonality_error(params: Params) -> Float[Array, " layers"]:
    """Root mean square of s^2 - 1 over a layer's m singular values s, |W^T W - I|_F / sqrt(m); output layer last."""
    gaps = [W.T @ W - jnp.eye(W.shape[1], dtype=W.dtype) for W in _tall(params)]
    return jnp.stack([jnp.sqrt((gap**2).sum(0).mean()) for gap in gaps])


def _probed(params: Params) -> Float[Array, " layers"]:
    """An estimate of `orthogonality_error` from one fixed random vector z: |W^T W z - z| / |z|, at almost no cost."""
    errors = []
    for W in _tall(params):
        z = _start_vector(W.shape[1], W.dtype)
        errors.append(jnp.linalg.norm(W.T @ (W @ z) - z))
    return jnp.stack(errors)


def _tall(params: Params) -> list[Array]:
    matrices = [_matrix(W) for W in jax.tree.leaves(params) if W.ndim > 1]
    return [W if W.shape[0] >= W.shape[1] else W.T for W in matrices]


def _start_vector(length: int, dtype: Any) -> Array:
    v = jax.random.normal(jax.random.key(0), (length,), dtype)
    return v / jnp.linalg.norm(v)


def _matrix(W: Array) -> Array:
    return W.reshape(-1, W.shape[-1])


def _folded(Q: Array, W: Array) -> Array:
    return Q.reshape(W.shape)


# ---------------------------------------------------------------------------------------------------------------------
# The contract


@stepping(State)
def update(
    state: State, batch: Batch, key: Array, *, net: Net, tx: optax.GradientTransformation, **options: Any
) -> tuple[State, Metrics]:
    """One step: `grads`, one optax step, the retraction where it is due, then F from the new weights where it is due.

    Weight decay belongs into ``tx``. Adds the metric ``orthogonality_error`` (layers,), after the step: the function of
    that name, estimated by one random vector.
    """
    settings = _checked(options, net)
    gradients, metrics = grads(state.params, batch, key, net=net, F=state.F, **options)
    whole = _with_retraction(tx, settings)
    params, opt_state = descend(whole, gradients, state.opt_state, state.params, metrics["loss"])
    step, shape = state.step + 1, state.F.shape[1:]
    if settings.feedback_every == 1:
        F = feedback(params, shape, net)
    else:
        due = step % settings.feedback_every == 0
        F = jax.lax.cond(due, lambda: feedback(params, shape, net), lambda: state.F)
    return State(params, opt_state, F, step), metrics | {"orthogonality_error": _probed(params)}


@predicting
def predict(state: State, x: Float[Array, "batch *features"], *, net: Net) -> Float[Array, "batch classes"]:
    """The clean pass without dropout: s = h_{L-1} W_L of shape (batch, classes)."""
    return nets.output.scores(state.params, x, net)


def rule(
    net: Net, tx: optax.GradientTransformation, *, num_classes: int, readout_bias: bool = False, **options: Any
) -> LearningRule:
    """FOTON with its options bound.

    Raises:
        UsageError: an option that does not exist or does not fit.
    """
    _checked(options, net)
    return LearningRule(
        init=partial(init, net=net, tx=tx, num_classes=num_classes, readout_bias=readout_bias, **options),
        update=partial(update, net=net, tx=tx, **options),
        predict=partial(predict, net=net),
        activations=partial(nets.output.outputs, net=net),
        grads=at_state(grads, "F", net=net, **options),
    )


def work(
    layers: tuple[nets.LayerSize, ...],
    num_classes: int,
    batch: int,
    *,
    presynaptic: str = "clean",
    feedback_every: int = 1,
    retract_every: int = 1,
    retract_iterations: int | None = None,
    retract_output: bool = True,
) -> Products:
    """As PEPITA's two passes; per step and not per sample, the retraction, the product of the weights and the probe.

    The probe is that of orthogonality. What is not due in every step counts in the mean over steps. **The retraction
    depends on no batch**: of 784-1000-1000-10 a step with 128 samples takes 14.1 times BP's multiply-
    accumulates, 13.1 of them the retraction's, and one with 1,024 samples 2.6 times.
    """
    products = _two_pass.work(layers, num_classes, batch, presynaptic, "first")
    products += [(i, "feedback", num_classes * size.macs / feedback_every) for i, size in enumerate(layers, start=1)]
    iterations = default_iterations(retract_iterations, retract_every)
    matrices = [size.matrix for size in layers] + [(layers[-1].n, num_classes)]
    for i, sides in enumerate(matrices, start=1):
        m, n = sorted(sides)
        # In every iteration W^T W and W R, and for R E^2, E^3 and one product more; the power method has vectors.
        square = iterations * (2 * n * m * m + 3 * m**3) + (POWER_ITERATIONS + 1) * m * m
        if i <= len(layers) or retract_output:
            products += [(min(i, len(layers)), "retraction", square / retract_every)]
        products += [(min(i, len(layers)), "orthogonality error", 2 * n * m)]
    return products


def _with_retraction(tx: optax.GradientTransformation, options: Options) -> optax.GradientTransformation:
    return optax.chain(tx, retraction(options.retract_every, options.retract_iterations, output=options.retract_output))


def _switches(options: Options) -> _two_pass.Switches:
    return _two_pass.Switches(
        sign=-1.0,
        presynaptic=options.presynaptic,
        output_error="first",
        error=options.error,
        temperature=options.temperature,
        perturbation=options.perturbation,
        jvp=options.jvp,
        dropout=options.dropout,
    )


def _checked(options: dict[str, Any], net: Net) -> Options:
    settings = chosen(Options, options, "FOTON")
    _two_pass.check(_switches(settings), net)
    if settings.feedback_every < 1:
        raise UsageError(f"feedback_every counts steps, from 1; got {settings.feedback_every}")
    retraction(settings.retract_every, settings.retract_iterations)  # complains
    for number, block in enumerate(net, start=1):
        if isinstance(block, nets.Conv) and block.groups > 1:
            raise UsageError(f"block {number} has groups, whose kernels are no orthonormal matrix; set groups=1")
        if isinstance(block, nets.Conv) and not nets.POOLINGS[block.pool].is_linear:
            linear = " or ".join(f'"{name}"' for name, pooling in nets.POOLINGS.items() if pooling.is_linear)
            raise UsageError(f"block {number} pools by {block.pool}, which is not linear; FOTON needs pool={linear}")
    return settings


def _warn(params: Params, x: Array, net: Net) -> None:
    a = x[:1]
    for number, (block, weights) in enumerate(zip(net, params.blocks, strict=True), start=1):
        h = jax.eval_shape(nets.linear(block).apply, weights, a)
        if h.size > a.size:
            warnings.warn(
                f"layer {number} widens from {a.size} to {h.size} values and cannot be orthonormal: the cosine with "
                f"backpropagation's gradient falls to about {(a.size / h.size) ** 0.5:.2f} from there on",
                ExpansionWarning,
                stacklevel=3,
            )
        elif isinstance(block, nets.Conv) and block.kernel > block.stride:
            warnings.warn(
                f"the windows of convolution {number} overlap (kernel {block.kernel}, stride {block.stride}): it is "
                "no orthonormal layer, and the step only approximates backpropagation even without activations",
                ExpansionWarning,
                stacklevel=3,
            )
        a = jax.eval_shape(block.apply, weights, a)


def training(setting: Setting) -> tuple[Stage, ...]:
    """One stage."""
    return (Stage(rule(setting.net, setting.tx, num_classes=setting.num_classes, **setting.of(Options))),)


CARD = Card(
    variants={"foton": Variant("FOTON")},
    options=(Options,),
    net="mlp:256,256",
    start={"start": "orthogonal", "bias": "none"},
    recipe={"batch_size": 256, "epochs": 30, "learning_rate": 0.1, "optimizer": "sgd"},
    compared={"optimizer": "adam", "learning_rate": 3e-3, "temperature": 4.0},
    space={"learning_rate": Range(1e-5, 1e-2), "temperature": Range(0.1, 100.0)},
    twin={"readout_start": "network", "readout_bias": False, "constraint": "orthonormal"},
)
