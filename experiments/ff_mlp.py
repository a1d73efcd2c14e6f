"""Forward-Forward on an MLP: the reference recipe, and its variants."""

import dataclasses
import sys
from typing import Any, Literal

import _common
import optax
from _presets import FF_PUBLISHED

from fwdonly import ff, nets


@dataclasses.dataclass(frozen=True)
class Options(_common.MLPOptions):
    """Train an MLP with Forward-Forward (FF). The defaults are those of Hinton's released code, for 60 epochs.

    Reports the goodness prediction (every label is tried) and the one-pass softmax prediction of every epoch. Prints a
    table of every seed and writes a result folder. Ctrl-C leaves a folder that --resume continues.
    """

    preset: Literal[tuple(FF_PUBLISHED)] | None = None  # ty: ignore[invalid-type-form]
    """Start from published settings: Hinton's code (hinton), his paper's wider net (paper_4x2000), a port with
    a public training curve (ff_py), or those of arXiv 2509.19063 and of its authors'
    re-measurement (2026); other options override them."""
    widths: tuple[int, ...] = (1000, 1000, 1000)
    """Widths of the hidden layers."""
    normalise: Literal["pixel", "paper", "half", "none"] = "none"
    """Pixel constants: of the training set, of the papers' code, or none: pixels in [0, 1]."""
    batch_size: int | None = 100
    """Images per step; the incomplete last batch of an epoch is dropped. None: all, one step per epoch."""
    epochs: int = 60
    """Cap on the epochs; the learning rate falls over the second half of them."""
    optimizer: Literal["reference", "adam", "adamw", "sgd", "momentum"] = "reference"  # ty: ignore[incompatible-attribute-override]
    """reference: smoothed gradients, rate constant, then falling linearly. The others follow --lr-schedule."""
    learning_rate: float = 0.01
    """Learning rate of the layers, at its peak."""
    head_learning_rate: float = 0.1
    """Learning rate of the softmax head, at its peak."""
    weight_decay: float = 0.001
    """Weight decay of the layers' weights."""
    head_weight_decay: float = 0.003
    """Weight decay of the softmax head."""
    lr_schedule: _common.LRSchedule = "half_linear"
    """constant; cosine: from the peak to 0 at the epoch cap; half_linear: constant for half of it, then down to 1/E.
    The reference optimizer is always half_linear."""
    monitor: Literal["loss", "accuracy"] = "accuracy"
    """What patience watches on the validation images: accuracy, since FF's scores are no probabilities."""
    keep: _common.Keep = "last"
    """The state that is kept and tested: of the epoch with the best validation loss or accuracy, or the last one."""
    prediction: Literal["goodness", "softmax"] = "goodness"
    """What is validated, kept and tested; the other one is reported beside it."""
    loss: Literal["logistic", "symba"] = "logistic"
    """logistic: goodness above or below the threshold. symba: positive above negative."""
    goodness: Literal["sum", "mean"] | None = None
    """Sum or mean of squared activities. None: sum for logistic, mean for symba."""
    threshold: float | None = None
    """Threshold of the goodness, for logistic. None: the number of units for sum, 1 for mean."""
    alpha: float = 4.0
    """Sharpness, for symba."""
    negatives: Literal["hard", "uniform"] = "hard"
    """Wrong labels by the head's probabilities, or all alike."""
    peer: float = 0.03
    """Strength of peer normalisation; 0 is off."""
    label: Literal["overlay", "append"] = "overlay"
    """Label in place of the first pixel values (of colour images these are channels), or as further inputs."""
    first: int = 2
    """Lowest hidden layer that predictions use."""
    start: Literal["fan_in", "fan_out"] = "fan_in"
    """Start weights are normal with variance 1/fan_in, or 1/fan_out."""
    compare: bool = False
    """Train BP beside FF on the same blocks, split and data order."""
    bp: _common.BPOptions = dataclasses.field(
        default_factory=lambda: _common.BPOptions(
            learning_rate=1.2e-3,
            lr_schedule="cosine",
            optimizer="adam",
            weight_decay=0.0,
            epochs=16,
            validate_every=1,
            monitor="loss",
            keep="best_accuracy",
        )
    )


def arms(options: Options) -> list[_common.Arm]:
    """FF, and BP with --compare."""
    kernel_init = {"fan_in": nets.normal, "fan_out": nets.normal_fan_out}[options.start]
    net, network = nets.mlp(options.widths, kernel_init=kernel_init), _common.mlp_name(options.widths)
    names = ("loss", "goodness", "threshold", "alpha", "negatives", "peer", "label", "first")
    chosen: dict[str, Any] = {name: getattr(options, name) for name in names}

    def build(setting: _common.Setting) -> ff.LearningRule:
        return ff.rule(
            net,
            ff_optimizer(options, setting),
            num_classes=setting.num_classes,
            prediction=options.prediction,
            **chosen,
        )

    both = [_common.Arm("ff", build, options, network, net), _common.bp_arm(options, options.bp, net, network)]
    return both if options.compare else both[:1]


def ff_optimizer(options: Options, setting: _common.Setting) -> optax.GradientTransformation:
    """Layers and head apart; biases do not decay."""
    if options.optimizer == "reference":
        return ff.reference(
            setting.steps,
            options.epochs,
            learning_rate=setting.learning_rate,
            head_learning_rate=options.head_learning_rate,
            weight_decay=options.weight_decay,
            head_weight_decay=options.head_weight_decay,
        )
    steps = setting.steps * options.epochs
    return ff.separate(
        weights=_common.optimizer(options, setting.learning_rate, steps, setting.steps),
        biases=_common.optimizer(
            dataclasses.replace(options, weight_decay=0.0), setting.learning_rate, steps, setting.steps
        ),
        head=_common.optimizer(
            dataclasses.replace(options, weight_decay=options.head_weight_decay),
            options.head_learning_rate,
            steps,
            setting.steps,
        ),
    )


if __name__ == "__main__":
    sys.exit(_common.main("ff_mlp", Options, FF_PUBLISHED, arms))
