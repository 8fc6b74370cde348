"""Our backbones under MMSegmentation's heads: several heads side by side on one frozen backbone, or one on a trained backbone."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from mmengine.config import ConfigDict
from mmengine.structures import PixelData
from mmseg.models import EncoderDecoder, FCNHead, SegDataPreProcessor, SegmenterMaskTransformerHead
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.losses import CrossEntropyLoss
from timm.layers import DropPath
from torch import Tensor, nn

from densebench.backbones.backbone import Backbone
from densebench.bridges.mmsegmentation.options import Data, Setup
from densebench.bridges.mmsegmentation.whole_batch import draw_for_whole_batch
from densebench.console import warn
from densebench.errors import UserError
from densebench.features.extract import Normalisation, autocast
from densebench.processes import total, world_size

HEADS_APART = 512  # added to the seed of the backbone's random numbers in an iteration to get that of the heads
WINDOWS = 8  # windows of an image that go through the backbone at once
HEAD_WIDTH = 64  # least channels of an attention head of the mask transformer


class Frozen(nn.Module):
    """Features of a frozen backbone. It is not a submodule, so it has no gradient, training mode or part of a checkpoint.

    drop_path: stochastic depth in a copy of the backbone while the heads train, which the reference leaves on by accident.
    colours: what images are normalised with; None: the backbone's own statistics.
    """

    def __init__(self, backbone: Backbone, precision: str, drop_path: float = 0.0, colours: Normalisation | None = None) -> None:
        super().__init__()
        self.precision, self.multiple = precision, backbone.multiple
        self.colours = colours or Normalisation(backbone.mean, backbone.std)
        self._fine = [backbone] if backbone.coarse is not backbone else []
        self._scoring = [backbone.trunk]  # in lists, since an attribute that is a module would be registered
        self._training = [with_drop_path(copy.deepcopy(backbone.trunk), drop_path)] if drop_path else self._scoring

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b d gh gw"]]:
        """Return float32 features of normalised images, padded at the right and bottom to what the network takes."""
        trunk = (self._training if self.training else self._scoring)[0].to(images.device)
        for module in trunk.modules() if trunk is not self._scoring[0] else ():
            module.train(isinstance(module, DropPath))
        with torch.no_grad(), autocast(images.device, self.precision):
            whole = padded(images, self.multiple)
            if self._fine:  # led by the pixels, whatever they are normalised with
                return (self._fine[0].to(images.device).of_pixels(self._pixels(whole), self.colours).float(),)
            return (trunk(whole).float(),)

    def _pixels(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Return normalised images in 0..1."""
        mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (self.colours.mean, self.colours.std))
        return images * std + mean


class Trained(nn.Module):
    """Features of a copy of a backbone that is trained together with the head; not of one that is debiased or upsampled."""

    def __init__(self, backbone: Backbone, drop_path: float) -> None:
        if backbone.network is not backbone.trunk:
            raise UserError(f"{backbone.spec} is debiased or upsampled, which goes with a frozen network; load it without")
        super().__init__()
        self.multiple = backbone.multiple
        self.trunk = with_drop_path(copy.deepcopy(backbone.trunk), drop_path).requires_grad_(True)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b d gh gw"]]:
        """Return features of normalised images, padded at the right and bottom to what the network takes."""
        return (self.trunk(padded(images, self.multiple)),)


def padded(images: Float[Tensor, "b 3 h w"], stride: int) -> Float[Tensor, "b 3 rows columns"]:
    """Return images padded with zeros at the bottom and at the right, so that the stride divides both sides."""
    return F.pad(images, (0, -images.shape[3] % stride, 0, -images.shape[2] % stride))


def with_drop_path(trunk: nn.Module, rate: float) -> nn.Module:
    """Add stochastic depth to the MLPs of a timm ViT's blocks in place, from 0 in the first to `rate` in the last; return the
    ViT.

    As in MMSegmentation's ViT, only the branch of the MLP is dropped, never that of attention.
    """
    blocks = getattr(getattr(trunk, "model", None), "blocks", None)
    if rate and (blocks is None or not all(hasattr(block, "drop_path2") for block in blocks)):
        warn("the backbone is not a row of residual blocks: it is trained without stochastic depth")
    elif rate:
        for block, share in zip(blocks, torch.linspace(0, rate, len(blocks)).tolist(), strict=True):  # type: ignore[arg-type]
            block.drop_path2 = DropPath(share)
    return trunk if world_size() == 1 else draw_for_whole_batch(trunk)


class BatchNormHead(BaseDecodeHead):
    """Dropout, batch norm and a 1 x 1 convolution: the linear head of DINOv2 and DINOv3."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.norm = nn.BatchNorm2d(self.in_channels)

    def forward(self, inputs: tuple[Tensor]) -> Tensor:
        """Return the logits of a grid of features, `[b classes gh gw]`."""
        features = self._transform_inputs(inputs)
        if self.dropout is not None:
            features = self.dropout(features)
        return self.conv_seg(self.norm(features))


class SideBySide(EncoderDecoder):
    """Heads that differ only in their learning rate, on one forward pass of the backbone.

    The total loss is the sum of their losses. They share no parameter, so each has the gradient that it would have alone.
    """

    def __init__(
        self, backbone: nn.Module, heads: int, head: dict[str, Any], *, seed: int, precision: str, **settings: Any
    ) -> None:
        self.heads: Any = heads
        self.seed = seed
        super().__init__(backbone={"type": lambda: backbone}, decode_head=head, **settings)
        self.precision = precision

    def _init_decode_head(self, decode_head: dict[str, Any]) -> None:
        kind = decode_head.pop("type")
        self.decode_head: Any = nn.ModuleList(kind(**decode_head) for _ in range(self.heads))
        self.align_corners, self.num_classes = False, self.decode_head[0].num_classes
        self.out_channels: int = self.heads * self.num_classes

    def init_weights(self) -> None:
        """Initialise all heads with the same weights; those of the backbone stay."""
        torch.manual_seed(self.seed)
        self.decode_head[0].init_weights()
        for head in self.decode_head[1:]:
            head.load_state_dict(self.decode_head[0].state_dict())

    def loss(self, inputs: Tensor, data_samples: list[Any]) -> dict[str, Tensor]:
        """Return the cross-entropy of each head, by its `loss_decode`, on logits upsampled to the label maps.

        This is `head.loss` without its accuracy, which would take longer than the rest of a linear head.
        """
        truth = torch.stack([sample.gt_sem_seg.data for sample in data_samples]).squeeze(1)
        losses, seed = {}, torch.initial_seed() + HEADS_APART
        with autocast(inputs.device, self.precision):
            features = self.extract_feat(inputs)
            for number, head in enumerate(self.decode_head):
                torch.manual_seed(seed)  # so that every head drops the same features
                logits = self._upsampled(head.forward(features), truth.shape[1], truth.shape[2])
                loss = head.loss_decode(logits, truth, ignore_index=head.ignore_index)
                losses[f"loss_{number}"] = loss * of_whole_batch(truth, head) if world_size() > 1 else loss
        return losses

    def encode_decode(self, inputs: Tensor, batch_img_metas: list[dict[str, Any]]) -> Float[Tensor, "b heads_classes h w"]:
        """Return the logits of all heads at the size of the input, without the padding to the stride."""
        with autocast(inputs.device, self.precision):
            features = self.extract_feat(inputs)
            logits = torch.cat([head.forward(features) for head in self.decode_head], dim=1).float()
        return self._upsampled(logits, inputs.shape[2], inputs.shape[3])

    def _upsampled(self, logits: Tensor, height: int, width: int) -> Tensor:
        """Return the logits of a grid at the size of an image; the grid also covers the padding to the stride."""
        side = self.backbone.multiple
        full = (height + -height % side, width + -width % side)
        return F.interpolate(logits, full, mode="bilinear", align_corners=False)[:, :, :height, :width]

    def slide_inference(self, inputs: Tensor, batch_img_metas: list[dict[str, Any]]) -> Float[Tensor, "b heads_classes h w"]:
        """Return the mean logits of windows as MMSegmentation places them, a few windows in one forward pass."""
        height, width = inputs.shape[2:]
        all_windows = windows(height, width, self.test_cfg["crop_size"][0], self.test_cfg["stride"][0])
        total = inputs.new_zeros(len(inputs), self.out_channels, height, width)
        times = inputs.new_zeros(1, 1, height, width)
        for start in range(0, len(all_windows), WINDOWS):
            some = all_windows[start : start + WINDOWS]
            crops = torch.cat([inputs[:, :, top:bottom, left:right] for top, bottom, left, right in some])
            for (top, bottom, left, right), logits in zip(some, self.encode_decode(crops, []).split(len(inputs)), strict=True):
                total[:, :, top:bottom, left:right] += logits
                times[:, :, top:bottom, left:right] += 1
        return total / times

    def postprocess_result(self, seg_logits: Tensor, data_samples: Any = None) -> Any:
        """Add label maps of every head at the image's original size to the samples: uint8 [heads, h, w]."""
        for logits, sample in zip(seg_logits, data_samples, strict=True):
            maps = label_maps(logits, self.heads, sample.metainfo["ori_shape"])
            sample.set_data({"pred_sem_seg": PixelData(data=maps)})
        return data_samples


def of_whole_batch(truth: Int[Tensor, "b h w"], head: BaseDecodeHead) -> float | Tensor:
    """Return the factor by which the mean over processes of their losses becomes the loss of all their images together.

    It is 1 for means over all pixels, of which processes have equally many, and else depends on how many of them count.
    """
    if not head.loss_decode.avg_non_ignore:
        return 1.0
    counted = (truth != head.ignore_index).sum()
    return counted * world_size() / total(counted).clamp(min=1)


def windows(height: int, width: int, crop: int, stride: int) -> list[tuple[int, int, int, int]]:
    """Return (top, bottom, left, right) of sliding windows in px; the last one in a row or column ends at the image's border."""

    def along(length: int) -> list[tuple[int, int]]:
        count = max(length - crop + stride - 1, 0) // stride + 1
        ends = [min(number * stride + crop, length) for number in range(count)]
        return [(max(end - crop, 0), end) for end in ends]

    return [(top, bottom, left, right) for top, bottom in along(height) for left, right in along(width)]


def label_maps(
    logits: Float[Tensor, "heads_classes h w"], heads: int, size: tuple[int, int]
) -> UInt8[Tensor, "heads rows columns"]:
    """Return the best class of each head at each pixel of the original image. size: its height and width."""
    maps = []
    for scores in logits.chunk(heads):
        resized = F.interpolate(scores[None], tuple(size), mode="bilinear", align_corners=False)[0]
        maps.append(resized.argmax(dim=0).to(torch.uint8))
    return torch.stack(maps)


def build(backbone: Backbone, data: Data, setup: Setup, rates: Sequence[float]) -> SideBySide:
    """Return the segmentor of a run, with one head for each learning rate."""
    torch.manual_seed(setup.options.train_seed)
    colours = Normalisation(setup.mean, setup.std)
    frozen = None if setup.trained else Frozen(backbone, setup.options.precision, setup.drop_path, colours)
    pad, size = setup.pad or setup.crop, setup.window or setup.crop
    side = pad + -pad % backbone.multiple
    window = {"mode": "slide", "crop_size": (size, size), "stride": (setup.stride, setup.stride)}
    model = SideBySide(
        frozen or Trained(backbone, setup.drop_path),
        len(rates),
        head_of(backbone.dim, len(data.classes), setup),
        seed=setup.options.train_seed,
        precision=setup.options.precision if setup.trained else "fp32",
        data_preprocessor=SegDataPreProcessor(
            mean=[255 * value for value in setup.mean],
            std=[255 * value for value in setup.std],
            bgr_to_rgb=True,
            size=(side, side),
            pad_val=0,
            seg_pad_val=255,
        ),
        test_cfg=ConfigDict(window),
    )
    if world_size() > 1:
        draw_for_whole_batch(model)
    return model


def head_of(dim: int, classes: int, setup: Setup) -> dict[str, Any]:
    """Return the configuration of a head for MMSegmentation's registry."""
    loss = {"type": CrossEntropyLoss, "use_sigmoid": False, "loss_weight": 1.0}
    shared = {"in_channels": dim, "channels": dim, "num_classes": classes, "align_corners": False, "loss_decode": loss}
    if setup.head == "linear":
        return {"type": FCNHead, "num_convs": 0, "concat_input": False, "dropout_ratio": 0.0, **shared}
    if setup.head == "batchnorm":
        loss["avg_non_ignore"] = True
        return {"type": BatchNormHead, "dropout_ratio": 0.1, **shared}
    attention_heads = next(count for count in range(max(1, dim // HEAD_WIDTH), 0, -1) if dim % count == 0)
    depth = {"num_layers": 2, "num_heads": attention_heads, "embed_dims": dim, "dropout_ratio": 0.0}
    return {"type": SegmenterMaskTransformerHead, **depth, **shared}
