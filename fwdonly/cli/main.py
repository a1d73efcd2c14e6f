"""The commands, their exit codes and their manners."""

import contextlib
import importlib
import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Generator, Sequence
from typing import Any

from ..errors import UsageError

COMMANDS = {
    "train": "train one rule, and others beside it",
    "compare": "compare rules under one protocol, with paired statistics and verdicts",
    "tune": "search a rule's settings with Optuna",
    "predict": "labels and scores of images, arrays or tables, by a saved model",
    "evaluate": "accuracy of a saved model on a data set",
    "export": "a saved model as plain parameters or as a program of StableHLO",
    "report": "make a page of result folders",
    "reproduce": "run a published table, or a claim of the field, again",
    "claims": "list the claims of the field with their verdicts from committed files",
    "serve": "serve a study's database to workers on other machines",
    "submit": "hand a command to SLURM",
    "list": "list rules, networks, data sets and published settings",
    "info": "versions, devices, sensors, extras and data of this machine",
}
"""Commands with what each does."""

HELP = """usage: fwdonly COMMAND [...]

Backpropagation-free learning rules, measured against backpropagation.

{commands}

fwdonly COMMAND --help shows a command's options. Examples:
  fwdonly train mf --against bp --seeds 3
  fwdonly train mf --net cnn:32,64 --dataset cifar10
  fwdonly compare mf pepita foton bp --net mlp:500,500 --protocol matched-passes
"""


def main(words: Sequence[str] | None = None, command_line: Sequence[str] | None = None) -> int:
    """Run a command; the exit code: 0 done, 2 bad input, 3 a seed diverged, 130 interrupted.

    ``words`` are those after ``fwdonly``; ``command_line`` is how the user started it, for the record.
    """
    words = sys.argv[1:] if words is None else list(words)
    command_line = _started() if command_line is None else command_line
    return well_behaved(lambda: _run(words, command_line))


def script(*words: str) -> int:
    """Run a command from a script: its words, then those of the script's own command line."""
    return main([*words, *sys.argv[1:]], [sys.executable, *sys.argv])


def _run(words: Sequence[str], command_line: Sequence[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(HELP.format(commands="\n".join(f"  {name:<10} {what}" for name, what in COMMANDS.items())), end="")
        return 0
    if words[0] == "--version":
        import fwdonly

        print(f"fwdonly {fwdonly.__version__}")
        return 0
    if words[0] not in COMMANDS:
        raise UsageError(f"there is no command {words[0]!r}; the commands are {', '.join(COMMANDS)}")
    try:
        command = importlib.import_module(f".{words[0]}", __package__)
        return command.main(words[1:], command_line)
    except ImportError as error:
        if error.name and error.name.partition(".")[0] in ("tyro", "rich", "filelock", "matplotlib"):
            raise UsageError(f"commands need {error.name}: pip install 'fwdonly[experiments]'") from error
        raise
    except (RuntimeError, AssertionError):
        if "JAX_PLATFORMS" in os.environ:
            _check_platform(os.environ["JAX_PLATFORMS"])  # not before: processes must come together first
        raise


def _check_platform(wanted: str) -> None:
    """Refuse a platform that JAX does not find here; JAX itself answers with a traceback, or with an assertion."""
    import jax

    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"JAX finds no device with JAX_PLATFORMS={wanted}; unset it, or install that platform's plugin "
            "(NVIDIA: pip install 'jax[cuda13]')"
        ) from error


def _started() -> list[str]:
    """How the user started this process."""
    program = sys.argv[0]
    if program.endswith("__main__.py"):
        return [sys.executable, "-m", "fwdonly", *sys.argv[1:]]
    return ["fwdonly" if os.path.basename(program).startswith("fwdonly") else program, *sys.argv[1:]]


@contextlib.contextmanager
def _signals_interrupt() -> Generator[None, None, None]:
    """Within it signals that would kill at once, such as those of clusters before a time limit, are as a Ctrl-C."""
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)]
    before = {}
    if threading.current_thread() is threading.main_thread():
        killing = [number for number in numbers if signal.getsignal(number) == signal.SIG_DFL]
        before = {number: signal.signal(number, signal.default_int_handler) for number in killing}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def well_behaved(work: Callable[[], int]) -> int:
    """Call ``work``; the exit code: its own, 2 for bad input, 130 where a signal or a closed pipe interrupted it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without "±" must not end a training
    usual = warnings.formatwarning

    def one_line_for_ours(
        message: Any, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        ours = category.__module__.startswith("fwdonly.")
        return f"warning: {message}\n" if ours else usual(message, category, filename, lineno, line)

    warnings.formatwarning = one_line_for_ours  # ty: ignore[invalid-assignment]
    try:
        with _signals_interrupt():
            return work()
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):  # of a terminal that is gone
            print("interrupted; what was saved before is kept", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as in `| head`
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (the interpreter flushes it when it exits)
        return 130
    finally:
        warnings.formatwarning = usual
