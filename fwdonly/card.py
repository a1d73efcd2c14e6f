"""A rule's card: what its file says about it beside the equations. Commands, tuner and reports read it there.

Every part is optional: a module that has only ``rule`` trains with the defaults of this file.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import optax

from .base import LearningRule, Net
from .options import effective

Schedule = Literal["constant", "cosine", "half_linear", "drops", "halvings"]


class Optimizer(NamedTuple):
    """How gradients become steps. `fwdonly.study.optimizers` makes the optax transformation."""

    learning_rate: Any = 1.2e-3
    """Learning rate at its peak."""
    lr_schedule: Schedule = "cosine"
    """constant; cosine: from the peak to 0 at the epoch cap; half_linear: constant for half of the epochs, then falling
    to 1/epochs; drops: a tenth of it after each epoch of --lr-drops; halvings: half of it after .2, .35, .5, .6, .7, .8
    and .9 of the epochs."""
    lr_drops: tuple[int, ...] = (60, 90)
    """Epochs after which the learning rate falls to a tenth, for the schedule drops."""
    optimizer: str = "adam"
    """adam, adamw, sgd, or momentum (sgd with momentum 0.9). adamw decouples the weight decay; the others add it to the
    gradient."""
    weight_decay: Any = 0.0
    """Weight decay, per step and unit of learning rate."""
    layer_epochs: tuple[str, ...] = ()
    """Epochs in which every layer trains, such as 0-11 0-16 0-21 0-25: from 0, without the last one; the output layer
    is the last layer. Before and after its layer rests, and its schedule stands still. Empty: all layers in all epochs.
    Epochs are those of a stage."""
    layer_rates: tuple[float, ...] = ()
    """Learning rates of the layers in the place of the one rate, such as 0.01 0.002 0.001; the output layer is the last
    layer. Empty: one rate for all."""
    constraint: Literal["none", "orthonormal"] = "none"
    """orthonormal: FOTON's retraction makes every weight matrix orthonormal again after each step."""


class Range(NamedTuple):
    """Numbers from ``low`` to ``high``, uniform in their logarithm; uniform in themselves with ``log=False``."""

    low: float
    high: float
    log: bool = True


Space = Mapping[str, Range | tuple[Any, ...]]
"""What a search may change, by option: a `Range` of numbers, which are traced and compile no new program, or a tuple of
choices, of which each combination is a program of its own."""

ADAM_SPACE: dict[str, Any] = {"learning_rate": Range(1e-5, 1e-2), "weight_decay": Range(1e-6, 1e-3)}
"""The search space of most rules: three decades of both numbers."""


class Stage(NamedTuple):
    """One stage of a training: a rule over the common state, and where its plan differs from the common one."""

    rule: LearningRule
    plan: Mapping[str, Any] = {}
    """Fields of `fwdonly.Plan`, such as ``{"epochs": 5, "patience": None}``."""


class Setting(NamedTuple):
    """What a rule's ``training`` is built from."""

    net: Net
    num_classes: int
    options: Mapping[str, Any]
    """Values of all fields of the card's ``options``."""
    optimizer: Optimizer
    """As chosen; its learning rate may be traced."""
    start: Callable[..., Any]
    """The law of the network's start weights, an initializer."""
    epochs: int
    """The cap of one stage."""
    steps: int
    """Optimizer steps per epoch, one per batch."""
    make: Callable[..., optax.GradientTransformation]
    """``make(optimizer, epochs=..., steps=...)``: the optax transformation of an `Optimizer` record."""

    @property
    def tx(self) -> optax.GradientTransformation:
        """The chosen optimizer."""
        return self.transformation()

    def transformation(self, *, epochs: int | None = None, steps: int | None = None, **changes: Any) -> Any:
        """The chosen optimizer with other fields, or for another number of epochs or steps per epoch."""
        optimizer = self.optimizer._replace(**changes)
        return self.make(optimizer, epochs=epochs or self.epochs, steps=steps or self.steps)

    def of(self, kind: type) -> dict[str, Any]:
        """The values of the options that one of the card's records declares; those that do nothing are at default."""
        return effective(kind, self.options)


class Variant(NamedTuple):
    """One form of a rule under a name of its own, such as ``mf-greedy``."""

    label: str
    """For tables and figures."""
    options: Mapping[str, Any] = {}
    """What makes it this form."""
    tuned: Mapping[str, Any] = {}
    """Settings from a search on the embedded images; comparisons start from them and say so."""
    space: Space | None = None
    """What a search may change, where it differs from the card's."""
    start: Mapping[str, str] = {}
    """Options of a network specification that does not say them, over the card's: ``{"activation": "tanh"}``."""


class Card(NamedTuple):
    """What a rule module says about itself, as ``CARD``."""

    variants: Mapping[str, Variant]
    """By the names that commands and result files use; the first one is the rule itself."""
    options: tuple[type, ...] = ()
    """NamedTuples that declare the rule's options: type, default, and help as a docstring under each field."""
    net: str = "mlp:1000,1000"
    """The network that ``fwdonly train`` uses by default, see `fwdonly.nets.spec`."""
    start: Mapping[str, str] = {}
    """The rule's published start values, ``start`` and ``bias`` of a network specification that does not say them."""
    recipe: Mapping[str, Any] = {}
    """Defaults of ``fwdonly train``: options of the rule, fields of `Optimizer` and `fwdonly.Plan`."""
    compared: Mapping[str, Any] = {}
    """Defaults of comparisons and searches, over those of the records; length and stopping are the comparison's."""
    space: Space = ADAM_SPACE
    """What a search may change."""
    optimizers: tuple[str, ...] = ()
    """Names that ``--optimizer`` takes for this rule beside the common ones."""
    signed: tuple[str, ...] = ()
    """Options that may be negative."""
    twin: Mapping[str, Any] = {}
    """Settings of ``bp`` beside this rule. Length and stopping give way to what a user says for the rule itself."""
    batch_norm: bool = False
    """Whether its blocks are batch-normalised, as those of a fair twin then are; comparisons tell who has it."""
    monitor: Literal["loss", "accuracy"] = "loss"
    """What its validation may be steered by; "accuracy" where the scores are no logits of a cross-entropy."""
