"""Sheets of one image under every corruption, with what is predicted of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from densebench.console import notice, silenced
from densebench.datasets.dataset import Dataset, Item
from densebench.evaluation.labelling import Learned
from densebench.evaluation.pictures import colour, colours_of, legend
from densebench.features.memory import Memory
from densebench.pictures.canvas import save
from densebench.pictures.sheet import Row, sheet

SHOWN = "the image clean, its truth and its prediction, then a row for each corruption: the levels, and their predictions"


def draw(
    learned: Learned, clean: Dataset, corrupted: Mapping[str, Mapping[int, Dataset]], items: Sequence[Item], folder: Path
) -> None:
    """Write `<image>.png` for each image. corrupted: by corruption and level, the data set that is corrupted so."""
    palette = colours_of(learned.space)
    levels = list(next(iter(corrupted.values())))
    columns = [*(f"level {level}" for level in levels), *(f"predicted at {level}" for level in levels)]
    for item in items:
        size = learned.view.shape(*clean.image_size(item))[::-1]

        def shown(images: Dataset, item: Item = item, size: tuple[int, int] = size) -> tuple[Image.Image, Image.Image]:
            with silenced(), Memory(images, 0).used():
                [(_, labels)] = learned.label_maps(images, [item], "scored")
            predicted = colour(labels, palette).resize(size, Image.Resampling.NEAREST)
            return images.image(item).resize(size, Image.Resampling.BILINEAR), predicted

        picture, predicted = shown(clean)
        truth = colour(learned.truth(item), palette).resize(size, Image.Resampling.NEAREST)
        rows: list[Row] = [("clean: image, truth, prediction", [picture, truth, predicted])]
        for name, by_level in corrupted.items():
            pairs = [shown(images) for images in by_level.values()]
            rows.append((name, [*(picture for picture, _ in pairs), *(predicted for _, predicted in pairs)]))
        path = folder / f"{item.name.replace('/', '-')}.png"
        save(sheet(rows, columns, item.name), path, description=SHOWN, legend=legend(clean))
    notice(f"pictures of {len(items)} images are in {folder}")
