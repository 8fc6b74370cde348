"""Detectors: strides and sizes of pyramids, exact anchors and pooling, which parameters learn how fast, and when."""

from __future__ import annotations

import math

import pytest
import torch
from drawn_objects import options_of, small_vit
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import roi_align

from densebench.backbones.backbone import Backbone, BackboneInfo
from densebench.backbones.loading import load_backbone
from densebench.bridges.torchvision.detector import Anchors, InFloat, Pooling, build
from densebench.bridges.torchvision.pyramid import Pyramid, evenly, octaves, trained_layers
from densebench.bridges.torchvision.training import groups, rate_at
from densebench.errors import UserError

STRIDES = {16: (4, 8, 16, 32, 64), 14: (3.5, 7, 14, 28, 56), 8: (4, 8, 16, 32, 64), 32: (4, 8, 16, 32, 64)}


@pytest.mark.parametrize("patch", STRIDES)
@pytest.mark.parametrize("kind", ["fpn", "simple"])
def test_pyramids_of_vits_have_the_strides_that_they_say(patch, kind):
    pyramid = Pyramid(trained_layers(small_vit(patch), kind, 0.0), kind == "simple", 16).train()
    assert pyramid.strides == STRIDES[patch]
    height, width = 4 * pyramid.divisor, 6 * pyramid.divisor
    maps = pyramid(torch.randn(2, 3, height, width))
    for (name, one), stride in zip(maps.items(), pyramid.strides, strict=True):
        expected = (math.ceil(height / stride), math.ceil(width / stride))
        assert one.shape == (2, 16, *expected), name
        assert height / stride == expected[0]
    sum(one.sum() for one in maps.values()).backward()
    assert pyramid.layers.trunk.model.pos_embed.grad.abs().sum() > 0
    assert all(block.mlp.fc1.weight.grad is not None for block in pyramid.layers.trunk.model.blocks)


@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto", "efficientnet_lite0"])
def test_pyramids_of_stages(name):
    backbone = load_backbone(f"random:{name}")
    layers = trained_layers(backbone, "fpn", 0.0)
    assert layers.strides == (4, 8, 16, 32) and layers.depth == 0
    pyramid = Pyramid(layers, False, 16).train()
    maps = pyramid(torch.randn(1, 3, 64, 96))
    assert [tuple(one.shape[2:]) for one in maps.values()] == [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)]
    norms = [module for module in layers.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert all(not norm.training and not norm.weight.requires_grad for norm in norms)


def test_grids_come_from_the_blocks_before_the_final_norm():
    backbone = small_vit(8, depth=12, dim=16)
    torch.nn.init.constant_(backbone.trunk.model.norm.weight, 100.0)
    layers = trained_layers(backbone, "fpn", 0.0).eval()
    images = torch.randn(1, 3, 64, 64)
    found = layers(images)
    model = backbone.trunk.model
    tokens, wanted = model._pos_embed(model.patch_embed(images)), {}
    for number, block in enumerate(model.blocks):
        wanted[number] = tokens = block(tokens)
    for grid, number in zip(found, (3, 5, 7, 11), strict=True):
        torch.testing.assert_close(grid.flatten(2).mT, wanted[number][:, 1:], atol=1e-5, rtol=1e-4)
    assert backbone.trunk.normed  # the backbone itself is as it was


def test_blocks_are_evenly_spaced():
    assert evenly(12) == [3, 5, 7, 11] and evenly(24) == [7, 11, 15, 23]
    assert [evenly(depth)[-1] for depth in (1, 2, 3, 40)] == [0, 1, 2, 39]


def test_layers_that_a_pyramid_can_be_built_on():
    def named(layer, kind):
        backbone = load_backbone("random:test_vit", layer=layer)
        return trained_layers(backbone, kind, 0.0).trunk.layers

    assert named("0,1,3,5", "fpn") == [0, 1, 3, 5] and named("4", "simple") == [4]
    for layer, kind, message in (
        ("2,5", "fpn", "takes 4 of"),
        ("2,5", "simple", "takes 1 of"),
        ("key", "simple", "built on blocks"),
        ("attention", "simple", "--layer attention: a detector is built on blocks"),
    ):
        with pytest.raises(UserError, match=message):
            named(layer, kind)
    with pytest.raises(UserError, match="no weights to fine-tune"):
        trained_layers(load_backbone("pixels:16"), "simple", 0.0)


def test_backbones_of_other_sources_take_the_simple_pyramid():
    trunk = torch.nn.Conv2d(3, 24, 16, 16)
    backbone = Backbone(trunk, BackboneInfo("mine", "conv", 24, 16), "digest")
    maps = Pyramid(trained_layers(backbone, "simple", 0.0), True, 16)(torch.randn(1, 3, 64, 64))
    assert [one.shape[2] for one in maps.values()] == [16, 8, 4, 2, 1]
    with pytest.raises(UserError, match="use --pyramid simple"):
        trained_layers(backbone, "fpn", 0.0)


def test_octaves():
    assert [octaves(16, level) for level in (4, 8, 16, 32)] == [2, 1, 0, -1]
    assert [octaves(14, level) for level in (4, 8, 16, 32)] == [2, 1, 0, -1]
    assert [octaves(8, level) for level in (4, 8, 16, 32)] == [1, 0, -1, -2]


def test_stochastic_depth_rises_from_block_to_block_in_both_branches():
    blocks = trained_layers(small_vit(8, depth=3), "simple", 0.3).trunk.model.blocks
    assert [round(block.drop_path1.drop_prob, 3) for block in blocks] == [0, 0.15, 0.3]
    assert [round(block.drop_path2.drop_prob, 3) for block in blocks] == [0, 0.15, 0.3]
    kept = small_vit(8).trunk.model.blocks
    assert not any(isinstance(module, type(blocks[0].drop_path1)) for block in kept for module in block.children())


def test_anchors_lie_at_exact_strides_in_full_precision():
    anchors = Anchors((3.5, 7.0, 14.0, 28.0, 56.0))
    images = ImageList(torch.zeros(2, 3, 112, 168), [(100, 160), (112, 168)])
    maps = [torch.zeros(2, 4, 112 * 2 // int(2 * s), 168 * 2 // int(2 * s), dtype=torch.bfloat16) for s in anchors.strides]
    found = anchors(images, maps)
    assert len(found) == 2 and found[0].dtype == torch.float32
    centres = (found[0][:, :2] + found[0][:, 2:]) / 2
    first = centres[: 32 * 48 * 3].view(32, 48, 3, 2)
    assert first[5, 7, 0].tolist() == [24.5, 17.5] and first[31, 47, 2].tolist() == [164.5, 108.5]
    last = found[0][-1]
    assert ((last[:2] + last[2:]) / 2).tolist() == [112, 56]
    areas = (found[0][:3, 2:] - found[0][:3, :2]).prod(1).sqrt()
    assert torch.allclose(areas, torch.full((3,), 32.0), atol=1)


def test_regions_are_pooled_on_their_level_at_its_exact_stride():
    strides = (3.5, 7.0, 14.0, 28.0, 56.0)
    pool = Pooling(7, strides)
    maps = {str(level): torch.randn(2, 3, round(448 / s), round(448 / s)) for level, s in enumerate(strides[:4])}
    boxes = [torch.tensor([[10.0, 20, 60, 90], [0, 0, 440, 440]]), torch.tensor([[0.0, 0, 200, 150], [30, 30, 260, 260]])]
    found = pool({**maps, "pool": torch.zeros(2, 3, 8, 8)}, boxes, [(448, 448)] * 2)
    # square roots of areas: 59 -> level 0 (below 112), 440 -> level 2 (224 to 448), 173 -> level 1, 230 -> level 2
    for place, (image, box, level) in enumerate(((0, 0, 0), (0, 1, 2), (1, 0, 1), (1, 1, 2))):
        own = roi_align(
            maps[str(level)][image : image + 1], [boxes[image][box : box + 1]], 7, 1 / strides[level], 0, aligned=True
        )
        torch.testing.assert_close(found[place], own[0])


def test_heads_answer_in_full_precision():
    class Half(torch.nn.Module):
        def forward(self, x):
            return [x.bfloat16()], (x.half(), x)

    (one,), (two, three) = InFloat(Half())(torch.zeros(2))
    assert {one.dtype, two.dtype, three.dtype} == {torch.float32}


@pytest.mark.parametrize(("patch", "given"), [(14, {}), (8, {"pyramid": "simple", "heads": "normed", "model": "faster-rcnn"})])
def test_a_detector_learns_and_looks(patch, given):
    detector = build(small_vit(patch, dim=16), 2, options_of(width=8, **given))
    masks = torch.zeros(1, 70, 90, dtype=torch.uint8)
    masks[0, 10:50, 20:60] = 1
    truth = {"boxes": torch.tensor([[20.0, 10, 60, 50]]), "labels": torch.tensor([2]), "masks": masks}
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long(), "masks": masks[:0]}
    losses = detector.train()([torch.rand(3, 70, 90)] * 2, [truth, nothing])
    assert ("loss_mask" in losses) is ("model" not in given)
    assert all(bool(loss.isfinite()) for loss in losses.values())
    sum(losses.values()).backward()
    assert detector.backbone.layers.trunk.model.patch_embed.proj.weight.grad.abs().sum() > 0
    with torch.inference_mode():
        found = detector.eval()([torch.rand(3, 70, 90)])[0]
    assert found["boxes"].shape[1] == 4 and float(found["boxes"].max()) <= 90 and set(found["labels"].tolist()) <= {1, 2}


def test_images_are_padded_to_the_stride_or_with_jitter_to_a_square():
    plain, square = (
        build(small_vit(14), 2, options_of(augmentation=kind, short_side=100, long_side=100)) for kind in ("flip", "lsj")
    )
    image = torch.rand(3, 60, 40)
    assert plain.train().transform([image], None)[0].tensors.shape[2:] == (84, 56)
    assert square.train().transform([image], None)[0].tensors.shape[2:] == (112, 112)
    looked = plain.eval().transform([image], None)[0]  # nothing is resized here
    assert looked.image_sizes == [(60, 40)] and looked.tensors.shape[2:] == (84, 56)
    assert square.eval().transform([image], None)[0].tensors.shape[2:] == (112, 112)
    shown = plain.transform.normalize(torch.full((3, 2, 2), 0.75))
    assert torch.allclose(shown, torch.ones(3, 2, 2))


def test_the_first_weights_follow_from_the_seed_and_leave_the_backbone_alone():
    backbone = small_vit()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    one, two, other = (build(backbone, 2, options_of(train_seed=seed)) for seed in (0, 0, 1))
    pairs = list(zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(one.roi_heads.box_head.fc6.weight, other.roi_heads.box_head.fc6.weight)
    with torch.no_grad():
        one.backbone.layers.trunk.model.pos_embed.add_(1)
    assert all(torch.equal(before[name], value) for name, value in backbone.state_dict().items())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


# Optimisation


def test_learning_rates_fall_layer_by_layer_and_norms_keep_their_weight():
    detector = build(small_vit(depth=3), 2, options_of())
    found = groups(detector, 3, weight_decay=0.1, layer_decay=0.5)
    names = {id(parameter): name for name, parameter in detector.named_parameters()}
    by_name = {names[id(p)]: (group["scale"], group["weight_decay"]) for group in found for p in group["params"]}
    assert set(by_name) == {name for name, parameter in detector.named_parameters() if parameter.requires_grad}
    trunk = "backbone.layers.trunk.model."
    assert by_name[trunk + "pos_embed"] == (0.5**4, 0.0) and by_name[trunk + "cls_token"] == (0.5**4, 0.0)
    assert by_name[trunk + "patch_embed.proj.weight"] == (0.5**4, 0.1)
    for block in range(3):
        assert by_name[f"{trunk}blocks.{block}.mlp.fc1.weight"] == (0.5 ** (3 - block), 0.1)
        assert by_name[f"{trunk}blocks.{block}.norm1.weight"] == (0.5 ** (3 - block), 0.0)
    assert by_name[trunk + "norm.weight"] == (1.0, 0.0)
    assert by_name["backbone.levels.0.0.weight"] == by_name["roi_heads.box_head.fc6.bias"] == (1.0, 0.1)
    assert {scale for scale, _ in by_name.values()} == {0.5**4, 0.5**3, 0.5**2, 0.5, 1.0}
    assert {group["scale"] for group in groups(detector, 3, 0.1, 1.0)} == {1.0}


def test_layer_decay_takes_a_row_of_blocks():
    with pytest.raises(UserError, match="--layer-decay 0.7: random:resnet10t is not a row of blocks"):
        build(load_backbone("random:resnet10t"), 2, options_of(layer_decay=0.7))


def test_the_learning_rate_over_a_run():
    rates = [rate_at(i, 87_960, 1000, (8 / 12, 11 / 12)) for i in (0, 500, 999, 1000, 58_639, 58_640, 80_629, 80_630, 87_959)]
    wanted = [0.001, 0.5005, 0.999001, 1, 1, 0.1, 0.1, 0.01, 0.01]
    assert rates == pytest.approx(wanted)


def test_warm_up_takes_a_tenth_of_a_short_run_at_most():
    assert [rate_at(i, 50, 1000, ()) for i in (0, 4, 5, 49)] == pytest.approx([0.001, 0.8002, 1, 1])
    assert rate_at(0, 5, 1000, ()) == 1 and rate_at(0, 50, 0, ()) == 1
