"""Reference patches of NeCo: who gets whose patches, what a queue holds, and what is foreground."""

from __future__ import annotations

import pytest
import torch

from densebench.numerics.foreground import foreground
from densebench.pretrain.neco.references import PatchQueue, deal, draw, pick


def hands(b, p, count, others=None, wanted=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(b, p, generator=generator)
    shifts = torch.rand(p, b - 1 if others is None else others, generator=generator)
    return deal(noise, shifts, count, wanted)


@pytest.mark.parametrize(("b", "p"), [(2, 4), (5, 9), (7, 49)])
def test_every_patch_is_dealt_once_and_never_to_its_own_image(b, p):
    dealt = hands(b, p, p)
    assert sorted(dealt.flatten().tolist()) == list(range(b * p))
    assert all(image not in (dealt[image] // p).tolist() for image in range(b))


def test_more_references_than_patches_repeat_none_while_others_are_left():
    b, p = 5, 4
    dealt = hands(b, p, (b - 1) * p)
    for image in range(b):
        own = set(range(image * p, image * p + p))
        assert sorted(dealt[image].tolist()) == sorted(set(range(b * p)) - own)
    assert len(set(hands(b, p, 2 * p)[0].tolist())) == 2 * p


def test_a_hand_mixes_images_and_is_random():
    one, other = hands(8, 16, 16, seed=1), hands(8, 16, 16, seed=2)
    assert not torch.equal(one, other)
    assert all(len(set((hand // 16).tolist())) >= 4 for hand in one)
    first = torch.stack([hands(6, 3, 3, seed=s)[0, 0] // 3 for s in range(600)]).bincount(minlength=6)
    assert first[0] == 0
    assert first[1:].min() > 80  # each of the five others about 120 times


def test_alone_or_intra_an_image_gets_its_own_patches():
    assert sorted(hands(1, 6, 6).flatten().tolist()) == list(range(6))
    dealt = hands(3, 6, 9, others=0)
    assert all(set((hand // 6).tolist()) == {image} for image, hand in enumerate(dealt))
    assert all(len(set(hand[:6].tolist())) == 6 for hand in dealt)


def test_only_wanted_patches_are_dealt_if_there_are_any():
    wanted = torch.tensor([[True, False, True, False], [False, False, False, True], [True] * 4])
    dealt = hands(3, 4, 12, wanted=wanted)
    assert bool(wanted.flatten()[dealt].all())
    assert {3 + 4} == {place for hand in dealt for place in hand.tolist() if place // 4 == 1}
    none = hands(2, 4, 4, wanted=torch.zeros(2, 4, dtype=torch.bool))
    assert none.min() >= 0
    assert none.max() < 8


def test_patches_of_least_noise_are_drawn_and_repeat_only_if_there_are_too_few():
    noise = torch.rand(6, 10, generator=torch.Generator().manual_seed(0))
    assert draw(noise, 3).tolist() == noise.flatten().argsort()[:3].tolist()
    assert sorted(draw(noise, 60).tolist()) == list(range(60))
    assert draw(noise, 65)[60:].tolist() == draw(noise, 5).tolist()


def patches(b, n, first=0):
    """Views 0 and 1 of b images: the first coordinate tells the image, the second the patch, the third the view."""
    table = torch.zeros(2, b, n, 3)
    table[..., 0] = torch.arange(first, first + b)[:, None]
    table[..., 1] = torch.arange(n)
    table[1, ..., 2] = 1
    return table


def test_the_queue_holds_the_newest_patches_first_and_nothing_that_was_never_written():
    queue = PatchQueue(2, 5, 3)
    noise = torch.tensor([[0.9, 0.1, 0.2], [0.3, 0.8, 0.1]]).repeat(2, 1, 1)
    noise[1, 0, 0] = 0.0
    pool = queue.see(patches(2, 3), noise, 2)
    assert pool.shape == (2, 4, 3)
    assert pool[0, :, :2].tolist() == [[0, 1], [0, 2], [1, 2], [1, 0]]  # the patches of least noise
    assert pool[1].tolist() == [[0, 0, 1], [0, 1, 1], [1, 2, 1], [1, 0, 1]]  # each view by its own noise
    assert queue.stored == 0
    queue.commit()
    pool = queue.see(patches(2, 3, first=7), noise, 2)
    assert pool[0, :, 0].tolist() == [7, 7, 8, 8, 0]
    queue.discard()
    queue.commit()
    assert queue.rows[0, :4, 0].tolist() == [0, 0, 1, 1]
    assert int(queue.filled) == 4
    queue.see(patches(2, 3, first=7), noise, 2)
    queue.commit()
    assert queue.rows[1, :, 0].tolist() == [7, 7, 8, 8, 0]
    assert int(queue.filled) == 5


def test_a_queue_that_was_loaded_knows_how_far_it_is_filled():
    queue, other = PatchQueue(2, 6, 3), PatchQueue(2, 6, 3)
    queue.see(patches(2, 3), torch.rand(2, 2, 3), 1)
    queue.commit()
    assert other.stored == 0
    other.load_state_dict(queue.state_dict())
    assert other.stored == 2
    assert other.see(patches(1, 3, first=9), torch.rand(2, 1, 3), 1).shape[1] == 3


def test_micro_batches_of_a_step_enter_the_queue_together():
    queue = PatchQueue(2, 8, 3)
    for first in (0, 2):
        assert queue.see(patches(2, 3, first=first), torch.rand(2, 2, 3), 1).shape[1] == 2
    queue.commit()
    assert queue.rows[0, :4, 0].tolist() == [0, 1, 2, 3]


def test_images_take_turns_in_a_pool_as_if_they_were_one_batch():
    pool, order = torch.arange(10.0)[:, None], torch.randperm(10, generator=torch.Generator().manual_seed(0))
    whole = pick(pool, order, 0, 4, 3)
    assert torch.equal(whole, torch.cat([pick(pool, order, 0, 2, 3), pick(pool, order, 2, 2, 3)]))
    assert whole[:3].flatten().tolist() == order[:9].tolist()
    assert whole[3].flatten().tolist() == [float(order[9]), float(order[0]), float(order[1])]


def test_the_foreground_is_the_smallest_part_with_the_mass():
    attention = torch.full((1, 81), 1e-6)
    attention[0, [40, 41]] = torch.tensor([0.6, 0.4])
    mask = foreground(attention, (9, 9), 0.6)[0]
    assert mask[40]
    smooth = mask.view(9, 9).nonzero().tolist()
    assert all(abs(row - 4) <= 1 and abs(column - 4) <= 2 for row, column in smooth)
    sizes = [int(foreground(attention, (9, 9), mass).sum()) for mass in (0.2, 0.6, 0.9, 1.0)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[2] < sizes[3] == 81


def test_the_mass_is_reached_and_would_not_be_with_one_patch_less():
    generator = torch.Generator().manual_seed(3)
    attention = torch.rand(4, 30, generator=generator) ** 4
    mask = foreground(attention, (5, 6), 0.6)
    steps = torch.arange(-3, 4)
    taps = torch.exp(-0.5 * (steps / 0.6) ** 2)
    taps = taps / taps.sum()
    for image in range(4):
        grid, smooth = attention[image].view(5, 6), torch.zeros(5, 6)
        for row in range(5):
            for column in range(6):
                for i, down in enumerate(steps.tolist()):
                    for j, across in enumerate(steps.tolist()):
                        here = grid[4 - abs(4 - abs(row + down)), 5 - abs(5 - abs(column + across))]  # mirrored
                        smooth[row, column] += taps[i] * taps[j] * here
        share = smooth.flatten() / smooth.sum()
        held = share[mask[image]]
        assert held.sum() >= 0.6 - 1e-6
        assert held.sum() - held.min() < 0.6
        assert held.min() >= share[~mask[image]].max()
