"""A backbone without positional directions: positions go and contents stay, and it has an identity of its own."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import small_vits
import together
import torch
from torch import nn

from densebench.backbones import without_labels
from densebench.backbones.backbone import Backbone, BackboneInfo
from densebench.backbones.debiased import NOISE_IMAGES, debiased
from densebench.backbones.inside import class_attention, has_class_attention, inside, patch_attention, patches_after
from densebench.backbones.loading import load_backbone
from densebench.backbones.timm_models import attention_of
from densebench.errors import UserError
from densebench.features.cost import counted
from densebench.features.extract import autocast
from densebench.results.record import identity_of

RECORDS = Path(__file__).parents[2] / "results" / "records"
SPEC, WIDTH = f"random:{small_vits.PLAIN}", 32
IMAGES = torch.randn(3, 3, 64, 96, generator=torch.Generator().manual_seed(3))


class Placed(nn.Module):
    """Whether a patch is bright, dark or between, and beside it where it is: five channels, stride 8, all of one length."""

    def forward(self, images):
        brightness = nn.functional.avg_pool2d(images, 8).mean(dim=1)
        content = torch.stack([brightness > 0.9, brightness < 0.1, (brightness - 0.5).abs() <= 0.4], dim=1).float()
        angle = torch.arange(brightness[0].numel()).view(brightness[0].shape) / brightness[0].numel() * 2 * torch.pi
        place = torch.stack([angle.cos(), angle.sin()]).expand(len(images), -1, -1, -1)
        return torch.cat([content, place], dim=1)


def placed():
    return Backbone(Placed(), BackboneInfo("placed", "placed", 5, 8, (0.0,) * 3, (1.0,) * 3), "digest")


def plain():
    return load_backbone(SPEC)


def features(backbone, images=IMAGES):
    with torch.inference_mode():
        return backbone(images)


def test_a_known_position_is_removed_exactly_and_the_content_is_kept():
    images = torch.full((2, 3, 32, 32), 0.5)
    images[0, :, :16], images[1, :, :, 8:] = 1.0, 0.0  # noise is never so bright or dark over a whole patch
    found = features(debiased(placed(), 2), images)
    content = features(placed(), images)[:, :3]
    torch.testing.assert_close(found, torch.cat([content, torch.zeros(2, 2, 4, 4)], dim=1), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("kind", "count"), [("noise", NOISE_IMAGES), ("black", 1)])
def test_the_directions_are_those_of_noise_or_of_a_black_image(kind, count):
    shape = (count, 3, 64, 96)
    pixels = np.random.default_rng(0).random(shape, np.float32) if kind == "noise" else np.zeros(shape, np.float32)
    backbone = plain()
    mean, std = (torch.tensor(values)[:, None, None] for values in (backbone.mean, backbone.std))
    rows = nn.functional.normalize(features(backbone, (torch.from_numpy(pixels) - mean) / std), dim=1).flatten(2).mean(dim=0).T
    vectors = torch.linalg.svd(rows - rows.mean(dim=0), full_matrices=False)[2][:5]
    unit = nn.functional.normalize(features(backbone), dim=1).movedim(1, -1)
    expected = nn.functional.normalize(unit - unit @ vectors.T @ vectors, dim=-1).movedim(-1, 1)
    torch.testing.assert_close(features(debiased(backbone, 5, kind)), expected, rtol=0, atol=2e-5)


def test_what_is_removed_of_an_image_depends_on_its_size_alone_and_not_on_its_company():
    backbone = load_backbone(SPEC, debias=4)
    alone = features(backbone, IMAGES[1:2])
    features(backbone, IMAGES[:, :, :48])
    torch.testing.assert_close(features(backbone)[1:2], alone, rtol=0, atol=1e-6)
    torch.testing.assert_close(features(load_backbone(SPEC, debias=4))[1:2], alone, rtol=0, atol=1e-6)
    crop = IMAGES[:, :, :48]
    torch.testing.assert_close(features(backbone, crop), features(load_backbone(SPEC, debias=4), crop), rtol=0, atol=0)


def test_noise_passes_once_for_every_size():
    backbone, passes = plain(), []
    backbone.trunk.register_forward_hook(lambda _module, inputs, _out: passes.append(tuple(inputs[0].shape)))
    without = debiased(backbone, 4)
    for images in (IMAGES, IMAGES[:, :, :48], IMAGES, IMAGES[:1]):
        features(without, images)
    assert [shape[0] for shape in passes] == [*8 * [1], 3, *8 * [1], 3, 3, 1]


def test_the_directions_do_not_depend_on_the_precision_around_them():
    found = {}
    for precision in ("bf16", "fp32"):
        backbone = load_backbone(SPEC, debias=4)
        with torch.inference_mode(), autocast(torch.device("cpu"), precision):
            backbone(IMAGES)
        found[precision] = features(backbone)
    assert torch.equal(found["bf16"], found["fp32"])


def test_costs_are_those_of_a_pass_without_the_noise_before_it():
    image = IMAGES[:1]
    expected, found = (counted(each, image) for each in (plain(), load_backbone(SPEC, debias=4)))
    assert found.flop == expected.flop + 2 * 2 * 4 * WIDTH * 4 * 6, "two products with four directions, of 24 patches"
    assert expected.memory <= found.memory < 1.5 * expected.memory


def test_a_copy_computes_directions_of_its_own_weights():
    backbone = load_backbone(SPEC, debias=4)
    features(backbone)
    copied = copy.deepcopy(backbone)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.add_(0.02)
    passes = []
    copied.trunk.backbone.register_forward_hook(lambda *_: passes.append(1))
    features(copied)
    assert len(passes) == 9


def test_a_network_without_positions_loses_nothing_by_a_black_image():
    class Blind(nn.Module):
        def forward(self, images):
            return nn.functional.avg_pool2d(images, 8).repeat(1, 2, 1, 1)

    backbone = Backbone(Blind(), BackboneInfo("blind", "blind", 6, 8), "digest")
    expected = nn.functional.normalize(features(backbone), dim=1)
    torch.testing.assert_close(features(debiased(backbone, 4, "black")), expected, rtol=0, atol=1e-6)


def test_attention_and_patches_are_those_of_the_network():
    backbone, without = plain(), load_backbone(SPEC, debias=4)
    assert has_class_attention(without)
    queries = torch.tensor([0, 5])
    with torch.inference_mode():
        assert torch.equal(attention_of(without)(IMAGES), attention_of(backbone)(IMAGES))
        assert torch.equal(class_attention(without, IMAGES), class_attention(backbone, IMAGES))
        assert torch.equal(patch_attention(without, IMAGES, queries), patch_attention(backbone, IMAGES, queries))
        for one, other in zip(patches_after(without, IMAGES, [0, 2]), patches_after(backbone, IMAGES, [0, 2]), strict=True):
            assert torch.equal(one, other)
        assert torch.equal(inside(without, IMAGES).features, without(IMAGES))
        assert torch.equal(inside(without, IMAGES).patches, inside(backbone, IMAGES).patches)


def test_the_identity_says_what_is_removed():
    before, after = plain().identity(), load_backbone(SPEC, debias=4, name="b").identity()
    removed = {"debias": 4, "debias_from": {"kind": "noise", "version": 1, "images": NOISE_IMAGES, "seed": 0}}
    assert without_labels(after) == {**without_labels(before), **removed}
    black = debiased(plain(), 4, "black").identity()
    assert (black["debias"], black["debias_from"]) == (4, {"kind": "black", "version": 1})
    assert json.loads(json.dumps(after)) == after


def test_the_identity_of_others_is_that_of_earlier_records():
    stored = [json.loads(path.read_text()) for path in sorted(RECORDS.glob("*.json"))]
    [first, *_] = [
        record for record in stored if record["backbone"]["spec"] == "pixels:16" and "debias" not in record["backbone"]
    ]
    found = load_backbone("pixels:16").identity()
    assert without_labels(found) == without_labels(first["backbone"])
    assert identity_of({**first, "backbone": found}) == first["id"]


def test_a_number_that_leaves_nothing_is_refused():
    for count in (WIDTH, 500):
        with pytest.raises(UserError, match=rf"^--debias {count}: the features of .* have 32 dimensions; give 1 to 31, or leave"):
            load_backbone(SPEC, debias=count)
    with pytest.raises(UserError, match="--debias 0: "):
        load_backbone(SPEC, debias=0)


def test_a_number_that_a_grid_does_not_have_is_refused():
    backbone = load_backbone(SPEC, debias=14)
    with pytest.raises(
        UserError, match=r"^--debias 14: a grid of 5 x 3 patches of .* 14 positional .*; give 13 or fewer, or larger"
    ):
        backbone.check_size(48, 80)
    with pytest.raises(UserError, match="5 x 3 patches"):
        features(backbone, IMAGES[:, :, :48, :80])
    with pytest.raises(UserError, match="5 x 3 patches"):
        backbone.trunk(IMAGES[:, :, :48, :80])
    with pytest.raises(UserError, match="2 x 1 patches .* 1 positional .*; give larger images"):
        load_backbone(SPEC, debias=1).check_size(16, 32)
    backbone.check_size(64, 64)


def test_what_is_debiased_is_not_debiased_again():
    with pytest.raises(UserError, match="has debias already"):
        load_backbone(load_backbone(SPEC, debias=4), debias=4)


ELSEWHERE = """
import hashlib, os, sys
from pathlib import Path
import small_vits, torch
from densebench.backbones.loading import load_backbone
torch.set_num_threads(1)
images = torch.randn(3, 3, 64, 96, generator=torch.Generator().manual_seed(3))
with torch.inference_mode():
    found = load_backbone(f"random:{small_vits.PLAIN}", debias=4)(images)
Path(os.environ["RANK"]).write_text(hashlib.sha256(found.numpy().tobytes()).hexdigest())
"""


@pytest.mark.slow
def test_two_processes_remove_the_same(tmp_path):
    ends = together.run(["-c", ELSEWHERE], 2, tmp_path)
    assert [end.status for end in ends] == [0, 0], ends
    assert (tmp_path / "0").read_text() == (tmp_path / "1").read_text()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    own = hashlib.sha256(features(load_backbone(SPEC, debias=4)).numpy().tobytes()).hexdigest()
    torch.set_num_threads(threads)
    assert (tmp_path / "0").read_text() == own
