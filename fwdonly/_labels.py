"""The label as a part of the input: what `fwdonly.ff` and `fwdonly.phyll` share."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from .base import flat
from .errors import UsageError


def scaled(
    x: Float[Array, "batch *features"],
    label: Float[Array, "batch classes"],
    strength: float | Array | None,
    share: float,
) -> Float[Array, "batch classes"]:
    """``label`` times ``strength``; None: times the root of this ``share`` of the sample's sum of squares."""
    if strength is None:
        strength = jnp.sqrt(share * (flat(x) ** 2).sum(1, keepdims=True))
    return strength * label


def overlaid(
    x: Float[Array, "batch *features"], label: Float[Array, "batch classes"], mend: str
) -> Float[Array, "batch *features"]:
    """``x`` with ``label`` in the place of its first values, in memory order.

    Raises:
        UsageError: fewer values than classes; ``mend`` says what helps.
    """
    values, count = flat(x), label.shape[1]
    if count > values.shape[1]:
        raise UsageError(
            f"the label of {count} classes does not fit into inputs of {values.shape[1]} values; {mend} or use larger "
            "images"
        )
    return jnp.asarray(values).at[:, :count].set(label).reshape(x.shape)
