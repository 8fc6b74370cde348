"""Importing MMSegmentation beside mmcv-lite, and reading mmengine's checkpoints safely."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from densebench.bridges.mmsegmentation import importing  # before mmengine, which it makes importable
from densebench.errors import UserError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from mmengine.logging import HistoryBuffer


def test_the_stub_of_compiled_operators_is_gone_after_the_import():
    assert "mmcv._ext" not in sys.modules and "mmseg.models" in sys.modules
    from mmcv.utils import ext_loader  # noqa: F401 - the loader asks for the operators on import alone

    with pytest.raises(ModuleNotFoundError):
        __import__("mmcv._ext")


def installed(monkeypatch, **versions):
    """Make exactly these distributions look installed; underscores stand for dashes."""
    known = {name.replace("_", "-"): version for name, version in versions.items()}

    def version(name):
        if name not in known:
            raise importing.importlib.metadata.PackageNotFoundError(name)
        return known[name]

    monkeypatch.setattr(importing.importlib.metadata, "version", version)


def test_the_family_is_named_with_its_versions(monkeypatch):
    installed(monkeypatch, mmsegmentation="1.2.2", mmengine="0.10.7", mmcv_lite="2.1.0")
    assert importing.family() == "mmsegmentation 1.2.2, mmengine 0.10.7, mmcv-lite 2.1.0"
    installed(monkeypatch, onedl_mmsegmentation="1.4.2", onedl_mmengine="0.10.12", onedl_mmcv="2.3.6")
    assert importing.family() == "onedl-mmsegmentation 1.4.2, onedl-mmengine 0.10.12, onedl-mmcv 2.3.6"


def test_both_families_at_once_are_refused(monkeypatch):
    installed(monkeypatch, mmsegmentation="1.2.2", mmengine="0.10.7", onedl_mmengine="0.10.12")
    with pytest.raises(UserError, match="onedl-mmengine share their files: uninstall all of them"):
        importing.family()


def test_checkpoints_with_histories_of_numbers_are_readable_for_a_while(tmp_path):
    history = HistoryBuffer()
    for value in (1.5, 2.5):
        history.update(value)
    torch.save(
        {"history": history, "float": np.float64(0.5), "int": np.int64(7), "tensor": torch.ones(2)}, tmp_path / "state.pth"
    )
    with pytest.raises(Exception, match="Weights only load failed"):
        torch.load(tmp_path / "state.pth", weights_only=True)
    with importing.readable_checkpoints():
        found = torch.load(tmp_path / "state.pth", weights_only=True)
    assert found["float"] == 0.5 and found["int"] == 7 and found["tensor"].tolist() == [1, 1]
    assert found["history"].data[0].tolist() == [1.5, 2.5] and found["history"].mean() == 2
    with pytest.raises(Exception, match="Weights only load failed"):
        torch.load(tmp_path / "state.pth", weights_only=True)


def test_other_objects_are_refused_in_checkpoints(tmp_path):
    torch.save({"path": Path("x"), "call": print}, tmp_path / "state.pth")
    with importing.readable_checkpoints(), pytest.raises(Exception, match="Weights only load failed"):
        torch.load(tmp_path / "state.pth", weights_only=True)
