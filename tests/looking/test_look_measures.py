"""The label-free measures of a look, on backbones that know only one thing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from look_pictures import in_memory, picture
from PIL import Image
from torch import nn

from densebench import load_backbone
from densebench.backbones.backbone import Backbone, BackboneInfo
from densebench.looking.measures import figures
from densebench.looking.passes import extracted

CPU = torch.device("cpu")


class Positions(nn.Module):
    """Features that say where a patch lies, and nothing else."""

    def forward(self, images):
        rows, columns = (torch.arange(side // 8) / (side // 8) for side in images.shape[2:])
        grid = torch.stack([*torch.meshgrid(rows, columns, indexing="ij"), torch.ones(len(rows), len(columns))])
        return grid.expand(len(images), -1, -1, -1) + 0 * images.mean()


class Colours(nn.Module):
    """Features that say which colour a patch has; the last one is a hundred times as long in one patch of the picture."""

    def forward(self, images):
        grid = nn.functional.avg_pool2d(images, 8)
        grid = torch.cat([grid, torch.ones_like(grid[:, :1])], dim=1)
        grid[:, 3, 0, 0] = 100
        return grid


def of(trunk, width, images):
    backbone = _backbone(trunk, width)
    return {each.name: each for each in figures(backbone, images, extracted(backbone, images, 64, CPU), 64, CPU, seed=0)}


@pytest.fixture(scope="module")
def images():
    return [in_memory(6).open(number) for number in range(6)]


def test_positions_are_read_where_features_hold_them_alone(images):
    assert of(Positions(), 3, images)["position read-out (R²)"].value > 0.8
    assert of(Colours(), 4, images)["position read-out (R²)"].value < 0.3


def test_outlier_tokens_are_counted(images):
    found = of(Colours(), 4, images)["outlier tokens"]
    patches = sum(grid.shape[0] * grid.shape[1] for grid in extracted(_backbone(Colours(), 4), images, 64, CPU).grids)
    assert found.value == pytest.approx(len(images) / patches)
    assert found.text == f"{100 * len(images) / patches:.1f} % of features"


def test_outliers_of_a_vit_are_those_of_tokens_before_the_last_norm(images):
    backbone = load_backbone("random:test_vit")
    last = backbone.trunk.model.blocks[-1]
    last.register_forward_hook(lambda _module, _inputs, tokens: tokens * _one_is_long(tokens))  # the norm hides it
    seen = extracted(backbone, images, 64, CPU)
    found = {each.name: each for each in figures(backbone, images, seen, 64, CPU, seed=0)}["outlier tokens"]
    assert found.value == pytest.approx(len(images) / len(seen.tokens))
    assert found.text == f"{100 * len(images) / len(seen.tokens):.1f} %"


def _one_is_long(tokens):
    factor = torch.ones_like(tokens[..., :1])
    factor[:, -1] = 50
    return factor


class Noise(nn.Module):
    """Features that use all directions."""

    def __init__(self, stride):
        super().__init__()
        self.stride = stride

    def forward(self, images):
        generator = torch.Generator().manual_seed(int(1000 * images.abs().sum()) % 2**31)
        size = (len(images), 200, images.shape[2] // self.stride, images.shape[3] // self.stride)
        return torch.randn(size, generator=generator)


def test_ranks_are_of_as_many_patches_for_every_stride(images):
    found = []
    for stride in (8, 14, 32):
        backbone = _backbone(Noise(stride), 200, stride)
        found.append(figures(backbone, images[:3], extracted(backbone, images[:3], 160, CPU), 160, CPU, seed=0)[:2])
    most = [[each.text.split(" of ")[1] for each in ranks] for ranks in found]
    assert most == [["54", "11"]] * 3  # 0.75 (160 / 32)^2 patches of each picture; 0.75 (80 / 32)^2, less one
    for number in range(2):
        values = [ranks[number].value for ranks in found]
        assert max(values) == pytest.approx(min(values), rel=0.05)


def test_the_patches_of_a_rank_are_of_all_pictures_and_depend_on_the_seed(images):
    def rank(seed):
        return figures(backbone, images, seen, 160, CPU, seed)[0].value

    backbone = _backbone(Colours(), 4)
    seen = extracted(backbone, images, 160, CPU)
    assert rank(0) != rank(1)
    directions = torch.eye(6)[:, None, None].expand(6, 20, 20, 6)
    seen.grids = list(directions)
    assert rank(0) == pytest.approx(6, rel=1e-4)


class Turned(nn.Module):
    """Rows, upside down in dark pictures."""

    def forward(self, images):
        rows = torch.linspace(-1, 1, images.shape[2] // 8).view(1, 1, -1, 1).expand(len(images), 1, -1, images.shape[3] // 8)
        return rows * (images.mean((1, 2, 3)) - 0.5).sign().view(-1, 1, 1, 1)


def test_what_is_fitted_on_one_half_is_tested_on_the_other():
    """Every second picture is dark: what a map reads from one half is wrong in the other, and not known to be wrong there."""
    pictures = [Image.new("RGB", (64, 64), "white" if number % 2 else "black") for number in range(4)]
    assert of(Turned(), 1, pictures)["position read-out (R²)"].value < -1
    assert of(Turned(), 1, pictures[1::2])["position read-out (R²)"].value == pytest.approx(0.5, abs=0.02)  # columns: none


def test_each_half_is_tested_in_turn(images):
    swapped = [images[number] for number in (1, 0, 3, 2, 5, 4)]
    one, other = (of(Halves(), 3, each)["position read-out (R²)"].value for each in (images, swapped))
    assert one == pytest.approx(other, abs=1e-6)


def test_views_are_squares_of_half_the_side_in_whole_patches(images):
    sizes = []
    backbone = _backbone(Halves(), 3)
    seen = extracted(backbone, images, 64, CPU)
    backbone.register_forward_pre_hook(lambda _module, inputs: sizes.append(tuple(inputs[0].shape)))
    for side in (64, 140, 20):
        figures(backbone, images[:1], seen, side, CPU, seed=0)
    assert sizes == [(4, 3, 32, 32), (4, 3, 72, 72), (4, 3, 16, 16)]


class Unchanged(Positions):
    """Where a patch lies, in pictures of plain grey alone."""

    def forward(self, images):
        return super().forward(images) * ((images - 128 / 255).abs().amax((1, 2, 3)) < 0.01).view(-1, 1, 1, 1)


def test_positions_are_read_from_pictures_as_they_are():
    assert of(Unchanged(), 3, [Image.new("RGB", (64, 64), (128, 128, 128))] * 2)["position read-out (R²)"].value > 0.8


def test_ranks_say_what_they_can_be_at_most(images):
    found = of(Colours(), 4, images)
    assert found["effective rank (RankMe)"].text.endswith(" of 4")
    assert 1 <= found["effective rank (RankMe)"].value <= 4
    assert found["LiDAR of patches"].text.endswith(" of 4")


def test_features_that_do_not_change_with_the_colours_have_lidar_of_position_only(images):
    """Mirrored positions differ along one direction, so rows alone tell patches apart: LiDAR is near one."""
    assert of(Positions(), 3, images)["LiDAR of patches"].value == pytest.approx(1, abs=0.1)


class Halves(nn.Module):
    """Features that say in which half of its range each channel of a patch lies: other colours leave them as they are."""

    def forward(self, images):
        grid = nn.functional.avg_pool2d(images, 8)
        return (grid > (grid.amax((2, 3), keepdim=True) + grid.amin((2, 3), keepdim=True)) / 2).float()


def test_a_patch_is_itself_in_a_mirrored_picture():
    """Red on the left, green above, blue in the middle: no view differs, so three channels are three directions."""
    pixels = np.zeros((224, 224, 3), np.uint8)
    pixels[:, :112, 0] = pixels[:112, :, 1] = pixels[56:168, 56:168, 2] = 255
    pictures = [Image.fromarray(pixels)] * 2
    backbone = _backbone(Halves(), 3)
    assert figures(backbone, pictures, extracted(backbone, pictures, 64, CPU), 448, CPU, 0)[1].value == pytest.approx(3, rel=0.05)


class Picture(nn.Module):
    """The left half of a picture, and how bright the picture is as a whole."""

    def forward(self, images):
        halves = Halves()(images)[:, :1]
        return torch.cat([halves, 3 * images.mean((1, 2, 3)).view(-1, 1, 1, 1).expand_as(halves)], dim=1)


def test_what_other_colours_change_tells_no_patches_apart():
    pixels = np.zeros((224, 224, 3), np.uint8)
    pixels[:, :112] = 110
    pictures = [Image.fromarray(pixels), Image.fromarray(pixels + 30)]
    backbone = _backbone(Picture(), 2)
    seen = extracted(backbone, pictures, 64, CPU)
    assert figures(backbone, pictures, seen, 448, CPU, 0)[1].value == pytest.approx(1, abs=0.1)


class Whole(nn.Module):
    """The mean colour of a picture at all its patches, with a square of it."""

    def forward(self, images):
        mean = images.mean((2, 3), keepdim=True).expand(-1, -1, images.shape[2] // 8, images.shape[3] // 8)
        return torch.cat([mean, mean**2], dim=1)


def test_views_follow_from_the_seed(images):
    backbone = _backbone(Whole(), 6)
    seen = extracted(backbone, images, 64, CPU)
    assert len({figures(backbone, images, seen, 64, CPU, seed)[1].value for seed in (0, 0, 1)}) == 2


def test_the_scale_of_features_changes_no_figure(images):
    class Small(Colours):
        def forward(self, images):
            return super().forward(images) / 1000

    one, other = (of(trunk, 4, images) for trunk in (Colours(), Small()))
    for name, figure in one.items():
        assert other[name].value == pytest.approx(figure.value, rel=1e-4)


def test_figures_follow_from_the_seed():
    images = [picture(0), picture(1)]
    assert of(Colours(), 4, images) == of(Colours(), 4, images)


def _backbone(trunk, width, stride=8):
    return Backbone(trunk, BackboneInfo("made", "made", width, stride, mean=(0.0,) * 3, std=(1.0,) * 3), "0" * 64)
