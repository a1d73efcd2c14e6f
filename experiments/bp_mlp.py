"""Backpropagation on an MLP, the baseline of every other rule."""

import dataclasses
import sys
from typing import Any

import _common
from _presets import PUBLISHED

from fwdonly import bp, nets


@dataclasses.dataclass(frozen=True)
class Options(_common.Options):
    """Train an MLP with backpropagation (BP).

    Prints a table of every seed and writes a result folder. Ctrl-C leaves a folder that --resume continues.
    """


def arms(options: Options) -> list[_common.Arm]:
    """BP alone."""
    net = nets.mlp(options.widths)

    def build(tx: Any, num_classes: int) -> Any:
        return bp.rule(net, tx, num_classes=num_classes)

    return [_common.Arm("bp", build, options)]


if __name__ == "__main__":
    sys.exit(_common.main("bp_mlp", Options, {name: p["bp"] for name, p in PUBLISHED.items()}, arms))
