"""Families of timm beside the usual ones: their patch features, or one line that says why there are none."""

from __future__ import annotations

import pytest
import torch

from densebench.backbones.loading import load_backbone
from densebench.backbones.timm_models import create, probe
from densebench.errors import UserError


def images(height, width, seed=0):
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def hiera():
    return load_backbone("random:hiera_tiny_224")


def test_hiera_gives_the_grid_of_its_last_stage(hiera):
    assert (hiera.dim, hiera.stride) == (768, 32)
    with torch.inference_mode():
        assert hiera(images(224, 224)).shape == (1, 768, 7, 7)


def test_features_of_hiera_are_those_of_timm(hiera):
    """Tokens before the head, which is where the only norm is: their mean over patches does not depend on their order."""
    with torch.inference_mode():
        grid, tokens = hiera(images(224, 224)), hiera.trunk.model.forward_features(images(224, 224))
    torch.testing.assert_close(grid.mean((2, 3)), tokens.mean(1), atol=1e-5, rtol=1e-4)
    assert tokens.shape[1] == 49


def test_a_patch_of_hiera_lies_where_its_pixels_are(hiera):
    changed = images(224, 224)
    changed[:, :, 64:96, 128:160] += 3  # row 2, column 4
    with torch.inference_mode():
        moved = (hiera(changed) - hiera(images(224, 224))).norm(dim=1)[0]
    assert divmod(int(moved.argmax()), 7) == (2, 4)


@pytest.mark.slow
def test_stages_of_hiera_are_layers():
    assert load_backbone("random:hiera_tiny_224", layer="2").stride == 16


@pytest.mark.parametrize(("name", "own", "other"), [("hiera_tiny_224", 224, 512), ("test_vit_relpos", 160, 224)])
def test_a_size_that_a_model_cannot_take_is_one_line_with_its_own_size(name, own, other):
    with pytest.raises(UserError) as caught, torch.inference_mode():
        load_backbone(f"random:{name}")(images(other, other))
    said = str(caught.value)
    assert f"{name} takes no images of {other} x {other} px" in said and f"use --image-size {own}" in said
    assert "\n" not in said


def test_an_error_that_is_not_of_the_size_stays_what_it_is(hiera, monkeypatch):
    def broken(*_arguments, **_more):
        raise RuntimeError("a slip of ours")

    monkeypatch.setattr(hiera.trunk.model, "forward_intermediates", broken)
    with pytest.raises(RuntimeError, match="a slip of ours"):
        hiera(images(448, 448))


def test_a_model_whose_cells_do_not_tile_its_image_is_refused():
    """levit halves 7 cells to 4."""
    with pytest.raises(UserError, match=r"levit_128s gives no patch features of 192 x 192 px .*; use another backbone"):
        load_backbone("random:levit_128s")


@pytest.mark.slow
def test_a_model_that_resizes_images_itself_is_refused():
    """crossvit: one grid whatever the image, so that patches would be taken for others."""
    backbone = load_backbone("random:crossvit_tiny_240")
    with pytest.raises(UserError, match=r"patches do not lie on a grid over such images"), torch.inference_mode():
        backbone(images(10 * backbone.stride, 10 * backbone.stride))


def test_a_vit_on_convolutions_has_the_stride_of_both():
    backbone = load_backbone("random:vit_tiny_r_s16_p8_224")
    with torch.inference_mode():
        assert (backbone.stride, tuple(backbone(images(64, 96)).shape)) == (32, (1, 192, 2, 3))


@pytest.mark.parametrize("name", ["test_vit.x", "test_vit.r160_in1", "vit_tiny_patch16_224.nothing"])
def test_a_tag_that_timm_does_not_have_is_one_line_with_those_that_it_has(name):
    with pytest.raises(UserError) as caught:
        load_backbone(f"random:{name}")
    arch = name.partition(".")[0]
    assert f"unknown timm model {name!r}" in str(caught.value) and f"{arch} goes without a tag or as {arch}." in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_tag_that_timm_has_is_taken():
    assert create("test_vit.r160_in1k", probe("test_vit.r160_in1k")).num_features == 64


SMALLEST = {
    "byoanet": "eca_botnext26ts_256", "cait": "cait_xxs24_224", "convit": "convit_tiny", "edgenext": "edgenext_xx_small",
    "efficientformer_v2": "efficientformerv2_s0", "fastvit": "fastvit_t8", "gcvit": "gcvit_xxtiny", "hieradet": "sam2_hiera_tiny",
    "inception_v3": "inception_v3", "levit": "levit_128", "maxxvit": "test_coatnet", "mvitv2": "mvitv2_tiny",
    "nest": "nest_tiny", "pit": "pit_ti_224", "sequencer": "sequencer2d_s", "tnt": "tnt_s_legacy_patch16_224",
    "visformer": "visformer_tiny", "vitamin": "vitamin_small_224", "volo": "volo_d1_224", "xception": "legacy_xception",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("family", list(SMALLEST))
def test_a_family_gives_a_grid_or_says_in_one_line_that_it_does_not(family):
    try:
        backbone = load_backbone(f"random:{SMALLEST[family]}")
        for side in (224, 256, 448):
            side -= side % backbone.stride
            with torch.inference_mode():
                grid = backbone(images(side, side))
            assert grid.shape == (1, backbone.dim, side // backbone.stride, side // backbone.stride)
    except UserError as error:
        assert "\n" not in str(error)
