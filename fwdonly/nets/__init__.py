"""Networks as tuples of Flax Linen blocks, one block per hidden layer. The class readout belongs to the rule.

Blocks are value-hashable, so a freshly built equal network does not compile anew. Flax is imported in this room alone.
"""

from . import output, savings
from .adapters import from_equinox, from_nnx
from .blocks import POOLINGS, Conv, Dense, Identity, before_pooling, padded, pooled
from .builders import cnn, cwc, init, mixer, mlp, normalised, outputs, residual, separable
from .composed import Residual, Separable
from .mixing import Mixer
from .norms import BatchNorm, Normalised, batch_norm, moments, rms
from .parts import Affine, check_net, check_parts, is_plain, linear, send_back, straight, unpooled, weight_gradient
from .sizes import LayerSize, is_sized, layer_sizes
from .spec import Spec, described, parse
from .starts import (
    ACTIVATIONS,
    Initializer,
    he_normal,
    he_normal_fan_out,
    he_uniform,
    identity,
    normal,
    normal_fan_avg,
    normal_fan_out,
    orthogonal,
    small_normal,
    torch_uniform,
    xavier_uniform,
    zeros,
)

__all__ = [
    "ACTIVATIONS",
    "POOLINGS",
    "Affine",
    "BatchNorm",
    "Conv",
    "Dense",
    "Identity",
    "Initializer",
    "LayerSize",
    "Mixer",
    "Normalised",
    "Residual",
    "Separable",
    "Spec",
    "batch_norm",
    "before_pooling",
    "check_net",
    "check_parts",
    "cnn",
    "cwc",
    "described",
    "from_equinox",
    "from_nnx",
    "he_normal",
    "he_normal_fan_out",
    "he_uniform",
    "identity",
    "init",
    "is_plain",
    "is_sized",
    "layer_sizes",
    "linear",
    "mixer",
    "mlp",
    "moments",
    "normal",
    "normal_fan_avg",
    "normal_fan_out",
    "normalised",
    "orthogonal",
    "output",
    "outputs",
    "padded",
    "parse",
    "pooled",
    "residual",
    "rms",
    "savings",
    "send_back",
    "separable",
    "small_normal",
    "straight",
    "torch_uniform",
    "unpooled",
    "weight_gradient",
    "xavier_uniform",
    "zeros",
]
