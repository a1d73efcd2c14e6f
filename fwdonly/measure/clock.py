"""Time, and a thread that wakes at regular intervals."""

import random
import threading
import time
from collections.abc import Callable
from typing import Any


class Clock:
    """Time, and a thread that wakes at regular intervals; tests put another one in its place."""

    def now(self) -> float:
        """Seconds of a clock that is never set back."""
        return time.perf_counter()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)

    def every(self, seconds: float, f: Callable[[], Any]) -> tuple[Callable[[], None], Callable[[], None]]:
        """Call ``f`` at this interval from a thread of its own; returns what ends that, and what calls it at once."""
        due, ended = threading.Event(), threading.Event()
        # Not too regularly: power that repeats with the steps of a training would always be met at the same point.
        uneven = random.Random(0)

        def loop() -> None:
            while not ended.is_set():
                due.wait(seconds * uneven.uniform(0.7, 1.3))
                due.clear()
                if not ended.is_set():
                    f()

        thread = threading.Thread(target=loop, name="fwdonly-meter", daemon=True)
        thread.start()

        def end() -> None:
            ended.set()
            due.set()
            thread.join(timeout=5.0)  # a driver that hangs must not hold the training up

        return end, due.set
