"""The door of data: what becomes a `Dataset`, what is refused, each fault with its exact line."""

import dataclasses

import jaxtyping
import numpy as np
import pytest

from fwdonly import UsageError, data

RANDOM = np.random.default_rng(0)
X = RANDOM.integers(0, 256, (60, 8, 8, 1)).astype(np.uint8)
Y = np.arange(60) % 10
X_TEST, Y_TEST = X[:20], Y[:20]
FLOAT = (X / 255).astype(np.float32)


@pytest.fixture(autouse=True)
def as_users_run(monkeypatch):
    """Annotations are not checked, so a wrong type gets as far as the library's own line."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def build(x=X, y=Y, x_test=X_TEST, y_test=Y_TEST, num_classes=10, **more):
    return data.Dataset("mine", "mine", x, y, x_test, y_test, num_classes, **more)


def both(x, **more):
    """The same form for both parts."""
    return {"x": x, "x_test": x[:20]} | more


def with_value(value, row):
    x = FLOAT.copy()
    x[row, 3, 3, 0] = value
    return x


CHANNELS = RANDOM.integers(0, 256, (60, 3, 32, 32)).astype(np.uint8)
REFUSED = {
    "channels first, grey": (
        both(X.transpose(0, 3, 1, 2)),
        "mine: x_train: shape (N, 1, 8, 8) looks like channels first; pass x.transpose(0, 2, 3, 1)",
    ),
    "channels first, colour": (
        both(CHANNELS),
        "mine: x_train: shape (N, 3, 32, 32) looks like channels first; pass x.transpose(0, 2, 3, 1)",
    ),
    "channels first, floats": (
        both(CHANNELS / 255),
        "mine: x_train: shape (N, 3, 32, 32) looks like channels first; pass x.transpose(0, 2, 3, 1)",
    ),
    "x_test shorter": (
        {"x_test": X_TEST[:-5]},
        "mine: x_test has 15 samples and y_test 20 labels; give each sample its label",
    ),
    "x_train shorter": (
        {"x": X[:-5]},
        "mine: x_train has 55 samples and y_train 60 labels; give each sample its label",
    ),
    "y_test shorter": (
        {"y_test": Y_TEST[:-5]},
        "mine: x_test has 20 samples and y_test 15 labels; give each sample its label",
    ),
    "y_train shorter": (
        {"y": Y[:-5]},
        "mine: x_train has 60 samples and y_train 55 labels; give each sample its label",
    ),
    "no test images": (
        {"x_test": X_TEST[:0], "y_test": Y_TEST[:0]},
        "mine: x_test is empty, shape (0, 8, 8, 1); every part needs samples",
    ),
    "no training images": (
        {"x": X[:0], "y": Y[:0]},
        "mine: x_train is empty, shape (0, 8, 8, 1); every part needs samples",
    ),
    "images without pixels": (both(X[:, :0]), "mine: x_train is empty, shape (60, 0, 8, 1); every part needs samples"),
    "test images of another size": (
        {"x_test": X_TEST[:, :7]},
        "mine: training samples have shape (8, 8, 1), test samples (7, 8, 1); give both one size",
    ),
    "a table and images": (
        {"x_test": X_TEST.reshape(20, 64)},
        "mine: training samples have shape (8, 8, 1), test samples (64,); give both one size",
    ),
    "floats beside pixels": (
        {"x_test": FLOAT[:20]},
        "mine: x_train is uint8 and x_test float32; give both one type, on one scale",
    ),
    "one column without its axis": (
        both(FLOAT[:, 0, 0, 0]),
        "mine: x_train has shape (60,), samples without features; pass x.reshape(-1, 1) for a single column",
    ),
    "a number": ({"x": 3}, "mine: x_train has shape (), samples without features; give samples along the first axis"),
    "constant pixels": (
        {"x": X // 255 * 0},
        "mine: x_train is constant, every value is 0; were floats in [0, 1] cast to uint8? pass them as they are",
    ),
    "constant floats": (
        {"x": FLOAT * 0 + 2, "x_test": FLOAT[:20]},
        "mine: x_train is constant, every value is 2.0; give data that differ",
    ),
    "constant test images": (
        {"x_test": X_TEST * 0},
        "mine: x_test is constant, every value is 0; were floats in [0, 1] cast to uint8? pass them as they are",
    ),
    "NaN": (
        {"x": with_value(np.nan, 17), "x_test": FLOAT[:20]},
        "mine: x_train holds NaN, infinity or more than float32 can (first in sample 17); fill or drop it",
    ),
    "infinity": (
        {"x": FLOAT, "x_test": with_value(np.inf, 4)[:20]},
        "mine: x_test holds NaN, infinity or more than float32 can (first in sample 4); fill or drop it",
    ),
    "too large for float32": (
        {"x": with_value(0, 0).astype(float) + 1e300, "x_test": FLOAT[:20]},
        "mine: x_train holds NaN, infinity or more than float32 can (first in sample 0); fill or drop it",
    ),
    "complex numbers": (
        both(FLOAT + 1j),
        "mine: x_train is complex64; give numbers (data.from_table takes columns of text)",
    ),
    "text": (
        both(np.full((60, 4), "a")),
        "mine: x_train is <U1; give numbers (data.from_table takes columns of text)",
    ),
    "Python objects": (
        both(np.array([[None, 1.0]] * 60)),
        "mine: x_train holds Python objects; give numbers, and all samples one shape",
    ),
    "images of several sizes": (
        {"x": [np.zeros((3, 3)), np.zeros((4, 4))]},
        "mine: x_train cannot be read as one array; give numbers, and all samples one shape",
    ),
    "labels as floats": (
        {"y": Y.astype(float)},
        "mine: y_train is float64; labels must be integers: pass y.astype(int), if the classes are whole",
    ),
    "labels one-hot": ({"y": np.eye(10)[Y]}, "mine: y_train is one-hot, shape (60, 10); pass y.argmax(1)"),
    "test labels one-hot, integers": (
        {"y_test": np.eye(10, dtype=int)[Y_TEST]},
        "mine: y_test is one-hot, shape (20, 10); pass y.argmax(1)",
    ),
    "several labels": (
        {"y": np.ones((60, 10), int)},
        "mine: y_train has shape (60, 10); labels must be one integer per sample",
    ),
    "labels as text": (
        {"y": np.array(list("abcdefghij"))[Y]},
        "mine: y_train holds text; data.from_arrays(x, y) numbers the classes and keeps their names",
    ),
    "labels as dates": ({"y": Y.astype("datetime64[s]")}, "mine: y_train is datetime64[s]; labels must be integers"),
    "labels of objects": (
        {"y": [*Y[:-1].tolist(), None]},
        "mine: y_train holds Python objects; give numbers, and all samples one shape",
    ),
    "labels from 1": (
        {"y": Y + 1},
        "mine: y_train holds labels 1..10, outside 0..9; correct the labels or num_classes",
    ),
    "a label of -1": (
        {"y": Y - 1},
        "mine: y_train holds labels -1..8, outside 0..9; correct the labels or num_classes",
    ),
    "test labels too large": (
        {"y_test": Y_TEST + 2},
        "mine: y_test holds labels 2..11, outside 0..9; correct the labels or num_classes",
    ),
    "a label of 2**40": (
        {"y": np.where(Y == 3, 2**40, Y)},
        "mine: y_train holds labels 0..1099511627776; number the classes from 0 without gaps",
    ),
    "a label of 2**63 and more": (
        {"y": np.where(Y == 3, 2**64 - 1, Y.astype(np.uint64))},
        "mine: y_train holds labels 0..18446744073709551615; number the classes from 0 without gaps",
    ),
    "one class": ({"y": Y * 0}, "mine: every training label is 0; training needs samples of at least two classes"),
    "classes without end": (
        {"num_classes": 10**9},
        "mine: 1000000000 classes for 60 training samples; a network has an output for each, so correct num_classes",
    ),
    "classes as a float": ({"num_classes": 10.0}, "mine: num_classes is an integer; got 10.0 (float)"),
    "classes as text": ({"num_classes": "10"}, "mine: num_classes is an integer; got 10 (str)"),
    "no classes": (
        {"num_classes": 0},
        "mine: y_train holds labels 0..9, outside 0..-1; correct the labels or num_classes",
    ),
    "names for other classes": (
        {"class_names": ("a", "b")},
        "mine: 2 class names for 10 classes; name each",
    ),
    "everything to validate": (
        {"num_validation": 60},
        "mine: num_validation is 60; leave some of the training samples",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line(case):
    given, line = REFUSED[case]
    with pytest.raises(UsageError) as caught:
        build(**given)
    assert str(caught.value) == line


SAID = {
    "RGBA": (
        both(np.repeat(X, 4, axis=-1)),
        "mine: images have 4 channels; if the fourth is alpha (RGBA), pass x[..., :3]",
    ),
    "unused classes": (
        {"num_classes": 12, "y_test": np.arange(20) % 10},
        "mine: 2 of 12 classes have no sample in y_train (10, 11); correct num_classes if they do not exist",
    ),
    "a class missing from the test part": (
        {"y_test": np.arange(20) % 9},
        "mine: 1 of 10 classes have no sample in y_test (9); correct num_classes if they do not exist",
    ),
    "many unused classes": (
        {"num_classes": 60_000},
        "mine: 59990 of 60000 classes have no sample in y_train (10, 11, 12, 13, 14, ...); correct num_classes if they "
        "do not exist",
    ),
    "test pixels in 0/1": (
        {"x_test": (X_TEST > 99).astype(np.uint8)},
        "mine: training values range over 0..255 and test values over 0..1; scale both alike",
    ),
    "test floats in [0, 255]": (
        {"x": FLOAT, "x_test": FLOAT[:20] * 255},
        "mine: training values range over 0..1 and test values over 0..255; scale both alike",
    ),
    "test floats in [-1, 1]": (
        {"x": FLOAT, "x_test": 2 * FLOAT[:20] - 1},
        "mine: training values range over 0..1 and test values over -1..1; scale both alike",
    ),
}


@pytest.mark.parametrize("case", SAID)
def test_said_as_a_warning(case):
    given, line = SAID[case]
    with pytest.warns(data.DataWarning) as caught:
        build(**given)
    assert str(caught[0].message) == line


TAKEN = {
    "(n, h, w)": (both(X[..., 0]), X),
    "float32 images": (both(FLOAT), FLOAT),
    "floats (n, h, w)": (both(FLOAT[..., 0]), FLOAT),
    "float64": (both(X.astype(float)), X.astype(np.float32)),
    "float16": (both(FLOAT.astype(np.float16)), FLOAT.astype(np.float16).astype(np.float32)),
    "int64": (both(X.astype(np.int64)), X.astype(np.float32)),
    "uint16": (both(X.astype(np.uint16)), X.astype(np.float32)),
    "bool": (both(X > 127), (X > 127).astype(np.float32)),
    "big-endian": (both(FLOAT.astype(">f4")), FLOAT),
    "Fortran order": (both(np.asfortranarray(X)), X),
    "lists": (both(X.tolist()), X.astype(np.float32)),
    "a table": (both(FLOAT.reshape(60, 64)), FLOAT.reshape(60, 64)),
    "a table of bytes": (both(X.reshape(60, 64)), X.reshape(60, 64)),
    "rank 5": (both(FLOAT.reshape(60, 4, 2, 8, 1)), FLOAT.reshape(60, 4, 2, 8, 1)),
}


@pytest.mark.parametrize("case", TAKEN)
def test_taken(case):
    given, expected = TAKEN[case]
    found = build(**given)
    assert found.x_train.dtype == expected.dtype and found.x_train.flags.c_contiguous
    np.testing.assert_array_equal(found.x_train, expected)
    np.testing.assert_array_equal(found.x_test, expected[:20])


@pytest.mark.parametrize(
    "labels", [Y[:, None], Y.tolist(), Y.astype(np.uint64), Y.astype(np.uint8), Y.astype(">i2"), [[int(y)] for y in Y]]
)
def test_labels_taken(labels):
    found = build(y=labels).y_train
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, Y)


def test_labels_of_truth_values_are_0_and_1():
    found = build(y=Y > 4, y_test=Y_TEST > 4, num_classes=2)
    np.testing.assert_array_equal(found.y_train, Y > 4)
    assert found.y_train.dtype == np.int32


def test_the_callers_arrays_are_neither_copied_nor_locked():
    x = X.copy()
    found = build(x=x)
    assert np.shares_memory(found.x_train, x) and x.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        found.x_train[0] = 0


def test_a_changed_copy_is_checked_too():
    with pytest.raises(UsageError, match="looks like channels first"):
        dataclasses.replace(build(), x_train=X.transpose(0, 3, 1, 2))


def test_a_memory_map_stays_one(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, X)
    x = np.load(path, mmap_mode="r")
    assert np.shares_memory(build(x=x).x_train, x)


# --- files -----------------------------------------------------------------------------------------------------------


def npz(folder, **arrays):
    keras = {"x_train": X, "y_train": Y, "x_test": X_TEST, "y_test": Y_TEST}
    np.savez(folder / "mine.npz", **(arrays if "train_images" in arrays else keras | arrays))
    return data.load("mine", folder)


@pytest.mark.parametrize(
    "case", [name for name in REFUSED if name.startswith(("channels", "labels as f", "labels as t"))]
)
def test_files_go_through_the_same_door(case, tmp_path):
    given, line = REFUSED[case]
    named = {{"x": "x_train", "y": "y_train"}.get(key, key): value for key, value in given.items()}
    with pytest.raises(UsageError) as caught:
        npz(tmp_path, **named)
    assert str(caught.value) == line.replace("mine:", f"{tmp_path}/mine.npz:", 1)


def medmnist(**changes):
    arrays = {"train_images": X, "train_labels": Y[:, None], "val_images": X[:10], "val_labels": Y[:10, None]}
    return arrays | {"test_images": X_TEST, "test_labels": Y_TEST[:, None]} | changes


def test_medmnist_layout_keeps_its_validation_part(tmp_path):
    found = npz(tmp_path, **medmnist())
    assert found.x_train.shape == (70, 8, 8, 1) and found.num_validation == 10 and found.num_classes == 10
    train, validation = data.split(found)
    assert train.dtype == validation.dtype == np.int32
    np.testing.assert_array_equal(train, np.arange(60))
    np.testing.assert_array_equal(found.x_train[validation], X[:10])
    assert "validation part" in found.source
    # Another part on request, and another digest than without.
    assert len(data.split(found, num_validation=7)[1]) == 7
    assert dataclasses.replace(found, num_validation=0).digest != found.digest


def test_medmnist_of_several_labels_or_sizes_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"labels must be one integer per sample$"):
        npz(tmp_path, **medmnist(train_labels=np.ones((60, 3), int), val_labels=np.ones((10, 3), int)))
    with pytest.raises(UsageError, match=r"train_images are \(8, 8, 1\), val_images \(4, 8, 1\); give both one size$"):
        npz(tmp_path, **medmnist(val_images=X[:10, :4]))
    with pytest.raises(UsageError, match=r"9 val_images and 10 val_labels; give each its label$"):
        npz(tmp_path, **medmnist(val_images=X[:9]))


@pytest.mark.parametrize(
    "content, words",
    [
        (b"<!DOCTYPE html><html>404</html>", "it is an HTML page, as failed downloads are"),
        (b"\n  <html></html>", "it is an HTML page, as failed downloads are"),
        (b"\x93NUMPY\x01\x00", "it is a single array in .npy"),
        (b"version https://git-lfs", "it begins with 76657273"),
        (b"", "it begins with nothing"),
    ],
)
def test_no_npz_at_all(tmp_path, content, words):
    path = tmp_path / "mine.npz"
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        data.load("mine", tmp_path)
    assert str(caught.value) == f"{path} cannot be read as .npz ({words}): replace it by the file itself"


def test_objects_in_a_file_are_refused_without_numpys_advice(tmp_path):
    with pytest.raises(UsageError) as caught:
        npz(tmp_path, y_train=np.array([{}] * 60))
    assert "allow_pickle" not in str(caught.value) and "holds Python objects" in str(caught.value)
