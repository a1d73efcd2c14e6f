"""Saved models: what comes back predicts what went in, nothing of a file runs, and every fault is one line."""

import csv
import dataclasses
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest

import fwdonly
from fwdonly import (
    Plan,
    UsageError,
    bp,
    cafo,
    cwc,
    data,
    deeperforward,
    feedback,
    ff,
    foton,
    mf,
    nets,
    pepita,
    results,
    scff,
    study,
)

TX = optax.adam(1e-2)
DIGITS = data.load("digits")
MLP, BARE = nets.mlp([9, 12]), nets.mlp([12, 9], bias="none")


@pytest.fixture(autouse=True)
def as_users_run(monkeypatch):
    """Annotations are not checked, so a wrong type gets as far as the library's own line."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def state_of(rule, seed=0, shape=(8, 8, 1)):
    """A state of random numbers: start values are zero here and there, which hides what is lost."""
    state = rule.init(jax.random.key(seed), jnp.zeros((4, *shape)))
    leaves, tree = jax.tree.flatten(state)
    random = np.random.default_rng(seed)
    moved = [a + jnp.asarray(random.uniform(0.1, 1, a.shape), a.dtype) for a in map(jnp.asarray, leaves)]
    return jax.tree.unflatten(tree, moved)


RULES = {
    "mf": mf.rule(MLP, TX, num_classes=10),
    "mf, sum with M_0": mf.rule(MLP, TX, num_classes=10, prediction="sum", input_readout=True, sum_includes_input=True),
    "mf, stages": mf.stages(MLP, TX, num_classes=10),
    "mf, convolutions": mf.rule(nets.cnn([4], pool="max", kernel=5, padding="valid"), TX, num_classes=10),
    "bp": bp.rule(nets.mlp([9], activation=jnp.tanh), TX, num_classes=10),
    "bp-sum": bp.rule(MLP, TX, num_classes=10, readouts="sum"),
    "ff": ff.rule(MLP, TX, num_classes=10),
    "ff, softmax": ff.rule(MLP, TX, num_classes=10, prediction="softmax", label="append"),
    "cafo": cafo.stages(nets.cnn([4, 6], kernel_init=nets.torch_uniform, bias="uniform"), TX, num_classes=10),
    "cafo, logits": cafo.stages(nets.cnn([4, 6]), TX, num_classes=10, aggregation="logits"),
    "cwc": cwc.rule(nets.cwc([10, 20], 10), TX, num_classes=10),
    "deeperforward": deeperforward.rule(nets.cnn([20, 10], bias="none"), TX, num_classes=10),
    "scff": scff.rule(nets.cnn([6, 4], padding="reflect", pool="max4"), TX, num_classes=10, readout_pool=(2,)),
    "pepita": pepita.rule(BARE, TX, num_classes=10),
    "foton": foton.rule(BARE, TX, num_classes=10),
    "dfa": feedback.rule(MLP, TX, num_classes=10, mode="dfa"),
}


@pytest.mark.parametrize("name", RULES)
def test_what_is_loaded_predicts_what_was_saved(name, tmp_path):
    rule, path = RULES[name], tmp_path / "m.safetensors"
    last = rule if isinstance(rule, fwdonly.LearningRule) else rule[-1]
    state = state_of(last)
    fwdonly.save(path, state, rule, DIGITS)
    model = fwdonly.load(path)
    mean, sd = data.statistics(DIGITS)
    wanted = jax.jit(last.predict)(state, data.normalise(DIGITS.x_test[:64], mean, sd))
    found = model.predict(DIGITS.x_test[:64])
    np.testing.assert_allclose(found.scores, wanted, rtol=2e-5, atol=1e-5 * np.abs(wanted).max())
    assert (found.labels == found.scores.argmax(1)).all()
    other = fwdonly.save(path, state_of(last, seed=1), rule, DIGITS) or fwdonly.load(path)
    assert not np.allclose(other.predict(DIGITS.x_test[:64]).scores, found.scores, rtol=1e-3)  # the control
    assert not any("opt_state" in entry for entry in results.read_tensors(path).arrays)


def test_scores_are_those_of_the_paper_computed_from_the_file_alone(tmp_path):
    """MF in float64 from the documented layout: relu(a W + b), the last layer's a M^T."""
    path = tmp_path / "m.safetensors"
    fwdonly.save(path, state_of(RULES["mf"]), RULES["mf"], DIGITS)
    arrays = {name: a.astype(np.float64) for name, a in results.read_tensors(path).arrays.items()}
    a = DIGITS.x_test[:50].astype(np.float64) / 255
    a = ((a - arrays["preprocessing/mean"]) / arrays["preprocessing/sd"]).reshape(50, -1)
    for layer in (0, 1):
        own = f"state/params/{layer}/block/params/Dense_0/"
        a = np.maximum(a @ arrays[own + "kernel"] + arrays[own + "bias"], 0)
    wanted = a @ arrays["state/params/1/M"].T
    np.testing.assert_allclose(fwdonly.load(path).predict(DIGITS.x_test[:50]).scores, wanted, rtol=1e-5)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A short training with its result, and the file."""
    path = tmp_path_factory.mktemp("model") / "digits.safetensors"
    result = fwdonly.fit(RULES["mf"], DIGITS, Plan(epochs=2, normalise="half"))
    fwdonly.save(path, result, RULES["mf"], DIGITS, Plan(epochs=2, normalise="half"))
    return result, path


def test_a_loaded_model_agrees_with_the_training(trained):
    result, path = trained
    model = fwdonly.load(str(path))
    assert (model.predict(DIGITS.x_test).labels == result.predictions).all()
    found = model.evaluate(DIGITS)
    assert found.accuracy == pytest.approx(float(result.test_accuracy), abs=1e-6) and found.samples == 359
    assert found.loss == pytest.approx(float(result.test_loss), rel=1e-5)
    shares = [(result.predictions[DIGITS.y_test == k] == k).mean() for k in range(10)]
    assert found.balanced_accuracy == pytest.approx(np.mean(shares))
    assert model.evaluate(DIGITS.x_test, DIGITS.y_test) == found
    assert model.evaluate(DIGITS, part="all").samples == 1797
    text = repr(model)
    assert "\n" not in text and len(text) < 200 and "mf" in text and "mlp:9,12" in text and "digits" in text


def test_rows_are_predicted_alike_however_many_there_are(trained):
    model = fwdonly.load(trained[1])
    whole = model.predict(np.tile(DIGITS.x_test, (3, 1, 1, 1))).scores
    assert whole.shape == (1077, 10)
    for start, count in ((0, 1), (5, 3), (700, 128), (127, 2)):
        rows = np.tile(DIGITS.x_test, (3, 1, 1, 1))[start : start + count]
        assert (model.predict(rows).scores == whole[start : start + count]).all()


def test_forms_of_raw_samples_are_taken(trained):
    model, x = fwdonly.load(trained[1]), DIGITS.x_test[:5]
    wanted = model.predict(x).scores
    for form in (x[..., 0], x.tolist(), x.astype(np.int64), jnp.asarray(x), np.asfortranarray(x)):
        assert (model.predict(form).scores == wanted).all()


def test_a_state_that_the_prediction_needs_is_kept_and_no_other(tmp_path):
    """A rule that evaluates where its optimizer says, as schedule-free ones do."""
    own = RULES["mf"]

    def predict(state, x):
        return own.predict(state, x) + state.opt_state[0][0].mu.M[0, 0]

    reading, path = own._replace(predict=predict), tmp_path / "m.safetensors"
    state = state_of(own)
    fwdonly.save(path, state, reading, DIGITS)
    assert any("opt_state" in name for name in results.read_tensors(path).arrays)
    found = fwdonly.load(path, rule=reading).predict(DIGITS.x_test[:8]).scores
    fwdonly.save(path, state, own, DIGITS)
    added = found - fwdonly.load(path).predict(DIGITS.x_test[:8]).scores
    np.testing.assert_allclose(added, state.opt_state[0][0].mu.M[0, 0], rtol=1e-3)


NET_FILE = """
from pathlib import Path
Path({marker!r}).write_text("run")
from fwdonly import nets
def build(num_classes):
    return nets.mlp([7])
"""


def test_code_of_the_users_is_run_only_where_the_user_names_it(tmp_path):
    marker, file, path = tmp_path / "marker", tmp_path / "my_nets.py", tmp_path / "m.safetensors"
    file.write_text(NET_FILE.format(marker=str(marker)))
    blocks = nets.parse(f"{file}:build").build(10)
    rule = mf.rule(blocks, TX, num_classes=10)
    state = state_of(rule)
    fwdonly.save(path, state, rule, DIGITS, net=f"{file}:build")
    assert json.loads(results.read_tensors(path).about["model"])["network"] == "my_nets.py:build"  # no folder's name
    marker.unlink()
    nets.spec._from_file.cache_clear()
    for name in [name for name in sys.modules if name.startswith("fwdonly_user_my_nets")]:
        del sys.modules[name]  # as in another process
    with pytest.raises(UsageError, match=r"its network is in a file of its owner, 'my_nets.py:build', which is not"):
        fwdonly.load(path)
    assert not marker.exists()
    found = fwdonly.load(path, net=f"{file}:build").predict(DIGITS.x_test[:4]).scores
    assert marker.exists()
    assert (found == fwdonly.load(path, net=blocks).predict(DIGITS.x_test[:4]).scores).all()
    assert (found == fwdonly.load(path, rule=rule).predict(DIGITS.x_test[:4]).scores).all()
    file.write_text(file.read_text() + "\n# changed\n")
    marker.unlink()
    with pytest.raises(UsageError, match="is another file than made this network; pass that, or the tuple of blocks"):
        fwdonly.load(path, net=f"{file}:build")
    assert not marker.exists()


def test_a_rule_of_ones_own_is_given_to_the_loader(tmp_path):
    def init(key, x):
        return {"w": jax.random.normal(key, (64, 10))}

    own = fwdonly.LearningRule(
        init, lambda s, b, k: (s, {"loss": jnp.zeros(())}), lambda s, x: x.reshape(-1, 64) @ s["w"]
    )
    state, path = own.init(jax.random.key(0), None), tmp_path / "m.safetensors"
    fwdonly.save(path, state, own, DIGITS)
    with pytest.raises(UsageError, match="only your own code knows this model's rule; pass it: load"):
        fwdonly.load(path)
    model = fwdonly.load(path, rule=own)
    x = (DIGITS.x_test[:9] / 255 - np.array(data.statistics(DIGITS)[0])) / np.array(data.statistics(DIGITS)[1])
    np.testing.assert_allclose(
        model.predict(DIGITS.x_test[:9]).scores, x.reshape(9, 64) @ state["w"], rtol=1e-3, atol=1e-4
    )
    assert "a rule of your own" in repr(model)


def altered(path, out, change, arrays=None):
    """The file with another header."""
    found = results.read_tensors(path)
    header = json.loads(found.about["model"])
    change(header)
    held = {name: a for name, a in found.arrays.items() if name.split("/")[0] != "state" or arrays is None}
    results.write_tensors(out, held | (arrays or {}), found.about | {"model": json.dumps(header)})


def put(*where):
    """A change that sets one entry of the header."""

    def change(header):
        *path, name, value = where
        for part in path:
            header = header[part]
        header[name] = value

    return change


ALTERED = {
    "no such rule": (put("rule", "evil"), "there is no rule 'evil'; the file is of another fwdonly, or altered"),
    "a rule in a file": (
        put("rule", "/tmp/evil.py"),
        "its rule is in a file of its owner, '/tmp/evil.py', which is not run unseen; pass rule= (--rule FILE.py)",
    ),
    "a network in a file": (
        put("network", "/tmp/evil.py:build"),
        "its network is in a file of its owner, '/tmp/evil.py:build', which is not run unseen; pass net=",
    ),
    "a billion layers": (
        put("network", "mlp:1x999999999"),
        "its network 'mlp:1x999999999' is larger than its arrays; the file is altered",
    ),
    "a width of many digits": (
        put("network", "mlp:" + "9" * 5000),
        "its network 'mlp:" + "9" * 56 + "' is larger than its arrays; the file is altered",
    ),
    "another width": (
        put("network", "mlp:9,13"),
        "the arrays belong to another rule or network (params/1/block/params/Dense_0/bias is float32(12,), needed is "
        "float32(13,))",
    ),
    "another depth": (
        put("network", "mlp:9"),
        "the arrays belong to another rule or network (the rule has no params/1/M)",
    ),
    "another rule": (
        put("rule", "bp"),
        "bp has no option 'gradient'; the file is of another fwdonly, or altered",
    ),
    "an option that is none": (
        put("options", "evil", 1),
        "mf has no option 'evil'; the file is of another fwdonly, or altered",
    ),
    "a word that is none": (put("options", "prediction", "evil"), "prediction is one of 'last', 'sum'; got 'evil'"),
    "a stage that is none": (put("stage", 7), "mf has 1 stages, and none with number 7"),
    "no network": (
        put("network", "evil"),
        "--net 'evil' is no network; write mlp:1000,1000 or cnn:32,64;pool=max or cwc:20,80 or FILE.py:FUNCTION",
    ),
}
DAMAGED = {
    "no rule": (lambda header: header.pop("rule"), "KeyError: 'rule'"),
    "options that are a list": (put("options", []), "TypeError: options is of a wrong type"),
    "a stage that is a word": (put("stage", "0"), "TypeError: stage is of a wrong type"),
    "a shape without axes": (put("preprocessing", "shape", []), "ValueError: samples have a shape, and are uint8"),
    "a shape of words": (put("preprocessing", "shape", ["8"]), "ValueError: samples have a shape, and are uint8"),
    "a shape below 0": (put("preprocessing", "shape", [-8, 8, 1]), "ValueError: samples have a shape, and are uint8"),
    "samples that are objects": (put("preprocessing", "kind", "object"), "ValueError: samples have a shape, and"),
    "one class": (put("preprocessing", "num_classes", 1), "ValueError: there are 2 to 2**20 classes"),
    "2**60 classes": (put("preprocessing", "num_classes", 2**60), "ValueError: there are 2 to 2**20 classes"),
    "names of three classes": (put("preprocessing", "class_names", ["a"] * 3), "ValueError: every class has one name"),
    "columns that are a word": (put("preprocessing", "columns", "evil"), "TypeError: "),
    "channels that have no mean": (put("preprocessing", "shape", [8, 8, 2]), "ValueError: every channel has a mean"),
}


@pytest.mark.parametrize("case", [*ALTERED, *DAMAGED])
def test_an_altered_header_is_one_line(case, trained, tmp_path):
    change, words = (ALTERED | DAMAGED)[case]
    altered(trained[1], out := tmp_path / "m.safetensors", change)
    with pytest.raises(UsageError) as found:
        fwdonly.load(out)
    if case in ALTERED:
        assert str(found.value) == f"{out}: {words}"
    else:
        assert re.fullmatch(
            re.escape(f"the header of {out} describes no model ({words}") + r"[^\n]*\); save it again", str(found.value)
        ), str(found.value)


def test_a_later_version_and_another_file_are_said(trained, tmp_path):
    found = results.read_tensors(trained[1])
    results.write_tensors(tmp_path / "later", found.arrays, found.about | {"version": "2"})
    results.write_tensors(tmp_path / "other", found.arrays, {})
    for name, words in {
        "later": "is of version 2, and this fwdonly reads version 1; install a later one",
        "other": "holds arrays, but no model of fwdonly; give a model that fwdonly has written",
    }.items():
        with pytest.raises(UsageError) as error:
            fwdonly.load(tmp_path / name)
        assert str(error.value) == f"{tmp_path / name} {words}"


IMAGES = DIGITS.x_test[:6]
NO_NUMBERS = np.array([["a"]])
PREDICTED = {
    "one image": (IMAGES[0], "x has shape (8, 8, 1), one sample; samples lie along the first axis: pass x[None]"),
    "rows": (
        IMAGES.reshape(6, 64),
        "x has shape (6, 64), and this model takes (n, 8, 8, 1); give samples as in training",
    ),
    "channels first": (
        IMAGES.transpose(0, 3, 1, 2),
        "x has shape (6, 1, 8, 8), and this model takes (n, 8, 8, 1); pass x.transpose(0, 2, 3, 1)",
    ),
    "another size": (
        IMAGES[:, :7],
        "x has shape (6, 7, 8, 1), and this model takes (n, 8, 8, 1); give samples as in training",
    ),
    "colour": (
        IMAGES.repeat(3, 3),
        "x has shape (6, 8, 8, 3), and this model takes (n, 8, 8, 1); give samples as in training",
    ),
    "no samples": (IMAGES[:0], "x is empty; give at least one sample"),
    "floats": (
        IMAGES / 255,
        "x is float64, and this model takes uint8 pixels; pass (255 * x).round().astype(np.uint8), if it lies in 0..1",
    ),
    "truths": (
        IMAGES > 3,
        "x is bool, and this model takes uint8 pixels; pass (255 * x).round().astype(np.uint8), if it lies in 0..1",
    ),
    "pixels above 255": (
        IMAGES.astype(int) * 16,
        f"x holds 0..{int(IMAGES.max()) * 16}, and this model takes pixels in 0..255; scale them",
    ),
    "text": (NO_NUMBERS, "x is <U1; give numbers"),
    "objects": ([[1], [2, 3]], "x cannot be read as one array; give numbers, and all samples one shape"),
    "nothing": (None, "x holds Python objects; give numbers, and all samples one shape"),
}


@pytest.mark.parametrize("case", PREDICTED)
def test_bad_samples_are_one_line(case, trained):
    x, line = PREDICTED[case]
    with pytest.raises(UsageError) as found:
        fwdonly.load(trained[1]).predict(x)
    assert str(found.value) == line


def named(name, x=DIGITS.x_test, y=DIGITS.y_test, **more):
    return data.Dataset(name, name, x, y, x, y, 10, **more)


EVALUATED = {
    "no labels": ((IMAGES,), "evaluate needs labels beside raw samples; pass evaluate(x, y), or a data set"),
    "labels of a data set": ((DIGITS, [1]), "a data set has its labels; leave y out"),
    "too few labels": ((IMAGES, [1, 2]), "x has 6 samples and y 2 labels; give each sample its label"),
    "labels above": ((IMAGES, [0, 1, 2, 3, 4, 10]), "y holds labels outside 0..9; correct them"),
    "labels below": ((IMAGES, [0, 1, 2, 3, 4, -1]), "y holds labels outside 0..9; correct them"),
    "words": (
        (IMAGES, list("abcdef")),
        "y holds the class 'a', and this model numbers its classes 0, 1, ...; correct it",
    ),
    "floats": (
        (named("mine", DIGITS.x_test / 255),),
        "mine holds float32, and this model takes uint8; give it the same",
    ),
    "another size": (
        (named("mine", DIGITS.x_test[:, :7]),),
        "mine has shape (359, 7, 8, 1), and this model takes (n, 8, 8, 1); give samples as in training",
    ),
}


@pytest.mark.parametrize("case", EVALUATED)
def test_bad_evaluations_are_one_line(case, trained):
    given, line = EVALUATED[case]
    with pytest.raises(UsageError) as found:
        fwdonly.load(trained[1]).evaluate(*given)
    assert str(found.value) == line


def test_bad_saves_are_one_line(trained, tmp_path):
    result, _ = trained
    rule = RULES["mf"]
    many = dataclasses.replace(
        result,
        **{
            name: np.stack([getattr(result, name)] * 2)
            for name in ("epochs", "kept_epoch", "val_accuracy", "val_loss", "test_accuracy", "test_loss")
        },
        diverged=np.array([False, True]),
    )
    path = tmp_path / "m.safetensors"
    no_rule = "rule is the LearningRule that was trained, or the sequence of its stages; of a function give what"
    for given, more, line in (
        ((tmp_path / "m.pt", result, rule, DIGITS), {}, f"a model is a file NAME.safetensors; got {tmp_path / 'm.pt'}"),
        ((path, result, "mf", DIGITS), {}, no_rule),
        ((path, result, [], DIGITS), {}, no_rule),
        ((path, result, lambda learning_rate: rule, DIGITS), {}, no_rule),
        ((path, None, rule, DIGITS), {}, "the arrays belong to another rule or network (the file has no "),
        ((path, result, RULES["bp"], DIGITS), {}, "the arrays belong to another rule or network ("),
        (
            (path, dataclasses.replace(result, normalise="half"), rule, DIGITS, fwdonly.Plan()),
            {},
            "it was trained with normalise='half', and this plan says 'pixel'",
        ),
        ((path, many, rule, DIGITS), {}, "this result has 2 runs; say which one: run=0"),
        ((path, many, rule, DIGITS), {"run": 2}, "run lies in 0..1; got 2"),
        ((path, many, rule, DIGITS), {"run": 1}, "this run diverged, and its state predicts nothing; save another one"),
        (
            (path, result, rule, DIGITS),
            {"net": "mlp:9,12;activation=tanh"},
            "net mlp:9,12;activation=tanh is not the network of this rule, or the rule is of your own; leave it out",
        ),
    ):
        with pytest.raises(UsageError) as found:
            fwdonly.save(*given, **more)
        assert str(found.value).startswith(line) and "\n" not in str(found.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("normalise", ["pixel", "half", "none"])
def test_a_result_knows_how_its_samples_reached_the_network(tmp_path, normalise):
    rule = mf.rule(nets.mlp([9]), TX, num_classes=10)
    result = fwdonly.fit(rule, DIGITS, fwdonly.Plan(epochs=1, normalise=normalise))
    fwdonly.save(tmp_path / "m.safetensors", result, rule, DIGITS)
    model = fwdonly.load(tmp_path / "m.safetensors")
    assert model.evaluate(DIGITS).accuracy == pytest.approx(float(result.test_accuracy), abs=1e-6)


TRAIN = ("--dataset", "digits", "--net", "mlp:8", "--seeds", "3", "--epochs", "2", "--batch-size", "64", "--quiet")


def models_in(folder):
    return sorted(path.name for path in folder.glob("model-*"))


def best_of(folder, rule):
    runs = next(s["runs"] for s in json.loads((folder / "summary.json").read_text())["rules"] if s["rule"] == rule)
    return max(runs, key=lambda run: (run["val_accuracy"], -run["val_loss"]))


@pytest.mark.parametrize("how", ["together", "alone"])
def test_a_command_keeps_the_best_run_of_every_rule_by_validation(how, command, tmp_path):
    folder = tmp_path / "out"
    alone = ["--alone"] if how == "alone" else []
    assert command("train", "mf", "--against", "bp", *TRAIN, *alone, "--output-dir", folder)[0] == 0
    for rule in ("mf", "bp"):
        best = best_of(folder, rule)
        model = fwdonly.load(folder / f"model-{rule}-{best['seed']}.safetensors")
        assert model.evaluate(DIGITS).accuracy == pytest.approx(best["test_accuracy"], abs=1e-6)
        assert model.saved.seed == best["seed"] and model.saved.metrics["val_accuracy"] == best["val_accuracy"]
        predicted = np.load(folder / "predictions.npz")[f"{rule}/{best['seed']}"]
        assert (model.predict(DIGITS.x_test).labels == predicted).all()
    assert len(models_in(folder)) == 2 and not list(folder.glob("*.part"))


def test_all_models_are_kept_or_none(command, tmp_path):
    out = {}
    for which in ("all", "none"):
        words = ("train", "mf", *TRAIN, "--save-models", which, "--output-dir", tmp_path / which)
        out[which] = command(*words)
    assert models_in(tmp_path / "all") == [f"model-mf-{seed}.safetensors" for seed in range(3)]
    assert models_in(tmp_path / "none") == []
    accuracies = [
        fwdonly.load(tmp_path / "all" / name).evaluate(DIGITS).accuracy for name in models_in(tmp_path / "all")
    ]
    runs = json.loads((tmp_path / "all" / "summary.json").read_text())["rules"][0]["runs"]
    assert accuracies == pytest.approx([run["test_accuracy"] for run in runs], abs=1e-6)
    metrics = [(tmp_path / which / "metrics.csv").read_text() for which in out]
    assert metrics[0] == metrics[1]  # what is kept changes no number


def test_the_best_is_the_most_accurate_then_the_least_loss_then_the_first():
    def run(seed, accuracy, loss, diverged=False):
        return {"seed": seed, "val_accuracy": accuracy, "val_loss": loss, "diverged": diverged}

    def summaries(*runs, finished=True):
        return [{"rule": "mf", "finished": finished, "runs": list(runs)}]

    best = study.saving.best_seed
    assert best(summaries(run(0, 0.9, 1.0), run(1, 0.95, 2.0)), "mf") == 1
    assert best(summaries(run(0, 0.9, 1.0), run(1, 0.9, 0.5)), "mf") == 1
    assert best(summaries(run(4, 0.9, 1.0), run(2, 0.9, 1.0)), "mf") == 2
    assert best(summaries(run(0, 0.9, 1.0), run(1, None, None, True)), "mf") == 0
    assert (
        best(summaries(run(0, 0.9, 1.0)), "bp") is None and best(summaries(run(0, 1, 1), finished=False), "mf") is None
    )


def test_an_earlier_best_goes_only_when_its_better_is_there(tmp_path):
    for name in ("model-mf-0", "model-mf-joint-1", "model-mf-notes"):
        (tmp_path / f"{name}.safetensors").touch()
    study.saving.drop_others(tmp_path, "mf", 3)
    assert len(models_in(tmp_path)) == 3
    (tmp_path / "model-mf-3.safetensors").touch()
    study.saving.drop_others(tmp_path, "mf", 3)
    assert models_in(tmp_path) == [
        "model-mf-3.safetensors",
        "model-mf-joint-1.safetensors",
        "model-mf-notes.safetensors",
    ]


def test_parts_of_several_processes_leave_one_best(tmp_path):
    """What two processes have trained, joined by a third that has nothing to train."""
    wanted = study.Wanted({"data": {}}, None, ["mf"], [0, 1, 2], 10)
    for process, runs in enumerate(((0, 2), (1,))):
        with study.Work(tmp_path, wanted, process, 2) as work:
            own = work.open("")
            records = [
                {
                    "seed": s,
                    "val_accuracy": 0.5 + 0.1 * (s == 1),
                    "val_loss": 1.0,
                    "test_accuracy": 0.5,
                    "diverged": False,
                }
                for s in runs
            ]
            records = [r | {"epochs": 1, "kept_epoch": 1, "train_seconds_share": 1.0} for r in records]
            summary = {"rule": "mf", "finished": True, "compile_seconds": 1.0, "train_seconds": 1.0, "energy": None}
            own.add(summary | {"runs": records}, [], [])
            for seed in runs:
                study.model_path(own.folder, "mf", seed).write_text(str(seed))
            own.wanted.config["data"] |= {"name": "d", "digest": "d", "train": 1, "validation": 1, "test": 1}
            own.write()
            work.end(own, None, stopped=False)
    assert models_in(tmp_path) == ["model-mf-1.safetensors"] and not list(tmp_path.glob("part-*"))
    assert (tmp_path / "model-mf-1.safetensors").read_text() == "1"


def test_models_are_written_outside_of_what_is_measured(command, tmp_path, monkeypatch):
    """Between the end of one training and the beginning of the next, with the runs' own clocks at rest."""
    events, train, write = [], study.execute.sweep, results.write_model

    def watched(*args, **options):
        events.append("begin")
        found = train(*args, **options)
        events.append("end")
        return found

    monkeypatch.setattr(study.execute, "sweep", watched)
    monkeypatch.setattr(results, "write_model", lambda *args: events.append("write") or write(*args))
    words = ("train", "mf", *TRAIN[:4], "--seeds", "2", "--epochs", "2", "--quiet", "--alone", "--save-models", "all")
    assert command(*words, "--output-dir", tmp_path / "out")[0] == 0
    assert events == ["begin", "end", "begin", "end", "write", "begin", "end", "write"]  # the first one warms up


def test_predictions_of_images_and_arrays_are_a_csv(trained, command, tmp_path):
    pillow = pytest.importorskip("PIL.Image")
    (tmp_path / "pictures" / "deep").mkdir(parents=True)
    for at in range(2):
        pillow.fromarray(DIGITS.x_test[at, ..., 0]).save(tmp_path / "pictures" / "deep" / f"{at}.png")
    np.savez(tmp_path / "x.npz", x=DIGITS.x_test[:2])
    wanted = fwdonly.load(trained[1]).predict(DIGITS.x_test[:2])
    inputs = (tmp_path / "pictures", tmp_path / "x.npz", tmp_path / "pictures" / "deep" / "1.png")
    code, out, err = command("predict", trained[1], *inputs, "--all-scores")
    assert (code, err) == (0, "")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["input"] for row in rows] == [
        *(str(tmp_path / "pictures" / "deep" / f"{at}.png") for at in range(2)),
        *(f"{tmp_path / 'x.npz'}[{at}]" for at in range(2)),
        str(tmp_path / "pictures" / "deep" / "1.png"),
    ]
    for row, at in zip(rows, (0, 1, 0, 1, 1), strict=True):
        assert int(row["label"]) == wanted.labels[at]
        assert ([np.float32(row[f"score {k}"]) for k in range(10)] == wanted.scores[at]).all()  # to the last bit
        assert np.float32(row["score"]) == wanted.scores[at].max()
    code, out, _ = command("predict", trained[1], tmp_path / "x.npz", "--output", tmp_path / "out.csv")
    assert (code, out) == (0, "") and len((tmp_path / "out.csv").read_text().splitlines()) == 3


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A table of numbers and words with classes in words, and a model of it."""
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("sklearn")
    folder, random = tmp_path_factory.mktemp("table"), np.random.default_rng(0)
    frame = pandas.DataFrame({"age": random.normal(50, 10, 80), "town": random.choice(["Ulm", "Bonn"], 80)})
    frame["income"] = random.normal(1000, 300, 80)
    frame["sick"] = np.where(frame.age + 10 * (frame.town == "Ulm") > 55, "yes", "no")
    frame.to_csv(folder / "rows.csv", index=False)
    found = data.load(f"csv:{folder / 'rows.csv'}#target=sick")
    rule = mf.rule(MLP, TX, num_classes=2)
    state = state_of(rule, shape=(4,))
    fwdonly.save(folder / "m.safetensors", state, rule, found)
    return folder, frame, found, rule, state


def test_rows_of_a_table_are_coded_as_in_training(table, command):
    folder, frame, found, rule, state = table
    scaling = pytest.importorskip("sklearn.preprocessing")
    compose = pytest.importorskip("sklearn.compose")
    coder = compose.ColumnTransformer(
        [
            ("n", scaling.StandardScaler(), ["age", "income"]),
            ("c", scaling.OneHotEncoder(sparse_output=False), ["town"]),
        ]
    )
    parts = data.from_table(frame, target="sick")
    held = sorted(
        set(range(80))
        - set(fwdonly.data.arrays.hold_out_share("", (frame.sick == "yes").to_numpy().astype(int), 0.2, 0)[1])
    )
    wanted = coder.fit(frame.iloc[held]).transform(frame).astype(np.float32)
    model = fwdonly.load(folder / "m.safetensors")
    assert parts.digest == found.digest and np.array_equal(np.sort(wanted[held], 0), np.sort(found.x_train, 0))
    scores = np.asarray(rule.predict(state, jnp.asarray(wanted)))
    shuffled = frame[["town", "sick", "income", "age"]]
    np.testing.assert_allclose(model.predict(shuffled).scores, scores, rtol=1e-5)
    code, out, _ = command("predict", folder / "m.safetensors", folder / "rows.csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0 and [int(row["label"]) for row in rows] == scores.argmax(1).tolist()
    assert {row["class"] for row in rows} <= {"yes", "no"}
    right = np.mean([row["class"] for row in rows] == frame.sick)
    found = model.evaluate(frame.drop(columns="sick"), frame.sick)
    assert found.accuracy == pytest.approx(right)


def test_another_table_is_evaluated_with_the_constants_of_the_training(table, command):
    """By itself it would be standardised by its own mean, and the shift would vanish."""
    folder, frame, *_ = table
    shifted = frame.assign(age=frame.age + 30)
    shifted.to_csv(folder / "other.csv", index=False)
    code, out, _ = command("evaluate", folder / "m.safetensors", "--dataset", f"csv:{folder / 'other.csv'}#target=sick")
    model = fwdonly.load(folder / "m.safetensors")
    names = model.predict(shifted).names
    assert code == 0 and f"accuracy {100 * np.mean(np.array(names) == frame.sick):.2f} %" in out and "80 samples" in out
    with pytest.raises(UsageError, match="is coded as a table of its own; pass evaluate"):
        model.evaluate(data.load(f"csv:{folder / 'other.csv'}#target=sick"))
    code, out, _ = command("evaluate", folder / "m.safetensors", "--dataset", f"csv:{folder / 'rows.csv'}#target=sick")
    assert code == 0 and "test part" in out and "16 samples" in out


def test_names_of_classes_meet_by_name(trained, tmp_path):
    names = tuple("abcdefghij")
    mine = dataclasses.replace(DIGITS, name="mine", class_names=names)
    path = tmp_path / "m.safetensors"
    fwdonly.save(path, trained[0], RULES["mf"], mine, Plan(normalise="half"))
    model = fwdonly.load(path)
    found = model.predict(DIGITS.x_test)
    assert found.names == tuple(names[label] for label in found.labels)
    backwards = dataclasses.replace(
        DIGITS, y_train=9 - DIGITS.y_train, y_test=9 - DIGITS.y_test, class_names=names[::-1], name="other"
    )
    assert model.evaluate(backwards).accuracy == model.evaluate(mine).accuracy
    assert model.evaluate(DIGITS.x_test, np.array(names)[DIGITS.y_test]) == model.evaluate(mine)
    with pytest.raises(UsageError, match="other holds the class 'z', and this model knows a, b, c"):
        model.evaluate(dataclasses.replace(backwards, class_names=("z", *names[1:])))


BARE_INSTALL = """
import sys
for name in ("tyro", "filelock", "matplotlib", "pandas", "sklearn", "PIL", "scipy", "optuna", "pooch"):
    sys.modules[name] = None
import numpy as np, fwdonly
print(fwdonly.load(sys.argv[1]).predict(np.zeros((2, 8, 8, 1), np.uint8)).scores.shape)
"""


def test_a_model_opens_without_any_extra(trained):
    out = subprocess.run([sys.executable, "-c", BARE_INSTALL, str(trained[1])], capture_output=True, text=True)
    assert out.stdout == "(2, 10)\n", out.stderr


EXPORTED = """
import sys, numpy as np
import jax.export
program = jax.export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
print("fwdonly" in sys.modules)
np.save(sys.argv[3], np.asarray(program.call(np.load(sys.argv[2]))))
"""


@pytest.mark.parametrize("name", ["mf", "ff"])
def test_an_exported_program_runs_without_this_library(name, tmp_path):
    """FF asks for the number of rows, which is free in the program."""
    pytest.importorskip("flatbuffers")
    path, rule = tmp_path / "m.safetensors", RULES[name]
    fwdonly.save(path, state_of(rule), rule, DIGITS)
    model = fwdonly.load(path)
    model.export(tmp_path / "m.stablehlo")
    np.save(tmp_path / "x.npy", DIGITS.x_test[:37])
    words = [sys.executable, "-c", EXPORTED, *(str(tmp_path / n) for n in ("m.stablehlo", "x.npy", "out.npy"))]
    out = subprocess.run(words, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert out.stdout.strip() == "False"
    found, wanted = np.load(tmp_path / "out.npy"), model.predict(DIGITS.x_test[:37]).scores
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())


def test_exported_parameters_are_the_state_by_its_names(trained, tmp_path, command):
    assert command("export", trained[1], tmp_path / "m.npz")[0] == 0
    arrays, state = np.load(tmp_path / "m.npz"), trained[0].state
    assert np.array_equal(arrays["params/1/M"], state.params[1].M)
    assert np.array_equal(
        arrays["params/0/block/params/Dense_0/kernel"], state.params[0].block["params"]["Dense_0"]["kernel"]
    )
    assert arrays["preprocessing/mean"] == arrays["preprocessing/sd"] == 0.5
    assert len(arrays.files) == 2 * 3 + 2


def test_the_example_of_ones_own_images(tmp_path):
    example = Path(__file__).parents[2] / "examples" / "own_images.py"
    assert len(example.read_text().splitlines()) <= 40
    out = subprocess.run(
        [sys.executable, str(example), str(tmp_path)], capture_output=True, text=True, check=True
    ).stdout
    for rule in ("mf", "bp"):
        assert f"{rule}: the other process predicts the same, bit for bit" in out
        assert float(re.search(rf"{rule}: accuracy (.*)", out)[1]) > 0.9
    assert (tmp_path / "mf.csv").read_text() != (tmp_path / "bp.csv").read_text()


COMMANDS = {
    "no model": (("predict",), "fwdonly predict takes a model and one input or more, before the options; got 0 words"),
    "no input": (("predict", "{m}"), "fwdonly predict takes a model and one input or more, before the options; got 1"),
    "a model that is not there": (("predict", "{d}/none", "{d}"), "there is no file {d}/none; correct the path"),
    "an input that is not there": (("predict", "{m}", "{d}/none.png"), "there is no file {d}/none.png; correct"),
    "an archive that is not there": (("predict", "{m}", "{d}/none.npz"), "there is no file {d}/none.npz; correct"),
    "a folder without images": (("predict", "{m}", "{d}/empty"), "{d}/empty holds no image file; give a folder of"),
    "a text as an image": (("predict", "{m}", "{d}/text.png"), "{d}/text.png cannot be read as an image (Unidentified"),
    "an image of another size": (
        ("predict", "{m}", "{d}/large.png"),
        "{d}/large.png is 9x9, and this model takes 8x8; scale it, or pass --resize",
    ),
    "an archive of several arrays": (
        ("predict", "{m}", "{d}/two.npz"),
        "{d}/two.npz has no array x (it holds a, b); give --array NAME",
    ),
    "an array that is not there": (
        ("predict", "{m}", "{d}/two.npz", "--array", "c"),
        "{d}/two.npz has no array 'c' (it holds a, b); give --array NAME",
    ),
    "an array of objects": (("predict", "{m}", "{d}/objects.npz"), "{d}/objects.npz holds Python objects, which may"),
    "a text as an archive": (("predict", "{m}", "{d}/text.npz"), "{d}/text.npz cannot be read as .npz (it begins"),
    "a text as an array": (("predict", "{m}", "{d}/text.npy"), "{d}/text.npy cannot be read as .npy ("),
    "an array that is no array": (
        ("predict", "{m}", "{d}/forged.npy"),
        "{d}/forged.npy cannot be read as .npy (Val",
    ),
    "a table": (
        ("predict", "{m}", "{d}/rows.csv"),
        "{d}/rows.csv is a table, and this model was trained on arrays; give an .npz of samples",
    ),
    "an output that cannot be": (
        ("predict", "{m}", "{d}/good.npz", "--output", "{d}/none/out.csv"),
        "cannot write {d}/none/out.csv: No such file or directory; choose a writable folder",
    ),
    "two models": (("evaluate", "{m}", "{m}"), "fwdonly evaluate takes one model, before the options; got 2"),
    "another data set": (
        ("evaluate", "{m}", "--dataset", "{d}/other.npz"),
        "npz:other has shape (10, 7, 8, 1), and this model takes (n, 8, 8, 1); give samples as in training",
    ),
    "no export": (("export", "{m}"), "fwdonly export takes a model and the file to write; got 1 words"),
    "an export that is none": (("export", "{m}", "{d}/x.onnx"), "{d}/x.onnx ends in neither .npz nor .stablehlo; name"),
    "an export that is there": (
        ("export", "{m}", "{d}/x.safetensors"),
        "the saved model is a .safetensors file already",
    ),
    "a model that is none": (("evaluate", "{d}/text.png"), "{d}/text.png is not a whole safetensors file ("),
}


@pytest.mark.parametrize("case", COMMANDS)
def test_bad_words_are_one_line(case, trained, command, tmp_path):
    pillow = pytest.importorskip("PIL.Image")
    (tmp_path / "empty").mkdir()
    forged = (tmp_path / "x.npy", tmp_path / "forged.npy")
    np.save(forged[0], DIGITS.x_test[:2])
    forged[1].write_bytes(forged[0].read_bytes()[:-8])
    for name in ("text.png", "text.npz", "text.npy"):
        (tmp_path / name).write_text("no such thing")
    pillow.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "large.png")
    np.savez(tmp_path / "two.npz", a=IMAGES, b=IMAGES)
    np.savez(tmp_path / "good.npz", x=IMAGES)
    other = {"x_train": DIGITS.x_test[:90, :7], "x_test": DIGITS.x_test[:10, :7]}
    np.savez(tmp_path / "other.npz", **other, y_train=DIGITS.y_test[:90], y_test=np.arange(10))
    np.savez(tmp_path / "objects.npz", x=np.array([{}, 1], object))
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n")
    words, line = COMMANDS[case]
    words = [word.format(m=trained[1], d=tmp_path) for word in words]
    code, out, err = command(*words)
    assert code == 2 and err.count("\n") == 1 and err.startswith(f"error: {line.format(d=tmp_path)}"), err
    assert "," not in out.partition("\n")[0] or words[0] == "evaluate"  # no half of a CSV
