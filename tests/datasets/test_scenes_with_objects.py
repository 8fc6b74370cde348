"""The scenes with boxes, those with one background, and the videos of scenes."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest

from densebench.datasets import load_dataset
from densebench.datasets.scenes import STUFF
from densebench.datasets.scenes_videos import LENGTH, render

GOLDEN = {
    ("train", 0, 0): "8be5846947ee56fb40d36cdcaa3ddac10c518823f038186adce0fbcb5c6f20bf",
    ("val", 7, 5): "132ca8d225143ad5d6404d19f87042f7501f2af1b096bb26fc3e7b63d2e61b3d",
}
"""SHA-256 of the bytes of image and mask. A change here is a change of the data set: raise scenes_videos.VERSION with it."""


@pytest.fixture(scope="module")
def videos():
    return load_dataset("scenes-videos")


def test_images_with_boxes_are_those_of_scenes():
    boxed, scenes = load_dataset("scenes-boxes"), load_dataset("scenes")
    assert [item.name for item in boxed.items("val")] == [item.name for item in scenes.items("val")]
    item = boxed.items("val")[3]
    assert boxed.image(item).tobytes() == scenes.image(item).tobytes()
    assert boxed.image_digest(item) == scenes.image_digest(item)
    assert boxed.label_digest(item) != scenes.label_digest(item)


def test_boxes_hold_the_labelled_pixels_of_their_class():
    boxed, scenes = load_dataset("scenes-boxes"), load_dataset("scenes")
    for item in boxed.items("train")[:20]:
        objects, label = boxed.objects(item), scenes.label(item)
        inside = np.zeros(label.shape, bool)
        for (left, top, right, bottom), kind in zip(objects.boxes.astype(int), objects.classes, strict=True):
            inside[top:bottom, left:right] |= label[top:bottom, left:right] == len(STUFF) + kind
        assert (inside == ((label >= len(STUFF)) & (label != 255))).all()


def test_a_mask_fills_its_box_and_has_its_area():
    boxed = load_dataset("scenes-boxes")
    for item in boxed.items("val")[:20]:
        objects = boxed.objects(item)
        for box, area, mask in zip(objects.boxes.tolist(), objects.areas, objects.masks, strict=True):
            runs = mask["counts"]
            pixels = np.repeat(np.arange(len(runs)) % 2, runs).reshape(128, 128).T
            rows, columns = np.nonzero(pixels)
            assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == box and len(rows) == area


def test_one_background_is_behind_the_objects():
    objects, scenes = load_dataset("scenes-objects"), load_dataset("scenes")
    for item in scenes.items("val")[:10]:
        found, label = objects.label(item), scenes.label(item)
        names = ["background" if c < len(STUFF) else scenes.classes[c] for c in label[label != 255]]
        assert [objects.classes[c] for c in found[label != 255]] == names
        assert (found[label == 255] == 255).all() and objects.image_digest(item) == scenes.image_digest(item)
        assert objects.label_digest(item) != scenes.label_digest(item)
    assert objects.background == 0


@pytest.mark.parametrize("key", GOLDEN)
def test_two_frames_are_pinned(key):
    image, mask = render(*key)
    assert hashlib.sha256(image.tobytes() + mask.tobytes()).hexdigest() == GOLDEN[key]


def test_videos_have_all_their_frames_and_objects(videos):
    for frames in videos.sequences(videos.items("val")).values():
        masks = [videos.label(frame) for frame in frames]
        assert len(masks) == LENGTH and videos.objects(frames) in (2, 3, 4)
        assert {tuple(np.unique(mask)) for mask in masks} == {tuple(range(videos.objects(frames) + 1))}


def test_objects_move_a_little_from_frame_to_frame(videos):
    for frames in videos.sequences(videos.items("val")).values():
        masks = [videos.label(frame) for frame in frames]
        moved = [(before != after).mean() for before, after in itertools.pairwise(masks)]
        assert min(moved) > 0 and max(moved) < 0.1


def test_the_ground_and_the_objects_keep_their_look(videos):
    frames = videos.items("train")[:LENGTH]
    images = [np.asarray(videos.image(frame), np.float64) for frame in frames]
    masks = [videos.label(frame) for frame in frames]
    colours = [[image[mask == number].mean(0) for number in np.unique(mask)] for image, mask in zip(images, masks, strict=True)]
    assert np.ptp(np.array(colours), axis=0).max() < 12  # of 255: what is seen of a texture changes
