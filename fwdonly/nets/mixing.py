"""Mixer blocks: images as a grid of patches, mixed over the patches and over the channels; one block is one layer."""

import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from ..errors import ALONG, UsageError, check_word
from .blocks import Picklable
from .starts import Initializer, normal

Head = Literal["none", "mean"]


class Mixer(Picklable):
    r"""A block of MLP-Mixer, which learns as one layer: its output is all that a rule sees of it.

    For a grid X of S patches with C channels (eq. 1 of the paper; W_1 to W_4 with biases)::

        U = X + (W_2 activation(W_1 norm(X)^T))^T        (token mixing: S to ``tokens`` to S, for every channel alike)
        Y = U + activation(norm(U) W_3) W_4              (channel mixing: C to ``hidden`` to C, for every patch alike)

    with norm over the channels of a patch, and a scale and a shift that learn. Inputs and outputs are maps (batch,
    rows, columns, channels), so that readouts, their pooling and class groups of channels find what they find behind a
    convolution.

    ``patch`` of the first block cuts images into patches of so many rows and columns and maps every patch to
    ``channels`` by one matrix, the paper's convolution of that stride; 0 leaves the maps as they are. This stem is part
    of the first block and no layer by itself: it is linear, and a local rule would train it for a linear readout,
    which drops what the mixing needs. ``head="mean"`` of the last block adds the paper's end: norm, then the mean over
    the patches, (batch, channels), which the output layer reads.

    Tolstikhin et al., *MLP-Mixer: An all-MLP Architecture for Vision*, NeurIPS 2021, arXiv 2105.01601.

    Deviations:
        * No dropout and no stochastic depth, which the paper has in its larger trainings.
        * Weights start as N(0, 1 / fan_in); the paper's code truncates the normal law at two standard deviations.
        * A rule that gives every block a loss reads maps that no norm has seen, but for a head's.
    """

    channels: int
    tokens: int
    hidden: int
    patch: int = 0
    head: Head = "none"
    activation: Callable[[Array], Array] = jax.nn.gelu
    kernel_init: Initializer = normal

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width in"]) -> Float[Array, "batch *out"]:
        check_word("head", self.head, get_args(Head))
        if fault := unmixable(self, x.shape):
            raise UsageError(f"a mixer {fault}")
        if self.patch:
            x = nn.Dense(self.channels, kernel_init=self.kernel_init, name="stem")(_patches(x, self.patch))
        grid = x.shape
        x = x.reshape(grid[0], -1, self.channels)
        h = nn.LayerNorm(name="token_norm")(x).swapaxes(1, 2)
        x = x + _mlp(self, "token", self.tokens, h).swapaxes(1, 2)
        x = x + _mlp(self, "channel", self.hidden, nn.LayerNorm(name="channel_norm")(x))
        return nn.LayerNorm(name="head_norm")(x).mean(axis=1) if self.head == "mean" else x.reshape(grid)


def _mlp(block: Mixer, name: str, width: int, h: Array) -> Array:
    """Within a compact module: two layers along the last axis, from its length to ``width`` and back."""
    z = nn.Dense(width, kernel_init=block.kernel_init, name=f"{name}_in")(h)
    return nn.Dense(h.shape[-1], kernel_init=block.kernel_init, name=f"{name}_out")(block.activation(z))


def _patches(x: Array, side: int) -> Array:
    """Patches as vectors: (batch, rows, columns, side * side * channels), every patch row by row."""
    batch, height, width, channels = x.shape
    cut = x.reshape(batch, height // side, side, width // side, side, channels)
    return cut.swapaxes(2, 3).reshape(batch, height // side, width // side, side * side * channels)


def unmixable(block: Any, shape: tuple[int, ...]) -> str:
    """What hinders a `Mixer` from taking inputs of this shape, the batch in front; empty if nothing does."""
    if len(shape) != 4:
        return (
            "needs images (batch, height, width, channels); it is given "
            f"{shape}: use an mlp, or inputs with these four axes; {ALONG}"
        )
    height, width, channels = shape[1:]
    if not block.patch:
        fits = channels == block.channels
        return "" if fits else f"of {block.channels} channels without patch adds its inputs, and they have {channels}"
    if not (height and width) or height % block.patch or width % block.patch:
        sides = [side for side in range(1, math.gcd(height, width) + 1) if height % side == width % side == 0]
        words = ", ".join(map(str, sides))
        return f"cannot cut images of {height}x{width} into patches of {block.patch}; patch is one of {words or 'none'}"
    return ""
