"""Decoded images cached in the machine's memory or the GPU's: `--cache ram` and `--cache gpu`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from densebench.console import progress
from densebench.datasets.unlabelled import Images
from densebench.errors import UserError
from densebench.numerics.crops import Pictures
from densebench.training.batches import Batch


class Cache(Images):
    """All images of a data set, decoded once, as bytes in shared memory, with a short side of at most `side` px.

    Larger images are reduced to that size, so crops of a small part of them lose some detail.
    """

    def __init__(self, images: Images, side: int) -> None:
        self.name, self.images = images.name, images
        self.shapes: list[tuple[int, int]] = []
        parts: list[Tensor] = []
        with progress("decoding into memory", len(images)) as bar:
            for number in range(len(images)):
                pixels = _decoded(images, number, side)
                self.shapes.append((pixels.shape[0], pixels.shape[1]))
                parts.append(torch.from_numpy(pixels.copy()).flatten())
                bar.advance()
        self.starts = np.cumsum([0, *(len(part) for part in parts)])
        self.bytes = torch.cat(parts).share_memory_()

    def __len__(self) -> int:
        return len(self.images)

    def title(self, index: int) -> str:
        """Return the title that the image has in the set."""
        return self.images.title(index)

    def open(self, index: int) -> Image.Image:
        """Return the cached image."""
        return Image.fromarray(self.pixels(index))

    def pixels(self, index: int) -> np.ndarray:
        """Return the cached bytes, uint8 [h, w, 3], from whichever device they are on."""
        return self.tensor(index).cpu().numpy()

    def tensor(self, index: int) -> Tensor:
        """Return the cached bytes on their device, uint8 [h, w, 3]. Raises UserError for a file that could not be decoded."""
        height, width = self.shapes[index]
        if not height:
            raise UserError(f"the image {self.title(index)} cannot be decoded; fetch it again")
        return self.bytes[self.starts[index] : self.starts[index + 1]].view(height, width, 3)

    def on(self, device: torch.device) -> tuple[Images, Cache]:
        """Move the bytes to a device; return the images' shapes, from which views are drawn, and this cache."""
        self.bytes = self.bytes.to(device)
        return Shapes(self), self

    def fill(self, batch: Batch) -> Batch:
        """Return a batch that was drawn from `Shapes`, with its pixels as views of the cached bytes; none is copied."""
        numbers, (top, left) = batch.numbers.numpy(), batch.offsets.numpy().astype(np.int64).T
        row = 3 * np.array(self.shapes, np.int64).reshape(-1, 2)[numbers, 1]
        ones = np.ones_like(row)
        layout = np.stack([self.starts[numbers] + row * top + 3 * left, ones, row, 3 * ones], axis=1)
        return replace(batch, pixels=Pictures((self.bytes,), torch.from_numpy(layout)))


class Shapes(Images):
    """The shapes of images whose pixels are on another device: enough to draw views."""

    def __init__(self, cache: Cache) -> None:
        self.name, self.shapes = cache.name, cache.shapes
        self.titles = [cache.title(number) for number in range(len(cache))]

    def __len__(self) -> int:
        return len(self.shapes)

    def title(self, index: int) -> str:
        """Return the title that the image has in the set."""
        return self.titles[index]

    def open(self, index: int) -> Image.Image:
        """Raise NotImplementedError: the pixels are elsewhere."""
        raise NotImplementedError

    def pixels(self, index: int) -> np.ndarray:
        """Return an array without channels, uint8 [h, w, 0]. Raises UserError for a file that could not be decoded."""
        height, width = self.shapes[index]
        if not height:
            raise UserError(f"the image {self.title(index)} cannot be decoded; fetch it again")
        return np.zeros((height, width, 0), np.uint8)


def _decoded(images: Images, number: int, side: int) -> np.ndarray:
    try:
        image = images.open(number)
    except UserError:
        return np.zeros((0, 0, 3), np.uint8)
    factor = side / min(image.size)
    if factor < 1:
        image = image.resize((round(image.width * factor), round(image.height * factor)), reducing_gap=2.0)
    return np.asarray(image)
