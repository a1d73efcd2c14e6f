"""Temporary memory of one training step, by the compiler's account: MF, and BP in the forms that save memory.

Nothing runs and nothing is timed. Adam, donated state, hidden layers of one width on 784 inputs. The gradient's bytes
are a closed form: of BP all layers' at once, of MF one layer's and its readout's. Temporaries less the gradient are a
subtraction and no account of the compiler. Prints the table of `docs/method/measuring.md` and writes JSON.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import optax
import tyro
from _shared import CLASSES, LEARNING_RATE

from fwdonly import RULES, measure, nets, report, results

INPUTS = 784
FORMS: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("bp", {}, "-"),
    ("bp-remat", {"remat": "block"}, "one more forward pass"),
    ("bp-remat", {"remat": "sqrt"}, "one more forward pass"),
    ("bp-chunks", {"chunks": 4}, "no more arithmetic, smaller products"),
    ("bp-chunks", {"chunks": 16}, "no more arithmetic, smaller products"),
    ("bp-chunks", {"chunks": 16, "remat": "sqrt"}, "one more forward pass, smaller products"),
    ("mf", {}, "-"),
)
"""Rules as commands name them, their options, and what the same gradient costs more."""
COLUMNS = ["rule", "temporaries, MB", "gradient, MB", "temporaries less gradient", "price of the form"]


@dataclasses.dataclass(frozen=True)
class Options:
    """Compile one step of every form; prints a table and writes JSON."""

    depths: tuple[int, ...] = (5, 20)
    """Numbers of hidden layers; the table is of the last."""
    width: int = 1000
    """Units of every hidden layer."""
    batch: int = 4096
    """Samples of a step."""
    output: Path | None = None
    """JSON file to write."""


def rows_of(depth: int, width: int, batch: int) -> list[dict[str, Any]]:
    """A row for every form; MB are 10^6 bytes, None where the compiler gives no account."""
    rows = []
    for name, form, costs in FORMS:
        rule = RULES[name.partition("-")[0]].rule(
            nets.mlp([width] * depth), optax.adam(LEARNING_RATE), num_classes=CLASSES, **form
        )
        analysis: Any = measure.compile_step(rule, (INPUTS,), batch).compiled.memory_analysis()
        row = {"layers": depth, "rule": name, "remat": "none", "chunks": 1} | form
        row["temporary_mb"] = None if analysis is None else analysis.temp_size_in_bytes / 1e6
        rows.append(row | {"gradient_mb": gradient_bytes(name, depth, width) / 1e6, "costs": costs})
    return rows


def gradient_bytes(name: str, depth: int, width: int) -> int:
    """Bytes of the float32 gradient that is there at once: of BP all of it, of MF its largest layer's."""
    first, other, readout = (count * width for count in (INPUTS + 1, width + 1, CLASSES))
    if name == "mf":  # its readouts have no bias
        return 4 * (max(first, other if depth > 1 else 0) + readout)
    return 4 * (first + (depth - 1) * other + readout + CLASSES)


def label(row: dict[str, Any]) -> str:
    """A form as a command has it."""
    words = [row["rule"]]
    words += [f"--remat {row['remat']}"] if row["remat"] != "none" else []
    words += [f"--chunks {row['chunks']}"] if row["chunks"] > 1 else []
    return f"`{' '.join(words)}`"


def table(content: dict[str, Any], depth: int | None = None) -> str:
    """The table of the deepest network, or of this depth."""
    depth = max(row["layers"] for row in content["memory"]) if depth is None else depth
    lines = []
    for row in content["memory"]:
        if row["layers"] == depth and row["temporary_mb"] is not None:
            sizes = (row["temporary_mb"], row["gradient_mb"], row["temporary_mb"] - row["gradient_mb"])
            lines.append([label(row), *(f"{size:.0f}" for size in sizes), row["costs"]])
    return report.markdown_table(COLUMNS, lines)


def main(options: Options) -> int:
    """Compile, print, write."""
    rows = [row for depth in options.depths for row in rows_of(depth, options.width, options.batch)]
    settings = {name: value for name, value in dataclasses.asdict(options).items() if name != "output"}
    content = {
        "options": settings | {"inputs": INPUTS, "optimizer": "adam"},
        "environment": results.environment(),
        "outputs_of_a_layer_mb": 4 * options.width * options.batch / 1e6,
        "memory": rows,
    }
    print(table(content))
    if options.output:
        results.write_json(options.output, content)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
