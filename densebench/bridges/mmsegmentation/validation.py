"""Validation during a run: confusion counts of every image, and MMSegmentation's IoUMetric beside them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int, UInt8
from mmengine.evaluator import BaseMetric
from mmseg.evaluation import IoUMetric
from torch import Tensor

from densebench.files.atomic import Damaged, read_checked, unreadable, write_checked
from densebench.files.tensors import load_tensors, save_tensors
from densebench.numerics import segmentation as metrics
from densebench.numerics.device_copy import on_device
from densebench.numerics.host_copy import HostCopy


@dataclass(frozen=True)
class Validation:
    """The results for all scored images after some number of iterations.

    pairs: for each image the counts that are not 0, as flat indices into [head, truth, prediction] and counts.
    maps: predicted label maps of the images that are drawn.
    mmseg: mIoU of each head in % as IoUMetric computes it, absent classes left out, rounded to two decimals.
    """

    iteration: int
    pairs: dict[str, Int[Tensor, "2 nonzero"]]
    maps: dict[str, UInt8[Tensor, "heads h w"]]
    mmseg: list[float]


def validations(folder: Path) -> list[Validation]:
    """Return all validations of a run in order.

    Raises Damaged for one that differs from what was written, UserError for one that cannot be read.
    """
    complete = []
    for path in sorted(folder.glob("validation-*.json")):
        content = read_checked(path)
        if content is None:
            raise Damaged(path, "its checksum does not match")
        facts = json.loads(content)
        try:
            tensors, _ = load_tensors(path.with_suffix(".safetensors"))
        except FileNotFoundError as error:
            raise Damaged(path, "its tensors are missing") from error
        except OSError as error:
            raise unreadable(path.with_suffix(".safetensors"), error) from error
        parts = {part: {k.partition(" ")[2]: v for k, v in tensors.items() if k.startswith(part)} for part in ("pairs", "map")}
        complete.append(Validation(facts["iteration"], parts["pairs"], parts["map"], facts["mmseg"]))
    return complete


class Counting(BaseMetric):
    """Confusion counts of every image and head. drawn: images whose label maps are saved."""

    def __init__(self, heads: int, classes: int, folder: Path, drawn: Sequence[str]) -> None:
        super().__init__(collect_device="cpu", prefix="counts", collect_dir=str(folder / "collected"))
        self.heads, self.classes, self.folder, self.drawn = heads, classes, folder, set(drawn)
        self.iteration = 0
        self._copied: list[tuple[str, HostCopy, HostCopy | None]] = []

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Count the pixels of a batch of images. On a GPU the counts are read once the next batch is counted."""
        on_gpu = False
        for sample in data_samples:
            name, maps, truth = sample["img_path"], sample["pred_sem_seg"]["data"], sample["gt_sem_seg"]["data"][0]
            counts = metrics.counted_pairs(maps, on_device(truth.to(torch.uint8), maps.device), self.classes)
            self._copied.append((name, HostCopy(counts), HostCopy(maps) if name in self.drawn else None))
            on_gpu = maps.is_cuda
        self._read(but=len(data_samples) if on_gpu else 0)

    def evaluate(self, size: int) -> dict[str, float]:
        """Read the last counts, and return what `compute_metrics` returns."""
        self._read(but=0)
        return super().evaluate(size)

    def _read(self, but: int) -> None:
        """Add the results of all images except the last `but` ones."""
        while len(self._copied) > but:
            name, counts, maps = self._copied.pop(0)
            flat = metrics.confusion_matrices(counts.value(), self.classes).flatten()
            indices = flat.nonzero()[:, 0]
            pairs = torch.stack([indices, flat[indices]])
            self.results.append((name, pairs, None if maps is None else maps.value()))

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Write the counts, from which scores are computed after the run."""
        tensors = {f"pairs {name}": pairs for name, pairs, _ in results}
        tensors |= {f"map {name}": maps for name, _, maps in results if maps is not None}
        save_tensors(self.folder / f"validation-{self.iteration:08}.safetensors", tensors)
        return {"images": float(len(results))}


class HeadIoU(IoUMetric):
    """IoUMetric of one of several heads."""

    def __init__(self, number: int, folder: Path) -> None:
        super().__init__(prefix=f"head {number}")
        self.number, self.collect_dir = number, str(folder / f"collected-{number}")

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Add the label maps of the head."""
        samples = [{**sample, "pred_sem_seg": {"data": sample["pred_sem_seg"]["data"][self.number]}} for sample in data_samples]
        super().process(data_batch, samples)


def write_facts(folder: Path, iteration: int, scores: dict[str, float], heads: int) -> list[float]:
    """Write the last file of a validation, and return IoUMetric's mIoU of each head in %."""
    values = [round(float(scores[f"head {number}/mIoU"]), 2) for number in range(heads)]
    content = json.dumps({"iteration": iteration, "mmseg": values})
    write_checked(folder / f"validation-{iteration:08}.json", content.encode())
    return values
