"""A saved model: the arrays of a trained state, and a header that says what they are. Numbers and JSON, no pickle.

The file is one of safetensors (`fwdonly.results.tensors`), which other tools read; docs/saved-models.md describes it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import UsageError, plain
from .tensors import MEND, read_tensors, write_tensors

FORMAT = "fwdonly model"
VERSION = 1
"""Version of the header; a reader refuses later ones."""

CONSTANTS = ("preprocessing/mean", "preprocessing/sd")
"""Names of the arrays that are not the state's."""

STATE = "state/"
"""Begins the names of those that are."""


class Saved(NamedTuple):
    """What a model file holds."""

    rule: str | None
    """Name of the rule's form, such as ``mf-greedy``; None where only the user's own code knows it."""
    options: Mapping[str, Any]
    """The rule's options by name."""
    network: str | None
    """Its specification, or FILE.py:FUNCTION; None where only the user's own code knows it."""
    files: Mapping[str, str]
    """SHA-256 of the user's files by what is in them: ``rule``, ``network``."""
    stage: int
    """The stage of the rule whose prediction is the model's, from 0."""
    preprocessing: Mapping[str, Any]
    """Layout of the samples, number and names of the classes, columns of a table."""
    data: Mapping[str, Any]
    """``name`` and ``digest`` of the training set."""
    seed: int | None
    settings: Mapping[str, Any]
    """Everything else that decided the numbers, for the record."""
    metrics: Mapping[str, Any]
    """``val_accuracy``, ``test_accuracy`` and the like, of this run."""
    versions: Mapping[str, Any]
    """Versions of packages, and JAX's switches."""
    mean: np.ndarray
    sd: np.ndarray
    state: Mapping[str, np.ndarray]
    """Arrays by their place in the rule's state, such as ``params/0/M``."""


_TYPES: dict[str, tuple[type, ...]] = {
    "rule": (str, type(None)),
    "options": (dict,),
    "network": (str, type(None)),
    "files": (dict,),
    "stage": (int,),
    "preprocessing": (dict,),
    "data": (dict,),
    "seed": (int, type(None)),
    "settings": (dict,),
    "metrics": (dict,),
    "versions": (dict,),
}


def write_model(path: Path, saved: Saved) -> None:
    """Write a model whole or not at all: a death leaves the older one.

    Raises:
        UsageError: an array of a type that has no name in the layout, or a folder that cannot be written.
    """
    header = {name: plain(getattr(saved, name), f"the model's {name}") for name in _TYPES}
    arrays = {STATE + name: array for name, array in saved.state.items()}
    constants = [np.asarray(values, np.float64) for values in (saved.mean, saved.sd)]
    about = {"format": FORMAT, "version": str(VERSION), "model": json.dumps(header, allow_nan=False)}
    write_tensors(path, arrays | dict(zip(CONSTANTS, constants, strict=True)), about)


def read_model(path: Path) -> Saved:
    """What a model file holds; nothing in it is run.

    Raises:
        UsageError: a file that is damaged, no model, or of a later version.
    """
    arrays, about = read_tensors(path)
    if about.get("format") != FORMAT:
        raise UsageError(f"{path} holds arrays, but no model of fwdonly; {MEND.replace(' or safetensors', '')}")
    if about.get("version") != str(VERSION):
        version = " ".join(about.get("version", "unknown").split())[:20]
        raise UsageError(
            f"{path} is of version {version}, and this fwdonly reads version {VERSION}; install a later one"
        )
    try:
        header = json.loads(about["model"])
        for name, kinds in _TYPES.items():
            value = header[name]
            if not isinstance(value, kinds) or isinstance(value, bool):
                raise TypeError(f"{name} is of a wrong type")
        mean, sd = (arrays.pop(name) for name in CONSTANTS)
        if strange := [name for name in arrays if not name.startswith(STATE)]:
            raise ValueError(f"an array is called {strange[0][:60]!r}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise damaged(path, error) from error
    state = {name.removeprefix(STATE): array for name, array in arrays.items()}
    return Saved(**{name: header[name] for name in _TYPES}, mean=mean, sd=sd, state=state)


def damaged(path: Path, error: Exception) -> UsageError:
    """What is to be said of a header that describes no model."""
    words = " ".join(str(error).split())[:160]
    return UsageError(f"the header of {path} describes no model ({type(error).__name__}: {words}); save it again")
