"""A report of result folders, as a page or as Markdown."""

from collections.abc import Sequence
from pathlib import Path

from .document import blocks_of, title
from .folder import load_all
from .html import html_document
from .markdown import markdown_document


def html_report(folders: Sequence[Path | str]) -> str:
    """The report of one or several result folders of one data set as a self-contained page.

    Raises:
        UsageError: as of `load_all`.
    """
    contents = load_all(folders)
    return html_document(title(contents), blocks_of(contents))


def markdown_report(folders: Sequence[Path | str]) -> str:
    """The same as Markdown, without figures.

    Raises:
        UsageError: as of `load_all`.
    """
    return markdown_document(blocks_of(load_all(folders)))
