"""Pages of the reference that the code itself says: the modules, and the commands from their parsers."""

import contextlib
import importlib
import io
from collections.abc import Mapping, Sequence
from typing import Any
from unittest import mock

from fwdonly.cli import options
from fwdonly.cli.main import COMMANDS
from fwdonly.study import Field, rules

ROOMS = {
    "fwdonly": "The package",
    "fwdonly.base": "The contract of a rule",
    "fwdonly.card": "A rule's card",
    "fwdonly.data": "Data",
    "fwdonly.nets": "Networks",
    "fwdonly.training": "Training",
    "fwdonly.measure": "Measuring",
    "fwdonly.models": "Saved models",
    "fwdonly.loggers": "Loggers",
    "fwdonly.tune": "Search",
    "fwdonly.study": "Studies",
    "fwdonly.results": "Result files",
    "fwdonly.report": "Reports",
    "fwdonly.report.stats": "Statistics",
    "fwdonly.claims": "Claims",
    "fwdonly.errors": "Errors",
}
"""Modules with a page, and what the navigation calls each."""

WORDS = {
    "train": ["mf", "--help"],
    "compare": ["mf", "bp", "--help"],
    "tune": ["mf", "--help"],
    "predict": ["MODEL", "INPUT", "--help"],
    "evaluate": ["MODEL", "--help"],
    "export": ["MODEL", "OUTPUT", "--help"],
    "report": ["FOLDER", "--help"],
    "reproduce": ["mf-2025", "--help"],
    "submit": ["--help"],
}
"""Words after which a command asks its parser for help; of the others ``--help``."""


class _Asked(Exception):
    """What a command gave to its parser."""

    def __init__(self, groups: Sequence[options.Group], defaults: Mapping[str, Any], prog: str, description: str):
        super().__init__(prog)
        self.groups, self.defaults, self.prog, self.description = groups, defaults, prog, description


def pages() -> dict[str, str]:
    """The Markdown of all pages, by place."""
    texts = {f"reference/api/{place(name)}.md": _module(name, title) for name, title in modules().items()}
    texts |= {f"reference/cli/{name}.md": command(name) for name in COMMANDS}
    lines = [f"| [`fwdonly {name}`]({name}.md) | {what} |" for name, what in COMMANDS.items()]
    head = "# Command line\n\nMade from the parsers. `fwdonly COMMAND --help` says the same on your machine.\n\n"
    return texts | {
        "reference/cli/index.md": head + "| command | what it does |\n|---|---|\n" + "\n".join(lines) + "\n"
    }


def modules() -> dict[str, str]:
    """Modules with a page: rooms, then rules."""
    return ROOMS | {module.__name__: f"Rule: {module.__name__.rpartition('.')[2]}" for module in rules.MODULES}


def place(module: str) -> str:
    """The name of a module's page."""
    return module.removeprefix("fwdonly.").replace(".", "-")


def _module(name: str, title: str) -> str:
    """A page that mkdocstrings fills; of the package the names alone, since every room has a page."""
    if name == "fwdonly":
        lines = [f"# {title}", "", "`import fwdonly` gives these names. Rooms and rules have pages of their own.", ""]
        package = importlib.import_module(name)
        for member in package.__all__:
            value = getattr(package, member)
            origin = getattr(value, "__module__", "") or ""
            room = next((known for known in (f"fwdonly.{member}", *_parents(origin)) if known in modules()), None)
            lines.append(f"* `fwdonly.{member}`" + (f": [{modules()[room]}]({place(room)}.md)" if room else ""))
        return "\n".join([*lines, ""])
    listed = getattr(importlib.import_module(name), "__all__", None)
    choice = "" if listed is None else f"\n    options:\n      members: [{', '.join(listed)}]"
    return f"# {title}\n\n`{name}`\n\n::: {name}{choice}\n"


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(len(parts), 1, -1)]


def command(name: str) -> str:
    """The page of a command: its description, then the options of every group."""
    head = f"# fwdonly {name}\n\n{COMMANDS[name].capitalize()}.\n"
    asked = ask(name)
    if isinstance(asked, str):
        return f"{head}\n```text\n{asked}```\n"
    parts = [head, f"```text\nusage: {asked.prog} [OPTIONS]\n```", asked.description.strip()]
    for group in asked.groups:
        title = "rule" if group.name in rules.NAMES else group.name
        parts.append(f"## {title.capitalize()}")
        fields = group.fields
        if title == "rule":
            parts.append("Options of single rules are on [their pages](../../rules/index.md). Of every rule:")
            fields = tuple(field for field in fields if field.name in ("against", "preset"))
        if fields:
            parts.append(_table(fields, asked.defaults))
        else:
            parts.pop()
            parts.pop() if title != "rule" else None
    return "\n\n".join(parts) + "\n"


def ask(name: str) -> _Asked | str:
    """What a command gives to its parser, or what it prints where it has none."""

    def parse(words: Sequence[str], *given: Any, prog: str, description: str) -> dict[str, Any]:
        del words
        groups, defaults = given
        raise _Asked(groups, defaults, prog, description)

    module = importlib.import_module(f"fwdonly.cli.{name}")
    printed = io.StringIO()
    with mock.patch.object(options, "parse", parse), contextlib.redirect_stdout(printed):
        try:
            module.main(WORDS.get(name, ["--help"]), ["fwdonly", name])
        except _Asked as asked:
            return asked
    return printed.getvalue()


def _table(fields: Sequence[Field], defaults: Mapping[str, Any]) -> str:
    lines = ["| option | default | what it does |", "|---|---|---|"]
    for field in fields:
        default = defaults.get(field.name, field.default)
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else str(default)
        text = field.help.replace("|", "\\|").replace("*", "\\*")
        lines.append(f"| `{field.flag}` | {f'`{shown}`' if shown else ''} | {text} |")
    return "\n".join(lines)
