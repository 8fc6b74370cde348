"""The segmentor on MMSegmentation (Apache-2.0): windows, heads, losses, backbones; against mmseg's classes and naive loops.

Windows and losses are those of MMSegmentation 1.x; the linear head with batch norm is that of DINOv2 (Oquab et al., 2023) and
DINOv3 (Simeoni et al., 2025); stochastic depth as in Huang et al., 2016.
"""

from __future__ import annotations

import copy
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import densebench.bridges.mmsegmentation as bridge  # before mmseg, which it makes importable
from densebench.backbones.loading import load_backbone
from densebench.bridges.mmsegmentation import importing, segmentor, training
from densebench.datasets.dataset import Dataset, Item
from densebench.distributed import World
from densebench.numerics import sgd_layers as descent

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from mmengine.config import ConfigDict
    from mmengine.logging import HistoryBuffer
    from mmengine.structures import PixelData
    from mmseg.models import EncoderDecoder, FCNHead, SegDataPreProcessor
    from mmseg.structures import SegDataSample

REMARKS = ("``build_loss`` would be deprecated", "Default ``avg_non_ignore`` is False")  # of mmseg, on every head that it builds
pytestmark = [pytest.mark.filterwarnings(f"ignore:{remark}:UserWarning") for remark in REMARKS]
WORLD = World(0, 1, torch.device("cpu"))
COLOURS = np.array([[200, 40, 90], [20, 180, 60], [60, 80, 230], [240, 230, 20], [10, 20, 30]], dtype=np.uint8)
MEAN, STD = (0.4, 0.5, 0.3), (0.2, 0.25, 0.3)


def blocks(name: str, height: int, width: int, side: int = 16) -> np.ndarray:
    """A label map of square regions."""
    rng = np.random.default_rng([ord(letter) for letter in name])
    rows, columns = -(-height // side), -(-width // side)
    return rng.integers(0, len(COLOURS), (rows, columns)).repeat(side, 0).repeat(side, 1)[:height, :width].astype(np.uint8)


@dataclass(frozen=True, kw_only=True)
class Coloured(Dataset):
    """Label maps of given sizes, whose images show every class in its colour; `plain`: images of this colour alone."""

    name: str = "coloured"
    title: str = "coloured"
    classes: tuple[str, ...] = ("a", "b", "c", "d", "e")
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    plain: tuple[int, int, int] | None = None
    side: int = 16

    def list_items(self, split):
        return (Item(name, None, None) for name in self.sizes if name.startswith(split))

    def label(self, item):
        return blocks(item.name, *self.sizes[item.name], self.side)

    def image(self, item):
        colours = COLOURS[self.label(item)]
        return Image.fromarray(colours if self.plain is None else np.full_like(colours, self.plain))

    def image_size(self, item):
        return self.sizes[item.name][::-1]


def data_of(sizes, **given):
    dataset = Coloured(root=Path(), sizes=sizes, **given)
    train, val = (tuple(dataset.list_items(split)) for split in ("train", "val"))
    return bridge.Data(dataset, train, val, dataset.classes, dataset.label)


def recipe(**given):
    plain = {
        "head": "linear",
        "trained": False,
        "crop": 32,
        "scale": 32,
        "stride": 20,
        "photometric": False,
        "optimiser": "adamw",
    }
    plain |= {"weight_decay": 0.0, "schedule": "poly", "eta_min": 0.0, "warmup": 0.0, "iterations": 10, "batch": 2}
    plain |= {"validations": 1, "mean": MEAN, "std": STD, "drop_path": 0.0, "black": False, "seed": 0, "precision": "fp32"}
    return bridge.Recipe(**(plain | given))


class Fake(nn.Module):
    """Patch embedding and nothing more; mmengine must not initialise it anew."""

    def __init__(self, stride=4, dim=6):
        super().__init__()
        self.stride, self.conv = stride, nn.Conv2d(3, dim, stride, stride)

    def init_weights(self):
        raise AssertionError("the backbone keeps its weights")

    def forward(self, images):
        return (self.conv(F.pad(images, (0, -images.shape[3] % self.stride, 0, -images.shape[2] % self.stride))),)


def head_of(name="linear", dim=6, classes=3, **given):
    return training._head(dim, classes, recipe(head=name)) | given


def side_by_side(heads=2, stride=4, crop=(16, 16), step=(12, 12), head=None, seed=0, spread=True):
    torch.manual_seed(3)
    settings = {"mode": "slide", "crop_size": crop, "stride": step}
    model = segmentor.SideBySide(
        Fake(stride), heads, head or head_of(), seed=seed, precision="fp32",
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


# Importing


def test_the_stand_in_for_compiled_operators_is_gone_after_the_import():
    assert "mmcv._ext" not in sys.modules and "mmseg.models" in sys.modules
    from mmcv.utils import ext_loader  # noqa: F401 - the loader asks for the operators on import alone

    with pytest.raises(ModuleNotFoundError):
        __import__("mmcv._ext")


def test_checkpoints_with_histories_of_numbers_are_readable_for_a_while(tmp_path):
    history = HistoryBuffer()
    for value in (1.5, 2.5):
        history.update(value)
    torch.save(
        {"history": history, "float": np.float64(0.5), "int": np.int64(7), "tensor": torch.ones(2)}, tmp_path / "state.pth"
    )
    with pytest.raises(Exception, match="Weights only load failed"):
        torch.load(tmp_path / "state.pth", weights_only=True)
    with importing.readable_checkpoints():
        found = torch.load(tmp_path / "state.pth", weights_only=True)
    assert found["float"] == 0.5 and found["int"] == 7 and found["tensor"].tolist() == [1, 1]
    assert found["history"].data[0].tolist() == [1.5, 2.5] and found["history"].mean() == 2
    with pytest.raises(Exception, match="Weights only load failed"):
        torch.load(tmp_path / "state.pth", weights_only=True)


def test_other_objects_are_refused_in_checkpoints(tmp_path):
    torch.save({"path": Path("x"), "call": print}, tmp_path / "state.pth")
    with importing.readable_checkpoints(), pytest.raises(Exception, match="Weights only load failed"):
        torch.load(tmp_path / "state.pth", weights_only=True)


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
    logits = descent.upsampled(features.permute(0, 2, 3, 1)[None], weights, (16, 16))
    ours = descent.cross_entropy(logits, labels.to(torch.uint8)[None], torch.tensor([float(labels.numel())]))
    ours.sum().backward()
    for number, head in enumerate(model.decode_head):
        alone = FCNHead(**{k: v for k, v in head_of().items() if k != "type"})
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
    model, (images, labels) = side_by_side(2, stride, (size, size), head=head_of(name, **extra)).eval(), batch_of(size)
    losses = [value for key, value in model.loss(images, samples_of(labels)).items() if "loss" in key]
    logits = model.encode_decode(images, [{"img_shape": (size, size)} for _ in images])
    for value, own in zip(losses, logits.split(3, 1), strict=True):
        expected = F.cross_entropy(own, labels, ignore_index=255, reduction="sum") / labels.numel()
        assert value.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("name", ["linear", "batchnorm"])
def test_heads_side_by_side_have_the_gradients_that_they_have_alone(name):
    images, labels = batch_of()
    model = side_by_side(3, head=head_of(name, dropout_ratio=0.0)).train()
    total_of(model, model.loss(images, samples_of(labels))).backward()
    together = gradients(model)
    for number in range(3):
        alone = side_by_side(1, head=head_of(name, dropout_ratio=0.0)).train()
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
    model, (images, labels) = side_by_side(1, head=head_of("batchnorm", dropout_ratio=0.5)), batch_of()
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


# Backbones


@pytest.fixture(scope="module")
def vit():
    return load_backbone("random:test_vit")


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def rates_of(trunk):
    found = [getattr(block, name) for block in trunk.model.blocks for name in ("drop_path1", "drop_path2")]
    return [float(getattr(path, "drop_prob", 0) or 0) for path in found]


def test_a_frozen_backbone_gives_the_trunks_features_in_any_mode(vit):
    frozen, images = segmentor.Frozen(vit, "fp32"), torch.randn(2, 3, 48, 32, requires_grad=True)
    with torch.no_grad():
        expected = vit.trunk(images)
    for module in (frozen, frozen.train(), nn.Sequential(frozen).train(), frozen.eval()):
        found = module(images)
        assert len(found) == 1 and found[0].dtype == torch.float32 and not found[0].requires_grad
        assert torch.equal(found[0], expected)
    assert not list(frozen.parameters()) and not frozen.state_dict() and not vit.trunk.training
    with torch.no_grad():
        framed = vit.trunk(F.pad(images[..., :41, :20], (0, 12, 0, 7)))
    assert torch.equal(frozen(images[..., :41, :20])[0], framed)
    half = segmentor.Frozen(vit, "bf16")(images)[0]
    assert half.dtype == torch.float32 and 0 < (half - expected).abs().max() < 0.2


def test_a_frozen_backbone_may_have_stochastic_depth_while_heads_train(vit):
    before, images = copy.deepcopy(vit.trunk.state_dict()), torch.randn(2, 3, 32, 32)
    frozen = segmentor.Frozen(vit, "fp32", 0.9)
    torch.manual_seed(0)
    nn.Sequential(frozen).train()
    first, second = frozen(images)[0], frozen(images)[0]
    with torch.no_grad():
        assert not first.requires_grad and not torch.equal(first, second)
        nn.Sequential(frozen).eval()
        assert torch.equal(frozen(images)[0], vit.trunk(images))
    assert not list(frozen.parameters()) and not frozen.state_dict()
    assert equal(before, vit.trunk.state_dict()) and not any(module.training for module in vit.modules())
    assert rates_of(vit.trunk) == [0.0] * 12


def test_stochastic_depth_rises_linearly_over_the_blocks(vit):
    trunk = segmentor.with_drop_path(copy.deepcopy(vit.trunk), 0.3)
    assert rates_of(trunk) == pytest.approx([rate for block in range(6) for rate in (0, 0.3 * block / 5)])  # attention has none


def test_a_backbone_without_residual_blocks_stays_still_in_training():
    backbone = load_backbone("random:resnet10t")
    frozen = segmentor.Frozen(backbone, "fp32", drop_path=0.5).train()
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(frozen(images)[0], backbone.trunk(images), rtol=0, atol=0)


@pytest.mark.parametrize("size", [(48, 80), (160, 160), (40, 50)])
def test_a_trained_backbone_is_a_copy_whose_every_parameter_learns(size, vit):
    before = copy.deepcopy(vit.trunk.state_dict())
    trained = segmentor.Trained(vit, 0.0).train()
    images = torch.randn(2, 3, *size)
    found = trained(images)[0]
    with torch.no_grad():
        torch.testing.assert_close(found, vit.trunk(F.pad(images, (0, -size[1] % 16, 0, -size[0] % 16))), atol=1e-5, rtol=1e-5)
    optimiser = torch.optim.SGD(trained.parameters(), lr=0.1)
    (found * torch.randn_like(found)).sum().backward()
    parameters = dict(trained.named_parameters())
    assert len(parameters) == len(list(vit.trunk.parameters())) and any("pos_embed" in name for name in parameters)
    idle = [name for name, parameter in parameters.items() if parameter.grad is None or parameter.grad.abs().max() == 0]
    assert not idle
    table = next(parameter for name, parameter in parameters.items() if "pos_embed" in name)
    assert (table.grad.abs().amax(-1) > 0).float().mean() > (0.9 if size == (160, 160) else 0.1)
    optimiser.step()
    assert equal(before, vit.trunk.state_dict()) and all(p.grad is None and not p.requires_grad for p in vit.parameters())
    assert not any(module.training for module in vit.modules())
    assert rates_of(segmentor.Trained(vit, 0.2).trunk)[-1] == pytest.approx(0.2)
