"""Models for people without this library: plain parameters, and the prediction as a program of StableHLO."""

import importlib.util
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np

from ..base import DOT
from ..errors import UsageError
from ..files import write_whole
from ..results import CONSTANTS
from ..training import arrays_of

PLATFORMS = ("cpu", "cuda", "tpu")
"""Platforms that an exported program runs on."""


def write(model: Any, path: Path) -> None:
    """Write an exported model, see `Model.export`."""
    kinds = {".npz": parameters, ".stablehlo": exported}
    if path.suffix == ".safetensors":
        raise UsageError("the saved model is a .safetensors file already; copy it, or export to .npz or .stablehlo")
    if path.suffix not in kinds:
        raise UsageError(f"{path} ends in neither .npz nor .stablehlo; name one of them")
    content = kinds[path.suffix](model)
    try:
        if isinstance(content, bytes | bytearray):
            write_whole(path, lambda file: file.write(content))
        else:
            write_whole(path, lambda file: np.savez(file, allow_pickle=False, **content))
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}; choose a writable folder") from error


def parameters(model: Any) -> dict[str, Any]:
    """The arrays by their place in the state, with the constants of the preprocessing and the names of the classes."""
    arrays: dict[str, Any] = arrays_of(model.rule, model.state, model.inputs.shape)
    if strange := next((name for name, array in arrays.items() if array.dtype.kind == "V"), None):
        raise UsageError(f"{strange} is {arrays[strange].dtype}, which .npz has no form for; export to .stablehlo")
    arrays |= dict(zip(CONSTANTS, (np.asarray(values) for values in (model.inputs.mean, model.inputs.sd)), strict=True))
    return arrays | ({} if model.class_names is None else {"class_names": np.asarray(model.class_names)})


def exported(model: Any) -> bytearray:
    """The prediction, raw samples in and scores out, as `jax.export` serialises it.

    The number of samples is free. Rules whose prediction needs to know it are exported sample by sample.

    Raises:
        UsageError: flatbuffers is not installed.
    """
    if importlib.util.find_spec("flatbuffers") is None:  # what jax.export writes with
        raise UsageError("export to StableHLO needs flatbuffers: pip install 'fwdonly[export]'")
    from jax import export

    def together(x: Any) -> Any:
        return model.rule.predict(model.state, model.inputs.scaled(x))

    def apart(x: Any) -> Any:
        return jax.vmap(lambda one: together(one[None])[0])(x)

    (count,) = export.symbolic_shape("n")
    samples = jax.ShapeDtypeStruct((cast(Any, count), *model.inputs.shape), np.dtype(model.inputs.kind))
    with jax.default_matmul_precision(DOT["float32"]):
        try:
            program = export.export(jax.jit(together), platforms=PLATFORMS)(samples)
        except Exception:  # a symbolic number where an integer is needed shows as anything
            program = export.export(jax.jit(apart), platforms=PLATFORMS)(samples)
    return program.serialize()
