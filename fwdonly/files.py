"""Files written whole or not at all, even where the power fails, and names of files as people give and read them."""

import contextlib
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from .errors import UsageError

PART = ".part"
"""Ends the names of files that are being written."""


def write_whole(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Write a file whole or not at all: beside ``path``, onto the disk, then under its name.

    After a power cut there is the earlier file or the new one, never an empty one.

    Raises:
        OSError: it cannot be written; the earlier file is untouched, and nothing is left beside it.
    """
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}{PART}")  # two writers do not meet
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Make a folder, if it is not there, and those above it; then their names are on the disk, too.

    Raises:
        OSError: it cannot be made.
    """
    new = [own for own in (folder, *folder.parents) if not own.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for own in new or [folder]:
        sync_folder(own.parent)


def sync_folder(folder: Path) -> None:
    """Put the names in a folder onto the disk, where the system can."""
    with contextlib.suppress(OSError):  # some systems and file systems cannot
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def is_empty(path: Path) -> bool:
    """Whether a file is not there, or holds nothing: a power cut may leave a name without content, or zeros."""
    try:
        with open(path, "rb") as file:
            return not file.read(4096).strip(b"\0 \r\n")
    except FileNotFoundError:
        return True


def readable(text: str) -> str:
    """The text without what UTF-8 has no form for: bytes of file names are read as UTF-8, others stand as ``\\xff``."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        with contextlib.suppress(UnicodeEncodeError):
            return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        return text.encode("utf-8", "backslashreplace").decode()


def expanded(path: str | Path, what: str) -> Path:
    """The path with ``~`` and ``~user`` as folders; ``what`` is the option that gave it.

    Raises:
        UsageError: nobody knows the home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UsageError(f"{what} {path}: there is no such home folder; write the path in full") from error


def home() -> Path | None:
    """The user's home folder; None where there is none, as in containers whose user has no name."""
    try:
        return Path.home()
    except (RuntimeError, KeyError):
        return None
