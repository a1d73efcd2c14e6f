"""A world whose time, power, NVML and RAPL are scripted: what a meter ought to find in it is known in closed form."""

import bisect
import math
import os
import types
from pathlib import Path
from typing import Any

import numpy as np

from fwdonly.measure import Clock


class World(Clock):
    """Time that passes only when somebody sleeps or works, and keeps its appointments on the way.

    ``log`` lists, in order, what was called.
    """

    def __init__(self) -> None:
        self.time, self.log = 1000.0, []
        self.appointments: list[dict[str, Any]] = []

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        end = self.time + seconds
        while due := [own for own in self.appointments if own["next"] <= end]:
            first = min(due, key=lambda own: own["next"])
            self.time = max(self.time, first["next"])
            first["next"] += first["every"]
            first["call"]()
        self.time = max(self.time, end)

    work = sleep

    def every(self, seconds: float, f: Any) -> Any:
        own = {"every": seconds, "next": self.time + seconds, "call": f}
        self.appointments.append(own)
        return (lambda: self.appointments.remove(own)), lambda: own["call"]()


class Steps:
    """Power that jumps at times in s to values in W; ``set`` adds a jump, as a program does that begins to compute."""

    def __init__(self, *jumps: tuple[float, float]) -> None:
        self.times, self.powers, self.sums = [], [], []
        for at, watts in jumps:
            self.set(at, watts)

    def set(self, at: float, watts: float) -> None:
        self.sums.append(self.upto(at) if self.times else 0.0)
        self.times.append(at)
        self.powers.append(watts)

    def _find(self, at: float) -> int:
        return max(0, bisect.bisect_right(self.times, at) - 1)

    def __call__(self, at: float) -> float:
        return self.powers[self._find(at)]

    def upto(self, at: float) -> float:
        """J from some fixed time to this one."""
        own = self._find(at)
        return self.sums[own] + self.powers[own] * (at - self.times[own])


class Ramp:
    """Power that rises from ``low`` to ``high`` between two times, and is constant before and after."""

    def __init__(self, begin: float, end: float, low: float, high: float) -> None:
        self.begin, self.end, self.low, self.high = begin, end, low, high

    def __call__(self, at: float) -> float:
        share = (min(max(at, self.begin), self.end) - self.begin) / (self.end - self.begin)
        return self.low + (self.high - self.low) * share

    def upto(self, at: float) -> float:
        on = min(max(at, self.begin), self.end)
        return (
            self.low * (min(at, self.begin) - self.begin)
            + (self.low + self(on)) / 2 * (on - self.begin)
            + self.high * max(0.0, at - self.end)
        )


class Square:
    """``high`` W for the first half of every ``period`` s counted from ``phase``, ``low`` W for the second."""

    def __init__(self, low: float, high: float, period: float, phase: float = 0.0) -> None:
        self.low, self.high, self.period, self.phase = low, high, period, phase

    def __call__(self, at: float) -> float:
        return self.high if (at - self.phase) % self.period < self.period / 2 else self.low

    def upto(self, at: float) -> float:
        whole, rest = divmod(at - self.phase, self.period)
        half = self.period / 2
        return whole * half * (self.low + self.high) + self.high * min(rest, half) + self.low * max(0.0, rest - half)


def average(watts: Any, seconds: float = 1.0) -> Any:
    """A power sensor that shows the mean of the last second, as on many boards."""
    return lambda at: (watts.upto(at) - watts.upto(at - seconds)) / seconds


def sampled(watts: Any, every: float = 0.1, length: float = 0.025) -> Any:
    """A power sensor that looks for 25 ms in every 100 ms and shows that until the next look, as an A100's does."""
    return lambda at: average(watts, length)(math.floor(at / every) * every)


class Gpu:
    """A board that draws ``watts(t)``, with a counter that ticks every ``period`` s and may fail in scripted ways.

    Args:
        watts: power in W at a time in s; with a method ``upto`` its energy is exact.
        period: of the counter.
        lost: from this time on every call raises NVMLError_GpuIsLost.
        deaf: from the first to the second time the power cannot be read.
        reset: at this time the counter starts from 0.
        noise: standard deviation in W of what the power sensor says.
        shown: what it says at a time, where that lags behind ``watts``; see `average` and `sampled`.
        fields: numbers of the power fields that this board has.
        counter: False where the board has none.
        counter_scale: what a broken counter shows, as a multiple of the truth.
        throttle: bits of nvml.h that say what holds the clocks down.
        closed: the user has no permission to open it.
    """

    def __init__(
        self,
        uuid: str,
        watts: Any,
        *,
        period: float = 0.1,
        lost: float = math.inf,
        deaf: tuple[float, float] = (math.inf, math.inf),
        reset: float = math.inf,
        noise: float = 0.0,
        shown: Any = None,
        fields: tuple[int, ...] = (186, 185),
        counter: bool = True,
        counter_scale: float = 1.0,
        mig: bool = False,
        other_processes: int = 0,
        throttle: int = 1,
        closed: bool = False,
    ) -> None:
        self.uuid, self.watts, self.period, self.lost, self.reset = uuid, watts, period, lost, reset
        self.noise, self.fields, self.counter, self.counter_scale = noise, fields, counter, counter_scale
        self.mig, self.other_processes, self.throttle, self.closed = mig, other_processes, throttle, closed
        self.deaf, self.shown = deaf, shown or watts
        self.rng = np.random.default_rng(0)
        self.known, self.upto = 0.0, 0.0

    def joules(self, t0: float, t1: float) -> float:
        """The truth; of a curve without ``upto`` by steps of 1e-4 s."""
        if hasattr(self.watts, "upto"):
            return self.watts.upto(t1) - self.watts.upto(t0)
        at = np.linspace(t0, t1, max(2, math.ceil((t1 - t0) / 1e-4)))
        return float(np.trapezoid([self.watts(t) for t in at], at))

    def millijoules_counted(self, now: float) -> int:
        tick = math.floor(now / self.period) * self.period
        if self.upto == 0.0:
            self.upto, self.known = tick, 5e5
        if tick > self.upto:
            if self.upto < self.reset <= tick:
                self.known, self.upto = 0.0, self.reset
            self.known += self.joules(self.upto, tick)
            self.upto = tick
        return int(1000 * self.known * self.counter_scale)


def nvml(world: World, gpus: list[Gpu], *, init: str | None = None) -> types.ModuleType:
    """A module to lay in the place of ``pynvml``; ``init`` names an error that nvmlInit raises."""
    module: Any = types.ModuleType("pynvml")

    class NVMLError(Exception):
        def __init__(self, value: int = 999) -> None:
            super().__init__(f"NVML error {value}")

    module.NVMLError = NVMLError
    for name in ("LibraryNotFound", "DriverNotLoaded", "NoPermission", "NotFound", "NotSupported", "GpuIsLost"):
        setattr(module, f"NVMLError_{name}", type(f"NVMLError_{name}", (NVMLError,), {}))
    module.NVML_SUCCESS, module.NVML_FI_DEV_POWER_INSTANT, module.NVML_FI_DEV_POWER_AVERAGE = 0, 186, 185
    module.NVML_TEMPERATURE_GPU, module.NVML_CLOCK_SM, module.NVML_CLOCK_MEM = 0, 1, 2

    def raising(name: str) -> None:
        raise getattr(module, f"NVMLError_{name}")()

    def nvmlInit() -> None:
        world.log.append("nvmlInit")
        if init is not None:
            raising(init)

    def by_uuid(uuid: str) -> Gpu:
        found = next((gpu for gpu in gpus if gpu.uuid == uuid), None) or raising("NotFound")
        return raising("NoPermission") if found.closed else found  # type: ignore[union-attr, return-value]

    def alive(answer: Any) -> Any:
        def call(gpu: Gpu, *args: Any) -> Any:
            if world.time >= gpu.lost:
                raising("GpuIsLost")
            return answer(gpu, *args)

        return call

    def energy(gpu: Gpu) -> int:
        world.log.append("energy")
        return gpu.millijoules_counted(world.time) if gpu.counter else raising("NotSupported")  # type: ignore[return-value]

    def power(gpu: Gpu) -> int:
        return round(1000 * max(0.0, gpu.shown(world.time) + gpu.noise * gpu.rng.normal()))

    def fields(gpu: Gpu, wanted: list[tuple[int, int]]) -> list[Any]:
        (number, _), *_ = wanted
        ok = number in gpu.fields and not gpu.deaf[0] <= world.time < gpu.deaf[1]
        value = types.SimpleNamespace(uiVal=power(gpu) if ok else 4_000_000)  # not to be read
        return [types.SimpleNamespace(nvmlReturn=0 if ok else 3, value=value)]

    module.nvmlInit = nvmlInit
    module.nvmlSystemGetDriverVersion = lambda: "590.1"
    module.nvmlDeviceGetCount = lambda: len(gpus)
    module.nvmlDeviceGetHandleByIndex = lambda at: gpus[at]
    module.nvmlDeviceGetHandleByUUID = by_uuid
    module.nvmlDeviceGetUUID = lambda gpu: gpu.uuid
    module.nvmlDeviceGetName = lambda gpu: "Scripted GPU"
    module.nvmlDeviceGetMigMode = lambda gpu: (int(gpu.mig), int(gpu.mig))
    module.nvmlDeviceGetPersistenceMode = lambda gpu: 1
    module.nvmlDeviceGetEnforcedPowerLimit = lambda gpu: 400_000
    module.nvmlDeviceGetTotalEnergyConsumption = alive(energy)
    module.nvmlDeviceGetFieldValues = alive(fields)
    module.nvmlDeviceGetPowerUsage = alive(power)
    module.nvmlDeviceGetUtilizationRates = alive(lambda gpu: types.SimpleNamespace(gpu=50))
    module.nvmlDeviceGetTemperature = alive(lambda gpu, sensor: 40)
    module.nvmlDeviceGetClockInfo = alive(lambda gpu, clock: 1410)
    module.nvmlDeviceGetCurrentClocksEventReasons = alive(lambda gpu: gpu.throttle)
    module.nvmlDeviceGetComputeRunningProcesses = alive(
        lambda gpu: [types.SimpleNamespace(pid=pid) for pid in (os.getpid(), *[-1] * gpu.other_processes)]
    )
    return module


class Rapl:
    """A folder as the kernel lays it out for RAPL, whose counter ticks every ``period`` s and wraps at ``range_uj``."""

    def __init__(
        self,
        world: World,
        folder: Path,
        name: str,
        watts: Any,
        *,
        range_uj: int = 262_143_328_850,
        period: float = 0.01,
        start_uj: int = 0,
    ) -> None:
        self.world, self.folder, self.watts, self.range_uj, self.start_uj = world, folder, watts, range_uj, start_uj
        self.began = world.time
        folder.mkdir(parents=True)
        (folder / "name").write_text(f"{name}\n")
        (folder / "max_energy_range_uj").write_text(f"{range_uj}\n")
        self.tick()
        self.stop, _ = world.every(period, self.tick)

    def joules(self, t0: float, t1: float) -> float:
        """The truth."""
        return self.watts.upto(t1) - self.watts.upto(t0)

    def tick(self) -> None:
        counted = self.start_uj + int(1e6 * self.joules(self.began, self.world.time))
        (self.folder / "energy_uj").write_text(f"{counted % self.range_uj}\n")

    def vanish(self) -> None:
        self.stop()
        (self.folder / "energy_uj").unlink()
