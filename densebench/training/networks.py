"""The networks of student and teacher: a timm ViT that returns its tokens, and a projection head."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from densebench.backbones.backbone import IMAGENET_MEAN, IMAGENET_STD
from densebench.backbones.loading import load_backbone
from densebench.backbones.position import resize_position_embedding
from densebench.backbones.timm_models import TimmTrunk, is_plain_vit, probe
from densebench.errors import UserError
from densebench.features.extract import DTYPES

CONVENTION = "offset"  # how DINO and its descendants resize position tables
MEAN, STD = IMAGENET_MEAN, IMAGENET_STD
"""The colour statistics that all training images are normalised with; checkpoints name them."""


@dataclass
class Tokens:
    """An encoder's output for b images.

    image: the class token, or the mean patch token where there is none. patches: the patch tokens; both after the last norm. qkv:
    on demand, queries, keys and values of all tokens in the last block, by attention head. prefix: the number of tokens (class
    token, registers) before the patches.
    """

    image: Float[Tensor, "b d"]
    patches: Float[Tensor, "b n d"]
    qkv: Float[Tensor, "3 b heads tokens dim"] | None = None
    prefix: int = 1


class Encoder(nn.Module):
    """A plain ViT of timm (with a table of absolute positions, perhaps a class token and registers).

    It takes images of any size that is a multiple of the patch size.
    """

    def __init__(self, arch: str, model: Any, convention: str = CONVENTION) -> None:
        super().__init__()
        self.arch, self.convention = arch, convention
        self.model: Any = model
        self.dim, self.patch = int(model.embed_dim), int(model.patch_embed.patch_size[0])
        self.prefix = int(model.num_prefix_tokens)
        model.patch_embed.strict_img_size = False

    def grid(self, size: int) -> tuple[int, int]:
        """Return rows and columns of patches of a square image."""
        return size // self.patch, size // self.patch

    def forward(self, images: Float[Tensor, "b 3 h w"], *, qkv: bool = False) -> Tokens:
        """Return the tokens of normalised images."""
        x = self.embed(images)
        *blocks, last = self.model.blocks
        for block in blocks:
            x = block(x)
        parts = self._parts(last, x) if qkv else None
        x = self.model.norm(last(x))
        patches = x[:, self.prefix :]
        return Tokens(patches.mean(dim=1) if self.model.cls_token is None else x[:, 0], patches, parts, self.prefix)

    def embed(self, images: Tensor) -> Tensor:
        """Return the input tokens of the first block: class token and registers, then patches with their positions added."""
        model = self.model
        patches = model.patch_embed(images).flatten(1, -2)
        grid = (images.shape[2] // self.patch, images.shape[3] // self.patch)
        table = resize_position_embedding(model.pos_embed, 0 if model.no_embed_class else self.prefix, grid, self.convention)
        first = [token.expand(len(images), -1, -1) for token in (model.cls_token, model.reg_token) if token is not None]
        x = torch.cat([*first, patches + table], 1) if model.no_embed_class else torch.cat([*first, patches], 1) + table
        return model.norm_pre(model.pos_drop(x))

    def _parts(self, block: Any, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        parts: Tensor = block.attn.qkv(block.norm1(x)).view(b, n, 3, block.attn.num_heads, -1).permute(2, 0, 3, 1, 4)
        return parts


class Network(nn.Module):
    """An encoder and a head that compute in `precision` (fp32, bf16 or fp16) and return fp32."""

    def __init__(self, encoder: Encoder, head: nn.Module, precision: str = "fp32") -> None:
        super().__init__()
        self.encoder, self.precision = encoder, precision
        self.head: Any = head

    def encode(self, images: Float[Tensor, "b 3 h w"], *, qkv: bool = False) -> Tokens:
        """Return the tokens of normalised images, fp32."""
        with self.arithmetic(images.device):
            tokens = self.encoder(images, qkv=qkv)
        parts = tokens.qkv if tokens.qkv is None else tokens.qkv.float()
        return Tokens(tokens.image.float(), tokens.patches.float(), parts, tokens.prefix)

    def project(self, vectors: Float[Tensor, "*n d"]) -> Float[Tensor, "*n e"]:
        """Return the head's output for vectors, fp32, before the prototypes."""
        with self.arithmetic(vectors.device):
            projected: Tensor = self.head(vectors)
        return projected.float()

    def arithmetic(self, device: torch.device) -> AbstractContextManager[Any]:
        """Return the context in which the networks compute on a device: autocast, or none for fp32."""
        return nullcontext() if self.precision == "fp32" else torch.autocast(device.type, DTYPES[self.precision])


def class_attention(tokens: Tokens) -> Float[Tensor, "b heads patches"]:
    """Return the attention of the class token (the first) to the patches in the last block, softmax over all tokens."""
    assert tokens.qkv is not None
    query, key, _ = tokens.qkv
    logits = torch.einsum("bhd,bhnd->bhn", query[:, :, 0], key) / query.shape[-1] ** 0.5
    return logits.softmax(dim=2)[:, :, tokens.prefix :]


def create_encoder(arch: str, size: int, drop_path: float) -> Encoder:
    """Return a ViT as timm initialises it, with a position table for images of `size` px.

    Raises UserError for a name that timm does not have, a model that is no plain ViT with a class token, or a size that the
    patch does not divide.
    """
    like = _plain(f"--arch {arch}", probe(arch))
    check_size("--image-size", size, int(like.patch_embed.patch_size[0]), arch)
    model = _create(arch, size, drop_path)
    nn.init.trunc_normal_(model.cls_token, std=0.02)
    return Encoder(arch, model)


def create_patch_encoder(arch: str, size: int, drop_path: float) -> Encoder:
    """Return a ViT without class token whose positions are fixed sines and cosines, otherwise as timm initialises it.

    Raises UserError as `create_encoder` does.
    """
    like = _plain(f"--arch {arch}", probe(arch), class_token=False)
    check_size("--image-size", size, int(like.patch_embed.patch_size[0]), arch)
    encoder = Encoder(arch, _create(arch, size, drop_path, class_token=False))
    table = encoder.model.pos_embed
    patches = sincos_positions(encoder.dim, encoder.grid(size))
    with torch.no_grad():
        table.zero_()[:, table.shape[1] - patches.shape[1] :] = patches
    table.requires_grad_(False)
    return encoder


def sincos_positions(dim: int, grid: tuple[int, int]) -> Float[Tensor, "1 patches dim"]:
    """Return the two-dimensional sine-cosine position table of MAE (He et al., CVPR 2022).

    The first half of the channels encodes the column, the second half the row; each half holds the sines and then the cosines of
    position / 10000^(4i / dim).
    Raises UserError where 4 does not divide `dim`.
    """
    if dim % 4:
        raise UserError(f"sine-cosine positions of {dim} channels: 4 must divide them; choose another --arch")
    speeds = 10000.0 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    rows, columns = (torch.arange(side, dtype=torch.float64)[:, None] * speeds for side in grid)
    waves = [torch.cat([angle.sin(), angle.cos()], dim=1) for angle in (columns, rows)]
    across, down = waves[0].expand(grid[0], -1, -1), waves[1][:, None].expand(-1, grid[1], -1)
    return torch.cat([across, down], dim=2).reshape(1, -1, dim).float()


def initial_encoder(
    spec: str,
    weights: Path | None,
    arch: str,
    size: int,
    drop_path: float,
    *,
    class_token: bool = True,
    flag: str = "--init",
) -> Encoder:
    """Return a ViT with the weights, the position table and the resizing of positions of a backbone spec.

    class_token: whether a class token is required. flag: the option that error messages name. Raises UserError where that token
    is missing, and where the spec is no plain ViT or has another architecture than `arch`.
    """
    mean, std = (None, None) if weights is None else (MEAN, STD)  # so nothing is said about those of the file's own training
    backbone = load_backbone(spec, weights=weights, mean=mean, std=std)
    if not isinstance(backbone.trunk, TimmTrunk):
        raise UserError(f"{flag} {spec}: only timm: and ckpt: backbones can be trained on")
    if backbone.arch != arch:
        raise UserError(f"{flag} {spec} is a {backbone.arch}, --arch says {arch}; leave one of them out")
    source = _plain(f"{flag} {spec}", backbone.trunk.model, class_token=class_token)
    patch = int(source.patch_embed.patch_size[0])
    check_size("--image-size", size, patch, arch)
    prefix = 0 if source.no_embed_class else source.num_prefix_tokens
    side = math.isqrt(source.pos_embed.shape[1] - prefix) * patch
    model = _create(arch, side, drop_path, class_token=source.cls_token is not None)
    model.load_state_dict(source.state_dict())
    encoder = Encoder(arch, model, backbone.pos_embed)
    fixed = source.cls_token is None and encoder.dim % 4 == 0
    if fixed and torch.equal(model.pos_embed[:, prefix:], sincos_positions(encoder.dim, encoder.grid(side))):
        model.pos_embed.requires_grad_(False)
    return encoder


def _create(arch: str, size: int, drop_path: float, *, class_token: bool = True) -> Any:
    import timm

    more: dict[str, Any] = {"img_size": size, "drop_path_rate": drop_path, "dynamic_img_size": False}
    if not class_token:
        more |= {"class_token": False, "global_pool": ""}
    return timm.create_model(arch, pretrained=False, num_classes=0, **more)


def arch_of(spec: str, flag: str = "--init") -> str:
    """Return the timm name of a backbone spec, without loading weights. Raises UserError for a spec without one."""
    from densebench.backbones.checkpoint import read_checkpoint

    kind, _, name = spec.partition(":")
    if kind in ("timm", "random") and name:
        return name
    if kind == "ckpt" and name:
        return str(read_checkpoint(Path(name))["arch"])
    raise UserError(f"{flag} {spec}: it takes timm:NAME (with --weights FILE), ckpt:DIR or random:NAME")


def check_size(flag: str, size: int, patch: int, arch: str) -> None:
    """Raise UserError, naming the nearest two sizes that fit, where a view's size is no multiple of the patch size (px)."""
    if size % patch or size < patch:
        low = size // patch * patch
        fits = f"{low} or {low + patch}" if low else str(patch)
        raise UserError(f"{flag} {size}: the patches of {arch} have {patch} px; use {fits}")


def _plain(what: str, model: Any, *, class_token: bool = True) -> Any:
    if not is_plain_vit(model) or (class_token and model.cls_token is None):
        need = " with a class token" if class_token else ""
        raise UserError(f"{what} is no plain ViT{need}; choose one such as vit_small_patch16_224")
    return model
