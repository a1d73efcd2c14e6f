"""Your own images: MF and BP learn stripes from rings, and the saved model predicts alike in a process of its own."""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import optax
from PIL import Image

import fwdonly

folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
random, grid = np.random.default_rng(0), np.indices((16, 16)) - 7.5
waves = {"stripes": grid[0], "rings": np.hypot(*grid)}
for name, wave in waves.items():
    (folder / "images" / name).mkdir(parents=True, exist_ok=True)
    for number in range(150):
        light = 127 + 60 * np.sin(wave + random.uniform(0, 6)) + random.normal(0, 20, (16, 16))
        Image.fromarray(light.clip(0, 255).astype(np.uint8)).save(folder / "images" / name / f"{number}.png")

mine = fwdonly.data.from_folder(folder / "images", test=0.2)
net, tx = fwdonly.nets.mlp([64, 64]), optax.adam(3e-3)
for name, module in {"mf": fwdonly.mf, "bp": fwdonly.bp}.items():
    rule = module.rule(net, tx, num_classes=mine.num_classes)
    result = fwdonly.fit(rule, mine, fwdonly.Plan(epochs=8, batch_size=16))
    fwdonly.save(folder / f"{name}.safetensors", result, rule, mine)
    model = fwdonly.load(folder / f"{name}.safetensors")
    print(model)
    np.savez(folder / "test.npz", x=mine.x_test)
    words = ["predict", folder / f"{name}.safetensors", folder / "test.npz", "--output", folder / f"{name}.csv"]
    subprocess.run([sys.executable, "-m", "fwdonly", *map(str, words)], check=True)
    rows = [line.split(",") for line in (folder / f"{name}.csv").read_text().splitlines()[1:]]
    here = model.predict(mine.x_test)
    alike = tuple(row[2] for row in rows) == here.names and [np.float32(r[3]) for r in rows] == list(here.scores.max(1))
    print(f"{name}: the other process predicts {'the same, bit for bit' if alike else 'otherwise'}")
    print(f"{name}: accuracy {model.evaluate(mine).accuracy:.2f}")
