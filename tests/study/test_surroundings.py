"""What a job may use, from the files of control groups, limits and affinity; and what numbers depend on, in records."""

import json
import os
import subprocess
import sys

import jax
import pytest

from fwdonly import results, surroundings, training

resource = pytest.importorskip("resource")
GIB = 2**30
PLENTY = 64 * GIB


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """``machine(groups, mounts, **files)``: a system of its own with 64 GiB free, 8 cores and these control groups."""

    def made(groups, mounts, files):
        own = tmp_path / "proc" / "self"
        own.mkdir(parents=True, exist_ok=True)
        (own.parent / "meminfo").write_text(f"MemTotal: 99999999 kB\nMemAvailable: {PLENTY // 1024} kB\n")
        (own / "cgroup").write_text(groups)
        top = str(tmp_path).replace(" ", r"\040")
        lines = [f"{31 + i} 23 0:28 {root} {top}/{at} rw - {kind}" for i, (root, at, kind) in enumerate(mounts)]
        (own / "mountinfo").write_text("22 1 8:1 / / rw - ext4 /dev/sda rw\n" + "\n".join(lines) + "\n")
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)

    monkeypatch.setattr(surroundings, "PROC", tmp_path / "proc")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)
    return made


V2 = [("/", "cg", "cgroup2 cgroup2 rw")]
V1 = [("/", "cg/mem", "cgroup cgroup rw,memory"), ("/", "cg/cpu", "cgroup cgroup rw,cpu,cpuacct")]
NONE = str(2**63 - 4096)


@pytest.mark.parametrize(
    ("groups", "mounts", "files", "free", "cores"),
    [
        ("0::/\n", V2, {}, PLENTY, 8),
        (
            "0::/job\n",
            V2,
            {
                "cg/job/memory.max": f"{4 * GIB}\n",
                "cg/job/memory.current": f"{GIB}\n",
                "cg/job/cpu.max": "150000 100000\n",
            },
            3 * GIB,
            2,
        ),
        (
            "0::/slurm/job_7/step_0\n",
            V2,
            {
                "cg/slurm/job_7/step_0/memory.max": "max\n",
                "cg/slurm/job_7/step_0/cpu.max": "max 100000\n",
                "cg/slurm/job_7/memory.max": f"{2 * GIB}\n",
                "cg/slurm/job_7/memory.current": f"{GIB}\n",
                "cg/slurm/job_7/memory.stat": f"anon 5\ninactive_file {GIB // 2}\n",
                "cg/slurm/cpu.max": "300000 100000\n",
            },
            3 * GIB // 2,
            3,
        ),
        ("0::/\n", V2, {"cg/memory.max": f"{GIB}\n", "cg/memory.current": f"{2 * GIB}\n"}, 0, 8),
        ("0::/../elsewhere\n", V2, {"cg/memory.max": f"{GIB}\n"}, GIB, 8),
        (
            "4:memory:/a/b\n1:cpu,cpuacct:/a\n0::/\n",
            V1,
            {
                "cg/mem/a/b/memory.limit_in_bytes": NONE,
                "cg/mem/a/b/memory.usage_in_bytes": f"{GIB}\n",
                "cg/mem/a/memory.limit_in_bytes": f"{2 * GIB}\n",
                "cg/mem/a/memory.usage_in_bytes": f"{GIB}\n",
                "cg/mem/a/memory.stat": f"inactive_file 1\ntotal_inactive_file {GIB // 4}\n",
                "cg/cpu/a/cpu.cfs_quota_us": "50000\n",
                "cg/cpu/a/cpu.cfs_period_us": "100000\n",
            },
            5 * GIB // 4,
            1,
        ),
        (
            "4:memory:/docker/abc\n1:cpu,cpuacct:/docker/abc\n",
            [("/docker/abc", "cg/mem", "cgroup cgroup rw,memory"), ("/docker/abc", "cg/cpu", "cgroup cgroup rw,cpu")],
            {
                "cg/mem/memory.limit_in_bytes": f"{GIB}\n",
                "cg/mem/memory.usage_in_bytes": "0\n",
                "cg/cpu/cpu.cfs_quota_us": "-1\n",
                "cg/cpu/cpu.cfs_period_us": "100000\n",
            },
            GIB,
            8,
        ),
        ("nonsense\n0::/x\n", V2, {"cg/x/memory.max": "many\n", "cg/x/cpu.max": "0 0\n"}, PLENTY, 8),
    ],
    ids=["none", "group", "slurm", "over", "outside", "v1", "v1 container", "nonsense"],
)
def test_control_groups_bound_memory_and_cores(machine, groups, mounts, files, free, cores):
    machine(groups, mounts, files)
    assert surroundings.free_memory() == free == training.free_bytes()
    assert surroundings.cores() == cores == results.environment()["cores"]
    assert f"{cores} cores" in results.machine()


@pytest.mark.parametrize("limit", [resource.RLIMIT_AS, resource.RLIMIT_DATA])
def test_limits_of_the_process_bound_memory(machine, limit, monkeypatch):
    machine("0::/\n", V2, {"proc/self/statm": "1000 5 5 5 0 200 0\n"})
    both = {resource.RLIMIT_AS: 1000, resource.RLIMIT_DATA: 200}
    monkeypatch.setattr(resource, "getrlimit", lambda of: (GIB if of == limit else resource.RLIM_INFINITY, GIB))
    assert surroundings.free_memory() == GIB - both[limit] * resource.getpagesize()


def test_a_system_without_such_files_is_not_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(surroundings, "PROC", tmp_path)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert surroundings.cores() == 6
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)
    assert surroundings.free_memory() is None


@pytest.mark.skipif(sys.platform != "linux", reason="needs taskset and ulimit")
def test_a_shell_that_limits_its_job_is_believed():
    code = "from fwdonly import surroundings as s; print(s.cores(), s.free_memory())"
    core = min(os.sched_getaffinity(0))
    command = f"ulimit -v 3000000; exec taskset -c {core} {sys.executable} -c '{code}'"
    out = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True).stdout
    cores, free = map(int, out.split())
    assert cores == 1 and 0 < free < 3_000_000 * 1024


SWITCHED = {
    "default_prng_impl": lambda: jax.default_prng_impl("rbg"),
    "threefry_partitionable": lambda: jax.threefry_partitionable(False),
    "enable_x64": lambda: jax.enable_x64(True),
    "default_matmul_precision": lambda: jax.default_matmul_precision("bfloat16"),
}


@pytest.mark.parametrize("name", SWITCHED)
def test_switches_are_those_here_and_now(name):
    before = surroundings.switches()
    with SWITCHED[name]():
        assert {k for k, v in surroundings.switches().items() if v != before[k]} == {name}
        assert results.environment()["switches"] == surroundings.switches()
    assert surroundings.switches() == before
    json.dumps(before, allow_nan=False)


@pytest.mark.parametrize(
    ("flags", "kept"),
    [
        ("--xla_dump_to=/tmp/x --xla_force_host_platform_device_count=4", None),
        ("--xla_cpu_enable_fast_math=true --xla_dump_to=/tmp/x", "--xla_cpu_enable_fast_math=true"),
    ],
)
def test_flags_of_xla_that_change_no_number_are_no_part_of_it(flags, kept, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", flags)
    assert surroundings.switches()["xla_flags"] == kept
    assert results.environment()["xla_flags"] == flags  # all of them are recorded


SMALL = ["--dataset", "digits", "--net", "mlp:8", "--seeds", "1", "--epochs", "1", "--batch-size", "64", "--quiet"]


@pytest.mark.parametrize("name", SWITCHED)
def test_a_result_folder_is_not_continued_under_another_switch(script, tmp_path, name):
    folder = ["--output-dir", tmp_path / "r"]
    assert script("bp_mlp", *SMALL, *folder)[0] == 0
    config = json.loads((tmp_path / "r" / "config.json").read_text())["configuration"]
    assert config["numerics"] == json.loads(json.dumps(surroundings.numerics()))
    with SWITCHED[name]():
        code, _, error = script("bp_mlp", *SMALL, *folder, "--resume")
    assert code == 2 and error.count("\n") == 1 and f"numerics.{name} is" in error
    assert script("bp_mlp", *SMALL, *folder, "--resume")[0] == 0


def test_a_report_names_the_generator_and_the_other_switches(script, tmp_path):
    assert script("bp_mlp", *SMALL, "--output-dir", tmp_path / "r")[0] == 0
    assert script("report", tmp_path / "r")[0] == 0
    page = (tmp_path / "r" / "report.md").read_text().replace("\\", "")
    assert "default_prng_impl threefry2x32, threefry_partitionable True" in page
