"""Where studies are kept: memory, a journal file, a database, or a proxy in front of one."""

import contextlib
import importlib
import json
import os
import re
import socket
import sys
import time
import urllib.parse
import warnings
from collections.abc import Generator
from pathlib import Path
from typing import Any

from ..errors import UsageError, short
from ..files import sync_folder

CONNECT = 10
"""Seconds until a database or proxy that does not answer counts as unreachable."""

PASSWORD = r"(://[^:/@\s]*):(\S*)@"
"""In a URL, which may be one that no driver can read."""


def load_optuna() -> Any:
    """Optuna, without its warnings.

    Raises:
        UsageError: it is not installed.
    """
    try:
        optuna = importlib.import_module("optuna")
    except ImportError as error:
        raise UsageError("the search needs Optuna: pip install 'fwdonly[tune]'") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # its warnings repeat with statements what we raise in a line
    return optuna


def open_storage(where: Any) -> Any:
    """An Optuna storage.

    Args:
        where: the URL of a database (``postgresql://...``, ``sqlite:///...``), ``grpc://host:port`` of Optuna's proxy
            (``fwdonly serve``), a path for a journal file, None for memory, or a storage.

    Raises:
        UsageError: it cannot be opened, or does not answer within `CONNECT` seconds.
    """
    optuna = load_optuna()
    if where is None or not isinstance(where, str | os.PathLike):
        return where if where is not None else optuna.storages.InMemoryStorage()
    text = os.fspath(where)
    try:
        if text.startswith("grpc://"):
            return open_proxy(optuna, text)
        if "://" in text:
            return open_database(optuna, text)
        journal = importlib.import_module("optuna.storages.journal")
        backend = journal.JournalFileBackend(text)
        sync_folder(Path(text).parent)
        mend_journal(text, journal)
        return optuna.storages.JournalStorage(backend)
    except UsageError:
        raise
    except Exception as error:  # of whatever database driver
        raise UsageError(
            f"cannot open the storage {masked(text)} ({words_of(error, text)}); give a writable path, or the URL of a "
            "database that runs"
        ) from error


def mend_journal(path: str, journal: Any) -> None:
    """Set a last line aside that a full disk or a power cut has left unfinished, and say so.

    Whatever is appended to it would make one broken line of both, and no journal with such a line can be opened.

    Raises:
        UsageError: an earlier line is broken.
    """
    if first_broken_line(path) is None:
        return
    lock = journal.JournalFileSymlinkLock(path)  # of Optuna's own writers
    lock.acquire()
    try:
        broken = first_broken_line(path)  # anew: a line that was being written is whole now
        if broken is None:
            return
        number, start, last = broken
        if not last:
            raise UsageError(
                f"line {number} of {path} is damaged, and others follow; restore the file, or take the line out"
            )
        with open(path, "r+b") as file:
            file.seek(start)
            rest = file.read()
            aside = f"{path}.{time.strftime('%Y%m%d-%H%M%S')}.cut"
            with contextlib.suppress(OSError), open(aside, "ab") as other:  # a disk that is full has no room for it
                other.write(rest)
            file.truncate(start)
            os.fsync(file.fileno())
    finally:
        with contextlib.suppress(RuntimeError):
            lock.release()
    print(
        f"note: the last line of {path} was incomplete (a full disk, or a power cut?); it is set aside in {aside}, and "
        f"the study goes on from line {number - 1}",
        file=sys.stderr,
        flush=True,
    )


def first_broken_line(path: str) -> tuple[int, int, bool] | None:
    """(number from 1, its first byte, whether it is the last one) of a line that is no JSON object; None: all are."""
    start = 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                whole = line.endswith(b"\n") and isinstance(json.loads(line), dict)
            except ValueError:
                whole = False
            if not whole:
                return number, start, not file.read(1)
            start += len(line)
    return None


def masked(text: str) -> str:
    """The text with the passwords of its URLs as ``***``."""
    return re.sub(r"(?<=password=)[^&\s]*", "***", re.sub(PASSWORD, r"\1:***@", text))


@contextlib.contextmanager
def reachable(storage: Any) -> Generator[None, None, None]:
    """Within it a storage that fails, such as a database that went down, is a `UsageError`."""
    optuna = load_optuna()
    try:
        yield
    except OSError as error:
        if isinstance(error, ConnectionError) or not is_journal(storage):
            raise
        raise UsageError(
            f"cannot write the journal {os.fspath(storage)} ({error.strerror or error}); finished trials are kept: "
            "make room, or the file writable, and repeat the command"
        ) from error
    except losses(optuna) as error:
        where = f" {masked(os.fspath(storage))}" if isinstance(storage, str | os.PathLike) else ""
        raise UsageError(
            f"lost the storage{where} ({words_of(error)}); finished trials are kept: repeat the command when it is back"
        ) from error


def is_journal(storage: Any) -> bool:
    """Whether studies are kept in a file that Optuna appends to."""
    return isinstance(storage, str | os.PathLike) and "://" not in os.fspath(storage)


def losses(optuna: Any) -> tuple[type[Exception], ...]:
    """What Optuna raises when the server of a storage is gone. Call it late: `reachable` may load a driver."""
    kinds = [optuna.exceptions.StorageInternalError]
    for module, name in (("sqlalchemy.exc", "SQLAlchemyError"), ("grpc", "RpcError")):
        if module in sys.modules:
            kinds.append(getattr(sys.modules[module], name))
    return tuple(kinds)


def words_of(error: BaseException, url: str = "") -> str:
    """The first line of the first reason a driver gave, without passwords, nor parts of one that broke the URL."""
    reason, before = error, error
    while before := before.__cause__ or before.__context__:
        if type(before).__module__ != "builtins" and re.search(r"\w", str(before)):  # a pool's own says "()"
            reason = before
    details = getattr(reason, "details", None)  # of gRPC, whose errors print as a block
    lines = str(details() if callable(details) else reason).strip().splitlines()
    words = masked(lines[0]) if lines else type(reason).__name__
    secret = re.search(PASSWORD, url)
    for part in re.split(r"[@/]", secret[2]) if secret else ():
        words = words.replace(part, "***") if part else words
    return short(words)


def open_proxy(optuna: Any, text: str) -> Any:
    """Optuna's gRPC proxy at this address."""
    require_grpc()
    parts = urllib.parse.urlsplit(text)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or "localhost"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        storage = optuna.storages.GrpcStorageProxy(host=host, port=parts.port or 13000)
    try:
        storage.wait_server_ready(timeout=CONNECT)
    except ConnectionError as error:
        storage.close()
        raise UsageError(
            f"nothing answers at {masked(text)} within {CONNECT} s; start it there: fwdonly serve --storage URL"
        ) from error
    return storage


def serve(storage: Any, host: str = "localhost", port: int = 13000) -> None:
    """Put Optuna's gRPC proxy in front of a database, until a KeyboardInterrupt.

    Raises:
        UsageError: it is no database, cannot be opened, or the port is taken.
    """
    optuna = load_optuna()
    require_grpc()
    if not isinstance(storage, str) or "://" not in storage or storage.startswith("grpc://"):
        raise UsageError(f"the proxy needs the URL of a database; got {masked(str(storage))}")
    try:
        socket.create_server((host, port)).close()  # gRPC itself would share a port that is taken
    except (OSError, OverflowError) as error:
        raise UsageError(f"cannot listen on {host}:{port} ({error}); give another port") from error
    cached = optuna.storages.get_storage(open_storage(storage))
    with warnings.catch_warnings(), contextlib.suppress(KeyboardInterrupt):
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        optuna.storages.run_grpc_proxy_server(cached, host=host, port=port)


def require_grpc() -> None:
    """Refuse where gRPC is not installed."""
    try:
        importlib.import_module("grpc")
        importlib.import_module("google.protobuf")
    except ImportError as error:
        raise UsageError("Optuna's gRPC proxy needs grpcio and protobuf: pip install 'fwdonly[tune-grpc]'") from error


def open_database(optuna: Any, text: str) -> Any:
    """A database by its URL."""
    url = importlib.import_module("sqlalchemy").make_url(text)  # Optuna requires it
    faults = importlib.import_module("sqlalchemy.exc")
    driver, more = url.get_driver_name(), {}
    waits: dict[str, Any] = {"connect_timeout": CONNECT}
    if driver in ("psycopg", "psycopg2"):
        waits["tcp_user_timeout"] = 3000 * CONNECT  # milliseconds: a machine that vanished answers nothing at all
    if driver in ("psycopg", "psycopg2", "pymysql", "mysqldb"):
        more["connect_args"] = {key: value for key, value in waits.items() if key not in url.query}
    if url.get_backend_name() != "sqlite":
        more["pool_pre_ping"] = True  # a server that was restarted between two rounds is found again
    for attempt in range(5):
        try:
            return optuna.storages.RDBStorage(text, engine_kwargs=dict(more))
        except ImportError as error:
            if url.get_backend_name() != "postgresql":
                raise
            raise UsageError("PostgreSQL needs a driver: pip install 'fwdonly[tune-postgres]'") from error
        except (faults.IntegrityError, faults.ProgrammingError):
            if attempt == 4:
                raise
            time.sleep(0.2 * (attempt + 1))  # workers that start together on an empty database make its tables at once
