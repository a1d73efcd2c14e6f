"""Downloads with checksums and short waits."""

import importlib
import threading
from pathlib import Path
from typing import Any

from .folders import brief

CONNECT_SECONDS = 3.0
STALL_SECONDS = 20.0


def unreachable(pooch: Any, url: str) -> str | None:
    """Why `url` gives no answer within seconds; None if it does."""
    outcome: list[str | None] = []

    def ask() -> None:
        try:
            there = pooch.HTTPDownloader(timeout=CONNECT_SECONDS)(url, None, None, check_only=True)
            outcome.append(None if there else "the server does not have it")
        except Exception as error:  # no network shows as many kinds of error, and each means the same here
            outcome.append(f"no connection ({type(error).__name__})")

    # In a thread because no time-out bounds the look-up of a host name.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(CONNECT_SECONDS + 1)
    return outcome[0] if outcome else f"no answer within {CONNECT_SECONDS + 1:.0f} s"


def download(base: str, files: dict[str, str], folder: Path) -> str | None:
    """Fetch checksummed files into `folder`, those already there excepted; why not, if not."""
    try:
        pooch: Any = importlib.import_module("pooch")
    except ImportError:
        return "needs pooch (pip install 'fwdonly[data]')"
    if fault := unreachable(pooch, base + next(iter(files))):
        return fault
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel("ERROR")
    try:
        for file, checksum in files.items():
            downloader = pooch.HTTPDownloader(timeout=(CONNECT_SECONDS, STALL_SECONDS), chunk_size=1 << 20)
            pooch.retrieve(base + file, checksum, fname=file, path=folder, downloader=downloader)
    except Exception as error:  # a broken connection, a full disk, a wrong checksum: try the next place
        return brief(error)
    finally:
        logger.setLevel(level)
    return None
