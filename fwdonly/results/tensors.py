"""Named arrays with a text header in one file, in the layout of safetensors: numbers and JSON, nothing that runs.

The file is 8 bytes (the length of the header, unsigned, little-endian), the header (JSON: for every array its
``dtype``, ``shape`` and ``data_offsets``, and under ``__metadata__`` text by name), and the arrays' bytes
(little-endian, in C order, one after another without gaps). Every reader of safetensors reads it.

References:
    https://github.com/huggingface/safetensors, "Format".

Deviations:
    The header is at most `HEADER_LIMIT` bytes (theirs: 100 MB). Types of less than a byte are not read.
"""

import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from ..errors import UsageError
from ..files import write_whole
from ..surroundings import free_memory

HEADER_LIMIT = 4 * 2**20
"""Bytes of a header: JSON takes some 70 times as much memory as it has bytes, at worst."""

MOST_AXES = 32
"""Most axes of an array; NumPy 2 has 64."""

MEND = "give a model that fwdonly or safetensors has written"

DTYPES: dict[str, Any] = {
    "BOOL": np.bool_,
    "U8": np.uint8,
    "I8": np.int8,
    "U16": np.uint16,
    "I16": np.int16,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "U32": np.uint32,
    "I32": np.int32,
    "F32": np.float32,
    "U64": np.uint64,
    "I64": np.int64,
    "F64": np.float64,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
}
NAMES = {np.dtype(kind): name for name, kind in DTYPES.items()}


class Tensors(NamedTuple):
    """What a file holds."""

    arrays: dict[str, np.ndarray]
    about: dict[str, str]
    """Text by name."""


def write_tensors(path: Path, arrays: Mapping[str, Any], about: Mapping[str, str]) -> None:
    """Write arrays and what is said about them, whole or not at all: a death leaves the earlier file.

    Raises:
        UsageError: an array of a type that the layout has no name for, a header that is too long, or a folder that
            cannot be written.
    """
    held = {name: np.asarray(array) for name, array in arrays.items()}
    for name, array in held.items():
        if array.dtype.newbyteorder("=") not in NAMES:
            raise UsageError(f"{name} is {array.dtype}, which safetensors has no name for; save numbers")
    # Wide types first, as safetensors orders them: every array then lies on a multiple of its item's size.
    order = sorted(held, key=lambda name: (-held[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(about)}
    start = 0
    for name in order:
        array = held[name]
        end = start + array.nbytes
        kind = NAMES[array.dtype.newbyteorder("=")]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, allow_nan=False).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > HEADER_LIMIT:
        raise UsageError(f"the header of {path} would have {len(text)} bytes, more than {HEADER_LIMIT}; shorten names")

    def write(file: Any) -> None:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            array = np.ascontiguousarray(held[name])
            file.write(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())

    try:
        write_whole(path, write)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}; choose a writable folder") from error


def read_tensors(path: Path) -> Tensors:
    """The arrays of a file and what it says about them.

    Nothing of the file is run, and no more memory is taken than the file is long: lengths are checked first.

    Raises:
        UsageError: no such file, or one that is damaged or something else; one line.
    """
    try:
        if not path.is_dir() and path.exists() and not path.is_file():
            raise UsageError(f"{path} is no file but a pipe or a device; {MEND}")  # which may block, or never end
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            header, data = _header_of(path, file, size)
            places = _places_of(path, header, size - data)
            free = free_memory()
            if free is not None and size > free:
                raise UsageError(f"{path} takes {size} bytes of memory, and {free} are free; use a larger machine")
            arrays = {name: _read_array(path, file, data, place) for name, place in places.items()}
    except IsADirectoryError as error:
        raise UsageError(f"{path} is a folder; give the file of a model") from error
    except FileNotFoundError as error:
        raise UsageError(f"there is no file {path}; correct the path") from error
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}; make it readable") from error
    return Tensors(arrays, _about(path, header))


class _Place(NamedTuple):
    kind: np.dtype
    shape: tuple[int, ...]
    start: int
    end: int


def _bad(path: Path, why: str) -> UsageError:
    return UsageError(f"{path} is not a whole safetensors file ({why}); {MEND}")


def _header_of(path: Path, file: Any, size: int) -> tuple[dict[str, Any], int]:
    """The header, and where the arrays begin."""
    first = file.read(8)
    if len(first) < 8:
        raise _bad(path, f"it has {len(first)} bytes")
    length = int.from_bytes(first, "little")
    if length > size - 8:
        raise _bad(path, _no_header(first, length, size))
    if length > HEADER_LIMIT:
        raise _bad(path, f"its header has {length} bytes, more than {HEADER_LIMIT}")
    text = file.read(length)
    if text[:1] != b"{":
        raise _bad(path, "its header is no JSON object")
    try:
        header = json.loads(text.decode(), object_pairs_hook=_once, parse_int=_small, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise _bad(path, f"its header cannot be read: {' '.join(str(error).split())[:100]}") from error
    return header, 8 + length


def _no_header(first: bytes, length: int, size: int) -> str:
    kinds = {b"PK": "it is a zip archive, perhaps .npz", b"\x80": "it is a pickle, which may run anything"}
    for start, words in {**kinds, b"<": "it is an HTML page, as failed downloads are"}.items():
        if first.startswith(start):
            return words
    return f"its header would have {length} bytes of {size}"


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        raise ValueError("a name occurs twice")
    return mapping


def _small(digits: str) -> int:
    if len(digits) > 19:
        raise ValueError("a number has more than 19 digits")
    return int(digits)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _about(path: Path, header: Mapping[str, Any]) -> dict[str, str]:
    about = header.get("__metadata__", {})
    if not isinstance(about, dict) or not all(isinstance(text, str) for text in about.values()):
        raise _bad(path, "its metadata are not text by name")
    return about


def _places_of(path: Path, header: Mapping[str, Any], room: int) -> dict[str, _Place]:
    """Where every array lies: side by side, from the first byte to the last."""
    places = {}
    for name, entry in header.items():
        if name != "__metadata__":
            places[name] = _place_of(path, name, entry)
    end = 0
    for name, place in sorted(places.items(), key=lambda item: (item[1].start, item[1].end)):
        if place.start != end:
            raise _bad(path, f"{_shown(name)} begins at byte {place.start}, where {end} is due")
        end = place.end
    if end != room:
        raise _bad(path, f"its header promises {end} bytes, {room} follow")
    return places


def _place_of(path: Path, name: str, entry: Any) -> _Place:
    try:
        kind, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        fits = isinstance(shape, list) and all(type(n) is int and n >= 0 for n in [*shape, start, end])
    except (KeyError, TypeError, ValueError):
        fits = False
    if not fits or not isinstance(kind, str):
        raise _bad(path, f"{_shown(name)} has no dtype, shape and data_offsets")
    if kind not in DTYPES:
        raise _bad(path, f"{_shown(name)} is of type {_shown(kind)}, which is not known here")
    dtype = np.dtype(DTYPES[kind])
    if len(shape) > MOST_AXES:
        raise _bad(path, f"{_shown(name)} has {len(shape)} axes")
    if end - start != math.prod(shape) * dtype.itemsize or max(shape, default=0) >= 2**63:
        raise _bad(path, f"{_shown(name)} has {end - start} bytes, and its shape needs other ones")
    return _Place(dtype, tuple(shape), start, end)


def _shown(name: str) -> str:
    """A name of a stranger's file, short and on one line."""
    return repr(re.sub(r"[^ -~]", "?", name)[:60])


def _read_array(path: Path, file: Any, data: int, place: _Place) -> np.ndarray:
    file.seek(data + place.start)
    raw = bytearray(place.end - place.start)
    if file.readinto(raw) != len(raw):
        raise _bad(path, "it was cut off while it was read")
    if place.kind == np.bool_ and max(raw, default=0) > 1:
        raise _bad(path, "a truth value is neither 0 nor 1")
    array = np.ndarray(place.shape, place.kind.newbyteorder("<"), raw)
    return array.astype(place.kind, copy=False)
