"""Rules by name: those of fwdonly, and a user's own from a file."""

import hashlib
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from .. import (
    bp,
    cafo,
    cwc,
    deeperforward,
    feedback,
    ff,
    forward_gradient,
    foton,
    mf,
    pepita,
    phyll,
    scff,
    zeroth_order,
)
from ..card import Card, Optimizer, Setting, Space, Stage, Variant
from ..errors import UsageError
from ..files import module_of
from .fields import Field, declared, of_function

MODULES = (bp, mf, ff, cafo, cwc, deeperforward, pepita, foton, feedback, forward_gradient, zeroth_order, phyll, scff)
NAMES: dict[str, ModuleType] = {name: module for module in MODULES for name in module.CARD.variants}
"""Every rule that commands know, by name, with the module that has it."""


class Rule(NamedTuple):
    """One form of a rule, with what its file says about it."""

    name: str
    module: ModuleType
    card: Card
    path: Path | None = None
    """The user's file."""

    @property
    def variant(self) -> Variant:
        """This form."""
        return self.card.variants[self.name]

    @property
    def label(self) -> str:
        """For tables and figures."""
        return self.variant.label

    @property
    def space(self) -> Space:
        """What a search may change."""
        return self.card.space if self.variant.space is None else self.variant.space

    @property
    def start(self) -> dict[str, str]:
        """Options of a network specification that does not say them."""
        return {**self.card.start, **self.variant.start}

    @property
    def fields(self) -> tuple[Field, ...]:
        """The rule's options, as its file declares them."""
        if not self.card.options:
            return of_function(self.module.rule)
        return tuple(field for kind in self.card.options for field in declared(kind))

    @property
    def default_options(self) -> dict[str, Any]:
        """The options' values, before any of them is chosen."""
        values = {field.name: field.default for field in self.fields}
        recipe = {name: value for name, value in self.card.recipe.items() if name in values}
        return values | recipe | dict(self.variant.options)

    @property
    def digest(self) -> str | None:
        """SHA-256 of the user's file."""
        return None if self.path is None else hashlib.sha256(self.path.read_bytes()).hexdigest()

    def defaults(self, *, compared: bool) -> dict[str, Any]:
        """Options, optimizer, length and stopping: the rule's own recipe, or what comparisons and searches start from.

        Length and stopping come from the recipe alone; a comparison has its own.
        """
        card, optimizer = self.card, Optimizer()._asdict()
        if not compared:
            return optimizer | dict(card.recipe) | self.default_options
        common = {name: value for name, value in card.recipe.items() if name in optimizer}
        start = optimizer | common | {"lr_schedule": "constant"} | self.default_options
        return start | dict(card.compared) | dict(self.variant.options)

    def training(self, setting: Setting) -> tuple[Stage, ...]:
        """The stages of a training."""
        if hasattr(self.module, "training"):
            return self.module.training(setting)
        learning_rule = self.module.rule(setting.net, setting.tx, num_classes=setting.num_classes, **setting.options)
        return (Stage(learning_rule),)


def load(name: str) -> Rule:
    """A rule by its name, or ``FILE.py`` or ``FILE.py:NAME`` for one of the user's.

    Raises:
        UsageError: no such rule, or a file that has none; one line.
    """
    path, _, variant = name.partition(":")
    if not path.endswith(".py"):
        if name not in NAMES:
            raise UsageError(f"there is no rule {name!r}; the rules are {', '.join(NAMES)}, or give FILE.py")
        return Rule(name, NAMES[name], NAMES[name].CARD)
    file = Path(path).resolve()
    if not file.is_file():
        raise UsageError(f"there is no file {path}; give the file of your rule")
    module = module_of(file)
    if not callable(getattr(module, "rule", None)):
        raise UsageError(f"{path} has no function rule(net, tx, *, num_classes, ...); write one that makes the rule")
    stem = file.stem.replace("_", "-")
    card = getattr(module, "CARD", None) or Card({stem: Variant(file.stem)})
    if not isinstance(card, Card) or not card.variants:
        raise UsageError(f"CARD of {path} must be a fwdonly.card.Card with one variant or more")
    rule_name = variant or next(iter(card.variants))
    if rule_name not in card.variants:
        raise UsageError(f"{path} has no rule {variant!r}; it has {', '.join(card.variants)}")
    return Rule(rule_name, module, card, file)
