"""A data set of parts, for tests: every patch shows one part of an object or of the background, and a ViT tells them.

So clusters, foreground and communities are known beforehand, and scores are arithmetic.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from densebench.backbones.backbone import Backbone, BackboneInfo
from densebench.backbones.timm_models import attention_of, make_trunk
from densebench.datasets.dataset import Dataset, Item
from densebench.files.atomic import digest
from densebench.numerics.foreground import foreground, without_specks
from densebench.torchvision_ops import make_importable

GRID, PATCH = 8, 8
SIDE = GRID * PATCH
KINDS = {"train": (0, 1, 0, 1, 2, 0, 1), "val": (1, 0, 1, 2, 1, None, 1, 0)}  # the object of each image
ATTENDED = ((6.0, 5.6, 6.3, 6.0, 6.0), (2.5, 2.0, 2.0, 2.5, 1.0))  # logits of the foreground's parts in each of two heads


@functools.cache
def parts_of(name: str, backgrounds: int) -> np.ndarray:
    """The part of each patch: an object of stripes (0 and 1, or 2 and 3), or a block of 4, or nothing, on 5 and above."""
    rng = np.random.default_rng(int(digest(name, 8), 16))
    parts = 5 + rng.integers(backgrounds, size=(GRID, GRID))
    split, number = name.split("-")[:2]
    kind = KINDS[split][int(number)]
    if kind is not None:
        height, width = (rng.integers(5, 8), 4)[:: rng.choice([1, -1])] if kind < 2 else (4, 4)
        top, left = rng.integers(1, GRID - height + 1), rng.integers(1, GRID - width + 1)
        stripes = np.indices((height, width))[int(width > height)] % 2
        parts[top : top + height, left : left + width] = 2 * kind + (stripes if kind < 2 else 0)
    return parts


@dataclass(frozen=True, kw_only=True)
class Parts(Dataset):
    """Images whose patches show parts (one bright square of 16), labelled by `class_of`; labels may be shifted or void."""

    name: str = "parts"
    title: str = "parts"
    classes: tuple[str, ...] = ("background", "a", "b", "c")
    background: int | None = 0
    image_size_hint: int = SIDE
    class_of: tuple[int, ...] = (1, 1, 2, 2, 3)
    backgrounds: int = 5
    noise: float = 0.0
    dimmed: float = 1.0  # the brightness of every third image
    shift: int = 0
    void: float = 0.0
    train_labels: str = "own"
    val_labels: str = "own"
    train_images: str = ""

    def list_items(self, split):
        return (Item(f"{split}-{i}", None, None) for i in range(len(KINDS[split])))

    def image(self, item):
        name = item.name + (self.train_images if item.name.startswith("train") else "")
        pixels, rng = np.zeros((SIDE, SIDE, 3)), np.random.default_rng(int(digest(["noise", name], 8), 16))
        for (row, column), part in np.ndenumerate(parts_of(name, self.backgrounds)):
            top, left = PATCH * row + part // 4 * 2, PATCH * column + part % 4 * 2
            pixels[top : top + 2, left : left + 2, 0] = 255 * (self.dimmed if int(name.split("-")[1]) % 3 == 1 else 1.0)
        return Image.fromarray(np.clip(pixels + self.noise * rng.normal(0, 255, pixels.shape), 0, 255).astype(np.uint8))

    def label(self, item):
        changed = self.train_labels if item.name.startswith("train") else self.val_labels
        table = np.array([*self.class_of, *[0] * self.backgrounds], dtype=np.uint8)
        parts = parts_of(item.name, self.backgrounds)
        label = np.roll(large(table[parts]), self.shift, 1)
        rng = np.random.default_rng(int(digest(["label", item.name], 8), 16))
        if changed == "permuted":
            label = np.roll(np.arange(len(self.classes), dtype=np.uint8), 1)[label]
        elif changed == "swapped":
            label = np.array([0, 2, 1, 3], dtype=np.uint8)[label]
        elif changed == "random":
            label = rng.integers(len(self.classes), size=label.shape, dtype=np.uint8)
        elif changed == "without part 1":
            label[large(parts == 1)] = 0
        label[rng.random(label.shape) < self.void] = 255
        return label

    def image_size(self, item):
        return (SIDE, SIDE)

    def image_digest(self, item):
        return digest([item.name, self.backgrounds, self.noise, self.dimmed, self.train_images])

    def label_digest(self, item):
        return digest([item.name, repr(self)])


DATA = Parts(root=Path())
NOISY = replace(DATA, noise=0.35, shift=2)
WORLDS = {
    "classes are communities": DATA,
    "labels are shifted, some void": replace(DATA, shift=3, void=0.1),
    "a class of two communities": replace(DATA, classes=("background", "thing"), class_of=(1,) * 5, shift=2),
    "a class of a part": replace(DATA, classes=("ground", "a", "b", "c", "d", "e"), class_of=(1, 2, 3, 4, 5), void=0.05),
    "two classes on plain ground": replace(DATA, backgrounds=1, classes=("ground", "a", "b"), class_of=(1, 1, 2, 2, 2)),
}


class First(torch.nn.Module):
    """The first 16 of 24 features; the rest is 0."""

    def forward(self, tokens):
        return tokens * (torch.arange(24, device=tokens.device) < 16)


@functools.cache
def seeing(name="seeing", attended=ATTENDED):
    """A ViT of one block that tells each patch's squares, and whose class token attends to the first parts.

    It attends much to the first patch, a speck, and a little to some places, so that no two patches of an image get the same.
    """
    make_importable()
    from timm.models.vision_transformer import VisionTransformer

    sizes = {"img_size": SIDE, "patch_size": PATCH, "embed_dim": 24, "depth": 1, "num_heads": 2, "num_classes": 0}
    model = VisionTransformer(**sizes)
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    block = model.blocks[0]
    block.norm1, model.norm, model.fc_norm = torch.nn.Identity(), First(), torch.nn.Identity()
    with torch.no_grad():
        for slot in range(16):
            top, left = slot // 4 * 2, slot % 4 * 2
            model.patch_embed.proj.weight[slot, 0, top : top + 2, left : left + 2] = 0.25
        model.cls_token[..., 16] = 1
        model.pos_embed[0, 1:, 17] = torch.rand(GRID * GRID, generator=torch.Generator().manual_seed(0)) / 2
        model.pos_embed[0, 1, 17] = 4
        for head in (0, 1):
            block.attn.qkv.weight[12 * head, 16] = 12**0.5
            block.attn.qkv.weight[24 + 12 * head, : len(attended[head])] = torch.tensor(attended[head])
            block.attn.qkv.weight[24 + 12 * head, 17] = 1
    facts = BackboneInfo(name, name, 24, PATCH, mean=(0.0,) * 3, std=(1.0,) * 3)
    return Backbone(make_trunk(model.eval(), "last", "antialias"), facts, digest([name, attended]))


def attention_masks(dataset, split, mass=0.65):
    """What the ViT attends to in the images of a split, heads averaged: bool [n, 8, 8]."""
    found = []
    for item in dataset.items(split):
        pixels = torch.from_numpy(np.array(dataset.image(item))).permute(2, 0, 1)[None] / 255
        with torch.no_grad():
            grid = attention_of(seeing())(pixels).double().mean(1)
        found.append(without_specks(foreground(grid.flatten(1), tuple(grid.shape[1:]), mass).view(grid.shape))[0].numpy())
    return np.stack(found)


def precisions(dataset, split):
    """The share of each part that attention covers, as the mean over images that show it."""
    masks, k = attention_masks(dataset, split), 5 + dataset.backgrounds
    shares = [[] for _ in range(k)]
    for item, mask in zip(dataset.items(split), masks, strict=True):
        parts = parts_of(item.name, dataset.backgrounds)
        for part in np.unique(parts):
            shares[part].append(mask[parts == part].mean())
    return np.array([np.mean(one) if one else 0.0 for one in shares])


def large(grid):
    """A map of patches in pixels."""
    return np.asarray(grid).repeat(PATCH, 0).repeat(PATCH, 1)


def foreground_iou(dataset, masks):
    """IoU in % of masks of patches with what is labelled or void, as the mean over the images of val."""
    found = []
    for item, mask in zip(dataset.items("val"), masks, strict=True):
        mask, truth = large(mask).astype(bool), dataset.label(item) != 0  # void is foreground
        found.append((mask & truth).sum() / (mask | truth).sum() if (mask | truth).any() else 0.0)
    return 100 * np.mean(found)


def ious(dataset, cluster_maps, matching="hungarian"):
    """IoU in % of every class, once clusters are called by classes: one to one by trying all, or by the most frequent class."""
    classes, k = len(dataset.classes), 1 + max(int(one.max()) for one in cluster_maps)
    confusion = np.zeros((classes, k))
    for item, clusters in zip(dataset.items("val"), cluster_maps, strict=True):
        label, ids = dataset.label(item), large(clusters)
        np.add.at(confusion, (label[label != 255], ids[label != 255]), 1)

    def table(counts):
        union = counts.sum(1)[:, None] + counts.sum(0) - counts
        return counts / np.maximum(union, 1)

    if matching == "hungarian":
        size = max(classes, k)
        square = np.zeros((size, size))
        square[:classes, :k] = table(confusion)
        orders = itertools.permutations(range(size), k)  # the class of each cluster; those above the last are none
        best = max(orders, key=lambda order: sum(square[c, n] for n, c in enumerate(order)))
        names = [c if c < classes else 0 for c in best]
    else:
        names = confusion.argmax(0)
    named = np.zeros((classes, classes))
    for cluster, c in enumerate(names):
        named[:, c] += confusion[:, cluster]
    return 100 * table(named).diagonal()


def best_cut(dataset, truths):
    """Of 5 or 6 background clusters of ten, those with which the masks of train agree best; the next precision, rounded."""
    precision, tried = precisions(dataset, "train"), []
    order = np.argsort(precision, kind="stable")
    for start in (5, 6):
        masks = [np.isin(parts_of(item.name, 5), order[start:]) for item in dataset.items("train")]
        agreement = [(mask & truth).sum() / max((mask | truth).sum(), 1) for mask, truth in zip(masks, truths, strict=True)]
        tried.append((np.mean(agreement), precision[order[start]]))
    value = max(tried)[1] / 0.05
    assert abs(tried[0][0] - tried[1][0]) > 0.02
    assert abs(value % 1 - 0.5) > 0.003  # not half-way
    return round(value) * 0.05
