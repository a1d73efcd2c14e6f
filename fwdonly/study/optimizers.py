"""From an optimizer's record to its optax transformation."""

from typing import Any

import optax

from .. import foton
from ..card import Optimizer
from ..descent import by_layer, half_then_linear, windowed
from ..errors import UsageError

OPTIMIZERS = ("adam", "adamw", "sgd", "momentum")
"""Names that every rule takes."""

HALVINGS = (0.2, 0.35, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Shares of the epochs after which the schedule "halvings" halves the rate, as for SCFF's readout."""


def transformation(optimizer: Optimizer, *, epochs: int, steps: int) -> optax.GradientTransformation:
    """The optax transformation for a training of ``epochs`` with ``steps`` optimizer steps each.

    Raises:
        UsageError: a name that none of the common optimizers has, or epochs of layers that are no windows.
    """
    if optimizer.layer_epochs:
        tx = transformation(optimizer._replace(layer_epochs=()), epochs=epochs, steps=steps)
        return windowed(tx, optimizer.layer_epochs, steps)
    if optimizer.layer_rates:
        rates = (optimizer._replace(learning_rate=rate, layer_rates=()) for rate in optimizer.layer_rates)
        return by_layer(transformation(one, epochs=epochs, steps=steps) for one in rates)
    rate, decay = _schedule(optimizer, epochs, steps), optimizer.weight_decay
    known = {
        "adam": optax.adam(rate),
        "adamw": optax.adamw(rate, weight_decay=decay),
        "sgd": optax.sgd(rate),
        "momentum": optax.sgd(rate, momentum=0.9),
    }
    if optimizer.optimizer not in known:
        raise UsageError(f"--optimizer {optimizer.optimizer} belongs to another rule; choose {', '.join(known)}")
    tx = known[optimizer.optimizer]
    # A search hands in a traced decay, which is neither 0 nor not.
    plain = isinstance(decay, float | int) and decay == 0
    if optimizer.optimizer != "adamw" and not plain:
        tx = optax.chain(optax.add_decayed_weights(decay), tx)
    if optimizer.constraint == "orthonormal":
        tx = optax.chain(tx, foton.retraction(1, None))
    return tx


def _schedule(optimizer: Optimizer, epochs: int, steps: int) -> Any:
    rate = optimizer.learning_rate
    if optimizer.lr_schedule == "cosine":
        return optax.cosine_decay_schedule(rate, epochs * steps)
    if optimizer.lr_schedule == "half_linear":
        return half_then_linear(rate, steps, epochs)
    if optimizer.lr_schedule == "drops":
        return optax.piecewise_constant_schedule(rate, {epoch * steps: 0.1 for epoch in optimizer.lr_drops})
    if optimizer.lr_schedule == "halvings":
        return optax.piecewise_constant_schedule(rate, {int(share * epochs) * steps: 0.5 for share in HALVINGS})
    return rate
