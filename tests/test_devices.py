"""Rows stay on the device that they are on: tensors without data (meta) refuse to meet those of a CPU, as a GPU's do."""

from __future__ import annotations

import pytest
import torch

from densebench.evals.incontext import votes
from densebench.evals.incontext.memory import Scaling
from densebench.numerics import patch_labels
from densebench.numerics.moments import standard_scores

META = torch.device("meta")


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_queries_are_standardised_on_the_device_of_the_memory(metric):
    """The statistics come from features on the disk, which are the CPU's."""
    scaling = Scaling(metric, "channels", (torch.zeros(3), torch.ones(3))).to(META)
    assert scaling.queries(torch.zeros(4, 3, device=META)).device == META


INTEGERS = torch.zeros(4, 4, dtype=torch.int64, device=META)
BYTES = torch.zeros(4, 4, dtype=torch.uint8, device=META)
FLOATS = torch.zeros(4, 4, device=META)


@pytest.mark.parametrize(
    "rows",
    [
        lambda: patch_labels.majority_labels(INTEGERS),
        lambda: patch_labels.soft_labels(INTEGERS),
        lambda: patch_labels.patch_pixels(BYTES, 2),
        lambda: standard_scores(FLOATS, FLOATS[0], FLOATS[1]),
        lambda: votes.cosines(FLOATS, FLOATS[0], FLOATS, "l2"),
        lambda: votes.vote_pixels(INTEGERS, BYTES),
        lambda: votes.unfold_pixels(BYTES, 2, 2),
    ],
    ids=["majority", "soft", "pixels", "standard", "cosines", "vote", "unfold"],
)
def test_labels_of_patches_stay_on_their_device(rows):
    assert rows().device == META
