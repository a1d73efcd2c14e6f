"""``fwdonly export MODEL OUTPUT``: a saved model for people without this library."""

from collections.abc import Sequence

from .. import models
from ..errors import UsageError
from ..files import expanded
from ..study import declared
from . import options
from .options import Group
from .predict import Opening

DESCRIPTION = (
    """Write a saved model as plain parameters (OUTPUT.npz) or as a program of StableHLO (OUTPUT.stablehlo)."""
)


def main(words: Sequence[str], command_line: Sequence[str], prog: str = "fwdonly export") -> int:
    """Load, export, say where; the exit code."""
    del command_line
    names, words = options.names_first(words)
    groups = [Group("model", declared(Opening))]
    values = options.parse(words, groups, {}, prog=f"{prog} MODEL OUTPUT", description=DESCRIPTION)
    if len(names) != 2:
        raise UsageError(f"{prog} takes a model and the file to write; got {len(names)} words")
    models.load(names[0], rule=values["rule"], net=values["net"]).export(output := expanded(names[1], "the output"))
    print(f"exported: {output}")
    return 0
