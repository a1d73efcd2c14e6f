"""The simulations and measurements behind docs/hostile-reader.md; each prints its numbers.

diverging: a rule equal to BP (paired differences of sd 0.3 points, 20 seeds) of which seeds diverge, with what a
comparison says if they are dropped from the pairs, as it once did, and as it says now. mirror: PEPITA's mirrored F
beside the product of resting weights, 784-1024-10, 64 samples a step. seconds: FF and BP, 1000-1000, ten epochs on the
5,000 embedded MNIST images, seconds of steps and of validation apart, in turns.
"""

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fwdonly import Batch, LearningRule, Plan, bp, data, ff, fit, nets, pepita, report
from fwdonly.report import stats

SEEDS, SD, MARGIN = 20, 0.3, 0.25


def diverging(repeats: int) -> None:
    """Shares of the verdicts before and after, by the share of seeds that diverge and by which ones."""
    print(f"share of verdicts for the diverging rule (equal or better), {repeats} simulations, {SEEDS} seeds")
    for share in (0.1, 0.3, 0.5):
        for which in ("any seeds", "its worst seeds"):
            rng, wins = np.random.default_rng(23), np.zeros(2)
            for _ in range(repeats):
                theirs = rng.normal(90, 1, SEEDS)
                ours = theirs + rng.normal(0, SD, SEEDS)
                order = rng.permutation(SEEDS) if which == "any seeds" else np.argsort(ours - theirs)
                bad = {int(seed) for seed in order[: max(1, rng.binomial(SEEDS, share))]}
                wins += [favours(verdict(ours, theirs, bad, is_told=is_told)) for is_told in (False, True)]
            before, after = 100 * wins / repeats
            print(f"{100 * share:.0f} % of the seeds, {which}: before {before:.0f} %, after {after:.0f} %")


def verdict(ours: np.ndarray, theirs: np.ndarray, bad: set[int], *, is_told: bool) -> str:
    """The sentence of a comparison that is told of the divergences, or to which the pairs are simply missing."""
    kept = {seed: None if seed in bad else float(value) for seed, value in enumerate(ours)}
    gone = (sorted(bad), ()) if is_told else ((), ())
    question = stats.paired(
        "accuracy", kept, dict(enumerate(map(float, theirs))),
        relative=False, margin=MARGIN, names=("the rule", "BP"), resamples=40, diverged=gone, chance=10,
    )  # fmt: skip
    return report.verdict(stats.holm([question])[0])


def favours(sentence: str) -> bool:
    """Whether the sentence calls the rule equal or better."""
    return "no difference larger" in sentence or "more accurate" in sentence


def mirror() -> None:
    """The cosine of F with the product of the weights after so many mirrorings."""
    net = nets.mlp([1024], bias="none")
    x = jax.random.uniform(jax.random.key(9), (64, 784))
    batch = Batch(x, jnp.arange(64) % 10)
    for noise, marks in ((1.0, (117, 468)), (0.1, (468, 4000, 8000))):
        options: dict[str, Any] = {"feedback": "mirrored", "part": "mirror", "mirror_noise": noise}
        rule = pepita.rule(net, optax.sgd(0.1), num_classes=10, **options)
        run = jax.jit(
            lambda state, keys, rule=rule: jax.lax.scan(
                lambda s, key: (rule.update(s, batch, key)[0], None), state, keys
            )[0]
        )
        state, done = rule.init(jax.random.key(0), x), 0
        W = state.params.blocks[0]["params"]["Dense_0"]["kernel"] @ state.params.W
        for mark in marks:
            state, done = run(state, jax.random.split(jax.random.key(mark), mark - done)), mark
            F = state.F.T
            cosine = (F * W).sum() / (jnp.linalg.norm(F) * jnp.linalg.norm(W))
            print(f"mirror_noise {noise}, {mark} mirrorings: cosine {cosine:.2f}", flush=True)


def seconds(rounds: int) -> None:
    """Seconds of the steps and of validation, medians over rounds of FF and BP in turns."""
    net, images, tx = nets.mlp([1000, 1000]), data.load("mnist5k"), optax.adam(1e-3)
    rules: dict[str, LearningRule] = {"FF": ff.rule(net, tx, num_classes=10), "BP": bp.rule(net, tx, num_classes=10)}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in rules}
    for at in range(rounds + 1):
        for name, rule in rules.items():
            result = fit(rule, images, Plan(epochs=10), seed=0, progress=False)
            if at:  # the first one touches everything once
                times[name].append((result.train_seconds, result.validation_seconds))
    medians = {name: np.median(pairs, axis=0) for name, pairs in times.items()}
    for name, (whole, validation) in medians.items():
        print(f"{name}: {whole:.2f} s, steps {whole - validation:.2f}, validation {validation:.2f}")
    (a, b), (c, d) = medians["FF"], medians["BP"]
    print(f"FF / BP: {a / c:.2f} with validation, {(a - b) / (c - d):.2f} without")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("diverging", "mirror", "seconds"))
    parser.add_argument("--repeats", type=int, default=200, help="simulations of diverging, rounds of seconds")
    options = parser.parse_args()
    {"diverging": lambda: diverging(options.repeats), "mirror": mirror, "seconds": lambda: seconds(options.repeats)}[
        options.what
    ]()
