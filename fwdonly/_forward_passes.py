"""What `fwdonly.forward_gradient` and `fwdonly.zeroth_order` share: layers, what they say, and random directions."""

from typing import Any, Literal, NamedTuple, cast

import jax
from jaxtyping import Array, Float

from . import nets
from .base import Net, Statistics, check_classes, flat, predicting

Distribution = Literal["normal", "rademacher"]


class Layer(NamedTuple):
    """What layer i owns: ``block`` holds W_i and b_i, ``M`` (classes, n_i) its readout, None where it has no loss."""

    block: Any
    M: Float[Array, "classes n"] | None


Params = tuple[Layer, ...]


def start(key: Array, x: Array, net: Net, num_classes: int, *, only_last: bool) -> tuple[Params, Statistics]:
    """Blocks as the network draws them, readouts as MF's for one key, of every layer or of the last one alone.

    Raises:
        UsageError: fewer than two classes, or inputs that the network cannot take.
    """
    check_classes(num_classes)
    block_key, readout_key = jax.random.split(key)
    blocks, statistics, activations = nets.init(block_key, x, net)
    readouts = nets.output.class_readouts(readout_key, activations, num_classes)
    if only_last:
        readouts = (*(None,) * (len(net) - 1), readouts[-1])
    return tuple(Layer(*pair) for pair in zip(blocks, readouts, strict=True)), statistics


def directions(key: Array, like: Any, distribution: Distribution, shape: tuple[int, ...] = ()) -> Any:
    """A random direction for a tree of arrays, of as many as ``shape`` says; every leaf has a stream of its own."""
    draw = jax.random.normal if distribution == "normal" else jax.random.rademacher
    leaves, tree = jax.tree.flatten(like)
    drawn = [draw(jax.random.fold_in(key, at), (*shape, *leaf.shape), leaf.dtype) for at, leaf in enumerate(leaves)]
    return jax.tree.unflatten(tree, drawn)


def readout(layer: Layer) -> Array:
    """M of a layer that has one, as the last layer always does."""
    return cast(Array, layer.M)


def scores(a: Array, layer: Layer) -> Float[Array, "batch classes"]:
    """G = a M^T."""
    return flat(a) @ readout(layer).T


def training_scores(
    state: Any, x: Float[Array, "batch *features"], key: Array | None, *, net: Net
) -> Float[Array, "batch classes"]:
    """G_L as a step with ``key`` sees it, at unmoved weights: statistics of the batch, and noise. None: at rest."""
    return scores(_outputs(state, x, net, key)[-1], state.params[-1])


@predicting
def activations(state: Any, x: Float[Array, "batch *features"], *, net: Net) -> tuple[Float[Array, "batch *_"], ...]:
    """a_1..a_L."""
    return _outputs(state, x, net)


def _outputs(state: Any, x: Array, net: Net, key: Array | None = None) -> tuple[Array, ...]:
    return nets.outputs(net, tuple(layer.block for layer in state.params), state.statistics, x, key)[0]
