"""The segmentor on MMSegmentation (Apache-2.0): windows, heads, losses; against mmseg's classes and naive loops.

Windows and losses are those of MMSegmentation 1.x; the linear head with batch norm is that of DINOv2 (Oquab et al., 2023) and
DINOv3 (Simeoni et al., 2025).
"""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from drawn_maps import QUIET, setup_of
from torch import nn

from densebench.bridges.mmsegmentation import segmentor
from densebench.numerics import sgd_layers

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from mmengine.config import ConfigDict
    from mmengine.structures import PixelData
    from mmseg.models import EncoderDecoder, FCNHead, SegDataPreProcessor
    from mmseg.structures import SegDataSample

pytestmark = QUIET


class Fake(nn.Module):
    """Patch embedding and nothing more; mmengine must not initialise it anew."""

    def __init__(self, stride=4, dim=6):
        super().__init__()
        self.stride = self.multiple = stride
        self.conv = nn.Conv2d(3, dim, stride, stride)

    def init_weights(self):
        raise AssertionError("the backbone keeps its weights")

    def forward(self, images):
        return (self.conv(F.pad(images, (0, -images.shape[3] % self.stride, 0, -images.shape[2] % self.stride))),)


def head_settings(name="linear", dim=6, classes=3, **given):
    return segmentor.head_of(dim, classes, setup_of(head=name)) | given


def side_by_side(heads=2, stride=4, crop=(16, 16), step=(12, 12), head=None, seed=0, spread=True):
    torch.manual_seed(3)
    settings = {"mode": "slide", "crop_size": crop, "stride": step}
    model = segmentor.SideBySide(
        Fake(stride), heads, head or head_settings(), seed=seed, precision="fp32",
        data_preprocessor=SegDataPreProcessor(), test_cfg=ConfigDict(settings),
    )  # fmt: skip
    for parameter in model.decode_head.parameters() if spread else ():
        nn.init.normal_(parameter)
    return model


def samples_of(labels):
    return [SegDataSample(gt_sem_seg=PixelData(data=label[None])) for label in labels]


def naive_logits(model, images):
    """Of every head, at the size of the images padded to the stride, then cut."""
    height, width = images.shape[2:]
    stride = model.backbone.stride
    rows, columns = -(-height // stride) * stride, -(-width // stride) * stride
    framed = images.new_zeros(len(images), 3, rows, columns)
    framed[:, :, :height, :width] = images
    features = model.backbone.conv(framed)
    found = [F.interpolate(head.conv_seg(features), (rows, columns), mode="bilinear") for head in model.decode_head]
    return torch.cat(found, 1)[:, :, :height, :width]


# Sliding windows and padding

SIZES = [(16, 16), (9, 30), (30, 9), (10, 11), (28, 40), (29, 17), (33, 47), (50, 16)]


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize(("crop", "stride"), [(16, 12), (16, 16), (16, 7)])
def test_windows_cover_the_image_as_those_of_a_loop(height, width, crop, stride):
    def starts(size):
        found, start = [], 0
        while True:
            found.append(max(min(start, size - crop), 0))
            if start + crop >= size:
                return found
            start += stride

    expected = [(y, min(y + crop, height), x, min(x + crop, width)) for y in starts(height) for x in starts(width)]
    found = [tuple(map(int, window)) for window in segmentor.windows(height, width, crop, stride)]
    assert sorted(found) == sorted(expected)
    count = np.zeros((height, width))
    for top, bottom, left, right in found:
        assert 0 <= top < bottom <= height and 0 <= left < right <= width
        count[top:bottom, left:right] += 1
    assert count.min() > 0


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize(("crop", "step", "stride"), [(16, 12, 4), (16, 7, 4), (15, 9, 4)])
def test_sliding_gives_the_logits_of_mmseg_and_of_a_loop(height, width, crop, step, stride):
    model = side_by_side(3, stride, (crop, crop), (step, step)).eval()
    images = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = model.slide_inference(images, [{"img_shape": (height, width)} for _ in images])
        theirs = EncoderDecoder.slide_inference(model, images, [{"img_shape": (height, width)} for _ in images])
        total, count = torch.zeros_like(found), torch.zeros(height, width)
        for top, bottom, left, right in segmentor.windows(height, width, crop, step):
            total[:, :, top:bottom, left:right] += naive_logits(model, images[:, :, top:bottom, left:right])
            count[top:bottom, left:right] += 1
    assert found.shape == (2, 9, height, width)
    torch.testing.assert_close(found, theirs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found, total / count, atol=1e-5, rtol=1e-5)


def test_images_are_padded_with_zeros_at_the_right_and_at_the_bottom():
    images = torch.randn(2, 3, 30, 43)
    found = segmentor.padded(images, 14)
    assert found.shape == (2, 3, 42, 56)
    assert torch.equal(found[:, :, :30, :43], images) and found[:, :, 30:].abs().max() == found[..., 43:].abs().max() == 0
    assert torch.equal(segmentor.padded(images[..., :42], 1), images[..., :42])
    assert segmentor.padded(torch.ones(1, 3, 28, 42), 14).shape == (1, 3, 28, 42)


def test_logits_of_padded_images_are_cut_not_squeezed():
    model = side_by_side(stride=14, crop=(30, 30)).eval()
    images = torch.randn(2, 3, 30, 33)
    with torch.no_grad():
        found = model.encode_decode(images, [{"img_shape": (30, 33)} for _ in images])
        torch.testing.assert_close(found, naive_logits(model, images), atol=1e-5, rtol=1e-5)
        features = model.backbone(images)[0]
        squeezed = torch.cat([F.interpolate(head.conv_seg(features), (30, 33), mode="bilinear") for head in model.decode_head], 1)
    assert (found - squeezed).abs().max() > 0.05


def test_label_maps_are_the_best_classes_of_each_head_at_the_original_size():
    logits = torch.randn(6, 8, 12)
    found = segmentor.label_maps(logits, 2, (20, 30))
    large = F.interpolate(logits[None], (20, 30), mode="bilinear", align_corners=False)[0]
    assert torch.equal(found, torch.stack([large[:3].argmax(0), large[3:].argmax(0)]).to(torch.uint8))


# Heads and losses


def batch_of(size=16, classes=3):
    torch.manual_seed(5)
    labels = torch.randint(0, classes, (2, size, size))
    labels[0, :5] = 255
    labels[1, :, 3:4] = 255
    return torch.randn(2, 3, size, size), labels


def total_of(model, losses):
    total, _ = model.parse_losses(losses)
    return total


def gradients(model):
    return [[parameter.grad.clone() for parameter in head.parameters()] for head in model.decode_head]


def test_the_loss_of_each_head_is_mmsegs_and_ours_over_all_pixels():
    model, (images, labels) = side_by_side(3), batch_of()
    losses = model.loss(images, samples_of(labels))
    values = [value for name, value in losses.items() if "loss" in name]
    assert len(values) == 3
    total_of(model, losses).backward()
    features = model.backbone(images)[0].detach()
    weights = torch.stack([torch.cat([h.conv_seg.weight[..., 0, 0].T, h.conv_seg.bias[None]]) for h in model.decode_head])
    weights = weights.detach()[None].requires_grad_()
    logits = sgd_layers.upsampled(features.permute(0, 2, 3, 1)[None], weights, (16, 16))
    ours = sgd_layers.cross_entropy(logits, labels.to(torch.uint8)[None], torch.tensor([float(labels.numel())]))
    ours.sum().backward()
    for number, head in enumerate(model.decode_head):
        alone = FCNHead(**{k: v for k, v in head_settings().items() if k != "type"})
        alone.load_state_dict(head.state_dict())
        theirs = alone.loss((features,), samples_of(labels), {})["loss_ce"]
        theirs.backward()
        large = F.interpolate(head.conv_seg(features).double(), (16, 16), mode="bilinear")
        picked = large.log_softmax(1).gather(1, labels.where(labels != 255, 0)[:, None])[:, 0]
        naive = -picked[labels != 255].sum() / labels.numel()
        for expected in (theirs, naive, ours[0, number]):
            assert values[number].item() == pytest.approx(expected.item(), rel=1e-5)
        torch.testing.assert_close(head.conv_seg.weight.grad, alone.conv_seg.weight.grad, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(head.conv_seg.weight.grad[..., 0, 0].T, weights.grad[0, number, :-1], atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(head.conv_seg.bias.grad, weights.grad[0, number, -1], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(("size", "stride"), [(16, 4), (30, 14)])
@pytest.mark.parametrize("name", ["linear", "segmenter"])
def test_the_loss_compares_labels_with_the_logits_of_inference(name, size, stride):
    extra = {"num_heads": 1} if name == "segmenter" else {}
    model, (images, labels) = side_by_side(2, stride, (size, size), head=head_settings(name, **extra)).eval(), batch_of(size)
    losses = [value for key, value in model.loss(images, samples_of(labels)).items() if "loss" in key]
    logits = model.encode_decode(images, [{"img_shape": (size, size)} for _ in images])
    for value, own in zip(losses, logits.split(3, 1), strict=True):
        expected = F.cross_entropy(own, labels, ignore_index=255, reduction="sum") / labels.numel()
        assert value.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("name", ["linear", "batchnorm"])
def test_heads_side_by_side_have_the_gradients_that_they_have_alone(name):
    images, labels = batch_of()
    model = side_by_side(3, head=head_settings(name, dropout_ratio=0.0)).train()
    total_of(model, model.loss(images, samples_of(labels))).backward()
    together = gradients(model)
    for number in range(3):
        alone = side_by_side(1, head=head_settings(name, dropout_ratio=0.0)).train()
        alone.backbone.load_state_dict(model.backbone.state_dict())
        alone.decode_head[0].load_state_dict(model.decode_head[number].state_dict())
        total_of(alone, alone.loss(images, samples_of(labels))).backward()
        assert all(torch.equal(a, b) for a, b in zip(together[number], gradients(alone)[0], strict=True))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_a_head_that_diverges_leaves_the_others_gradients_bit_identical(value):
    images, labels = batch_of()
    found = []
    for broken in (False, True):
        model = side_by_side(3)
        if broken:
            nn.init.constant_(model.decode_head[1].conv_seg.weight, value)
        total_of(model, model.loss(images, samples_of(labels))).backward()
        found.append(gradients(model))
    assert not all(g.isfinite().all() for g in found[1][1]) or not torch.equal(found[0][1][0], found[1][1][0])
    for number in (0, 2):
        assert all(torch.equal(a, b) for a, b in zip(found[0][number], found[1][number], strict=True))


def test_the_head_with_batch_norm_drops_normalises_and_classifies():
    model, (images, labels) = side_by_side(1, head=head_settings("batchnorm", dropout_ratio=0.5)), batch_of()
    head, features = model.decode_head[0], torch.randn(4, 6, 5, 5) * 3 + 1
    head.train()
    torch.manual_seed(11)
    found = head((features,))
    torch.manual_seed(11)
    dropped = F.dropout2d(features, 0.5, True)
    assert (dropped.flatten(2).abs().sum(2) == 0).any()
    mean, variance = dropped.mean((0, 2, 3)), dropped.var((0, 2, 3), unbiased=False)
    norm = next(module for module in head.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))

    def restated(x, mean, variance):
        view = lambda v: v.view(1, -1, 1, 1)  # noqa: E731
        x = (x - view(mean)) / view(variance + norm.eps).sqrt() * view(norm.weight) + view(norm.bias)
        return torch.einsum("bdhw,cd->bchw", x, head.conv_seg.weight[..., 0, 0]) + view(head.conv_seg.bias)

    torch.testing.assert_close(found, restated(dropped, mean, variance), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(norm.running_mean, 0.1 * mean, atol=1e-5, rtol=1e-4)
    head.eval()
    torch.testing.assert_close(head((features,)), restated(features, norm.running_mean, norm.running_var), atol=1e-4, rtol=1e-4)
    value = next(v for k, v in model.eval().loss(images, samples_of(labels)).items() if "loss" in k)
    logits = model.encode_decode(images, [{"img_shape": (16, 16)} for _ in images])
    assert value.item() == pytest.approx(F.cross_entropy(logits, labels, ignore_index=255).item(), rel=1e-5)


def test_heads_begin_alike_by_the_seed_and_the_backbone_keeps_its_weights():
    states = {}
    for seed, again in ((0, 0), (0, 1), (1, 0)):
        model = side_by_side(3, seed=seed, spread=False)
        torch.manual_seed(again)
        before = copy.deepcopy(model.backbone.state_dict())
        model.init_weights()
        assert all(torch.equal(a, b) for a, b in zip(before.values(), model.backbone.state_dict().values(), strict=True))
        first, *others = (head.state_dict() for head in model.decode_head)
        assert all(torch.equal(first[key], other[key]) for other in others for key in first)
        states[seed, again] = first["conv_seg.weight"].clone()
    assert torch.equal(states[0, 0], states[0, 1]) and not torch.equal(states[0, 0], states[1, 0])
    assert states[0, 0].std() == pytest.approx(0.01, rel=0.6)
