"""Identity: what decides features or scores tells records and cached features apart, and what only names them does not."""

from __future__ import annotations

import sys

import pytest

from densebench.evaluation import evaluate
from densebench.leaderboard import leaderboard

SCORING = {"datasets": ["scenes"], "neighbours": 3, "fractions": (64,), "seeds": 1}


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    loaded = set(sys.modules)
    yield
    for name in set(sys.modules) - loaded:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


def evaluated(tmp_path, *specs):
    return list(evaluate("incontext", backbones=specs, results=tmp_path / "results", limit=2, **SCORING))


def test_patches_of_other_sizes_are_other_backbones(tmp_path):
    names = ("pixels:16", "pixels:32")
    for name in names:
        [record] = evaluate("kmeans", backbones=[name], datasets=["scenes"], results=tmp_path, seeds=1, clusters="8")
        assert record["backbone"]["spec"] == name
        assert record["backbone"]["kind"] == "pixels"
    assert len(list((tmp_path / "records").glob("*.json"))) == 2
    [table] = leaderboard(tmp_path).tables
    assert sorted(table.cells.backbone) == sorted(names)
