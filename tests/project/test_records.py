"""What committed files and records may say: no place of a machine, commands that run, numbers that stand in a file."""

import dataclasses
import importlib.util
import json
import re
import statistics
import sys
import tomllib
from pathlib import Path

import jax
import optax
import pytest

from fwdonly import RULES, UsageError, claims, nets
from fwdonly.cli import claims as command_of_claims
from fwdonly.cli import of_claim
from fwdonly.files import without_folders
from fwdonly.report import power
from fwdonly.study import published

ROOT = Path(__file__).parents[2]
FOLDERS = ("benchmarks/results", "experiments/results")
COMMITTED = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.json"))
ABSOLUTE = re.compile(r"(?:^|[\s:='\"(,@])(?:~|[A-Za-z]:|file://)?[/\\][\w.~-]+")
"""A path from the root of a system; addresses of the web have two slashes after their colon."""


@pytest.fixture
def benchmark(monkeypatch):
    """A script of benchmarks/ as a module."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")

    def load(name):
        spec = importlib.util.spec_from_file_location(f"{name}_script", ROOT / "benchmarks" / f"{name}.py")
        monkeypatch.setitem(sys.modules, spec.name, module := importlib.util.module_from_spec(spec))
        spec.loader.exec_module(module)
        return module

    return load


# No place of a machine


def texts(content):
    """Every text in the content of a JSON file."""
    if isinstance(content, dict):
        content = [*content, *content.values()]
    if isinstance(content, list):
        return [text for part in content for text in texts(part)]
    return [content] if isinstance(content, str) else []


def test_committed_files_name_no_place_of_a_machine():
    places = {path.name: ABSOLUTE.findall("\n".join(texts(json.loads(path.read_text())))) for path in COMMITTED}
    assert len(places) > 50 and not any(places.values()), {name: found for name, found in places.items() if found}
    planted = [
        {"runs": [{"command": "fwdonly compare mf --output-dir /tmp/x/runs --quiet"}]},
        ["~/data"],
        "C:\\data\\x",
    ]
    assert all(ABSOLUTE.search("\n".join(texts(content))) for content in planted)
    assert not ABSOLUTE.search("https://ember.org/x, GB/s, results/mf, hf:owner/name, 1/sqrt(n)")


def test_names_of_committed_files_say_which_processor_it_was():
    known = {"zen5": "AMD EPYC", "xeon": "Intel(R) Xeon", "h200": "H200"}
    for path in COMMITTED:
        environment = json.loads(path.read_text()).get("environment")
        machine = environment and f"{environment['cpu']} {environment['device']}"
        for word, words in known.items() if machine else ():
            assert word not in path.name or words in machine, path.name


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("csv:/home/me/data/table.csv#target=label", "csv:table.csv#target=label"),
        ("folder:/data/pictures", "folder:pictures"),
        ("../other/rule.py:Rule", "rule.py:Rule"),
        ("--tuned=/a/b", "--tuned=b"),
        ("~me/net.py:build", "net.py:build"),
        ("C:\\data\\x.npz", "x.npz"),
        ("file:///a/b", "b"),
        ("on /opt/x/bin/python3\ntests/a.py", "on python3\ntests/a.py"),
        *((kept, kept) for kept in ("https://host/a/b", "results/tune-mf", "hf:owner/name", "GB/s", "/", "1/2")),
    ],
)
def test_paths_are_shortened_to_names_and_addresses_stay(text, short):
    assert without_folders(text) == short


def test_a_kept_command_says_what_was_run_and_not_where():
    line = "/opt/bin/python -m fwdonly compare mf /home/me/rule.py --tuned /home/me/a ../b --data-dir /d --seeds 2"
    line += " --log tensorboard:/logs mlflow --dataset folder:/data/pictures --resume --output-dir=/o"
    line += " --mf.learning-rate 1e-3 --coordinator node7:1234 --num-processes 2"
    wanted = "fwdonly compare mf rule.py --tuned a b --seeds 2 --dataset folder:pictures --mf.learning-rate 1e-3"
    assert command_of_claims.without_places(line) == wanted


@pytest.mark.parametrize("name", ["../x", "a/b", "/x", "", ".hidden", "a b", "a\\b", "x\n"])
def test_a_taken_file_stays_among_the_committed_ones(tmp_path, name):
    (tmp_path / "run").mkdir()
    with pytest.raises(UsageError, match="--name is letters"):
        command_of_claims.take(tmp_path / "run", tmp_path, name)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_the_benchmark_of_depth_records_its_command_without_its_folder(benchmark, monkeypatch, tmp_path):
    depth = benchmark("depth")
    ran = []

    def run(command, **_):
        ran.append(command)
        folder = tmp_path / "layers-02"
        folder.mkdir()
        run = {"seed": 0, "test_accuracy": 0.9, "epochs": 1, "kept_epoch": 1, "diverged": False}
        content = {"rules": [{"rule": "mf", "label": "MF", "runs": [run]}]}
        (folder / "summary.json").write_text(json.dumps(content))
        return type("Done", (), {"returncode": 0})

    monkeypatch.setattr(depth.subprocess, "run", run)
    (row,) = depth.accuracy_rows("mf", 2, depth.Options(folder=tmp_path))
    assert str(tmp_path / "layers-02") in ran[0] and "--resume" in ran[0]
    assert row["command"].startswith("fwdonly compare mf bp --net mlp:500,500") and str(tmp_path) not in row["command"]
    assert benchmark("_shared").portable({"a": [f"in {tmp_path}/x", 1]}) == {"a": ["in x", 1]}


def test_packages_hold_every_file_that_a_claim_names():
    """Or `fwdonly claims` of an installed package ends with a file that cannot be read."""
    targets = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    packed = [*targets["wheel"]["force-include"]]
    sides = [side for claim in claims.all_claims().values() for side in (claim.ours, claim.theirs) if side]
    named = {name for side in sides for name in side.files}
    for name in named:
        assert any(name == place or name.startswith(f"{place}/") for place in packed), name
        assert any(f"/{name}".startswith(place) for place in targets["sdist"]["include"]), name
    assert all(
        target == f"fwdonly/claims/results/{place}" for place, target in targets["wheel"]["force-include"].items()
    )
    assert "benchmarks/results/memory-2core-xeon-20261128.json" in named


# Commands of claims


def searches(folder, claim, **changed):
    """Planted searches of a claim below a folder, with rates of their own."""
    for at, name in enumerate(claim.searches, start=1):
        (folder / name).mkdir(parents=True, exist_ok=True)
        rule = changed.get("rule") or name.rpartition("-")[2]
        (folder / name / "best.json").write_text(json.dumps({"rule": rule, "values": {"learning_rate": 0.01 * at}}))
    return folder


def test_a_claim_of_tuned_rules_runs_with_its_searches_as_printed(command, tmp_path):
    claim = claims.find("net-mnist-fa")
    assert claim.line == "fwdonly reproduce --claim net-mnist-fa --tuned DIR" and claim.searches == (
        "mnist-fa",
        "mnist-bp",
    )
    searches(tmp_path, claim)
    study = of_claim.study_of(claim, 2, 0, None, Path("nowhere"), tuned=tmp_path)
    assert [(arm.name, arm.optimizer.learning_rate) for arm in study.arms] == [("fa", 0.01), ("bp", 0.02)]
    assert all(arm.about["tuned"] for arm in study.arms)
    code, out, _ = command(*claim.line.replace("DIR", str(tmp_path)).split()[1:], "--list")
    assert code == 0 and f"--tuned {tmp_path}/mnist-fa {tmp_path}/mnist-bp" in out


def test_searches_that_are_missing_or_not_asked_for_are_one_line(command, tmp_path):
    claim = claims.find("net-mnist-fa")
    words = ("reproduce", "--claim", claim.id, "--list")
    code, _, error = command(*words)
    assert code == 2 and "give --tuned DIR, the folder that holds mnist-fa and mnist-bp" in error
    searches(tmp_path, claim)
    (tmp_path / "mnist-bp/best.json").unlink()
    code, _, error = command(*words, "--tuned", tmp_path)
    assert code == 2 and error.count("\n") == 1 and f"{tmp_path} has no search of bp; fwdonly tune bp" in error
    searches(tmp_path, claim, rule="mf")
    code, _, error = command(*words, "--tuned", tmp_path)
    assert code == 2 and "holds settings of mf" in error
    assert command("reproduce", "--claim", "mf-mnist-own", "--list", "--tuned", tmp_path)[0] == 2
    assert command("reproduce", "mf-2025", "--list", "--tuned", tmp_path)[0] == 2


def test_the_search_that_a_missing_folder_names_is_one():
    from fwdonly.cli import tune

    claim = claims.find("net-mnist-ff")
    with pytest.raises(UsageError) as caught:
        of_claim.check_searches(claim, Path("nowhere"))
    words = re.search(r"fwdonly tune (.*) makes it", str(caught.value))[1].split()
    task = tune.task_of(words)
    assert (task.arm.name, task.data.dataset) == ("ff", claim.dataset)
    assert str(task.arm.net).partition(";")[0] == claim.network
    assert task.output.output_dir == Path("nowhere/mnist-ff")


def test_no_option_of_a_claims_command_is_given_twice():
    """Of an option that is given twice the last one counts, in silence."""
    for claim in claims.all_claims().values():
        flags = [word for word in claim.command.split() if word.startswith("--")]
        assert len(flags) == len(set(flags)), claim.id


@pytest.mark.parametrize(
    ("seconds", "backend", "why"),
    [
        (40.0, "gpu", ""),
        (5.5, "gpu", "windows of 5.5 s decide nothing, 30 s are asked"),
        (40.0, "cpu", "made on a CPU, and a GPU is asked for"),
    ],
)
def test_what_a_window_took_and_where_comes_from_the_file(tmp_path, seconds, backend, why):
    name = windows(tmp_path, {"window_seconds": seconds}, backend)
    verdict = judged(tmp_path, name)
    assert verdict.why == why and verdict.word == ("not decided" if why else "confirmed")


def test_a_file_that_does_not_say_how_long_its_windows_were_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no result files"):
        judged(tmp_path, windows(tmp_path, {}, "gpu"))


def windows(folder, found, backend):
    """A benchmark's file of ten pairs, MF a tenth cheaper than BP."""
    energy = {"mf": [0.9 + 0.001 * (at % 3) for at in range(10)], "bp": [1.0] * 10}
    rows = [
        {"arm": "resident", "rule": rule, "block": at, "joules_per_pass": joules}
        for rule, pairs in energy.items()
        for at, joules in enumerate(pairs)
    ]
    environment = {"python": "3", "packages": {"jax": "1"}, "cpu": "c", "cores": 2, "device": "d", "backend": backend}
    content = {"found": found | {"windows": rows}, "environment": environment}
    (folder / "energy.json").write_text(json.dumps(content))
    return "energy.json"


def judged(folder, name):
    """The verdict of the claim on energy per pass from this file."""
    claim = claims.find("mf-energy-per-pass")
    sides = {side: getattr(claim, side)._replace(files=(name,)) for side in ("ours", "theirs")}
    return claims.judge(folder, [dataclasses.replace(claim, **sides)])[claim.id]


# Numbers that stand in a file


def test_the_compilers_memory_is_on_the_pages_as_the_file_has_it(benchmark):
    memory = benchmark("memory")
    content = json.loads((ROOT / "benchmarks/results/memory-2core-xeon-20261128.json").read_text())
    pages = {"docs/method/measuring.md": 20, "benchmarks/README.md": 5}
    for page, depth in pages.items():
        table = memory.table(content, depth)
        assert table in (ROOT / page).read_text(), page
        assert table.replace("34", "35").replace("125", "126") not in (ROOT / page).read_text()
    of_mixer = json.loads((ROOT / "benchmarks/results/memory-mixer-2core-xeon-20261128.json").read_text())
    assert memory.table(of_mixer) in (ROOT / "docs/method/measuring.md").read_text()
    shown = {(row["layers"], memory.label(row)): row["temporary_mb"] for row in content["memory"]}
    words = " ".join((ROOT / "docs/which-rule.md").read_text().split())
    for depth, name in ((5, "`mf`"), (5, "`bp-chunks --chunks 16`"), (20, "`mf`"), (20, "`bp-chunks --chunks 16`")):
        assert f" {shown[depth, name]:.0f}" in words
    assert f"besides {shown[20, '`bp-chunks --remat sqrt --chunks 16`']:.0f}" in words


@pytest.mark.parametrize(("rule", "depth"), [("bp", 1), ("bp", 3), ("mf", 1), ("mf", 3)])
@pytest.mark.parametrize("kind", ["mlp", "mixer"])
def test_the_gradient_that_is_taken_off_is_that_of_the_parameters(benchmark, rule, depth, kind):
    memory = benchmark("memory")
    net, shape = nets.mlp([1024] * depth), (memory.INPUTS,)
    if kind == "mixer":
        net, shape = nets.mixer([1024] * depth, patch=memory.PATCH), memory.IMAGES
    x = jax.ShapeDtypeStruct((2, *shape), "float32")
    sizes = lambda tree: sum(4 * leaf.size for leaf in jax.tree.leaves(tree))
    for form in ({}, {"readout_pool": 1}) if rule == "mf" and kind == "mixer" else ({},):
        bound = RULES[rule].rule(net, optax.sgd(0.1), num_classes=10, **form)
        params = jax.eval_shape(bound.init, jax.random.key(0), x).params
        wanted = max(map(sizes, params)) if rule == "mf" else sizes(params)
        assert memory.gradient_bytes(rule, depth, 1024, kind, form.get("readout_pool", 0)) == wanted


def test_spreads_that_name_a_file_are_those_of_the_file():
    """Every number at the end of such a source is the spread of these runs, and the assumed one is no smaller."""
    sources = {
        "mf-mnist-own": ("mnist-2026-mf", "mnist-2026-bp-last"),
        "mf-fashion-own": ("fashion_mnist-2026-own", "fashion_mnist-2026-bp-last"),
        "mf-mnist-simultaneous": ("mnist-simultaneous-h200", "mnist-simultaneous-h200"),
        "foton-deep-relu": ("foton-deep-relu", "foton-deep-relu"),
        "foton-mnist": ("foton-mnist", None),
        "cafo-cifar10-mse": ("cafo-cifar10-mse", None),
    }
    for name, (ours, theirs) in sources.items():
        claim = claims.find(name)
        values = accuracies(ours, claim.ours.recorded)
        if theirs is not None:
            other = accuracies(theirs, claim.theirs.recorded)
            values = {seed: value - other[seed] for seed, value in values.items() if seed in other}
        sd = statistics.stdev(values.values())
        said = re.search(r"0\.\d\d\b", claim.sd_source.replace("-0.", ""))
        assert said and float(said[0]) == pytest.approx(sd, abs=0.006), (name, sd)
        assert sd <= claim.sd + 0.02 and Path(ours).name.partition("-h200")[0] in claim.sd_source + claim.id
    assert len(accuracies("foton-deep-tanh", "foton")) == 1, "a spread, now that there are two seeds: name it"


def accuracies(name, rule):
    """Test accuracies of a committed file in %, by seed."""
    content = json.loads((ROOT / f"experiments/results/{name}.json").read_text())
    (runs,) = [record["runs"] for record in content["rules"] if record["rule"] == rule]
    return {run["seed"]: 100 * run["test_accuracy"] for run in runs}


def test_published_numbers_are_those_of_the_tables_or_stand_on_the_page_of_published_numbers():
    cells = [
        (row.name.removeprefix("dfa_").partition("-")[0], cell.rule.partition("-")[0], cell.value)
        for table in published.tables().values()
        for row in table.rows
        for cell in row.cells
        if cell.metric == "test_accuracy"
    ]
    page = (ROOT / "docs/method/published-numbers.md").read_text()
    elsewhere = []
    for claim in claims.all_claims().values():
        if claim.published is None:
            continue
        values = {v for _, rule, v in cells if rule in (claim.ours.rule.partition("-")[0], "fa")}
        if claim.theirs is not None:
            ours, theirs = (
                [v for data, rule, v in cells if data == claim.dataset and rule == side.rule.partition("-")[0]]
                for side in (claim.ours, claim.theirs)
            )
            values = {round(a - b, 2) for a in ours for b in theirs}
        if claim.measure != "test_accuracy" or claim.published.value not in values:
            elsewhere.append(claim.id)
            assert re.search(rf"`{claim.id}` \| [^|]*{re.escape(f'{claim.published.value:g}')}", page), claim.id
    assert "drtp-mnist" in elsewhere and "mf-energy-published" in elsewhere and "mf-cifar10-own" not in elsewhere


def test_the_command_of_the_drawn_verdicts_draws_as_many_as_the_file_has():
    content = json.loads((ROOT / "benchmarks/results/null-verdicts.json").read_text())
    draws, of_families = (int(n) for n in re.findall(r"draws (\d+)", content["command"]))
    for row in content["rows"]:
        assert row["draws"] == (of_families if "twelve" in row["case"] else draws), row["case"]
    page = (ROOT / "docs/method/statistics.md").read_text()
    assert content["command"] in page


def test_the_page_on_statistics_names_rates_that_are_computed():
    """Exact rates: equivalence at its margin, and the power of the t test at twenty pairs, by the noncentral t."""
    from scipy.stats import nct, t

    page = " ".join((ROOT / "docs/method/statistics.md").read_text().split())
    assert (
        f"`report.power.of_equivalence(10, 0.25, 0.25, 0.25)` is {power.of_equivalence(10, 0.25, 0.25, 0.25):.3f}"
        in page
    )
    bound = t.ppf(0.975, 19)
    exact = nct.sf(bound, 19, 20**0.5) + nct.cdf(-bound, 19, 20**0.5)
    assert f"94 and not {100 * exact:.0f}" in page


def test_wrong_equalities_of_energy_are_named_as_they_are():
    rows = json.loads((ROOT / "benchmarks/results/null-energy.json").read_text())["rows"]
    rates = {
        (row["scene"], n): 100 * rate["equal"]
        for row in rows
        if not row["scene"].startswith("control")
        for n, rate in row["margin apart"].items()
    }
    error = 100 * (0.05 * 0.95 / (rows[0]["draws"] // 4)) ** 0.5  # of a quarter of the draws
    high = {key: rate for key, rate in rates.items() if rate > 5 + 2 * error}
    page = " ".join((ROOT / "docs/method/statistics.md").read_text().split())
    words = page.partition("At the margin *equal* is wrong")[2].partition("lie more than two")[0]
    assert high and {f"{rate:.1f}" for rate in high.values()} <= set(re.findall(r"\d+\.\d", words))
    assert f"standard error of {error:.1f}" in words
