"""Optuna's gRPC proxy in front of a database: workers that cannot or should not reach it themselves share a study."""

import dataclasses
import signal
import sys

import _common
import tyro

from fwdonly import tune


@dataclasses.dataclass(frozen=True)
class Options:
    """Serve the studies of a database to workers: tune.py --storage grpc://HOST:PORT. Ctrl-C ends it.

    The proxy knows no passwords and no encryption: serve only networks that you trust.
    """

    storage: str
    """URL of the database: postgresql://..., or sqlite:///... for a few workers."""
    host: str = "localhost"
    """Address to listen on; 0.0.0.0 for workers on other machines."""
    port: int = 13000
    """Port to listen on."""


def main() -> int:
    """Parse and serve."""
    options = tyro.cli(Options)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    print(f"serving {tune.masked(options.storage)} at grpc://{options.host}:{options.port}", flush=True)
    tune.serve(options.storage, options.host, options.port)
    print("stopped; the studies are in the database")
    return 0


if __name__ == "__main__":
    sys.exit(_common.well_behaved(main))
