"""Features are made finer on a simulated CUDA device as on the CPU, without a wait of the host."""

from __future__ import annotations

import pytest
import torch
from simulated_cuda import simulate

from densebench.backbones.loading import load_backbone


@pytest.mark.parametrize("name", ["nearest", "bilinear", "joint-bilateral", "joint-bilateral-naf", "guided"])
def test_finer_features_are_those_of_the_cpu(name):
    backbone = load_backbone("random:test_vit", upsample=name)
    images = torch.randn(2, 3, 48, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        coarse, pixels = backbone.coarse(images), images * 0.2 + 0.5
        expected = backbone.finer(coarse, pixels)
    with simulate() as report, torch.inference_mode():
        found = backbone.to("cuda").finer(coarse.to("cuda"), pixels.to("cuda"))
        waits = report.waits
        assert found.device.type == "cuda"
        found = found.cpu()
    assert waits == 0
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
