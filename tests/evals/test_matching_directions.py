"""From the source to the target and not back: what a swap of the two, or of a motion and its inverse, would change."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from densebench import options
from densebench.backbones.loading import load_backbone
from densebench.conformance.checking import own_cache
from densebench.datasets import load_dataset
from densebench.evals.geometric_correspondence import Homography, Views
from densebench.evals.geometric_correspondence.errors import VALUES, shares_of_pair
from densebench.evals.geometric_correspondence.frames import Surface
from densebench.evals.geometric_correspondence.truth import truth_of
from densebench.evaluation.protocol import Run
from densebench.features.extract import Features
from densebench.features.warped import WarpedView

QUARTER = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
CPU = torch.device("cpu")


class Given(Features):
    """Features that are given instead of stored."""

    def __init__(self, grids):
        self.grids = grids

    def __getitem__(self, item):
        return self.grids[item]


def surface(*points, focal=10.0):
    """Points in one row of patches, each at the centre of its own."""
    count = len(points)
    places = torch.stack([(torch.arange(count) + 0.5) / count, torch.full((count,), 0.5)], 1).double()
    return Surface(torch.tensor(points).double(), torch.arange(count), (1, count), places, (focal, focal))


def turned_pair():
    """A pair whose target camera sees everything turned by a quarter about its axis."""
    return replace(load_dataset("scenes-views").pairs("test")[0], rotation=QUARTER, translation=np.array([0.0, 0, 0.5]))


def views(**given):
    return options.build(Views, Views.presets["clean"], {"kept": 2, **given})


@pytest.mark.parametrize(("x", "y"), [(8, 0), (0, -16)])
def test_a_picture_that_is_moved_by_whole_patches_is_found_there(tmp_path, monkeypatch, x, y):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noise.png")
    monkeypatch.setattr(WarpedView, "homography", lambda *_: np.array([[1.0, 0, x], [0, 1, y], [0, 0, 1]]))
    dataset = load_dataset(f"pictures:{tmp_path}")
    kind = options.build(Homography, {}, {"image_size": 64, "workers": 0, "device": "cpu", "px": (1,)}).resolve(dataset)
    with own_cache():
        found = list(kind.run(load_backbone("pixels:8"), dataset, Run()))
    by_variant = {score.variant: score.value for score in found if score.axes == {"px": 1} and score.metric == "recall"}
    assert by_variant["all"] == by_variant["kept"] == 100 and by_variant["same place"] == 0


def test_the_matches_that_stand_out_most_are_kept():
    truth = truth_of(np.eye(3), (8, 16), 4)
    wrong = torch.arange(8) % 2 == 1
    match = torch.stack([torch.where(wrong, 7 - torch.arange(8), torch.arange(8)), torch.zeros(8).long()], 1)
    distances = torch.stack([torch.where(wrong, 0.19, 0.02), torch.full((8,), 0.2)], 1)
    row = options.build(Homography, {}, {"kept_share": 0.5}).row(truth, distances, match, [1.0], 4)
    assert row[:2].tolist() == [0.5, 1.0]  # of all, and of those that are kept


def test_points_of_the_source_look_for_features_of_the_target():
    pair, kind = turned_pair(), views()
    source = torch.eye(4)[None]
    features = Given({pair.source: source, pair.target: source.roll(1, 1)})
    flat = surface(*([0.0, 0, 1] for _ in range(4)))
    _, match = kind.matched(pair, (flat, flat), features, CPU)
    assert match.tolist() == [1, 2, 3, 0]


def test_points_are_moved_into_the_target_s_frame():
    source, target = surface([1.0, 0, 1], [0, 2, 1]), surface([0.0, 1, 1.5], [-2, 0, 1.5])
    row = views(cm=(1,), px=None).row(turned_pair(), source, target, torch.tensor([[0.1, 0.2]] * 2), torch.tensor([0, 1]))
    assert row[: len(VALUES)].tolist()[:2] == [1, 1]


def test_errors_in_px_are_of_the_target_s_camera():
    source, target = surface([0.0, 0, 1], focal=10.0), surface([0.1, 0, 1], focal=100.0)
    index = torch.tensor([0])
    shares = shares_of_pair(source.points, source, target, index, index, [("px", 9.0), ("px", 11.0)])
    assert shares[:, 0].tolist() == [0, 1]
