"""`--layer raw`: the last block of a ViT before the final norm, which numbers of blocks pass too."""

from __future__ import annotations

import pytest
import torch

from densebench.backbones.loading import load_backbone
from densebench.errors import UserError

SPEC = "random:vit_tiny_patch16_224"


def features(layer):
    backbone = load_backbone(SPEC, layer=layer)
    torch.nn.init.uniform_(backbone.trunk.model.norm.weight, 1, 2)
    images = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return backbone(images), backbone.trunk.model.norm


def test_the_norm_of_the_raw_layer_is_the_last_layer():
    torch.manual_seed(0)
    raw, _ = features("raw")
    torch.manual_seed(0)
    last, norm = features("last")
    assert raw.shape == last.shape == (2, 192, 2, 3)
    with torch.inference_mode():
        assert norm(raw.movedim(1, -1)).movedim(-1, 1) == pytest.approx(last, abs=1e-5)
    assert not torch.allclose(raw, last, atol=0.1)


def test_the_number_of_the_last_block_passes_the_norm():
    assert torch.equal(*(load_backbone(SPEC, layer=layer)(torch.ones(1, 3, 32, 32)) for layer in ("11", "last")))


def test_the_raw_layer_is_a_backbone_of_its_own():
    assert load_backbone(SPEC, layer="raw").identity != load_backbone(SPEC, layer="last").identity


def test_models_without_a_final_norm_have_no_raw_layer():
    with pytest.raises(UserError, match="--layer raw: no final norm follows the blocks of this model; use --layer last"):
        load_backbone("random:tf_efficientnet_lite0", layer="raw")
