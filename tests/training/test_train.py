"""Documented behaviour of the loop: resumption, stopping, chunks, sweeps, divergence, bad input."""

import dataclasses
import functools
import itertools
import json
import math
import time

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest

from fwdonly import (
    Batch,
    LearningRule,
    Plan,
    UsageError,
    bp,
    cafo,
    data,
    ff,
    fit,
    mf,
    nets,
    study,
    surroundings,
    sweep,
    tune,
)
from fwdonly.measure import Meter
from fwdonly.training import host, memory
from fwdonly.training.host import Host

NET = nets.mlp([16, 12])


def mf_rule(learning_rate=0.01):
    return mf.rule(NET, optax.adam(learning_rate), num_classes=4)


def mf_stages(learning_rate=0.01):
    return mf.stages(NET, optax.adam(learning_rate), num_classes=4, input_readout=True)


def bp_rule(learning_rate=0.01):
    return bp.rule(NET, optax.adam(learning_rate), num_classes=4)


MF, STAGES, BP = mf_rule(), mf_stages(), bp_rule()  # compiled programs are remembered by rule, and compiling is slow


def identical(a, b) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def same_result(a, b) -> bool:
    """Every number of two results is equal, bit for bit; seconds aside."""
    measured = ("epochs", "kept_epoch", "val_loss", "val_accuracy", "test_loss", "test_accuracy", "diverged")
    return (
        identical(a.state, b.state)
        and all(np.array_equal(getattr(a, name), getattr(b, name), equal_nan=True) for name in measured)
        and all(
            np.array_equal(
                np.concatenate([np.ravel(v) for v in a.history[name]]),
                np.concatenate([np.ravel(v) for v in b.history[name]]),
                equal_nan=True,
            )
            for name in a.history
            if name != "seconds"
        )
    )


class StopAfter:
    """A callback that asks for a stop at its n-th call."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    def __call__(self, _) -> bool:
        self.left -= 1
        return self.left == 0


# Resumption ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [MF, STAGES, BP], ids=["mf", "mf-stages", "bp"])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tiny, tmp_path, rule):
    plan = Plan(epochs=3, batch_size=20, chunk_steps=4, patience=3)
    whole = fit(rule, tiny, plan, seed=5)
    calls = []
    fit(rule, tiny, plan, seed=5, callback=calls.append)
    for number in range(1, len(calls)):
        path = tmp_path / f"{number}.npz"
        part = fit(rule, tiny, plan, seed=5, callback=StopAfter(number), checkpoint=path)
        assert not part.finished and np.isnan(part.test_accuracy)
        rest = fit(rule, tiny, plan, seed=5, checkpoint=path, resume=True)
        assert rest.finished and same_result(rest, whole)
    assert not same_result(fit(rule, tiny, plan, seed=6), whole)  # control: the comparison can fail


def test_a_stop_twice_and_in_a_sweep_resumes_exactly(tiny, tmp_path):
    plan = Plan(epochs=4, batch_size=20, chunk_steps=3, patience=1)
    run = functools.partial(sweep, mf_rule, tiny, plan, seeds=[0, 1, 2], hyper={"learning_rate": [0.003, 0.01, 0.3]})
    whole, path = run(), tmp_path / "c.npz"
    run(callback=StopAfter(2), checkpoint=path)
    run(callback=StopAfter(4), checkpoint=path, resume=True)
    assert same_result(run(checkpoint=path, resume=True), whole)


def test_a_finished_checkpoint_resumes_to_the_same_result_without_training(tiny, tmp_path):
    plan, path = Plan(epochs=2, batch_size=20), tmp_path / "c.npz"
    whole = fit(MF, tiny, plan, checkpoint=path)
    calls = []
    again = fit(MF, tiny, plan, checkpoint=path, resume=True, callback=calls.append)
    assert same_result(again, whole) and not calls


def test_a_checkpoint_of_another_training_is_refused_and_left_alone(tiny, tmp_path):
    plan, path = Plan(epochs=2, batch_size=20), tmp_path / "c.npz"
    fit(MF, tiny, plan, checkpoint=path, callback=StopAfter(1))
    before = path.read_bytes()
    other_net = mf.rule(nets.mlp([16, 13]), optax.adam(0.01), num_classes=4)
    for rule, other_plan, seed in (
        (MF, Plan(epochs=3, batch_size=20), 0),
        (MF, plan, 1),
        (BP, plan, 0),
        (other_net, plan, 0),
    ):
        with pytest.raises(UsageError, match=r"^[^\n]*(another|where)[^\n]*$"):
            fit(rule, tiny, other_plan, seed=seed, checkpoint=path, resume=True)
    other_split = np.arange(20, 200), np.arange(20)
    with pytest.raises(UsageError, match="its split is"):
        fit(MF, tiny, plan, checkpoint=path, resume=True, split=other_split)
    path.write_bytes(before[: len(before) // 2])
    with pytest.raises(UsageError, match="not a readable checkpoint"):
        fit(MF, tiny, plan, checkpoint=path, resume=True)
    assert path.read_bytes() == before[: len(before) // 2]


def test_a_forged_record_of_a_checkpoint_is_refused_in_one_line(tiny, tmp_path):
    plan, path = Plan(epochs=2, batch_size=20), tmp_path / "c.npz"
    fit(MF, tiny, plan, checkpoint=path, callback=StopAfter(1))
    arrays = dict(np.load(path))
    for name, forged in (
        ("stage", 7),
        ("stage", "first"),
        ("step", [1]),
        ("train_seconds", "long"),
        ("features_kept", [[1, 2, 3]]),
        ("rows", [{"val_loss": [1.0, "float12"]}]),
        ("rows", [{"val_loss": [1.0, [[]]]}]),
        ("rows", [{"val_loss": 1.0}]),
    ):
        header = json.loads(arrays["header"].tobytes())
        header["meta"][name] = forged
        np.savez(path, **(arrays | {"header": np.frombuffer(json.dumps(header).encode(), np.uint8)}))
        with pytest.raises(UsageError, match=r"^[^\n]*c\.npz is not a readable checkpoint[^\n]*$"):
            fit(MF, tiny, plan, checkpoint=path, resume=True)
    np.savez(path, **arrays)
    assert fit(MF, tiny, plan, checkpoint=path, resume=True).finished  # control: the record as it was is read


# Chunks, order, preprocessing ----------------------------------------------------------------------------------------


def test_the_length_of_a_chunk_changes_no_number(tiny):
    results = [fit(MF, tiny, Plan(epochs=2, batch_size=20, chunk_steps=k)) for k in (1, 4, 100)]
    assert all(same_result(results[0], other) for other in results[1:])


def recorder() -> LearningRule:
    """Learns nothing; its state counts how often each training image (known by its first two pixels) was used."""

    class State(tuple):
        pass

    def update(state, batch: Batch, key):
        x = jnp.round(batch.x * 255).astype(jnp.int32).reshape(len(batch.y), -1)
        number = x[:, 0] + 256 * x[:, 1]
        params, order, at = state
        order = jax.lax.dynamic_update_slice(order, number, (at,))
        return (params.at[number].add(1), order, at + len(number)), {"loss": jnp.float32(1)}

    def init(key, x):
        return jnp.zeros(200, jnp.int32), jnp.zeros(1000, jnp.int32), jnp.int32(0)

    return LearningRule(init, update, lambda state, x: jnp.zeros((len(x), 4)))


def test_an_epoch_uses_every_training_image_once_in_an_order_drawn_from_the_seed(tiny):
    number = np.arange(200)
    x = np.zeros((200, 6, 6, 1), np.uint8)
    x[:, 0, 0, 0], x[:, 0, 1, 0] = number % 256, number // 256
    numbered = data.Dataset("tiny", "numbered", x, tiny.y_train, tiny.x_test, tiny.y_test, 4)
    split = np.arange(160), np.arange(160, 200)
    plan = Plan(epochs=3, batch_size=20, normalise="none", keep="last", chunk_steps=3)
    orders = []
    for seed in (0, 1):
        counts, order, _ = fit(recorder(), numbered, plan, seed=seed, split=split).state
        np.testing.assert_array_equal(counts, np.repeat([3, 0], [160, 40]))  # the validation images never
        epochs = np.asarray(order[:480]).reshape(3, 160)
        assert all(sorted(epoch) == list(range(160)) for epoch in epochs)
        assert not np.array_equal(epochs[0], epochs[1])
        orders.append(epochs)
    assert not np.array_equal(*orders)


def test_augmentation_changes_the_training_images_and_only_them(tiny):
    plan = Plan(epochs=2, batch_size=20)
    plain, augmented = (fit(mf_rule(0.0), tiny, Plan(epochs=2, batch_size=20, augment=a)) for a in (False, True))
    # With learning rate 0 the losses see nothing but the images.
    assert not np.array_equal(plain.history["train_loss"], augmented.history["train_loss"])
    np.testing.assert_array_equal(plain.history["val_loss"], augmented.history["val_loss"])
    assert plan.augment is False


def test_validation_metrics_are_those_of_the_prediction_over_exactly_the_split(tiny):
    split = np.arange(150), np.arange(150, 187)  # 37: not a multiple of any batch
    result = fit(MF, tiny, Plan(epochs=1, batch_size=20, keep="last"), split=split)
    mean, sd = data.statistics(tiny, "pixel")
    x = (tiny.x_train[150:187] / 255 - np.asarray(mean)) / np.asarray(sd)
    scores = np.asarray(mf.predict(result.state, jnp.asarray(x, jnp.float32), net=NET), np.float64)
    y = tiny.y_train[150:187]
    log_p = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    np.testing.assert_allclose(result.val_loss, -log_p[np.arange(37), y].mean(), rtol=1e-5)
    np.testing.assert_allclose(result.val_accuracy, (scores.argmax(1) == y).mean(), rtol=1e-6)


@pytest.mark.parametrize("how", ["map", "vmap"])
def test_the_predicted_classes_are_those_of_the_kept_states_and_of_the_test_accuracies(tiny, how):
    """Also where runs ended in different stages; the control is another state."""
    plan = Plan(epochs=4, batch_size=20, keep="last", target=0.3)
    result = sweep(mf_stages, tiny, plan, seeds=[0, 1], how=how, hyper={"learning_rate": [0.05, 1e-7]})
    assert result.predictions.shape == (2, 60) and result.predictions.dtype == np.uint8
    right = (result.predictions == tiny.y_test).mean(axis=1)
    np.testing.assert_allclose(right, result.test_accuracy, atol=1e-6)
    assert len(set(result.predictions[0].tolist())) > 1
    one = fit(MF, tiny, Plan(epochs=1, batch_size=20, keep="last"))
    mean, sd = data.statistics(tiny, "pixel")
    x = jnp.asarray((tiny.x_test / 255 - np.asarray(mean)) / np.asarray(sd), jnp.float32)
    np.testing.assert_array_equal(one.predictions, np.asarray(mf.predict(one.state, x, net=NET)).argmax(1))
    assert (one.predictions != np.asarray(mf.predict(MF.init(jax.random.key(9), x), x, net=NET)).argmax(1)).any()


def test_no_classes_are_predicted_where_there_is_no_test(tiny):
    plan = Plan(epochs=2, batch_size=20)
    assert fit(MF, tiny, plan, test=False).predictions is None
    assert fit(MF, tiny, plan, callback=StopAfter(1)).predictions is None
    with pytest.warns(data.DataWarning, match="296 of 300 classes have no sample"):
        many = dataclasses.replace(tiny, num_classes=300)
    wide = mf.rule(NET, optax.adam(0.01), num_classes=300)
    assert fit(wide, many, Plan(epochs=1, batch_size=20)).predictions.dtype == np.uint16


def test_the_callback_sees_every_chunk_and_epoch(tiny):
    seen = []
    fit(STAGES, tiny, Plan(epochs=2, batch_size=20, chunk_steps=3), callback=seen.append)
    assert [p.stage for p in seen if p.record is not None] == [0, 0, 1, 1, 2, 2]
    assert [p.epoch for p in seen if p.record is not None] == [1, 2] * 3
    assert {p.step for p in seen if p.record is None} == {3, 6}  # 9 steps an epoch; its last chunk is the epoch's end
    assert all(p.steps == 9 and len(p.epochs) == 3 for p in seen)
    assert all(b.seconds >= a.seconds for a, b in itertools.pairwise(seen))


@pytest.mark.parametrize("runs", [None, 2])
def test_callbacks_get_the_state_on_request_and_are_called_in_their_order(tiny, runs, monkeypatch):
    plan, order, states = Plan(epochs=2, batch_size=20, chunk_steps=4, keep="last"), [], []

    def first(progress):
        order.append("first")
        states.append((progress.epoch, progress.step, progress.state()))

    def second(progress):
        order.append("second")

    train = functools.partial(fit, MF, tiny) if runs is None else functools.partial(sweep, mf_rule, tiny, seeds=[0, 1])
    more = {} if runs is None else {"hyper": {"learning_rate": 0.01}}
    result = train(plan, callback=[first, second], **more)
    assert order == ["first", "second"] * len(states)
    of_epoch = {epoch: state for epoch, step, state in states if step == 0}
    assert identical(of_epoch[2], result.state)
    assert identical(of_epoch[1], train(dataclasses.replace(plan, epochs=1), **more).state)
    assert not identical(of_epoch[1], of_epoch[2])  # control: a copy, and not what later steps write into
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(UsageError, match="a callback is a function of the progress; got 3"):
        train(plan, callback=[first, 3], **more)


@pytest.mark.parametrize("due", [False, True])
def test_what_callbacks_do_after_a_validation_is_not_counted(tiny, tmp_path, monkeypatch, due):
    monkeypatch.setattr(host, "CHECKPOINT_SECONDS", 0.0 if due else 1e9)
    clocks = []

    def slow(progress):
        if progress.record is not None:
            time.sleep(0.3)
            progress.state()
        clocks.append(progress.seconds)

    result = fit(MF, tiny, Plan(epochs=2, batch_size=20), callback=slow, checkpoint=tmp_path / "c.npz")
    assert 0 < clocks[-1] <= result.train_seconds < 0.3  # and not 0.6 or more
    kept = []
    fit(MF, tiny, Plan(epochs=1, batch_size=20, chunk_steps=3), callback=lambda p: kept.append(p.state))
    with pytest.raises(UsageError, match="ask for it before the callback returns"):
        kept[0]()


@pytest.mark.parametrize(
    ("rule", "more", "words"),
    [
        (MF, {"callback": 5}, "a callback is a function of the progress; got 5"),
        (mf_rule, {"hyper": {"lr": 0.1}}, r"hyper \(lr\) does not fit the function: got an unexpected keyword"),
        (lambda learning_rate: MF, {}, r"hyper \(empty\) does not fit the function: missing a required argument"),
        (mf_rule, {"hyper": {"learning_rate": "a"}}, "learning_rate must be a number, or one for each run; got 'a'"),
        (mf_rule, {"hyper": 5}, "hyper has numbers by name, such as .*; got 5"),
    ],
)
def test_wrong_arguments_of_fit_are_one_line(tiny, monkeypatch, rule, more, words):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(UsageError, match=words) as refused:
        fit(rule, tiny, Plan(epochs=1, batch_size=20), **more)
    assert "\n" not in str(refused.value)


def test_a_loop_over_learning_rates_compiles_once_where_it_gives_the_function(tiny):
    plan = Plan(epochs=1, batch_size=20)
    made = functools.partial(mf.rule, NET, num_classes=4)

    def make(learning_rate):
        return made(optax.adam(learning_rate))

    first, second = (fit(make, tiny, plan, hyper={"learning_rate": rate}) for rate in (0.01, 0.02))
    assert first.compile_seconds > 0 == second.compile_seconds
    assert not identical(first.state, second.state)
    for result, rate in ((first, 0.01), (second, 0.02)):
        alone = fit(make(rate), tiny, plan)
        assert alone.compile_seconds > 0  # control: a rule that is built anew is compiled anew
        same = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
        jax.tree.map(same, result.state.params, alone.state.params)
    with pytest.raises(UsageError, match=r"hyper \(learning_rate\) is for a function"):
        fit(MF, tiny, plan, hyper={"learning_rate": 0.1})
    with pytest.raises(UsageError, match=r"learning_rate has shape \(2,\); give one number$"):
        fit(make, tiny, plan, hyper={"learning_rate": np.array([0.1, 0.2])})


# Stopping ------------------------------------------------------------------------------------------------------------


def all_zero_but_some_training_labels(tiny):
    """Labels 0 throughout; but not of images that are trained on, which must be of two classes at least."""
    y = np.zeros_like(tiny.y_train)
    train, val = data.splits.hold_out(y, 20, 0)
    y[train[:50]] = 1
    with pytest.warns(data.DataWarning, match="1 of 2 classes have no sample in y_test"):
        return dataclasses.replace(tiny, y_train=y, y_test=0 * tiny.y_test, num_classes=2), (train, val)


def scripted(losses) -> LearningRule:
    """Validation loss losses[e - 1] after epoch e, on images that are all of class 0 and have 9 steps an epoch."""
    margins = jnp.asarray([math.log(math.expm1(loss)) for loss in [1.0, *losses]], jnp.float32)

    def predict(state, x):
        return jnp.stack([jnp.zeros(len(x)), jnp.full(len(x), margins[state // 9])], axis=1)

    return LearningRule(lambda key, x: jnp.int32(0), lambda s, b, k: (s + 1, {"loss": jnp.float32(1)}), predict)


SCRIPT = [1.0, 0.9, 0.89995, 0.9, 0.9, 0.9, 0.5, 0.5]


@pytest.mark.parametrize(
    ("min_delta", "keep", "epochs", "kept"),
    [
        (1e-4, "last", 6, 6),  # the third value is no improvement by more than min_delta
        (1e-4, "best_loss", 6, 3),
        (0.0, "best_loss", 8, 7),  # control: here it is one, patience lasts to the drop, and the cap ends it
    ],
)
def test_patience_counts_epochs_without_an_improvement_by_more_than_min_delta(tiny, min_delta, keep, epochs, kept):
    zeros, split = all_zero_but_some_training_labels(tiny)
    plan = Plan(epochs=8, batch_size=20, patience=4, min_delta=min_delta, keep=keep)
    result = fit(scripted(SCRIPT), zeros, plan, split=split)
    np.testing.assert_allclose(result.history["val_loss"], SCRIPT[:epochs], rtol=1e-5)
    assert (result.epochs, result.kept_epoch, result.state) == (epochs, kept, 9 * kept)
    np.testing.assert_allclose(result.test_loss, SCRIPT[kept - 1], rtol=1e-5)


def test_best_accuracy_keeps_the_first_of_equals_and_accuracy_can_be_monitored(tiny):
    zeros, split = all_zero_but_some_training_labels(tiny)
    right_below_ln2 = [1.0, 0.6, 0.9, 0.5, 0.4, 0.4]  # accuracy 0 1 0 1 1 1
    by_loss = fit(scripted(right_below_ln2), zeros, Plan(epochs=6, batch_size=20, patience=2), split=split)
    assert (by_loss.epochs, by_loss.kept_epoch) == (6, 2)
    plan = Plan(epochs=6, batch_size=20, patience=2, monitor="accuracy", keep="best_loss")
    by_accuracy = fit(scripted(right_below_ln2), zeros, plan, split=split)
    assert (by_accuracy.epochs, by_accuracy.kept_epoch) == (4, 4)


def test_a_run_ends_at_the_second_validation_in_a_row_that_reaches_the_target(tiny):
    zeros, split = all_zero_but_some_training_labels(tiny)
    right_below_ln2 = [1.0, 0.6, 0.9, 0.5, 0.4, 0.4]  # accuracy 0 1 0 1 1 1: one alone does not do
    plan = Plan(epochs=6, batch_size=20, target=1.0, keep="last")
    result = fit(scripted(right_below_ln2), zeros, plan, split=split)
    assert (result.epochs, result.target_epoch, result.kept_epoch) == (5, 4, 5)
    never = fit(scripted([1.0, 0.6, 1.0, 0.6]), zeros, dataclasses.replace(plan, epochs=4), split=split)
    assert (never.epochs, never.target_epoch) == (4, 0)
    whole = fit(scripted(right_below_ln2), zeros, dataclasses.replace(plan, target=None), split=split)
    assert (whole.epochs, whole.target_epoch) == (6, 0)
    with pytest.raises(UsageError, match="target is an accuracy"):
        Plan(target=95.0)


def test_the_target_ends_a_run_in_whatever_stage_and_counts_the_epochs_of_all(tiny):
    plan = Plan(epochs=4, batch_size=20, keep="last", target=0.3)  # four classes; the input's readout reaches it
    make = functools.partial(sweep, mf_stages, tiny, plan, seeds=[0, 1], how="map")
    result = make(hyper={"learning_rate": [0.05, 1e-7]})
    alone = fit(mf_stages(0.05), tiny, plan)
    assert 0 < result.target_epoch[0] == alone.target_epoch and result.epochs[0] == result.target_epoch[0] + 1
    accuracy = result.history["val_accuracy"][:, 0]
    first = next(i for i in range(len(accuracy) - 1) if (accuracy[i : i + 2] >= 0.3).all())
    assert result.target_epoch[0] == first + 1
    # What is kept, and tested, is the prediction of the stage that reached it, not of a later one, untrained.
    kept = result.history["stage"][first + 1], result.history["epoch"][first + 1]
    assert kept == (0, result.kept_epoch[0]) and result.val_accuracy[0] == accuracy[first + 1] >= 0.3
    assert identical(jax.tree.map(lambda a: a[0], result.state), alone.state)
    assert result.test_accuracy[0] == alone.test_accuracy
    assert result.target_epoch[1] in (0, *range(1, 13)) and len(result.history["stage"]) >= 12


@pytest.mark.parametrize("how", ["map", "vmap"])
def test_a_callback_may_end_single_runs_for_good(tiny, how):
    plan = Plan(epochs=3, batch_size=20, chunk_steps=3)

    def ends_the_first_after_two_epochs(progress):
        return np.array([progress.stage == 0 and progress.epoch >= 2, False])

    make = functools.partial(sweep, mf_stages, tiny, plan, seeds=[0, 1], how=how, hyper={"learning_rate": 0.01})
    result, whole = make(callback=ends_the_first_after_two_epochs), make()
    assert list(result.epochs) == [2, 9] and list(whole.epochs) == [9, 9] and result.finished
    assert identical(jax.tree.map(lambda a: a[1], result.state), jax.tree.map(lambda a: a[1], whole.state))
    assert np.isnan(result.history["val_loss"][2:, 0]).all()
    np.testing.assert_array_equal(result.history["val_loss"][:2, 0], whole.history["val_loss"][:2, 0])
    with pytest.raises(UsageError, match="truth values"):
        make(callback=lambda _: np.array([True, False, False]))


def test_without_a_test_the_test_set_is_not_read_and_validation_numbers_are_those_of_the_history(tiny):
    plan = Plan(epochs=3, batch_size=20)
    poisoned = dataclasses.replace(tiny, x_test=255 - tiny.x_test, y_test=3 - tiny.y_test)
    tested, untested = fit(MF, tiny, plan), fit(MF, poisoned, plan, test=False)
    assert identical(tested.state, untested.state) and np.isnan([untested.test_accuracy, untested.test_loss]).all()
    for name in ("val_loss", "val_accuracy"):
        assert getattr(untested, name) == getattr(tested, name) == untested.history[name][untested.kept_epoch - 1]
    few = dataclasses.replace(tiny, x_test=tiny.x_test[:4], y_test=tiny.y_test[:4])
    assert identical(fit(MF, few, plan, test=False).state, tested.state)
    assert fit(MF, poisoned, plan).test_accuracy != tested.test_accuracy  # control: with a test it is read


def test_the_history_tells_the_seconds_of_every_validation(tiny):
    seen = []
    result = fit(MF, tiny, Plan(epochs=3, batch_size=20), callback=seen.append)
    seconds = result.history["seconds"]
    assert (np.diff(seconds) > 0).all() and seconds[-1] == pytest.approx(result.train_seconds)
    np.testing.assert_allclose(seconds, [p.seconds for p in seen if p.record is not None])


def test_seconds_of_validation_are_told_apart_from_those_of_the_steps(tiny):
    """Most of the time goes where a long loop is planted: into predictions, or into steps."""

    def busy(x):
        start = jnp.eye(64) * (1 + x.mean())
        return jax.lax.fori_loop(0, 2000, lambda _, a: jnp.tanh(a @ a), start)[0, 0] * 1e-9

    def slow_update(state, batch, key):
        state, metrics = MF.update(state, batch, key)
        return state, metrics | {"loss": metrics["loss"] + busy(batch.x)}

    slow = MF._replace(predict=lambda state, x: MF.predict(state, x) + busy(x)), MF._replace(update=slow_update)
    shares = []
    for rule in slow:
        result = fit(rule, tiny, Plan(epochs=2, batch_size=20), test=False)
        assert 0 < result.validation_seconds < result.train_seconds
        shares.append(result.validation_seconds / result.train_seconds)
    assert shares[0] > 0.5 > shares[1]


def test_a_stage_starts_from_the_kept_state_and_trains_its_layer_alone(tiny):
    plan = Plan(epochs=2, batch_size=20, keep="last")
    stages = mf.stages(NET, optax.adam(0.01), num_classes=4)
    both, first = fit(stages, tiny, plan), fit(stages[:1], tiny, plan)
    assert identical(both.state.params[0], first.state.params[0])
    assert identical(both.state.opt_state[0], first.state.opt_state[0])
    assert not identical(both.state.params[1], first.state.params[1])
    assert both.epochs == 4 and list(both.history["stage"]) == [0, 0, 1, 1]


# Many runs at once ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("users_compilation")
@pytest.mark.parametrize("make", [*(pytest.param(f, marks=pytest.mark.slow) for f in (mf_rule, mf_stages)), bp_rule])
def test_each_run_of_a_sweep_equals_its_single_run(tiny, make):
    rates, plan = [0.003, 0.03], Plan(epochs=5, batch_size=20, chunk_steps=4, patience=1)
    mapped, vmapped = (
        sweep(make, tiny, plan, seeds=[7, 8], hyper={"learning_rate": rates}, how=how) for how in ("map", "vmap")
    )
    for i, (seed, rate) in enumerate(zip([7, 8], rates, strict=True)):
        single = fit(make(rate), tiny, plan, seed=seed)
        assert identical(single.state, jax.tree.map(lambda a, i=i: a[i], mapped.state))
        assert single.test_accuracy == mapped.test_accuracy[i] and single.epochs == mapped.epochs[i]
        for one, many in zip(jax.tree.leaves(single.state), jax.tree.leaves(vmapped.state), strict=True):
            np.testing.assert_allclose(one, many[i], rtol=2e-4, atol=2e-5)
    assert mapped.val_loss[0] != mapped.val_loss[1]  # control: the comparison can fail


@pytest.mark.parametrize("how", ["map", "vmap"])
def test_a_run_that_stopped_is_frozen_while_the_others_go_on(tiny, how):
    rates = [0.01, 10.0]
    plan = Plan(epochs=6, batch_size=20, patience=1, keep="last", chunk_steps=3)
    seen = []
    result = sweep(mf_rule, tiny, plan, seeds=[0, 0], hyper={"learning_rate": rates}, how=how, callback=seen.append)
    # A stopped run reports no loss, rather than that of an empty epoch.
    assert all(np.array_equal(np.isfinite(p.loss), p.active) for p in seen if p.record is None)
    short, long = int(result.epochs.min()), int(result.epochs.max())
    assert short < long, "the scenario needs one run to stop before the other"
    stopped = int(result.epochs.argmin())
    assert np.isnan(result.history["val_loss"][short:, stopped]).all()
    assert np.isfinite(result.history["val_loss"][:, 1 - stopped]).all()
    alone = fit(mf_rule(rates[stopped]), tiny, plan)
    assert alone.epochs == short and alone.test_accuracy == result.test_accuracy[stopped]


@pytest.mark.parametrize("how", ["map", "vmap"])
def test_a_diverged_run_is_reported_and_the_others_finish(tiny, how):
    plan, rates = Plan(epochs=3, batch_size=20), [0.01, np.nan, 0.02]
    result = sweep(mf_rule, tiny, plan, seeds=[0, 1, 2], hyper={"learning_rate": rates}, how=how)
    np.testing.assert_array_equal(result.diverged, [False, True, False])
    np.testing.assert_array_equal(result.epochs, [3, 1, 3])
    np.testing.assert_array_equal(np.isnan(result.test_accuracy), [False, True, False])
    good = sweep(mf_rule, tiny, plan, seeds=[0, 1, 2], hyper={"learning_rate": [0.01, 0.01, 0.02]}, how=how)
    assert not good.diverged.any()
    np.testing.assert_array_equal(result.test_accuracy[[0, 2]], good.test_accuracy[[0, 2]])


def test_a_new_learning_rate_or_seed_compiles_nothing_and_a_new_network_does(tiny):
    traces = []

    def counting(width, learning_rate):
        rule = mf.rule(nets.mlp([width]), optax.adam(learning_rate), num_classes=4)

        def update(state, batch, key):
            traces.append(width)
            return rule.update(state, batch, key)

        return rule._replace(update=update)

    make, plan = functools.partial(counting, 8), Plan(epochs=1, batch_size=20)
    first = sweep(make, tiny, plan, seeds=[0, 1], hyper={"learning_rate": 0.01})
    count = len(traces)
    second = sweep(make, tiny, plan, seeds=[2, 3], hyper={"learning_rate": [0.02, 0.03]})
    assert len(traces) == count > 0 and first.compile_seconds > 0 and second.compile_seconds == 0
    sweep(functools.partial(counting, 9), tiny, plan, seeds=[0, 1], hyper={"learning_rate": 0.01})
    assert len(traces) > count  # control: the counter sees a compilation


def test_equal_seeds_give_mf_and_bp_equal_blocks(tiny):
    plan = Plan(epochs=1, batch_size=20, keep="last")
    ours, theirs = fit(mf_rule(0.0), tiny, plan, seed=3), fit(bp_rule(0.0), tiny, plan, seed=3)
    assert identical([layer.block for layer in ours.state.params], theirs.state.params.blocks)


# Full batches, frozen features, readouts, a plan per stage -----------------------------------------------------------

HEADS = cafo.stages(nets.mlp([12, 8]), optax.sgd(0.1), num_classes=4)


def counts_batches(seen):
    """A rule whose state is the number of steps and the number of images; ``seen`` gets what it is given, traced."""

    def update(state, batch, key):
        seen.append(batch.x.shape)
        return (state[0] + 1, state[1] + len(batch.y)), {"loss": batch.x.sum() + 0.0 * state[0]}

    return LearningRule(lambda key, x: (jnp.int32(0), jnp.int32(0)), update, lambda s, x: x.reshape(len(x), -1)[:, :4])


def test_a_full_batch_is_one_step_an_epoch_over_every_training_image(tiny):
    seen = []
    result = fit(counts_batches(seen), tiny, Plan(epochs=3, batch_size=None, keep="last", normalise="none"))
    assert [int(n) for n in result.state] == [3, 3 * 180] and set(seen) == {(180, 6, 6, 1)}
    total = tiny.x_train[data.split(tiny)[0]].sum() / 255
    np.testing.assert_allclose(result.history["train_loss"], [total] * 3, rtol=1e-4)


def test_validation_every_third_epoch_gives_a_row_each_and_counts_epochs(tiny):
    plan = Plan(epochs=6, batch_size=20, validate_every=3, keep="last", chunk_steps=4)
    seen = []
    result = fit(MF, tiny, plan, callback=seen.append)
    assert list(result.history["epoch"]) == [3, 6] and (result.epochs, result.kept_epoch) == (6, 6)
    assert [p.epoch for p in seen if p.record is not None] == [3, 6] and {p.steps for p in seen} == {9}
    assert all(p.step < 9 and p.epoch <= 6 for p in seen) and {p.epoch for p in seen} > {1, 2, 4}
    assert not identical(result.state, fit(MF, tiny, dataclasses.replace(plan, validate_every=6)).state)  # other orders
    images = fit(counts_batches([]), tiny, dataclasses.replace(plan, normalise="none"))
    assert [int(n) for n in images.state] == [54, 54 * 20]
    covered = tiny.x_train[data.split(tiny)[0]].sum() / 255 / 9  # three whole passes, as the mean over their 27 steps
    np.testing.assert_allclose(images.history["train_loss"], [covered] * 2, rtol=1e-4)
    patient = dataclasses.replace(plan, epochs=60, patience=3, min_delta=100.0)
    assert fit(MF, tiny, patient).epochs == 6  # the first validation is an improvement, the second one is not


def watched(monkeypatch):
    """For every stage that begins, whether features were kept."""
    made, keep = [], Host.keep_features

    def watching(*args):
        kept = keep(*args)
        made.append(kept is not None)
        return kept

    monkeypatch.setattr(Host, "keep_features", watching)
    return made


@pytest.mark.parametrize("batch_size", [20, None])
@pytest.mark.parametrize("how", ["fit", "map", "vmap"])
def test_kept_features_and_recomputed_ones_give_the_same_numbers(tiny, monkeypatch, batch_size, how):
    made = watched(monkeypatch)
    results = []
    for cache_gb in (None, 0.0):
        plan = Plan(epochs=4, batch_size=batch_size, cache_gb=cache_gb, keep="best_loss")
        if how == "fit":
            results.append(fit(HEADS, tiny, plan, seed=3))
        else:
            results.append(sweep(cafo_stages, tiny, plan, seeds=[3, 4], hyper={"learning_rate": 0.1}, how=how))
        assert all(made) if cache_gb is None else not any(made)
        made.clear()
    kept, recomputed = results
    for a, b in zip(jax.tree.leaves(kept.state), jax.tree.leaves(recomputed.state), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(kept.history["train_loss"], recomputed.history["train_loss"], rtol=1e-5)
    np.testing.assert_allclose(kept.test_accuracy, recomputed.test_accuracy, atol=1e-6)
    start = HEADS[0].init(jax.random.key(0), jnp.asarray(tiny.x_train[:20], jnp.float32))
    assert not np.allclose(start.params.heads[0].V, np.ravel(kept.state.params.heads[0].V)[: 12 * 4].reshape(12, 4))


def cafo_stages(learning_rate):
    return cafo.stages(nets.mlp([12, 8]), optax.sgd(learning_rate), num_classes=4)


def test_features_are_not_kept_without_room_or_of_augmented_images(tiny, monkeypatch):
    made = watched(monkeypatch)
    small = Plan(epochs=1, batch_size=20, cache_gb=1e-6)
    fit(HEADS, tiny, small)
    fit(HEADS, tiny, Plan(epochs=1, batch_size=20, augment=True))
    assert not any(made)
    fit(HEADS, tiny, dataclasses.replace(small, cache_gb=1e-3))  # the control: 200 images x 12 numbers x 4 bytes fit
    assert any(made)


def test_a_stage_looks_at_its_own_head_and_the_result_at_all_of_them(tiny):
    result = fit(HEADS, tiny, Plan(epochs=3, batch_size=20, keep="last"))
    mean, sd = data.statistics(tiny)
    _, val = data.split(tiny)
    x, y = data.normalise(jnp.asarray(tiny.x_train[val]), mean, sd), tiny.y_train[val]
    for number in (1, 2):
        own = cafo.predict(result.state, x, net=nets.mlp([12, 8]), part=number)
        accuracy = (own.argmax(1) == y).mean()
        np.testing.assert_allclose(result.history["val_accuracy"][3 * number - 1], accuracy, atol=1e-6)
    together = (cafo.predict(result.state, x, net=nets.mlp([12, 8])).argmax(1) == y).mean()
    np.testing.assert_allclose(result.val_accuracy, together, atol=1e-6)


def test_further_readouts_are_followed_and_tested(tiny):
    net = nets.mlp([16, 16])
    result = fit(ff.rule(net, ff.reference(9, 4), num_classes=4), tiny, Plan(epochs=4, batch_size=20, normalise="none"))
    x, y = jnp.asarray(tiny.x_test, jnp.float32) / 255, tiny.y_test
    for mode, found in (("goodness", result.test_accuracy), ("softmax", result.readouts["softmax"]["test_accuracy"])):
        scores = ff.predict(result.state, x, net=net, prediction=mode)
        np.testing.assert_allclose(found, (scores.argmax(1) == y).mean(), atol=1e-6)
    val = data.split(tiny)[1]
    right = ff.predict(result.state, jnp.asarray(tiny.x_train[val], jnp.float32) / 255, net=net, prediction="softmax")
    accuracy = (right.argmax(1) == tiny.y_train[val]).mean()
    np.testing.assert_allclose(result.readouts["softmax"]["val_accuracy"], accuracy, atol=1e-6)


@pytest.mark.parametrize("test", [True, False])
def test_readouts_that_steer_nothing_are_evaluated_once_and_after_the_meters_window(tiny, tmp_path, test):
    meter, calls = Meter(idle_seconds=0, powercap=tmp_path), {"steering": [], "further": []}

    def counting(name):
        def read(state, x):
            jax.debug.callback(lambda: calls[name].append(meter._open))
            return MF.predict(state, x)

        return read

    rule = MF._replace(predict=counting("steering"), readouts=(("other", counting("further")),))
    result = fit(rule, tiny, Plan(epochs=3, batch_size=20), meter=meter, test=test)
    jax.effects_barrier()
    once = [0] * (2 if test else 1)  # of the kept state, on either part of the data
    assert calls == {"steering": [1, 1, 1, *once], "further": once}  # the control: once an epoch, within the window
    assert result.readouts["other"]["val_accuracy"] == result.val_accuracy
    assert np.isfinite(result.readouts["other"]["test_accuracy"]) == test


def test_every_stage_follows_its_own_plan(tiny, tmp_path):
    short, long = Plan(epochs=1, batch_size=20, keep="last"), Plan(epochs=3, batch_size=20, keep="last")
    plans, path = [short, long, short], tmp_path / "c.npz"
    whole = fit(STAGES, tiny, plans)
    assert list(whole.history["stage"]) == [0, 1, 1, 1, 2] and whole.epochs == 5
    fit(STAGES, tiny, plans, callback=StopAfter(5), checkpoint=path)
    assert same_result(fit(STAGES, tiny, plans, checkpoint=path, resume=True), whole)


def test_a_resumed_run_with_kept_features_equals_an_uninterrupted_one(tiny, tmp_path, monkeypatch):
    made = watched(monkeypatch)
    plan = Plan(epochs=4, batch_size=20, validate_every=2, chunk_steps=5, keep="best_loss", stream=False)
    whole, calls = fit(HEADS, tiny, plan), []
    fit(HEADS, tiny, plan, callback=calls.append)
    for number in (2, len(calls) // 2 + 1, len(calls) - 1):
        path = tmp_path / f"{number}.npz"
        made.clear()
        fit(HEADS, tiny, plan, callback=StopAfter(number), checkpoint=path)
        assert all(made)
        with monkeypatch.context() as patch:  # what was kept is kept again, however little memory there is now
            patch.setattr(memory, "free_bytes", lambda: 0)
            made.clear()
            assert same_result(fit(HEADS, tiny, plan, checkpoint=path, resume=True), whole)
            assert any(made) or number == len(calls) - 1  # which is the end, and needs none
        fit(
            HEADS, tiny, dataclasses.replace(plan, cache_gb=0.0), checkpoint=path, resume=True
        )  # or not, if one says so


def test_a_stopped_run_reports_the_prediction_of_what_it_kept(tiny):
    stopped = fit(HEADS, tiny, Plan(epochs=3, batch_size=20, keep="last"), callback=StopAfter(4))
    _, val = data.split(tiny)
    x = data.normalise(jnp.asarray(tiny.x_train[val]), *data.statistics(tiny))
    scores = cafo.predict(stopped.state, x, net=nets.mlp([12, 8]))
    np.testing.assert_allclose(stopped.val_accuracy, (scores.argmax(1) == tiny.y_train[val]).mean(), atol=1e-6)
    assert not stopped.finished and np.isnan(stopped.test_accuracy)


def test_stages_that_measure_different_things_share_one_history(tiny):
    adam = optax.adam(0.01)
    blocks, head, _ = cafo.stages(nets.mlp([12, 8]), adam, num_classes=4, block_tx=adam)
    for stages, with_layers in (((blocks, head), [0, 1]), ((head, blocks), [1, 0])):
        history = fit(stages, tiny, Plan(epochs=1, batch_size=20)).history
        assert [len(losses) for losses in history["layer_loss"]] == with_layers


def test_one_stages_features_are_gone_when_the_next_ones_are_made(tiny, monkeypatch):
    alive, keep = [], Host.keep_features

    def watching(*args):
        alive.append({array.shape for array in jax.live_arrays()} & {(180, 101), (180, 97)})
        return keep(*args)

    monkeypatch.setattr(Host, "keep_features", watching)
    heads = cafo.stages(nets.mlp([101, 97]), optax.sgd(0.1), num_classes=4)
    fit(
        heads,
        tiny,
        Plan(epochs=1, batch_size=20),
        callback=lambda _: alive.append({a.shape for a in jax.live_arrays()}),
    )
    assert alive[0] == set() and (180, 101) in alive[1]  # the control: they are seen while they are kept
    assert (180, 101) not in alive[-2] | alive[-1]


# Bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda d: Plan(epochs=0),
        lambda d: Plan(batch_size=-1),
        lambda d: Plan(patience=0),
        lambda d: Plan(min_delta=-1.0),
        lambda d: Plan(min_delta=math.nan),
        lambda d: Plan(keep="first"),
        lambda d: Plan(monitor="time"),
        lambda d: fit(MF, d, Plan(batch_size=200)),
        lambda d: fit(bp.rule(nets.cnn([4, 4, 4]), optax.adam(0.01), num_classes=4), d, Plan(batch_size=20)),
        lambda d: fit(MF, data.Dataset("t", "", d.x_train, d.y_train + 1, d.x_test, d.y_test, 4)),
        lambda d: sweep(mf_rule, d, seeds=[]),
        lambda d: sweep(mf_rule, d, seeds=[-1]),
        lambda d: sweep(mf_rule, d, seeds=[0, 1], how="pmap"),
        lambda d: sweep(mf_rule, d, seeds=[0, 1], hyper={"learning_rate": [1e-3, 1e-3, 1e-3]}),
        lambda d: fit(MF, d, Plan(batch_size=20), seed=-1),
        lambda d: sweep(mf_rule, d, seeds=7),
        lambda d: sweep(mf_rule, d, seeds=[3, 4, 3]),
        lambda d: sweep(mf_rule, d, seeds=[3, 3], hyper={"learning_rate": [0.1, 0.1 + 1e-12]}),
        lambda d: fit(MF, d, Plan(batch_size=20), split=(np.arange(100), np.arange(0))),
        lambda d: fit((), d, Plan(batch_size=20)),
        lambda d: Plan(cache_gb=-1.0),
        lambda d: Plan(epochs=10, validate_every=3),
        lambda d: fit(STAGES, d, [Plan(batch_size=20)] * 2),
        lambda d: fit(STAGES, d, [Plan(batch_size=20), Plan(batch_size=30), Plan(batch_size=20)]),
        lambda d: fit(MF, dataclasses.replace(d, y_train=0 * d.y_train), Plan(batch_size=20)),
        lambda d: fit(MF, d, Plan(batch_size=20), split=(np.arange(100), np.arange(99, 150))),
        lambda d: fit(MF, d, Plan(batch_size=20), split=(np.arange(100), np.arange(150, 201))),
        lambda d: fit(mf.rule(NET, optax.adam(0.01), num_classes=3), d, Plan(batch_size=20)),
        lambda d: fit(MF, d, Plan(batch_size=20), checkpoint="no/such/folder/c.npz"),
    ],
)
def test_bad_input_is_one_clear_line(tiny, make, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # or it would speak first
    with pytest.raises(UsageError, match=r"^[^\n]{20,400}$"):
        make(tiny)


WAYS = {
    "fit": lambda d, seed: fit(MF, d, Plan(epochs=1, batch_size=90), seed=seed, test=False).val_loss,
    "sweep": lambda d, seed: sweep(mf_rule, d, Plan(epochs=1, batch_size=90), seeds=[seed], hyper=RATE).val_loss,
    "split": lambda d, seed: data.split(d, seed=seed)[0],
    "paper split": lambda d, seed: data.paper_split(d, seed=seed)[0],
    "study": lambda d, seed: study.Runs(seeds=3, first_seed=seed).numbers,
    "tune": lambda d, seed: tune.search.check_seeds([seed]),
}
RATE = {"learning_rate": 0.01}


@pytest.mark.parametrize("way", WAYS)
def test_a_seed_is_an_integer_of_python_numpy_or_jax_and_nothing_is_rounded(tiny, way, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # or it would speak first
    call = WAYS[way]
    for good in (np.int64(5), np.uint32(5), jnp.int32(5), jnp.uint32(5), np.asarray(5)):
        np.testing.assert_array_equal(call(tiny, good), call(tiny, 5))
    bad = 0.2, 5.0, np.float32(5), jnp.float32(5), "5", None, True, np.True_, jnp.bool_(True), np.zeros(2, int), -1
    for seed in (*bad, 2**32, np.int64(-1)):
        with pytest.raises(UsageError, match=r"^[^\n]{20,200}$"):
            call(tiny, seed)


def test_equal_runs_are_trained_only_where_that_is_said(tiny):
    plan = Plan(epochs=1, batch_size=90)
    found = sweep(mf_rule, tiny, plan, seeds=jnp.asarray([3, 3]), hyper=RATE, repeats=True)
    assert found.val_loss[0] == found.val_loss[1]
    rows = tuple(np.stack([part, part[::-1]]) for part in data.split(tiny))
    sweep(mf_rule, tiny, plan, seeds=[3, 3], hyper=RATE, split=rows)  # of another split
    sweep(mf_rule, tiny, plan, seeds=[3, 3], hyper={"learning_rate": [0.01, 0.02]})  # a grid


SWITCHED = {
    "default_prng_impl": lambda: jax.default_prng_impl("rbg"),
    "threefry_partitionable": lambda: jax.threefry_partitionable(False),
    "enable_x64": lambda: jax.enable_x64(True),
    "default_matmul_precision": lambda: jax.default_matmul_precision("bfloat16"),
}


@pytest.mark.parametrize("name", SWITCHED)
def test_a_checkpoint_is_not_continued_under_another_switch(tiny, tmp_path, name):
    plan, path = Plan(epochs=2, batch_size=90), tmp_path / "c.npz"
    fit(MF, tiny, plan, checkpoint=path, callback=StopAfter(1))
    with SWITCHED[name](), pytest.raises(UsageError, match=rf"^[^\n]*another training: its numerics.{name} is [^\n]*$"):
        fit(MF, tiny, plan, checkpoint=path, resume=True)
    assert fit(MF, tiny, plan, checkpoint=path, resume=True).finished


@pytest.mark.parametrize("package", ["jax", "jaxlib", "flax", "optax", "fwdonly"])
def test_a_checkpoint_is_not_continued_under_another_version(tiny, tmp_path, package, monkeypatch):
    plan, path = Plan(epochs=2, batch_size=90), tmp_path / "c.npz"
    fit(MF, tiny, plan, checkpoint=path, callback=StopAfter(1))
    real = surroundings.version
    monkeypatch.setattr(surroundings, "version", lambda name: "0.0.1" if name == package else real(name))
    with pytest.raises(UsageError, match=rf"numerics.{package} is [^\n]* there and 0.0.1 here"):
        fit(MF, tiny, plan, checkpoint=path, resume=True)


def test_a_result_shows_itself_in_a_few_lines_and_as_a_tidy_table(tiny):
    """Mean ± sd with n - 1 over the sound runs; a row for every validation that a run trained for."""
    rates, plan = [0.01, 0.05, float("inf")], Plan(epochs=4, batch_size=20, patience=1)

    def make(learning_rate):
        return mf.rule(nets.mlp([8]), optax.sgd(learning_rate), num_classes=4)

    found = sweep(make, tiny, plan, seeds=[0, 1, 2], hyper={"learning_rate": rates})
    lines = repr(found).splitlines()
    assert lines[0] == "Result of 3 runs, 1 diverged" and len(lines) < 10 and all(len(line) < 80 for line in lines)
    sound = 100 * found.test_accuracy[:2]
    assert f"accuracy {sound.mean():.4g} ± {sound.std(ddof=1):.2g} %" in lines[2]
    pandas = pytest.importorskip("pandas")
    frame = found.to_dataframe()
    assert isinstance(frame, pandas.DataFrame) and len(frame) == found.history["trained"].sum()
    for run in range(3):
        own, trained = frame[frame["run"] == run], found.history["trained"][:, run]
        np.testing.assert_array_equal(own["val_loss"], found.history["val_loss"][trained, run])
        np.testing.assert_array_equal(own["epoch"], found.history["epoch"][trained])
    one = fit(make(0.01), tiny, plan, seed=0)
    assert repr(one).startswith("Result of 1 run\n") and " ± " not in repr(one)
    assert len(one.to_dataframe()) == one.epochs
