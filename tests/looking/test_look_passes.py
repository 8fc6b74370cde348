"""Sizes at which backbones get pictures, what a pass gives, and what it costs."""

from __future__ import annotations

import itertools
import time

import pytest
import torch
from look_pictures import picture
from PIL import Image
from torch import nn

from densebench import load_backbone
from densebench.backbones.backbone import Backbone, BackboneInfo
from densebench.backbones.inside import class_attention, inside, patches_after
from densebench.errors import UserError
from densebench.looking.passes import LONGEST, Extracted, extracted, shape

CPU = torch.device("cpu")


def patchwise(weights, patch=8, mean=(0.0,) * 3, std=(1.0,) * 3):
    """A backbone that is one linear map of each patch."""
    weight = torch.as_tensor(weights, dtype=torch.float32)
    layer = nn.Conv2d(3, len(weight), patch, patch, bias=False)
    with torch.no_grad():
        layer.weight.copy_(weight[:, None, None, None].expand_as(layer.weight) / (3 * patch * patch))
    info = BackboneInfo("patchwise", "conv", len(weight), patch, mean=mean, std=std)
    return Backbone(layer, info, "0" * 64)


@pytest.mark.parametrize("stride", [8, 14, 16, 32])
@pytest.mark.parametrize("size", [(500, 375), (375, 500), (224, 224), (4000, 1000), (20, 30)])
def test_pictures_have_about_as_many_pixels_for_every_stride_and_keep_their_aspect(size, stride):
    height, width = shape(*size, stride, 448)
    assert (height % stride, width % stride) == (0, 0)
    assert height * width == pytest.approx(448**2, rel=0.16)
    assert width / height == pytest.approx(size[0] / size[1], rel=0.16)


@pytest.mark.parametrize("size", [(9000, 3), (3, 9000), (1, 1), (100_000, 1)])
def test_a_picture_of_any_aspect_has_a_patch_and_few_of_them(size):
    height, width = shape(*size, 16, 448)
    assert min(height, width) >= 16
    assert max(height, width) <= LONGEST * 448


def test_a_pass_gives_the_features_of_each_picture_on_its_own_grid():
    images = [picture(0, 96, 64), picture(1, 64, 96)]
    found = extracted(patchwise([1.0, 2.0]), images, 64, CPU)
    assert [tuple(grid.shape) for grid in found.grids] == [(7, 10, 2), (10, 7, 2)]
    assert found.attention == [None, None]
    torch.testing.assert_close(found.norms[0], found.grids[0].norm(dim=2))
    torch.testing.assert_close(found.grids[0][..., 1], 2 * found.grids[0][..., 0])
    assert len(found.tokens) == 140


def test_pictures_are_normalised_as_the_backbone_says():
    backbone = patchwise([1.0], mean=(0.2, 0.3, 0.4), std=(0.5, 0.25, 0.125))
    [grid] = extracted(backbone, [Image.new("RGB", (16, 16), (255, 0, 51))], 16, CPU).grids
    torch.testing.assert_close(grid, torch.full((2, 2, 1), (0.8 / 0.5 - 0.3 / 0.25 - 0.2 / 0.125) / 3))


@pytest.mark.parametrize("layer", ["last", "0"])
def test_seconds_are_those_of_the_pass_that_gives_the_features(layer, monkeypatch):
    """Where the attention takes another pass, its time does not count."""
    clock = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    backbone = load_backbone("random:test_vit", layer=layer)
    hook = backbone.trunk.model.blocks[0].register_forward_hook(lambda *_: [next(clock) for _ in range(10)] and None)
    found = extracted(backbone, [picture(0), picture(1)], 64, CPU)
    hook.remove()
    assert found.seconds == [11, 11]
    assert found.before_norm
    assert not backbone._forward_hooks


def test_pictures_a_second_leave_out_the_first_pass():
    assert Extracted(seconds=[7.0, 0.5, 1.5]).per_second == pytest.approx(1.0)
    assert Extracted(seconds=[0.25]).per_second == pytest.approx(4.0)


def test_features_that_are_no_numbers_are_refused():
    with pytest.raises(UserError, match="its features are not finite numbers"):
        extracted(patchwise([float("nan")]), [picture(0)], 64, CPU)


def test_one_pass_gives_what_several_give():
    backbone, images = load_backbone("random:test_vit"), torch.rand(2, 3, 64, 96)
    found, blocks = inside(backbone, images), len(backbone.trunk.model.blocks)
    torch.testing.assert_close(found.features, backbone(images), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.patches.flatten(1, 2), patches_after(backbone, images, [blocks])[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.attention, class_attention(backbone, images), rtol=1e-5, atol=1e-7)


def test_tokens_are_those_of_the_last_block_that_is_used():
    backbone, images = load_backbone("random:test_vit", layer="0"), torch.rand(1, 3, 64, 64)
    found = inside(backbone, images)
    torch.testing.assert_close(found.patches.flatten(1, 2), patches_after(backbone, images, [1])[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.attention, class_attention(backbone, images), rtol=1e-5, atol=1e-7)
