"""Linear segmentation heads trained by SGD, many at once: each must do what it would do alone, written with torch's own parts.

The reference for one head is a 1x1 nn.Conv2d on bilinearly upsampled features, CrossEntropyLoss(ignore_index=255) and
torch.optim.SGD, in float64, as in the linear evaluation of Leopart (Ziegler and Asano, 2022, "Self-Supervised Learning of Object
Parts for Semantic Segmentation").
"""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from densebench.numerics import sgd_layers as module
from densebench.numerics.sgd_layers import Heads, cross_entropy, upsampled

WIDTH, CLASSES, GRID, SIZE = 5, 4, (3, 2), (8, 7)
RATES, SEEDS = [0.03, 1.0, 0.3], [11, 12]
FACTORS = [1.0, 1.0, 0.1, 0.1, 0.5]  # as a StepLR would change it, and back up
STEPS = range(len(FACTORS))


def batch(step=0, problems=2, images=5, unlabelled=0.3):
    """One batch; its images and problems differ much in how many pixels are labelled."""
    rng = torch.Generator().manual_seed(1000 + step)
    features = torch.randn(problems, images, *GRID, WIDTH, generator=rng) * 2 + 0.5
    labels = torch.randint(CLASSES, (problems, images, *SIZE), generator=rng, dtype=torch.uint8)
    share = torch.linspace(0, 2 * unlabelled, problems * images).view(problems, images, 1, 1)
    labels[torch.rand(labels.shape, generator=rng) < share] = 255
    labels[0, 1, 1:] = 255  # one image almost without labels
    return features, labels


def heads(rates=RATES, seeds=SEEDS, momentum=0.9, weight_decay=0.01):
    return Heads(WIDTH, CLASSES, rates, seeds, momentum=momentum, weight_decay=weight_decay)


def trained(given, steps=STEPS, change=lambda features, labels: (features, labels)):
    """The losses of every step [s p l]; `change` alters the batches."""
    losses = [given.step(*change(*batch(s, given.weights.shape[0])), FACTORS[s]) for s in steps]
    return torch.stack(losses) if losses else None


def alone(weights, rate, momentum, weight_decay, batches):
    """One head by torch's own parts, in float64: its losses and last weights [d+1 c]; batches of (features, labels, factor)."""
    width, classes = weights.shape[0] - 1, weights.shape[1]
    layer = nn.Conv2d(width, classes, 1).double()
    with torch.no_grad():
        layer.weight.copy_(weights[:-1].T[:, :, None, None])
        layer.bias.copy_(weights[-1])
    optimiser = torch.optim.SGD(layer.parameters(), lr=rate, momentum=momentum, weight_decay=weight_decay)
    losses = []
    for features, labels, factor in batches:
        optimiser.param_groups[0]["lr"] = rate * factor
        x = F.interpolate(features.double().permute(0, 3, 1, 2), size=labels.shape[-2:], mode="bilinear", align_corners=False)
        loss = nn.CrossEntropyLoss(ignore_index=255)(layer(x), labels.long())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    with torch.no_grad():
        return losses, torch.cat([layer.weight[:, :, 0, 0].T, layer.bias[None]])


def same(got, expected):
    """Bit for bit, NaN with NaN."""
    torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)


def close(got, expected, tolerance=3e-6):
    torch.testing.assert_close(got.double(), torch.as_tensor(expected).double(), rtol=tolerance, atol=tolerance)


# Logits


SIZES = [((3, 2), (8, 7)), ((2, 3), (8, 12)), ((1, 4), (5, 9)), ((3, 4), (3, 4)), ((4, 3), (4, 10)), ((1, 1), (3, 2))]


@pytest.mark.parametrize(("grid", "size"), SIZES)
def test_upsampled_logits_are_the_layers_of_upsampled_features(grid, size):
    rng = torch.Generator().manual_seed(0)
    p, layers, b, d, c = 2, 3, 4, 5, 6
    features = torch.randn(p, b, *grid, d, generator=rng, dtype=torch.float64)
    weights = torch.randn(p, layers, d + 1, c, generator=rng, dtype=torch.float64, requires_grad=True)
    chosen = torch.randn(p, layers, b, c, *size, generator=rng, dtype=torch.float64)
    got = upsampled(features, weights, size)
    assert got.shape == chosen.shape
    expected = []
    for n in range(p):
        x = F.interpolate(features[n].permute(0, 3, 1, 2), size=size, mode="bilinear", align_corners=False)
        expected.extend(F.conv2d(x, w[:-1].T[:, :, None, None], w[-1]) for w in weights[n])
    expected = torch.stack(expected).view_as(got)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    (slope,) = torch.autograd.grad((got * chosen).sum(), weights)
    (true,) = torch.autograd.grad((expected * chosen).sum(), weights)
    torch.testing.assert_close(slope, true, rtol=1e-12, atol=1e-12 * true.abs().max().item())


def test_upsampled_is_half_pixel_centred_by_hand():
    features = torch.tensor([0.0, 4.0], dtype=torch.float64).view(1, 1, 1, 2, 1)
    weights = torch.tensor([[2.0], [1.0]], dtype=torch.float64).view(1, 1, 2, 1)  # 2 x + 1
    expected = torch.tensor([1.0, 3.0, 7.0, 9.0], dtype=torch.float64).expand(2, 4)
    torch.testing.assert_close(upsampled(features, weights, (2, 4))[0, 0, 0, 0], expected, rtol=0, atol=1e-12)


# Loss


def naive_cross_entropy(logits, labels, pixels):
    p, layers, b, _, rows, columns = logits.shape
    losses = np.zeros((p, layers))
    for n, m, i, y, x in np.ndindex(p, layers, b, rows, columns):
        label = int(labels[n, i, y, x])
        if label != 255:
            scores = logits[n, m, i, :, y, x].tolist()
            top = max(scores)
            losses[n, m] += (top + math.log(sum(math.exp(s - top) for s in scores)) - scores[label]) / float(pixels[n])
    return torch.from_numpy(losses)


def test_cross_entropy_sums_over_labelled_pixels_and_divides_by_what_is_given():
    rng = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 3, 4, 5, 2, 3, generator=rng, dtype=torch.float64) * 3
    labels = torch.randint(5, (2, 4, 2, 3), generator=rng, dtype=torch.uint8)
    labels[torch.rand(labels.shape, generator=rng) < 0.4] = 255
    labels[1, 2] = 255
    pixels = torch.tensor([7.0, 40.0], dtype=torch.float64)  # not the numbers of labelled pixels here
    assert not torch.equal((labels != 255).sum((1, 2, 3)).double(), pixels)
    got = cross_entropy(logits, labels, pixels)
    assert got.shape == (2, 3)
    close(got, naive_cross_entropy(logits, labels, pixels), 1e-12)


def test_cross_entropy_has_the_slope_of_softmax_minus_target():
    rng = torch.Generator().manual_seed(2)
    logits = torch.randn(2, 2, 3, 4, 2, 2, generator=rng, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(4, (2, 3, 2, 2), generator=rng, dtype=torch.uint8)
    labels[:, 0, 0] = 255
    pixels, chosen = torch.tensor([3.0, 11.0], dtype=torch.float64), torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64)
    (got,) = torch.autograd.grad((cross_entropy(logits, labels, pixels) * chosen).sum(), logits)
    target = torch.stack([(labels == k) for k in range(4)], 2)[:, None].double()
    slope = (logits.detach().softmax(3) - target) * (labels != 255)[:, None, :, None]
    close(got, slope * (chosen / pixels[:, None])[:, :, None, None, None, None], 1e-12)


def test_cross_entropy_is_stable_and_reads_labels_without_a_sign():
    logits = torch.zeros(1, 1, 1, 202, 1, 2)
    logits[0, 0, 0, 200, 0, 0] = 1e4  # the label's: 0
    logits[0, 0, 0, 3, 0, 1] = 1e4  # another's: 1e4
    labels = torch.tensor([200, 201], dtype=torch.uint8).view(1, 1, 1, 2)
    close(cross_entropy(logits, labels, torch.tensor([2.0])), [[5e3]])


# Initial weights


def test_initial_weights_are_uniform_as_of_conv2d_weight_and_bias():
    weights = Heads(16, 2000, [0.1, 1.0], [3, 4], momentum=0.9, weight_decay=0.0).weights
    assert weights.shape == (2, 2, 17, 2000)
    assert weights.dtype == torch.float32
    for part in (weights[:, 0, :-1], weights[:, 0, -1]):
        assert part.abs().max() <= 0.25
        ranks = part.double().flatten().sort().values / 0.5 + 0.5
        even = (torch.arange(len(ranks)) + 0.5) / len(ranks)
        assert (ranks - even).abs().max() < 1.95 / math.sqrt(len(ranks))  # Kolmogorov and Smirnov, at 0.001


def test_initial_weights_come_from_the_seed_of_their_problem_alone():
    weights = heads(seeds=[7, 8, 7]).weights
    assert weights.shape == (3, len(RATES), WIDTH + 1, CLASSES)
    assert all(torch.equal(weights[:, 0], weights[:, n]) for n in range(len(RATES)))
    assert not (weights[0] == weights[1]).any()
    same(weights[0], weights[2])
    same(heads(seeds=[8]).weights[0], weights[1])
    same(heads(rates=[5.0], seeds=[8, 7]).weights[1, 0], weights[0, 0])
    first = weights[0, 0].flatten()
    assert len(first.unique()) == len(first)


def test_making_and_training_touch_no_global_generator():
    torch.manual_seed(5)
    before, others = torch.get_rng_state(), np.random.get_state()[1].copy()
    one = heads()
    trained(one, range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == others).all()
    torch.manual_seed(6)
    same(heads().weights, heads().weights)
    two = heads()
    trained(two, range(2))
    same(two.weights, one.weights)


# Steps


@pytest.mark.parametrize(("momentum", "weight_decay"), [(0.0, 0.0), (0.9, 0.0), (0.0, 0.05), (0.9, 0.05)])
def test_every_head_learns_as_a_convolution_by_sgd_alone(momentum, weight_decay):
    together = heads(momentum=momentum, weight_decay=weight_decay)
    initial = together.weights.clone()
    losses = trained(together)
    assert losses.shape == (len(FACTORS), len(SEEDS), len(RATES))
    for p in range(len(SEEDS)):
        for n, rate in enumerate(RATES):
            data = [(batch(s)[0][p], batch(s)[1][p], factor) for s, factor in enumerate(FACTORS)]
            expected, weights = alone(initial[p, n].double(), rate, momentum, weight_decay, data)
            close(losses[:, p, n], expected, 1e-5)
            close(together.weights[p, n], weights, 1e-5)
            assert (weights - initial[p, n]).abs().max() > 1e-2


def test_a_step_returns_the_losses_from_before_it_and_leaves_its_inputs():
    features, labels = batch()
    given, kept = heads(), (features.clone(), labels.clone())
    pixels = (labels != 255).sum((1, 2, 3)).double()
    logits = upsampled(features.double(), given.weights.detach().double(), SIZE)
    losses = given.step(features, labels)
    close(losses, naive_cross_entropy(logits, labels, pixels))
    assert not losses.requires_grad
    same(features, kept[0])
    same(labels, kept[1])


def test_the_factor_is_one_unless_given_and_multiplies_the_rate():
    one, two, three = heads(), heads(), heads(rates=[4 * rate for rate in RATES])
    one.step(*batch())
    two.step(*batch(), 1.0)
    same(one.weights, two.weights)
    three.step(*batch(), 0.25)
    close(three.weights, one.weights)
    still, initial = heads(), heads().weights.clone()
    still.step(*batch(), 0.0)
    same(still.weights, initial)


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


def test_a_batch_without_a_labelled_pixel_leaves_new_heads_without_decay_alone():
    given = heads(weight_decay=0.0)
    given.step(batch()[0], torch.full_like(batch()[1], 255))
    same(given.weights, heads().weights)


# Isolation


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


# Chunks

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


# State


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
