"""Fixtures for every test, and the shape annotations of the numeric modules switched on."""

from __future__ import annotations

from pathlib import Path

import pytest
from jaxtyping import install_import_hook

# Shapes in signatures are documentation in use and assertions here. The hook must come before the modules' first import.
install_import_hook(
    [
        "densebench.metrics",
        "densebench.propagation",
        "densebench.search",
        "densebench.video_metrics",
        "densebench.views",
        "densebench.evals.cluster_foreground",
        "densebench.evals.communities",
        "densebench.datasets.subsets",
        "densebench.evals.boxes",
        "densebench.evals.retrieval",
        "densebench.evals.voting",
        "densebench.evals.memory",
        "densebench.evals.vos_frames",
        "densebench.evals.vos_tracking",
        "densebench.heads.descent",
        "densebench.heads.lbfgs",
        "densebench.heads.logistic",
        "densebench.heads.mmsegmentation.segmentor",
        "densebench.heads.mmsegmentation.validation",
        "densebench.region_pooling",
        "densebench.sinkhorn",
        "densebench.suppression",
        "densebench.training.crops",
        "densebench.training.distillation",
        "densebench.training.heads",
        "densebench.training.regions",
        "densebench.pretrain.bank",
        "densebench.foreground",
        "densebench.pretrain.mean_shift",
        "densebench.pretrain.merging",
        "densebench.pretrain.objects",
        "densebench.pretrain.partition",
        "densebench.pretrain.references",
        "densebench.pretrain.sorting",
    ],
    "beartype.beartype",
)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real images and weights, kept beside the checkout and never inside it."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}")
    return folder
