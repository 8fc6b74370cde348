"""Masks of videos in files: given predictions, saved predictions, and contact sheets."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from torch import nn

from densebench.backbones.backbone import Backbone, BackboneInfo
from densebench.datasets.dataset import Item, limited
from densebench.datasets.io.decoding import read_mask
from densebench.datasets.videos import Videos
from densebench.errors import UserError
from densebench.evals.vos.tracking import Tracking
from densebench.files.atomic import canonical_json, digest, file_digest, write_text
from densebench.pictures.canvas import row, save
from densebench.pictures.palette import voc_palette

PALETTE = np.array(voc_palette(256), dtype=np.uint8)
ABOUT = "predictions.json"
SHOWN, WIDTH = 6, 320  # frames on a sheet, and their width in px


class GivenMasks:
    """A folder of given predictions, <sequence>/<frame>.png, one id per pixel. The first and the last frame need no file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def source_override(self) -> Backbone:
        """Return the source override, which identifies the masks by their digest. Raises UserError where there are none."""
        paths = sorted(self.folder.rglob("*.png"))
        if not paths:
            raise UserError(f"--predictions {self.folder}: it holds no mask; give a folder of <sequence>/<frame>.png")
        whole = digest([[str(path.relative_to(self.folder)), file_digest(path)] for path in paths])
        return Backbone(nn.Identity(), BackboneInfo(f"predictions:{self.folder}", "masks", 0, 1, kind="predictions"), whole)

    def path(self, item: Item) -> Path:
        """Return the path of the mask of a frame."""
        return self.folder / f"{item.name}.png"

    def check(self, sequences: Iterable[list[Item]]) -> None:
        """Raise UserError where a mask that is scored is missing."""
        scored = [item for frames in sequences for item in frames[1:-1]]
        if missing := [self.path(item) for item in scored if not self.path(item).is_file()]:
            raise UserError(f"{len(missing)} of {len(scored)} predicted masks are missing, the first is {missing[0]}; add them")

    def read(self, videos: Videos, sequences: Mapping[str, list[Item]], objects: Mapping[str, int]) -> Iterator[Tracking]:
        """Yield the masks of all frames. Raises UserError where one has a wrong size or too high an id."""
        for name, frames in sequences.items():
            for number, item in enumerate(frames):
                inner = 0 < number < len(frames) - 1
                mask = self._mask(videos, item, objects[name]) if inner else videos.label(item)
                yield Tracking(name, number, item, mask)

    def _mask(self, videos: Videos, item: Item, objects: int) -> UInt8[np.ndarray, "h w"]:
        path, (width, height) = self.path(item), videos.image_size(item)
        mask = videos.predicted(read_mask(path))
        if mask.shape != (height, width):
            size = f"{mask.shape[1]} x {mask.shape[0]}"
            raise UserError(f"the mask {path} is {size} but its frame {width} x {height} (width x height); resize it")
        if mask.max() > objects:
            raise UserError(f"the mask {path} holds the id {mask.max()}, but the sequence has {objects} objects; correct it")
        return mask


class SavedMasks:
    """A folder into which label maps are written as paletted PNGs; a file beside them identifies the run that wrote them."""

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        """Raises UserError where the folder holds anything but masks of the run that `about` identifies."""
        self.folder = folder
        note, text = folder / ABOUT, canonical_json(about) + "\n"
        if note.is_file() and note.read_text(encoding="utf-8") != text:
            other = _spec(note)
            raise UserError(f"--save-predictions {folder}: it holds the masks of another run{other}; choose another folder")
        if not note.is_file() and folder.is_dir() and any(folder.iterdir()):
            raise UserError(f"--save-predictions {folder}: it is not empty and holds no {ABOUT}; choose another folder")
        write_text(note, text)

    def path(self, item: Item) -> Path:
        """Return the path of the label map of a frame."""
        return self.folder / f"{item.name}.png"

    def has(self, items: Iterable[Item]) -> bool:
        """Return whether the maps of all these frames are saved."""
        return all(self.path(item).is_file() for item in items)

    def write(self, tracking: Tracking) -> None:
        """Write the map of a frame."""
        save(paletted(tracking.prediction), self.path(tracking.item))


def _spec(note: Path) -> str:
    try:
        return f" ({json.loads(note.read_text(encoding='utf-8'))['backbone']['spec']})"
    except (ValueError, KeyError, TypeError):
        return ""


def paletted(mask: UInt8[np.ndarray, "h w"]) -> Image.Image:
    """Return a mask as a paletted image with the colours of DAVIS, which are those of VOC."""
    picture = Image.fromarray(mask)
    picture.putpalette(PALETTE.tobytes())
    return picture


class Sheets:
    """Contact sheets of a few sequences: evenly spaced frames, with the truth above and the prediction below."""

    def __init__(self, videos: Videos, sequences: Mapping[str, list[Item]], count: int, folder: Path | None) -> None:
        self.videos, self.folder = videos, folder
        names = limited(list(sequences), count) if count and folder is not None else []
        self.chosen = {name: limited(range(len(sequences[name])), SHOWN) for name in names}
        self._columns: dict[str, list[Image.Image]] = {name: [] for name in names}

    def path(self, name: str) -> Path:
        """Return the path of the sheet of a sequence."""
        assert self.folder is not None
        return self.folder / f"{name}.png"

    def shows(self, tracking: Tracking) -> bool:
        """Return whether a sheet shows this frame."""
        return tracking.number in self.chosen.get(tracking.sequence, [])

    def drawn(self, name: str) -> bool:
        """Return whether a sequence needs no sheet, or has one."""
        return name not in self.chosen or self.path(name).is_file()

    def add(self, tracking: Tracking) -> None:
        """Add the label map of a frame; write the sheet after the last frame of its sequence."""
        if not self.shows(tracking):
            return
        image, columns = self.videos.image(tracking.item), self._columns[tracking.sequence]
        masks = self.videos.label(tracking.item), tracking.prediction
        columns.append(row([overlaid(image, mask) for mask in masks], 4, down=True))
        if tracking.number == self.chosen[tracking.sequence][-1]:
            save(
                row(columns, gap=4),
                self.path(tracking.sequence),
                description="frames with their objects above, with the prediction below",
            )
            columns.clear()


def overlaid(image: Image.Image, mask: UInt8[np.ndarray, "h w"]) -> Image.Image:
    """Return a frame, WIDTH px wide, with its objects in colour."""
    pixels = np.array(image)
    shown = mask > 0
    pixels[shown] = (pixels[shown] // 2) + (PALETTE[mask[shown]] // 2)
    return Image.fromarray(pixels).resize((WIDTH, round(WIDTH * image.height / image.width)), Image.Resampling.BILINEAR)
