"""What a study shows while it trains: progress with the time left, and a first Ctrl-C that stops in good order."""

import contextlib
import signal
import sys
from collections.abc import Callable, Generator
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


class Reporter:
    """The callback of the scripts: a progress bar on a terminal, elsewhere a line per epoch; asks for a stop.

    The time left is what the epoch caps allow; early stopping may end sooner.
    """

    def __init__(self, name: str, *, quiet: bool, stop: Callable[[], bool]) -> None:
        self.name, self.stop, self.console = name, stop, Console()
        self.quiet, self.lines = quiet, not self.console.is_terminal
        self.bar = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(bar_width=20),
            rich.progress.TextColumn("{task.fields[numbers]}"),
            rich.progress.TimeElapsedColumn(),
            rich.progress.TextColumn("left"),
            rich.progress.TimeRemainingColumn(),
            console=self.console,
            disable=quiet or self.lines,
        )
        self.task = self.bar.add_task(self.name, total=None, numbers="compiling")
        self.accuracy = float("nan")

    def __enter__(self) -> "Reporter":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def __call__(self, progress: Progress) -> bool:
        caps, stages = progress.epochs, len(progress.epochs)
        total = sum(caps) * progress.steps
        done = (sum(caps[: progress.stage]) + progress.epoch) * progress.steps + progress.step
        ended = progress.record is not None
        if not progress.active.any():
            done = sum(caps[: progress.stage + 1]) * progress.steps
        if progress.record is not None:
            self.accuracy = 100 * _mean(progress.record["val_accuracy"])
        stage = f" stage {progress.stage + 1}/{stages}" if stages > 1 else ""
        first, last, runs = progress.runs
        if last - first < runs:  # of this group; the others take as long
            stage = f" seeds {first + 1}-{last} of {runs}{stage}"
            done, total = done * (last - first) + total * first, total * runs
        numbers = f"epoch {progress.epoch + (not ended)}/{caps[progress.stage]}  loss {_mean(progress.loss):.4f}"
        numbers += f"  val {self.accuracy:.2f} %" if np.isfinite(self.accuracy) else ""
        training = int(progress.active.sum())
        numbers += f"  {training}/{progress.active.size} seeds" if 0 < training < progress.active.size else ""
        self.bar.update(self.task, total=total, completed=done, description=self.name + stage, numbers=numbers)
        if self.lines and ended and not self.quiet:
            begun = done - total * progress.runs[0] // progress.runs[2]  # by this group, whose seconds these are
            left = progress.seconds / begun * (total - done)
            print(f"{self.name}{stage}  {numbers}  {clock(progress.seconds)} gone, {clock(left)} left", flush=True)
        return self.stop()


def _mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else float("nan")


def clock(seconds: float) -> str:
    """Minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
