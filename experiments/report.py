"""The report of one or several result folders: a self-contained HTML page, and the same in Markdown beside it."""

import dataclasses
import sys
from pathlib import Path

import _common
import tyro

from fwdonly import UsageError, report, results


@dataclasses.dataclass(frozen=True)
class Options:
    """Make a report of result folders of one data set: verdicts, tables, figures and where every number comes from.

    Writes an HTML page that needs nothing else, and a Markdown file of the same name, without figures.
    """

    folders: tyro.conf.Positional[tuple[Path, ...]]
    """Result folders, as the experiment scripts write them."""
    output: Path | None = None
    """The page to write. Default: report.html in the (first) folder."""


def work() -> int:
    """Read, write, say where."""
    options = tyro.cli(Options)
    if not options.folders:
        raise UsageError("give one result folder or more")
    output = options.output or options.folders[0] / "report.html"
    if output.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--output is a page and ends in .html; got {output}")
    page, text = report.html_report(options.folders), report.markdown_report(options.folders)
    results.write_text(output, page)
    results.write_text(output.with_suffix(".md"), text)
    print(f"report: {output}, {output.with_suffix('.md')}")
    return 0


if __name__ == "__main__":
    sys.exit(_common.well_behaved(work))
