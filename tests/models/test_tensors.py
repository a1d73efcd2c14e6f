"""The file of a model: its layout against the published one, hostile files, and deaths while it is written."""

import itertools
import json
import os
import pickle
import signal
import struct
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from fwdonly import UsageError, results
from fwdonly.results import tensors

RANDOM = np.random.default_rng(0)
ARRAYS = {
    "params/0/kernel": RANDOM.normal(size=(3, 4)).astype(np.float32),
    "wide": RANDOM.normal(size=5),
    "one number": np.float32(2.5),
    "nothing": np.zeros((0, 3), np.int32),
    "half": RANDOM.normal(size=5).astype(ml_dtypes.bfloat16),
    "small": RANDOM.normal(size=3).astype(np.float16),
    "truths": np.array([True, False, True]),
    "bytes": np.arange(7, dtype=np.uint8),
    "big endian": np.arange(3, dtype=">i2"),
    "columns first": np.asfortranarray(RANDOM.normal(size=(2, 3))),
    "strided": np.arange(12, dtype=np.int64)[::2],
    "é": np.array([2**63], np.uint64),
}


def restated(path):
    """The arrays by the published description alone."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    about = header.pop("__metadata__")
    types = {"F32": "<f4", "F64": "<f8", "I32": "<i4", "BF16": "<u2", "F16": "<f2", "BOOL": "?", "U8": "u1"}
    types |= {"I16": "<i2", "I64": "<i8", "U64": "<u8"}
    found = {}
    for name, entry in header.items():
        start, end = (8 + length + at for at in entry["data_offsets"])
        found[name] = np.frombuffer(raw[start:end], types[entry["dtype"]]).reshape(entry["shape"])
    return found, about, length, header


def same(a, b):
    a, b = np.asarray(a), np.asarray(b)
    return a.shape == b.shape and a.astype(a.dtype.newbyteorder("=")).tobytes() == b.tobytes()


def test_a_file_gives_back_what_was_written(tmp_path):
    results.write_tensors(tmp_path / "m.safetensors", ARRAYS, {"format": "é"})
    found = results.read_tensors(tmp_path / "m.safetensors")
    assert found.about == {"format": "é"} and found.arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert same(array, found.arrays[name]), name
        assert found.arrays[name].dtype == np.asarray(array).dtype.newbyteorder("=")


def test_the_layout_is_the_published_one(tmp_path):
    results.write_tensors(tmp_path / "m.safetensors", ARRAYS, {"a": "b"})
    found, about, length, header = restated(tmp_path / "m.safetensors")
    assert about == {"a": "b"} and length % 8 == 0
    for name, array in ARRAYS.items():
        assert same(array, found[name]), name
    places = sorted(entry["data_offsets"] for entry in header.values())
    assert places[0][0] == 0 and all(a[1] == b[0] for a, b in itertools.pairwise(places))
    for name, entry in header.items():
        assert entry["data_offsets"][0] % np.asarray(ARRAYS[name]).dtype.itemsize == 0, name


def test_the_package_reads_ours_and_we_read_its(tmp_path):
    package = pytest.importorskip("safetensors.numpy")
    results.write_tensors(tmp_path / "ours.safetensors", ARRAYS, {"a": "b"})
    theirs = package.load_file(tmp_path / "ours.safetensors")
    assert theirs.keys() == ARRAYS.keys() and all(same(ARRAYS[name], theirs[name]) for name in theirs)
    plain = {
        name: np.ascontiguousarray(array).astype(np.asarray(array).dtype.newbyteorder("="))
        for name, array in ARRAYS.items()
    }
    package.save_file(plain, tmp_path / "theirs.safetensors", {"a": "b"})
    found = results.read_tensors(tmp_path / "theirs.safetensors")
    assert found.about == {"a": "b"} and all(same(plain[name], found.arrays[name]) for name in plain)


def test_what_has_no_name_in_the_layout_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"^w is complex64, which safetensors has no name for; save numbers$"):
        results.write_tensors(tmp_path / "m", {"w": np.zeros(2, np.complex64)}, {})
    with pytest.raises(UsageError, match=r"would have .* bytes, more than 4194304; shorten names$"):
        results.write_tensors(tmp_path / "m", {}, {"x": "y" * 5_000_000})
    with pytest.raises(UsageError, match=r"^cannot write .*: No such file or directory; choose a writable folder$"):
        results.write_tensors(tmp_path / "none" / "m", {}, {})
    assert not list(tmp_path.iterdir())


def raw(header, data=b"", *, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype="F32", shape=(1,), offsets=(0, 4), **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **more}


WHOLE = "{path} is not a whole safetensors file ({why}); give a model that fwdonly or safetensors has written"
HOSTILE = {
    "empty": (b"", "it has 0 bytes"),
    "short": (b"abc", "it has 3 bytes"),
    "a pickle": (pickle.dumps(print), "it is a pickle, which may run anything"),
    "a zip": (b"PK\x03\x04" + b"\0" * 60, "it is a zip archive, perhaps .npz"),
    "a page": (b"<!DOCTYPE html><html></html>", "it is an HTML page, as failed downloads are"),
    "a header longer than the file": (raw(b"{}", length=2**62), f"its header would have {2**62} bytes of 10"),
    "a header above the limit": (
        raw(b"{" + b" " * 5_000_000 + b"}"),
        "its header has 5000002 bytes, more than 4194304",
    ),
    "zeros": (b"\0" * 64, "its header is no JSON object"),
    "a list": (raw(b"[]"), "its header is no JSON object"),
    "no JSON": (raw(b"{1}"), "its header cannot be read: Expecting property name enclosed in double quotes"),
    "no text": (raw(b'{"\xff": 1}'), "its header cannot be read: 'utf-8' codec can't decode byte 0xff"),
    "depth": (raw(b'{"a":' + b"[" * 100_000), "its header cannot be read: maximum recursion depth exceeded"),
    "a name twice": (raw(b'{"a": 1, "a": 2}'), "its header cannot be read: a name occurs twice"),
    "a huge number": (raw(b'{"a": 1' + b"0" * 5000 + b"}"), "its header cannot be read: a number has more than 19"),
    "NaN": (raw(b'{"a": NaN}'), "its header cannot be read: NaN is no number"),
    "no entry": (raw({"a": 1}), "'a' has no dtype, shape and data_offsets"),
    "a negative length": (raw({"a": entry(shape=(-1, -4))}, b"1234"), "'a' has no dtype, shape and data_offsets"),
    "true as a length": (raw({"a": entry(shape=(True,))}, b"1234"), "'a' has no dtype, shape and data_offsets"),
    "a type that is none": (raw({"a": entry("F4")}, b"1234"), "'a' is of type 'F4', which is not known here"),
    "a type with a line": (raw({"a": entry("O\n")}, b"1234"), "'a' is of type 'O?', which is not known here"),
    "many axes": (raw({"a": entry(shape=(1,) * 40)}, b"1234"), "'a' has 40 axes"),
    "a product beyond 64 bits": (
        raw({"a": entry(shape=(2**32, 2**32, 2**32))}, b"1234"),
        "'a' has 4 bytes, and its shape needs other ones",
    ),
    "zero times infinity": (
        raw({"a": entry(shape=(0, 2**63), offsets=(0, 0))}),
        "'a' has 0 bytes, and its shape needs other ones",
    ),
    "more promised than there": (
        raw({"a": entry(shape=(2**38,), offsets=(0, 2**40))}, b"1234"),
        f"its header promises {2**40} bytes, 4 follow",
    ),
    "less promised than there": (raw({"a": entry()}, b"12345678"), "its header promises 4 bytes, 8 follow"),
    "two in one place": (
        raw({"a": entry(), "b": entry()}, b"1234"),
        "'b' begins at byte 0, where 4 is due",
    ),
    "a gap": (raw({"a": entry(offsets=(4, 8))}, b"12345678"), "'a' begins at byte 4, where 0 is due"),
    "metadata that are no text": (raw({"__metadata__": {"a": 1}}), "its metadata are not text by name"),
    "a truth of 2": (raw({"a": entry("BOOL", (1,), (0, 1))}, b"\x02"), "a truth value is neither 0 nor 1"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_refused_in_one_line_and_takes_no_memory(case, tmp_path):
    content, why = HOSTILE[case]
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(UsageError) as found:
        results.read_tensors(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    line = str(found.value)
    assert line.startswith(WHOLE.partition("{why}")[0].format(path=path) + why) and line.isprintable(), line
    assert line.endswith(WHOLE.partition("{why}")[2])
    assert peak < 4_000_000


READER = """
import resource, sys
from pathlib import Path
from fwdonly import UsageError, results
def peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
try:
    results.read_tensors(Path(sys.argv[1]))
except UsageError as error:
    print(peak() - before, error)
"""


@pytest.mark.parametrize("unit", ["[],", "{},", '"",', "0,"])
def test_no_header_within_the_limit_takes_much_memory(tmp_path, unit):
    """The worst that JSON of 4 MiB is known to do: a third of a GB."""
    path = tmp_path / "m.safetensors"
    text = '{"__metadata__":[' + unit * ((tensors.HEADER_LIMIT - 30) // len(unit)) + "0]}"
    path.write_bytes(raw(text.encode()))
    out = subprocess.run([sys.executable, "-c", READER, str(path)], capture_output=True, text=True, check=True).stdout
    taken, _, line = out.partition(" ")
    assert "its metadata are not text by name" in line and int(taken) < 350e6


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, line in (
        (tmp_path / "none", f"there is no file {tmp_path / 'none'}; correct the path"),
        (tmp_path, f"{tmp_path} is a folder; give the file of a model"),
        (tmp_path / "pipe", f"{tmp_path / 'pipe'} is no file but a pipe or a device; {tensors.MEND}"),
        (Path("/dev/zero"), f"/dev/zero is no file but a pipe or a device; {tensors.MEND}"),
    ):
        with pytest.raises(UsageError) as found:
            results.read_tensors(path)
        assert str(found.value) == line


def test_a_file_larger_than_the_free_memory_is_refused_before_it_is_read(tmp_path, monkeypatch):
    size = 2**40
    text = json.dumps({"a": entry("U8", (size,), (0, size))}).encode()
    with open(tmp_path / "m", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + size)  # a hole, which takes no room
    monkeypatch.setattr(tensors, "free_memory", lambda: 10**9)
    with pytest.raises(UsageError, match=f"takes {8 + len(text) + size} bytes of memory, and 1000000000 are free"):
        results.read_tensors(tmp_path / "m")


WRITER = """
import sys
from pathlib import Path
import numpy as np
from fwdonly import results
for turn in range(10**9):
    results.write_tensors(Path(sys.argv[1]), {"a": np.full(2_000_000, turn, np.float32)}, {"turn": str(turn)})
    print(turn, flush=True)
"""


def test_a_killed_writer_leaves_a_whole_model(tmp_path):
    """Kill -9 at moments within the writing of 8 MB; whatever is there is one of the whole files."""
    path, before = tmp_path / "m.safetensors", -1
    for pause in (0.0, 0.004, 0.011):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout.readline()
            time.sleep(pause)
            child.send_signal(signal.SIGKILL)
        found = results.read_tensors(path)
        turn = int(found.about["turn"])
        assert (found.arrays["a"] == turn).all() and turn >= 0
        before = max(before, turn)
    assert before >= 0


@pytest.mark.parametrize("moment", ["write", "fsync", "replace"])
def test_death_at_every_moment_of_saving_leaves_the_older_model(tmp_path, moment):
    """The process kills itself within the write, before the bytes are on the disk, and before they have their name."""
    path = tmp_path / "m.safetensors"
    results.write_tensors(path, {"a": np.zeros(1000)}, {"turn": "old"})
    code = f"""
import os, signal
from pathlib import Path
import numpy as np
from fwdonly import results
from fwdonly.results import tensors
die = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
if {moment!r} == "write":
    tensors.np.ascontiguousarray = die
else:
    setattr(os, {moment!r}, die)
results.write_tensors(Path({str(path)!r}), {{"a": np.ones(1000)}}, {{"turn": "new"}})
"""
    done = subprocess.run([sys.executable, "-c", code])
    assert done.returncode == -signal.SIGKILL
    found = results.read_tensors(path)
    assert found.about == {"turn": "old"} and not found.arrays["a"].any()
