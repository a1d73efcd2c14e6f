"""Protocols of comparisons: what holds for every rule, when each stops, and what a reader must be told."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ..errors import UsageError
from .design import STOPPING, Arm

Name = Literal["own-convergence", "matched-passes", "to-target"]


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How rules are compared."""

    protocol: Name = "own-convergence"
    """own-convergence: one stopping rule for all, per stage where a rule has stages; best state restored.
    matched-passes: --passes over the data for every rule, all its stages together, and no early stopping; last state.
    to-target: until two validations in a row reach --target; runs that miss it by the cap count as misses."""
    passes: int = 30
    """Passes over the training images, for matched-passes. Stages share them; the first ones get one more where they
    do not divide."""
    reference: str | None = None
    """The rule that the others are compared with. None: bp, or a form of it, or else the last one."""
    margin: float = 0.25
    """Percentage points of accuracy that count as no difference."""
    cost_margin: float = 5.0
    """Percent of seconds, energy or passes that count as no difference."""

    def check(self, values: Mapping[str, Any], usual: Mapping[str, Any]) -> None:
        """Refuse options that do not belong to the protocol; ``usual`` are their defaults.

        Raises:
            UsageError: an option of another protocol, or a number that makes no sense.
        """
        if self.protocol == "to-target" and values["target"] is None:
            raise UsageError(
                "--protocol to-target needs --target, a validation accuracy such as 0.95, fixed beforehand"
            )
        if self.protocol != "to-target" and values["target"] is not None:
            raise UsageError(f"--target belongs to --protocol to-target; leave it out of {self.protocol}")
        other = {"matched-passes": STOPPING[:5], "to-target": ("passes", *STOPPING[1:5])}
        for name in other.get(self.protocol, ("passes",)):
            if {**values, "passes": self.passes}[name] != {"passes": Protocol().passes, **usual}[name]:
                raise UsageError(
                    f"--{name.replace('_', '-')} does not belong to --protocol {self.protocol}; leave it out"
                )
        if self.passes < 1:
            raise UsageError(f"--passes must be at least 1; got {self.passes}")
        for name in ("margin", "cost_margin"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UsageError(f"--{name.replace('_', '-')} must be above 0; got {getattr(self, name)}")

    def length(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Length and stopping of every rule."""
        common = {name: values[name] for name in (*STOPPING, "target")}
        if self.protocol == "matched-passes":
            return common | {"patience": None, "keep": "last", "epochs": self.passes}
        return common | ({"patience": None, "keep": "last"} if self.protocol == "to-target" else {})

    def shared(self, name: str) -> bool:
        """Whether a single rule may not depart in this setting."""
        return not (self.protocol == "own-convergence" and name in STOPPING)

    def staged(self, arm: Arm) -> Arm:
        """The arm whose stages share the passes of the protocol, where passes are matched.

        Raises:
            UsageError: passes of this rule cannot be matched.
        """
        if self.protocol != "matched-passes":
            return arm
        classes = math.gcd(*arm.net.sizes) if arm.net.kind == "cwc" else 10  # stages do not depend on their number
        stages = arm.training(classes, 1)
        count = len(stages)
        if arm.plan.batch_size is None or any(stage.plan.get("batch_size", 1) is None for stage in stages):
            raise UsageError(f"{arm.name} works on all images at once; passes of it cannot be matched")
        if self.passes < count:
            raise UsageError(
                f"{arm.name} trains in {count} stages; give it at least as many --passes; got {self.passes}"
            )
        epochs = [self.passes // count + (stage < self.passes % count) for stage in range(count)]
        plans = tuple({"epochs": share, "patience": None, "keep": "last"} for share in epochs)
        plan = dataclasses.replace(arm.plan, epochs=max(epochs))
        return dataclasses.replace(arm, plan=plan, stages=plans)

    def record(self, arms: Sequence[Arm], values: Mapping[str, Any]) -> dict[str, Any]:
        """What the report must know.

        Raises:
            UsageError: a reference that is none of the rules.
        """
        names, cells = [arm.name for arm in arms], factorial(arms)
        usual = [*(name for name in names if name == "bp"), *(name for name in names if name.startswith("bp"))]
        usual += [cells["last back-propagated"]] if cells else []
        reference = self.reference or [*usual, names[-1]][0]
        if reference not in names:
            raise UsageError(f"--reference {reference} is not among the rules {' '.join(names)}")
        return {
            "name": self.protocol,
            "reference": reference,
            "words": self.words(values),
            "target": values["target"] if self.protocol == "to-target" else None,
            "passes": self.passes if self.protocol == "matched-passes" else None,
            "notes": self.notes(arms, values),
            "margin_points": self.margin,
            "margin_percent": self.cost_margin,
            **({"factorial": cells} if cells else {}),
        }

    def words(self, values: Mapping[str, Any]) -> str:
        """The protocol in a sentence."""
        cap = f"at most {values['epochs']} epochs, of every stage where it has stages"
        patience = values["patience"]
        waits = f"{patience} epochs without a better validation {values['monitor']}" if patience else "the cap"
        return {
            "own-convergence": f"Every rule trains until {waits} (minimum improvement {values['min_delta']:g}; {cap}); "
            f"the state with the {values['keep'].replace('_', ' ')} is tested.",
            "matched-passes": f"Every rule uses each training image {self.passes} times, all its stages together, "
            "without early stopping; the last state is tested. Rules in stages update each layer less often.",
            "to-target": "Every rule trains until two validations in a row reach "
            f"{100 * (values['target'] or 0):g} % accuracy ({cap}); its cost is that until the first of the two.",
        }[self.protocol]

    def notes(self, arms: Sequence[Arm], values: Mapping[str, Any]) -> list[str]:
        """Sentences about single rules that a reader must know."""
        sentences = []
        activations = [dict(arm.net.options).get("activation", "relu") for arm in arms]
        normalised = [arm.rule.card.batch_norm or bool(arm.options.get("batch_norm")) for arm in arms]
        for arm, activation, has_batch_norm in zip(arms, activations, normalised, strict=True):
            label = arm.label
            parts = [
                f"{name.replace('_', ' ')} {getattr(arm.plan, name)}"
                for name in STOPPING
                if self.protocol == "own-convergence" and getattr(arm.plan, name) != values[name]
            ]
            if parts:
                sentences.append(f"{label} stops by a rule of its own: {', '.join(parts)}.")
            if len(arm.stages) > 1:
                shares = " + ".join(str(stage["epochs"]) for stage in arm.stages)
                sentences.append(f"{label} trains in stages: {shares} passes, whatever they train.")
            if not arm.about["tuned"]:
                sentences.append(f"{label} has settings from no search.")
            if not arm.net.has_biases:
                sentences.append(f"{label} has no biases.")
            if len(set(activations)) > 1:
                sentences.append(f"{label} has the activation {activation}.")
            if len(set(normalised)) > 1:
                sentences.append(f"{label} has {'batch' if has_batch_norm else 'no batch'} normalisation.")
        return sentences


def factorial(arms: Sequence[Arm]) -> dict[str, str]:
    """The arms that make a 2 x 2 of objective and locality by what their rules' files say; {} where one is missing.

    Of several arms in one cell it is the one named first.
    """
    cells: dict[str, str] = {}
    for arm in arms:
        factors = getattr(arm.rule.module, "factors", None)
        where = factors(arm.options) if factors else {}
        if where:
            cells.setdefault(f"{where['objective']} {where['locality']}", arm.name)
    return cells if len(cells) == 4 else {}
