"""Backbones of timm: shapes, geometry, layers, sizes, seeds."""

from __future__ import annotations

import pytest
import torch
from tiers import late

from densebench.backbones.loading import load_backbone
from densebench.errors import UserError

FAMILIES = {
    "vit_tiny_patch16_224": (192, 16, "antialias"),
    "vit_small_patch14_reg4_dinov2": (384, 14, "antialias"),
    "eva02_tiny_patch14_224": (192, 14, "antialias"),
    "vit_small_patch16_dinov3": (384, 16, "none"),
    "swin_tiny_patch4_window7_224": (768, 32, "none"),
    "convnext_atto": (320, 32, "none"),
    "resnet10t": (512, 32, "none"),
    "tf_efficientnet_lite0": (320, 32, "none"),
}


def images(height, width, count=1, seed=0):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def vit():
    return load_backbone("random:vit_tiny_patch16_224")


@pytest.mark.parametrize("name", late(FAMILIES, "vit_tiny_patch16_224", "tf_efficientnet_lite0", "convnext_atto"))
def test_families_give_a_grid_in_the_images_own_geometry(name):
    backbone = load_backbone(f"random:{name}")
    dim, stride, pos_embed = FAMILIES[name]
    assert (backbone.dim, backbone.stride, backbone.pos_embed) == (dim, stride, pos_embed)
    assert not backbone.training
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    height, width = 6 * stride, 9 * stride
    pair = images(height, width, 2)
    with torch.inference_mode():
        grid = backbone(pair)
        assert grid.shape == (2, dim, 6, 9)
        assert torch.isfinite(grid).all()
        torch.testing.assert_close(backbone(pair[:1]), grid[:1], atol=2e-4, rtol=2e-3)  # no image sees its batch-mates
        changed = pair[:1].clone()
        changed[:, :, :stride, -stride:] += 3  # the patch at the top right
        moved = (backbone(changed) - grid[:1]).norm(dim=1)[0]
    row, column = divmod(int(moved.argmax()), 9)  # borders may push the greatest change one cell inwards
    assert row <= 1
    assert column >= 7


def test_identity_is_json_and_tells_seeds_apart(vit):
    again, other = load_backbone("random:vit_tiny_patch16_224"), load_backbone("random:vit_tiny_patch16_224", seed=1)
    assert vit.identity() == again.identity()
    assert vit.digest != other.digest
    assert {"spec", "arch", "dim", "stride", "params", "digest", "layer", "pos_embed"} <= set(vit.identity())
    assert {"kind", "mean", "std", "code"} <= set(vit.identity())
    assert vit.params == 5_524_416


def test_random_weights_leave_the_global_generator_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    load_backbone("random:vit_tiny_patch16_224")
    assert torch.equal(torch.rand(3), expected)


def test_conventions_change_features_at_another_grid_only():
    found = {how: load_backbone("random:vit_tiny_patch16_224", pos_embed=how) for how in ("antialias", "plain", "offset")}
    with torch.inference_mode():
        native = [backbone(images(224, 224)) for backbone in found.values()]
        other = [backbone(images(96, 144)) for backbone in found.values()]
    assert all(torch.equal(grid, native[0]) for grid in native)
    assert not torch.allclose(other[0], other[1], atol=1e-5)
    assert not torch.allclose(other[1], other[2], atol=1e-6)


def test_antialias_is_what_timm_does_by_itself(vit):
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model("vit_tiny_patch16_224", num_classes=0, dynamic_img_size=True).eval()
    image = images(96, 144)
    with torch.inference_mode():
        tokens = model.forward_features(image)[:, 1:]
        torch.testing.assert_close(vit(image), tokens.transpose(1, 2).reshape(1, 192, 6, 9))


def test_layers_are_concatenated_in_the_order_asked_for(vit):
    single = {layer: load_backbone("random:vit_tiny_patch16_224", layer=layer) for layer in ("2", "9", "11", "9,2")}
    image = images(64, 96)
    with torch.inference_mode():
        grids = {layer: backbone(image) for layer, backbone in single.items()}
        assert torch.equal(grids["11"], vit(image))
        assert torch.equal(grids["9,2"], torch.cat([grids["9"], grids["2"]], dim=1))
    assert single["9,2"].dim == 384


@pytest.mark.parametrize(("layer", "part"), [("query", 0), ("key", 1), ("value", 2)])
def test_projections_equal_a_recomputation(vit, layer, part):
    backbone = load_backbone("random:vit_tiny_patch16_224", layer=layer)
    image = images(224, 224)
    model = backbone.trunk.model
    with torch.inference_mode():
        tokens = model._pos_embed(model.patch_embed(image))
        for block in model.blocks[:-1]:
            tokens = block(tokens)
        last = model.blocks[-1]
        projected = torch.nn.functional.linear(last.norm1(tokens), last.attn.qkv.weight, last.attn.qkv.bias)
        expected = projected[:, 1:, 192 * part : 192 * (part + 1)].transpose(1, 2).reshape(1, 192, 14, 14)
        torch.testing.assert_close(backbone(image), expected)


def test_stages_of_convolutional_nets():
    backbone = load_backbone("random:tf_efficientnet_lite0", layer="3")
    assert (backbone.dim, backbone.stride) == (112, 16)
    with pytest.raises(UserError, match="stages of different strides cannot be concatenated"):
        load_backbone("random:tf_efficientnet_lite0", layer="2,3")


def test_sizes_that_do_not_fit_name_the_nearest_two(vit):
    with pytest.raises(UserError, match="100 px does not fit random:vit_tiny_patch16_224, whose stride is 16: use 96 or 112"):
        vit.check_size(224, 100)
    with pytest.raises(UserError, match="5 px .* use 16"):
        vit(images(5, 16))
