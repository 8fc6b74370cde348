"""Protocols that cluster patch features without labels, and use labels to name the clusters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from densebench.evaluation.protocol import Evaluator
from densebench.options import runtime, setting

if TYPE_CHECKING:
    from densebench.datasets.dataset import Dataset


@dataclass(frozen=True)
class Clustered(Evaluator):
    """How tokens are made and clustered, and what the clusters are compared with."""

    image_size: int | None = setting(
        None, "side in px, a multiple of the stride; none: 512 rounded down to it", minimum=1, maximum=16_384
    )
    standardise: bool = setting(True, "give each feature mean 0 and deviation 1 over all tokens")
    pca: int | None = setting(50, "principal components that are kept; none: all features as they are", minimum=1, maximum=65_536)
    per_cluster: int | None = setting(256, "tokens a cluster that train it; none: all", minimum=1, maximum=1_000_000)
    init: str = setting("points", "first centroids: random tokens or k-means++", choices=("points", "k-means++"))
    iterations: int = setting(
        100, "of Lloyd's algorithm at most; of minibatch: passes over the tokens", minimum=1, maximum=1_000_000
    )
    restarts: int = setting(5, "of which the one with the least inertia counts", minimum=1, maximum=1000)
    engine: str = setting("torch", "which K-means; minibatch is ours too", choices=("torch", "minibatch", "faiss", "sklearn"))
    mask_size: int | None = setting(
        100, "side of the label maps that are compared; none: the view's own", minimum=1, maximum=16_384
    )
    mask_resample: str = setting("nearest", "how label maps come to this size", choices=("nearest-exact", "nearest"))
    other_class: str = setting(
        "off", "where 0 is 'other', not a class: off, a dead class 0, or a class", choices=("off", "dead", "class")
    )
    absent: str = setting("zero", "classes in neither truth nor prediction", choices=("skip", "zero"))
    eval_split: str | None = setting(None, "split that is clustered and scored; none: the data set's own")
    visualise: int = runtime(0, "draw so many images: image, truth, clusters by class, clusters", minimum=0, maximum=100_000)

    def settings(self, dataset: Dataset) -> dict[str, Any]:
        """The settings by what they mean: a size given is the same size hinted."""
        return {**super().settings(dataset), "image_size": self.image_size or dataset.image_size_hint}
