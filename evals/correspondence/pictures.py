"""Pictures of pairs: source and target side by side, right matches in blue, wrong ones in red, the truth beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from PIL import Image, ImageDraw

from densebench.console import notice
from densebench.datasets.dataset import Dataset
from densebench.datasets.keypoints import Pair
from densebench.evals.correspondence.geometry import Points
from densebench.evals.correspondence.guesses import hits
from densebench.evals.correspondence.outcomes import Rules
from densebench.evals.correspondence.pairs import length_of
from densebench.evals.correspondence.scoring import Outcome
from densebench.pictures.canvas import row, save

HEIGHT, GAP = 360, 8  # px
RIGHT, WRONG, TRUTH = (60, 140, 255), (230, 60, 50), (255, 215, 0)  # blue and red differ for the colour-blind too
USUAL = 0.1  # the threshold that decides the colours, where it is scored
LEGEND = [("right", "#3c8cff"), ("wrong", "#e63c32"), ("truth", "#ffd700")]


def draw(dataset: Dataset, found: Sequence[tuple[Pair, Outcome]], rules: Rules, folder: Path) -> None:
    """Write a PNG for each pair, and say where they are."""
    alpha = USUAL if USUAL in rules.alphas else rules.alphas[0]
    for number, (pair, outcome) in enumerate(found):
        right = right_of(pair, outcome, dataset.image_size(pair.target), rules, alpha)
        images = dataset.image(pair.source), dataset.image(pair.target)
        text = (
            f"{pair.category}: keypoints of the left picture and their matches in the right one, {int(right.sum())} of "
            f"{len(right)} right at alpha {alpha:g}; a ring is the truth of a wrong match"
        )
        save(panel(*images, pair, outcome.predicted, right), folder / f"{number:04}.png", description=text, legend=LEGEND)
    notice(f"pictures of {len(found)} {'pair' if len(found) == 1 else 'pairs'} are in {folder}")


def right_of(pair: Pair, outcome: Outcome, size: tuple[int, int], rules: Rules, alpha: float) -> Bool[np.ndarray, "k"]:
    """Return which matches of a pair are right at a threshold. size: of the target's picture, px."""
    return hits(outcome.apart, alpha * length_of(pair, size, rules.threshold), rules.strict)


def panel(source: Image.Image, target: Image.Image, pair: Pair, predicted: Points, right: Bool[np.ndarray, "k"]) -> Image.Image:
    """Return both pictures, HEIGHT px high, with a line from each keypoint to its match."""
    scales = HEIGHT / source.height, HEIGHT / target.height
    resized = [
        image.resize((max(1, round(image.width * scale)), HEIGHT), Image.Resampling.BICUBIC)
        for image, scale in zip((source, target), scales, strict=True)
    ]
    shown = row(resized, gap=GAP)
    pen, shift = ImageDraw.Draw(shown), np.array([resized[0].width + GAP, 0])
    starts, ends, truths = pair.source_points * scales[0], predicted * scales[1] + shift, pair.target_points * scales[1] + shift
    for index in np.argsort(right, kind="stable")[::-1]:  # wrong ones last, on top
        colour = RIGHT if right[index] else WRONG
        line = [tuple(starts[index]), tuple(ends[index])]
        pen.line(line, fill=(255, 255, 255), width=4)
        pen.line(line, fill=colour, width=2)
        if not right[index]:
            pen.line([tuple(ends[index]), tuple(truths[index])], fill=TRUTH, width=1)
            _ring(pen, truths[index], TRUTH)
    for index, good in enumerate(right):
        for point in (starts[index], ends[index]):
            _dot(pen, point, RIGHT if good else WRONG)
    return shown


def _dot(pen: ImageDraw.ImageDraw, at: np.ndarray, colour: tuple[int, int, int]) -> None:
    pen.ellipse(_around(at, 5), fill=(255, 255, 255))
    pen.ellipse(_around(at, 4), fill=colour)


def _ring(pen: ImageDraw.ImageDraw, at: np.ndarray, colour: tuple[int, int, int]) -> None:
    pen.ellipse(_around(at, 7), outline=(0, 0, 0), width=4)
    pen.ellipse(_around(at, 6), outline=colour, width=2)


def _around(at: np.ndarray, radius: int) -> tuple[float, float, float, float]:
    x, y = (float(value) for value in at)
    return x - radius, y - radius, x + radius, y + radius
