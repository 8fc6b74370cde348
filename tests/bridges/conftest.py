"""Backbones and runs that several tests of the bridges share."""

from __future__ import annotations

import pytest

from densebench.backbones.loading import load_backbone


@pytest.fixture(scope="session")
def pixels():
    return load_backbone("pixels:8")


@pytest.fixture(scope="session")
def vit():
    return load_backbone("random:test_vit")


@pytest.fixture(scope="session")
def whole(pixels, tmp_path_factory):
    """A run that nothing interrupts, with states two or three iterations apart."""
    from segmentor_runs import train

    from densebench.bridges.mmsegmentation import training

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "POINTS", 3)
        return train(pixels, tmp_path_factory.mktemp("whole"))
