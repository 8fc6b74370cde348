"""A backbone whose grid is made finer: its sizes and identity, the pixels that lead it, and upsamplers of the user's own."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from densebench.backbones import without_labels
from densebench.backbones.loading import load_backbone
from densebench.errors import UserError
from densebench.features.extract import Normalisation
from densebench.numerics import upsampling

FREE = ["nearest", "bilinear", "joint-bilateral", "joint-bilateral-naf", "guided"]
VIT = "random:test_vit"  # stride 16


def images(count=1, height=48, width=32):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", FREE)
@pytest.mark.parametrize(("factor", "stride"), [("", 8), (":4", 4), (":full", 1)])
def test_the_grid_is_finer_and_the_network_takes_the_same_sizes(name, factor, stride):
    backbone = load_backbone(VIT, upsample=name + factor)
    with torch.inference_mode():
        assert backbone(images()).shape == (1, backbone.dim, 48 // stride, 32 // stride)
    assert (backbone.stride, backbone.multiple, backbone.coarse.stride) == (stride, 16, 16)
    with pytest.raises(
        UserError, match=re.escape("an image side of 40 px does not fit random:test_vit, whose stride is 16: use 32 or 48")
    ):
        backbone(images(height=40))


def test_without_the_option_identities_are_as_they_were():
    plain = load_backbone(VIT)
    assert plain.coarse is plain
    assert plain.multiple == plain.stride
    assert not {"upsample", "upsampler"} & plain.identity().keys()
    fine = load_backbone(VIT, upsample="nearest:4").identity()
    assert {name for name, value in plain.identity().items() if fine[name] != value} == {"stride"}


def test_every_parameter_of_the_upsampler_is_in_the_identity_and_its_spelling_is_not():
    found = [
        without_labels(load_backbone(VIT, upsample=name).identity()) for name in ("guided", "guided:2", "guided:4", "bilinear")
    ]
    assert found[0] == found[1]
    assert found[0] != found[2] != found[3] != found[0]
    assert found[0]["upsampler"] == {"name": "guided", "factor": 2, "version": 1, "radius": 2, "eps": 1e-3, "guidance": "rgb"}
    assert load_backbone(VIT, upsample="guided").identity()["upsample"] == "guided:2"


def test_features_are_led_by_the_pixels_whatever_they_are_normalised_with():
    backbone = load_backbone(VIT, upsample="guided")
    pixels, other = torch.rand(1, 3, 48, 32), Normalisation((0.4, 0.5, 0.3), (0.5, 0.3, 0.2))
    own = Normalisation(backbone.mean, backbone.std)
    with torch.inference_mode():
        torch.testing.assert_close(backbone(own(pixels)), backbone.of_pixels(pixels, own))
        torch.testing.assert_close(backbone.of_pixels(pixels, other), backbone.finer(backbone.coarse(other(pixels)), pixels))


def test_a_coloured_edge_inside_a_patch_divides_its_features():
    backbone = load_backbone("pixels:8", upsample="joint-bilateral:full")
    pixels = torch.zeros(1, 3, 16, 32)
    pixels[..., 12:] = 1.0  # an edge in the middle of the second of four patches
    with torch.inference_mode():
        fine = backbone.of_pixels(pixels, lambda values: values)
    within, across = (fine[..., 9, 14] - fine[..., 9, 12]).norm(), (fine[..., 9, 12] - fine[..., 9, 11]).norm()
    assert across > 5 * within


@pytest.mark.parametrize("name", FREE)
def test_an_image_gets_the_same_features_alone(name):
    backbone, batch = load_backbone(VIT, upsample=name), images(3)
    with torch.inference_mode():
        torch.testing.assert_close(backbone(batch)[1:2], backbone(batch[1:2]), rtol=1e-4, atol=1e-5)


def test_under_autocast_features_are_upsampled_in_float32():
    backbone = load_backbone(VIT, upsample="guided")
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert backbone(images()).dtype == torch.float32


@pytest.mark.parametrize(
    ("spec", "upsample", "message"),
    [
        (VIT, "gided", "unknown --upsample 'gided': did you mean 'guided'?"),
        (VIT, "bilinear:x", "unknown --upsample 'bilinear:x'"),
        (VIT, "bilinear:3", "has a feature every 16 px, to be divided by 3; give 2, 4, 8, 16 or full"),
        (VIT, "bilinear:1", "give 2, 4, 8, 16 or full"),
        ("pixels:1", "guided", "leave it out"),
        (VIT, "./none.py", "there is no such file"),
        (VIT, "hub:nothing", "it takes REPO:ENTRY"),
    ],
)
def test_what_does_not_fit_is_one_clear_line(spec, upsample, message):
    with pytest.raises(UserError, match=re.escape(message)) as error:
        load_backbone(spec, upsample=upsample)
    assert "\n" not in str(error.value)


def test_features_are_made_finer_once():
    with pytest.raises(UserError, match="made finer already, by guided:2"):
        load_backbone(load_backbone(VIT, upsample="guided"), upsample="nearest")


GOOD = """
import torch
from torch import nn
import torch.nn.functional as F
mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.full((1,), 2.0))
    def forward(self, image, features, size):
        light = F.interpolate(image.mean(1, keepdim=True), size, mode="area")
        return self.scale * light * F.interpolate(features, size, mode="nearest-exact")
upsample = Mine()
"""
BAD = {
    "no function": ("upsample = Mine()", "upsample = 3", "gives a int; it takes a function or a module"),
    "shape": ("return self.scale", "return features\n        return self.scale", "returns (2,"),
    "not finite": ("return self.scale", "return float('nan') * self.scale", "features that are not finite numbers"),
    "random": ("return self.scale", "return torch.rand(1) * self.scale", "other features for the same images"),
    "fails": ("return self.scale", "raise ValueError()\n        return self.scale", "fails when it upsamples: ValueError"),
    "statistics": ("mean, std = (0.0, 0.0, 0.0)", "mean, std = (0.0, 0.0)", "mean has 2 numbers"),
}  # fmt: skip


def test_a_file_gets_images_as_it_asks_for_and_is_identified_by_its_code_and_weights(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(GOOD)
    backbone = load_backbone(VIT, upsample=f"{path}:4")
    pixels, own = torch.rand(1, 3, 32, 32), Normalisation(backbone.mean, backbone.std)
    with torch.inference_mode():
        light = nn.functional.interpolate(pixels.mean(1, keepdim=True), (8, 8), mode="area")
        expected = 2 * light * upsampling.nearest(backbone.coarse(own(pixels)), (8, 8))
        torch.testing.assert_close(backbone.of_pixels(pixels, own), expected)
    about = backbone.identity()["upsampler"]
    for change in (("2.0)", "3.0)"), ('mode="area"', 'mode="bilinear"')):
        other = tmp_path / "other.py"
        other.write_text(GOOD.replace(*change))
        assert load_backbone(VIT, upsample=f"{other}:4").identity()["upsampler"] != about
    copied = tmp_path / "copied.py"
    copied.write_text(GOOD)
    assert load_backbone(VIT, upsample=f"{copied}:4").identity()["upsampler"] == about


@pytest.mark.parametrize("fault", BAD)
def test_a_file_that_does_not_work_is_one_clear_line(fault, tmp_path):
    before, after, message = BAD[fault]
    assert before in GOOD
    path = tmp_path / "mine.py"
    path.write_text(GOOD.replace(before, after))
    with pytest.raises(UserError, match=re.escape(message)) as error:
        load_backbone(VIT, upsample=str(path))
    assert "\n" not in str(error.value)


def test_an_entry_of_a_hub_is_loaded_as_backbones_are(tmp_path):
    (tmp_path / "hubconf.py").write_text(GOOD.replace("upsample = Mine()", "def mine():\n    return Mine()"))
    backbone = load_backbone(VIT, upsample=f"hub:{tmp_path}:mine:4")
    with torch.inference_mode():
        assert backbone(images()).shape[2:] == (12, 8)
    about = backbone.identity()["upsampler"]
    assert (about["name"], about["entry"], about["mean"]) == ("hub", "mine", [0.485, 0.456, 0.406])
    assert about["code"]
    assert about["weights"]


LOFTUP = """
import torch
from torch import nn
import torch.nn.functional as F
class LoftUp(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
    def forward(self, features, image):
        assert features.shape[1] > image.shape[1] == 3
        return self.scale * F.interpolate(features, image.shape[2:], mode="bilinear", align_corners=False)
def loftup_dinov2s(pretrained=True):
    return LoftUp()
"""


def test_the_example_of_the_documentation_works_with_a_stand_in_of_its_hub(tmp_path, monkeypatch):
    (tmp_path / "hubconf.py").write_text(LOFTUP)
    monkeypatch.setenv("LOFTUP", str(tmp_path))
    example = Path(__file__).resolve().parents[2] / "docs" / "examples" / "loftup.py"
    backbone, batch = load_backbone(VIT, upsample=f"{example}:4"), images()
    with torch.inference_mode():
        torch.testing.assert_close(backbone(batch), upsampling.bilinear(backbone.coarse(batch), (12, 8)))
    assert backbone.params == backbone.coarse.params + 1


def test_a_copy_is_independent():
    backbone = load_backbone(VIT, upsample="guided")
    other = copy.deepcopy(backbone)
    assert other.identity() == backbone.identity()
    assert other.coarse is not backbone.coarse
