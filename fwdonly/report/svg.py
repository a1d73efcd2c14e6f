"""Figures of a page as inline SVG, written by hand."""

import html
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

Point = tuple[float, float]
Validation = tuple[float, float, int]
"""x, y and stage."""
Runs = Mapping[int, Sequence[Validation]]
"""The validations of every seed."""
LOOKS = 10
"""Markers, of which each has a shape of its own; of the colours there are seven, so that 70 looks differ."""
THINNED = 200
"""Points of a curve at most; of longer ones every second (third, ...) is drawn, and the last one."""
_WIDTH, _HEIGHT = 400, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 12, 46


class Scale(NamedTuple):
    """From a value to a place."""

    low: float | int
    high: float | int
    start: float | int
    end: float | int
    log: bool = False

    def __call__(self, value: float | int) -> float:
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (self.end - self.start) * (value - low) / (high - low)

    def ticks(self) -> list[float]:
        """Round numbers between the ends of the scale."""
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            within = self.high / self.low
            steps = (1, 2, 5) if within < 1e3 else (1,)
            values = [step * 10.0**decade for decade in decades for step in steps]
        else:
            rough = (self.high - self.low) / 5
            size = 10.0 ** math.floor(math.log10(rough))
            step = next(size * m for m in (1, 2, 2.5, 5, 10) if size * m >= rough * 0.999)
            values = [step * i for i in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
        return [value for value in values if self.low * (1 - 1e-12) <= value <= self.high * (1 + 1e-12)]


class Cloud(NamedTuple):
    """One rule in a figure: its look, its name, and a point by seed."""

    look: int
    label: str
    seeds: Mapping[int, Point]

    @property
    def mean(self) -> Point:
        """Values of the seeds that are there."""
        n = len(self.seeds)
        return sum(x for x, _ in self.seeds.values()) / n, sum(y for _, y in self.seeds.values()) / n


def curves_svg(clouds: Sequence[tuple[int, str, Runs]], xlabel: str, ylabel: str, *, means: bool = True) -> str:
    """Every run thin and the mean of each rule thick; a short upright line where a run's next stage begins.

    A mean is of the seeds that have a value there, and left out where these are in different stages. Without ``means``,
    as over seconds, which no two runs share, a marker is at the end of every run.
    """
    every = [point for _, _, runs in clouds for run in runs.values() for point in run]
    x = _scale([p[0] for p in every] + [0.0], _LEFT, _WIDTH - _RIGHT)
    y = _scale([p[1] for p in every], _HEIGHT - _BOTTOM, _TOP)
    out = []
    for look, label, runs in clouds:
        thin, marks, at = [], [], {}
        for run in runs.values():
            for stage in _stages(run):
                thin.append(_polyline(stage, x, y, "seed"))
                if stage[0][2] > run[0][2]:
                    px, py = x(stage[0][0]), y(stage[0][1])
                    marks.append(f"M{px:.1f} {py - 6:.1f}v12")
            for px, py, stage in run:
                at.setdefault(px, []).append((py, stage))
        mean = [
            (px, sum(py for py, _ in there) / len(there), there[0][1])
            for px, there in sorted(at.items())
            if len({stage for _, stage in there}) == 1
        ]
        if means or len(runs) == 1:
            thick = [_polyline(stage, x, y, "mean") for stage in _stages(mean)]
            some = mean[:: -(-len(mean) // 6) or 1] if len(mean) > 6 else mean
            thick += [marker(look, x(px), y(py), 3.5) for px, py, _ in some]
        else:
            thick = [marker(look, x(run[-1][0]), y(run[-1][1]), 3.5) for run in runs.values()]
        stages = f'<path class="stage" d="{"".join(marks)}"/>' if marks else ""
        out.append(f'<g class="c{look % 7}"><title>{html.escape(label)}</title>{"".join([*thin, *thick])}{stages}</g>')
    return _frame(x, y, xlabel, ylabel, "".join(out), _HEIGHT)


def scatter_svg(clouds: Sequence[Cloud], xlabel: str, ylabel: str) -> str:
    """A point per seed, the mean of each rule large; dashed, the front of the means: none lies left of it and above."""
    points = [point for cloud in clouds for point in cloud.seeds.values()]
    xs = [px for px, _ in points]
    x = _scale(xs, _LEFT, _WIDTH - _RIGHT, log=min(xs) > 0 and max(xs) > 8 * min(xs))
    y = _scale([py for _, py in points], _HEIGHT - _BOTTOM, _TOP)
    front, best = "", -math.inf
    for px, py in sorted((cloud.mean for cloud in clouds), key=lambda point: (point[0], -point[1])):
        if py > best:
            front += f"H{x(px):.1f}V{y(py):.1f}" if front else f"M{x(px):.1f} {y(py):.1f}"
            best = py
    small, large = [], []
    for look, label, seeds in clouds:
        dots = "".join(marker(look, x(px), y(py), 3, "dot") for px, py in seeds.values())
        small.append(f'<g class="c{look % 7}">{dots}</g>')
        px, py = Cloud(look, label, seeds).mean
        name = f"<title>{html.escape(label)}: {px:.4g}, {py:.2f}</title>"
        large.append(f'<g class="c{look % 7}">{name}{marker(look, x(px), y(py), 7)}</g>')
    drawn = "".join([f'<path class="front" d="{front}"/>', *small, *large])
    return _frame(x, y, xlabel, ylabel, drawn, _HEIGHT)


def dots_svg(clouds: Sequence[tuple[int, str, Mapping[int, float]]], xlabel: str) -> str:
    """A row per rule and a point per seed. Lines join equal seeds of neighbouring rules. An upright line: the mean."""
    bottom = 16 + 46 * len(clouds)
    x = _scale([value for _, _, seeds in clouds for value in seeds.values()], 16, _WIDTH - _RIGHT)
    rows = [34 + 46 * i for i in range(len(clouds))]
    joins = "".join(
        f"M{x(above[2][seed]):.1f} {rows[i]}L{x(below[2][seed]):.1f} {rows[i + 1]}"
        for i, (above, below) in enumerate(itertools.pairwise(clouds))
        for seed in above[2]
        if seed in below[2]
    )
    out = [f'<path class="join" d="{joins}"/>'] if joins else []
    for row, (look, label, seeds) in zip(rows, clouds, strict=True):
        marks = "".join(marker(look, x(value), row, 4, "dot") for value in seeds.values())
        mean = sum(seeds.values()) / len(seeds) if seeds else None
        marks += f'<path class="mean" d="M{x(mean):.1f} {row - 9}v18"/>' if mean is not None else ""
        words = label if seeds else f"{label}: no value"
        out.append(
            f'<text class="row" x="16" y="{row - 14}">{html.escape(words)}</text><g class="c{look % 7}">{marks}</g>'
        )
    return _frame(x, None, xlabel, "", "".join(out), bottom + _BOTTOM)


def _scale(values: Sequence[float | int], start: float | int, end: float | int, *, log: bool = False) -> Scale:
    """With a little room around the values."""
    low, high = min(values), max(values)
    if log:
        return Scale(low / 1.25, high * 1.25, start, end, log=True)
    room = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return Scale(0.0 if low == 0 else low - room, high + room, start, end)


def _stages(points: Sequence[Validation]) -> list[list[Validation]]:
    """The points of every stage."""
    stages: list[list[Validation]] = []
    for point in points:
        if not stages or stages[-1][-1][2] != point[2]:
            stages.append([])
        stages[-1].append(point)
    return stages


def _polyline(points: Sequence[Validation], x: Scale, y: Scale, kind: str) -> str:
    step = -(-len(points) // THINNED)
    kept = [*points[:-1:step], points[-1]]
    if len(kept) == 1:
        return f'<circle class="{kind}" cx="{x(kept[0][0]):.1f}" cy="{y(kept[0][1]):.1f}" r="1.2"/>'
    places = " ".join(f"{x(px):.1f},{y(py):.1f}" for px, py, _ in kept)
    return f'<polyline class="{kind}" points="{places}"/>'


def _frame(x: Scale, y: Scale | None, xlabel: str, ylabel: str, drawn: str, height: int) -> str:
    """Axes around what is drawn."""
    floor, out = height - _BOTTOM, []
    for value in fitting(x):
        out.append(f'<path class="grid" d="M{x(value):.1f} {_TOP}V{floor}"/>')
        out.append(f'<text x="{x(value):.1f}" y="{floor + 17}" text-anchor="middle">{tick(value)}</text>')
    if y is not None:
        for value in y.ticks():
            out.append(f'<path class="grid" d="M{x.start:.0f} {y(value):.1f}H{x.end:.0f}"/>')
            out.append(f'<text x="{_LEFT - 6}" y="{y(value) + 4.5:.1f}" text-anchor="end">{tick(value)}</text>')
    middle = (_TOP + floor) / 2
    out.append(
        f'<text x="{(x.start + x.end) / 2:.0f}" y="{height - 8}" text-anchor="middle">{html.escape(xlabel)}</text>'
    )
    if ylabel:
        turned = f'transform="translate(13 {middle:.0f}) rotate(-90)" text-anchor="middle"'
        out.append(f"<text {turned}>{html.escape(ylabel)}</text>")
    axis = f'<path class="axis" d="M{x.start:.0f} {_TOP if y else floor}V{floor}H{x.end:.0f}"/>'
    label = html.escape(f"{ylabel} over {xlabel}" if ylabel else xlabel)
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{label}"><g>{"".join(out)}</g>{drawn}{axis}</svg>'
    )


def fitting(x: Scale) -> list[float]:
    """Ticks whose labels do not touch."""
    kept: list[float] = []
    for value in x.ticks():
        if not kept or x(value) - x(kept[-1]) > 4 + 4 * (len(tick(value)) + len(tick(kept[-1]))):
            kept.append(value)
    return kept


def tick(value: float | int) -> str:
    """The label of a tick."""
    text = f"{value:,.6g}" if 1e-3 <= abs(value) < 1e6 or value == 0 else f"{value:.1e}"
    return text.replace("e+0", "e").replace("e-0", "e-").replace(".0e", "e").replace("e+", "e")


def marker(look: int, x: float | int, y: float | int, size: float | int, kind: str = "mark") -> str:
    """A marker of this look; the shapes differ even without colour."""
    if look % LOOKS == 0:
        return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{size:.1f}"/>'
    corners, turn, inner = _SHAPES[look % LOOKS]
    radii = (1.2, 1.2 * inner) if inner else (1.2,)
    total = corners * len(radii)
    places = [
        (size * radii[i % len(radii)] * math.sin(angle), -size * radii[i % len(radii)] * math.cos(angle))
        for i in range(total)
        for angle in [2 * math.pi * (i / total + turn)]
    ]
    where = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in places)
    return f'<polygon class="{kind}" points="{where}"/>'


_SHAPES = {  # corners, turn (of a full one), radius between the corners where it is a star
    1: (4, 1 / 8, 0.0),  # square
    2: (3, 0.0, 0.0),  # triangle
    3: (4, 0.0, 0.0),  # diamond
    4: (3, 1 / 2, 0.0),  # triangle, upside down
    5: (5, 0.0, 0.42),  # star
    6: (4, 0.0, 0.35),  # four-pointed star
    7: (4, 1 / 8, 0.35),  # cross
    8: (6, 0.0, 0.5),  # six-pointed star
    9: (5, 0.0, 0.0),  # pentagon
}
