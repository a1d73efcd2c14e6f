"""What a study shows while it trains: progress with the time left."""

import contextlib
import sys
from collections.abc import Callable, Generator, Sequence

import rich.progress
from rich.console import Console

from ..training import Progress, clock, describe, position


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
        self.accuracy, numbers = describe(progress, self.accuracy)
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
