"""Fixtures for every test, and the shape annotations of the numeric modules switched on."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

# Before torch is imported: the networks of tests are small, and the threads of several workers would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from jaxtyping import install_import_hook
from simulated_cuda.report import Report

# Torch, its friends and the tests are a million objects that stay: to look through them again and again takes a fifth of the time
# until the first test, and then half a second each time. See `pytest_collection_finish`.
gc.disable()

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


def pytest_collection_finish() -> None:
    """Let garbage be collected among what the tests make, and leave out what was there before them."""
    gc.freeze()
    gc.enable()


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
