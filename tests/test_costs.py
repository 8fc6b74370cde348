"""Costs are measured where the work is done, while a meter runs."""

import sys
import time
from types import SimpleNamespace

import pytest
import torch

from densebench.costs import Meter, energy_used, measured, peak_host_memory

CPU = torch.device("cpu")
MIB = 2**20


def test_rates_are_work_by_the_time_of_its_blocks():
    meter = Meter(CPU)
    with meter.running():
        for _ in range(2):
            with measured("features", CPU, images=10, flop=4e9):
                time.sleep(0.05)
        time.sleep(0.1)
    seconds = meter.work["features"].seconds
    assert 0.1 <= seconds < meter.clock() - 0.05
    assert meter.figures()["images_per_second"] == {"features": round(20 / seconds, 2)}
    assert meter.figures()["tflop_per_second"] == {"features": round(8e9 / seconds / 1e12, 4)}


def test_nothing_is_measured_while_no_meter_runs():
    meter = Meter(CPU)
    with meter.running():
        pass
    with measured("features", CPU, images=10):
        pass
    assert not meter.work


def test_the_meter_around_a_block_is_the_innermost():
    outer, inner = Meter(CPU), Meter(CPU)
    with outer.running():
        with inner.running(), measured("search", CPU, flop=1e12):
            pass
        with measured("features", CPU, images=3):
            pass
    assert (set(outer.work), set(inner.work)) == ({"features"}, {"search"})


def test_work_without_images_has_no_images_a_second():
    meter = Meter(CPU)
    with meter.running(), measured("search", CPU, flop=1e12):
        time.sleep(0.01)
    assert meter.figures()["images_per_second"] == {}
    assert set(meter.figures()["tflop_per_second"]) == {"search"}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process forget its peak")
def test_the_peak_of_memory_begins_anew_with_a_meter():
    Meter(CPU)
    before = peak_host_memory()
    held = torch.ones(64 * MIB, dtype=torch.uint8)
    during = peak_host_memory()
    del held
    Meter(CPU)
    assert during >= before + 60
    assert peak_host_memory() <= during - 60


@pytest.mark.parametrize(("platform", "peak"), [("freebsd", 3 * 2**10), ("darwin", 3 * 2**20)])
def test_peak_memory_is_in_mib_whatever_the_system_counts_in(platform, peak, monkeypatch):
    import resource

    monkeypatch.setattr("densebench.costs.Path.read_text", lambda _: (_ for _ in ()).throw(FileNotFoundError))
    monkeypatch.setattr(resource, "getrusage", lambda _: SimpleNamespace(ru_maxrss=peak))
    monkeypatch.setattr("densebench.costs.sys.platform", platform)
    assert peak_host_memory() == 3


def test_peak_memory_that_the_system_does_not_tell_is_none(monkeypatch):
    monkeypatch.setattr("densebench.costs.Path.read_text", lambda _: "")
    monkeypatch.setitem(sys.modules, "resource", None)
    assert peak_host_memory() is None


class Nvml:
    """NVML of a machine with one GPU, which has used more energy at every look."""

    def __init__(self, *millijoules):
        self.readings = iter(millijoules)

    def nvmlInit(self):
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid):
        return {"GPU-abc": "the GPU"}[uuid]

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        assert handle == "the GPU"
        return next(self.readings)


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="abc"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 5 * MIB)
    return torch.device("cuda", 0)


def test_energy_is_what_the_gpu_used_while_the_meter_ran(gpu, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", Nvml(1000, 3500, 9000, 9250))
    meter = Meter(gpu)
    for _ in range(2):
        with meter.running():
            pass
    assert meter.figures()["energy_joules"] == 2.8  # 2.5 + 0.25 J, to a tenth
    assert meter.figures()["device_memory_mb"] == 5


def test_without_nvml_energy_is_unknown(gpu, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert energy_used(gpu) is None
    assert energy_used(CPU) is None


class Events:
    """Events of a GPU that are 250 ms apart."""

    made = 0

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        Events.made, self.when = Events.made + 1, 250.0 * Events.made

    def synchronize(self):
        pass

    def elapsed_time(self, later):
        return later.when - self.when


def test_the_time_of_a_gpu_is_that_between_its_events_counted_once(gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", Events)
    meter = Meter(gpu)
    with meter.running():
        for _ in range(2):
            with measured("features", gpu, images=10, flop=3e12):
                pass
    for _ in range(2):
        assert meter.figures()["images_per_second"] == {"features": 40.0}
        assert meter.figures()["tflop_per_second"] == {"features": 12.0}
