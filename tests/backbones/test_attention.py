"""Attention of the class token in the last block: against a loop, for several models, and the models that have none."""

from __future__ import annotations

import pytest
import torch

from densebench.backbones.backbone import Backbone, BackboneInfo
from densebench.backbones.inside import class_attention, has_class_attention
from densebench.backbones.loading import load_backbone
from densebench.backbones.timm_models import attention_of, make_trunk
from densebench.errors import UserError
from densebench.torchvision_ops import make_importable

HEADS, DEPTH, DIM, PATCH = 3, 3, 24, 8


KINDS = {
    "plain": {},
    "registers": {"reg_tokens": 4, "no_embed_class": True},
    "normalised": {"qk_norm": True},
    "no bias": {"qkv_bias": False},
    "layer scale": {"init_values": 0.1, "reg_tokens": 2},
}


def small_vit(convention="offset", **more):
    """A small ViT whose attention is far from even."""
    make_importable()
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(1)
    sizes = {"img_size": 32, "patch_size": PATCH, "embed_dim": DIM, "depth": DEPTH, "num_heads": HEADS, "num_classes": 0}
    model = VisionTransformer(**sizes, **more)
    for name, parameter in model.named_parameters():
        if "gamma" not in name:
            torch.nn.init.normal_(parameter, 1.5 if "q_norm" in name or "k_norm" in name else 0.3 if "norm" in name else 0.0, 0.4)
    facts = BackboneInfo("small", "small", DIM, PATCH, pos_embed=convention)
    return Backbone(make_trunk(model.eval(), "last", convention), facts, "digest of the weights")


def images(count=3, height=32, width=32):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(height + width))


def naive_attention(backbone, batch):
    """What the class token attends to in the last block: recomputed in float64, head by head, from the attention's input."""
    seen, attention = [], backbone.trunk.model.blocks[-1].attn
    hook = attention.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        backbone(batch)
    hook.remove()
    tokens, state = seen[0].double(), {name: value.double() for name, value in attention.state_dict().items()}
    width = tokens.shape[2] // attention.num_heads

    def projected(part, head):
        rows = slice((part * attention.num_heads + head) * width, (part * attention.num_heads + head + 1) * width)
        found = tokens @ state["qkv.weight"][rows].T + (state["qkv.bias"][rows] if "qkv.bias" in state else 0)
        norm = ("q_norm", "k_norm")[part]
        if f"{norm}.weight" in state:
            spread = torch.sqrt(found.var(-1, keepdim=True, unbiased=False) + getattr(attention, norm).eps)
            found = (found - found.mean(-1, keepdim=True)) / spread * state[f"{norm}.weight"] + state[f"{norm}.bias"]
        return found

    prefix = backbone.trunk.model.num_prefix_tokens
    grid = (batch.shape[2] // backbone.stride, batch.shape[3] // backbone.stride)
    result = torch.zeros(len(batch), attention.num_heads, *grid, dtype=torch.float64)
    for head in range(attention.num_heads):
        query, key = projected(0, head), projected(1, head)
        for n in range(len(batch)):
            weights = torch.exp(key[n] @ query[n, 0] / width**0.5)
            result[n, head] = (weights / weights.sum())[prefix:].view(grid)
    return result


@pytest.mark.parametrize("side", [(32, 32), (24, 40)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_attention_is_that_of_the_class_token_in_the_last_block(kind, side):
    backbone, batch = small_vit(**KINDS[kind]), images(3, *side)
    expected = naive_attention(backbone, batch)
    found = attention_of(backbone)(batch)
    assert found.shape == (3, HEADS, side[0] // PATCH, side[1] // PATCH)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-7)
    assert float(expected.std()) > 0.3 * float(expected.mean())
    sums = found.flatten(2).sum(2)
    assert (sums > 0).all()
    assert (sums < 1).all()  # the rest went to the class token and the registers


def test_attention_is_a_layer_of_a_loaded_backbone():
    name = "random:vit_tiny_patch16_224"
    backbone, attention = (load_backbone(name, layer=layer, pos_embed="plain") for layer in ("last", "attention"))
    batch = images(2, 64, 48)
    found = attention(batch)
    assert found.shape == (2, 3, 4, 3)
    torch.testing.assert_close(found.double(), naive_attention(backbone, batch), rtol=1e-4, atol=1e-8)
    own = attention_of(backbone)
    assert torch.equal(own(batch), found)
    assert own.digest == attention.digest == backbone.digest
    assert (own.layer, own.dim, own.stride, own.mean, own.std) == ("attention", 3, 16, backbone.mean, backbone.std)
    assert own.identity() == attention.identity() != backbone.identity()
    assert own.pos_embed == "plain"


@pytest.mark.parametrize("kind", KINDS)
def test_attention_for_pictures_is_the_same(kind):
    backbone, batch = small_vit(**KINDS[kind]), images(2, 24, 40)
    assert has_class_attention(backbone)
    torch.testing.assert_close(class_attention(backbone, batch).double(), naive_attention(backbone, batch), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("registers", [0, 4])
def test_a_vit_without_a_class_token_has_no_such_attention(registers):
    backbone = small_vit(class_token=False, global_pool="avg", reg_tokens=registers, no_embed_class=bool(registers))
    assert not has_class_attention(backbone)
    with pytest.raises(UserError, match="small has no class token whose attention could be read"):
        class_attention(backbone, images())


def test_the_layer_that_a_backbone_gives_does_not_matter():
    layers = ("last", "0", "key", "attention")
    found = [attention_of(load_backbone("random:vit_tiny_patch16_224", layer=one))(images(1, 48, 48)) for one in layers]
    assert all(torch.equal(one, found[0]) for one in found)


def test_the_convention_of_positions_is_kept():
    batch = images(2, 24, 40)
    found = {how: attention_of(small_vit(how))(batch) for how in ("antialias", "plain", "offset")}
    for how, attention in found.items():
        torch.testing.assert_close(attention.double(), naive_attention(small_vit(how), batch), rtol=1e-4, atol=1e-7)
    assert not torch.allclose(found["plain"], found["offset"], rtol=1e-3)


def test_attention_leaves_the_model_and_other_images_alone():
    backbone, batch = small_vit(reg_tokens=4), images(4)
    before, state = backbone(batch), {name: value.clone() for name, value in backbone.state_dict().items()}
    attention = attention_of(backbone)
    together = attention(batch)
    for n in range(len(batch)):
        torch.testing.assert_close(attention(batch[n : n + 1])[0], together[n], rtol=1e-5, atol=1e-7)
    assert torch.equal(backbone(batch), before)
    assert all(torch.equal(state[name], value) for name, value in backbone.state_dict().items())
    assert (backbone.layer, backbone.dim) == ("last", DIM)
    modules = list(backbone.modules()) + list(attention.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks or module.training for module in modules)
    with pytest.raises(UserError, match="30 px"):
        attention(images(1, 30, 32))


ODD = ["pixels:16", "random:tf_efficientnet_lite0", "random:vit_little_patch16_reg4_gap_256"]
MORE = [
    "resnet10t",
    "vit_small_patch16_dinov3",
    "vit_small_patch16_18x2_224",
    "eva02_tiny_patch14_224",
    "swin_tiny_patch4_window7_224",
]


@pytest.mark.parametrize("name", [*ODD, *(pytest.param(f"random:{name}", marks=pytest.mark.slow) for name in MORE)])
def test_models_without_such_attention_are_refused(name):
    backbone = load_backbone(name)
    with pytest.raises(UserError, match="--attention-from"):
        attention_of(backbone)
    with pytest.raises(UserError, match="--layer attention"):
        load_backbone(name, layer="attention")
    with pytest.raises(UserError, match=f"{name} has no class token whose attention could be read"):
        class_attention(backbone, images(1))
    assert not has_class_attention(backbone)
