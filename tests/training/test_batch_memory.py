"""The memory that batches take: no padding, a bound on what is decoded ahead, and page-locked copies for a GPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from few_images import VIEWS, Few
from torch.utils.data._utils.pin_memory import pin_memory

from densebench.numerics import crops
from densebench.numerics.crops import Pictures
from densebench.training.augmentation import ViewSpec
from densebench.training.batches import Order, Reader, collate, load_batches

WHOLE = (ViewSpec(32, (1.0, 1.0)),)
SIZES = [(30, 40), (1, 1), (25, 60), (90, 20), (40, 40), (3, 80)]


def samples(sizes, recipes=WHOLE):
    """Noise of these sizes (h, w), with views drawn as the loader draws them."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    tables = [np.stack([recipe.draw(size[1], size[0], rng) for recipe in recipes]) for size in sizes]
    return [(image, table, number, ()) for number, (image, table) in enumerate(zip(images, tables, strict=True))]


def boxes(sizes, seed=0):
    """A random box inside each image."""
    rng = np.random.default_rng(seed)
    found = []
    for height, width in sizes:
        top, left = int(rng.integers(height)), int(rng.integers(width))
        found.append((top, left, int(rng.integers(1, height - top + 1)), int(rng.integers(1, width - left + 1))))
    return found


def test_one_huge_image_costs_its_own_bytes_only():
    small, huge = 3 * 50 * 37, 3 * 1000 * 900
    batch = collate(samples([(50, 37)] * 40 + [(1000, 900)] + [(37, 50)] * 40))
    assert batch.pixels.nbytes <= 80 * small + huge


def test_boxes_are_cut_out_of_images_of_any_sizes():
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in SIZES]
    wanted = [image[y : y + h, x : x + w] for image, (y, x, h, w) in zip(images, boxes(SIZES), strict=True)]
    for interleaved in (False, True):
        rows = [row for stack in Pictures.of(images, interleaved).cut(torch.tensor(boxes(SIZES)).float()) for row in stack]
        for row, part in zip(rows, wanted, strict=True):
            assert np.array_equal(row.permute(1, 2, 0), part)


@pytest.mark.parametrize("interleaved", [False, True])
def test_a_stack_has_every_box_at_its_top_left(interleaved):
    """Around it there are only bytes of the box itself, so that the last image reads nothing behind the buffer."""
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in SIZES]
    cut = torch.tensor(boxes(SIZES))
    pictures = Pictures.of(images, interleaved)
    parts = (pictures.starts(cut[:, :2]), pictures.layout[:, 1:], cut[:, 2:])
    found = crops.stack(pictures.buffers[0], *parts, (96, 88), interleaved)
    assert found.shape == (len(SIZES), 3, 96, 88)
    for row, image, (y, x, h, w) in zip(found, images, boxes(SIZES), strict=True):
        part = image[y : y + h, x : x + w]
        assert np.array_equal(row.permute(1, 2, 0), np.pad(part, ((0, 96 - h), (0, 88 - w), (0, 0)), mode="edge"))


@pytest.mark.parametrize("limit", [1, 40_000, 10**9])
def test_stacks_are_as_large_as_is_allowed(limit, monkeypatch):
    monkeypatch.setattr(crops, "CHUNK_BYTES", limit)
    heights, widths = zip(*SIZES, strict=True)
    runs = list(crops.chunks(heights, widths))
    assert len(runs) == {1: 6, 40_000: 5, 10**9: 1}[limit]
    assert [number for begin, end in runs for number in range(begin, end)] == list(range(len(SIZES)))
    for begin, end in runs:
        assert end - begin == 1 or 12 * (end - begin) * max(heights[begin:end]) * max(widths[begin:end]) <= limit


def test_joined_pictures_are_those_of_the_parts():
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in SIZES]
    joined = Pictures.join([Pictures.of(images[:2]), Pictures.of(images[2:3]), Pictures.of(images[3:])])
    assert joined.nbytes == sum(image.size for image in images)
    cut = joined.to(torch.device("cpu")).cut(torch.tensor([(0, 0, *size) for size in SIZES]).float())
    assert all(np.array_equal(stack[0].permute(1, 2, 0), image) for stack, image in zip(cut, images, strict=True))


@pytest.mark.slow
def test_batches_that_workers_decode_in_pieces_are_whole():
    keys = Order(90, 80, seed=2).micro_batches(0, 2)
    reader = Reader(Few(90, broken=(9,)), VIEWS, seed=0)
    for batch, part in zip(load_batches(reader, keys, 2, pin=False), Order(90, 80, seed=2).micro_batches(0, 2), strict=True):
        wanted = collate([reader[key] for key in part])
        assert torch.equal(batch.numbers, wanted.numbers)
        assert torch.equal(batch.offsets, wanted.offsets)
        assert batch.broken == wanted.broken
        assert all(torch.equal(a.table, b.table) for a, b in zip(batch.draws, wanted.draws, strict=True))
        assert torch.equal(torch.cat(batch.pixels.buffers), torch.cat(wanted.pixels.buffers))
        assert torch.equal(batch.pixels.layout, wanted.pixels.layout)


@pytest.mark.slow
def test_two_batches_are_decoded_ahead_and_not_more_for_every_worker():
    asked = []

    def keys():
        for part in Order(200, 100, seed=0).micro_batches(0, 40):
            asked.append(part)
            yield part

    batches = load_batches(Reader(Few(200), VIEWS, seed=0), keys(), workers=2, pin=False)
    next(batches)
    assert len(asked) <= 4  # this one, two ahead, and a part of the next
    batches.close()


def test_a_batch_is_page_locked_whole(monkeypatch):
    """A loader with `pin_memory=True` pins the bytes of the images in one piece, and nothing of the batch is lost."""
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: pinned.append(self.data_ptr()) or self.clone())
    batch = collate(samples(SIZES, VIEWS))
    found = pin_memory(batch)
    assert pinned == [batch.pixels.buffers[0].data_ptr()]
    assert torch.equal(found.pixels.buffers[0], batch.pixels.buffers[0])
    assert torch.equal(found.pixels.layout, batch.pixels.layout)
    assert torch.equal(found.numbers, batch.numbers)
    assert torch.equal(found.offsets, batch.offsets)
    assert all(torch.equal(a.table, b.table) for a, b in zip(found.draws, batch.draws, strict=True))
