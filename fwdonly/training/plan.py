"""How long to train, when to stop, and how images reach the network."""

import dataclasses
from collections.abc import Sequence
from typing import Literal, get_args

from ..base import Precision
from ..errors import UsageError, settle_numbers

Normalise = Literal["pixel", "paper", "half", "none"]
Monitor = Literal["loss", "accuracy"]
Keep = Literal["best_loss", "best_accuracy", "last"]
WORDS = {"monitor": Monitor, "keep": Keep, "normalise": Normalise, "precision": Precision}
PLACES = ("cache_gb", "stream")
"""Fields of a `Plan` that say where data lie, and change numbers by rounding at most."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long to train, when to stop and how images reach the network. Equal plans share compiled programs."""

    epochs: int = 20
    """Cap on the epochs, passes over the training images; of every stage, where a rule trains in stages."""
    batch_size: int | None = 128
    """Images per step; the incomplete last batch of an epoch is dropped. None: all of them, one step per epoch."""
    patience: int | None = None
    """Stop after this many epochs in a row without improvement. None: train to the cap."""
    min_delta: float = 0.0
    """Smallest improvement: a decrease of the loss, or an increase of the accuracy (0..1), by more than this."""
    monitor: Monitor = "loss"
    """What ``patience`` watches on the validation images: "loss" (mean cross-entropy of the prediction) or
    "accuracy"."""
    target: float | None = None
    """Validation accuracy (0..1) at which a run ends, in any stage: at the second of two validations in a row that
    reach it. None: no target."""
    keep: Keep = "best_accuracy"
    """The state that is kept and tested: that of the epoch with the best validation loss ("best_loss") or accuracy
    ("best_accuracy"; of equally good epochs the first), or of the "last" epoch."""
    normalise: Normalise = "pixel"
    """Pixel constants: of the training set (pixel), of the papers' code (paper), half (pixels in [-1, 1]) or none
    (pixels in [0, 1]). Float features: standardised by the training set (pixel), or as they are (none); see
    `fwdonly.data.statistics`."""
    augment: bool = False
    """Random crop after reflect padding by 4, then random horizontal flip, in the compiled step."""
    validate_every: int = 1
    """Epochs from one validation to the next. The history has one row per validation, and images are shuffled anew
    after each."""
    layer_accuracy: bool = False
    """Note after every validation how well each layer's own scores do on the validation images, where a rule has such
    (`LearningRule.layer_scores`): a pass through the network more."""
    cache_gb: float | None = None
    """Memory for the features of frozen layers (see `fwdonly.base.Frozen`), in GB (10^9 bytes). Features of all runs
    that fit are computed once per stage, others with every batch; the numbers are equal to rounding. None: half of the
    memory that is free when the training begins (a resumed run does as it did before). 0: never keep them. Features of
    augmented and streamed images are never kept."""
    precision: Precision = "float32"
    """Precision of the factors in matrix products and convolutions: "float32", "tf32" (Ampere and newer) or "bfloat16";
    a CPU has "float32" alone. Sums, the state and everything else stay float32, but a convolution of bfloat16 factors
    rounds its result to bfloat16, too."""
    stream: bool | None = None
    """Keep the training images in host memory; Grain (extra ``stream``) brings them to the device ahead of the
    training. The numbers are those of images on the device, to rounding where features of frozen layers would be kept
    there. None: where the images would take more than half of the free memory."""
    chunk_steps: int = 128
    """Steps (of every run of a sweep) per compiled call, after which the host reports and may stop."""

    def __post_init__(self) -> None:
        settle_numbers(self)
        for name in ("epochs", "batch_size", "chunk_steps", "patience", "validate_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} must be at least 1; got {value}")
            if value is not None and value >= 2**31:
                raise UsageError(f"{name} must be below 2**31; got {value}")
        if not self.min_delta >= 0:
            raise UsageError(f"min_delta must be 0 or more; got {self.min_delta}")
        if self.target is not None and not 0 < self.target <= 1:
            raise UsageError(f"target is an accuracy, above 0 and at most 1; got {self.target}")
        if self.cache_gb is not None and not self.cache_gb >= 0:
            raise UsageError(f"cache_gb must be 0 or more; got {self.cache_gb}")
        if self.epochs % self.validate_every:
            raise UsageError(f"validate_every must divide epochs; {self.validate_every} does not divide {self.epochs}")
        if self.stream and self.batch_size is None:
            raise UsageError("a full batch needs all images on the device; give a batch_size, or leave out stream")
        for name, known in WORDS.items():
            if getattr(self, name) not in get_args(known):
                raise UsageError(f"{name} is one of {', '.join(get_args(known))}; got {getattr(self, name)!r}")


def plans_of_stages(plan: Plan | Sequence[Plan] | None, stages: int) -> tuple[Plan, ...]:
    """One plan per stage."""
    plans = (plan or Plan(),) * stages if plan is None or isinstance(plan, Plan) else tuple(plan)
    if len(plans) != stages:
        raise UsageError(f"there are {len(plans)} plans for {stages} stages; give one plan, or one for each stage")
    for name in ("batch_size", "normalise", "augment", "validate_every", "precision", "stream"):
        values = {getattr(one, name) for one in plans}
        if len(values) > 1:
            raise UsageError(f"all stages need the same {name}; the plans have {sorted(map(str, values))}")
    return plans


def steps_per_epoch(plan: Plan, images: int) -> int:
    """Steps in a pass over ``images`` training images.

    Raises:
        UsageError: a batch is larger than that.
    """
    if (plan.batch_size or 1) > images:
        raise UsageError(
            f"a batch of {plan.batch_size} images is larger than the training split of {images}; "
            "use a smaller batch size"
        )
    return images // plan.batch_size if plan.batch_size else 1
