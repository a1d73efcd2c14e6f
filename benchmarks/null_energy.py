"""How often verdicts on energy are wrong, with scripted boards whose power drifts, steps or is shared.

``python benchmarks/null_energy.py --draws 160 --output benchmarks/results/null-energy.json`` takes some ten minutes on
one core. A meter reads a scripted board (``tests/fake_power.py``) around windows of 30 s, rules in turns (A B, B A,
...). Both rules draw 300 W with a percent of chance from window to window, or (a quarter of the draws) one 5 % less.
"""

import argparse
import dataclasses
import importlib
import json
import math
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from fwdonly import claims, report, results
from fwdonly.measure import Meter
from fwdonly.report import stats

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
fake_power: Any = importlib.import_module("fake_power")

PAIRS = (3, 5, 10, 20)
BUSY, IDLE, NOISE, SECONDS, PAUSE, MARGIN = 300.0, 60.0, 0.01, 30.0, 5.0, 5.0
START, LENGTH = 1000.0, 6000.0
"""Time of the scripted world at the start, and what a session of twenty pairs takes at most."""


@dataclasses.dataclass(frozen=True)
class Scene:
    """What happens on the board beside the two rules."""

    drift: float = 0.0
    """Watts that the board draws more at the end of the session than at its start."""
    other: float = 0.0
    """Watts of another process, which comes and goes."""
    period: float = 0.1
    """Seconds between two ticks of the counter."""
    idle: float = 0.0
    """Watts by which the idle power changes, at times of its own."""
    with_arm: float = 0.0
    """Watts by which the idle power is higher around and in windows of the second rule."""
    in_turns: bool = True
    """False: all windows of the first rule come first."""
    idle_seconds: float = 0.0
    """Seconds of idle power before and after windows; above 0 the energy above it is compared."""


SCENES = {
    "steady": Scene(),
    "drift of 30 W over the session": Scene(drift=30.0),
    "another process on the board, 50 W": Scene(other=50.0),
    "a counter that steps every 5 s": Scene(period=5.0),
    "idle power changes by 30 W": Scene(idle=30.0),
    "control: drift, one rule after the other": Scene(drift=30.0, in_turns=False),
    "control: idle power follows the rule, 30 W": Scene(with_arm=30.0),
    "the same, energy above idle": Scene(with_arm=30.0, idle_seconds=10.0),
}
"""What is scripted, by its name. Controls break what the protocol asks for, and must err."""


class Sum:
    """Powers that add up, each with its energy in closed form."""

    def __init__(self, *parts: Any) -> None:
        self.parts = parts

    def __call__(self, at: float) -> float:
        """Watts."""
        return sum(part(at) for part in self.parts)

    def upto(self, at: float) -> float:
        """Joules since some fixed time."""
        return sum(part.upto(at) for part in self.parts)


def come_and_go(rng: np.random.Generator, watts: float, seconds: float) -> Any:
    """Power that is there and is not, for exponential times of this mean."""
    steps, at, on = fake_power.Steps((0.0, 0.0)), START, False
    while at < START + LENGTH:
        at, on = at + rng.exponential(seconds), not on
        steps.set(at, watts * on)
    return steps


def session(rng: np.random.Generator, scene: Scene, saving: float, pairs: int) -> tuple[dict[int, Any], dict[int, Any]]:
    """Joules of every window of two rules, of which the first draws less by ``saving``."""
    world, load = fake_power.World(), fake_power.Steps((0.0, IDLE))
    drift = fake_power.Ramp(START, START + LENGTH * pairs / max(PAIRS), 0.0, scene.drift)
    parts = [load, drift, come_and_go(rng, scene.other, 40.0), come_and_go(rng, scene.idle, 400.0)]
    board = fake_power.Gpu("GPU-a", Sum(*parts), period=scene.period)
    joules: tuple[dict[int, Any], dict[int, Any]] = ({}, {})
    order = [(pair, (arm + pair) % 2) for pair in range(pairs) for arm in range(2)]
    if not scene.in_turns:
        order = [(pair, arm) for arm in range(2) for pair in range(pairs)]
    with mock.patch.dict(sys.modules, {"pynvml": fake_power.nvml(world, [board])}):
        meter = Meter(["GPU-a"], interval=0.5, idle_seconds=scene.idle_seconds, powercap=Path("/none"), clock=world)
        for pair, arm in order:
            idle = IDLE + scene.with_arm * arm
            load.set(world.time, idle)
            world.sleep(PAUSE)
            watts = BUSY * (1 - saving * (arm == 0)) * math.exp(rng.normal(0.0, NOISE)) + scene.with_arm * arm
            with meter.window() as window:
                load.set(world.time, watts)
                world.work(SECONDS)
                load.set(world.time, idle)
            reading = window.reading
            assert reading is not None
            joules[arm][pair] = (reading.net if scene.idle_seconds else reading.energy).value
    return joules


def words(joules: tuple[dict[int, Any], dict[int, Any]], n: int) -> dict[str, bool]:
    """What the tests say of the first ``n`` pairs: a difference, however small, and no difference above the margin."""
    sides = [{pair: value for pair, value in side.items() if pair < n} for side in joules]
    answer = stats.paired("energy", *sides, relative=True, margin=MARGIN, resamples=2)
    assert answer.p is not None and answer.mean is not None and answer.equivalence_p is not None
    different = answer.p <= claims.LEVEL
    return {
        "less": different and answer.mean < 0,
        "more": different and answer.mean > 0,
        "equal": answer.equivalence_p <= claims.LEVEL,
    }


def rates(name: str, draws: int) -> dict[str, Any]:
    """How often each word falls, by number of pairs, without a difference and with one of the margin."""
    row: dict[str, Any] = {"scene": name, "draws": draws}
    with mock.patch.object(stats, "sign_flip_p", lambda d: 1.0):  # slow, and no word depends on it
        for saving in (0.0, MARGIN / (100 + MARGIN)):
            counts = {n: {"less": 0, "more": 0, "equal": 0} for n in PAIRS}
            count = draws if saving == 0 else max(draws // 4, 1)
            for draw in range(count):
                joules = session(np.random.default_rng((sum(map(ord, name)), draw)), SCENES[name], saving, max(PAIRS))
                for n in PAIRS:
                    for word, is_it in words(joules, n).items():
                        counts[n][word] += is_it
            label = "equal" if saving == 0 else "margin apart"
            row[label] = {str(n): {word: c / count for word, c in of.items()} for n, of in counts.items()}
    return row


def table(content: dict[str, Any]) -> str:
    """The rates in % as a Markdown table, as the page on statistics has them."""
    apart = PAIRS[-2:]
    names = [*(f"n = {n}" for n in PAIRS), *(f"n = {n}, 5 % apart" for n in apart)]
    lines = [["scripted", *(f"{name}: difference, equal" for name in names)]]
    for row in content["rows"]:
        cells = [_words(row["equal"][str(n)]) for n in PAIRS]
        lines.append([row["scene"], *cells, *(_words(row["margin apart"][str(n)]) for n in apart)])
    return report.markdown_table(lines[0], lines[1:])


def _words(rates: dict[str, float]) -> str:
    return f"{100 * (rates['less'] + rates['more']):.1f}, {100 * rates['equal']:.1f}"


def main() -> None:
    """Draw, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=160)
    parser.add_argument("--output", type=Path, default=None)
    parser.add_argument("--show", type=Path, default=None, help="print the table of a file, and draw nothing")
    options = parser.parse_args()
    if options.show is not None:
        print(table(json.loads(options.show.read_text(encoding="utf-8"))), end="")
        return
    rows = []
    for name in SCENES:
        rows.append(rates(name, options.draws))
        print(name, rows[-1], flush=True)
        if options.output is not None:
            command = f"python benchmarks/null_energy.py --draws {options.draws}"
            setting = {"busy": BUSY, "idle": IDLE, "noise": NOISE, "seconds": SECONDS, "margin_percent": MARGIN}
            content = {"command": command, "setting": setting, "rows": rows, "environment": results.environment()}
            results.write_json(options.output, content)


if __name__ == "__main__":
    main()
