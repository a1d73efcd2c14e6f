"""A drawing of what flows where in one step of a rule, made from the rule's own count of products (`measure.work`)."""

import html
from collections import defaultdict
from collections.abc import Sequence

from fwdonly.measure import Work
from fwdonly.nets import LayerSize

WIDTH, HEIGHT, BOX, TOP, MIDDLE = 720, 250, 92, 92, 140
SECOND = ("second pass", "modulated input", "slope")
LOCAL = ("readout", "scores", "head gradient", "solution")
LEGEND = {
    "forward": "forward products",
    "second": "a second pass forward",
    "back": "error sent back through a layer",
    "direct": "error sent straight to a layer",
    "local": "a class readout of the layer",
}
"""Kinds of arrows, in the order of the legend."""


def of_step(products: Sequence[Work], sizes: Sequence[LayerSize], batch: int) -> str:
    """The drawing as SVG; colours are those of the page (`docs/assets/site.css`)."""
    macs_of: dict[int, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for layer, what, macs in products:
        macs_of[layer][what] += macs
    last = len(sizes)
    has_output = "output layer" in macs_of[last]
    boxes = ["x", *(f"layer {i}" for i in range(1, last + 1)), *(["output"] if has_output else [])]
    step = (WIDTH - BOX - 8) / (len(boxes) - 1)
    left = [4 + step * at for at in range(len(boxes))]
    shapes, kinds = [], set()
    for i, size in enumerate(sizes, start=1):
        drawn, used = _layer(macs_of[i], i, left, size, batch, has_output)
        shapes += drawn
        kinds |= used
    if has_output:
        shapes.append(_arrow("forward", left[last] + BOX, left[last + 1], MIDDLE))
        if "input gradient" in macs_of[last] or ("input gradient" in macs_of[max(last - 1, 1)] and last > 1):
            shapes.append(_arrow("back", left[last + 1], left[last] + BOX, MIDDLE + 26))
    if any("second pass" in macs_of[i] for i in macs_of):
        path = f"M{left[-1] + BOX / 2:.0f} {MIDDLE + 42} v22 H{left[0] + BOX / 2:.0f} v-18"
        shapes.append(f'<path class="direct" d="{path}" marker-end="url(#direct)"/>')
        kinds.add("direct")
    for at, name in enumerate(boxes):
        i = at if 1 <= at <= last else 0
        learns = bool({"weight gradient", "slope"} & set(macs_of[i])) if i else name == "output"
        shapes.append(_box(left[at], name, learns, name == "x"))
    return _picture(shapes, [kind for kind in LEGEND if kind in kinds])


def _layer(
    macs: dict[str, float], i: int, left: Sequence[float], size: LayerSize, batch: int, has_output: bool
) -> tuple[list[str], set[str]]:
    """The arrows into, out of and above layer i, and their kinds."""
    shapes, kinds = [], set()
    passes = round(macs["forward"] / (batch * size.macs)) if "forward" in macs else 0
    for number in range(max(passes, 0)):
        shapes.append(_arrow("forward", left[i - 1] + BOX, left[i], MIDDLE - 9 * (passes - 1 - number)))
        kinds.add("forward")
    if any(what in macs for what in SECOND):
        shapes.append(_arrow("second", left[i - 1] + BOX, left[i], MIDDLE + 13))
        kinds.add("second")
    if "input gradient" in macs and i > 1:
        shapes.append(_arrow("back", left[i], left[i - 1] + BOX, MIDDLE + 26))
        kinds.add("back")
    if any(what in macs for what in LOCAL):
        x = left[i] + BOX / 2
        shapes.append(f'<path class="local" d="M{x - 12:.0f} {TOP + 10} V{TOP - 26}" marker-end="url(#local)"/>')
        shapes.append(f'<path class="local" d="M{x + 12:.0f} {TOP - 34} V{TOP + 6}" marker-end="url(#local)"/>')
        shapes.append(f'<rect class="readout" x="{x - 38:.0f}" y="{TOP - 62}" width="76" height="28" rx="6"/>')
        shapes.append(f'<text x="{x:.0f}" y="{TOP - 43}">readout {i}</text>')
        kinds.add("local")
    if "direct feedback" in macs and has_output:
        x, start = left[i] + BOX / 2, left[-1] + BOX / 2
        shapes.append(
            f'<path class="direct" d="M{start:.0f} {MIDDLE + 42} v{18 + 8 * i} H{x:.0f} V{MIDDLE + 46}" '
            'marker-end="url(#direct)"/>'
        )
        kinds.add("direct")
    return shapes, kinds


def _arrow(kind: str, start: float, end: float, y: float) -> str:
    stop = end + (-5 if end > start else 5)
    return f'<path class="{kind}" d="M{start:.0f} {y:.0f} H{stop:.0f}" marker-end="url(#{kind})"/>'


def _box(left: float, name: str, learns: bool, is_input: bool) -> str:
    look = "input" if is_input else "learns" if learns else "fixed"
    note = "" if is_input else "learns" if learns else "fixed in this step"
    middle = left + BOX / 2
    return (
        f'<rect class="box {look}" x="{left:.0f}" y="{TOP + 8}" width="{BOX}" height="{MIDDLE - TOP + 34}" rx="8"/>'
        f'<text class="name" x="{middle:.0f}" y="{MIDDLE - 4}">{html.escape(name)}</text>'
        f'<text class="note" x="{middle:.0f}" y="{MIDDLE + 16}">{note}</text>'
    )


def _picture(shapes: Sequence[str], kinds: Sequence[str]) -> str:
    heads = "".join(
        f'<marker id="{kind}" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" markerHeight="7" '
        f'orient="auto-start-reverse"><path class="head {kind}" d="M0 0 L8 4 L0 8 z"/></marker>'
        for kind in LEGEND
    )
    legend = "".join(
        f'<span><svg viewBox="0 0 40 10" aria-hidden="true"><path class="{kind}" d="M2 5 H38"/></svg>'
        f"{html.escape(LEGEND[kind])}</span>"
        for kind in kinds
    )
    words = "What flows where in one step: " + ", ".join(LEGEND[kind] for kind in kinds)
    return (
        f'<figure class="flow"><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(words)}">'
        f"<defs>{heads}</defs>{''.join(shapes)}</svg><figcaption>{legend}</figcaption></figure>"
    )
