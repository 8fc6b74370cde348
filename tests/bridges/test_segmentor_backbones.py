"""Backbones under MMSegmentation's heads: frozen or trained, with stochastic depth as in Huang et al., 2016."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from drawn_maps import QUIET, equal
from torch import nn

from densebench.backbones.debiased import debiased
from densebench.backbones.loading import load_backbone
from densebench.bridges.mmsegmentation import segmentor
from densebench.errors import UserError

pytestmark = QUIET


def rates_of(trunk):
    found = [getattr(block, name) for block in trunk.model.blocks for name in ("drop_path1", "drop_path2")]
    return [float(getattr(path, "drop_prob", 0) or 0) for path in found]


def test_a_frozen_backbone_gives_the_trunks_features_in_any_mode(vit):
    frozen, images = segmentor.Frozen(vit, "fp32"), torch.randn(2, 3, 48, 32, requires_grad=True)
    with torch.no_grad():
        expected = vit.trunk(images)
    for module in (frozen, frozen.train(), nn.Sequential(frozen).train(), frozen.eval()):
        found = module(images)
        assert len(found) == 1 and found[0].dtype == torch.float32 and not found[0].requires_grad
        assert torch.equal(found[0], expected)
    assert not list(frozen.parameters()) and not frozen.state_dict() and not vit.trunk.training
    with torch.no_grad():
        framed = vit.trunk(F.pad(images[..., :41, :20], (0, 12, 0, 7)))
    assert torch.equal(frozen(images[..., :41, :20])[0], framed)
    half = segmentor.Frozen(vit, "bf16")(images)[0]
    assert half.dtype == torch.float32 and 0 < (half - expected).abs().max() < 0.2


def test_a_frozen_backbone_lacks_its_positional_directions_and_a_trained_one_refuses_to(vit):
    without, images = debiased(vit, 3), torch.randn(2, 3, 48, 32)
    with torch.no_grad():
        assert torch.equal(segmentor.Frozen(without, "fp32")(images)[0], without(images))
    with pytest.raises(UserError, match="is debiased or upsampled, which goes with a frozen network"):
        segmentor.Trained(without, 0.0)


def test_a_frozen_backbone_may_have_stochastic_depth_while_heads_train(vit):
    before, images = copy.deepcopy(vit.trunk.state_dict()), torch.randn(2, 3, 32, 32)
    frozen = segmentor.Frozen(vit, "fp32", 0.9)
    torch.manual_seed(0)
    nn.Sequential(frozen).train()
    first, second = frozen(images)[0], frozen(images)[0]
    with torch.no_grad():
        assert not first.requires_grad and not torch.equal(first, second)
        nn.Sequential(frozen).eval()
        assert torch.equal(frozen(images)[0], vit.trunk(images))
    assert not list(frozen.parameters()) and not frozen.state_dict()
    assert equal(before, vit.trunk.state_dict()) and not any(module.training for module in vit.modules())
    assert rates_of(vit.trunk) == [0.0] * 12


def test_stochastic_depth_rises_linearly_over_the_blocks(vit):
    trunk = segmentor.with_drop_path(copy.deepcopy(vit.trunk), 0.3)
    assert rates_of(trunk) == pytest.approx([rate for block in range(6) for rate in (0, 0.3 * block / 5)])  # attention has none


def test_a_backbone_without_residual_blocks_stays_still_in_training():
    backbone = load_backbone("random:resnet10t")
    frozen = segmentor.Frozen(backbone, "fp32", drop_path=0.5).train()
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(frozen(images)[0], backbone.trunk(images), rtol=0, atol=0)


@pytest.mark.parametrize("size", [(48, 80), (160, 160), (40, 50)])
def test_a_trained_backbone_is_a_copy_whose_every_parameter_learns(size, vit):
    before = copy.deepcopy(vit.trunk.state_dict())
    trained = segmentor.Trained(vit, 0.0).train()
    images = torch.randn(2, 3, *size)
    found = trained(images)[0]
    with torch.no_grad():
        torch.testing.assert_close(found, vit.trunk(F.pad(images, (0, -size[1] % 16, 0, -size[0] % 16))), atol=1e-5, rtol=1e-5)
    optimiser = torch.optim.SGD(trained.parameters(), lr=0.1)
    (found * torch.randn_like(found)).sum().backward()
    parameters = dict(trained.named_parameters())
    assert len(parameters) == len(list(vit.trunk.parameters())) and any("pos_embed" in name for name in parameters)
    idle = [name for name, parameter in parameters.items() if parameter.grad is None or parameter.grad.abs().max() == 0]
    assert not idle
    table = next(parameter for name, parameter in parameters.items() if "pos_embed" in name)
    assert (table.grad.abs().amax(-1) > 0).float().mean() > (0.9 if size == (160, 160) else 0.1)
    optimiser.step()
    assert equal(before, vit.trunk.state_dict()) and all(p.grad is None and not p.requires_grad for p in vit.parameters())
    assert not any(module.training for module in vit.modules())
    assert rates_of(segmentor.Trained(vit, 0.2).trunk)[-1] == pytest.approx(0.2)
