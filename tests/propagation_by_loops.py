"""The propagation of labels restated by loops, and DINO's own stretching of masks."""

from __future__ import annotations

import itertools
import math

import numpy as np


def naive(queries, keys, labels, window):
    """One frame, query by query and key by key."""
    (h, w, _), t = queries.shape, len(keys)
    queries, keys, labels = queries.double().numpy(), keys.double().numpy(), labels.double().numpy()
    found = np.zeros((h, w, labels.shape[-1]))
    for y, x in itertools.product(range(h), range(w)):
        seen = []
        for f, i, j in itertools.product(range(t), range(h), range(w)):
            if window.radius is not None:
                if window.shape == "square" and max(abs(i - y), abs(j - x)) > window.radius:
                    continue
                if window.shape == "circle" and math.sqrt((i - y) ** 2 + (j - x) ** 2) > window.radius:
                    continue
            seen.append((float(queries[y, x] @ keys[f, i, j]), labels[f, i, j]))
        threshold = sorted((cosine for cosine, _ in seen), reverse=True)[: window.k][-1]
        kept = [(math.exp(cosine / window.temperature), label) for cosine, label in seen if cosine >= threshold]
        found[y, x] = sum(weight * label for weight, label in kept) / sum(weight for weight, _ in kept)
    return found


def dino_stretch(channels):
    channels = channels.clone()
    for own in channels:
        if own.max() > 0:
            own -= own.min().clone()
            own /= own.max().clone()
    return channels
