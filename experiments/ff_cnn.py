"""Forward-Forward on a CNN, in its channel-wise competitive form (CwC)."""

import dataclasses
import functools
import sys
from typing import Literal

import _common
from _presets import CWC_PUBLISHED

from fwdonly import cwc, nets


@dataclasses.dataclass(frozen=True)
class Options(_common.Options):
    """Train a CNN with channel-wise competitive learning (CwC), a Forward-Forward without negative data.

    The channels of every layer form one group per class; the group with the largest mean square names the class.
    Prints a table of every seed and writes a result folder. Ctrl-C leaves a folder that --resume continues.
    """

    preset: Literal[tuple(CWC_PUBLISHED)] | None = None  # ty: ignore[invalid-type-form]
    """Start from the settings of arXiv 2312.12668, without its epoch window per layer; other options override them."""
    channels: tuple[int, ...] = (20, 80, 240, 480)
    """Channels of the layers, multiples of the number of classes; every second layer is grouped and pooled."""
    epochs: int = 20
    """Cap on the epochs."""
    learning_rate: float = 0.01
    """Learning rate, at its peak."""
    lr_schedule: _common.LRSchedule = "constant"
    """constant; cosine: from the peak to 0 at the epoch cap; half_linear: constant for half of it, then down to 1/E."""
    compare: bool = False
    """Train BP beside CwC on the same blocks (without batch normalisation), split and data order."""
    bp: _common.BPOptions = dataclasses.field(default_factory=lambda: _common.BPOptions(learning_rate=1e-3))


def arms(options: Options) -> list[_common.Arm]:
    """CwC, and BP with --compare."""
    network, net = f"CNN {'-'.join(map(str, options.channels))}", functools.partial(nets.cwc, options.channels)

    def build(setting: _common.Setting) -> cwc.LearningRule:
        return cwc.rule(net(setting.num_classes), setting.tx, num_classes=setting.num_classes)

    def build_bp(setting: _common.Setting) -> cwc.LearningRule:
        return _common.bp.rule(net(setting.num_classes), setting.tx, num_classes=setting.num_classes)

    twin = _common.bp_arm(options, options.bp, net, network)._replace(build=build_bp)
    both = [_common.Arm("cwc", build, options, network, net), twin]
    return both if options.compare else both[:1]


if __name__ == "__main__":
    sys.exit(_common.main("ff_cnn", Options, CWC_PUBLISHED, arms))
