"""What decides which pairs are scored, by which length, how often a class counts, and when a mirrored source is taken."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from matching_references import NET, normalised
from PIL import Image
from toy_pairs import PAIRS, pair, scores, toys

from densebench.evals.correspondence import Correspondence
from densebench.evals.correspondence.pairs import parts_of
from densebench.numerics.keypoints import bootstrap_pck, tallied


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.mark.parametrize(
    ("preset", "metric"),
    [("clean", "image"), ("probe3d", "point_class"), ("sd-dino", "point_class"), ("geoaware", "image"), ("insid3", "image")],
)
def test_presets_average_as_their_references(preset, metric):
    evaluator = Correspondence(**Correspondence.presets[preset])
    assert evaluator.headline() == {"metric": f"pck_{metric}", "variant": "features"}


def test_scnet_measures_in_the_source_squashed_to_a_square():
    """From (20, 60) of 50 x 80 px to (45, 30) of 90 x 60: .1 of the width and .25 of the height away."""
    one = toys(pair("q", "wide", "tall", ((45, 30),), ((20, 60),)))
    for alpha, right in ((0.26, 0), (0.27, 100)):  # sqrt(.1 ** 2 + .25 ** 2) is .2693
        found = scores(one, preset="scnet", alphas=(alpha,))
        assert found[alpha, "pck_image", "same place"].value == right
        assert found[alpha, "pck_image", "box centre"].value == 100  # the truth is the middle of the source


def many(count, **changed):
    return [replace(PAIRS[0], name=f"n{index}", **changed) for index in range(count)]


def test_pairs_of_a_class_are_shuffled_with_seed_20_and_cut():
    order = list(range(30))
    random.seed(20)
    random.shuffle(order)
    assert parts_of(many(30), 7)[""] == sorted(order[:7])


def test_each_level_has_as_many_pairs_of_a_class():
    far = [replace(each, levels=(("viewpoint", 2),)) for each in many(2)]
    found = parts_of([*many(40, levels=(("viewpoint", 0),)), *far], 2)
    assert [len(found[part]) for part in ("", "viewpoint 0", "viewpoint 2")] == [2, 2, 2]


def test_the_length_is_the_side_of_the_target():
    """The same place is 10 px away from the truth in a picture of 40 x 30 px; the source has 64 x 64 px."""
    bare = toys(pair("l", "square", "small", ((32, 32),), ((30, 15),)))
    for alpha, right in ((0.24, 0), (0.26, 100)):  # 0.24 x 64 would be enough
        assert scores(bare, alphas=(alpha,))[alpha, "pck_image", "same place"].value == right


def test_intervals_and_classes_follow_the_average():
    found = scores(average="point-class", alphas=(0.3,))[0.3, "pck_point_class", "features"]
    hits, points = (torch.tensor(found.details[name]) for name in ("hits_by_pair", "points_by_pair"))
    table = tallied(hits.double(), points, torch.tensor([0, 1, 0, 0]), 2)
    assert found.bootstrap == pytest.approx((100 * bootstrap_pck(table)["point-class"]).tolist())
    cats = [0, 2, 3]
    assert found.per_class["cat"] == pytest.approx(100 * float(hits[cats].sum() / points[cats].sum()))
    of_pairs = scores(alphas=(0.3,))[0.3, "pck_image", "features"]
    assert of_pairs.per_class["cat"] == pytest.approx(100 * float((hits / points)[cats].mean()))


def test_interpolated_features_are_scaled_to_length_1():
    """Which matters where similarities become weights."""
    points = np.random.default_rng(0).uniform(4, 60, (60, 2))
    one, alphas = toys(pair("r", "square", "wide", points, points)), (0.05, 0.1, 0.2, 0.3)
    scaled, bare = (scores(one, window=0, temperature=0.2, renormalise=on, alphas=alphas) for on in (True, False))
    assert any(scaled[a, "pck_image", "features"].value != bare[a, "pck_image", "features"].value for a in alphas)


def test_the_nearer_of_source_and_mirrored_source_is_that_of_the_objects():
    rng, data = np.random.default_rng(0), toys()
    pairs = []
    for number in range(24):
        corners = rng.integers(0, 5, (2, 2)) * 8
        sides = rng.integers(1, 4, (2, 2)) * 8
        boxes = [tuple(map(float, (*corner, *(corner + side)))) for corner, side in zip(corners, sides, strict=True)]
        pairs.append(pair(f"f{number}", "square", "square", ((20, 20),), ((20, 20),), source_box=boxes[0], target_box=boxes[1]))

    def grid(mirrored):
        image = data.image(pairs[0].source)
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else image
        with torch.inference_mode():
            return F.normalize(NET(normalised(image)[None])[0], dim=0).movedim(0, -1)

    def patches(features, box):
        left, top, right, bottom = (int(side) // 8 for side in box)
        return features[top:bottom, left:right].flatten(0, 1)

    def apart(one, other):
        return float(torch.cdist(one.double(), other.double()).amin(1).mean())

    nearer = []
    for each in pairs:
        left, top, right, bottom = each.source_box
        target = patches(grid(False), each.target_box)
        plain = apart(patches(grid(False), each.source_box), target)
        nearer.append(apart(patches(grid(True), (64 - right, top, 64 - left, bottom)), target) < plain - 1e-6)
    assert 0 < sum(nearer) < len(pairs)
    for taken in (False, True):
        chosen = [each for each, flips in zip(pairs, nearer, strict=True) if flips == taken]
        found = scores(toys(*chosen), flip=True, alphas=(0.2,))[0.2, "pck_image", "features"]
        assert found.details["flipped_pairs"] == taken * len(chosen)
