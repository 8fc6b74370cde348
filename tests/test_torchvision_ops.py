"""The torchvision of another build: importable after make_importable, and left alone where it works."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from densebench import torchvision_ops


def test_timm_imports_in_a_fresh_process():
    code = (
        "from densebench.torchvision_ops import make_importable; make_importable(); make_importable(); import timm, torchvision"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("torchvision is not built for this torch") <= 1


def test_a_torchvision_that_works_is_left_alone(monkeypatch):
    torchvision_ops.make_importable()
    torchvision_ops.make_importable.cache_clear()
    monkeypatch.setattr(importlib, "import_module", lambda name: None)
    assert torchvision_ops.make_importable() is None
    torchvision_ops.make_importable.cache_clear()


def test_other_errors_are_not_hidden(monkeypatch):
    def broken(name):
        raise RuntimeError("something else")

    torchvision_ops.make_importable.cache_clear()
    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(RuntimeError, match="something else"):
        torchvision_ops.make_importable()
    torchvision_ops.make_importable.cache_clear()
