"""Images that are resized as a whole: their view, their features and their label maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor

from densebench.backbones import Backbone
from densebench.datasets import Dataset, Item
from densebench.evaluation.labels import LabelSpace
from densebench.evaluation.protocol import Evaluator
from densebench.evaluation.supervised import FewShot
from densebench.features.extract import Features, extract
from densebench.features.views import CropView, View
from densebench.processes import resolve_device, resolve_workers


def whole_view(options: FewShot, backbone: Backbone, dataset: Dataset) -> View:
    """Return the view of every image: a requested size must fit the backbone, the usual one is rounded down to its stride."""
    return View(backbone.stride, whole_size(options.image_size, backbone, dataset), options.resample)  # type: ignore[arg-type]


def whole_size(requested: int | None, backbone: Backbone, dataset: Dataset) -> int:
    """Return the side of the square that images become. Raises UserError where a requested size does not fit the backbone."""
    size = requested or max(1, dataset.image_size_hint // backbone.stride) * backbone.stride
    backbone.check_size(size, size)
    return size


def features_of(options: Evaluator, backbone: Backbone, dataset: Dataset, items: Sequence[Item], view: View) -> Features:
    """Return the features of the items, from the cache where it has them."""
    return extract(
        backbone, dataset, items, view, precision=options.precision, device=resolve_device(options.device),
        batch_size=options.batch_size, workers=resolve_workers(options.workers, len(items)),
    )  # fmt: skip


def truth_map(
    space: LabelSpace, view: View | CropView, item: Item, size: int | None, resample: str
) -> UInt8[Tensor, "rows columns"]:
    """Return the label map of an item under a view, then as a square of `size` px; None: as the view has it."""
    label = view.label(space.read_truth(item), space.dataset.image_digest(item))
    return label if size is None else F.interpolate(label[None, None], (size, size), mode=resample)[0, 0]
