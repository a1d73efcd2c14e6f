"""The loop on the device: a sweep is its single runs, streaming is resident, a checkpoint goes on, kept features."""

import jax
import numpy as np
import optax
import pytest

from fwdonly import Plan, cafo, fit, mf, nets, sweep

PLAN = Plan(epochs=3, batch_size=32, keep="last")


def rule():
    return mf.rule(nets.mlp([16, 12]), optax.adam(1e-2), num_classes=4)


def test_a_sweep_is_its_single_runs(templates):
    both = sweep(rule, templates, PLAN, seeds=[0, 1], how="vmap")
    single = fit(rule(), templates, PLAN, seed=1)
    np.testing.assert_allclose(both.val_loss[1], single.val_loss, rtol=1e-3)
    assert abs(both.val_loss[0] - both.val_loss[1]) > 1e-5, "the control: seeds differ"


def test_streamed_images_are_resident_ones(templates):
    pytest.importorskip("grain", reason="Grain (extra stream) is not installed")
    results = [
        fit(rule(), templates, Plan(epochs=2, batch_size=32, keep="last", stream=stream)) for stream in (True, False)
    ]
    for a, b in zip(*(jax.tree.leaves(result.state) for result in results), strict=True):
        assert np.array_equal(a, b)


def test_a_checkpoint_written_here_goes_on_here(templates, tmp_path):
    whole = fit(rule(), templates, PLAN)
    path = tmp_path / "checkpoint"
    stopped = fit(rule(), templates, PLAN, checkpoint=path, callback=lambda progress: progress.epoch == 1)
    assert not stopped.finished
    resumed = fit(rule(), templates, PLAN, checkpoint=path, resume=True)
    for a, b in zip(jax.tree.leaves(whole.state), jax.tree.leaves(resumed.state), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("cache_gb", [1.0])
def test_kept_features_are_recomputed_ones(templates, cache_gb):
    net = nets.cnn([4, 6])

    def run(cache):
        stages = cafo.stages(net, optax.adam(1e-2), num_classes=4)
        return fit(stages, templates, Plan(epochs=2, batch_size=32, keep="last", cache_gb=cache))

    kept, recomputed = run(cache_gb), run(0)
    np.testing.assert_allclose(kept.val_loss, recomputed.val_loss, rtol=1e-3)
    assert (np.asarray(kept.val_accuracy) > 0.5).all()
