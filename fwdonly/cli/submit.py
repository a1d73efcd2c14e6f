"""``fwdonly submit [options] -- COMMAND [its options]``: a command, or a script of yours, as jobs of a cluster."""

import dataclasses
import functools
import importlib
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from ..errors import UsageError
from ..study import declared
from ..training import SIGNALS
from . import options
from .options import Group

DESCRIPTION = """Hand a command of fwdonly, or a script, to SLURM through submitit. It follows after --, such as:
fwdonly submit --hours 2 --gpus 1 -- train mf --seeds 10"""


@dataclasses.dataclass(frozen=True)
class Choice:
    """The jobs."""

    cluster: Literal["slurm", "local"] = "slurm"
    """slurm, or local: on this machine, to try it; sees no GPU without --gpus."""
    partition: str | None = None
    """Partition of SLURM."""
    gpus: int = 0
    """GPUs per node."""
    cpus: int = 2
    """Cores per task."""
    memory_gb: float = 8.0
    """Memory per node in GB."""
    hours: float = 1.0
    """Time limit in hours."""
    nodes: int = 1
    """Nodes per job."""
    tasks_per_node: int = 1
    """Processes per node; a study that trains on several finds them by SLURM's environment."""
    copies: int = 1
    """Identical jobs, as an array: workers of one search."""
    wait: bool = False
    """Wait for the jobs; exit code 1 if one failed."""
    folder: Path = Path("results/jobs")
    """Folder for logs, where all nodes see it."""


def run(command: list[str], folder: str) -> None:
    """In the job: the command in a process of its own, which gets every signal once, as from a terminal."""
    process = subprocess.Popen(command, cwd=folder, start_new_session=True)
    for number in set(SIGNALS) - {signal.SIGUSR2}:  # which submitit has taken
        signal.signal(number, lambda number, _: process.send_signal(number))
    try:
        code = process.wait()
    finally:  # submitit ends the job at its time limit: the command has a moment to save
        process.terminate()
        process.wait()
    if code:
        raise RuntimeError(f"exit code {code}")  # or the cluster would call it completed


def main(words: Sequence[str], command_line: Sequence[str], prog: str = "fwdonly submit") -> int:
    """Parse, submit, and wait where asked to; the exit code."""
    del command_line
    words = list(words)
    at = words.index("--") if "--" in words else len(words)
    values = options.parse(words[:at], [Group("jobs", declared(Choice))], {}, prog=prog, description=DESCRIPTION)
    choice, job = options.make(Choice, values), words[at + 1 :]
    command, name = _command(job)
    jobs = submit(choice, command, name)
    ids = [submission.job_id for submission in jobs]
    print(f"submitted {', '.join(ids)}: {shlex.join(job)}")
    print(
        *(f"  log: {submission.task(at).paths.stdout}" for submission in jobs for at in range(submission.num_tasks)),
        sep="\n",
    )
    look, end = ("squeue --jobs", "scancel") if choice.cluster == "slurm" else ("ps -p", "kill -INT")
    print(f"to look at them: {look} {','.join(ids)}\nto cancel them: {end} {' '.join(ids)}", flush=True)
    return int(any([failed(submission) for submission in jobs])) if choice.wait else 0


def _command(job: Sequence[str]) -> tuple[list[str], str]:
    """The process that a job starts, and its name."""
    from .main import COMMANDS

    if job and job[0] in COMMANDS:
        return [sys.executable, "-m", "fwdonly", *job], job[0]
    if job and Path(job[0]).is_file():
        return [sys.executable, str(Path(job[0]).resolve()), *job[1:]], Path(job[0]).stem
    raise UsageError(
        f"there is no command or script {' '.join(job[:1])!r}; name one after --, such as: -- train mf --seeds 2"
    )


def submit(choice: Choice, command: list[str], name: str) -> list[Any]:
    """The jobs, on their way."""
    if min(choice.copies, choice.nodes, choice.tasks_per_node, choice.cpus) < 1 or choice.hours <= 0:
        raise UsageError("--copies, --nodes, --tasks-per-node, --cpus and --hours must be positive")
    try:
        submitit = importlib.import_module("submitit")
        executor = submitit.AutoExecutor(choice.folder.resolve(), cluster=choice.cluster)
        executor.update_parameters(
            name=name,
            timeout_min=max(1, round(60 * choice.hours)),
            mem_gb=choice.memory_gb,
            nodes=choice.nodes,
            tasks_per_node=choice.tasks_per_node,
            cpus_per_task=choice.cpus,
            gpus_per_node=choice.gpus or None,
            slurm_partition=choice.partition,
            stderr_to_stdout=True,
        )
        return executor.submit_array([functools.partial(run, command, str(Path.cwd()))] * choice.copies)
    except ImportError as error:
        raise UsageError("clusters need submitit: pip install 'fwdonly[slurm]'") from error
    except Exception as error:  # no SLURM here, or it refuses the request
        raise UsageError(
            f"cannot submit to {choice.cluster} ({(str(error) or repr(error)).splitlines()[0]})"
        ) from error


def failed(job: Any) -> bool:
    """Wait for a job; print how it ended, and the last lines of its log."""
    print(f"job {job.job_id} {'failed' if (failure := job.exception() is not None) else 'is done'}")
    for task in range(job.num_tasks):
        text = (job.task(task).stdout() or "").partition("submitit ERROR")[0]
        print(
            *[f"  {line}" for line in text.splitlines() if not line.startswith("submitit ")][-6:], sep="\n", flush=True
        )
    return failure
