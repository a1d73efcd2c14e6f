"""Mono-Forward on an MLP, and backpropagation on the same MLP beside it."""

import dataclasses
import sys
from typing import Any, Literal

import _common
from _presets import PUBLISHED

from fwdonly import bp, mf, nets


@dataclasses.dataclass(frozen=True)
class BPOptions:
    """Where BP's settings differ; None: as for Mono-Forward."""

    learning_rate: float | None = None
    lr_schedule: _common.LRSchedule | None = None
    optimizer: _common.Optimizer | None = None
    weight_decay: float | None = None
    epochs: int | None = None
    patience: int | None = None
    min_delta: float | None = None
    keep: _common.Keep | None = None


@dataclasses.dataclass(frozen=True)
class Options(_common.Options):
    """Train an MLP with Mono-Forward (MF) and, beside it, the same MLP with backpropagation (BP).

    Prints a table of every seed and writes a result folder. Ctrl-C leaves a folder that --resume continues.
    """

    schedule: Literal["simultaneous", "greedy"] = "simultaneous"
    """simultaneous: every batch updates all layers. greedy: layers one after another, --epochs for each."""
    input_readout: bool = False
    """Also train M_0, a readout of the raw input."""
    prediction: Literal["last", "sum"] = "last"
    """Predict from the last layer's goodness, or from the sum of all layers'."""
    sum_includes_input: bool = False
    """Let M_0's scores enter the sum."""
    compare: bool = True
    """Train BP beside MF, with the same blocks, start values, split and data order."""
    bp: BPOptions = dataclasses.field(default_factory=BPOptions)


def arms(options: Options) -> list[_common.Arm]:
    """MF, and BP unless --no-compare."""
    net = nets.mlp(options.widths)

    def build_mf(tx: Any, num_classes: int) -> Any:
        make = mf.stages if options.schedule == "greedy" else mf.rule
        return make(
            net,
            tx,
            num_classes=num_classes,
            input_readout=options.input_readout,
            prediction=options.prediction,
            sum_includes_input=options.sum_includes_input,
        )

    def build_bp(tx: Any, num_classes: int) -> Any:
        return bp.rule(net, tx, num_classes=num_classes)

    twin = _common.common_options(options, **dataclasses.asdict(options.bp))
    both = [_common.Arm("mf", build_mf, options), _common.Arm("bp", build_bp, twin)]
    return both if options.compare else both[:1]


if __name__ == "__main__":
    published = {name: p["mf"] | {"bp": BPOptions(**p["bp_only"])} for name, p in PUBLISHED.items()}
    sys.exit(_common.main("mf_mlp", Options, published, arms))
