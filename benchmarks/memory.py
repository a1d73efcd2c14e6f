"""Temporary memory of one training step, by the compiler's account: MF, and BP in the forms that save memory.

Nothing runs and nothing is timed. Adam, donated state, hidden layers of one width on 784 inputs; or with ``--net
mixer`` mixer blocks of one width on images of 32x32x3 in patches of 4x4. The gradient's bytes are a closed form: of BP
all layers' at once, of MF one layer's and its readout's. Temporaries less the gradient are a subtraction and no account
of the compiler. Prints a table, such as that of `docs/method/measuring.md`, and writes JSON.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any, Literal

import optax
import tyro
from _shared import CLASSES, LEARNING_RATE

from fwdonly import RULES, measure, nets, report, results

INPUTS = 784
IMAGES, PATCH = (32, 32, 3), 4
PATCHES = (IMAGES[0] // PATCH) ** 2
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
OF_MAPS: tuple[tuple[str, dict[str, Any], str], ...] = (("mf", {"readout_pool": 1}, "other readouts"),)
"""Forms that only networks with maps have."""
Kind = Literal["mlp", "mixer"]
COLUMNS = ["rule", "temporaries, MB", "gradient, MB", "temporaries less gradient", "price of the form"]


@dataclasses.dataclass(frozen=True)
class Options:
    """Compile one step of every form; prints a table and writes JSON."""

    depths: tuple[int, ...] = (5, 20)
    """Numbers of hidden layers; the table is of the last."""
    width: int = 1000
    """Units of every hidden layer; channels of every mixer block."""
    batch: int = 4096
    """Samples of a step."""
    net: Kind = "mlp"
    """Layers of units, or mixer blocks, as ``mixer:WIDTHxDEPTH`` has them."""
    output: Path | None = None
    """JSON file to write."""


def rows_of(depth: int, width: int, batch: int, kind: Kind = "mlp") -> list[dict[str, Any]]:
    """A row for every form; MB are 10^6 bytes, None where the compiler gives no account."""
    rows = []
    shape = (INPUTS,) if kind == "mlp" else IMAGES
    blocks = nets.mlp([width] * depth) if kind == "mlp" else nets.mixer([width] * depth, patch=PATCH)
    for name, form, costs in FORMS if kind == "mlp" else FORMS + OF_MAPS:
        rule = RULES[name.partition("-")[0]].rule(blocks, optax.adam(LEARNING_RATE), num_classes=CLASSES, **form)
        analysis: Any = measure.compile_step(rule, shape, batch).compiled.memory_analysis()
        row = {"layers": depth, "rule": name, "remat": "none", "chunks": 1} | form
        row |= {} if kind == "mlp" else {"readout_pool": form.get("readout_pool", 0)}
        row["temporary_mb"] = None if analysis is None else analysis.temp_size_in_bytes / 1e6
        gradient = gradient_bytes(name, depth, width, kind, form.get("readout_pool", 0))
        rows.append(row | {"gradient_mb": gradient / 1e6, "costs": costs})
    return rows


def gradient_bytes(name: str, depth: int, width: int, kind: Kind = "mlp", pool: int = 0) -> int:
    """Bytes of the float32 gradient that is there at once: of BP all of it, of MF its largest layer's."""
    sizes = [(INPUTS if i == 0 else width) * width + width for i in range(depth)]
    read = [width] * depth
    if kind == "mixer":
        norms, tokens, hidden = 2 * 2 * width, width // 2, 4 * width
        mixing = 2 * PATCHES * tokens + tokens + PATCHES + 2 * width * hidden + hidden + width
        sizes = [norms + mixing] * depth
        sizes[0] += (PATCH**2 * IMAGES[2] + 1) * width
        read = [(1 if pool else PATCHES) * width] * depth
    if name == "mf":  # its readouts have no bias
        return 4 * max(size + CLASSES * n for size, n in zip(sizes, read, strict=True))
    return 4 * (sum(sizes) + CLASSES * read[-1] + CLASSES)


def label(row: dict[str, Any]) -> str:
    """A form as a command has it."""
    words = [row["rule"]]
    words += [f"--remat {row['remat']}"] if row["remat"] != "none" else []
    words += [f"--chunks {row['chunks']}"] if row["chunks"] > 1 else []
    words += [f"--readout-pool {row['readout_pool']}"] if row.get("readout_pool") else []
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
    is_mlp = options.net == "mlp"
    rows = [row for depth in options.depths for row in rows_of(depth, options.width, options.batch, options.net)]
    settings = {name: value for name, value in dataclasses.asdict(options).items() if name != "output"}
    content = {
        "options": settings | {"inputs": INPUTS if is_mlp else IMAGES, "optimizer": "adam"},
        "environment": results.environment(),
        "outputs_of_a_layer_mb": (1 if is_mlp else PATCHES) * 4 * options.width * options.batch / 1e6,
        "memory": rows,
    }
    print(table(content))
    if options.output:
        results.write_json(options.output, content)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
