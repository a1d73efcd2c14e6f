"""A trained model: raw samples in, labels and scores out."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from ..base import DOT, LearningRule, State, cross_entropy
from ..data import Dataset, Preprocessing
from ..errors import UsageError
from ..results import Saved
from . import export

ROWS = 128
"""Samples that pass through the network together, always: fewer are filled up. So one program is compiled, and a
sample's scores are the same bits whatever comes with it."""


class Prediction(NamedTuple):
    """What a model says of n samples."""

    labels: np.ndarray
    """(n,) int32: the class with the highest score."""
    scores: np.ndarray
    """(n, classes): the rule's scores; their scale is the rule's own."""
    names: tuple[str, ...] | None
    """The labels in words, where the classes have names."""


class Evaluation(NamedTuple):
    """How well a model predicts labels that are known."""

    accuracy: float
    """0..1."""
    balanced_accuracy: float
    """Mean of the classes' own accuracies, 0..1, over the classes that occur."""
    loss: float
    """Mean cross-entropy of the scores, in nats."""
    samples: int


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Model:
    """A trained model, from `fwdonly.load`.

    Attributes:
        rule: predicts from the state.
        state: the trained state; its ``opt_state`` is None unless the prediction needs it.
        inputs: how raw samples reach the network, and what the classes are called.
        saved: what the file says about itself, without its arrays.
    """

    rule: LearningRule
    state: State
    inputs: Preprocessing
    saved: Saved

    def __repr__(self) -> str:
        """One line: rule, network, data, size and accuracy."""
        about = self.saved
        count = sum(leaf.size for leaf in jax.tree.leaves(self.state))
        accuracy = about.metrics.get("test_accuracy")
        words = [about.rule or "a rule of your own", about.network or "a network of your own"]
        words += [f"{about.data.get('name')} {self.inputs.shape} -> {self.inputs.num_classes} classes"]
        words += [f"{count:,} numbers"] + ([f"test accuracy {accuracy:.4f}"] if isinstance(accuracy, float) else [])
        return f"Model({', '.join(' '.join(str(word).split())[:80] for word in words)})"

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The classes in words, in the order of their labels."""
        return self.inputs.class_names

    @functools.cached_property
    def _compiled(self) -> Callable[[State, Array], Array]:
        return jax.jit(lambda state, x: self.rule.predict(state, self.inputs.scaled(x)))

    def predict(self, x: Any) -> Prediction:
        """Labels and scores of raw samples.

        The numbers are those of float32 products, whatever the training's precision was. On one machine and version
        equal samples give equal bits, in any process.

        Args:
            x: samples (n, *shape) as they were given to the data set: uint8 images, numbers, or rows of a table as a
                DataFrame with the training table's columns.

        Raises:
            UsageError: samples of another shape, type or range; one line with its mend.

        Example:
            >>> import fwdonly, optax, tempfile
            >>> digits, tx = fwdonly.data.load("digits"), optax.adam(1e-2)
            >>> rule = fwdonly.mf.rule(fwdonly.nets.mlp([16]), tx, num_classes=10)
            >>> result = fwdonly.fit(rule, digits, fwdonly.Plan(epochs=1))
            >>> file = tempfile.mkdtemp() + "/digits.safetensors"
            >>> fwdonly.save(file, result, rule, digits)
            >>> fwdonly.load(file).predict(digits.x_test[:3]).scores.shape
            (3, 10)
        """
        return self._predicted(self.inputs.raw(x))

    def _predicted(self, raw: np.ndarray) -> Prediction:
        scores = np.concatenate([self._scores(raw[at : at + ROWS]) for at in range(0, len(raw), ROWS)])
        labels = scores.argmax(1).astype(np.int32)
        names = self.class_names
        return Prediction(labels, scores, None if names is None else tuple(names[label] for label in labels))

    def _scores(self, raw: np.ndarray) -> np.ndarray:
        """Scores of at most `ROWS` samples."""
        count = len(raw)
        padded = raw if count == ROWS else np.concatenate([raw, np.repeat(raw[-1:], ROWS - count, axis=0)])
        with jax.default_matmul_precision(DOT["float32"]):
            return np.asarray(self._compiled(self.state, jax.device_put(padded)))[:count]

    def evaluate(self, data: Any, y: Any = None, *, part: Literal["test", "train", "all"] = "test") -> Evaluation:
        """Accuracy and loss on samples whose labels are known.

        Args:
            data: a `Dataset`, or raw samples as for `predict`; their labels are then ``y``.
            y: labels (n,): integers, or names of classes.
            part: of a data set: its test part, its training part, or both.

        Raises:
            UsageError: samples or labels that do not fit the model; one line.
        """
        if isinstance(data, Dataset):
            if y is not None:
                raise UsageError("a data set has its labels; leave y out")
            raw, labels = self._of_dataset(data, part)
        else:
            if y is None:
                raise UsageError("evaluate needs labels beside raw samples; pass evaluate(x, y), or a data set")
            raw = self.inputs.raw(data)
            labels = self._numbered("y", np.asarray(y).reshape(-1))
            if len(labels) != len(raw):
                raise UsageError(f"x has {len(raw)} samples and y {len(labels)} labels; give each sample its label")
        predicted = self._predicted(raw)
        right = predicted.labels == labels
        balanced = np.mean([right[labels == label].mean() for label in np.unique(labels)])
        loss = float(cross_entropy(jax.numpy.asarray(predicted.scores), jax.numpy.asarray(labels)))
        return Evaluation(float(right.mean()), float(balanced), loss, len(labels))

    def _of_dataset(self, data: Dataset, part: str) -> tuple[np.ndarray, np.ndarray]:
        """Raw samples and labels in the model's own numbers."""
        if part not in ("test", "train", "all"):
            raise UsageError(f"part is 'test', 'train' or 'all'; got {part!r}")
        parts = ("test", "train") if part == "all" else (part,)
        x = np.concatenate([getattr(data, f"x_{name}") for name in parts])
        y = np.concatenate([getattr(data, f"y_{name}") for name in parts])
        if data.columns != self.inputs.columns:
            raise UsageError(
                f"{data.name} is coded as a table of its own; pass evaluate(frame, labels), with the rows as they are"
            )
        if x.dtype.name != self.inputs.kind:
            raise UsageError(f"{data.name} holds {x.dtype}, and this model takes {self.inputs.kind}; give it the same")
        names, classes = data.class_names, self.class_names
        if names is not None and classes is not None and names != classes:
            y = self._numbered(data.name, np.asarray(names)[y])
        elif data.num_classes > self.inputs.num_classes:
            raise UsageError(f"{data.name} has {data.num_classes} classes, this model {self.inputs.num_classes}")
        raw = x if self.inputs.columns is not None else self.inputs.raw(x, data.name)
        return raw, y

    def _numbered(self, where: str, y: np.ndarray) -> np.ndarray:
        """Labels as the model numbers them."""
        names = self.class_names
        if y.dtype.kind in "iu":
            if len(y) and not 0 <= int(y.min()) <= int(y.max()) < self.inputs.num_classes:
                raise UsageError(f"{where} holds labels outside 0..{self.inputs.num_classes - 1}; correct them")
            return y.astype(np.int32)
        places = {} if names is None else {name: at for at, name in enumerate(names)}
        numbers = [places.get(str(name)) for name in y.tolist()]
        if None in numbers:
            strange = str(y[numbers.index(None)])[:40]
            known = "numbers its classes 0, 1, ..." if names is None else f"knows {', '.join(names)}"[:200]
            raise UsageError(f"{where} holds the class {strange!r}, and this model {known}; correct it")
        return np.asarray(numbers, np.int32)

    def export(self, path: str | Path) -> None:
        """Write what people without this library need; the ending says which (docs/saved-models.md).

        ``.npz``: the plain parameters. ``.stablehlo``: the whole prediction as a compiled program of StableHLO, with
        the preprocessing in it, for any number of samples, on CPUs, NVIDIA GPUs and TPUs; needs the extra ``export``.

        Raises:
            UsageError: another ending, or a folder that cannot be written.
        """
        export.write(self, Path(path))
