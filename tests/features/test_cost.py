"""What a forward pass costs: operations and memory as counted by hand, and a speed that is measured."""

import time

import pytest
import torch
from torch import nn

from densebench import load_backbone
from densebench.backbones.backbone import Backbone, BackboneInfo
from densebench.features.cost import cost_of, counted

CPU = torch.device("cpu")


class Trunk(nn.Module):
    """One convolution of patches of 4 px into 8 features; a pass takes `seconds` at least."""

    def __init__(self, seconds=0.0):
        super().__init__()
        self.patches, self.seconds = nn.Conv2d(3, 8, 4, stride=4), seconds

    def forward(self, images):
        time.sleep(self.seconds)
        return self.patches(images)


def backbone(trunk=None):
    info = BackboneInfo(spec="conv", arch="conv", dim=8, stride=4, mean=(0.0,) * 3, std=(1.0,) * 3)
    return Backbone(trunk or Trunk(), info, "digest")


def cost(seconds=0.0, size=16):
    return cost_of(backbone(Trunk(seconds)), size, CPU)


def test_operations_by_hand():
    """16 patches, 8 features of 3 x 4 x 4 numbers each, a multiplication and an addition for each."""
    assert counted(backbone(), torch.zeros(1, 3, 16, 16)).flop == 2 * 16 * 8 * 48
    assert counted(backbone(), torch.zeros(2, 3, 8, 16)).flop == 2 * 16 * 8 * 48


def test_memory_by_hand():
    """Weights and a bias of each feature, the image, the grid of 16 patches, and its copy with the features last."""
    weights, image, grid = 4 * (8 * 48 + 8), 4 * 3 * 16 * 16, 4 * 8 * 16
    assert counted(backbone(), torch.zeros(1, 3, 16, 16)).memory == weights + image + 2 * grid


class Hungry(Trunk):
    """Makes three tensors of 1 MiB, one after the other, of which it keeps none."""

    def forward(self, images):
        for _ in range(3):
            torch.zeros(2**18)
        return super().forward(images)


def test_what_was_let_go_does_not_add_up():
    image = torch.zeros(1, 3, 16, 16)
    most = counted(backbone(Hungry()), image).memory - counted(backbone(), image).memory
    assert 2**20 - 4 * 2 * 8 * 16 <= most <= 2**20


def test_operations_of_attention_are_counted():
    vit = load_backbone("random:test_vit")
    one, four = (counted(vit, torch.zeros(1, 3, side, side)).flop for side in (128, 256))
    assert four > 4.2 * one  # linear layers grow by four, products of tokens by sixteen


def test_a_cost_is_what_is_counted():
    found, expected = cost(), counted(backbone(), torch.rand(1, 3, 16, 16))
    assert (found.params, found.dim, found.stride, found.size) == (8 * 48 + 8, 8, 4, 16)
    assert (found.gflop, found.memory_mb) == pytest.approx((expected.flop / 1e9, expected.memory / 2**20))


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
