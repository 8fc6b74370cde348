"""Views rendered together, as on a GPU, are those that are rendered one by one, as on a CPU."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from drawn_colours import ORDERS, crowd, draws_of, row
from few_images import VIEWS, Few

from densebench.numerics import crops
from densebench.numerics.crops import Pictures
from densebench.training import augmentation, rendering
from densebench.training.augmentation import ViewSpec
from densebench.training.batches import Batch, Reader, collate
from densebench.training.rendering import plan_views, render_views

CPU = torch.device("cpu")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SPECS = (*VIEWS, ViewSpec(16, (0.05, 0.4), jitter=0.5, blur=0.0), ViewSpec(32, (0.3, 1.0), kernel="bilinear"))


def batch_of(specs=SPECS, interleaved=False, numbers=range(12)):
    return collate([Reader(Few(20), specs, seed=0)[1, number] for number in numbers], interleaved)


def one_by_one(batch, specs=SPECS):
    return render_views(batch.pixels, batch.offsets, batch.draws, specs, (), MEAN, STD)


def together(batch, specs=SPECS):
    batch = batch.on(CPU, specs)
    assert batch.plans
    return render_views(batch.pixels, batch.offsets, batch.draws, specs, batch.plans, MEAN, STD)


@pytest.mark.parametrize("interleaved", [False, True])
def test_views_rendered_together_are_those_of_the_cpu(interleaved):
    """But for the rounding of the resizing, which hue and normalising magnify."""
    for found, wanted in zip(together(batch_of(interleaved=interleaved)), one_by_one(batch_of()), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=2e-5)


@pytest.mark.parametrize("limit", [1, 40_000, 10**9])
def test_with_the_same_resizing_they_are_equal_bit_for_bit(limit, monkeypatch):
    """Whatever the stacks and the groups are."""
    monkeypatch.setattr(crops, "CHUNK_BYTES", limit)
    monkeypatch.setattr(rendering, "GROUP_BYTES", limit)
    monkeypatch.setattr(augmentation, "resized_crops", crops.matrix_crops)
    batch = batch_of()
    assert len(batch.on(CPU, SPECS).plans) == {1: 5, 40_000: 5, 10**9: 3}[limit]
    for found, wanted in zip(together(batch), one_by_one(batch), strict=True):
        assert torch.equal(found, wanted)


def test_every_order_of_the_jitter_and_every_look(monkeypatch):
    """Each of 24 images has its own order of operations; grey, blur and solarise in all combinations."""
    monkeypatch.setattr(augmentation, "resized_crops", crops.matrix_crops)
    x, rows = crowd()
    rows = [[0, 0, *x.shape[2:], *values[4:]] for values in rows]
    images = Pictures.of([(image.permute(1, 2, 0) * 255).to(torch.uint8).numpy() for image in x])
    batch = Batch(images, torch.zeros(24, 2), (draws_of(*rows),), torch.arange(24))
    specs = (ViewSpec(16, (1.0, 1.0)),)
    assert torch.equal(together(batch, specs)[0], one_by_one(batch, specs)[0])


@pytest.mark.parametrize(
    "own",
    [
        {"jitter": 0},
        {"jitter": 1, "strengths": (1.2, 0.8, 1.1, 0.05), "order": ORDERS[7]},
        {"grey": 1, "sigma": 1.5, "solarise": 1},
        {"flip": 1},
    ],
)
def test_where_all_images_are_treated_alike(own, monkeypatch):
    """So that operations have no image, or none is left over."""
    monkeypatch.setattr(augmentation, "resized_crops", crops.matrix_crops)
    batch = batch_of(numbers=range(3))
    draws = draws_of(*(row((int(top), int(left), 9, 12), **own) for top, left in batch.offsets))
    batch, specs = replace(batch, draws=(draws,)), SPECS[:1]
    assert torch.equal(together(batch, specs)[0], one_by_one(batch, specs)[0])


def test_plans_read_nothing_of_the_device():
    """They are made of arrays on the host, and say how many images each kernel gets."""
    batch = batch_of()
    plans = plan_views(batch.pixels, batch.offsets, np.stack([draws.table.numpy() for draws in batch.draws]), SPECS)
    assert [plan.views for plan in plans] == [(0, 1), (2, 3), (4,)]
    for plan in plans:
        assert all(isinstance(array, np.ndarray) for array in plan.arrays.values())
        jittered = sum(int((batch.draws[view].table[:, 5] > 0).sum()) for view in plan.views)
        assert [ends[-1][1] for ends in plan.slices] == [jittered] * 4
        assert plan.stacks[0][0] == 0
        assert plan.stacks[-1][1] == 12 * len(plan.views)


def test_a_batch_that_was_moved_is_the_same():
    batch = batch_of()
    moved = batch.on(CPU, SPECS)
    assert torch.equal(moved.numbers, batch.numbers)
    for found, wanted in zip(moved.draws, batch.draws, strict=True):
        assert torch.equal(found.table, wanted.table)
        assert torch.equal(found.on(CPU).table, wanted.table)
        assert torch.equal(found.first(5).on(CPU).boxes, wanted.boxes[:5])
