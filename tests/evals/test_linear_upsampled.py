"""The probe on upsampled features: by a restatement with torch's own parts, at the resolution of pixels, in the order of JAFAR.

JAFAR (Couairon et al., 2025): features upsampled, nn.Conv2d, CrossEntropyLoss, AdamW, a cosine stepped once a batch.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from retrieval_by_loops import DATA, PATCH, empty_cache
from torch import nn

from densebench import options
from densebench.backbones.loading import load_backbone
from densebench.errors import UserError
from densebench.evals.linear.pixel_layer import PixelLayer, Upsampling, cosine_factor
from densebench.evals.linear.upsampled import LinearUpsampled, Middle
from densebench.evaluation.protocol import Run
from densebench.features.extract import Normalisation
from densebench.features.views import named_generator

__all__ = ["empty_cache"]  # fixture
SIDE = 4 * PATCH
GIVEN = {"image_size": SIDE, "epochs": 3, "train_batch": 2, "learning_rate": 0.02, "device": "cpu", "workers": 0}
LEARNED = """
import torch.nn.functional as F
mean, std = (0, 0, 0), (1, 1, 1)
def upsample(image, features, size):
    light = F.interpolate(image.mean(1, keepdim=True), size, mode="area")
    return F.interpolate(features, size, mode="nearest-exact") * light
"""


def scored(backbone, run=None, **given):
    return list(probe(**given).run(backbone, DATA, run or Run()))


def probe(**given):
    return options.build(LinearUpsampled, LinearUpsampled.presets["jafar"], {**GIVEN, **given}).resolve(DATA)


def naive(backbone, period, mirror=0.5):
    """The mIoU in %, and the losses of the epochs, with features at the resolution of pixels in float64."""
    train, val = (DATA.items(split) for split in probe().splits(DATA))
    views = [Middle(SIDE, SIDE, "bilinear", mirrored) for mirrored in (False, True)]
    normalise, dim, classes = Normalisation(backbone.mean, backbone.std), backbone.dim, len(DATA.classes)
    bound = 1 / math.sqrt(dim)
    drawn = torch.empty(dim + 1, classes).uniform_(-bound, bound, generator=torch.Generator().manual_seed(0)).double()
    layer = nn.Conv2d(dim, classes, 1).double()
    layer.weight.data, layer.bias.data = drawn[:-1].T[:, :, None, None].clone(), drawn[-1].clone()
    optimiser = torch.optim.AdamW(layer.parameters(), lr=0.02, weight_decay=1e-5)
    steps = -(-len(train) // 2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=period or 3 * steps)

    def logits(item, view):
        pixels = view.image(DATA.image(item), "")[None]
        with torch.inference_mode():
            features = backbone.of_pixels(pixels, normalise).double()
        return layer(F.interpolate(features.clone(), (SIDE, SIDE), mode="bilinear", align_corners=False))

    losses = []
    for epoch in range(3):
        order = named_generator(f"order 0 {epoch}").permutation(len(train)).tolist()
        coins = named_generator(f"mirror 0 {epoch}").random(steps) < mirror
        seen = []
        for number, coin in enumerate(coins):
            view = views[int(coin)]
            batch = [train[i] for i in order[2 * number : 2 * number + 2]]
            found = torch.cat([logits(item, view) for item in batch])
            truth = torch.stack([view.label(DATA.label(item)) for item in batch]).long()
            loss = F.cross_entropy(found, truth, ignore_index=255)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            seen.append(loss.item())
        losses.append(np.mean(seen))
    inside, whole = np.zeros(classes), np.zeros(classes)
    for item in val:
        truth, found = views[0].label(DATA.label(item)).numpy(), logits(item, views[0])[0].argmax(0).numpy()
        for c in range(classes):
            counts = truth != 255
            inside[c] += ((truth == c) & (found == c)).sum()
            whole[c] += (((truth == c) | (found == c)) & counts).sum()
    return 100 * np.mean(inside[whole > 0] / whole[whole > 0]), losses


@pytest.mark.parametrize(("upsample", "period"), [(None, 2), ("bilinear", None), ("guided", 2), ("file", None)])
def test_the_probe_is_its_restatement_at_the_resolution_of_pixels(upsample, period, tmp_path):
    (tmp_path / "mine.py").write_text(LEARNED)
    backbone = load_backbone(f"pixels:{PATCH}", upsample=f"{tmp_path / 'mine.py'}" if upsample == "file" else upsample)
    *_, headline = scored(backbone, period=period)
    miou, losses = naive(backbone, period)
    assert headline.details["losses"] == pytest.approx(losses, abs=2e-4)
    assert headline.value == pytest.approx(miou, abs=0.2)
    assert (headline.metric, headline.variant, headline.direction) == ("miou", "identity", "higher")


@pytest.mark.parametrize("upsample", ["nearest", "bilinear:full", "joint-bilateral", "joint-bilateral-naf", "guided:full"])
def test_the_layer_may_come_before_an_upsampler_that_is_linear(upsample):
    backbone = load_backbone(f"pixels:{PATCH}", upsample=upsample)
    weights, pixels = torch.randn(backbone.dim + 1, 3), torch.rand(3, SIDE, SIDE)
    with torch.inference_mode():
        coarse = backbone.coarse(pixels[None])
        fine = backbone.finer(coarse, pixels[None])
        after = F.conv2d(fine, weights[:-1].T[:, :, None, None], weights[-1])
        after = F.interpolate(after, (SIDE, SIDE), mode="bilinear", align_corners=False)[0]
        before = Upsampling(backbone, SIDE).logits(coarse[0].movedim(0, -1), pixels, weights)
    torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-4)


def test_the_learning_rate_swings_as_the_code_of_jafar_lets_it():
    assert [round(cosine_factor(step, 20), 6) for step in (0, 10, 20, 30, 40)] == [1, 0.5, 0, 0.5, 1]
    assert 5e-4 * cosine_factor(14_639, 20) == pytest.approx(4.97e-4, abs=5e-7)  # the last step on VOC
    layer = torch.zeros(1, requires_grad=True)
    optimiser = torch.optim.AdamW([layer], lr=1.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=20)
    for step in range(100):
        assert cosine_factor(step, 20) == pytest.approx(schedule.get_last_lr()[0], abs=1e-9)
        optimiser.step()
        schedule.step()


def test_three_works_let_the_learning_rate_fall_in_three_ways():
    jafar, naf, anyup = (options.build(LinearUpsampled, LinearUpsampled.presets[name], {}) for name in ("jafar", "naf", "anyup"))
    at = [(0, 0), (0, 731), (10, 0), (19, 731)]  # of 20 epochs of 732 batches, VOC's
    assert [round(anyup.factor(*each, 732), 4) for each in at] == [1, 1, 0.5, 0.0062]
    assert [round(naf.factor(*each, 732), 4) for each in at] == [1, 0.9939, 0.5, 0]
    assert [round(jafar.factor(*each, 732), 4) for each in at] == [1, 0.4218, 1, 0.9938]


def test_an_image_and_its_label_map_have_the_same_middle():
    label = np.add.outer(np.arange(30), np.zeros(50)).astype(np.uint8) + np.arange(50, dtype=np.uint8)
    picture = Image.fromarray(np.repeat(label[:, :, None], 3, axis=2))
    plain, mirrored = Middle(30, 30, "bilinear"), Middle(30, 30, "bilinear", True)
    assert (255 * plain.image(picture, "")[0]).round().to(torch.uint8).equal(plain.label(label))
    assert plain.label(label).equal(torch.from_numpy(label[:, 10:40].copy()))
    assert mirrored.label(label).equal(plain.label(label).flip(1))
    assert mirrored.image(picture, "").equal(plain.image(picture, "").flip(2))
    assert plain.identity() != mirrored.identity()


def test_no_stage_stores_more_than_the_grids_of_the_network():
    backbone = load_backbone(f"pixels:{PATCH}", upsample="guided:full")
    stages = [stage for stage in probe().stages(backbone, DATA, Run()) if stage.extraction is not None]
    assert len(stages) == 3
    for stage in stages:
        assert stage.extraction.nbytes(stage.items) == len(stage.items) * 16 * backbone.dim * 4


def test_a_killed_run_resumes_to_the_same_numbers(monkeypatch):
    backbone = load_backbone(f"pixels:{PATCH}")
    whole = scored(backbone)
    plain, count = PixelLayer.step, []

    def counted(self, *arguments):
        count.append(1)
        if len(count) == len(DATA.items(probe().splits(DATA)[0])) + 1:
            raise KeyboardInterrupt
        return plain(self, *arguments)

    monkeypatch.setattr(PixelLayer, "step", counted)
    with pytest.raises(KeyboardInterrupt):
        scored(backbone, Run(progress_key="killed"))
    assert scored(backbone, Run(progress_key="killed")) == whole


def test_a_rate_that_diverges_and_a_size_that_does_not_fit_are_one_line():
    backbone = load_backbone(f"pixels:{PATCH}")
    with pytest.raises(UserError, match="the loss diverged at --learning-rate"):
        scored(backbone, learning_rate=1e29)
    with pytest.raises(UserError, match="does not fit"):
        scored(backbone, image_size=SIDE + 1)


def test_pictures_are_drawn(tmp_path):
    scored(load_backbone(f"pixels:{PATCH}"), Run(pictures=tmp_path), visualise=1, epochs=1)
    [path] = tmp_path.glob("*.png")
    with Image.open(path) as picture:
        assert picture.size == (3 * SIDE + 8, SIDE)
