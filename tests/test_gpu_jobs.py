"""The jobs for a GPU, at toy size: each writes its own file, what is there is skipped, a failure ends nothing."""

import importlib
import json
import math
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
pytestmark = pytest.mark.usefixtures("quickest_compilation")


@pytest.fixture
def jobs(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("gpu_jobs")


def run(jobs, folder, *words):
    return jobs.main(["--dry-run", "--results", str(folder), *words])


def test_every_job_runs_and_a_second_occasion_skips_what_is_there(jobs, tmp_path, capsys):
    chosen = ["ceilings", "energy", "own", "seeds", "steps"]  # the tests of tests/device have a run of their own
    assert run(jobs, tmp_path, "--jobs", *chosen) == 0
    out = capsys.readouterr().out
    for name in chosen:
        content = json.loads((tmp_path / f"{name}.json").read_text())
        assert content["finished"] and content["dry_run"] and content["found"], name
        assert f"**{name}**" in out and {"device", "packages"} <= content["environment"].keys()
    assert "**tests**: not measured" in out and all(len(line) < 160 for line in out.splitlines())
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert run(jobs, tmp_path, "--jobs", *chosen) == 0
    assert capsys.readouterr().out.count("measured before, skipped") == len(chosen)
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert jobs.main(["--report", str(tmp_path)]) == 0
    assert "added seed" in capsys.readouterr().out


def test_a_job_that_fails_is_recorded_and_the_next_one_starts(jobs, tmp_path, monkeypatch, capsys):
    def broken(session, out):
        out["part"] = 1
        session.keep(out)
        raise RuntimeError("no memory")

    monkeypatch.setitem(jobs.TABLES, "ceilings", str)
    monkeypatch.setitem(jobs.JOBS, "ceilings", jobs.Job(broken, 1, "broken"))
    monkeypatch.setitem(jobs.JOBS, "seeds", jobs.Job(lambda session, out: out.update(mf=[]), 1, "fine"))
    assert run(jobs, tmp_path, "--jobs", "ceilings", "seeds") == 3
    content = json.loads((tmp_path / "ceilings.json").read_text())
    assert content["failed"] == "RuntimeError: no memory" and content["found"] == {"part": 1}
    assert not content["finished"] and json.loads((tmp_path / "seeds.json").read_text())["finished"]
    capsys.readouterr()
    assert run(jobs, tmp_path, "--jobs", "ceilings") == 3, "a failed job is tried again"


def test_a_job_for_which_there_is_no_time_is_not_begun(jobs, tmp_path, monkeypatch, capsys):
    session = jobs.Session(jobs.parse(["--results", str(tmp_path), "--minutes", "0.5"]))
    assert jobs.run_job(session, "energy").startswith("not begun: ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", ["--minutes 0", "--pairs -1", "--jobs nothing", "--data /nowhere"])
def test_a_wrong_option_is_one_line(jobs, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        jobs.main(words.split())
    err = capsys.readouterr().err
    assert stopped.value.code == 2 and err.startswith("error: ") and err.count("\n") == 1


def test_without_a_gpu_nothing_is_measured(jobs, tmp_path, capsys):
    assert jobs.main(["--results", str(tmp_path)]) == 2
    assert "JAX sees no GPU" in capsys.readouterr().err


def test_ratios_are_paired_by_block(jobs):
    """MF takes 0.8 of BP's time in every block while the machine slows down threefold."""
    windows = []
    for block, drift in enumerate([1.0, 1.7, 2.4, 3.0]):
        for rule, factor in (("mf", 0.8 * (1.01, 0.99)[block % 2]), ("bp", 1.0)):
            seconds = factor * drift
            windows.append({"arm": "resident", "rule": rule, "block": block, "seconds_per_pass": seconds})
            windows[-1] |= {"joules_per_pass": None}
    found = jobs.ratios(windows)
    assert list(found) == ["resident seconds_per_pass"]
    ratio = found["resident seconds_per_pass"]
    assert ratio["n"] == 4 and math.isclose(ratio["ratio"], 0.8 * (1.01 * 0.99) ** 0.5, rel_tol=1e-9)
    assert ratio["low"] < 0.8 < ratio["high"] and ratio["high"] / ratio["low"] < 1.05


@pytest.mark.parametrize("text", ["{", "[]", '{"finished": true}'])
def test_a_damaged_file_is_one_line(jobs, tmp_path, text, capsys):
    (tmp_path / "seeds.json").write_text(text)
    for words in (["--report", str(tmp_path)], ["--dry-run", "--results", str(tmp_path), "--jobs", "seeds"]):
        assert jobs.main(words) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and "seeds.json is damaged; remove it" in err
    assert (tmp_path / "seeds.json").read_text() == text
