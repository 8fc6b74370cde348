"""Tracks: regions of a video's first frame, found without labels, and propagated through the video by the features alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from densebench.backbones.backbone import Backbone
from densebench.looking.arguments import Settings
from densebench.looking.choice import pictures
from densebench.looking.opening import Opened
from densebench.looking.passes import features, normalised, shape, view
from densebench.looking.regions import Maps, clustered, painted, renumbered
from densebench.numerics.propagation import Window, propagate
from densebench.pictures.palette import distinct_palette

VIDEOS = 2
"""Videos that are followed at most: evenly spaced among all."""
FOLLOWED = 24
"""Frames of a video that are followed at most: evenly spaced, the first and the last among them."""
SHOWN = 6
LAST = 4
"""Frames before the present one that labels come from, beside the first one."""
REGIONS = 5
WIDEST = 480
"""Pixels of the width of a frame on a sheet, at most."""
AT_ONCE = 2**21
RULE = (
    f"Tracks: the patches of the first frame are clustered by K-means into {REGIONS} regions, separately for each backbone, "
    "and propagated from frame to frame (label propagation, Jabri et al., NeurIPS 2020) with the first frame and the last "
    f"{LAST} as context. The largest region of the first backbone, and the matching one of every other, is left unpainted."
)


@dataclass(frozen=True)
class Video:
    """A video that is followed: its name, the numbers of its frames in the whole video, and the frames."""

    name: str
    numbers: tuple[int, ...]
    frames: tuple[Image.Image, ...]

    @property
    def shown(self) -> list[int]:
        """Which of the frames are shown: evenly spaced from the first to the last."""
        return spread(len(self.frames), SHOWN)


def videos_to_follow(opened: Opened) -> tuple[list[Video], list[str]]:
    """Return the videos whose tracks are shown, and notes about them."""
    names = list(opened.videos)
    found, notes = [], [RULE] if names else []
    for name in (names[number] for number in spread(len(names), VIDEOS)):
        indices = opened.videos[name]
        numbers = spread(len(indices), FOLLOWED)
        taken, frames, said = pictures(opened.images, [indices[number] for number in numbers], explicit=False)
        notes += said
        kept = [number for number in numbers if indices[number] in taken]
        if len(frames) > 1:
            found.append(Video(name, tuple(kept), tuple(frame.image for frame in frames)))
        if len(numbers) < len(indices):
            notes.append(f"{name}: {len(numbers)} of {len(indices)} frames were followed, evenly spaced")
    if len(names) > VIDEOS:
        notes.append(f"{len(found)} of {len(names)} videos were followed")
    return found, notes


def spread(length: int, count: int) -> list[int]:
    """Return at most `count` numbers from 0 to length - 1, evenly spaced."""
    return sorted({int(number) for number in np.linspace(0, length - 1, min(count, length)).round()})


def followed(
    backbone: Backbone, video: Video, settings: Settings, reference: Maps | None
) -> tuple[tuple[Image.Image, ...], Maps]:
    """Return the shown frames with their regions, and the regions of the first frame, numbered as those of `reference`.

    All frames are resized as the first one is.
    """
    size, device = shape(*video.frames[0].size, backbone.multiple, settings.image_size), settings.device
    first = _features(backbone, video.frames[0], size, device)
    regions = clustered([first.cpu()], REGIONS, settings.seed)
    regions = renumbered(regions, reference) if reference else regions
    labels = F.one_hot(torch.from_numpy(regions[0]), 1 + int(regions[0].max())).float().to(device)
    colours = np.array(distinct_palette(labels.shape[-1]), dtype=np.uint8)
    keys, known = [first], [labels]
    sheet = []
    for number, frame in enumerate(video.frames):
        if number:
            queries = _features(backbone, frame, size, device)
            with torch.inference_mode():
                labels = propagate(queries[None], torch.stack(keys)[None], torch.stack(known)[None], Window(), AT_ONCE)[0]
            keys, known = [*keys[:1], *[*keys[1:], queries][-LAST:]], [*known[:1], *[*known[1:], labels][-LAST:]]
        if number in video.shown:
            sheet.append(_drawn(frame, labels.cpu(), colours))
    return tuple(sheet), regions


def _features(backbone: Backbone, frame: Image.Image, size: tuple[int, int], device: torch.device) -> Float[Tensor, "gh gw d"]:
    """Return the features of a frame at length one."""
    return F.normalize(features(backbone, normalised(backbone, view(frame, size), device))[0], dim=2)


def _drawn(frame: Image.Image, labels: Float[Tensor, "gh gw k"], colours: Int[np.ndarray, "k 3"]) -> Image.Image:
    """Return a frame, as wide as it is shown, with the region of each pixel."""
    width = min(WIDEST, frame.width)
    height = max(1, round(frame.height * width / frame.width))
    soft = F.interpolate(labels.permute(2, 0, 1)[None], (height, width), mode="bilinear", align_corners=False)[0]
    image = np.asarray(frame.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3))
    return Image.fromarray(painted(image, soft.argmax(0).numpy(), colours))
