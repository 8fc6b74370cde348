"""Pictures of detections: the image with what is true on the left, with what was found on the right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from densebench.evals.detection.average_precision import Seen
from PIL import Image, ImageDraw

from densebench.bridges.torchvision.masks import pixels, run_lengths
from densebench.pictures.canvas import row
from densebench.pictures.palette import distinct_palette

SHOWN = 0.3  # score from which on a detection is drawn
GROUP = (160, 160, 160)
SHARE = 0.4  # of a mask's colour


def drawn(image: Image.Image, seen: Seen, names: Sequence[str]) -> Image.Image:
    """Truth and detections beside each other, in the colours of their classes; groups are grey."""
    truth, found = seen.truth, seen.found
    colours = distinct_palette(len(names))
    true = image.copy()
    for place in range(len(truth)):
        colour = GROUP if truth.crowd[place] else colours[truth.classes[place]]
        mask = run_lengths(truth.masks[place], seen.height, seen.width, found.image) if truth.masks else None
        true = _one(true, truth.boxes[place], colour, names[truth.classes[place]], mask)
    own = image.copy()
    for place in np.flatnonzero(found.scores >= SHOWN)[::-1]:
        kind = int(found.classes[place])
        mask = {"size": [seen.height, seen.width], "counts": found.masks[place].encode()} if found.masks else None
        own = _one(own, found.boxes[place], colours[kind], f"{names[kind]} {found.scores[place]:.2f}", mask)
    return row([true, own], gap=4)


def _one(image: Image.Image, box: np.ndarray, colour: tuple[int, int, int], text: str, mask: Any) -> Image.Image:
    if mask is not None:
        inside = pixels(mask).astype(bool)
        colours = np.asarray(image).astype(float)
        colours[inside] = (1 - SHARE) * colours[inside] + SHARE * np.array(colour)
        image = Image.fromarray(colours.round().astype(np.uint8))
    left, top, right, bottom = box.tolist()
    pen = ImageDraw.Draw(image)
    pen.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=colour, width=2)
    pen.text((left + 3, top + 1), text, fill=colour)
    return image
