"""Signals that ask a training to stop: the first one in good order, a second one at once."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from typing import Any

from .result import Result

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
SIGNALS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))
"""Ctrl-C, and what clusters send before a time limit and terminals when they close."""


class Interrupted(KeyboardInterrupt):
    """A Ctrl-C in `fwdonly.fit` or `fwdonly.sweep`: raised after the steps under way, when the checkpoint is written.

    Attributes:
        result: what the training gave until then, all of it where the Ctrl-C came at the very end. A notebook keeps the
            exception in ``sys.last_value``.
    """

    def __init__(self, result: Result) -> None:
        super().__init__("the training was stopped; what it gave is in this exception's result (sys.last_value.result)")
        self.result = result


@contextlib.contextmanager
def interruptible(numbers: Sequence[int] = SIGNALS) -> Generator[Callable[[], bool], None, None]:
    """Within it the first of these signals only asks to stop, as the function tells; a second one stops at once.

    SIGHUP stays ignored where ``nohup`` has asked for that. Outside the main thread no signal is looked at.
    """
    signals: list[int] = []

    def ask(number: int, _: Any) -> None:
        if signals:
            raise KeyboardInterrupt
        signals.append(number)
        try:
            print("\nstopping after the steps under way; once more to stop at once", file=sys.stderr, flush=True)
        except (OSError, ValueError):
            leave_terminal()

    before = {}
    if threading.current_thread() is threading.main_thread():
        hangup = getattr(signal, "SIGHUP", None)
        kept = [n for n in numbers if not (n == hangup and signal.getsignal(n) == signal.SIG_IGN)]
        before = {number: signal.signal(number, ask) for number in kept}
    try:
        yield lambda: bool(signals)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def keyboard() -> Generator[Callable[[], bool], None, None]:
    """`interruptible` by a Ctrl-C, where nobody else has taken that over."""
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with interruptible((signal.SIGINT,) if usual else ()) as stopping:
        yield stopping


def leave_terminal() -> None:
    """Send what is written from here on nowhere, where a terminal has closed: a line of progress must end no run."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 2)
    try:
        os.write(1, b"")
    except OSError:
        os.dup2(nowhere, 1)
    os.close(nowhere)
