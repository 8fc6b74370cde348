"""A made-up data set of rectangles and discs in plain colours, and a small ViT, for tests of detection."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco

from densebench.backbones.backbone import Backbone, Facts
from densebench.backbones.timm_models import Trunk
from densebench.datasets.boxes import Boxed, Objects
from densebench.datasets.dataset import Item
from densebench.files.atomic import digest
from densebench.torchvision_ops import make_importable

make_importable()  # before a test imports torchvision

COLOURS = np.array([[220, 40, 40], [40, 60, 220]])


@functools.cache
def scene(name: str, width: int = 96, height: int = 80):
    """An image with a rectangle of class 0 and a disc of class 1; their boxes and masks."""
    rng = np.random.default_rng(int(digest(name, 8), 16))
    image = np.full((height, width, 3), 200) + rng.normal(0, 6, (height, width, 3))
    rows, columns = np.mgrid[:height, :width]
    top, left = int(rng.integers(4, 20)), int(rng.integers(4, 14))
    rectangle = (rows >= top) & (rows < top + 40) & (columns >= left) & (columns < left + 30)
    middle = int(rng.integers(66, 76)), int(rng.integers(30, 50))
    disc = (columns - middle[0]) ** 2 + (rows - middle[1]) ** 2 < 17**2
    masks = np.stack([rectangle, disc])
    for mask, colour in zip(masks, COLOURS, strict=True):
        image[mask] = colour + rng.normal(0, 6, (mask.sum(), 3))
    return np.clip(image, 0, 255).astype(np.uint8), masks.astype(np.uint8)


def boxes_of(masks):
    found = []
    for mask in masks:
        down, across = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        found.append([across[0], down[0], across[-1] + 1, down[-1] + 1])
    return np.array(found, dtype=float).reshape(-1, 4)


@dataclass(frozen=True, kw_only=True)
class Drawn(Boxed):
    """`empty`: images of the training split without an object; `crowds`: those whose first object is a group."""

    name: str = "drawn"
    title: str = "drawn"
    classes: tuple[str, ...] = ("rectangle", "disc")
    count: int = 3
    empty: tuple[str, ...] = ()
    crowds: tuple[str, ...] = ()
    same: bool = False

    has_masks = True

    def list_items(self, split):
        return (Item(f"{'train' if self.same else split}-{i}", None, None) for i in range(self.count))

    def image(self, item):
        return Image.fromarray(scene(item.name)[0])

    def image_size(self, item):
        return self.image(item).size

    def image_digest(self, item):
        return digest([item.name])

    def objects(self, item):
        masks = scene(item.name)[1][: 0 if item.name in self.empty else 2]
        crowd = np.zeros(len(masks), bool)
        crowd[:1] = item.name in self.crowds
        lengths = coco.encode(np.asfortranarray(masks.transpose(1, 2, 0))) if len(masks) else []
        texts = tuple({"size": one["size"], "counts": one["counts"].decode()} for one in lengths)
        areas = masks.sum((1, 2)).astype(float)
        return Objects(boxes_of(masks), np.arange(len(masks)), crowd, areas, texts)

    def annotation(self, item):
        return [item.name, item.name in self.empty, item.name in self.crowds]


def small_vit(patch: int = 8, depth: int = 3, dim: int = 48, seed: int = 0) -> Backbone:
    """A random ViT of three blocks."""
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(seed)
    model = VisionTransformer(img_size=8 * patch, patch_size=patch, embed_dim=dim, depth=depth, num_heads=2, num_classes=0)
    trunk = Trunk(model.eval(), [depth - 1], "antialias")
    facts = Facts("small", "vit", dim, patch, (0.5,) * 3, (0.25,) * 3, pos_embed="antialias")
    return Backbone(trunk, facts, digest([patch, depth, dim, seed]))


def options_of(**given):
    """Options of a short run on small images."""
    from densebench.evals.detection import Detection

    usual = {
        "width": 32, "augmentation": "flip", "short_side": 80, "long_side": 133, "iterations": 4, "epochs": 1, "train_batch": 2,
        "learning_rate": 2e-3, "drop_path": 0.0, "steps": (0.9,), "warmup": 10, "clip": 1.0, "regions": 16, "detections": 10,
    }  # fmt: skip
    return Detection(**{**usual, **given})
