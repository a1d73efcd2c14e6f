"""How near the steps of feedback rules are to backpropagation's gradient, over training and over depth."""

import dataclasses
import sys
from functools import partial
from typing import Any, Literal

import _common
from _presets import ALIGNMENT

from fwdonly import LearningRule, feedback, foton, measure, nets, pepita

Rule = Literal["foton", "pepita", "pepita_mirrored", "fa", "dfa", "drtp", "usf", "kp"]


@dataclasses.dataclass(frozen=True)
class Options(_common.MLPOptions):
    """Train the same MLP by several rules and compare every step with the gradient that backpropagation would take.

    All start from the same weights, orthonormal unless --start says otherwise, without biases. Prints a table of every
    seed and writes a result folder with alignment.png: the cosine, per layer, and the ratio of norms. Ctrl-C leaves a
    folder that --resume continues.
    """

    preset: Literal[tuple(ALIGNMENT)] | None = None  # ty: ignore[invalid-type-form]
    """Depth and activation: deep_relu (10 x 128), deep_tanh (50 x 64); other options override them."""
    rules: tuple[Rule, ...] = ("foton", "pepita", "fa", "dfa")
    """Which rules to compare. pepita_mirrored learns its feedback by weight mirroring."""
    seeds: int = 3
    """Number of seeds, trained together as one compiled program."""
    widths: tuple[int, ...] = (128,) * 5
    """Widths of the hidden layers."""
    activation: Literal[tuple(nets.ACTIVATIONS)] = "relu"  # ty: ignore[invalid-type-form]
    """Of the hidden layers."""
    start: Literal["orthogonal", "he_uniform"] = "orthogonal"
    """Law of the start weights; FOTON's are made orthonormal in any case."""
    epochs: int = 10
    """Cap on the epochs."""
    learning_rate: float = 0.05
    """Learning rate of all rules, at its peak."""
    lr_schedule: _common.LRSchedule = "constant"
    """constant; cosine: from the peak to 0 at the epoch cap; half_linear: constant for half of it, then down to 1/E;
    drops: a tenth of it after each of the epochs of --lr-drops."""
    optimizer: _common.Optimizer = "sgd"
    """momentum is sgd with momentum 0.9. All but adamw add weight decay to the gradient; adamw decouples it."""


def arms(options: Options) -> list[_common.Arm]:
    """One arm per rule."""
    if not options.rules or len(set(options.rules)) < len(options.rules):
        raise _common.UsageError(f"--rules needs one rule or more, each once; got {' '.join(options.rules) or 'none'}")
    law = getattr(nets, options.start)
    net = nets.mlp(options.widths, kernel_init=law, bias="none", activation=nets.ACTIVATIONS[options.activation])
    network = f"{_common.mlp_name(options.widths)} {options.activation}"
    return [_common.Arm(name, partial(build, name, net, law), options, network, net) for name in options.rules]


def build(name: Rule, net: Any, law: nets.Initializer, setting: _common.Setting) -> LearningRule:
    """The rule, with the comparison in every step."""
    common: dict[str, Any] = {"net": net, "tx": setting.tx, "num_classes": setting.num_classes}
    if name == "foton":
        return measure.with_alignment(foton.rule(**common))
    if name in ("pepita", "pepita_mirrored"):
        own = {"dropout": 0.0, **pepita.SRINIVASAN} | ({} if name == "pepita" else {"feedback": "mirrored"})
        return measure.with_alignment(pepita.rule(readout_init=law, **common, **own))
    return measure.with_alignment(feedback.rule(mode=name, readout_init=law, readout_bias=False, **common))


if __name__ == "__main__":
    sys.exit(_common.main("alignment", Options, ALIGNMENT, arms))
