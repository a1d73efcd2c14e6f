"""Constants of pixels and columns, normalisation, augmentation: pure functions for use inside the compiled step."""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped, UInt8

from ..errors import UsageError
from . import facts
from .dataset import Dataset
from .facts import Statistics

KINDS = ("pixel", "paper", "half", "none")

BLOCK = 2**22
"""Values of a block whose variance is summed: float64 copies of a whole set would not fit."""


def statistics(data: Dataset, kind: Literal["pixel", "paper", "half", "none"] = "pixel") -> Statistics:
    """Mean and standard deviation per channel, for `normalise` (uint8 images) or `standardise` (float32 features).

    Args:
        data: the set.
        kind: "pixel": over all pixels of the training set (stored for the four named sets, otherwise computed, with 1
            for a channel that is constant). "paper": the constants of the Mono-Forward code. "half": 0.5 and 0.5,
            which puts pixels into [-1, 1]. "none": 0 and 1, which leaves them in [0, 1]. Float features have "pixel",
            the mean and SD of every column or channel of the training set, and "none", which leaves them as they are.

    Returns:
        (mean, sd), one number per channel or column each; of uint8 images in units of pixel/255.

    Raises:
        UsageError: unknown ``kind``, "paper" for a set that the code does not know, or pixel constants for floats.

    References:
        "paper": GitHub Przemyslaw11/BeyondBackpropagation. "half": Cascaded-Forward's code on CIFAR.

    Deviations:
        For CIFAR-10 "paper" is the mean of the SDs of single images (0.2023 0.1994 0.2010), not the SD of the pixels:
        inputs come out 1.2 to 1.3 times larger than with "pixel", which changes results and learning rates. Its last
        digits for CIFAR-100 are off. mnist5k takes the constants of MNIST, whose images it consists of.
    """
    channels = data.x_train.shape[-1]
    if kind not in KINDS:
        raise UsageError(f"unknown normalisation {kind!r}: choose {', '.join(map(repr, KINDS))}")
    if data.x_train.dtype != np.uint8 and kind in ("paper", "half"):
        raise UsageError(f"{kind!r} are constants of uint8 pixels, and {data.name} holds floats: use 'pixel' or 'none'")
    if kind == "none":
        return (0.0,) * channels, (1.0,) * channels
    if kind == "half":
        return (0.5,) * channels, (0.5,) * channels
    if kind == "paper":
        if data.name not in facts.PAPER:
            raise UsageError(f"no 'paper' constants for {data.name}, only for {', '.join(facts.PAPER)}: use 'pixel'")
        return facts.PAPER[data.name]
    if data.x_train.dtype != np.uint8:
        return ((0.0,) * channels, (1.0,) * channels) if data.standardised else _moments(data.x_train)
    if data.name in facts.PIXEL:
        return facts.PIXEL[data.name]
    # Exact sums without a float copy of the images: count the 256 levels.
    counts = np.stack([np.bincount(plane.ravel(), minlength=256) for plane in np.moveaxis(data.x_train, -1, 0)])
    levels, weights = np.arange(256) / 255, counts / counts.sum(1, keepdims=True)
    mean = weights @ levels
    variance = (weights * (levels - mean[:, None]) ** 2).sum(1)
    sd = np.where((counts > 0).sum(1) > 1, np.sqrt(variance), 1.0)
    return tuple(mean.tolist()), tuple(sd.tolist())


def _moments(x: np.ndarray) -> Statistics:
    """Mean and SD over all but the last axis in float64, in blocks; 1 for what is constant, but for rounding."""
    rows = x.reshape(-1, x.shape[-1])
    mean = rows.mean(0, dtype=np.float64)
    block = max(1, BLOCK // rows.shape[1])
    blocks = (rows[start : start + block] - mean for start in range(0, len(rows), block))
    sd = np.sqrt(sum((part**2).sum(0) for part in blocks) / len(rows))
    sd = np.where(sd > 1e-6 * np.abs(mean), sd, 1.0)
    return tuple(mean.tolist()), tuple(sd.tolist())


def standardise(
    x: Float[Array | np.ndarray, "batch *features"], mean: Sequence[float], sd: Sequence[float]
) -> Float[Array, "batch *features"]:
    """``(x - mean) / sd`` per column of a table or channel of float images, as float32.

    Args:
        x: features (batch, ..., channels), floats.
        mean: per channel; static.
        sd: per channel; static.

    Raises:
        UsageError: features that are no floats, or constants of another number of channels.
    """
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise UsageError(f"standardise takes floats, not {x.dtype}: images of uint8 go through normalise")
    _check_channels(x, mean, sd)
    shape = (1,) * (x.ndim - 1) + (-1,)
    # The difference first: a column like years has a mean of many SDs, and float32 has few digits.
    centred = x.astype(jnp.float32) - np.asarray(mean, np.float32).reshape(shape)
    return centred * (1 / np.asarray(sd, np.float64)).reshape(shape).astype(np.float32)


def _check_channels(x: Array, mean: Sequence[float], sd: Sequence[float]) -> None:
    if not len(mean) == len(sd) == x.shape[-1]:
        raise UsageError(
            f"{len(mean)} means and {len(sd)} SDs for {x.shape[-1]} channels: take them from statistics(data)"
        )


def normalise(
    x: UInt8[Array | np.ndarray, "*batch channels"], mean: Sequence[float], sd: Sequence[float]
) -> Float[Array, "*batch channels"]:
    """``(x / 255 - mean) / sd`` as float32, computed as one multiply-add per pixel.

    Args:
        x: images (batch, height, width, channels), uint8.
        mean: per channel, in units of pixel/255; static.
        sd: per channel, in units of pixel/255; static.

    Raises:
        UsageError: images that are not uint8 (normalised twice?), or constants of another number of channels.
    """
    x = jnp.asarray(x)
    if x.dtype != jnp.uint8:
        raise UsageError(f"normalise takes uint8 images, not {x.dtype}: apply it once, to the images as loaded")
    _check_channels(x, mean, sd)
    shape = (1,) * (x.ndim - 1) + (-1,)
    scale = 1 / (255 * np.asarray(sd, np.float64))
    shift = -np.asarray(mean, np.float64) / np.asarray(sd, np.float64)
    return x.astype(jnp.float32) * scale.reshape(shape).astype(np.float32) + shift.reshape(shape).astype(np.float32)


def crop_flip(
    key: Array, x: Shaped[Array, "batch height width channels"], *, pad: int = 4, flip: bool = True
) -> Shaped[Array, "batch height width channels"]:
    """Random crop after reflection padding, then a horizontal flip with probability 1/2, for every image on its own.

    Reflection does not repeat the border pixel. Do not flip digits. Draw ``key`` from the key of the step, so that a
    resumed run sees the same crops.

    Args:
        key: decides offsets (uniform in 0..2*pad per axis and image) and flips.
        x: images (batch, height, width, channels), uint8 or floats.
        pad: pixels added on each side, fewer than height and width; static.
        flip: whether to flip at all; the crops do not depend on it; static.

    Returns:
        Images (batch, height, width, channels) of the same type.

    Raises:
        UsageError: ``pad`` out of range.

    References:
        The augmentation of CIFAR in GitHub Przemyslaw11/BeyondBackpropagation, for MLPs as well, before flattening.

    Deviations:
        The FOTON and CaFo code augments nothing.
    """
    batch, height, width, channels = x.shape
    if not 0 <= pad < min(height, width):
        raise UsageError(f"pad is {pad}: choose 0 to {min(height, width) - 1} for images of {height}x{width}")
    crop_key, flip_key = jax.random.split(key)
    padded = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="reflect")
    offsets = jax.random.randint(crop_key, (batch, 2), 0, 2 * pad + 1)
    x = jax.vmap(lambda image, at: jax.lax.dynamic_slice(image, (at[0], at[1], 0), (height, width, channels)))(
        padded, offsets
    )
    if flip:
        flips = jax.random.bernoulli(flip_key, 0.5, (batch, 1, 1, 1))
        x = jnp.where(flips, x[:, :, ::-1], x)
    return x
