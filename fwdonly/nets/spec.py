"""Networks by specification, such as ``mlp:1000,1000``, ``cnn:32,64;dense=500;pool=max`` or ``my_nets.py:build``.

``KIND:SIZES;OPTION=VALUE;...`` with these kinds:

* ``mlp:W,W,...``: fully connected layers of these widths. ``mlp:WxN`` is N layers of width W.
* ``cnn:C,C,...``: convolutions with these channels (3x3, 2x2 average pooling), ``dense=W,W`` after them.
* ``residual:C,C,...`` and ``separable:C,C,...``: residual blocks, and depthwise separable convolutions, with
  these channels, ``dense=W,W`` after them.
* ``mixer:C,C,...``: MLP-Mixer, all blocks of the same C channels, ``mixer:CxN`` N of them. ``patch`` (4): pixels of a
  patch's side, which divides the image's. ``tokens`` (C / 2) and ``hidden`` (4 C): widths of token and channel mixing.
  ``head`` (none, mean): what the last block ends with. ``activation`` is gelu unless said.
* ``cwc:C,C,...``: the layers of `fwdonly.cwc`, every second one grouped by class and pooled.
* ``FILE.py:FUNCTION``: ``FUNCTION(num_classes)`` of your file returns the tuple of blocks.

Options of all layers but those of cwc: ``activation`` and ``start`` (law of the start weights); but of mixers, too:
``bias``, ``norm`` (none, batch, layer or group, between the linear part and the activation) and ``dropout`` (a share);
of convolutions ``pool``, ``kernel``, ``stride`` and ``padding`` (not of residual ones), one value for all or one for
each: ``kernel=5,3,3``.
"""

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, get_args

from ..base import Net
from ..errors import UsageError
from ..files import module_of
from . import starts
from .blocks import POOLINGS, Conv, Dense, Norm, Padding
from .builders import cnn, cwc, mixer, mlp, residual, separable
from .composed import Residual, Separable
from .mixing import Head, Mixer
from .parts import check_net

STARTS: dict[str, starts.Initializer] = {
    name: getattr(starts, name)
    for name in (
        "he_uniform",
        "xavier_uniform",
        "he_normal",
        "he_normal_fan_out",
        "torch_uniform",
        "normal",
        "normal_fan_out",
        "normal_fan_avg",
        "orthogonal",
        "small_normal",
        "zeros",
    )
}
"""Laws of start weights by name; `fwdonly.nets` says what each is."""

WORDS: dict[str, tuple[str, ...]] = {
    "activation": tuple(starts.ACTIVATIONS),
    "start": tuple(STARTS),
    "bias": ("zero", "uniform", "none"),
    "pool": tuple(POOLINGS),
    "padding": get_args(Padding),
    "norm": get_args(Norm),
    "head": get_args(Head),
}
NUMBERS = ("kernel", "stride", "patch", "tokens", "hidden")
OF_LAYERS = ("activation", "start", "bias", "norm", "dropout")
OF_CONVOLUTIONS = ("pool", "kernel", "stride", "padding")
OF_MIXERS = ("activation", "start", "patch", "tokens", "hidden", "head")
KINDS = {
    "mlp": OF_LAYERS,
    "cnn": (*OF_LAYERS, *OF_CONVOLUTIONS, "dense"),
    "residual": (*OF_LAYERS, "pool", "kernel", "stride", "dense"),
    "separable": (*OF_LAYERS, *OF_CONVOLUTIONS, "dense"),
    "mixer": OF_MIXERS,
    "cwc": (),
}
"""Kinds of networks and the options that each takes."""
USUAL = {
    "cwc": {"start": "torch_uniform", "activation": "relu"},
    "mixer": {"start": "normal", "activation": "gelu"},
}
"""Start values and activations of kinds whose layers have others than `Dense` and `Conv`."""


class Convolutions(NamedTuple):
    """A kind of convolutional network."""

    block: Any
    build: Any
    label: str


CONVOLUTIONAL = {
    "cnn": Convolutions(Conv, cnn, "CNN"),
    "residual": Convolutions(Residual, residual, "ResNet"),
    "separable": Convolutions(Separable, separable, "separable CNN"),
}

LABELS = {"mlp": "MLP", "cwc": "CNN", "mixer": "Mixer"}
"""The other kinds as tables and figures call them."""


class Spec(NamedTuple):
    """A network as its specification says it; equal specifications make equal networks."""

    kind: str
    sizes: tuple[int, ...]
    """Widths or channels."""
    options: tuple[tuple[str, Any], ...] = ()
    """(name, value) of what is said; everything else has its default."""
    function: str = ""
    """Function in the user's file, whose path is ``kind``."""

    def __str__(self) -> str:
        if self.function:
            return f"{self.kind}:{self.function}"
        words = [f"{name}={_text(value)}" for name, value in self.options]
        return ";".join([f"{self.kind}:{_text(self.sizes)}", *words])

    def with_defaults(self, defaults: Mapping[str, Any]) -> "Spec":
        """The same network, with ``defaults`` for options that it does not set. Options its kind lacks are left out."""
        options = dict(self.options)
        new = {k: v for k, v in defaults.items() if k in KINDS.get(self.kind, ()) and k not in options}
        return self._replace(options=tuple(sorted((options | new).items())))

    @property
    def start(self) -> starts.Initializer:
        """The law of its start weights."""
        return STARTS[self._word("start", "he_uniform")]

    def _word(self, name: str, usual: str) -> str:
        return dict(self.options).get(name, USUAL.get(self.kind, {}).get(name, usual))

    @property
    def label(self) -> str:
        """In words, for tables and figures: "MLP 1000-1000", "CNN 32-64-500 tanh"."""
        if self.function:
            return f"{Path(self.kind).stem}:{self.function}"
        options = dict(self.options)
        sizes = (*self.sizes, *options.get("dense", ()))
        alike = len(sizes) > 4 and len(set(sizes)) == 1
        words = [
            CONVOLUTIONAL[self.kind].label if self.kind in CONVOLUTIONAL else LABELS[self.kind],
            f"{len(sizes)} x {sizes[0]}" if alike else "-".join(map(str, sizes)),
        ]
        words += [f"patch {options.get('patch', 4)}"] if self.kind == "mixer" else []
        usual = USUAL.get(self.kind, {}).get("activation", "relu")
        words += [options["activation"]] if options.get("activation", usual) != usual else []
        words += [f"{options['norm']} norm"] if options.get("norm", "none") != "none" else []
        return " ".join([*words, *([f"dropout {options['dropout']:g}"] if options.get("dropout") else [])])

    @property
    def has_biases(self) -> bool:
        """Whether its layers have biases; a user's own function is taken to give some."""
        return dict(self.options).get("bias") != "none"

    def build(self, num_classes: int) -> Net:
        """The blocks.

        Raises:
            UsageError: sizes that make no network, or a file that gives none.
        """
        if self.function:
            return _from_file(module_of(Path(self.kind).resolve()), self.kind, self.function, num_classes)
        if self.kind == "cwc":
            return cwc(self.sizes, num_classes)
        options = dict(self.options)
        layers: dict[str, Any] = {"activation": starts.ACTIVATIONS[self._word("activation", "relu")]}
        layers |= {"kernel_init": self.start}
        if self.kind == "mixer":
            widths = {name: options[name] for name in ("patch", "tokens", "hidden", "head") if name in options}
            return mixer(self.sizes, **widths, **layers)
        layers |= {name: options[name] for name in ("bias", "norm", "dropout") if name in options}
        if self.kind == "mlp":
            return mlp(self.sizes, **layers)
        dense = mlp(options["dense"], **layers) if options.get("dense") else ()
        convolutions = {name: options[name] for name in OF_CONVOLUTIONS if name in options}
        build = CONVOLUTIONAL[self.kind].build
        blocks = (
            build([size], **layers, **{name: _at(value, i) for name, value in convolutions.items()})[0]
            for i, size in enumerate(self.sizes)
        )
        return (*blocks, *dense)

    def digest(self) -> str | None:
        """SHA-256 of the user's file; None where the specification says all."""
        return hashlib.sha256(Path(self.kind).read_bytes()).hexdigest() if self.function else None


def _at(value: Any, i: int) -> Any:
    """An option's value for one convolution of several."""
    return value[i] if isinstance(value, tuple) else value


def parse(text: str) -> Spec:
    """The specification that a text describes; the top of this file has the forms.

    Raises:
        UsageError: a specification that cannot be read, in one line with a right one.
    """
    if not isinstance(text, str):
        raise UsageError(f"a network is described by text, such as 'mlp:1000,1000'; got a {type(text).__name__}")
    text = text.strip()
    head, *parts = text.split(";")
    kind, colon, sizes = head.partition(":")
    if kind.endswith(".py") and colon and sizes.isidentifier() and not parts:
        if not Path(kind).is_file():
            raise UsageError(f"--net: there is no file {kind}; give FILE.py:FUNCTION with a file that exists")
        return Spec(kind, (), function=sizes)
    if kind not in KINDS or not colon:
        raise UsageError(
            f"--net {text!r} is no network; write mlp:1000,1000 or cnn:32,64;pool=max or cwc:20,80 or FILE.py:FUNCTION"
        )
    options = {}
    for part in parts:
        name, equals, value = part.strip().partition("=")
        if not equals or name not in KINDS[kind]:
            known = ", ".join(KINDS[kind]) or "none"
            raise UsageError(f"--net {text!r}: {kind} has no option {part.strip()!r}; its options are {known}")
        if name in options:
            raise UsageError(f"--net {text!r} says {name} twice; say it once")
        options[name] = _value(text, name, value)
    spec = Spec(kind, _sizes(text, sizes), tuple(sorted(options.items())))
    for name, value in options.items():
        if name in OF_CONVOLUTIONS and isinstance(value, tuple) and len(value) != len(spec.sizes):
            raise UsageError(
                f"--net {text!r}: {name} has {len(value)} values for {len(spec.sizes)} convolutions; give one for all, "
                "or one for each"
            )
    return spec


def described(net: Net, num_classes: int) -> str | None:
    """The specification that builds these blocks for so many classes, perhaps with other start values of weights.

    None if none does.
    """
    if not net:
        return None
    if type(net[0]) is Mixer:
        return _mixer_of(net)
    kind = next((name for name, known in CONVOLUTIONAL.items() if type(net[0]) is known.block), "mlp")
    block_type = CONVOLUTIONAL[kind].block if kind != "mlp" else Dense
    first = [block for block in net if type(block) is block_type]
    dense = [] if kind == "mlp" else list(net[len(first) :])
    ordered = all(type(block) is block_type for block in net[: len(first)])
    if not ordered or not all(type(block) is Dense for block in dense) or len(first) + len(dense) != len(net):
        return None
    if kind == "cnn" and any(block.groups != 1 for block in first):
        channels = tuple(block.channels for block in first)
        return None if dense or not _is_cwc(net, channels, num_classes) else f"cwc:{_text(channels)}"
    options = _options_of([*first, *dense], first, kind)
    if options is None:
        return None
    if dense:
        options["dense"] = tuple(block.width for block in dense)
    sizes = tuple(block.width if kind == "mlp" else block.channels for block in first)
    return str(Spec(kind, sizes, tuple(sorted(options.items()))))


def _options_of(net: list[Any], first: list[Any], kind: str) -> dict[str, Any] | None:
    """What differs from the defaults; None where the blocks do not share it, or it has no name."""
    options = {}
    for name, usual, known in (("activation", "relu", starts.ACTIVATIONS), ("kernel_init", "he_uniform", STARTS)):
        names = {_name_of(getattr(block, name), known) for block in net}
        if name == "activation" and (None in names or len(names) > 1):
            return None
        if len(names) == 1 and names != {usual} and None not in names:
            options["activation" if name == "activation" else "start"] = names.pop()
    for name in ("bias", "norm", "dropout", *(word for word in OF_CONVOLUTIONS if word in KINDS[kind])):
        values = [getattr(block, name) for block in (first if name in OF_CONVOLUTIONS else net)]
        value = values[0]
        if len(set(values)) > 1:
            if name not in OF_CONVOLUTIONS:
                return None
            value = tuple(values)
        if value != type(first[0]).__dataclass_fields__[name].default:
            options[name] = value
    return options


def _mixer_of(net: Net) -> str | None:
    """The specification of mixer blocks, start values aside; None where none builds them."""
    first: Any = net[0]
    activation = _name_of(first.activation, starts.ACTIVATIONS)
    if not first.patch or activation is None or not all(type(block) is Mixer for block in net):
        return None
    laws = {_name_of(block.kernel_init, STARTS) for block in net}
    start = laws.pop() if len(laws) == 1 else None
    usual: dict[str, Any] = {"patch": 4, "tokens": max(1, first.channels // 2), "hidden": 4 * first.channels}
    usual |= {"head": "none", **USUAL["mixer"]}
    options = {"activation": activation, "start": start, "head": getattr(net[-1], "head", None)}
    options |= {"patch": first.patch, "tokens": first.tokens, "hidden": first.hidden}
    words = {name: value for name, value in options.items() if value not in (None, usual[name])}
    spec = Spec("mixer", (first.channels,) * len(net), tuple(sorted(words.items())))
    alike = tuple(block.clone(kernel_init=spec.start, parent=None) for block in net)
    return str(spec) if alike == spec.build(1) else None


def _name_of(function: Any, known: Mapping[str, Any]) -> str | None:
    return next((name for name, value in known.items() if value is function), None)


def _is_cwc(net: Net, channels: tuple[int, ...], num_classes: int) -> bool:
    """Whether ``cwc`` with these channels gives these blocks, start values aside."""
    if any(count % num_classes for count in channels):
        return False
    alike = [block.clone(kernel_init=starts.torch_uniform, parent=None) for block in net]
    return tuple(alike) == cwc(channels, num_classes)


def _value(text: str, name: str, value: str) -> Any:
    if name == "dense":
        return _sizes(text, value)
    if name == "dropout":
        try:
            share = float(value)
        except ValueError:
            share = -1.0
        if not 0 <= share < 1:
            raise UsageError(f"--net {text!r}: dropout is a share, at least 0 and below 1; got {value!r}")
        return share
    if "," in value and name in OF_CONVOLUTIONS:
        return tuple(_value(text, name, part.strip()) for part in value.split(","))
    if name in NUMBERS:
        if not value.isdigit() or int(value) < 1:
            raise UsageError(f"--net {text!r}: {name} is a whole number from 1; got {value!r}")
        return int(value)
    if value not in WORDS[name]:
        raise UsageError(f"--net {text!r}: {name} is one of {', '.join(WORDS[name])}; got {value!r}")
    return value


def _sizes(text: str, sizes: str) -> tuple[int, ...]:
    """``100,50`` or ``64x50``, fifty layers of width 64."""
    widths: list[int] = []
    for word in sizes.split(","):
        size, times, count = word.strip().partition("x")
        if not size.isdigit() or int(size) < 1 or (times and (not count.isdigit() or int(count) < 1)):
            raise UsageError(f"--net {text!r}: sizes are whole numbers from 1, such as 1000,1000 or 64x50")
        widths += [int(size)] * int(count or 1)
    return tuple(widths)


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


@functools.cache  # blocks of one run of the file are equal, and compile once
def _from_file(module: ModuleType, path: str, function: str, num_classes: int) -> Net:
    build = getattr(module, function, None)
    if not callable(build):
        raise UsageError(f"--net: {path} has no function {function}")
    net = build(num_classes)
    if isinstance(net, tuple) and net and all(hasattr(b, "init") and hasattr(b, "apply") for b in net):
        return net
    try:
        check_net(net)
    except UsageError as error:
        why = str(error)
    else:
        why = "one of them has no init or no apply"
    raise UsageError(
        f"--net: {function}({num_classes}) of {path} must return a tuple of blocks with init and apply: {why}"
    )
