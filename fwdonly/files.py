"""Files written whole or not at all, even where the power fails, and names of files as people give and read them."""

import contextlib
import hashlib
import math
import os
import re
import sys
import uuid
import zipfile
from collections.abc import Callable, Generator
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import numpy as np

from .errors import UsageError, short, words_of

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
    """Make a folder and those above it, where they are missing. Their names are on the disk afterwards.

    Raises:
        OSError: it cannot be made.
    """
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in new or [folder]:
        sync_folder(path.parent)


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


class Arrays:
    """The arrays in an .npz file, of numbers and text alone; each has the bytes that its header claims."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive = archive
        self.names = [name.removesuffix(".npy") for name in archive.namelist()]

    def __getitem__(self, name: str) -> np.ndarray:
        """An array, read-only.

        Raises:
            KeyError: there is none of this name.
            ValueError: it is damaged, or holds Python objects; said in one line.
        """
        if name not in self.names:
            raise KeyError(name)
        try:
            return self._read(name)
        except Exception as error:  # what forged headers and damaged members raise has no bounds
            raise ValueError(f"{short(name)}: {words_of(error)}") from error

    def _read(self, name: str) -> np.ndarray:
        info = self.archive.getinfo(f"{name}.npy")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError("it is packed in a way that NumPy does not use")
        with self.archive.open(info) as member:
            return _array_of(member, info.file_size)


def read_npy(path: Path) -> np.ndarray:
    """The array in an .npy file, read-only, of numbers or text; it has the bytes that its header claims.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no such file, is damaged, or holds Python objects; said in one line.
    """
    with open(path, "rb") as file:
        try:
            return _array_of(file, path.stat().st_size)
        except OSError:
            raise
        except Exception as error:  # as in an archive
            raise ValueError(words_of(error)) from error


def _array_of(file: Any, size: int) -> np.ndarray:
    major, _ = np.lib.format.read_magic(file)
    readers = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
    shape, by_columns, dtype = readers[major](file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    claimed, start = math.prod(shape) * dtype.itemsize, file.tell()
    if min(shape, default=0) < 0 or claimed != size - start:  # before that much is asked for
        raise ValueError(f"its header claims {claimed} bytes, and {size - start} follow")
    return np.ndarray(shape, dtype, file.read(), order="F" if by_columns else "C")


@contextlib.contextmanager
def open_arrays(path: Path) -> Generator[Arrays, None, None]:
    """The arrays in an .npz file, within the block.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no such file.
    """
    with open(path, "rb") as raw:
        try:
            archive = zipfile.ZipFile(raw)
        except OSError:
            raise
        except Exception as error:  # of a damaged directory
            raise ValueError(words_of(error)) from error
        with archive:
            yield Arrays(archive)


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
    if not isinstance(path, str | os.PathLike):
        raise UsageError(f"{what} is a path; got {path!r}")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UsageError(f"{what} {path}: there is no such home folder; write the path in full") from error


_FOLDER = re.compile(
    r"""(?:^|(?<=[\s:=,;'"(@#]))"""  # a path begins a word, or follows what ends one
    r"""(?:file:/{0,2}(?=/)|~[^\s/\\]*|\.\.|[A-Za-z]:)?(?:\\\\|[/\\](?![/\\]))"""
    r"""(?:[^\s/\\:;,'"]+[/\\]+)*(?=\w|\.)"""
)


def without_folders(text: str) -> str:
    """The text with absolute paths, and those that leave the folder, shortened to the names of what they lead to.

    Web addresses and relative paths stay.

    Example:
        >>> without_folders("csv:/home/me/data/table.csv#target=label"), without_folders("https://host/page")
        ('csv:table.csv#target=label', 'https://host/page')
    """
    return _FOLDER.sub("", text)


def home() -> Path | None:
    """The user's home folder; None where there is none, as in containers whose user has no name."""
    try:
        return Path.home()
    except (RuntimeError, KeyError):
        return None


def module_of(file: Path) -> ModuleType:
    """A user's Python file, by its absolute path; it is run once, and again when its text is another one.

    Raises:
        UsageError: it cannot be read, or fails when it is run.
    """
    try:
        text = file.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}; make it readable") from error
    key = hashlib.sha256(str(file).encode() + text).hexdigest()
    name = f"fwdonly_user_{file.stem}_{key[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name)
    module.__file__ = str(file)
    sys.modules[name] = module  # NamedTuples and pickles look their module up by name
    try:
        # Not by an importer: its compiled files are known by seconds and size, and may be of an earlier text.
        exec(compile(text, str(file), "exec"), module.__dict__)
    except BaseException as error:  # the user's own code may raise anything, or exit
        del sys.modules[name]
        if isinstance(error, KeyboardInterrupt):
            raise
        raise UsageError(f"{file} fails when it is run: {type(error).__name__}: {error}") from error
    return module
