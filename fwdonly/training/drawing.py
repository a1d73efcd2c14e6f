"""A training's history as a figure, for a first look."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import UsageError


def figure_of(history: Mapping[str, Any], layer_accuracy: np.ndarray | None) -> Any:
    """A matplotlib figure of a `Result`'s history; ``layer_accuracy`` (runs, layers) has a panel of its own.

    Raises:
        UsageError: matplotlib is not installed, or there is no validation yet.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError("plot needs matplotlib: pip install 'fwdonly[experiments]'") from error
    if not len(history.get("epoch", ())):
        raise UsageError("there is nothing to plot; the training was stopped before its first validation")
    figure = Figure(figsize=(4.5 * (2 + (layer_accuracy is not None)), 3.5), layout="constrained")
    left, right, *third = figure.subplots(1, 2 + (layer_accuracy is not None))
    epochs, borders = _epochs(history["stage"], history["epoch"])
    for axis, name, scale, label in (
        (left, "train_loss", 1, "training loss, the rule's own"),
        (right, "val_accuracy", 100, "validation accuracy, %"),
    ):
        axis.plot(epochs, scale * np.reshape(history[name], (len(epochs), -1)), linewidth=1)
        axis.set(xlabel="epoch", ylabel=label)
        for border in borders:
            axis.axvline(border, linestyle=":", color="0.6", linewidth=0.8)
    for axis in third:
        assert layer_accuracy is not None
        axis.plot(1 + np.arange(layer_accuracy.shape[-1]), 100 * layer_accuracy.T, marker="o", markersize=3)
        axis.set(xlabel="layer", ylabel="validation accuracy, %", title="kept state")
    for axis in (left, right, *third):
        axis.grid(alpha=0.3)
        axis.xaxis.get_major_locator().set_params(integer=True)
    return figure


def _epochs(stages: np.ndarray, epochs: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """Epochs over all stages, and where a stage ends."""
    places, borders, before, last = [], [], 0, 0
    for at, (stage, epoch) in enumerate(zip(stages, epochs, strict=True)):
        if at and stage != stages[at - 1]:
            before += last
            borders.append(before + 0.5)
        places.append(before + int(epoch))
        last = int(epoch)
    return np.asarray(places), borders
