"""Signals: what was trained is saved, then the run ends, with one exit code for all of them."""

import json
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import optax
import pytest

from fwdonly import Interrupted, Plan, fit, mf, nets, results, sweep
from fwdonly.cli import main
from fwdonly.study import terminal
from fwdonly.training import SIGNALS, interruptible

NET = nets.mlp([8])
PLAN = Plan(epochs=6, batch_size=20, keep="last", chunk_steps=3)
GENTLE = {signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}
"""Signals that clusters and closed terminals send."""


@pytest.fixture(autouse=True)
def hangup_as_usual():
    """As without nohup, which has it ignored by all that it starts."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def rule(learning_rate=0.01):
    return mf.rule(NET, optax.adam(learning_rate), num_classes=4)


RULE = rule()


def strike(number, when, times=1):
    """A callback in whose call ``when`` (from 1) this process gets a signal."""
    calls = []

    def callback(progress):
        calls.append((progress.epoch, progress.step))
        if len(calls) == when:
            for _ in range(times):
                os.kill(os.getpid(), number)

    return callback, calls


def same(found, wanted):
    for name in ("epochs", "kept_epoch", "val_loss", "val_accuracy", "test_loss", "test_accuracy", "predictions"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    np.testing.assert_array_equal(found.history["train_loss"], wanted.history["train_loss"])


def test_clusters_and_terminals_are_heard():
    assert set(SIGNALS) == GENTLE | {signal.SIGINT}


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_asks_and_the_second_one_ends(number, capsys):
    before = signal.getsignal(number)
    with interruptible() as asked:
        assert not asked()
        os.kill(os.getpid(), number)
        assert asked()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(number) == before
    assert capsys.readouterr().err.count("stopping after the steps under way") == 1


def test_a_hangup_that_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible() as asked:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not asked()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_terminal_that_is_gone_ends_no_run():
    code = (
        "import os, signal, sys\nfrom fwdonly.training import interruptible\n"
        "read, write = os.pipe()\nos.close(read)\nos.dup2(write, 2)\n"
        "with interruptible() as asked:\n    os.kill(os.getpid(), signal.SIGHUP)\n    assert asked()\n"
        "    print('progress', file=sys.stderr, flush=True)\nprint('saved')\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout) == (0, "saved\n")


@pytest.mark.parametrize("when", [2, 5, 8])
def test_a_ctrl_c_in_fit_is_saved_then_raised(tiny, tmp_path, when):
    wanted = fit(RULE, tiny, PLAN, seed=1)
    callback, calls = strike(signal.SIGINT, when)
    path = tmp_path / "c.npz"
    with pytest.raises(Interrupted) as stop:
        fit(RULE, tiny, PLAN, seed=1, checkpoint=path, callback=callback)
    assert len(calls) == when  # nothing was trained after the steps under way
    partial = stop.value.result
    assert not partial.finished
    assert partial.epochs < 6
    trained = len(partial.history.get("train_loss", ()))
    np.testing.assert_array_equal(partial.history.get("train_loss", []), wanted.history["train_loss"][:trained])
    again, later = strike(signal.SIGINT, 0)
    same(fit(RULE, tiny, PLAN, seed=1, checkpoint=path, resume=True, callback=again), wanted)
    assert later[0] > calls[-1]  # it was saved where it stood
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("how", ["map", "vmap"])
def test_a_ctrl_c_in_a_sweep_leaves_the_partial_result(tiny, how):
    options = {"seeds": [0, 1, 2], "how": how, "at_once": 2}
    wanted = sweep(rule, tiny, PLAN, hyper={"learning_rate": 0.01}, **options)
    callback, _ = strike(signal.SIGINT, 32)  # of 6 epochs of 4 chunks and a validation: in the second group
    with pytest.raises(Interrupted, match=r"sys\.last_value\.result") as stop:
        sweep(rule, tiny, PLAN, hyper={"learning_rate": 0.01}, callback=callback, **options)
    partial = stop.value.result
    assert not partial.finished
    assert partial.epochs[:2].tolist() == [6, 6]
    assert partial.epochs[2] < 6
    np.testing.assert_array_equal(partial.val_loss[:2], wanted.val_loss[:2])


def test_a_second_ctrl_c_is_one_at_once(tiny):
    callback, _ = strike(signal.SIGINT, 3, times=2)
    with pytest.raises(KeyboardInterrupt) as stop:
        fit(RULE, tiny, PLAN, callback=callback)
    assert not isinstance(stop.value, Interrupted)


def test_a_ctrl_c_that_somebody_else_takes_is_theirs(tiny):
    """As a command does: its own handler is asked, and `fit` returns."""
    callback, _ = strike(signal.SIGINT, 3)
    with interruptible() as asked:
        found = fit(RULE, tiny, PLAN, callback=lambda progress: callback(progress) or asked())
    assert not found.finished


def test_a_thread_trains_without_signals(tiny):
    done = []
    thread = threading.Thread(target=lambda: done.append(fit(RULE, tiny, Plan(epochs=1, batch_size=20))))
    thread.start()
    thread.join()
    assert done[0].finished


SMALL = ["--dataset", "digits", "--seeds", "1", "--net", "mlp:8"]
QUICK = [*SMALL, "--epochs", "3", "--quiet", "--output-dir"]


def numbers(folder):
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in results.read_metrics(folder / "metrics.csv")]
    run = json.loads((folder / "summary.json").read_text())["rules"][0]["runs"][0]
    return rows, [run[name] for name in ("test_accuracy", "test_loss", "val_loss", "epochs")]


@pytest.mark.parametrize("number", sorted(GENTLE))
def test_every_signal_saves_a_run_and_has_one_exit_code(tmp_path, monkeypatch, capsys, number):
    whole, folder = tmp_path / "whole", tmp_path / "r"
    usual = terminal.Display.__call__
    callback, _ = strike(number, 2)
    assert main(["train", "mf", *QUICK, str(whole)], ["fwdonly"]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(terminal.Display, "__call__", lambda self, progress: callback(progress) or usual(self, progress))
        assert main(["train", "mf", *QUICK, str(folder)], ["fwdonly"]) == 130
    assert (folder / "mf.checkpoint.npz").exists()
    assert not json.loads((folder / "summary.json").read_text())["finished"]
    assert main(["train", "mf", *QUICK, str(folder), "--resume"], ["fwdonly"]) == 0
    assert numbers(folder) == numbers(whole)


@pytest.mark.parametrize("number", sorted(GENTLE))
def test_a_signal_outside_of_a_training_has_that_code_too(monkeypatch, capsys, number):
    from fwdonly.cli import train

    monkeypatch.setattr(train, "main", lambda *_: os.kill(os.getpid(), number))
    assert main(["train", "mf"], ["fwdonly"]) == 130
    assert signal.getsignal(number) == signal.SIG_DFL
    assert capsys.readouterr().err == "interrupted; what was saved before is kept\n"


TERMINAL = """
import os, pty, sys
process, terminal = pty.fork()
if process == 0:
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
said = b""
while b"loss" not in said:
    said += os.read(terminal, 4096)
os.close(terminal)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
"""
"""Runs a command in a terminal of its own, and closes that while the command trains."""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs terminals of Unix")
def test_a_closed_terminal_ends_a_run_that_resumes(tmp_path):
    words = ["-m", "fwdonly", "train", "mf", *SMALL, "--epochs", "40000", "--batch-size", "16"]
    words += ["--output-dir", str(tmp_path / "r")]
    environment = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "TERM": "xterm"}
    ended = subprocess.run([sys.executable, "-c", TERMINAL, *words], env=environment, timeout=300)
    assert ended.returncode == 130
    assert (tmp_path / "r" / "mf.checkpoint.npz").exists()
    assert not json.loads((tmp_path / "r" / "summary.json").read_text())["finished"]
    assert not [path for path in (tmp_path / "r").iterdir() if path.suffix in (".part", ".lock")]
