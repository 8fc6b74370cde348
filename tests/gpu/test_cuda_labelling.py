"""New images are labelled on a simulated CUDA device as on the CPU."""

from __future__ import annotations

import copy

import pytest
import torch
from gpu_libraries import libraries_on
from retrieval_by_loops import DATA, SIDE, backbone, empty_cache
from simulated_cuda import simulate
from tiers import late

from densebench import options
from densebench.conformance.checking import own_cache
from densebench.evals.incontext import InContext
from densebench.evals.linear import Linear
from densebench.numerics.arithmetic import float32

__all__ = ["backbone", "empty_cache"]  # fixtures

CASES = {
    "hummingbird": (InContext, "hummingbird", {"neighbours": (5,)}),
    "capi": (InContext, "capi", {"neighbours": (5,), "metric": ("cosine",), "image_size": SIDE}),
    "lbfgs": (Linear, "lbfgs", {"l2": (1e-3,)}),
}


def label_maps(backbone, name, device, at):
    kind, preset, given = CASES[name]
    evaluator = options.build(kind, kind.presets[preset], {**given, "device": device}).resolve(DATA)
    with libraries_on(device), own_cache(), float32(tf32=False):
        learned = evaluator.learn(copy.deepcopy(backbone), DATA, DATA.items("train"))
        return [labels for _, labels in learned.label_maps(DATA, DATA.items("val"), at)]


@pytest.mark.parametrize("at", ["scored", "image"])
@pytest.mark.parametrize("name", late(CASES))
def test_label_maps_are_those_of_the_cpu(backbone, name, at):
    on_cpu = torch.stack(label_maps(backbone, name, "cpu", at))
    with simulate() as report:
        on_cuda = torch.stack(label_maps(backbone, name, "cuda", at))
    assert report.total("kernel") > 10
    assert on_cuda.device.type == "cpu"
    assert (on_cpu == on_cuda).float().mean() > 0.999  # products are added in another order
