"""Plant one defect at a time in the library and see that the test suite catches it.

    python scripts/mutation_test.py            # all mutants, more than an hour on two cores
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
    """``old`` becomes ``new`` in ``file``, a path from the package; ``tests`` are the files that should notice."""

    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    defect: str


EQUATIONS, LOCALITY, CONTRACT, TRAIN = "test_equations", "test_locality", "test_contract", "test_train"
ANCESTORS = "test_equations_ff_cafo"
FORWARD = "test_equations_forward"
TWO_PASS, FEEDBACK = "test_equations_two_pass", "test_equations_feedback"
SHARDING = "test_sharding"
SAVINGS, READOUTS = "test_savings", "test_readouts"
SOURCES = "test_equations_sources"
REFUSALS = "test_refusals"
STRONG = "test_equations_strong"
CLAIMS = "test_claims"
SAVINGS, READOUTS, FACTORIAL = "test_savings", "test_readouts", "test_factorial"

MUTANTS = [
    Mutant(
        "claims/verdicts.py", "if answer.n < stats.CLAIM:", "if answer.n < 2:", (CLAIMS,), "nine pairs decide a claim"
    ),
    Mutant(
        "claims/verdicts.py",
        'if equivalent:\n        return "refuted"',
        'if equivalent and not different:\n        return "refuted"',
        (CLAIMS,),
        "a difference smaller than what matters confirms a claim",
    ),
    Mutant("claims/verdicts.py", "sign * wanted > 0", "sign != 0", (CLAIMS,), "a difference confirms either direction"),
    Mutant(
        "claims/verdicts.py",
        "if claim.family == family and compared(claim)]",
        "if claim.family == family and compared(claim) and answers[claim.id]]",
        (CLAIMS,),
        "claims of a family that were not measured are not counted",
    ),
    Mutant(
        "claims/registry.py", "return LEVEL / self.looks", "return LEVEL", (CLAIMS,), "every look has the whole level"
    ),
    Mutant("claims/evidence.py", "if there != claim.dataset:", "if not there:", (CLAIMS,), "files of other data count"),
    Mutant("claims/evidence.py", "if seed in by_seed:", "if seed < 0:", (CLAIMS,), "a seed of two files counts once"),
    Mutant(
        "claims/evidence.py", "if len(digests) > 1:", "if len(digests) > 2:", (CLAIMS,), "pairs are of different images"
    ),
    Mutant(
        "claims/verdicts.py",
        "stats.holm([tested(claim, known) for claim, known in",
        "stats.holm([known for claim, known in",
        (CLAIMS,),
        "equality is refuted by any difference",
    ),
    Mutant(
        "claims/verdicts.py",
        "None if known is None or known.weak else answers",
        "None if known is None else answers",
        (CLAIMS,),
        "runs that decide nothing help the others of their family",
    ),
    Mutant(
        "claims/verdicts.py", "abs(mean) - margin,", "abs(mean),", (CLAIMS,), "pairs for a difference refute equality"
    ),
    Mutant(
        "claims/verdicts.py",
        "stats.guarded(dataclasses.replace(question, **changed",
        "(dataclasses.replace(question, **changed",
        (CLAIMS,),
        "medians of the runs that got through decide",
    ),
    Mutant(
        "report/comparisons.py",
        "_asked(answer) if weak else answer for",
        "answer for",
        ("test_page",),
        "times that are too short help the other questions",
    ),
    Mutant(
        "claims/evidence.py", "if len(networks) > 1:", "if len(networks) > 2:", (CLAIMS,), "pairs are of two networks"
    ),
    Mutant(
        "report/stats.py",
        "2 * float(scipy_stats().t.sf(over",
        "float(scipy_stats().t.sf(over",
        (CLAIMS,),
        "what is beyond a margin is tested at one side",
    ),
    Mutant(
        "report/stats.py",
        "-100 * margin / (100 + margin) if relative",
        "-margin if relative",
        (CLAIMS,),
        "the margin of ratios is not that of their logarithms",
    ),
    Mutant("report/power.py", "_bound(n, level / 2)", "_bound(n, level)", (CLAIMS,), "power of a one-sided test"),
    Mutant(
        "report/power.py", "/ math.sqrt(n - 1)", "/ math.sqrt(n)", (CLAIMS,), "deviations are divided by n for power"
    ),
    Mutant("cli/claims.py", "set.intersection(", "set.union(", (CLAIMS,), "a seed that one rule lacks is committed"),
    Mutant(
        "forward_gradient.py",
        "jax.vmap(jnp.multiply)(slopes, v).mean(0), v)",
        "jax.vmap(jnp.multiply)(slopes, v).sum(0), v)",
        (FORWARD,),
        "estimates of several directions are summed",
    ),
    Mutant(
        "forward_gradient.py",
        "(slopes, v_z).mean(0) / len(y) for v_z in v]",
        "(slopes, v_z).mean(0) for v_z in v]",
        (FORWARD,),
        "sum instead of mean over the batch",
    ),
    Mutant(
        "_forward_passes.py",
        'draw = jax.random.normal if distribution == "normal" else',
        'draw = jax.random.uniform if distribution == "normal" else',
        (FORWARD,),
        "directions of another variance and mean",
    ),
    Mutant(
        "forward_gradient.py",
        "ends = [at + 1 for at, layer in enumerate(params) if layer.M is not None]",
        "ends = [len(params)]",
        (FORWARD, LOCALITY),
        "local losses are left out but the last",
    ),
    Mutant(
        "forward_gradient.py",
        "(jax.nn.softmax(G) - jax.nn.one_hot(y,",
        "(jax.nn.softmax(G) + jax.nn.one_hot(y,",
        (FORWARD,),
        "sign of the target in the exact readout",
    ),
    Mutant(
        "zeroth_order.py",
        "minus, _ = f(after(-step, plus))",
        "minus, _ = f(after(0 * step, plus))",
        (FORWARD,),
        "one-sided quotient over both sides' length",
    ),
    Mutant(
        "zeroth_order.py",
        "is_noise = (before >= variance * lambdas.sum())",
        "is_noise = (before < variance * lambdas.sum())",
        (FORWARD,),
        "the strong directions are taken out",
    ),
    Mutant(
        "zeroth_order.py",
        "flat(rows) - flat(rows).mean(0, keepdims=True)",
        "flat(rows)",
        (FORWARD,),
        "the past is not centred",
    ),
    Mutant(
        "zeroth_order.py",
        "is_full = count % tau == tau - 1",
        "is_full = count % tau == 0",
        (FORWARD,),
        "a subspace of a history that is not full",
    ),
    Mutant(
        "zeroth_order.py",
        "g = _estimate(layer, at + 1, line, settings, done)",
        "g = _estimate(layer, at + 1, line, settings)",
        (FORWARD,),
        "all directions are drawn at once",
    ),
    Mutant(
        "phyll.py",
        "xi[None] - (c / length)[:, None] * m)",
        "xi[None])",
        (FORWARD,),
        "the cosine's length is constant",
    ),
    Mutant(
        "phyll.py",
        "jnp.concatenate([k, -k]) / length",
        "jnp.concatenate([k, k]) / length",
        (FORWARD,),
        "negatives are drawn to the direction, too",
    ),
    Mutant(
        "phyll.py",
        "return layer[0], layer, losses[0]",
        "return state.params[at], layer, losses[0]",
        (FORWARD,),
        "layers hand on what they gave before their steps",
    ),
    Mutant(
        "phyll.py",
        "further = jax.random.randint(key, y.shape, 1, num_classes)",
        "further = jax.random.randint(key, y.shape, 0, num_classes)",
        (FORWARD,),
        "a wrong label may be the true one",
    ),
    Mutant(
        "phyll.py",
        "_measured(box, h, jax.random.fold_in(key, at)) if box",
        "box(h, jax.random.fold_in(key, at)) if box",
        (FORWARD,),
        "predictions let derivatives into the physics",
    ),
    Mutant(
        "study/inventory.py",
        'os.environ["FWDONLY_OFFLINE"] = "1"',
        'os.environ["FWDONLY_OFFLINE"] = "0"',
        ("test_site",),
        "fwdonly info downloads",
    ),
    Mutant(
        "study/inventory.py",
        "Item(extra, not missing,",
        "Item(extra, True,",
        ("test_site",),
        "an extra without its packages counts as there",
    ),
    Mutant(
        "base.py",
        '{"rngs": {"params": key, "dropout": key}, **_switched(block, training=True)}',
        '{"rngs": {"params": key, "dropout": key}, **_switched(block, training=False)}',
        ("test_networks",),
        "blocks train as they predict",
    ),
    Mutant(
        "base.py",
        '{name: value for name, value in variables.items() if name == "params"},',
        "dict(variables),",
        ("test_networks",),
        "statistics are parameters",
    ),
    Mutant(
        "measure/angles.py",
        "read = rule.predict if scores is None else",
        "read = rule.predict if True else",
        ("test_networks",),
        "angles with predictions in the place of the step's scores",
    ),
    Mutant(
        "nets/parts.py",
        "out - self.block.linear(weights, jnp.zeros_like(a[:1]))",
        "out",
        ("test_networks",),
        "a declared linear part keeps its bias",
    ),
    Mutant(
        "nets/composed.py",
        "self.activation(h + x)",
        "self.activation(h)",
        ("test_networks",),
        "no shortcut",
    ),
    Mutant(
        "nets/mixing.py",
        'x = x + _mlp(self, "token"',
        'x = _mlp(self, "token"',
        ("test_mixer",),
        "no skip connection around token mixing",
    ),
    Mutant(
        "nets/mixing.py",
        'nn.LayerNorm(name="channel_norm")(x)',
        "x",
        ("test_mixer",),
        "no norm in front of channel mixing",
    ),
    Mutant("nets/mixing.py", "return cut.swapaxes(2, 3)", "return cut", ("test_mixer",), "patches are rows of pixels"),
    Mutant(
        "nets/mixing.py",
        'nn.LayerNorm(name="head_norm")(x).mean(axis=1)',
        "x.mean(axis=1)",
        ("test_mixer",),
        "the mixer ends without its norm",
    ),
    Mutant(
        "nets/builders.py",
        "0 if i else patch",
        "patch",
        ("test_mixer",),
        "every mixer block cuts patches",
    ),
    Mutant(
        "nets/spec.py",
        "return str(spec) if alike == spec.build(1) else None",
        "return str(spec)",
        ("test_mixer",),
        "mixers are described by what builds others",
    ),
    Mutant(
        "measure/arithmetic.py",
        " and nets.is_sized(net)",
        "",
        ("test_mixer",),
        "products of a mixer are not counted",
    ),
    Mutant(
        "nets/adapters.py",
        "return jax.random.fold_in(key, place)",
        "return jax.random.key(0)",
        ("test_networks",),
        "NNX's noise is the same in every step",
    ),
    Mutant(
        "mf.py",
        "a = run_block(block, weights.block, known, a)[0]",
        "a = run_block(block, weights.block, known, a, key)[0]",
        ("test_networks",),
        "layers below a greedy stage have noise",
    ),
    Mutant(
        "mf.py",
        "G = how.scores(i, a, weights)\n",
        "G = -how.scores(i, a, weights)\n",
        (EQUATIONS,),
        "sign of G",
    ),
    Mutant(
        "mf.py",
        "    return cross_entropy(G, y), (a, known)\n",
        "    return cross_entropy(G, y) * len(y), (a, known)\n",
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
        "            a = after(a, g)\n",
        "            a = after(a + 0.1 * a.mean(), g)\n",
        (EQUATIONS,),
        "hands on something else than the activation",
    ),
    Mutant(
        "mf.py",
        "    layer_loss = jnp.stack(losses)\n",
        "    def joint(params):\n"
        "        a, total = batch.x, 0.0\n"
        "        for _, block, weights in _layers(net, params):\n"
        "            loss, (a, _) = _local_loss(weights, {}, block, a, batch.y, (1, key, how))\n"
        "            total = total + loss\n"
        "        return total\n\n"
        "    gradients = jax.grad(joint)(params) if layer is None else gradients\n"
        "    layer_loss = jnp.stack(losses)\n",
        (LOCALITY,),
        "nothing is detached: losses reach the layers below",
    ),
    Mutant("mf.py", "elif i < layer:", "elif i + 1 < layer:", (EQUATIONS,), "greedy stage skips the layer below"),
    Mutant(
        "descent.py",
        "descend(one, gradient, state, layer, next(losses), value_fn)",
        "descend(one, gradient, opt_states[0], layer, next(losses), value_fn)",
        (EQUATIONS, CONTRACT),
        "layers share one optimizer state",
    ),
    Mutant(
        "nets/output.py",
        "bound = flat(a).shape[1] ** -0.5",
        "bound = flat(a).shape[1] ** 0.5",
        (EQUATIONS,),
        "start values of M far too large",
    ),
    Mutant(
        "mf.py",
        'if i == last or (how.prediction == "sum" and (i > 0 or how.sum_includes_input)):',
        'if i == last or (how.prediction == "sum"):',
        (EQUATIONS,),
        "M_0 always enters the sum",
    ),
    Mutant(
        "mf.py",
        "        total = total + how.scores(i, a, weights)\n",
        "        total = how.scores(i, a, weights)\n",
        (EQUATIONS,),
        "the sum is the last layer's goodness only",
    ),
    Mutant(
        "nets/output.py",
        "            jax.random.fold_in(readout_key, i),",
        "            jax.random.fold_in(readout_key, i - first),",
        (EQUATIONS,),
        "M_0 moves the other layers' random streams",
    ),
    Mutant(
        "nets/output.py",
        "+ params.b[None, :]",
        "- params.b[None, :]",
        (EQUATIONS,),
        "sign of the output bias",
    ),
    Mutant(
        "nets/builders.py",
        "        yield a, known",
        "        a = jax.lax.stop_gradient(a)\n        yield a, known",
        (EQUATIONS, LOCALITY),
        "no gradient reaches the hidden layers",
    ),
    Mutant(
        "mf.py",
        "losses[-1] + how.auxiliary_weight * sum(losses[:-1])",
        "how.auxiliary_weight * losses[-1] + sum(losses[:-1])",
        (EQUATIONS,),
        "MF-Joint weighs the last layer's loss and not the others'",
    ),
    Mutant(
        "mf.py",
        "loss, (a, known) = _local_loss(weights, known, block, a, batch.y, ",
        "loss, (a, known) = _local_loss(weights, known, block, jax.lax.stop_gradient(a), batch.y, ",
        (EQUATIONS, LOCALITY),
        "MF-Joint detaches",
    ),
    Mutant(
        "mf.py",
        "how = _formed(form, net, layer)\n",
        'how = _formed({**form, "gradient": "local", "auxiliary_weight": 1.0}, net, layer)\n',
        (EQUATIONS, LOCALITY),
        "the update of MF-Joint is MF's",
    ),
    Mutant(
        "mf.py",
        "losses = losses[-1:] if",
        "losses = losses[:1] if",
        (READOUTS,),
        "the first layer's loss for the last one's",
    ),
    Mutant(
        "mf.py",
        'if only_last and how.gradient == "local" else layer',
        "if False else layer",
        (READOUTS,),
        "layers below the only loss learn by losses of their own",
    ),
    Mutant(
        "mf.py",
        "stepped._replace(M=before.M)",
        "stepped._replace(M=0.9 * before.M)",
        (READOUTS,),
        "fixed readouts shrink",
    ),
    Mutant(
        "nets/output.py",
        "jnp.sum if squares else jnp.mean",
        "jnp.mean",
        (READOUTS,),
        "means of squares for sums",
    ),
    Mutant(
        "nets/output.py",
        "-(-(i + 1) * size // count)",
        "(i + 1) * size // count",
        (READOUTS,),
        "windows end where the next begin",
    ),
    Mutant(
        "nets/output.py",
        "rows = [min(pool, size) for",
        "rows = [pool for",
        (READOUTS,),
        "small maps have as many windows as large ones",
    ),
    Mutant(
        "report/effects.py",
        '"interaction": (1, -1, -1, 1),',
        '"interaction": (1, 1, -1, -1),',
        (FACTORIAL,),
        "the interaction of accuracies is locality's effect",
    ),
    Mutant(
        "report/effects.py",
        "seeds = sorted(set.intersection(*map(set, known)))",
        "seeds = sorted(known[0])",
        (FACTORIAL,),
        "seeds that one cell has not are no longer left out",
    ),
    Mutant(
        "report/intervals.py",
        "least = max(least, min(1.0,",
        "least = max(0.0, min(1.0,",
        (FACTORIAL,),
        "corrected p values fall below smaller ones",
    ),
    Mutant(
        "report/memory.py",
        "best = min(exact,",
        "best = max(exact,",
        (FACTORIAL,),
        "the rival is the naive BP",
    ),
    Mutant(
        "study/protocols.py",
        "return cells if len(cells) == 4 else {}",
        "return cells",
        (FACTORIAL,),
        "two cells are taken for a 2 x 2",
    ),
    Mutant(
        "nets/savings.py",
        "share = len(chunk.y) / samples",
        "share = 1 / -(-samples // size)",
        (SAVINGS,),
        "chunks of different lengths count alike",
    ),
    Mutant(
        "nets/savings.py",
        "range(first, min(first + length, count))",
        "range(first, min(first + length, count - 1 or 1))",
        (SAVINGS,),
        "segments leave out the last block",
    ),
    Mutant(
        "nets/savings.py",
        "return on_blocks, None, on_a, None",
        "return on_blocks, None, 2 * on_a, None",
        (SAVINGS,),
        "the error doubles at every segment",
    ),
    Mutant(
        "nets/savings.py",
        "        a = after(a, errors[0])\n",
        "",
        (SAVINGS,),
        "what is computed again is merged with what was computed before",
    ),
    Mutant(
        "bp.py",
        "again = i <= nets.savings.segments(len(layers), remat)[-1].start",
        'again = remat != "none"',
        ("test_cost",),
        "the last segment is counted twice",
    ),
    Mutant(
        "bp.py",
        "how.label_smoothing) for G_l in G]",
        "how.label_smoothing) for G_l in G[:-1]]",
        (EQUATIONS,),
        "deep supervision leaves out the last hidden layer",
    ),
    Mutant(
        "bp.py",
        "return loss + how.auxiliary_weight * sum(local)",
        "return how.auxiliary_weight * loss + sum(local)",
        (EQUATIONS,),
        "deep supervision weighs the output's loss and not the others'",
    ),
    Mutant(
        "bp.py",
        "G = [flat(a_l)",
        "G = [flat(jax.lax.stop_gradient(a_l))",
        (EQUATIONS,),
        "readouts of BP send no error into the blocks",
    ),
    Mutant(
        "bp.py",
        'readouts = "sum" if how.readouts == "sum" else "output"',
        'readouts = "output"',
        (EQUATIONS,),
        "trained on the summed scores, predicts with the output layer's alone",
    ),
    Mutant(
        "bp.py",
        "nets.output.class_readouts(readout_key, activations",
        "nets.output.class_readouts(block_key, activations",
        (EQUATIONS,),
        "readouts of BP do not start where MF's do",
    ),
    Mutant(
        "mf.py",
        'if how.gradient == "joint" and i > 1 else',
        'if how.gradient == "joint" else',
        ("test_cost",),
        "MF-Joint sends an error to the inputs",
    ),
    Mutant(
        "measure/arithmetic.py",
        'return params["length"] * _of_program(',
        "return _of_program(",
        ("test_cost",),
        "the body of a scan counts once",
    ),
    Mutant(
        "measure/arithmetic.py",
        "        if any(used) or equation.effects:\n",
        "        if True:\n",
        ("test_cost",),
        "products that nothing reads count",
    ),
    Mutant(
        "descent.py",
        "return optax.apply_updates(params, step)",
        "return optax.apply_updates(params, jax.tree.map(jnp.negative, step))",
        (EQUATIONS,),
        "ascends",
    ),
    Mutant(
        "nets/starts.py",
        'he_uniform = scaled(2.0, "in", "uniform")',
        'he_uniform = scaled(1.0, "in", "uniform")',
        (EQUATIONS,),
        "start values of W too small",
    ),
    Mutant(
        "measure/angles.py",
        '    elif hasattr(params, "W"):\n        parts = [params]\n',
        "",
        ("test_contract",),
        "a user's layer of W and b counts as two",
    ),
    Mutant(
        "measure/angles.py",
        'READOUTS = ("M", "U")',
        'READOUTS = ("M", "U", "gamma")',
        ("test_contract",),
        "alignment leaves out a scale that learns",
    ),
    Mutant(
        "_mirror.py",
        "limit = 24 / (answers",
        "limit = 12 / (answers",
        (FEEDBACK,),
        "a weight mirror that is bounded is refused",
    ),
    Mutant(
        "measure/spans.py",
        "lasting < PERIODS * gap",
        "lasting < gap",
        ("test_energy",),
        "short spans count as measured",
    ),
    Mutant(
        "training/loop.py",
        " or rule.readouts:",
        ":",
        (TRAIN,),
        "further readouts of a training without a test are not evaluated",
    ),
    Mutant(
        "nets/blocks.py",
        "return nn.avg_pool(h, (2, 2), strides=(2, 2))",
        "return nn.max_pool(h, (2, 2), strides=(2, 2))",
        (EQUATIONS,),
        "maximum instead of average pooling",
    ),
    Mutant(
        "nets/builders.py",
        "    check_net(net)\n    params, statistics, activations",
        "    params, statistics, activations",
        (CONTRACT,),
        "a network without layers is taken",
    ),
    Mutant(
        "training/run.py",
        "stream_key(tracker.key, ORDER, learner.step // job.steps)",
        "stream_key(tracker.key, ORDER, 0)",
        (TRAIN,),
        "the same order in every epoch",
    ),
    Mutant(
        "training/steps.py",
        "score < tracker.best_score - plan.min_delta",
        "score < tracker.best_score + plan.min_delta",
        (TRAIN,),
        "min_delta with the wrong sign",
    ),
    Mutant(
        "training/steps.py",
        "jnp.where(improved, 0, tracker.waited + plan.validate_every)",
        "tracker.waited + jnp.where(improved, 0, plan.validate_every)",
        (TRAIN,),
        "an improvement does not reset the patience",
    ),
    Mutant(
        "training/steps.py",
        "learner.step % job.steps % (images // size) * size",
        "(learner.step + 1) % job.steps % (images // size) * size",
        (TRAIN,),
        "batches out of step with the epoch",
    ),
    Mutant("training/steps.py", "right & real", "right", (TRAIN,), "padding counts as right answers"),
    Mutant(
        "training/loop.py",
        "args = tracker.kept, work.run, work.arrays",
        "args = tracker.kept, work.run, work.arrays\n            args = learner.state, *args[1:]",
        (TRAIN,),
        "tests the last state instead of the kept one",
    ),
    Mutant(
        "training/host.py",
        'self.stage, self.step = range(len(jobs))[meta["stage"]], int(meta["step"])',
        'self.stage, self.step = range(len(jobs))[meta["stage"]], 0',
        (TRAIN,),
        "a resumed run repeats the steps of its epoch",
    ),
    Mutant(
        "training/steps.py",
        "learner = jax.lax.cond(active, lambda s",
        "learner = jax.lax.cond(active | True, lambda s",
        (TRAIN,),
        "a stopped run goes on training",
    ),
    Mutant(
        "training/steps.py",
        "            active=finite & ~stop & (hits < 2),\n",
        "            active=~stop & (hits < 2),\n",
        (TRAIN,),
        "a diverged run goes on",
    ),
    Mutant(
        "training/steps.py",
        "keep = finite & ((keep_score < tracker.kept_score)",
        "keep = finite & ((keep_score <= tracker.kept_score)",
        (TRAIN,),
        "of equally good epochs the last is kept",
    ),
    Mutant("ff.py", "softplus((theta - g_pos)", "softplus((g_pos - theta)", (ANCESTORS,), "positives are pushed down"),
    Mutant("ff.py", "flat(s).shape[1] if _sums", "2.0 if _sums", (ANCESTORS,), "threshold 2 for the sum of squares"),
    Mutant("ff.py", "jnp.where(is_true, -jnp.inf, scores)", "scores", (ANCESTORS,), "negatives carry the true label"),
    Mutant("ff.py", "peer) * (m.mean() - m)", "peer) * (m - m.mean())", (ANCESTORS,), "sign of the peer term"),
    Mutant("ff.py", "s[:count].mean(0)", "s.mean(0)", (ANCESTORS,), "running means of negatives, too"),
    Mutant("ff.py", "jax.lax.stop_gradient(s", "(s", (ANCESTORS,), "the peer term is differentiated through m"),
    Mutant(
        "ff.py",
        "block.activation(z), z]",
        "block.activation(z), block.activation(z)]",
        (ANCESTORS,),
        "peer term gated by the ReLU",
    ),
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
        "        n = rms(base.run_block(block, layer.block, known, n)[0])\n",
        "        n = base.run_block(block, layer.block, known, n)[0]\n",
        (ANCESTORS,),
        "head reads lengths",
    ),
    Mutant(
        "ff.py",
        "[min(settings.first, len(net)) - 1 :].sum(0)",
        ".sum(0)",
        (ANCESTORS,),
        "layer 1 enters the prediction",
    ),
    Mutant(
        "descent.py",
        "(1 + 2 * (epochs - epoch)) / epochs",
        "(3 + 2 * (epochs - epoch)) / epochs",
        (ANCESTORS,),
        "rate ends at 3/E",
    ),
    Mutant("cafo.py", "(E.T @ F, E.sum(0),", "(-E.T @ F, E.sum(0),", (ANCESTORS,), "heads ascend"),
    Mutant(
        "cafo.py",
        "exact(F.T, Y.astype(F.dtype))",
        "2 * exact(F.T, Y.astype(F.dtype))",
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
        "nets/norms.py",
        "(1 - momentum) * old + momentum * new",
        "momentum * old + (1 - momentum) * new",
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
        "nets/norms.py",
        '(params["gamma"], params["beta"])',
        '(params["gamma"], 0 * params["beta"])',
        (ANCESTORS,),
        "batch normalisation forgets its shift",
    ),
    Mutant("cwc.py", 'affine: bool = True\n    """', 'affine: bool = False\n    """', (ANCESTORS,), "not affine"),
    Mutant(
        "nets/norms.py",
        "x.mean(axes), x.var(axes)",
        "x.mean(axes), x.std(axes)",
        (ANCESTORS,),
        "deviation in place of variance",
    ),
    Mutant(
        "training/steps.py",
        "jnp.where(improved, 0, tracker.waited + plan.validate_every)",
        "jnp.where(improved, 0, tracker.waited + 1)",
        (TRAIN,),
        "patience counts validations",
    ),
    Mutant(
        "training/steps.py",
        "(rule.validate or rule.predict)",
        "rule.predict",
        (TRAIN,),
        "a stage looks at the prediction of all heads",
    ),
    Mutant(
        "training/steps.py",
        "h = run.cache[0] if at is None",
        "h = run.cache[0] if True",
        (TRAIN,),
        "kept features are not taken by batch",
    ),
    Mutant(
        "nets/norms.py",
        'self._output(params, h, (known["mean"], known["var"]))',
        "self._output(params, h, moments(h))",
        (EQUATIONS,),
        "predictions of batch-normalised BP by the statistics of the test batch",
    ),
    Mutant(
        "bp.py",
        'return params if hidden == "trained" else params._replace(blocks=())',
        "return params",
        (EQUATIONS,),
        "the optimizer sees frozen layers",
    ),
    Mutant("feedback.py", "jnp.sign(e), ", "e, ", (FEEDBACK,), "sDFA sends the errors themselves"),
    Mutant("feedback.py", '"drtp": t}', '"drtp": -e}', (FEEDBACK,), "DRTP sends the error"),
    Mutant(
        "_way_back.py",
        "return jax.vjp(block.activation, a)[1](sent)[0]",
        "return sent * block.activation(a)",
        (FEEDBACK,),
        "multiplies by phi(a) instead of its slope",
    ),
    Mutant("_way_back.py", "e @ B.W.T", "e @ abs(B.W).T", (FEEDBACK,), "the topmost error does not travel by B"),
    Mutant(
        "_way_back.py",
        "nets.send_back(block, B_l, delta",
        "nets.send_back(block, jax.tree.map(abs, B_l), delta",
        (FEEDBACK,),
        "errors between hidden layers travel without signs",
    ),
    Mutant(
        "_way_back.py",
        "rows = nets.send_back(block, weights, out[0]",
        "rows = nets.send_back(block, jax.tree.map(abs, weights), out[0]",
        (SOURCES,),
        "the product of the weights beside direct feedback loses signs",
    ),
    Mutant(
        "feedback.py",
        "((*tree.blocks[1:], tree.W) for tree in (B, params))",
        "((*tree.blocks[:-1], tree.W) for tree in (B, params))",
        (SOURCES,),
        "layers are compared with the weights below them",
    ),
    Mutant(
        "feedback.py",
        "exact = _deltas(params, e, t",
        "exact = _deltas(B, e, t",
        (SOURCES,),
        "errors are compared with themselves",
    ),
    Mutant(
        "measure/angles.py", "tree) if w.ndim > 1])", "tree)])", (SOURCES,), "biases count in the angle of the weights"
    ),
    Mutant(
        "feedback.py", "seen(jnp.tensordot(signal, B_l, 1))", "jnp.tensordot(signal, B_l, 1)", (SOURCES,), "no clip"
    ),
    Mutant("_way_back.py", "[], seen((e @", "[], ((e @", (SOURCES,), "the topmost error is not clipped"),
    Mutant(
        "ff.py", "(theta - g_pos) / T)", "(theta - g_pos))", (SOURCES,), "the temperature is forgotten for positives"
    ),
    Mutant("ff.py", "theta, T = theta if", "theta, T = theta if True or", (SOURCES,), "the threshold of low positives"),
    Mutant("ff.py", '"swish": (jax.nn.silu, 6.0)', '"swish": (jax.nn.silu, 4.0)', (SOURCES,), "alpha of swish"),
    Mutant("ff.py", '"swish": (jax.nn.silu', '"swish": (jax.nn.softplus', (SOURCES,), "swish is SymBa"),
    Mutant("ff.py", 'options.positives == "high" else -g', "True else -g", (SOURCES,), "positives are always high"),
    Mutant(
        "nets/parts.py",
        "lambda z: z + jax.lax.stop_gradient(block.activation(z) - z)",
        "lambda z: block.activation(z)",
        (SOURCES,),
        "units that are off stop gradients",
    ),
    Mutant(
        "_two_pass.py", 'if error == "ce" else s\n', "if True else s\n", (SOURCES,), "mse is compared with a softmax"
    ),
    Mutant("_two_pass.py", "jnp.maximum((h[-1] ** 2).sum(),", "jnp.maximum((h[-1] ** 2).mean(),", (SOURCES,), "mean"),
    Mutant(
        "_two_pass.py", "[-dh / switches", "[dh / switches", (SOURCES,), "sign of the derivative along the modulation"
    ),
    Mutant("_two_pass.py", "[-dh / switches.perturbation", "[-dh", (SOURCES,), "the derivative depends on eps"),
    Mutant(
        "deeperforward.py",
        "return _groups(a, num_classes).mean((1, 3))",
        "return (_groups(a, num_classes) ** 2).mean((1, 3))",
        (STRONG,),
        "goodness of squares",
    ),
    Mutant(
        "deeperforward.py",
        "_groups(a, count)\n    mean, variance = groups.mean((1, 3), keepdims=True), groups.var((1, 3), keepdims=True)",
        "_groups(a, count)\n    mean, variance = groups.mean(1, keepdims=True), groups.var(1, keepdims=True)",
        (STRONG,),
        "a norm per channel",
    ),
    Mutant(
        "deeperforward.py",
        "nets.pooled(block, normalised(a, num_classes))",
        "normalised(nets.pooled(block, a), num_classes)",
        (STRONG,),
        "pooling in front of the norm",
    ),
    Mutant("deeperforward.py", "s = outputs[i - 2]", "s = outputs[i - 1]", (STRONG,), "the shortcut of one layer"),
    Mutant("deeperforward.py", "[first - 1 :]", "[first:]", (STRONG,), "the sum starts one layer later"),
    Mutant(
        "deeperforward.py",
        "zip(net, params, statistics, strict=True), start=1):\n        local",
        "zip(net, params, statistics, strict=True), start=2):\n        local",
        (STRONG,),
        "shortcuts begin at layer 2",
    ),
    Mutant("scff.py", '== "anew" else 1) * nets', '== "" else 1) * nets', (STRONG,), "the bias of a pair counts once"),
    Mutant("scff.py", "sd = jnp.sqrt(", "sd = 1.02 * jnp.sqrt(", (STRONG,), "another standard deviation"),
    Mutant(
        "scff.py",
        ".randint(key, (), 1, samples)",
        ".randint(key, (), 0, samples)",
        (STRONG,),
        "an image is its own negative",
    ),
    Mutant(
        "scff.py",
        "u, samples = standardised(z, z)[0]",
        "u, samples = standardised(z)[0]",
        (STRONG,),
        "a pair's halves alone",
    ),
    Mutant(
        "scff.py",
        "jax.nn.softplus(above - G)",
        "jax.nn.softplus(G - above)",
        (STRONG,),
        "positives below the threshold",
    ),
    Mutant("scff.py", "return flat((a**2).mean(-1", "return flat((a**2).sum(-1", (STRONG,), "goodness is a sum"),
    Mutant(
        "scff.py",
        "optax.safe_norm(G, 0.0, axis=1)",
        "jnp.linalg.norm(G, axis=1)",
        (STRONG,),
        "no slope of a length of 0",
    ),
    Mutant(
        "scff.py",
        "h - h.mean(-1, keepdims=True) if",
        "h - h.mean() if",
        (STRONG,),
        "triangle of all channels and samples",
    ),
    Mutant("nets/blocks.py", 'mode="reflect")', 'mode="symmetric")', (STRONG,), "the edge itself is mirrored, too"),
    Mutant(
        "nets/spec.py", "return value[i] if isinstance", "return value[0] if isinstance", ("test_axes",), "one value"
    ),
    Mutant("cwc.py", "/ (num_classes - 1)", "/ num_classes", (SOURCES,), "the mean of the other groups"),
    Mutant(
        "cwc.py", "THRESHOLD, SHARE = 2.0, 0.28", "THRESHOLD, SHARE = 2.0, 0.72", (SOURCES,), "shares of cwg exchanged"
    ),
    Mutant("cwc.py", "softplus(g_neg - THRESHOLD)", "softplus(THRESHOLD - g_neg)", (SOURCES,), "others are pushed up"),
    Mutant("cwc.py", "batch.y // (classes[-1] // count)", "batch.y % count", (SOURCES,), "super-classes by remainder"),
    Mutant(
        "cwc.py",
        "jnp.repeat(goodness(y, count), num_classes // count, axis=1)",
        "jnp.tile(goodness(y, count), num_classes // count)",
        (SOURCES,),
        "classes of a group lie apart",
    ),
    Mutant("base.py", "(1 - smoothing) * loss -", "loss -", (SOURCES,), "smoothed targets add up to more than 1"),
    Mutant(
        "base.py", "log_softmax(scores).mean()", "log_softmax(scores).sum(1).mean()", (SOURCES,), "C times smoothed"
    ),
    Mutant("_way_back.py", "(6 / n) ** 0.5", "(3 / n) ** 0.5", (SOURCES,), "Kaiming's law of linear units"),
    Mutant("_way_back.py", "(6 / (n + num_classes))", "(6 / n)", (SOURCES,), "Xavier's law forgets the classes"),
    Mutant(
        "feedback.py",
        'if options.mode != "shallow" else',
        "if True else",
        (SOURCES,),
        "the optimizer sees frozen layers",
    ),
    Mutant(
        "_mirror.py", "weights, xi, h), math.prod(h.shape[:-1])", "weights, xi, h), len(h)", (SOURCES,), "positions"
    ),
    Mutant(
        "descent.py", "(step >= first) & (step < end)", "(step >= first) & (step <= end)", (SOURCES,), "a window's end"
    ),
    Mutant("descent.py", "int(end) * steps))", "int(end)))", (SOURCES,), "windows of epochs end in steps"),
    Mutant(
        "descent.py", "labels = tuple(numbered(one, total + at)", "labels = tuple(numbered(one, at)", (SOURCES,), "one"
    ),
    Mutant(
        "descent.py",
        "else numbered(field, total - 1)",
        "else numbered(field, 0)",
        (SOURCES,),
        "an optimizer of layer 1 on top",
    ),
    Mutant("report/tables.py", "math.degrees(math.acos(", "(math.acos(", ("test_report",), "angles in radians"),
    Mutant("feedback.py", "jnp.abs(size) * jnp.sign(W)", "size * jnp.sign(W)", (FEEDBACK,), "signs of M are kept"),
    Mutant(
        "feedback.py",
        "(1 - settings.decay) * w if w.ndim > 1 else w",
        "w",
        (FEEDBACK,),
        "KP does not decay",
    ),
    Mutant(
        "feedback.py", "settings.decay) * w if w.ndim > 1 else w", "settings.decay) * w", (FEEDBACK,), "biases decay"
    ),
    Mutant("_mirror.py", "settings.noise**2 / 12 * B", "settings.noise**2 * B", (FEEDBACK,), "the mirror's decay"),
    Mutant(
        "_way_back.py", "if reach > 100:", "if reach > 1e9:", (FEEDBACK,), "nobody warns of an unbounded activation"
    ),
    Mutant(
        "feedback.py",
        '(2 if mirror_spread is None else 3) if mode == "wm" else 0',
        "0",
        ("test_cost",),
        "the products of the weight mirror are not counted",
    ),
    Mutant("_two_pass.py", "(1 + both) * batch", "batch", ("test_cost",), "one weight product of PEPITA-Hebbian"),
    Mutant("_mirror.py", "-size / 2, size / 2", "0, size", (FEEDBACK,), "the mirror's noise is not centred"),
    Mutant(
        "feedback.py",
        "        state = state._replace(B=mirrored(state, key, len(batch.y), **noise))\n    return",
        "        state = state._replace(B=mirrored(state, key, 1, **noise))\n    return",
        (FEEDBACK,),
        "one sample of noise in the place of a batch",
    ),
    Mutant(
        "feedback.py",
        "    _check_part(part, settings)\n    gradients",
        "    gradients",
        (FEEDBACK,),
        "an update takes any part",
    ),
    Mutant("feedback.py", "own_key = jax.random.fold_in(key, 1)", "own_key = key", (FEEDBACK,), "B starts as W"),
    Mutant(
        "_way_back.py",
        "n = h.size // h.shape[0]",
        "n = h.shape[-1]",
        (FEEDBACK,),
        "direct feedback scaled by the channels, not by the map",
    ),
    Mutant(
        "feedback.py",
        "optax.sigmoid_binary_cross_entropy(s, t).sum(1).mean()",
        "optax.sigmoid_binary_cross_entropy(s, t).mean()",
        (FEEDBACK,),
        "binary cross-entropy averaged over classes",
    ),
    Mutant(
        "feedback.py",
        "nets.output.draw(jax.random.fold_in(key, 1), x",
        "nets.output.draw(jax.random.key(1), x",
        (FEEDBACK,),
        "brSF draws the same M in every step",
    ),
    Mutant(
        "feedback.py",
        "reshape(count, -1).T @ e, None",
        "reshape(count, -1).T @ (e if settings.mode != 'sdfa' else jnp.sign(e)), None",
        (FEEDBACK,),
        "sDFA's output layer gets signs",
    ),
    Mutant(
        "feedback.py",
        '"B", net=net, readout_init=readout_init, **options)',
        '"B", net=net, **options)',
        (CONTRACT,),
        "the rule's gradients draw M of brsf by another law than its update",
    ),
    Mutant(
        "cafo.py",
        "            return Params((None,) * len(net), blocks, A), metrics",
        "            return Params((None,) * len(net), blocks[::-1], A), metrics",
        (CONTRACT,),
        "gradients of the blocks in the wrong order",
    ),
    Mutant(
        "measure/angles.py",
        "parts = [*params.blocks, (params.W, params.b)]",
        "parts = [*params.blocks, params.W]",
        (FEEDBACK,),
        "the output layer's bias is left out",
    ),
    Mutant(
        "measure/angles.py",
        "jnp.stack([n / m for n, m in norms])",
        "jnp.stack([m / n for n, m in norms])",
        (FEEDBACK,),
        "ratio upside down",
    ),
    Mutant(
        "measure/angles.py",
        "jax.grad(lambda params: loss(",
        "jax.grad(lambda params: cross_entropy(",
        (FEEDBACK,),
        "the loss that is asked for is not used",
    ),
    Mutant(
        "measure/angles.py",
        "angles = alignment(read, state, gradients, batch, **options)",
        "angles = alignment(read, rule.update(state, batch, key)[0], gradients, batch, **options)",
        (FEEDBACK,),
        "measured after the step",
    ),
    Mutant(
        "nets/parts.py",
        '["kernel"].T).reshape(-1, *shape)',
        '["kernel"].T).reshape(-1, *shape) * 2',
        (FEEDBACK,),
        "errors doubled on the way through a dense layer",
    ),
    Mutant(
        "nets/blocks.py",
        "Pooling(lambda h: nn.max_pool(h, (2, 2), strides=(2, 2)), False)",
        "Pooling(_average, False)",
        (FEEDBACK,),
        "max pooling is average pooling",
    ),
    Mutant(
        "nets/parts.py",
        '{"bias": delta.sum(0)}',
        '{"bias": delta.mean(0)}',
        (FEEDBACK,),
        "bias gradient divided by the batch twice",
    ),
    Mutant(
        "_two_pass.py", "return switches.sign * switches", "return -switches.sign * switches", (TWO_PASS,), "sign of s"
    ),
    Mutant("_two_pass.py", 'p = a if switches.presynaptic == "clean" else a_mod', "p = a", (TWO_PASS,), "always clean"),
    Mutant(
        "_two_pass.py",
        'd = e if switches.output_error == "first" else _error(s_mod, t, switches)[1]',
        "d = e",
        (TWO_PASS,),
        "always the first error",
    ),
    Mutant(
        "_two_pass.py",
        "z_1 + dz, masks, net, switches)",
        "z_1 + dz, _masks(params, batch.x, jax.random.fold_in(key, 99), net, switches), net, switches)",
        (TWO_PASS,),
        "masks differ between the passes",
    ),
    Mutant(
        "_two_pass.py",
        "_products(params, h_mod, a_mod, t, net, switches)\n        return",
        "_products(params, h_mod, a_mod, _error(s_mod, t, switches)[0], net, switches)\n        return",
        (TWO_PASS,),
        "Hebbian: y~ in the place of the target",
    ),
    Mutant(
        "_two_pass.py",
        "def second(params: Params)",
        "def second(_: Params)",
        (TWO_PASS,),
        "time-local: the second pass has the old weights",
    ),
    Mutant(
        "_two_pass.py",
        "    share = count * positions **",
        "    share = positions **",
        (TWO_PASS,),
        "sum over the batch",
    ),
    Mutant(
        "_two_pass.py",
        '{"sum": 0.0, "sqrt": 0.5, "mean": 1.0}',
        '{"sum": 0.0, "sqrt": 1.0, "mean": 0.5}',
        (TWO_PASS,),
        "mean and root of positions exchanged",
    ),
    Mutant(
        "_two_pass.py",
        "[(one - other) / switches.perturbation for",
        "[(one - other) for",
        (TWO_PASS,),
        "not divided by eps",
    ),
    Mutant(
        "_two_pass.py",
        "return jax.nn.softmax(temperature * s) if",
        "return jax.nn.softmax(s) if",
        (TWO_PASS,),
        "no temperature",
    ),
    Mutant(
        "pepita.py",
        "bound = spread * 3**0.5",
        "bound = settings.feedback_scale * 3**0.5",
        (TWO_PASS,),
        "Bstd as the deviation",
    ),
    Mutant("pepita.py", "        xi = xi - xi.mean()\n", "", (TWO_PASS,), "noise keeps its mean"),
    Mutant(
        "pepita.py",
        "eta = _two_pass.answer(nets.output.read(state.params, xi), options.error)",
        "eta = nets.output.read(state.params, xi)",
        (TWO_PASS,),
        "mirroring without the softmax",
    ),
    Mutant(
        "pepita.py",
        "B_l + options.mirror_rate * (xi.T",
        "B_l - options.mirror_rate * (xi.T",
        (TWO_PASS,),
        "anti-mirroring",
    ),
    Mutant("pepita.py", "F=(factor * F).T", "F=F.T", (TWO_PASS,), "F is not scaled with its factors"),
    Mutant(
        "pepita.py",
        "B = tuple(factor ** (1 / len(B)) * B_l",
        "B = tuple(factor * B_l",
        (TWO_PASS,),
        "factors scaled by all",
    ),
    Mutant(
        "pepita.py",
        "    _check_part(part, settings)\n    noise_key",
        "    noise_key",
        (TWO_PASS,),
        "an update takes any part",
    ),
    Mutant("foton.py", "        sign=-1.0,\n", "        sign=1.0,\n", (TWO_PASS,), "FOTON adds the error"),
    Mutant(
        "foton.py",
        "    if settings.feedback_every == 1:\n        F = feedback(params, shape, net)",
        "    if settings.feedback_every == 1:\n        F = state.F",
        (TWO_PASS,),
        "F is never refreshed",
    ),
    Mutant("foton.py", "    W, G = W / jnp.sqrt(square), G / square\n", "", (TWO_PASS,), "Björck without scaling"),
    Mutant("foton.py", "(W.T @ W if at else G)", "G", (TWO_PASS,), "later iterations see the first error"),
    Mutant("foton.py", "math.comb(2 * i, i) / 4**i", "1 / 2**i", (TWO_PASS,), "another series"),
    Mutant(
        "foton.py",
        "        return Q.T, v\n",
        "        return Q.T, v[::-1]\n",
        (TWO_PASS,),
        "the vector of wide matrices is not handed on",
    ),
    Mutant("foton.py", "retraction(options.retract_every, ", "retraction(10**6, ", (TWO_PASS,), "no retraction"),
    Mutant(
        "foton.py", "(state.step + 1) % every == 0", "state.step % every == 0", (TWO_PASS,), "retraction one step early"
    ),
    Mutant("foton.py", "jnp.abs(G).sum(0).max() / BOUND", "0.0", (TWO_PASS,), "no bound on the scale from below"),
    Mutant(
        "foton.py",
        "  v = jnp.where(length > 0, u / jnp.maximum(length, tiny), v)",
        "  v = u / jnp.maximum(length, tiny)",
        (TWO_PASS,),
        "zeros are never left",
    ),
    Mutant(
        "training/steps.py",
        "active=finite & ~stop & (hits < 2)",
        "active=finite & ~stop & (hits < 1)",
        (TRAIN,),
        "one validation at the target ends a run",
    ),
    Mutant(
        "training/run.py",
        "        active=~(tracker.diverged | tracker.ended),\n",
        "        active=~tracker.diverged,\n",
        (TRAIN,),
        "a run that reached its target trains on in the next stage",
    ),
    Mutant(
        "training/run.py",
        "        stage=jnp.where(tracker.ended, tracker.stage, job.stage),\n",
        "        stage=jnp.full_like(tracker.stage, job.stage),\n",
        (TRAIN,),
        "a run that ended early is tested with a layer it never trained",
    ),
    Mutant(
        "tune/search.py", "        test=False,\n", "        test=True,\n", ("test_tune",), "a search reads the test set"
    ),
    Mutant(
        "tune/search.py",
        "nan_to_num(accuracies, nan=0.0)",
        "nan_to_num(accuracies, nan=1.0)",
        ("test_tune",),
        "a diverged seed counts as all right",
    ),
    Mutant(
        "training/prepare.py",
        "return slice(self.group[1] - self.group[0]) if self.padding else ...",
        "return ...",
        (SHARDING,),
        "the runs that only fill the last device reach the result",
    ),
    Mutant(
        "training/host.py",
        "            self.ending = np.zeros(work.group[1] - work.group[0], bool)",
        "            self.ending = None",
        (SHARDING,),
        "the runs that only fill the last device are trained",
    ),
    Mutant(
        "training/programs.py",
        '{"xla_disable_hlo_passes": "spmd-cleanup"}',
        "{}",
        (SHARDING,),
        "several devices have other last bits than one",
    ),
    Mutant(
        "training/programs.py",
        "with jax.default_matmul_precision(DOT[setup.precision]):",
        'with jax.default_matmul_precision("default"):',
        (SHARDING,),
        "the precision is the device's default, whatever was asked for",
    ),
    Mutant(
        "training/programs.py",
        "    if len(kinds) > 1:",
        "    if len(kinds) > 2:",
        (SHARDING,),
        "devices of two kinds are mixed",
    ),
    Mutant(
        "training/images.py",
        "rows = np.take_along_axis(self.train, order, axis=-1)",
        "rows = self.train",
        (SHARDING,),
        "streamed images come in the same order in every epoch",
    ),
    Mutant(
        "training/host.py",
        "if free is None or not self.work.must_fit or count == 1:",
        "if free is None or count == 1:",
        (SHARDING,),
        "a group that was asked for is refused by an estimate",
    ),
    Mutant(
        "training/many.py",
        "min(saved_runs(path) if going_on else most, count - first)",
        "min(most, count - first)",
        (SHARDING,),
        "a resumed group takes as many runs as fit today",
    ),
    Mutant(
        "training/many.py", "return -(-size // 2)", "return 1", (SHARDING,), "one at a time as soon as memory runs out"
    ),
    Mutant(
        "tune/workers.py",
        "dead = host == platform.node() and not is_alive(process, *thread)",
        "dead = not is_alive(process, *thread)",
        ("test_tune_workers",),
        "a process of another machine is looked for on this one",
    ),
    Mutant(
        "tune/workers.py",
        "# the storage's word, or that of the study before\n        return False",
        "\n        return True",
        ("test_tune_workers",),
        "everyone who notices a death asks for the repetition",
    ),
    Mutant(
        "study/execute.py",
        "mine = [[i for i in positions if i % work.processes == work.process] for positions in missing]",
        "mine = missing",
        ("test_processes",),
        "every process trains every run",
    ),
    Mutant(
        "study/folder.py",
        'if before and not summary["finished"]:',
        "if False:",
        ("test_processes",),
        "what is begun undoes what is done",
    ),
    Mutant(
        "study/sharing.py",
        "numbers = {self.process} | {number for number in there if number % self.processes == self.process}",
        "numbers = {self.process}",
        ("test_processes",),
        "a restart with fewer processes does not see one that is still at work",
    ),
    Mutant(
        "ff.py", "label_strength, 0.1)", "label_strength, 0.01)", (ANCESTORS,), "a label of a hundredth of the energy"
    ),
    Mutant("options.py", "for name in settled:", "for name in ():", (REFUSALS,), "options that do nothing are taken"),
    Mutant(
        "options.py",
        "defaults = [kind._field_defaults[name], *harmless.get(name, ())]",
        "defaults = [kind._field_defaults[name]]",
        (REFUSALS,),
        "a recipe's own settings are refused",
    ),
    Mutant(
        "options.py",
        "not any(is_same(value, one) for one in wanted):",
        "not any(is_same(value, one) for one in wanted[:1]):",
        (REFUSALS,),
        "an option is idle with all but the first value that it is for",
    ),
    Mutant("descent.py", "if not isinstance(state, kind):", "if state is None:", (REFUSALS,), "any state is stepped"),
    Mutant(
        "descent.py",
        "return jax.tree.structure(start) == jax.tree.structure(opt_state)",
        "return True",
        (REFUSALS,),
        "the state of another optimizer is stepped",
    ),
    Mutant(
        "_labels.py", "return strength * label", "return label", (ANCESTORS,), "the strength of the label is forgotten"
    ),
    Mutant(
        "ff.py", "0.03 if _sums(settings) and", "0.03 if", (ANCESTORS,), "the peer term drowns the gradient of a mean"
    ),
    Mutant("ff.py", "and all(fits) else 0.0", "else 0.0", (ANCESTORS,), "a peer term where maxima are pooled"),
    Mutant(
        "descent.py",
        "state, layer, next(losses), value_fn)",
        "state, layer, sum(values), value_fn)",
        ("test_debugging",),
        "the sum for a layer's loss",
    ),
    Mutant(
        "descent.py", "opt_state, params, value=value", "opt_state, params, value=0.0", ("test_debugging",), "no loss"
    ),
    Mutant(
        "descent.py", "(1 - one.b1) * z) / one.b1", "one.b1 * z) / one.b1", ("test_small_inputs",), "wrong averages"
    ),
    Mutant("training/steps.py", "& real[None, :]", "", ("test_layers",), "what fills a batch up counts by layer"),
    Mutant("base.py", "if axes := _split_over(y):", "if axes := ():", (SHARDING,), "gradients summed over shards"),
    Mutant(
        "training/programs.py",
        "return jax.device_put(tree)",
        "return jax.tree.map(jax.numpy.asarray, tree)",
        ("test_debugging",),
        "a transfer nobody sees",
    ),
    Mutant("training/steps.py", "done.astype(jnp.float32)", "done", ("test_debugging",), "a promotion nobody sees"),
    Mutant("training/result.py", "np.repeat(v, count) if", "np.tile(v, count) if", (TRAIN,), "epochs of other rows"),
    Mutant("training/result.py", "values.std(ddof=1)", "values.std()", (TRAIN,), "sd of the population"),
    Mutant(
        "nets/blocks.py",
        "_by_name(getattr(self, name)) for",
        "getattr(self, name) for",
        ("test_debugging",),
        "no pickling",
    ),
    Mutant(
        "training/loop.py",
        "for label in np.unique(y)]",
        "for label in np.unique(y)[:1]]",
        ("test_imbalance",),
        "one class",
    ),
    Mutant("data/checks.py", "if len(x) != len(y):", "if False:", ("test_data_door",), "parts of several lengths"),
    Mutant(
        "results/tensors.py",
        "    if length > HEADER_LIMIT:\n",
        "    if length > 2**60:\n",
        ("test_tensors",),
        "headers of any length are read",
    ),
    Mutant(
        "results/tensors.py",
        "    if end != room:\n",
        "    if end < room:\n",
        ("test_tensors",),
        "more bytes may be promised than follow",
    ),
    Mutant(
        "results/tensors.py",
        "        write_whole(path, write)\n",
        "        with open(path, 'wb') as file:\n            write(file)\n",
        ("test_tensors",),
        "a model is written in its place",
    ),
    Mutant(
        "study/saving.py",
        '(-run["val_accuracy"], worst',
        '(-run["test_accuracy"], worst',
        ("test_models",),
        "the best run is chosen on the test set",
    ),
    Mutant(
        "study/saving.py",
        "    if best is None or not model_path(folder, rule, best).exists():\n",
        "    if best is None:\n",
        ("test_models",),
        "an earlier best goes before its better is there",
    ),
    Mutant(
        "study/sharing.py",
        "            take_models(part, self.folder)\n",
        "            pass\n",
        ("test_models",),
        "models of parts are removed with them",
    ),
    Mutant(
        "models/opening.py",
        '    if ".py" in text:\n',
        '    if ".py" in text and not Path("/tmp").exists():\n',
        ("test_models",),
        "code that a model names is run",
    ),
    Mutant(
        "models/model.py",
        "np.repeat(raw[-1:], ROWS - count, axis=0)",
        "np.repeat(raw[-1:], -count % 8, axis=0)",
        ("test_models",),
        "a sample's bits depend on its neighbours",
    ),
    Mutant(
        "data/columns.py",
        "(x - np.asarray(self.mean)) / np.asarray(self.sd)",
        "(x - x.mean(0)) / np.asarray(self.sd)",
        ("test_models",),
        "later rows are centred by themselves",
    ),
    Mutant(
        "training/states.py",
        "kept = bare if _predicts(rule, bare, shape) else state",
        "kept = bare",
        ("test_models",),
        "a prediction that reads the optimizer's state loses it",
    ),
    Mutant(
        "files.py",
        "claimed != size - start:",
        "claimed < 0:",
        ("test_crashes",),
        "a forged header decides how much memory is asked for",
    ),
    Mutant(
        "files.py", "for path in new or [folder]:", "for path in []:", ("test_lost",), "names of folders stay in memory"
    ),
    Mutant(
        "training/interrupts.py",
        "if signals:\n            raise KeyboardInterrupt",
        "if False:\n            raise KeyboardInterrupt",
        ("test_interrupts",),
        "a second Ctrl-C does not end a run at once",
    ),
    Mutant(
        "training/loop.py", "if host.must_stop():", "if False:", ("test_interrupts",), "a Ctrl-C in fit is swallowed"
    ),
    Mutant(
        "tune/search.py",
        "first, again = earlier, True",
        "again = earlier = None\n            break",
        ("test_tune",),
        "what is tried again takes the place of a new trial",
    ),
    Mutant(
        "tune/workers.py",
        "            and GIVEN_UP not in trial.user_attrs\n",
        "",
        ("test_tune",),
        "a trial that fails by itself is tried for ever",
    ),
]


PARTS = ("not deep and not slow", "deep and not slow", "slow")
"""Marks of the tests: the deep ones only where the quick ones all pass, and the slow ones last."""
NOTHING_TO_RUN = 5
"""Exit code of pytest where a part has no test."""


def unneeded(folder: str, names: list[str]) -> set[str]:
    """What no test needs; of folders named results only the one of runs, for the package has one, too."""
    found = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache")(folder, names)
    return found | ({"results"} if Path(folder) == ROOT else set())


def survives(number: int, mutant: Mutant) -> bool:
    """Apply the mutant to a copy of the repository and run its tests; true if they all pass."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "repository"
        shutil.copytree(ROOT, copy, ignore=unneeded)
        file = copy / "fwdonly" / mutant.file
        text = file.read_text()
        if mutant.old and text.count(mutant.old) != 1:
            raise SystemExit(
                f"mutant {number}: its text occurs {text.count(mutant.old)} times in {mutant.file}: {mutant.old!r}"
            )
        if mutant.old:
            file.write_text(text.replace(mutant.old, mutant.new))
        tests = [str(next(copy.glob(f"tests/*/{name}.py"))) for name in mutant.tests]
        environment = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
        begin = time.perf_counter()
        for part in PARTS:
            command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "2", "-p", "no:cacheprovider", "-m", part]
            done = subprocess.run([*command, *tests], cwd=copy, env=environment, capture_output=True, text=True)
            alive = done.returncode in (0, NOTHING_TO_RUN)
            # A test that failed, not a suite that could not start, is what counts; with -x pytest-xdist exits with 2.
            if not alive and "FAILED" not in done.stdout:
                raise SystemExit(f"mutant {number}: pytest could not run\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
            if not alive:
                break
    caught = next((line for line in done.stdout.splitlines() if line.startswith("FAILED")), "")
    verdict = "SURVIVED" if alive else "caught"
    print(
        f"{number:2d} {verdict} in {time.perf_counter() - begin:.0f} s: {mutant.file}: {mutant.defect}  {caught[:110]}",
        flush=True,
    )
    return alive


def main() -> int:
    """Run the mutants named by number on the command line, or all."""
    chosen = [int(word) for word in sys.argv[1:]] or range(len(MUTANTS))
    tests = tuple(dict.fromkeys(name for number in chosen for name in MUTANTS[number].tests))
    control = Mutant("mf.py", "", "", tests, "control: no defect, every test passes")
    if not survives(-1, control):
        print("the tests fail without a mutant; nothing can be said of mutants")
        return 1
    alive = [number for number in chosen if survives(number, MUTANTS[number])]
    print(f"{len(chosen) - len(alive)} of {len(chosen)} mutants caught")
    for number in alive:
        print(f"survivor {number}: {MUTANTS[number]}")
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main())
