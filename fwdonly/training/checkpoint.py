"""Save and load trees of arrays in one .npz file: no pickle, written whole or not at all."""

import contextlib
import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import UsageError, plain, short, words_of
from ..files import PART, open_arrays, write_whole

_MEND = "delete it, or give another output folder"


def save(path: str | Path, tree: Any, meta: dict[str, Any]) -> None:
    """Write ``tree`` (arrays of any dtype, any nesting) and JSON-serialisable ``meta`` to ``path``.

    An interruption, or a power cut, leaves the earlier file untouched.

    Raises:
        UsageError: the folder cannot be written.
    """
    path = Path(path)
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    leaves = {jax.tree_util.keystr(where): np.asarray(leaf) for where, leaf in flat}
    header = {"meta": meta, "leaves": {name: [str(a.dtype), list(a.shape)] for name, a in leaves.items()}}
    # Raw bytes: NumPy's own format does not carry bfloat16 and its relatives.
    arrays: dict[str, Any] = {
        f"leaf{i}": np.ascontiguousarray(a).reshape(-1).view(np.uint8) for i, a in enumerate(leaves.values())
    }
    arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    try:
        write_whole(path, lambda file: np.savez(file, **arrays))
    except OSError as error:
        raise UsageError(f"cannot write the checkpoint {path}: {error.strerror}; choose a writable folder") from error


def check_writable(path: str | Path, meta: Any = None) -> None:
    """Find out before hours of training whether `save` will be able to write, and to write this.

    Raises:
        UsageError: the folder is missing or cannot be written, or ``meta`` holds what is no JSON.
    """
    plain(meta, "the record of the training")
    temporary = Path(path).with_name(Path(path).name + PART)
    try:
        temporary.touch()
        temporary.unlink()
    except OSError as error:
        raise UsageError(f"cannot write the checkpoint {path}: {error.strerror}; choose a writable folder") from error


def check_tree(tree: Any) -> None:
    """Find out likewise whether `save` has a form for these arrays.

    Raises:
        UsageError: NumPy has none for one of them.
    """
    for where, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
            raise UsageError(
                f"{jax.tree_util.keystr(where)} is {leaf.dtype}, which no checkpoint can hold; keep "
                "jax.random.key_data(key) in the state, or train without a checkpoint"
            )


def read_meta(path: str | Path) -> dict[str, Any]:
    """The ``meta`` that `save` was given, without reading the arrays.

    Raises:
        UsageError: the file is damaged.
    """
    return _read(Path(path), with_leaves=False)[1]


def load(path: str | Path, like: Any) -> Any:
    """The tree that `save` was given, with the structure of ``like`` (a tree of arrays or of shape structs).

    Raises:
        UsageError: the file is damaged, or its arrays are not those of ``like`` in name, shape and dtype.
    """
    path = Path(path)
    saved, _ = _read(path, with_leaves=True)
    expected, treedef = jax.tree_util.tree_flatten_with_path(like)
    names = [jax.tree_util.keystr(where) for where, _ in expected]
    if sorted(names) != sorted(saved):
        odd = sorted(set(names) ^ set(saved))[0]
        raise UsageError(f"{path} belongs to another rule, network or optimizer (it differs in {short(odd)}); {_MEND}")
    for name, (_, leaf) in zip(names, expected, strict=True):
        have, want = (saved[name].shape, saved[name].dtype), (leaf.shape, leaf.dtype)
        if have != want:
            raise UsageError(f"{path} holds {name} as {have[1]}{have[0]} where {want[1]}{want[0]} is needed; {_MEND}")
    return jax.tree_util.tree_unflatten(treedef, [saved[name] for name in names])


def _read(path: Path, *, with_leaves: bool) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    with refusing_damage(path), open_arrays(path) as file:
        header = json.loads(file["header"].tobytes())
        names = header["leaves"].items() if with_leaves else ()
        leaves = {
            name: np.frombuffer(file[f"leaf{i}"].tobytes(), jnp.dtype(dtype)).reshape(shape)
            for i, (name, (dtype, shape)) in enumerate(names)
        }
        if not isinstance(header["meta"], dict):
            raise TypeError("its header is none")
        return leaves, header["meta"]


@contextlib.contextmanager
def refusing_damage(path: str | Path) -> Generator[None, None, None]:
    """Within it whatever fails is the checkpoint's fault, for a forged header may hold anything.

    Raises:
        UsageError: something failed.
    """
    try:
        yield
    except Exception as error:
        raise UsageError(f"{path} is not a readable checkpoint ({words_of(error)}); {_MEND}") from error
