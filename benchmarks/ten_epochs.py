"""Every rule and mode for ten epochs on one network and the 5,000 embedded MNIST images, beside frozen hidden layers.

One arm after another is trained by `fwdonly train`, each in a process and a folder of its own; arms whose folder is
finished are not trained again, and one that was interrupted goes on. Every arm has the network's widths, Adam at 1e-3,
batches of 128, standardised pixels, the state of the epoch with the best validation accuracy, and the defaults of its
rule for the rest: nothing is tuned, so an arm's number is not the best that its rule can reach. The control has an
output layer that learns and hidden layers that keep their start values; a rule that does not beat it has not shown that
its hidden layers learn anything of use. The arms with tanh have a control with tanh.
"""

import dataclasses
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import tyro

from fwdonly import results

CONTROL, TANH_CONTROL = "frozen hidden layers", "frozen hidden layers, tanh"
ARMS: dict[str, tuple[str, ...]] = {
    CONTROL: ("bp-frozen",),
    "frozen hidden layers, readout started as the network": ("bp-frozen", "--readout-start", "network"),
    "BP": ("bp",),
    "BP, batch normalisation": ("bp", "--batch-norm"),
    "BP, deep supervision": ("bp-deep",),
    "BP, all readouts": ("bp-sum",),
    "MF": ("mf",),
    "MF, sum": ("mf", "--prediction", "sum"),
    "MF, greedy": ("mf-greedy",),
    "MF-Joint": ("mf-joint",),
    "FF": ("ff",),
    "FF, softmax readout": ("ff", "--prediction", "softmax"),
    "FF, uniform negatives": ("ff", "--negatives", "uniform"),
    "FF, appended label": ("ff", "--label", "append"),
    "FF, SymBa": ("ff", "--loss", "symba"),
    "CaFo, cross-entropy": ("cafo",),
    "CaFo, sparsemax": ("cafo", "--loss", "sl"),
    "CaFo, closed form": ("cafo", "--loss", "mse"),
    "CaFo, DFA blocks": ("cafo-dfa",),
    "CwC": ("cwc",),
    "DeeperForward": ("deeperforward", "--learning-rate", "0.03"),
    "SCFF": ("scff",),
    "SCFF, greedy": ("scff-greedy",),
    "PEPITA": ("pepita",),
    "PEPITA, Srinivasan et al.": ("pepita", "--sign", "-1", "--output-error", "first"),
    "PEPITA, Hebbian": ("pepita", "--sign", "-1", "--form", "hebbian"),
    "PEPITA, time-local": ("pepita", "--sign", "-1", "--form", "time_local"),
    "PEPITA, mirrored": ("pepita", "--feedback", "mirrored", "--mirror-noise", "1.0"),
    "FOTON": ("foton",),
    "FA": ("fa",),
    "DFA": ("dfa",),
    "uSF": ("usf",),
    "brSF": ("brsf",),
    "frSF": ("frsf",),
    "WM": ("wm",),
    "KP": ("kp",),
    "forward gradient": ("forward-gradient",),
    "forward gradient, one loss": ("forward-gradient-global",),
    "forward gradient, weights": ("forward-gradient-weights",),
    "MeZO": ("mezo",),
    "SPSA": ("spsa",),
    "PhyLL": ("phyll",),
    "PhyLL, skip": ("phyll-skip",),
    "PhyLL, no physics": ("phyll-digital",),
    TANH_CONTROL: ("bp-frozen", "--net", "mlp:{widths};activation=tanh"),
    "BP, tanh": ("bp", "--net", "mlp:{widths};activation=tanh"),
    "DFA, tanh": ("dfa", "--net", "mlp:{widths};activation=tanh"),
    "sDFA, tanh": ("sdfa",),
    "DRTP, tanh": ("drtp",),
    "sDFA, ReLU": ("sdfa", "--net", "mlp:{widths};activation=relu"),
    "DRTP, ReLU": ("drtp", "--net", "mlp:{widths};activation=relu"),
}
"""Names of the table by the words of their commands."""

OPTIONS = {
    "dataset": "mnist5k",
    "normalise": "pixel",
    "batch-size": "128",
    "optimizer": "adam",
    "learning-rate": "1e-3",
    "lr-schedule": "constant",
    "weight-decay": "0",
    "keep": "best_accuracy",
    "monitor": "accuracy",
    "patience": "None",
    "save-models": "none",
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Train every arm for ten epochs; prints a table and writes JSON."""

    folder: Path = Path("ten-epochs")
    """Folder of the arms' result folders. The same command continues what is there."""
    output: Path | None = None
    """JSON file to write."""
    widths: str = "1000,1000"
    """Widths of the hidden layers."""
    seeds: int = 3
    """Seeds of every arm, from 0."""
    epochs: int = 10
    """Epochs, of every stage where a rule has stages."""
    arms: tuple[str, ...] = tuple(ARMS)
    """Names of the arms; the two controls among them are needed for the differences."""


def main(options: Options) -> None:
    """Train what is missing, then print and write the table."""
    rows = []
    for name in options.arms:
        folder = options.folder / name.lower().replace(", ", "-").replace(" ", "-").replace(".", "")
        if not is_finished(folder):
            train(name, folder, options)
        rows.append(row_of(name, folder))
    for row in rows:
        control = TANH_CONTROL if "tanh" in row["arm"] else CONTROL
        frozen = next((other for other in rows if other["arm"] == control), None)
        row["above_frozen"] = (
            None
            if frozen is None
            else [
                None if a is None or b is None else round(a - b, 2)
                for a, b in zip(row["test_accuracy"], frozen["test_accuracy"], strict=True)
            ]
        )
    print(table(rows))
    if options.output is not None:
        settings = {"widths": options.widths, "epochs": options.epochs, **OPTIONS}
        record = {"settings": settings, "environment": results.environment(), "arms": rows}
        results.write_json(options.output, record)


def is_finished(folder: Path) -> bool:
    """Whether all seeds of the arm are there."""
    summary = folder / "summary.json"
    return summary.is_file() and json.loads(summary.read_text())["finished"]


def train(name: str, folder: Path, options: Options) -> None:
    """Train an arm. A seed that diverges (exit code 3) is an outcome; any other failure ends the program."""
    rule, *words = (word.replace("{widths}", options.widths) for word in ARMS[name])
    common = [word for option, value in OPTIONS.items() for word in (f"--{option}", value)]
    net = [] if "--net" in words else ["--net", f"mlp:{options.widths}"]
    lengths = ["--epochs", str(options.epochs), "--seeds", str(options.seeds)]
    # The recipe of the command has the reference's label and its rate of the head, for an optimizer of its own.
    defaults = ["--label-strength", "None", "--head-learning-rate", "1e-3"] if rule == "ff" else []
    command = [sys.executable, "-m", "fwdonly", "train", rule, *common, *net, *lengths, *defaults, *words]
    command += ["--quiet", "--output-dir", str(folder), *(["--resume"] if folder.exists() else [])]
    print(f"{name}: {' '.join(command[3:])}", flush=True)
    code = subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode
    if code not in (0, 3):
        sys.exit(f"{name} ended with code {code}; mend what its message says, and run this command again")


def row_of(name: str, folder: Path) -> dict[str, Any]:
    """An arm's accuracies in percent, of every seed; None where it diverged."""
    (summary,) = json.loads((folder / "summary.json").read_text())["rules"]
    runs = summary["runs"]
    readouts = {
        readout: [percent(run["readouts"][readout]["test_accuracy"]) for run in runs]
        for readout in (runs[0]["readouts"] or {})
    }
    return {
        "arm": name,
        "command": " ".join(ARMS[name]),
        "seeds": [run["seed"] for run in runs],
        "test_accuracy": [percent(run["test_accuracy"]) for run in runs],
        "other_readouts": readouts,
        "epochs": [run["epochs"] for run in runs],
        "diverged": [run["diverged"] for run in runs],
    }


def percent(accuracy: float | None) -> float | None:
    """To a hundredth."""
    return None if accuracy is None else round(100 * accuracy, 2)


def table(rows: list[dict[str, Any]]) -> str:
    """The table in Markdown."""
    lines = ["| arm | test accuracy, % | less the frozen control, points | diverged |", "|---|---|---|---|"]
    for row in rows:
        sizes = [f"{sum(row['diverged'])} of {len(row['seeds'])}"]
        above = [value for value in row["above_frozen"] or () if value is not None]
        span = f"{min(above):+.1f} to {max(above):+.1f}" if above else "-"
        lines.append("| " + " | ".join([row["arm"], mean_sd(row["test_accuracy"]), span, *sizes]) + " |")
    return "\n".join(lines)


def mean_sd(values: list[float | None]) -> str:
    """Mean and sample standard deviation of what is there."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    sd = f" ± {statistics.stdev(known):.1f}" if len(known) > 1 else ""
    return f"{statistics.fmean(known):.1f}{sd}"


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
