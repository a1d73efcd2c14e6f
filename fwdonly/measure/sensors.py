"""What can be read of power here: NVIDIA boards through NVML, processor packages through RAPL, and which a run uses.

Nothing here changes a setting of a device. Every call may fail at any time; `fwdonly.measure` catches that.
"""

import importlib
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

POWERCAP = Path("/sys/class/powercap")
STAT = Path("/proc/stat")
"""Where Linux counts what all processors did since it started."""

# Clocks event ("throttle") reasons of nvml.h, by bit.
THROTTLE = (
    "gpu_idle",
    "applications_clocks_setting",
    "sw_power_cap",
    "hw_slowdown",
    "sync_boost",
    "sw_thermal_slowdown",
    "hw_thermal_slowdown",
    "hw_power_brake_slowdown",
    "display_clocks_setting",
)


class Unreadable(Exception):
    """There is no reading; the message is the reason, in one line."""


@runtime_checkable
class Sensor(Protocol):
    """One board or package."""

    name: str
    """Such as "GPU-5f1c..." or "package-0"."""
    kind: str
    """"gpu" or "cpu"."""
    source: str
    """Source of `joules`."""
    power_source: str
    """Source of `watts`, or of their integral."""
    shortest: float
    """Seconds below which a window is refused, however often the counter ticks."""
    longest_gap: float
    """Seconds between two readings of `joules` beyond which the difference may be wrong."""

    def joules(self) -> float:
        """Energy since some fixed moment, in J."""
        ...

    def watts(self) -> float | None:
        """Power now, in W; None where there is only a counter."""
        ...

    def utilisation(self) -> float | None:
        """Share of the last sample period in which the device was busy, 0..1."""
        ...

    def state(self) -> dict[str, Any]:
        """Temperature, clocks and what holds them down, now."""
        ...

    def about(self) -> dict[str, Any]:
        """What does not change."""
        ...


class Board:
    """An NVIDIA GPU's board, by its UUID. Energy is counted in mJ since the driver was loaded, power is in mW.

    NVIDIA's documentation says how accurate power readings are for Fermi and Kepler boards alone: within 5 % of the
    power drawn (``nvmlDeviceGetPowerUsage``). Yang, Adamek, Armour, arXiv 2312.02741, held more than 70 boards against
    a power meter; the sensors of the A100 and H100 look at 25 % of the time. A gain that is constant cancels in ratios
    of energies of one board.
    """

    kind = "gpu"
    source = "nvml_counter"
    shortest = 2.0
    longest_gap = math.inf

    def __init__(self, nvml: Any, uuid: str) -> None:
        self.nvml, self.name = nvml, uuid
        with _readable(nvml, f"the GPU {uuid}"):
            self.handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
        if self._ask("nvmlDeviceGetMigMode", default=(0, 0))[0]:
            raise Unreadable(f"{uuid} is divided by MIG, and the energy counter belongs to the whole GPU; turn MIG off")
        self.power_source, self._watts = self._power()

    def joules(self) -> float:
        return self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.handle) / 1000

    def watts(self) -> float | None:
        reading = self._watts()
        if reading == 0:
            raise Unreadable("the board answered 0 W, as some do that have no answer yet")
        return reading

    def utilisation(self) -> float | None:
        return self.nvml.nvmlDeviceGetUtilizationRates(self.handle).gpu / 100

    def state(self) -> dict[str, Any]:
        nvml, bits = self.nvml, self._ask("nvmlDeviceGetCurrentClocksEventReasons")
        running = self._ask("nvmlDeviceGetComputeRunningProcesses")
        return {
            "temperature_c": self._ask("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
            "sm_mhz": self._ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM),
            "memory_mhz": self._ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_MEM),
            "throttle": None if bits is None else [name for at, name in enumerate(THROTTLE) if bits >> at & 1],
            # One of them is this one, which in a container the driver may know by another number.
            "other_processes": None if running is None else max(0, len(running) - 1),
        }

    def about(self) -> dict[str, Any]:
        limit = self._ask("nvmlDeviceGetEnforcedPowerLimit")
        return {
            "device": self._ask("nvmlDeviceGetName"),
            "uuid": self.name,
            "driver": self._ask("nvmlSystemGetDriverVersion", of_device=False),
            "power_limit_w": None if limit is None else limit / 1000,
            "persistence_mode": self._ask("nvmlDeviceGetPersistenceMode"),
        }

    def _ask(self, name: str, *args: Any, default: Any = None, of_device: bool = True) -> Any:
        """What a call answers, ``default`` where this driver or board does not."""
        try:
            return getattr(self.nvml, name)(*((self.handle,) if of_device else ()), *args)
        except (self.nvml.NVMLError, AttributeError):
            return default

    def _power(self) -> tuple[str, Callable[[], float | None]]:
        """The first way to read power that works: now, mean of a second, or a mixture of both by chip."""

        def field(number: int) -> float:
            value = self.nvml.nvmlDeviceGetFieldValues(self.handle, [(number, 0)])[0]  # scope 0: the GPU alone
            if value.nvmlReturn != self.nvml.NVML_SUCCESS:
                raise self.nvml.NVMLError(value.nvmlReturn)
            return value.value.uiVal / 1000

        ways: tuple[tuple[str, Callable[[], float | None]], ...] = (
            ("nvml_instant_trapz", lambda: field(self.nvml.NVML_FI_DEV_POWER_INSTANT)),
            ("nvml_average_trapz", lambda: field(self.nvml.NVML_FI_DEV_POWER_AVERAGE)),
            ("nvml_usage_trapz", lambda: self.nvml.nvmlDeviceGetPowerUsage(self.handle) / 1000),
        )
        for source, read in ways:
            try:
                if read():
                    return source, read
            except (self.nvml.NVMLError, AttributeError):
                continue
        return "none", lambda: None


class Package:
    """A processor package: the whole of it, not this process, and of its RAPL domains the package's alone.

    The counter wraps, and is read often enough.
    """

    kind = "cpu"
    source = "rapl_package"
    shortest = 0.1
    power_source = "none"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = (folder / "name").read_text().strip()
        self.range = int((folder / "max_energy_range_uj").read_text())
        self.longest_gap = self.range / 1e6 / 1000  # before 1000 W have carried it round
        self.last, self.turns = int((folder / "energy_uj").read_text()), 0

    def joules(self) -> float:
        now = int((self.folder / "energy_uj").read_text())
        self.turns += now < self.last
        self.last = now
        return (now + self.turns * self.range) / 1e6

    def watts(self) -> float | None:
        return None

    def utilisation(self) -> float | None:
        return None

    def state(self) -> dict[str, Any]:
        """Seconds that the processors were busy, in all, and with this process and those children that have ended."""
        times = os.times()
        seconds = {
            "busy_s": _busy_seconds(),
            "own_s": times.user + times.system + times.children_user + times.children_system,
        }
        return {} if seconds["busy_s"] is None else seconds

    def about(self) -> dict[str, Any]:
        memory = [zone.name for zone in self.folder.parent.glob(f"{self.folder.name}:*") if _name(zone) == "dram"]
        return {"device": f"processor {self.name}", "power_limit_w": None, "memory_apart": bool(memory)}


def _name(domain: Path) -> str:
    try:
        return (domain / "name").read_text().strip()
    except OSError:
        return ""


def _busy_seconds() -> float | None:
    """User, nice, system and interrupts of all processors (man 5 proc); None where there is no such file."""
    try:
        numbers = [float(word) for word in STAT.read_text().splitlines()[0].split()[1:8]]
        return (sum(numbers[:3]) + sum(numbers[5:7])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None


def packages(root: Path = POWERCAP) -> list[Sensor]:
    """The processor packages that RAPL counts.

    Raises:
        Unreadable: there are none, or they may not be read.
    """
    sensors: list[Sensor] = []
    for folder in sorted(root.glob("intel-rapl:*")):
        try:
            if folder.name.count(":") == 1 and (folder / "name").read_text().startswith("package"):
                sensors.append(Package(folder))
        except PermissionError:
            raise Unreadable(
                f"{folder}/energy_uj may be read by root alone (CVE-2020-8694); run as root, or have it made readable"
            ) from None
        except (OSError, ValueError) as error:
            raise Unreadable(f"{folder} cannot be read ({error})") from None
    if not sensors:
        raise Unreadable("this machine shows no RAPL counter (most virtual machines and containers have none)")
    return sensors


def boards(devices: Iterable[Any], environ: Mapping[str, str] | None = None) -> list[Sensor]:
    """The boards of JAX devices, or of GPUs named by their UUIDs.

    Raises:
        Unreadable: NVML, its library or the permission is missing, a GPU is divided by MIG, or it cannot be told which
            board a device is.
    """
    try:
        pynvml: Any = importlib.import_module("pynvml")
    except ImportError:
        raise Unreadable("NVML's Python binding is missing; pip install 'fwdonly[energy]'") from None
    with _readable(pynvml, "NVML"):
        pynvml.nvmlInit()
    devices = list(devices)
    uuids = [device for device in devices if isinstance(device, str)]
    if len(uuids) < len(devices):
        others = [device for device in devices if not isinstance(device, str)]
        uuids += _of_devices(pynvml, others, os.environ if environ is None else environ)
    return [Board(pynvml, uuid) for uuid in dict.fromkeys(uuids)]


def _of_devices(nvml: Any, devices: Sequence[Any], environ: Mapping[str, str]) -> list[str]:
    """UUIDs of JAX devices, whose ``local_hardware_id`` counts the GPUs that CUDA sees."""
    with _readable(nvml, "the list of GPUs"):
        count = nvml.nvmlDeviceGetCount()
        everything = [nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetHandleByIndex(at)) for at in range(count)]
    visible = _visible(everything, environ)
    numbers = [device.local_hardware_id for device in devices]
    if not everything or max(numbers) >= len(visible):
        raise Unreadable(
            f"JAX sees GPU {max(numbers)} and NVML {len(everything)} in all (CUDA_VISIBLE_DEVICES="
            f"{environ.get('CUDA_VISIBLE_DEVICES')}); give the UUIDs of `nvidia-smi -L` as devices"
        )
    return [visible[number] for number in numbers]


def _visible(everything: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """The UUIDs of the GPUs that CUDA sees, in its order. NVML orders by PCI bus, CUDA by speed if not told so."""
    by_bus = len(everything) < 2 or environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    wanted = environ.get("CUDA_VISIBLE_DEVICES")
    entries = map(str, range(len(everything))) if wanted is None else (part.strip() for part in wanted.split(","))
    uuids: list[str] = []
    for entry in entries:
        if entry.startswith("MIG"):
            raise Unreadable("a MIG instance has no energy counter of its own (it belongs to the whole GPU)")
        named = [uuid for uuid in everything if entry and uuid.startswith(entry)]
        if len(named) == 1:
            uuids += named
        elif not entry.isdigit() or int(entry) >= len(everything):
            break  # as CUDA does: what follows an entry that is none is not seen
        elif not by_bus:
            raise Unreadable(
                f"CUDA orders {len(everything)} GPUs by speed and NVML by PCI bus, so that GPU {entry} may be either; "
                "set CUDA_DEVICE_ORDER=PCI_BUS_ID, or UUIDs in CUDA_VISIBLE_DEVICES"
            )
        else:
            uuids.append(everything[int(entry)])
    return uuids


class _readable:
    """Turns an NVML error into a reason with the mend."""

    MENDS: Mapping[str, str] = {
        "NVMLError_LibraryNotFound": "there is no NVIDIA driver library; install the driver, in a container mount it",
        "NVMLError_DriverNotLoaded": "the driver is not loaded; in a container, pass the device nodes (--gpus all)",
        "NVMLError_NoPermission": "there is no permission to read it; run as a user who may open /dev/nvidia*",
        "NVMLError_NotFound": "there is no such GPU; `nvidia-smi -L` lists them",
        "NVMLError_GpuIsLost": "the GPU has fallen off the bus; restart the machine",
    }

    def __init__(self, nvml: Any, what: str) -> None:
        self.nvml, self.what = nvml, what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, self.nvml.NVMLError):
            mend = self.MENDS.get(type(error).__name__, "see the driver's log")
            raise Unreadable(f"{self.what} cannot be read ({error}): {mend}") from None
