"""How long the cells of a table take, by one forward pass of a small image for each network and by earlier records.

This is rough, and costs seconds where a trial of every cell costs minutes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

import torch

from densebench.backbones.backbone import Backbone
from densebench.backbones.timm_models import TimmTrunk
from densebench.datasets.dataset import Dataset, Item, limited
from densebench.errors import UserError
from densebench.evaluation.protocol import Evaluator
from densebench.evaluation.stages import Stage
from densebench.features.extract import Extraction
from densebench.processes import describe, resolve_device, resolve_workers
from densebench.results.record_keeping import scan
from densebench.training.method import Pretrainer
from densebench.training.networks import Encoder

SIDE = 224  # px, of the image that a backbone is timed on, at most
TOGETHER = 16  # such images in one pass on a GPU, which a single one would not fill
LONG = 2.0  # seconds; what takes longer is not repeated, although the first time is slower than others
LOOKED_AT = 16  # images from whose sizes the size of a view is taken
STEP = 4.0  # forward passes of a network that one training step takes: forward and backward, and the teacher's forward


class Speeds:
    """Estimates times on this machine. What is timed once (a network, the decoding of a data set) is remembered."""

    def __init__(self, results: Path) -> None:
        """results: the folder of earlier records."""
        self._results = results
        self._records: list[dict[str, Any]] | None = None
        self._known: dict[Hashable, float] = {}

    def features(self, stages: Sequence[Stage], lacking: Sequence[Sequence[Item]], evaluator: Evaluator) -> float:
        """Return the seconds for the features of all stages that the cache lacks."""
        total, seen = 0.0, set[tuple[Path, str]]()
        for stage, items in zip(stages, lacking, strict=True):
            wanted = stage.extraction
            if wanted is None:
                continue
            folder = wanted.folder
            new = [item for item in items if (folder, wanted.keys[item.name]) not in seen]
            seen |= {(folder, wanted.keys[item.name]) for item in new}
            if new:
                total += len(new) * self._of_image(wanted, new, evaluator)
        return total

    def rest(self, evaluator: Evaluator, preset: str, backbone: Backbone, dataset: Dataset, limit: int | None) -> float | None:
        """Return the seconds of all but the features, from the newest record that matches; None without one.

        Settings, preset, data set, limit, points and device must match. The backbone may be another one: the time is taken to
        grow with the size of the features.
        """
        settings = json.loads(json.dumps(evaluator.settings(dataset)))
        points, device = len(evaluator.points(dataset)), describe(resolve_device(evaluator.device))
        for record in reversed(self._earlier()):
            about, data, run, scored = (record[key] for key in ("protocol", "dataset", "run", "backbone"))
            same = (about["settings"], about["preset"], data["name"], data.get("limit")) == (
                settings,
                preset,
                dataset.name,
                limit,
            )
            if same and (run.get("device"), run.get("scored_points")) == (device, points) and "total" in run.get("seconds", {}):
                seconds = run["seconds"]["total"] - run["seconds"].get("features", 0.0)
                return max(0.0, seconds) * _size(backbone.dim, backbone.stride) / _size(scored["dim"], scored["stride"])
        return None

    def step(self, key: Hashable, encoder: Encoder, chosen: Pretrainer) -> float:
        """Return the seconds of a training step. key: what the encoder is made from."""
        device = resolve_device(chosen.device)
        together = TOGETHER if device.type == "cuda" else 1
        seconds = 0.0
        for spec in chosen.views():
            name = (key, spec.size)
            if name not in self._known:
                encoder.to(device).eval()
                blank = torch.zeros(together, 3, spec.size, spec.size, device=device)
                self._known[name] = _timed(lambda blank=blank: encoder(blank).patches.cpu()) / together  # type: ignore[misc]
            seconds += self._known[name]
        return STEP * seconds * chosen.batch_size

    def _earlier(self) -> list[dict[str, Any]]:
        if self._records is None:
            self._records = [record for record in scan(self._results).records if record["status"] == "complete"]
        return self._records

    def _of_image(self, wanted: Extraction, items: Sequence[Item], evaluator: Evaluator) -> float:
        """Return the seconds from the file of an image to its features."""
        device = resolve_device(evaluator.device)
        shapes = [wanted.view.shape(*wanted.dataset.image_size(item)) for item in limited(items, LOOKED_AT)]
        shape = sorted(shapes, key=lambda sides: sides[0] * sides[1])[len(shapes) // 2]
        decoding = (wanted.dataset.name, shape, repr(wanted.view))
        if decoding not in self._known:
            self._known[decoding] = _timed(lambda: wanted.decoded(items[0]))
        forward = self._forward(wanted, shape, device)
        if device.type == "cuda":  # images are decoded while the device computes
            return max(self._known[decoding] / max(1, resolve_workers(evaluator.workers, len(items), device)), forward)
        return self._known[decoding] + forward

    def _forward(self, wanted: Extraction, shape: tuple[int, int], device: torch.device) -> float:
        """Return the seconds of a forward pass for an image of a shape, from those for a small one."""
        backbone = wanted.backbone
        small = min(shape[0], _fit(SIDE, backbone.stride)), min(shape[1], _fit(SIDE, backbone.stride))
        for timed in dict.fromkeys((small, shape)):
            key = (backbone.digest, backbone.layer, backbone.pos_embed, wanted.precision, timed)
            try:
                if key not in self._known:
                    self._known[key] = self._pass(wanted, timed, device)
            except UserError:  # some networks take images of one size only
                if timed == shape:
                    raise
                continue
            return self._known[key] * work_ratio(backbone, shape, timed)
        raise AssertionError

    def _pass(self, wanted: Extraction, shape: tuple[int, int], device: torch.device) -> float:
        together = TOGETHER if device.type == "cuda" else 1
        blank = torch.zeros(together, 3, *shape)
        wanted.backbone.to(device)
        seconds = _timed(lambda: wanted.passed(blank, device).cpu()) / together
        wanted.backbone.to("cpu")
        return seconds


def work_ratio(backbone: Backbone, shape: tuple[int, int], smaller: tuple[int, int]) -> float:
    """Return the work for an image of `shape` (height, width) as a multiple of the work for one of the shape `smaller`.

    It grows with the pixels; in the attention of a plain ViT of width D, with the square of the number of patches: a block takes
    12 D^2 + 2 n D multiplications for each of n patches.
    """
    trunk: Any = backbone.network
    work = []
    for height, width in (shape, smaller):
        patches = height * width / backbone.stride**2
        plain = isinstance(trunk, TimmTrunk) and trunk.has_table
        work.append(patches * (6 * trunk.model.embed_dim + patches if plain else 1))
    return float(work[0] / work[1])


def _timed(work: Callable[[], Any]) -> float:
    """Return the seconds that some work takes, of the second time where the first one was short.

    They are those of a processor where that is less, so that other processes on the machine do not count.
    """
    seconds = 0.0
    for _ in range(2):
        started, used = time.perf_counter(), time.process_time()
        with torch.inference_mode():
            work()
        seconds = min(time.perf_counter() - started, time.process_time() - used)
        if seconds > LONG:
            break
    return seconds


def _fit(side: int, stride: int) -> int:
    return max(stride, side // stride * stride)


def _size(dim: int, stride: int) -> float:
    """Return how large the features of an image are, up to a factor."""
    return dim / stride**2
