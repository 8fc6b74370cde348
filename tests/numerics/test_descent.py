"""Linear segmentation heads trained by SGD, many at once: each must do what it would do alone, written with torch's own parts.

The reference for one head is a 1x1 nn.Conv2d on bilinearly upsampled features, CrossEntropyLoss(ignore_index=255) and
torch.optim.SGD, in float64, as in the linear evaluation of Leopart (Ziegler and Asano, 2022, "Self-Supervised Learning of Object
Parts for Semantic Segmentation").
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from heads_alone import CLASSES, FACTORS, RATES, SEEDS, SIZE, WIDTH, alone, batch, close, heads, same, trained

from densebench.numerics.sgd_layers import Heads, cross_entropy, upsampled

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
