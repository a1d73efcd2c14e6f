"""The blocks as one self-contained HTML page.

The page has no script and refers to nothing outside itself. Figures are inline SVG: their text stays text, their
colours follow the reader's light or dark scheme, and the same numbers give the same bytes.
"""

import html
from collections.abc import Sequence
from importlib import resources

from ..files import readable
from .blocks import Block, Facts, Figures, Heading, Items, Text
from .svg import marker


def html_document(title: str, blocks: Sequence[Block]) -> str:
    """The blocks as a page."""
    body = "\n".join(map(_html, blocks))
    return readable(
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n"
        "</main>\n</body>\n</html>\n"
    )


def _html(block: Block) -> str:
    esc = html.escape
    if isinstance(block, Heading):
        return f"<h{block.level}>{esc(block.text)}</h{block.level}>"
    if isinstance(block, Text):
        return f'<p class="{block.kind}">{esc(block.text)}</p>' if block.kind else f"<p>{esc(block.text)}</p>"
    if isinstance(block, Items):
        kind = f' class="{block.kind}"' if block.kind else ""
        return f"<ul{kind}>" + "".join(f"<li>{esc(item)}</li>" for item in block.items) + "</ul>"
    if isinstance(block, Facts):
        return "<dl>" + "".join(f"<dt>{esc(a)}</dt><dd>{esc(b)}</dd>" for a, b in block.facts) + "</dl>"
    if isinstance(block, Figures):
        key = "".join(f'<span class="c{look % 7}">{_key(look)}{esc(label)}</span>' for look, label in block.legend)
        drawn = "".join(
            f"<figure>{svg}<figcaption>{esc(caption)}</figcaption></figure>" for caption, svg in block.figures
        )
        return f'<div class="legend">{key}</div>\n<div class="figures">{drawn}</div>'
    head = "".join(f'<th scope="col">{esc(name)}</th>' for name in block.header)
    rows = []
    for i, row in enumerate(block.rows):
        cells = ["<br>".join(_small(line) if at else esc(line) for at, line in enumerate(c.split("\n"))) for c in row]
        if block.looks:
            cells[0] = f'<span class="c{block.looks[i] % 7}">{_key(block.looks[i])}</span>{cells[0]}'
        strong = ' class="strong"' if i in block.strong else ""
        rest = "".join(f"<td>{cell}</td>" for cell in cells[1:])
        rows.append(f'<tr{strong}><th scope="row">{cells[0]}</th>{rest}</tr>')
    body = "\n".join(rows)
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="table"><table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def _small(line: str) -> str:
    return f"<small>{html.escape(line)}</small>"


def _key(look: int) -> str:
    return f'<svg class="key" viewBox="-7 -7 14 14" aria-hidden="true">{marker(look, 0, 0, 5)}</svg>'


STYLE = resources.files("fwdonly.report").joinpath("style.css").read_text(encoding="utf-8")


def colour(name: str) -> str:
    """A colour of the pages' light scheme, for figures that stand outside of a page."""
    return STYLE.partition(f"--{name}: ")[2].partition(";")[0]
