"""Any rule on any network, data and protocol by one command, a user's own rule and network among them."""

import csv
import json
import textwrap
from pathlib import Path

import pytest

from fwdonly import UsageError, nets
from fwdonly.study import design, rules

EVERY = ["mf", "ff", "cafo", "pepita", "foton", "fa", "dfa", "bp"]
SMALL = ["--dataset", "digits", "--batch-size", "64", "--seeds", 1, "--quiet"]
STEERED = ["--monitor", "accuracy", "--keep", "best_accuracy", "--patience", "None", "--epochs", 1]


def read(folder, name="summary.json"):
    return json.loads((folder / name).read_text())


@pytest.mark.filterwarnings("ignore::fwdonly.foton.ExpansionWarning")
@pytest.mark.parametrize(
    ("net", "rules"),
    [
        pytest.param("mlp:12,12", EVERY, marks=pytest.mark.slow),
        pytest.param("cnn:4,8", EVERY, marks=pytest.mark.slow),
        ("cnn:4,8", ["mf", "cafo", "foton", "bp"]),
    ],
    ids=["mlp", "cnn", "four on a cnn"],
)
def test_every_rule_trains_on_one_network_in_one_comparison(command, tmp_path, net, rules):
    folder = tmp_path / "c"
    code, _, err = command("compare", *rules, *SMALL, *STEERED, "--net", net, "--output-dir", folder)
    assert code == 0, err
    found = read(folder)
    assert [rule["rule"] for rule in found["rules"]] == rules and found["finished"]
    assert all(rule["runs"][0]["arithmetic"]["value"] > 0 for rule in found["rules"])
    shares = {rule["rule"]: rule["arithmetic_per_step"] for rule in found["rules"]}
    assert shares["foton"] > 0.01 > max(shares[name] for name in rules if name not in ("foton", "pepita"))
    settings = read(folder, "config.json")["configuration"]["rules"]
    assert all(own["net"].startswith(net) for own in settings.values())
    assert (settings["foton"]["net"], settings["bp"]["net"]) == (f"{net};bias=none;start=orthogonal", net)
    page = (folder / "report.html").read_text()
    assert all(rule["label"] in page for rule in found["rules"])


@pytest.mark.parametrize(("loss", "has_share"), [("ce", True), ("mse", False)])
def test_arithmetic_per_step_is_of_rules_that_train_in_batches(command, tmp_path, loss, has_share):
    """The closed form takes all images at once, in its stages' plans: no larger batch shares anything."""
    words = [*SMALL, *STEERED, "--net", "mlp:12,12", "--cafo.loss", loss, "--output-dir", tmp_path / "o"]
    code, _, err = command("compare", "cafo", "bp", *words)
    assert code == 0, err
    cafo, bp = read(tmp_path / "o")["rules"]
    assert ("arithmetic_per_step" in cafo) == has_share and "arithmetic_per_step" in bp
    assert cafo["runs"][0]["arithmetic"]["value"] > 0


OWN = '''
    """Delta rule on random features: 40 lines of a user's own, outside the package."""
    from functools import partial
    from typing import NamedTuple

    import jax
    import jax.numpy as jnp
    import optax

    import fwdonly
    from fwdonly.base import LearningRule, cross_entropy, descend


    class State(NamedTuple):
        params: object
        opt_state: object
        blocks: object


    def features(blocks, x, net):
        for block, own in zip(net, blocks, strict=True):
            x = block.apply(own, x)
        return x.reshape(len(x), -1)


    def init(key, x, *, net, tx, num_classes, scale):
        blocks, _, shapes = fwdonly.nets.init(key, x, net)
        W = scale * jax.random.normal(jax.random.fold_in(key, 1), (shapes[-1][0].size, num_classes))
        return State(W, tx.init(W), blocks)


    def grads(state, batch, key, *, net):
        a = features(state.blocks, batch.x, net)
        loss, g = jax.value_and_grad(lambda W: cross_entropy(a @ W, batch.y))(state.params)
        return g, {"loss": loss}


    def update(state, batch, key, *, net, tx):
        g, metrics = grads(state, batch, key, net=net)
        return State(*descend(tx, g, state.opt_state, state.params), state.blocks), metrics


    def predict(state, x, *, net):
        return features(state.blocks, x, net) @ state.params


    def rule(net, tx, *, num_classes, scale=0.01):
        return LearningRule(
            partial(init, net=net, tx=tx, num_classes=num_classes, scale=scale),
            partial(update, net=net, tx=tx),
            partial(predict, net=net),
        )
'''


@pytest.fixture
def own_rule(tmp_path, monkeypatch):
    """A user's rule in the current folder."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "delta_rule.py"
    path.write_text(textwrap.dedent(OWN))
    return path


def test_a_users_rule_goes_through_every_command(command, own_rule, tmp_path):
    path = "./delta_rule.py"
    code, out, _ = command(
        *("train", path, *SMALL, "--net", "mlp:16", "--epochs", 2, "--scale", "0.1", "--against", "mf"),
        *("--output-dir", tmp_path / "t"),
    )
    assert code == 0 and out.count(" delta_rule ") == 3  # title, seed and mean
    settings = read(tmp_path / "t", "config.json")["configuration"]["rules"]["delta-rule"]
    assert settings["scale"] == 0.1 and settings["rule"] == "delta_rule.py" and len(settings["rule_sha256"]) == 64
    length = ["--net", "mlp:16", "--epochs", 2, "--patience", "None"]
    assert command("compare", path, "bp", *SMALL, *length, "--output-dir", tmp_path / "c")[0] == 0
    found = read(tmp_path / "c")["rules"][0]
    assert found["rule"] == "delta-rule" and found["runs"][0]["arithmetic"]["value"] > 0
    page = (tmp_path / "c" / "report.html").read_text()
    assert "delta_rule" in page
    code, out, _ = command("tune", path, *SMALL, "--net", "mlp:16", "--trials", 2, "--output-dir", tmp_path / "s")
    assert code == 0 and "delta_rule.py" in out
    assert command("report", tmp_path / "c")[0] == 0
    # The file decides the numbers: another one does not go on in this folder.
    own_rule.write_text(own_rule.read_text() + "\n# changed\n")
    again = ["--resume", "--output-dir", tmp_path / "c"]
    code, _, err = command("compare", path, "bp", *SMALL, *length, *again)
    assert code == 2 and "rule_sha256" in err and err.count("\n") == 1


def test_the_example_of_ones_own_rule_is_compared_with_backpropagations_gradient(command, tmp_path):
    example = Path(__file__).parents[2] / "examples" / "my_rule.py"
    assert len([line for line in example.read_text().splitlines() if line.strip()]) <= 40
    words = [*SMALL, "--net", "mlp:8,6", "--epochs", 1, "--alignment", "--output-dir", tmp_path / "a"]
    assert command("train", example, *words)[0] == 0
    with open(tmp_path / "a" / "metrics.csv") as file:
        (row,) = [row for row in csv.DictReader(file) if row["seed"] == "0"]
    cosines = [float(value) for value in row["cosine"].split()]
    assert len(cosines) == 2 and all(0 < abs(cosine) <= 1 for cosine in cosines)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1\n", "has no function rule"),
        ("1 / 0\n", "ZeroDivisionError"),
        ("def rule(net, tx, *, num_classes): pass\nCARD = 3\n", "must be a fwdonly.card.Card"),
        (None, "there is no file"),
    ],
)
def test_a_file_that_is_no_rule_is_refused_in_one_line(command, tmp_path, text, words):
    path = tmp_path / f"rule_{abs(hash(words))}.py"
    if text is not None:
        path.write_text(text)
    code, _, err = command("train", path, *SMALL)
    assert code == 2 and words in err and err.startswith("error: ") and err.count("\n") == 1


def test_a_users_network_is_recorded_and_trained(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "from fwdonly import nets\n\ndef small(num_classes):\n    return nets.mlp([12, num_classes])\n"
    (tmp_path / "mine.py").write_text(text)
    code, out, err = command("train", "mf", *SMALL, "--net", "mine.py:small", "--epochs", 1, "--output-dir", "o")
    assert code == 0 and "mine:small on digits" in out, err
    settings = read(tmp_path / "o", "config.json")["configuration"]["rules"]["mf"]
    assert settings["net"] == "mine.py:small" and len(settings["net_sha256"]) == 64


@pytest.mark.parametrize(
    "text",
    [
        "mlp:1000,1000",
        "mlp:64x50;activation=tanh;bias=none;start=orthogonal",
        "cnn:32,64;dense=500,10;kernel=5;padding=valid;pool=max;stride=1",
        "cnn:64,8,8;kernel=5,3,3;pool=average,none,max;stride=1,1,2",
        "cwc:20,40",
    ],
)
def test_a_specification_gives_equal_networks_again(text):
    spec = nets.parse(text)
    assert nets.parse(str(spec)) == spec and spec.build(10) == nets.parse(str(spec)).build(10)
    assert hash(spec.build(10)) == hash(spec.build(10))
    other = nets.parse(text.replace("1000", "500").replace("64", "32").replace("20,40", "20,60"))
    assert other.build(10) != spec.build(10)  # the control


def without_starts(net):
    return tuple(block.clone(kernel_init=nets.zeros, parent=None) for block in net)


CWC = nets.cwc([20, 40], 10)


@pytest.mark.parametrize(
    ("net", "text"),
    [
        (CWC, "cwc:20,40"),
        (nets.cwc([20, 40], 2), None),  # for ten classes cwc builds other groups
        ((*CWC, *nets.mlp([5])), None),
        ((nets.Conv(20, groups=2), nets.Conv(40)), None),
        ((CWC[0], CWC[1].clone(pool="average")), None),
        ((CWC[0], CWC[1].clone(kernel=5)), None),
        ((CWC[0], CWC[1].clone(activation=nets.ACTIVATIONS["tanh"])), None),
        ((nets.Conv(25), nets.Conv(45, groups=5)), None),
        ((nets.Conv(4, kernel=5), nets.Conv(8, stride=2)), "cnn:4,8;kernel=5,3;stride=1,2"),
        (nets.cnn([4, 8], pool="max") + nets.mlp([5]), "cnn:4,8;dense=5;pool=max"),
        (nets.mlp([5, 4], bias="none", activation=nets.ACTIVATIONS["tanh"]), "mlp:5,4;activation=tanh;bias=none"),
    ],
)
def test_blocks_are_described_by_what_builds_them_again_or_not_at_all(net, text):
    """The second half is what matters: a description that builds another network would be a lie in a saved model."""
    assert nets.described(net, 10) == text
    if text is not None:
        assert without_starts(nets.parse(text).build(10)) == without_starts(net)


def test_what_a_specification_says_goes_before_the_rules_own_start_values():
    said = nets.parse("mlp:8;start=zeros").with_defaults({"start": "normal", "bias": "none", "pool": "max"})
    assert str(said) == "mlp:8;bias=none;start=zeros"
    assert not said.has_biases and nets.parse("mlp:8").has_biases


@pytest.mark.parametrize("text", ["mlp", "mlp:", "mlp:0", "mlp:8;pool=max", "cnn:8;pool=none;x", "cnn:8;kernel=0",
                                  "cnn:8;start=ones", "nowhere.py:f", "res:8", "mlp:8x", "cnn:4;dense=",
                                  "cnn:8,8;kernel=3,5,3"])  # fmt: skip
def test_a_specification_that_says_nothing_is_one_line(text):
    with pytest.raises(UsageError) as caught:
        nets.parse(text).build(10)
    assert "\n" not in str(caught.value) and "--net" in str(caught.value)


@pytest.mark.parametrize("name", rules.NAMES)
def test_every_rule_declares_its_options_once_with_help(name):
    rule = rules.load(name)
    assert all(field.help for field in rule.fields), [field.name for field in rule.fields if not field.help]
    assert len({field.name for field in rule.fields}) == len(rule.fields)
    known = (
        {field.name for field in rule.fields} | set(design.Optimizer._fields) | set(design.Plan.__dataclass_fields__)
    )
    for said in (rule.card.recipe, rule.card.compared, rule.variant.options, rule.variant.tuned, rule.space):
        assert set(said) <= known
    arm = design.make_arm(rule, rule.defaults(compared=False))
    assert arm.net.build(10) and arm.net.sizes == nets.parse(rule.card.net).sizes
