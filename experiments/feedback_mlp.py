"""Feedback alignment and its relatives on an MLP or a CNN."""

import dataclasses
import sys
from typing import Any, Literal, get_args

import _common
from _presets import FEEDBACK_PUBLISHED

from fwdonly import feedback, nets


@dataclasses.dataclass(frozen=True)
class Options(_common.NetOptions):
    """Train a network with feedback alignment, or one of its relatives, named by --mode.

    Prints a table of every seed and writes a result folder. Ctrl-C leaves a folder that --resume continues.
    """

    preset: Literal[tuple(FEEDBACK_PUBLISHED)] | None = None  # ty: ignore[invalid-type-form]
    """Start from the settings of Akrout et al.'s public code and logs; other options override them."""
    mode: Literal[get_args(feedback.Mode)] = "fa"  # ty: ignore[invalid-type-form]
    """fa: fixed matrices from layer to layer; dfa, sdfa: the error (its sign) to every layer; drtp: the label to every
    layer; usf, brsf, frsf: the weights' signs, with uniform, redrawn or fixed sizes; wm: weight mirror; kp:
    Kolen-Pollack."""
    widths: tuple[int, ...] = (500,)
    """Widths of the hidden layers. With --net cnn those after the convolutions."""
    channels: tuple[int, ...] = (32, 64)
    """Channels of the convolutions, for --net cnn: 3x3 windows, 2x2 maximum pooling."""
    epochs: int = 30
    """Cap on the epochs."""
    learning_rate: float = 0.05
    """Learning rate, at its peak."""
    optimizer: _common.Optimizer = "momentum"
    """momentum is sgd with momentum 0.9. All but adamw add weight decay to the gradient; adamw decouples it."""
    output: Literal["softmax", "sigmoid"] = "softmax"
    """Of the output layer, with its cross-entropy."""
    feedback_scale: float = 1.0
    """Factor on the start values of the feedback."""
    decay: float = 1e-4
    """Kolen-Pollack's, of weights and feedback, per step."""
    mirror_epochs: int = 1
    """Epochs of mirroring alone, before training (wm)."""
    mirror_rate: float = 0.01
    """Of the weight mirror."""
    mirror_noise: float = 0.1
    """Width of the mirror's uniform noise."""
    start: Literal["he_uniform", "torch_uniform", "normal_fan_avg", "orthogonal", "zeros"] = "he_uniform"
    """Law of the start weights, and of layered feedback."""
    compare: bool = False
    """Train BP beside it on the same network, split and data order (with a softmax)."""
    bp: _common.BPOptions = dataclasses.field(default_factory=_common.BPOptions)


NAMES = ("mode", "output", "feedback_scale", "decay", "mirror_rate", "mirror_noise")


def arms(options: Options) -> list[_common.Arm]:
    """The rule, and BP with --compare."""
    if options.start == "zeros" and options.mode not in feedback.DIRECT:
        raise _common.UsageError(f"--start zeros leaves no feedback for --mode {options.mode}, whose law it also is")
    law = getattr(nets, options.start)
    net, network = options.build({"pool": "max"}, kernel_init=law)
    chosen: dict[str, Any] = {name: getattr(options, name) for name in NAMES} | {"readout_init": law}
    mirrors = options.mode == "wm" and options.mirror_epochs > 0

    def build(setting: _common.Setting) -> Any:
        common: dict[str, Any] = {"net": net, "tx": setting.tx, "num_classes": setting.num_classes} | chosen
        learn = feedback.rule(**common)
        return (feedback.rule(part="mirror", **common), learn) if mirrors else learn

    first = {"epochs": options.mirror_epochs, "patience": None, "keep": "last"}
    stages = (first, {}) if mirrors else ()
    both = [
        _common.Arm(options.mode, build, options, network, net, stages),
        _common.bp_arm(options, options.bp, net, network, readout_init=law),
    ]
    return both if options.compare else both[:1]


if __name__ == "__main__":
    sys.exit(_common.main("feedback_mlp", Options, FEEDBACK_PUBLISHED, arms))
