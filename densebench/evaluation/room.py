"""Room on disk for the features of a run: checked before it starts, held while it runs, tidied up when its record is complete."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from densebench.evaluation.estimate import check_room, needed
from densebench.evaluation.protocol import Evaluator
from densebench.evaluation.stages import Stage
from densebench.files.atomic import cache_root
from densebench.files.cache import Hold, limit_of, make_room, release
from densebench.processes import from_main, rank, synchronise


@contextmanager
def reserved(evaluator: Evaluator, stages: Sequence[Stage], protocol: str, dataset: str) -> Iterator[None]:
    """Hold the folders of a run's features while the block runs, and note in them which protocol and data set use them.

    Of several processes the main one does so for all. When the block ends without an error, the features of augmented views are
    removed, unless `--keep-features` is given or another process uses them. Raises UserError before the block where the features
    alone take more than `--cache-limit`; a notice says so where the disk has less free space than they need.
    """
    limit = limit_of(evaluator.cache_limit)
    wanted = {extraction.folder: extraction for stage in stages if (extraction := stage.extraction) is not None}
    holds: list[Hold] = []

    def make() -> None:
        total, missing = needed(stages)
        check_room(total, missing, limit)
        for folder, extraction in wanted.items():
            holds.append(Hold(folder, extraction.about))
            holds[-1].note({"protocol": protocol, "dataset": dataset})
        if limit is not None and missing:
            make_room(cache_root(), missing, limit)

    from_main(make)
    yield
    holds.clear()  # what is held counts as in use
    synchronise()  # the others use it no longer
    for folder, extraction in wanted.items() if rank() == 0 else ():
        if extraction.augmented and not evaluator.keep_features:
            release(folder)
