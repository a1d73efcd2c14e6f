"""Mono-Forward on an MLP, and backpropagation on the same MLP beside it."""

import dataclasses
import sys
from typing import Any, Literal

import _common
from _presets import PUBLISHED

from fwdonly import mf, nets


@dataclasses.dataclass(frozen=True)
class Options(_common.MLPOptions):
    """Train an MLP with Mono-Forward (MF) and, beside it, the same MLP with backpropagation (BP).

    Prints a table of every seed and writes a result folder. Ctrl-C leaves a folder that --resume continues.
    """

    preset: Literal[tuple(PUBLISHED)] | None = None  # ty: ignore[invalid-type-form]
    """Start from the settings published for this data set (arXiv 2509.19063), or those of its authors' re-measurement
    under one stopping rule (2026); other options override them."""
    schedule: Literal["simultaneous", "greedy"] = "simultaneous"
    """simultaneous: every batch updates all layers. greedy: layers one after another, --epochs for each."""
    input_readout: bool = False
    """Also train M_0, a readout of the raw input."""
    prediction: Literal["last", "sum"] = "last"
    """Predict from the last layer's goodness, or from the sum of all layers'."""
    sum_includes_input: bool = False
    """Let M_0's scores enter the sum."""
    gradient: mf.Gradient = "local"
    """local: no gradient crosses a layer. joint: the control MF-Joint, whose losses of all layers are one loss that is
    back-propagated through everything; simultaneous schedule only."""
    auxiliary_weight: float = 1.0
    """With --gradient joint: factor on the losses of all layers but the last one."""
    compare: bool = True
    """Train BP beside MF, with the same blocks, start values, split and data order."""
    bp: _common.BPOptions = dataclasses.field(default_factory=_common.BPOptions)


def arms(options: Options) -> list[_common.Arm]:
    """MF, and BP unless --no-compare."""
    net, network = nets.mlp(options.widths), _common.mlp_name(options.widths)

    def build(setting: _common.Setting) -> Any:
        make = mf.stages if options.schedule == "greedy" else mf.rule
        return make(
            net,
            setting.tx,
            num_classes=setting.num_classes,
            input_readout=options.input_readout,
            prediction=options.prediction,
            sum_includes_input=options.sum_includes_input,
            gradient=options.gradient,
            auxiliary_weight=options.auxiliary_weight,
        )

    both = [_common.Arm("mf", build, options, network, net), _common.bp_arm(options, options.bp, net, network)]
    return both if options.compare else both[:1]


if __name__ == "__main__":
    published = {name: p["mf"] | {"bp": _common.BPOptions(**p["bp_only"])} for name, p in PUBLISHED.items()}
    sys.exit(_common.main("mf_mlp", Options, published, arms))
