"""What a step of PEPITA, FOTON and feedback alignment costs beside one of backpropagation, and where it goes.

Each cell is one network and batch size; `update` in a compiled scan with donated state, SGD, random inputs that lie
ready on the device as float32, as in `throughput.py`. The contenders of a cell take turns, round after round; reported
is the median round, with the spread. FOTON's retraction and the refresh of its feedback take place in every step. Its
parts are programs of their own and need not add up to the whole step. It is left out where the network widens.
"""

import dataclasses
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
import tyro
from _shared import CLASSES, jax_steps, multiply_accumulates, take_turns

from fwdonly import LearningRule, UsageError, bp, feedback, foton, nets, pepita, report, results
from fwdonly.base import descend

SHAPE, TX = (28, 28, 1), optax.sgd(1e-3)
NETS = {"784-256x2-10": (256,) * 2, "784-128x10-10": (128,) * 10, "784-1024-10": (1024,)}


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure steps of the error-driven rules; prints a table and writes JSON."""

    nets: tuple[Literal["784-256x2-10", "784-128x10-10", "784-1024-10"], ...] = tuple(NETS)  # ty: ignore[invalid-assignment]
    """Networks, ReLU, without biases."""
    batches: tuple[int, ...] = (256,)
    """Batch sizes."""
    rounds: int = 7
    """Timed rounds per cell; the contenders take turns in each."""
    seconds: float = 1.0
    """Length of one timed window, at least."""
    output: Path | None = None
    """JSON file to write."""
    smoke: bool = False
    """A run of seconds that shows that everything works and measures nothing."""


def rules(net: Any) -> dict[str, LearningRule]:
    """The contenders without FOTON."""
    common: dict[str, Any] = {"net": net, "tx": TX, "num_classes": CLASSES}
    return {
        "bp": bp.rule(readout_init=nets.orthogonal, readout_bias=False, **common),
        "pepita": pepita.rule(dropout=0.0, **common),
        "pepita, dropout 0.1": pepita.rule(**common),
        "fa": feedback.rule(readout_bias=False, **common),
        "dfa": feedback.rule(mode="dfa", readout_bias=False, **common),
    }


def parts_of_foton(net: Any) -> dict[str, LearningRule]:
    """FOTON, and the parts of its step (after "of which")."""
    common: dict[str, Any] = {"net": net, "tx": TX, "num_classes": CLASSES}
    whole = foton.rule(**common)
    kept = foton.retraction()

    def part(update: Callable[..., Any]) -> LearningRule:
        return whole._replace(update=lambda state, batch, key: (update(state, batch, key), {"loss": jnp.float32(0)}))

    def passes(state: Any, batch: Any, key: Any) -> Any:
        gradients, _ = foton.grads(state.params, batch, key, net=net, F=state.F)
        stepped, _ = descend(TX, gradients, TX.init(state.params), state.params)
        return state._replace(params=stepped)

    def retraction(state: Any, batch: Any, key: Any) -> Any:
        still = jax.tree.map(jnp.zeros_like, state.params)
        params, own = descend(kept, still, state.opt_state[-1], state.params)
        return state._replace(params=params, opt_state=(*state.opt_state[:-1], own))

    def refresh(state: Any, batch: Any, key: Any) -> Any:
        F = foton.feedback(state.params, SHAPE, net)
        changed = state.params._replace(W=state.params.W + 1e-30 * F.ravel()[0])  # or it would be taken out of the loop
        return state._replace(F=F, params=changed)

    def error(state: Any, batch: Any, key: Any) -> Any:
        worst = foton._probed(state.params).max()
        return state._replace(params=jax.tree.map(lambda W: W * (1 + 1e-30 * worst), state.params))

    return {
        "foton": whole,
        "of which two passes, products, SGD": part(passes),
        "of which retraction": part(retraction),
        "of which feedback": part(refresh),
        "of which orthogonality error": part(error),
    }


def measure(options: Options) -> list[dict[str, Any]]:
    """Every cell, one after another."""
    rows = []
    for name in options.nets:
        net = nets.mlp(NETS[name], kernel_init=nets.orthogonal, bias="none")
        widths = (784, *NETS[name])
        for batch in options.batches:
            steps = 2 if options.smoke else max(8, int(2e10 / (2 * batch * multiply_accumulates("bp", widths))))
            contenders = rules(net) | (parts_of_foton(net) if max(widths) == widths[0] else {})
            calls = {(what, ""): jax_steps(rule, SHAPE, batch, steps) for what, rule in contenders.items()}
            times: Any = take_turns(calls, options.rounds, options.seconds)
            for (what, _), rounds in times.items():
                ms = [1e3 * seconds / steps for seconds in rounds]
                over_bp = [own / other for own, other in zip(rounds, times["bp", ""], strict=True)]
                row = {"net": name, "batch": batch, "what": what, "ms": statistics.median(ms)}
                row |= {"ms_min": min(ms), "ms_max": max(ms), "over_bp": statistics.median(over_bp)}
                whole = 1e3 * statistics.median(times.get(("foton", ""), [float("inf")])) / steps
                rows.append(row | {"share_of_foton": row["ms"] / whole if "of which" in what else None})
                print(f"  {name} batch {batch} {what}: {row['ms']:.2f} ms, {row['over_bp']:.2f} of BP", flush=True)
    return rows


def main() -> int:
    """Measure, print and write."""
    options = tyro.cli(Options)
    if options.rounds < 1 or min(options.batches, default=0) < 1 or not options.seconds > 0:
        print("error: rounds, batches and seconds must be positive", file=sys.stderr)
        return 2
    if options.smoke:
        options = dataclasses.replace(options, nets=("784-256x2-10",), rounds=1, seconds=0.01)
    rows = measure(options)
    header = ["net", "batch", "step of", "ms", "min-max", "over BP", "of FOTON's step"]
    lines = [
        [
            *(r["net"], str(r["batch"]), r["what"], f"{r['ms']:.2f}", f"{r['ms_min']:.2f}-{r['ms_max']:.2f}"),
            *(f"{r['over_bp']:.2f}", f"{100 * r['share_of_foton']:.0f} %" if r["share_of_foton"] else ""),
        ]
        for r in rows
    ]
    print(report.markdown_table(header, lines))
    if options.output:
        settings = {name: value for name, value in dataclasses.asdict(options).items() if name != "output"}
        content = {"options": settings, "environment": results.environment(), "steps": rows}
        try:
            results.write_json(options.output, content)
        except UsageError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
