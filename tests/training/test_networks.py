"""The encoder of student and teacher: its tokens against timm's own forward pass, attention with registers, fixed positions."""

from __future__ import annotations

import pytest
import torch

from densebench.errors import UserError
from densebench.training.networks import class_attention, create_encoder, create_patch_encoder, sincos_positions

REGISTERS = "vit_small_patch14_reg4_dinov2"


@pytest.fixture(scope="module")
def registered():
    torch.manual_seed(0)
    encoder = create_encoder(REGISTERS, 56, 0.0).eval()
    encoder.model.blocks = encoder.model.blocks[:2]
    return encoder


def pixels(size=56, count=2):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def test_tokens_are_those_of_timm(registered):
    tokens = registered(pixels())
    whole = registered.model.forward_features(pixels())
    torch.testing.assert_close(tokens.image, whole[:, 0])
    torch.testing.assert_close(tokens.patches, whole[:, 5:])
    assert tokens.prefix == 5


def test_attention_of_the_class_token_counts_registers(registered):
    """Against the last block's own product, head by head: what registers take is missing from the patches."""
    tokens = registered(pixels(), qkv=True)
    x = registered.embed(pixels())
    x = registered.model.blocks[0](x)
    block = registered.model.blocks[1]
    query, key, _ = block.attn.qkv(block.norm1(x)).view(2, 21, 3, 6, 64).unbind(2)
    found = class_attention(tokens)
    for image in range(2):
        for head in range(6):
            logits = torch.stack([query[image, 0, head] @ key[image, token, head] for token in range(21)]) / 8
            torch.testing.assert_close(found[image, head], logits.softmax(0)[5:])
    assert (found.sum(dim=2) < 1).all()


def test_an_encoder_without_class_token_gives_the_mean_patch_as_image():
    encoder = create_patch_encoder("test_vit", 48, 0.0).eval()
    tokens = encoder(pixels(48))
    assert tokens.patches.shape == (2, 9, 64)
    torch.testing.assert_close(tokens.image, tokens.patches.mean(dim=1))
    assert torch.equal(encoder.model.pos_embed, sincos_positions(64, (3, 3)))
    assert not encoder.model.pos_embed.requires_grad
    assert encoder(pixels(80)).patches.shape == (2, 25, 64)


def test_positions_tell_patches_apart_and_others_are_the_same():
    """Equal patches: without positions all tokens would be equal."""
    encoder = create_patch_encoder("test_vit", 48, 0.0).eval()
    patches = encoder(torch.zeros(1, 3, 48, 48)).patches[0]
    assert torch.cdist(patches, patches).fill_diagonal_(9).min() > 1e-3
    encoder.model.pos_embed.zero_()
    patches = encoder(torch.zeros(1, 3, 48, 48)).patches[0]
    assert torch.cdist(patches, patches).max() < 1e-4


@pytest.mark.parametrize("create", [create_encoder, create_patch_encoder])
def test_what_is_no_plain_vit_is_refused(create):
    with pytest.raises(UserError, match=r"--arch resnet18 is no plain ViT.*; choose one such as"):
        create("resnet18", 64, 0.0)
    with pytest.raises(UserError, match="--image-size 50: the patches of test_vit have 16 px; use 48 or 64"):
        create("test_vit", 50, 0.0)
