"""``fwdonly evaluate MODEL``: accuracy of a saved model on a data set."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from .. import data, models
from ..errors import UsageError
from ..files import expanded
from ..study import Data, declared
from . import options
from .options import Group
from .predict import Opening

DESCRIPTION = """Accuracy and loss of a saved model on the test part of a data set.

Of another table than the training's (csv:PATH#target=COLUMN) all rows are used. Nothing in the model file is run."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """What is evaluated."""

    part: Literal["test", "train", "all"] = "test"
    """Samples of the data set: its test part, its training part, or both."""


def main(words: Sequence[str], command_line: Sequence[str], prog: str = "fwdonly evaluate") -> int:
    """Load, evaluate, print; the exit code."""
    del command_line
    names, words = options.names_first(words)
    fields = tuple(field for field in declared(Data) if field.name != "split")
    groups = [Group("data", (*fields, *declared(Choice))), Group("model", declared(Opening))]
    values = options.parse(words, groups, {}, prog=f"{prog} MODEL", description=DESCRIPTION)
    if len(names) != 1:
        raise UsageError(f"{prog} takes one model, before the options; got {len(names)}")
    model = models.load(names[0], rule=values["rule"], net=values["net"])
    name = values["dataset"]
    print(model)
    if name == "auto":
        name = model.saved.data.get("name")
        if name not in data.KNOWN:
            raise UsageError(
                "say what to evaluate on, as in training: --dataset folder:PATH, csv:PATH#target=COLUMN, ..."
            )
    dataset = data.load(name, options.make(Data, values).data_dir)
    if dataset.columns is not None and dataset.columns != model.inputs.columns:
        outcome, what = _of_table(model, name), f"all rows of {name}"
    else:
        outcome, what = model.evaluate(dataset, part=values["part"]), f"{dataset.name}, {values['part']} part"
    words = f"accuracy {100 * outcome.accuracy:.2f} %, balanced {100 * outcome.balanced_accuracy:.2f} %"
    print(f"{what}: {words}, loss {outcome.loss:.4f} nats, {outcome.samples:,} samples")
    return 0


def _of_table(model: models.Model, name: str) -> Any:
    """All rows of another table, coded as the training table was."""
    path, _, target = name.partition(":")[2].rpartition("#target=")
    return model.evaluate(*data.rows_and_labels(expanded(Path(path), "the table"), target))
