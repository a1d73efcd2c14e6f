"""What a training step costs, rule by rule at matched passes: energy, time, memory and arithmetic.

A cell is a rule on a network with a batch size, for one run or a vmapped sweep of several. A window is one cell in a
process of its own: compile, warm up, measure idle power, then steps for at least 30 s, idle power again. Windows of a
cell's rules take turns (A B, B A, ...), with a pause to cool down. Every rule uses each image once per pass, so energy
per image is energy at matched passes; rules are compared with BP by the ratio within each block of turns.
"""

import dataclasses
import itertools
import json
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import tyro

NETS = {
    "784-1000-1000": ((28, 28, 1), (1000, 1000)),
    "3072-2000-2000-2000": ((32, 32, 3), (2000, 2000, 2000)),
    "784-64": ((28, 28, 1), (64,)),
}
CLASSES, LEARNING_RATE, IMAGES = 10, 1e-4, 8192
CLAIM = 10
"""Pairs below which a difference is printed and not claimed."""

RuleName = Literal["bp", "mf", "ff", "pepita", "foton", "feedback"]


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure energy, time, memory and arithmetic of training steps; prints a table, writes JSON and a figure."""

    rules: tuple[RuleName, ...] = ("bp", "mf")
    """Learning rules; differences are to bp, where it is among them."""
    nets: tuple[Literal["784-1000-1000", "3072-2000-2000-2000", "784-64"], ...] = (
        "784-1000-1000",
        "3072-2000-2000-2000",
    )
    """Networks, by their widths."""
    batches: tuple[int, ...] = (128, 4096)
    """Batch sizes."""
    sweeps: tuple[int, ...] = (1,)
    """Runs trained together by vmap; 1 10 shows whether ten cost less per run."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """Optimizer of every rule."""
    windows: int = 6
    """Windows of every cell; an even number has each rule first equally often. A claim needs 10."""
    seconds: float = 30.0
    """Length of a window, at least."""
    warm_up: float = 5.0
    """Seconds of steps before it."""
    idle_seconds: float = 30.0
    """How long idle power is measured before and after every window, where there is a sensor."""
    cool_down: float = 10.0
    """Seconds between two windows."""
    output: Path = Path("energy.json")
    """The JSON to write, after every window; the figure lies beside it."""
    resume: bool = False
    """Add the windows that are missing in --output."""
    overhead: bool = False
    """Measure instead what metering itself costs a loop of 1 ms steps, each followed by a look of the host."""
    smoke: bool = False
    """A run of seconds that shows that everything works and measures nothing."""


class Cell(NamedTuple):
    """What a window measures."""

    rule: str
    net: str
    batch: int
    sweep: int


# ---------------------------------------------------------------------------------------------------------------------
# In the process of a window


def build(cell: Cell, optimizer: str) -> Any:
    """The rule, on its network."""
    import optax

    from fwdonly import RULES, nets

    _, widths = NETS[cell.net]
    tx = {"sgd": optax.sgd, "adam": optax.adam}[optimizer](LEARNING_RATE)
    net = nets.mlp(widths)
    if cell.rule == "foton":  # without biases, and orthogonal from the start
        net = nets.mlp(widths, kernel_init=nets.orthogonal, bias="none")
    return RULES[cell.rule].rule(net, tx, num_classes=CLASSES)


def window(cell: Cell, options: Options, chunk: int) -> dict[str, Any]:
    """Measure one window of chunks of ``chunk`` steps, 0 to choose how many; plain JSON types."""
    import jax
    from _shared import Swept

    from fwdonly import measure, results
    from fwdonly.measure import Meter

    shape, _ = NETS[cell.net]
    rule = build(cell, options.optimizer)
    step = measure.compile_step(rule, shape, cell.batch)
    swept = Swept(rule, shape, cell.batch, cell.sweep, max(1, IMAGES // cell.batch))
    if not chunk:  # half a second between two looks of the host
        few, _ = swept.compiled(8)
        jax.block_until_ready(few())
        began = time.perf_counter()
        jax.block_until_ready(few())
        chunk = max(2, math.ceil(min(0.5, options.seconds / 4) / (time.perf_counter() - began) * 8))
    work, seconds = swept.compiled(chunk)
    jax.block_until_ready(work())
    meter = Meter(idle_seconds=options.idle_seconds)
    reading = meter.repeat(work, seconds=options.seconds, warm_up=options.warm_up, name="steps")
    loss = np.asarray(work())
    images = cell.batch * cell.sweep * chunk * reading.repeats
    per_image = {"energy": reading.energy.times(1 / images, "J"), "net": reading.net.times(1 / images, "J")}
    return {
        "reading": reading.as_json(),
        "chunk": chunk,
        "steps": chunk * reading.repeats,
        "images": images,
        "seconds_per_step": reading.seconds.times(1 / (chunk * reading.repeats), "s").as_json(),
        "per_image": {name: quantity.as_json() for name, quantity in per_image.items()},
        "memory": measure.memory(step.compiled).as_json(),
        "device_peak": measure.device_peak().as_json(),
        "compile_seconds": {"step": step.seconds.as_json()["value"], "chunk": seconds},
        "finite": bool(np.isfinite(loss).all()),
        "environment": results.environment(),
    }


class Slow:
    """Stands in for a board where there is none: every reading takes 0.3 ms outside of Python, as NVML's do."""

    kind, name, source, power_source = "gpu", "stand-in", "stand-in", "stand-in"
    shortest, longest_gap = 2.0, math.inf

    def joules(self) -> float:
        time.sleep(3e-4)
        return math.floor(time.perf_counter() / 0.1) * 10.0

    def watts(self) -> float | None:
        time.sleep(3e-4)
        return 100.0

    utilisation = watts

    def state(self) -> dict[str, Any]:
        return {}

    about = state


def overhead(options: Options) -> dict[str, Any]:
    """Seconds of equal loops of 1 ms steps with the meter and without it, in turns."""
    import jax

    from fwdonly import Batch, measure, results
    from fwdonly.measure import Meter

    meter = Meter(idle_seconds=0)
    stand_in = not meter.sensors
    if stand_in:
        meter.sensors = [Slow()]
        meter._samples, meter._failures = {"stand-in": []}, {"stand-in": []}
    rule, key = build(Cell("mf", "784-64", 1, 1), options.optimizer), jax.random.key(0)

    def looped(batch: int) -> Any:
        """The host's loop over compiled steps; returns seconds per step."""
        step = measure.compile_step(rule, (28, 28, 1), batch).compiled
        given = Batch(jax.random.uniform(key, (batch, 28, 28, 1)), jax.numpy.arange(batch) % CLASSES)
        state = rule.init(key, given.x)

        def loop(count: int, look: Any = lambda: None) -> float:
            nonlocal state
            before = None
            began = time.perf_counter()
            for _ in range(count):  # as `fit` does: waits for the step before this one, then looks
                state, metrics = step(state, given, key)
                jax.block_until_ready(before)
                before = metrics
                look()
            jax.block_until_ready(before)
            return (time.perf_counter() - began) / count

        return loop

    batch, took = 64, 0.0
    while took < 0.9e-3 and batch < 1 << 16:  # a batch whose step takes about 1 ms
        batch = math.ceil(batch * min(4.0, 1.05e-3 / took)) if took else batch
        loop = looped(batch)
        loop(20)
        took = loop(200)
    count, found, plain = max(2, math.ceil(options.seconds / took)), [], []
    for block in range(options.windows):
        seconds = {}
        for metered in (False, True) if block % 2 == 0 else (True, False):
            if metered:
                with meter.window():
                    seconds[metered] = loop(count, meter.sample)
            else:
                seconds[metered] = loop(count)
            print(f"block {block + 1}/{options.windows}, meter {metered}: {1e3 * seconds[metered]:.4f} ms", flush=True)
        found.append(seconds[True] / seconds[False])
        plain.append(seconds[False])
    with meter.window():  # what the meter takes of a processor, samples asked for as often as it gives them
        began, busy = time.perf_counter(), time.process_time()
        for _ in range(math.ceil(5 * options.seconds / 0.05)):
            time.sleep(0.05)
            meter.sample()
        share = (time.process_time() - busy) / (time.perf_counter() - began)
    print(f"the meter itself takes {100 * share:.2f} % of one core")
    print(f"with the meter over without: {difference(np.array(found))} (%), step {1e3 * np.median(plain):.3f} ms")
    sensor = "a stand-in whose readings take 0.3 ms" if stand_in else ", ".join(own.name for own in meter.sensors)
    print(f"sensor: {sensor}")
    return {
        "ratios": found,
        "share_of_a_core": share,
        "step_ms": 1e3 * float(np.median(plain)),
        "batch": batch,
        "sensor": sensor,
    } | {"environment": results.environment()}


# ---------------------------------------------------------------------------------------------------------------------
# In the process that directs them


def order(options: Options) -> list[tuple[int, Cell]]:
    """(block, cell) of every window: rules next to one another, their order turned round from block to block."""
    out = []
    for block in range(options.windows):
        rules = options.rules if block % 2 == 0 else options.rules[::-1]
        for net, batch, sweep in itertools.product(options.nets, options.batches, options.sweeps):
            out += [(block, Cell(rule, net, batch, sweep)) for rule in rules]
    return out


def settings(options: Options) -> dict[str, Any]:
    """What decides the numbers, as plain JSON."""
    own = {k: v for k, v in dataclasses.asdict(options).items() if k not in ("output", "resume", "windows", "smoke")}
    return json.loads(json.dumps(own))


def measure(options: Options) -> dict[str, Any]:
    """Every window that is not there yet; the file is written after each of them."""
    from fwdonly import UsageError, results

    content: dict[str, Any] = {"configuration": settings(options), "windows": []}
    if options.output.exists():
        if not options.resume:
            raise UsageError(f"{options.output} exists; add --resume to complete it, or give another --output")
        try:
            content = json.loads(options.output.read_text())
            known = content["configuration"]
            done = {(own["block"], Cell(*own["cell"])) for own in content["windows"] if "error" not in own}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{options.output} is damaged ({error}); give another --output") from error
        if known != settings(options):
            raise UsageError(f"{options.output} was measured with other options; give another --output")
        content["windows"] = [own for own in content["windows"] if "error" not in own]
    else:
        done = set()
        results.write_json(options.output, content)  # fails now rather than after half an hour
    missing = [own for own in order(options) if own not in done]
    began = time.monotonic()
    for number, (block, cell) in enumerate(missing):
        left = (time.monotonic() - began) / number * (len(missing) - number) / 60 if number else None
        words = f"about {left:.0f} min left" if left is not None else f"about {_guess(options, len(missing)):.0f} min"
        print(f"window {number + 1}/{len(missing)}: {' '.join(map(str, cell))}, {words}", file=sys.stderr, flush=True)
        if number:
            time.sleep(options.cool_down)
        alike = [own for at, own in cells_of(content).items() if at[1:] == cell[1:]]
        chunk = alike[0][0]["chunk"] if alike else 0  # as many steps for every rule
        found = _in_a_process(cell, options, chunk)
        here = found.pop("environment", None)
        content |= {"environment": content.get("environment") or here}
        if here is not None and _machine(here) != _machine(content["environment"]):
            raise UsageError(f"{options.output} was measured on another machine or with other versions; give another")
        content["windows"].append({"block": block, "cell": list(cell), **found})
        content["finished"] = number == len(missing) - 1 and not any("error" in own for own in content["windows"])
        results.write_json(options.output, content)
    return content


def _guess(options: Options, windows: int) -> float:
    """Minutes, before there is any experience: 20 s for starting and compiling."""
    return windows * (options.seconds + options.warm_up + 2 * options.idle_seconds + options.cool_down + 20) / 60


def _machine(environment: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in environment.items() if name != "git_commit"}


def _in_a_process(cell: Cell, options: Options, chunk: int) -> dict[str, Any]:
    environ = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | os.environ
    given = json.dumps({"cell": cell, "chunk": chunk, "options": dataclasses.asdict(options) | {"output": ""}})
    out = subprocess.run(
        [sys.executable, __file__, "--in-a-process", given], capture_output=True, text=True, env=environ
    )
    if out.returncode:
        error = (out.stderr.strip().splitlines() or [f"exit code {out.returncode}"])[-1]
        print(f"warning: this window failed ({error}); the others go on", file=sys.stderr)
        return {"error": error}
    return json.loads(out.stdout.splitlines()[-1])


def ratios(content: dict[str, Any], cell: Cell, value: Any) -> np.ndarray:
    """``value`` of the cell's windows over that of BP's in the same blocks."""
    both = []
    for rule in (cell.rule, "bp"):
        own = [w for w in content["windows"] if "error" not in w and Cell(*w["cell"]) == cell._replace(rule=rule)]
        both.append({w["block"]: value(w) for w in own if value(w) is not None})
    blocks = sorted(both[0].keys() & both[1].keys())
    return np.array([both[0][block] / both[1][block] for block in blocks])


def difference(found: np.ndarray) -> str:
    """Mean ratio as a change in percent with its 95 % t interval, over paired log ratios."""
    if len(found) < 2:
        return "-"
    from scipy import stats

    interval = stats.ttest_1samp(np.log(found), 0.0).confidence_interval(0.95)
    percent = [100 * (math.exp(each) - 1) for each in (np.log(found).mean(), interval.low, interval.high)]
    return f"{percent[0]:+.1f} [{percent[1]:+.1f}, {percent[2]:+.1f}], n = {len(found)}"


def joules(window: dict[str, Any]) -> float | None:
    """Per image, gross; of the counter alone, for a pair of two sources is none."""
    energy = window["per_image"]["energy"]
    return None if energy["reason"] else energy["value"]


def seconds(window: dict[str, Any]) -> float:
    """Per step."""
    return window["seconds_per_step"]["value"]


def cells_of(content: dict[str, Any]) -> dict[Cell, list[dict[str, Any]]]:
    """The windows that gave a result, by cell."""
    out: dict[Cell, list[dict[str, Any]]] = {}
    for own in content["windows"]:
        if "error" not in own:
            out.setdefault(Cell(*own["cell"]), []).append(own)
    return out


def table(content: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """A row per cell; means over its windows ± their standard deviation."""
    from fwdonly import RULES, measure, nets, report

    header = ["net", "batch", "runs", "rule", "ms/step", "mJ/image", "net mJ/image", "W", "idle W", "time to BP, %"]
    header += ["energy to BP, %", "MMAC/image", "to BP", "XLA MB", "peak MB"]
    rows = []
    for cell, windows in sorted(cells_of(content).items(), key=lambda own: (*own[0][1:], own[0].rule != "bp", own[0])):
        shape, widths = NETS[cell.net]

        def macs(rule: str, cell: Cell = cell, shape: Any = shape, widths: Any = widths) -> float:
            own = measure.macs(RULES[rule], nets.mlp(widths), shape, num_classes=CLASSES, batch=cell.batch)
            return own / cell.batch / 1e6

        def every(value: Any, form: str = ".3f", windows: Any = windows) -> str:
            return report.mean_sd([v for own in windows if (v := value(own)) is not None], form)

        def scaled(name: str) -> Any:
            return lambda found: (v := found["per_image"][name]["value"]) and 1e3 * v

        def idle(own: dict[str, Any]) -> float | None:
            parts = own["reading"]["parts"]
            kind = "gpu" if any(part["kind"] == "gpu" for part in parts) else "cpu"
            values = [part["idle"]["value"] for part in parts if part["kind"] == kind]
            return None if None in values or not values else sum(values)

        peaks = [own["device_peak"]["value"] for own in windows]
        rows.append(
            [
                *(cell.net, str(cell.batch), str(cell.sweep), cell.rule.upper()),
                every(lambda own: 1e3 * seconds(own)),
                every(scaled("energy"), ".4f"),
                every(scaled("net"), ".4f"),
                every(lambda own: own["reading"]["mean_power"]["value"], ".1f"),
                every(idle, ".1f"),
                "" if cell.rule == "bp" else difference(ratios(content, cell, seconds)),
                "" if cell.rule == "bp" else difference(ratios(content, cell, joules)),
                f"{macs(cell.rule):.3f}",
                "" if cell.rule == "bp" else f"{macs(cell.rule) / macs('bp'):.3f}",
                f"{windows[0]['memory']['value'] / 1e6:.1f}",
                "-" if None in peaks else f"{max(peaks) / 1e6:.1f}",
            ]
        )
    return header, rows


def remarks(content: dict[str, Any]) -> list[str]:
    """What must be said beside the table."""
    windows = [own for own in content["windows"] if "error" not in own]
    lines = ["mean ± standard deviation over windows; differences are paired with BP by block, with 95 % t intervals."]
    if any(Cell(*own["cell"]).sweep > 1 for own in windows):
        lines.append(
            "ms/step is of all runs of a sweep together; mJ/image is that energy shared out among them, which is"
        )
        lines[-1] += " not what one run would take alone; XLA MB is of one run alone."
    energies = [own["reading"]["energy"] for own in windows]
    lines += [f"energy unavailable: {why}." for why in sorted({e["reason"] for e in energies if e["value"] is None})]
    if energies and all(e["value"] is None for e in energies):
        lines.append("Without a sensor there is no energy percentage; compare time and arithmetic.")
    fewest = min((len(own) for own in cells_of(content).values()), default=0)
    if fewest < CLAIM:
        lines.append(f"{fewest} windows a cell: a claim needs {CLAIM}.")
    short = sum(own["reading"]["seconds"]["value"] < 30 for own in windows)
    if short:
        lines.append(f"{short} windows are shorter than 30 s: not for a claim.")
    if any(not own["finite"] for own in windows):
        lines.append("A loss was not finite in some window; its time and energy are those of NaN.")
    notes: dict[str, list[str]] = {}  # by what they say, numbers aside
    for reading in (own["reading"] for own in windows):
        said = [*reading["notes"], *(note for part in reading["parts"] for note in part["notes"])]
        said += [reading["energy"]["reason"]] if reading["energy"]["value"] is not None else []
        for note in filter(None, said):
            notes.setdefault(re.sub(r"[\d.]+", "#", note), []).append(note)
    return lines + [f"{len(own)} windows, such as: {own[0]}." for own in notes.values()]


def figure(path: Path, content: dict[str, Any]) -> None:
    """Every rule over BP, cell by cell: points are pairs, a bar their mean, a diamond the ratio of the arithmetic."""
    import matplotlib

    matplotlib.use("Agg", force=False)
    import matplotlib.pyplot as plt

    from fwdonly import RULES, measure, nets

    cells = [cell for cell in cells_of(content) if cell.rule != "bp" and len(ratios(content, cell, seconds))]
    if not cells:
        return
    values = [("time per step", seconds), ("energy per image, gross", joules)]
    plot, axis = plt.subplots(figsize=(10, 1.4 + 0.9 * len(cells)), layout="constrained")
    for row, cell in enumerate(cells):
        for number, (label, value) in enumerate(values):
            found = ratios(content, cell, value)
            if not len(found):
                continue
            y = row + 0.18 * (2 * number - 1)
            style: dict[str, Any] = {"color": f"C{number}"}
            axis.plot(found, [y] * len(found), ".", alpha=0.5, **style)
            mean = math.exp(np.log(found).mean())
            axis.plot([mean], [y], "|", markersize=16, markeredgewidth=2, label=None if row else label, **style)
        shape, widths = NETS[cell.net]
        counts = [
            measure.macs(RULES[rule], nets.mlp(widths), shape, num_classes=CLASSES, batch=cell.batch)
            for rule in (cell.rule, "bp")
        ]
        axis.plot([counts[0] / counts[1]], [row], "kD", markersize=6, label=None if row else "multiply-accumulates")
    axis.axvline(1.0, color="0.5", linewidth=1)
    names = [
        f"{c.rule.upper()}, {c.net}, batch {c.batch}" + (f", {c.sweep} runs" if c.sweep > 1 else "") for c in cells
    ]
    axis.set(yticks=range(len(cells)), yticklabels=names, xlabel="over backpropagation, at matched passes")
    axis.set_ylim(len(cells) - 0.5, -0.5)
    axis.grid(axis="x", alpha=0.3)
    axis.legend(fontsize="small")
    plot.savefig(path, dpi=130)
    plt.close(plot)


def main() -> int:
    """Measure, print and write; with ``--in-a-process`` one window, for itself."""
    if sys.argv[1:2] == ["--in-a-process"]:
        given = json.loads(sys.argv[2])
        print(json.dumps(window(Cell(*given["cell"]), Options(**given["options"]), given["chunk"]), allow_nan=False))
        return 0
    options = tyro.cli(Options)
    if options.smoke:
        options = dataclasses.replace(
            options, nets=("784-64",), batches=(32,), windows=2, seconds=0.2, warm_up=0.1, idle_seconds=0, cool_down=0
        )
    from fwdonly import UsageError, report, results

    try:
        for name in ("windows", "batches", "sweeps"):
            if np.min(getattr(options, name), initial=1) < 1 or not np.size(getattr(options, name)):
                raise UsageError(f"--{name} must be 1 or more; got {getattr(options, name)}")
        for name in ("seconds", "warm_up", "idle_seconds", "cool_down"):
            low = 0.1 if name == "seconds" else 0.0
            if not low <= cast(float, getattr(options, name)) < math.inf:
                raise UsageError(f"--{name.replace('_', '-')} must be {low:g} or more; got {getattr(options, name)}")
        if options.overhead:
            if options.output.exists():
                raise UsageError(f"{options.output} exists; give another --output")
            results.write_json(options.output, {"configuration": settings(options), "overhead": overhead(options)})
            return 0
        content = measure(options)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"interrupted; the windows so far are in {options.output}, --resume adds the others", file=sys.stderr)
        return 130
    print(report.markdown_table(*table(content)))
    print("\n".join(remarks(content)))
    figure(options.output.with_suffix(".png"), content)
    failed = sum("error" in own for own in content["windows"])
    if failed:
        print(f"{failed} windows failed; --resume tries them again", file=sys.stderr)
    return 3 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
