"""Several processes, on one machine or many, that share the seeds of a study."""

import os
import sys
import threading
from typing import Any

import jax

from ..errors import UsageError
from .design import Machine, Study

PROCESSES = ("coordinator", "num_processes", "process_id")
"""Options that say which process of a run this is; a run is the same with any of them."""

SLURM = "SLURM_STEP_NUM_TASKS", "SLURM_PROCID"
"""Where srun says how many processes there are, and which one this is."""


def which(study: Study) -> tuple[int, int]:
    """This process and the number of all, as the options or SLURM say.

    Raises:
        UsageError: options that do not fit together, or more processes than runs.
    """
    process, processes = stated(study.machine)
    if processes == 1:
        return 0, 1
    runs, source = study.runs.seeds, source_of(study.machine)
    if processes > runs:
        raise UsageError(f"{processes} processes are too many for {runs} seeds; start at most {runs}{source}")
    if study.output.output_dir is None:
        raise UsageError(f"several processes need --output-dir, one folder that all of them see{source}")
    if study.measuring.energy:
        raise UsageError(f"--energy needs a process that has the machine to itself; start it alone{source}")
    return process, processes


def meet(machine: Machine, process: int, processes: int) -> None:
    """Come together with the other processes through ``jax.distributed``.

    When all have come, each goes its own way: nothing is communicated later, and none ends because another one died.

    Raises:
        UsageError: they could not.
    """
    if processes == 1:
        return
    where = machine.coordinator or "the first node of SLURM's job"
    source = source_of(machine)
    if source:
        print(f"waiting for all {processes} processes, for {machine.join_seconds:g} s at most{source}", flush=True)

    def give_up() -> None:
        # The runtime would end the process with a stack trace of its own.
        print(
            f"error: {where} was not reached, or not all {processes} processes came, in {machine.join_seconds:g} s; "
            f"start them together, check address and firewall, or give more --join-seconds{source}",
            file=sys.stderr,
            flush=True,
        )
        os._exit(2)

    timer = threading.Timer(machine.join_seconds, give_up)
    timer.daemon = True
    timer.start()
    numbers: dict[str, Any] = {} if machine.coordinator is None else {"num_processes": processes, "process_id": process}
    try:
        jax.distributed.initialize(
            machine.coordinator, **numbers, initialization_timeout=int(machine.join_seconds) + 60
        )
        jax.distributed.shutdown()
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"the processes could not come together: {str(error).splitlines()[0]}") from error
    finally:
        timer.cancel()
    print(f"process {process + 1} of {processes}", flush=True)


def stated(machine: Machine) -> tuple[int, int]:
    """(number of this process, number of all)."""
    coordinator, count, number = machine.coordinator, machine.num_processes, machine.process_id
    if (coordinator, count, number) != (None, None, None):
        if coordinator is None or count is None or number is None:
            raise UsageError("--coordinator, --num-processes and --process-id belong together")
        host, _, port = coordinator.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 2**16:
            raise UsageError(f"--coordinator is HOST:PORT of process 0; got {coordinator}")
        if not 0 <= number < count:
            raise UsageError(f"--process-id lies in 0..{count - 1} with --num-processes {count}; got {number}")
        return number, count
    if not machine.slurm or not all(os.environ.get(name, "").isdigit() for name in SLURM):
        return 0, 1
    count, number = (int(os.environ[name]) for name in SLURM)
    return number, count


def source_of(machine: Machine) -> str:
    """The variables that tell of other processes, and how to ignore them. Empty if options tell of them."""
    if machine.coordinator is not None:
        return ""
    variables = ", ".join(f"{name}={os.environ.get(name)}" for name in SLURM)
    return f" ({variables} in the environment; if this process is alone, add --no-slurm)"
