"""The line of progress that ``fit`` and ``sweep`` show where somebody looks."""

import io
import sys
from types import SimpleNamespace

import numpy as np
import optax
import pytest

from fwdonly import Plan, fit, mf, nets, sweep
from fwdonly.training import line as lines


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """Standard error as a terminal of 80 columns."""
    shown = Terminal()
    monkeypatch.setattr(lines, "sys", SimpleNamespace(stderr=shown, modules=sys.modules))  # pytest sets sys.stderr anew
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(lines, "EVERY", 0.0)
    return shown


def make(learning_rate=0.01):
    return mf.rule(nets.mlp([8, 6]), optax.adam(learning_rate), num_classes=4)


RULE, PLAN = make(), Plan(epochs=2, batch_size=20, patience=None, chunk_steps=3)


def test_a_terminal_has_one_line_that_is_written_over(tiny, terminal):
    result = fit(RULE, tiny, PLAN)
    text = terminal.getvalue()
    assert text.count("\n") == 1 and text.endswith("\n")
    parts = [part.rstrip() for part in text.rstrip("\n").split("\r")]
    assert parts[:2] == ["", "compiling"] and max(map(len, parts)) < 80
    assert parts[2].startswith("epoch 1/2  loss ") and " gone  0:0" in parts[2] and parts[2].endswith(" left")
    val = 100 * result.history["val_accuracy"]
    assert f"epoch 1/2  loss {result.history['train_loss'][0]:.4f}  val {val[0]:.2f} %" in parts[4]
    assert parts[-1].startswith("epoch 2/2") and f"val {val[1]:.2f} %" in parts[-1]


def test_a_sweep_in_groups_says_which_seeds_train(tiny, terminal):
    sweep(make, tiny, PLAN, seeds=[0, 1], hyper={"learning_rate": 0.01}, at_once=1)
    assert "\rseeds 1-1 of 2  epoch 1/2" in terminal.getvalue() and "\rseeds 2-2 of 2  epoch 2/2" in terminal.getvalue()


def test_nobody_who_looks_sees_nothing_and_the_numbers_are_the_same(tiny, terminal, capsys):
    shown = fit(RULE, tiny, PLAN, progress=True)
    length = len(terminal.getvalue())
    silent = fit(RULE, tiny, PLAN, progress=False)
    assert len(terminal.getvalue()) == length > 0
    np.testing.assert_array_equal(shown.history["val_loss"], silent.history["val_loss"])


def test_a_pipe_is_no_terminal_and_a_notebook_is_like_one(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert not lines.is_seen()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    assert not lines.is_seen()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=object())))
    assert lines.is_seen()


def test_a_terminal_that_has_gone_ends_no_training(tiny, monkeypatch):
    tried = []

    class Gone(Terminal):
        def write(self, text):
            tried.append(text)
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(lines, "sys", SimpleNamespace(stderr=Gone(), modules=sys.modules))
    assert fit(RULE, tiny, PLAN).finished and len(tried) > 2


def test_a_stream_that_is_no_terminal_or_is_not_there_is_no_fault(monkeypatch):
    closed = io.StringIO()
    closed.close()
    for stream in (None, SimpleNamespace(write=print), closed):
        monkeypatch.setattr(lines, "sys", SimpleNamespace(stderr=stream, modules={}))
        assert not lines.is_seen()
