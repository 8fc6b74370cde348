"""Figures of what ViTs do inside: similarity of patches, attention of query patches, and embeddings of patches, by block."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from densebench.backbones.backbone import Backbone
from densebench.backbones.inside import patch_attention, patches_after, similarity_sums, spread
from densebench.datasets.dataset import Dataset, limited
from densebench.evaluation.labels import LabelSpace
from densebench.features.views import View
from densebench.pictures.sheet import Row

SIDE = 224  # px of a shown map
POINTS = ((0.5, 0.5), (0.25, 0.75))  # of the query patches, as shares of height and width
GREEN = (60, 220, 90)
VOID = (190, 190, 190)


@dataclass
class Shown:
    """The images that maps are drawn of, the same for all backbones. settings: those of the figure."""

    dataset: Dataset
    settings: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Choose the images: evenly spaced ones of the scored split. Raises UserError where it is not there."""
        self.items = limited(self.dataset.items(self.dataset.val_split), int(self.settings["images"]))

    def view(self, backbone: Backbone) -> View:
        """Return how a backbone sees the images: a square of the size nearest to the given one that its stride divides."""
        return View(backbone.multiple, View(backbone.multiple).fit(int(self.settings["image_size"])))

    def pixels(self, backbone: Backbone) -> Tensor:
        """Return the images, normalised, `[images 3 size size]`."""
        view = self.view(backbone)
        shown = torch.stack([view.image(self.dataset.image(item), self.dataset.image_digest(item)) for item in self.items])
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (backbone.mean, backbone.std))
        return (shown - mean) / std

    def pictures(self) -> list[Image.Image]:
        """Return the images as squares."""
        return [self.dataset.image(item).resize((SIDE, SIDE), Image.Resampling.BILINEAR) for item in self.items]

    def labels(self, backbone: Backbone) -> np.ndarray:
        """Return the class under the centre of each patch, `[images * patches]`."""
        space, view, half = LabelSpace(self.dataset, "drop", "off"), self.view(backbone), backbone.multiple // 2
        maps = [view.label(space.read_truth(item), self.dataset.image_digest(item)) for item in self.items]
        return np.concatenate([label[half :: backbone.multiple, half :: backbone.multiple].flatten().numpy() for label in maps])

    def blocks(self, backbone: Backbone) -> list[int]:
        """Return after how many blocks the patches are shown."""
        return list(self.settings["layers"] or spread(backbone))


def rows_of(shown: Shown, name: str, backbone: Backbone) -> list[Row]:
    """Return the rows of one backbone. Raises UserError for a backbone that is not a ViT."""
    return {"similarity": _similarity, "attention": _attention, "embedding": _embedding}[shown.settings["of"]](
        shown, name, backbone
    )


def head_of(shown: Shown) -> list[Row]:
    """Return the rows above those of the backbones: the images with their query patches, where maps are of these."""
    if shown.settings["of"] != "attention":
        return []
    return [("query patches", [_marked(picture, *point) for picture in shown.pictures() for point in POINTS])]


def columns_of(shown: Shown, backbone: Backbone) -> list[str]:
    """Return the names of the columns."""
    if shown.settings["of"] == "attention":
        return []
    names = [f"{number} blocks" if number else "projection" for number in shown.blocks(backbone)]
    return ["image", *names] if shown.settings["of"] == "similarity" else names


def _similarity(shown: Shown, name: str, backbone: Backbone) -> list[Row]:
    """Return one row per image: the image, and how similar each patch is to all others after each number of blocks."""
    pixels = shown.pixels(backbone)
    grid = (pixels.shape[2] // backbone.multiple, pixels.shape[3] // backbone.multiple)
    by_layer = patches_after(backbone, pixels, shown.blocks(backbone))
    return [
        (name if not number else "", [picture, *(thermal(similarity_sums(each[number]).view(grid)) for each in by_layer)])
        for number, picture in enumerate(shown.pictures())
    ]


def _attention(shown: Shown, name: str, backbone: Backbone) -> list[Row]:
    """Return one row: the attention of each query patch of each image in the last block."""
    pixels = shown.pixels(backbone)
    rows, columns = pixels.shape[2] // backbone.multiple, pixels.shape[3] // backbone.multiple
    queries = torch.tensor([int(y * rows) * columns + int(x * columns) for y, x in POINTS])
    maps = patch_attention(backbone, pixels, queries)
    return [(name, [thermal(each) for of_image in maps for each in of_image])]


def _embedding(shown: Shown, name: str, backbone: Backbone) -> list[Row]:
    """Return one row: t-SNE of the patches of all images after each number of blocks, coloured by the class at their centre."""
    labels = shown.labels(backbone)
    palette = np.full((256, 3), VOID, dtype=np.uint8)
    colours = shown.dataset.palette()
    palette[: len(colours)] = colours
    by_layer = patches_after(backbone, shown.pixels(backbone), shown.blocks(backbone))
    return [(name, [scatter(embedded(each.flatten(0, 1).numpy()), palette[labels]) for each in by_layer])]


def embedded(points: np.ndarray) -> np.ndarray:
    """Return points `[n d]` in the plane, `[n 2]`, by t-SNE with a fixed seed."""
    from sklearn.manifold import TSNE

    perplexity = min(30.0, max(1.0, (len(points) - 1) / 3))
    plane: np.ndarray = TSNE(2, perplexity=perplexity, init="pca", random_state=0).fit_transform(points.astype(np.float32))
    return plane


def scatter(points: np.ndarray, colours: np.ndarray) -> Image.Image:
    """Return points `[n 2]` in their colours `[n 3]` on white, without axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(SIDE / 50, SIDE / 50), dpi=100)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.scatter(points[:, 0], points[:, 1], s=6, c=colours / 255, linewidths=0)
    axes.set_axis_off()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer).convert("RGB")


def thermal(values: Tensor) -> Image.Image:
    """Return a map `[rows columns]` as a thermal picture, black at its least and bright at its largest value."""
    import matplotlib

    low, high = values.min(), values.max()
    shares = ((values - low) / (high - low).clamp(min=1e-12)).numpy()
    colours = (matplotlib.colormaps["inferno"](shares)[..., :3] * 255).astype(np.uint8)
    return Image.fromarray(colours).resize((SIDE, SIDE), Image.Resampling.NEAREST)


def _marked(picture: Image.Image, y: float, x: float) -> Image.Image:
    """Return a square picture with a circle around a point."""
    result, centre, radius = picture.copy(), (x * SIDE, y * SIDE), SIDE // 16
    box = (centre[0] - radius, centre[1] - radius, centre[0] + radius, centre[1] + radius)
    ImageDraw.Draw(result).ellipse(box, outline=GREEN, width=4)
    return result
