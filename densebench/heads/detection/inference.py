"""What a detector finds in images: written image by image, so that memory does not grow and a killed run goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from densebench.console import Progress
from densebench.errors import UserError
from densebench.features import autocast
from densebench.heads.detection.data import scoring_images
from densebench.heads.detection.masks import encode
from densebench.heads.detection.recipe import Data, Recipe
from densebench.heads.detection.regions import paste
from densebench.training.distributed import World, agree, synchronise


@dataclass(frozen=True)
class Found:
    """The detections of one image, best first: boxes (left, top, right, bottom) in px of the image, scores, classes from 0, and
    masks as COCO's compressed run lengths, one an object or none at all."""

    image: str
    boxes: Float[np.ndarray, "n 4"]
    scores: Float[np.ndarray, "n"]
    classes: Int[np.ndarray, "n"]
    masks: tuple[str, ...] = ()


def detect(detector: Any, data: Data, recipe: Recipe, folder: Path, world: World, workers: int = 0) -> Path:
    """Look for objects in all images that are scored, each process in its share. Returns where `found` reads them.

    Raises UserError for an image that cannot be read.
    """
    known = {line.image for line in found(folder)}
    synchronise()  # nobody writes before everybody has looked
    places = [place for place in range(world.rank, len(data.val), world.size) if data.val[place].name not in known]
    detector.to(world.device).eval()
    bar = Progress("detection", len(places))
    path = folder / f"found-{world.rank:03}.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    _mend(path)
    problem: UserError | None = None
    with path.open("a", encoding="utf-8") as stream, torch.inference_mode():
        for (sample,) in scoring_images(data, recipe, places, workers, world.device.type == "cuda"):
            if isinstance(sample, UserError):
                problem = sample
                break
            place, image, size = sample
            with autocast(world.device, recipe.precision):
                output = detector([image.to(world.device, non_blocking=True)])[0]
            stream.write(json.dumps(_line(data.val[place].name, output, image, size)) + "\n")
            stream.flush()
            if world.chief:
                bar.advance()
    if agree(problem is not None, world.device):
        raise problem or UserError("another process met an image that cannot be read; see its message")
    return folder


def _line(name: str, output: dict[str, torch.Tensor], image: torch.Tensor, size: tuple[int, int]) -> dict[str, Any]:
    """What was found in an image, brought from the size that the detector saw to the image's own."""
    factors = torch.tensor([size[1] / image.shape[2], size[0] / image.shape[1]] * 2)
    boxes = output["boxes"].float() * factors.to(output["boxes"].device)
    own = {"boxes": boxes.tolist(), "scores": output["scores"].float().tolist(), "classes": (output["labels"] - 1).tolist()}
    if "masks" in output:
        own["masks"] = encode(paste(output["masks"][:, 0].float(), boxes, *size).cpu().numpy())
    return {"image": name, **own}


def _mend(path: Path) -> None:
    """Cut off a line that a kill left half written."""
    if path.exists():
        content = path.read_bytes()
        path.write_bytes(content[: content.rfind(b"\n") + 1])


def found(folder: Path) -> Iterator[Found]:
    """The detections of all images that are there, image by image."""
    for path in sorted(folder.glob("found-*.jsonl")):
        with path.open(encoding="utf-8") as stream:
            for line in stream:
                if line.endswith("\n"):
                    yield _parsed(json.loads(line))


def _parsed(own: dict[str, Any]) -> Found:
    boxes = np.array(own["boxes"], dtype=float).reshape(-1, 4)
    return Found(own["image"], boxes, np.array(own["scores"], dtype=float), np.array(own["classes"], dtype=int),
                 tuple(own.get("masks", ())))  # fmt: skip
