"""Label-free measures of a backbone, and what it costs, as they stand in the table above the pictures."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageEnhance
from torch import Tensor

from densebench.backbones.backbone import Backbone
from densebench.features.cost import MIB, Counted
from densebench.features.views import named_generator
from densebench.looking.looked import Figure
from densebench.looking.passes import Extracted, features, normalised, view
from densebench.numerics.lidar import lidar
from densebench.numerics.outliers import outlier_tokens
from densebench.numerics.position_readout import position_readout
from densebench.numerics.spectrum import drawn, effective_rank

PATCHES = 2048
"""Patches that the effective rank is of, at most."""
PLACES = 48
"""Patches of each picture that LiDAR takes, at most."""
COARSEST, ROUNDED = 32, 0.75
"""Up to this stride (px) every backbone has as many patches of each picture as a figure takes; what rounding its sides leaves."""
VIEWS = 4
RIDGE = 0.1
"""Strong enough for the few patches of a dozen pictures: with less, the read-out fits what only the pictures at hand have."""
STRENGTH = 0.4
"""Brightness, contrast and saturation of a view are between 1 - STRENGTH and 1 + STRENGTH of the picture's (SimCLR's)."""

RANK = "How many directions the patch features use: their effective rank. Higher means more varied features, not better ones."
DISCRIMINANT = (
    "How many directions differ more between patches than between augmented views (mirrored, colours jittered) of one patch: "
    "LiDAR, with patches as its classes. Noise counts little."
)
POSITION = (
    "How well a linear map predicts the row and column of a patch from its features, on pictures that it was not fitted on: R², "
    "1 is exact, 0 or less is no better than a constant. High means that features encode where a patch is, not only what it is."
)
OUTLIERS = (
    "The share of patches whose token norm is far higher than that of the others: artefacts in which a ViT keeps information "
    'about the whole picture. Norms are taken before the final norm layer; where the value says "of features", only the output '
    "of the backbone is known, and a final norm layer may hide such tokens."
)
SOURCES = {
    "RankMe": "Garrido et al., RankMe, ICML 2023, who take images, not patches; Roy and Vetterli, EUSIPCO 2007",
    "LiDAR": "after Thilak et al., LiDAR, ICLR 2024, whose classes are images",
    "position": "after Amir et al., Deep ViT Features as Dense Visual Descriptors, ECCVW 2022, who show it in pictures",
    "outliers": "after Darcet et al., Vision Transformers Need Registers, ICLR 2024, with a cutoff that adapts to the norms",
}


def facts(backbone: Backbone, per_second: float, one_pass: Counted) -> dict[str, str]:
    """Return what stands in the table by its heading."""
    return {
        "width": str(backbone.dim),
        "stride": f"{backbone.stride} px",
        "parameters": f"{backbone.params / 1e6:.1f} M" if backbone.params >= 1e5 else f"{backbone.params:,}",
        "GFLOP": _short(one_pass.flop / 1e9),
        "images/s": _short(per_second),
        "memory": f"{_short(one_pass.memory / MIB)} MiB",
    }


def _short(value: float) -> str:
    """Return a number with three digits, or all of those before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def about_costs(device: torch.device) -> str:
    """Return how the costs in the table were measured, in words."""
    where = f"a CPU ({_processor()}, {torch.get_num_threads()} of {os.cpu_count()} threads)"
    if device.type == "cuda":
        where = torch.cuda.get_device_name(device)
    return (
        f"Images/s: measured on {where}, in float32, one picture at a time. GFLOP and memory: counted in a forward pass of one "
        "picture; a multiplication and an addition are two operations, memory is the weights and the peak of all tensors."
    )


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:  # noqa: PTH123
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def figures(
    backbone: Backbone, images: Sequence[Image.Image], seen: Extracted, side: int, device: torch.device, seed: int
) -> tuple[Figure, ...]:
    """Return the label-free measures of a backbone.

    side: the pictures had about side^2 pixels. LiDAR and the position are read from squares of half that side, rounded
    to the stride: two patches at least.
    """
    half = side // 2
    square = max(2, round(half / backbone.multiple)) * backbone.multiple
    views = torch.stack([_views(backbone, image, square, device, f"{seed} {number}") for number, image in enumerate(images)])
    return (
        _rank(seen.grids, side, seed),
        _discriminant(views, _each(half, PLACES), seed),
        _position(views[:, 0]),
        _outliers(seen),
    )


def _each(side: int, most: int) -> int:
    """Return how many patches of each picture of side^2 pixels a figure takes.

    A rank depends on how many patches it is of. So there are as many for all backbones up to a stride of COARSEST.
    """
    return max(2, min(most, int(ROUNDED * (side / COARSEST) ** 2)))


def _rank(grids: Sequence[Float[Tensor, "gh gw d"]], side: int, seed: int) -> Figure:
    each = _each(side, PATCHES // len(grids))
    tokens = torch.cat([drawn(grid.flatten(0, 1), each, seed + number) for number, grid in enumerate(grids)])
    rank = effective_rank(tokens)
    return Figure("effective rank (RankMe)", rank, f"{rank:.0f} of {min(tokens.shape)}", RANK, SOURCES["RankMe"])


def _outliers(seen: Extracted) -> Figure:
    share = float(outlier_tokens(torch.cat([norms.flatten() for norms in seen.norms])).double().mean())
    text = f"{100 * share:.1f} %" if seen.before_norm else f"{100 * share:.1f} % of features"
    return Figure("outlier tokens", share, text, OUTLIERS, SOURCES["outliers"])


def _discriminant(views: Float[Tensor, "n v rows columns d"], each: int, seed: int) -> Figure:
    name = "LiDAR of patches"
    places = [of_picture.permute(1, 2, 0, 3).flatten(0, 1).flatten(1) for of_picture in views]
    classes = torch.cat([drawn(of_picture, each, seed + number) for number, of_picture in enumerate(places)])
    value = lidar(classes.unflatten(1, (views.shape[1], -1)), relative=True)
    most = min(len(classes) - 1, views.shape[-1])
    return Figure(name, value, f"{value:.0f} of {most}", DISCRIMINANT, SOURCES["LiDAR"])


def _position(grids: Float[Tensor, "n rows columns d"]) -> Figure:
    """Return the mean R^2 of rows and columns, each half of the pictures held out in turn."""
    name = "position read-out (R²)"
    if len(grids) < 2:
        return Figure(name, None, "needs two pictures", POSITION, SOURCES["position"])
    halves = grids[::2], grids[1::2]
    values = [value for half, other in (halves, halves[::-1]) for value in position_readout(half, other, RIDGE)]
    value = float(np.nanmean(values)) if not all(map(math.isnan, values)) else math.nan
    if math.isnan(value):
        return Figure(name, None, "needs two patches a side", POSITION, SOURCES["position"])
    return Figure(name, value, f"{value:.2f}", POSITION, SOURCES["position"])


def _views(
    backbone: Backbone, image: Image.Image, side: int, device: torch.device, key: str
) -> Float[Tensor, "v rows columns d"]:
    """Return the features of VIEWS views of a picture, squeezed to a square: as it is, then with other colours.

    Every second view is mirrored, and its features are mirrored back, so that a patch shows the same in all of them.
    """
    generator = named_generator(f"view of a look {key}")
    pixels = [view(_shifted(image, generator) if number else image, (side, side))[0] for number in range(VIEWS)]
    mirrored = [each.flip(2) if number % 2 else each for number, each in enumerate(pixels)]
    grids = features(backbone, normalised(backbone, torch.stack(mirrored), device)).cpu()
    return torch.stack([grid.flip(1) if number % 2 else grid for number, grid in enumerate(grids)])


def _shifted(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Return a picture with another brightness, contrast and saturation."""
    for enhance, factor in zip(
        (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color),
        generator.uniform(1 - STRENGTH, 1 + STRENGTH, 3).tolist(),
        strict=True,
    ):
        image = enhance(image).enhance(factor)
    return image
