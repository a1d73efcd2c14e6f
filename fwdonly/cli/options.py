"""Command-line options from the records that declare them; tyro parses and shows them in groups."""

import argparse
import dataclasses
import textwrap
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from ..card import Optimizer
from ..errors import UsageError
from ..files import expanded
from ..study import NAMES, Data, Field, Machine, Measuring, Output, Rule, Runs, declared, design, optimizers
from ..training import Plan


class Group(NamedTuple):
    """Options that stand together in the help."""

    name: str
    fields: tuple[Field, ...]


NET = Field(
    "net",
    str,
    "mlp:1000,1000",
    "Network: mlp:WIDTHS, cnn:CHANNELS, mixer:CHANNELSxBLOCKS, cwc:CHANNELS or FILE.py:FUNCTION, with options after "
    "semicolons, such as 'cnn:32,64;dense=500;pool=max;activation=tanh;start=orthogonal;bias=none'.",
)
SHORT = 4
"""Options of its first group, mostly the rule's own, that ``-h`` shows."""
COMMON = {
    "net",
    "preset",
    "against",
    "dataset",
    "learning_rate",
    "optimizer",
    "epochs",
    "patience",
    "batch_size",
    "seeds",
    "energy",
    "output_dir",
    "resume",
    "protocol",
    "trials",
}
"""Options that ``-h`` shows; ``--help`` shows all."""

IMAGES = ("normalise", "augment", "batch_size")
"""Fields of a `Plan` that say how images reach the network."""
PLACES = ("precision", "cache_gb", "stream")
"""Fields of a `Plan` that say where and how it is computed."""


def plan_fields(*names: str) -> tuple[Field, ...]:
    """These fields of a `Plan`, in this order."""
    known = {field.name: field for field in declared(Plan)}
    return tuple(known[name] for name in names)


def optimizer_group(rule: Rule) -> Group:
    """The optimizer's options, with the names that this rule takes."""
    names = Literal[(*optimizers.OPTIMIZERS, *rule.card.optimizers)]  # ty: ignore[invalid-type-form]
    fields = [field._replace(type=names) if field.name == "optimizer" else field for field in declared(Optimizer)]
    return Group("optimizer", tuple(field for field in fields if field.name != "constraint"))


def rule_group(rule: Rule) -> Group:
    """The options of the rule, without those that its variant fixes."""
    fields = tuple(field for field in rule.fields if field.name not in rule.variant.options)
    return Group(rule.name, fields)


def shared_groups(*leave_out: str) -> list[Group]:
    """Network, data, length, seeds, measuring, machine and output."""
    groups = [
        Group("network", (NET,)),
        Group("data", (*declared(Data), *plan_fields(*IMAGES))),
        Group("length", plan_fields(*design.STOPPING, "target")),
        Group("seeds", declared(Runs)),
        Group("measuring", (*declared(Measuring), *plan_fields("layer_accuracy"))),
        Group("machine", (*declared(Machine), *plan_fields(*PLACES))),
        Group("output", declared(Output)),
    ]
    kept = [group._replace(fields=tuple(f for f in group.fields if f.name not in leave_out)) for group in groups]
    return [group for group in kept if group.fields]


def parse(
    words: Sequence[str], groups: Sequence[Group], defaults: Mapping[str, Any], *, prog: str, description: str
) -> dict[str, Any]:
    """The values of all options: from the command line, else ``defaults``, else the records'.

    Raises:
        SystemExit: after --help (0), or an option that is not known or has no such value (2).
    """
    if "-h" in words:
        print(short_help(groups, defaults, prog, description))
        raise SystemExit(0)
    import tyro

    kinds = []
    for group in groups:
        fields = []
        for field in group.fields:
            default = dataclasses.field(default=defaults.get(field.name, field.default))
            fields.append((field.name, Annotated[field.type, tyro.conf.arg(help=field.help or " ")], default))
        kind = dataclasses.make_dataclass(group.name.replace("-", "_"), fields, frozen=True)
        kind.__doc__ = " "
        kinds.append((group.name.replace("-", "_"), kind, dataclasses.field(default=kind())))
    top = dataclasses.make_dataclass("Options", kinds)
    result = tyro.cli(top, args=list(words), prog=prog, description=description, config=(tyro.conf.OmitArgPrefixes,))
    records = [getattr(result, name) for name, *_ in kinds]
    return {name: _with_home(name, value) for record in records for name, value in vars(record).items()}


def _with_home(name: str, value: Any) -> Any:
    """Paths with ``~`` as a folder: of ``--output-dir=~/x``, and in scripts without a shell, nobody expands it."""
    if isinstance(value, tuple):
        return tuple(_with_home(name, part) for part in value)
    return expanded(value, f"--{name.replace('_', '-')}") if isinstance(value, Path) else value


def short_help(groups: Sequence[Group], defaults: Mapping[str, Any], prog: str, description: str) -> str:
    """The most used options, each with the first sentence of its help and its default, in 80 columns."""
    lines = [f"usage: {prog} [OPTIONS]", "", textwrap.fill(description.partition("\n\n")[0], 79)]
    for at, group in enumerate(groups):
        shown = [f for i, f in enumerate(group.fields) if f.name in COMMON or (at == 0 and i < SHORT)]
        lines += ["", f"{group.name}:"] if shown else []
        for field in shown:
            default = defaults.get(field.name, field.default)
            words = " ".join(map(str, default)) if isinstance(default, tuple) else str(default)
            text = field.help.partition(". ")[0].rstrip(".") + (f" [{words}]" if words else "")
            lines.append(textwrap.fill(text, 79, initial_indent=f"  {field.flag:<20} ", subsequent_indent=" " * 23))
    return "\n".join([*lines, "", f"{prog} --help shows all options and all of their help."])


def early(words: Sequence[str], **options: str | None) -> dict[str, Any]:
    """Options that decide which others there are: each a word, or a list of words where its value is "*"."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name, count in options.items():
        parser.add_argument(f"--{name.replace('_', '-')}", nargs=count, default=[] if count else None)
    return vars(parser.parse_known_args(list(words))[0])


def names_first(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words before the first option, and the others."""
    at = next((at for at, word in enumerate(words) if word.startswith("-")), len(words))
    return list(words[:at]), list(words[at:])


def check_names(names: Sequence[str], words: Sequence[str], prog: str, wanted: str, right: bool) -> None:
    """Refuse a wrong number of rules; show which there are, where only help is asked for.

    Raises:
        UsageError: not ``right``.
        SystemExit: after the help.
    """
    if right:
        return
    if {"-h", "--help"} & set(words):
        print(f"usage: {prog} {wanted} [OPTIONS]\n\nRules: {', '.join(NAMES)}, or FILE.py for your own.")
        print(f"{prog} {wanted} -h shows the common options, --help all of them.")
        raise SystemExit(0)
    what = "one rule" if wanted == "RULE" else "two or more different rules"
    raise UsageError(
        f"{prog} takes {what}, then options; got {' '.join(names) or 'none'}. The rules are {', '.join(NAMES)}, or "
        "FILE.py"
    )


def of_arms(words: Sequence[str], names: Collection[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Options of single rules, ``--NAME.OPTION VALUE``, taken out of the others.

    Raises:
        UsageError: a name before the dot that is none of the rules.
    """
    rest: list[str] = []
    words_of_rule: dict[str, list[str]] = {name: [] for name in names}
    place = rest
    for word in words:
        if word.startswith("--"):
            head = word[2:].split("=")[0]
            name, dot, option = head.partition(".")
            place = rest
            if dot and option:
                if name not in words_of_rule:
                    raise UsageError(f"--{head} is for a rule {name!r}, which is not among {', '.join(names)}")
                place = words_of_rule[name]
                word = f"--{word[2 + len(name) + 1 :]}"
        place.append(word)
    return rest, words_of_rule


def names_in(words: Sequence[str]) -> set[str]:
    """The names of the options among the words."""
    flags = [word.split("=")[0].removeprefix("--") for word in words if word.startswith("--")]
    return {flag.removeprefix("no-").replace("-", "_") for flag in flags}


def make(kind: type, values: Mapping[str, Any]) -> Any:
    """A record from flat values."""
    return kind(**{field.name: values[field.name] for field in declared(kind) if field.name in values})


def words_of(groups: Sequence[Group], values: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """The command-line words for these values. Values that are defaults anyway need no words."""
    words: list[str] = []
    for field in (field for group in groups for field in group.fields):
        if field.name not in values or values[field.name] == defaults.get(field.name, field.default):
            continue
        value = values[field.name]
        if isinstance(value, bool):
            words.append(field.flag if value else f"--no-{field.flag[2:]}")
        else:
            words += [field.flag, *map(str, value if isinstance(value, tuple) else [value])]
    return words
