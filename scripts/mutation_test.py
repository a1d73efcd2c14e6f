"""Plant one defect at a time in the library and see that the test suite catches it.

    python scripts/mutation_test.py            # all mutants, about half an hour on two cores
    python scripts/mutation_test.py 0 3        # these only

Each mutant is one replacement in one file, applied to a copy of the repository, so the working tree is never touched.
A mutant that survives is printed with its replacement, and the exit code is 1.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Mutant(NamedTuple):
    """``old`` becomes ``new`` in ``file``; ``tests`` are the files that should notice."""

    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    defect: str


EQUATIONS, LOCALITY, CONTRACT, TRAIN = "test_equations", "test_locality", "test_contract", "test_train"
ANCESTORS = "test_equations_ff_cafo"

MUTANTS = [
    Mutant(
        "mf.py", "G = _flat(a) @ own.M.T\n    return", "G = -_flat(a) @ own.M.T\n    return", (EQUATIONS,), "sign of G"
    ),
    Mutant(
        "mf.py",
        "    return cross_entropy(G, y), a\n",
        "    return cross_entropy(G, y) * len(y), a\n",
        (EQUATIONS,),
        "sum instead of mean over the batch",
    ),
    Mutant(
        "mf.py",
        "            losses.append(loss)\n",
        "            losses.append(loss)\n            g = g._replace(M=2 * g.M)\n",
        (EQUATIONS,),
        "twice the step for M",
    ),
    Mutant(
        "mf.py",
        "            (loss, a), g = jax.value_and_grad(_local_loss, has_aux=True)(own, block, a, batch.y)\n",
        "            below = a\n"
        "            (loss, a), g = jax.value_and_grad(_local_loss, has_aux=True)(own, block, a, batch.y)\n"
        "            a = block.apply(jax.tree.map(lambda w, d: w - 0.1 * d, own.block, g.block), below)\n",
        (EQUATIONS,),
        "hands on the activation of the updated layer",
    ),
    Mutant(
        "mf.py",
        "    layer_loss = jnp.stack(losses)\n",
        "    def joint(params):\n"
        "        a, total = batch.x, 0.0\n"
        "        for _, block, own in _layers(net, params):\n"
        "            loss, a = _local_loss(own, block, a, batch.y)\n"
        "            total = total + loss\n"
        "        return total\n\n"
        "    gradients = jax.grad(joint)(params) if layer is None else gradients\n"
        "    layer_loss = jnp.stack(losses)\n",
        (LOCALITY,),
        "nothing is detached: losses reach the layers below",
    ),
    Mutant("mf.py", "elif i < layer:", "elif i + 1 < layer:", (EQUATIONS,), "greedy stage skips the layer below"),
    Mutant(
        "mf.py",
        "(own, opt) if g is None else descend(tx, g, opt, own)",
        "(own, opt) if g is None else descend(tx, g, state.opt_state[0], own)",
        (EQUATIONS, CONTRACT),
        "layers share one optimizer state",
    ),
    Mutant(
        "mf.py",
        "bound = _flat(a).shape[1] ** -0.5",
        "bound = _flat(a).shape[1] ** 0.5",
        (EQUATIONS,),
        "start values of M far too large",
    ),
    Mutant(
        "mf.py",
        'if i == last or (prediction == "sum" and (i > 0 or sum_includes_input)):',
        'if i == last or (prediction == "sum"):',
        (EQUATIONS,),
        "M_0 always enters the sum",
    ),
    Mutant(
        "mf.py",
        "        total = total + _flat(a) @ own.M.T\n",
        "        total = _flat(a) @ own.M.T\n",
        (EQUATIONS,),
        "the sum is the last layer's goodness only",
    ),
    Mutant(
        "mf.py",
        "            jax.random.fold_in(readout_key, i),",
        "            jax.random.fold_in(readout_key, i + input_readout),",
        (EQUATIONS,),
        "M_0 moves the other layers' random streams",
    ),
    Mutant(
        "bp.py",
        "+ params.b[None, :]",
        "- params.b[None, :]",
        (EQUATIONS,),
        "sign of the output bias",
    ),
    Mutant(
        "bp.py",
        "        a = block.apply(own, a)\n",
        "        a = jax.lax.stop_gradient(block.apply(own, a))\n",
        (EQUATIONS, LOCALITY),
        "no gradient reaches the hidden layers",
    ),
    Mutant(
        "base.py",
        "return optax.apply_updates(params, updates)",
        "return optax.apply_updates(params, jax.tree.map(jnp.negative, updates))",
        (EQUATIONS,),
        "ascends",
    ),
    Mutant(
        "nets.py",
        "he_uniform = nn.initializers.he_uniform()",
        "he_uniform = nn.initializers.lecun_uniform()",
        (EQUATIONS,),
        "start values of W too small",
    ),
    Mutant(
        "nets.py",
        '{"average": nn.avg_pool,',
        '{"average": nn.max_pool,',
        (EQUATIONS,),
        "maximum instead of average pooling",
    ),
    Mutant(
        "train.py",
        "_stream(tracker.key, _ORDER, learner.step // job.steps)",
        "_stream(tracker.key, _ORDER, 0)",
        (TRAIN,),
        "the same order in every epoch",
    ),
    Mutant(
        "train.py",
        "score < tracker.best_score - plan.min_delta",
        "score < tracker.best_score + plan.min_delta",
        (TRAIN,),
        "min_delta with the wrong sign",
    ),
    Mutant(
        "train.py",
        "jnp.where(improved, 0, tracker.waited + plan.validate_every)",
        "tracker.waited + jnp.where(improved, 0, plan.validate_every)",
        (TRAIN,),
        "an improvement does not reset the patience",
    ),
    Mutant(
        "train.py",
        "learner.step % job.steps % (images // size) * size",
        "(learner.step + 1) % job.steps % (images // size) * size",
        (TRAIN,),
        "batches out of step with the epoch",
    ),
    Mutant("train.py", "right & real", "right", (TRAIN,), "padding counts as right answers"),
    Mutant(
        "train.py",
        "host.run(_final, jobs[-1], tracker.kept,",
        "host.run(_final, jobs[-1], learner.state,",
        (TRAIN,),
        "tests the last state instead of the kept one",
    ),
    Mutant(
        "train.py",
        'self.stage, self.step = meta["stage"], meta["step"]',
        'self.stage, self.step = meta["stage"], 0',
        (TRAIN,),
        "a resumed run repeats the steps of its epoch",
    ),
    Mutant(
        "train.py",
        "learner = jax.lax.cond(active, lambda s",
        "learner = jax.lax.cond(active | True, lambda s",
        (TRAIN,),
        "a stopped run goes on training",
    ),
    Mutant(
        "train.py",
        "            active=finite & ~stop,\n",
        "            active=~stop,\n",
        (TRAIN,),
        "a diverged run goes on",
    ),
    Mutant(
        "train.py",
        "keep = finite & ((keep_score < tracker.kept_score)",
        "keep = finite & ((keep_score <= tracker.kept_score)",
        (TRAIN,),
        "of equally good epochs the last is kept",
    ),
    Mutant("ff.py", "softplus(theta - g_pos)", "softplus(g_pos - theta)", (ANCESTORS,), "positives are pushed down"),
    Mutant("ff.py", "_flat(s).shape[1] if _sums", "2.0 if _sums", (ANCESTORS,), "threshold 2 for the sum of squares"),
    Mutant("ff.py", "jnp.where(is_true, -jnp.inf, scores)", "scores", (ANCESTORS,), "negatives carry the true label"),
    Mutant(
        "ff.py", "new_m[at].mean() - new_m[at]", "new_m[at] - new_m[at].mean()", (ANCESTORS,), "sign of the peer term"
    ),
    Mutant("ff.py", "s[:count].mean(0)", "s.mean(0)", (ANCESTORS,), "running means of negatives, too"),
    Mutant("ff.py", "activation=lambda z: z", "activation=jax.nn.relu", (ANCESTORS,), "peer term gated by the ReLU"),
    Mutant("ff.py", "n = after(rms(s), g)", "n = after(s, g)", (ANCESTORS,), "no normalisation between layers"),
    Mutant(
        "ff.py",
        "jnp.full((len(x), num_classes), 1 / num_classes,",
        "jnp.full((len(x), num_classes), 1.0,",
        (ANCESTORS,),
        "neutral label of ones",
    ),
    Mutant(
        "ff.py",
        "        n = rms(block.apply(own.block, n))\n",
        "        n = block.apply(own.block, n)\n",
        (ANCESTORS,),
        "head reads lengths",
    ),
    Mutant(
        "ff.py",
        "_goodness(s, settings) * _is_read(at, net, settings)",
        "_goodness(s, settings)",
        (ANCESTORS,),
        "layer 1 enters the prediction",
    ),
    Mutant(
        "ff.py",
        "(1 + 2 * (epochs - epoch)) / epochs",
        "(3 + 2 * (epochs - epoch)) / epochs",
        (ANCESTORS,),
        "rate ends at 3/E",
    ),
    Mutant("cafo.py", "(E.T @ F, E.sum(0),", "(-E.T @ F, E.sum(0),", (ANCESTORS,), "heads ascend"),
    Mutant(
        "cafo.py",
        "F.T @ jax.nn.one_hot(y, num_classes, dtype=F.dtype)",
        "2 * F.T @ jax.nn.one_hot(y, num_classes, dtype=F.dtype)",
        (ANCESTORS,),
        "closed form of 2 Y",
    ),
    Mutant("cafo.py", "gram + r * jnp.eye", "gram - r * jnp.eye", (ANCESTORS,), "sign of the ridge"),
    Mutant(
        "cafo.py",
        "errors = [*(e @ R_i for R_i in R)",
        "errors = [*(E @ R_i for R_i in R)",
        (ANCESTORS,),
        "feedback divided by B",
    ),
    Mutant("cafo.py", "E @ params.A.V.T]", "-E @ params.A.V.T]", (ANCESTORS,), "last block ascends"),
    Mutant(
        "cafo.py",
        "    if whole < len(y):\n        total",
        "    if False:\n        total",
        (ANCESTORS,),
        "the last part of a batch is left out",
    ),
    Mutant(
        "cafo.py",
        "for z in Z]).mean(0) + 1e-30)",
        "for z in Z]).max(0) + 1e-30)",
        (ANCESTORS,),
        "the surest head alone predicts",
    ),
    Mutant(
        "cafo.py",
        "(1 - MOMENTUM) * old + MOMENTUM * new",
        "MOMENTUM * old + (1 - MOMENTUM) * new",
        (ANCESTORS,),
        "running statistics forget",
    ),
    Mutant(
        "cwc.py",
        "return (groups**2).mean((1, 3))",
        "return jnp.abs(groups).mean((1, 3))",
        (ANCESTORS,),
        "goodness without squares",
    ),
    Mutant(
        "cwc.py",
        "num_classes, y.shape[-1] // num_classes)",
        "y.shape[-1] // num_classes, num_classes).swapaxes(2, 3)",
        (ANCESTORS,),
        "groups interleaved",
    ),
    Mutant(
        "nets.py",
        "x.mean(axes), x.var(axes)",
        "x.mean(axes), x.std(axes)",
        (ANCESTORS,),
        "deviation in place of variance",
    ),
    Mutant(
        "train.py",
        "jnp.where(improved, 0, tracker.waited + plan.validate_every)",
        "jnp.where(improved, 0, tracker.waited + 1)",
        (TRAIN,),
        "patience counts validations",
    ),
    Mutant(
        "train.py",
        "(rule.validate or rule.predict)",
        "rule.predict",
        (TRAIN,),
        "a stage looks at the prediction of all heads",
    ),
    Mutant(
        "train.py",
        "h = run.cache[0] if at is None",
        "h = run.cache[0] if True",
        (TRAIN,),
        "kept features are not taken by batch",
    ),
]


def survives(number: int, mutant: Mutant) -> bool:
    """Apply the mutant to a copy of the repository and run its tests; true if they all pass."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "repository"
        ignore = shutil.ignore_patterns(".git", ".venv", "results", "__pycache__", ".*_cache")
        shutil.copytree(ROOT, copy, ignore=ignore)
        file = copy / "fwdonly" / mutant.file
        text = file.read_text()
        if mutant.old and text.count(mutant.old) != 1:
            raise SystemExit(
                f"mutant {number}: its text occurs {text.count(mutant.old)} times in {mutant.file}: {mutant.old!r}"
            )
        if mutant.old:
            file.write_text(text.replace(mutant.old, mutant.new))
        tests = [f"tests/{name}.py" for name in mutant.tests]
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "2", "-p", "no:cacheprovider", *tests]
        environment = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
        begin = time.perf_counter()
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    # A test that failed, not a suite that could not start, is what counts; with -x, pytest-xdist then exits with 2.
    if done.returncode != 0 and "FAILED" not in done.stdout:
        raise SystemExit(f"mutant {number}: pytest could not run\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    alive = done.returncode == 0
    caught = next((line for line in done.stdout.splitlines() if line.startswith("FAILED")), "")
    verdict = "SURVIVED" if alive else "caught"
    print(
        f"{number:2d} {verdict} in {time.perf_counter() - begin:.0f} s: {mutant.file}: {mutant.defect}  {caught[:110]}",
        flush=True,
    )
    return alive


def main() -> int:
    """Run the mutants named by number on the command line, or all."""
    control = Mutant(
        "mf.py", "", "", (EQUATIONS, ANCESTORS, LOCALITY, CONTRACT, TRAIN), "control: no defect, every test passes"
    )
    if not survives(-1, control):
        print("the tests fail without a mutant; nothing can be said of mutants")
        return 1
    chosen = [int(word) for word in sys.argv[1:]] or range(len(MUTANTS))
    alive = [number for number in chosen if survives(number, MUTANTS[number])]
    print(f"{len(chosen) - len(alive)} of {len(chosen)} mutants caught")
    for number in alive:
        print(f"survivor {number}: {MUTANTS[number]}")
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main())
