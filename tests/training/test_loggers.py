"""Loggers get every validated epoch of every run, the real packages among them where they are installed."""

import json
import struct
import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import optax
import pytest

from fwdonly import Plan, UsageError, fit, loggers, mf, nets, sweep

SMALL = ["--dataset", "digits", "--net", "mlp:8", "--seeds", "2", "--epochs", "2", "--batch-size", "64", "--quiet"]


def make(learning_rate=0.01):
    return mf.rule(nets.mlp([8, 6]), optax.adam(learning_rate), num_classes=4)


RULE = make()
PLAN = Plan(epochs=2, batch_size=20, patience=None)


@pytest.fixture
def written():
    """What a logger was given."""
    return []


@pytest.fixture
def write(written):
    return lambda run, epoch, numbers: written.append((run, epoch, dict(numbers)))


def test_a_run_writes_its_history(tiny, write, written):
    result = fit(RULE, tiny, PLAN, callback=loggers.log(write))
    assert [row[:2] for row in written] == [("run-0", 1), ("run-0", 2)]
    for at, (_, _, numbers) in enumerate(written):
        assert {name: numbers[name] for name in ("train_loss", "val_loss", "val_accuracy")} == {
            name: float(result.history[name][at]) for name in ("train_loss", "val_loss", "val_accuracy")
        }
        layers = [numbers["layer_loss_1"], numbers["layer_loss_2"]]
        assert layers == result.history["layer_loss"][at].tolist() and "layer_loss_3" not in numbers


def test_epochs_of_stages_are_counted_on(tiny, write, written):
    stages = mf.stages(nets.mlp([8, 6]), optax.adam(0.01), num_classes=4)
    fit(stages, tiny, [PLAN] * len(stages), callback=loggers.log(write))
    assert [epoch for _, epoch, _ in written] == list(range(1, 2 * len(stages) + 1))


@pytest.mark.parametrize("at_once", [None, 1])
def test_every_run_of_a_sweep_has_its_name_and_stops_when_it_has_stopped(tiny, write, written, at_once):
    def ends_the_first(progress):
        first, last, _ = progress.runs
        return np.array([at == 0 and progress.epoch >= 1 for at in range(first, last)])

    callbacks = [loggers.log(write, ["a", "b"]), ends_the_first]
    train = partial(sweep, make, tiny, PLAN, seeds=[0, 1], hyper={"learning_rate": 0.01}, at_once=at_once)
    result = train(callback=callbacks)
    assert sorted(row[:2] for row in written) == [("a", 1), ("b", 1), ("b", 2)]
    of_b = [numbers["val_loss"] for run, _, numbers in written if run == "b"]
    assert of_b == result.history["val_loss"][:, 1].tolist()
    with pytest.raises(UsageError, match="there are 2 runs and 1 names"):
        train(callback=loggers.log(write, ["a"]))


def test_a_logger_that_fails_costs_its_log_and_not_the_training(tiny):
    calls = []

    def full(run, epoch, numbers):
        calls.append(epoch)
        raise OSError("No space left on device")

    with pytest.warns(loggers.LoggerWarning, match="No space left on device.; the training goes on"):
        logged = fit(RULE, tiny, PLAN, callback=loggers.log(full))
    plain = fit(RULE, tiny, PLAN)
    assert calls == [1] and logged.test_accuracy == plain.test_accuracy


WRITER = """
import json, pathlib

class Log:
    def __call__(self, run, epoch, numbers):
        with open("log.txt", "a") as file:
            print(json.dumps([run, epoch, numbers["val_accuracy"]]), file=file)

    def close(self):
        pathlib.Path("closed").touch()

write = Log()
number = 3
short = lambda run: None
"""


def test_a_command_logs_every_rule_and_seed_and_closes_the_log(script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(WRITER)
    assert script("mf_mlp", *SMALL, "--output-dir", "r", "--log", "own.py:write")[0] == 0
    rows = [json.loads(line) for line in (tmp_path / "log.txt").read_text().splitlines()]
    names = [f"{rule}/seed-{seed}" for rule in ("mf", "bp") for seed in (0, 1)]
    assert sorted(row[:2] for row in rows) == sorted([name, epoch] for name in names for epoch in (1, 2))
    assert (tmp_path / "closed").exists()
    config = json.loads((tmp_path / "r" / "config.json").read_text())["configuration"]
    assert "own.py" not in json.dumps(config)  # a log changes no number: a resumed run may have another one


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("tensorbord", "'tensorbord' is no logger; give tensorboard, mlflow, wandb or FILE.py:FUNCTION"),
        ("own.py", "'own.py' is no logger"),
        ("gone.py:write", "there is no file gone.py"),
        ("own.py:gone", "own.py has no function gone"),
        ("own.py:number", "own.py has no function number"),
        ("own.py:Log", "Log of own.py cannot be called with (run, epoch, numbers): it is a class"),
        ("own.py:short", "short of own.py cannot be called with (run, epoch, numbers): too many positional arguments"),
    ],
)
def test_a_logger_that_is_none_is_one_line_before_anything_is_trained(script, tmp_path, monkeypatch, word, line):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(WRITER)
    code, out, error = script("bp_mlp", *SMALL, "--output-dir", "r", "--log", word)
    assert code == 2 and error.count("\n") == 1 and line in error
    assert not (tmp_path / "r").exists() and "epoch" not in out


@pytest.mark.parametrize("kind", ["tensorboardX", "mlflow", "wandb"])
def test_a_package_that_is_not_installed_is_named(monkeypatch, tmp_path, kind):
    monkeypatch.setitem(sys.modules, kind, None)
    word = {"tensorboardX": "tensorboard"}.get(kind, kind)
    with pytest.raises(UsageError, match=f"this log needs {kind}: pip install {kind}"):
        loggers.logger_of(word, tmp_path)


def test_tensorboard_reads_the_numbers_back(tiny, tmp_path, write, written):
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event

    with loggers.opened(["tensorboard"], tmp_path) as (board,):
        fit(RULE, tiny, PLAN, callback=[loggers.log(board, ["mf/seed-0"]), loggers.log(write)])
    (file,) = (tmp_path / "tensorboard" / "mf" / "seed-0").iterdir()
    raw, at, read = file.read_bytes(), 0, {}
    while at < len(raw):  # records of TensorFlow: length, its checksum, data, their checksum
        (length,) = struct.unpack_from("<Q", raw, at)
        event = Event.FromString(raw[at + 12 : at + 12 + length])
        read |= {(event.step, value.tag): value.simple_value for value in event.summary.value}
        at += length + 16
    assert read == {(epoch, name): np.float32(x) for _, epoch, of in written for name, x in of.items()}


@pytest.mark.filterwarnings("ignore")
def test_mlflow_reads_the_numbers_back(tiny, tmp_path, write, written, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # its other local store needs the whole of MLflow
    store = (tmp_path / "store").as_uri()
    with pytest.raises(UsageError, match=r"^--log mlflow:nosuch://x: ") as refused:
        loggers.logger_of("mlflow:nosuch://x", tmp_path)
    assert "\n" not in str(refused.value)
    with loggers.opened([f"mlflow:{store}"], tmp_path) as (log,):
        fit(RULE, tiny, PLAN, callback=[loggers.log(log, ["mf/seed-0"]), loggers.log(write)])
    client = mlflow.MlflowClient(store)
    (run,) = client.search_runs([client.get_experiment_by_name("fwdonly").experiment_id])
    assert run.info.status == "FINISHED" and run.info.run_name == "mf seed-0"
    for name in written[0][2]:
        history = client.get_metric_history(run.info.run_id, name)
        assert [(m.step, m.value) for m in history] == [(epoch, numbers[name]) for _, epoch, numbers in written]


def test_weights_and_biases_gets_a_run_for_every_run(tiny, tmp_path, monkeypatch, write, written):
    """Against a module with the functions that the package documents."""
    calls = []

    class Run:
        def __init__(self, name):
            self.name = name

        def log(self, numbers, step):
            calls.append((self.name, step, numbers))

        def finish(self):
            calls.append((self.name, "finished"))

    def init(*, name, project, dir, reinit):
        assert (project, dir, reinit) == ("mine", str(tmp_path), "create_new")
        return Run(name)

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    with loggers.opened(["wandb:mine"], tmp_path) as (log,):
        fit(RULE, tiny, PLAN, callback=[loggers.log(log, ["mf/seed-0"]), loggers.log(write)])
    assert calls == [*(("mf seed-0", epoch, numbers) for _, epoch, numbers in written), ("mf seed-0", "finished")]


def test_a_log_is_refused_within_what_energy_measures(script, tmp_path):
    code, _, error = script("bp_mlp", *SMALL, "--energy", "--log", "tensorboard", "--output-dir", tmp_path / "r")
    assert code == 2 and error.count("\n") == 1 and "--log writes within what --energy measures" in error
