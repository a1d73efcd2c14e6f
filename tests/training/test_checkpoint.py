"""Checkpoints: whole or not at all, every dtype, no pickle, and nothing of another shape."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fwdonly import UsageError
from fwdonly.training import checkpoint


class Pair(NamedTuple):
    first: object
    second: object


TREE = Pair(
    {"w": jnp.arange(6, dtype=jnp.bfloat16).reshape(2, 3), "n": jnp.int32(3), "on": jnp.bool_(True)},
    (jnp.float32([np.nan, -0.0, np.inf]), jax.random.key_data(jax.random.key(1)), jnp.zeros((0, 2))),
)


def test_a_tree_of_any_dtype_comes_back_bit_for_bit_with_its_meta(tmp_path):
    checkpoint.save(tmp_path / "c.npz", TREE, {"epoch": 3, "loss": 0.1})
    back = checkpoint.load(tmp_path / "c.npz", jax.eval_shape(lambda: TREE))
    assert jax.tree.structure(back) == jax.tree.structure(TREE)
    for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(TREE), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == np.asarray(b).tobytes()
    assert checkpoint.read_meta(tmp_path / "c.npz") == {"epoch": 3, "loss": 0.1}


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (TREE._replace(first={**TREE.first, "w": jnp.zeros((2, 4), jnp.bfloat16)}), r"\(2, 3\)"),
        (TREE._replace(first={**TREE.first, "w": jnp.zeros((2, 3))}), "bfloat16"),
        (TREE._replace(first={"v": TREE.first["w"]}), "another"),
        (tuple(TREE), "another"),
    ],
)
def test_another_shape_dtype_or_structure_is_refused(tmp_path, other, words):
    checkpoint.save(tmp_path / "c.npz", TREE, {})
    with pytest.raises(UsageError, match=words):
        checkpoint.load(tmp_path / "c.npz", other)


def test_a_failed_write_leaves_the_earlier_file_and_no_rubbish(tmp_path, monkeypatch):
    path = tmp_path / "c.npz"
    checkpoint.save(path, TREE, {"epoch": 1})

    def full(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(UsageError, match="No space left"):
        checkpoint.save(path, TREE, {"epoch": 2})
    assert checkpoint.read_meta(path) == {"epoch": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["c.npz"]


@pytest.mark.parametrize("damage", [lambda b: b[:-100], lambda b: b[:50], lambda b: b"", lambda b: b"hello" * 99])
def test_a_damaged_file_is_an_error_that_names_it(tmp_path, damage):
    path = tmp_path / "c.npz"
    checkpoint.save(path, TREE, {})
    path.write_bytes(damage(path.read_bytes()))
    for read in (checkpoint.read_meta, lambda p: checkpoint.load(p, TREE)):
        with pytest.raises(UsageError, match=r"c\.npz is not a readable checkpoint"):
            read(path)


def test_a_flipped_bit_in_an_array_is_noticed(tmp_path):
    path = tmp_path / "c.npz"
    weights = jnp.arange(1000, dtype=jnp.float32)
    checkpoint.save(path, weights, {})
    content = bytearray(path.read_bytes())
    at = content.index(np.float32(500).tobytes())
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(UsageError, match="not a readable checkpoint"):
        checkpoint.load(path, weights)


def test_a_missing_folder_is_one_clear_line(tmp_path):
    with pytest.raises(UsageError, match=r"^[^\n]*writable folder$"):
        checkpoint.save(tmp_path / "no" / "c.npz", TREE, {})
