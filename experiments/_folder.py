"""The result folder of an experiment: looked into, resumed, shared by several processes, and told of."""

import contextlib
import json
import os
import platform
import shlex
import shutil
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from _processes import PROCESSES
from filelock import BaseFileLock, FileLock, Timeout

from fwdonly import UsageError, data, report, results
from fwdonly.errors import first_difference

LOCK = ".lock"
"""Ends the names of files that keep other launches out of a folder; they say nothing of what it holds."""


def new_name(script: str, dataset: data.Dataset) -> Path:
    """A result folder's default name."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return Path("results") / f"{script}-{dataset.name.replace(':', '-').replace('/', '-')}-{stamp}"


def holds_something(folder: Path) -> bool:
    """Whether a folder holds more than locks."""
    return any(path.suffix != LOCK for path in folder.iterdir())


def look_into(folder: Path, config: dict[str, Any], *, resume: bool) -> None:
    """Refuse a result folder that holds something else; it may not be there yet."""
    try:
        there = folder.exists()
        if there and not folder.is_dir():
            raise UsageError(f"{folder} is a file; give another --output-dir")
        filled = there and holds_something(folder)
    except OSError as error:
        raise UsageError(f"cannot look into {folder}: {error.strerror}; give another --output-dir") from error
    if not filled:
        if resume:
            raise UsageError(
                f"there is nothing to resume in {folder}; leave out --resume, or give another --output-dir"
            )
        return
    path = folder / "config.json"
    if not path.exists():
        raise UsageError(f"{folder} is not empty and not a result folder; give another --output-dir")
    try:
        found = json.loads(path.read_text())["configuration"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is damaged ({error}); give another --output-dir") from error
    difference = first_difference(found, config)
    if difference:
        raise UsageError(f"{folder} holds another configuration ({difference}); give another --output-dir")
    if not resume:
        raise UsageError(f"{folder} already holds this run; add --resume to continue it, or give another --output-dir")


def make(folder: Path) -> Path:
    """Make a result folder, if it is not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the folder {folder}: {error.strerror}; give a writable --output-dir") from error
    return folder


def describe(folder: Path, config: dict[str, Any], dataset: data.Dataset) -> None:
    """Say in the folder what it is, if it does not yet."""
    if not (folder / "config.json").exists():
        opened = {"configuration": config, "command": shlex.join([sys.executable, *sys.argv])}
        results.write_json(folder / "config.json", opened | {"data_source": dataset.source})


class Found:
    """What a result folder holds of an experiment, read back where it was interrupted, and added to."""

    def __init__(
        self,
        folder: Path,
        config: dict[str, Any],
        protocol: dict[str, Any] | None,
        rules: Sequence[str],
        seeds: Sequence[int],
    ) -> None:
        self.folder, self.config, self.protocol, self.heading = folder, config, protocol, ""
        self.rules, self.seeds = list(rules), list(seeds)
        self.summaries: list[results.Summary] = []
        self.rows: list[dict[str, Any]] = []
        self.powers: list[dict[str, Any]] = []
        if not (folder / "summary.json").exists():
            return
        try:
            self.summaries = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["rules"]
            report.table_rows(self.summaries)  # fails on records that are not what `study.summarise` writes
            self.powers = results.read_power(folder / "power.csv") if (folder / "power.csv").exists() else []
            self.rows = results.read_metrics(folder / "metrics.csv")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"the results in {folder} are damaged ({error}); give another --output-dir") from error

    def has(self, rule: str, seed: int) -> bool:
        """Whether this run of the rule is finished."""
        return any(
            run["seed"] == seed for s in self.summaries if s["rule"] == rule and s["finished"] for run in s["runs"]
        )

    def take_in(self, other: "Found") -> None:
        """Add the finished runs of another one."""
        for summary in other.summaries:
            if summary["finished"]:
                of_rule = [
                    [row for row in rows if row["rule"] == summary["rule"]] for rows in (other.rows, other.powers)
                ]
                self.add(summary, *of_rule)

    def add(self, summary: results.Summary, rows: list[dict[str, Any]], powers: list[dict[str, Any]]) -> None:
        """Take in runs, in the place of unfinished ones of the same rule."""
        rule, new = summary["rule"], {run["seed"] for run in summary["runs"]}
        before = [s for s in self.summaries if s["rule"] == rule and s["finished"]]
        if before and not summary["finished"]:
            return  # what is begun does not undo what is done; its checkpoint has it
        before = [s | {"runs": [run for run in s["runs"] if run["seed"] not in new]} for s in before]
        before = [s for s in before if s["runs"]]
        others = [s for s in self.summaries if s["rule"] != rule]
        self.summaries = sorted([*others, results.join([*before, summary])], key=lambda s: self.rules.index(s["rule"]))
        self.rows = [row for row in self.rows if row["rule"] != rule or row["seed"] not in new] + rows
        self.rows.sort(key=lambda row: self.rules.index(row["rule"]))
        old = [row for row in self.powers if row["rule"] != rule or (before and row["seed"] not in new)]
        self.powers = old + powers

    @property
    def finished(self) -> bool:
        """Whether every rule has every seed."""
        return all(self.has(rule, seed) for rule in self.rules for seed in self.seeds)

    def write(self) -> None:
        """Write the result files of what there is so far."""
        content: dict[str, Any] = {"finished": self.finished, "title": self.heading, "data": self.config["data"]}
        content |= {"protocol": self.protocol} if self.protocol else {}
        content |= {"rules": self.summaries}
        content["statistics"] = {summary["rule"]: results.statistics_of(summary) for summary in self.summaries}
        results.write_metrics(self.folder / "metrics.csv", self.rows)
        partial = "" if self.finished else "\nPartial: runs are missing.\n"
        table = report.markdown_table(*report.table_rows(self.summaries))
        lines = [self.heading, "", table, *report.footnotes(self.summaries), partial]
        results.write_text(self.folder / "table.md", "\n".join(lines))
        if self.rows:
            report.learning_curves(self.folder / "learning_curves.png", self.rows, self.heading)
            if any(row.get("cosine") for row in self.rows):
                report.alignment_curves(self.folder / "alignment.png", self.rows, self.heading)
        if self.powers:
            results.write_rows(self.folder / "power.csv", results.POWER_COLUMNS, self.powers)
            report.power_figure(self.folder / "power.png", self.powers, self.heading)
        # Last: a rule that this file calls finished has its other files.
        results.write_json(self.folder / "summary.json", content | {"environment": results.environment()})


class Work:
    """The runs of an experiment, those that are done and those of every process; the folder is read at once.

    With several processes each writes the results of its runs to a folder of its own, ``part-K``, as if they were all;
    the last one to end joins them. A context manager: other launches are kept out of the folder, if there is one,
    until its end.
    """

    def __init__(self, folder: Path, process: int, processes: int, *about: Any) -> None:
        self.folder, self.process, self.processes, self.about = folder, process, processes, about
        self.locks: dict[int, BaseFileLock] = {}
        self.locks_missing = False

    def __enter__(self) -> Self:
        try:
            self.keep_others_out()
            self.whole = Found(self.folder, *self.about)
            self.parts = self.read_parts()
            with contextlib.suppress(FileNotFoundError):
                self.claim.rmdir()  # left by a process that died while it joined the parts
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        while self.locks:
            number, lock = self.locks.popitem()
            with contextlib.suppress(OSError):  # where a file in use cannot be removed, it stays
                self.lock_of(number).unlink()
            lock.release()

    def lock_of(self, number: int) -> Path:
        """The file that says, while it is locked, that process ``number`` of a launch is at work here."""
        return self.folder / f".process-{number}{LOCK}"

    def keep_others_out(self) -> None:
        """Lock the folder, if it is there, for this process and for those that only an earlier launch had.

        Of N processes number k takes the locks k, k + N, ... The system gives up the lock of a process that dies.
        """
        if not self.folder.is_dir():
            return
        there = {int(path.stem.rpartition("-")[2]) for path in self.folder.glob(f".process-*{LOCK}")}
        own = {self.process} | {number for number in there if number % self.processes == self.process}
        for number in sorted(own - self.locks.keys()):
            path = self.lock_of(number)
            lock, who = FileLock(path, fallback_to_soft=False), ""
            try:
                lock.acquire(blocking=False)
            except Timeout as error:
                with contextlib.suppress(OSError):
                    who = path.read_text(encoding="utf-8")
                raise UsageError(
                    f"{who or 'another process'} is still at work in {self.folder}; wait for it or stop it, or give "
                    "another --output-dir"
                ) from error
            except OSError as error:  # a file system without locks
                if not self.locks_missing:
                    print(
                        f"note: {self.folder} cannot be locked ({error.strerror}); start nothing else in it", flush=True
                    )
                self.locks_missing = True
                return
            self.locks[number] = lock
            with contextlib.suppress(OSError):
                path.write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")

    @property
    def claim(self) -> Path:
        """A folder that one process alone can make: the one that joins the parts."""
        return self.folder / "joining"

    def read_parts(self) -> list["Found"]:
        """What the folders of single processes hold, unless all of it has been joined."""
        return [] if self.whole.finished else [Found(p, *self.about) for p in sorted(self.folder.glob("part-*"))]

    def done(self, rule: str, seed: int) -> bool:
        """Whether this run was finished when the folder was read."""
        return any(found.has(rule, seed) for found in (self.whole, *self.parts))

    def open(self, heading: str) -> "Found":
        """Where this process puts its runs."""
        own, self.heading = self.whole, heading
        if self.processes > 1:
            part = self.folder / f"part-{self.process}"
            part.mkdir(exist_ok=True)
            own = Found(part, *self.about)
        own.heading = heading
        return own

    def checkpoint(self, rule: str, seeds: Sequence[int]) -> Path:
        """Of these runs: a restart that divides the missing runs otherwise does not find it."""
        whole = len(seeds) == len(self.whole.seeds)
        name = "" if whole else f"-{zlib.crc32(repr(seeds).encode()):08x}" if len(seeds) > 1 else f"-{seeds[0]}"
        return self.folder / f"{rule}{name}.checkpoint.npz"

    def end(self, own: "Found", finish: Callable[[Path], None] | None, *, stopped: bool) -> int:
        """Join the parts if all runs are finished, and conclude; the exit code. ``stopped``: before its last run."""
        shared = own is not self.whole
        everything = self.whole = Found(self.folder, *self.about) if shared else own
        try:
            parts = self.read_parts()
        except UsageError:  # another process is removing them
            self.whole = Found(self.folder, *self.about)
            if not self.whole.finished:
                raise
            parts = []
        if not parts:
            self.remove_parts()
            return conclude(own, self.folder, finish, others=shared)
        everything.heading = self.heading
        for part in parts:
            everything.take_in(part)
        if everything.finished:
            try:
                self.claim.mkdir()
            except FileExistsError:
                return conclude(own, self.folder, finish, others=True)
            everything.write()
            self.remove_parts()
            with contextlib.suppress(FileNotFoundError):
                self.claim.rmdir()
            return conclude(everything, self.folder, finish, others=False)
        return conclude(own, self.folder, finish, others=not stopped)

    def remove_parts(self) -> None:
        """Remove what has been joined."""
        for part in self.folder.glob("part-*"):
            (part / "summary.json").unlink(missing_ok=True)  # first: without it a part is empty, and not damaged
            shutil.rmtree(part, ignore_errors=True)
        if self.whole.finished:
            for path in self.folder.glob("*.checkpoint*.npz"):
                path.unlink(missing_ok=True)


def conclude(found: "Found", folder: Path, finish: Callable[[Path], None] | None, *, others: bool) -> int:
    """Print the table and what is to be said of it; the exit code. ``others``: processes are still at work."""
    report.print_table(found.heading, *report.table_rows(found.summaries))
    print("\n".join(report.footnotes(found.summaries)))
    diverged = False
    for summary in found.summaries:
        gone = [str(record["seed"]) for record in summary["runs"] if record["diverged"]]
        if gone:
            diverged = True
            which = f"{summary['rule'].upper()} with seed {', '.join(gone)}"
            mend = "try a lower learning rate (in a closed form, a larger ridge)"
            print(f"warning: the loss of {which} became NaN or infinite; {mend}", file=sys.stderr)
    if others:
        print(
            "this process is done; the last one to end writes the results of all. If all have ended and there are "
            f"none, one has died; then go on, in any number of processes, with:\n  {resume_command(folder)}"
        )
        return 3 if diverged else 0
    if not found.finished:
        print(f"interrupted; the table is partial. Continue with:\n  {resume_command(folder)}")
        return 130
    if finish is not None:
        finish(found.folder)
    names = ["config.json", "summary.json", "metrics.csv", "table.md", "learning_curves.png"]
    more = ("alignment.png", "power.csv", "power.png", "report.html", "report.md")
    names += [name for name in more if (found.folder / name).exists()]
    print(f"results: {found.folder}/ ({', '.join(names)})")
    return 3 if diverged else 0


def resume_command(folder: Path) -> str:
    """The command line that continues this run, in one process."""
    words, skip = [], False
    for word in sys.argv:
        name, given, _ = word.partition("=")
        own = name.removeprefix("--").replace("-", "_") in PROCESSES and name.startswith("--")
        if not (own or skip or word == "--resume"):
            words.append(word)
        skip = own and not given
    if not any(word.split("=")[0] in ("--output-dir", "--output_dir") for word in words):
        words += ["--output-dir", str(folder)]
    return shlex.join([sys.executable, *words, "--resume"])
