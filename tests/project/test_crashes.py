"""Short forms of scripts/crash_campaign.py and scripts/fuzz_readers.py: kills resume, and forged files are refused."""

import io
import json
import os
import random
import subprocess
import sys
import tempfile
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

import fwdonly
from fwdonly import UsageError, files, results
from fwdonly.cli import compare
from fwdonly.study import folder as folders
from fwdonly.training import checkpoint

SCRIPTS = Path(__file__).parents[2] / "scripts"
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and prlimit")


# --- kills ------------------------------------------------------------------------------------------------------------


@linux
def test_a_few_kills_are_resumed_to_the_same_numbers(tmp_path):
    command = [sys.executable, str(SCRIPTS / "crash_campaign.py"), "--kills", "3", "--seed", "2", "--folder", tmp_path]
    ended = subprocess.run([*command, "--scenarios", "saving", "tune"], capture_output=True, text=True)
    assert ended.returncode == 0 and "3 kills" in ended.stdout, ended.stdout + ended.stderr
    assert " 0 faults" in ended.stdout


@pytest.fixture
def power_cut(tmp_path, monkeypatch):
    """``power_cut(write)``: what one after ``write(folder)`` may leave of a folder, in forty draws."""
    monkeypatch.syspath_prepend(SCRIPTS)
    import crash_campaign

    def outcomes(write):
        found = []
        for seed in range(40):
            case = Path(tempfile.mkdtemp(dir=tmp_path))
            (case / "file").write_bytes(b"before")
            shadow = case.with_name(case.name + ".disk")
            shadow.mkdir()
            with monkeypatch.context() as patch:
                for name in ("fsync", "replace"):
                    patch.setattr(os, name, getattr(os, name))
                crash_campaign.Disk(case, shadow, {"cause": "power cut", "write": 0})
                write(case)
            crash_campaign.power_cut(case, random.Random(seed))
            found.append({str(p.relative_to(case)): p.read_bytes() for p in case.rglob("*") if p.is_file()})
        return found

    return outcomes


@linux
def test_what_is_written_whole_survives_a_power_cut(power_cut):
    def write(case):
        files.make_folder(case / "a" / "b")
        files.write_whole(case / "a" / "b" / "new", lambda file: file.write(b"x"))
        files.write_whole(case / "file", lambda file: file.write(b"after" * 999))

    assert all(left == {"file": b"after" * 999, "a/b/new": b"x"} for left in power_cut(write))


@linux
def test_control_what_is_written_plainly_does_not(power_cut):
    def plainly(case):
        (case / "a").mkdir()
        files.write_whole(case / "a" / "new", lambda file: file.write(b"x"))
        (case / "b").write_bytes(b"after")
        (case / "b").rename(case / "file")

    found = power_cut(plainly)
    assert {left.get("file") for left in found} >= {b"before", b"after", b"", bytes(5)}
    assert {"a/new" in left for left in found} == {True, False}


# --- forged files -----------------------------------------------------------------------------------------------------

ALL = ["npz", "idx", "cifar", "tfds", "results", "checkpoint", "journal"]


def fuzz(words, before=""):
    """In a process of its own, whose memory is bounded."""
    code = f"import sys\nsys.path.insert(0, {str(SCRIPTS)!r})\nimport fuzz_readers as f\n{before}\n"
    code += f"sys.argv[1:] = {words!r}\nsys.exit(f.main())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_mutated_files_for_every_reader_are_taken_or_refused_in_one_line():
    ended = fuzz(["--files", "40", "--seed", "1", "--readers", *ALL])
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count(" 40 files: ") == len(ALL)


BAD = {
    "1 / 0": "FAULT ZeroDivisionError",
    "raise f.UsageError('two\\nlines')": "FAULT not one line",
    "bytearray(2**33)": "FAULT MemoryError",
    "f.os.system('true')": "FAULT it did os.system",
}


def test_control_the_fuzz_sees_what_it_looks_for():
    """Readers that take the sound file, and do this with a mutated one."""
    before = "calls = []\n"
    for at, what in enumerate(BAD):
        before += f"def read(folder, calls=[]):\n    calls.append(1)\n    if len(calls) > 1:\n        {what}\n"
        before += f"f.READERS['{at}'] = f.Reader(lambda folder: (folder / 'a').write_bytes(b'x'), read)\n"
    ended = fuzz(["--files", "1", "--readers", *map(str, range(len(BAD)))], before)
    assert ended.returncode == 1, ended.stderr
    assert [words in ended.stdout for words in BAD.values()] == [True] * len(BAD), ended.stdout


def archive(path, member, pack=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", pack) as file:
        file.writestr("a.npy", member)


def member(descr="|u1", shape="(8,)", content=b"\0" * 8):
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\0" + len(text).to_bytes(2, "little") + text + content


FORGED = {
    "a header that claims more": (
        member(shape="(2**33,)".replace("2**33", str(2**33))),
        "claims 8589934592 bytes, and 8",
    ),
    "one that claims less": (member(shape="(7,)"), "claims 7 bytes, and 8"),
    "below nothing": (member(shape="(-8,)"), "claims -8 bytes"),
    "twice below nothing": (member(shape="(-2, -4)"), "claims 8 bytes"),
    "overflowing": (member(shape=f"({2**62}, 4)"), "claims"),
    "nesting": (member(shape="(" * 90), "a: "),
    "no end": (member(shape="('"), "a: "),
    "objects": (member("|O"), "Python objects"),
    "no header": (b"hello", "a: "),
    "empty": (b"", "a: "),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_array_is_one_line_and_asks_for_no_memory(tmp_path, name):
    content, words = FORGED[name]
    archive(tmp_path / "f.npz", content)
    tracemalloc.start()
    try:
        with files.open_arrays(tmp_path / "f.npz") as found, pytest.raises(ValueError, match=words) as error:
            found["a"]
        assert tracemalloc.get_traced_memory()[1] < 1e7
    finally:
        tracemalloc.stop()
    assert "\n" not in str(error.value)
    for read in (checkpoint.read_meta, results.read_predictions):
        with pytest.raises(ValueError):
            read(tmp_path / "f.npz")


@pytest.mark.parametrize(
    "array",
    [np.arange(6).reshape(2, 3), np.asfortranarray(np.eye(3)), np.asarray(7), np.zeros((0, 2)), np.asarray(["ä"])],
)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_come_back_as_numpy_reads_them(tmp_path, array, save):
    save(tmp_path / "f.npz", a=array, b=np.ones(2))
    with files.open_arrays(tmp_path / "f.npz") as found, np.load(tmp_path / "f.npz") as wanted:
        assert found.names == ["a", "b"]
        assert found["a"].dtype == wanted["a"].dtype
        np.testing.assert_array_equal(found["a"], wanted["a"], strict=True)
        with pytest.raises(KeyError):
            found["c"]


def test_names_in_an_archive_make_no_further_lines(tmp_path):
    np.savez(tmp_path / "f.npz", **{"a\nb": np.ones(2)})
    with pytest.raises(UsageError, match="it holds a b") as error:
        fwdonly.data.load(str(tmp_path / "f.npz"))
    assert "\n" not in str(error.value)


def test_a_packing_that_numpy_does_not_use_is_refused(tmp_path):
    """A few bytes of it may unpack to gigabytes."""
    archive(tmp_path / "f.npz", member(), zipfile.ZIP_LZMA)
    with files.open_arrays(tmp_path / "f.npz") as found, pytest.raises(ValueError, match="packed"):
        found["a"]


@pytest.mark.parametrize("content", [b"PK", b"", b"\0" * 99, io.BytesIO().getvalue()])
def test_no_archive_is_a_value_error(tmp_path, content):
    (tmp_path / "f.npz").write_bytes(content)
    with pytest.raises(ValueError), files.open_arrays(tmp_path / "f.npz"):
        pass


DAMAGED = [b"", b"{", b"\xff", b"[]", b"{}", b"[" * 100000, b'{"configuration": 1}']


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_configuration_beside_this_process_is_one_line(tmp_path, content):
    (tmp_path / "part-1").mkdir()
    (tmp_path / "part-1" / "config.json").write_bytes(content)
    with pytest.raises(UsageError, match=r"config\.json is (damaged|of a process)") as error:
        folders.agree(tmp_path, {"a": 1})
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000


@pytest.mark.parametrize("value", ["a\nb", [1] * 10000, {"x": "y" * 10000}], ids=["lines", "list", "text"])
def test_what_differs_is_said_in_one_short_line(tmp_path, value):
    (tmp_path / "config.json").write_text(json.dumps({"version": folders.VERSION, "configuration": {"a": value}}))
    with pytest.raises(UsageError, match="another configuration") as error:
        folders.look_into(tmp_path, {"a": 1}, resume=True)
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000


@pytest.mark.parametrize("rule", ["a\nb", [1] * 10000, None], ids=["lines", "list", "none"])
def test_a_search_of_no_rule_is_one_short_line(tmp_path, rule):
    (tmp_path / "best.json").write_text(json.dumps({"rule": rule, "values": {}}))
    with pytest.raises(UsageError, match="which is not among mf bp") as error:
        compare.tuned_settings([tmp_path], ["mf", "bp"])
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000


@pytest.mark.parametrize("column", results.files.METRIC_COLUMNS)
def test_a_history_without_a_column_is_damaged(tmp_path, column):
    names = [name for name in results.files.METRIC_COLUMNS if name != column]
    (tmp_path / "metrics.csv").write_text(",".join(names) + "\n")
    with pytest.raises(ValueError, match=f"no column {column}"):
        results.read_metrics(tmp_path / "metrics.csv")
