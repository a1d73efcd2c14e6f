"""Jobs of a cluster, by submitit's local executor: their options, exit codes, logs and ends; and bad input."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("submitit", reason="submitit is not installed: pip install 'fwdonly[slurm]'")

SUBMIT = Path(__file__).parents[2] / "experiments" / "submit.py"
LEAVES = """
import json, os, signal, sys, time
path, *rest = sys.argv[1:]
with open(path, "a") as file:
    file.write(json.dumps({"arguments": rest, "folder": os.getcwd(), "python": sys.executable}) + "\\n")
print("said by the script", flush=True)
if "wait" in rest:
    def end(number, _):
        with open(path, "a") as file:
            file.write(json.dumps({"signal": number}) + "\\n")
        sys.exit(130)
    signal.signal(signal.SIGINT, end)
    signal.signal(signal.SIGTERM, end)
    open(path + ".ready", "w").close()
    time.sleep(60)
sys.exit(3 if "fails" in rest else 0)
"""


@pytest.fixture
def submitted(tmp_path):
    """Submit that script: ``submitted(options, *its arguments) -> (exit code, stdout, stderr, what it left)``."""
    (tmp_path / "leaves.py").write_text(LEAVES)
    left = tmp_path / "left.jsonl"

    def call(options, *arguments):
        said = tmp_path / "said.txt"  # not a pipe: a local job keeps it open
        with open(said, "w") as out, open(tmp_path / "err.txt", "w") as err:
            code = subprocess.run(
                [sys.executable, SUBMIT, "--cluster", "local", *options, "--", "leaves.py", left, *arguments],
                cwd=tmp_path,
                stdout=out,
                stderr=err,
                timeout=120,
            ).returncode
        lines = left.read_text().splitlines() if left.exists() else []
        return code, said.read_text(), (tmp_path / "err.txt").read_text(), [json.loads(line) for line in lines]

    return call


def test_every_copy_runs_the_script_here_with_its_options_untouched(submitted, tmp_path):
    code, out, _, left = submitted(["--copies", "2", "--wait"], "--output-dir", "a b", "--wait", "--", "x")
    assert code == 0 and len(left) == 2
    expected = {"arguments": ["--output-dir", "a b", "--wait", "--", "x"], "folder": str(tmp_path)}
    assert all(one == expected | {"python": sys.executable} for one in left)
    logs = re.findall(r"log: (.*)", out)
    assert len(logs) == 2 and all("said by the script" in Path(log).read_text() for log in logs)
    assert out.count("is done\n  said by the script") == 2 and "kill -INT" in out


def test_every_task_of_a_job_runs_it(submitted):
    code, out, _, left = submitted(["--tasks-per-node", "3", "--wait"])
    assert code == 0 and len(left) == 3 and out.count("said by the script") == 3


def test_a_script_that_fails_is_a_failed_job(submitted):
    code, out, _, _ = submitted(["--wait"], "fails")
    assert code == 1 and "failed\n  said by the script" in out and "Traceback" not in out


def test_a_cancelled_job_lets_its_script_end_itself(submitted, tmp_path):
    code, out, _, _ = submitted([], "wait")
    assert code == 0
    until(lambda: (tmp_path / "left.jsonl.ready").exists())
    os.kill(int(re.search(r"to cancel them: kill -INT (\d+)", out)[1]), signal.SIGINT)
    until(lambda: len((tmp_path / "left.jsonl").read_text().splitlines()) == 2)
    left = [json.loads(line) for line in (tmp_path / "left.jsonl").read_text().splitlines()]
    assert left[1] == {"signal": signal.SIGINT}  # once: a second one would end a training at once


def test_slurm_is_asked_for_what_was_said(tmp_path):
    for name, body in {"srun": "", "sbatch": f"cp $1 {tmp_path}/asked.sh; echo Submitted batch job 17"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    options = ["--partition", "big", "--gpus", "2", "--cpus", "3", "--memory-gb", "5", "--hours", "1.5", "--nodes", "4"]
    more = [
        "--tasks-per-node",
        "6",
        "--copies",
        "7",
        "--folder",
        tmp_path / "jobs",
        "--",
        "train",
        "mf",
        "--seeds",
        "2",
    ]
    out = subprocess.run(
        [sys.executable, SUBMIT, *options, *more],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        check=True,
        text=True,
        capture_output=True,
    ).stdout
    asked = (tmp_path / "asked.sh").read_text()
    for words in ("partition=big", "gpus-per-node=2", "cpus-per-task=3", "mem=5GB", "time=90", "nodes=4"):
        assert f"#SBATCH --{words}\n" in asked
    assert "--ntasks-per-node=6\n" in asked and "--array=0-6%" in asked and "--job-name=train\n" in asked
    assert "submitted 17_0, 17_1" in out and "scancel 17_0" in out and out.count("log:") == 7 * 4 * 6


def until(true, seconds=30):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--cluster", "local"], "there is no command or script ''"),
        (["--cluster", "local", "--", "nowhere.py"], "there is no command or script 'nowhere.py'"),
        (["--cluster", "local", "--copies", "0", "--", "train"], "must be positive"),
        (["--cluster", "local", "--nodes", "2", "--", "train"], "cannot submit to local (LocalExecutor can use"),
        (["--cluster", "slurm", "--", "train"], 'cannot submit to slurm (Could not detect "srun"'),
    ],
)
def test_what_cannot_be_submitted_is_refused_in_one_line(script, monkeypatch, tmp_path, arguments, words):
    monkeypatch.setenv("PATH", str(tmp_path))  # no SLURM, wherever the tests run
    code, _, err = script("submit", "--folder", tmp_path / "jobs", *arguments)
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1 and words in err


def test_without_submitit_the_extra_is_named(script, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "submitit", None)
    code, _, err = script("submit", "--cluster", "local", "--folder", tmp_path, "--", "train")
    assert code == 2 and "fwdonly[slurm]" in err
