"""Nothing is lost: what a training gave is written, whatever the machine and the user's numbers are like."""

import json
import os
import stat
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest

import fwdonly
from fwdonly import files
from fwdonly.cli import main
from fwdonly.errors import UsageError, number, plain
from fwdonly.study import Data, Machine, Measuring, Output, Runs, Study, folder, load, make_arm
from fwdonly.training import Plan, checkpoint

SCALARS = [np.int64(3), np.int8(3), np.uint32(3), np.asarray(3), jnp.asarray(3)]


@pytest.fixture(autouse=True, scope="module")
def as_users_have_it():
    """Without the suite's checks of annotations, which refuse what these tests give."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def digits():
    return fwdonly.data.load("digits")


def rule_of(data):
    return fwdonly.mf.rule(fwdonly.nets.mlp([8]), optax.adam(1e-3), num_classes=data.num_classes)


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", SCALARS, ids=repr)
@pytest.mark.parametrize("name", ["epochs", "batch_size", "patience", "chunk_steps"])
def test_scalars_of_numpy_and_jax_are_numbers_of_a_plan(name, value):
    found = Plan(**{name: value})
    assert type(getattr(found, name)) is int
    assert found == Plan(**{name: 3})
    assert json.loads(json.dumps(vars(found))) == vars(Plan(**{name: 3}))


@pytest.mark.parametrize("name", ["min_delta", "target", "cache_gb"])
@pytest.mark.parametrize("value", [np.float32(0.25), np.float64(0.25), np.float16(0.25), np.longdouble(0.25)])
def test_floats_of_numpy_are_numbers_of_a_plan(name, value):
    found = getattr(Plan(**{name: value}), name)
    assert type(found) is float
    assert found == 0.25


@pytest.mark.parametrize("name", ["augment", "stream"])
def test_switches_of_numpy_are_switches(name):
    assert getattr(Plan(**{name: np.True_}), name) is True


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (Plan, "epochs", "2"),
        (Plan, "epochs", 2.0),
        (Plan, "epochs", None),
        (Plan, "epochs", True),
        (Plan, "batch_size", 64.0),
        (Plan, "batch_size", np.float32(64)),
        (Plan, "batch_size", [64]),
        (Plan, "patience", "3"),
        (Plan, "validate_every", 1.0),
        (Plan, "chunk_steps", "8"),
        (Plan, "min_delta", "0.1"),
        (Plan, "min_delta", None),
        (Plan, "target", True),
        (Plan, "target", np.asarray([0.5])),
        (Plan, "augment", 1),
        (Plan, "augment", "yes"),
        (Plan, "stream", "no"),
        (Plan, "cache_gb", 1j),
        (Runs, "seeds", 2.5),
        (Runs, "first_seed", "0"),
        (Runs, "alone", 1),
        (Measuring, "idle_seconds", "30"),
        (Machine, "devices", 1.0),
        (Machine, "join_seconds", "5"),
        (Output, "quiet", 0),
    ],
)
def test_another_type_is_refused_in_one_line_at_construction(kind, name, value):
    with pytest.raises(UsageError, match=f"^(--)?{name.replace('_', '.')} (must be|is) .*; got") as error:
        kind(**{name: value})
    assert "\n" not in str(error.value)


def test_a_checkpoint_takes_numpy_numbers(digits, tmp_path):
    plan = Plan(epochs=np.int64(1), batch_size=np.int64(64), min_delta=np.float32(0.01))
    found = fwdonly.fit(rule_of(digits), digits, plan, seed=np.int64(1), checkpoint=tmp_path / "c.npz")
    plain_one = fwdonly.fit(rule_of(digits), digits, Plan(epochs=1, batch_size=64, min_delta=0.01), seed=1)
    assert (tmp_path / "c.npz").exists()
    assert found.test_loss == plain_one.test_loss


def test_a_search_takes_numpy_numbers(digits, tmp_path):
    space = {"learning_rate": fwdonly.tune.Range(np.float32(1e-4), np.float32(1e-2)), "goodness": (np.int64(1), (2, 3))}

    def make(goodness):
        assert goodness in (1, (2, 3))
        net = fwdonly.nets.mlp([8])
        return lambda learning_rate: fwdonly.mf.rule(net, optax.adam(learning_rate), num_classes=10), plan

    plan = Plan(epochs=1, batch_size=np.int64(64))
    study = fwdonly.tune.tune(
        make, space, digits, trials=np.int64(2), seeds=np.arange(1), parallel=np.int64(2), about={"w": np.int64(3)},
        first={"learning_rate": np.float32(1e-3)}, storage=str(tmp_path / "journal"),
    )  # fmt: skip
    assert study.user_attrs["facts"]["about"] == {"w": 3}


@pytest.mark.parametrize("about", [{"w": {1, 2}}, {"w": float("nan")}, {"w": [np.inf]}, {"w": object()}])
def test_a_search_refuses_before_the_first_trial_what_it_cannot_write(digits, about):
    def make(**_):
        raise AssertionError("it has begun")

    with pytest.raises(UsageError, match=r"about.w cannot be written"):
        fwdonly.tune.tune(make, {"learning_rate": fwdonly.tune.Range(1e-4, 1e-2)}, digits, about=about)


@pytest.mark.parametrize(
    "own", [fwdonly.tune.Range("1", 2), fwdonly.tune.Range(None, 2), fwdonly.tune.Range(1, 2, "yes"), 3]
)
def test_a_range_without_numbers_is_refused_in_one_line(digits, own):
    with pytest.raises(UsageError, match="lr needs a Range of two numbers"):
        fwdonly.tune.tune(lambda: None, {"lr": own}, digits)


def test_a_study_takes_numpy_numbers(digits):
    rule = load("mf")
    arm = make_arm(rule, {"learning_rate": np.float32(0.001), "epochs": np.int64(2)}, net="mlp:8")
    study = Study("t", (arm,), Data("digits"), Runs(seeds=np.int64(2)), protocol={"target": np.float32(0.5)})
    config = study.configuration(digits, fwdonly.data.split(digits))
    assert json.loads(json.dumps(config, allow_nan=False)) == config
    assert config["rules"]["mf"]["epochs"] == 2
    assert config["protocol"] == {"target": 0.5}


def test_a_state_that_no_checkpoint_can_hold_is_refused_before_training(digits, tmp_path):
    rule = rule_of(digits)

    def init(key, x):
        return rule.init(key, x), key

    def update(state, batch, key):
        new, metrics = rule.update(state[0], batch, key)
        return (new, state[1]), metrics

    keyed = rule._replace(
        init=init, update=update, predict=lambda state, x: rule.predict(state[0], x), validate=None, frozen=None,
        grads=None,
    )  # fmt: skip
    seen = []
    with pytest.raises(UsageError, match="no checkpoint can hold"):
        fwdonly.fit(keyed, digits, Plan(epochs=1), checkpoint=tmp_path / "c.npz", callback=seen.append)
    assert not seen


def test_numbers_and_plain_have_words_for_everything_else():
    assert plain({"a": (np.int64(1), jnp.asarray(2.0)), 3: np.str_("x")}, "it") == {"a": [1, 2.0], "3": "x"}
    assert plain(np.arange(3), "it") == [0, 1, 2]
    for value, kind in (("1", int), (True, float), (1.0, int), (1, bool), (jax.random.key(0), int)):
        with pytest.raises(TypeError):
            number(value, kind)
    with pytest.raises(UsageError, match=r"it\.b cannot be written"):
        plain({"b": jax.random.key(0)}, "it")
    with pytest.raises(UsageError, match="cannot be written"):
        checkpoint.check_writable("c.npz", {"plan": {1}})


# --- values read from files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "classes", "words"),
    [
        ([0, 1, 2**31 - 1], None, r"reaches 2147483647 but has no label 2;"),
        ([1, 2, 2**31 - 1], None, r"has no label 0;"),
        ([0, 2**62], None, r"labels 0\.\.4611686018427387904; number the classes"),
        ([0, 1, 3, 4], None, r"reaches 4 but has no label 2;"),
        ([0, 1, 1], 2**31, r"2147483648 classes for 3 training samples"),
        ([0, 1, 1], 2**62, r"classes for 3 training samples"),
    ],
)
def test_work_does_not_grow_with_the_values_of_labels(tmp_path, labels, classes, words):
    y = np.asarray(labels, np.int64)
    x = np.zeros((len(y), 4, 4), np.uint8)
    more = {} if classes is None else {"num_classes": np.asarray(classes, np.int64)}
    np.savez(tmp_path / "mine.npz", x_train=x, y_train=y, x_test=x[:1], y_test=y[:1], **more)
    tracemalloc.start()
    try:
        with pytest.raises(UsageError, match=words):
            fwdonly.data.load("mine", tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 1e7
    finally:
        tracemalloc.stop()


def test_work_does_not_grow_with_the_seeds_that_a_configuration_states(tmp_path):
    summary = {
        "rule": "mf", "finished": False, "compile_seconds": 1.0, "train_seconds": 1.0, "energy": None,
        "runs": [{"seed": 0, "val_accuracy": 0.5, "test_accuracy": 0.5, "epochs": 1, "kept_epoch": 0,
                  "train_seconds_share": 1.0, "diverged": False, "readouts": {}}],
    }  # fmt: skip
    data = {"name": "d", "digest": "x", "train": 1, "validation": 1, "test": 1}
    top = {"title": "t", "finished": False, "data": data, "rules": [summary]}
    config = {"configuration": {"rules": {"mf": {"first_seed": 0, "seeds": 2**40}}}}
    (tmp_path / "summary.json").write_text(json.dumps(top))
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "metrics.csv").write_text("rule,seed,stage,epoch,train_loss,val_loss,val_accuracy,layer_loss\n")
    with pytest.raises(UsageError, match=r"is damaged \(1099511627776 seeds of a rule\)"):
        fwdonly.report.load(tmp_path)


# --- drawing ----------------------------------------------------------------------------------------------------------

DRAW = """
import sys
from pathlib import Path
from fwdonly import report
folder = Path(sys.argv[1])
rows = [
    {"rule": "mf", "seed": s, "stage": 0, "epoch": e, "train_loss": 1 / e, "val_loss": 1 / e,
     "val_accuracy": 0.5 + e / 10, "layer_loss": "", "cosine": "0.5 0.25 1", "norm_ratio": "1 2 1"}
    for s in (0, 1) for e in (1, 2, 3)
]
power = [{"rule": "mf", "seed": None, "seconds": t, "device": "gpu", "watts": 9.0 + t, "mark": ""} for t in (0.0, 1.0)]
trials = [{"state": "complete", "val_accuracy": 0.5, "lr": 0.1}, {"state": "pruned", "val_accuracy": 0.4, "lr": 0.001}]
report.learning_curves(folder / "a.png", rows, "a_title with 5 % $x$")
report.alignment_curves(folder / "b.png", rows, "title")
report.power_figure(folder / "c.png", power, "title")
report.search_figure(folder / "d.png", trials, ["lr"], "title")
print("matplotlib.pyplot" in sys.modules)
"""


def draw(folder, **environment):
    folder.mkdir()
    env = {k: v for k, v in os.environ.items() if k != "MPLBACKEND"} | environment
    found = subprocess.run([sys.executable, "-c", DRAW, folder], capture_output=True, text=True, env=env, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == "False"
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_figures_need_no_backend_and_no_latex(tmp_path):
    usual = draw(tmp_path / "usual")
    assert len(usual) == 4
    rc = tmp_path / "matplotlibrc"
    rc.write_text("text.usetex: True\nbackend: TkAgg\n")
    odd = {
        "kernel": {"MPLBACKEND": "module://of_a_kernel.that_is_not_here"},
        "unknown": {"MPLBACKEND": "no-such-backend"},
        "latex": {"MATPLOTLIBRC": str(rc)},
    }
    for name, environment in odd.items():
        assert draw(tmp_path / name, **environment) == usual


def test_drawing_leaves_the_users_backend_and_settings_alone(tmp_path):
    code = (
        "import matplotlib, matplotlib.pyplot as plt, sys\nplt.switch_backend('svg')\n"
        "matplotlib.rcParams['text.usetex'] = True\nmine = plt.figure()\n"
        + DRAW.replace('print("matplotlib.pyplot" in sys.modules)', "")
        + "print(matplotlib.get_backend(), matplotlib.rcParams['text.usetex'], plt.get_fignums(), plt.gcf() is mine)"
    )
    found = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False)
    assert found.stdout.split() == ["svg", "True", "[1]", "True"], found.stderr


def mf1(folder, *more):
    words = ["train", "mf", "--dataset", "digits", "--seeds", "1", "--epochs", "1", "--net", "mlp:8", "--quiet"]
    return main([*words, "--output-dir", str(folder), *more], ["fwdonly"])


@pytest.mark.parametrize(
    "failure",
    [RuntimeError("no LaTeX\nat all"), ImportError("no matplotlib"), UsageError("a full disk"), UnicodeError()],
    ids=repr,
)
def test_a_failing_figure_is_a_note_and_the_numbers_are_there(tmp_path, monkeypatch, capsys, failure):
    def fail(*_, **__):
        raise failure

    monkeypatch.setattr(fwdonly.report, "learning_curves", fail)
    assert mf1(tmp_path / "r") == 0
    said = capsys.readouterr()
    assert sum("note: tables and figures" in line for line in said.err.splitlines()) == 1
    assert json.loads((tmp_path / "r" / "summary.json").read_text())["finished"]
    assert "table.md" in said.out
    assert "learning_curves.png" not in said.out


def test_a_failing_page_of_a_comparison_is_a_note(tmp_path, monkeypatch, capsys):
    def fail(*_, **__):
        raise UnicodeEncodeError("ascii", "ä", 0, 1, "ordinal not in range")

    monkeypatch.setattr(fwdonly.report, "html_report", fail)
    words = ["--dataset", "digits", "--seeds", "2", "--epochs", "1", "--net", "mlp:8", "--quiet"]
    assert main(["compare", "mf", "bp", *words, "--output-dir", str(tmp_path / "r")], ["fwdonly"]) == 0
    assert "note: the report of" in capsys.readouterr().err


def test_a_failing_figure_of_a_search_is_a_note(tmp_path, monkeypatch, capsys):
    def fail(*_, **__):
        raise RuntimeError("no fonts")

    monkeypatch.setattr(fwdonly.report, "search_figure", fail)
    words = ["--dataset", "digits", "--seeds", "1", "--epochs", "1", "--net", "mlp:8", "--trials", "1", "--quiet"]
    assert main(["tune", "mf", *words, "--output-dir", str(tmp_path / "r")], ["fwdonly"]) == 0
    said = capsys.readouterr()
    assert "could not be made (no fonts)" in said.err
    assert "to train it:" in said.out


# --- the machine and its folders --------------------------------------------------------------------------------------


def breaks(*_, **__):
    raise OSError(2, "No such file or directory")


@pytest.mark.parametrize("what", ["cpuinfo", "platform", "processor", "version", "git"])
def test_describing_the_machine_never_fails(monkeypatch, tmp_path, what):
    from fwdonly.results import machines

    if what == "cpuinfo":
        monkeypatch.setattr(machines, "CPUINFO", tmp_path / "missing")
    elif what == "git":
        monkeypatch.setattr(machines.subprocess, "run", breaks)
    elif what == "version":
        monkeypatch.setattr(machines, "version", breaks)
    else:
        monkeypatch.setattr(machines, "CPUINFO", tmp_path / "missing")
        monkeypatch.setattr(machines.platform, what, breaks)
    found = machines.environment()
    json.dumps(found)
    assert fwdonly.results.machine()


def test_a_cpu_whose_description_is_no_utf8_is_described(monkeypatch, tmp_path):
    from fwdonly.results import machines

    (tmp_path / "cpuinfo").write_bytes(b"model name\t: K\xfcchen-CPU\n")
    monkeypatch.setattr(machines, "CPUINFO", tmp_path / "cpuinfo")
    assert machines.environment()["cpu"].endswith("chen-CPU")


@pytest.fixture
def homeless(monkeypatch):
    """HOME unset, and a user that has no entry in passwd: containers."""
    import pwd

    def nobody(_):
        raise KeyError("getpwuid(): uid not found")

    for name in ("HOME", "FWDONLY_CACHE", "FWDONLY_DATA", "XDG_CACHE_HOME", "TFDS_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)


def test_no_home_ends_no_run(homeless, tmp_path, monkeypatch):
    with pytest.raises(RuntimeError):
        Path.home()  # the control
    monkeypatch.chdir(tmp_path)
    assert fwdonly.data.load("digits").num_classes == 10
    assert fwdonly.data.cache_folder() is None
    with pytest.raises(UsageError, match=r"need a home folder, or a cache folder in \$FWDONLY_CACHE"):
        fwdonly.data.load("cifar10")
    with pytest.raises(UsageError, match=r"tfds:nothing (is not prepared in|needs tensorflow_datasets)"):
        fwdonly.data.load("tfds:nothing", tmp_path)
    assert not (tmp_path / "~").exists()


def test_no_home_but_a_cache(homeless, tmp_path, monkeypatch):
    monkeypatch.setenv("FWDONLY_CACHE", str(tmp_path))
    assert fwdonly.data.cache_folder() == tmp_path
    np.savez(
        tmp_path / "mine.npz", x_train=np.arange(32, dtype=np.uint8).reshape(2, 4, 4), y_train=np.arange(2),
        x_test=np.arange(32, dtype=np.uint8).reshape(2, 4, 4), y_test=np.arange(2),
    )  # fmt: skip
    assert fwdonly.data.load("mine", tmp_path).source == str(tmp_path / "mine.npz")


@pytest.mark.parametrize("variable", ["FWDONLY_DATA", "FWDONLY_CACHE"])
def test_a_home_that_nobody_has_is_an_error_in_one_line(monkeypatch, variable):
    monkeypatch.setenv(variable, "~nosuchuser/d")
    with pytest.raises(UsageError, match=rf"\${variable} ~nosuchuser/d: there is no such home folder"):
        fwdonly.data.load("cifar10")


@pytest.mark.parametrize(
    ("kind", "name", "flag"), [(Data, "data_dir", "--data-dir"), (Output, "output_dir", "--output-dir")]
)
def test_a_tilde_is_the_home_folder(monkeypatch, tmp_path, kind, name, flag):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert getattr(kind(**{name: Path("~/x")}), name) == tmp_path / "x"
    with pytest.raises(UsageError, match=f"{flag} ~nosuchuser/d: there is no such home folder"):
        kind(**{name: Path("~nosuchuser/d")})


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("reproduce", ["feedback-2019", "--list", "--output-dir=~nosuchuser/x"]),
        ("reproduce", ["feedback-2019", "--list", "--data-dir=~nosuchuser/x"]),
        ("report", ["r", "--output=~nosuchuser/x.html"]),
        ("tune", ["mf", "--output-dir=~nosuchuser/x"]),
        ("compare", ["mf", "bp", "--tuned=~nosuchuser/x"]),
        ("submit", ["--folder=~nosuchuser/x", "--", "list"]),
    ],
)
def test_every_path_of_every_command_knows_the_tilde(capsys, command, words):
    assert main([command, *words], ["fwdonly"]) == 2
    assert "there is no such home folder" in capsys.readouterr().err


def test_default_folders_never_collide(monkeypatch, tmp_path, digits):
    monkeypatch.chdir(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: folder.claim("train-mf", digits), range(20)))
    assert len(set(found)) == 20
    assert all(path.is_dir() for path in found)


def test_runs_of_one_second_have_folders_of_their_own(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(folder.time, "strftime", lambda _: "20260101-000000")
    words = ["train", "mf", "--dataset", "digits", "--seeds", "1", "--epochs", "1", "--quiet", "--net"]
    assert [main([*words, net], ["fwdonly"]) for net in ("mlp:8", "mlp:7")] == [0, 0]
    names = sorted(path.name for path in (tmp_path / "results").iterdir())
    assert names == ["train-mf-digits-20260101-000000", "train-mf-digits-20260101-000000-2"]
    assert main([*words, "nonsense"], ["fwdonly"]) == 2
    assert main([*words, "cnn:8;pool=max;activation=none"], ["fwdonly"]) == 2
    assert len(list((tmp_path / "results").iterdir())) == 2  # a refused run leaves nothing


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("plain ä", "plain ä"),
        (os.fsdecode(b"r\xff"), r"r\xff"),
        ("ä".encode().decode("ascii", "surrogateescape"), "ä"),
        ("x\ud800y", r"x\ud800y"),
    ],
)
def test_odd_bytes_become_readable(given, wanted):
    assert files.readable(given) == wanted


ODD = {"bytes": b"r\xff\xfe<b>&amp;a\nb", "umlaut": "größe<b>&amp;a\nb".encode()}


@pytest.mark.parametrize("name", ODD, ids=str)
def test_odd_names_of_folders_get_all_files(tmp_path, name):
    where = os.fsencode(tmp_path) + b"/" + ODD[name]
    words = ["compare", "mf", "bp", "--dataset", "digits", "--seeds", "2", "--epochs", "1", "--net", "mlp:8", "--quiet"]
    env = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    env.pop("LANG", None)
    found = subprocess.run(
        [sys.executable, "-m", "fwdonly", *words, b"--output-dir", where], capture_output=True, env=env, check=False
    )
    assert found.returncode == 0, found.stderr
    assert b"could not" not in found.stderr
    there = {os.fsdecode(path) for path in os.listdir(where)}
    assert {"summary.json", "table.md", "report.html", "report.md", "learning_curves.png"} <= there
    page = Path(os.fsdecode(where + b"/report.html")).read_bytes().decode("utf-8")
    assert {"bytes": r"r\xff\xfe", "umlaut": "größe"}[name] + "&lt;b&gt;&amp;amp;a\nb" in page
    assert "<b>&amp;" not in page


# --- power cuts -------------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(monkeypatch):
    """The order of what is asked of the disk."""
    log = []
    fsync, replace, opened = os.fsync, os.replace, os.open
    folders = {}

    def open_(path, flags, *args, **options):
        handle = opened(path, flags, *args, **options)
        folders[handle] = os.fspath(path)
        return handle

    def sync(handle):
        kind = "folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file"
        log.append(kind if kind == "folder" else f"file of {os.fstat(handle).st_size > 0}")
        fsync(handle)

    monkeypatch.setattr(os, "open", open_)
    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", lambda a, b: (log.append("rename"), replace(a, b)))
    return log


WATTS = {"rule": "mf", "seed": None, "seconds": 0.0, "device": "gpu", "watts": 9.0, "mark": ""}
WRITERS = {
    "json": lambda path: fwdonly.results.write_json(path, {"a": 1}),
    "text": lambda path: fwdonly.results.write_text(path, "text"),
    "rows": lambda path: fwdonly.results.write_rows(path, ["a"], [{"a": 1}]),
    "metrics": lambda path: fwdonly.results.write_metrics(path, []),
    "checkpoint": lambda path: checkpoint.save(path, {"a": np.ones(3)}, {}),
    "predictions": lambda path: fwdonly.results.write_predictions(path, fwdonly.results.Predictions(np.ones(3), {})),
    "figure": lambda path: fwdonly.report.power_figure(path, [WATTS], "title"),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_files_reach_the_disk_before_their_names_do(tmp_path, disk, writer):
    WRITERS[writer](tmp_path / "file")
    assert disk == ["file of True", "rename", "folder"]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_folders_reach_the_disk_before_anything_is_in_them(tmp_path, disk, digits, monkeypatch):
    """Or the results of a night would go with the name of their folder."""
    folder.make(tmp_path / "a" / "b")
    assert disk == ["folder", "folder"]
    monkeypatch.chdir(tmp_path)
    disk.clear()
    folder.claim("train-mf", digits)
    assert disk == ["folder", "folder"]
    disk.clear()
    fwdonly.tune.open_storage(tmp_path / "study.journal")
    assert disk == ["folder"]


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_one_line_and_leaves_the_earlier_file(tmp_path, monkeypatch, writer):
    WRITERS[writer](tmp_path / "file")
    before = (tmp_path / "file").read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match="No space left on device") as error:
        WRITERS[writer](tmp_path / "file")
    assert "\n" not in str(error.value)
    assert (tmp_path / "file").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("content", [b"", b"\0" * 300])
def test_an_empty_summary_is_an_absent_one(tmp_path, capsys, content):
    assert mf1(tmp_path / "r") == 0
    wanted = json.loads((tmp_path / "r" / "summary.json").read_text())["rules"][0]["runs"][0]["test_accuracy"]
    (tmp_path / "r" / "summary.json").write_bytes(content)
    with pytest.raises(UsageError, match=r"has no summary\.json"):
        fwdonly.report.load(tmp_path / "r")
    assert mf1(tmp_path / "r", "--resume") == 0
    assert json.loads((tmp_path / "r" / "summary.json").read_text())["rules"][0]["runs"][0]["test_accuracy"] == wanted


def test_a_folder_whose_configuration_is_empty_is_an_empty_one(tmp_path, capsys):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "config.json").write_bytes(b"")
    (tmp_path / "r" / "config.json.1234.part").write_bytes(b"{")
    assert mf1(tmp_path / "r") == 0


# --- journals ---------------------------------------------------------------------------------------------------------


def search(data, where, trials, **options):
    def make():
        return (lambda learning_rate: fwdonly.mf.rule(net, optax.adam(learning_rate), num_classes=10)), plan

    net, plan = fwdonly.nets.mlp([8]), Plan(epochs=1, batch_size=64)
    space = {"learning_rate": fwdonly.tune.Range(1e-4, 1e-2)}
    return fwdonly.tune.tune(make, space, data, trials=trials, seeds=[0], parallel=2, storage=where, **options)


@pytest.fixture(scope="module")
def journal(digits, tmp_path_factory):
    """A journal of two trials, and the four that a search ends with."""
    path = tmp_path_factory.mktemp("journal") / "study.journal"
    search(digits, path, 2)
    content = path.read_bytes()
    whole = search(digits, path, 4)
    return content, [trial.params for trial in whole.trials]


@pytest.mark.parametrize("damage", ["cut", "half", "merged", "zeros", "number"])
def test_a_journal_cut_in_mid_line_goes_on(digits, journal, tmp_path, capsys, damage):
    content, wanted = journal
    last = content.splitlines(keepends=True)[-1]
    tails = {
        "cut": last[: len(last) // 2],
        "half": b"{",
        "merged": last[: len(last) // 2] + last,  # what an earlier start appended
        "zeros": b"\0" * 100,
        "number": b"12\n",
    }
    path = tmp_path / "study.journal"
    path.write_bytes(content + tails[damage])
    study = search(digits, path, 4)
    assert [trial.params for trial in study.trials] == wanted
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "was incomplete" in said
    (aside,) = tmp_path.glob("*.cut")
    assert aside.read_bytes() == tails[damage]
    assert len(search(digits, path, 4).trials) == 4  # and again
    assert "incomplete" not in capsys.readouterr().err


def test_a_journal_broken_further_up_is_an_error_that_names_the_line(digits, journal, tmp_path):
    lines = journal[0].splitlines(keepends=True)
    (tmp_path / "study.journal").write_bytes(b"".join([*lines[:2], b"{broken\n", *lines[2:]]))
    before = (tmp_path / "study.journal").read_bytes()
    with pytest.raises(UsageError, match=r"line 3 of .*study\.journal is damaged, and others follow"):
        search(digits, tmp_path / "study.journal", 4)
    assert (tmp_path / "study.journal").read_bytes() == before


@pytest.mark.parametrize("when", [0, 3, 20])
def test_a_full_disk_ends_a_search_in_one_line(digits, tmp_path, monkeypatch, when):
    from optuna.storages.journal import JournalFileBackend

    quick = {"heartbeat": 0.2, "grace": 2.0}  # trials of the search that ended are taken at once, not after two minutes
    written, append = [], JournalFileBackend.append_logs

    def full(self, logs):
        written.append(logs)
        if len(written) > when:
            with open(self._file_path, "ab") as file:
                file.write(json.dumps(logs[0]).encode()[:20])
            raise OSError(28, "No space left on device")
        append(self, logs)

    monkeypatch.setattr(JournalFileBackend, "append_logs", full)
    with pytest.raises(UsageError, match=r"cannot write the journal .*No space left on device.*make room") as error:
        search(digits, tmp_path / "study.journal", 4, **quick)
    assert "\n" not in str(error.value)
    monkeypatch.undo()
    assert len(search(digits, tmp_path / "study.journal", 4, **quick).trials) >= 4
