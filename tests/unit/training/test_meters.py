"""Energy by a processor's counters, which start anew at their limit, and the peak of matrix products."""

import os

import pytest
import torch

from chemscale.training import meters
from chemscale.training.meters import EnergyMeter, matmul_peak


@pytest.fixture
def powercap(tmp_path):
    """A folder of two packages' counters, and a function that sets them to microjoules."""

    def set_to(*counters):
        for number, counter in enumerate(counters):
            package = tmp_path / f"intel-rapl:{number}"
            package.mkdir(exist_ok=True)
            (package / "energy_uj").write_text(f"{counter}\n")
            (package / "max_energy_range_uj").write_text("1000000000\n")
            # a part of the package, which its own counter holds
            (tmp_path / f"intel-rapl:{number}:0").mkdir(exist_ok=True)

    set_to(100_000_000, 900_000_000)
    return tmp_path, set_to


def test_a_process_is_charged_its_share_of_the_packages(powercap, monkeypatch):
    folder, set_to = powercap
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    meter = EnergyMeter("cpu", threads=2, powercap=folder)
    assert meter.reason is None
    set_to(160_000_000, 920_000_000)
    assert meter.take() == pytest.approx((60 + 20) / 4)
    assert meter.take() == 0


def test_a_counter_that_starts_anew_loses_nothing(powercap, monkeypatch):
    folder, set_to = powercap
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    monkeypatch.setattr(meters, "_INTERVAL", 0.0)
    meter = EnergyMeter("cpu", threads=1, powercap=folder)
    set_to(100_000_000, 300_000_000)
    meter.update()
    set_to(100_000_000, 100_000_000)
    assert meter.take() == pytest.approx(400 + 800)


def test_without_counters_there_is_a_reason(tmp_path):
    meter = EnergyMeter("cpu", threads=1, powercap=tmp_path / "nowhere")
    assert "no counter of the processor's energy" in meter.reason
    meter.update()
    assert meter.take() == 0


def test_the_peak_is_what_a_large_product_reaches():
    torch.set_num_threads(1)
    peak = matmul_peak(torch.device("cpu"), torch.float32)
    assert 1e9 < peak < 1e13
