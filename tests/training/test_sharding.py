"""Runs over devices, in groups, and from host memory: where a run trains and where its images lie changes no number."""

import json
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import optax
import pytest
from comparing import template_images

from fwdonly import RULES, Batch, Plan, UsageError, bp, cafo, fit, mf, nets, pepita, sweep
from fwdonly.training import images, memory, prepare, programs, steps
from fwdonly.training.host import Host

MLP = nets.mlp([12, 8])
MAKERS = {
    "mf": lambda learning_rate: mf.rule(MLP, optax.adam(learning_rate), num_classes=4),
    "pepita": lambda learning_rate: pepita.rule(MLP, optax.sgd(learning_rate), num_classes=4, dropout=0.1),
    "cafo": lambda learning_rate: cafo.stages(nets.mlp([8, 8]), optax.adam(learning_rate), num_classes=4),
}
RATES = [0.01, 0.02, 0.005, 0.01, 0.03]
PLAN = Plan(epochs=3, batch_size=20, chunk_steps=4, patience=1, keep="best_loss")
RESIDENT, STREAMED = replace(PLAN, stream=False), replace(PLAN, stream=True)
SETUP = programs.Setup("single", None, "float32")


def trained(name, images, **options):
    options = {"seeds": range(5), "hyper": {"learning_rate": RATES}, "how": "map"} | options
    return sweep(MAKERS[name], images, options.pop("plan", PLAN), **options)


def numbers(result):
    """Everything in a result but times and memory, as named arrays."""
    found = {f"state{i}": leaf for i, leaf in enumerate(jax.tree.leaves(result.state))}
    for name, column in result.history.items():
        if name != "seconds":
            found |= {f"{name}{i}": row for i, row in enumerate(column)}
    names = (
        "epochs",
        "kept_epoch",
        "target_epoch",
        "val_loss",
        "val_accuracy",
        "test_loss",
        "test_accuracy",
        "diverged",
        "predictions",
    )
    found |= {name: getattr(result, name) for name in names}
    return {name: np.asarray(value) for name, value in found.items()}


def differing(a, b):
    a, b = ({name: (v.dtype, v.shape, v.tobytes()) for name, v in each.items()} for each in (a, b))
    return sorted(name for name in {*a, *b} if a.get(name) != b.get(name))


# What the other process, with eight simulated devices, does for the tests below.


def eight_devices(folder):
    """Train with several numbers of devices; write all numbers, and what else is asked about."""
    quick = "quick" in sys.argv
    jax.config.update("jax_disable_most_optimizations", quick)
    images, facts, texts = template_images(), {}, []
    compile_program = jax.stages.Lowered.compile

    def watched(self, *args, **kwargs):
        texts.append((compiled := compile_program(self, *args, **kwargs)).as_text())
        return compiled

    jax.stages.Lowered.compile = watched
    for name in MAKERS if quick else ("mf",):
        for devices in (2, 8) if quick else (1, 2):
            texts.clear()
            np.savez(folder / f"{name}-{devices}.npz", **numbers(trained(name, images, devices=devices)))
    words = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")
    facts["communication"] = [word for word in words if any(word in text for text in texts)]
    facts["programs"] = len(texts)
    if not quick:
        (folder / "facts.json").write_text(json.dumps(facts))
        return

    def end_all(progress):
        facts["seen"] = [progress.loss.shape, progress.active.shape, progress.active.tolist()]
        return progress.record is not None and np.full(5, True)

    facts["rows"] = len(trained("mf", images, devices=2, callback=end_all).history["epoch"])
    with pytest.MonkeyPatch.context() as patch:  # the control: nobody leaves out the sixth run, which fills up
        patch.setattr(Host, "without_padding", lambda host, array: np.asarray(array))
        active = []
        result = trained("mf", images, devices=2, callback=lambda p: active.append(p.active.tolist()))
        facts["with padding"] = [len(result.test_accuracy), active[0]]

    calls = iter(range(1000))
    path = folder / "some.npz"
    trained("mf", images, devices=3, checkpoint=path, callback=lambda _: next(calls) == 4)
    np.savez(folder / "resumed.npz", **numbers(trained("mf", images, devices=2, checkpoint=path, resume=True)))
    np.savez(folder / "streamed.npz", **numbers(trained("mf", images, devices=2, plan=STREAMED)))
    np.savez(folder / "groups.npz", **numbers(trained("mf", images, devices=2, at_once=3)))
    (folder / "facts.json").write_text(json.dumps(facts))


def start(folder, mode):
    # The other mode compiles as users do: last bits depend on it.
    usual = os.environ["XLA_FLAGS"] if mode == "quick" else ""
    flags = os.environ | {
        "XLA_FLAGS": f"{usual} --xla_force_host_platform_device_count=8",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, "-W", "error", __file__, str(folder), mode]
    done = subprocess.run(command, env=flags, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    """The folder of a process that had eight devices, compiled as quickly as this one."""
    return start(tmp_path_factory.mktemp("eight"), "quick")


def saved(folder, name):
    with np.load(folder / f"{name}.npz") as file:
        return dict(file)


def facts_of(folder):
    return json.loads((folder / "facts.json").read_text())


@pytest.mark.parametrize("name", MAKERS)
def test_any_number_of_devices_gives_the_same_numbers_bit_for_bit(name, eight, tiny):
    alone = numbers(trained(name, tiny))
    for devices in (2, 8):  # five runs on two devices leave half of one idle, on eight devices three
        assert not differing(saved(eight, f"{name}-{devices}"), alone)
    other = numbers(trained(name, tiny, hyper={"learning_rate": [*RATES[:4], 0.031]}))
    assert differing(other, alone)  # the control: the last run, beside which the padding trains, is looked at, too


def test_fully_optimised_programs_give_the_same_numbers_on_any_number_of_devices(tmp_path):
    folder = start(tmp_path, "optimised")
    assert not differing(saved(folder, "mf-1"), saved(folder, "mf-2"))
    assert not facts_of(folder)["communication"]


def test_devices_do_not_communicate(eight):
    facts = facts_of(eight)
    assert facts["programs"] >= 4 and not facts["communication"]


def test_padding_is_neither_trained_nor_seen(eight):
    facts = facts_of(eight)
    assert facts["seen"] == [[5], [5], [True] * 5]
    assert facts["rows"] == 1
    assert facts["with padding"] == [6, [True] * 5 + [False]]  # the control: it is there, and it is idle


def test_a_training_is_resumed_on_another_number_of_devices(eight, tiny):
    assert not differing(saved(eight, "resumed"), numbers(trained("mf", tiny)))


def test_groups_and_streams_on_several_devices_give_the_same_numbers(eight, tiny):
    whole = numbers(trained("mf", tiny))
    assert not differing(saved(eight, "groups"), whole)
    assert not differing(saved(eight, "streamed"), whole)


def test_devices_of_different_kinds_are_refused(monkeypatch, tiny):
    kinds = [SimpleNamespace(device_kind=kind) for kind in ("A100", "T4")]
    monkeypatch.setattr(jax, "local_devices", lambda: kinds)
    with pytest.raises(UsageError, match=r"different kinds \(A100, T4\).*CUDA_VISIBLE_DEVICES"):
        programs.mesh_of(4, None)
    assert programs.mesh_of(4, 1) is None


@pytest.mark.parametrize("devices", [0, 2])
def test_more_devices_than_there_are_are_refused(devices, tiny):
    with pytest.raises(UsageError, match=f"devices must be 1 to 1.*got {devices}"):
        trained("mf", tiny, devices=devices)


# Groups


@pytest.mark.parametrize("name", ["mf", "cafo"])
def test_groups_of_runs_are_one_sweep(name, tiny):
    """Early stopping gives the groups histories of different lengths."""
    plan = replace(PLAN, epochs=8, min_delta=0.03)
    whole, seen = trained(name, tiny, plan=plan), []
    parts = trained(name, tiny, plan=plan, at_once=2, callback=lambda p: seen.append((p.runs, p.active.shape)))
    assert len(set(whole.epochs.tolist())) > 1
    assert not differing(numbers(parts), numbers(whole))
    assert dict(seen) == {(0, 2, 5): (2,), (2, 4, 5): (2,), (4, 5, 5): (1,)}
    assert parts.train_seconds >= max(parts.history["seconds"]) > 0 and parts.finished


def test_a_sweep_in_groups_is_resumed_in_any_of_them(tiny, tmp_path):
    whole, calls = trained("mf", tiny), []
    trained("mf", tiny, at_once=2, callback=calls.append)
    for stop in range(2, len(calls) - 1, len(calls) // 5):
        numbered, path = iter(range(1000)), tmp_path / f"{stop}.npz"
        first = trained("mf", tiny, at_once=2, checkpoint=path, callback=lambda _: next(numbered) == stop)  # noqa: B023
        assert not first.finished and first.test_accuracy.shape == (5,) and np.isnan(first.test_accuracy[-1])
        rest = trained("mf", tiny, at_once=3, checkpoint=path, resume=True)  # what is saved goes on as it was
        assert not differing(numbers(rest), numbers(whole))


def test_the_memory_of_the_programs_decides_how_many_runs_train_together(tiny, monkeypatch):
    whole, firsts = trained("mf", tiny, how="vmap"), []
    state = sum(leaf[0].nbytes for leaf in jax.tree.leaves(whole.state))
    assert 3 * state < whole.run_bytes < 30 * state + tiny.x_train[0].nbytes * PLAN.batch_size  # kept, start, new, ...
    for free in (None, 10**9, 2 * whole.run_bytes):
        seen = []
        with monkeypatch.context() as patch, warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            patch.setattr(memory, "free_bytes", lambda: free)  # noqa: B023
            found = trained("mf", tiny, plan=RESIDENT, how="vmap", callback=lambda p: seen.append(p.runs))  # noqa: B023
        firsts.append(seen[0][1])
        words = "5 runs at once would not fit into the device's memory; training "
        assert [str(each.message).startswith(words) for each in said][:1] == [True] * (firsts[-1] < 5)
        np.testing.assert_allclose(found.val_loss, whole.val_loss, rtol=1e-3)
    assert firsts[:2] == [5, 5] and 5 > firsts[2] >= 2  # nobody knows, enough, not enough


def test_what_is_asked_for_or_saved_is_tried_whatever_memory_is_said_to_be_there(tiny, monkeypatch, tmp_path):
    whole, seen, path, calls = trained("mf", tiny), [], tmp_path / "c.npz", iter(range(1000))
    trained("mf", tiny, checkpoint=path, callback=lambda _: next(calls) == 3)
    monkeypatch.setattr(memory, "free_bytes", lambda: 1)
    watch = {"plan": RESIDENT, "callback": lambda p: seen.append(p.runs)}
    assert not differing(numbers(trained("mf", tiny, at_once=4, **watch)), numbers(whole))
    assert set(seen) == {(0, 4, 5), (4, 5, 5)}
    seen.clear()
    assert not differing(numbers(trained("mf", tiny, checkpoint=path, resume=True, **watch)), numbers(whole))
    assert set(seen) == {(0, 5, 5)}


def test_a_group_that_runs_out_of_memory_is_halved_with_a_message(tiny, monkeypatch, tmp_path):
    whole, run = trained("mf", tiny), programs.Programs.__call__

    def small_device(most):
        def call(self, f, job, *args, **kwargs):
            if f is steps.chunk and len(args[1].active) > most:
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 123 bytes.")
            return run(self, f, job, *args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(programs.Programs, "__call__", small_device(2))
        with pytest.warns(memory.MemoryWarning) as said:
            halved = trained("mf", tiny, checkpoint=tmp_path / "c.npz", resume=True)
        assert [str(each.message) for each in said] == [
            "5 runs at once do not fit into the device's memory; going on with 3",
            "3 runs at once do not fit into the device's memory; going on with 2",
        ]
        assert not differing(numbers(halved), numbers(whole))
        patch.setattr(programs.Programs, "__call__", small_device(0))
        with warnings.catch_warnings(), pytest.raises(UsageError, match="a single run does not fit") as refused:
            warnings.simplefilter("ignore", memory.MemoryWarning)
            trained("mf", tiny)
        assert "\n" not in str(refused.value)


def test_another_fault_of_the_device_is_not_taken_for_a_lack_of_memory(tiny, monkeypatch):
    def call(self, f, job, *args, **kwargs):
        raise jax.errors.JaxRuntimeError("INTERNAL: cable pulled")

    monkeypatch.setattr(programs.Programs, "__call__", call)
    with pytest.raises(jax.errors.JaxRuntimeError, match="cable"):
        trained("mf", tiny)


def test_no_run_at_a_time_is_refused(tiny):
    with pytest.raises(UsageError, match="at_once must be at least 1; got 0"):
        trained("mf", tiny, at_once=0)


# Images from host memory


@pytest.mark.parametrize(("name", "changes"), [("mf", {"augment": True, "validate_every": 3}), ("cafo", {})])
def test_streamed_images_give_the_same_numbers(name, changes, tiny, monkeypatch):
    plan = replace(PLAN, cache_gb=0.0, **changes)
    resident, from_host = trained(name, tiny, plan=plan), trained(name, tiny, plan=replace(plan, stream=True))
    assert from_host.streamed and not resident.streamed
    assert not differing(numbers(from_host), numbers(resident))
    gather = images.Feeder.blocks  # the control: another order of the images is another training
    monkeypatch.setattr(images.Feeder, "blocks", lambda self, order, *rest: gather(self, order[..., ::-1], *rest))
    assert differing(numbers(trained(name, tiny, plan=replace(plan, stream=True))), numbers(resident))


def test_a_single_run_is_streamed_and_resumed_in_the_middle_of_an_epoch(tiny, tmp_path):
    rule = MAKERS["mf"](0.01)
    whole, calls, path = fit(rule, tiny, PLAN), iter(range(1000)), tmp_path / "c.npz"
    stopped = fit(rule, tiny, STREAMED, checkpoint=path, callback=lambda _: next(calls) == 3)
    assert not stopped.finished
    assert not differing(numbers(fit(rule, tiny, STREAMED, checkpoint=path, resume=True)), numbers(whole))


def test_no_more_of_a_streamed_set_is_brought_to_the_device_than_it_needs(tiny, monkeypatch):
    sizes = []
    share = programs.Setup.share
    monkeypatch.setattr(programs.Setup, "share", lambda self, t: sizes.append(len(t.x)) or share(self, t))
    split = np.arange(160, dtype=np.int32), np.arange(160, 200, dtype=np.int32)
    monkeypatch.setattr(prepare, "EXAMPLES", 10)
    for plan in (PLAN, STREAMED):
        trained("mf", tiny, plan=plan, split=split)
    assert sizes == [200, 40 + 10]


def test_blocks_are_no_longer_than_their_bound(tiny, monkeypatch):
    monkeypatch.setattr(images, "BLOCK_BYTES", 5 * 20 * 36 * 2 + 1)  # runs x batch x bytes x two batches
    feeder = images.Feeder(tiny.x_train, tiny.y_train, np.zeros((5, 180), np.int32), 20, SETUP)
    assert feeder.longest() == 2


def test_blocks_on_their_way_are_counted_where_runs_must_fit(tiny, monkeypatch):
    seen, check = [], Host.check_memory
    with monkeypatch.context() as patch:
        patch.setattr(
            Host,
            "check_memory",
            lambda host, *sizes: seen.append((host.run.working_bytes(), sizes[2])) or check(host, *sizes),
        )
        trained("mf", tiny, plan=STREAMED, how="vmap")
    ((working, blocks),) = seen
    batch = 20 * (tiny.x_train[0].nbytes + tiny.y_train[0].nbytes)
    assert blocks == 3 * 5 * 3 * batch  # three blocks, of five runs, of three of the nine steps
    for free, said in ((working + blocks // 2, True), (working + 2 * blocks, False)):
        monkeypatch.setattr(memory, "free_bytes", lambda: free)  # noqa: B023
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            trained("mf", tiny, plan=STREAMED, how="vmap", callback=lambda _: True)
        assert bool(found) == said


def test_images_are_streamed_where_the_device_has_no_room_for_them(tiny, monkeypatch):
    assert not trained("mf", tiny).streamed
    monkeypatch.setattr(memory, "free_bytes", lambda: int(1.9 * tiny.x_train.nbytes))
    monkeypatch.setattr(Host, "check_memory", lambda *_: None)
    assert trained("mf", tiny).streamed
    assert not trained("mf", tiny, plan=RESIDENT).streamed


def test_what_cannot_be_streamed_says_so(tiny, monkeypatch):
    with pytest.raises(UsageError, match="a full batch needs all images"):
        Plan(batch_size=None, stream=True)
    monkeypatch.setitem(sys.modules, "grain", None)
    with pytest.raises(UsageError, match=r"pip install 'fwdonly\[stream\]'"):
        trained("mf", tiny, plan=STREAMED)


# Precision


def lowered(precision):
    """A training step of convolutions and products, as it is handed to the compiler of a GPU."""
    rule = bp.rule((*nets.cnn([4]), *nets.mlp([8])), optax.sgd(0.1), num_classes=4)
    x, y = jax.ShapeDtypeStruct((8, 6, 6, 1), np.float32), jax.ShapeDtypeStruct((8,), np.int32)
    state = jax.eval_shape(rule.init, jax.random.key(0), x)
    step = programs.lift(
        lambda state, x, y, key, _: rule.update(state, Batch(x, y), key), SETUP._replace(precision=precision)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "default_backend", lambda: "gpu")
        traced = jax.jit(step, static_argnums=4).trace(state, x, y, jax.eval_shape(lambda: jax.random.key(0)), None)
    lines = traced.lower(lowering_platforms=("cuda",)).as_text().splitlines()
    outputs = [leaf.dtype for leaf in jax.tree.leaves(traced.out_info) if leaf.dtype != np.int32]
    assert set(outputs) == {np.dtype("float32")}
    return [[line for line in lines if f"stablehlo.{word}" in line] for word in ("dot_general", "convolution")]


def test_precision_is_that_of_every_product_and_convolution():
    dots, convolutions = lowered("float32")
    assert dots and all("HIGHEST, HIGHEST" in line for line in dots)
    assert convolutions and all(line.count("precision HIGHEST") == 2 for line in convolutions)
    dots, convolutions = lowered("tf32")  # an NVIDIA GPU's default for convolutions is TF32
    assert all("lhs_precision_type = tf32" in line and "accumulation_type = f32" in line for line in dots)
    assert all("HIGHEST" not in line for line in convolutions)
    dots, convolutions = lowered("bfloat16")
    assert all("lhs_precision_type = bf16" in line and "accumulation_type = f32" in line for line in dots)
    assert all("bf16>, tensor<" in line for line in convolutions)


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_a_processor_refuses_a_precision_it_would_ignore(precision, tiny):
    with pytest.raises(UsageError, match=f"precision {precision} needs an accelerator"):
        trained("mf", tiny, plan=replace(PLAN, precision=precision))


SPLIT_BATCH = """
import sys
import jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from fwdonly import RULES, Batch, UsageError, ff, nets

mesh = Mesh(np.array(jax.devices()), ("d",))
put = lambda tree, spec: jax.device_put(tree, NamedSharding(mesh, spec))
x, y = jax.random.normal(jax.random.key(0), (32, 6, 6, 1)), jnp.arange(32) % 4
for name, module in RULES.items():
    net, tx = nets.mlp([16, 12]) if name != "cwc" else nets.cwc([8, 8], 4), optax.sgd(0.1)
    if name == "foton":
        net = tuple(block.clone(kernel_init=nets.orthogonal, bias="none") for block in net)
    rule = module.rule(net, ff.separate(tx, tx, tx) if name == "ff" else tx, num_classes=4)
    state, key = rule.init(jax.random.key(1), x), jax.random.key(2)
    one = jax.device_get(jax.jit(rule.update)(state, Batch(x, y), key)[0])
    many = jax.device_get(jax.jit(rule.update)(put(state, P()), Batch(put(x, P("d")), put(y, P("d"))), key)[0])
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True):
        # A quotient of differences multiplies the rounding of losses.
        np.testing.assert_allclose(a, b, atol=1e-5 if name == "zeroth_order" else 1e-6, err_msg=name)
    ends = zip(jax.tree.leaves(one.params), jax.tree.leaves(state.params), strict=True)
    assert max(np.abs(a - np.asarray(b)).max() for a, b in ends) > 1e-4, name
    loss = lambda state, x, y: rule.update(state, Batch(x, y), key)[1]["loss"][None]
    for checked in (True, False):
        within = jax.shard_map(loss, mesh=mesh, in_specs=(P(), P("d"), P("d")), out_specs=P("d"), check_vma=checked)
        try:
            jax.eval_shape(within, state, x, y)  # step by step it would take minutes
            print(name, checked, "runs")
        except UsageError as error:
            print(name, checked, str(error).splitlines()[0])
"""


def test_a_split_batch_is_that_of_one_device_by_jit_and_refused_where_gradients_would_be_summed():
    environ = os.environ | {"XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"}
    environ |= {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # compiles in a third of the time
    words = [sys.executable, "-W", "ignore", "-c", SPLIT_BATCH]
    ended = subprocess.run(words, env=environ, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr[-2000:]
    lines = ended.stdout.splitlines()
    assert len(lines) == 2 * len(RULES)
    assert all(line.endswith("False runs") for line in lines[1::2]), lines
    assert all("True within jax.shard_map over d a step may be as many times too long" in line for line in lines[::2])


if __name__ == "__main__":
    eight_devices(Path(sys.argv[1]))
