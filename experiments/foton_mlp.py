"""FOTON on an MLP or a CNN of orthonormal layers, and backpropagation with the same retraction."""

import dataclasses
import sys
from typing import Any, Literal

import _common
import optax
from _presets import FOTON_PUBLISHED

from fwdonly import bp, foton, nets


@dataclasses.dataclass(frozen=True)
class Options(_common.NetOptions):
    """Train a network of orthonormal layers with FOTON: two forward passes, feedback through the weights' product.

    Prints a table of every seed and writes a result folder. Ctrl-C leaves a folder that --resume continues.
    """

    preset: Literal[tuple(FOTON_PUBLISHED)] | None = None  # ty: ignore[invalid-type-form]
    """Start from the settings of the public code (released), or from this project's, as chosen on validation images
    (mnist) or taken for the comparison at depth (deep); other options override them."""
    widths: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers, which should not increase. With --net cnn those after the convolutions."""
    channels: tuple[int, ...] = (4, 16)
    """Channels of the convolutions, for --net cnn: 2x2 windows without overlap, which do not widen while channels grow
    by no more than 4."""
    batch_size: int | None = 256
    """Images per step; the incomplete last batch of an epoch is dropped. None: all, one step per epoch."""
    epochs: int = 30
    """Cap on the epochs."""
    learning_rate: float = 0.1
    """Learning rate, at its peak."""
    error: Literal["ce", "mse"] = "ce"
    """Of the output: softmax minus target, or output minus target."""
    temperature: float = 1.0
    """Factor on the scores before the softmax; orthonormal weights bound them."""
    feedback_every: int = 1
    """Steps from one refresh of the feedback to the next."""
    retract_every: int = 1
    """Steps from one retraction to the next."""
    retract_iterations: int | None = None
    """Björck iterations (of order 6) per retraction. None: 1 after every step, 4 where steps add up in between."""
    retract_output: bool = True
    """Also keep the output layer orthonormal."""
    perturbation: float = 1.0
    """Scale of the input's modulation; differences are divided by it."""
    presynaptic: Literal["clean", "modulated"] = "clean"
    """Activities that changes are multiplied with: of the first pass, or of the second."""
    dropout: float = 0.0
    """Share of hidden activities set to 0, the same ones in both passes."""
    compare: bool = False
    """Train BP beside FOTON with the same start, retraction, split and data order; always with the plain cross-entropy,
    without dropout and temperature."""
    bp: _common.BPOptions = dataclasses.field(default_factory=_common.BPOptions)


NAMES = ("error", "temperature", "feedback_every", "retract_every", "retract_iterations", "retract_output")
NAMES += ("perturbation", "presynaptic", "dropout")


def arms(options: Options) -> list[_common.Arm]:
    """FOTON, and BP with the same retraction with --compare."""
    patches = {"kernel": 2, "stride": 2, "padding": "valid", "pool": "none"}
    net, network = options.build(patches, kernel_init=nets.orthogonal, bias="none")
    chosen: dict[str, Any] = {name: getattr(options, name) for name in NAMES}

    def build(setting: _common.Setting) -> foton.LearningRule:
        return foton.rule(net, setting.tx, num_classes=setting.num_classes, **chosen)

    def build_bp(setting: _common.Setting) -> foton.LearningRule:
        retraction = foton.retraction(options.retract_every, options.retract_iterations, output=options.retract_output)
        start: dict[str, Any] = {"readout_init": nets.orthogonal, "readout_bias": False}
        return bp.rule(net, optax.chain(setting.tx, retraction), num_classes=setting.num_classes, **start)

    twin = _common.bp_arm(options, options.bp, net, network)._replace(build=build_bp)
    both = [_common.Arm("foton", build, options, network, net), twin]
    return both if options.compare else both[:1]


if __name__ == "__main__":
    sys.exit(_common.main("foton_mlp", Options, FOTON_PUBLISHED, arms))
