"""Fixtures for every test, and the shape annotations of the numeric modules switched on."""

from __future__ import annotations

from pathlib import Path

import pytest
from jaxtyping import install_import_hook

# Shapes in signatures are documentation in use and assertions here. The hook must come before the modules' first import.
install_import_hook(
    [
        "densebench.numerics",
        "densebench.evals",
        "densebench.evaluation.patch_labels",
        "densebench.features.views",
        "densebench.evaluation.subsets",
        "densebench.bridges.mmsegmentation.segmentor",
        "densebench.bridges.mmsegmentation.validation",
        "densebench.training.distillation",
        "densebench.training.heads",
        "densebench.pretrain.cribo.bank",
        "densebench.pretrain.flsl.mean_shift",
        "densebench.pretrain.croc.merging",
        "densebench.pretrain.cribo.objects",
        "densebench.pretrain.cribo.partition",
        "densebench.pretrain.neco.references",
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
