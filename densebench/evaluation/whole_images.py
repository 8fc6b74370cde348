"""Images that are resized as a whole: their view, their features and their label maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor

from densebench.backbones.backbone import Backbone
from densebench.datasets.dataset import Dataset, Item
from densebench.evaluation.labels import LabelSpace
from densebench.evaluation.option_groups import FewShot
from densebench.evaluation.protocol import Evaluator
from densebench.evaluation.stages import Stage
from densebench.features.extract import Extraction, Features
from densebench.features.views import CropView, View


def whole_view(options: FewShot, backbone: Backbone, dataset: Dataset) -> View:
    """Return the view of every image: a requested size must fit the backbone, the usual one is rounded down to its stride."""
    return View(backbone.multiple, whole_size(options.image_size, backbone, dataset), options.resample)  # type: ignore[arg-type]


def whole_size(requested: int | None, backbone: Backbone, dataset: Dataset) -> int:
    """Return the side of the square that images become. Raises UserError where a requested size does not fit the backbone."""
    size = requested or max(1, dataset.image_size_hint // backbone.multiple) * backbone.multiple
    backbone.check_size(size, size)
    return size


def features_of(options: Evaluator, backbone: Backbone, dataset: Dataset, items: Sequence[Item], view: View) -> Features:
    """Return the features of the items, from the cache where it has them."""
    return options.extracted(extraction_of(options, backbone, dataset, items, view))


def extraction_of(options: Evaluator, backbone: Backbone, dataset: Dataset, items: Sequence[Item], view: View) -> Extraction:
    """Return what `features_of` extracts."""
    return Extraction(backbone, dataset, items, view, precision=options.precision)


def features_stage(
    options: Evaluator, backbone: Backbone, dataset: Dataset, items: Sequence[Item], view: View, name: str
) -> Stage:
    """Return the stage in which `features_of` is called with the same arguments."""
    return Stage(name, items, extraction_of(options, backbone, dataset, items, view))


def truth_map(
    space: LabelSpace, view: View | CropView, item: Item, size: int | None, resample: str
) -> UInt8[Tensor, "rows columns"]:
    """Return the label map of an item under a view, then as a square of `size` px; None: as the view has it."""
    label = view.label(space.read_truth(item), space.dataset.image_digest(item))
    return label if size is None else F.interpolate(label[None, None], (size, size), mode=resample)[0, 0]
