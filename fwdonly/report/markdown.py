"""The blocks as Markdown, without the figures; and a Markdown table."""

import html
from collections.abc import Sequence

from ..files import readable
from .blocks import Block, Facts, Figures, Heading, Items, Table, Text


def markdown_document(blocks: Sequence[Block]) -> str:
    """The blocks as Markdown, without the figures."""
    out = []
    for block in _filled([block for block in blocks if not isinstance(block, Figures)]):
        if isinstance(block, Heading):
            out.append(f"{'#' * block.level} {_plain(block.text)}")
        elif isinstance(block, Text):
            out.append(f"**{_plain(block.text)}**" if block.kind == "warning" else _plain(block.text))
        elif isinstance(block, Items):
            out.append("\n".join(f"* {_plain(item)}" for item in block.items))
        elif isinstance(block, Facts):
            out.append("\n".join(f"* {_plain(name)}: {_plain(value)}" for name, value in block.facts))
        elif isinstance(block, Table):
            lines = [block.header, ["---"] * len(block.header), *block.rows]
            out.append("\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines))
    return readable("\n\n".join(out) + "\n")


def _filled(blocks: Sequence[Block]) -> list[Block]:
    """The blocks without headings that have nothing below them."""
    kept: list[Block] = []
    for block in reversed(blocks):
        below = kept[-1] if kept else None
        if isinstance(block, Heading) and (
            below is None or (isinstance(below, Heading) and below.level <= block.level)
        ):
            continue
        kept.append(block)
    return kept[::-1]


def _plain(text: str) -> str:
    """Text for Markdown: no tag of the reader's, and one line."""
    return " ".join(html.escape(text, quote=False).split())


def _cell(text: str) -> str:
    return "<br>".join(_plain(line).replace("|", "\\|") for line in text.split("\n"))


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
