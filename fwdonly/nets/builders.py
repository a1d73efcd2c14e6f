"""Networks as tuples of blocks, and their first parameters."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
from jaxtyping import Array, Float

from ..base import Net, Statistics, draw_block, every, kept, run_block
from ..errors import UsageError, check_samples, check_whole, short
from .blocks import Conv, Dense, side_after
from .composed import Residual, Separable
from .mixing import Head, Mixer, unmixable
from .norms import Normalised
from .parts import check_net
from .starts import torch_uniform


def mlp(widths: Sequence[int], **options: Any) -> Net:
    """Fully connected ReLU blocks, one per entry of ``widths``; options as of `Dense`. The first one flattens images.

    Raises:
        UsageError: no width, or a width below 1.
    """
    return tuple(Dense(width, **options) for width in _positive(widths, "width"))


def cnn(channels: Sequence[int], **options: Any) -> Net:
    """Convolution blocks (3x3, ReLU, 2x2 average pooling), one per entry of ``channels``; options as of `Conv`.

    Raises:
        UsageError: no channel count, or one below 1.
    """
    return tuple(Conv(count, **options) for count in _positive(channels, "channel count"))


def residual(channels: Sequence[int], **options: Any) -> Net:
    """Residual blocks, one per entry of ``channels``; options as of `Residual`.

    Raises:
        UsageError: no channel count, or one below 1.
    """
    return tuple(Residual(count, **options) for count in _positive(channels, "channel count"))


def separable(channels: Sequence[int], **options: Any) -> Net:
    """Depthwise separable convolutions, one per entry of ``channels``; options as of `Separable`.

    Raises:
        UsageError: no channel count, or one below 1.
    """
    return tuple(Separable(count, **options) for count in _positive(channels, "channel count"))


def mixer(
    channels: Sequence[int],
    *,
    patch: int = 4,
    tokens: int | None = None,
    hidden: int | None = None,
    head: Head = "none",
    **options: Any,
) -> Net:
    """MLP-Mixer: a `Mixer` per entry of ``channels``, which are all the same; further options as of `Mixer`.

    The first block cuts images into patches of ``patch`` x ``patch`` pixels, the last one ends with ``head``. Without
    ``tokens`` and ``hidden`` the widths are those of all networks of the paper: half and four times the channels.
    There is no ``head`` unless asked for, unlike in the paper; docs/networks.md says why.

    Raises:
        UsageError: no channel count, one below 1, or counts that differ, which the skip connections rule out.
    """
    counts = _positive(channels, "channel count")
    if len(set(counts)) > 1:
        raise UsageError(
            f"all blocks of a mixer have the same channels; got {tuple(counts)}: write 64x8 for eight of 64"
        )
    patch = check_whole(patch, "patch")
    (tokens,) = _positive([max(1, counts[0] // 2) if tokens is None else tokens], "token width")
    (hidden,) = _positive([4 * counts[0] if hidden is None else hidden], "hidden width")
    if patch < 1:
        raise UsageError(f"patch is a number of pixels, at least 1; got {patch}")
    last = len(counts) - 1
    return tuple(
        Mixer(count, tokens, hidden, 0 if i else patch, head if i == last else "none", **options)
        for i, count in enumerate(counts)
    )


def normalised(net: Net, **options: Any) -> Net:
    """The same network with batch normalisation behind every block; options as of `Normalised`."""
    check_net(net)
    return tuple(Normalised(block, **options) for block in net)


def cwc(channels: Sequence[int], num_classes: int) -> Net:
    """The layers of `fwdonly.cwc`: convolutions started as by PyTorch, every second one grouped by class and pooled.

    Raises:
        UsageError: no channel count, or one that does not split into ``num_classes`` groups.
    """
    if any(count % num_classes for count in _positive(channels, "channel count")):
        raise UsageError(
            f"channels must be multiples of the {num_classes} classes, one group each; got {tuple(channels)}"
        )
    common: dict[str, Any] = {"kernel_init": torch_uniform, "bias": "uniform"}
    return tuple(
        Conv(count, pool="max" if odd else "none", groups=num_classes if odd else 1, **common)
        for count, odd in zip(channels, [False, True] * len(channels), strict=False)
    )


def _positive(sizes: Sequence[int], what: str) -> Sequence[int]:
    if isinstance(sizes, str) or not hasattr(sizes, "__len__"):
        raise UsageError(f"a network has a sequence of {what}s, such as [1000, 1000]; got {sizes!r}")
    if len(sizes) == 0 or min(sizes) < 1:
        raise UsageError(f"a network needs at least one {what}, each at least 1; got {tuple(sizes)}")
    if max(sizes) >= 2**31:
        raise UsageError(f"a {what} is below 2**31; got {max(sizes)}")
    return [check_whole(size, f"a {what}") for size in sizes]


def init(
    key: Array, x: Float[Array, "batch *features"], net: Net, first: int = 1
) -> tuple[tuple[Any, ...], Statistics, tuple[Array, ...]]:
    """Parameters and statistics of every block, and the activation after it, for example inputs ``x``.

    Block i, counted from ``first``, draws from ``fold_in(key, i)`` alone, so two rules with one key start from equal
    blocks.

    Raises:
        UsageError: no block, or one that cannot take the shape it is given or leaves nothing of it.
    """
    check_samples(x)
    check_net(net)
    params, statistics, activations = [], [], []
    for i, block in enumerate(net, start=first):
        _check_images(i, block, x)
        try:
            weights, known = draw_block(block, jax.random.fold_in(key, i), x)
            x, _ = run_block(block, weights, known, x)
        except Exception as error:
            if isinstance(error, UsageError) and error.__cause__ is None:
                raise
            words = f"block {i}, a {type(block).__name__}, cannot start on inputs {x.shape}: "
            words += short(error.__cause__ if isinstance(error, UsageError) else error)
            raise UsageError(f"{words}; docs/networks.md says what a block is") from error
        if not (hasattr(x, "shape") and x.ndim > 1):
            raise UsageError(f"block {i}, a {type(block).__name__}, returns no array (batch, *features)")
        params.append(weights)
        statistics.append(known)
        activations.append(x)
    return tuple(params), kept(statistics), tuple(activations)


def outputs(
    net: Net,
    blocks: tuple[Any, ...],
    statistics: Statistics,
    x: Float[Array, "batch *features"],
    key: Array | None = None,
) -> tuple[tuple[Float[Array, "batch *_"], ...], Statistics]:
    """The activation after every block, and their statistics afterwards; with a key as in training.

    Noise of block i (from 1) is that of ``fold_in(key, i)``.
    """
    activations, moved = zip(*steps(net, blocks, every(statistics, net), x, key), strict=True)
    return activations, kept(moved)


def steps(
    net: Net, blocks: Sequence[Any], statistics: Sequence[Any], x: Array, key: Array | None, first: int = 1
) -> Iterator[tuple[Array, Any]]:
    """The activation after every block and its statistics afterwards; the first block has the number ``first``."""
    a = x
    for i, (block, weights, known) in enumerate(zip(net, blocks, statistics, strict=True), start=first):
        a, known = run_block(block, weights, known, a, None if key is None else jax.random.fold_in(key, i))
        yield a, known


def _check_images(i: int, block: Any, x: Array) -> None:
    block = block.block if isinstance(block, Normalised) else block
    if isinstance(block, Mixer) and (fault := unmixable(block, x.shape)):
        raise UsageError(f"block {i} {fault}")
    if isinstance(block, Residual | Separable) and x.ndim != 4:
        raise UsageError(
            f"block {i} is a convolution and needs images (batch, height, width, channels); it is given {x.shape}: "
            "use an mlp, or inputs with these four axes"
        )
    if isinstance(block, Conv) and (x.ndim != 4 or side_after(block, min(x.shape[1:3])) < 1):
        raise UsageError(
            f"block {i} is a convolution and needs images (batch, height, width, channels) that leave something "
            f"after {block.kernel}x{block.kernel} windows and pooling; it is given {x.shape}: "
            + ("use fewer blocks or larger images" if x.ndim == 4 else "use an mlp, or inputs with these four axes")
        )
