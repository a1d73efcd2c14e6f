"""``fwdonly report FOLDERS``: a self-contained HTML page, and the same in Markdown beside it."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from .. import report, results
from ..errors import UsageError
from ..study import declared
from . import options
from .options import Group

DESCRIPTION = """Make a report of result folders of one data set: verdicts, tables, figures and sources.

Writes an HTML page that needs nothing else, and a Markdown file of the same name, without figures."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """Where the page goes."""

    output: Path | None = None
    """The page to write, FILE.html. Default: report.html in the first folder."""


def main(words: Sequence[str], command_line: Sequence[str], prog: str = "fwdonly report") -> int:
    """Read, write, say where; the exit code."""
    del command_line
    names, words = options.names_first(words)
    group = Group("page", declared(Choice))
    output = options.parse(words, [group], {}, prog=f"{prog} FOLDER...", description=DESCRIPTION)["output"]
    if not names:
        raise UsageError("give one result folder or more, before the options")
    folders = [Path(name) for name in names]
    output = output or folders[0] / "report.html"
    if output.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--output is a page and ends in .html; got {output}")
    page, text = report.html_report(folders), report.markdown_report(folders)
    results.write_text(output, page)
    results.write_text(output.with_suffix(".md"), text)
    print(f"report: {output}, {output.with_suffix('.md')}")
    return 0
