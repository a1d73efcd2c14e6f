"""Hand any script to SLURM through submitit: python experiments/submit.py [options] -- SCRIPT [its options]."""

import dataclasses
import functools
import importlib
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import _common
import tyro

from fwdonly import UsageError


@dataclasses.dataclass(frozen=True)
class Options:
    """Run a script of experiments/, or any other one, as jobs of a cluster; it and its options follow after --."""

    cluster: Literal["slurm", "local"] = "slurm"  # local: on this machine, to try it; sees no GPU without --gpus
    partition: str | None = None  # of SLURM
    gpus: int = 0  # per node
    cpus: int = 2  # per task
    memory_gb: float = 8.0  # per node
    hours: float = 1.0  # time limit
    nodes: int = 1  # per job
    tasks_per_node: int = 1  # processes; a script that trains on several finds them by SLURM's environment
    copies: int = 1  # identical jobs, as an array: workers of one study
    wait: bool = False  # wait for the jobs; exit code 1 if one failed
    folder: Path = Path("results/jobs")  # for logs, where all nodes see it


def run(command: list[str], folder: str) -> None:
    """In the job: the script in a process of its own, which gets every signal once, as from a terminal."""
    process = subprocess.Popen(command, cwd=folder, start_new_session=True)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: process.send_signal(number))
    try:
        code = process.wait()
    finally:  # submitit ends the job at its time limit: the script has a moment to save
        process.terminate()
        process.wait()
    if code:
        raise RuntimeError(f"exit code {code}")  # or the cluster would call it completed


def main() -> int:
    """Parse, submit, and wait where asked to."""
    at = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    options, (name, *arguments) = tyro.cli(Options, args=sys.argv[1:at]), sys.argv[at + 1 :] or [""]
    script = next((path for path in (Path(name), Path(__file__).parent / name) if path.is_file()), None)
    if script is None:
        raise UsageError(f"there is no script {name!r}; name one after the options, such as: -- mf_mlp.py --seeds 2")
    jobs = submit(options, [sys.executable, str(script.resolve()), *arguments], script.stem)
    ids = [job.job_id for job in jobs]
    print(f"submitted {', '.join(ids)}: {shlex.join([name, *arguments])}")
    print(*(f"  log: {job.task(at).paths.stdout}" for job in jobs for at in range(job.num_tasks)), sep="\n")
    look, end = ("squeue --jobs", "scancel") if options.cluster == "slurm" else ("ps -p", "kill -INT")
    print(f"to look at them: {look} {','.join(ids)}\nto cancel them: {end} {' '.join(ids)}", flush=True)
    return int(any([failed(job) for job in jobs])) if options.wait else 0


def submit(options: Options, command: list[str], name: str) -> list[Any]:
    """The jobs, on their way."""
    if min(options.copies, options.nodes, options.tasks_per_node, options.cpus) < 1 or options.hours <= 0:
        raise UsageError("--copies, --nodes, --tasks-per-node, --cpus and --hours must be positive")
    try:
        submitit = importlib.import_module("submitit")
        executor = submitit.AutoExecutor(options.folder.resolve(), cluster=options.cluster)
        executor.update_parameters(
            name=name,
            timeout_min=max(1, round(60 * options.hours)),
            mem_gb=options.memory_gb,
            nodes=options.nodes,
            tasks_per_node=options.tasks_per_node,
            cpus_per_task=options.cpus,
            gpus_per_node=options.gpus or None,
            slurm_partition=options.partition,
            stderr_to_stdout=True,
        )
        return executor.submit_array([functools.partial(run, command, str(Path.cwd()))] * options.copies)
    except ImportError as error:
        raise UsageError("clusters need submitit: pip install 'fwdonly[slurm]'") from error
    except Exception as error:  # no SLURM here, or it refuses the request
        raise UsageError(
            f"cannot submit to {options.cluster} ({(str(error) or repr(error)).splitlines()[0]})"
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


if __name__ == "__main__":
    sys.exit(_common.well_behaved(main))
