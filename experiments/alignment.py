"""How near the steps of feedback rules are to backpropagation's gradient, over training and over depth."""

import sys

from fwdonly.cli import script

sys.exit(
    script(
        "train",
        "foton",
        "--against",
        "pepita",
        "fa",
        "dfa",
        "--alignment",
        "--net",
        "mlp:128x5;bias=none;start=orthogonal",
        "--seeds",
        "3",
        "--epochs",
        "10",
        "--learning-rate",
        "0.05",
        "--lr-schedule",
        "constant",
        "--batch-size",
        "128",
        "--fa.no-readout-bias",
        "--dfa.no-readout-bias",
        "--pepita.dropout",
        "0",
        "--pepita.sign",
        "-1.0",
        "--pepita.output-error",
        "first",
    )
)
