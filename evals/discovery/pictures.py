"""Pictures of what was found: the boxes, the masks, and what decided."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw

from densebench.console import notice
from densebench.datasets.dataset import Dataset, Item
from densebench.evals.discovery.findings import Box, Finding
from densebench.evals.discovery.truth import Truth
from densebench.pictures.canvas import row, save

FOUND, TRUE = (230, 60, 30), (40, 160, 70)
LEGEND = [("found", "#e63c1e"), ("truth", "#28a046")]
COLD, WARM = np.array([59, 76, 192]), np.array([180, 4, 38])
"""Colours of the least and the greatest value; what lies between passes through white."""


def draw(
    dataset: Dataset, item: Item, finding: Finding, mask: Bool[np.ndarray, "h w"], truth: Truth, covered: tuple[int, int],
    what: str, folder: Path,
) -> None:  # fmt: skip
    """Write one picture: what was found and the truth, each as box and mask, and beside it the map that decided.

    mask: what was found, in pixels. covered: width and height in px of the picture that the map covers. what: what it shows.
    """
    image = dataset.image(item)
    shown = overlaid(overlaid(image, truth.mask, TRUE), mask, FOUND)
    for box in truth.boxes.tolist():
        outlined(shown, tuple(box), TRUE)
    if finding.box is not None:
        outlined(shown, finding.box, FOUND)
    parts = [image, shown]
    if finding.drawn is not None:
        canvas = Image.new("RGB", image.size, "white")
        canvas.paste(Image.fromarray(heat(finding.drawn)).resize(covered, Image.Resampling.NEAREST))
        parts.append(canvas)
    flaw = f"; {finding.flaw}" if finding.flaw else ""
    path = folder / f"{item.name.replace('/', '-')}.png"
    save(row(parts, gap=4), path, description=f"image, found and truth, {what}{flaw}", legend=LEGEND)


def said(count: int, folder: Path) -> None:
    """Say where pictures are."""
    notice(f"pictures of {count} images are in {folder}")


def overlaid(image: Image.Image, mask: Bool[np.ndarray, "h w"] | None, colour: tuple[int, int, int]) -> Image.Image:
    """Return an image with a mask in a colour, half transparent."""
    if mask is None:
        return image
    pixels = np.array(image, dtype=np.float32)
    pixels[mask] = (pixels[mask] + np.array(colour)) / 2
    return Image.fromarray(pixels.astype(np.uint8))


def outlined(image: Image.Image, box: Box, colour: tuple[int, int, int]) -> None:
    """Draw the outline of a box into an image."""
    left, top, right, bottom = box
    if right > left and bottom > top:
        ImageDraw.Draw(image).rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=colour, width=3)


def heat(values: Float[np.ndarray, "rows columns"]) -> UInt8[np.ndarray, "rows columns 3"]:
    """Return values as colours, from blue for the least over white to red for the greatest; all white where they are equal."""
    low, high = float(values.min()), float(values.max())
    share = (values - low) / (high - low) if high > low else np.full(values.shape, 0.5)
    toward = np.abs(2 * share - 1)[..., None]
    ends = np.where((share > 0.5)[..., None], WARM, COLD)
    return np.round(255 * (1 - toward) + ends * toward).astype(np.uint8)
