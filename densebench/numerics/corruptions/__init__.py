"""The 15 common corruptions at 5 levels, as pure functions of a picture, a level and a generator.

Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations, ICLR 2019; for
pictures of any size: Michaelis et al., Benchmarking Robustness in Object Detection, 2019 (package imagecorruptions).
Given the same random numbers, pixels equal the reference's bit for bit, but for single grey levels where a sum is made in another
order or where the reference rounds in another library: `TOLERANCES`. The reference draws from global generators, two of which
(glass blur, impulse noise) no seed of numpy reaches; here each call has a generator of its own.

Strengths are in pixels: a picture has to be corrupted at its own size, before it is resized.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from densebench.numerics.corruptions import blur, digital, noise, weather
from densebench.numerics.corruptions.pixels import Photograph, Picture

FROST = "frost"
"""The one that needs photographs."""
LEVELS = (1, 2, 3, 4, 5)
FAMILIES: Mapping[str, tuple[str, ...]] = {
    "noise": ("gaussian-noise", "shot-noise", "impulse-noise"),
    "blur": ("defocus-blur", "glass-blur", "motion-blur", "zoom-blur"),
    "weather": ("snow", FROST, "fog", "brightness"),
    "digital": ("contrast", "elastic-transform", "pixelate", "jpeg-compression"),
}
CORRUPTIONS = tuple(name for names in FAMILIES.values() for name in names)
"""All names, in the order of the reference."""
DETERMINISTIC = ("defocus-blur", "zoom-blur", "brightness", "contrast", "pixelate", "jpeg-compression")
"""Those that draw no random number."""
TOLERANCES: Mapping[str, int] = {
    **dict.fromkeys(CORRUPTIONS, 0),
    **dict.fromkeys(("defocus-blur", "zoom-blur", "snow", FROST, "brightness"), 1),
}
"""By how many grey levels a pixel may differ from the reference's, given the same random numbers."""
_FUNCTIONS: Mapping[str, Callable[[Picture, int, np.random.Generator], Picture]] = {
    "gaussian-noise": noise.gaussian_noise,
    "shot-noise": noise.shot_noise,
    "impulse-noise": noise.impulse_noise,
    "defocus-blur": blur.defocus_blur,
    "glass-blur": blur.glass_blur,
    "motion-blur": blur.motion_blur,
    "zoom-blur": blur.zoom_blur,
    "snow": weather.snow,
    "fog": weather.fog,
    "brightness": weather.brightness,
    "contrast": digital.contrast,
    "elastic-transform": digital.elastic_transform,
    "pixelate": digital.pixelate,
    "jpeg-compression": digital.jpeg_compression,
}


def corrupt(
    picture: Picture, name: str, level: int, generator: np.random.Generator, photographs: Sequence[Photograph] = ()
) -> Picture:
    """Return a picture with a corruption; level 0 returns it as it is.

    picture: uint8 [h w 3], RGB, at least 32 px a side. name: one of CORRUPTIONS. level: 0 (none) to 5. photographs: those of
    frost, in the order of `weather.PHOTOGRAPHS`; no other corruption needs them.
    """
    if level == 0:
        return picture.copy()
    if name == FROST:
        return weather.frost(picture, level, generator, photographs)
    return _FUNCTIONS[name](picture, level, generator)
