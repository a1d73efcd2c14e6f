"""Folders that may hold data sets, and words for messages about files."""

import importlib
import os
import re
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..files import expanded, home


def key_of(text: str) -> str:
    """The letters and digits: one spelling for "Fashion-MNIST", "fashion_mnist" and "FashionMNIST"."""
    return re.sub(r"[^a-z0-9]", "", text.lower())


def shown(path: Path) -> str:
    """The path without the user's name, for messages and result files, which get published."""
    path, user_home = path.absolute(), home()
    return f"~/{path.relative_to(user_home)}" if user_home is not None and path.is_relative_to(user_home) else str(path)


def brief(error: BaseException) -> str:
    """An exception on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def user_folder(data_dir: str | Path | None) -> tuple[Path, str] | None:
    """The one folder that the user named, and where; an error if there is no such folder."""
    place, where = (data_dir, "data_dir") if data_dir else (os.environ.get("FWDONLY_DATA"), "$FWDONLY_DATA")
    if not place:
        return None
    folder = expanded(place, where)
    if not folder.is_dir():
        fault = "is a file; pass the folder that holds it" if folder.exists() else "does not exist; correct or unset it"
        raise UsageError(f"{where} {folder} {fault}")
    return folder, where


def cache_folder() -> Path | None:
    """Where downloads and conversions are kept; None if neither `$FWDONLY_CACHE` nor pooch says where.

    A user without a home folder has none.
    """
    if folder := os.environ.get("FWDONLY_CACHE"):
        return expanded(folder, "$FWDONLY_CACHE")
    try:
        cache = Path(importlib.import_module("pooch").os_cache("fwdonly"))
    except (ImportError, RuntimeError, KeyError):
        return None
    return cache if cache.is_absolute() else None  # "~/.cache", where nobody knows the home


def optional(module: str, purpose: str, extra: str) -> Any:
    """An optional package, or an error that names the extra."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(f"{purpose} needs {module.split('.')[0]}: pip install 'fwdonly[{extra}]'") from error
