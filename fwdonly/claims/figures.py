"""A figure for a measured claim: every pair, the mean with its interval, the margin, and the published number."""

import html
from collections.abc import Sequence
from typing import NamedTuple

from ..report import colour, stats, svg
from .registry import Claim, Published
from .verdicts import Verdict

WIDTH, LEFT, RIGHT, ROW, TOP = 640, 116, 24, 34, 30
PAGE, INK, FAINT, BAND, OURS, PUBLISHED = map(colour, ("page", "ink", "soft", "line", "c0", "c1"))


class Row(NamedTuple):
    """A line of the figure."""

    label: str
    points: Sequence[float | int]
    interval: tuple[float | int, float | int] | None
    colour: str
    look: str
    """"dots", "mean" or "published"."""


def figure(verdict: Verdict) -> str | None:
    """The figure as SVG; None where there are no numbers by seed."""
    rows = _rows(verdict)
    if rows is None:
        return None
    claim = verdict.claim
    compared = claim.theirs is not None
    every = [value for row in rows for value in (*row.points, *(row.interval or ()))]
    centre = 0.0 if compared else claim.published.value if claim.published else every[0]
    band = [centre + end for end in stats.band(claim.margin, relative=claim.what.relative and compared)]
    low, high = min(*every, *band, centre), max(*every, *band, centre)
    room = 0.06 * (high - low)
    height = TOP + ROW * len(rows) + 44
    place = svg.Scale(low - room, high + room, LEFT, WIDTH - RIGHT)
    foot, unit = TOP + ROW * len(rows), "%" if claim.what.relative else "points"
    parts = [
        f'<rect width="{WIDTH}" height="{height}" rx="6" fill="{PAGE}"/>',
        f'<rect x="{place(band[0]):.1f}" y="{TOP}" width="{place(band[1]) - place(band[0]):.1f}" '
        f'height="{foot - TOP}" fill="{BAND}"/>',
        f'<path d="M{place(centre):.1f} {TOP}V{foot}" stroke="{FAINT}" stroke-dasharray="3 3"/>',
        f'<path d="M{LEFT} {foot}H{WIDTH - RIGHT}" stroke="{INK}"/>',
        *_ticks(place, foot),
        _text((LEFT + WIDTH - RIGHT) / 2, foot + 37, _axis(claim), "middle"),
        _text(LEFT, 19, f"{verdict.word}; shaded: within the margin of {claim.margin:g} {unit}", "start", FAINT),
    ]
    for at, row in enumerate(rows):
        parts += _drawn(row, TOP + ROW * (at + 0.5), place)
    label = html.escape(f"{claim.sentence} {verdict.text}")
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    font = ' font-family="system-ui, sans-serif" font-size="13"'
    return f'{head}{font} role="img" aria-label="{label}">\n' + "\n".join(parts) + "\n</svg>\n"


def _rows(verdict: Verdict) -> list[Row] | None:
    claim, answer = verdict.claim, verdict.answer
    if isinstance(answer, stats.Difference) and answer.n and answer.mean is not None:
        values, mean, interval = answer.each, answer.mean, answer.interval
        label = "mean, 95 %"
    elif isinstance(answer, stats.Reproduction) and answer.measured.mean is not None and verdict.evidence:
        values = [v for v in verdict.evidence.ours.by_seed.values() if v is not None and v == v]
        mean, label = answer.measured.mean, "mean, 95 %"
        interval = answer.measured.interval
    else:
        return None
    kind = "pair" if claim.theirs else "seed"
    rows = [Row(f"{len(values)} {kind}{'s' * (len(values) != 1)}", values, None, OURS, "dots")]
    if len(values) > 1:
        rows.append(Row(label, [mean], interval, OURS, "mean"))
    if claim.published is not None:
        rows.append(Row("published", [claim.published.value], _published(claim.published), PUBLISHED, "published"))
    return rows


def _published(known: Published) -> tuple[float | int, float | int] | None:
    """The interval of the source, or its standard deviation either way."""
    if known.low is not None and known.high is not None:
        return known.low, known.high
    return None if not known.sd else (known.value - known.sd, known.value + known.sd)


def _drawn(row: Row, y: float | int, place: svg.Scale) -> list[str]:
    parts = [_text(LEFT - 10, y + 4, row.label, "end")]
    if row.interval is not None:
        low, high = map(place, row.interval)
        parts.append(
            f'<path d="M{low:.1f} {y:.1f}H{high:.1f}M{low:.1f} {y - 5:.1f}v10M{high:.1f} {y - 5:.1f}v10" '
            f'stroke="{row.colour}" stroke-width="2" fill="none"/>'
        )
    for at, value in enumerate(row.points):
        x = place(value)
        if row.look == "dots":
            lift = 4 * ((at % 3) - 1)
            parts.append(f'<circle cx="{x:.1f}" cy="{y + lift:.1f}" r="4" fill="{row.colour}" fill-opacity="0.6"/>')
        elif row.look == "mean":
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="{row.colour}"/>')
        else:
            parts.append(f'<path d="M{x:.1f} {y - 7:.1f}l7 7l-7 7l-7 -7z" fill="{row.colour}"/>')
    return parts


def _ticks(x: svg.Scale, foot: float | int) -> list[str]:
    parts = []
    for value in svg.fitting(x):
        parts.append(f'<path d="M{x(value):.1f} {foot}v4" stroke="{INK}"/>')
        parts.append(_text(x(value), foot + 18, svg.tick(value + 0.0), "middle"))
    return parts


def _text(x: float | int, y: float | int, words: str, anchor: str, colour: str = INK) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{html.escape(words)}</text>'


def _axis(claim: Claim) -> str:
    what = claim.what
    if claim.theirs is None:
        return f"{claim.ours.rule.upper()}: test {what.quantity}, %"
    unit = "%" if what.relative else what.unit
    return f"{what.quantity} of {claim.ours.rule.upper()} minus that of {claim.theirs.rule.upper()}, {unit}"
