"""Features without positional directions go before every protocol that leaves the backbone frozen."""

from __future__ import annotations

import copy
import json
import math

import pytest
from tiers import late
from tiny_protocols import tiny

import densebench
from densebench import catalog
from densebench.backbones.debiased import debiased
from densebench.conformance.checking import own_cache
from densebench.errors import UserError
from densebench.evaluation.protocol import Run
from densebench.numerics.arithmetic import float32

KINDS = {name: catalog.load("protocols", name, entry.presets[0]) for name, entry in catalog.entries("protocols").items()}
FROZEN = [name for name, kind in KINDS.items() if not kind.fine_tunes]
TRAINED = [name for name, kind in KINDS.items() if kind.fine_tunes]


def run(name, folder):
    preset = next(iter(KINDS[name].presets))
    evaluator, backbone, dataset = tiny(name, preset, folder)
    with own_cache(), float32(tf32=False):
        return list(evaluator.run(debiased(copy.deepcopy(backbone), 2), dataset, Run()))


@pytest.mark.parametrize("name", late(FROZEN, "kmeans", "vos"))
def test_every_frozen_protocol_takes_them(name, tmp_path):
    assert all(math.isfinite(score.value) for score in run(name, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_protocols_that_train_the_backbone_refuse_them(name, tmp_path):
    evaluator, _, dataset = tiny(name, next(iter(KINDS[name].presets)), tmp_path)
    with pytest.raises(UserError, match=f"--debias changes the features of a frozen network, and {name} trains the network"):
        densebench.evaluate("random:test_vit", evaluator, dataset, debias=2, results=tmp_path)


def test_a_record_says_what_is_removed_and_a_table_has_a_column_for_it(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))
    given = {"protocol": "kmeans", "dataset": "scenes", "seeds": 1, "image_size": 64, "pca": None, "device": "cpu"}
    given |= {"results": tmp_path / "results", "name": "net"}
    for count in (None, 5, 2):
        densebench.evaluate("random:test_vit", debias=count, **given)
    stored = [json.loads(path.read_text())["backbone"] for path in (tmp_path / "results" / "records").glob("*.json")]
    assert sorted(backbone.get("debias", 0) for backbone in stored) == [0, 2, 5]
    cells = densebench.leaderboard(tmp_path / "results").all_tables[0].cells
    shown = dict(zip(cells.backbone, cells["debiased by"], strict=True))
    assert shown == {"net": "none", "net (debiased by 5)": "5", "net (debiased by 2)": "2"}
    again = densebench.evaluate("random:test_vit", debias=5, **given)
    assert len(again.records) == 1 and len([*(tmp_path / "results" / "records").glob("*.json")]) == 3
