"""Detections, written image by image: memory does not grow, and a killed run resumes after the last image."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from densebench.bridges.torchvision.data import scoring_images
from densebench.bridges.torchvision.masks import encode
from densebench.bridges.torchvision.options import Data, Options
from densebench.bridges.torchvision.regions import paste
from densebench.console import progress, warn
from densebench.errors import UserError
from densebench.features.extract import autocast
from densebench.files.atomic import appending, write_text
from densebench.numerics.device_copy import on_device
from densebench.numerics.host_copy import HostCopy, one_late
from densebench.processes import World, agree, synchronise

SEAL = ', "crc32": "'  # text before the checksum of a line


@dataclass(frozen=True)
class Detections:
    """The detections in one image, best first.

    boxes: left, top, right, bottom in px of the original image. classes: from 0. masks: COCO's compressed run lengths, one for
    each detection, or none at all.
    """

    image: str
    boxes: Float[np.ndarray, "n 4"]
    scores: Float[np.ndarray, "n"]
    classes: Int[np.ndarray, "n"]
    masks: tuple[str, ...] = ()


def detect(detector: Any, data: Data, options: Options, folder: Path, world: World, workers: int = 0) -> Path:
    """Write the detections in all scored images, each process in its share, and return the folder for `read_detections`.

    Raises UserError for an image that cannot be read.
    """
    known = {detections.image for detections in read_detections(folder)}
    synchronise()  # no process writes before all have looked
    indices = [i for i in range(world.rank, len(data.val), world.size) if data.val[i].name not in known]
    detector.to(world.device).eval()
    path = folder / f"found-{world.rank:03}.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    _mend(path)
    problem: UserError | None = None
    with (
        appending(path, "set DENSEBENCH_CACHE elsewhere"),
        path.open("a", encoding="utf-8") as stream,
        torch.inference_mode(),
        progress("detection", len(indices)) as bar,
    ):
        for found in one_late(_found(detector, data, options, indices, world, workers), world.device):
            if isinstance(found, UserError):
                problem = found
                break
            stream.write(_sealed(found.values()))
            stream.flush()
            if world.is_main:
                bar.advance()
    if agree(problem is not None, world.device):
        raise problem or UserError("another process met an image that cannot be read; see its message")
    return folder


def _found(
    detector: Any, data: Data, options: Options, indices: list[int], world: World, workers: int
) -> Iterator[_Found | UserError]:
    """Yield the detections in each image, on their way to the host, or the UserError of one that cannot be read."""
    for batch in scoring_images(data, options, indices, workers, world.device.type == "cuda"):
        if isinstance(batch, UserError):
            yield batch
            return
        [(index, image, size)] = batch
        with autocast(world.device, options.precision):
            output = detector([image.to(world.device, non_blocking=True)])[0]
        yield _Found.of(data.val[index].name, output, image, size)


@dataclass(frozen=True)
class _Found:
    """The detections in an image on their way to the host, with boxes and masks scaled to the image's original size."""

    image: str
    parts: dict[str, HostCopy]

    @classmethod
    def of(cls, name: str, output: dict[str, torch.Tensor], image: torch.Tensor, size: tuple[int, int]) -> _Found:
        """Begin to copy what a detector returned for an image. size: height and width of the original image."""
        factors = torch.tensor([size[1] / image.shape[2], size[0] / image.shape[1]] * 2)
        boxes = output["boxes"].float() * on_device(factors, output["boxes"].device)
        parts = {"boxes": boxes, "scores": output["scores"].float(), "classes": output["labels"] - 1}
        if "masks" in output:
            parts["masks"] = paste(output["masks"][:, 0].float(), boxes, *size)
        return cls(name, {part: HostCopy(value) for part, value in parts.items()})

    def values(self) -> dict[str, Any]:
        """Return the detections as JSON values."""
        parts = {part: copy.value() for part, copy in self.parts.items()}
        masks = {"masks": encode(parts.pop("masks").numpy())} if "masks" in parts else {}
        return {"image": self.image, **{part: value.tolist() for part, value in parts.items()}, **masks}


def _mend(path: Path) -> None:
    """Remove damaged lines from a file, and an incomplete last line that a killed run has left."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace", newline="\n") as stream:
        lines = list(stream)
    whole = [line for line in lines if _opened(line) is not None]
    if len(whole) < len(lines):
        write_text(path, "".join(whole))
    if damaged := sum(line.endswith("\n") for line in lines) - len(whole):
        warn(f"{damaged} lines of {path} are damaged; their images are scored again")


def _sealed(values: dict[str, Any]) -> str:
    """Return a line of JSON whose last value is the checksum of everything before it."""
    text = json.dumps(values)
    return f'{text[:-1]}{SEAL}{zlib.crc32(text.encode()):08x}"}}\n'


def _opened(line: str) -> dict[str, Any] | None:
    """Return the values of a line; None where it is incomplete or its checksum is wrong."""
    text, seal, _ = line.rpartition(SEAL)
    if not line.endswith("\n") or (seal and line != f'{text}{SEAL}{zlib.crc32((text + "}").encode()):08x}"}}\n'):
        return None
    try:
        return json.loads(line)
    except ValueError:
        return None


def read_detections(folder: Path) -> Iterator[Detections]:
    """Yield the detections in all images that the files of a folder hold, image by image."""
    for path in sorted(folder.glob("found-*.jsonl")):
        with path.open(encoding="utf-8", errors="replace", newline="\n") as stream:
            for line in stream:
                if (values := _opened(line)) is not None:
                    yield _parsed(values)


def _parsed(values: dict[str, Any]) -> Detections:
    boxes = np.array(values["boxes"], dtype=float).reshape(-1, 4)
    scores, classes = np.array(values["scores"], dtype=float), np.array(values["classes"], dtype=int)
    return Detections(values["image"], boxes, scores, classes, tuple(values.get("masks", ())))
