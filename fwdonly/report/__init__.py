"""Reports from result files alone: statistics and verdicts, tables, figures, and pages as HTML or Markdown."""

from . import power, stats, svg
from .comparisons import Question, answers, questions
from .effects import Factorial, factorial, factorial_sentence
from .folder import Folder, load, load_all
from .html import colour
from .markdown import markdown_table
from .numbers import label, machines, mean_sd, number, spread
from .png import alignment_curves, layer_curves, learning_curves, power_figure, search_figure
from .sentences import verdict
from .svg import Cloud, curves_svg, dots_svg, scatter_svg
from .tables import SHORTEST, angle_rows, footnotes, layer_rows, table_rows
from .terminal import print_table
from .write import html_report, markdown_report

__all__ = [
    "SHORTEST",
    "Cloud",
    "Factorial",
    "Folder",
    "Question",
    "alignment_curves",
    "angle_rows",
    "answers",
    "colour",
    "curves_svg",
    "dots_svg",
    "factorial",
    "factorial_sentence",
    "footnotes",
    "html_report",
    "label",
    "layer_curves",
    "layer_rows",
    "learning_curves",
    "load",
    "load_all",
    "machines",
    "markdown_report",
    "markdown_table",
    "mean_sd",
    "number",
    "power",
    "power_figure",
    "print_table",
    "questions",
    "scatter_svg",
    "search_figure",
    "spread",
    "stats",
    "svg",
    "table_rows",
    "verdict",
]
