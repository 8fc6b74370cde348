"""Objectives: noise that is the same on any number of processes, and views that know where they are."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from densebench.numerics.crops import patch_positions
from densebench.training.augmentation import AugmentParams
from densebench.training.objective import StepContext, Views

CPU = torch.device("cpu")
CONTEXT = StepContext(step=7, epoch=1, epochs=10.0, scheduled={"teacher_temp": 0.04}, seed=3)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 5), st.sampled_from([(), (1,), (5,), (2, 3)]))
def test_slices_of_noise_add_up_to_the_whole(world, parts, images, shape):
    """Rank by rank and, within a rank, part by part: the way a batch is split."""
    whole = CONTEXT.noise(world * parts * images, *shape, device=CPU)
    assert whole.shape == (world * parts * images, *shape)
    slices = [
        dataclasses.replace(CONTEXT, rank=rank, world=world, part=part, parts=parts).noise(images, *shape, device=CPU)
        for rank in range(world)
        for part in range(parts)
    ]
    assert all(piece.shape == (images, *shape) for piece in slices)
    assert torch.equal(torch.cat(slices), whole)


def test_noise_is_uniform_in_the_unit_interval():
    noise = CONTEXT.noise(100, 50, device=CPU)
    assert noise.dtype == torch.float32
    assert noise.min() >= 0
    assert noise.max() < 1
    assert noise.mean().item() == pytest.approx(0.5, abs=0.02)
    assert noise.std().item() == pytest.approx(12**-0.5, abs=0.01)
    assert len(noise.unique()) > 4900


def test_noise_is_a_function_of_seed_step_and_name():
    noise = CONTEXT.noise(4, 5, device=CPU)
    assert torch.equal(CONTEXT.noise(4, 5, device=CPU), noise)
    for other in ({"step": 8}, {"seed": 4}):
        assert not torch.equal(dataclasses.replace(CONTEXT, **other).noise(4, 5, device=CPU), noise)
    assert not torch.equal(CONTEXT.noise(4, 5, device=CPU, name="other"), noise)
    for same in ({"epoch": 2}, {"scheduled": {"teacher_temp": 0.07}}, {"logging": True}):
        assert torch.equal(dataclasses.replace(CONTEXT, **same).noise(4, 5, device=CPU), noise)


def test_noise_leaves_torchs_own_generator_alone():
    before = torch.random.get_rng_state()
    first = CONTEXT.noise(4, 5, device=CPU)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(99)
    assert torch.equal(CONTEXT.noise(4, 5, device=CPU), first)
    torch.random.set_rng_state(before)


def test_views_know_where_their_patches_are():
    tables = [torch.zeros(2, 17) for _ in range(2)]
    tables[0][:, :4] = torch.tensor([[37.0, 101.0, 300.0, 280.0], [0.0, 0.0, 32.0, 32.0]])
    tables[1][:, :5] = torch.tensor([[37.0, 101.0, 300.0, 280.0, 1.0], [5.0, 6.0, 64.0, 32.0, 0.0]])
    views = Views((torch.zeros(2, 3, 32, 32),) * 2, tuple(AugmentParams(table) for table in tables), torch.tensor([4, 9]))
    first, second = (views.positions(view, (14, 14)) for view in range(2))
    assert first[0, 0].tolist() == pytest.approx([110.5, 47.2143], abs=1e-4)
    assert second[0, 0].tolist() == pytest.approx([370.5, 47.2143], abs=1e-4)
    torch.testing.assert_close(second, patch_positions(tables[1][:, :4], torch.tensor([True, False]), (14, 14)))


def test_the_first_few_images_keep_all_their_views():
    tables = [torch.rand(5, 17) for _ in range(2)]
    views = Views(
        tuple(torch.rand(5, 3, 8, 8) for _ in range(2)), tuple(AugmentParams(table) for table in tables), torch.arange(5)
    )
    few = views.few(2)
    assert (len(views), len(few)) == (5, 2)
    assert few.numbers.tolist() == [0, 1]
    for view in range(2):
        assert torch.equal(few.pixels[view], views.pixels[view][:2])
        assert torch.equal(few.draws[view].table, tables[view][:2])
