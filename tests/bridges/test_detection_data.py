"""Training samples of detectors: boxes and masks follow the image, draws are functions of seed and number."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn_objects import Drawn, boxes_of, options_of, scene
from PIL import Image

from densebench.bridges.torchvision import augmentation
from densebench.bridges.torchvision.augmentation import Sample, augment, crop, fitted, flip, nearest, resize
from densebench.bridges.torchvision.data import Scoring, check_batch, keys, settling_keys, training_batches, training_sample
from densebench.bridges.torchvision.options import Data
from densebench.errors import UserError
from densebench.processes import World

ALONE = World(0, 1, torch.device("cpu"))


def grid_sample():
    """12 x 8 px whose red is the column and whose green is the row; two boxes."""
    pixels = np.zeros((8, 12, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.arange(12), np.arange(8)[:, None]
    return Sample.of(Image.fromarray(pixels), np.array([[1.0, 2, 4, 7], [6, 0, 12, 3]]))


# Geometry


def test_a_flip_mirrors_image_boxes_and_masks():
    found = flip(grid_sample())
    assert found.pixels[0, :, 0].tolist() == list(range(11, -1, -1))
    assert found.boxes.tolist() == [[8, 2, 11, 7], [0, 0, 6, 3]]
    assert found.columns.tolist() == list(range(11, -1, -1)) and found.rows.tolist() == list(range(8))
    again = flip(found)
    assert (again.pixels == grid_sample().pixels).all() and (again.boxes == grid_sample().boxes).all()


def test_a_resize_scales_both_directions_by_themselves():
    found = resize(grid_sample(), 16, 6)
    assert found.size == (16, 6)
    assert found.boxes.tolist() == [[0.5, 4, 2, 14], [3, 0, 6, 6]]
    assert found.rows.tolist() == [row // 2 for row in range(16)] and found.columns.tolist() == [1, 3, 5, 7, 9, 11]


def test_a_crop_cuts_boxes_and_drops_those_outside():
    found = crop(grid_sample(), top=3, left=2, height=4, width=5)
    assert found.pixels[0, 0].tolist() == [2, 3, 0] and found.size == (4, 5)
    assert found.boxes.tolist() == [[0, 0, 2, 4]] and found.objects.tolist() == [0]
    assert found.rows.tolist() == [3, 4, 5, 6] and found.columns.tolist() == [2, 3, 4, 5, 6]
    touching = crop(grid_sample(), top=0, left=4, height=8, width=3)
    assert touching.objects.tolist() == [1] and touching.boxes.tolist() == [[2, 0, 3, 3]]


@pytest.mark.parametrize(("old", "new"), [(5, 5), (5, 10), (10, 5), (7, 3), (3, 7), (1, 4)])
def test_nearest_neighbours_lie_under_the_centres(old, new):
    assert nearest(old, new).tolist() == [int((i + 0.5) * old / new) for i in range(new)]


def test_sizes_keep_the_shape_and_both_limits():
    assert fitted(480, 640, 800, 1333) == (800, 1067)
    assert fitted(480, 1280, 800, 1333) == (500, 1333)
    assert fitted(1280, 480, 800, 1333) == (1333, 500)
    assert fitted(1, 1000, 10, 100) == (1, 100)


@pytest.mark.parametrize("kind", ["detr", "scales", "lsj", "flip"])
def test_boxes_and_masks_stay_with_what_they_show(kind):
    """The plain colour of each object lies in its mask, and its mask in its box, whatever was drawn."""
    options = options_of(augmentation=kind, short_side=160, long_side=266)
    seen_crops = seen_flips = 0
    for number in range(24):
        image, truth = scene("train-0")
        sample = augment(Sample.of(Image.fromarray(image), boxes_of(truth)), options, np.random.default_rng(number))
        assert sample.pixels.shape[:2] == (len(sample.rows), len(sample.columns))
        own = truth[sample.objects][:, sample.rows][:, :, sample.columns]
        tight = augmentation.boxes_of(own)
        scale = sample.size[0] / (sample.rows[-1] - sample.rows[0] + 1)
        seen_flips += bool(sample.columns[0] > sample.columns[-1])
        seen_crops += abs(len(set(sample.rows))) < 80 and scale > 1
        for box, mask, close, which in zip(sample.boxes, own, tight, sample.objects, strict=True):
            if mask.sum() < 50:
                continue
            slack = scale + 1.5
            assert (close[:2] >= box[:2] - slack).all() and (close[2:] <= box[2:] + slack).all()
            assert which == 1 or np.abs(box - close).max() <= slack  # of a cut disc less may be left
            red, _, blue = sample.pixels[mask.astype(bool)].astype(float).mean(0)
            assert (red > blue) == (which == 0)
    assert seen_flips > 4
    assert seen_crops > 0 or kind in ("scales", "flip")


def test_scales_are_those_of_the_recipe_and_go_with_the_short_side():
    sample = Sample.of(Image.new("RGB", (96, 80)), np.zeros((0, 4)))
    for short, wanted in ((800, set(range(480, 801, 32))), (400, set(range(240, 401, 16)))):
        options = options_of(augmentation="scales", short_side=short, long_side=2000)
        sizes = {augment(sample, options, np.random.default_rng(number)).size[0] for number in range(90)}
        assert sizes == wanted


def test_large_scale_jitter_fills_its_square_at_most():
    sample = Sample.of(Image.new("RGB", (96, 80)), np.zeros((0, 4)))
    options = options_of(augmentation="lsj", short_side=128, long_side=128)
    sizes = [augment(sample, options, np.random.default_rng(number)).size for number in range(60)]
    assert max(height for height, _ in sizes) == 128 == max(width for _, width in sizes)
    assert min(width for _, width in sizes) < 40


def test_parts_of_the_image_are_as_large_as_the_recipe_says():
    sample = Sample.of(Image.new("RGB", (1000, 900)), np.zeros((0, 4)))
    options = options_of(augmentation="detr", short_side=800, long_side=1333)
    drawn = [augment(sample, options, np.random.default_rng(number)) for number in range(40)]
    shares = [(one.rows[-1] - one.rows[0]) / 900 for one in drawn]
    cut = [share for share in shares if share < 0.98]
    assert 10 <= len(cut) <= 30 and min(cut) > 384 / 600 - 0.01
    assert {min(one.size) for one in drawn} <= set(range(480, 801, 32))


class Script:
    """A generator whose draws are written down."""

    def __init__(self, *draws):
        self.draws = list(draws)

    def random(self):
        return self.draws.pop(0)

    def choice(self, among):
        return self.random()

    def integers(self, low, high):
        assert low <= self.draws[0] < high
        return self.random()


def test_what_is_left_of_a_box_is_no_sliver_that_float32_takes_for_a_line():
    """An image of 640 x 362 px becomes 1061 x 600; a crop ends 2e-5 px behind where a box begins, and grows to 800 x 800."""
    sample = Sample.of(Image.new("RGB", (640, 362)), np.array([[374.59, 10, 500, 90], [100, 10, 200, 90], [5, 5, 5, 9]]))
    draws = Script(0.9, 0.1, 600, 600, 600, 0, 21, 800)  # no flip, a part, its scale, height, width, top, left, the last scale
    found = augment(sample, options_of(augmentation="detr", short_side=800, long_side=1333), draws)
    assert found.size == (800, 800) and not draws.draws
    assert found.objects.tolist() == [1]
    left = crop(resize(sample, 600, 1061), 0, 21, 600, 600)
    assert left.objects.tolist() == [0, 1] and 1e-5 < left.boxes[0, 2] - left.boxes[0, 0] < 3e-5
    narrow = resize(left, 800, 800).boxes[0].astype(np.float32)
    assert narrow[0] == narrow[2]  # torchvision refuses such a box


@pytest.mark.parametrize("kind", ["scales", "lsj", "flip"])
def test_slivers_are_gone_whatever_the_augmentation(kind):
    sample = Sample.of(Image.new("RGB", (96, 80)), np.array([[9.0, 10, 9.0001, 60], [10, 10, 90, 70]]))
    found = [augment(sample, options_of(augmentation=kind), np.random.default_rng(number)).objects for number in range(8)]
    assert all(0 not in own for own in found) and any(1 in own for own in found)


def test_boxes_of_masks():
    found = augmentation.boxes_of(np.array([[[0, 0, 0], [0, 1, 1]], [[0, 0, 0], [0, 0, 0]]], np.uint8))
    assert found.tolist() == [[1, 1, 3, 2], [0, 0, 0, 0]]


# Samples


def test_a_sample_is_what_torchvision_takes(tmp_path):
    data = Data(dataset := Drawn(root=tmp_path), dataset.part("train", None), [])
    image, truth = training_sample(data, options_of(), data.train[0], np.random.default_rng(0))
    assert image.dtype == torch.float32 and image.shape[0] == 3 and float(image.min()) >= 0 and float(image.max()) <= 1
    assert truth["labels"].tolist() == [1, 2] and truth["boxes"].shape == (2, 4)
    assert truth["masks"].shape == (2, *image.shape[1:]) and truth["masks"].dtype == torch.uint8
    _, plain = training_sample(data, options_of(model="faster-rcnn"), data.train[0], np.random.default_rng(0))
    assert "masks" not in plain and torch.equal(plain["boxes"], truth["boxes"])


@pytest.mark.parametrize(("short", "long"), [(32, 200), (40, 45), (80, 133), (100, 200)])
def test_training_and_scoring_see_alike_images(tmp_path, short, long):
    """Shrunk ones above all: Pillow averages over what it leaves out."""
    data = Data(dataset := Drawn(root=tmp_path, same=True), items := dataset.part("train", None), items)
    options = options_of(augmentation="flip", short_side=short, long_side=long)
    for number in range(4):
        learned, truth = training_sample(data, options, items[0], np.random.default_rng(number))
        place, looked, size = Scoring(data, options)[0]
        mirrored = float(truth["boxes"][0, 0]) > learned.shape[2] / 2  # the rectangle lies at the left
        assert (place, size) == (0, (80, 96)) and looked.shape == learned.shape
        assert ((learned.flip(2) if mirrored else learned) - looked).abs().max() <= (2.1 / 255 if mirrored else 0)


def test_scored_images_are_averaged_where_they_shrink(tmp_path):
    class Stripes(Drawn):
        def image(self, item):
            return Image.fromarray(np.tile(np.array([0, 0, 0, 255], np.uint8), (80, 24))[..., None].repeat(3, 2))

    data = Data(dataset := Stripes(root=tmp_path), [], dataset.part("val", None))
    _, looked, _ = Scoring(data, options_of(short_side=20, long_side=24))[0]
    assert looked.shape == (3, 20, 24) and (looked[:, :, 1:-1] - 0.25).abs().max() < 0.1


def test_groups_are_never_learned_from_and_classes_may_be_one(tmp_path):
    dataset = Drawn(root=tmp_path, crowds=("train-0",))
    data = Data(dataset, dataset.part("train", None), [])
    _, truth = training_sample(data, options_of(), data.train[0], np.random.default_rng(0))
    assert truth["labels"].tolist() == [2] and len(truth["masks"]) == 1
    _, one = training_sample(replace(data, agnostic=True), options_of(), data.train[1], np.random.default_rng(0))
    assert one["labels"].tolist() == [1, 1]


def test_jitter_gives_boxes_of_what_is_left_of_the_masks(tmp_path):
    data = Data(dataset := Drawn(root=tmp_path), dataset.part("train", None), [])
    options = options_of(augmentation="lsj", short_side=160, long_side=160)
    for number in range(12):
        _, truth = training_sample(data, options, data.train[0], np.random.default_rng(number))
        assert truth["boxes"].numpy().tolist() == augmentation.boxes_of(truth["masks"].numpy()).tolist()
        assert len(truth["labels"]) == len(truth["masks"])


def test_order_and_draws_follow_from_seed_and_number_alone(tmp_path):
    data = Data(dataset := Drawn(root=tmp_path), dataset.part("train", None), [])
    options = options_of(train_batch=4, at_once=2, iterations=6)
    whole = list(keys(3, options, ALONE, 0))
    assert [serial for one in whole for serial, _ in one] == list(range(24))
    for turn in range(8):
        assert sorted(place for one in whole for serial, place in one if serial // 3 == turn) == [0, 1, 2]
    assert list(keys(3, options, ALONE, 4)) == whole[8:]
    halves = [list(keys(3, options, World(rank, 2, ALONE.device), 0)) for rank in (0, 1)]
    assert [one for pair in zip(*halves, strict=True) for one in pair] == whole
    assert list(keys(3, replace(options, train_seed=1), ALONE, 0)) != whole
    first = list(training_batches(data, options, ALONE, 5, 0))
    late = list(training_batches(data, replace(options, iterations=7), ALONE, 5, 0))[:2]
    for one, two in zip(first, late, strict=True):
        assert [sample[0] for sample in one] == [sample[0] for sample in two]
        assert all(torch.equal(a[1], b[1]) and torch.equal(a[2]["boxes"], b[2]["boxes"]) for a, b in zip(one, two, strict=True))


def test_samples_for_batch_norms_are_no_steps_and_at_most_two_hundred():
    alone = list(settling_keys(1000, options_of()))
    assert [[serial for serial, _ in one] for one in alone] == [[-number] for number in range(1, 201)]
    assert len({place for one in alone for _, place in one}) == 200
    assert (
        list(settling_keys(1000, options_of(iterations=9, train_batch=8)))
        == alone
        != list(settling_keys(1000, options_of(train_seed=1)))
    )
    pairs = list(settling_keys(3, options_of(at_once=2)))
    assert [[serial for serial, _ in one] for one in pairs] == [[-2, -1], [-4, -3]]
    assert {place for one in pairs for _, place in one} == {0, 1, 2}


@pytest.mark.slow
def test_workers_make_the_same_samples(tmp_path):
    data = Data(dataset := Drawn(root=tmp_path), dataset.part("train", None), [])
    options = options_of(train_batch=2, at_once=2, iterations=2)
    for one, two in zip(training_batches(data, options, ALONE, 0, 0), training_batches(data, options, ALONE, 0, 1), strict=True):
        assert all(torch.equal(a[1], b[1]) for a, b in zip(one, two, strict=True))


def test_a_batch_that_cannot_be_divided():
    check_batch(options_of(train_batch=8, at_once=2), 4)
    with pytest.raises(UserError, match="--train-batch 8 cannot be divided among 3 processes"):
        check_batch(options_of(train_batch=8), 3)
    with pytest.raises(UserError, match="with --at-once 3"):
        check_batch(options_of(train_batch=8, at_once=3), 1)


def test_real_annotations_become_samples(shared_data: Path):
    from densebench.datasets import load_dataset

    dataset = load_dataset("coco-boxes", shared_data)
    data = Data(dataset, dataset.part("train", 4), [])
    for item in data.train:
        image, truth = training_sample(data, options_of(short_side=120, long_side=200), item, np.random.default_rng(1))
        assert truth["masks"].shape[1:] == image.shape[1:]
        assert (truth["boxes"][:, 2:] > truth["boxes"][:, :2]).all()
        tight = augmentation.boxes_of(truth["masks"].numpy())
        shown = truth["masks"].flatten(1).sum(1) > 30
        assert np.abs(tight - truth["boxes"].numpy())[shown.numpy()].max(initial=0) < 4
