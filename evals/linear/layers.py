"""Linear layers on the features of whole images: their label maps, confusion matrices and pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from densebench.console import notice, progress
from densebench.datasets.dataset import Dataset, Item
from densebench.evaluation.counts import Counts
from densebench.evaluation.labels import LabelSpace
from densebench.evaluation.pictures import PANEL, legend, panel
from densebench.evaluation.whole_images import truth_map
from densebench.features.extract import Features
from densebench.features.views import View
from densebench.numerics.device_copy import on_device
from densebench.numerics.host_copy import HostCopy, one_late
from densebench.numerics.segmentation import confusion_matrices, counted_pairs
from densebench.pictures.canvas import save
from densebench.processes import collected, dealt


@dataclass(frozen=True)
class Layers:
    """Images of a data set under one view, with their features, to be labelled by linear layers.

    size: side in px of the label maps that are compared; None: the view's own size. mask_resample: how truth is resized to it.
    """

    dataset: Dataset
    space: LabelSpace
    view: View
    features: Features
    device: torch.device
    size: int | None = None
    mask_resample: str = "nearest-exact"

    def label_maps(self, item: Item, weights: Float[Tensor, "s d_plus_1 c"]) -> UInt8[Tensor, "s h w"]:
        """Return the label map of an image by each of s layers; the last row of their weights is the bias."""
        size = self.view.shape(*self.dataset.image_size(item)) if self.size is None else (self.size, self.size)
        logits = self.logits(item, weights)
        large = [F.interpolate(layer[None], size, mode="bilinear", align_corners=False)[0].argmax(dim=0) for layer in logits]
        return torch.stack(large).to(torch.uint8)

    def logits(self, item: Item, weights: Float[Tensor, "s d_plus_1 c"]) -> Float[Tensor, "s c gh gw"]:
        """Return the logits of the patches of an image by each of s layers."""
        grid = on_device(self.features[item], self.device).float()
        return torch.einsum("hwd,sdc->schw", grid, weights[:, :-1]) + weights[:, -1][:, :, None, None]

    def truth(self, item: Item) -> UInt8[Tensor, "h w"]:
        """Return the label map that predictions are compared with."""
        return truth_map(self.space, self.view, item, self.size, self.mask_resample)

    def confusions(
        self, items: Iterable[Item], weights: Float[Tensor, "s d_plus_1 c"]
    ) -> Iterator[tuple[Item, Int[Tensor, "s c c"]]]:
        """Yield the confusion matrices of each image: one for every layer.

        On a GPU those of an image are read once the next one is queued.
        """
        for item, counts in one_late(self._counted(items, weights), self.device):
            yield item, confusion_matrices(counts.value(), self.space.classes)

    def _counted(self, items: Iterable[Item], weights: Float[Tensor, "s d_plus_1 c"]) -> Iterator[tuple[Item, HostCopy]]:
        """Yield the rows of `counted_pairs` of each image, on their way to the host."""
        for item in items:
            truth = on_device(self.truth(item), self.device)
            yield item, HostCopy(counted_pairs(self.label_maps(item, weights), truth, self.space.classes))

    def count(self, items: Sequence[Item], weights: Float[Tensor, "s d_plus_1 c"]) -> Counts:
        """Return the confusion matrices of all images for each of several layers. Several processes divide the images."""
        counts, mine = Counts(len(weights), self.space.classes), dealt(items)
        counted = []
        with progress("scoring", len(mine)) as bar:
            for item, confusions in self.confusions(mine, weights):
                counted.append((item.name, counts.add(item.name, confusions)))
                bar.advance()
        for name, pairs in collected(counted):
            counts.restore(name, pairs)
        return counts

    def draw(self, items: Sequence[Item], weights: Float[Tensor, "d_plus_1 c"], folder: Path) -> None:
        """Write `<image>.png` (image | truth | prediction) for a few images."""
        for item in items:
            label = self.label_maps(item, weights[None])[0].cpu()
            picture = panel(self.dataset, self.space, self.view, item, self.truth(item), label)
            save(picture, folder / f"{item.name.replace('/', '-')}.png", description=PANEL, legend=legend(self.dataset))
        notice(f"pictures of {len(items)} images are in {folder}")
