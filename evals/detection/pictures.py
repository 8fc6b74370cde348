"""Pictures of detections: the image with its objects on the left, with the detections on the right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from densebench.bridges.torchvision.masks import pixels, run_lengths
from densebench.evals.detection.average_precision import Scored
from densebench.pictures.canvas import row
from densebench.pictures.palette import distinct_palette

SHOWN = 0.3  # least score of a detection that is drawn
GROUP = (160, 160, 160)
SHARE = 0.4  # opacity of a mask's colour


def picture_of(image: Image.Image, scored: Scored, names: Sequence[str]) -> Image.Image:
    """Return objects and detections side by side, in the colours of their classes; groups are grey."""
    truth, detections = scored.truth, scored.detections
    height, width, colours = scored.height, scored.width, distinct_palette(len(names))
    left = image.copy()
    for i in range(len(truth)):
        colour = GROUP if truth.crowd[i] else colours[truth.classes[i]]
        mask = run_lengths(truth.masks[i], height, width, detections.image) if truth.masks else None
        left = _drawn(left, truth.boxes[i], colour, names[truth.classes[i]], mask)
    right = image.copy()
    for i in np.flatnonzero(detections.scores >= SHOWN)[::-1]:
        kind = int(detections.classes[i])
        mask = {"size": [height, width], "counts": detections.masks[i].encode()} if detections.masks else None
        right = _drawn(right, detections.boxes[i], colours[kind], f"{names[kind]} {detections.scores[i]:.2f}", mask)
    return row([left, right], gap=4)


def _drawn(image: Image.Image, box: np.ndarray, colour: tuple[int, int, int], text: str, mask: Any) -> Image.Image:
    """Return the image with a mask, a box and a caption drawn on it."""
    if mask is not None:
        inside = pixels(mask).astype(bool)
        values = np.asarray(image).astype(float)
        values[inside] = (1 - SHARE) * values[inside] + SHARE * np.array(colour)
        image = Image.fromarray(values.round().astype(np.uint8))
    left, top, right, bottom = box.tolist()
    pen = ImageDraw.Draw(image)
    pen.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=colour, width=2)
    pen.text((left + 3, top + 1), text, fill=colour)
    return image
