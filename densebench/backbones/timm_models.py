"""timm models as trunks: ViT, EVA and DINOv3, Swin, ConvNeXt, ResNet, EfficientNet and the rest, in one code path."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from densebench.backbones.backbone import Backbone
from densebench.backbones.position import resize_position_embedding
from densebench.errors import UserError, out_of_memory, unknown
from densebench.torchvision_ops import make_importable

PROJECTIONS = ("query", "key", "value")
ATTENTION = "attention"
RAW = "raw"
"""The layer option for the output of a ViT's last block before the final norm, which all other numbers of blocks pass."""
WITHOUT_NORM = ("Hiera", "HieraDet")
"""Classes of timm whose only norm comes after pooling; they cannot normalise patch features."""


def probe(name: str) -> Any:
    """Return a timm model without head, storage or weights, to be read only: its class, its key names and its shapes.

    Raises UserError for a name, or a tag of pretrained weights behind it, that timm does not have.
    """
    make_importable()
    import timm

    arch = name.partition(".")[0]
    if not timm.is_model(arch):
        raise unknown("timm model", name, timm.list_models(), "timm.list_models() lists them")
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        tagged = timm.list_pretrained(f"{arch}.*")
        raise unknown("timm model", name, tagged, f"{arch} goes without a tag or as {', '.join(tagged)}") from error
    return _without_storage(name, timm.model_entrypoint(arch))


@functools.lru_cache(maxsize=8)
def _without_storage(name: str, entrypoint: Any) -> Any:
    """Return a timm model on the device `meta`, once for each function that makes it: timm draws its weights there too."""
    import timm

    with torch.device("meta"):
        return timm.create_model(name, pretrained=False, num_classes=0)


def create(name: str, like: Any, *, pretrained: bool = False, patches: int | None = None, class_token: bool = True) -> Any:
    """Return a timm model without its head. `like`: its probe; `patches`: how many a checkpoint's position table covers.

    Raises UserError where pretrained weights cannot be fetched.
    """
    import timm

    more: dict[str, Any] = {}
    if "dynamic_img_size" in inspect.signature(type(like)).parameters:
        more["dynamic_img_size"] = not is_plain_vit(like)  # timm must not resize a plain ViT's table: we do
    if patches is not None and is_plain_vit(like):
        more["img_size"] = math.isqrt(patches) * like.patch_embed.patch_size[0]
    if not class_token:
        more |= {"class_token": False, "global_pool": ""}
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=0, **more)
    except Exception as error:
        if not pretrained:
            raise
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise UserError(
            f"timm:{name}: its pretrained weights cannot be fetched ({reason}); give them with --weights FILE"
        ) from error


def is_plain_vit(model: Any) -> bool:
    """Return whether the model is a ViT on image patches with learned absolute positions, whose table we resize ourselves."""
    from timm.layers import PatchEmbed
    from timm.models.vision_transformer import VisionTransformer

    return type(model) is VisionTransformer and type(model.patch_embed) is PatchEmbed and model.pos_embed is not None


class TimmTrunk(nn.Module):
    """Patch features of one or several layers of a timm model.

    layers: block or stage numbers whose features are concatenated. normed: whether ViT features pass the final norm, those of
    earlier blocks too, as they do unless it is set to False. Prefix tokens (CLS, registers) are dropped. The learned position
    table of a ViT is resized to each grid by `convention`, once.
    """

    def __init__(self, model: Any, layers: Sequence[int], convention: str) -> None:
        super().__init__()
        self.model: Any = model
        self.layers, self.convention, self.normed = list(layers), convention, True
        self._tables: dict[tuple[int, int], Tensor] = {}
        self.has_table = is_plain_vit(model)
        if self.has_table:
            model.patch_embed.strict_img_size = False  # the table that we hand in fits the grid

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d gh gw"]:
        """Return features of normalised images, layers concatenated over channels in the order of `layers`."""
        return torch.cat(self.grids(images), dim=1)

    def grids(self, images: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        """Return the features of each layer, in the order of `layers`; those of stages differ in size."""
        wanted = sorted(set(self.layers))
        by_layer = dict(zip(wanted, self._call(images, wanted), strict=True))
        return [by_layer[layer] for layer in self.layers]

    def _call(self, images: Tensor, layers: list[int]) -> list[Tensor]:
        call = _Intermediates(self.model, self.normed and type(self.model).__name__ not in WITHOUT_NORM)
        if not self.has_table:
            try:
                return call(images, layers)
            except (AssertionError, IndexError, RuntimeError, ValueError) as error:
                if out_of_memory(error) or not self._takes_its_own_size(call, images):
                    raise
                raise UserError(self._refusal(images, error)) from error
        patch = self.model.patch_embed.patch_size
        grid = (images.shape[2] // patch[0], images.shape[3] // patch[1])
        return torch.func.functional_call(call, {"model.pos_embed": self._table(grid, images.device)}, (images, layers))

    def _takes_its_own_size(self, call: _Intermediates, images: Tensor) -> bool:
        """Return whether the model accepts its native size; False where `images` have that size."""
        size = self._own_size
        if size == images.shape[2:]:
            return False
        try:
            with torch.inference_mode():
                call(images.new_zeros(1, 3, *size), self.layers)
        except (AssertionError, IndexError, RuntimeError, ValueError):
            return False
        return True

    @property
    def _own_size(self) -> tuple[int, int]:
        _, height, width = self.model.pretrained_cfg["input_size"]
        return height, width

    def _refusal(self, images: Tensor, error: Exception) -> str:
        (height, width), size = images.shape[2:], self._own_size
        reason = (str(error) or type(error).__name__).splitlines()[0]
        return (
            f"{self.model.pretrained_cfg['architecture']} takes no images of {height} x {width} px ({reason}); it is made for "
            f"{size[0]} x {size[1]}: use --image-size {size[0]}, or another backbone"
        )

    def _projected(self, images: Tensor) -> tuple[Float[Tensor, "b tokens three_d"], tuple[int, int]]:
        """Return queries, keys and values of the last block for all tokens, side by side, and the grid of the patches."""
        outputs: list[Tensor] = []
        hook = self.model.blocks[-1].attn.qkv.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
        try:
            grid = self._call(images, self.layers)[0].shape[2:]
        finally:
            hook.remove()
        return outputs[0], (grid[0], grid[1])

    def _table(self, grid: tuple[int, int], device: torch.device) -> Tensor:
        """Return the position table for a grid: cached where it is frozen, resized anew with its gradient where it is trained."""
        prefix = 0 if self.model.no_embed_class else self.model.num_prefix_tokens
        if self.model.pos_embed.requires_grad:
            return resize_position_embedding(self.model.pos_embed, prefix, grid, self.convention)
        if grid not in self._tables or self._tables[grid].device != device:
            self._tables[grid] = resize_position_embedding(self.model.pos_embed.detach(), prefix, grid, self.convention)
        return self._tables[grid]


class _Intermediates(nn.Module):
    def __init__(self, model: Any, normed: bool) -> None:
        super().__init__()
        self.model: Any = model
        self.normed = normed

    def forward(self, images: Tensor, layers: list[int]) -> list[Tensor]:
        return self.model.forward_intermediates(
            images, indices=layers, norm=self.normed, output_fmt="NCHW", intermediates_only=True, stop_early=True
        )


def has_joint_projection(model: Any) -> bool:
    """Return whether a single layer of the last block makes queries, keys and values."""
    blocks = getattr(model, "blocks", None)
    return blocks is not None and isinstance(getattr(getattr(blocks[-1], "attn", None), "qkv", None), nn.Linear)


class ProjectionTrunk(TimmTrunk):
    """Queries, keys or values of the last block of a ViT: after the bias, before scaling, heads side by side."""

    def __init__(self, model: Any, projection: str, convention: str) -> None:
        if not has_joint_projection(model):
            raise UserError(f"--layer {projection}: the model has no joint query-key-value projection; use --layer last")
        super().__init__(model, [len(model.blocks) - 1], convention)
        self.part = PROJECTIONS.index(projection)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d gh gw"]:
        """Return the projection of each patch."""
        projected, grid = self._projected(images)
        tokens = projected.chunk(3, dim=-1)[self.part][:, self.model.num_prefix_tokens :]
        return tokens.transpose(1, 2).reshape(len(images), -1, *grid)


def attends(model: Any) -> bool:
    """Return whether the model is a ViT whose class token's attention can be read from the last block."""
    return is_plain_vit(model) and has_joint_projection(model) and model.cls_token is not None


class AttentionTrunk(TimmTrunk):
    """The attention of a ViT's class token to each patch in the last block: one channel per head, softmax over all tokens."""

    def __init__(self, model: Any, convention: str) -> None:
        if not attends(model):
            raise UserError(
                f"--layer {ATTENTION}: it is read from ViTs with a class token and learned positions; this is another model"
            )
        super().__init__(model, [len(model.blocks) - 1], convention)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b heads gh gw"]:
        """Return the attention to each patch. A head's sum is below 1, since prefix tokens take a share of it."""
        projected, grid = self._projected(images)
        return attention_of_class_token(self.model, projected).unflatten(2, grid)


def attention_of_class_token(model: Any, projected: Float[Tensor, "b tokens three_d"]) -> Float[Tensor, "b heads patches"]:
    """Return the attention of a ViT's class token to each patch in the last block, from its queries, keys and values."""
    attention = model.blocks[-1].attn
    query, key, _ = projected.unflatten(2, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    logits = attention.q_norm(query[:, :, :1]) @ attention.k_norm(key).transpose(2, 3) * attention.scale
    return logits.softmax(dim=3)[:, :, 0, model.num_prefix_tokens :]


def choose_layers(model: Any, layer: str) -> list[int]:
    """Return the block or stage numbers of a layer option: "last", or numbers from 0 such as "8,9,10,11".

    Raises UserError for numbers that the model does not have, and for stages of different strides.
    """
    count = len(model.blocks) if has_equal_blocks(model) else len(model.feature_info)
    if layer == "last":
        return [count - 1]
    try:
        numbers = [int(number) for number in layer.split(",")]
    except ValueError as error:
        names = ", ".join(("last", RAW, "block numbers such as 8,9,10,11", *PROJECTIONS))
        raise UserError(f"--layer {layer}: it takes {names} or {ATTENTION}") from error
    if not all(0 <= number < count for number in numbers):
        raise UserError(f"--layer {layer}: the model has {count} blocks or stages, numbered 0 to {count - 1}")
    if not has_equal_blocks(model) and len({model.feature_info[number]["reduction"] for number in numbers}) > 1:
        strides = ", ".join(f"{i}: {info['reduction']}" for i, info in enumerate(model.feature_info))
        raise UserError(f"--layer {layer}: stages of different strides cannot be concatenated ({strides})")
    return numbers


def has_equal_blocks(model: Any) -> bool:
    """Return whether the model is a stack of equal blocks (ViT) rather than stages of growing stride."""
    return hasattr(model, "blocks") and hasattr(model, "num_prefix_tokens")


def make_trunk(model: Any, layer: str, convention: str) -> TimmTrunk:
    """Return the trunk of a model for a layer option."""
    if layer in PROJECTIONS:
        return ProjectionTrunk(model, layer, convention)
    if layer == ATTENTION:
        return AttentionTrunk(model, convention)
    if layer == RAW:
        return raw_trunk(model, convention)
    return TimmTrunk(model, choose_layers(model, layer), convention)


def raw_trunk(model: Any, convention: str) -> TimmTrunk:
    """Return the trunk of a ViT's last block before the final norm. Raises UserError where no norm follows the blocks."""
    if not has_equal_blocks(model) or isinstance(getattr(model, "norm", None), nn.Identity | None):
        raise UserError(f"--layer {RAW}: no final norm follows the blocks of this model; use --layer last")
    trunk = TimmTrunk(model, choose_layers(model, "last"), convention)
    trunk.normed = False
    return trunk


def attention_of(backbone: Backbone) -> Backbone:
    """Return a backbone with the same weights whose features are the class token's attention: `[b heads gh gw]`.

    Raises UserError where the model has none that can be read (`attends`).
    """
    trunk, info = backbone.network, backbone.coarse.info  # a grid made finer has no attention of its own
    if not isinstance(trunk, TimmTrunk) or not attends(trunk.model):
        raise UserError(f"{backbone.spec} has no class token whose attention could be read; give a ViT by --attention-from SPEC")
    info = replace(info, layer=ATTENTION, dim=trunk.model.blocks[-1].attn.num_heads)
    return Backbone(AttentionTrunk(trunk.model, trunk.convention), info, backbone.digest)
