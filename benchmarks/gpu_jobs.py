"""Spends rare minutes on a GPU: jobs in order of worth, each with its own small JSON, the moment it ends.

A job that would not fit the time left is not begun. One whose finished JSON for this card lies in --results is skipped,
so that a second occasion goes on where the first stopped. A job that fails leaves its error, and the next one starts.
"""

import argparse  # and not tyro: the machines with a GPU that this project is lent have none
import itertools
import json
import math
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import _gpu as gpu
import jax
from _gpu import CONFIGURATION, JSON, Session
from _shared import Parser, portable

from fwdonly import UsageError, report, results
from fwdonly.foton import ExpansionWarning


class Job(NamedTuple):
    """What is measured; ``seconds``: how long it took on an H200, a guess where it never ran."""

    run: Callable[[Session, JSON], None]
    seconds: float
    what: str


JOBS = {
    "ceilings": Job(gpu.ceilings, 53, "what the card reaches"),
    "energy": Job(gpu.energy, 204, "MF and BP at matched passes, joules in turns"),
    "tests": Job(gpu.device_tests, 130, "device tests"),
    "steps": Job(gpu.steps, 200, "steps of every rule, products alone, PyTorch"),
    "seeds": Job(gpu.seeds, 120, "the price of a seed, vmap and map"),
    "users": Job(gpu.users, 70, "mf_mlp.py --seeds 10 as users type it"),
    "cifar": Job(gpu.cifar, 120, "CIFAR-10, ten seeds, MF and BP at own convergence"),
    "own": Job(gpu.own_convergence, 100, "MF and BP on MNIST at own convergence, joules"),
    "compilation": Job(gpu.compilation, 110, "seconds of compilation, and what autotuning gains"),
    "memory": Job(gpu.memory, 80, "memory of a step over depth, MF and BP"),
    "cifar_published": Job(gpu.cifar_published, 500, "CIFAR-10, ten seeds, under the authors' stopping rule"),
    "conv_mf": Job(gpu.conv_mf, 300, "CIFAR-10, ten seeds, MF and BP on four convolutions"),
    "conv_cwc": Job(gpu.conv_cwc, 300, "CIFAR-10, ten seeds, CwC as published, and BP"),
    "conv_deeperforward": Job(gpu.conv_deeperforward, 3_000, "CIFAR-10, ten seeds, four layers of DeeperForward"),
    "conv_scff": Job(gpu.conv_scff, 1_500, "CIFAR-10, ten seeds, SCFF as published"),
    "conv_cafo": Job(gpu.conv_cafo, 400, "CIFAR-10, ten seeds, CaFo with DFA blocks as published"),
    "mixer_cifar": Job(gpu.mixer_cifar, 1_000, "CIFAR-10, ten seeds, MF, MF-Joint and BP on eight mixer blocks"),
}


def read(path: Path) -> JSON:
    """A job's file.

    Raises:
        UsageError: it cannot be read, or is damaged.
    """
    try:
        content = json.loads(path.read_text())
        _ = content["found"], content["environment"]["device"], content["dry_run"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is damaged; remove it, and its job runs again") from error
    return content


def run_job(session: Session, name: str) -> str:
    """Run one job and write its JSON; returns what became of it."""
    job, path = JOBS[name], session.options.results / f"{name}.json"
    if path.exists():
        known = read(path)
        same = known["environment"]["device"] == session.environment["device"]
        if known.get("finished") and same and known.get("configuration") == session.configuration:
            return "measured before, skipped"
    if session.lacks(0.6 * job.seconds):  # most jobs keep what they have when the time is up
        needs = job.seconds * session.pace()
        return f"not begun: {session.left():.0f} s were left, and it takes some {needs:.0f} s"
    out: JSON = {}
    head = {
        "job": name,
        "what": job.what,
        "finished": False,
        "dry_run": session.dry,
        "command": session.options.command,
    }
    head |= {"configuration": session.configuration, "environment": session.environment}

    def keep(found: JSON, **more: Any) -> None:
        results.write_json(path, head | portable(more | {"found": found}))

    session.keep = keep
    began = time.monotonic()
    try:
        with jax.default_matmul_precision("highest"):
            job.run(session, out)
    except Exception as error:  # the next one starts
        keep(out, failed=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
        return f"failed: {type(error).__name__}: {error}"[:300]
    except KeyboardInterrupt:
        keep(out, failed="interrupted")
        raise
    took = time.monotonic() - began
    if "ended" not in out:
        session.slowness.append(took / job.seconds)
    keep(out, finished="ended" not in out, seconds=took)
    return f"{out.get('ended', 'done')} in {took:.0f} s"


def tables(folder: Path) -> str:
    """Markdown of every JSON in a folder."""
    parts = []
    for name in JOBS:
        path = folder / f"{name}.json"
        if not path.exists():
            parts.append(f"**{name}**: not measured.\n")
            continue
        content = read(path)
        found, device = content["found"], content["environment"]["device"]
        title = f"**{name}** ({JOBS[name].what}; {device}{', dry run' if content['dry_run'] else ''})"
        parts.append(f"{title}{': ' + content['failed'] if 'failed' in content else ''}\n")
        try:
            parts.append(TABLES[name](found) if found else "")
        except (KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{path} is of another version or damaged; remove it, and its job runs again") from error
    return "\n".join(parts)


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _tests_table(found: JSON) -> str:
    return "".join(f"{name}: {own['last']}\n" for name, own in found.items() if isinstance(own, dict))


def _ceilings_table(found: JSON) -> str:
    rates = {name: own for name, own in found.items() if name != "failed"}
    rows = [[name, ", ".join(f"{number(v)} {unit}" for unit, v in own.items())] for name, own in rates.items()]
    return report.markdown_table(["what", "rate"], rows)


ENERGY = ("seconds_per_pass", "joules_per_pass", "watts")


def _windows_table(found: JSON) -> str:
    rows = []
    for arm, rule in itertools.product(("resident", "host"), ("mf", "bp")):
        own = [w for w in found.get("windows", ()) if (w["arm"], w["rule"]) == (arm, rule)]
        values = lambda name, own=own: [w[name] for w in own if w[name] is not None]
        rows.append([arm, rule.upper(), str(len(own)), *(report.mean_sd(values(n), ".4g") for n in ENERGY)])
    lines = [f"idle {number(found.get('idle_watts'))} W"]
    for name, own in found.get("ratios", {}).items():
        lines.append(f"{name}, MF over BP: {own['ratio']:.4f} [{own['low']:.4f}, {own['high']:.4f}], n = {own['n']}")
    return report.markdown_table(["data", "rule", "n", *ENERGY], rows) + "\n" + "; ".join(lines) + "\n"


def _own_table(found: JSON) -> str:
    rows = []
    for rule in ("mf", "bp"):
        own = [run for run in found.get("runs", ()) if run["rule"] == rule]
        columns = ("epochs", "seconds", "joules_by_passes", "test_accuracy")
        values = [[run[name] for run in own if run.get(name) is not None] for name in columns]
        rows.append([rule.upper(), str(len(own)), *(report.mean_sd(v, ".5g") for v in values)])
    return report.markdown_table(["rule", "n", "epochs", "s", "J by passes", "test accuracy"], rows)


def _seeds_table(found: JSON) -> str:
    first: dict[str, float] = {}
    rows = []
    for point in found.get("points", ()):
        rule, runs = point["rule"], point["seeds"]
        row = [rule.upper(), point["net"], point["how"], str(runs)]
        if "failed" in point:
            rows.append([*row, point["failed"], "-", "-"])
            continue
        ms = point["ms_per_step"]["median"]
        if runs == 1:
            first[rule] = ms
        same = rule in first and point["net"] == "mlp" and runs > 1
        added = (ms - first[rule]) / (runs - 1) / first[rule] if same else None
        rows.append([*row, number(ms), number(added), number(point.get("over_bound"))])
    header = ["rule", "net", "how", "seeds", "ms/step", "added seed over the first", "over bound"]
    return report.markdown_table(header, rows)


def _steps_table(found: JSON) -> str:
    rows = []
    for cell in found.get("cells", ()):
        ms = number(cell["ms_per_step"]["median"]) if "ms_per_step" in cell else cell["failed"]
        # The bound is that of this library's step: what a rival moves and multiplies is not counted.
        bound = [number(cell.get(name) if cell["by"] == "fwdonly" else None) for name in ("bound_ms", "over_bound")]
        rows.append([cell["net"], str(cell["batch"]), cell["rule"].upper(), cell["by"], ms, *bound])
    return report.markdown_table(["net", "batch", "rule", "by", "ms/step", "bound, ms", "over bound"], rows)


def _trained_table(found: JSON) -> str:
    rows = []
    for own in found.get("rules", ()):
        values = [report.mean_sd([100 * run["test_accuracy"] for run in own["runs"]], ".2f")]
        values += [report.mean_sd([run["epochs"] for run in own["runs"]], ".1f")]
        values += [number(own[name]) for name in ("train_seconds", "compile_seconds", "joules")]
        rows.append([own["rule"].upper(), str(len(own["runs"])), *values])
    header = ["rule", "seeds", "test %", "epochs", "s of all seeds", "compile s", "J of all seeds"]
    return f"`{found['command']}`\n\n" + report.markdown_table(header, rows)


def _compilation_table(found: JSON) -> str:
    rows = []
    for cell in found.get("cells", ()):
        values = [cell["failed"], "-"] if "failed" in cell else []
        values = values or [number(cell["compile_seconds"]), number(cell["ms_per_step"]["median"])]
        rows.append([cell["rule"].upper(), cell["how"], *values])
    return report.markdown_table(["ten seeds of", "compiled", "s", "ms/step"], rows)


def _memory_table(found: JSON) -> str:
    rows = []
    for cell in found.get("cells", ()):
        sizes = [cell.get(name) for name in ("temporary_bytes", "held_bytes", "peak_bytes")]
        values = [number(None if size is None else size / 1e6) for size in sizes]
        rows.append([cell["rule"].upper(), str(cell["depth"]), *values, cell.get("failed") or cell.get("reason") or ""])
    header = [
        "rule",
        "hidden layers",
        "temporary MB (XLA)",
        "state and batch MB",
        "peak MB (allocator)",
        "not measured",
    ]
    return report.markdown_table(header, rows)


TABLES: dict[str, Callable[[JSON], str]] = {
    "ceilings": _ceilings_table,
    "energy": _windows_table,
    "tests": _tests_table,
    "steps": _steps_table,
    "seeds": _seeds_table,
    "users": _trained_table,
    "cifar": _trained_table,
    "own": _own_table,
    "compilation": _compilation_table,
    "memory": _memory_table,
    **dict.fromkeys(
        ("cifar_published", "conv_mf", "conv_cwc", "conv_deeperforward", "conv_scff", "conv_cafo"), _trained_table
    ),
    "mixer_cifar": _trained_table,
}


def figure(folder: Path) -> Path | None:
    """gpu.png in the folder: seeds against time, steps over their bounds, joules per pass; None without numbers."""
    from matplotlib.figure import Figure

    found = {name: read(folder / f"{name}.json")["found"] for name in JOBS if (folder / f"{name}.json").exists()}
    points = [p for p in found.get("seeds", {}).get("points", ()) if "ms_per_step" in p]
    cells = [c for c in found.get("steps", {}).get("cells", ()) if c.get("over_bound") and c["by"] == "fwdonly"]
    windows = [w for w in found.get("energy", {}).get("windows", ()) if w["joules_per_pass"]]
    if not (points or cells or windows):
        return None
    plot = Figure(figsize=(13, 4.2), layout="constrained")
    left, middle, right = plot.subplots(1, 3)
    for rule, colour in (("mf", "C0"), ("bp", "C1")):
        own = [p for p in points if (p["rule"], p["net"], p["how"]) == (rule, "mlp", "vmap")]
        x = [p["seeds"] for p in own]
        left.plot(x, [p["ms_per_step"]["median"] for p in own], "o-", color=colour, label=rule.upper())
        if all("bound_ms" in p for p in own):
            left.plot(x, [p["bound_ms"] for p in own], ":", color=colour, label=f"{rule.upper()}, bound")
    left.set(xscale="log", yscale="log", xlabel="seeds trained together", ylabel="ms per step")
    left.set_xticks(ticks := sorted({p["seeds"] for p in points}), labels=list(map(str, ticks)))
    left.minorticks_off()
    left.legend(fontsize="small")
    middle.barh(range(len(cells)), [c["over_bound"] for c in cells], color="C0")
    middle.set_yticks(range(len(cells)), labels=[f"{c['rule'].upper()} {c['net']} {c['batch']}" for c in cells])
    middle.axvline(1.0, color="0.4", linewidth=1)
    middle.invert_yaxis()
    middle.set(xlabel="step over its bound")
    arms = [(arm, rule) for arm in ("resident", "host") for rule in ("mf", "bp")]
    for at, (arm, rule) in enumerate(arms):
        joules = [w["joules_per_pass"] for w in windows if (w["arm"], w["rule"]) == (arm, rule)]
        right.plot([at] * len(joules), joules, "o", color="C0" if rule == "mf" else "C1", alpha=0.5)
    labels = [f"{rule.upper()}, {'on the device' if arm == 'resident' else 'from the host'}" for arm, rule in arms]
    right.set_xticks(range(4), labels=labels, rotation=20, ha="right")
    right.set(ylabel="joules per pass", ylim=(0, None))
    plot.savefig(folder / "gpu.png", dpi=130)
    return folder / "gpu.png"


def page(folder: Path) -> str:
    """README.md of the folder, with its tables and its figure; returns the text."""
    figure_line = "\n![](gpu.png)\n" if figure(folder) else ""
    text = f"# What a GPU showed\n\nMade by `gpu_jobs.py --report` from the files beside it.\n{figure_line}\n"
    text += tables(folder)
    (folder / "README.md").write_text(text, encoding="utf-8")
    return text


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options, checked."""
    kind = argparse.ArgumentDefaultsHelpFormatter
    parser = Parser(description=(__doc__ or "").partition("\n")[0], formatter_class=kind, allow_abbrev=False)
    parser.add_argument("--results", type=Path, default=Path("gpu-results"), help="folder for the jobs' JSON files")
    parser.add_argument("--minutes", type=float, default=7.5, help="time for everything")
    parser.add_argument("--data", type=Path, help="folder with mnist.npz, and cifar10.npz or its parts (data_parts.py)")
    parser.add_argument(
        "--jobs", nargs="+", choices=list(JOBS), default=list(JOBS), help="what to measure, in this order"
    )
    parser.add_argument("--pairs", type=int, default=10, help="pairs of energy windows")
    parser.add_argument(
        "--window", type=float, default=5.5, help="seconds of an energy window; the cross-check by samples needs 5"
    )
    parser.add_argument("--seeds", type=int, default=10, help="runs of each rule at own convergence")
    parser.add_argument(
        "--dry-run", action="store_true", help="toy size on a CPU; shows that it runs, measures nothing"
    )
    parser.add_argument(
        "--report",
        type=Path,
        help="write this folder's tables as its README.md, and gpu.png",
    )
    parser.add_argument("--probe", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    for name in ("minutes", "window", "pairs", "seeds"):
        if not 0 < getattr(options, name) < math.inf:
            parser.error(f"--{name} must be above 0; got {getattr(options, name)}")
    for name in ("data", "report"):
        folder = getattr(options, name)
        if folder is not None and not folder.is_dir():
            parser.error(f"--{name} {folder} is no folder")
    words = [f"--{name} {getattr(options, name):g}" for name in ("minutes", *CONFIGURATION)]
    words += ["--data DIR"] * (options.data is not None) + ["--dry-run"] * options.dry_run
    options.command = " ".join(["python benchmarks/gpu_jobs.py", *words])
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the jobs and print the tables; 3 if a job failed."""
    options = parse(arguments)
    warnings.simplefilter("ignore", ExpansionWarning)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the processes of jobs share the memory
    try:
        if options.probe is not None:
            print(json.dumps(gpu.probe(options.probe)))
            return 0
        if options.report is not None:
            print(page(options.report))
            return 0
        return spend(options)
    except (UsageError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def watch(session: Session, stopped: threading.Event) -> None:
    """Leave with what there is when the time is up: a call into the compiler cannot be interrupted."""
    if stopped.wait(max(session.left(), 0) + GRACE):
        return
    try:
        print("\nthe time is up, and a call did not return\n\n" + tables(session.options.results), flush=True)
    finally:
        os._exit(4)


def spend(options: argparse.Namespace) -> int:
    """Every job that fits, then the tables, whatever happens."""
    options.results.mkdir(parents=True, exist_ok=True)
    session = Session(options)
    if not session.on_gpu and not session.dry:
        raise UsageError("JAX sees no GPU; --dry-run shows on a CPU that the jobs run")
    failed, stopped = 0, threading.Event()

    if not session.dry:
        threading.Thread(target=watch, args=(session, stopped), daemon=True).start()
    try:
        for name in options.jobs:
            session.say(f"{name}: {JOBS[name].what}")
            outcome = run_job(session, name)
            failed += outcome.startswith("failed")
            session.say(f"{name}: {outcome}")
    except KeyboardInterrupt:
        print("interrupted; finished jobs are kept", flush=True)
        failed += 1
    stopped.set()
    print("\n" + tables(options.results), flush=True)
    return 3 if failed else 0


GRACE = 8.0
"""Seconds after the end within which a job must have ended."""


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # threads that still compile would be waited for
