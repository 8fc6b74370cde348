"""A made-up data set of blocks, and the protocol `incontext` restated by loops in float64."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from densebench import options
from densebench.backbones.backbone import Backbone, BackboneInfo
from densebench.backbones.loading import load_backbone
from densebench.datasets.dataset import Dataset, Item
from densebench.evals.incontext.protocol import InContext
from densebench.evaluation.protocol import Run
from densebench.files.atomic import digest

COUNTS = {"train": 10, "val": 4}


SIDE, PATCH, CLASSES = 32, 8, 4


@functools.cache
def drawn(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Noise around one grey a class, in blocks that do not fit the patches, with some void."""
    rng = np.random.default_rng(int(digest(name, 8), 16))
    label = rng.integers(0, CLASSES, (5, 5)).repeat(7, 0).repeat(7, 1)[:SIDE, :SIDE].astype(np.uint8)
    image = np.clip(label[..., None] * 60 + 30 + rng.normal(0, 35, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
    label[rng.random((SIDE, SIDE)) < 0.05] = 255
    label[:9, :9] = 255 if name == "train-0" else label[:9, :9]
    return image, label


@dataclass(frozen=True, kw_only=True)
class Blocks(Dataset):
    name: str = "blocks"
    title: str = "blocks"
    classes: tuple[str, ...] = ("a", "b", "c", "d")
    image_size_hint: int = SIDE

    def list_items(self, split):
        return (Item(f"{split}-{i}", None, None) for i in range(COUNTS[split]))

    def image(self, item):
        return Image.fromarray(drawn(item.name)[0])

    def label(self, item):
        return drawn(item.name)[1].copy()

    def image_size(self, item):
        return SIDE, SIDE

    def image_digest(self, item):
        return digest(["blocks", item.name])

    label_digest = image_digest


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def backbone():
    return load_backbone(f"pixels:{PATCH}")


DATA = Blocks(root=Path())


PLAIN = {"augment_epochs": 0, "neighbours": (5,), "memory_size": None}


def evaluate(backbone, dataset=DATA, preset="hummingbird", **given):
    evaluator = options.build(InContext, InContext.presets[preset], given).resolve(dataset)
    return list(evaluator.run(backbone, dataset, Run(progress_key=digest([preset, sorted(given)], 16))))


def headline(scores):
    return next(s for s in scores if (s.metric, s.variant) == ("miou", "identity"))


def values(scores, metric="miou", variant="identity"):
    return {(s.axes["fraction"], s.axes["seed"]): s.value for s in scores if (s.metric, s.variant) == (metric, variant)}


def patches_of(backbone, name):
    image = torch.from_numpy(drawn(name)[0]).permute(2, 0, 1).float() / 255
    mean, std = torch.tensor(backbone.mean).view(3, 1, 1), torch.tensor(backbone.std).view(3, 1, 1)
    grid = backbone(((image - mean) / std)[None])[0]
    return grid.flatten(1).T


def histogram(block):
    return np.array([(block == c).sum() for c in range(CLASSES)], dtype=float)


TRAIN, VAL = ([f"{split}-{i}" for i in range(COUNTS[split])] for split in ("train", "val"))


def naive(
    backbone,
    train,
    k=5,
    temperature=0.02,
    metric="cosine",
    labels="soft",
    weighting="softmax",
    memory_norm="channels",
    scored=VAL,
):
    """The whole protocol in loops over images, patches and pixels, in float64."""
    keys, shares = [], []
    for name in train:
        label, first = drawn(name)[1], len(keys)
        for n, feature in enumerate(patches_of(backbone, name).double()):
            i, j = divmod(n, SIDE // PATCH)
            counts = histogram(label[PATCH * i : PATCH * i + PATCH, PATCH * j : PATCH * j + PATCH])
            if counts.sum():
                keys.append(feature.numpy())
                shares.append(counts / counts.sum() if labels == "soft" else np.eye(CLASSES)[counts.argmax()])
        if memory_norm == "patches":
            keys[first:] = list(np.array(keys[first:]) / np.linalg.norm(keys[first:], axis=0))
    keys, shares = np.array(keys), np.array(shares)
    confusion = np.zeros((CLASSES, CLASSES), dtype=np.int64)
    for name in scored:
        scores = []
        for feature in patches_of(backbone, name).double().numpy():
            cosine = keys @ feature / np.linalg.norm(keys, axis=1) / np.linalg.norm(feature)
            near = cosine if metric == "cosine" else -((keys - feature) ** 2).sum(1)
            near = keys @ feature if memory_norm == "patches" else near
            best = np.argsort(-near, kind="stable")[:k]
            weights = np.exp((cosine[best] - cosine[best].max()) / temperature) if weighting == "softmax" else np.ones(k)
            scores.append(weights / weights.sum() @ shares[best])
        grid = torch.tensor(np.array(scores)).view(SIDE // PATCH, SIDE // PATCH, CLASSES).permute(2, 0, 1)[None]
        predicted = torch.nn.functional.interpolate(grid, (SIDE, SIDE), mode="bilinear")[0].argmax(0).numpy()
        truth = drawn(name)[1]
        for t, p in zip(truth[truth != 255], predicted[truth != 255], strict=True):
            confusion[t, p] += 1
    union = confusion.sum(0) + confusion.sum(1) - confusion.diagonal()
    return 100 * np.mean(confusion.diagonal() / union)


def naive_pixels(backbone, train, k):
    """CAPI's vote in loops: standardised features, cosine, the mode of the neighbours' labels pixel by pixel, void included."""
    every = torch.cat([patches_of(backbone, name) for name in train]).double().numpy()
    mean, deviation = every.mean(0), every.std(0)
    keys, blocks = [], []
    for name in train:
        label = drawn(name)[1]
        for n, feature in enumerate(patches_of(backbone, name).double().numpy()):
            i, j = divmod(n, SIDE // PATCH)
            block = label[PATCH * i : PATCH * i + PATCH, PATCH * j : PATCH * j + PATCH].flatten()
            if np.bincount(block).argmax() != 255:
                keys.append((feature - mean) / deviation)
                blocks.append(block)
    keys = np.array(keys) / np.linalg.norm(keys, axis=1, keepdims=True)
    tally = np.zeros((CLASSES + 1, CLASSES + 1), dtype=np.int64)
    for v in range(COUNTS["val"]):
        truth = drawn(f"val-{v}")[1]
        for n, feature in enumerate(patches_of(backbone, f"val-{v}").double().numpy()):
            i, j = divmod(n, SIDE // PATCH)
            best = np.argsort(-(keys @ ((feature - mean) / deviation)), kind="stable")[:k]
            votes = np.array([blocks[b] for b in best])
            for pixel in range(PATCH * PATCH):
                t = truth[PATCH * i + pixel // PATCH, PATCH * j + pixel % PATCH]
                if t != 255:
                    tally[t, min(np.bincount(votes[:, pixel]).argmax(), CLASSES)] += 1
    union = tally.sum(0) + tally.sum(1) - tally.diagonal()
    return 100 * np.mean(tally.diagonal()[union > 0] / union[union > 0])


class Centres(torch.nn.Module):
    """The feature of a patch is the colour of its centre."""

    def forward(self, images):
        return images[:, :, PATCH // 2 :: PATCH, PATCH // 2 :: PATCH]


def oracle():
    """A backbone whose features are the colours of the patches' centres, as they are."""
    return Backbone(Centres(), BackboneInfo("oracle", "centres", 3, PATCH, (0.0,) * 3, (1.0,) * 3), "oracle")


@dataclass(frozen=True, kw_only=True)
class Clean(Blocks):
    """The colour tells the class; blocks of the size of patches."""

    def image(self, item):
        return Image.fromarray(np.eye(CLASSES, 3, dtype=np.uint8)[self.label(item)] * 200 + 20)

    def image_digest(self, item):
        return digest(["clean", item.name])

    def label(self, item):
        rng = np.random.default_rng(int(digest(item.name, 8), 16))
        return rng.integers(0, CLASSES, (4, 4)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
