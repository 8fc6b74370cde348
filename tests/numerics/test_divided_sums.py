"""Sums that several processes divide are, bit for bit, those of one: for any number of them, and where some have nothing."""

from __future__ import annotations

import pytest
import torch
from heads_alone import CLASSES, FACTORS, RATES, SEEDS, SIZE, WIDTH, batch, heads
from logistic_by_loops import random_weights, soft_rows
from processes_as_threads import in_threads
from tiers import late

from densebench.evals.vos.scoring import portions
from densebench.numerics import sgd_layers
from densebench.numerics.logistic import fit, loss
from densebench.numerics.moments import mean_and_variance, of_sums, sums
from densebench.numerics.sgd_layers import labelled_pixels
from densebench.processes import add_all_parts, consecutive

SIZES = [1, 2, 3, 8]  # of the things that are divided there are 6


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("count", [0, 1, 6, 17])
def test_consecutive_work_is_all_work_in_its_order(size, count):
    shares = in_threads(size, lambda: list(consecutive(range(count))))
    assert [number for share in shares for number in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("size", SIZES)
def test_a_loss_over_divided_rows(size):
    x, y = soft_rows(53, 6, 4, dtype=torch.float32)
    weights, l2 = random_weights(3, 6, 4), torch.tensor([0.0, 0.3, 2.0], dtype=torch.float64)
    parts = list(zip(x.split(10), y.split(10), strict=True))
    expected = loss(lambda: parts, weights, l2)
    for values, gradients in in_threads(size, lambda: loss(lambda: consecutive(parts), weights, l2, add_all_parts)):
        assert torch.equal(values, expected[0])
        assert torch.equal(gradients, expected[1])


@pytest.mark.parametrize("size", late(SIZES, 2, 8))
def test_a_fit_to_divided_rows(size):
    x, y = soft_rows(53, 6, 4, dtype=torch.float32)
    parts = list(zip(x.split(10), y.split(10), strict=True))
    given = {"iterations": 30, "tolerance": 1e-7, "device": torch.device("cpu")}
    expected, minimum = fit(lambda: parts, 6, 4, (1e-3, 0.1), **given)
    found = in_threads(size, lambda: fit(lambda: consecutive(parts), 6, 4, (1e-3, 0.1), **given, adding=add_all_parts))
    for weights, reached in found:
        assert torch.equal(weights, expected)
        assert torch.equal(reached.iterations, minimum.iterations)


@pytest.mark.parametrize("size", SIZES)
def test_moments_of_divided_rows(size):
    parts = torch.randn(40, 5, generator=torch.Generator().manual_seed(1)).split([7, 0, 3, 20, 1, 9])

    def divided():
        total = torch.zeros(3, 5, dtype=torch.float64)
        add_all_parts([total], ([sums(part)] for part in consecutive(parts)))
        return of_sums(total)

    expected = mean_and_variance(parts)
    for found in in_threads(size, divided):
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("size", SIZES)
def test_steps_on_divided_images(monkeypatch, size):
    """Each part is one image, of five: with eight processes some have none."""
    monkeypatch.setattr(sgd_layers, "CHUNK", len(SEEDS) * len(RATES) * CLASSES * SIZE[0] * SIZE[1])

    def trained():
        layers, losses = heads(), []
        for number, factor in enumerate(FACTORS):
            features, labels = batch(number)
            mine = consecutive(layers.parts(features.shape[1], SIZE))
            own = slice(mine[0].start, mine[-1].stop) if mine else slice(0, 0)
            more = {"pixels": labelled_pixels(labels), "adding": add_all_parts}
            losses.append(layers.step(features[:, own], labels[:, own], factor, **more))
        return torch.stack(losses), layers.state()

    usual = heads()
    losses = torch.stack([usual.step(*batch(number), factor) for number, factor in enumerate(FACTORS)])
    assert len(usual.parts(5, SIZE)) == 5
    for found, state in in_threads(size, trained):
        assert torch.equal(found, losses)
        assert all(torch.equal(state[name], value) for name, value in usual.state().items())
        assert state["layer 0"].shape[1] == WIDTH + 1


@pytest.mark.parametrize("size", SIZES)
def test_costly_videos_are_dealt_out_first(size):
    costs = {"a": 3.0, "b": 50.0, "c": 20.0, "d": 20.0, "e": 9.0, "f": 1.0}
    shares = portions(costs, size)
    assert len(shares) == size
    assert sorted(name for share in shares for name in share) == sorted(costs)
    assert all(share == sorted(share) for share in shares)  # in the order of the videos
    loads = [sum(costs[name] for name in share) for share in shares]
    assert max(loads) == {1: 103.0, 2: 52.0, 3: 50.0, 8: 50.0}[size]
