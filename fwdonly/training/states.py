"""A trained state as arrays by name, and back: what a file keeps of it."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..base import LearningRule, State, for_prediction
from ..errors import UsageError, one_line


def arrays_of(rule: LearningRule, state: State, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """The arrays of a state by their place in it, such as ``params/0/M``.

    Parameters are those that predict. The optimizer's state is left out, unless ``rule.predict`` reads it: then no
    prediction is possible without it.

    Args:
        rule: the rule that predicts from it.
        state: of one run.
        shape: of a sample.

    Raises:
        UsageError: keys of JAX among the arrays, or two with one name.
    """
    kept = state = for_prediction(state)
    if _has_optimizer(state):
        bare = state._replace(opt_state=None)
        kept = bare if _predicts(rule, bare, shape) else state
    arrays = {}
    for name, leaf in _named(kept):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
            raise UsageError(f"{name} is {leaf.dtype}, which no file can hold; keep jax.random.key_data(key) instead")
        if name in arrays:
            raise UsageError(f"two arrays of the state are called {name}; give its dictionaries keys without slashes")
        arrays[name] = np.asarray(leaf)
    return arrays


def state_of(rule: LearningRule, arrays: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> State:
    """The state from what `arrays_of` gave, laid out as ``rule.init`` lays it out; no start values are drawn.

    Raises:
        UsageError: arrays that are not those of the rule's state, in name, shape or type.
    """
    with one_line():
        like = jax.eval_shape(rule.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *shape), jnp.float32))
    if _has_optimizer(like) and not any(name.startswith("opt_state/") for name in arrays):
        like = like._replace(opt_state=None)
    wanted = dict(_named(like))
    if strange := sorted(wanted.keys() ^ arrays.keys()):
        where = "the file" if strange[0] in wanted else "the rule"
        raise UsageError(f"the arrays belong to another rule or network ({where} has no {strange[0][:60]})")
    for name, leaf in wanted.items():
        array = arrays[name]
        if array.shape != leaf.shape or array.dtype != leaf.dtype:
            have, need = (f"{a.dtype}{tuple(a.shape)}" for a in (array, leaf))
            raise UsageError(f"the arrays belong to another rule or network ({name} is {have}, needed is {need})")
    leaves = [jnp.asarray(arrays[name]) for name in wanted]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _has_optimizer(state: State) -> bool:
    return "opt_state" in getattr(state, "_fields", ())


def _predicts(rule: LearningRule, state: State, shape: tuple[int, ...]) -> bool:
    """Whether a prediction can be traced."""
    try:
        jax.eval_shape(rule.predict, state, jax.ShapeDtypeStruct((1, *shape), jnp.float32))
        return True
    except Exception:  # whatever comes of a part that is missing
        return False


def _named(tree: Any) -> list[tuple[str, Any]]:
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [(jax.tree_util.keystr(where, simple=True, separator="/"), leaf) for where, leaf in flat]
