"""A fitted layer that labels images without truth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from jaxtyping import Float, UInt8
from torch import Tensor

from densebench.datasets.dataset import Dataset, Item
from densebench.evals.linear.layers import Layers
from densebench.evaluation.labelling import At, Learned
from densebench.features.extract import Features
from densebench.numerics.class_scores import best_classes


@dataclass(frozen=True)
class LearnedLayer(Learned):
    """One linear layer. layers: the view, the device and the space; its images and features are replaced."""

    layers: Layers
    weights: Float[Tensor, "d_plus_1 c"]

    def label_maps(
        self, images: Dataset, items: Sequence[Item], at: At = "image", features: Features | None = None
    ) -> Iterator[tuple[Item, UInt8[Tensor, "h w"]]]:
        """Yield each image with its label map, as `Learned.label_maps` says."""
        layers = replace(self.layers, dataset=images, features=self.features(images, items) if features is None else features)
        for item in items:
            if at == "scored":
                yield item, layers.label_maps(item, self.weights[None])[0].cpu()
            else:
                width, height = images.image_size(item)
                yield item, best_classes(layers.logits(item, self.weights[None])[0], height, width).cpu()

    def truth(self, item: Item) -> UInt8[Tensor, "h w"]:
        """Return the label map of an image under the view."""
        return self.layers.truth(item)
