"""How memories are filled and searched: what scoring a split and labelling new images have in common."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from densebench.errors import UserError
from densebench.evals.incontext.memory import Scaling, TrainingPatches, layout_of
from densebench.evals.incontext.shards import own_views
from densebench.evals.incontext.voting import Queries, Voter, Voting
from densebench.evaluation.patch_labels import held_out
from densebench.numerics.segmentation import iou, mean_iou, tallies
from densebench.processes import collected


@dataclass(frozen=True)
class Retrieval:
    """The settings of the protocol that decide how memories are filled and searched, under their names.

    dtype: of the memory's rows. device: where it is searched.
    """

    voting: Voting
    memory_size: int | None
    memory_norm: str
    standardise: bool
    neighbours: tuple[int, ...]
    metric: tuple[str, ...]
    dtype: torch.dtype
    device: torch.device

    @property
    def chooses(self) -> bool:
        """Whether the number of neighbours or the distance is chosen on a tenth of the training images."""
        return len(self.neighbours) * len(self.metric) > 1

    def voter(self, patches: TrainingPatches, subsets: Bool[Tensor, "s views"], metric: str) -> Voter:
        """Fill the memory that the subsets need, and make it ready to be searched."""
        layout = layout_of(patches.labelled, subsets, self.memory_size)
        scaling = Scaling(metric, self.memory_norm, patches.statistics(subsets) if self.standardise else None)
        return Voter(patches.fill(layout, scaling, self.dtype, own_views(layout)), self.voting, self.device)

    def chosen(
        self, patches: TrainingPatches, subsets: Bool[Tensor, "s views"], queries: Queries
    ) -> tuple[int, str, dict[str, Any]]:
        """Return the number of neighbours and the distance, and the details of a score that say so where they were chosen."""
        if not self.chooses:
            return self.neighbours[0], self.metric[0], {}
        k, metric = self.select(patches, subsets, queries)
        return k, metric, {"neighbours": k, "metric": metric}

    def select(self, patches: TrainingPatches, subsets: Bool[Tensor, "s views"], queries: Queries) -> tuple[int, str]:
        """Return k and the distance with the best mIoU on a tenth of the subsets' images; the other images are the memory.

        Raises UserError where there are fewer than two training images.
        """
        images = sorted({view.item.name for view in patches.held(subsets)})
        if len(images) < 2:
            raise UserError(f"choosing among --neighbours {self.neighbours} takes two training images; give one number")
        names = {images[i] for i in held_out(len(images))}
        rest = subsets & torch.tensor([view.item.name not in names for view in patches.labelled])
        items = list({view.item.name: view.item for view in patches.labelled if view.item.name in names}.values())
        view = patches.labelled[0].view
        queries = replace(queries, items=items, view=view, features=patches.features[view])
        best = (-1.0, self.neighbours[0], self.metric[0])
        for metric in self.metric:
            voter = self.voter(patches, rest, metric)
            for k in self.neighbours:
                if k <= min(voter.memory.layout.sizes()):
                    counted = {item.name: counts[0] for item, counts in queries.confusions(voter, items, k)}
                    confusion = sum(part for own in collected([counted]) for part in own.values())
                    value = float(mean_iou(iou(tallies(confusion)), "skip"))
                    best = max(best, (value, k, metric), key=lambda entry: entry[0])
        return best[1], best[2]
