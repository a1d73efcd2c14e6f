"""The weight mirror of Akrout et al. (arXiv 1904.05391): layers are shown noise, and feedback learns what they answer.

A layer that is shown noise xi, uniform in [-A/2, A/2], answers so that xi^T layer(xi), summed over N samples and P
positions, is in the mean N P A^2 / 12 times its weights times the mean slope of its activation (1/2 for ReLU). P is 1
for a dense layer; where a convolution pads its edges, windows there see zeros and count less.

The expected step without decay is ``g W_l``, g = rate N P A^2 / 12 times the slope: 5.3e-4 for a dense ReLU layer at
the defaults and 128 samples. After 1 / g = 1,900 steps B_l has as much of W_l as of its start, and without decay it
never stops growing; with it, it tends to W_l times slope / decay. A = 1 turns B_l a hundred times faster.

A step leaves 1 - r of B_l, r = rate N P A^2 / 12 times decay: from r = 2 on B_l swings ever wider. Noise of sampling
leaves a dense ReLU layer after k steps a cosine of 1 / sqrt(1 + 2 n_{l-1} / (N K)), where K = k without decay and
K = (2 - r) / r * (1 - (1 - r)^k) / (1 + (1 - r)^k) with it. So at A = 1, 128 samples and 784 inputs it stays below
.865, for K below 37; a smaller rate has a higher bound, later.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

import jax
from jaxtyping import Array

from . import _way_back, nets
from .base import Net
from .errors import UsageError

Params = nets.output.Params


class Noise(NamedTuple):
    """What a mirror shows and how B follows; `fwdonly.feedback.Options` has these as ``mirror_...``."""

    rate: float | Array
    noise: float | Array
    decay: float | Array
    spread: float | None


def mirrored(
    params: Params,
    B: Params,
    key: Array,
    seen: tuple[int, tuple[int, ...] | None],
    net: Net,
    output: Callable[[Array], Array],
    settings: Noise,
) -> Params:
    """B of all layers after noise of ``seen``, samples and shape of one, which dense first layers need not know.

    ``output(xi)`` is the output layer's answer. Biases of B stay as they are.

    Raises:
        UsageError: B would swing ever wider.
    """
    count, shape = seen
    shape = shape if shape is not None else jax.tree.leaves(params.blocks[0])[-1].shape[:1]
    example = jax.ShapeDtypeStruct((count, *shape), params.W.dtype)
    below, a, _ = jax.eval_shape(partial(_way_back.forward, net=net), params, example)
    check_bounded(settings, count, max(math.prod(a_l.shape[:-1]) for a_l in a))
    blocks = []
    for at, (block, weights, B_l) in enumerate(zip(net, params.blocks, B.blocks, strict=True)):
        sample = below[at].shape[1:]
        sample = (math.prod(sample),) if isinstance(block, nets.Dense) else sample
        blocks.append(_mirrored_block(block, weights, B_l, jax.random.fold_in(key, at), (count, *sample), settings))
    top_key = jax.random.fold_in(key, len(net))
    xi = _noise(top_key, (count, params.W.shape[0]), params.W.dtype, settings)
    W = _turned(B.W, xi.T @ output(xi), count, settings)
    if settings.spread is not None:
        errors = jax.random.uniform(jax.random.fold_in(top_key, 0), (count, W.shape[1]), W.dtype)
        W = _factor(errors @ W.T, settings) * W
    return B._replace(blocks=tuple(blocks), W=W)


def _mirrored_block(block: Any, weights: Any, B: Any, key: Array, shape: tuple[int, ...], settings: Noise) -> Any:
    """B of one hidden layer after noise of ``shape``; its products run over the windows of a convolution."""
    xi = _noise(key, shape, jax.tree.leaves(weights)[0].dtype, settings)
    h = block.activation(nets.linear(block).apply(weights, xi))
    answer, answers = nets.weight_gradient(block, weights, xi, h), math.prod(h.shape[:-1])
    B = jax.tree.map(lambda b, step: _turned(b, step, answers, settings) if b.ndim > 1 else b, B, answer)
    if settings.spread is None:
        return B
    errors = jax.random.uniform(jax.random.fold_in(key, 0), h.shape, h.dtype)
    factor = _factor(nets.send_back(block, B, errors, shape[1:]), settings)
    return jax.tree.map(lambda b: factor * b if b.ndim > 1 else b, B)


def check_bounded(settings: Noise, count: int, answers: int) -> None:
    """Refuse a mirror whose decay takes so much of B in a step that B swings ever wider.

    Raises:
        UsageError: it does; ``answers`` is the number of samples times positions of the layer with most of them.
    """
    rate, noise, decay, _ = settings
    if not all(isinstance(number, float | int) for number in (rate, noise, decay)):
        return
    limit = 24 / (answers * noise**2 * decay) if noise and decay else math.inf
    if rate >= limit:
        raise UsageError(
            f"mirror_rate {rate:g} lets the mirrored feedback swing ever wider with batches of {count}, "
            f"mirror_noise {noise:g} and mirror_decay {decay:g}; set mirror_rate below {limit:.3g}, or lower the others"
        )


def _noise(key: Array, shape: tuple[int, ...], dtype: Any, settings: Noise) -> Array:
    size = settings.noise
    return jax.random.uniform(key, shape, dtype, -size / 2, size / 2)


def _turned(B: Array, answer: Array, answers: int, settings: Noise) -> Array:
    return B + settings.rate * (answer - settings.decay * answers * settings.noise**2 / 12 * B)


def _factor(sent: Array, settings: Noise) -> Array:
    """What makes the mean SD of what B sends the wanted one."""
    return cast(float, settings.spread) / sent.reshape(sent.shape[0], -1).std(1).mean()
