"""Ways in for data of one's own: arrays, folders of images, tables, Hugging Face; their faults, each with its line."""

import csv
import dataclasses
import re
import sys
import types
from functools import partial

import jaxtyping
import numpy as np
import optax
import pytest

from fwdonly import Plan, UsageError, bp, data, fit, mf, nets
from fwdonly.cli import train

RANDOM = np.random.default_rng(0)
X = RANDOM.integers(0, 256, (60, 8, 8, 1)).astype(np.uint8)
Y = np.arange(60) % 3
NAMES = np.array(["cat", "ant", "bee"])


@pytest.fixture(autouse=True)
def as_users_run(monkeypatch):
    """Annotations are not checked, so a wrong type gets as far as the library's own line."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def line_of(call):
    with pytest.raises(UsageError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- arrays ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("test, held", [(0.2, 12), (0.5, 30), (9, 9), (np.int64(6), 6)])
def test_a_test_part_is_held_out_by_class_and_seed(test, held):
    x = np.arange(60, dtype=np.float32)[:, None]
    found = data.from_arrays(x, Y, test=test)
    assert len(found.x_test) == held and np.ptp(np.bincount(found.y_test)) == 0
    both = np.concatenate([found.x_train, found.x_test])[:, 0]
    assert sorted(both) == list(range(60))
    np.testing.assert_array_equal(Y[both.astype(int)], np.concatenate([found.y_train, found.y_test]))
    assert data.from_arrays(x, Y, test=test).digest == found.digest
    assert data.from_arrays(x, Y, test=test, seed=1).digest != found.digest


def test_a_test_part_may_be_given():
    found = data.from_arrays(X, Y, test=(X[:20], Y[:20]))
    np.testing.assert_array_equal(found.x_train, X)
    np.testing.assert_array_equal(found.x_test, X[:20])


@pytest.mark.parametrize(
    "labels, names",
    [
        (NAMES[Y], ("ant", "bee", "cat")),
        (NAMES[Y].tolist(), ("ant", "bee", "cat")),
        (NAMES[Y].astype(object)[:, None], ("ant", "bee", "cat")),
        (NAMES[Y].astype("S"), ("ant", "bee", "cat")),
        (Y > 0, ("False", "True")),
        (Y.tolist(), None),
    ],
)
def test_labels_of_every_kind(labels, names):
    found = data.from_arrays(X, labels, test=(X, labels))
    assert found.class_names == names
    words = np.asarray(labels).ravel()
    words = words.astype("U") if words.dtype.kind in "OSU" else words.astype(str)
    numbered = np.asarray(names)[found.y_train] if names else found.y_train.astype(str)
    np.testing.assert_array_equal(numbered, words)
    np.testing.assert_array_equal(found.y_train, found.y_test)


ARRAYS = {
    "lengths": (
        partial(data.from_arrays, X, Y[:-1]),
        "arrays: x has 60 samples and y 59 labels; give each sample its label",
    ),
    "one-hot": (partial(data.from_arrays, X, np.eye(3)[Y]), "arrays: y is one-hot, shape (60, 3); pass y.argmax(1)"),
    "floats": (
        partial(data.from_arrays, X, Y / 2),
        "arrays: y is float64; labels must be integers: pass y.astype(int), if the classes are whole",
    ),
    "gaps": (
        partial(data.from_arrays, X, Y * 2),
        "arrays: y_train reaches 4 but has no label 1; number the classes from 0 without gaps, or give "
        "num_classes as well",
    ),
    "-1 and 1": (
        partial(data.from_arrays, X, np.where(Y > 0, 1, -1)),
        "arrays: y_train holds labels -1..1; number the classes from 0",
    ),
    "ragged labels": (
        partial(data.from_arrays, X, [[1], [1, 2]] * 30),
        "arrays: y cannot be read as one array; give one label per sample",
    ),
    "None among the labels": (
        partial(data.from_arrays, X, [*NAMES[Y][:-1], None]),
        "arrays: y holds Python objects; give numbers, and all samples one shape",
    ),
    "a strange test label": (
        partial(data.from_arrays, X, NAMES[Y], test=(X[:2], ["ant", "dog"])),
        "arrays: y_test holds 'dog', which no training label is; correct it",
    ),
    "share of 1": (
        partial(data.from_arrays, X, Y, test=1.0),
        "arrays: test is 1.0; hold out a share of 0..1, or 1 to 59 of 60 samples",
    ),
    "share of 0": (
        partial(data.from_arrays, X, Y, test=0.0),
        "arrays: test is 0.0; hold out a share of 0..1, or 1 to 59 of 60 samples",
    ),
    "more than all": (
        partial(data.from_arrays, X, Y, test=60),
        "arrays: test is 60; hold out a share of 0..1, or 1 to 59 of 60 samples",
    ),
    "test of three": (
        partial(data.from_arrays, X, Y, test=(X, Y, Y)),
        "arrays: test is (x_test, y_test) or how much to hold out; got 3 values",
    ),
    "seed": (partial(data.from_arrays, X, Y, seed=-1), "a seed lies in 0..2**32-1; got -1"),
    "channels first": (
        partial(data.from_arrays, X.transpose(0, 3, 1, 2), Y),
        "arrays: x: shape (N, 1, 8, 8) looks like channels first; pass x.transpose(0, 2, 3, 1)",
    ),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_arrays_refused(case):
    call, line = ARRAYS[case]
    assert line_of(call) == line


# --- folders of images -----------------------------------------------------------------------------------------------


@pytest.fixture
def pillow():
    return pytest.importorskip("PIL.Image")


def paint(image, root, mode="L", size=(6, 5), classes=("ant", "bee"), count=5, ending="png"):
    """Random images of (width, height) in folders; their arrays by path."""
    written = {}
    for folder in classes:
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            shape = (size[1], size[0]) + {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
            pixels = RANDOM.integers(0, 256, shape).astype(np.uint8)
            image.fromarray(pixels).save(root / folder / f"{number}.{ending}")
            written[folder, number] = pixels
    return written


@pytest.mark.parametrize("mode, channels", [("L", 1), ("RGB", 3)])
def test_a_folder_per_class(pillow, tmp_path, mode, channels):
    written = paint(pillow, tmp_path, mode)
    (tmp_path / "bee" / ".DS_Store").touch()
    (tmp_path / "bee" / "notes.txt").touch()
    (tmp_path / ".hidden").mkdir()
    found = data.from_folder(tmp_path, test=0.4)
    assert found.x_train.shape == (6, 5, 6, channels) and found.x_test.shape == (4, 5, 6, channels)
    assert found.class_names == ("ant", "bee") and found.name == f"folder:{tmp_path.name}"
    held = {pixels.tobytes(): folder for (folder, _), pixels in written.items()}
    for x, y in ((found.x_train, found.y_train), (found.x_test, found.y_test)):
        assert [held[image.tobytes()] for image in x] == [found.class_names[label] for label in y]
    assert data.load(f"folder:{tmp_path}").digest == data.from_folder(tmp_path).digest


@pytest.mark.parametrize("part", ["test", "val"])
def test_a_folder_with_its_own_test_part(pillow, tmp_path, part):
    paint(pillow, tmp_path / "train")
    written = paint(pillow, tmp_path / part, count=2)
    found = data.from_folder(tmp_path)
    assert len(found.x_train) == 10 and found.y_test.tolist() == [0, 0, 1, 1]
    np.testing.assert_array_equal(found.x_test[2, ..., 0], written["bee", 0])


def test_images_are_scaled_on_request(pillow, tmp_path):
    paint(pillow, tmp_path)
    paint(pillow, tmp_path, size=(9, 9), classes=("bee",), count=2)
    assert data.from_folder(tmp_path, size=(4, 7)).x_train.shape[1:] == (4, 7, 1)
    assert data.load(f"folder:{tmp_path}#size=8").x_train.shape[1:] == (8, 8, 1)


def test_grey_and_colour_together_are_colour(pillow, tmp_path):
    paint(pillow, tmp_path)
    paint(pillow, tmp_path, "RGB", classes=("bee",))
    assert data.from_folder(tmp_path).x_train.shape[-1] == 3


def test_transparency_is_dropped_and_said(pillow, tmp_path):
    paint(pillow, tmp_path, "RGBA")
    with pytest.warns(data.DataWarning, match=r"0\.png is transparent: that channel is dropped, here and elsewhere"):
        assert data.from_folder(tmp_path).x_train.shape[-1] == 3


def spoil(pillow, folder, how):
    paint(pillow, folder)
    match how:
        case "no folder":
            return folder / "none"
        case "a file":
            return folder / "bee" / "0.png"
        case "no classes":
            return folder / "bee"
        case "an empty class":
            (folder / "cat").mkdir()
        case "several sizes":
            paint(pillow, folder, size=(9, 8), classes=("bee",), count=1)
        case "damage":
            (folder / "bee" / "3.png").write_bytes(b"<html>")
        case "truncated":
            path = folder / "bee" / "3.png"
            path.write_bytes(path.read_bytes()[:60])
        case "16 bits":
            pillow.fromarray(np.ones((5, 6), np.uint16)).save(folder / "bee" / "3.png")
        case "a strange test class":
            paint(pillow, folder / "train")
            paint(pillow, folder / "test", classes=("ant", "cat"))
    return folder


FOLDERS = {
    "no folder": "HERE/none is no folder; give one with a sub-folder of images for each class",
    "a file": "HERE/bee/0.png is no folder; give one with a sub-folder of images for each class",
    "no classes": "HERE/bee has 0 sub-folders; give one with a sub-folder of images per class",
    "an empty class": "HERE/cat holds no image file (.png, .jpg, .bmp, .gif, .tif, .webp); fill or remove it",
    "several sizes": "images have several sizes (HERE/ant/0.png 5x6, HERE/bee/0.png 8x9); give size=(height, width), "
    "or folder:PATH#size=N",
    "damage": "HERE/bee/3.png cannot be read as an image (UnidentifiedImageError: ...): replace or remove it",
    "truncated": "HERE/bee/3.png cannot be read as an image (OSError: ...): replace or remove it",
    "16 bits": "HERE/bee/3.png has more than 8 bits a pixel (mode I;16); convert it, or use from_arrays",
    "a strange test class": "HERE/test holds the class 'cat', which has no training images; remove or add it",
}


@pytest.mark.parametrize("size", [(0, 8), (8,)])
def test_sizes_refused(pillow, tmp_path, size):
    line = line_of(partial(data.from_folder, tmp_path, size=size))
    assert line == f"size is (height, width) in pixels, at least 1; got {size}"


@pytest.mark.parametrize("how", FOLDERS)
def test_folders_refused(pillow, tmp_path, how):
    folder = spoil(pillow, tmp_path, how)
    line = line_of(partial(data.from_folder, folder)).replace(str(tmp_path), "HERE")
    assert re.sub(r"(Error: ).*(\): replace)", r"\1...\2", line) == FOLDERS[how]


# --- tables ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def pandas():
    pytest.importorskip("sklearn")
    return pytest.importorskip("pandas")


def rows(number=40):
    """Columns of numbers, truth values and text, and classes."""
    return {
        "age": RANDOM.normal(50, 9, number),
        "colour": np.array(["red", "green", "blue"])[np.arange(number) % 3],
        "size": np.arange(number) % 7 * 1000,
        "kind": np.array(["yes", "no"])[np.arange(number) % 2],
    }


def write_csv(path, columns):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def test_a_table_from_a_file(pandas, tmp_path):
    columns = rows()
    path = write_csv(tmp_path / "things.csv", columns)
    found = data.from_table(path, target="kind", test=0.25)
    assert found.class_names == ("no", "yes") and found.name == "csv:things"
    assert found.x_train.shape == (30, 5) and found.x_train.dtype == np.float32
    np.testing.assert_allclose(found.x_train[:, :2].mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(found.x_train[:, :2].std(0), 1, atol=1e-5)
    # The three colours, in alphabetical order; the test part is scaled by the training part.
    assert set(found.x_train[:, 2:].ravel()) == {0, 1} and (found.x_train[:, 2:].sum(1) == 1).all()
    train, held = data.splits.hold_out((columns["kind"] == "yes").astype(int), 10, 0)
    np.testing.assert_array_equal(found.x_test[:, 4], columns["colour"][held] == "red")
    mean, sd = columns["age"][train].mean(), columns["age"][train].std()
    np.testing.assert_allclose(found.x_test[:, 0], (columns["age"][held] - mean) / sd, rtol=1e-4)
    np.testing.assert_array_equal(found.y_test, columns["kind"][held] == "yes")
    assert data.statistics(found) == ((0.0,) * 5, (1.0,) * 5)  # nothing is left to scale
    assert data.load(f"csv:{path}#target=kind").digest == data.from_table(path, target="kind").digest


def test_a_data_frame_and_a_test_table(pandas):
    frame, other = pandas.DataFrame(rows()), pandas.DataFrame(rows(8))
    found = data.from_table(frame, target="kind", test=other[["kind", "size", "colour", "age"]])
    assert len(found.x_train) == 40 and len(found.x_test) == 8
    np.testing.assert_array_equal(found.y_test, other["kind"] == "yes")


@pytest.mark.parametrize(
    "target", [np.arange(40) % 2 + 1, (np.arange(40) % 2 + 1).astype(float), np.arange(40) % 2 > 0]
)
def test_classes_of_a_table_may_be_any_values(pandas, target):
    found = data.from_table(pandas.DataFrame(rows() | {"kind": target}), target="kind")
    assert found.class_names == (("False", "True") if target.dtype == bool else ("1", "2"))
    assert set(found.y_train) == {0, 1}


TABLES = {
    "no such column": ({}, {"target": "kinds"}, "the table has no column 'kinds'; did you mean 'kind'?"),
    "nothing like it": ({}, {"target": "zz"}, "the table has no column 'zz'; its columns are age, colour, size, kind"),
    "missing numbers": (
        {"age": [np.nan, *range(39)]},
        {},
        "the table: column 'age' has 1 missing values; fill or drop them",
    ),
    "missing text": (
        {"colour": [None, None, *["red"] * 38]},
        {},
        "the table: column 'colour' has 2 missing values; fill or drop them",
    ),
    "missing classes": ({"kind": [None, *["no"] * 39]}, {}, "the table: 1 rows have no 'kind'; fill or drop them"),
    "infinity": ({"age": [np.inf, *range(39)]}, {}, "the table: column 'age' holds infinity; correct or drop it"),
    "dates": (
        {"age": np.arange(40).astype("datetime64[s]")},
        {},
        "the table: column 'age' holds dates; make it a number, or drop it",
    ),
    "free text": (
        {"colour": [f"word {number}" for number in range(40)]},
        {},
        "the table: column 'colour' holds 32 different texts in 32 rows; make it numbers or few categories, or drop it",
    ),
    "one class": ({"kind": ["no"] * 40}, {}, "the table (8 rows held out to test): every training label is 0; training "
                  "needs samples of at least two classes"),
    "all held out": ({}, {"test": 40}, "the table: test is 40; hold out a share of 0..1, or 1 to 39 of 40 samples"),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLES)
def test_tables_refused(pandas, case):
    changes, given, line = TABLES[case]
    frame = pandas.DataFrame(rows() | changes)
    assert line_of(partial(data.from_table, frame, **{"target": "kind"} | given)) == line


def test_more_faults_of_tables(pandas, tmp_path):
    frame = pandas.DataFrame(rows())
    call = partial(data.from_table, target="kind")
    assert line_of(partial(call, frame[["kind"]])) == "the table has no column beside 'kind'; give features"
    assert line_of(partial(call, frame[:0])) == "the table has no rows; give some"
    wide = pandas.DataFrame({"a": np.arange(300.0), "kind": np.arange(300) / 7})
    line = "the table: 'kind' holds 300 different numbers, and rules tell classes apart; give a column of classes"
    assert line_of(partial(call, wide)) == line
    twice = pandas.concat([frame, frame[["age"]]], axis=1)
    assert line_of(partial(call, twice)) == "the table has several columns 'age'; rename or drop them"
    other = frame[:8]
    lacking = partial(call, frame, test=other.drop(columns="age"))
    assert line_of(lacking) == "the test table has no column 'age'; give it the columns of the training table"
    strange = partial(call, frame, test=other.assign(kind=["yes", "maybe"] * 4))
    assert line_of(strange) == "the test table holds the class 'maybe', which no training row has; correct it"
    missing = line_of(partial(call, tmp_path / "none.csv"))
    assert missing == f"there is no file {tmp_path}/none.csv; correct the path"
    (tmp_path / "empty.csv").touch()
    assert "cannot be read as CSV (EmptyDataError" in line_of(partial(call, tmp_path / "empty.csv"))
    (tmp_path / "ragged.csv").write_text("a,b\n1,2\n1,2,3,4\n")
    assert "cannot be read as CSV (ParserError" in line_of(partial(call, tmp_path / "ragged.csv"))


def test_types_of_pandas_and_columns_with_numbers_for_names(pandas):
    frame = pandas.DataFrame(rows())
    plain = data.from_table(frame, target="kind")
    typed = frame.astype({"colour": "category", "size": "Int64", "kind": "string"})
    assert data.from_table(typed, target="kind").digest == plain.digest
    numbered = frame.rename(columns=dict(zip(frame.columns, range(4), strict=True)))
    assert data.from_table(numbered, target="3").digest == plain.digest


@pytest.mark.parametrize("name", ["breast_cancer", "digits"])
def test_tables_of_scikit_learn_reach_logistic_regression(pandas, tmp_path, name):
    """Within two points, on the same rows, with MF and BP."""
    datasets, linear = pytest.importorskip("sklearn.datasets"), pytest.importorskip("sklearn.linear_model")
    table = getattr(datasets, f"load_{name}")(as_frame=True).frame
    table.to_csv(tmp_path / "table.csv", index=False)
    made = data.load(f"csv:{tmp_path}/table.csv#target=target")
    regression = linear.LogisticRegression(max_iter=2000).fit(made.x_train, made.y_train)
    least = regression.score(made.x_test, made.y_test) - 0.02
    plan = Plan(epochs=15, batch_size=32, keep="last")
    for rule in (mf, bp):
        found = fit(rule.rule(nets.mlp([64]), optax.adam(3e-3), num_classes=made.num_classes), made, plan)
        assert found.test_accuracy >= least, rule.__name__


def test_said_of_tables(pandas):
    frame = pandas.DataFrame(rows())
    numbered = pandas.concat([pandas.Series(np.arange(40), name="Unnamed: 0"), frame], axis=1)
    with pytest.warns(data.DataWarning, match="column 'Unnamed: 0' looks like row numbers; drop it, or it will"):
        data.from_table(numbered, target="kind")
    other = frame[:10].assign(colour="pink")
    with pytest.warns(
        data.DataWarning, match=r"'colour' has 1 categories in the test part alone \('pink'\); they count"
    ):
        found = data.from_table(frame, target="kind", test=other)
    assert (found.x_test[:, 2:] == 0).all()


# --- Hugging Face ----------------------------------------------------------------------------------------------------


@pytest.fixture
def hub():
    pytest.importorskip("PIL")
    return pytest.importorskip("datasets")


def images(hub, number, seed=0, size=8):
    """A part of grey images with their labels, and its arrays."""
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(seed).integers(0, 256, (number, size, size)).astype(np.uint8)
    y = np.arange(number) % 3
    features = hub.Features({"picture": hub.Image(), "kind": hub.ClassLabel(names=["cat", "ant", "bee"])})
    content = {"picture": [image.fromarray(one) for one in pixels], "kind": y.tolist()}
    return hub.Dataset.from_dict(content, features=features), pixels, y


def test_images_of_hugging_face_with_three_parts(hub, tmp_path):
    parts = {part: images(hub, n, n) for part, n in (("train", 30), ("validation", 9), ("test", 12))}
    hub.DatasetDict({name: part[0] for name, part in parts.items()}).save_to_disk(tmp_path / "animals")
    found = data.load(f"hf:{tmp_path}/animals")
    assert found.name == "hf:animals" and found.class_names == ("cat", "ant", "bee") and found.num_validation == 9
    np.testing.assert_array_equal(found.x_train[..., 0], np.concatenate([parts["train"][1], parts["validation"][1]]))
    np.testing.assert_array_equal(found.x_test[..., 0], parts["test"][1])
    np.testing.assert_array_equal(found.y_test, parts["test"][2])
    np.testing.assert_array_equal(data.split(found)[1], np.arange(30, 39))


def test_images_of_hugging_face_with_one_part(hub, tmp_path):
    images(hub, 30)[0].save_to_disk(tmp_path / "animals")
    found = data.from_huggingface(str(tmp_path / "animals"), test=6)
    assert len(found.x_test) == 6 and np.bincount(found.y_test).tolist() == [2, 2, 2]


def test_a_table_of_hugging_face(hub, tmp_path):
    pytest.importorskip("sklearn")
    hub.DatasetDict({"train": hub.Dataset.from_dict(rows())}).save_to_disk(tmp_path / "things")
    found = data.load(f"hf:{tmp_path}/things#target=kind")
    assert found.class_names == ("no", "yes") and found.x_train.shape == (32, 5) and found.standardised
    lines = {
        "": "hf:things has 0 columns of classes; name one of age, colour, size, kind as target, or "
        "hf:NAME#target=COLUMN",
        "#target=x": "hf:things has no column 'x'; its columns are age, colour, size, kind",
    }
    for more, line in lines.items():
        assert line_of(partial(data.load, f"hf:{tmp_path}/things{more}")) == line
    hub.DatasetDict({"all": hub.Dataset.from_dict(rows())}).save_to_disk(tmp_path / "whole")
    line = "hf:whole has the parts all and no 'train'; save one under that name"
    assert line_of(partial(data.from_huggingface, str(tmp_path / "whole"))) == line


def test_hugging_face_that_cannot_be_had(monkeypatch):
    """A stand-in for the package: what its loader raises is one line."""
    module = types.ModuleType("datasets")

    def load_dataset(name, config):
        raise ConnectionError(f"Couldn't reach {name}\non the Hub")

    monkeypatch.setattr(module, "load_dataset", load_dataset, raising=False)
    monkeypatch.setitem(sys.modules, "datasets", module)
    line = "hf:user/none cannot be had (ConnectionError: Couldn't reach user/none on the Hub): correct the name, "
    assert line_of(partial(data.load, "hf:user/none")) == line + "or give a saved folder"


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "module, name, line",
    [
        ("pandas", "csv:a.csv#target=b", "a table needs pandas: pip install 'fwdonly[data]'"),
        ("PIL", "folder:HERE", "a folder of images needs PIL: pip install 'fwdonly[data]'"),
        ("datasets", "hf:user/name", "data set hf:user/name needs datasets: pip install 'fwdonly[hf]'"),
    ],
)
def test_a_missing_package_names_its_extra(monkeypatch, tmp_path, module, name, line):
    for loaded in [found for found in sys.modules if found.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, module, None)
    assert line_of(partial(data.load, name.replace("HERE", str(tmp_path)))) == line


@pytest.mark.parametrize(
    "name, line",
    [
        ("csv:a.csv", "'csv:a.csv' is not csv:PATH#target=COLUMN; say which column holds the classes"),
        ("csv:#target=b", "'csv:#target=b' is not csv:PATH#target=COLUMN; say which column holds the classes"),
        (
            "folder:a#size=big",
            "'folder:a#size=big' is not folder:PATH#size=N; N is the height and width in pixels, 1 to 4096",
        ),
        ("/none/mine.npz", "there is no file /none/mine.npz; correct the path"),
    ],
)
def test_names_refused(name, line):
    assert line_of(partial(data.load, name)) == line


def test_the_path_of_an_npz(tmp_path):
    path = tmp_path / "mnist.npz"
    np.savez(path, x_train=X, y_train=Y, x_test=X[:20], y_test=Y[:20])
    found = data.load(str(path))
    assert found.name == "npz:mnist" and found.num_classes == 3  # no claim to be MNIST: its constants are not taken
    assert data.statistics(found) == data.statistics(dataclasses.replace(found, name="mine"))


def test_a_study_of_a_table_and_a_resume_with_other_rows_is_refused(pandas, tmp_path, script, monkeypatch):
    path = write_csv(tmp_path / "things.csv", rows(80))
    words = [
        "--dataset",
        f"csv:{path}#target=kind",
        "--net",
        "mlp:8",
        "--epochs",
        "1",
        "--seeds",
        "1",
        "--batch-size",
        "16",
    ]
    folder = ["--output-dir", tmp_path / "out"]
    code, out, err = script("mf_mlp", *words, *folder)
    assert code == 0, err
    assert "data: csv:things, 64 + 16 images" in out
    write_csv(path, rows(80))
    code, _, err = script("mf_mlp", *words, *folder, "--resume")
    assert code == 2 and "data.digest" in err


def test_the_command_line_takes_every_way_in():
    for name in ("folder:a b/c", "csv:x.csv#target=y", "hf:user/name", "a/b.npz"):
        assert train.study_of(["mf", "--dataset", name]).data.dataset == name


OWN_DATA = """
import numpy as np
from fwdonly import data

def load():
    random = np.random.default_rng(0)
    x = random.normal(size=(60, 3))
    return data.from_arrays(x, np.where(x[:, 0] > 0, "a", "b"), test=0.2)

def nothing():
    return 3
"""


def test_a_users_function_is_a_data_source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN_DATA)
    mine = data.load("own.py:load")
    assert mine.class_names == ("a", "b") and mine.x_train.shape == (48, 3) and mine.x_test.shape == (12, 3)
    assert data.load("./own.py:load").digest == mine.digest
    faults = {
        "gone.py:load": "there is no file",
        "own.py:nothing": "no function nothing",
        "own.py:gone": "no function gone",
    }
    for name, words in faults.items():
        with pytest.raises(UsageError, match=words) as refused:
            data.load(name)
        assert "\n" not in str(refused.value)
