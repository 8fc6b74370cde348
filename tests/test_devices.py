"""Rows stay on the device that they are on: tensors without data (meta) refuse to meet those of a CPU, as a GPU's do."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from densebench.evals.incontext import retrieval, scoring

from densebench.evaluation import memory

META = torch.device("meta")
BANK = SimpleNamespace(
    features=torch.zeros(6, 3),
    norms=torch.zeros(6),
    labels=torch.zeros(6, 2),
    layout=SimpleNamespace(segments=torch.tensor([6]), members=torch.ones(1, 1, dtype=torch.bool)),
)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_queries_are_standardised_on_the_device_of_the_memory(metric, monkeypatch):
    """The statistics come from features on the disk, which are the CPU's."""
    monkeypatch.setattr(scoring, "Search", lambda *_, **__: None)
    task = SimpleNamespace(device=META, options=SimpleNamespace(engine="exact"))
    reader = scoring.Reader(task, BANK, metric, (torch.zeros(3), torch.ones(3)))
    assert reader.prepare(torch.zeros(2, 2, 3)).device == META


INTEGERS = torch.zeros(4, 4, dtype=torch.int64, device=META)
BYTES = torch.zeros(4, 4, dtype=torch.uint8, device=META)
FLOATS = torch.zeros(4, 4, device=META)


@pytest.mark.parametrize(
    "rows",
    [
        lambda: memory.majority_labels(INTEGERS),
        lambda: memory.soft_labels(INTEGERS),
        lambda: memory.patch_pixels(BYTES, 2),
        lambda: memory.standard_scores(FLOATS, (FLOATS[0], FLOATS[1])),
        lambda: retrieval.cosines(FLOATS, FLOATS[0], FLOATS, "l2"),
        lambda: retrieval.vote_pixels(INTEGERS, BYTES),
        lambda: retrieval.unfold_pixels(BYTES, 2, 2),
    ],
    ids=["majority", "soft", "pixels", "standard", "cosines", "vote", "unfold"],
)
def test_labels_of_patches_stay_on_their_device(rows):
    assert rows().device == META
