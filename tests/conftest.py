"""Fixtures for every test, and the shape annotations of the numeric modules switched on."""

from __future__ import annotations

import os
from pathlib import Path

# Before torch is imported: the networks of tests are small, and the threads of several workers would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from jaxtyping import install_import_hook

# Shapes in signatures are documentation in use and assertions here. The hook must come before the modules' first import.
install_import_hook(
    [
        "densebench.numerics.segmentation",
        "densebench.numerics.propagation",
        "densebench.numerics.search",
        "densebench.numerics.video",
        "densebench.features.views",
        "densebench.evals.unsupervised.cluster_foreground",
        "densebench.evals.unsupervised.communities",
        "densebench.evaluation.subsets",
        "densebench.evals.bbox_knn.boxes",
        "densebench.evals.incontext.retrieval",
        "densebench.evals.incontext.voting",
        "densebench.evaluation.memory",
        "densebench.evals.vos.frames",
        "densebench.evals.vos.tracking",
        "densebench.numerics.sgd_layers",
        "densebench.numerics.lbfgs",
        "densebench.numerics.logistic",
        "densebench.bridges.mmsegmentation.segmentor",
        "densebench.bridges.mmsegmentation.validation",
        "densebench.numerics.roi_align",
        "densebench.numerics.sinkhorn",
        "densebench.numerics.nms",
        "densebench.numerics.crops",
        "densebench.training.distillation",
        "densebench.training.heads",
        "densebench.numerics.region_pooling",
        "densebench.pretrain.cribo.bank",
        "densebench.numerics.foreground",
        "densebench.pretrain.flsl.mean_shift",
        "densebench.pretrain.croc.merging",
        "densebench.pretrain.cribo.objects",
        "densebench.pretrain.cribo.partition",
        "densebench.pretrain.neco.references",
        "densebench.numerics.sorting",
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
