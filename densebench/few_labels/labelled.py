"""Which labelled images are taken: one rule for choosing a backbone and for labelling new pictures."""

from __future__ import annotations

from collections.abc import Sequence

from densebench.datasets.dataset import Dataset, Item
from densebench.datasets.folder import Inferred
from densebench.errors import UserError, unknown


def labelled_images(dataset: Dataset, split: str | Sequence[str] | None = None, unseen: bool = False) -> tuple[Item, ...]:
    """Return labelled images, each once: those of the split or splits that are named, else those of all splits that are there.

    unseen: where the data set states splits and none is named, take only the training split, so that the others stay unseen. A
    split by seed does not count as stated. Raises UserError for an unknown split, where none is there, and where two images of
    different splits have one name.
    """
    if split is None and unseen and states_splits(dataset):
        split = dataset.train_split
    wanted = dataset.splits if split is None else (split,) if isinstance(split, str) else tuple(split)
    for name in wanted:
        if name not in dataset.splits:
            raise unknown("split", name, dataset.splits, f"{dataset.name} has {', '.join(dataset.splits)}")
    there = [name for name in wanted if split is not None or dataset.has(name)]
    found: dict[str, Item] = {}
    for item in (item for name in there or wanted for item in dataset.items(name)):
        if (other := found.setdefault(item.name, item)).image != item.image:
            raise UserError(f"{dataset.name} has two images called {item.name}, {other.image} and {item.image}; name a --split")
    return tuple(found.values())


def states_splits(dataset: Dataset) -> bool:
    """Return whether splits are the data set's own, and not drawn by seed or the one split of a few images."""
    return not (isinstance(dataset, Inferred) and (dataset.split_rule.startswith("by seed") or dataset.split_rule == "none"))
