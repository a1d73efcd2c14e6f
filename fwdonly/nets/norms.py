"""Batch normalisation: its arithmetic, a module for blocks of one's own, and a block that normalises another one.

Ioffe, Szegedy, *Batch Normalization*, ICML 2015, arXiv 1502.03167.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..base import draw_block, run_block

EPS, MOMENTUM = 1e-5, 0.1
"""What is added to the variance; the weight of a new batch in the running statistics."""


class BatchNorm(nn.Module):
    """Batch normalisation per channel (the last axis), with a scale and a shift that learn.

    In training by mean and biased variance of the batch, of which the running ones take a tenth; in prediction by the
    running ones, which start at 0 and 1.

    Deviations:
        * The running variance averages the biased one, as Flax's does. The paper and PyTorch average the unbiased one,
          which is n / (n - 1) times as large, n the samples times positions of a batch.
    """

    eps: float = EPS
    momentum: float = MOMENTUM

    @nn.compact
    def __call__(self, x: Float[Array, "*batch channels"], train: bool = False) -> Float[Array, "*batch channels"]:
        channels = x.shape[-1:]
        gamma = self.param("scale", nn.initializers.ones, channels, x.dtype)
        beta = self.param("bias", nn.initializers.zeros, channels, x.dtype)
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels, x.dtype)
        var = self.variable("batch_stats", "var", jnp.ones, channels, x.dtype)
        now = moments(x) if train else (mean.value, var.value)
        if train and not self.is_initializing():
            mean.value, var.value = (
                _moved(*pair, self.momentum) for pair in zip((mean.value, var.value), now, strict=True)
            )
        return batch_norm(x, *now, self.eps, gamma, beta)


@dataclasses.dataclass(frozen=True)
class Normalised:
    """A block with batch normalisation behind it: ``gamma n + beta``, n its normalised output, per channel.

    Statistics and deviations are those of `BatchNorm`.

    Attributes:
        block: any `fwdonly.base.Block`; its start values are those that it has alone.
        eps: added to the variance.
        momentum: the weight of a new batch in the running statistics.
        affine: whether gamma and beta, which start at 1 and 0, are there and learn.
    """

    block: Any
    eps: float = EPS
    momentum: float = MOMENTUM
    affine: bool = True

    def init(self, rngs: Any, x: Float[Array, "batch *features"]) -> dict[str, Any]:
        """``params`` and ``statistics`` hold those of the block, gamma and beta, and running mean and variance."""
        params, statistics = draw_block(self.block, rngs, x)
        h, _ = run_block(self.block, params, statistics, x)
        zero = jnp.zeros(h.shape[-1], h.dtype)
        learning = {"gamma": zero + 1, "beta": zero} if self.affine else {}
        known = {"block": statistics, "mean": zero, "var": zero + 1}
        return {"params": {"block": params, **learning}, "statistics": known}

    def apply(self, variables: Any, x: Float[Array, "batch *features"]) -> Array:
        """The output by the running statistics."""
        params, known = variables["params"], variables["statistics"]
        h, _ = run_block(self.block, params["block"], known["block"], x)
        return self._output(params, h, (known["mean"], known["var"]))

    def apply_in_training(self, variables: Any, x: Float[Array, "batch *features"], key: Array) -> tuple[Array, Any]:
        """The output by the statistics of the batch, and the variables with the running ones, where any are, moved."""
        params, known = variables["params"], variables.get("statistics")
        h, inner = run_block(self.block, params["block"], known["block"] if known else {}, x, key)
        now = moments(h)
        if known is None:
            return self._output(params, h, now), variables
        mean, var = (_moved(*pair, self.momentum) for pair in zip((known["mean"], known["var"]), now, strict=True))
        return self._output(params, h, now), variables | {"statistics": {"block": inner, "mean": mean, "var": var}}

    def observed(self, params: Any, statistics: Any, x: Float[Array, "batch *features"]) -> Any:
        """Its statistics with mean and variance of these inputs in the place of the running ones, if there are any."""
        inner = statistics["statistics"]["block"] if statistics else {}
        h, _ = run_block(self.block, params["params"]["block"], inner, x)
        mean, var = moments(h)
        return {"statistics": {"block": inner, "mean": mean, "var": var}}

    def _output(self, params: Any, h: Array, statistics: tuple[Array, Array]) -> Array:
        learned = (params["gamma"], params["beta"]) if "gamma" in params else ()
        return batch_norm(h, *statistics, self.eps, *learned)


def _moved(old: Array, new: Array, momentum: float) -> Array:
    return (1 - momentum) * old + momentum * new


def moments(x: Float[Array, "*batch channels"]) -> tuple[Float[Array, " channels"], Float[Array, " channels"]]:
    """Mean and biased variance of every channel."""
    axes = tuple(range(x.ndim - 1))
    return x.mean(axes), x.var(axes)


def batch_norm(
    x: Float[Array, "*batch channels"],
    mean: Float[Array, " channels"],
    var: Float[Array, " channels"],
    eps: float,
    scale: Float[Array, " channels"] | float = 1.0,
    shift: Float[Array, " channels"] | float = 0.0,
) -> Float[Array, "*batch channels"]:
    """``(x - mean) / sqrt(var + eps) * scale + shift`` per channel, the statistics as given."""
    factor = scale / jnp.sqrt(var + eps)
    lead = (1,) * (x.ndim - 1)
    return x * factor.reshape(*lead, -1) + (shift - mean * factor).reshape(*lead, -1)


SMALLEST = 1e-30
"""In `rms`. The exp(-100) of Hinton's Matlab is below the smallest normal float32, which processors may take for 0."""


def rms(a: Float[Array, "batch *features"]) -> Float[Array, "batch *features"]:
    """Every sample divided by the root of its mean square: only the direction is left."""
    axes = tuple(range(1, a.ndim))
    return a / (SMALLEST + jnp.sqrt(jnp.mean(a**2, axes, keepdims=True)))
