"""The options of a protocol that have an effect when it labels new pictures, and their names there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from densebench.flag import Flag

WITHOUT_EFFECT = frozenset({
    "fractions", "seeds", "subsets", "subset_dir", "subset_missing", "train_split", "eval_split", "absent", "variant", "score_at",
    "visualise", "gpus", "keep_features",
})  # fmt: skip
"""Options without an effect where a protocol learns from all given labels and labels new pictures."""
RENAMED = {"patch_labels": "labels"}
"""Options with another name than in the protocol, by that name: `labels` are the labelled images here."""


def labelling_flags(flags: Iterable[Flag]) -> list[Flag]:
    """Return the options of a protocol that have an effect when pictures are labelled, with their names there."""
    names = {option: name for name, option in RENAMED.items()}
    return [replace(flag, name=names.get(flag.name, flag.name)) for flag in flags if flag.name not in WITHOUT_EFFECT]
