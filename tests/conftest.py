"""Fixtures for every test, and the shape annotations of the numeric modules switched on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

# Before torch is imported: the networks of tests are small, and the threads of several workers would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from jaxtyping import install_import_hook
from simulated_cuda.report import Report

# Shapes in signatures are documentation in use and assertions here. The hook must come before the modules' first import.
install_import_hook(
    [
        "densebench.numerics",
        "densebench.evals",
        "densebench.pretrain",
        "densebench.features",
        "densebench.backbones",
        "densebench.bridges.mmsegmentation.segmentor",
        "densebench.bridges.mmsegmentation.validation",
        "densebench.datasets.label_maps",
        "densebench.evaluation.patch_labels",
        "densebench.evaluation.subsets",
        "densebench.training.augmentation",
        "densebench.training.distillation",
        "densebench.training.heads",
        "densebench.training.objective",
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


@pytest.fixture
def cuda() -> Iterator[Report]:
    """A simulated CUDA device for the duration of a test: `torch.zeros(3, device="cuda")` works, and the report counts waits."""
    from simulated_cuda import simulate

    with simulate() as report:
        yield report
