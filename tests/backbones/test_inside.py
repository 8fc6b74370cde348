"""What happens inside a ViT: patches after some blocks, the attention of patches, and how similar patches are to all others."""

from __future__ import annotations

import math

import pytest
import torch

from densebench.backbones.backbone import Backbone, BackboneInfo
from densebench.backbones.inside import patch_attention, patches_after, similarity_sums, spread
from densebench.backbones.loading import load_backbone
from densebench.backbones.timm_models import make_trunk
from densebench.errors import UserError
from densebench.torchvision_ops import make_importable

IMAGES = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(3))


@pytest.fixture(
    params=[{}, {"reg_tokens": 3, "no_embed_class": True}, {"class_token": False, "global_pool": "avg"}, {"qk_norm": True}]
)
def backbone(request):
    make_importable()
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(1)
    model = VisionTransformer(img_size=32, patch_size=16, embed_dim=24, depth=3, num_heads=3, num_classes=0, **request.param)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.4)
    return Backbone(make_trunk(model.eval(), "last", "antialias"), BackboneInfo("small", "small", 24, 16), "digest")


def test_patches_after_all_blocks_are_the_features_before_the_last_norm(backbone):
    [last] = patches_after(backbone, IMAGES, [3])
    with torch.no_grad():
        features = backbone(IMAGES).flatten(2).transpose(1, 2)
        torch.testing.assert_close(backbone.trunk.model.norm(last), features)


def test_patches_before_all_blocks_are_the_projected_pixels(backbone):
    first, after_one = patches_after(backbone, IMAGES, [0, 1])
    weights = backbone.trunk.model.patch_embed.proj
    tile = IMAGES[1, :, 16:32, 32:48]  # the last patch
    expected = ((weights.weight * tile).sum((1, 2, 3)) + weights.bias).detach()
    torch.testing.assert_close(first[1, 5], expected)
    assert first.shape == after_one.shape == (2, 6, 24)
    assert not torch.allclose(first, after_one)


def test_attention_of_patches_equals_a_loop(backbone):
    attention, prefix, seen = backbone.trunk.model.blocks[-1].attn, backbone.trunk.model.num_prefix_tokens, []
    hook = attention.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    found = patch_attention(backbone, IMAGES, torch.tensor([4, 1]))
    hook.remove()
    tokens = attention.qkv(seen[0]).view(2, -1, 3, 3, 8)
    for image in range(2):
        for place, query in enumerate((4, 1)):
            total = torch.zeros(6)
            for head in range(3):
                q = attention.q_norm(tokens[image, prefix + query, 0, head])
                logits = torch.stack([q @ attention.k_norm(token) / math.sqrt(8) for token in tokens[image, :, 1, head]])
                total += logits.softmax(0)[prefix:] / 3
            torch.testing.assert_close(found[image, place], total.detach().view(2, 3))


def test_blocks_are_spread_from_none_to_all(backbone):
    assert spread(backbone) == [0, 1, 2, 3]  # half of three rounds to two
    assert spread(backbone, 2) == [0, 3]


def test_more_blocks_than_there_are_give_a_line(backbone):
    with pytest.raises(UserError, match=r"layers: 4; .* has 3 blocks"):
        patches_after(backbone, IMAGES, [0, 4])


def test_another_model_gives_a_line():
    with pytest.raises(UserError, match="is no ViT whose blocks can be looked into"):
        spread(load_backbone("pixels:8"))


def test_similarities_are_cosines_summed_over_all_patches():
    patches = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    cosines = [[float(torch.nn.functional.cosine_similarity(a, b, dim=0)) for b in patches] for a in patches]
    sums = torch.tensor([sum(each) for each in cosines])
    torch.testing.assert_close(similarity_sums(patches), sums / sums.max())
