"""Modules of other libraries as blocks: Flax NNX and Equinox. Both are imported where they are used."""

import functools
import importlib
import inspect
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..errors import UsageError


def from_nnx(module: Any) -> Any:
    """A Flax NNX module as a block.

    Variables of the kind ``nnx.Param`` are parameters; random streams are fed from the rule's key; all others, such as
    the running statistics of ``nnx.BatchNorm``, are statistics. In training the module is in its ``train()`` mode, in
    prediction in its ``eval()`` mode.

    Args:
        module: a function of ``rngs``, an ``nnx.Rngs``, that makes the module; every seed then draws start values of
            its own. Or a module: its values are then the start of every seed.

    Raises:
        UsageError: neither of the two.

    Example:
        >>> import fwdonly, optax
        >>> from flax import nnx
        >>> block = fwdonly.nets.from_nnx(lambda rngs: nnx.Sequential(nnx.Linear(64, 16, rngs=rngs), nnx.relu))
        >>> rule = fwdonly.mf.rule((block,), optax.adam(1e-3), num_classes=10)
    """
    from flax import nnx

    if isinstance(module, nnx.Module):
        return _NNX(lambda rngs: nnx.clone(module))
    if isinstance(module, type) or not callable(module):
        raise UsageError(f"from_nnx takes a module, or a function of rngs that makes one; got {_kind(module)}")
    return _NNX(module)


class _NNX:
    """See `from_nnx`."""

    def __init__(self, make: Callable[[Any], Any]) -> None:
        self.make = make

    @functools.cached_property
    def _layout(self) -> tuple[Any, ...]:
        """The graph, and the abstract state of parameters, of random streams and of all else."""
        from flax import nnx

        abstract = nnx.eval_shape(lambda: self._made(jax.random.key(0)))
        return nnx.split(abstract, nnx.Param, nnx.RngState, ...)

    def _made(self, key: Array) -> Any:
        from flax import nnx

        module = self.make(nnx.Rngs(key))
        if not isinstance(module, nnx.Module):
            raise UsageError(f"the function that from_nnx is given returns an nnx.Module; got {_kind(module)}")
        return module

    def _merged(self, variables: Any, key: Array) -> Any:
        """The module with these variables, and with random streams that start at ``key``."""
        from flax import nnx

        graph, params, streams, rest = self._layout
        names = iter(range(len(jax.tree.leaves(streams))))

        def started(leaf: Any) -> Any:
            place = next(names)
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                return jax.random.fold_in(key, place)
            return jnp.zeros(leaf.shape, leaf.dtype)  # how often the stream was asked

        return nnx.merge(
            graph,
            _filled(params, variables["params"]),
            jax.tree.map(started, streams),
            _filled(rest, variables.get("statistics", {})),
        )

    def init(self, rngs: Array, x: Float[Array, "batch *features"]) -> dict[str, Any]:
        """``params`` and, where the module has some, ``statistics``, by their places in the module."""
        from flax import nnx

        _, params, _, rest = nnx.split(self._made(rngs), nnx.Param, nnx.RngState, ...)
        variables = {"params": _named(params), "statistics": _named(rest)}
        return variables if variables["statistics"] else {"params": variables["params"]}

    def apply(self, variables: Any, x: Float[Array, "batch *features"]) -> Array:
        """The output of the module in its ``eval()`` mode."""
        module = self._merged(variables, jax.random.key(0))
        module.eval()
        return module(x)

    def apply_in_training(self, variables: Any, x: Float[Array, "batch *features"], key: Array) -> tuple[Array, Any]:
        """The output of the module in its ``train()`` mode, and the variables with the new statistics."""
        from flax import nnx

        module = self._merged(variables, key)
        module.train()
        y = module(x)
        _, _, _, rest = nnx.split(module, nnx.Param, nnx.RngState, ...)
        return y, variables | ({"statistics": _named(rest)} if "statistics" in variables else {})


def from_equinox(module: Any) -> Any:
    """An Equinox module as a block: applied to every sample by itself, under ``jax.vmap`` with the axis name "batch".

    Arrays of floating-point numbers are parameters. What ``equinox.nn.make_with_state`` finds, such as the running
    statistics of ``equinox.nn.BatchNorm(size, "batch")``, are statistics: such a module is called as
    ``module(x, state)``. One whose ``__call__`` takes ``key`` is given one per sample in training; in prediction it is
    in ``equinox.nn.inference_mode``.

    Args:
        module: a function of ``key`` that makes the module; every seed then draws start values of its own. Or a module
            without state: its values are then the start of every seed.

    Raises:
        UsageError: neither of the two, or Equinox is not installed.

    Example:
        >>> import fwdonly, optax, equinox as eqx
        >>> block = fwdonly.nets.from_equinox(lambda key: eqx.nn.MLP(64, 16, 32, 1, key=key))
        >>> rule = fwdonly.mf.rule((block,), optax.adam(1e-3), num_classes=10)
    """
    eqx = _equinox()
    if isinstance(module, eqx.Module):
        return _Equinox(lambda key: module)
    if isinstance(module, type | nn.Module) or not callable(module):
        raise UsageError(f"from_equinox takes a module, or a function of key that makes one; got {_kind(module)}")
    return _Equinox(module)


class _Equinox:
    """See `from_equinox`."""

    def __init__(self, make: Callable[[Array], Any]) -> None:
        self.make = make

    def _made(self, key: Array) -> tuple[Any, Any]:
        """The module and its state."""
        eqx = _equinox()
        return eqx.nn.make_with_state(self.make)(key)

    @functools.cached_property
    def _layout(self) -> tuple[Any, Any, Any]:
        """Abstract parameters, what of the module is no parameter, and the abstract state."""
        eqx = _equinox()
        module, state = eqx.filter_eval_shape(self._made, jax.random.key(0))
        is_number = lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct) and jnp.issubdtype(leaf.dtype, jnp.inexact)
        params, rest = eqx.partition(module, is_number)
        if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(rest)):
            raise UsageError(
                "from_equinox: the module holds arrays of integers, which no gradient reaches; keep them in the state "
                "(equinox.nn.State) or as NumPy arrays in a static field"
            )
        return params, rest, state

    def init(self, rngs: Array, x: Float[Array, "batch *features"]) -> dict[str, Any]:
        """``params`` and, where the module has state, ``statistics``, by their places."""
        eqx = _equinox()
        module, state = self._made(rngs)
        params = _named(eqx.filter(module, eqx.is_inexact_array))
        leaves = jax.tree.leaves(state)
        statistics = {"statistics": {str(at): leaf for at, leaf in enumerate(leaves)}} if leaves else {}
        return {"params": params} | statistics

    def _called(self, variables: Any, x: Array, key: Array | None) -> tuple[Array, Any]:
        """The output for a batch, and the state afterwards; without a key in inference mode."""
        eqx = _equinox()
        params, rest, state = self._layout
        module = eqx.combine(_filled(params, variables["params"]), rest)
        module = eqx.nn.inference_mode(module, key is None)
        keys = None if key is None else jax.random.split(key, len(x))
        takes_key = "key" in inspect.signature(type(module).__call__).parameters
        options = lambda k: {"key": k} if takes_key else {}
        known = variables.get("statistics")
        if known is None:
            run = lambda x, k: module(x, **options(k))
            return jax.vmap(run, in_axes=(0, None if keys is None else 0), axis_name="batch")(x, keys), None
        known = jax.tree.unflatten(jax.tree.structure(state), [known[str(at)] for at in range(len(known))])
        run = lambda x, state, k: module(x, state, **options(k))
        axes = (0, None, None if keys is None else 0)
        y, state = jax.vmap(run, in_axes=axes, out_axes=(0, None), axis_name="batch")(x, known, keys)
        return y, {str(at): leaf for at, leaf in enumerate(jax.tree.leaves(state))}

    def apply(self, variables: Any, x: Float[Array, "batch *features"]) -> Array:
        """The output in inference mode."""
        return self._called(variables, x, None)[0]

    def apply_in_training(self, variables: Any, x: Float[Array, "batch *features"], key: Array) -> tuple[Array, Any]:
        """The output in training mode, and the variables with the new state."""
        y, state = self._called(variables, x, key)
        return y, variables | ({} if state is None else {"statistics": state})


def _equinox() -> Any:
    try:
        return importlib.import_module("equinox")
    except ImportError as error:
        raise UsageError("from_equinox needs Equinox: pip install equinox") from error


def _kind(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def _named(tree: Any) -> dict[str, Any]:
    """The arrays of a tree by their places in it."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {_place(path): leaf for path, leaf in flat}


def _filled(like: Any, arrays: dict[str, Any]) -> Any:
    """The tree whose arrays `_named` gave, laid out as ``like``."""
    flat, shape = jax.tree_util.tree_flatten_with_path(like)
    return jax.tree.unflatten(shape, [arrays[_place(path)] for path, _ in flat])


def _place(path: Any) -> str:
    words = [jax.tree_util.keystr((part,), simple=True) for part in path]
    return ".".join(word for word in words if word != "value")
