"""What happens inside a ViT, for pictures: its patches after some blocks, and the attention of tokens in the last block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from densebench.backbones.backbone import Backbone
from densebench.backbones.timm_models import (
    TimmTrunk,
    attends,
    attention_of,
    attention_of_class_token,
    has_joint_projection,
    is_plain_vit,
)
from densebench.errors import UserError


def check_vit(backbone: Backbone) -> Any:
    """Return the ViT behind a backbone. Raises UserError for any other model."""
    model = getattr(backbone.network, "model", None)
    if model is None or not is_plain_vit(model) or not has_joint_projection(model):
        raise UserError(f"{backbone.info.name or backbone.spec} is no ViT whose blocks can be looked into")
    return model


def spread(backbone: Backbone, count: int = 5) -> list[int]:
    """Return numbers of blocks, evenly from none to all of them. Raises UserError for what is no ViT."""
    blocks = len(check_vit(backbone).blocks)
    return sorted({int(number) for number in np.linspace(0, blocks, count).round()})


def patches_after(
    backbone: Backbone, images: Float[Tensor, "b 3 h w"], blocks: Sequence[int]
) -> list[Float[Tensor, "b patches d"]]:
    """Return the patches of normalised images after so many blocks, each in the order of `blocks`; not normalised.

    0 is the projection of the pixels, before positions are added. Prefix tokens are left out. Raises UserError for a number of
    blocks that the model does not have, and for what is no ViT.
    """
    model = check_vit(backbone)
    for number in blocks:
        if number > len(model.blocks):
            raise UserError(f"layers: {number}; {backbone.info.name or backbone.spec} has {len(model.blocks)} blocks")
    modules = [model.blocks[number - 1] if number else model.patch_embed for number in blocks]
    found = _outputs(modules, lambda: backbone.coarse(images))
    prefix = model.num_prefix_tokens
    return [
        tokens[:, prefix:] if number else tokens.reshape(len(images), -1, tokens.shape[-1])
        for number, tokens in zip(blocks, found, strict=True)
    ]


def patch_attention(
    backbone: Backbone, images: Float[Tensor, "b 3 h w"], queries: Int[Tensor, " q"]
) -> Float[Tensor, "b q gh gw"]:
    """Return the attention of some patches to all patches in the last block: the mean over heads, softmax over all tokens.

    queries: indices of patches, row by row. Raises UserError for what is no ViT.
    """
    model = check_vit(backbone)
    attention, prefix = model.blocks[-1].attn, model.num_prefix_tokens
    [projected] = _outputs([attention.qkv], lambda: backbone.coarse(images))
    query, key, _ = projected.unflatten(2, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    query, key = attention.q_norm(query[:, :, prefix + queries]), attention.k_norm(key)
    weights = (query @ key.transpose(2, 3) * attention.scale).softmax(dim=3)
    grid = (images.shape[2] // backbone.multiple, images.shape[3] // backbone.multiple)
    return weights.mean(dim=1)[:, :, prefix:].unflatten(2, grid)


def has_class_attention(backbone: Backbone) -> bool:
    """Return whether `class_attention` can be read: the backbone is a ViT with a class token and a joint projection."""
    return isinstance(backbone.network, TimmTrunk) and attends(backbone.network.model)


def class_attention(backbone: Backbone, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b heads gh gw"]:
    """Return the attention of the class token to the patches of normalised images in the last block, by head.

    The softmax is over all tokens, so a head's sum is below 1: the class token and registers take a share. Caron et al.,
    Emerging Properties in Self-Supervised Vision Transformers, ICCV 2021. Raises UserError for what has no class token.
    """
    if not has_class_attention(backbone):
        raise UserError(f"{backbone.info.name or backbone.spec} has no class token whose attention could be read")
    with torch.inference_mode():
        found: Tensor = attention_of(backbone)(images)
    return found


class Inside(NamedTuple):
    """What one pass of a backbone gives.

    patches: the tokens of the patches after the last block that is used, before its norm; None for what is no ViT of timm's kind.
    attention: of the class token, by head; None without one.
    """

    features: Float[Tensor, "b d gh gw"]
    patches: Float[Tensor, "b gh gw width"] | None
    attention: Float[Tensor, "b heads gh gw"] | None


def inside(backbone: Backbone, images: Float[Tensor, "b 3 h w"]) -> Inside:
    """Return the features of normalised images and what `patches_after` and `class_attention` give, in one pass if possible."""
    trunk = backbone.network
    finer = backbone.stride != backbone.multiple  # than the tokens inside
    if finer or type(trunk) is not TimmTrunk or not is_plain_vit(trunk.model):
        with torch.inference_mode():
            features: Tensor = backbone(images)
        return Inside(features, None, class_attention(backbone, images) if has_class_attention(backbone) else None)
    blocks, prefix, number = trunk.model.blocks, trunk.model.num_prefix_tokens, max(trunk.layers)
    together = number == len(blocks) - 1 and attends(trunk.model)  # a pass ends after the last block that is used
    modules = [backbone, blocks[number], *([blocks[-1].attn.qkv] if together else [])]
    features, tokens, *projected = _outputs(modules, lambda: backbone(images))
    grid = tuple(features.shape[2:])
    attention = None
    if together:
        with torch.inference_mode():
            attention = attention_of_class_token(trunk.model, projected[0]).unflatten(2, grid)
    elif has_class_attention(backbone):
        attention = class_attention(backbone, images)
    return Inside(features, tokens[:, prefix:].unflatten(1, grid), attention)


def similarity_sums(patches: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """Return the sum of the cosine similarities of each patch to all, over the largest sum: FLSL's aggregated similarity score.

    Su et al., FLSL: Feature-level Self-supervised Learning, NeurIPS 2023, section 5.5.
    """
    unit = torch.nn.functional.normalize(patches, dim=1)
    sums = unit @ unit.sum(dim=0)
    return sums / sums.max()


def _outputs(modules: Sequence[Any], call: Callable[[], Any]) -> list[Tensor]:
    """Return what modules give during a call."""
    outputs: dict[int, Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda _module, _inputs, output, place=place: outputs.__setitem__(place, output))
        for place, module in enumerate(modules)
    ]
    try:
        with torch.inference_mode():
            call()
    finally:
        for hook in hooks:
            hook.remove()
    return [outputs[place] for place in range(len(modules))]
