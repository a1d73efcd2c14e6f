"""Backpropagation on an MLP, the baseline of every other rule."""

import dataclasses
import sys
from typing import Literal

import _common
from _presets import PUBLISHED

from fwdonly import bp, nets


@dataclasses.dataclass(frozen=True)
class Options(_common.MLPOptions):
    """Train an MLP with backpropagation (BP).

    Prints a table of every seed and writes a result folder. Ctrl-C leaves a folder that --resume continues.
    """

    preset: Literal[tuple(PUBLISHED)] | None = None  # ty: ignore[invalid-type-form]
    """Start from the settings published for this data set (arXiv 2509.19063), or those of its authors' re-measurement
    under one stopping rule (2026); other options override them."""
    readouts: bp.Readouts = "output"
    """output: the loss of the output layer. deep: BP-DS, deep supervision, with the losses of Mono-Forward's readouts
    added to it. sum: one loss of the sum of the output layer's scores and all readouts', which also predicts."""
    auxiliary_weight: float = 1.0
    """With --readouts deep: factor on the losses of the readouts."""


def arms(options: Options) -> list[_common.Arm]:
    """BP alone."""
    net = nets.mlp(options.widths)

    def build(setting: _common.Setting) -> bp.LearningRule:
        return bp.rule(
            net,
            setting.tx,
            num_classes=setting.num_classes,
            readouts=options.readouts,
            auxiliary_weight=options.auxiliary_weight,
        )

    return [_common.Arm("bp", build, options, _common.mlp_name(options.widths), net)]


if __name__ == "__main__":
    sys.exit(_common.main("bp_mlp", Options, {name: p["bp"] for name, p in PUBLISHED.items()}, arms))
