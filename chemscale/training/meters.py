"""What a run takes besides time: energy by the machine's own counters, and the peak that its FLOPs are a share of."""

from __future__ import annotations

import importlib.util
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

POWERCAP = Path("/sys/class/powercap")
# seconds between two readings: a package's counter starts anew after some minutes at full power
_INTERVAL = 10.0
# sides of the square products that a peak is measured with
_SIDES = {"cpu": (512, 1024), "cuda": (2048, 4096, 8192)}


class EnergyMeter:
    """Joules of the GPU that this process computes on, or of the processor where there is none.

    A processor's counters (RAPL) tell the whole of its packages: a process is charged the share of the machine's cores
    that it holds, `threads`. `reason` says why nothing can be told, None where it can.
    """

    def __init__(self, device: str, threads: int, powercap: Path = POWERCAP) -> None:
        self._pending, self._read_at = 0.0, time.monotonic()
        self._share = 1.0 if device == "cuda" else min(1.0, threads / (os.cpu_count() or 1))
        self._packages = sorted(powercap.glob("intel-rapl:?")) if device == "cpu" else []
        self._gpu: Any = None
        self.reason: str | None = None
        if device == "cuda" and importlib.util.find_spec("pynvml") is None:
            self.reason = "the package nvidia-ml-py is not installed"
        elif device == "cuda":
            self._gpu = _nvml_handle()
        elif not self._packages or not all(os.access(path / "energy_uj", os.R_OK) for path in self._packages):
            self.reason = f"no counter of the processor's energy can be read in {powercap}"
        self._last = [] if self.reason else self._counters()

    def update(self) -> None:
        """Read the counters when it is time; to be called more often than they start anew."""
        now = time.monotonic()
        if self.reason or now - self._read_at < _INTERVAL:
            return
        self._read_at = now
        self._add()

    def take(self) -> float:
        """Joules since the meter was made or asked last; 0 where there is a `reason`."""
        if not self.reason:
            self._add()
        taken, self._pending = self._pending, 0.0
        return taken

    def _add(self) -> None:
        counters = self._counters()
        for before, (now, limit) in zip(self._last, counters, strict=True):
            self._pending += self._share * ((now - before[0]) % limit) / 1e6
        self._last = counters

    def _counters(self) -> list[tuple[int, int]]:
        """Each counter in microjoules, and the number at which it starts anew."""
        if self._gpu is not None:
            import pynvml

            return [(1000 * pynvml.nvmlDeviceGetTotalEnergyConsumption(self._gpu), 2**63)]
        names = ("energy_uj", "max_energy_range_uj")
        return [tuple(int((path / name).read_text()) for name in names) for path in self._packages]  # type: ignore[misc]


def _nvml_handle() -> Any:
    import pynvml
    import torch

    pynvml.nvmlInit()
    return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties().uuid}")


def matmul_peak(device: torch.device, dtype: torch.dtype, sides: Sequence[int] = ()) -> float:
    """FLOPs per second of square matrix products on a device: of each side's median the best.

    Without `sides`, of some that take tenths of a second in all.
    """
    import torch

    sides = sides or _SIDES[device.type]
    rates = []
    for side in sides:
        left, right, out = (torch.ones(side, side, device=device, dtype=dtype) for _ in range(3))
        seconds = []
        # more of the shorter ones
        for _ in range(4 + 2 * max(sides) // side):
            begun = time.perf_counter()
            torch.mm(left, right, out=out)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds.append(time.perf_counter() - begun)
        rates.append(2 * side**3 / statistics.median(seconds[1:]))
    return max(rates)
