"""Linear heads trained together: batches without labels, rates that diverge, chunks, saved states."""

from __future__ import annotations

import io
import math

import pytest
import torch
from heads_alone import CLASSES, FACTORS, RATES, SEEDS, SIZE, batch, close, heads, same, trained
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from densebench.numerics import sgd_layers as module


def test_a_batch_without_a_labelled_pixel_costs_nothing_and_breaks_nothing():
    def blank(features, labels):
        labels = labels.clone()
        labels[0] = 255
        return features, labels

    given, usual = heads(), heads()
    first = trained(given, [0])
    same(first, trained(usual, [0]))
    losses = trained(given, [1], blank)
    same(losses[0, 0], torch.zeros(len(RATES)))
    same(losses[0, 1], trained(usual, [1])[0, 1])
    assert given.weights.isfinite().all()
    same(given.weights[1], usual.weights[1])  # the other problem has learned as ever
    unlabelled = given.step(batch(2)[0], torch.full_like(batch(2)[1], 255))
    same(unlabelled, torch.zeros(len(SEEDS), len(RATES)))
    assert trained(given, [3]).isfinite().all()
    assert given.weights.isfinite().all()


@pytest.mark.parametrize("place", range(len(RATES) + 1))
@pytest.mark.parametrize("chunk", [None, 700])
def test_a_rate_that_diverges_does_to_the_others_what_one_that_does_not_would(place, chunk, monkeypatch):
    if chunk:
        monkeypatch.setattr(module, "CHUNK", chunk)
    others = [n for n in range(len(RATES) + 1) if n != place]
    with_it = heads(rates=[*RATES[:place], 1e30, *RATES[place:]])
    instead = heads(rates=[*RATES[:place], 0.01, *RATES[place:]])
    without = heads()
    losses, usual, fewer = trained(with_it), trained(instead), trained(without)
    assert not with_it.weights[:, place].isfinite().all()
    same(losses[:, :, others], usual[:, :, others])
    same(with_it.weights[:, others], instead.weights[:, others])
    close(losses[:, :, others], fewer, 1e-5)
    close(with_it.weights[:, others], without.weights, 1e-5)
    assert without.weights.isfinite().all()


@pytest.mark.parametrize("kind", ["other", "nan", "huge", "blank"])
@pytest.mark.parametrize("chunk", [None, 700])
def test_the_data_of_a_problem_leaves_the_others_alone(kind, chunk, monkeypatch):
    def change(features, labels):
        features, labels = features.clone(), labels.clone()
        features[1] = {"other": -features[1] + 1, "nan": math.nan, "huge": 1e30}.get(kind, features[1])
        labels[1] = 255 if kind == "blank" else 3 - labels[1].clamp(max=3)
        return features, labels

    if chunk:
        monkeypatch.setattr(module, "CHUNK", chunk)
    usual, changed = heads(seeds=[1, 2, 3]), heads(seeds=[1, 2, 3])
    losses, others = trained(usual), trained(changed, change=change)
    same(others[:, [0, 2]], losses[:, [0, 2]])
    same(changed.weights[[0, 2]], usual.weights[[0, 2]])
    assert not torch.equal(changed.weights[1], usual.weights[1])


IMAGE = len(SEEDS) * len(RATES) * CLASSES * math.prod(SIZE)  # the logits of one image of every problem


@pytest.mark.parametrize("chunk", [1, IMAGE - 1, IMAGE, 2 * IMAGE, 3 * IMAGE + 1, 5 * IMAGE])
def test_chunks_change_nothing(chunk, monkeypatch):
    whole, parts = heads(), heads()
    expected = trained(whole)
    monkeypatch.setattr(module, "CHUNK", chunk)
    close(trained(parts), expected, 1e-5)
    close(parts.weights, whole.weights, 1e-5)


class Largest(TorchDispatchMode):
    """Notes the size of the largest tensor that was made."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.numel = max([self.numel, *(t.numel() for t in tree_leaves(result) if isinstance(t, torch.Tensor))])
        return result


def test_chunks_bound_the_logits_held(monkeypatch):
    sizes = {}
    for images in (1, 2, 5):
        monkeypatch.setattr(module, "CHUNK", images * IMAGE)
        with Largest() as largest:
            heads().step(*batch())
        sizes[images] = largest.numel
    assert sizes == {images: images * IMAGE for images in sizes}


@pytest.mark.parametrize("stop", [0, 2])
@pytest.mark.parametrize("used", [False, True])
def test_restored_heads_go_on_bit_for_bit(stop, used):
    usual, interrupted, other = heads(), heads(), heads(seeds=[98, 99])
    losses = trained(usual)
    trained(interrupted, range(stop))
    state = interrupted.state()
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    if used:
        trained(other, [4, 1])  # momentum of its own
    other.restore(torch.load(file, weights_only=True))
    same(other.weights, interrupted.weights)
    same(trained(other, range(stop, len(FACTORS))), losses[stop:])
    same(other.weights, usual.weights)


@pytest.mark.parametrize("stop", [0, 2])
def test_a_state_is_a_copy_both_ways(stop):
    usual, source, other = heads(), heads(), heads(seeds=[98, 99])
    losses = trained(usual)
    trained(source, range(stop))
    state = source.state()
    kept = {name: value.clone() for name, value in state.items()}

    def unchanged():
        assert state.keys() == kept.keys()
        for name, value in kept.items():
            same(state[name], value)

    rest = range(stop, len(FACTORS))
    trained(source, rest)
    unchanged()  # by the training of where it came from
    other.restore(state)
    trained(other, rest)
    unchanged()  # by the training of where it went
    other.restore(state)
    source.restore(state)
    third = heads(seeds=[0, 1])
    third.restore(state)
    taken = third.state()
    for value in (*state.values(), *taken.values()):
        value.zero_()
    for given in (other, source, third):  # nor do the heads change with the state, nor with each other
        same(trained(given, rest), losses[stop:])
        same(given.weights, usual.weights)
