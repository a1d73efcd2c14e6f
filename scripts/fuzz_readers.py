"""Feed every reader of files with mutated ones: one line says what is wrong, and nothing else happens.

    python scripts/fuzz_readers.py --files 10000 --seed 0

A reader may take a file, or refuse it by a `UsageError` of one line. Anything else is a fault: another exception, a
process, a connection or a pickled name that is run, more than a GiB of memory. Bytes are flipped, cut, doubled and
zeroed; archives keep their checksums right while their members change; values of JSON become odd ones.
"""

import argparse
import collections
import contextlib
import functools
import gzip
import hashlib
import io
import json
import os
import pickle
import random
import resource
import shutil
import sys
import tempfile
import traceback
import types
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import fwdonly
from fwdonly.data import facts, formats
from fwdonly.errors import UsageError
from fwdonly.study import folder as folders
from fwdonly.training import checkpoint, host, prepare
from fwdonly.training.result import history_of
from fwdonly.training.steps import chunk_sizes

ROOM = 2**30
"""Bytes that readers may use above what the process has."""
HARMFUL = {"os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect", "shutil.rmtree"}
ODD: list[Any] = [
    None, True, 0, -1, 1, 3.5, 1e308, float("nan"), float("inf"), 2**31, 2**63, 10**30, "", "x", "\ud800", "a\nb", [],
    {}, [[]], [None], {"x": None}, "9" * 400, [1] * 1000, {"value": None, "unit": "J", "status": "measured"},
]  # fmt: skip
"""Values in the place of others."""


class Reader(NamedTuple):
    """Makes sound files in a folder, and reads them."""

    make: Callable[[Path], object]
    read: Callable[[Path], object]


class Evil:
    """Runs a command where it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("true",)


# --- readers ----------------------------------------------------------------------------------------------------------


def arrays(shape: tuple[int, ...] = (4, 4), classes: int = 3) -> dict[str, np.ndarray]:
    """A small set in Keras layout."""
    random_ = np.random.default_rng(0)
    x = random_.integers(0, 255, (18, *shape), np.uint8)
    y = np.arange(18, dtype=np.uint8) % classes
    return {"x_train": x[:12], "y_train": y[:12], "x_test": x[12:], "y_test": y[12:]}


def make_npz(folder: Path) -> None:
    np.savez(folder / "a.npz", allow_pickle=False, **arrays(), num_classes=np.asarray(3))
    of = arrays((4, 4, 3))
    parts = {"train": (of["x_train"][:8], of["y_train"][:8]), "val": (of["x_train"][8:], of["y_train"][8:])}
    parts["test"] = of["x_test"], of["y_test"]
    pairs = {f"{name}_images": x for name, (x, _) in parts.items()} | {f"{n}_labels": y for n, (_, y) in parts.items()}
    np.savez_compressed(folder / "b.npz", allow_pickle=False, **pairs)


def read_npz(folder: Path) -> None:
    refusals = []
    for path in sorted(folder.glob("*.npz")):
        try:
            fwdonly.data.load(str(path))
        except UsageError as error:
            refusals.append(error)
    if refusals:
        raise refusals[0]


def make_idx(folder: Path) -> None:
    of = arrays((28, 28), 10)
    for (stem, rank), array in zip(facts.IDX_RANKS.items(), of.values(), strict=True):
        content = bytes([0, 0, 8, rank]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()
        packed = gzip.compress(content, mtime=0) if rank == 3 else content
        (folder / f"{stem}-idx{rank}-ubyte{'.gz' * (rank == 3)}").write_bytes(packed)


def read_idx(folder: Path) -> object:
    """With its official digests taken off, which would refuse every mutation."""
    with replaced(formats, "_check_digest", lambda *_: None):
        return formats.read_idx_folder("mnist", folder, False)


def make_cifar(folder: Path) -> None:
    of = arrays((32, 32, 3), 10)
    for part in ("train", "test"):
        rows = of[f"x_{part}"].transpose(0, 3, 1, 2).reshape(-1, 3072)
        (folder / part).write_bytes(pickle.dumps({b"data": rows, b"labels": of[f"y_{part}"].tolist()}, protocol=2))
    (folder / "evil").write_bytes(pickle.dumps({b"data": Evil(), b"labels": [0]}, protocol=2))


def read_cifar(folder: Path) -> object:
    """With the digests that these files have."""
    names = {part: {part: hashlib.md5((folder / part).read_bytes()).hexdigest()} for part in ("train", "test", "evil")}
    with contextlib.suppress(UsageError), replaced(facts, "CIFAR", cifar(names["evil"], names["test"])):
        formats._unpickle_cifar("cifar10", folder, lambda file: (folder / file).read_bytes())
        raise AssertionError("a pickle with a command was taken")
    with replaced(facts, "CIFAR", cifar(names["train"], names["test"])):
        return formats._unpickle_cifar("cifar10", folder, lambda file: (folder / file).read_bytes())


def cifar(train: dict[str, str], test: dict[str, str]) -> dict[str, Any]:
    return {"cifar10": facts.CIFAR["cifar10"]._replace(train=train, test=test)}


def make_tfds(folder: Path) -> None:
    prepared = folder / "set" / "1.0.0"
    prepared.mkdir(parents=True)
    (prepared / "dataset_info.json").write_text("{}")
    np.savez(prepared / "examples.npz", allow_pickle=False, **arrays())


def read_tfds(folder: Path) -> object:
    """By a stand-in of the package, which reads what the folder holds."""

    def builder_from_directory(where: str) -> Any:
        found = np.load(Path(where) / "examples.npz", allow_pickle=False)
        info = types.SimpleNamespace(features={"label": types.SimpleNamespace(num_classes=3)})

        def as_data_source(split: str) -> list[dict[str, Any]]:
            pairs = zip(found[f"x_{split}"], found[f"y_{split}"], strict=True)
            return [{"image": image, "label": label} for image, label in pairs]

        return types.SimpleNamespace(info=info, as_data_source=as_data_source)

    module: Any = types.ModuleType("tensorflow_datasets")
    module.builder_from_directory = builder_from_directory
    sys.modules["tensorflow_datasets"] = module
    cache = folder.with_name("cache")
    shutil.rmtree(cache, ignore_errors=True)
    os.environ["FWDONLY_CACHE"] = str(cache)
    return fwdonly.data.load("tfds:set", folder)


CONFIG: dict[str, Any] = {}
"""The configuration of the sound result folder."""


def make_results(folder: Path) -> None:
    from fwdonly.cli import main

    words = ["compare", "mf", "bp", "--dataset", "digits", "--seeds", "2", "--epochs", "1", "--net", "mlp:8", "--quiet"]
    with contextlib.redirect_stdout(io.StringIO()):
        assert main([*words, "--output-dir", str(folder / "r")], ["fwdonly"]) == 0
    for path in (folder / "r").iterdir():
        if path.name not in ("config.json", "summary.json", "metrics.csv", "predictions.npz"):
            path.unlink()
    CONFIG.update(json.loads((folder / "r" / "config.json").read_text())["configuration"])
    best = {"rule": "mf", "values": {"learning_rate": 0.1}}
    (folder / "r" / "best.json").write_text(json.dumps(best))


def read_results(folder: Path) -> None:
    """As a report does, as a search's settings, and as a run that goes on."""
    from fwdonly.cli import compare

    where, refusals = folder / "r", []
    wanted = folders.Wanted(CONFIG, None, ["mf", "bp"], [0, 1], 10)
    readings: list[Callable[[], object]] = [
        lambda: fwdonly.report.html_report([where]),
        lambda: fwdonly.report.markdown_report([where]),
        lambda: compare.tuned_settings([where], ["mf", "bp"]),
        lambda: folders.look_into(where, CONFIG, resume=True),
        lambda: folders.agree(where, CONFIG),
        lambda: folders.Contents(where, wanted).finished,
    ]
    for reading in readings:
        try:
            reading()
        except UsageError as error:
            refusals.append(error)
            one_line(error)
    if refusals:
        raise refusals[0]


class Training(NamedTuple):
    """A small training, once, for all checkpoints and searches."""

    data: Any
    rule: Any
    plan: Any
    split: tuple[np.ndarray, np.ndarray]
    work: Any


@functools.cache
def training() -> Training:
    """That training, and what `fwdonly.fit` makes of it."""
    import optax

    data = fwdonly.data.from_arrays(arrays()["x_train"], arrays()["y_train"], test=3)
    rule = fwdonly.mf.rule(fwdonly.nets.mlp([3]), optax.adam(0.1), num_classes=3)
    plan = fwdonly.Plan(epochs=2, batch_size=3, keep="last")
    split = np.arange(6, dtype=np.int32), np.arange(6, 9, dtype=np.int32)
    runs = prepare.Runs(np.asarray(0, np.uint32), {}, split)
    return Training(data, rule, plan, split, prepare.prepare(rule, data, plan, runs, prepare.Placement("single"), True))


def make_checkpoint(folder: Path) -> None:
    of, stop = training(), lambda progress: progress.epoch == 1
    fwdonly.fit(of.rule, of.data, of.plan, seed=0, split=of.split, checkpoint=folder / "c.npz", callback=stop)


def read_checkpoint(folder: Path) -> object:
    checkpoint.read_meta(folder / "c.npz")
    resumed = host.Host(training().work, host.Hooks((), folder / "c.npz", True))
    _, tracker = resumed.restore()
    resumed.enter(training().work.jobs[resumed.stage], tracker)
    return history_of(resumed.rows), chunk_sizes(3 - resumed.step, 2), resumed.seconds + resumed.compiled_before


def search(folder: Path, train: bool) -> object:
    import optax

    def make() -> Any:
        if not train:
            raise UsageError("it would train")
        net = fwdonly.nets.mlp([3])
        return lambda learning_rate: fwdonly.mf.rule(net, optax.adam(learning_rate), num_classes=3), training().plan

    space = {"learning_rate": fwdonly.tune.Range(1e-3, 1e-1)}
    with contextlib.redirect_stderr(io.StringIO()):
        return fwdonly.tune.tune(
            make, space, training().data, trials=4, seeds=[0], parallel=2, storage=str(folder / "study.journal"),
            split=training().split, callback=lambda _: not train, heartbeat=0.01, grace=0.02,
        )  # fmt: skip


READERS = {
    "npz": Reader(make_npz, read_npz),
    "idx": Reader(make_idx, read_idx),
    "cifar": Reader(make_cifar, read_cifar),
    "tfds": Reader(make_tfds, read_tfds),
    "results": Reader(make_results, read_results),
    "checkpoint": Reader(make_checkpoint, read_checkpoint),
    "journal": Reader(lambda folder: search(folder, True), lambda folder: search(folder, False)),
}


# --- mutations --------------------------------------------------------------------------------------------------------


def mutated(content: bytes, name: str, draw: random.Random) -> bytes:
    """The content of a file, damaged or forged."""
    forge = {".npz": forged_archive, ".json": forged_json, ".journal": forged_lines}.get(Path(name).suffix)
    if forge is not None and draw.random() < 0.6:
        return forge(content, draw)
    for _ in range(draw.choice([1, 1, 1, 2, 8])):
        content = damaged(content, draw)
    return content


def damaged(content: bytes, draw: random.Random) -> bytes:
    """One change of bytes."""
    if not content:
        return draw.randbytes(20)
    at = draw.randrange(len(content))
    end = min(len(content), at + draw.choice([1, 4, 30, 300]))
    match draw.randrange(7):
        case 0:
            return content[:at]
        case 1:
            return content[:at] + bytes(end - at) + content[end:]
        case 2:
            return content[:at] + content[at:end] * draw.choice([0, 2, 50]) + content[end:]
        case 3:
            return content[:at] + draw.randbytes(end - at) + content[end:]
        case 4:
            return (
                content[:at]
                + draw.choice([b"\xff" * 4, b"\x7f\xff\xff\xff", b"9" * 12, b"\0", b"\n", b",", b'"'])
                + content[end:]
            )
        case 5:
            return bytes(256) if draw.random() < 0.1 else content[at:] + content[:at]
    return content[:at] + bytes([content[at] ^ (1 << draw.randrange(8))]) + content[at + 1 :]


def forged_archive(content: bytes, draw: random.Random) -> bytes:
    """A zip of other members, whose checksums are right."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = draw.choice(list(members))
    array = np.load(io.BytesIO(members[name]), allow_pickle=False)
    match draw.randrange(6):
        case 0:
            members[name] = damaged(members[name], draw)
        case 1:
            start = members[name].index(b"\n") + 1
            shape = draw.choice(["(99999999999,)", "(-1,)", "()", "(0,)", "(2, 2)", "(" * 90, "(9**9,)"])
            header = f"{{'descr': '{draw.choice(['|u1', '<f8', '|O', '<U9', '|V9', '<M8[s]', '>c16', 'x'])}', "
            text = f"{header}'fortran_order': False, 'shape': {shape}, }}".ljust(start - 11).encode() + b"\n"
            members[name] = b"\x93NUMPY\x01\0" + len(text).to_bytes(2, "little") + text + members[name][start:]
        case 2:
            other = draw.choice(
                [array.astype(float), array[..., None], array.reshape(-1)[:0], array.astype("U3"), np.asarray(7)]
            )
            members[name] = saved(other)
        case 3:
            del members[name]
        case 4:
            members[draw.choice(["labels.npy", "x_train.npy", "header.npy", "mf/x.npy", "note.txt"])] = members[name]
        case _:
            text = array.tobytes()
            if array.dtype == np.uint8 and text[:1] == b"{":
                members[name] = saved(np.frombuffer(forged_json(text, draw), np.uint8))
            else:
                members[name] = saved(np.full_like(array, draw.choice([0, 1, 255]) if array.dtype.kind == "u" else 1))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", draw.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as archive:
        for key, value in members.items():
            archive.writestr(key, value)
    return out.getvalue()


def saved(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=False)
    return out.getvalue()


def forged_json(content: bytes, draw: random.Random) -> bytes:
    """JSON one of whose values is an odd one, or missing."""
    if draw.random() < 0.02:
        return draw.choice([b"[" * 100000, b"9" * 5000, b'{"a":' * 5000, b"null", b"[]", b"{}", b'"x"'])
    top = [json.loads(content)]
    nodes: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            nodes.append((node, key))
            if isinstance(node[key], dict | list):
                walk(node[key])

    walk(top)
    node, key = draw.choice(nodes)
    if draw.random() < 0.2 and node is not top:
        del node[key]
    else:
        node[key] = draw.choice([*ODD, json.loads(content)])
    return json.dumps(top[0]).encode()


def forged_lines(content: bytes, draw: random.Random) -> bytes:
    """Lines of JSON, one of them forged, doubled, moved or gone."""
    lines = content.splitlines()
    at = draw.randrange(len(lines))
    match draw.randrange(4):
        case 0:
            lines.insert(draw.randrange(len(lines)), lines[at])
        case 1:
            del lines[at]
        case _:
            lines[at] = forged_json(lines[at], draw)
    return b"\n".join(lines) + b"\n"


# --- the run ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def replaced(where: Any, name: str, value: Any) -> Any:
    before = getattr(where, name)
    setattr(where, name, value)
    try:
        yield
    finally:
        setattr(where, name, before)


def one_line(error: UsageError) -> None:
    """Fail where an error is no line."""
    text = str(error)
    if "\n" in text or not 0 < len(text) < 2000:
        raise AssertionError(f"not one line: {text[:200]!r}") from error


def fuzz(name: str, files: int, seed: int, folder: Path) -> tuple[collections.Counter[str], list[bytes]]:
    """Read so many mutated files; how each ended, and the first file of every fault."""
    reader, draw = READERS[name], random.Random(f"{name} {seed}")
    harm: list[str] = []
    watching = [True]
    sound = folder / "sound"
    sound.mkdir(parents=True)
    reader.make(sound)
    reader.read(sound)  # the control: it is taken
    sys.addaudithook(lambda event, _: harm.append(event) if watching[0] and event in HARMFUL else None)
    contents = {path: path.read_bytes() for path in sorted(sound.rglob("*")) if path.is_file() and path.name != "evil"}
    outcomes: collections.Counter[str] = collections.Counter()
    examples: list[bytes] = []
    for _ in range(files):
        path = draw.choice(list(contents))
        content = mutated(contents[path], path.name, draw)
        path.write_bytes(content)
        try:
            reader.read(sound)
            outcomes["taken"] += 1
        except UsageError as error:
            try:
                one_line(error)
                outcomes["refused"] += 1
            except AssertionError as fault:
                outcomes[f"FAULT {fault}"] += 1
        except BaseException as error:
            frame = traceback.extract_tb(error.__traceback__)
            ours = [part for part in frame if "/fwdonly/" in part.filename][-1:] or frame[-1:]
            what = f"FAULT {type(error).__name__} at {ours[0].filename.rpartition('/')[2]}:{ours[0].lineno}: {error}"[
                :200
            ]
            if not outcomes[what]:
                examples.append(content)
            outcomes[what] += 1
            if isinstance(error, KeyboardInterrupt):
                raise
        harmed = [event for event in harm if event != "shutil.rmtree"]
        if harmed:
            outcomes[f"FAULT it did {harmed[0]}"] += 1
        harm.clear()
        for other in [other for other in sound.rglob("*") if other.is_file() and other not in contents]:
            other.unlink() if other.name != "evil" else None
        for where in contents:
            where.write_bytes(contents[where])
    watching[0] = False
    return outcomes, examples


def limit_memory() -> None:
    """Leave this process no more than `ROOM` above what it has."""
    have = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (have + ROOM, resource.getrlimit(resource.RLIMIT_AS)[1]))


def main() -> int:
    """Parse, fuzz every reader in turn; 1 where there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--readers", nargs="+", choices=[*READERS], default=[*READERS])
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    training()
    limit_memory()
    faults = 0
    for name in options.readers:
        with tempfile.TemporaryDirectory() as folder:
            outcomes, examples = fuzz(name, options.files, options.seed, Path(folder))
        print(f"{name:<10} {options.files} files: {outcomes['taken']} taken, {outcomes['refused']} refused", flush=True)
        for what, count in outcomes.most_common():
            if what.startswith("FAULT"):
                faults += 1
                print(f"  {count} times {what}", flush=True)
        for number, content in enumerate(examples[:20]):
            Path(tempfile.gettempdir(), f"fuzz-{name}-{number}").write_bytes(content)
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
