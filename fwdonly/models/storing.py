"""From a training in Python to a file: what the header can say of a rule and a network is found out by tracing."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..base import LearningRule, State
from ..data import Dataset, check_dataset, preprocessing
from ..errors import UsageError
from ..files import expanded
from ..nets import Spec, described, parse
from ..results import write_model
from ..study import NAMES, Rule, last_stage, saved_of
from ..study import load as rule_named
from ..training import Plan, Result, arrays_of, state_of
from .opening import stages_of


class Description(NamedTuple):
    """What a header can say of a rule."""

    rule: str | None
    options: dict[str, Any]
    network: str | None
    files: dict[str, str]
    stage: int


def save(
    path: str | Path,
    result: Result | State,
    rule: LearningRule | Sequence[LearningRule],
    data: Dataset,
    plan: Plan | Sequence[Plan] | None = None,
    *,
    run: int | None = None,
    net: str | None = None,
) -> None:
    """Save a trained model for `fwdonly.load`, whole or not at all: a death leaves the older file.

    Of a rule of this library on a network that a specification describes, the file says all that `load` needs. Of
    anything else it holds the numbers, and `load` is given the same code again.

    Args:
        path: the file, NAME.safetensors.
        result: what `fit` or `sweep` gave, or a state of the rule's ``update`` in a loop of your own.
        rule: the rule, or its stages, as for `fit`.
        data: the set it was trained on; layout, constants and class names go with the model.
        plan: as for `fit`; of a state of your own for its ``normalise`` (default `Plan()`), which a result knows.
        run: which run of a sweep.
        net: FILE.py:FUNCTION, where the network comes from a file of yours.

    Raises:
        UsageError: a run that diverged or is not there, a state that is not the rule's, another plan than the result's,
            or a folder that cannot be written; one line.
    """
    path = expanded(path, "the model")
    if path.suffix != ".safetensors":
        raise UsageError(f"a model is a file NAME.safetensors; got {path}")
    rules = tuple(rule) if isinstance(rule, Sequence) and not isinstance(rule, LearningRule) else (rule,)
    if not rules or not all(isinstance(stage, LearningRule) for stage in rules):
        raise UsageError(
            "rule is the LearningRule that was trained, or the sequence of its stages; of a function give what it "
            "makes of its hyper"
        )
    check_dataset(data)
    state, metrics, at = _of_run(result, run) if isinstance(result, Result) else (result, {}, len(rules) - 1)
    first = plan if isinstance(plan, Plan) else Plan() if not plan else plan[0]
    if isinstance(result, Result):
        if plan and first.normalise != result.normalise:
            raise UsageError(
                f"it was trained with normalise={result.normalise!r}, and this plan says {first.normalise!r}"
            )
        first = dataclasses.replace(first, normalise=result.normalise)
    inputs = preprocessing(data, first.normalise)
    learning_rule = rules[at]
    arrays = arrays_of(learning_rule, state, inputs.shape)
    state_of(learning_rule, arrays, inputs.shape)  # what could not be loaded is not written
    description = describe(learning_rule, data.num_classes, inputs.shape, net)
    settings = {name: getattr(first, name) for name in ("normalise", "precision", "batch_size")}
    saved = saved_of(inputs, arrays, data, **description._asdict(), seed=None, settings=settings, metrics=metrics)
    write_model(path, saved)


def _of_run(result: Result, run: int | None) -> tuple[State, dict[str, Any], int]:
    """State, metrics and stage of one run."""
    runs = np.size(result.epochs)
    single = np.ndim(result.epochs) == 0
    if not single and run is None and runs > 1:
        raise UsageError(f"this result has {runs} runs; say which one: run=0")
    at = 0 if run is None else run
    if not 0 <= at < runs:
        raise UsageError(f"run lies in 0..{runs - 1}; got {run}")
    if np.ravel(result.diverged)[at]:
        raise UsageError("this run diverged, and its state predicts nothing; save another one")
    state = result.state if single else jax.tree.map(lambda leaf: np.asarray(leaf)[at], result.state)
    names = ("val_accuracy", "val_loss", "test_accuracy", "test_loss", "epochs", "kept_epoch")
    numbers = {name: np.ravel(getattr(result, name))[at].item() for name in names}
    return state, {k: v if np.isfinite(v) else None for k, v in numbers.items()}, last_stage(result, at)


def describe(rule: LearningRule, num_classes: int, shape: tuple[int, ...], net: str | None = None) -> Description:
    """Rule, options and network by name: those whose prediction is the same program on the same arrays.

    Raises:
        UsageError: ``net`` names a network that predicts otherwise.
    """
    keywords, module = _bound(rule)
    blocks = keywords.get("net")
    text = net if net is not None else described(blocks, num_classes) if isinstance(blocks, tuple) else None
    if text is None:
        return Description(None, {}, None, {}, 0)
    spec = parse(text)
    wanted = _program(rule, shape)
    for named in _forms(module):
        options_of_rule = {name: value for name, value in keywords.items() if _is_plain(value)}
        # The record's defaults, which are the functions'; a recipe is for commands.
        options = {field.name: options_of_rule.get(field.name, field.default) for field in named.fields}
        options |= named.variant.options
        try:
            stages = stages_of(named, options, spec.build(num_classes), num_classes)
            stage = next((at for at, stage_rule in enumerate(stages) if _program(stage_rule, shape) == wanted), None)
        except (UsageError, TypeError, ValueError):
            continue
        if stage is not None:
            return Description(named.name, options, *_network(spec), stage)
    if net is not None:
        raise UsageError(f"net {net} is not the network of this rule, or the rule is of your own; leave it out")
    return Description(None, {}, None, {}, 0)


def _network(spec: Spec) -> tuple[str, dict[str, str]]:
    """As the header names it, and the digest of the user's file."""
    digest = spec.digest()
    return (str(spec), {}) if digest is None else (str(spec._replace(kind=Path(spec.kind).name)), {"network": digest})


def _forms(module: str) -> Iterator[Rule]:
    """The forms of the rule that this module of the library has."""
    for name, module_of_rule in NAMES.items():
        if module_of_rule.__name__ == module:
            yield rule_named(name)


def _bound(rule: LearningRule) -> tuple[dict[str, Any], str]:
    """Every keyword that is bound in the rule's functions, and the module of its prediction."""
    keywords: dict[str, Any] = {}
    for function in (rule.init, rule.update, rule.predict):
        while hasattr(function, "keywords"):
            keywords = {**getattr(function, "keywords"), **keywords}  # noqa: B009 (a partial's)
            function = getattr(function, "func")  # noqa: B009
    return keywords, getattr(function, "__module__", "")


def _is_plain(value: Any) -> bool:
    parts = value if isinstance(value, tuple) else (value,)
    return all(part is None or isinstance(part, bool | int | float | str) for part in parts)


def _program(rule: LearningRule, shape: tuple[int, ...]) -> tuple[str, Any]:
    """The prediction as a program, and the layout of the state that it reads."""
    x = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    state = jax.eval_shape(rule.init, jax.random.key(0), x)
    if "opt_state" in getattr(state, "_fields", ()):
        bare = state._replace(opt_state=None)
        try:
            return str(jax.make_jaxpr(rule.predict)(bare, x)), jax.tree.structure(bare)
        except Exception:  # the prediction reads the optimizer's state
            return str(jax.make_jaxpr(rule.predict)(state, x)), jax.tree.structure(state)
    return str(jax.make_jaxpr(rule.predict)(state, x)), jax.tree.structure(state)
