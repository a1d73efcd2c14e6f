"""Your own network: MF and BP train Flax NNX modules, and the saved model predicts alike in a process of its own."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import optax
from flax import nnx
from PIL import Image

import fwdonly


def network(num_classes):
    def layer(size, channels, rngs):
        parts = nnx.Conv(size, channels, (3, 3), strides=2, rngs=rngs), nnx.BatchNorm(channels, rngs=rngs), nnx.relu
        return nnx.Sequential(*parts, nnx.Dropout(0.1, rngs=rngs))

    return tuple(fwdonly.nets.from_nnx(lambda rngs, io=io: layer(*io, rngs)) for io in ((1, 8), (8, 16)))


if __name__ == "__main__":
    folder, random, grid = Path(sys.argv[1]), np.random.default_rng(0), np.indices((16, 16)) - 7.5
    for name, wave in {"stripes": grid[0], "rings": np.hypot(*grid)}.items():
        (folder / "images" / name).mkdir(parents=True)
        for number in range(100):
            light = 127 + 60 * np.sin(wave + random.uniform(0, 6)) + random.normal(0, 20, (16, 16))
            Image.fromarray(light.clip(0, 255).astype(np.uint8)).save(folder / "images" / name / f"{number}.png")
    mine, net = fwdonly.data.from_folder(folder / "images", test=0.2), f"{__file__}:network"
    np.savez(folder / "test.npz", x=mine.x_test)
    for name, module in {"mf": fwdonly.mf, "bp": fwdonly.bp}.items():
        rule, file = module.rule(network(2), optax.adam(1e-2), num_classes=2), folder / f"{name}.safetensors"
        result = fwdonly.fit(rule, mine, fwdonly.Plan(epochs=5, batch_size=16))
        fwdonly.save(file, result, rule, mine, net=net)
        words = ["predict", file, folder / "test.npz", "--net", net, "--output", file.with_suffix(".csv")]
        subprocess.run([sys.executable, "-m", "fwdonly", *map(str, words)], check=True)
        there = [np.float32(row.split(",")[3]) for row in file.with_suffix(".csv").read_text().splitlines()[1:]]
        same = there == [*fwdonly.load(file, net=network(2)).predict(mine.x_test).scores.max(1)]
        print(f"{name}: accuracy {result.test_accuracy:.2f}; the other process agrees bit for bit: {same}")
