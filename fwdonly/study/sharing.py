"""A result folder that several processes share: locks, the part of each process, and joining the parts."""

import contextlib
import os
import platform
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..errors import UsageError
from .folder import LOCK, Contents, Render, Wanted, make
from .saving import best_seed, drop_others, take_models

if TYPE_CHECKING:
    from filelock import BaseFileLock


class Outcome(NamedTuple):
    """What a process leaves when it ends."""

    contents: Contents
    folder: Path
    others: bool
    """Other processes are still at work, and the last of them joins the results of all."""

    @property
    def diverged(self) -> list[tuple[str, list[int]]]:
        """The rules that diverged, each with the seeds whose loss became NaN or infinite."""
        seeds = {s["rule"]: [run["seed"] for run in s["runs"] if run["diverged"]] for s in self.contents.summaries}
        return [(rule, numbers) for rule, numbers in seeds.items() if numbers]


class Work:
    """The runs of a study, those that are done and those of every process; the folder is read at once.

    With several processes each writes the results of its runs to a folder of its own, ``part-K``, as if they were all;
    the last one to end joins them. A context manager: other launches are kept out of the folder, if there is one,
    until its end.
    """

    def __init__(self, folder: Path, wanted: Wanted, process: int = 0, processes: int = 1) -> None:
        self.folder, self.wanted, self.process, self.processes = folder, wanted, process, processes
        self.locks: dict[int, BaseFileLock] = {}
        self.locks_missing = False

    def __enter__(self) -> "Work":
        try:
            self.keep_others_out()
            self.whole = Contents(self.folder, self.wanted)
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
        """Lock the folder, if it is there, for this process and for those of an earlier launch that are missing now.

        Of N processes, process k takes the locks k, k + N, ... The system frees the lock of a process that dies.
        """
        if not self.folder.is_dir():
            return
        from filelock import FileLock, Timeout  # here, so that models are opened without the extra ``experiments``

        there = {int(path.stem.rpartition("-")[2]) for path in self.folder.glob(f".process-*{LOCK}")}
        numbers = {self.process} | {number for number in there if number % self.processes == self.process}
        for number in sorted(numbers - self.locks.keys()):
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

    def read_parts(self) -> list[Contents]:
        """What the folders of single processes hold, unless all of it has been joined."""
        return [] if self.whole.finished else [Contents(p, self.wanted) for p in sorted(self.folder.glob("part-*"))]

    def done(self, rule: str, seed: int) -> bool:
        """Whether this run was finished when the folder was read."""
        return any(part.has(rule, seed) for part in (self.whole, *self.parts))

    def open(self, heading: str) -> Contents:
        """The contents of the folder that this process writes to."""
        contents, self.heading = self.whole, heading
        if self.processes > 1:
            part = self.folder / f"part-{self.process}"
            make(part)
            contents = Contents(part, self.wanted)
        contents.heading = heading
        return contents

    def checkpoint(self, rule: str, seeds: Sequence[int]) -> Path:
        """The checkpoint of these runs; a restart that divides the missing runs otherwise does not find it."""
        whole = len(seeds) == len(self.wanted.seeds)
        name = "" if whole else f"-{zlib.crc32(repr(seeds).encode()):08x}" if len(seeds) > 1 else f"-{seeds[0]}"
        return self.folder / f"{rule}{name}.checkpoint.npz"

    def end(self, contents: Contents, render: Render | None, *, stopped: bool) -> Outcome:
        """Join the parts if all runs are finished. ``stopped`` says that this process ends before its last run."""
        shared = contents is not self.whole
        everything = self.whole = Contents(self.folder, self.wanted) if shared else contents
        try:
            parts = self.read_parts()
        except UsageError:  # another process is removing them
            self.whole = Contents(self.folder, self.wanted)
            if not self.whole.finished:
                raise
            parts = []
        if not parts:
            self.remove_parts()
            return Outcome(contents, self.folder, others=shared)
        everything.heading = self.heading
        for part in parts:
            everything.take_in(part)
        if not everything.finished:
            return Outcome(contents, self.folder, others=not stopped)
        try:
            self.claim.mkdir()
        except FileExistsError:
            return Outcome(contents, self.folder, others=True)
        self.join_models()
        everything.write(render)
        self.remove_parts()
        with contextlib.suppress(FileNotFoundError):
            self.claim.rmdir()
        return Outcome(everything, self.folder, others=False)

    def join_models(self) -> None:
        """Move the models of all parts to the folder, before what says that the parts are joined is written."""
        for part in self.folder.glob("part-*"):
            take_models(part, self.folder)
        if self.wanted.models == "best":
            for rule in self.wanted.rules:
                drop_others(self.folder, rule, best_seed(self.whole.summaries, rule))

    def remove_parts(self) -> None:
        """Remove what has been joined."""
        for part in self.folder.glob("part-*"):
            (part / "summary.json").unlink(missing_ok=True)  # first: without it a part is empty, and not damaged
            shutil.rmtree(part, ignore_errors=True)
        if self.whole.finished:
            for path in self.folder.glob("*.checkpoint*.npz"):
                path.unlink(missing_ok=True)
