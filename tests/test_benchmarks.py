"""The benchmarks of energy and of the GPU: their arithmetic against closed forms, and runs that measure nothing."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fwdonly import RULES, Batch, UsageError, measure, nets
from fwdonly.base import DOT
from fwdonly.measure import Quantity

SOURCE = Path(__file__).parents[1] / "benchmarks" / "energy.py"


@pytest.fixture(scope="module")
def energy():
    spec = importlib.util.spec_from_file_location("energy_benchmark", SOURCE)
    sys.modules["energy_benchmark"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_rules_take_turns_and_every_cell_has_all_its_windows(energy):
    options = energy.Options(rules=("bp", "mf", "ff"), batches=(128, 4096), sweeps=(1, 10), windows=4)
    order = energy.order(options)
    assert len(order) == len(set(order)) == 3 * 2 * 2 * 2 * 4
    for block in range(4):
        turns = [cell.rule for at, cell in order if at == block]
        one = ["bp", "mf", "ff"] if block % 2 == 0 else ["ff", "mf", "bp"]
        assert turns == one * 8


def window(block, rule, joules, seconds, reason=None):
    figure = lambda value: {"value": value, "reason": reason}
    return {
        "block": block,
        "cell": [rule, "784-64", 32, 1],
        "per_image": {"energy": figure(joules), "net": figure(joules)},
        "seconds_per_step": figure(seconds),
        "reading": {"energy": figure(joules), "mean_power": figure(None), "parts": [], "seconds": figure(30.0)}
        | {"notes": [f"idle power was {block}.5 W"]},
        "memory": figure(1e6),
        "device_peak": figure(None),
        "finite": True,
    }


def test_differences_are_paired_by_block_so_drift_common_to_both_rules_falls_out(energy):
    """MF takes 0.8 of BP's time in every block while the machine slows down threefold; energies are missing."""
    drift = [1.0, 1.7, 2.4, 3.0]
    windows = [window(b, "bp", None, d, "no sensor") for b, d in enumerate(drift)]
    windows += [window(b, "mf", None, 0.8 * d * (1.01, 0.99)[b % 2], "no sensor") for b, d in enumerate(drift)]
    windows.append({"block": 9, "cell": ["mf", "784-64", 32, 1], "error": "killed"})
    content, cell = {"windows": windows}, energy.Cell("mf", "784-64", 32, 1)
    found = energy.ratios(content, cell, energy.seconds)
    np.testing.assert_allclose(found, [0.808, 0.792, 0.808, 0.792])
    assert not len(energy.ratios(content, cell, energy.joules))
    mean, low, high = (
        float(word) for word in energy.difference(found).replace("[", "").replace("]", "").replace(",", "").split()[:3]
    )
    # Closed form: log ratios m ± s, standard error sqrt(4/3) s / 2, t(3 degrees, 0.975) = 3.1824.
    logs = np.log([0.808, 0.792])
    half = 3.1824 * np.sqrt(4 / 3) * np.ptp(logs) / 2 / 2
    expected = 100 * (np.exp([logs.mean(), logs.mean() - half, logs.mean() + half]) - 1)
    np.testing.assert_allclose([mean, low, high], expected, atol=0.06)
    unpaired = np.std(np.log([w["seconds_per_step"]["value"] for w in windows[:4]]))
    assert unpaired > 20 * np.std(np.log(found))  # the control: without pairs the drift would drown it
    header, rows = energy.table(content)
    assert [row[header.index("mJ/image")] for row in rows] == ["-", "-"]
    assert rows[1][header.index("energy to BP, %")] == "-" and rows[1][header.index("time to BP, %")].startswith(
        "-20.0"
    )
    counts = [measure.macs(RULES[rule], nets.mlp([64]), (784,), num_classes=10, batch=1) for rule in ("mf", "bp")]
    assert rows[1][header.index("to BP")] == f"{counts[0] / counts[1]:.3f}"
    words = "\n".join(energy.remarks(content))
    assert "8 windows, such as: idle power was 0.5 W" in words and words.count("such as") == 1
    assert "no energy percentage" in words and "a claim needs 10" in words and "no sensor" in words


def run(energy, monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["energy.py", *map(str, arguments)])
    code = energy.main()
    out = capsys.readouterr()
    return code, out.out, out.err


def test_a_run_without_a_sensor_measures_time_memory_and_arithmetic_and_is_completed(
    energy, monkeypatch, capsys, tmp_path
):
    output = tmp_path / "out.json"
    code, out, err = run(energy, monkeypatch, capsys, "--smoke", "--output", output)
    assert code == 0 and "energy unavailable" in out and "window 4/4" in err and "min left" in err
    content = json.loads(output.read_text())
    assert content["finished"] and len(content["windows"]) == 4 and content["environment"]["packages"]["jax"]
    for own in content["windows"]:
        assert own["seconds_per_step"]["value"] > 0 and own["memory"]["value"] > 0 and own["finite"]
        assert own["per_image"]["energy"]["value"] is None and own["per_image"]["energy"]["reason"]
        assert own["images"] == 32 * own["steps"]
    assert output.with_suffix(".png").stat().st_size > 3000
    assert str(tmp_path) not in output.read_text()
    code, _, err = run(energy, monkeypatch, capsys, "--smoke", "--output", output)
    assert code == 2 and err.count("\n") == 1 and "--resume" in err
    chunk = content["windows"][0]["chunk"]
    assert chunk > 0 and {own["chunk"] for own in content["windows"]} == {chunk}  # as many steps for every rule
    content["windows"] = [*content["windows"][:3], {"block": 1, "cell": ["bp", "784-64", 32, 1], "error": "killed"}]
    output.write_text(json.dumps(content))
    monkeypatch.setattr(energy, "_in_a_process", lambda cell, options, chunk: {"again": [*cell, chunk]})
    monkeypatch.setattr(energy, "table", lambda content: (["a"], [["b"]]))
    monkeypatch.setattr(energy, "remarks", lambda content: [])
    monkeypatch.setattr(energy, "figure", lambda path, content: None)
    assert run(energy, monkeypatch, capsys, "--smoke", "--resume", "--output", output)[0] == 0
    windows = json.loads(output.read_text())["windows"]
    assert len(windows) == 4 and [own for own in windows if "again" in own] == [
        {"block": 1, "cell": ["bp", "784-64", 32, 1], "again": ["bp", "784-64", 32, 1, chunk]}
    ]


def test_bad_input_is_one_line(energy, monkeypatch, capsys, tmp_path):
    damaged = tmp_path / "damaged.json"
    damaged.write_text("{")
    cases = {
        "windows": ["--windows", 0],
        "batches": ["--batches", -1],
        "seconds": ["--seconds", 0],
        "cool-down": ["--cool-down", -1],
        "damaged": ["--resume", "--output", damaged],
        "writable": ["--output", "/proc/none/out.json"],
    }
    for word, arguments in cases.items():
        arguments = arguments if "--output" in arguments else [*arguments, "--output", tmp_path / "new.json"]
        code, _, err = run(energy, monkeypatch, capsys, *arguments)
        assert code == 2 and err.startswith("error: ") and err.count("\n") == 1 and word in err, (word, err)
    assert damaged.read_text() == "{" and not (tmp_path / "new.json").exists()


# ---------------------------------------------------------------------------------------------------------------------
# gpu_suite.py


@pytest.fixture(scope="module")
def suite_of():
    """The module, and a way to make a `Suite` from command-line words."""
    folder = SOURCE.parent
    sys.path.insert(0, str(folder))
    import gpu_suite

    yield gpu_suite
    sys.path.remove(str(folder))


def suite_with(module, tmp_path, *words):
    return module.Suite(module.parse(["--smoke", "--no-torch", "--output", str(tmp_path / "out.json"), *words]))


def test_a_step_is_held_against_the_larger_of_arithmetic_and_traffic(suite_of, monkeypatch):
    """5e9 multiply-accumulates at 2e13 operations a second take 0.5 ms; 4e8 bytes at 4e12 a second 0.1 ms."""
    ceiling = suite_of.Ceiling(flops=2e13, bandwidth=4e12)
    known = {"macs_per_step": 5e9, "optimizer_bytes": 4e8}

    def holds():
        own = suite_of.against(known, 0.75e-3, ceiling)
        more = suite_of.against(known | {"optimizer_bytes": 4e9}, 2e-3, ceiling)  # 1 ms of traffic
        eight = suite_of.against(known, 6e-3, ceiling, runs=8)
        found = [own["roofline_ms"], own["step_over_roofline"], own["share_of_matmul"], more["roofline_ms"]]
        found += [more["step_over_roofline"], more["share_of_matmul"], eight["step_over_roofline"]]
        words = (own["roofline_by"], more["roofline_by"]) == ("arithmetic", "bandwidth")
        return words and np.allclose(found, [0.5, 1.5, 2 / 3, 1.0, 2.0, 0.25, 1.5])

    assert holds()
    right = suite_of.roofline
    for slipped in (
        lambda macs, moved, c: right(macs / 2, moved, c),  # a multiply-accumulate as one operation
        lambda macs, moved, c: right(macs, 8 * moved, c),  # bytes as bits
        lambda macs, moved, c: suite_of.Roofline(*[sum(right(macs, moved, c))] * 2),  # the sum for the larger
    ):
        monkeypatch.setattr(suite_of, "roofline", slipped)
        assert not holds()
    unknown = suite_of.against(known, 1.0, None)
    assert unknown["step_over_roofline"] is None and "not measured" in unknown["reason"]


def test_the_price_of_an_added_seed_is_that_of_the_first_times_the_slope(suite_of):
    """1, 2 and 4 seeds take 10, 11 and 15 ms: 0.1 and 0.2 of the first each, 1/6 in the mean since the first."""
    curve = [{"seeds": n, "ms_per_step": ms} for n, ms in ((1, 10.0), (2, 11.0), (4, 15.0))]
    curve.insert(2, {"seeds": 3, "failed": "out of memory"})
    suite_of.add_shares(curve)
    assert curve[0]["added_share"] is None and "added_share" not in curve[2]
    assert [curve[1]["added_share"], curve[3]["added_share"]] == pytest.approx([0.1, 0.2])
    assert curve[3]["added_share_mean"] == pytest.approx(1 / 6)
    measured = [curve[0], curve[1], curve[3]]
    for point, ratio in zip(measured, (9.0, 5.0, 1.9), strict=True):  # the device is full with four
        point["step_over_roofline"] = ratio
    assert suite_of.until_full(measured)[0] == [(pytest.approx(0.1), "up to 2 seeds")]
    measured[2]["step_over_roofline"] = 2.1  # and here not yet
    assert max(suite_of.until_full(measured)[0])[0] == pytest.approx(0.2)
    alone = [{"seeds": 8, "ms_per_step": 10.0}, {"seeds": 16, "ms_per_step": 12.0}]
    suite_of.add_shares(alone)
    assert [own["added_share"] for own in alone] == [None, None]


def test_verdicts_are_cautious(suite_of):
    """The worst cell decides; cells that are missing cannot have reached anything; nothing is reached on a CPU."""
    cell = {"net": "784-1000-1000", "batch": 1024, "optimizer": "adam", "library": "fwdonly"}
    cells = [{**cell, "rule": "mf", "step_over_roofline": 1.4}, {**cell, "rule": "bp", "step_over_roofline": 1.2}]
    cells += [{**cell, "rule": "bp", "batch": 128, "step_over_roofline": 9.0}, {**cell, "rule": "bp", "skipped": "x"}]
    cells += [{**cell, "rule": "mf", "optimizer": "sgd", "step_over_roofline": 1.6}]
    content = {"sections": {"steps": {"cells": cells}, "seeds": {"skipped": "no time"}}}
    content["sections"]["train"] = {"rules": {"mf": {"seconds": 2.5, "train_seconds": [2.5]}}}
    found = {own["what"]: own for own in suite_of.asked(content, True)}
    verdicts = [own["verdict"] for own in found.values()]
    assert verdicts[:4] == [
        "reached",
        "not reached",
        "not measured",
        "not measured",
    ]  # mf adam, mf sgd, bp adam, bp sgd
    assert verdicts[4:] == ["not measured", "not measured", "reached"]
    assert "1 of 2 cells are missing" in next(own["of"] for what, own in found.items() if what.startswith("BP, adam"))
    cells[0]["step_over_roofline"] = 0.7  # faster than possible: the ceiling is wrong, and nothing is reached
    impossible = suite_of.asked(content, True)[0]
    assert impossible["verdict"] == "not measured" and "too low" in impossible["of"]
    assert {own["verdict"] for own in suite_of.asked(content, False)} == {"not measured"}
    assert all(own["value"] is None for own in suite_of.asked(content, False))


def test_a_piece_must_fit_into_what_its_section_has_left(suite_of):
    now = [0.0]
    budget = suite_of.Budget(10.0, lambda: now[0])
    assert budget.lacks() is None and budget.lacks(11.0)
    with budget.piece():
        now[0] = 6.0
    assert "4 of the section's 10 s were left, and it may take 6 s" in budget.lacks()
    now[0] = 12.0
    assert "0 of the section's 10 s" in budget.lacks()


@pytest.mark.parametrize(
    ("asked", "sign"),
    [("float32", "HIGHEST"), ("tf32", "lhs_precision_type = tf32"), ("bfloat16", "lhs_precision_type = bf16")],
)
def test_threads_compile_in_the_precision_that_was_asked_for(suite_of, tmp_path, asked, sign):
    """A context of JAX belongs to one thread: without its own, a thread would compile in the default."""
    suite, x = suite_with(suite_of, tmp_path, "--precision", asked), np.ones((4, 4), np.float32)

    def text():
        return jax.jit(jnp.matmul).trace(x, x).lower(lowering_platforms=("cuda",)).as_text()

    made = suite.at_once({"text": text, "fails": lambda: 1 / 0})
    assert sign in made["text"] and isinstance(made["fails"], ZeroDivisionError)
    assert sign not in text()  # the control
    assert suite.content["precision"] == {"asked": asked, "jax": DOT[asked], "of": "products, convolutions"}


@pytest.mark.parametrize(("asked", "operands"), [("float32", "f32"), ("tf32", "f32"), ("bfloat16", "bf16")])
def test_convolutions_are_in_the_precision_that_was_asked_for(suite_of, tmp_path, monkeypatch, asked, operands):
    """What `prepare` compiles, as it is handed to the compiler of a GPU; factors are cast for bfloat16 alone."""
    suite = suite_with(suite_of, tmp_path, "--precision", asked)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    texts = []

    def compile_step(rule, shape, batch):
        x, y = jax.ShapeDtypeStruct((batch, *shape), np.float32), jax.ShapeDtypeStruct((batch,), np.int32)
        key = jax.eval_shape(lambda: jax.random.key(0))
        traced = jax.jit(rule.update).trace(jax.eval_shape(rule.init, key, x), Batch(x, y), key)
        texts.append(traced.lower(lowering_platforms=("cuda",)).as_text())
        raise UsageError("seen")

    monkeypatch.setattr(measure, "compile_step", compile_step)
    made = suite.at_once({"bp": lambda: suite_of.prepare(suite, "bp", "cnn-4-8", 8, "adam")})
    lines = [line for line in texts[0].splitlines() if "stablehlo.convolution" in line]
    assert str(made["bp"]) == "seen" and lines and all(f"x{operands}>, tensor<" in line for line in lines)
    assert all((line.count("precision HIGHEST") == 2) == (asked == "float32") for line in lines)


def test_the_precision_of_a_product_shows_in_its_error(suite_of):
    """Operands cut to 11 and 8 significant bits, as TF32 and bfloat16 have them."""
    a, b = np.random.default_rng(1).standard_normal((2, 512, 512))

    def error(bits):
        def cut(x):
            mantissa, exponent = np.frexp(x)
            return np.ldexp(np.round(mantissa * 2**bits) / 2**bits, exponent)

        return np.linalg.norm(cut(a) @ cut(b) - a @ b) / np.linalg.norm(a @ b)

    assert [suite_of.computed_as(error(bits)) for bits in (24, 11, 8)] == ["float32", "tf32", "bfloat16"]
    assert suite_of.computed_as(suite_of.inexactness("float32", 256)) == "float32"
    call, text = suite_of.product("bfloat16", 16, 3)  # which the suite leaves out on a CPU
    assert call().dtype == jnp.bfloat16 and "bf16[16,16]" in text


def test_a_measurement_that_fails_costs_itself_alone(suite_of, tmp_path):
    suite = suite_with(suite_of, tmp_path)
    made = {"mf": RuntimeError("RESOURCE_EXHAUSTED: out of memory\nmore"), "bp": UsageError("too wide; use less")}
    made["ff"] = (lambda: None, 2, {"macs_per_step": 1.0, "optimizer_bytes": 1})
    rows = suite_of.measure_steps(suite, {"net": "36-16-16", "batch": 8, "optimizer": "adam"}, made)
    found = {row["rule"]: row for row in rows}
    assert found["mf"]["failed"] == "RuntimeError: RESOURCE_EXHAUSTED: out of memory"
    assert found["bp"]["skipped"] == "refused: too wide; use less" and suite.failures == 1
    assert found["ff"]["ms_per_step"] > 0 and found["ff"]["step_over_roofline"] is None and found["ff"]["reason"]


@pytest.mark.usefixtures("quickest_compilation")
def test_the_suite_measures_every_section_and_says_what_it_left_out(suite_of, capsys, tmp_path):
    output = tmp_path / "out.json"
    assert suite_of.main(["--smoke", "--no-torch", "--output", str(output)]) == 0
    out = capsys.readouterr().out
    content = json.loads(output.read_text())
    sections = content["sections"]
    assert content["finished"] and list(sections) == ["ceiling", "steps", "seeds", "train", "energy"]
    assert all(own["seconds"] > 0 and "failed" not in own for own in sections.values())
    products = sections["ceiling"]["products"]
    assert set(products) == {"float32", "tf32", "bfloat16"} and products["float32"]["per_second"] > 0
    assert all("needs an accelerator" in products[name]["skipped"] for name in ("tf32", "bfloat16"))
    assert all(own["per_second"] > 0 for own in sections["ceiling"]["bandwidth"].values())

    cells = {(own["net"], own["rule"]): own for own in sections["steps"]["cells"]}
    assert {rule for _, rule in cells} == {"mf", "bp", "ff", "cafo", "pepita", "foton"}
    assert "pools maxima" in cells["cnn-4-8", "foton"]["skipped"]
    for own in cells.values():
        assert ("ms_per_step" in own) != ("skipped" in own)
        if "ms_per_step" in own:
            assert own["compiled_memory"]["value"] > 0 and own["step_over_roofline"] > 0
            assert own["allocator_peak"]["value"] is None and own["allocator_peak"]["reason"]
    bp = cells["36-16-16", "bp"]
    weights = 36 * 16 + 16 + 16 * 16 + 16 + 16 * 10 + 10
    assert bp["macs_per_step"] == 8 * (2 * 36 * 16 + 3 * 16 * 16 + 3 * 16 * 10)
    assert bp["optimizer_bytes"] == 28 * weights + 8  # float32 Adam, and its counter
    assert cells["36-16-16", "cafo"]["optimizer_bytes"] < 28 * (2 * 16 * 10) + 100  # its blocks are not trained
    for curve in sections["seeds"]["curves"].values():
        assert [own["seeds"] for own in curve] == [1, 2] and all(own["ms_per_step"] > 0 for own in curve)
    trained = sections["train"]
    assert "synthetic" in trained["data"] and "synthetic" in out
    assert all(own["seconds"] > 0 and "test_accuracy" not in own for own in trained["rules"].values())
    for own in sections["energy"]["windows"]:
        assert own["joules_per_image"]["value"] is None and own["joules_per_image"]["reason"]
    assert len(content["asked"]) == 7 and {own["verdict"] for own in content["asked"]} == {"not measured"}
    assert out.count("(at most") == 7 and "| ceiling |" in out
    assert output.with_suffix(".png").stat().st_size > 3000
    assert str(tmp_path) not in output.read_text()


def test_a_suite_without_time_leaves_a_file_that_says_so(suite_of, capsys, tmp_path):
    output = tmp_path / "out.json"
    words = ["--smoke", "--no-torch", "--minutes", "1e-9", "--sections", "ceiling", "steps", "--output", str(output)]
    assert suite_of.main(words) == 0
    sections = json.loads(output.read_text())["sections"]
    assert all("no time" in sections[name]["skipped"] for name in ("ceiling", "steps"))
    assert all("not asked for" in sections[name]["skipped"] for name in ("seeds", "train", "energy"))
    assert "not measured" in capsys.readouterr().out


def test_a_process_that_looks_for_the_allocators_peak_says_what_there_is(suite_of, capsys):
    assert suite_of.main(["--in-a-process", json.dumps(["mf", "36-16-16", 8, "adam", "float32"])]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["value"] is None and "keeps no statistics" in found["reason"]


def test_peaks_come_from_processes_of_their_own(suite_of, tmp_path, monkeypatch):
    suite = suite_with(suite_of, tmp_path)
    cell = {"net": "36-16-16", "batch": 8, "optimizer": "adam", "library": "fwdonly", "ms_per_step": 1.0}
    cells = [{**cell, "rule": "mf"}, {**cell, "rule": "bp"}, {**cell, "rule": "ff"}]
    programs = {"mf": "print('{\"value\": 5}')", "bp": "raise SystemExit('no memory')"}

    def start(suite, own):
        command = [sys.executable, "-c", programs[own["rule"]]]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    monkeypatch.setattr(suite_of, "_start_probe", start)
    monkeypatch.setattr(measure, "device_peak", lambda: Quantity(1, "B", "measured", "xla_allocator"))
    suite_of.peaks(suite, suite_of.Budget(60.0), cells)
    assert cells[0]["allocator_peak"] == {"value": 5} and "allocator_peak" not in cells[2]
    assert cells[1]["allocator_peak"]["value"] is None and cells[1]["allocator_peak"]["reason"] == "no memory"
    suite_of.peaks(suite, suite_of.Budget(0.0), cells)
    assert "no time" in cells[0]["allocator_peak"]["reason"]


def test_mnist_is_used_where_the_folder_has_it_and_nothing_is_invented_otherwise(suite_of, tmp_path):
    suite = suite_with(suite_of, tmp_path, "--data-dir", str(tmp_path))
    dataset, words = suite_of.images(suite)
    assert dataset.x_train.dtype == np.uint8 and words.startswith("synthetic")


def test_bad_input_of_the_suite_is_one_line(suite_of, capsys, tmp_path):
    there = tmp_path / "there.json"
    there.write_text("{}")
    cases = {
        "--minutes": ["--minutes", "0"],
        "--energy-seconds": ["--energy-seconds", "nan"],
        "invalid choice": ["--precision", "float16"],
        "no folder": ["--data-dir", str(tmp_path / "none")],
        "exists": ["--output", str(there)],
        "unrecognized": ["--rounds", "3"],
    }
    for word, arguments in cases.items():
        with pytest.raises(SystemExit) as stopped:
            suite_of.main(["--smoke", *arguments])
        err = capsys.readouterr().err
        assert stopped.value.code == 2 and err.startswith("error: ") and err.count("\n") == 1 and word in err, err
    assert suite_of.main(["--smoke", "--no-torch", "--output", "/proc/none/out.json"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and "writable" in err
    for precision in ("tf32", "bfloat16"):
        assert suite_of.main(["--smoke", "--precision", precision, "--output", str(tmp_path / "new.json")]) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: ") and err.count("\n") == 1 and "needs an accelerator" in err
    assert there.read_text() == "{}" and not (tmp_path / "new.json").exists()


@pytest.mark.device
@pytest.mark.skipif(jax.default_backend() == "cpu", reason="needs an accelerator; here is a CPU alone")
def test_a_gpu_multiplies_in_the_precision_that_was_asked_for(suite_of):
    found = {name: suite_of.computed_as(suite_of.inexactness(name, 2048)) for name in DOT}
    assert found == {"float32": "float32", "tf32": "tf32", "bfloat16": "bfloat16"}


# ---------------------------------------------------------------------------------------------------------------------
# scaling.py


@pytest.fixture(scope="module")
def scaling():
    folder = SOURCE.parent
    sys.path.insert(0, str(folder))
    import scaling

    yield scaling
    sys.path.remove(str(folder))


TINY = {"how": "map", "precision": "float32", "rounds": 1, "window": 0.001, "product": 8}


def measured(scaling, cell, rules=("mf", "bp"), left=1e3, **settings):
    budget = scaling.Budget(left, lambda: 0.0)
    return scaling.measure_cell(cell, rules, scaling.Settings(**TINY | settings), budget, scaling.Pace(1e9, {}, {}))


def test_one_axis_is_varied_at_a_time(scaling):
    base = scaling.Cell(seeds=1, devices=1, batch=128, width=1000, depth=2)
    assert scaling.GRID.base == base and set(scaling.GRID.axes) == set(base._fields)
    for axis, values in scaling.GRID.axes.items():
        cells = scaling.GRID.cells(axis)
        same = base._replace(seeds=8) if axis == "devices" else base  # the same eight seeds on every number of them
        assert [getattr(cell, axis) for cell in cells] == list(values) == sorted(values)
        assert all(cell._replace(**{axis: getattr(same, axis)}) == same for cell in cells)
    spans = {"seeds": (1, 256), "devices": (1, 8), "batch": (32, 4096), "width": (128, 4096), "depth": (1, 20)}
    assert {axis: (values[0], values[-1]) for axis, values in scaling.GRID.axes.items()} == spans
    assert base._replace(seeds=4).macs("mf") == 4 * 128 * 3_628_000


def test_calls_are_long_enough_for_what_they_copy(scaling):
    """A rule that takes 1 ns per multiply-accumulate: one step of the base point takes 0.464 s, of MF."""
    pace, cell = scaling.Pace(1.0, {"mf": 1e-9}, {"mf": 5.0}), scaling.Cell()
    settings = scaling.Settings(**TINY | {"window": 2.0, "rounds": 3})
    step = 128e-9 * 3_628_000
    assert pace.step("mf", cell) == pytest.approx(step) and pace.count("mf", cell, settings) == 4
    assert pace.seconds("mf", cell, settings) == pytest.approx(5 + 2 * 4 * step + 3 * (4 * step + 2.0))
    several = cell._replace(seeds=2)
    assert pace.count("mf", several, settings) == 32 and pace.count("mf", several, settings._replace(how="vmap")) == 4
    assert pace.seconds("mf", several, settings) == pytest.approx(5 + (2 + 3 * 2) * 32 * 2 * step)


def test_rates_follow_from_the_seconds_of_a_call(scaling, monkeypatch):
    """Three seeds, batch 4: 10 steps take 20 ms; a product of 100 rows takes 1 ms, 2e9 operations a second."""
    cell, settings = scaling.Cell(seeds=3, batch=4), scaling.Settings(**TINY | {"product": 100})
    times = {("product", ""): [1e-3, 9.0, 1e-4], ("mf", "fwdonly"): [0.02, 0.05, 0.01]}
    monkeypatch.setattr(scaling, "take_turns", lambda contenders, rounds, seconds: dict(times))

    def holds():
        rows = {"mf": {"macs_per_step": cell.macs("mf")}}
        made, pace = {"mf": scaling.Prepared(lambda: lambda: None, 10, 0.0, 0)}, scaling.Pace(1.0, {}, {})
        scaling.take_their_turns(cell, {"mf": lambda: None}, rows, made, settings, pace)
        row = rows["mf"]
        found = [row[f"seconds_{name}"] for name in ("per_step", "min", "max")]
        found += [row["steps_per_second"], row["samples_per_second"], row["ceiling_flops"], row["over_ideal"]]
        macs = 3 * 4 * (2 * (784 * 1000 + 1000 * 1000) + 3 * 10 * 2000)
        return np.allclose(found, [2e-3, 1e-3, 5e-3, 1500, 6000, 2e9, 2e-3 / (2 * macs / 2e9)])

    assert holds()
    right = scaling.Cell.macs
    monkeypatch.setattr(scaling.Cell, "macs", lambda self, rule: right(self, rule) / self.seeds)  # of one run
    assert not holds()


@pytest.mark.usefixtures("quickest_compilation")
def test_the_steps_that_are_timed_are_those_of_the_rule(scaling):
    """Three steps of two runs against `update` by hand, each run with batches of its own."""
    rule, start = scaling.begin("mf", 5, 1)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.random((scaling.BATCHES, 4, *scaling.SHAPE)), jnp.float32)
    shared = Batch(x, jnp.asarray(rng.integers(0, 10, (scaling.BATCHES, 4)), jnp.int32))
    job = scaling.Job(rule, scaling.Setup("map", None, "float32"))
    seeds = jnp.arange(2, dtype=jnp.uint32)
    both = jax.tree.map(lambda a: jnp.stack([a, a]), start)
    states, _ = scaling.Programs()(scaling._steps, job, both, seeds, shared, static=(3,))
    update = jax.jit(rule.update)

    def by_hand(first):
        state = start
        for number in range(3):
            at = (first + number) % scaling.BATCHES
            state, _ = update(state, Batch(shared.x[at], shared.y[at]), jax.random.key(0))  # MF draws nothing
        return jax.tree.leaves(state.params)

    def same(run, first):
        pairs = zip(jax.tree.leaves(states.params), by_hand(first), strict=True)
        return all(np.allclose(own[run], hand, atol=1e-6) for own, hand in pairs)

    assert same(0, 0) and same(1, 1) and not same(1, 0)  # the control: the batches of the other run


@pytest.mark.usefixtures("quickest_compilation")
def test_cells_that_do_not_fit_say_why(scaling, monkeypatch):
    cell = scaling.Cell(batch=4, width=8, depth=1)
    assert all("no time: it may take" in row["skipped"] for row in measured(scaling, cell, left=0.0))
    row = measured(scaling, cell._replace(seeds=99, devices=99), ["mf"])[0]
    assert "refused: devices must be 1 to" in row["skipped"]
    monkeypatch.setattr(scaling, "free_bytes", lambda: 1000)
    rows = measured(scaling, cell)
    assert all("no memory: it needs" in row["skipped"] and row["needs_bytes"] > 1000 for row in rows)

    free, groups, turns = iter([10**9, 1000, 10**9]), [], scaling.take_turns  # BP does not fit beside MF, but alone

    def noted(contenders, *rest):
        groups.append([name for name, _ in contenders])
        return turns(contenders, *rest)

    monkeypatch.setattr(scaling, "free_bytes", lambda: next(free))
    monkeypatch.setattr(scaling, "take_turns", noted)
    rows = measured(scaling, cell)
    assert groups == [["product", "mf"], ["product", "bp"]] and all(row["seconds_per_step"] > 0 for row in rows)

    def full(*_):
        raise RuntimeError("RESOURCE_EXHAUSTED: out of memory\nmore")

    monkeypatch.setattr(scaling, "free_bytes", lambda: None)  # nobody knows
    monkeypatch.setattr(scaling, "take_turns", full)
    assert measured(scaling, cell, ["mf"])[0]["skipped"] == "no memory: RESOURCE_EXHAUSTED: out of memory"


def test_a_process_that_fails_or_takes_too_long_costs_its_cell_alone(scaling, monkeypatch):
    cell, settings = scaling.Cell(seeds=2, devices=2), scaling.Settings(**TINY)

    def found(run, left=60.0):
        monkeypatch.setattr(subprocess, "run", run)
        budget = scaling.Budget(left, lambda: 0.0)
        return scaling.on_devices(cell, ["mf", "bp"], settings, budget, scaling.Pace(1e9, {}, {}))

    def late(command, timeout, **_):
        raise subprocess.TimeoutExpired(command, timeout)

    broken = lambda *_, **__: subprocess.CompletedProcess([], 1, "", "Traceback\nMemoryError: none")
    assert [row["failed"] for row in found(broken)] == ["MemoryError: none"] * 2
    assert all("took longer" in row["skipped"] for row in found(late))
    assert all("no time" in row["skipped"] for row in found(late, left=1.0))


@pytest.mark.usefixtures("quickest_compilation")
def test_scaling_writes_what_it_measured_and_what_it_left_out(scaling, capsys, tmp_path):
    output = tmp_path / "out.json"
    words = ["--smoke", "--rules", "mf", "--axes", "devices", "seeds", "--output", str(output)]
    assert scaling.main(words) == 0
    out, content = capsys.readouterr().out, json.loads(output.read_text())
    assert content["finished"] and list(content["axes"]) == ["seeds", "devices", "batch", "width", "depth"]
    assert all("not asked for" in content["axes"][name]["skipped"] for name in ("batch", "width", "depth"))
    assert content["axes"]["devices"]["simulated"] and "simulated" not in content["axes"]["seeds"]
    cells = {name: content["axes"][name]["cells"] for name in ("seeds", "devices")}
    assert [(row["seeds"], row["devices"]) for row in cells["seeds"]] == [(1, 1), (2, 1)]
    assert [(row["seeds"], row["devices"]) for row in cells["devices"]] == [(2, 1), (2, 2)]
    for row in [*cells["seeds"], *cells["devices"]]:
        assert row["rule"] == "mf" and (row["batch"], row["width"], row["depth"]) == (4, 16, 1)
        assert row["macs_per_step"] == row["seeds"] * 4 * (2 * 784 * 16 + 3 * 10 * 16)
        assert 0 < row["seconds_min"] <= row["seconds_per_step"] <= row["seconds_max"] and row["compile_seconds"] > 0
        assert row["needs_bytes"] > 0 and row["over_ideal"] > 0 and len(row["rounds"]) == 1
    assert content["ceiling"]["flops"] > 0 and content["environment"]["packages"]["jax"]
    assert "| devices (simulated) |" in out and "batch: not asked for" in out and "left] devices 2 (simulated)" in out
    assert output.with_suffix(".png").stat().st_size > 3000
    assert str(tmp_path) not in output.read_text()


def test_bad_input_of_scaling_is_one_line(scaling, capsys, tmp_path):
    there = tmp_path / "there.json"
    there.write_text("{}")
    cases = {
        "--minutes": ["--minutes", "0"],
        "--seconds": ["--seconds", "nan"],
        "--rounds": ["--rounds", "-1"],
        "invalid choice": ["--rules", "cwc"],
        "invalid choice: 'time'": ["--axes", "time"],
        "twice": ["--rules", "mf", "mf"],
        "exists": ["--output", str(there)],
    }
    for word, arguments in cases.items():
        with pytest.raises(SystemExit) as stopped:
            scaling.main(["--smoke", *arguments])
        err = capsys.readouterr().err
        assert stopped.value.code == 2 and err.startswith("error: ") and err.count("\n") == 1 and word in err, err
    unwritable = {"writable": ["--output", "/proc/none/out.json"], "needs an accelerator": ["--precision", "tf32"]}
    for word, arguments in unwritable.items():
        assert scaling.main(["--smoke", "--output", str(tmp_path / "new.json"), *arguments]) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: ") and err.count("\n") == 1 and word in err
    assert there.read_text() == "{}" and not (tmp_path / "new.json").exists()
