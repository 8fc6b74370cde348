"""A mistake planted in a backbone is found by the check that is made for it."""

from __future__ import annotations

import pytest
from planted import first_failed

from densebench.conformance.backbones import check_backbone

BACKBONE = """
import torch
from torch import nn

class Mine(nn.Module):
    mean, std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 16, 16)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, images):
        grid = self.norm(self.conv(images))
        return grid

def load():
    torch.manual_seed(0)
    return Mine()
"""
MISTAKES = {
    "infinite": ("loads", ("return grid", "return grid / 0"), "not finite"),
    "statistics of 0..255": ("loads", ("(0.5, 0.5, 0.5)", "(127.0, 127.0, 127.0)"), "divide it by 255"),
    "training mode": ("loads", ("        grid =", "        self.norm.train()\n        grid ="), "other images of its batch"),
    "unfrozen": ("eval mode", ("        grid =", "        self.requires_grad_(True)\n        grid ="), "wants a gradient"),
    "random": ("loads", ("return grid", "return grid + torch.rand_like(grid)"), "the second time"),
    "batch-mates leak": ("loads", ("return grid", "return grid - grid.mean(0)"), "other images of its batch"),
    "always the same": ("content", ("return grid", "return torch.ones_like(grid)"), "two images give the same"),
    "pooled": ("content", ("return grid", "return grid.mean((2, 3), keepdim=True).expand_as(grid)"), "before any pooling"),
    "mirrored": ("loads", ("return grid", "return grid.flip(3)"), "do not follow the patches"),
    "one patch late": ("loads", ("return grid", "return grid.roll(2, 3)"), "do not follow the patches"),
    "other weights on each load": ("identity", ("    torch.manual_seed(0)\n", ""), "digest differ between two loads"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_planted_mistake_is_found_by_its_check(mistake, tmp_path):
    check, (before, after), message = MISTAKES[mistake]
    assert before in BACKBONE
    (tmp_path / "mine.py").write_text(BACKBONE.replace(before, after))
    found, said = first_failed(check_backbone(str(tmp_path / "mine.py")))
    assert found == check, said
    assert message in said


@pytest.mark.parametrize("spec", ["pixels:16", "random:test_vit"])
def test_built_in_backbones_conform(spec):
    assert first_failed(check_backbone(spec)) == ("", "")


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["random:vit_tiny_patch16_224", "random:resnet18", "random:swin_tiny_patch4_window7_224"])
def test_families_of_timm_conform(spec):
    assert first_failed(check_backbone(spec)) == ("", "")
