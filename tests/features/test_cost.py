"""What a forward pass costs: operations as counted by hand, and a speed that is measured."""

import time

import pytest
import torch
from torch import nn

from densebench.backbones.backbone import Backbone, BackboneInfo
from densebench.features.cost import cost_of


class Trunk(nn.Module):
    """One convolution of patches of 4 px into 8 features; a pass takes `seconds` at least."""

    def __init__(self, seconds=0.0):
        super().__init__()
        self.patches, self.seconds = nn.Conv2d(3, 8, 4, stride=4), seconds

    def forward(self, images):
        time.sleep(self.seconds)
        return self.patches(images)


def cost(seconds=0.0, size=16):
    info = BackboneInfo(spec="conv", arch="conv", dim=8, stride=4)
    return cost_of(Backbone(Trunk(seconds), info, "digest"), size, torch.device("cpu"))


def test_operations_by_hand():
    """16 patches, 8 features of 3 x 4 x 4 numbers each, a multiplication and an addition for each."""
    assert cost().gflop == pytest.approx(2 * 16 * 8 * 48 / 1e9)


def test_parameters_and_the_memory_of_the_weights():
    found = cost()
    assert (found.params, found.dim, found.stride, found.size) == (8 * 48 + 8, 8, 4, 16)
    assert found.memory_mb == pytest.approx(4 * (8 * 48 + 8) / 2**20)


def test_a_pass_that_waits_is_slower():
    assert cost(0.05).images_per_second <= 20 < cost().images_per_second


def test_a_slow_pass_is_timed_several_times(monkeypatch):
    """A machine that is busy during the first passes does not decide."""
    made = []
    monkeypatch.setattr(time, "sleep", made.append)
    times = iter(range(0, 1000, 2))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(times)))
    cost(1.0)
    assert len(made) >= 5
