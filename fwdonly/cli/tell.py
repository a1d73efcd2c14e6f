"""What commands print and draw of a study: tables, figures, verdicts, and how to go on."""

import shlex
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from .. import report, results
from ..study import Contents, Outcome, processes, terminal

SPARE = ("compile s", "CO2e g", "mean W", "val %", "net J", "train s")
"""Columns that a narrow terminal does without, the first one first."""

FILES = (
    "config.json", "summary.json", "metrics.csv", "table.md", "learning_curves.png", "alignment.png",
    "layer_accuracy.png", "power.csv", "power.png", "report.html", "report.md",
)  # fmt: skip
"""Files of a result folder, in the order in which they are named."""


ANGLES = (
    "direction: of the layer's update and BP's gradient, without readouts of hidden layers (M_i of MF, U_l of FF), "
    "which BP does not know. B to W: of the feedback and the weights in whose place it stands (direct feedback: their "
    "product). errors: of the layer's errors and BP's. 90 degrees is no relation; the output layer is the last one."
)
"""What the table of angles shows."""


MODELS = 4
"""Names of models that are shown one by one."""


def render(contents: Contents) -> None:
    """Write the table and the figures of a result folder."""
    folder, heading = contents.folder, contents.heading
    partial = "" if contents.finished else "\nPartial: runs are missing.\n"
    table = report.markdown_table(*report.table_rows(contents.summaries))
    header, layers = report.layer_rows(contents.summaries)
    by_layer = ["", report.markdown_table(header, layers), ""] if layers else []
    labels = {summary["rule"]: report.label(summary) for summary in contents.summaries}
    header, angles = report.angle_rows(contents.rows, labels)
    of_angles = ["", report.markdown_table(header, angles), "", ANGLES, ""] if angles else []
    lines = [heading, "", table, *report.footnotes(contents.summaries), *by_layer, *of_angles, partial]
    results.write_text(folder / "table.md", "\n".join(lines))
    if contents.rows:
        report.learning_curves(folder / "learning_curves.png", contents.rows, heading, labels)
        if angles:
            report.alignment_curves(folder / "alignment.png", contents.rows, heading, labels)
    if layers:
        report.layer_curves(folder / "layer_accuracy.png", contents.summaries, heading)
    if contents.powers:
        report.power_figure(folder / "power.png", contents.powers, heading, labels)


def conclude(outcome: Outcome, command: Sequence[str], finish: Callable[[Path], None] | None = None) -> int:
    """Print the table and what is to be said of it; the exit code: 0, 3 a seed diverged, 130 interrupted.

    ``finish`` is called with the folder when all is trained.
    """
    contents, folder = outcome.contents, outcome.folder
    report.print_table(contents.heading, *report.table_rows(contents.summaries), spare=SPARE)
    width = max(60, shutil.get_terminal_size().columns)
    print("\n".join(textwrap.fill(line, width) for line in report.footnotes(contents.summaries)))
    _tell_layers(contents)
    labels = {summary["rule"]: report.label(summary) for summary in contents.summaries}
    header, angles = report.angle_rows(contents.rows, labels)
    if angles:
        report.print_table("Angles with backpropagation, last epoch", header, angles, spare=("norm ratio",))
        print(textwrap.fill(ANGLES, width))
    for rule, seeds in outcome.diverged:
        which = f"{labels.get(rule, rule.upper())} with seed {', '.join(map(str, seeds))}"
        mend = "try a lower learning rate (in a closed form, a larger ridge)"
        print(f"warning: the loss of {which} became NaN or infinite; {mend}", file=sys.stderr)
    code = 3 if outcome.diverged else 0
    if outcome.others:
        print(
            "this process is done; the last one to end writes the results of all. If all have ended and there are "
            f"none, one has died; then go on, in any number of processes, with:\n  {resume_command(command, folder)}"
        )
        return code
    if not contents.finished:
        print(f"interrupted; the table is partial. Continue with:\n  {resume_command(command, folder)}")
        return 130
    if finish is not None:
        with terminal.noted(f"the report of {contents.folder}"):
            finish(contents.folder)
    models = sorted(path.name for path in contents.folder.glob("model-*.safetensors"))
    shown = models if len(models) <= MODELS else [f"{len(models)} models"]
    names = [name for name in FILES if (contents.folder / name).exists()]
    files = f"({', '.join([*names, *shown])})"
    print(f"results: {contents.folder}/")
    print(textwrap.fill(files, width, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False))
    return code


def _tell_layers(contents: Contents) -> None:
    """Print the accuracy of every layer, where it was asked for, and which rules have none."""
    header, layers = report.layer_rows(contents.summaries)
    if layers:
        report.print_table("Layers' own scores in the kept state, on validation images", header, layers)
    settings = contents.wanted.config["rules"]
    concerned = [s for s in contents.summaries if settings[s["rule"]].get("layer_accuracy")]
    if silent := [report.label(s) for s in concerned if not any(run.get("layer_accuracy") for run in s["runs"])]:
        print(f"Layers of {', '.join(silent)} have no scores of their own; fwdonly.measure.probe reads them.")


def resume_command(command: Sequence[str], folder: Path) -> str:
    """The command line that continues this run, in one process."""
    words: list[str] = []
    skip = False
    for word in command:
        name, equals, _ = word.partition("=")
        of_processes = name.startswith("--") and name.removeprefix("--").replace("-", "_") in processes.PROCESSES
        if not (of_processes or skip or word == "--resume"):
            words.append(word)
        skip = of_processes and not equals
    if not any(word.split("=")[0] in ("--output-dir", "--output_dir") for word in words):
        words += ["--output-dir", str(folder)]
    return shlex.join([*words, "--resume"])


def verdicts(folder: Path) -> None:
    """Write the report of a comparison, and print what is decided."""
    results.write_text(folder / "report.html", report.html_report([folder]))
    results.write_text(folder / "report.md", report.markdown_report([folder]))
    content = report.load(folder)
    for questions in report.answers([content]):
        rows = [[question.rule, question.quantity, question.sentence] for question in questions]
        heading = "Verdicts, paired by seed, corrected for their number (Holm); intervals are unadjusted"
        report.print_table(heading, ["rule", "of", "verdict"], rows, words=3)
    if (outcome := report.factorial(content)) is not None:
        print(textwrap.fill(report.factorial_sentence(outcome) + ".", max(60, shutil.get_terminal_size().columns)))
