"""Features without positional directions on a simulated CUDA device: the CPU's, and nothing waits for batches."""

from __future__ import annotations

import small_vits
import torch
from simulated_cuda import simulate

from densebench.backbones.loading import load_backbone

IMAGES = torch.randn(3, 3, 64, 96, generator=torch.Generator().manual_seed(3))


def test_features_are_those_of_the_cpu_and_later_batches_wait_for_nothing():
    with torch.inference_mode():
        expected = load_backbone(f"random:{small_vits.PLAIN}", debias=4)(IMAGES)
        with simulate() as report:
            backbone = load_backbone(f"random:{small_vits.PLAIN}", debias=4).to("cuda")
            images = IMAGES.cuda()
            backbone(images)
            waits, kernels = report.waits, report.total("kernel")
            found = [backbone(images), backbone(images)]
            assert report.waits == waits, report.table()
            assert report.total("kernel") > kernels + 20
            on_cpu = found[1].cpu()
    torch.testing.assert_close(torch.as_tensor(on_cpu), expected, rtol=0, atol=1e-5)
