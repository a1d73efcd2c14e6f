"""Cascaded-Forward on a CNN: predictors on random blocks, or on blocks trained by direct feedback alignment."""

import dataclasses
import sys
from typing import Any, Literal

import _common
from _presets import CAFO_PUBLISHED

from fwdonly import cafo, nets


@dataclasses.dataclass(frozen=True)
class Options(_common.Options):
    """Train Cascaded-Forward (CaFo): one linear head per convolution block, one after another, and sum their outputs.

    The blocks stay random, or are first trained by direct feedback alignment (--blocks dfa). Features of the fixed
    blocks are computed once per head where memory allows. Prints a table of every seed and writes a result folder.
    Ctrl-C leaves a folder that --resume continues.
    """

    preset: Literal[tuple(CAFO_PUBLISHED)] | None = None  # ty: ignore[invalid-type-form]
    """Start from published settings: of the public code (paper), or of arXiv 2509.19063 (random blocks, and dfa) and
    its authors' re-measurement (2026); other options override them."""
    channels: tuple[int, ...] = (32, 128, 512)
    """Channels of the blocks, each convolution 3x3, ReLU, 2x2 maximum pooling and batch normalisation."""
    loss: Literal["ce", "sl", "mse"] = "ce"
    """Of the heads: cross-entropy, sparsemax loss, or squared error. mse is solved in closed form over all images at
    once; batch size, epochs and learning rate then do not apply to the heads."""
    ridge: float = 1e-4
    """Of the closed form (mse), relative to the mean diagonal element of F^T F."""
    epochs: int = 10
    """Cap on the epochs of each head."""
    learning_rate: float = 1e-3
    """Learning rate of the heads, at its peak."""
    lr_schedule: _common.LRSchedule = "constant"
    """constant; cosine: from the peak to 0 at the epoch cap; half_linear: constant for half of it, then down to 1/E."""
    keep: _common.Keep = "last"
    """The state of each head that is kept: of the epoch with its best validation loss or accuracy, or the last one."""
    blocks: Literal["random", "dfa"] = "random"
    """Leave the blocks random, or train them first."""
    block_epochs: int = 5
    """Epochs of the blocks' training (dfa)."""
    block_learning_rate: float = 5e-4
    """Learning rate of the blocks (dfa; Adam)."""
    block_weight_decay: float = 0.0
    """Weight decay of the blocks (dfa)."""
    conv_start: Literal["torch", "he"] = "torch"
    """Start of the convolutions: PyTorch's default, with biases, or He's uniform, without biases."""
    statistics: Literal["examples", "identity"] = "examples"
    """Batch normalisation by training images' features, or none (mean 0, variance 1); dfa moves them from there."""
    eps: float = 1e-4
    """Added to the variance in batch normalisation."""
    head_start: Literal["ones", "zeros", "uniform"] = "ones"
    """Start of the heads, where they descend; uniform is PyTorch's default."""
    head_bias: bool = False
    """Heads with a bias."""
    aggregation: Literal["probabilities", "logits"] = "probabilities"
    """What the prediction sums over the heads."""
    compare: bool = False
    """Train BP beside CaFo on the same blocks (without batch normalisation), split and data order."""
    bp: _common.BPOptions = dataclasses.field(
        default_factory=lambda: _common.BPOptions(
            learning_rate=1e-3,
            lr_schedule="constant",
            optimizer="adam",
            weight_decay=0.0,
            batch_size=128,
            epochs=10,
            validate_every=1,
            keep="best_accuracy",
        )
    )


def arms(options: Options) -> list[_common.Arm]:
    """CaFo, and BP with --compare."""
    start: dict[str, Any] = {
        "torch": {"kernel_init": nets.torch_uniform, "bias": "uniform"},
        "he": {"kernel_init": nets.he_uniform, "bias": "none"},
    }[options.conv_start]
    net, network = nets.cnn(options.channels, pool="max", **start), f"CNN {'-'.join(map(str, options.channels))}"
    if options.loss == "mse":
        if options.blocks == "dfa":
            raise _common.UsageError(
                "--loss mse is solved over all images at once, DFA trains in batches; use --loss ce"
            )
        own = dataclasses.replace(options, batch_size=None, epochs=1, validate_every=1, patience=None)
    else:
        own = options
    if options.blocks == "dfa" and options.block_epochs % options.validate_every:
        raise _common.UsageError(
            f"--validate-every {options.validate_every} must divide --block-epochs {options.block_epochs}"
        )
    names = ("loss", "ridge", "statistics", "eps", "head_start", "head_bias", "aggregation")
    chosen: dict[str, Any] = {name: getattr(options, name) for name in names}

    def build(setting: _common.Setting) -> Any:
        block_tx = None
        if options.blocks == "dfa":
            adam = dataclasses.replace(
                options, optimizer="adam", lr_schedule="constant", weight_decay=options.block_weight_decay
            )
            steps = options.block_epochs * setting.steps
            block_tx = _common.optimizer(adam, options.block_learning_rate, steps, setting.steps)
        return cafo.stages(net, setting.tx, num_classes=setting.num_classes, block_tx=block_tx, **chosen)

    stages: tuple[dict[str, Any], ...] = ()
    if options.blocks == "dfa":
        trains_blocks = {"epochs": options.block_epochs, "patience": None, "keep": "last"}
        stages = (trains_blocks, *({} for _ in options.channels))
    both = [
        _common.Arm("cafo", build, own, network, net, stages),
        _common.bp_arm(options, options.bp, net, network),
    ]
    return both if options.compare else both[:1]


if __name__ == "__main__":
    sys.exit(_common.main("cafo_cnn", Options, CAFO_PUBLISHED, arms))
