r"""PEPITA: the error moves the input, and a second forward pass takes the place of the backward one.

Dellaferrera, Kreiman, *Error-driven Input Modulation*, ICML 2022, arXiv 2201.11665 (the default), and the variants of
Srinivasan et al., *Forward Learning with Top-Down Feedback*, ICLR 2024, arXiv 2302.05440 (`SRINIVASAN`).
"""

import math
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

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
    read_options,
    stepping,
)
from .card import Card, Range, Setting, Stage, Variant
from .errors import UsageError, check_word

Params = nets.output.Params
Feedback = Literal["uniform", "normal", "mirrored"]
Part = Literal["all", "mirror"]


class Options(NamedTuple):
    """How the rule learns; keywords of `init`, `grads`, `update` and `rule`. Defaults: Dellaferrera, Kreiman, dense."""

    sign: float | Array = 1.0
    """s, of the modulation x~ = x + s e F^T."""
    presynaptic: _two_pass.Presynaptic = "modulated"
    """p: activities of the second ("modulated") or of the first ("clean") pass."""
    output_error: _two_pass.OutputError = "second"
    """d, of the output layer: e~ of the second or e of the first pass."""
    form: _two_pass.Form = "difference"
    """"hebbian" (PEPITA-Hebbian, "mixed") and "time_local": see `grads` and `update`. Both have their own p and d."""
    error: _two_pass.Error = "ce"
    """"ce": y is the softmax, which is part of the papers' networks; "mse": y = h_{L-1} W_L, e = y - t."""
    error_sign: bool = False
    """Modulate by the sign of e (the original code's ERINsign, which also scales F by 0.1)."""
    dropout: float = 0.1
    """Share of hidden activities set to 0, the same ones in both passes."""
    hidden_norm: _two_pass.HiddenNorm = "none"
    """"batch" (Srinivasan et al.): divide a hidden layer's activities by the root of their sum of squares in the whole
    batch, in both passes. Predictions are without."""
    conv_scale: _two_pass.ConvScale = "mean"
    """Over a convolution's positions: mean, or the sum divided by the root of their number, or the sum."""
    feedback: Feedback = "uniform"
    """F drawn at once ("uniform"), as a product of normal factors ("normal"), or of factors that learn ("mirrored")."""
    feedback_scale: float = 0.05
    """Bstd: F has the standard deviation Bstd sqrt(2 / n_0)."""
    mirror_rate: float | Array = 0.01
    """Learning rate of the factors B_l."""
    mirror_decay: float | Array = 1e-4
    """Their weight decay."""
    mirror_noise: float | Array = 0.1
    """Standard deviation of the noise that the layers are shown. It decides how fast F turns: of 784-1024-10, with 64
    samples a step, its cosine with the product of resting weights is 0.02 after 468 mirrorings, 0.16 after 4,000 and
    0.41 after 8,000. With 1.0 it is 0.50 after 117 and 0.81 after 468; ``benchmarks/hostile_reader.py mirror`` prints
    these numbers."""
    mirror_every: int = 1
    """Mirror after every so many training steps; 0: only in a stage of its own, ``rule(part="mirror")``. Under `vmap`
    the other steps cost as much, for a condition over several runs computes both sides."""
    NEEDS = needs("presynaptic", "output_error", form=("difference",)) | needs(
        "mirror_rate", "mirror_decay", "mirror_noise", "mirror_every", feedback=("mirrored",)
    )


class Training(NamedTuple):
    """What a training with PEPITA has beside the rule's options."""

    mirror_epochs: int = 2
    """Epochs of mirroring alone, before training (feedback mirrored)."""
    NEEDS = needs("mirror_epochs", feedback=("mirrored",))


SRINIVASAN = {"sign": -1.0, "output_error": "first"}
"""Their "modulated" rule; with ``presynaptic="clean"`` "forward". "mixed" is ``form="hebbian", sign=-1.0``."""


class State(NamedTuple):
    """``params``, one optimizer state; ``F`` (classes, *features), the paper's F^T; ``B``, its factors; ``step``.

    B_l has the shape of the kernel W_l (n_{l-1}, n_l); none where F is drawn at once.
    """

    params: Params
    opt_state: Any
    F: Float[Array, "classes *features"]
    B: tuple[Array, ...]
    step: Int[Array, ""]


def init(
    key: Array,
    x: Float[Array, "batch *features"],
    *,
    net: Net,
    tx: optax.GradientTransformation,
    num_classes: int,
    readout_init: nets.Initializer = nets.he_uniform,
    readout_bias: bool = False,
    **options: Any,
) -> State:
    """Start values: blocks as the network draws them, the output layer by ``readout_init``, F as ``feedback`` says.

    The papers' nets have no biases: ``nets.mlp(widths, bias="none")``. F has a random stream of its own.

    Raises:
        UsageError: fewer than two classes, no hidden layer, inputs that do not fit, mirroring of a convolution, or an
            option that does not exist or does not fit.
    """
    settings = _checked(options, net)
    params = nets.output.draw(key, x, net, num_classes, readout_init, readout_bias)
    own_key = jax.random.fold_in(key, 1)
    spread = settings.feedback_scale * (2 / x[0].size) ** 0.5
    if settings.feedback == "uniform":
        bound = spread * 3**0.5
        F, B = jax.random.uniform(own_key, (num_classes, *x.shape[1:]), x.dtype, -bound, bound), ()
    else:
        shapes = [K.shape for K in _kernels(params)]
        sigma = (spread / math.prod(n for _, n in shapes[:-1]) ** 0.5) ** (1 / len(shapes))
        keys = jax.random.split(own_key, len(shapes))
        B = tuple(sigma * jax.random.normal(k, shape, x.dtype) for k, shape in zip(keys, shapes, strict=True))
        F = _product(B).T.reshape(num_classes, *x.shape[1:])
    return State(params, begin(tx, params), F, B, jnp.zeros((), jnp.int32))


def grads(
    params: Params, batch: Batch, key: Array, *, net: Net, F: Float[Array, "classes *features"], **options: Any
) -> tuple[Params, Metrics]:
    r"""The pseudo-gradient of every layer, from two forward passes.

    Row vectors, B samples, one-hot targets t, L weight matrices W_l (n_{l-1}, n_l); one dropout mask m_l per layer,
    **the same in both passes**; F^T (C, n_0) in ``F``::

        h_0 = x     h_l = m_l * max(0, h_{l-1} W_l)     y = softmax(h_{L-1} W_L)     e = y - t        (first pass)
        x~ = x + s e F^T        h~_l, y~ likewise from x~        e~ = y~ - t                          (second pass)

        dW_l = p_{l-1}^T (h_l - h~_l) / B     l = 1..L-1          dW_L = p_{L-1}^T d / B

    with s, p (h or h~) and d (e or e~) as the options say. PEPITA-Hebbian::

        dW_l = (h_{l-1}^T h_l - h~_{l-1}^T h~_l) / B              dW_L = (h_{L-1}^T y - h~_{L-1}^T t) / B

    A convolution's products run over its windows; h_l - h~_l is taken before pooling. A bias, where there is one,
    learns from the mean of h_l - h~_l (of d in the output layer).

    Held constant: F, all weights and both passes' masks. Nothing is differentiated and no error crosses a layer; the
    slope of the activation is within the difference.

    Args:
        params: from `init`.
        batch: inputs (B, *features), in [0, 1] in the papers, and labels (B,).
        key: draws the masks.
        net: the hidden layers, of `fwdonly.nets.Dense` or `Conv`.
        F: one input-shaped row per class, ``state.F``.
        **options: see `Options`.

    Returns:
        Pseudo-gradients shaped like ``params``, to be subtracted, and the metric ``loss``: the cross-entropy of y in
        nats, or half the squared error, before any update.

    Raises:
        UsageError: labels that are missing or out of range (values are seen outside compiled code only), or
            an option that does not exist or does not fit.

    Example:
        >>> import jax, optax, fwdonly
        >>> net, batch = fwdonly.nets.mlp([8, 8]), fwdonly.Batch(jax.numpy.ones((4, 6)), jax.numpy.array([0, 1, 2, 0]))
        >>> state = fwdonly.pepita.init(jax.random.key(0), batch.x, net=net, tx=optax.sgd(0.1), num_classes=3)
        >>> grads, metrics = fwdonly.pepita.grads(state.params, batch, jax.random.key(1), net=net, F=state.F)
        >>> grads.W.shape
        (8, 3)

    Deviations:
        * Sources disagree on s and d. The default is the dense code of Dellaferrera, Kreiman (s = +1, d = e~); their
          convolutional script takes d = e, Srinivasan et al. s = -1 and d = e (`SRINIVASAN`).
        * Divided by the batch's own size; the original NumPy code multiplies by the mask once more and carries an
          incomplete batch over, its convolutional script divides by B twice.
        * Dropout comes after the activation. Srinivasan et al. have it before; the same for ReLU.
        * "hebbian" is the formula; the released code overwrites it by the default rule. In "time_local" both passes
          share their masks; the released code draws new ones.
        * Predictions with ``hidden_norm`` are without it, for a sample's scores would depend on its neighbours. Without
          biases and with ReLU scores are then positive multiples, so that the classes are the same; the loss is not.
        * Mirroring is scheduled by steps (``mirror_every``); the released code mirrors in every step of some epochs.
    """
    return _two_pass.pseudo_gradients(params, F, batch, key, net=net, switches=_switches(_checked(options, net)))


@stepping(State)
def update(
    state: State,
    batch: Batch,
    key: Array,
    *,
    net: Net,
    tx: optax.GradientTransformation,
    part: Part = "all",
    **options: Any,
) -> tuple[State, Metrics]:
    """One step: `grads`, then one optax step, then mirroring where it is due.

    "time_local" makes two optax steps: by h_{l-1}^T h_l / B (y at the output) after the first pass and, with the new
    weights in the second pass, by -h~_{l-1}^T h~_l / B (t at the output). A schedule in ``tx`` then counts two steps
    per batch. ``part="mirror"`` mirrors only.
    """
    settings = _checked(options, net)
    _check_part(part, settings)
    noise_key = jax.random.fold_in(key, len(net))
    if part == "mirror":
        _, metrics = grads(state.params, batch, key, net=net, F=state.F, **options)
        return _mirrored(state, noise_key, len(batch.y), net, settings)._replace(step=state.step + 1), metrics
    if settings.form == "time_local":
        steps, metrics = _two_pass.time_local(state.params, state.F, batch, key, net=net, switches=_switches(settings))
    else:
        gradients, metrics = grads(state.params, batch, key, net=net, F=state.F, **options)
        steps = (lambda _: gradients,)
    params, opt_state = state.params, state.opt_state
    for direction in steps:
        params, opt_state = descend(tx, direction(params), opt_state, params, metrics["loss"])
    state = State(params, opt_state, state.F, state.B, state.step + 1)
    if settings.feedback == "mirrored" and settings.mirror_every:
        due = state.step % settings.mirror_every == 0
        state = jax.lax.cond(due, lambda: _mirrored(state, noise_key, len(batch.y), net, settings), lambda: state)
    return state, metrics


def _mirrored(state: State, key: Array, count: int, net: Net, options: Options) -> State:
    """Every layer is shown noise xi by itself: B_l <- B_l + rate (xi^T layer_l(xi) / B - decay B_l), then rescaled.

    xi ~ N(0, noise^2) of shape (count, n_{l-1}), minus its mean over all entries. All B_l are scaled alike, so that F
    keeps its standard deviation, and F follows. W_l is held constant; for a linear layer E[xi^T layer(xi)] / B =
    noise^2 W_l. Steps until F is aligned: see `Options.mirror_noise`.
    """
    B = []
    for at, (B_l, W_l) in enumerate(zip(state.B, _kernels(state.params), strict=True)):
        noise_key, mask_key = jax.random.split(jax.random.fold_in(key, at))
        xi = options.mirror_noise * jax.random.normal(noise_key, (count, W_l.shape[0]), W_l.dtype)
        xi = xi - xi.mean()
        if at < len(net):
            h = net[at].apply(state.params.blocks[at], xi)
            eta = h * _two_pass.mask(mask_key, h, options.dropout)
        else:
            eta = _two_pass.answer(nets.output.read(state.params, xi), options.error)
        B.append(B_l + options.mirror_rate * (xi.T @ eta / count - options.mirror_decay * B_l))
    F = _product(tuple(B))
    factor = options.feedback_scale * (2 / len(F)) ** 0.5 / F.std()
    B = tuple(factor ** (1 / len(B)) * B_l for B_l in B)
    return state._replace(B=B, F=(factor * F).T.reshape(state.F.shape))


def _product(B: tuple[Array, ...]) -> Float[Array, "n classes"]:
    """F = B_1 B_2 ... B_L, from the output's end."""
    F = B[-1]
    for B_l in B[-2::-1]:
        F = B_l @ F
    return F


def _kernels(params: Params) -> list[Array]:
    """W_1..W_L of a dense network."""
    return [*(weights["params"]["Dense_0"]["kernel"] for weights in params.blocks), params.W]


@predicting
def predict(state: State, x: Float[Array, "batch *features"], *, net: Net) -> Float[Array, "batch classes"]:
    """The clean pass without dropout: h_{L-1} W_L, before the softmax, of shape (batch, classes)."""
    return nets.output.scores(state.params, x, net)


def rule(
    net: Net,
    tx: optax.GradientTransformation,
    *,
    num_classes: int,
    part: Part = "all",
    readout_init: nets.Initializer = nets.he_uniform,
    readout_bias: bool = False,
    **options: Any,
) -> LearningRule:
    """PEPITA with its options bound. ``part="mirror"`` is a stage that learns F alone, to precede the others.

    Raises:
        UsageError: an option that does not exist or does not fit.
    """
    _check_part(part, _checked(options, net))
    start = {"num_classes": num_classes, "readout_init": readout_init, "readout_bias": readout_bias}
    return LearningRule(
        init=partial(init, net=net, tx=tx, **start, **options),
        update=partial(update, net=net, tx=tx, part=part, **options),
        predict=partial(predict, net=net),
        activations=partial(nets.output.outputs, net=net),
        grads=at_state(grads, "F", net=net, **options),
    )


def work(
    layers: tuple[nets.LayerSize, ...], num_classes: int, batch: int, *, part: Part = "all", **options: Any
) -> Products:
    """Two passes, of which the second takes C rows, once per batch, through layer 1; a product for the weights.

    "hebbian" and "time_local": two products for the weights; a whole second pass in "time_local". "mirrored": a batch
    of noise through every layer and as much for B_l, and F from all B_l, in the mean over steps where not every step
    mirrors. ``part="mirror"`` has these and the first pass, for the loss.
    """
    settings, C, last = read_options(Options, options, "PEPITA"), num_classes, len(layers)
    _check_part(part, settings)
    every = 1 if part == "mirror" else settings.mirror_every
    if part == "mirror":
        products: Products = [(i, "forward", batch * size.macs) for i, size in enumerate(layers, start=1)]
        products += [(last, "output layer", batch * C * layers[-1].n)]
    else:
        products = _two_pass.work(layers, C, batch, settings.presynaptic, settings.output_error, settings.form)
    if settings.feedback == "mirrored" and every:
        for i, size in enumerate(layers, start=1):
            products += [(i, "mirror", 2 * batch * size.macs / every), (i, "feedback", C * size.macs / every)]
        products += [(last, "mirror", 2 * batch * C * layers[-1].n / every)]
    return products


def _check_part(part: Part, options: Options) -> None:
    check_word("part", part, get_args(Part))
    if part == "mirror" and options.feedback != "mirrored":
        raise UsageError('part="mirror" learns the feedback and needs feedback="mirrored"')


def _switches(options: Options) -> _two_pass.Switches:
    return _two_pass.Switches(
        sign=options.sign,
        presynaptic=options.presynaptic,
        output_error=options.output_error,
        form=options.form,
        error=options.error,
        error_sign=options.error_sign,
        hidden_norm=options.hidden_norm,
        dropout=options.dropout,
        conv_scale=options.conv_scale,
    )


def _checked(options: dict[str, Any], net: Net) -> Options:
    settings = chosen(Options, options, "PEPITA")
    _two_pass.check(_switches(settings), net)
    if settings.feedback != "uniform" and not all(isinstance(block, nets.Dense) for block in net):
        raise UsageError(f'feedback="{settings.feedback}" is a product of dense layers; use "uniform" for convolutions')
    if isinstance(settings.feedback_scale, float | int) and not settings.feedback_scale > 0:
        raise UsageError(f"feedback_scale must be above 0; got {settings.feedback_scale}")
    if settings.mirror_every < 0:
        raise UsageError(f"mirror_every counts steps, 0 for never; got {settings.mirror_every}")
    return settings


def training(setting: Setting) -> tuple[Stage, ...]:
    """One stage; before it one that learns the feedback alone, where it is mirrored."""
    options = setting.of(Options)
    twice = 2 if options["form"] == "time_local" else 1  # optimizer steps per batch, which a schedule counts
    tx = setting.transformation(steps=twice * setting.steps)
    common: dict[str, Any] = {
        "net": setting.net,
        "tx": tx,
        "num_classes": setting.num_classes,
        "readout_init": setting.start,
    }
    learn = Stage(rule(**common, **options))
    epochs = setting.of(Training)["mirror_epochs"]
    if options["feedback"] != "mirrored" or not epochs:
        return (learn,)
    return (
        Stage(rule(part="mirror", **common, **options), {"epochs": epochs, "patience": None, "keep": "last"}),
        learn,
    )


CARD = Card(
    variants={"pepita": Variant("PEPITA")},
    options=(Options, Training),
    net="mlp:1024",
    start={"bias": "none"},
    recipe={
        "normalise": "none",
        "batch_size": 64,
        "epochs": 30,
        "learning_rate": 0.1,
        "optimizer": "momentum",
        "mirror_every": 100,
    },
    compared={"learning_rate": 0.01},
    space={"learning_rate": Range(1e-3, 1.0), "feedback_scale": Range(1e-3, 1.0)},
    signed=("sign",),
    twin={"readout_start": "network", "readout_bias": False},
)
