"""Bad inputs to the doors that users meet first, each with its exact line: nothing is silent, nothing is a traceback.

More of the same stand beside what they belong to: `test_data_door` and `test_data_ways` (data sets and readers),
`test_models` (saved models and their commands), `test_loggers`, `test_tune`, `test_train`, `test_lost`.
"""

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest
from comparing import template_images

import fwdonly
from fwdonly import RULES, Batch, Plan, UsageError, bp, cwc, data, fit, loggers, mf, nets, sweep, training, tune

sys.path.insert(0, str(Path(__file__).parents[2]))
from scripts.pages import refusals

TX, NET, KEY = optax.sgd(0.1), nets.mlp([8]), jax.random.key(0)
PLAN = Plan(epochs=1, batch_size=20)
TINY = template_images()
X = np.asarray(TINY.x_train[:8], np.float32)
Y = np.arange(8) % 4
MF = mf.rule(NET, TX, num_classes=4)
CWC = cwc.rule(nets.cwc([4], 4), TX, num_classes=4)
PEPITA = RULES["pepita"].rule(NET, TX, num_classes=4)
ALONG = "samples lie along the first axis, a single one as x[None]"
LABELS = "a batch needs integer labels of shape (8,), one per sample; got "
PIXELS = TINY.x_train, TINY.y_train, TINY.x_test, TINY.y_test


class Case(NamedTuple):
    """A call at a door, and the line that it ends in; HERE stands for the test's folder."""

    call: Callable[..., Any]
    line: str


@functools.cache
def started(rule):
    return rule.init(KEY, jnp.asarray(X))


def trained():
    """A result that no door reads so far as to see that it is empty."""
    result = object.__new__(training.Result)
    vars(result).update(history={}, layer_accuracy=None, epochs=np.array(1))
    return result


def dataset(x=PIXELS[0], y=PIXELS[1], **more):
    return data.Dataset("mine", "mine", x, y, PIXELS[2], PIXELS[3], 4, **more)


def npz(folder, **arrays):
    named = dict(zip(("x_train", "y_train", "x_test", "y_test"), PIXELS, strict=True))
    np.savez(folder / "mine.npz", **{name: a for name, a in (named | arrays).items() if a is not None})
    return data.load(str(folder / "mine.npz"))


def written(folder, name, text):
    (folder / name).write_text(text)
    return folder / name


def step(x=X, y=Y, rule=MF):
    rule.update(started(rule), Batch(jnp.asarray(x), y), KEY)


def table(folder, text="a,b,kind\n1,2,x\n3,4,y\n", target="kind"):
    pytest.importorskip("pandas")
    return data.load(f"csv:{written(folder, 'rows.csv', text)}#target={target}")


def spec(text):
    return lambda: nets.parse(text).build(10)


def block(one):
    return lambda: mf.rule((one,), TX, num_classes=4).init(KEY, jnp.asarray(X))


def make(learning_rate):
    return mf.rule(NET, optax.sgd(learning_rate), num_classes=4)


def swept(seeds=(0,), **more):
    return lambda: sweep(make, TINY, PLAN, seeds=seeds, **{"hyper": {"learning_rate": 0.1}} | more)


def searched(space, **more):
    return lambda: tune.tune(lambda: (make, PLAN), space, TINY, **{"trials": 1} | more)


class Scalar:
    """No block: it loses the batch."""

    def init(self, key, x):
        return {}

    def apply(self, variables, x):
        return x.sum()


class Products:
    """A block that forgets to flatten images."""

    def init(self, key, x):
        return jnp.ones((x.shape[1] + 1, 4))

    def apply(self, variables, x):
        return x.reshape(len(x), -1) @ variables


NO_RULE = (
    "a rule is a LearningRule, such as mf.rule(net, tx, num_classes=10), a sequence of such stages, or a function that "
    "makes one; got "
)
NO_DATA = 'data is a fwdonly.data.Dataset, such as data.load("digits") or data.from_arrays(x, y); got a '
NO_NET = "is no network; write mlp:1000,1000 or cnn:32,64;pool=max or cwc:20,80 or FILE.py:FUNCTION"
NO_TX = "tx is an optax transformation, such as optax.adam(1e-3); got "
SIZES = "sizes are whole numbers from 1, such as 1000,1000 or 64x50"

DOORS: dict[str, dict[str, Case]] = {
    "Dataset": {
        "channels first": Case(
            lambda _: dataset(PIXELS[0].transpose(0, 3, 1, 2)),
            "mine: x_train: shape (N, 1, 6, 6) looks like channels first; pass x.transpose(0, 2, 3, 1)",
        ),
        "lengths": Case(
            lambda _: dataset(PIXELS[0][:-1]),
            "mine: x_train has 199 samples and y_train 200 labels; give each sample its label",
        ),
        "one-hot labels": Case(
            lambda _: dataset(y=np.eye(4)[PIXELS[1]]),
            "mine: y_train is one-hot, shape (200, 4); pass y.argmax(1)",
        ),
    },
    "arrays": {
        "a share as text": Case(
            lambda _: data.from_arrays(X, Y, test="0.2"),
            "arrays: test is '0.2'; give the share to hold out, such as 0.2, or a number of samples",
        ),
        "more than all": Case(
            lambda _: data.from_arrays(X, Y, test=2.0), "arrays: test is 2.0; hold out a share of 0..1, or 1 to 7 of 8"
        ),
        "rows of several lengths": Case(
            lambda _: data.from_arrays([[1, 2], [3]], [0, 1]),
            "arrays: x cannot be read as one array; give numbers, and all samples one shape",
        ),
        "dates": Case(
            lambda _: data.from_arrays(np.array([["2026-01-01"]] * 8, "datetime64[D]"), Y),
            "arrays: x is datetime64[D]; give numbers (data.from_table takes columns of text)",
        ),
        "labels with gaps": Case(
            lambda _: data.from_arrays(np.arange(48.0).reshape(16, 3), np.repeat([0, 2], 8)),
            "arrays: y_train reaches 2 but has no label 1; number the classes from 0 without gaps, or give num_classes",
        ),
    },
    "data by name": {
        "nothing": Case(lambda _: data.load(""), "unknown data set ''. Known: auto, mnist, "),
        "a number": Case(
            lambda _: data.load(3), "a data set is a name, such as 'digits', or the path of an .npz; got a int"
        ),
        "an address": Case(
            lambda _: data.load("https://host/mine.npz"),
            "'https://host/mine.npz' is an address; download the file and give its path",
        ),
        "two letters changed": Case(lambda _: data.load("digist"), "unknown data set 'digist': did you mean 'digits'?"),
    },
    "npz": {
        "lacks an array": Case(
            lambda folder: npz(folder, y_test=None),
            "HERE/mine.npz lacks y_test (it holds x_train, y_train, x_test): store ('x_train', 'y_train', 'x_test', ",
        ),
        "an HTML page": Case(
            lambda folder: data.load(str(written(folder, "mine.npz", "<html>404</html>"))),
            "HERE/mine.npz cannot be read as .npz (it is an HTML page, as failed downloads are): replace it by the",
        ),
        "no file": Case(lambda folder: data.load(f"{folder}/none.npz"), "there is no file HERE/none.npz; correct"),
    },
    "csv": {
        "a quantity for a class": Case(
            lambda folder: table(folder, "a,kind\n" + "".join(f"{i},{0.37 * i}\n" for i in range(40))),
            "HERE/rows.csv: 'kind' holds 40 different numbers, and rules tell classes apart; give a column of classes",
        ),
        "semicolons": Case(
            lambda folder: table(folder, "a;kind\n1;x\n2;y\n"),
            "HERE/rows.csv has one column, 'a;kind'; separate columns by commas",
        ),
        "empty": Case(
            lambda folder: table(folder, ""), "HERE/rows.csv cannot be read as CSV (EmptyDataError: No columns to parse"
        ),
        "a header alone": Case(lambda folder: table(folder, "a,kind\n"), "HERE/rows.csv has no rows; give some"),
        "no target": Case(
            lambda folder: table(folder, target="kin"), "HERE/rows.csv has no column 'kin'; did you mean 'kind'?"
        ),
        "no file": Case(
            lambda folder: data.load(f"csv:{folder}/none.csv#target=a"),
            "there is no file HERE/none.csv; correct the path",
        ),
        "a missing value": Case(
            lambda folder: table(folder, "a,kind\n1,x\n,y\n" + "1,x\n2,y\n" * 20),
            "HERE/rows.csv: column 'a' has 1 missing values; fill or drop them",
        ),
    },
    "folder": {
        "nothing": Case(lambda _: data.load("folder:"), "'folder:' names nothing; write folder:PATH"),
        "one side": Case(
            lambda folder: data.from_folder(folder, size=8), "size is (height, width) in pixels, at least 1; got 8"
        ),
        "no folder": Case(
            lambda folder: data.load(f"folder:{folder}/none"),
            "HERE/none is no folder; give one with a sub-folder of images for each class",
        ),
        "no classes": Case(
            lambda folder: data.load(f"folder:{folder}"),
            "HERE has 0 sub-folders; give one with a sub-folder of images per class",
        ),
    },
    "network by its words": {
        text: Case(lambda _, text=text: spec(text)(), f"--net '{text}'{line}")
        for text, line in {
            "": f" {NO_NET}",
            "mpl:8": f" {NO_NET}",
            "mlp:": f": {SIZES}",
            "mlp:0": f": {SIZES}",
            "mlp:1.5": f": {SIZES}",
            "mlp:8;act=relu": ": mlp has no option 'act=relu'; its options are activation, start, bias, norm, dropout",
            "mlp:8;norm=x": ": norm is one of none, batch, layer, group; got 'x'",
            "mlp:8;dropout=2": ": dropout is a share, at least 0 and below 1; got '2'",
            "mlp:8;bias=none;bias=zero": " says bias twice; say it once",
            "mlp:8,,8": f": {SIZES}",
            "cnn:4;pool=avg": ": pool is one of average, isometric, max, max4, none; got 'avg'",
            "cnn:4;kernel=0": ": kernel is a whole number from 1; got '0'",
        }.items()
    },
    "network": {
        "a number for words": Case(
            lambda _: nets.parse(8),  # ty: ignore[invalid-argument-type]
            "a network is described by text, such as 'mlp:1000,1000'; got a int",
        ),
        "a width beyond all": Case(lambda _: nets.mlp([10**20]), "a width is below 2**31; got 100000000000000000000"),
        "a number": Case(lambda _: nets.mlp(8), "a network has a sequence of widths, such as [1000, 1000]; got 8"),
        "text": Case(lambda _: nets.mlp("88"), "a network has a sequence of widths, such as [1000, 1000]; got '88'"),
        "half a unit": Case(lambda _: nets.mlp([8.5]), "a width is an integer; got 8.5 (float)"),
        "no width": Case(lambda _: nets.mlp([]), "a network needs at least one width, each at least 1; got ()"),
        "no tuple": Case(lambda _: mf.rule(NET[0], TX, num_classes=4), "a network is a tuple of blocks; got one Dense"),
    },
    "foreign block": {
        "a Linen module for Equinox": Case(
            lambda _: nets.from_equinox(nn.Dense(3)),
            "from_equinox takes a module, or a function of key that makes one; got Dense",
        ),
        "a function of rngs that makes a number": Case(
            lambda _: nets.from_nnx(lambda rngs: 3).init(KEY, X),
            "the function that from_nnx is given returns an nnx.Module; got int",
        ),
        "a class": Case(lambda _: block(nn.Dense)(), "block 1 is the class Dense; give an object of it"),
        "None": Case(
            lambda _: block(None)(), "block 1 is None; a block has init and apply, as every Flax Linen module"
        ),
        "no batch": Case(lambda _: block(Scalar())(), "block 1, a Scalar, returns no array (batch, *features)"),
        "a wrong product": Case(
            lambda _: block(Products())(),
            "block 1, a Products, cannot start on inputs (8, 6, 6, 1): dot_general requires contracting dimensions to ",
        ),
        "a word for a function": Case(
            lambda _: block(nets.Dense(4, activation="relu"))(),  # ty: ignore[invalid-argument-type]
            "block 1, a Dense, cannot start on inputs (8, 6, 6, 1): 'str' object is not callable; docs/networks.md",
        ),
        "no parts": Case(
            lambda _: RULES["pepita"].rule((nn.Dense(8),), TX, num_classes=4),
            "block 1 is a Dense; this rule treats its linear part and its activation apart: use fwdonly.nets.Dense or",
        ),
    },
    "rule": {
        "an option with another's letters": Case(
            lambda _: mf.rule(NET, TX, num_classes=4, readout_pol=2),
            "MF has no option 'readout_pol'; did you mean 'readout_pool'?",
        ),
        "an option that does nothing": Case(
            lambda _: RULES["ff"].rule(NET, TX, num_classes=4, threshold=2.0),
            "threshold does nothing with loss='symba'; leave it out, or set loss to 'logistic'",
        ),
        "another optimizer's state": Case(
            lambda _: mf.rule(NET, optax.adam(0.1), num_classes=4).update(started(MF), Batch(X, Y), KEY),
            "opt_state is that of another optimizer; pass the state of a rule with this one",
        ),
        "one class": Case(
            lambda _: mf.rule(NET, TX, num_classes=1).init(KEY, X),
            "classification needs at least 2 classes; got num_classes=1",
        ),
        "classes as a float": Case(
            lambda _: bp.rule(NET, TX, num_classes=4.0).init(KEY, X), "num_classes is an integer; got 4.0 (float)"
        ),
        "an option that is none": Case(
            lambda _: bp.rule(NET, TX, num_classes=4, batchnorm=True),
            "BP has no option 'batchnorm'; did you mean 'batch_norm'?",
        ),
        "examples without a batch": Case(
            lambda _: MF.init(KEY, jnp.ones(5)), f"x has shape (5,), which is one sample; {ALONG}"
        ),
        "no examples": Case(lambda _: MF.init(KEY, X[:0]), "x is empty; give at least one sample"),
    },
    "optimizer": {
        "none": Case(lambda _: mf.rule(NET, None, num_classes=4).init(KEY, X), f"{NO_TX}NoneType"),
        "a rate": Case(lambda _: mf.rule(NET, 0.1, num_classes=4).init(KEY, X), f"{NO_TX}float"),
        "a maker": Case(lambda _: mf.rule(NET, optax.adam, num_classes=4).init(KEY, X), f"{NO_TX}function"),
    },
    "update": {
        "no state": Case(
            lambda _: MF.update(None, Batch(X, Y), KEY),
            "state is what the rule's init or update returned; got a NoneType",
        ),
        "another rule's state": Case(
            lambda _: MF.update(started(CWC), Batch(X, Y), KEY),
            "state is what the rule's init or update returned; got a State of fwdonly.cwc",
        ),
        "another network's state": Case(
            lambda _: mf.rule(nets.mlp([8, 8]), TX, num_classes=4).update(started(MF), Batch(X, Y), KEY),
            "the state has another number of layers than the network; pass the state of this rule and network",
        ),
        "a tuple": Case(
            lambda _: MF.update(started(MF), (X, Y), KEY), "a batch is fwdonly.Batch(x, y), of arrays; got a tuple"
        ),
        "x as a list": Case(
            lambda _: MF.update(started(MF), Batch(X.tolist(), jnp.asarray(Y)), KEY),
            "the batch's x is a list; pass jnp.asarray(x)",
        ),
        "float labels": Case(lambda _: step(y=Y / 1), f"{LABELS}float64[8]: pass y.astype(int)"),
        "one-hot labels": Case(
            lambda _: step(y=np.eye(4)[Y]), f"{LABELS}float64[8, 4]: pass y.argmax(1), if they are one-hot"
        ),
        "a column of labels": Case(lambda _: step(y=Y[:, None]), f"{LABELS}int64[8, 1]: pass y[:, 0]"),
        "too few labels": Case(lambda _: step(y=Y[:5]), f"{LABELS}int64[5]"),
        "a label of -1": Case(
            lambda _: step(y=Y - 1), "labels must lie in 0..3; found -1..2; correct them or num_classes"
        ),
        "a label too high": Case(
            lambda _: step(y=Y + 1), "labels must lie in 0..3; found 0..4; correct them or num_classes"
        ),
        "one sample": Case(
            lambda _: step(X[0], np.asarray(1)),
            "a batch has samples along its first axis; give a single sample as x[None], y[None]",
        ),
        "no sample": Case(lambda _: step(X[:0], Y[:0]), "the batch is empty; give it at least one sample"),
        "images of another size": Case(
            lambda _: step(X[:, :3]),
            f"a Dense takes inputs of another shape than (8, 3, 6, 1); give samples as in training: {ALONG}",
        ),
        "images of another size, PEPITA": Case(
            lambda _: step(X[:, :3], rule=PEPITA),
            f"a Dense takes inputs of another shape than (8, 3, 6, 1); give samples as in training: {ALONG}",
        ),
    },
    "rule.predict": {
        "one image": Case(
            lambda _: MF.predict(started(MF), X[0]),
            f"a Dense takes inputs of another shape than (6, 6, 1); give samples as in training: {ALONG}",
        ),
        "one image, convolution": Case(
            lambda _: CWC.predict(started(CWC), X[0]),
            f"a convolution takes images (batch, height, width, channels); got (6, 6, 1); {ALONG}",
        ),
        "one row": Case(
            lambda _: MF.predict(started(MF), X[0].ravel()), f"x has shape (36,), which is one sample; {ALONG}"
        ),
        "a list": Case(lambda _: MF.predict(started(MF), X.tolist()), "x is a list; pass jnp.asarray(x)"),
        "no samples": Case(lambda _: MF.predict(started(MF), X[:0]), "x is empty; give at least one sample"),
        "no state": Case(
            lambda _: MF.predict(None, X), "state is what the rule's init or update returned; got a NoneType"
        ),
        "images of another size": Case(
            lambda _: PEPITA.predict(started(PEPITA), X[:, :3]),
            f"a Dense takes inputs of another shape than (8, 3, 6, 1); give samples as in training: {ALONG}",
        ),
    },
    "Plan": {
        name: Case(lambda _, more=more: Plan(**more), line)
        for name, (more, line) in {
            "no epochs": ({"epochs": 0}, "epochs must be at least 1; got 0"),
            "text": ({"epochs": "2"}, "epochs must be a whole number; got '2'"),
            "half a sample": ({"batch_size": 64.5}, "batch_size must be a whole number or none; got 64.5"),
            "endless": ({"epochs": 10**30}, "epochs must be below 2**31; got 1000000000000000000000000000000"),
            "an unknown word": ({"keep": "best"}, "keep is one of best_loss, best_accuracy, last; got 'best'"),
            "an unknown scaling": ({"normalise": "z"}, "normalise is one of pixel, paper, half, none; got 'z'"),
        }.items()
    },
    "fit": {
        "a callback of nothing": Case(
            lambda _: fit(MF, TINY, PLAN, callback=lambda: None),
            "a callback is given the progress and nothing else; this one takes ()",
        ),
        "progress as a word": Case(
            lambda _: fit(MF, TINY, PLAN, progress="no"), "progress is true, false or none; got 'no'"
        ),
        "a split by masks": Case(
            lambda _: fit(MF, TINY, PLAN, split=(np.arange(200) < 150, np.arange(200) >= 150)),
            "split is of indices, and this one of truth values; pass mask.nonzero()[0]",
        ),
        "no rule": Case(lambda _: fit(None, TINY), f"{NO_RULE}None"),
        "a rule's module": Case(lambda _: fit(mf, TINY), f"{NO_RULE}<module 'fwdonly.mf' from "),
        "a network": Case(lambda _: fit(NET, TINY), f"{NO_RULE}Dense("),
        "arrays": Case(lambda _: fit(MF, (X, Y)), f"{NO_DATA}tuple"),
        "a name": Case(lambda _: fit(MF, "digits"), f"{NO_DATA}str"),
        "epochs for a plan": Case(
            lambda _: fit(MF, TINY, 10), "a plan is a fwdonly.Plan, or a sequence with one for each stage; got 10"
        ),
        "a dict for a plan": Case(
            lambda _: fit(MF, TINY, {"epochs": 1}),
            "a plan is a fwdonly.Plan, or a sequence with one for each stage; got {'epochs': 1}",
        ),
        "half a seed": Case(lambda _: fit(MF, TINY, seed=0.5), "a seed is an integer; got 0.5 (float)"),
        "a split of one": Case(
            lambda _: fit(MF, TINY, split=np.arange(9)), "split is a pair, (training indices, validation indices); got"
        ),
        "hyper of a rule": Case(
            lambda _: fit(MF, TINY, hyper={"lr": 1}),
            "hyper (lr) is for a function that makes the rule of it; give the function",
        ),
        "other classes": Case(
            lambda _: fit(mf.rule(NET, TX, num_classes=3), TINY, PLAN),
            "the rule scores 3 classes and tiny has 4; set num_classes",
        ),
        "a checkpoint of no path": Case(lambda _: fit(MF, TINY, checkpoint=3), "the checkpoint is a path; got 3"),
        "a callback that is none": Case(
            lambda _: fit(MF, TINY, PLAN, callback=5), "a callback is a function of the progress; got 5"
        ),
    },
    "sweep": {
        "one seed alone": Case(lambda _: swept(3)(), "seeds are a list of integers; got 3"),
        "no seeds": Case(lambda _: swept([])(), "there are no seeds; give at least one"),
        "one seed twice": Case(
            lambda _: swept([1, 1])(),
            "runs 0 and 1 are equal, with seed 1; give each its own seed, hyperparameters or split, or repeats=True",
        ),
        "rates as text": Case(
            lambda _: swept(hyper={"learning_rate": "a"})(),
            "learning_rate must be a number, or one for each run; got 'a'",
        ),
        "too many rates": Case(
            lambda _: swept([1, 2], hyper={"learning_rate": [1, 2, 3]})(),
            "learning_rate has shape (3,); give one number, or one for each of the 2 runs",
        ),
        "another name": Case(
            lambda _: swept(hyper={"rate": 0.1})(),
            "hyper (rate) does not fit the function: missing a required argument: 'learning_rate'",
        ),
        "hyper as a list": Case(
            lambda _: swept(hyper=[0.1])(), "hyper has numbers by name, such as {'learning_rate': 0.01}; got [0.1]"
        ),
        "a width": Case(
            lambda _: sweep(lambda w: mf.rule(nets.mlp([w]), TX, num_classes=4), TINY, seeds=[0], hyper={"w": 8}),
            "make_rule needs the value of w, which is known only when the program runs: hyper is for numbers such as "
            "learning rates; of a width or a choice make one sweep for each",
        ),
        "a maker of nothing": Case(lambda _: sweep(lambda: None, TINY, seeds=[0]), f"{NO_RULE}None"),
    },
    "tune": {
        "no space": Case(
            lambda _: searched([0.1])(), "space maps names to a Range, or to a tuple of choices; got a list"
        ),
        "letters for choices": Case(
            lambda _: searched({"width": "ab"})(), "width needs a Range of two numbers, or a tuple of choices; got 'ab'"
        ),
        "half a trial": Case(
            lambda _: searched({"width": (8, 9)}, trials=0.5)(), "trials must be a whole number, at least 1; got 0.5"
        ),
        "no seeds": Case(lambda _: searched({"width": (8, 9)}, seeds=[])(), "there are no seeds; give at least one"),
        "arrays": Case(lambda _: tune.tune(lambda: (make, PLAN), {"width": (8, 9)}, X, trials=1), f"{NO_DATA}ndarray"),
    },
    "Result": {
        "no pandas": Case(lambda _: trained().to_dataframe(), "to_dataframe needs pandas: pip install 'fwdonly[data]'"),
        "no matplotlib": Case(lambda _: trained().plot(), "plot needs matplotlib: pip install 'fwdonly[experiments]'"),
    },
    "save and load": {
        "a number for a rule": Case(
            lambda folder: fwdonly.load(folder / "m.safetensors", rule=3),  # ty: ignore[invalid-argument-type]
            "rule is a LearningRule, or the FILE.py that has it; got a int",
        ),
        "a number for a network": Case(
            lambda folder: fwdonly.load(folder / "m.safetensors", net=3),  # ty: ignore[invalid-argument-type]
            "net is a tuple of blocks, or FILE.py:FUNCTION; got a int",
        ),
        "an empty file": Case(
            lambda folder: fwdonly.load(written(folder, "m.safetensors", "")),
            "HERE/m.safetensors is not a whole safetensors file (it has 0 bytes); give a model that fwdonly",
        ),
        "another ending": Case(
            lambda folder: fwdonly.save(folder / "m.pt", trained(), MF, TINY),
            "a model is a file NAME.safetensors; got HERE/m.pt",
        ),
        "no data": Case(
            lambda folder: fwdonly.save(folder / "m.safetensors", trained(), MF, None),
            f"{NO_DATA}NoneType",
        ),
        "no state": Case(
            lambda folder: fwdonly.save(folder / "m.safetensors", None, MF, TINY),
            "the arrays belong to another rule or network (the file has no params/0/M)",
        ),
        "no file": Case(
            lambda folder: fwdonly.load(folder / "none.safetensors"),
            "there is no file HERE/none.safetensors; correct the path",
        ),
        "a folder": Case(lambda folder: fwdonly.load(folder), "HERE is a folder; give the file of a model"),
        "no path": Case(lambda _: fwdonly.load(3), "the model is a path; got 3"),
        "another file": Case(
            lambda folder: fwdonly.load(written(folder, "m.safetensors", "a,b")),
            "HERE/m.safetensors is not a whole safe",
        ),
    },
    "loggers": {
        "no function": Case(lambda _: loggers.log(None), "a logger is a function write(run, epoch, numbers); got None"),
        "too few names": Case(
            lambda _: loggers.log(print, [])(SimpleNamespace(record={}, runs=(0, 1, 1))),
            "there are 1 runs and 0 names; give each run its name",
        ),
        "another word": Case(
            lambda folder: loggers.logger_of("tensorbord", folder),
            "--log 'tensorbord' is no logger; give tensorboard, mlflow, wandb or FILE.py:FUNCTION",
        ),
        "no file": Case(
            lambda folder: loggers.logger_of("none.py:write", folder),
            "--log: there is no file none.py; give FILE.py:FUNCTION with a file that exists",
        ),
    },
}
CASES = {f"{door}: {name}": case for door, cases in DOORS.items() for name, case in cases.items()}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_line(name, tmp_path, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # annotations are not checked, as for users
    call, line = CASES[name]
    if name.startswith("Result"):
        monkeypatch.setitem(sys.modules, "pandas", None)
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UsageError) as refused:
        call(tmp_path)
    words = str(refused.value).replace(str(tmp_path), "HERE")
    assert words.startswith(line) and "\n" not in words and len(words) < 400


def test_the_table_is_of_every_door():
    assert len(CASES) >= 60 and min(map(len, DOORS.values())) >= 2


def test_the_page_of_bad_inputs_is_this_table():
    """``python -m scripts.pages.refusals`` writes it."""
    assert set(refusals.DOORS) == set(DOORS)
    assert refusals.PAGE.read_text() == refusals.page(DOORS)


def test_control_good_inputs_are_taken():
    for rule, x in ((MF, X), (CWC, X[:1])):
        assert rule.predict(started(rule), jnp.asarray(x)).shape == (len(x), 4)
