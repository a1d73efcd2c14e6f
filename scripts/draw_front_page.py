"""Draw the figure of the README from a committed result file: ``python scripts/draw_front_page.py``."""

import json
import os
import statistics
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "experiments" / "results" / "compare-mnist5k-rules.json"
OUTPUT = ROOT / "docs" / "pictures" / "accuracy-against-cost.svg"


def points(content: dict) -> list[tuple[str, list[float], list[float]]]:
    """Label, 10^9 operations and test accuracy in % of every run, by rule."""
    rows = []
    for record in content["rules"]:
        operations = [run["arithmetic"]["value"] / 1e9 for run in record["runs"]]
        rows.append((record["label"], operations, [100 * run["test_accuracy"] for run in record["runs"]]))
    return rows


def main() -> None:
    """Write the figure."""
    os.environ["MPLBACKEND"] = "svg"
    import matplotlib
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "fwdonly"  # the same file from the same numbers
    matplotlib.rcParams["svg.fonttype"] = "none"
    content = json.loads(SOURCE.read_text(encoding="utf-8"))
    figure, axes = pyplot.subplots(figsize=(7.2, 4.0), layout="constrained")
    for label, operations, accuracies in points(content):
        middle = statistics.mean(operations), statistics.mean(accuracies)
        dots = axes.scatter(operations, accuracies, s=14, alpha=0.55)
        axes.scatter(*middle, s=60, color=dots.get_facecolor()[0], alpha=1.0, edgecolors="black", linewidths=0.6)
        axes.annotate(label, middle, xytext=(7, 6), textcoords="offset points", fontsize=9)
    axes.set_xscale("log")
    axes.set_xlabel("arithmetic of the whole training, $10^9$ operations (compiler's account)")
    axes.set_ylabel("test accuracy, %")
    axes.set_title("MLP 500-500, 5,000 embedded MNIST images, 5 seeds, own convergence", fontsize=10)
    axes.grid(alpha=0.3)
    figure.savefig(OUTPUT, metadata={"Date": None})


if __name__ == "__main__":
    main()
