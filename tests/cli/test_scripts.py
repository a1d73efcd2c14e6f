"""The experiment scripts as a user runs them, on scikit-learn's digits with a tiny network."""

import csv
import functools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fwdonly import UsageError, deeperforward, nets
from fwdonly.card import Optimizer
from fwdonly.cli import train
from fwdonly.study import optimizers, published

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
TINY = ["--dataset", "digits", "--net", "mlp:16,16", "--seeds", "2", "--epochs", "2", "--batch-size", "64"]


def metrics(folder):
    with open(folder / "metrics.csv") as file:
        return list(csv.DictReader(file))


def test_mf_beside_bp_leaves_a_table_and_a_result_folder(script, tmp_path):
    folder = tmp_path / "out"
    code, out, _ = script("mf_mlp", *TINY, "--output-dir", folder)
    assert code == 0
    assert out.splitlines()[0].startswith("data: digits")
    assert "MF" in out and "BP" in out and out.count("mean of 2") == 2
    expected = {"config.json", "summary.json", "metrics.csv", "table.md", "learning_curves.png", "predictions.npz"}
    models = {path.name for path in folder.glob("model-*.safetensors")}  # of each rule its best run
    assert {path.name for path in folder.iterdir()} == expected | models and len(models) == 2
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["finished"] and [rule["rule"] for rule in summary["rules"]] == ["mf", "bp"]
    assert summary["environment"]["packages"]["jax"] and summary["environment"]["cores"]
    for rule in summary["rules"]:
        assert rule["compile_seconds"] > 0 and rule["train_seconds"] > 0
        for run, seed in zip(rule["runs"], (0, 1), strict=True):
            assert run["seed"] == seed and 0 < run["test_accuracy"] < 1 and run["epochs"] == 2
    config = json.loads((folder / "config.json").read_text())
    assert config["configuration"]["rules"]["mf"]["net"] == "mlp:16,16" and "mf_mlp" in config["command"]
    assert len(metrics(folder)) == 2 * 2 * 2
    first = metrics(folder)[0]
    assert len(first["layer_loss"].split()) == 2


def test_bp_alone_and_greedy_mf_run_and_agree_with_the_comparison(script, tmp_path):
    greedy = ["--schedule", "greedy", "--input-readout", "--prediction", "sum", "--sum-includes-input"]
    assert script("bp_mlp", *TINY, "--output-dir", tmp_path / "bp", "--quiet")[0] == 0
    assert script("mf_mlp", *TINY, *greedy, "--output-dir", tmp_path / "greedy")[0] == 0
    alone = metrics(tmp_path / "bp")
    beside = [row for row in metrics(tmp_path / "greedy") if row["rule"] == "bp"]
    assert alone == beside and len(alone) == 4
    assert sum(row["rule"] == "mf" for row in metrics(tmp_path / "greedy")) == 3 * 2 * 2  # M_0 and two layers


def test_quiet_prints_no_progress_and_no_compare_trains_mf_alone(script, tmp_path):
    code, out, _ = script("mf_mlp", *TINY, "--against", "--quiet", "--output-dir", tmp_path / "q")
    assert code == 0 and "epoch 1/2" not in out and "BP" not in out and "MF" in out


SMALL = ["--dataset", "digits", "--seeds", "2", "--batch-size", "64"]


def test_ff_reports_both_predictions_and_bp_beside_it(script, tmp_path):
    small = [*SMALL, "--net", "mlp:16,16", "--epochs", "2"]
    code, out, _ = script("ff_mlp", *small, "--against", "bp", "--bp.epochs", "1", "--output-dir", tmp_path / "ff")
    assert code == 0 and "softmax test %" in out and out.count("mean of 2") == 2
    summary = json.loads((tmp_path / "ff" / "summary.json").read_text())
    for run in summary["rules"][0]["runs"]:
        assert 0 < run["readouts"]["softmax"]["test_accuracy"] < 1
    row = metrics(tmp_path / "ff")[0]
    assert "val_accuracy_softmax" not in row and len(row["pair_error"].split()) == 2
    adamw = ["--optimizer", "adamw", "--loss", "symba", "--label", "append", "--negatives", "uniform"]
    code, out, _ = script("ff_mlp", *small, *adamw, "--prediction", "softmax", "--output-dir", tmp_path / "adamw")
    assert code == 0 and "goodness test %" in out


def test_cafo_runs_closed_form_descent_and_feedback_alignment(script, tmp_path):
    small = [*SMALL, "--net", "cnn:4,8;pool=max", "--output-dir"]
    assert script("cafo_cnn", *small, tmp_path / "mse", "--loss", "mse", "--against", "bp", "--bp.epochs", "2")[0] == 0
    assert sum(row["rule"] == "bp" for row in metrics(tmp_path / "mse")) == 4
    rows = [row for row in metrics(tmp_path / "mse") if row["seed"] == "0" and row["rule"] == "cafo"]
    assert [(row["stage"], row["epoch"]) for row in rows] == [("0", "1"), ("1", "1")]  # a head each, at once
    full = ["--batch-size", "None", "--epochs", "6", "--validate-every", "3", "--optimizer", "sgd"]
    assert script("cafo_cnn", *small, tmp_path / "full", *full)[0] == 0
    assert [row["epoch"] for row in metrics(tmp_path / "full") if row["seed"] == "0"] == ["3", "6"] * 2
    dfa = ["--blocks", "dfa", "--block-epochs", "3", "--epochs", "2", "--against", "bp"]
    assert script("cafo_cnn", *small, tmp_path / "dfa", *dfa)[0] == 0
    rows = [row for row in metrics(tmp_path / "dfa") if row["seed"] == "1" and row["rule"] == "cafo"]
    assert [row["stage"] for row in rows] == list("0001122")
    assert "CaFo, random blocks 3+2+2, BP 2" in (tmp_path / "dfa" / "table.md").read_text()


def test_cwc_runs(script, tmp_path):
    channels = ["--net", "cwc:10,20", "--epochs", "2"]
    code, out, _ = script("ff_cnn", *SMALL, *channels, "--against", "bp", "--output-dir", tmp_path / "cwc")
    assert code == 0 and "CwC" in out and out.count("mean of 2") == 2


def test_pepita_foton_and_feedback_run_on_both_networks_beside_bp(script, command, tmp_path):
    small, dense = [*SMALL, "--epochs", "2", "--output-dir"], ["--net", "mlp:16,16", "--against", "bp"]
    cnn = ["--net", "cnn:4;dense=16", "--seeds", "1"]
    for name, rule in (("pepita", "PEPITA"), ("foton", "FOTON"), ("feedback", "FA")):
        code, out, _ = script(f"{name}_mlp", *small, tmp_path / name, *dense)
        assert code == 0 and rule in out and out.count("mean of 2") == 2
        patches = ["--net", "cnn:4;dense=16;kernel=2;padding=valid;pool=none;stride=2"] if name == "foton" else []
        code, out, _ = script(f"{name}_mlp", *small, tmp_path / f"{name}_cnn", *cnn, *patches)
        assert code == 0 and "CNN 4-16 on" in out
    assert len(metrics(tmp_path / "foton")[0]["orthogonality_error"].split()) == 3
    mirror = ["--net", "mlp:16", "--seeds", "1", "--lr-schedule", "drops", "--lr-drops", "1"]
    assert command("train", "wm", *small, tmp_path / "wm", *mirror)[0] == 0
    assert [row["stage"] for row in metrics(tmp_path / "wm")] == list("011")
    srinivasan = [
        "--sign",
        "-1",
        "--output-error",
        "first",
        "--feedback",
        "mirrored",
        "--net",
        "mlp:16;activation=tanh",
    ]
    assert script("pepita_mlp", *small, tmp_path / "mirrored", *mirror, *srinivasan)[0] == 0
    assert [row["stage"] for row in metrics(tmp_path / "mirrored")] == list("0011")


def rates_of(tx, count):
    """The learning rates of ``count`` steps of plain descent."""
    one, rates = np.ones((), np.float32), []
    state = tx.init(one)
    for _ in range(count):
        step, state = tx.update(one, state)
        rates.append(-float(step))
    return rates


def test_the_learning_rate_drops_to_a_tenth_or_is_halved():
    chosen = Optimizer(0.5, lr_schedule="drops", lr_drops=(2, 3), optimizer="sgd")
    tx = optimizers.transformation(chosen, epochs=5, steps=10)
    np.testing.assert_allclose(rates_of(tx, 40), [0.5] * 20 + [0.05] * 10 + [0.005] * 10, rtol=1e-5)
    tx = optimizers.transformation(chosen._replace(lr_schedule="halvings"), epochs=20, steps=2)
    ends = np.array([4, 7, 10, 12, 14, 16, 18])  # .2, .35, .5 ... of the epochs
    np.testing.assert_allclose(rates_of(tx, 40), [0.5 ** (1 + (at // 2 >= ends).sum()) for at in range(40)], rtol=1e-5)


def test_every_layer_has_its_rate_and_its_window():
    options = Optimizer(7.0, lr_schedule="constant", optimizer="sgd", layer_rates=(0.5, 0.1))
    make = functools.partial(optimizers.transformation, epochs=3, steps=2)
    both = make(options), make(options._replace(layer_epochs=("0-1", "1-3")))
    steps = [[rates_of(layer, 6) for layer in tx.layers] for tx in both]
    np.testing.assert_allclose(steps[0], [[0.5] * 6, [0.1] * 6], rtol=1e-5)
    np.testing.assert_allclose(steps[1], [[0.5] * 2 + [0] * 4, [0] * 2 + [0.1] * 4], rtol=1e-5, atol=1e-9)
    with pytest.raises(UsageError, match="2 optimizers, and this rule trains 1 layers"):
        make(options._replace(layer_epochs=("0-1",)))
    words = ["ff", "--layer-rates", "0.1", "0.1", "0.1", "--net", "mlp:8,8,8"]
    with pytest.raises(UsageError, match="the optimizer reference has one rate"):
        train.study_of(words).arms[0].training(10, 4)
    with pytest.raises(UsageError, match="--layer-rates must be 0 or more"):
        train.study_of(["mf", "--layer-rates", "0.1", "-0.1"])


def test_alignment_is_drawn_and_written_per_layer(script, tmp_path):
    small = [
        *SMALL,
        *("--epochs", "1", "--net", "mlp:16,16;bias=none;start=orthogonal", "--seeds", "1"),
        *("--output-dir", tmp_path / "alignment"),
    ]
    code, out, _ = script("alignment", *small)
    assert code == 0 and "alignment.png" in out
    assert (tmp_path / "alignment" / "alignment.png").read_bytes().startswith(b"\x89PNG")
    for row in metrics(tmp_path / "alignment"):
        cosines = [float(value) for value in row["cosine"].split()]
        assert len(cosines) == 3 and abs(cosines[-1] - 1) < 1e-2 and all(abs(value) < 1.001 for value in cosines)
        assert len(row["norm_ratio"].split()) == 3


def test_a_widening_network_is_trained_with_a_warning(tmp_path):
    command = [sys.executable, EXPERIMENTS / "foton_mlp.py", *SMALL, "--epochs", "1", "--net", "mlp:80", "--quiet"]
    done = subprocess.run([*command, "--output-dir", tmp_path / "wide"], capture_output=True, text=True, check=True)
    assert [line for line in done.stderr.splitlines() if "warning" in line] == done.stderr.splitlines()
    assert "widens from 64 to 80" in done.stderr


def presets(rule):
    return {name: preset.settings for name, preset in published.presets()[rule].items()}


def test_ff_presets_are_the_published_settings():
    found = presets("ff")
    assert found["hinton"] == {"dataset": "mnist", "split": "paper", "epochs": 100}
    rates = {
        "fashion_mnist": (3.722230492626773e-4, 3.583569744251919e-4, 1.1120232890144957e-2, 5.1200359925764015e-3),
        "mnist": (4.759134394296565e-4, 4.169096909947932e-4, 1.0727571797342173e-2, 6.1527185182837065e-3),
        "mnist_sgd": (1.9075980272792064e-3, 5.229088821652552e-4, 3.234998392840941e-2, 4.7668064095875455e-3),
        "mnist_4x2000": (5.253511034001832e-4, 4.227844165066995e-4, 2.7075510107757122e-3, 3.5730744916099627e-3),
        "mnist_2026": (1.332e-3, 6.031e-4, 6.707e-3, 8.298e-3),
        "mnist_sgd_2026": (1.911e-3, 3.630e-4, 3.327e-3, 1.162e-3),
        "mnist_4x2000_2026": (7.634e-4, 3.112e-4, 3.615e-3, 2.168e-3),
        "fashion_mnist_2026": (1.050e-3, 6.836e-4, 6.011e-3, 9.722e-3),
    }
    names = ("learning_rate", "weight_decay", "head_learning_rate", "head_weight_decay")
    for name, expected in rates.items():
        assert tuple(found[name][key] for key in names) == expected
        widths = "2000,2000,2000,2000" if "4x" in name or "fashion" in name else "1000,1000,1000"
        assert found[name]["net"] == f"mlp:{widths};start=normal_fan_out"
        assert found[name]["optimizer"] == ("momentum" if "sgd" in name else "adamw")
    assert set(found) == {"hinton", "paper_4x2000", "ff_py", *rates}
    assert found["ff_py"] | {"epochs": 0} == {**found["hinton"], "weight_decay": 0.002, "peer": 0.0, "epochs": 0}


def test_cafo_presets_are_the_published_settings():
    found = presets("cafo") | {f"dfa_{name}": settings for name, settings in presets("cafo-dfa").items()}
    for name, epochs in (("paper_mnist", 5000), ("paper_cifar10_sl", 5000), ("paper_cifar100", 1000)):
        assert (found[name]["epochs"], found[name]["batch_size"], found[name]["learning_rate"]) == (epochs, None, 0.01)
    tuned = {  # rate, decay, cap, patience, min_delta, and of the blocks rate, decay, epochs
        "mnist": (4.2136234742798395e-4, 1.6585525961391826e-6, 227, 8, 5e-4),
        "cifar10": (2.4111676098423975e-4, 6.3583588566762514e-6, 733, 8, 1e-3),
        "cifar100": (2.4111676098423975e-4, 6.3583588566762514e-6, 1220, 10, 1e-3),
        "mnist_as_run": (1e-3, 0.0, 10, None, 0.0),
        "cifar10_2026": (5.647e-4, 5.711e-6, 100, 20, 0.0),
        "dfa_mnist": (
            2.5391813833013565e-4,
            2.0840357948896564e-6,
            12,
            5,
            5e-4,
            4.977965859721583e-4,
            9.594431243311431e-7,
            5,
        ),
        "dfa_fashion_mnist": (
            3.304463634024569e-4,
            3.967605077052991e-5,
            85,
            6,
            1e-3,
            1.384690524742107e-4,
            1.3311216080736884e-5,
            15,
        ),
        "dfa_cifar10": (
            6.677511008261821e-4,
            1.5702970884055385e-5,
            147,
            8,
            1e-3,
            1.373784595532798e-4,
            2.938027938703532e-7,
            250,
        ),
        "dfa_cifar100_2026": (3.157e-4, 2.669e-7, 100, 20, 0.0, 1.378e-4, 4.602e-7, 200),
    }
    names = ("learning_rate", "weight_decay", "epochs", "patience", "min_delta")
    of_blocks = ("block_learning_rate", "block_weight_decay", "block_epochs")
    for name, expected in tuned.items():
        keys = (*names, *of_blocks) if name.startswith("dfa") else names
        assert tuple(found[name][key] for key in keys) == expected, name
        assert found[name]["augment"] == ("cifar" in name) and found[name]["aggregation"] == "logits"
        assert found[name]["statistics"] == ("examples" if name.startswith("dfa") else "identity")


def test_presets_of_cwc_end_with_the_last_layers_window_of_epochs():
    """``start_end`` of the public code's ``Models.py``, ILT "Acc", of the four layers."""
    windows = {"mnist": (2, 3, 4, 5), "fashion_mnist": (10, 15, 19, 23), "cifar10": (11, 16, 21, 25)}
    for name, ends in windows.items():
        preset = presets("cwc")[name]
        assert preset["epochs"] == ends[-1] and preset["layer_epochs"] == tuple(f"0-{end}" for end in ends)
    assert set(presets("cwc")) == set(windows)


def test_presets_of_deeperforward_are_the_networks_of_its_code():
    """Channels, strides, shortcuts, rate and weight decay of the public code's ``resnet.py`` and ``tinycnn.py``."""
    found = presets("deeperforward")
    for name, settings in found.items():
        net = nets.parse(settings["net"]).build(10)
        rate, decay = (0.08, 5e-4) if name == "cifar10" else (0.03, 0.01)
        assert (settings["learning_rate"], settings["weight_decay"], settings["epochs"]) == (rate, decay, 150)
        assert {block.dropout for block in net} == {0.2}
    deep = nets.parse(found["cifar10"]["net"]).build(10)
    assert [block.channels for block in deep] == [100] * 5 + [200] * 4 + [400] * 4 + [800] * 4
    assert [at for at, block in enumerate(deep) if block.stride == 2] == [5, 9, 13]  # the first ones of blocks 2 to 4
    rule = deeperforward.rule(deep, optax.sgd(0.1), num_classes=10, shortcuts=found["cifar10"]["shortcuts"])
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    shapes = jax.eval_shape(rule.activations, jax.eval_shape(rule.init, jax.random.key(0), images), images)
    assert [a.shape[1:] for a in shapes[4::4]] == [(32, 32, 200), (16, 16, 400), (8, 8, 800), (4, 4, 1600)]


def test_presets_of_scff_are_the_settings_of_its_code():
    """``config.json`` of the public code; a layer's maps, pooled once more, are 6,144 features there."""
    for name, sides, widths in (("mnist", (), (2000, 2000)), ("cifar10", (16, 8, 4), (96, 384, 1536))):
        (arm,) = train.study_of(["scff-greedy", "--preset", name]).arms
        shape = (1, 32, 32, 3) if sides else (1, 28, 28, 1)
        *layers, last = stages = arm.training(10, 500)
        state = jax.eval_shape(stages[0].rule.init, jax.random.key(0), jnp.ones(shape))
        outputs = jax.eval_shape(last.rule.activations, state, jnp.ones(shape))
        assert [a.shape[-1] for a in outputs] == list(widths)
        assert tuple(a.shape[1] for a in outputs if a.ndim == 4) == sides
        assert state.params[-1].W.shape == (3 * 6144 if sides else 4000, 10)
        lengths = (6, 4, 21, 50) if sides else (20, 9, 50)
        assert tuple(plan.epochs for plan in arm.plans(stages)) == lengths == arm.options["stage_epochs"]
        assert len(layers) == len(widths) and {plan.keep for plan in arm.plans(stages)} == {"last"}
        assert (arm.optimizer.optimizer, arm.optimizer.weight_decay) == ("adamw", 1e-4)
    rates, options = arm.optimizer.layer_rates, arm.options
    assert rates == (0.01, 2e-3, 2e-4, 1e-3) and options["threshold_pos"] == (0, 5, 6)
    assert options["threshold_neg"] == (1, 9, 10) and options["penalty"] == (1.2e-3, 7e-4, 5e-4)
    assert options["pairs"] == ("anew", "carried", "anew")


def test_presets_of_the_error_driven_rules_are_the_published_settings():
    pepita = presets("pepita")
    names = ("learning_rate", "epochs", "batch_size", "lr_drops")
    for name, expected in {
        "mnist": (0.1, 100, 64, (60, 90)),
        "cifar10": (0.01, 100, 64, (60, 90)),
        "cnn_mnist": (0.01, 100, 50, (10, 30, 60)),
        "srinivasan_cifar10": (0.01, 100, 64, (60, 90)),
    }.items():
        assert tuple(pepita[name][key] for key in names) == expected
    assert pepita["srinivasan_hebbian"]["sign"] == -1.0 and pepita["srinivasan_cifar10"]["output_error"] == "first"
    rates = {("mnist", "fa"): 0.2, ("mnist", "wm"): 0.05, ("mnist", "kp"): 0.3, ("cifar10", "fa"): 0.2}
    for (name, mode), rate in rates.items():
        found = presets(mode)[name]
        assert (found["learning_rate"], found["epochs"]) == (rate, 400)
        assert mode != "kp" or found["decay"] == 0.0
        assert mode != "wm" or found["mirror_decay"] == 0.0  # the code has none
        width = 500 if name == "mnist" else 1000
        assert found["net"] == f"mlp:{width};activation=sigmoid;start=normal_fan_avg"
    released = presets("foton")["released_cifar100"]
    assert (released["learning_rate"], released["dropout"], released["epochs"]) == (0.5, 0.1, 100)


@pytest.mark.parametrize("preset", ["mnist", "fashion_mnist", "cifar10", "cifar100"])
def test_presets_are_the_published_settings_and_options_override_them(preset):
    words = ["mf", "--against", "bp", "--preset", preset, "--seeds", "3", "--bp.patience", "7"]
    study = train.study_of(words)
    # mf.md, sections 4.1-4.3; fairness.md, sections 3.3 and 6.6
    rate, cap, patience, widths, bp_rate, bp_decay = {
        "mnist": (1.570297088405539e-3, 14, 5, (1000, 1000), 1.9762e-4, 7.4763e-6),
        "fashion_mnist": (3.873086262136253e-4, 12, 10, (1000, 1000), 2.1316e-4, 2.7123e-5),
        "cifar10": (3.241756767272183e-4, 15, 4, (2000, 2000, 2000), 8.1159e-5, 2.0847e-5),
        "cifar100": (1.7277890583771544e-4, 8, 4, (2000, 2000, 2000), 1.0362e-4, 9.1059e-6),
    }[preset]
    ours, twin = study.arms
    assert (ours.optimizer.learning_rate, ours.plan.epochs, ours.plan.patience) == (rate, cap, patience)
    assert (ours.plan.min_delta, ours.plan.batch_size, ours.plan.normalise) == (1e-4, 128, "paper")
    assert (ours.net.sizes, ours.optimizer.optimizer, ours.optimizer.lr_schedule) == (widths, "adam", "constant")
    chosen = [ours.options[name] for name in ("schedule", "input_readout", "prediction")]
    assert chosen == ["greedy", False, "last"] and ours.plan.keep == "last"
    assert ours.plan.augment == preset.startswith("cifar") and twin.plan.augment == ours.plan.augment
    assert (twin.optimizer.learning_rate, twin.optimizer.weight_decay) == (bp_rate, bp_decay)
    assert twin.optimizer.optimizer == "adamw" and twin.optimizer.lr_schedule == "constant"
    assert (twin.plan.epochs, twin.plan.patience, twin.plan.min_delta) == (100, 7, 0.0)
    assert twin.plan.keep == "best_accuracy" and twin.plan.normalise == "paper"
    assert (study.data.dataset, study.data.split, study.runs.seeds) == (preset, "paper", 3)
    assert {arm.net.label for arm in study.arms} == {f"MLP {'-'.join(map(str, widths))}"}


def tiny_file(folder, **changes):
    rng = np.random.default_rng(0)
    content = {
        "x_train": rng.integers(0, 255, (300, 6, 6), dtype=np.uint8),
        "y_train": np.arange(300) % 3,
        "x_test": rng.integers(0, 255, (60, 6, 6), dtype=np.uint8),
        "y_test": np.arange(60) % 3,
    }
    np.savez(folder / "mine.npz", **content | changes)
    return ["--dataset", "mine", "--data-dir", folder, "--net", "mlp:8", "--seeds", "1", "--epochs", "1"]


def test_every_bad_input_is_one_line_a_non_zero_exit_and_loses_nothing(script, tmp_path, monkeypatch):
    monkeypatch.setenv("FWDONLY_OFFLINE", "1")
    monkeypatch.setenv("FWDONLY_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FWDONLY_DATA", raising=False)
    monkeypatch.setitem(sys.modules, "grain", None)  # not installed
    files = tmp_path / "files"
    files.mkdir()
    mine = tiny_file(files)
    done = tmp_path / "done"
    assert script("mf_mlp", *mine, "--batch-size", 32, "--output-dir", done)[0] == 0
    before = {path.name: path.read_bytes() for path in done.iterdir()}

    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "mine.npz").write_bytes((files / "mine.npz").read_bytes()[:2000])
    (broken / "mnist.npz").write_bytes((files / "mine.npz").read_bytes())
    labels = tmp_path / "labels"
    labels.mkdir()
    tiny_file(labels, y_train=np.where(np.arange(300) == 7, -1, np.arange(300) % 3))
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "todo.txt").write_text("mine")

    new = ["--output-dir", tmp_path / "new"]
    digits = ["--dataset", "digits", "--net", "mlp:8", *new]
    cases = {
        "unknown dataset": (["--dataset", "nonsense", *new], "nonsense"),
        "a named set that cannot be had": (["--dataset", "cifar10", *new], "cifar10"),
        "truncated file": (["--dataset", "mine", "--data-dir", broken, *new], "mine.npz"),
        "wrong checksum": (["--dataset", "mnist", "--data-dir", broken, *new], "mnist.npz"),
        "labels outside": (["--dataset", "mine", "--data-dir", labels, *new], "label"),
        "no data folder": (["--data-dir", tmp_path / "nowhere", *new], "nowhere"),
        "widths": ([*digits[:2], "--net", "mlp:0", *new], "from 1"),
        "epochs": ([*digits, "--epochs", "0"], "epochs"),
        "batch size": ([*digits, "--batch-size", "-5"], "batch"),
        "seeds": ([*digits, "--seeds", "0"], "seeds"),
        "first seed": ([*digits, "--first-seed", "-1"], "first-seed"),
        "learning rate": ([*digits, "--learning-rate", "-0.1"], "learning-rate"),
        "bp learning rate": ([*digits, "--bp.learning-rate", "nan"], "learning-rate"),
        "bp epochs": ([*digits, "--bp.epochs", "0"], "epochs"),
        "batch over split": ([*digits, "--batch-size", "5000"], "smaller batch"),
        "sum without readout": ([*digits, "--sum-includes-input"], "input_readout"),
        "other configuration": ([*mine, "--batch-size", 16, "--output-dir", done], "batch_size"),
        "finished": ([*mine, "--batch-size", 32, "--output-dir", done], "--resume"),
        "foreign folder": ([*digits[:4], "--output-dir", notes], "not a result folder"),
        "a file": ([*digits[:4], "--output-dir", notes / "todo.txt"], "is a file"),
        "resume what": ([*digits[:4], "--resume"], "--output-dir"),
        "precision of another device": ([*digits, "--precision", "tf32"], "accelerator"),
        "devices that are not there": ([*digits, "--devices", "99"], "devices"),
        "seeds at once": ([*digits, "--at-once", "0"], "at-once"),
        "a full batch from host memory": ([*digits, "--stream", "True", "--batch-size", "None"], "stream"),
        "nothing that brings images": ([*digits, "--stream", "True"], "fwdonly[stream]"),
        "whose intensity": ([*digits, "--energy", "--carbon-intensity", "100"], "--carbon-source"),
        "nobody's intensity": (
            [*digits, "--energy", "--carbon-intensity", "100", "--carbon-source", " "],
            "--carbon-source",
        ),
        "intensity of nothing": ([*digits, "--carbon-intensity", "100", "--carbon-source", "us"], "--energy"),
        "negative intensity": (
            [*digits, "--energy", "--carbon-intensity", "-1", "--carbon-source", "us"],
            "carbon-intensity",
        ),
        "no country": ([*digits, "--energy", "--codecarbon", "Poland"], "three letters"),
        "idle seconds": ([*digits, "--energy", "--idle-seconds", "nan"], "idle-seconds"),
        "unwritable": ([*digits[:4], "--output-dir", "/proc/none/results"], "writable"),
    }
    narrow = tmp_path / "narrow"
    narrow.mkdir()
    rng = np.random.default_rng(0)
    tiny_file(
        narrow, x_train=rng.integers(0, 9, (300, 1, 2), np.uint8), x_test=rng.integers(0, 9, (60, 1, 2), np.uint8)
    )
    alike = tmp_path / "alike"
    alike.mkdir()
    tiny_file(alike, y_train=np.full(300, 2), num_classes=3)
    cases = {name: ("mf_mlp", *case) for name, case in cases.items()}
    cases |= {
        "overlay wider than the image": ("ff_mlp", ["--dataset", "mine", "--data-dir", narrow, *new], "append"),
        "one class of images": ("ff_mlp", ["--dataset", "mine", "--data-dir", alike, *new], "two classes"),
        "one class, closed form": (
            *("cafo_cnn", ["--dataset", "mine", "--data-dir", alike, "--net", "cnn:4", "--loss", "mse", *new]),
            "two classes",
        ),
        "labels outside, ff": ("ff_mlp", ["--dataset", "mine", "--data-dir", labels, *new], "label"),
        "labels outside, cafo": (
            "cafo_cnn",
            ["--dataset", "mine", "--data-dir", labels, "--net", "cnn:4", *new],
            "label",
        ),
        "precision of a search": ("tune", ["mf", *digits, "--precision", "tf32"], "accelerator"),
        "no layer": ("ff_mlp", [*digits, "--first", "0"], "from 1"),
        "pooled to nothing": ("cafo_cnn", ["--dataset", "mine", "--data-dir", files, *new], "fewer blocks"),
        "closed form of trained blocks": (
            "cafo_cnn",
            [*digits[:2], "--loss", "mse", "--blocks", "dfa", *new],
            "use loss ce",
        ),
        "bias in closed form": ("cafo_cnn", [*digits[:2], "--loss", "mse", "--head-bias", *new], "head_bias"),
        "channels": ("ff_cnn", [*digits[:2], "--net", "cwc:7", *new], "multiples"),
        "ridge": ("cafo_cnn", [*digits[:2], "--loss", "mse", "--ridge", "-1", *new], "ridge"),
        "validations": ("cafo_cnn", [*digits[:2], "--epochs", "10", "--validate-every", "3", *new], "validate_every"),
        "rate of the head": ("ff_mlp", [*digits, "--head-learning-rate", "nan"], "head-learning-rate"),
        "epochs of the blocks": ("cafo_cnn", [*digits[:2], "--blocks", "dfa", "--block-epochs", "0", *new], "epochs"),
        "validations of blocks": (
            *("cafo_cnn", [*digits[:2], "--blocks", "dfa", "--validate-every", "2", *new]),
            "validate_every must divide epochs",
        ),
        "temperature": ("foton_mlp", [*digits, "--temperature", "0"], "temperature"),
        "retraction": ("foton_mlp", [*digits, "--retract-every", "0"], "retract_every"),
        "feedback": ("foton_mlp", [*digits, "--feedback-every", "0"], "feedback_every"),
        "perturbation": ("foton_mlp", [*digits, "--perturbation", "0"], "perturbation"),
        "no temperature": ("foton_mlp", [*digits, "--temperature", "nan"], "temperature"),
        "dropout": ("pepita_mlp", [*digits, "--dropout", "1"], "dropout"),
        "decay": ("feedback_mlp", [*digits, "--against", "kp", "--kp.decay", "2"], "below 1"),
        "nothing to send": ("feedback_mlp", [*digits[:2], "--net", "mlp:8;start=zeros", *new], "zeros"),
        "mirror epochs": ("feedback_mlp", [*digits, "--against", "wm", "--wm.mirror-epochs", "-1"], "mirror-epochs"),
        "a rule twice": ("mf_mlp", [*digits, "--against", "bp", "bp"], "differ from each other"),
        "a rule for nobody": ("mf_mlp", [*digits, "--ff.peer", "0"], "not among mf, bp"),
        "no network": ("mf_mlp", [*digits[:2], "--net", "resnet", *new], "is no network"),
        "no such option of a network": ("mf_mlp", [*digits[:2], "--net", "mlp:8;pool=max", *new], "no option"),
        "no file of networks": ("mf_mlp", [*digits[:2], "--net", "nets.py:small", *new], "no file nets.py"),
        "no hidden layer": ("foton_mlp", [*digits[:2], "--net", "mlp:", *new], "sizes are whole numbers"),
        "mirrored convolution": (
            *("pepita_mlp", [*digits[:2], "--net", "cnn:4", "--feedback", "mirrored", *new]),
            "dense layers",
        ),
        "bound of errors": ("feedback_mlp", [*digits, "--error-clip", "0"], "error_clip"),
        "windows over the edge": ("pepita_mlp", [*digits[:2], "--net", "cnn:4,4;kernel=5;padding=valid", *new], "5x5"),
        "drop of the rate": ("pepita_mlp", [*digits, "--lr-drops", "0"], "lr-drops"),
    }
    wrong = {}
    for name, (script_name, arguments, word) in cases.items():
        code, _, err = script(script_name, *arguments)
        if code != 2 or not err.startswith("error: ") or err.count("\n") != 1 or word not in err:
            wrong[name] = code, err
        assert not (tmp_path / "new").exists() or not any((tmp_path / "new").iterdir()), name
    assert not wrong
    assert {path.name: path.read_bytes() for path in done.iterdir()} == before
    assert (notes / "todo.txt").read_text() == "mine"


def test_unlike_devices_are_refused_only_where_runs_would_be_spread_over_them(script, tmp_path, monkeypatch):
    unlike = [SimpleNamespace(device_kind=kind, memory_stats=dict) for kind in ("A100", "T4")]
    monkeypatch.setattr(jax, "local_devices", lambda: unlike)
    small = [*SMALL, "--epochs", "1", "--net", "mlp:8", "--against", "--output-dir"]
    code, _, err = script("mf_mlp", *small, tmp_path / "together")
    assert code == 2 and "different kinds" in err and not (tmp_path / "together").exists()
    assert script("mf_mlp", *small, tmp_path / "alone", "--alone")[0] == 0
    # Where all is done, nothing is asked of the machine.
    monkeypatch.setattr(jax, "local_devices", lambda: pytest.fail("asked"))
    assert script("mf_mlp", *small, tmp_path / "alone", "--alone", "--resume")[0] == 0


def test_a_diverging_learning_rate_is_reported_and_the_folder_is_whole(script, tmp_path):
    code, out, err = script(
        *("bp_mlp", *TINY, "--optimizer", "sgd", "--lr-schedule", "constant", "--learning-rate", "1e20"),
        *("--output-dir", tmp_path / "d"),
    )
    assert code == 3 and "0 diverged" in out and "warning: the loss of BP" in err and "lower learning rate" in err
    summary = json.loads((tmp_path / "d" / "summary.json").read_text())
    assert all(run["diverged"] and run["test_accuracy"] is None for run in summary["rules"][0]["runs"])


def test_energy_that_cannot_be_measured_is_said_to_be_unavailable_and_changes_nothing_else(script, tmp_path):
    pytest.importorskip("codecarbon")
    plain = [*TINY, "--against"]
    energy = ["--energy", "--codecarbon", "POL", "--carbon-intensity", "662", "--carbon-source", "somebody, 2024"]
    assert script("mf_mlp", *plain, "--output-dir", tmp_path / "plain")[0] == 0
    code, out, _ = script("mf_mlp", *plain, *energy, "--output-dir", tmp_path / "metered")
    assert code == 0 and "energy J" in out and "CO2e g" in out and "codecarbon unavailable" in out
    assert "\nenergy: unavailable, " in out and "MF: energy unavailable: " in out
    of = {name: json.loads((tmp_path / name / "summary.json").read_text())["rules"][0] for name in ("plain", "metered")}
    assert of["plain"]["energy"] is None
    for name in ("energy", "net", "mean_power", "co2e"):
        assert of["metered"]["energy"][name]["value"] is None and of["metered"]["energy"][name]["reason"]
    assert metrics(tmp_path / "plain") == metrics(tmp_path / "metered")
    assert not (tmp_path / "metered" / "power.png").exists()
    assert not list(Path.cwd().glob("emissions*.csv"))


def test_ctrl_c_leaves_a_folder_that_resumes_to_the_numbers_of_an_uninterrupted_run(script, tmp_path):
    arguments = [*TINY[:-4], "--epochs", "40", "--batch-size", "16"]
    command = [sys.executable, str(EXPERIMENTS / "mf_mlp.py"), *arguments, "--output-dir", str(tmp_path / "a")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if "epoch 3/40" in line:
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "interrupted; the table is partial" in out and "--resume" in out and "mean of 0" in out
    assert (tmp_path / "a" / "mf.checkpoint.npz").exists()
    partial = json.loads((tmp_path / "a" / "summary.json").read_text())
    assert not partial["finished"]
    assert script("mf_mlp", *arguments, "--output-dir", tmp_path / "a", "--resume")[0] == 0
    assert script("mf_mlp", *arguments, "--output-dir", tmp_path / "b")[0] == 0
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")
    finished = [json.loads((tmp_path / name / "summary.json").read_text()) for name in "ab"]
    accuracies = [[run["test_accuracy"] for rule in f["rules"] for run in rule["runs"]] for f in finished]
    assert accuracies[0] == accuracies[1] and finished[0]["finished"]
    assert not list((tmp_path / "a").glob("*.checkpoint.npz"))
    began = time.perf_counter()
    code, out, _ = script("mf_mlp", *arguments, "--output-dir", tmp_path / "a", "--resume")
    assert code == 0 and "mean of 2" in out and time.perf_counter() - began < 10  # finished: prints, trains nothing


SCRIPTS = sorted(path.stem for path in EXPERIMENTS.glob("*.py"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_explains_every_option(script, name):
    code, out, _ = script(name, "--help")
    assert code == 0 and out.startswith("usage: fwdonly ")
    if name in ("compare", "tune", "report", "reproduce", "serve_study", "submit"):
        return
    for option in ("--seeds", "--net", "--data-dir", "--resume", "--preset", "--against", "--learning-rate"):
        assert option in out
    code, short, _ = script(name, "-h")
    assert code == 0 and len(short.splitlines()) < 60 and max(map(len, short.splitlines())) < 80
