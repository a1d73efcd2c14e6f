"""The jobs for a GPU, at toy size: each writes its own file, what is there is skipped, a failure ends nothing."""

import importlib
import json
import math
import threading
import time
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fwdonly import measure
from fwdonly.measure import Quantity

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def jobs(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("gpu_jobs")


@pytest.fixture
def gpu(jobs):
    return importlib.import_module("_gpu")


@pytest.fixture
def parts(jobs):
    return importlib.import_module("data_parts")


def run(jobs, folder, *words):
    return jobs.main(["--dry-run", "--results", str(folder), *words])


def test_every_job_runs_and_a_second_occasion_skips_what_is_there(jobs, tmp_path, capsys):
    of_cifar = ("cifar_published", "conv_mf", "conv_cwc", "conv_deeperforward", "conv_scff", "conv_cafo")  # as cifar is
    others = ("tests", *of_cifar, "mixer_cifar")  # runs of their own
    chosen = [name for name in jobs.JOBS if name not in others]
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
    out = capsys.readouterr().out
    assert (
        "added seed" in out
        and out.strip() == (tmp_path / "README.md").read_text().strip()
        and (tmp_path / "gpu.png").stat().st_size > 5000
    )
    memory = json.loads((tmp_path / "memory.json").read_text())["found"]["cells"]
    assert len(memory) == 4 and all(cell["temporary_bytes"] > 0 and cell["reason"] for cell in memory)
    steps = json.loads((tmp_path / "steps.json").read_text())["found"]["cells"]
    (bp,) = [cell for cell in steps if (cell["net"], cell["rule"], cell["by"]) == ("mlp", "bp", "fwdonly")]
    weights = 36 * 16 + 16 + 16 * 16 + 16 + 16 * 10 + 10
    assert bp["macs"] == 8 * (2 * 36 * 16 + 3 * 16 * 16 + 3 * 16 * 10)
    assert bp["optimizer_bytes"] == 28 * weights + 8  # float32 Adam, and its counter
    users = json.loads((tmp_path / "users.json").read_text())["found"]
    assert users["exit_code"] == 0 and [own["rule"] for own in users["rules"]] == ["mf", "bp"]
    assert str(tmp_path) not in json.dumps(users)


def test_a_job_that_fails_is_recorded_and_the_next_one_starts(jobs, tmp_path, monkeypatch, capsys):
    def broken(session, out):
        out["part"] = 1
        session.keep(out)
        raise RuntimeError("no memory")

    monkeypatch.setitem(jobs.TABLES, "ceilings", str)
    monkeypatch.setitem(jobs.TABLES, "seeds", str)
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


def test_ratios_are_paired_by_block(gpu):
    """MF takes 0.8 of BP's time in every block while the machine slows down threefold."""
    windows = []
    for block, drift in enumerate([1.0, 1.7, 2.4, 3.0]):
        for rule, factor in (("mf", 0.8 * (1.01, 0.99)[block % 2]), ("bp", 1.0)):
            seconds = factor * drift
            windows.append({"arm": "resident", "rule": rule, "block": block, "seconds_per_pass": seconds})
            windows[-1] |= {"joules_per_pass": None}
    found = gpu.ratios(windows)
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


def test_estimates_follow_the_pace_of_the_card(jobs, gpu, tmp_path):
    session = jobs.Session(jobs.parse(["--results", str(tmp_path), "--minutes", "2"]))
    assert not session.lacks(100)
    session.slowness += [1.0, 2.0, 3.0]
    assert session.pace() == 2.0 and session.lacks(100) and not session.lacks(50)
    session.dry = True
    assert not session.lacks(1e6)


def test_an_interrupt_keeps_what_was_found_and_prints_the_tables(jobs, tmp_path, monkeypatch, capsys):
    def cut(session, out):
        out["part"] = 1
        raise KeyboardInterrupt

    monkeypatch.setitem(jobs.JOBS, "ceilings", jobs.Job(cut, 1, "cut"))
    monkeypatch.setitem(jobs.TABLES, "ceilings", str)
    assert run(jobs, tmp_path, "--jobs", "ceilings", "seeds") == 3
    content = json.loads((tmp_path / "ceilings.json").read_text())
    assert content["failed"] == "interrupted" and content["found"] == {"part": 1}
    assert "**seeds**: not measured" in capsys.readouterr().out and not (tmp_path / "seeds.json").exists()


def test_a_call_that_does_not_return_ends_with_the_tables(jobs, tmp_path, monkeypatch, capsys):
    session = jobs.Session(jobs.parse(["--dry-run", "--results", str(tmp_path), "--minutes", "1e-6"]))
    codes = []
    monkeypatch.setattr(jobs, "GRACE", 0.01)
    monkeypatch.setattr(jobs.os, "_exit", codes.append)
    jobs.watch(session, threading.Event())
    assert codes == [4] and "**seeds**: not measured" in capsys.readouterr().out
    (tmp_path / "seeds.json").write_text("{")  # which no table can be made of
    with pytest.raises(jobs.UsageError):
        jobs.watch(session, threading.Event())
    assert codes == [4, 4]
    ended = threading.Event()
    ended.set()
    jobs.watch(session, ended)  # the control: jobs that end in time
    assert codes == [4, 4]


def test_what_does_not_compile_in_time_is_an_outcome(gpu):
    gate = threading.Event()
    began = time.monotonic()
    made = gpu.at_once({"quick": lambda: 1, "stuck": gate.wait, "wrong": lambda: 1 / 0}, 0.5)
    gate.set()
    assert time.monotonic() - began < 5 and made["quick"] == 1
    assert isinstance(made["stuck"], TimeoutError) and isinstance(made["wrong"], ZeroDivisionError)


def test_threads_compile_in_float32(gpu):
    """A context of JAX belongs to one thread: without its own, a thread would compile in the default."""
    x = np.ones((4, 4), np.float32)

    def text():
        return jax.jit(jnp.matmul).trace(x, x).lower(lowering_platforms=("cuda",)).as_text()

    assert "HIGHEST" in gpu.at_once({"text": text})["text"] and "HIGHEST" not in text()


def test_a_step_is_held_against_the_larger_of_arithmetic_and_traffic(gpu):
    """5e9 multiply-accumulates at 2e13 operations a second take 0.5 ms; 4e8 bytes at 4e12 a second 0.1 ms."""
    ceiling = gpu.Ceiling(flops=2e13, bandwidth=4e12)
    own, more = gpu.roofline(5e9, 4e8, ceiling), gpu.roofline(5e9, 4e9, ceiling)
    assert (own.by, more.by) == ("arithmetic", "bandwidth")
    assert np.allclose([own.seconds, own.traffic, more.seconds], [0.5e-3, 0.1e-3, 1e-3])
    known = {"float32": {"TFLOP_per_s": 20.0}, "triad": {"GB_per_s": 4000.0}}
    cost = gpu.cost(types.SimpleNamespace(known=lambda name: known), [0.75, 0.7, 0.8], 1000, 5e9, 4e8)
    assert cost["over_bound"] == pytest.approx(1.5) and cost["bound_ms"] == pytest.approx(0.5)
    unknown = gpu.cost(types.SimpleNamespace(known=lambda name: {}), [0.75], 1000, 5e9, 4e8)
    assert unknown["ms_per_step"]["median"] == pytest.approx(0.75) and "over_bound" not in unknown


def test_the_price_of_an_added_seed_is_the_slope_over_the_first(jobs):
    """1 and 5 seeds take 10 and 12 ms: 0.05 of the first each."""
    point = {"rule": "mf", "net": "mlp", "how": "vmap"}
    points = [point | {"seeds": n, "ms_per_step": {"median": ms}} for n, ms in ((1, 10.0), (5, 12.0))]
    points.append(point | {"seeds": 64, "failed": "RESOURCE_EXHAUSTED"})
    rows = jobs._seeds_table({"points": points}).splitlines()
    assert "| 5 | 12 | 0.05 |" in rows[3] and "RESOURCE_EXHAUSTED" in rows[4]


def test_the_allocators_peak_is_what_a_step_added(gpu, monkeypatch):
    peaks = iter([Quantity(5e6, "B", "measured", "xla_allocator"), Quantity(9e6, "B", "measured", "xla_allocator")] * 2)
    monkeypatch.setattr(measure, "device_peak", lambda: next(peaks))
    cell = {"what": "memory", "rule": "mf", "depth": 1, "dry": True}
    assert gpu.probe(cell)["peak_bytes"] == 9e6
    monkeypatch.setattr(measure, "device_peak", lambda: Quantity(5e6, "B", "measured", "xla_allocator"))
    below = gpu.probe(cell)
    assert below["peak_bytes"] is None and "more than a step did" in below["reason"]


def test_a_map_over_seeds_is_their_vmap(gpu):
    """Ten runs one after another end where ten at once do."""
    from fwdonly import nets

    ends = []
    for how in ("vmap", "map"):
        with jax.default_matmul_precision("highest"):
            swept = gpu.Swept(gpu.built("mf", nets.mlp([8]), "adam"), (4, 4, 1), 4, 3, 2, how)
            call, _ = swept.compiled(3)
            ends.append((np.asarray(call()), swept.states.params))
    assert ends[0][0].shape == (3,) and len(set(ends[0][0].tolist())) == 3
    for a, b in zip(jax.tree.leaves(ends[0]), jax.tree.leaves(ends[1]), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


# ---------------------------------------------------------------------------------------------------------------------
# Parts of a data set


@pytest.mark.parametrize("shape", [(32, 32, 3), (28, 28, 1)])
def test_parts_join_to_what_was_cut(parts, tmp_path, shape):
    rng = np.random.default_rng(0)
    arrays = {"x_train": rng.integers(0, 256, (1100, *shape), np.uint8), "y_train": np.arange(1100) % 10}
    arrays |= {"x_test": rng.integers(0, 256, (30, *shape), np.uint8), "y_test": np.arange(30) % 10}
    np.savez(tmp_path / "some.npz", **arrays)
    (there := tmp_path / "there").mkdir()
    paths = parts.cut(tmp_path / "some.npz", there, 2.0)
    assert len(paths) >= (2 if shape[-1] == 3 else 1)
    assert all(path.stat().st_size < 2.1e6 for path in paths)
    assert parts.available("some", there)
    with np.load(there / "some.npz") as joined:
        assert all(np.array_equal(joined[name], arrays[name]) for name in arrays)
        assert all(joined[name].dtype == arrays[name].dtype for name in arrays)


def test_a_missing_or_damaged_part_is_said(parts, tmp_path, capsys):
    rng = np.random.default_rng(0)
    arrays = {"x_train": rng.integers(0, 256, (1500, 32, 32, 3), np.uint8), "y_train": np.zeros(1500, int)}
    arrays |= {"x_test": rng.integers(0, 256, (5, 32, 32, 3), np.uint8), "y_test": np.zeros(5, int)}
    np.savez(tmp_path / "some.npz", **arrays)
    (there := tmp_path / "there").mkdir()
    assert parts.main(["cut", str(tmp_path / "some.npz"), "--into", str(there), "--megabytes", "2"]) == 0
    first, *others = sorted(there.iterdir())
    kept = first.read_bytes()
    first.unlink()
    assert others and not parts.available("some", there)
    assert parts.main(["join", "some", "--into", str(there)]) == 2
    assert "parts of some are missing" in capsys.readouterr().err
    first.write_bytes(kept)
    with np.load(first) as file:
        held = {name: file[name] for name in file.files}
    held["digest"] = np.array("0" * 64)
    for path in [first, *others]:
        with np.load(path) as file:
            own = {name: file[name] for name in file.files} | {"digest": held["digest"]}
        np.savez(path, **own)
    assert parts.main(["join", "some", "--into", str(there)]) == 2
    assert "damaged" in capsys.readouterr().err and not (there / "some.npz").exists()
