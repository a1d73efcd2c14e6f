"""What a study shows while it trains: progress with the time left, and a first Ctrl-C that stops in good order."""

import contextlib
import signal
import sys
from collections.abc import Callable, Generator, Sequence
from typing import Any

import numpy as np
import rich.progress
from rich.console import Console

from ..training import Progress


@contextlib.contextmanager
def interruptible() -> Generator[Callable[[], bool], None, None]:
    """Within it the first Ctrl-C (or SIGTERM) only asks to stop at the next chunk, the second one stops at once."""
    asked: list[int] = []

    def ask(number: int, _: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        print("\nstopping after the steps under way; once more to stop at once", file=sys.stderr, flush=True)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def noted(what: str) -> Generator[None, None, None]:
    """Within it ``what`` is made of numbers that are written already: a failure is a line, and the run goes on."""
    try:
        yield
    except Exception as error:
        words = " ".join(str(error).split())[:200] or type(error).__name__
        line = f"note: {what} could not be made ({words}); the numbers are written"
        with contextlib.suppress(OSError, ValueError):  # of a terminal that is gone
            print(line, file=sys.stderr, flush=True)


class Display:
    """The callback of a study: a bar for all of it and a line for the run under way; elsewhere a line per epoch.

    The time left is what the epoch caps allow; early stopping may end sooner.
    """

    def __init__(self, weights: Sequence[int], *, quiet: bool, stop: Callable[[], bool]) -> None:
        """``weights`` are the passes over the images that each turn may take."""
        self.weights, self.stop, self.console = list(weights), stop, Console()
        self.quiet, self.lines = quiet, not self.console.is_terminal
        self.bar = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(bar_width=12),
            rich.progress.TextColumn("{task.fields[numbers]}"),
            rich.progress.TimeRemainingColumn(),
            rich.progress.TextColumn("left"),
            console=self.console,
            disable=quiet or self.lines,
        )
        self.all = self.bar.add_task("all", total=sum(self.weights), numbers="")
        self.task = self.bar.add_task("", total=None, numbers="compiling")
        self.name, self.turns, self.turn, self.accuracy = "", "", -1, float("nan")

    def __enter__(self) -> "Display":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def begin(self, name: str) -> None:
        """The next turn."""
        self.name, self.turn, self.accuracy = name, self.turn + 1, float("nan")
        turns = f"{self.turn + 1} of {len(self.weights)}" if len(self.weights) > 1 else ""
        self.bar.update(self.all, completed=sum(self.weights[: self.turn]), numbers=turns)
        self.turns = f" (run {turns})" if turns else ""
        self.bar.reset(self.task, total=None, description=name, numbers="compiling")

    def __call__(self, progress: Progress) -> bool:
        """Show where the training stands; true if it is to stop."""
        done, total, where = position(progress)
        ended = progress.record is not None
        if progress.record is not None:
            self.accuracy = 100 * _mean(progress.record["val_accuracy"])
        numbers = f"epoch {progress.epoch + (not ended)}/{progress.epochs[progress.stage]}"
        numbers += f"  loss {_mean(progress.loss):.4f}"
        numbers += f"  val {self.accuracy:.2f} %" if np.isfinite(self.accuracy) else ""
        training = int(progress.active.sum())
        numbers += f"  {training}/{progress.active.size} seeds" if 0 < training < progress.active.size else ""
        self.bar.update(self.task, total=total, completed=done, description=self.name + where, numbers=numbers)
        before = sum(self.weights[: self.turn])
        self.bar.update(self.all, completed=before + self.weights[self.turn] * done / total)
        if self.lines and ended and not self.quiet:
            begun = done - total * progress.runs[0] // progress.runs[2]  # by this group, whose seconds these are
            left = progress.seconds / begun * (total - done)
            print(
                f"{self.name}{self.turns}{where}  {numbers}  {clock(progress.seconds)} gone, {clock(left)} left",
                flush=True,
            )
        return self.stop()


def position(progress: Progress) -> tuple[int, int, str]:
    """Steps done and in all, of all groups and stages; and which of them this is, in words."""
    caps, stages = progress.epochs, len(progress.epochs)
    total = sum(caps) * progress.steps
    done = (sum(caps[: progress.stage]) + progress.epoch) * progress.steps + progress.step
    if not progress.active.any():
        done = sum(caps[: progress.stage + 1]) * progress.steps
    where = f" stage {progress.stage + 1}/{stages}" if stages > 1 else ""
    first, last, runs = progress.runs
    if last - first < runs:  # of this group; the others take as long
        where = f" seeds {first + 1}-{last} of {runs}{where}"
        done, total = done * (last - first) + total * first, total * runs
    return done, total, where


def _mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else float("nan")


def clock(seconds: float) -> str:
    """Minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
