"""The page of a rule, from its docstring, its card, its count of products, published tables and committed results."""

import inspect
import json
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from fwdonly import bp, measure, nets
from fwdonly.nets import LayerSize
from fwdonly.study import published, rules

from . import drawing, equations

RESULTS = Path(__file__).parents[2] / "experiments" / "results"
SOURCE = "experiments/results"
BATCH, CLASSES = 128, 10
SECTION = re.compile(r"^(Args|Returns|Raises|Example|Examples|Deviations|Attributes|Yields|Note):\n", re.M)


class Network(NamedTuple):
    """Where a rule's products are counted."""

    words: str
    shape: tuple[int, ...]


def pages() -> dict[str, str]:
    """The Markdown of every rule's page, by the place of the page, and the page that lists them."""
    texts = {f"rules/{_name(module)}.md": page(module) for module in rules.MODULES}
    return texts | {"rules/index.md": overview()}


def titles() -> dict[str, str]:
    """The entries of the navigation: title -> place."""
    return {title(module): f"rules/{_name(module)}.md" for module in rules.MODULES}


def title(module: ModuleType) -> str:
    """The words of the module's docstring before the first colon or comma."""
    return re.split(r"[:,]", _docstring(module).partition("\n")[0])[0]


def overview() -> str:
    """The page that lists the rules."""
    lines = ["# Rules", "", "One page a rule. Each is made from the rule's file and from committed result files.", ""]
    lines += ["| rule | in one line | forms |", "|---|---|---|"]
    for module in rules.MODULES:
        first = _paragraphs(_docstring(module))[0].replace("\n", " ")
        idea = first.partition(": ")[2] or first
        forms = ", ".join(f"`{name}`" for name in module.CARD.variants)
        lines.append(f"| [{title(module)}]({_name(module)}.md) | {equations.prose(idea)} | {forms} |")
    return "\n".join([*lines, "", "Forms are names of commands: `fwdonly train NAME`.", ""])


def page(module: ModuleType) -> str:
    """All of one rule's page."""
    forms = [rules.load(name) for name in module.CARD.variants]
    names = {form.name for form in forms}
    parts = [
        f"# {title(module)}",
        _markdown(_docstring(module)),
        _step_drawing(forms[0]),
        f"```sh\nfwdonly train {forms[0].name}\n```" + ("" if len(forms) == 1 else _forms(forms)),
        "## Equations\n\nFrom the docstring of "
        f"[`{module.__name__}.grads`](../reference/api/{_name(module)}.md), as it stands in the code.",
        *_of_docstring(module),
        "## Options\n\n" + _options(forms[0]),
        "## Cost by arithmetic\n\n" + _costs(forms),
        "## Published settings\n\n" + _presets(names),
        "## Published numbers\n\n" + _published(names),
        "## Measured here\n\n" + measured(names),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _name(module: ModuleType) -> str:
    return module.__name__.rpartition(".")[2]


def _docstring(thing: Any) -> str:
    return inspect.cleandoc(thing.__doc__ or "")


def _paragraphs(text: str) -> list[str]:
    return re.split(r"\n\s*\n", text)


def _markdown(text: str) -> str:
    """Paragraphs and equations of a docstring as Markdown."""
    shown = []
    for paragraph in _paragraphs(text):
        if paragraph.startswith("    "):
            shown.append(equations.block(paragraph))
        else:
            shown.append(re.sub(r"::$", ":", equations.prose(paragraph)))
    return "\n\n".join(shown)


def _of_docstring(module: ModuleType) -> list[str]:
    """What the docstring of ``grads`` says of equations and what is held constant, its example and its deviations."""
    first, *rest = SECTION.split(_docstring(module.grads))
    sections = dict(zip(rest[::2], rest[1::2], strict=True))
    held = [text for text in _paragraphs(first) if text.startswith("Held constant")]
    before = "\n\n".join(text for text in _paragraphs(first) if text not in held)
    parts = [_markdown(before), "## What is held constant", *map(_markdown, held)]
    if "Example" in sections:
        parts += ["## In Python", f"```pycon\n{inspect.cleandoc(sections['Example'])}\n```"]
    if "Deviations" in sections:
        text = inspect.cleandoc("\n" + sections["Deviations"])
        parts += ["## Traps and deviations", "Where sources disagree, or the code departs from the paper.", ""]
        parts.append(equations.prose(re.sub(r"^\* ", "- ", text, flags=re.M).replace("\n  ", "\n    ")))
    return parts


def _forms(forms: Sequence[rules.Rule]) -> str:
    lines = ["", "", "| form | name for tables | what makes it this form |", "|---|---|---|"]
    for form in forms:
        options = ", ".join(f"`{name}={value!r}`" for name, value in form.variant.options.items())
        lines.append(f"| `{form.name}` | {form.label} | {options or 'the defaults'} |")
    return "\n".join(lines)


def _options(rule: rules.Rule) -> str:
    """Options with type, default and help, as the rule's file declares them."""
    if not rule.fields:
        return "It has none of its own."
    defaults = rule.defaults(compared=False)
    lines = ["| option | default | what it does |", "|---|---|---|"]
    for field in rule.fields:
        words = getattr(field.type, "__args__", ()) if "Literal" in str(field.type) else ()
        choices = f" One of {', '.join(f'`{word}`' for word in words)}." if words and None not in words else ""
        text = equations.prose(field.help).replace("|", "\\|").strip()
        lines.append(f"| `{field.flag}` | `{defaults.get(field.name, field.default)}` | {text}{choices} |")
    recipe = {name: value for name, value in rule.card.recipe.items() if name not in rule.default_options}
    told = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in recipe.items())
    return "\n".join([*lines, "", f"`fwdonly train` besides sets: {told or 'nothing'}; network `{rule.card.net}`."])


def _network(rule: rules.Rule) -> tuple[Network, tuple[Any, ...], tuple[LayerSize, ...]]:
    dense = Network("mlp:1000,1000,1000", (784,))
    network = dense if rule.card.net.startswith("mlp") else Network(rule.card.net, (28, 28, 1))
    spec = nets.parse(network.words).with_defaults(rule.start)
    net = spec.build(CLASSES)
    return network, net, nets.layer_sizes(net, network.shape)


def _work(rule: rules.Rule) -> tuple[measure.Work, ...]:
    network, net, _ = _network(rule)
    names = rule.default_options
    return measure.work(rule.module, net, network.shape, num_classes=CLASSES, batch=BATCH, **names)


def _step_drawing(rule: rules.Rule) -> str:
    _, _, sizes = _network(rule)
    return drawing.of_step(_work(rule), sizes, BATCH)


def _costs(forms: Sequence[rules.Rule]) -> str:
    """Multiply-accumulates a sample of every form, by purpose, beside those of backpropagation."""
    network, net, _ = _network(forms[0])
    base = measure.macs(bp, net, network.shape, num_classes=CLASSES, batch=BATCH) / BATCH
    lines = ["| form | million multiply-accumulates a sample | against BP | of which |", "|---|---|---|---|"]
    for form in forms:
        by_purpose: dict[str, float] = {}
        for _, what, macs in _work(form):
            by_purpose[what] = by_purpose.get(what, 0.0) + macs / BATCH
        total = sum(by_purpose.values())
        parts = ", ".join(f"{what} {macs / 1e6:.2f}" for what, macs in by_purpose.items())
        lines.append(f"| `{form.name}` | {total / 1e6:.2f} | {total / base:.2f} | {parts} |")
    where = f"One training step on `{network.words}`, inputs {network.shape}, {CLASSES} classes, batch {BATCH}; "
    return where + "the optimizer's own work is not in it.\n\n" + "\n".join(lines)


def _presets(names: set[str]) -> str:
    lines = ["| command | source |", "|---|---|"]
    by_rule = {rule: named for rule, named in published.presets().items() if rule in names}
    for rule, named in by_rule.items():
        lines += [f"| `fwdonly train {rule} --preset {name}` | {preset.source} |" for name, preset in named.items()]
    return "\n".join(lines) if len(lines) > 2 else "There are none."


def _published(names: set[str]) -> str:
    """Cells of published tables for these forms."""
    lines = ["| table | what | form | published |", "|---|---|---|---|"]
    for name, table in published.tables().items():
        for row in table.rows:
            for cell in row.cells:
                if cell.rule in names:
                    lines.append(f"| `{name}` | {row.name} | `{cell.rule}` | {_cell(cell)} |")
    if len(lines) == 2:
        return "No published table of this rule is here."
    sources = [
        f"`{name}`: {table.source}" for name, table in published.tables().items() if f"`{name}`" in "".join(lines)
    ]
    return "\n".join([*lines, "", "`fwdonly reproduce TABLE` runs a table again. Sources: " + "; ".join(sources) + "."])


def _cell(cell: published.Cell) -> str:
    unit = "" if cell.metric == "epochs" else " %"
    spread = "" if cell.sd is None else f" ± {cell.sd:.2f}"
    count = "" if cell.n is None else f", n = {cell.n}"
    metric = cell.metric.replace("_", " ")
    return f"{metric} {cell.value:.2f}{spread}{unit}{count}" + (f" ({cell.note})" if cell.note else "")


def measured(names: set[str] | None = None) -> str:
    """Test accuracies of committed result files: mean, sample SD and number of seeds."""
    lines = ["| result file | what | form | test accuracy | passes |", "|---|---|---|---|---|"]
    for path in sorted(RESULTS.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        for record in content.get("rules", ()):
            if names is None or record["rule"] in names:
                runs = [run for run in record["runs"] if run.get("test_accuracy") is not None]
                accuracy = _spread([100 * run["test_accuracy"] for run in runs], 2)
                passes = _spread([run["epochs"] for run in runs], 1)
                what = content["title"].partition(";")[0]
                cells = (f"`{path.stem}`", what, f"`{record['rule']}`", f"{accuracy} % (n = {len(runs)})", passes)
                lines.append(f"| {' | '.join(cells)} |")
    if len(lines) == 2:
        return "No result of this rule is committed yet."
    words = f"Files of `{SOURCE}`; mean ± sample SD over n seeds. [Results](../results.md) judges them."
    return "\n".join([*lines, "", words])


def _spread(values: Sequence[float], digits: int) -> str:
    if not values:
        return "-"
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"
