"""Several processes on one set of runs, and programs that are kept from one start to the next."""

import csv
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fwdonly import UsageError, results
from fwdonly.study import Machine
from fwdonly.study.folder import Contents, Wanted, look_into
from fwdonly.study.processes import stated
from fwdonly.study.sharing import Work

FOLDER = Path(__file__).parents[2] / "experiments"
# Runs of several lengths agree bit for bit with the fused loops that users have.
QUICK = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "true", "XLA_FLAGS": "", "FWDONLY_OFFLINE": "1"}
SMALL = ["--dataset", "digits", "--net", "mlp:8", "--seeds", "3", "--batch-size", "64", "--quiet"]


def begin(*arguments, script="mf_mlp", **environment):
    """Start a script with these options."""
    words = ["mf", "bp"] if script == "compare" else []
    command = [sys.executable, str(FOLDER / f"{script}.py"), *words, *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=os.environ | QUICK | environment, **pipes)


def ended(process, seconds=180):
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def side_by_side(count, *arguments, **environment):
    """Start ``count`` processes that come together."""
    where = ["--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", count]
    return [begin(*arguments, *where, "--process-id", k, **environment) for k in range(count)]


def numbers(folder):
    """Everything of the runs but times, by rule and seed; fails where a run is there twice."""
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["finished"]
    names = ("epochs", "kept_epoch", "val_accuracy", "val_loss", "test_accuracy", "test_loss")
    runs = [
        (rule["rule"], run["seed"], [run[name] for name in names]) for rule in summary["rules"] for run in rule["runs"]
    ]
    assert [key for *key, _ in runs] == [[rule, seed] for rule in ("mf", "bp") for seed in range(len(runs) // 2)]
    with open(folder / "metrics.csv", newline="") as file:
        history = [[row[name] for name in row if name != "seconds"] for row in csv.DictReader(file)]
    assert len({tuple(row[:4]) for row in history}) == len(history)
    labels, predicted = results.read_predictions(folder / "predictions.npz")
    assert [[*key] for key in sorted(predicted)] == sorted(key for *key, _ in runs)
    return runs, sorted(history), labels.tolist(), {key: own.tolist() for key, own in predicted.items()}


@pytest.mark.parametrize("script", [pytest.param("mf_mlp", marks=pytest.mark.slow), "compare"])
def test_two_processes_give_the_numbers_of_one(script, tmp_path):
    options = [*SMALL, "--epochs", 2, "--output-dir"]
    assert ended(begin(*options, tmp_path / "one", script=script))[0] == 0
    found = [ended(process) for process in side_by_side(2, *options, tmp_path / "two", script=script)]
    assert [code for code, _, _ in found] == [0, 0], found
    assert numbers(tmp_path / "two") == numbers(tmp_path / "one")
    said = sorted(out.count("the last one to end writes") for _, out, _ in found)
    assert said == [0, 1]  # one of them joined the parts
    assert {path.name for path in (tmp_path / "two").iterdir()} == {path.name for path in (tmp_path / "one").iterdir()}
    if script == "compare":
        assert "side by side" in (tmp_path / "two" / "report.md").read_text()
        assert "side by side" not in (tmp_path / "one" / "report.md").read_text()


@pytest.mark.parametrize("again", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_a_killed_process_costs_its_unfinished_runs_alone(again, tmp_path):
    """Each run by itself; one of two processes is killed after its first runs, then other processes go on."""
    options = [*SMALL, "--alone", "--epochs", 150, "--output-dir"]
    whole, folder = tmp_path / "whole", tmp_path / "shared"
    reference = begin(*options, whole)
    first, second = side_by_side(2, *options, folder)
    part = folder / "part-1" / "summary.json"
    wait_for(lambda: part.exists() and runs_of(part), second)
    second.send_signal(signal.SIGKILL)
    second.communicate()
    code, out, err = ended(first)
    assert code == 0 and "one has died; then go on" in out and not (folder / "summary.json").exists(), err
    before = runs_of(part) | runs_of(folder / "part-0" / "summary.json")
    assert 0 < len(before) < 6
    options += [folder, "--resume"]
    restarted = [begin(*options)] if again == 1 else side_by_side(again, *options)
    codes = [ended(process) for process in restarted]
    assert [code for code, _, _ in codes] == [0] * again, codes
    assert ended(reference)[0] == 0
    assert numbers(folder) == numbers(whole)
    after = runs_of(folder / "summary.json")
    assert len(after) == 6 and all(after[key] == seconds for key, seconds in before.items())  # none was trained twice
    assert not list(folder.glob("part-*")) and not list(folder.glob("*.checkpoint*.npz"))


def test_an_interrupted_process_says_so_and_undoes_nothing_that_is_done(tmp_path):
    """Two processes, all seeds of each together: one is asked to stop, a single one does what is left."""
    options = [*SMALL, "--epochs", 4000, "--output-dir", tmp_path]
    first, second = side_by_side(2, *options)
    wait_for(lambda: (tmp_path / "part-0").exists() and (tmp_path / "part-1").exists(), second)
    time.sleep(8)
    first.send_signal(signal.SIGTERM)
    code, out, _ = ended(first)
    second.send_signal(signal.SIGTERM)
    assert code == 130 and "interrupted" in out
    assert "--resume" in out and "--coordinator" not in out.split("Continue with")[1]
    assert ended(second)[0] == 130


def test_a_folder_is_refused_while_a_process_is_at_work_in_it(tmp_path):
    options = [*SMALL, "--output-dir", tmp_path / "r"]
    first = begin(*options, "--epochs", 4000)
    wait_for(lambda: list((tmp_path / "r").glob("*.lock")), first)
    code, _, err = ended(begin(*options, "--epochs", 4000, "--resume"))
    assert code == 2 and len(err.splitlines()) == 1
    assert f"error: process {first.pid} on " in err and "is still at work in" in err
    first.send_signal(signal.SIGTERM)
    assert ended(first)[0] == 130
    assert not list((tmp_path / "r").glob("*.lock"))


def test_a_launch_finds_the_processes_of_an_earlier_one(tmp_path):
    def work(process, processes):
        return Work(tmp_path, Wanted({}, None, ["mf"], [0, 1, 2]), process, processes)

    with work(2, 3) as other:  # of three processes the last one is still at work
        with work(1, 3), pytest.raises(UsageError, match=r"process \d+ on .* is still at work"), work(0, 1):
            pass
        with pytest.raises(UsageError, match="is still at work"), work(0, 2):
            pass
        with work(1, 2):
            assert len(list(tmp_path.iterdir())) == 2
        other.keep_others_out()  # a lock that it has is no obstacle to itself
        other.open("heading")
        assert (tmp_path / "part-2").is_dir()
    assert not list(tmp_path.glob("*.lock"))
    (tmp_path / ".process-5.lock").write_text("process 1 on a machine, killed")
    with work(0, 1), pytest.raises(UsageError, match="is still at work"), work(5, 6):
        pass
    assert not list(tmp_path.glob("*.lock"))


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_a_file_system_without_locks_is_told_of_once(number, monkeypatch, capsys, tmp_path):
    def fails(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", fails)
    with Work(tmp_path, Wanted({}, None, ["mf"], [0])) as work:
        work.keep_others_out()
    out, err = capsys.readouterr()
    assert out == f"note: {tmp_path} cannot be locked ({os.strerror(number)}); start nothing else in it\n" and not err


def test_a_folder_of_locks_alone_is_empty(tmp_path):
    """As a launch leaves it that was killed before it said what the folder is."""
    (tmp_path / ".process-0.lock").touch()
    look_into(tmp_path, {}, resume=False)
    (tmp_path / "other").touch()
    with pytest.raises(UsageError, match="is not empty"):
        look_into(tmp_path, {}, resume=False)


def test_what_is_begun_does_not_undo_what_is_done(tmp_path):
    def summary(seeds, finished):
        runs = [{"seed": seed} for seed in seeds]
        seconds = {"compile_seconds": 1.0, "train_seconds": 2.0}
        return {"rule": "mf", "finished": finished, "runs": runs, "energy": None, **seconds}

    found = Contents(tmp_path, Wanted({}, None, ["mf"], [0, 1, 2]))
    found.add(summary([0, 2], True), [], [])
    found.add(summary([1], False), [], [])
    assert [found.has("mf", seed) for seed in range(3)] == [True, False, True]
    found.add(summary([0, 2], True), [], [])  # joined once more
    assert found.summaries[0]["train_seconds"] == 2.0
    found.add(summary([1], True), [], [])
    assert found.finished and found.summaries[0]["train_seconds"] == 4.0


def runs_of(path):
    """Seconds of the finished runs, by rule and seed."""
    rules = json.loads(path.read_text())["rules"]
    return {(rule["rule"], run["seed"]): run["train_seconds"] for rule in rules for run in rule["runs"]}


def wait_for(what, process, seconds=120):
    end = time.monotonic() + seconds
    while not what():
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.02)


def test_a_missing_process_or_coordinator_is_an_error_within_the_stated_time(tmp_path):
    options = [*SMALL, "--output-dir", tmp_path / "r", "--join-seconds", 3, "--num-processes", 2]
    port = free_port()
    for number in (0, 1):  # the coordinator waits in vain, and a process finds none
        begun = time.monotonic()
        code, _, err = ended(begin(*options, "--coordinator", f"127.0.0.1:{port}", "--process-id", number), 60)
        assert code == 2 and err.splitlines()[-1].startswith("error: 127.0.0.1:") and "in 3 s" in err
        assert time.monotonic() - begun < 40  # imports and data aside, 3 s
        assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num-processes", 2], "belong together"),
        (["--coordinator", "here", "--num-processes", 2, "--process-id", 0], "HOST:PORT of process 0; got here"),
        (
            ["--coordinator", "h:1", "--num-processes", 2, "--process-id", 2],
            "lies in 0..1 with --num-processes 2; got 2",
        ),
        (["--coordinator", "h:1", "--num-processes", 4, "--process-id", 0], "4 processes are too many for 3 seeds"),
        (["--coordinator", "h:1", "--num-processes", 2, "--process-id", 0], "several processes need --output-dir"),
        (["--devices", 9], "devices must be 1 to 1"),
        (["--devices", 0], "--devices must be at least 1; got 0"),
        (["--at-once", 0], "--at-once must be at least 1; got 0"),
        (["--precision", "tf32"], "precision tf32 needs an accelerator"),
        (["--stream", "True", "--batch-size", "None"], "a full batch needs all images"),
    ],
)
def test_bad_input_is_one_line(arguments, message, script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = script("mf_mlp", *SMALL, *arguments)
    assert code == 2 and message in err and len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("flags", "options", "words"),
    [
        ({"JAX_DEFAULT_PRNG_IMPL": "rbg"}, (), "numerics.default_prng_impl is"),
        ({}, ("--learning-rate", 0.1), "rules.mf.learning_rate is"),
    ],
    ids=["switch", "option"],
)
def test_a_process_that_trains_otherwise_is_refused(tmp_path, flags, options, words):
    """Of two that differ the later one sees the earlier; which of them is later, the machine decides."""
    where = ["--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", 2, "--epochs", 1]
    where += ["--output-dir", tmp_path / "r"]
    started = begin(*SMALL, *where, "--process-id", 0), begin(*SMALL, *where, "--process-id", 1, *options, **flags)
    found = [ended(process) for process in started]
    refused = [err for code, _, err in found if code == 2]
    assert refused, found
    for err in refused:
        assert words in err and err.count("\n") == 1 and "start all of them alike" in err


def test_energy_wants_the_machine_for_one_process(script, tmp_path):
    where = ["--coordinator", "h:1", "--num-processes", 2, "--process-id", 0, "--output-dir", tmp_path / "r"]
    code, _, err = script("mf_mlp", *SMALL, *where, "--energy")
    assert code == 2 and "--energy needs a process that has the machine to itself" in err


def test_a_launcher_says_which_process_this_is(monkeypatch):
    nothing = Machine()
    assert stated(nothing) == (0, 1)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    assert stated(nothing) == (0, 1)  # within an allocation, but not started by srun
    monkeypatch.setenv("SLURM_PROCID", "3")
    assert stated(nothing) == (3, 4)
    monkeypatch.setenv("SLURM_PROCID", "all")
    assert stated(nothing) == (0, 1)
    own = Machine(coordinator="h:1", num_processes=2, process_id=1)
    assert stated(own) == (1, 2)  # what is said goes before
    with pytest.raises(UsageError, match="belong together"):
        stated(Machine(process_id=0))


@pytest.mark.parametrize(
    ("more", "words"),
    [(["--seeds", 1], "2 processes are too many for 1 seeds"), ([], "several processes need --output-dir"),
     (["--output-dir", "r"], "1 s at most"), (["--output-dir", "r", "--energy"], "--energy needs a process")],
)  # fmt: skip
def test_a_shell_of_srun_is_told_what_was_taken_from_where(more, words, script, monkeypatch, tmp_path):
    """As in `srun -n 2 --pty bash`, where nobody else comes."""

    def nobody_comes(*_, **__):
        raise RuntimeError("DEADLINE_EXCEEDED")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("jax.distributed.initialize", nobody_comes)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    monkeypatch.setenv("SLURM_PROCID", "0")
    start = ["mf_mlp", *SMALL, "--epochs", 1, "--join-seconds", 1, *more]
    code, out, err = script(*start)
    said = out + err
    assert code == 2 and words in said
    assert "(SLURM_STEP_NUM_TASKS=2, SLURM_PROCID=0 in the environment; if" in said and "add --no-slurm)" in said
    assert stated(Machine(slurm=False)) == (0, 1)


COUNTING = """
import atexit, collections, runpy, sys
from jax import monitoring
seen = collections.Counter()
monitoring.register_event_listener(lambda name, **_: seen.update([name]))
events = ["/jax/compilation_cache/cache_" + what for what in ("hits", "misses")]
atexit.register(lambda: print("cache", *(seen[event] for event in events)))
sys.path.insert(0, str(__import__("pathlib").Path(sys.argv[1]).parent))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_the_second_start_compiles_nothing(tmp_path):
    def start(name, *more):
        command = [sys.executable, "-c", COUNTING, str(FOLDER / "mf_mlp.py"), *map(str, SMALL), "--epochs", "1"]
        command += ["--output-dir", str(tmp_path / name), *more]
        flags = os.environ | QUICK | {"FWDONLY_CACHE": str(tmp_path / "cache"), "JAX_ENABLE_COMPILATION_CACHE": "true"}
        flags = {key: value for key, value in flags.items() if "COMPILATION_CACHE_DIR" not in key}
        done = subprocess.run(command, env=flags, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return [int(word) for word in done.stdout.split("cache")[-1].split()], done.stderr

    (_, misses), _ = start("first")
    assert misses > 10
    (again, missing), err = start("second")
    assert missing == 0 and again >= misses and not err
    assert numbers(tmp_path / "second") == numbers(tmp_path / "first")
    assert start("third", "--no-compilation-cache")[0] == [0, 0]
    assert {path.parent.name for path in (tmp_path / "cache").rglob("*-cache")} == {"programs"}
