"""Kill trainings and searches at random moments, go on, and compare with uninterrupted ones bit for bit.

    python scripts/crash_campaign.py --kills 50 --seed 0 --folder /tmp/campaign

Causes: SIGKILL, SIGTERM, SIGUSR1, a full disk (no file may grow beyond some bytes), and a power cut: of everything
that was not put onto the disk by fsync, names of files too, each piece is dropped or kept by a coin. Moments: some time
after the folder is begun, or one of the process's writes. A case is killed again and again until it ends by itself.
"""

import argparse
import collections
import csv
import hashlib
import importlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import numpy as np

SMALL = ["--dataset", "digits", "--net", "mlp:8", "--batch-size", "64", "--quiet"]
SCENARIOS = {
    "train": ["train", "mf", "--seeds", "2", "--epochs", "3"],
    "saving": ["train", "mf", "--against", "bp", "--seeds", "1", "--epochs", "20"],
    "compare": ["compare", "mf", "bp", "--seeds", "2", "--epochs", "2"],
    "tune": ["tune", "mf", "--trials", "6", "--parallel", "2", "--seeds", "1", "--epochs", "2"],
}
CAUSES = ("SIGKILL", "SIGTERM", "SIGUSR1", "full disk", "power cut")
MARK = {"tune": "study.journal"}
"""The file that says that work has begun; else config.json."""
MOST = 4
"""Kills of one case."""


class Disk:
    """In the child: what is on the disk for certain, kept in a folder beside, and the blow at one of the writes."""

    def __init__(self, case: Path, shadow: Path, plan: dict[str, Any]) -> None:
        self.case, self.shadow, self.plan, self.count = case, shadow, plan, 0
        self.fsync, self.replace = os.fsync, os.replace
        if plan["cause"] == "power cut":
            for path in [case, *case.rglob("*")]:  # what lies there has lain there for long
                self.remember(path)
            (shadow / "begun").touch()
        setattr(os, "fsync", self.synced)  # noqa: B010
        setattr(os, "replace", self.replaced)  # noqa: B010

    def remember(self, path: Path) -> None:
        """Note that the content of a file, or the names in a folder, are on the disk."""
        if path.is_dir():
            names = {own.name: "folder" if own.is_dir() else own.stat().st_ino for own in path.iterdir()}
            target, content = self.shadow / f"names{len(path.parts) - len(self.case.parts)}-{path.name}", names
            text = json.dumps(content).encode()
        else:
            target, text = self.shadow / f"{path.stat().st_ino}", path.read_bytes()
            link = self.shadow / f"{target.name}.link"  # so that the number is not given to another file
            if not link.exists():
                os.link(path, link)
        temporary = target.with_suffix(".new")
        temporary.write_bytes(text)
        self.replace(temporary, target)

    def synced(self, handle: Any) -> None:
        self.strike()
        self.fsync(handle)
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        if self.plan["cause"] == "power cut" and path.is_relative_to(self.case):
            self.remember(path)

    def replaced(self, source: Any, target: Any, **more: Any) -> None:
        self.strike()
        self.replace(source, target, **more)

    def strike(self) -> None:
        """At the planned write, do as planned."""
        self.count += 1
        if self.count == self.plan["write"]:
            blow(os.getpid(), self.plan)
            time.sleep(0.05)


def blow(process: int, plan: dict[str, Any]) -> None:
    """End a process, or take its disk."""
    if plan["cause"] == "full disk":
        hard = resource.prlimit(process, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(process, resource.RLIMIT_FSIZE, (plan["bytes"], hard))
    else:
        name = "SIGKILL" if plan["cause"] == "power cut" else plan["cause"]
        os.kill(process, getattr(signal, name))


def child(case: Path, plan: dict[str, Any], words: list[str]) -> int:
    """Run the command; every chunk is followed by a checkpoint, and the number of writes is told at the end."""
    disk = Disk(case, case.with_name(case.name + ".disk"), plan)
    from fwdonly.cli import main
    from fwdonly.training import host

    host.CHECKPOINT_SECONDS = -1.0
    code = main(words, ["fwdonly", *words])
    print("writes", disk.count)
    return code


def power_cut(case: Path, draw: random.Random) -> None:
    """Leave of a folder what the disk may hold after its machine went down."""
    shadow, rest = case.with_name(case.name + ".disk"), case.with_name(case.name + ".rest")

    def settle(folder: Path, target: Path) -> None:
        target.mkdir()
        noted = shadow / f"names{len(folder.parts) - len(case.parts)}-{folder.name}"
        before = json.loads(noted.read_bytes()) if noted.exists() else {}
        now = {own.name: "folder" if own.is_dir() else own.stat().st_ino for own in folder.iterdir()}
        for name in sorted({*before, *now}):
            own = now.get(name) if now.get(name) == before.get(name) or draw.random() < 0.5 else before.get(name)
            if own == "folder":
                settle(folder / name, target / name)
            elif own is not None:
                whole = folder / name if own == now.get(name) else shadow / f"{own}.link"
                (target / name).write_bytes(content(own, whole.read_bytes()))

    def content(number: Any, whole: bytes) -> bytes:
        safe = shadow / f"{number}"
        least = safe.read_bytes() if safe.exists() else b""
        return draw.choice([whole, least, least + bytes(len(whole) - len(least))])

    settle(case, rest)
    shutil.rmtree(case)
    rest.rename(case)


class Process:
    """The command in a fork of this process, which has imported all and computed nothing."""

    def __init__(self, case: Path, plan: dict[str, Any], words: list[str]) -> None:
        shadow = case.with_name(case.name + ".disk")
        shutil.rmtree(shadow, ignore_errors=True)
        shadow.mkdir()
        case.mkdir(exist_ok=True)
        pipes = os.pipe(), os.pipe()
        sys.stdout.flush()
        self.pid, self.code = os.fork(), None
        if self.pid == 0:
            for number, (_, end) in enumerate(pipes, start=1):
                os.dup2(end, number)
            sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
            code = 1
            try:
                code = child(case, plan, words)
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        for _, end in pipes:
            os.close(end)
        self.pipes = [os.fdopen(read) for read, _ in pipes]

    def poll(self) -> int | None:
        """The exit code, if it has ended."""
        if self.code is None:
            process, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if process else None
        return self.code

    def communicate(self) -> tuple[str, str]:
        """Wait; what it said, and its complaints without JAX's about forks."""
        out, err = (pipe.read() for pipe in self.pipes)
        for pipe in self.pipes:
            pipe.close()
        while self.poll() is None:
            time.sleep(0.005)
        return out, err


def import_all(folder: Path) -> None:
    """Load what every command loads, without a device being looked for."""
    os.environ |= {"JAX_DISABLE_MOST_OPTIMIZATIONS": "true", "JAX_PLATFORMS": "cpu", "FWDONLY_OFFLINE": "1"}
    os.environ["FWDONLY_CACHE"] = str(folder / "cache")
    sys.path.insert(0, str(Path(__file__).parents[1]))
    names = ["train", "compare", "tune", "tell"]
    more = ["fwdonly.tune", "fwdonly.report", "fwdonly.bp", "fwdonly.mf", "optuna", "sklearn.datasets", "scipy.stats"]
    for name in [*(f"fwdonly.cli.{name}" for name in names), *more, "matplotlib.backends.backend_agg"]:
        importlib.import_module(name)
    warnings.filterwarnings("ignore", message="os.fork")


def words_of(name: str, case: Path) -> list[str]:
    """The command, which goes on where there is something to go on with."""
    where = case / "r"
    begun = (where / "config.json").exists() and (where / "config.json").read_bytes().strip(b"\0 \n")
    resume = ["--resume"] if begun and name != "tune" else []
    return [*SCENARIOS[name], *SMALL, "--output-dir", str(where), *resume]


def numbers(name: str, case: Path) -> Any:
    """All that a finished folder says but times and numbers of trials."""
    folder = case / "r"
    if name == "tune":
        best = json.loads((folder / "best.json").read_text())
        with open(folder / "trials.csv", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["state"] in ("complete", "pruned")]
        trials = sorted([row[key] for key in row if key not in ("trial", "train_seconds")] for row in rows)
        return trials, best["values"], best["val_accuracy"]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["finished"], "the summary is not finished"
    names = ("seed", "epochs", "kept_epoch", "val_accuracy", "val_loss", "test_accuracy", "test_loss", "diverged")
    runs = [[rule["rule"], *(run[key] for key in names)] for rule in summary["rules"] for run in rule["runs"]]
    with open(folder / "metrics.csv", newline="") as file:
        rows = [[row[key] for key in row if key != "seconds"] for row in csv.DictReader(file)]
    with np.load(folder / "predictions.npz") as found:
        classes = {key: found[key].tolist() for key in found.files}
    models = {path.name: weights_of(path) for path in sorted(folder.glob("model-*.safetensors"))}
    assert models, "no model is kept"
    return sorted(runs), sorted(rows), classes, models


def weights_of(model: Path) -> str:
    """Digest of a saved model's arrays; the header before them has times and versions."""
    raw = model.read_bytes()
    return hashlib.sha256(raw[8 + int.from_bytes(raw[:8], "little") :]).hexdigest()


def finished_runs(case: Path) -> set[tuple[str, int]]:
    """Those that a summary has; a run that it names must never be missing later."""
    try:
        rules = json.loads((case / "r" / "summary.json").read_text())["rules"]
    except (OSError, ValueError):
        return set()
    return {(rule["rule"], run["seed"]) for rule in rules if rule["finished"] for run in rule["runs"]}


class Campaign:
    """The cases, one after another, and their faults."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.draw = folder, random.Random(seed)
        self.wanted: dict[str, tuple[Any, float, int]] = {}
        self.table: dict[tuple[str, str], collections.Counter[str]] = collections.defaultdict(collections.Counter)
        self.faults: list[str] = []

    def measure(self, name: str) -> None:
        """The uninterrupted run: its numbers, its seconds of work, and its writes. The first one fills the cache."""
        for case in (self.folder / f"{name}-cache", self.folder / f"{name}-whole"):
            process = Process(case, {"cause": "", "write": 0}, words_of(name, case))
            begun = self.await_work(name, case, process)
            out, err = process.communicate()
            assert process.code == 0, err
            self.wanted[name] = numbers(name, case), time.monotonic() - begun, int(out.split("writes")[-1])

    def await_work(self, name: str, case: Path, process: Process) -> float:
        mark = case / "r" / MARK.get(name, "config.json")
        while process.poll() is None and not mark.exists():
            time.sleep(0.005)
        return time.monotonic()

    def run(self, name: str, kills: int, number: int) -> int:
        """A case with so many kills at most; how many there were."""
        case = self.folder / f"{name}-{number}"
        causes: list[str] = []
        while True:
            plan: dict[str, Any] = {"cause": "", "write": 0, "bytes": self.draw.choice([0, 100, 3000])}
            if len(causes) < kills:
                plan["cause"] = self.draw.choice(CAUSES)
                if self.draw.random() < 0.5:
                    plan["write"] = self.draw.randint(1, self.wanted[name][2])
            before = finished_runs(case)
            words = words_of(name, case)
            process = Process(case, plan, words)
            if plan["cause"] and not plan["write"]:
                self.await_work(name, case, process)
                time.sleep(self.draw.uniform(0, self.wanted[name][1]))
                if process.poll() is None:
                    blow(process.pid, plan)
            _, err = process.communicate()
            code = process.poll()
            begun = (case.with_name(case.name + ".disk") / "begun").exists()  # else the process has written nothing
            if plan["cause"] == "power cut" and code == -signal.SIGKILL and begun:
                power_cut(case, self.draw)
            self.judge(f"{case.name} after {causes}, {plan}", code, err, before - finished_runs(case))
            if code == 0:
                break
            if not plan["cause"]:
                self.note(name, causes, "does not go on")
                return len(causes)
            causes.append(plan["cause"])
        same = numbers(name, case) == self.wanted[name][0]
        self.note(name, causes, "same numbers" if same else "OTHER NUMBERS")
        if not same:
            self.faults.append(f"{case.name} after {causes}: other numbers")
        else:
            shutil.rmtree(case)
        return len(causes)

    def note(self, name: str, causes: list[str], outcome: str) -> None:
        for cause in causes:
            self.table[name, cause].update(["kills", outcome])
        print(f"{name}: {', '.join(causes) or 'none'}: {outcome}", flush=True)

    def judge(self, what: str, code: int | None, err: str, lost: set[tuple[str, int]]) -> None:
        """Whether a process ended as it may: with 0, by a signal, with 130, or in one line."""
        fault = ""
        if "Traceback" in err:
            fault = f"a traceback: {err.strip().splitlines()[-1]}"
        elif code not in (0, 2, 130, *(-getattr(signal, name) for name in CAUSES[:3])):
            fault = f"exit code {code}: {err[-300:]}"
        elif code == 2 and "'cause': ''" in what:
            fault = f"it does not go on: {err.strip()[-300:]}"
        elif lost:
            fault = f"finished runs are gone: {sorted(lost)}"
        if fault:
            self.faults.append(f"{what}: {fault}")
            print("FAULT", self.faults[-1], flush=True)


def main() -> int:
    """Parse, kill, compare; 1 where there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--scenarios", nargs="+", choices=[*SCENARIOS], default=[*SCENARIOS])
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    import_all(options.folder)
    campaign, done, number = Campaign(options.folder.resolve(), options.seed), 0, 0
    for name in options.scenarios:
        campaign.measure(name)
    while done < options.kills:
        name = options.scenarios[number % len(options.scenarios)]
        done += campaign.run(name, min(MOST, options.kills - done), number)
        number += 1
    print(f"\n{'scenario':<9} {'cause':<10} {'kills':>5} {'same numbers':>13}")
    for (name, cause), counts in sorted(campaign.table.items()):
        print(f"{name:<9} {cause:<10} {counts['kills']:>5} {counts['same numbers']:>13}")
    print(f"{done} kills in {number} cases; {len(campaign.faults)} faults", *campaign.faults, sep="\n  ")
    return int(bool(campaign.faults))


if __name__ == "__main__":
    sys.exit(main())
