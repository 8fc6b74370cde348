"""Batches for linear heads, and one head by torch's own parts in float64."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from densebench.numerics.sgd_layers import Heads

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
