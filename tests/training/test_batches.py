"""Batches: the order of images over epochs, processes and parts; broken files; what of each image is kept; seeds."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from few_images import VIEWS, Few
from hypothesis import given, settings
from hypothesis import strategies as st

from densebench.errors import UserError
from densebench.numerics.crops import Pictures
from densebench.numerics.seeds import permutation, seed_of
from densebench.training.augmentation import render
from densebench.training.batches import Order, Reader, collate, load_batches


def keys(order, first, last):
    return list(order.micro_batches(first, last))


def flat(parts):
    return list(itertools.chain.from_iterable(parts))


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 99), st.integers(1, 3))
def test_no_image_twice_in_an_epoch(images, batch, seed, epochs):
    batch = min(batch, images)
    order = Order(images, batch, seed)
    assert order.steps == images // batch
    parts = keys(order, 0, epochs * order.steps)
    assert [len(part) for part in parts] == [batch] * (epochs * order.steps)
    for epoch in range(epochs):
        seen = flat(parts[epoch * order.steps : (epoch + 1) * order.steps])
        assert {key[0] for key in seen} == {epoch}
        numbers = [number for _, number in seen]
        assert len(set(numbers)) == len(numbers) == order.steps * batch
        assert set(numbers) <= set(range(images))


def test_every_image_has_its_turn_where_batches_fill_the_epoch():
    order = Order(24, 6, seed=1)
    for epoch in range(3):
        assert sorted(number for _, number in flat(keys(order, 4 * epoch, 4 * epoch + 4))) == list(range(24))


def test_images_that_filled_no_batch_are_not_left_out_for_ever():
    order = Order(11, 4, seed=0)
    seen = {number for _, number in flat(keys(order, 0, 20 * order.steps))}
    assert seen == set(range(11))


def test_epochs_and_seeds_have_their_own_orders():
    first = keys(Order(50, 10, seed=0), 0, 10)
    other = keys(Order(50, 10, seed=1), 0, 10)
    numbers = [[number for _, number in flat(parts)] for parts in (first[:5], first[5:], other[:5])]
    assert sorted(numbers[0]) == sorted(numbers[1]) == sorted(numbers[2]) == list(range(50))
    assert numbers[0] != numbers[1] != numbers[2] != numbers[0]
    assert numbers[0] != list(range(50))
    assert keys(Order(50, 10, seed=0), 0, 10) == first


@pytest.mark.parametrize(("world", "accumulate"), [(2, 2), (4, 1), (1, 4), (1, 1), (2, 1)])
def test_processes_and_parts_see_together_what_one_sees(world, accumulate):
    """Laid side by side, part by part and rank by rank, they are the very batches of a single process."""
    alone = keys(Order(37, 8, seed=3), 0, 9)
    ranks = [keys(Order(37, 8, seed=3, rank=rank, world=world, accumulate=accumulate), 0, 9) for rank in range(world)]
    assert all(len(parts) == 9 * accumulate for parts in ranks)
    assert all(len(part) == 8 // (world * accumulate) for parts in ranks for part in parts)
    for step in range(9):
        shares = [part for parts in ranks for part in parts[step * accumulate : (step + 1) * accumulate]]
        assert sorted(flat(shares)) == sorted(alone[step])
        assert flat(shares) == alone[step]


@pytest.mark.parametrize("first", [0, 1, 3, 4, 5, 9])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_goes_on_with_the_same_keys(first, accumulate):
    order = Order(17, 4, seed=5, rank=1, world=2, accumulate=accumulate)
    whole = keys(order, 0, 10)
    assert keys(order, first, 10) == whole[first * accumulate :]
    assert keys(order, 0, first) + keys(order, first, 10) == whole
    assert keys(order, 4, 4) == []


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(UserError, match=r"--batch-size 12.*10 images"):
        Order(10, 12, seed=0)
    assert Order(10, 10, seed=0).steps == 1


@pytest.mark.parametrize(("world", "accumulate"), [(3, 1), (1, 3), (2, 4)])
def test_a_batch_that_cannot_be_split_is_refused(world, accumulate):
    with pytest.raises(UserError, match=rf"--batch-size 4.*{world}.*{accumulate}"):
        Order(100, 4, seed=0, world=world, accumulate=accumulate)


def test_a_permutation_is_a_permutation():
    assert sorted(permutation(100, 0, 0).tolist()) == list(range(100))
    assert permutation(1, 0, 0).tolist() == [0]
    state = torch.random.get_rng_state()
    permutation(99, 7, 8)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_sample_depends_on_seed_epoch_and_image_alone():
    reader = Reader(Few(20), VIEWS, seed=0)
    pixels, draws, number, broken = reader[0, 5]
    assert pixels.dtype == np.uint8
    assert pixels.shape == (40, 40, 3)
    assert (pixels[..., 2] == 5).all()
    assert draws.shape == (3, 17)
    assert number == 5
    assert broken == ()
    for other in ((0, 6), (3, 5), (1, 0)):
        reader[other]
    assert np.array_equal(reader[0, 5][1], draws)
    assert np.array_equal(Reader(Few(20), VIEWS, seed=0)[0, 5][1], draws)
    assert not np.array_equal(Reader(Few(20), VIEWS, seed=1)[0, 5][1], draws)
    assert not np.array_equal(reader[1, 5][1], draws)
    twin = Few(20)
    twin.open = lambda index: Few(20).open(5)  # all images equal: only their numbers tell their draws apart
    assert not np.array_equal(Reader(twin, VIEWS, seed=0)[0, 6][1], draws)


def test_views_of_an_image_are_drawn_apart():
    _, draws, _, _ = Reader(Few(20), (VIEWS[0], VIEWS[0]), seed=0)[0, 5]
    assert not np.array_equal(draws[0], draws[1])


def test_boxes_lie_in_the_image_that_is_shown():
    reader = Reader(Few(20), VIEWS, seed=0)
    for number in range(20):
        pixels, draws, _, _ = reader[0, number]
        height, width = pixels.shape[:2]
        assert (draws[:, 0] + draws[:, 2] <= height).all()
        assert (draws[:, 1] + draws[:, 3] <= width).all()


def test_a_broken_file_is_replaced_by_the_next_and_reported():
    reader = Reader(Few(20, broken=(4, 5, 19)), VIEWS, seed=0)
    pixels, draws, number, broken = reader[2, 4]
    assert number == 6
    assert broken == ("image 4", "image 5")
    assert (pixels[..., 2] == 6).all()
    whole = reader[2, 6]
    assert np.array_equal(whole[0], pixels)
    assert np.array_equal(whole[1], draws)
    assert whole[3] == ()
    assert reader[0, 19][2:] == (0, ("image 19",))  # after the last comes the first


def test_a_batch_reports_all_broken_files():
    reader = Reader(Few(20, broken=(4, 19)), VIEWS, seed=0)
    batch = collate([reader[0, 4], reader[0, 7], reader[0, 19]])
    assert batch.numbers.tolist() == [5, 7, 0]
    assert batch.broken == ("image 4", "image 19")


def test_only_the_rectangle_around_the_views_is_kept():
    samples = [Reader(Few(20), VIEWS, seed=0)[1, number] for number in (3, 11, 8, 16)]
    batch = collate(samples)
    assert batch.numbers.tolist() == [3, 11, 8, 16]
    assert len(batch.draws) == 3
    parts = []
    for i, (image, draws, _, _) in enumerate(samples):
        boxes = draws[:, :4].astype(int)
        top, left = min(box[0] for box in boxes), min(box[1] for box in boxes)
        bottom, right = max(box[0] + box[2] for box in boxes), max(box[1] + box[3] for box in boxes)
        parts.append(image[top:bottom, left:right])
        assert batch.offsets[i].tolist() == [top, left]
        for view in range(3):
            assert np.array_equal(batch.draws[view].table[i], draws[view])
    kept = list(batch.pixels.cut(torch.tensor([[0.0, 0.0, *part.shape[:2]] for part in parts])))
    assert all(stack.dtype == torch.uint8 for stack in kept)
    assert all(np.array_equal(stack[0].permute(1, 2, 0), part) for stack, part in zip(kept, parts, strict=True))
    assert batch.pixels.nbytes == sum(part.size for part in parts)


def test_kept_parts_render_like_whole_images():
    samples = [Reader(Few(20), VIEWS, seed=0)[1, number] for number in (3, 11, 8, 16)]
    batch = collate(samples)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    for view, recipe in enumerate(VIEWS):
        together = render(batch.pixels, batch.offsets, batch.draws[view], recipe, mean, std)
        for i, sample in enumerate(samples):
            alone = render(Pictures.of([sample[0]]), torch.zeros(1, 2), collate([sample]).draws[view], recipe, mean, std)
            torch.testing.assert_close(together[i], alone[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("workers", [0, 1])
def test_loaded_batches_follow_the_keys(workers):
    order = Order(20, 4, seed=2)
    reader = Reader(Few(20, broken=(9,)), VIEWS, seed=0)
    loaded = list(load_batches(reader, order.micro_batches(2, 6), workers, pin=False))
    assert len(loaded) == 4
    for batch, part in zip(loaded, order.micro_batches(2, 6), strict=True):
        wanted = collate([reader[key] for key in part])
        assert batch.numbers.tolist() == wanted.numbers.tolist() == [number if number != 9 else 10 for _, number in part]
        assert batch.broken == wanted.broken
        boxes = [draws.boxes - torch.cat([batch.offsets, torch.zeros(4, 2)], dim=1) for draws in batch.draws]
        for view in boxes:
            kept, there = (list(own.to(torch.device("cpu")).cut(view)) for own in (batch.pixels, wanted.pixels))
            assert all(torch.equal(a, b) for a, b in zip(kept, there, strict=True))
        assert torch.equal(batch.offsets, wanted.offsets)
        assert all(torch.equal(a.table, b.table) for a, b in zip(batch.draws, wanted.draws, strict=True))


def test_seeds_tell_words_apart():
    words = [
        (seed, name, *rest) for seed in (0, 1, -1, 2**40) for name in ("order", "views", "noise") for rest in ((0, 1), (1, 0))
    ]
    words += [(0, "views", 1, 23), (0, "views", 12, 3), (0, "views", 123, 0), (0, "views", 0, 123)]
    seeds = [seed_of(*word) for word in words]
    assert len(set(seeds)) == len(words)
    assert all(isinstance(seed, int) and 0 <= seed < 2**63 for seed in seeds)
    assert seeds == [seed_of(*word) for word in words]
    many = {seed_of(0, "views", epoch, number) for epoch in range(20) for number in range(200)}
    assert len(many) == 4000
    assert max(many) > 2**62


def test_seeds_read_a_word_to_its_end():
    assert seed_of(0, "permutation of images", 0) != seed_of(0, "permutation of views", 0)


@pytest.mark.slow
def test_seeds_are_the_same_in_every_process():
    code = "from densebench.numerics.seeds import seed_of; print(seed_of(3, 'views', 1, 2))"
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert int(done.stdout) == seed_of(3, "views", 1, 2)
