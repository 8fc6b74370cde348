"""The label-free figures of a look, on backbones that know only one thing."""

from __future__ import annotations

import pytest
import torch
from look_pictures import in_memory, picture
from torch import nn

from densebench.backbones.backbone import Backbone, BackboneInfo
from densebench.looking.measures import figures
from densebench.looking.passes import passed

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
    backbone = Backbone(trunk, BackboneInfo("made", "made", width, 8, mean=(0.0,) * 3, std=(1.0,) * 3), "0" * 64)
    return {each.name: each for each in figures(backbone, images, passed(backbone, images, 64, CPU), 64, CPU, seed=0)}


@pytest.fixture(scope="module")
def images():
    return [in_memory(6).open(number) for number in range(6)]


def test_positions_are_read_where_features_hold_them_alone(images):
    assert of(Positions(), 3, images)["position read-out (R²)"].value > 0.8
    assert of(Colours(), 4, images)["position read-out (R²)"].value < 0.3


def test_outlier_tokens_are_counted(images):
    found = of(Colours(), 4, images)["outlier tokens"]
    patches = sum(grid.shape[0] * grid.shape[1] for grid in passed(_backbone(Colours(), 4), images, 64, CPU).grids)
    assert found.value == pytest.approx(len(images) / patches)
    assert found.text == f"{100 * len(images) / patches:.1f} %"


def test_ranks_say_what_they_can_be_at_most(images):
    found = of(Colours(), 4, images)
    assert found["effective rank (RankMe)"].text.endswith(" of 4")
    assert 1 <= found["effective rank (RankMe)"].value <= 4
    assert found["LiDAR of patches"].text.endswith(" of 4")


def test_features_that_do_not_change_with_the_colours_have_lidar_of_position_only(images):
    """Mirrored positions differ along one direction, so rows alone tell patches apart: LiDAR is near one."""
    assert of(Positions(), 3, images)["LiDAR of patches"].value == pytest.approx(1, abs=0.1)


def test_figures_follow_from_the_seed():
    images = [picture(0), picture(1)]
    assert of(Colours(), 4, images) == of(Colours(), 4, images)


def _backbone(trunk, width):
    return Backbone(trunk, BackboneInfo("made", "made", width, 8, mean=(0.0,) * 3, std=(1.0,) * 3), "0" * 64)
