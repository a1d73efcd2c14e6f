"""What training takes by the compiler's account: memory, and arithmetic per image."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from .. import measure, nets, results
from ..base import DOT, LearningRule
from ..data import Dataset
from ..measure import Quantity, total
from ..training import Plan, Result
from .design import Arm


class StageCosts(NamedTuple):
    """The costs of a rule."""

    memory: Quantity
    """Per step of the largest stage."""
    step: list[Quantity]
    """FLOP per image and step, of every stage."""
    features: list[Quantity | None]
    """FLOP per image for the features of frozen layers, where a stage keeps them: spent once."""


def stage_costs(stages: Sequence[LearningRule], plans: Sequence[Plan], dataset: Dataset, first: Result) -> StageCosts:
    """The costs of every stage, as the training that gave ``first`` did it."""
    memories, steps, features = [], [], []
    shape = dataset.x_train.shape[1:]
    for rule, plan, kept in zip(stages, plans, first.features_kept, strict=True):
        batch = plan.batch_size or len(dataset.y_train)
        with jax.default_matmul_precision(DOT[plan.precision]):
            step = measure.compile_step(rule, shape, batch, kept=kept)
        memories.append(measure.memory(step.compiled))
        steps.append(measure.flops(step.compiled).times(1 / batch, "FLOP"))
        once = None
        if kept and rule.frozen is not None:
            x = jax.ShapeDtypeStruct((batch, *shape), jnp.float32)
            features_of = jax.jit(rule.frozen.features).lower(step.state_shape, x).compile()
            once = measure.flops(features_of).times(1 / batch, "FLOP")
        features.append(once)
    missing = next((memory for memory in memories if memory.value is None), None)
    return StageCosts(missing or max(memories, key=lambda memory: memory.value or 0), steps, features)


def share_per_step(arm: Arm, plans: Sequence[Plan], dataset: Dataset) -> float | None:
    """Share of a step's multiply-accumulates that is the same for every batch size, by the formulas of the rule's file.

    None where it has none, or all images are one batch in one of the stages, whose ``plans`` these are.
    """
    batch, module = arm.plan.batch_size, arm.rule.module
    if any(plan.batch_size is None for plan in plans) or batch is None or not hasattr(module, "work"):
        return None
    net, classes, shape = arm.net.build(dataset.num_classes), dataset.num_classes, dataset.x_train.shape[1:]
    if not nets.is_sized(net):  # blocks whose products no formula knows
        return None
    one, two = (measure.macs(module, net, shape, num_classes=classes, batch=n * batch, **arm.options) for n in (1, 2))
    return 2 - two / one


def add_costs(summary: results.Summary, costs: StageCosts, images: int, features: int) -> None:
    """Add memory, and every run's arithmetic: ``images`` per epoch, and once the features of ``features`` images."""
    summary["memory"] = costs.memory.as_json()
    for record in summary["runs"]:
        spent = []
        for step, once, epochs in zip(costs.step, costs.features, record["stage_epochs"], strict=False):
            spent.append(step.times(images * epochs, "FLOP"))
            spent += [once.times(features, "FLOP")] if once is not None and epochs else []
        record |= {"images": images * record["epochs"], "arithmetic": total(spent, "FLOP").as_json()}
