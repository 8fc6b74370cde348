"""Which options of protocols there are where pictures are labelled, and under which names."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from densebench.flag import Flag

WITHOUT_EFFECT = frozenset({
    "fractions", "seeds", "subsets", "subset_dir", "subset_missing", "train_split", "eval_split", "absent", "variant", "score_at",
    "visualise", "gpus", "keep_features",
})  # fmt: skip
"""What decides nothing where a protocol learns from all given labels and labels new pictures."""
OF_PATCHES = {"patch_labels": "labels"}
"""Options under a name of their own, since `labels` are the labelled images."""


def own_flags(flags: Iterable[Flag]) -> list[Flag]:
    """Return the options of a protocol that have an effect, under the names that they have here."""
    names = {option: name for name, option in OF_PATCHES.items()}
    return [replace(flag, name=names.get(flag.name, flag.name)) for flag in flags if flag.name not in WITHOUT_EFFECT]
