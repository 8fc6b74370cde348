"""A data set of which some images are corrupted, as a camera, the weather or a codec may do: for scores of robustness."""

from __future__ import annotations

from densebench.datasets.dataset import Dataset
from densebench.errors import UserError


def corrupted(dataset: Dataset, corruption: str, split: str) -> Dataset:
    """Return the data set with the images of `split` corrupted. corruption: NAME or NAME:LEVEL."""
    raise UserError(f"--corrupt {corruption}: not built yet for {dataset.name} {split}")
