"""Second opinions on a window's energy, to lay beside the meter's own reading: CodeCarbon and zeus.

Each needs its package, and is asked nothing over the network.
"""

import importlib
import logging
from collections.abc import Sequence
from typing import Any

from ..errors import UsageError
from .quantity import Quantity, unavailable

SHORTEST = 15.0
"""Seconds from one look of CodeCarbon's at the machine to the next; a shorter window is refused."""

SHORTEST_COUNTED = 2.0
"""Seconds below which zeus, too, may not have seen the counter tick."""


class CodeCarbon:
    """CodeCarbon's offline tracker: a model of processor and memory, so all it says is an estimate (extra ``carbon``).

    It watches the whole machine, writes no file and makes no connection.

    Args:
        country: three letters (ISO 3166) of the country whose electricity CodeCarbon shall assume, such as "POL".
        g_per_kwh: a carbon intensity in place of the country's.

    Raises:
        UsageError: neither a country nor an intensity: the country is never guessed.
    """

    name = "codecarbon"

    def __init__(self, country: str | None = None, *, g_per_kwh: float | int | None = None) -> None:
        if country is None and g_per_kwh is None:
            raise UsageError('CodeCarbon needs a country, such as country="POL", or an intensity in g_per_kwh')
        if country is not None and (len(country) != 3 or not country.isalpha()):
            raise UsageError(f"a country has the three letters of ISO 3166, such as POL; got {country!r}")
        self.country, self.g_per_kwh = country, g_per_kwh
        self.tracker: Any = None
        self.level = logging.NOTSET

    def start(self) -> None:
        """Begin."""
        codecarbon: Any = importlib.import_module("codecarbon")
        log = logging.getLogger("codecarbon")
        self.level = log.level
        log.setLevel(logging.CRITICAL)  # it speaks before it looks at its own log_level
        self.tracker = codecarbon.OfflineEmissionsTracker(
            country_iso_code=self.country.upper() if self.country else "USA",  # it asks for one even so
            output_methods=[],
            log_level="critical",
            measure_power_secs=SHORTEST,
            allow_multiple_runs=True,
            # what is None here would come from the user's configuration files and environment otherwise
            force_carbon_intensity_g_co2e_kwh=None if self.g_per_kwh is None else float(self.g_per_kwh),
            electricitymaps_api_token=None,
            region=None,
            cloud_provider=None,
            cloud_region=None,
        )
        self.tracker._electricitymaps_api_token = None  # a token under its old name gets past the argument
        self.tracker.start()

    def stop(self) -> dict[str, Quantity]:
        """End; energies in J and emissions in g, all estimated."""
        tracker, self.tracker = self.tracker, None
        grams = tracker.stop()
        logging.getLogger("codecarbon").setLevel(self.level)
        emissions = getattr(tracker, "final_emissions_data", None)
        if emissions is None or grams is None:
            raise RuntimeError("CodeCarbon failed and only logged why")
        if emissions.duration < SHORTEST:
            why = f"CodeCarbon looks every {SHORTEST:g} s, and the window had {emissions.duration:.1f} s"
            return {self.name: unavailable("J", why)}
        source = f"codecarbon {emissions.codecarbon_version}"
        of = {"cpu": "cpu_load_x_tdp", "ram": "ram_constant", "gpu": "nvml_counter"}
        energies = {
            f"codecarbon_{part}": Quantity(
                getattr(emissions, f"{part}_energy") * 3.6e6, "J", "estimated", f"{source}, {model}"
            )
            for part, model in of.items()
            if part != "gpu" or emissions.gpu_count
        }
        where = f"{self.g_per_kwh:g} g/kWh" if self.g_per_kwh is not None else f"country {self.country}"
        co2e = Quantity(grams * 1000, "g", "estimated", f"{source}, {where}")
        if self.g_per_kwh is None and not emissions.country_name:
            co2e = unavailable("g", f"CodeCarbon has no data of {self.country}; it would take the world's average")
        return energies | {"codecarbon_co2e": co2e}


class Zeus:
    """zeus, which reads the same counters by its own code (extra ``zeus``): within 2 % of ours, or one is wrong.

    Args:
        gpus: of the GPUs that CUDA sees, counted from 0; as for `fwdonly.measure.Meter` the one JAX computes on.
    """

    name = "zeus"

    def __init__(self, gpus: Sequence[int] = (0,)) -> None:
        self.gpus = list(gpus)
        self.monitor: Any = None

    def start(self) -> None:
        """Begin. The meter has waited for the device; zeus would wait for another one."""
        zeus: Any = importlib.import_module("zeus.monitor")
        self.monitor = zeus.ZeusMonitor(gpu_indices=self.gpus, cpu_indices=[], sync_execution_with="jax")
        self.monitor.begin_window("fwdonly", sync_execution=False)

    def stop(self) -> dict[str, Quantity]:
        """End; the energy of the GPUs in J."""
        monitor, self.monitor = self.monitor, None
        measurement = monitor.end_window("fwdonly", sync_execution=False)
        if measurement.time < SHORTEST_COUNTED:
            return {"zeus_gpu": unavailable("J", f"{measurement.time:.2f} s are fewer than {SHORTEST_COUNTED:g} s")}
        if not measurement.gpu_energy:
            raise RuntimeError("zeus found no GPU")
        return {"zeus_gpu": Quantity(sum(measurement.gpu_energy.values()), "J", "measured", "zeus")}
