"""Real weights load whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from densebench.backbones.backbone import IMAGENET_MEAN, IMAGENET_STD
from densebench.backbones.loading import load_backbone


def test_real_weights_load_whole(shared_data, capsys):
    folder = shared_data / "weights"
    vit = load_backbone("timm:vit_small_patch14_dinov2", weights=folder / "vit_small_patch14_dinov2_imgfocus.fp16.safetensors")
    assert (vit.dim, vit.stride, vit.pos_embed) == (384, 14, "plain")
    assert "174 tensors loaded, 0 of heads dropped, 0 unexpected" in capsys.readouterr().err
    with torch.inference_mode():
        assert vit(torch.zeros(1, 3, 56, 84)).shape == (1, 384, 4, 6)
    net = load_backbone("timm:tf_efficientnet_lite0", weights=folder / "tf_efficientnet_lite0_in1k.fp16.safetensors", layer="3")
    assert (net.dim, net.stride, net.pos_embed) == (112, 16, "none")


@pytest.mark.slow
def test_conventions_change_real_features_as_much_as_its_readme_says(shared_data):
    """At 224 px: cosine of single tokens down to about 0.97 between plain and antialiased, far closer with the offset."""
    path = shared_data / "weights" / "vit_small_patch14_dinov2_imgfocus.fp16.safetensors"
    photo = Image.open(next(iter(sorted((shared_data / "CamVid").rglob("*.png"))))).convert("RGB").resize((224, 224))
    pixels = (torch.from_numpy(np.array(photo)).float() / 255 - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
    with torch.inference_mode():
        plain, antialias, offset = (
            load_backbone("timm:vit_small_patch14_dinov2", weights=path, pos_embed=how)(pixels.permute(2, 0, 1)[None])
            for how in ("plain", "antialias", "offset")
        )
    assert 0.95 < torch.cosine_similarity(plain, antialias, dim=1).min() < 0.997
    assert torch.cosine_similarity(plain, offset, dim=1).min() > 0.998


class Turned(torch.nn.Module):
    """The tokens of a trained ViT column by column, with the class token behind them."""

    def __init__(self, vit):
        super().__init__()
        self.vit, self.patch_size = vit, 14

    def forward(self, images):
        tokens = self.vit.forward_features(images)
        rows, columns = images.shape[2] // 14, images.shape[3] // 14
        patches = tokens[:, 1:].unflatten(1, (rows, columns)).transpose(1, 2).flatten(1, 2)
        return torch.cat([patches, tokens[:, :1]], dim=1)


def test_where_the_tokens_of_a_trained_vit_lie_is_seen(shared_data):
    path = shared_data / "weights" / "vit_small_patch14_dinov2_imgfocus.fp16.safetensors"
    spec = load_backbone("timm:vit_small_patch14_dinov2", weights=path, pos_embed="antialias")
    vit = spec.trunk.model
    vit.dynamic_img_size, vit.patch_embed.flatten = True, False  # its own forward resizes the table then
    vit.patch_embed.output_fmt = "NHWC"
    backbone = load_backbone(Turned(vit))
    assert "1 comes after the patches, column by column" in backbone.identity()["recognised"]
