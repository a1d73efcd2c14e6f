"""``fwdonly predict MODEL INPUT...``: labels and scores of images, arrays or tables, as a CSV."""

import csv
import dataclasses
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import data, models
from ..errors import UsageError
from ..files import expanded
from ..results import write_text
from ..study import declared
from . import options
from .options import Group

DESCRIPTION = """Predict with a saved model: labels and scores as a CSV, on the terminal or in a file.

INPUT is an image file, a folder of images, an .npz or .npy of samples, or a CSV of rows with the columns of the
training table; several are taken one after another. Nothing in the model file is run."""

PROG = "fwdonly predict"


@dataclasses.dataclass(frozen=True)
class Opening:
    """What opens a model."""

    rule: str | None = None
    """FILE.py (FILE.py:NAME) of the rule, where it is yours; the file as it was in training."""
    net: str | None = None
    """FILE.py:FUNCTION of the network, where it is yours; the file as it was in training."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """What is read and written."""

    output: Path | None = None
    """The CSV to write. Default: the terminal."""
    all_scores: bool = False
    """A column with the score of every class, after that of the predicted one."""
    resize: bool = False
    """Scale images of another size to the model's, as folder:PATH#size=N did in training."""
    array: str | None = None
    """Name of the array in an .npz. Default: x, the only one, or x_test."""


def main(words: Sequence[str], command_line: Sequence[str], prog: str = PROG) -> int:
    """Load, read, predict, write; the exit code."""
    del command_line
    names, words = options.names_first(words)
    groups = [Group("prediction", declared(Choice)), Group("model", declared(Opening))]
    values = options.parse(words, groups, {}, prog=f"{prog} MODEL INPUT...", description=DESCRIPTION)
    if len(names) < 2:
        raise UsageError(f"{prog} takes a model and one input or more, before the options; got {len(names)} words")
    choice, opening = options.make(Choice, values), options.make(Opening, values)
    model = models.load(names[0], rule=opening.rule, net=opening.net)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["input", "label", "class", "score", *(_columns(model) if choice.all_scores else [])])
    for name in names[1:]:
        inputs, x = read(expanded(name, "the input"), model, choice)
        prediction = model.predict(x)
        for at, label in enumerate(prediction.labels.tolist()):
            scores = prediction.scores[at]
            row = [inputs[at], label, label if prediction.names is None else prediction.names[at], str(scores[label])]
            writer.writerow(row + ([str(score) for score in scores] if choice.all_scores else []))
    if choice.output is None:
        sys.stdout.write(text.getvalue())
    else:
        write_text(choice.output, text.getvalue())
    return 0


def read(path: Path, model: models.Model, choice: Choice) -> tuple[list[str], Any]:
    """The names of the samples of one input, and the samples.

    Raises:
        UsageError: an input that cannot be read; one line.
    """
    if path.suffix.lower() in (".npz", ".npy"):
        x = data.read_array(path, choice.array)
        return [f"{path}[{at}]" for at in range(len(x) if x.ndim else 0)], x
    if path.suffix.lower() == ".csv":
        frame = data.read_table(path)
        if model.inputs.columns is None:
            raise UsageError(f"{path} is a table, and this model was trained on arrays; give an .npz of samples")
        return [f"{path}[{at}]" for at in range(len(frame))], frame
    files = data.image_files(path)
    return [str(file) for file in files], data.read_images(files, model.inputs.shape, resize=choice.resize)


def _columns(model: models.Model) -> list[str]:
    names = model.class_names or range(model.inputs.num_classes)
    return [f"score {name}" for name in names]
