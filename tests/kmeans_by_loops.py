"""A made-up data set, linear backbones, and the protocol `kmeans` restated in float64 by loops."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from densebench import options
from densebench.backbones.backbone import Backbone, BackboneInfo
from densebench.datasets.dataset import Dataset, Item
from densebench.evals.kmeans import KMeans
from densebench.evaluation.protocol import Run
from densebench.features.views import View
from densebench.files.atomic import digest
from densebench.numerics import kmeans as clustering

SIDE, PATCH, CLASSES, WIDTH, IMAGES = 32, 8, 4, 12, 7


GRID = SIDE // PATCH


COLOURS = np.array([[40, 40, 200], [200, 60, 60], [60, 190, 90], [190, 190, 170]])


@functools.cache
def drawn(name: str, noise: float = 45.0, block: int = 9) -> tuple[np.ndarray, np.ndarray]:
    """Noise around one colour a class, mostly not square, in blocks that do not fit the patches, with some void."""
    rng = np.random.default_rng(int(digest(name, 8), 16))
    height, width = (40, 56) if int(name.split("-")[1]) % 3 else (SIDE, SIDE)
    blocks = rng.choice(CLASSES, (7, 7), p=[0.4, 0.3, 0.2, 0.1]).astype(np.uint8)
    label = blocks.repeat(block, 0).repeat(block, 1)[:height, :width]
    image = np.clip(COLOURS[label] + rng.normal(0, noise, (height, width, 3)), 0, 255).astype(np.uint8)
    label[rng.random(label.shape) < 0.05] = 255
    return image, label


@dataclass(frozen=True, kw_only=True)
class Blocks(Dataset):
    name: str = "blocks"
    title: str = "blocks"
    classes: tuple[str, ...] = ("a", "b", "c", "d")
    image_size_hint: int = SIDE
    noise: float = 45.0
    block: int = 9
    order: tuple[int, ...] = tuple(range(IMAGES))

    def list_items(self, split):
        return (Item(f"{split}-{i}", None, None) for i in (self.order if split == "val" else range(3)))

    def image(self, item):
        return Image.fromarray(drawn(item.name, self.noise, self.block)[0])

    def label(self, item):
        return drawn(item.name, self.noise, self.block)[1].copy()

    def image_size(self, item):
        return self.image(item).size

    def image_digest(self, item):
        return digest([type(self).__name__, item.name, self.noise, self.block])

    label_digest = image_digest


class Random(torch.nn.Module):
    """Random linear features of patches, of unequal scales and means."""

    def __init__(self, scale, shift, order):
        super().__init__()
        rng = np.random.default_rng(5)
        weight = 0.3 * rng.normal(size=(WIDTH, 3, 1, 1)) + rng.normal(0, 0.06, (WIDTH, 3, PATCH, PATCH))
        self.weight = torch.nn.Parameter(torch.tensor(weight, dtype=torch.float32))
        self.register_buffer("scale", (torch.linspace(0.05, 2, WIDTH) * torch.as_tensor(scale)).view(-1, 1, 1).float())
        self.register_buffer("shift", (torch.linspace(3, -1, WIDTH) + shift).view(-1, 1, 1).float())
        self.order = list(order)

    def forward(self, images):
        return (F.conv2d(images, self.weight, stride=PATCH) * self.scale + self.shift)[:, self.order]


class Means(torch.nn.Module):
    """The mean colour of every patch: tells the class where patches are of one class."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, images):
        return F.avg_pool2d(images, PATCH) * self.factor


def made(trunk, dim, *parts):
    name = " ".join(map(str, [type(trunk).__name__, *parts]))
    return Backbone(trunk, BackboneInfo(name, name, dim, PATCH, (0.5,) * 3, (0.5,) * 3), digest([name]))


def random_features(scale=1.0, shift=0.0, order=tuple(range(WIDTH))):
    return made(Random(scale, shift, order), WIDTH, scale, shift, order)


def mean_colours(factor=1.0):
    return made(Means(factor), 3, factor)


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def backbone():
    return random_features()


DATA = Blocks(root=Path())


ALIGNED = Blocks(root=Path(), noise=4.0, block=8, order=(0, 3, 6))  # square images, whose blocks are the patches


SMALL = {"image_size": None, "pca": 5, "mask_size": 18, "seeds": 1}


NO_PCA = {"image_size": None, "pca": None, "mask_size": 18, "seeds": 1}


def evaluate(backbone, dataset=DATA, preset="leopart", run=None, **given):
    evaluator = options.build(KMeans, KMeans.presets[preset], given).resolve(dataset)
    return list(evaluator.run(backbone, dataset, run or Run(progress_key=digest([preset, sorted(map(str, given.items()))], 16))))


def by_point(scores):
    """Scores of miou by K, seed and variant."""
    return {(s.axes["K"], s.axes["seed"], s.variant): s for s in scores if s.metric == "miou"}


def values(scores):
    return {key: score.value for key, score in by_point(scores).items()}


def naive_tokens(backbone, dataset, names, standardise=True, pca=5, upsample=None):
    """One row a token, float64: standardised by population moments, projected by the covariance's eigenvectors, upsampled."""
    rows = []
    for name in names:
        view = View(PATCH, SIDE).image(dataset.image(Item(name, None, None)), "")
        with torch.no_grad():
            grid = backbone(((view - 0.5) / 0.5)[None])[0]
        rows += [grid[:, i, j].double().numpy() for i in range(GRID) for j in range(GRID)]
    rows = np.array(rows)
    if standardise:
        rows = (rows - rows.mean(0)) / np.sqrt(((rows - rows.mean(0)) ** 2).mean(0))
    if pca is not None:
        centred = rows - rows.mean(0)
        eigenvalues, vectors = np.linalg.eigh(centred.T @ centred / len(rows))
        rows = centred @ vectors[:, np.argsort(-eigenvalues)[:pca]]
    if upsample:
        grids = torch.from_numpy(rows).view(len(names), GRID, GRID, -1).permute(0, 3, 1, 2)
        larger = F.interpolate(grids, (upsample, upsample), mode="bilinear", align_corners=False)
        rows = larger.permute(0, 2, 3, 1).reshape(len(names) * upsample**2, -1).numpy()
    return rows


def naive_label(dataset, name, mask_size, mask_resample, other):
    label = dataset.label(Item(name, None, None))
    if other != "off":
        label = np.where(label == 255, 0 if other == "class" else 255, label.astype(int) + 1).astype(np.uint8)
    for side, resample in ((SIDE, "nearest-exact"), (mask_size or SIDE, mask_resample)):
        height, width = label.shape
        found = np.zeros((side, side), np.uint8)
        half = 0.5 if resample == "nearest-exact" else 0.0
        for i, j in itertools.product(range(side), repeat=2):
            found[i, j] = label[int((i + half) * height / side), int((j + half) * width / side)]
        label = found
    return label


def naive_confusions(label_maps, cluster_maps, classes, k):
    confusions = np.zeros((len(label_maps), classes, k), dtype=int)
    for n, (label, grid) in enumerate(zip(label_maps, cluster_maps, strict=True)):
        for i, j in itertools.product(range(len(label)), repeat=2):
            if label[i, j] != 255:
                confusions[n, label[i, j], grid[i * len(grid) // len(label), j * len(grid) // len(label)]] += 1
    return confusions


def iou_table(confusion):
    table = np.zeros(confusion.shape)
    for c, k in np.ndindex(*table.shape):
        union = confusion[c].sum() + confusion[:, k].sum() - confusion[c, k]
        table[c, k] = confusion[c, k] / union if union else 0
    return table


def naive_matching(confusion, kind):
    """The class of every cluster; one to one by trying all of them."""
    classes, k = confusion.shape
    table = iou_table(confusion)
    if kind == "precision":
        return confusion.argmax(0)
    if kind == "iou":
        return table.argmax(0)
    if k < classes:
        every = itertools.permutations(range(classes), k)
        return np.array(max(every, key=lambda chosen: sum(table[c, n] for n, c in enumerate(chosen))))
    every = itertools.permutations(range(k), classes)
    best = max(every, key=lambda chosen: sum(table[c, n] for c, n in enumerate(chosen)))
    return np.array([best.index(n) if n in best else 0 for n in range(k)])


def naive_tallies(confusions, matching):
    """Per image and class: pixels that agree, of the truth, of the prediction."""
    n, classes, _ = confusions.shape
    tallies = np.zeros((n, 3, classes), dtype=int)
    for image, c in itertools.product(range(n), range(classes)):
        named = confusions[image][:, matching == c]
        tallies[image, :, c] = named[c].sum(), confusions[image, c].sum(), named.sum()
    return tallies


def naive_ious(tally):
    agree, truth, prediction = tally
    union = truth + prediction - agree
    return [100 * a / u if u else None for a, u in zip(agree, union, strict=True)]


def naive_mean(ious, absent):
    kept = [v for v in ious if v is not None] if absent == "skip" else [v or 0.0 for v in ious]
    return np.mean(kept)


FIT = {"restarts": 5, "iterations": 100, "init": "points", "per_cluster": 256, "spherical": False}


def naive(backbone, dataset, names, k, seed, given):
    """Every variant's tallies of images, and the inertia of the tokens that were trained on."""
    fit = {name: given.get(name, value) for name, value in FIT.items()}
    rows = naive_tokens(backbone, dataset, names, given["standardise"], given["pca"], given["grid_size"])
    found = clustering.kmeans(torch.from_numpy(rows).float(), k, seed=seed, **fit)
    centroids = found.centroids.double().numpy()
    distances = np.array([[((row - centroid) ** 2).sum() for centroid in centroids] for row in rows])
    trained = clustering.sample(len(rows), k, fit["per_cluster"], seed).numpy()
    side = given["grid_size"] or GRID
    cluster_maps = distances.argmin(1).reshape(len(names), side, side)
    other = given.get("other_class", "off") if dataset.reduce_zero_label else "off"
    classes = len(dataset.classes) + (other != "off")
    label_maps = [naive_label(dataset, name, given["mask_size"], given["mask_resample"], other) for name in names]
    confusions = naive_confusions(label_maps, cluster_maps, classes, k)
    kinds = ("hungarian", "precision", "iou")
    tallies = {kind: naive_tallies(confusions, naive_matching(confusions.sum(0), kind)) for kind in kinds}
    auto = "hungarian" if k == classes else "precision"
    tallies["matched"] = tallies[auto if given.get("match", "auto") == "auto" else given["match"]]
    return tallies, distances[trained].min(1).sum()


FIVE = replace(DATA, classes=("a", "b", "c", "d", "never"))


ZERO = replace(DATA, reduce_zero_label=True)
