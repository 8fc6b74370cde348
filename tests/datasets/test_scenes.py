from __future__ import annotations

import hashlib
import time

import numpy as np
import pytest

from densebench.datasets import load_dataset
from densebench.datasets.scenes import SIZE, Draw, render, scene

# SHA-256 of the bytes of image and label. A change here is a change of the data set: raise scenes.VERSION with it.
GOLDEN = {
    ("train", 0): "ad03238ccd406be29cd76bffed383943c8767048dbc7a88b7e7606a2261a2f53",
    ("train", 255): "eabfe8b113389c2569a03073921d2b92c92917b5e49d13ccafa6449f4fa3202c",
    ("val", 7): "159d431a2776a4ac9b50b0179f45eb9b5b2e4fdc81cb16829b5fe880927a22b6",
}


@pytest.fixture(scope="module")
def scenes():
    return load_dataset("scenes")


@pytest.fixture(scope="module")
def arrays(scenes):
    """Images [n, 128, 128, 3] in 0..1 and labels of 96 train and 32 val scenes."""
    return {
        split: (
            np.stack([np.asarray(scenes.image(item)) for item in scenes.items(split)[:count]]) / 255,
            np.stack([scenes.label(item) for item in scenes.items(split)[:count]]),
        )
        for split, count in (("train", 96), ("val", 32))
    }


@pytest.mark.parametrize("key", GOLDEN)
def test_three_scenes_are_pinned(key):
    image, label = render(*key)
    assert hashlib.sha256(image.tobytes() + label.tobytes()).hexdigest() == GOLDEN[key]


def test_random_numbers_are_raw_words_of_pcg64():
    words = np.random.PCG64([1, 2, 3]).random_raw(4)
    expected = [int(word >> np.uint64(11)) / 2**53 for word in words]
    draw = Draw(1, 2, 3)
    assert draw.uniform(shape=(2, 2)).ravel().tolist() == expected
    drawn = Draw(5).uniform(-2, 3, (1000,))
    assert -2 <= drawn.min() < -1.9 and 2.9 < drawn.max() < 3
    assert sorted(Draw(5).order(50)) == list(range(50))
    assert {Draw(seed).integer(3) for seed in range(40)} == {0, 1, 2}


def test_items_images_and_labels(scenes, arrays):
    assert [len(scenes.items(split)) for split in scenes.splits] == [256, 64]
    assert scenes.items("train")[3].name == "train-003"
    assert len(scenes.classes) == 8
    item = scenes.items("val")[5]
    image, label = scenes.image(item), scenes.label(item)
    assert image.mode == "RGB" and image.size == (SIZE, SIZE) == scenes.image_size(item)
    assert label.dtype == np.uint8 and label.shape == (SIZE, SIZE)
    label[:] = 0  # a caller may change what it got
    assert scenes.label(item).any()
    assert set(np.unique(arrays["train"][1])) == {*range(8), 255}
    assert scenes.verify() == []


def test_every_image_differs_and_every_split_has_every_class(scenes, arrays):
    for _, labels in arrays.values():
        assert len({label.tobytes() for label in labels}) == len(labels)
        shares = np.bincount(labels[labels != 255], minlength=8) / labels.size
        assert shares.min() > 0.02
        assert (shares[:3] > shares[3:].max()).all()  # stuff covers more than any kind of object
    shown = scenes.presence(scenes.items("val"))
    assert shown.sum(1).min() >= 4  # several classes in every image
    assert 0.15 < shown[:, 3:].mean() < 0.85


def test_rims_are_one_pixel_wide(arrays):
    labels = arrays["train"][1]
    assert 0.005 < (labels == 255).mean() < 0.06
    inner = labels == 255
    block = inner[:, :-2, :-2]
    for i in range(3):
        for j in range(3):
            block = block & inner[:, i : SIZE - 2 + i, j : SIZE - 2 + j]
    assert block.mean() < 1e-4  # no 3 x 3 block of rim


def test_digests_follow_the_item(scenes):
    first, second = scenes.items("train")[:2]
    assert scenes.image_digest(first) != scenes.image_digest(second)
    assert scenes.image_digest(first) != scenes.label_digest(first)
    assert scenes.image_digest(first) == load_dataset("scenes").image_digest(first)


def test_a_scene_is_rendered_fast():
    started = time.perf_counter()
    for index in range(10):
        scene.__wrapped__("train", index)
    assert (time.perf_counter() - started) / 10 < 0.1  # about 7 ms on an idle core


def patches(values: np.ndarray) -> np.ndarray:
    """Mean over patches of 16 x 16: [n, 128, 128, d] -> [n * 64, d]."""
    n, d = len(values), values.shape[-1]
    return values.reshape(n, 8, 16, 8, 16, d).mean((2, 4)).reshape(-1, d)


def colours(images: np.ndarray) -> np.ndarray:
    return patches(images)


def gradients(images: np.ndarray) -> np.ndarray:
    """Per patch: a sorted histogram of gradient orientations, gradient strength and fine detail relative to contrast."""
    grey = images.mean(-1)
    dy, dx = np.gradient(grey, axis=(1, 2))
    strength, angle = np.hypot(dx, dy), np.arctan2(dy, dx) % np.pi
    bins = np.minimum((angle / np.pi * 8).astype(int), 7)
    histogram = -np.sort(-patches(np.eye(8)[bins] * strength[..., None]), axis=1)
    histogram /= histogram.sum(1, keepdims=True) + 1e-6
    contrast = np.sqrt(np.maximum(patches(grey[..., None] ** 2) - patches(grey[..., None]) ** 2, 1e-6))
    blurred = sum(np.roll(grey, (i, j), (1, 2)) for i in (-1, 0, 1) for j in (-1, 0, 1)) / 9
    detail = patches(np.abs(grey - blurred)[..., None])
    return np.concatenate([histogram, 0.5 * patches(strength[..., None]) / contrast, 0.5 * detail / contrast], axis=1)


def accuracy(describe, arrays) -> float:
    """Share of val patches whose nearest train patch has the same majority class, patches of each class weighted alike."""
    (train, train_labels), (val, val_labels) = arrays["train"], arrays["val"]
    memory, queries = describe(train), describe(val)
    mean, scale = memory.mean(0), memory.std(0) + 1e-9
    memory, queries = (memory - mean) / scale, (queries - mean) / scale
    distances = (queries**2).sum(1)[:, None] - 2 * queries @ memory.T + (memory**2).sum(1)
    hits = patches(np.eye(256, 8)[train_labels]).argmax(1)[distances.argmin(1)]
    truth = patches(np.eye(256, 8)[val_labels]).argmax(1)
    return float(np.mean([(hits[truth == label] == label).mean() for label in range(8)]))


def raw(images: np.ndarray) -> np.ndarray:
    """The pixels of each patch, as they are."""
    n = len(images)
    return images.reshape(n, 8, 16, 8, 16, 3).transpose(0, 1, 3, 2, 4, 5).reshape(n * 64, -1)


@pytest.mark.slow
def test_colour_is_a_hint_that_grain_hides_from_pixels(arrays):
    """Chance is 0.125. A patch's mean colour helps and does not decide; its single pixels help much less; texture shows
    through."""
    assert 0.35 < accuracy(colours, arrays) < 0.7
    assert accuracy(raw, arrays) < accuracy(colours, arrays) - 0.1
    assert accuracy(gradients, arrays) > 0.2
