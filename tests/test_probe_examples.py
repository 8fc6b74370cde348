"""The loops that the page on probes shows, run for a few steps."""

from __future__ import annotations

import runpy
from pathlib import Path

import pandas as pd
import pytest

from densebench.torchvision_ops import make_importable

EXAMPLES = Path(__file__).resolve().parents[1] / "docs" / "examples"


@pytest.mark.parametrize(("name", "length", "steps"), [("probe_torch", 20, [0, 20]), ("probe_timm", 3, [0, 2])])
@pytest.mark.slow
def test_a_loop_is_probed(tmp_path, monkeypatch, capsys, name, length, steps):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))
    make_importable()
    probe = runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"](length, str(tmp_path / "probes"), device="cpu")
    table = pd.read_csv(tmp_path / "probes" / "probe.csv")
    assert table["step"].tolist() == steps == probe.history["step"].tolist()
    assert capsys.readouterr().out.count("% mIoU") == len(steps)
