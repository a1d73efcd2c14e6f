"""From a file to a model. What a stranger's file says is checked, and none of it is run."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..base import LearningRule, Net
from ..card import Optimizer, Setting
from ..data import Preprocessing, preprocessing_of
from ..errors import UsageError
from ..files import expanded
from ..nets import Spec, parse
from ..options import effective
from ..results import Saved, damaged, read_model
from ..study import NAMES, Rule, make_arm, optimizers
from ..study import load as rule_named
from ..training import state_of
from .model import Model


def load(path: str | Path, *, rule: LearningRule | str | None = None, net: Net | str | None = None) -> Model:
    """A saved model.

    The file is read as numbers and text; no code of it, and none that it names, is run. A rule or a network that lies
    in a file of yours is therefore named again here.

    Args:
        path: a file that a command, or `fwdonly.save`, has written.
        rule: the `LearningRule` that trained it, where it is of your own making, or the FILE.py (FILE.py:NAME) that has
            it, unchanged since.
        net: the network, where it is of your own making: the tuple of blocks, or FILE.py:FUNCTION, unchanged since.

    Raises:
        UsageError: a file that is damaged or no model, or code that is missing or has changed; one line.
    """
    path = expanded(path, "the model")
    if not (rule is None or isinstance(rule, LearningRule | str)):
        raise UsageError(f"rule is a LearningRule, or the FILE.py that has it; got a {type(rule).__name__}")
    if not (net is None or isinstance(net, tuple | str)):
        raise UsageError(f"net is a tuple of blocks, or FILE.py:FUNCTION; got a {type(net).__name__}")
    saved = read_model(path)
    try:
        inputs = preprocessing_of(saved.preprocessing, saved.mean, saved.sd)
        learning_rule = rule if isinstance(rule, LearningRule) else rule_of(saved, inputs, rule, net)
        state = state_of(learning_rule, saved.state, inputs.shape)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    except Exception as error:  # a stranger's header may make a network, or a rule, raise anything
        raise damaged(path, error) from error
    return Model(learning_rule, state, inputs, saved._replace(state={}))


def rule_of(saved: Saved, inputs: Preprocessing, rule: str | None, net: Net | str | None) -> LearningRule:
    """The rule that predicts, as the header describes it.

    Raises:
        UsageError: what it describes does not exist, or is to be named by the user.
    """
    named = _named(saved, rule)
    options = {name: tuple(v) if isinstance(v, list) else v for name, v in saved.options.items()}
    if strange := sorted(options.keys() - named.default_options.keys()):
        raise UsageError(f"{named.name} has no option {strange[0][:60]!r}; the file is of another fwdonly, or altered")
    values = named.default_options | options
    for kind in named.card.options:  # an older file may hold options that do nothing
        values |= effective(kind, values)
    options = make_arm(named, values).options  # refuses words that the rule does not have
    # The specification as it is: it says the start values of the rule's own where they were used.
    blocks = net if isinstance(net, tuple) else _network(saved, net).build(inputs.num_classes)
    stages = stages_of(named, options, blocks, inputs.num_classes)
    if not 0 <= saved.stage < len(stages):
        raise UsageError(f"{named.name} has {len(stages)} stages, and none with number {saved.stage}")
    return stages[saved.stage]


def stages_of(rule: Rule, options: Mapping[str, Any], blocks: Net, num_classes: int) -> list[LearningRule]:
    """The rule's stages over these blocks; the optimizer is any, for nothing is trained."""
    setting = Setting(
        net=blocks,
        num_classes=num_classes,
        options=options,
        optimizer=Optimizer(),
        start=Spec("mlp", (1,)).start,
        epochs=1,
        steps=1,
        make=optimizers.transformation,
    )
    return [stage.rule for stage in rule.training(setting)]


def _named(saved: Saved, name: str | None) -> Rule:
    """The rule that the file names, or the user's file ``name``."""
    if name is not None:
        named = rule_named(name)
        wanted = saved.files.get("rule")
        if wanted is not None and named.digest != wanted:
            raise UsageError(f"{name} is another file than trained this model; pass that, or the LearningRule itself")
        return named
    if saved.rule is None:
        raise UsageError("only your own code knows this model's rule; pass it: load(path, rule=...)")
    if ".py" in saved.rule:
        raise UsageError(
            f"its rule is in a file of its owner, {_short(saved.rule)}, which is not run unseen; pass rule= "
            "(--rule FILE.py)"
        )
    if saved.rule not in NAMES:
        raise UsageError(f"there is no rule {_short(saved.rule)}; the file is of another fwdonly, or altered")
    return rule_named(saved.rule)


def _network(saved: Saved, name: str | None) -> Spec:
    """The network of the specification in the file, or the user's file ``name``."""
    if name is not None:
        spec = parse(name)
        wanted = saved.files.get("network")
        if wanted is not None and spec.digest() != wanted:
            raise UsageError(f"{name} is another file than made this network; pass that, or the tuple of blocks")
        return spec
    text = saved.network
    if text is None:
        raise UsageError("only your own code knows this model's network; pass it: load(path, net=...)")
    if ".py" in text:
        raise UsageError(f"its network is in a file of its owner, {_short(text)}, which is not run unseen; pass net=")
    # "16x1000000000" in a few bytes would fill the memory with blocks.
    layers = sum(int(count or 1) for count in re.findall(r"\d+(?:x(\d{1,9}))?", text.partition(";")[0]))
    if layers > 4 * len(saved.state) or re.search(r"\d{10}", text):
        raise UsageError(f"its network {_short(text)} is larger than its arrays; the file is altered")
    return parse(text)


def _short(text: str) -> str:
    return repr(re.sub(r"[^ -~]", "?", text)[:60])
