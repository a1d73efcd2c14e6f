# ruff: noqa: RUF001 (signs that readers see)
"""Equations of docstrings as HTML: indices below, powers above, Greek letters; no script and no font from elsewhere."""

import html
import re

WORDS = {
    "sum": "Σ",
    "alpha": "α",
    "beta": "β",
    "gamma": "γ",
    "delta": "δ",
    "lambda": "λ",
    "eta": "η",
    "theta": "θ",
    "sigma": "σ",
    "phi": "φ",
    "tau": "τ",
    "mu": "μ",
}
"""Words that stand for a sign."""
SIGNS = {"<=": "≤", ">=": "≥", "<-": "←", "+-": "±", "*": "∗", "...": "…"}

_NAME = r"[A-Za-z]+~?'?"
_INDEX = r"\{[^{}]*\}|\w+(?:~)?"
_POWER = r"\{[^{}]*\}|-?\w+|\([^()]*\)"
_TERM = re.compile(rf"(?P<name>{_NAME})(?:_(?P<below>{_INDEX}))?(?:\^(?P<above>{_POWER}))?")
_TOKEN = re.compile(
    rf"(?P<term>{_TERM.pattern})|(?P<power>\^(?:{_POWER}))|(?P<sign><=|>=|<-|\+-|\.\.\.|\*)|(?P<rest>.)"
)
_IN_PROSE = re.compile(
    r"(?<![\w`^{./~-])[A-Za-z]{1,4}~?(?:_(?:\{[^{}]*\}|[A-Za-z0-9]{1,2}\b))?"
    r"(?:\^(?:\{[^{}]*\}|T\b|\d+\b))?(?![\w.]\w)"
)


def line(text: str) -> str:
    """One line of an equation, without its indentation."""
    return "".join(map(_shown, _TOKEN.finditer(text)))


def block(text: str) -> str:
    """An indented block of a docstring as a table: three or more spaces part its columns, and two indent a line."""
    rows = []
    for row in text.strip("\n").splitlines():
        cells = re.split(r" {3,}", row.strip())
        shown = "".join(f"<span>{line(cell)}</span>" for cell in cells if cell)
        rows.append(f"<div>{shown}</div>" if shown else '<div class="gap"></div>')
    return f'<div class="equations">{"".join(rows)}</div>'


def prose(text: str) -> str:
    """A paragraph of a docstring as Markdown: names with an index or a power are set, what is code stays."""
    parts = re.split(r"(``.*?``|`[^`]*`)", text, flags=re.S)
    return "".join(part if part.startswith("`") else _IN_PROSE.sub(_set_in_prose, part) for part in parts)


def _set_in_prose(match: re.Match[str]) -> str:
    is_quantity = any(mark in match[0] for mark in "_^~")
    return line(match[0]) if is_quantity else match[0]


def _shown(match: re.Match[str]) -> str:
    if match["term"]:
        text = _name(match["name"])
        text += f"<sub>{line(match['below'].strip('{}'))}</sub>" if match["below"] else ""
        return text + (_raised(match["above"]) if match["above"] else "")
    if match["power"]:
        return _raised(match["power"][1:])
    if match["sign"]:
        return SIGNS[match["sign"]]
    return html.escape({"-": "−"}.get(match["rest"], match["rest"]))


def _raised(text: str) -> str:
    return f"<sup>{line(text.strip('{}').removeprefix('(').removesuffix(')'))}</sup>"


def _name(name: str) -> str:
    """One letter, or d and one letter, is a quantity and slanted; words are upright."""
    marks = name.lstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
    word = name.removesuffix(marks) if marks else name
    after = marks.replace("~", "\u0303").replace("'", "′")
    if word in WORDS:
        return WORDS[word] + after
    slanted = len(word) == 1 or (len(word) == 2 and word[0] == "d")
    return f"<i>{word}{after}</i>" if slanted else word + after
