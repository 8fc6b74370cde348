"""Augmentation: boxes and colours of views, drawn for each image, and their application on the CPU (on a GPU: `rendering`).

Source: the data augmentation of DINO's official code (BYOL's), on floating-point tensors instead of bytes: nothing is rounded
between the steps. Blur is a true Gaussian where Pillow approximates one by box filters.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor

from densebench.errors import UserError
from densebench.features.views import Crop, random_crop
from densebench.numerics.crops import Pictures, resized_crops

ATTEMPTS = 100  # most draws of a view that must overlap others
TAPS = 13  # of the Gaussian: three standard deviations on each side for the widest default, 2 px
GREY = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class ViewSpec:
    """How one view of an image is drawn.

    size: side in px. scale: smallest and largest share of the image's area. flip, jitter, grey, blur, solarise: probabilities.
    strengths: of brightness, contrast, saturation (factors in 1 - s .. 1 + s) and hue (turns in -s .. s).
    sigma: range of the blur's standard deviation in px. kernel: how crops are resized. other: probabilities of blur and solarise
    that replace the two above in a random half of all draws.

    A view may depend on earlier views of the same image, given by their index. meets: views with which this one must share more
    than `overlap` of the image's area; it is drawn at most ATTEMPTS times, then moved to overlap them. inside: the view that this
    one is a crop of. like: the view whose box and flip this one repeats.

    Raises UserError where the smallest view is too small for the requested overlap.
    """

    size: int
    scale: tuple[float, float]
    flip: float = 0.5
    jitter: float = 0.8
    strengths: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    grey: float = 0.2
    blur: float = 0.5
    sigma: tuple[float, float] = (0.1, 2.0)
    solarise: float = 0.0
    kernel: str = "bicubic"
    other: tuple[float, float] | None = None
    meets: tuple[int, ...] = ()
    overlap: float = 0.0
    inside: int | None = None
    like: int | None = None

    def __post_init__(self) -> None:
        if self.meets and self.scale[0] <= self.overlap:
            raise UserError(
                f"a view that shows {self.scale[0]:g} of an image cannot share more than {self.overlap:g} of it with another; "
                f"let its scale begin above {self.overlap:g}"
            )

    def draw(self, width: int, height: int, generator: np.random.Generator) -> np.ndarray:
        """Return the random parameters of a view that depends on no other, float32 [17], as `AugmentParams` names them.

        width, height: of the image, px.
        """
        return np.array([*random_crop(width, height, generator, self.scale), *self._colours(generator)], dtype=np.float32)

    def _colours(self, generator: np.random.Generator) -> list[float]:
        """Return the parameters after the box: flip, jitter, 3 factors, hue, order of 4 operations, grey, sigma, solarise.

        Numbers in 0 .. 1 are drawn together: they are the same as if drawn one by one, in a fraction of the time.
        """
        blur, solarise = self.blur, self.solarise
        if self.other is None:
            coins = generator.random(9).tolist()
        else:
            first, *coins = generator.random(10).tolist()
            blur, solarise = self.other if first < 0.5 else (blur, solarise)
        *strengths, turn = self.strengths
        factors = [_between(max(0.0, 1 - s), 1 + s, coin) for s, coin in zip(strengths, coins[5:8], strict=True)]
        order, sigma = generator.permutation(4).tolist(), _between(*self.sigma, generator.random())
        looks = (coins[2] < self.grey, sigma if coins[3] < blur else 0.0, coins[4] < solarise)
        values = (coins[0] < self.flip, coins[1] < self.jitter, *factors, _between(-turn, turn, coins[8]), *order, *looks)
        return list(map(float, values))


def _between(low: float, high: float, share: float) -> float:
    """Return `low + (high - low) * share`, as `numpy.random.Generator.uniform` computes it."""
    return low + (high - low) * share


def draw_views(
    specs: Sequence[ViewSpec], width: int, height: int, generator: np.random.Generator
) -> Float32[np.ndarray, "views 17"]:
    """Return the random parameters of all views of one image, as `AugmentParams` names them. width, height: of the image, px."""
    rows: list[list[float]] = []
    boxes: list[Crop] = []
    for spec in specs:
        if spec.like is not None:
            random_crop(width, height, generator, spec.scale)  # unused, but drawn: what is drawn after it does not depend on it
            own = spec._colours(generator)
            boxes.append(boxes[spec.like])
            rows.append([*boxes[-1], rows[spec.like][4], *own[1:]])
        else:
            boxes.append(_place(spec, specs, boxes, width, height, generator))
            rows.append([*boxes[-1], *spec._colours(generator)])
    return np.array(rows, dtype=np.float32)


def _place(
    spec: ViewSpec, specs: Sequence[ViewSpec], before: list[Crop], width: int, height: int, generator: np.random.Generator
) -> Crop:
    """Return the box of a view, given those of the views before it."""
    if spec.inside is not None:
        return _cut_out(before[spec.inside], specs[spec.inside].size, spec.scale, generator)
    others = [before[number] for number in spec.meets]
    for _ in range(ATTEMPTS):
        box = random_crop(width, height, generator, spec.scale)
        if all(shared(box, other) > spec.overlap * width * height for other in others):
            return box
    top, bottom = max(o.top for o in others), min(o.top + o.height for o in others)
    left, right = max(o.left for o in others), min(o.left + o.width for o in others)
    y, x = round((top + bottom - box.height) / 2), round((left + right - box.width) / 2)
    return box._replace(top=min(max(y, 0), height - box.height), left=min(max(x, 0), width - box.width))


def _cut_out(outer: Crop, size: int, scale: tuple[float, float], generator: np.random.Generator) -> Crop:
    """Return a random crop of a view with a side of `size` px that shows `outer`, as a box in whole pixels of the image."""
    inner = random_crop(size, size, generator, scale)
    top, bottom = (outer.top + round(edge * outer.height / size) for edge in (inner.top, inner.top + inner.height))
    left, right = (outer.left + round(edge * outer.width / size) for edge in (inner.left, inner.left + inner.width))
    top, left = min(top, outer.top + outer.height - 1), min(left, outer.left + outer.width - 1)
    return Crop(top, left, max(bottom - top, 1), max(right - left, 1))


def shared(one: Crop, other: Crop) -> int:
    """Return the area that two boxes share, px."""
    down = min(one.top + one.height, other.top + other.height) - max(one.top, other.top)
    across = min(one.left + one.width, other.left + other.width) - max(one.left, other.left)
    return max(down, 0) * max(across, 0)


@dataclass(frozen=True)
class AugmentParams:
    """The random parameters of one view of b images, `[b 17]` on the CPU, with properties that name the columns.

    moved: the same table on the device, once `Batch.on` has copied it there.
    """

    table: Float[Tensor, "b 17"]
    moved: Float[Tensor, "b 17"] | None = None

    def on(self, device: torch.device) -> AugmentParams:
        """Return the parameters on a device; nothing is copied if they are there already."""
        table = self.table if self.moved is None else self.moved
        return AugmentParams(table.to(device, non_blocking=True))

    def first(self, count: int) -> AugmentParams:
        """Return the parameters of the first images."""
        return AugmentParams(self.table[:count], None if self.moved is None else self.moved[:count])

    @property
    def boxes(self) -> Float[Tensor, "b 4"]:
        """Top, left, height and width of the crops in px of the original images."""
        return self.table[:, :4]

    @property
    def flips(self) -> Tensor:
        """Which views are mirrored, bool [b]."""
        return self.table[:, 4] > 0.5

    def jittered(self, position: int, operation: int) -> Tensor:
        """Return the indices of jittered images whose `position`-th operation (from 0) is `operation`.

        Operations: 0 brightness, 1 contrast, 2 saturation, 3 hue.
        """
        return ((self.table[:, 5] > 0.5) & (self.table[:, 10 + position] == operation)).nonzero()[:, 0]

    def strength(self, operation: int) -> Tensor:
        """Return the factor (or the hue's turn) of an operation, [b]."""
        return self.table[:, 6 + operation]

    def where(self, column: int) -> Tensor:
        """Return the indices of the images with a value above 0 in a column: 14 grey, 15 blur, 16 solarise."""
        return (self.table[:, column] > 0).nonzero()[:, 0]

    @property
    def sigmas(self) -> Tensor:
        """The blur's standard deviation in px, 0 for none, [b]."""
        return self.table[:, 15]


GREY_FLAG, BLUR_FLAG, SOLARISE_FLAG = 14, 15, 16


def render(
    images: Pictures, offsets: Tensor, draws: AugmentParams, view: ViewSpec, mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Tensor, "b 3 size size"]:
    """Return one view of every image, cut out, recoloured and normalised, on the CPU.

    images: parts of the originals, each beginning at its row of `offsets` `[b 2]` (top, left, px). mean, std: for normalisation.
    """
    boxes = draws.boxes.clone()
    boxes[:, :2] -= offsets
    sizes = F.pad(boxes[:, 2:], (2, 0))  # what was cut out begins at 0, 0
    parts = [
        resized_crops(image, sizes[number : number + 1], draws.flips[number : number + 1], view.size, view.kernel)
        for number, image in enumerate(images.cut(boxes))
    ]
    pixels = torch.cat(parts)
    recolour(pixels, draws)
    return (pixels - constant(mean, pixels.device)) / constant(std, pixels.device)


def recolour(pixels: Float[Tensor, "b 3 h w"], draws: AugmentParams) -> None:
    """Recolour images with values 0..1 in place: jitter in each image's random order, then grey, blur and solarise."""
    for position in range(4):
        for number, operation in enumerate(OPERATIONS):
            _apply(pixels, draws.jittered(position, number), operation, draws.strength(number))
    _apply(pixels, draws.where(GREY_FLAG), lambda x, _: greyed(x).expand_as(x), draws.sigmas)
    _apply(pixels, draws.where(BLUR_FLAG), blur, draws.sigmas)
    _apply(pixels, draws.where(SOLARISE_FLAG), lambda x, _: solarised(x), draws.sigmas)


def _apply(pixels: Tensor, chosen: Tensor, operation: Callable[[Tensor, Tensor], Tensor], strength: Tensor) -> None:
    if len(chosen):
        pixels[chosen] = operation(pixels[chosen], strength[chosen].view(-1, 1, 1, 1))


@functools.cache
def constant(values: tuple[float, ...], device: torch.device) -> Float[Tensor, "3 1 1"]:
    """Return a number for each channel, which is copied to each device only once."""
    return torch.tensor(values, device=device).view(3, 1, 1)


def greyed(x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1 h w"]:
    """Return the images' brightness as the eye weighs the channels."""
    return (x * constant(GREY, x.device)).sum(dim=1, keepdim=True)


def solarised(x: Tensor) -> Tensor:
    """Return the images with the upper half of values inverted."""
    return torch.where(x < 128 / 255, x, 1 - x)


def brightness(x: Tensor, factor: Tensor) -> Tensor:
    """Return the images moved towards black (factor below 1) or away from it."""
    return (x * factor).clamp(0, 1)


def contrast(x: Tensor, factor: Tensor) -> Tensor:
    """Return the images moved towards their mean grey or away from it."""
    mean = greyed(x).mean(dim=(2, 3), keepdim=True)
    return torch.lerp(mean.expand_as(x), x, factor).clamp(0, 1)


def saturation(x: Tensor, factor: Tensor) -> Tensor:
    """Return the images moved towards each pixel's grey or away from it."""
    return torch.lerp(greyed(x).expand_as(x), x, factor).clamp(0, 1)


def hue(x: Tensor, turn: Tensor) -> Tensor:
    """Return the images with the hue of the HSV model turned by a share of the circle; value and saturation stay."""
    top, low = x.amax(dim=1), x.amin(dim=1)
    spread = (top - low).clamp(min=1e-12)
    red, green, blue = x.unbind(1)
    sector = torch.where(
        top == red,
        (green - blue) / spread,
        torch.where(top == green, 2 + (blue - red) / spread, 4 + (red - green) / spread),
    )
    angle = (sector / 6 + turn[:, 0]) % 1.0
    # a colour of the hue circle at full value and saturation, then scaled back
    phase = (angle[:, None] * 6 + constant((5.0, 3.0, 1.0), x.device)) % 6
    share = 1 - torch.minimum(phase, 4 - phase).clamp(0, 1)
    return low[:, None] + (top - low)[:, None] * share


def blur(x: Float[Tensor, "b 3 h w"], sigma: Float[Tensor, "b 1 1 1"]) -> Float[Tensor, "b 3 h w"]:
    """Return images blurred by a separable Gaussian with a standard deviation in px for each; border pixels are repeated."""
    steps = torch.arange(TAPS, device=x.device) - TAPS // 2
    taps = torch.exp(-0.5 * (steps / sigma.view(-1, 1)) ** 2)
    taps = (taps / taps.sum(dim=1, keepdim=True))[:, None].expand(-1, 3, -1).reshape(-1, 1, TAPS)
    batch = x.reshape(1, -1, *x.shape[2:])
    pad = TAPS // 2
    batch = F.conv2d(F.pad(batch, (pad, pad, 0, 0), mode="replicate"), taps[:, :, None, :], groups=batch.shape[1])
    batch = F.conv2d(F.pad(batch, (0, 0, pad, pad), mode="replicate"), taps[:, :, :, None], groups=batch.shape[1])
    return batch.view_as(x)


OPERATIONS = (brightness, contrast, saturation, hue)
