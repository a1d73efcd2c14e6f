"""Where a training stands, in words, and a line of it on a terminal or in a notebook."""

import contextlib
import shutil
import sys
import time
from collections.abc import Generator
from typing import Any

import numpy as np

from ..errors import UsageError
from .result import Callback, Progress

EVERY = 0.1
"""Seconds between two lines, at least."""


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


def describe(progress: Progress, accuracy: float) -> tuple[float, str]:
    """The last validation's accuracy in percent, of which ``accuracy`` is the one before; and the numbers in words."""
    ended = progress.record is not None
    if progress.record is not None:
        accuracy = 100 * mean_of(progress.record["val_accuracy"])
    numbers = f"epoch {progress.epoch + (not ended)}/{progress.epochs[progress.stage]}"
    numbers += f"  loss {mean_of(progress.loss):.4f}"
    numbers += f"  val {accuracy:.2f} %" if np.isfinite(accuracy) else ""
    training = int(progress.active.sum())
    numbers += f"  {training}/{progress.active.size} seeds" if 0 < training < progress.active.size else ""
    return accuracy, numbers


def mean_of(values: np.ndarray) -> float:
    """The mean of the finite values; NaN where there is none."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else float("nan")


def clock(seconds: float) -> str:
    """Minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class Line:
    """A callback that writes one line again and again: epoch, loss, validation accuracy, time left."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.accuracy, self.written = stream, float("nan"), float("-inf")

    def __call__(self, progress: Progress) -> None:
        """Show where the training stands."""
        done, total, where = position(progress)
        self.accuracy, numbers = describe(progress, self.accuracy)
        if progress.record is None and time.monotonic() - self.written < EVERY:
            return
        begun = done - total * progress.runs[0] // progress.runs[2]  # by this group, whose seconds these are
        left = f"{clock(progress.seconds / begun * (total - done))} left" if begun else ""
        self.write(f"{where.strip()}  {numbers}  {clock(progress.seconds)} gone  {left}".strip())
        self.written = time.monotonic()

    def write(self, text: str) -> None:
        """Put ``text`` in the place of the line, as much as the terminal is wide."""
        width = shutil.get_terminal_size().columns - 1
        with contextlib.suppress(OSError, ValueError):  # a terminal that is gone
            self.stream.write(f"\r{text[:width].ljust(width)}")
            self.stream.flush()


def is_seen() -> bool:
    """Whether somebody looks: standard error is a terminal, or this is a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    with contextlib.suppress(AttributeError, ValueError):  # no stream, one without isatty, a closed one
        return getattr(shell, "kernel", None) is not None or sys.stderr.isatty()
    return False


@contextlib.contextmanager
def line(wanted: bool | None) -> Generator[tuple[Callback, ...], None, None]:
    """The callbacks that show progress: one, or none where it is not ``wanted``; None: where somebody looks."""
    if wanted not in (None, True, False):
        raise UsageError(f"progress is true, false or none; got {wanted!r}")
    if not (is_seen() if wanted is None else wanted):
        yield ()
        return
    shown = Line(sys.stderr)
    shown.write("compiling")
    try:
        yield (shown,)
    finally:
        with contextlib.suppress(OSError, ValueError):
            print(file=sys.stderr, flush=True)
