"""``fwdonly serve``: Optuna's gRPC proxy in front of a database, for workers that cannot reach it themselves."""

import dataclasses
from collections.abc import Sequence

from .. import tune
from ..errors import UsageError
from ..study import declared
from . import options
from .options import Group

DESCRIPTION = """Serve a database to workers: fwdonly tune RULE --storage grpc://HOST:PORT. Ctrl-C ends it.

The proxy knows no passwords and no encryption: serve only networks that you trust."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """What is served, and where."""

    storage: str | None = None
    """URL of the database: postgresql://..., or sqlite:///... for a few workers."""
    host: str = "localhost"
    """Address to listen on; 0.0.0.0 for workers on other machines."""
    port: int = 13000
    """Port to listen on."""


def main(words: Sequence[str], command_line: Sequence[str], prog: str = "fwdonly serve") -> int:
    """Parse and serve; the exit code."""
    del command_line
    values = options.parse(words, [Group("proxy", declared(Choice))], {}, prog=prog, description=DESCRIPTION)
    choice = options.make(Choice, values)
    if choice.storage is None:
        raise UsageError("--storage is missing; give the URL of the database, such as sqlite:///studies.db")
    print(f"serving {tune.masked(choice.storage)} at grpc://{choice.host}:{choice.port}", flush=True)
    tune.serve(choice.storage, choice.host, choice.port)
    print("stopped; the studies are in the database")
    return 0
