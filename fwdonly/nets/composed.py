"""Blocks of several convolutions, each of them one layer to a rule: what is inside learns together, from its output."""

from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from ..errors import check_word
from .blocks import POOLINGS, Norm, Padding, Picklable, convolution, dropped, normed
from .starts import Initializer, he_uniform


class Residual(Picklable):
    """``activation(c_2(activation(c_1(x))) + shortcut(x))``, the basic block of residual networks.

    c_1 and c_2 are convolutions with ``norm`` behind them, c_1 with ``stride``. The shortcut is x, or where that has
    another shape a 1x1 convolution of the same stride with ``norm`` behind it. Inputs (batch, height, width, channels).

    He, Zhang, Ren, Sun, *Deep Residual Learning*, CVPR 2016, arXiv 1512.03385.

    Deviations:
        * There is no batch normalisation unless ``norm="batch"`` asks for it.
        * 2x2 pooling (``pool``) follows where it is asked for; the paper's blocks have a stride in its place.
    """

    channels: int
    activation: Callable[[Array], Array] = jax.nn.relu
    kernel_init: Initializer = he_uniform
    pool: str = "none"
    bias: Literal["zero", "uniform", "none"] = "zero"
    kernel: int = 3
    stride: int = 1
    norm: Norm = "none"
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width in"], train: bool = False
    ) -> Float[Array, "batch out_h out_w out"]:
        check_word("pool", self.pool, tuple(POOLINGS))
        h = convolution(self, self.channels, self.kernel, self.stride)(x)
        h = self.activation(normed(self.norm, h, train))
        h = normed(self.norm, convolution(self, self.channels, self.kernel)(h), train)
        if x.shape != h.shape:
            x = normed(self.norm, convolution(self, self.channels, 1, self.stride)(x), train)
        return dropped(self.dropout, POOLINGS[self.pool].function(self.activation(h + x)), train)


class Separable(Picklable):
    """A depthwise convolution, a 1x1 convolution to ``channels``, ``norm``, activation, 2x2 pooling.

    The first one gives every channel windows of its own; ``stride`` is its. Inputs (batch, height, width, channels).
    """

    channels: int
    activation: Callable[[Array], Array] = jax.nn.relu
    kernel_init: Initializer = he_uniform
    pool: str = "average"
    bias: Literal["zero", "uniform", "none"] = "zero"
    kernel: int = 3
    stride: int = 1
    padding: Padding = "same"
    norm: Norm = "none"
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width in"], train: bool = False
    ) -> Float[Array, "batch out_h out_w out"]:
        check_word("pool", self.pool, tuple(POOLINGS))
        x = convolution(self, x.shape[-1], self.kernel, self.stride, x.shape[-1], self.padding)(x)
        z = normed(self.norm, convolution(self, self.channels, 1)(x), train)
        return dropped(self.dropout, POOLINGS[self.pool].function(self.activation(z)), train)
