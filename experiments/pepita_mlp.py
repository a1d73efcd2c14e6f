"""PEPITA on an MLP or a small CNN, in the forms of both papers."""

import dataclasses
import sys
from typing import Any, Literal

import _common
from _presets import PEPITA_PUBLISHED

from fwdonly import nets, pepita


@dataclasses.dataclass(frozen=True)
class Options(_common.NetOptions):
    """Train a network with PEPITA: a second forward pass, on the input moved by the error, replaces the backward one.

    The defaults are those of Dellaferrera and Kreiman, for fewer epochs. Prints a table of every seed and writes a
    result folder. Ctrl-C leaves a folder that --resume continues.
    """

    preset: Literal[tuple(PEPITA_PUBLISHED)] | None = None  # ty: ignore[invalid-type-form]
    """Start from published settings: of the first paper (mnist, cifar10, cifar100, cnn_*), or of Srinivasan et al.
    (srinivasan_*: modulated with one to three hidden layers, hebbian); other options override them."""
    widths: tuple[int, ...] = (1024,)
    """Widths of the hidden layers. With --net cnn those after the convolutions."""
    normalise: Literal["pixel", "paper", "half", "none"] = "none"
    """Pixel constants: of the training set, of the papers' code, half (pixels in [-1, 1]) or none (in [0, 1])."""
    batch_size: int | None = 64
    """Images per step; the incomplete last batch of an epoch is dropped. None: all, one step per epoch."""
    epochs: int = 30
    """Cap on the epochs."""
    learning_rate: float = 0.1
    """Learning rate, at its peak."""
    optimizer: _common.Optimizer = "momentum"
    """momentum is sgd with momentum 0.9. All but adamw add weight decay to the gradient; adamw decouples it."""
    sign: Literal["plus", "minus"] = "plus"
    """Sign of the input's modulation by the error."""
    presynaptic: Literal["modulated", "clean"] = "modulated"
    """Activities that changes are multiplied with: of the second pass, or of the first."""
    output_error: Literal["second", "first"] = "second"
    """Error that the output layer learns from: of the second pass, or of the first."""
    form: Literal["difference", "hebbian", "time_local"] = "difference"
    """Differences of activities, differences of Hebbian products, or these products one after the other."""
    error_sign: bool = False
    """Modulate by the sign of the error."""
    dropout: float = 0.1
    """Share of hidden activities set to 0, the same ones in both passes."""
    conv_scale: Literal["sum", "sqrt", "mean"] = "mean"
    """Of a convolution's products over positions: sum, sum by the root of their number, or mean."""
    feedback: Literal["uniform", "normal", "mirrored"] = "uniform"
    """Feedback drawn at once, as a product of normal factors, or of factors that learn by weight mirroring."""
    feedback_scale: float = 0.05
    """Standard deviation of the feedback in units of sqrt(2 / inputs)."""
    mirror_epochs: int = 2
    """Epochs of mirroring alone, before training (mirrored)."""
    mirror_every: int = 100
    """Mirror after every so many training steps (mirrored); 0: never."""
    mirror_rate: float = 0.01
    """Learning rate of the feedback (mirrored)."""
    mirror_decay: float = 1e-4
    """Weight decay of the feedback (mirrored)."""
    start: Literal["he_uniform", "he_normal", "torch_uniform"] = "he_uniform"
    """Law of the start weights."""
    compare: bool = False
    """Train BP beside PEPITA on the same network without dropout, same split and data order."""
    bp: _common.BPOptions = dataclasses.field(default_factory=_common.BPOptions)


NAMES = ("presynaptic", "output_error", "form", "error_sign", "dropout", "conv_scale", "feedback", "feedback_scale")
NAMES += ("mirror_every", "mirror_rate", "mirror_decay")


def arms(options: Options) -> list[_common.Arm]:
    """PEPITA, and BP with --compare."""
    law = getattr(nets, options.start)
    shape = {"kernel": 5, "padding": "valid", "pool": "max"}
    net, network = options.build(shape, kernel_init=law, bias="none")
    chosen: dict[str, Any] = {name: getattr(options, name) for name in NAMES}
    chosen |= {"sign": {"plus": 1.0, "minus": -1.0}[options.sign], "readout_init": law}
    mirrors = options.feedback == "mirrored" and options.mirror_epochs > 0

    def build(setting: _common.Setting) -> Any:
        twice = 2 if options.form == "time_local" else 1  # optimizer steps per batch, which a schedule counts
        steps = twice * setting.steps
        tx = _common.optimizer(options, setting.learning_rate, steps * options.epochs, steps)
        common: dict[str, Any] = {"net": net, "tx": tx, "num_classes": setting.num_classes} | chosen
        learn = pepita.rule(**common)
        return (pepita.rule(part="mirror", **common), learn) if mirrors else learn

    first = {"epochs": options.mirror_epochs, "patience": None, "keep": "last"}
    stages = (first, {}) if mirrors else ()
    both = [
        _common.Arm("pepita", build, options, network, net, stages),
        _common.bp_arm(options, options.bp, net, network, readout_init=law, readout_bias=False),
    ]
    return both if options.compare else both[:1]


if __name__ == "__main__":
    sys.exit(_common.main("pepita_mlp", Options, PEPITA_PUBLISHED, arms))
