"""Pictures of matches: two pictures side by side, with lines from places in the first to their matches in the second."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image, ImageDraw
from torch import Tensor

from densebench.datasets.dataset import limited
from densebench.pictures.canvas import row

SHOWN, GAP = 24, 8  # lines of a picture, and px between the two
RIGHT, WRONG = (60, 140, 255), (230, 60, 50)  # blue and red differ for the colour-blind too
TRUE = (250, 220, 40)
LEGEND = [("right", "#3c8cff"), ("wrong", "#e63c32"), ("truth of a wrong match", "#fadc28")]


def matches_drawn(
    images: Sequence[Float[Tensor, "3 _ _"]],
    places: Float[Tensor, "n 2"],
    ends: Float[Tensor, "n 2"],
    right: Bool[Tensor, "n"],
    truths: Float[Tensor, "n 2"] | None = None,
) -> Image.Image:
    """Return both pictures in one row, with SHOWN matches that are spread evenly over all, in order.

    places: x, y in px of the first picture; ends: of their matches in the second. A right match is a blue line; any other one
    is red, and a yellow dot stands at the true place where `truths` has it.
    """
    first, second = (_picture(each) for each in images)
    result = row([first, second], gap=GAP)
    pen, shift = ImageDraw.Draw(result), np.array([first.width + GAP, 0])
    for index in limited(range(len(places)), SHOWN):
        start, end = places[index].numpy(), ends[index].numpy() + shift
        colour = RIGHT if right[index] else WRONG
        pen.line([*start.tolist(), *end.tolist()], fill=colour, width=1)
        dots = [(start, colour), (end, colour)]
        if truths is not None and not right[index]:
            dots.append((truths[index].numpy() + shift, TRUE))
        for place, shade in dots:
            pen.ellipse([*(place - 3).tolist(), *(place + 3).tolist()], fill=shade)
    return result


def _picture(image: Float[Tensor, "3 h w"]) -> Image.Image:
    pixels = (255 * image).round().clamp(0, 255).byte()
    return Image.fromarray(pixels.movedim(0, -1).contiguous().numpy())
