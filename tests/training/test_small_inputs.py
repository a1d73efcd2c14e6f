"""Optimizers, processes and files as users have them: what failed at a new user's first attempts."""

import copy
import functools
import gc
import json
import os
import pickle
import signal
import subprocess
import sys
import time
import weakref

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fwdonly
from fwdonly import RULES, LearningRule, Plan, UsageError, alignment, bp, cafo, fit, mf, nets
from fwdonly.base import for_prediction
from fwdonly.training import programs

SCHEDULE_FREE = optax.contrib.schedule_free_adamw(1e-2)
NET = nets.mlp([9, 6])
KEY = jax.random.key(1)


def net_of(name):
    return nets.mlp([9, 6], kernel_init=nets.orthogonal, bias="none") if name == "foton" else NET


def stepped(rule, batch, steps=4):
    state = rule.init(jax.random.key(0), batch.x)
    update = jax.jit(rule.update)
    for step in range(steps):
        state, _ = update(state, batch, jax.random.key(step))
    return state


def averages(name, state):
    """The evaluation parameters by Optax's own function, for the place where each rule has its optimizers."""
    of = optax.contrib.schedule_free_eval_params
    if name == "cafo":
        return state.params._replace(heads=tuple(map(of, state.opt_state[0], state.params.heads)))
    if name in ("mf", "ff", "cwc", "deeperforward", "forward_gradient", "zeroth_order", "phyll", "scff"):
        return tuple(map(of, state.opt_state, state.params))
    return of(state.opt_state[0] if name == "foton" else state.opt_state, state.params)


@pytest.mark.parametrize("name", RULES)
def test_a_rule_predicts_with_the_averages_of_a_schedule_free_optimizer(name, batch):
    rule = RULES[name].rule(net_of(name), SCHEDULE_FREE, num_classes=3)
    state = stepped(rule, batch)
    wanted = rule.predict(state._replace(params=averages(name, state), opt_state=None), batch.x)
    np.testing.assert_allclose(rule.predict(state, batch.x), wanted, rtol=1e-5, atol=1e-6)
    raw = rule.predict(state._replace(opt_state=None), batch.x)
    assert np.abs(np.asarray(raw - wanted)).max() > 1e-4  # the control
    assert for_prediction(for_prediction(state)).opt_state is None


def test_averages_of_parts_are_taken_and_other_optimizers_left_alone(batch):
    """A mask, and frozen layers, which the optimizer never sees."""
    masked = optax.chain(optax.clip(1.0), optax.masked(SCHEDULE_FREE, lambda p: jax.tree.map(lambda a: a.ndim > 1, p)))
    state = stepped(bp.rule(NET, masked, num_classes=3), batch)
    z = state.opt_state[1].inner_state.z
    found = for_prediction(state).params
    np.testing.assert_allclose(found.W, (state.params.W - 0.1 * z.W) / 0.9, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(found.b, state.params.b)
    frozen = stepped(bp.rule(NET, SCHEDULE_FREE, num_classes=3, hidden="frozen"), batch)
    found = for_prediction(frozen).params
    jax.tree.map(np.testing.assert_array_equal, found.blocks, frozen.params.blocks)
    np.testing.assert_allclose(found.W, (frozen.params.W - 0.1 * frozen.opt_state.z.W) / 0.9, rtol=1e-5, atol=1e-7)
    usual = stepped(bp.rule(NET, optax.adam(1e-2), num_classes=3), batch)
    assert for_prediction(usual) is usual


def test_a_closed_form_and_blocks_that_feedback_trains_have_the_right_averages(batch):
    solved = stepped(cafo.rule(NET, SCHEDULE_FREE, num_classes=3, loss="mse"), batch)
    close = lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, for_prediction(solved).params, solved.params)
    rule = cafo.rule(NET, SCHEDULE_FREE, num_classes=3, part="blocks", block_tx=SCHEDULE_FREE)
    state = stepped(rule, batch)
    trained = state.params.blocks, state.params.A
    wanted = optax.contrib.schedule_free_eval_params(state.opt_state[1], trained)
    jax.tree.map(close, for_prediction(state).params[1:], wanted)


def test_alignment_is_taken_where_the_gradients_were(batch):
    """BP beside itself: the angle is 0 at the parameters that step, not at their averages."""
    rule = bp.rule(NET, SCHEDULE_FREE, num_classes=3)
    state = stepped(rule, batch)
    gradients, _ = rule.grads(state, batch, jax.random.key(0))
    np.testing.assert_allclose(alignment(rule.predict, state, gradients, batch).cosine, 1, rtol=1e-5)


def users_rule():
    """A rule of a user's own, which has never heard of averages: softmax regression."""

    def init(key, x):
        W = jnp.zeros((x[0].size, 4))
        return bp.State((W,), SCHEDULE_FREE.init((W,)))

    def scores(state, x):
        return x.reshape(len(x), -1) @ state.params[0]

    def update(state, batch, key):
        def loss(params):
            return fwdonly.base.cross_entropy(scores(state._replace(params=params), batch.x), batch.y)

        value, gradient = jax.value_and_grad(loss)(state.params)
        params, opt_state = fwdonly.base.descend(SCHEDULE_FREE, gradient, state.opt_state, state.params, value)
        return bp.State(params, opt_state), {"loss": value}

    return LearningRule(init, update, scores)


@pytest.mark.parametrize("own", [False, True], ids=["ours", "a user's"])
def test_fit_and_saved_models_use_the_averages(own, tiny, tmp_path):
    rule = users_rule() if own else mf.rule(NET, SCHEDULE_FREE, num_classes=4)
    found = fit(rule, tiny, Plan(epochs=2, batch_size=20, keep="last"))
    fwdonly.save(tmp_path / "m.safetensors", found, rule, tiny)
    model = fwdonly.load(tmp_path / "m.safetensors", rule=rule)
    assert model.evaluate(tiny).accuracy == pytest.approx(float(found.test_accuracy), abs=1e-6)
    assert model.evaluate(tiny).loss == pytest.approx(float(found.test_loss), rel=1e-5)
    raw = fwdonly.models.Model(rule, found.state._replace(opt_state=None), model.inputs, model.saved)
    assert abs(raw.evaluate(tiny).loss - float(found.test_loss)) > 1e-4  # the control


SEARCHING = optax.lbfgs(linesearch=optax.scale_by_backtracking_linesearch(8))
ONE = nets.mlp([6])
LINE_SEARCH = {
    "bp": (bp.rule(ONE, SEARCHING, num_classes=4), lambda params: params),
    "frozen": (
        bp.rule(ONE, SEARCHING, num_classes=4, hidden="frozen"),
        lambda params: params._replace(blocks=()),
    ),
    "mf": (mf.rule(ONE, SEARCHING, num_classes=4, layer=1), lambda params: params[0]),
}


@pytest.mark.parametrize("name", LINE_SEARCH)
def test_a_line_search_is_optaxs_own_on_the_rules_loss(name, tiny):
    """By optax's documented loop, over the loss of a network that is written out here; the whole batch."""
    rule, trained = LINE_SEARCH[name]
    x, y = jnp.asarray(tiny.x_train, jnp.float32) / 255, jnp.asarray(tiny.y_train)
    start = state = rule.init(jax.random.key(0), x)

    def loss(part):
        hidden = part.block if name == "mf" else (part.blocks or start.params.blocks)[0]
        layer = hidden["params"]["Dense_0"]
        a = jax.nn.relu(x.reshape(len(x), -1) @ layer["kernel"] + layer["bias"][None])
        scores = a @ part.M.T if name == "mf" else a @ part.W + part.b[None]
        return -jax.nn.log_softmax(scores)[jnp.arange(len(y)), y].mean()

    part = trained(state.params)
    opt_state = SEARCHING.init(part)

    @jax.jit
    def step(part, opt_state):
        value, gradient = jax.value_and_grad(loss)(part)
        moved, opt_state = SEARCHING.update(gradient, opt_state, part, value=value, grad=gradient, value_fn=loss)
        return optax.apply_updates(part, moved), opt_state

    update = jax.jit(rule.update)
    for _ in range(4):
        state, _ = update(state, fwdonly.Batch(x, y), jax.random.key(2))
        part, opt_state = step(part, opt_state)
    near = lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
    jax.tree.map(near, trained(state.params), part)
    assert loss(part) < 0.9 * loss(trained(start.params))  # the control: it has moved


USUAL = {
    "clip": lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2)),
    "mask by shape": lambda: optax.adamw(1e-2, mask=lambda p: jax.tree.map(lambda a: a.ndim > 1, p)),
    "parts": lambda: optax.multi_transform(
        {"W": optax.adam(1e-2), "b": optax.sgd(1e-2)},
        lambda p: jax.tree.map(lambda a: "W" if a.ndim > 1 else "b", p),
    ),
    "accumulation": lambda: optax.MultiSteps(optax.adam(1e-2), 2).gradient_transformation(),
    "injected rate": lambda: optax.inject_hyperparams(optax.adam)(learning_rate=1e-2),
    "if finite": lambda: optax.apply_if_finite(optax.adam(1e-2), 3),
    "sharpness": lambda: optax.contrib.sam(optax.adam(1e-2), optax.chain(optax.contrib.normalize(), optax.sgd(1e-3))),
    "prodigy": lambda: optax.contrib.prodigy(1.0),
    "muon": lambda: optax.contrib.muon(1e-2),
    "lion": lambda: optax.lion(1e-3),
    "momo": lambda: optax.contrib.momo(1.0),
    "polyak": lambda: optax.polyak_sgd(1e-1),
    "plateau": lambda: optax.chain(optax.adam(1e-2), optax.contrib.reduce_on_plateau()),
}
"""Optimizers that users have, with the names of what is special in them."""


@pytest.mark.parametrize("name", USUAL)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_usual_optimizers_train(name, tiny):
    """The loss falls under each."""
    x, y = jnp.asarray(tiny.x_train[:40], jnp.float32) / 255, jnp.asarray(tiny.y_train[:40])
    rule = mf.rule(ONE, USUAL[name](), num_classes=4)

    def step(state, key):
        state, metrics = rule.update(state, fwdonly.Batch(x, y), key)
        return state, metrics["loss"]

    keys = jax.random.split(jax.random.key(1), 60)
    losses = jax.jit(functools.partial(jax.lax.scan, step))(rule.init(keys[0], x), keys)[1]
    assert losses[-1] < 0.95 * losses[0] and np.isfinite(losses).all()


def test_a_state_is_a_tree_as_others_are(batch):
    """Copied, pickled, and written and read by Flax, it goes on as it was."""
    rule = mf.rule(NET, optax.adam(1e-2), num_classes=3)
    state, update = rule.init(jax.random.key(0), batch.x), jax.jit(lambda state: rule.update(state, batch, KEY)[0])
    want = update(state)
    blank = jax.tree.map(jnp.zeros_like, state)
    copies = [
        copy.deepcopy(state),
        pickle.loads(pickle.dumps(state)),
        flax.serialization.from_bytes(blank, flax.serialization.to_bytes(state)),
    ]
    for other in copies:
        jax.tree.map(np.testing.assert_array_equal, update(other), want)


def test_keys_and_inputs_of_other_kinds_are_taken(batch):
    rule = mf.rule(ONE, optax.sgd(0.1), num_classes=3)
    update, wanted = jax.jit(rule.update), rule.init(jax.random.key(0), batch.x)
    jax.tree.map(np.testing.assert_array_equal, rule.init(jax.random.PRNGKey(0), batch.x), wanted)
    other = rule.init(jax.random.key(0, impl="rbg"), batch.x)
    assert np.isfinite(update(other, batch, jax.random.key(1, impl="rbg"))[1]["loss"])
    for dtype in (jnp.bfloat16, jnp.float16):
        state, metrics = update(wanted, batch._replace(x=batch.x.astype(dtype)), KEY)
        assert np.isfinite(metrics["loss"]) and {leaf.dtype for leaf in jax.tree.leaves(state)} == {np.dtype("float32")}


def test_programs_of_trainings_that_are_over_are_freed(tiny, monkeypatch):
    """As many as the cache holds are kept, and no more."""
    monkeypatch.setattr(programs, "program", functools.lru_cache(maxsize=1)(programs.program.__wrapped__))
    alive = []
    for rate in (0.1, 0.2):
        rule = mf.rule(ONE, optax.sgd(rate), num_classes=4)
        alive.append(weakref.ref(rule.update))
        fit(rule, tiny, Plan(epochs=1, batch_size=20), test=False)
    gc.collect()
    assert [one() is None for one in alive] == [True, False]  # the last one is still named here


def in_process(program, *words, timeout=120):
    arguments = [sys.executable, "-W", "ignore", "-c", program, *words]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=timeout)


PICKLED = """
import pickle, jax, jax.numpy as jnp, optax
from fwdonly import RULES, Batch, nets
batch = Batch(jax.random.normal(jax.random.key(5), (6, 8)), jnp.arange(6) % 3)
for name, module in RULES.items():
    net = nets.mlp([9, 6], kernel_init=nets.orthogonal, bias="none")
    rule = module.rule(net, optax.adam(1e-2), num_classes=3)
    again = pickle.loads(pickle.dumps(rule))
    state = rule.init(jax.random.key(0), batch.x)
    updates = [one.update(state, batch, jax.random.key(1)) for one in (rule, again)]
    equal = jax.tree.map(lambda a, b: bool((a == b).all()), *updates)
    same = rule.predict(state, batch.x) == again.predict(state, batch.x)
    print(name, all(jax.tree.leaves(equal)), bool(same.all()))
"""


def test_rules_pickle():
    """In a process without beartype, whose wrappers do not pickle."""
    ended = in_process(PICKLED, timeout=240)
    assert ended.stdout.splitlines() == [f"{name} True True" for name in RULES], ended.stderr


SPAWNED = """
import concurrent.futures, multiprocessing, optax
from fwdonly import Plan, data, fit, mf, nets

def accuracy(rule):
    return float(fit(rule, data.load("digits"), Plan(epochs=1)).test_accuracy)

if __name__ == "__main__":
    rule = mf.rule(nets.mlp([8]), optax.adam(1e-2), num_classes=10)
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        print(pool.submit(accuracy, rule).result() == accuracy(rule))
"""


def test_a_pool_of_processes_takes_a_rule(tmp_path):
    (tmp_path / "pool.py").write_text(SPAWNED)
    ended = subprocess.run([sys.executable, tmp_path / "pool.py"], capture_output=True, text=True, timeout=240)
    assert ended.stdout.strip() == "True", ended.stderr


FORKED = """
import os, sys, jax, optax, fwdonly
from fwdonly import Plan, UsageError, data, fit, mf, nets, sweep
if sys.argv[1] == "used":
    jax.numpy.zeros(1).block_until_ready()
if os.fork() == 0:
    rule = lambda: mf.rule(nets.mlp([8]), optax.adam(1e-2), num_classes=10)
    for train in (lambda: fit(rule(), data.load("digits"), Plan(epochs=1)),
                  lambda: sweep(rule, data.load("digits"), Plan(epochs=1), seeds=[0])):
        try:
            print("trained" if train().finished else "", flush=True)
        except UsageError as error:
            print(error, flush=True)
    os._exit(0)
os.wait()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_training_in_a_forked_child_is_one_line_where_jax_was_used_before():
    began = time.monotonic()
    lines = in_process(FORKED, "used").stdout.splitlines()
    assert time.monotonic() - began < 60  # without it: for ever
    assert len(lines) == 2 and all("forked from one that had used JAX" in line and '"spawn"' in line for line in lines)
    assert in_process(FORKED, "unused").stdout.split() == ["trained", "trained"]  # the control


def test_a_schedule_of_numpy_is_one_line(tiny):
    schedule = lambda count: np.exp(-np.asarray(count))
    with pytest.raises(UsageError, match="computes with jnp, not with np") as refused:
        fit(mf.rule(NET, optax.sgd(schedule), num_classes=4), tiny, Plan(epochs=1))
    assert "\n" not in str(refused.value)


JOB = ["-m", "fwdonly", "train", "mf", "--dataset", "digits", "--net", "mlp:16", "--seeds", "2", "--resume", "--quiet"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_job_is_requeued_with_the_same_command(number, tmp_path):
    """As SLURM preempts and requeues: a first start without a folder, a signal, the same command until it is done."""
    words = [sys.executable, *JOB, "--epochs", "400", "--alone", "--output-dir"]
    once = subprocess.run([*words, tmp_path / "once"], capture_output=True, text=True, timeout=240)
    assert once.returncode == 0, once.stderr
    job = subprocess.Popen([*words, tmp_path / "job"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (tmp_path / "job" / "config.json").exists():
        assert time.monotonic() < deadline and job.poll() is None, job.communicate()
        time.sleep(0.01)
    time.sleep(0.2)
    job.send_signal(number)
    job.communicate(timeout=120)
    assert job.returncode in (130, 0)  # 0: it had ended before the signal came
    for _ in range(2):  # continued, then finished: its result is shown again
        again = subprocess.run([*words, tmp_path / "job"], capture_output=True, text=True, timeout=240)
        assert again.returncode == 0 and "mean of 2" in again.stdout, again.stderr
    runs = [json.loads((tmp_path / name / "summary.json").read_text())["rules"][0]["runs"] for name in ("once", "job")]
    for one, other in zip(*runs, strict=True):
        for what in ("seed", "test_accuracy", "test_loss", "val_loss", "epochs", "kept_epoch"):
            assert one[what] == other[what]


def test_runs_without_models_are_named_where_models_are_asked_for(command, tmp_path):
    words = [*JOB[2:], "--epochs", "1", "--output-dir", tmp_path / "run"]
    assert command(*words, "--save-models", "none")[2] == ""
    code, _, err = command(*words, "--save-models", "all")
    assert code == 0 and err.count("\n") == 1
    assert err.startswith("note: runs that were trained before kept no models, and get none now: mf (seed 0, 1)")
    assert command(*words, "--save-models", "none")[2] == ""
