"""Every protocol that leaves the network frozen runs on features made finer; one that trains it refuses them."""

from __future__ import annotations

import math

import pytest
from PIL import Image
from tiny_protocols import tiny

import densebench
from densebench import catalog
from densebench.backbones.loading import load_backbone
from densebench.backbones.upsampled import upsampled
from densebench.conformance.checking import own_cache
from densebench.errors import UserError
from densebench.evaluation.protocol import Run

PARTS = [(name, part.presets[0]) for name, entry in catalog.entries("protocols").items() for part in entry.parts]
FROZEN = [part for part in PARTS if not catalog.load("protocols", *part).fine_tunes]
QUICK = [("incontext", "hummingbird"), ("linear", "lbfgs"), ("vos", "dino")]


@pytest.mark.parametrize(
    ("name", "preset"), [pytest.param(*part, marks=[] if part in QUICK else [pytest.mark.slow]) for part in FROZEN]
)
def test_a_protocol_scores_finer_features(name, preset, tmp_path):
    evaluator, backbone, dataset = tiny(name, preset, tmp_path)
    fine = upsampled(backbone, "nearest")
    with own_cache():
        scores = list(evaluator.run(fine, dataset, Run()))
    assert scores
    assert all(math.isfinite(score.value) for score in scores)


@pytest.mark.parametrize("score_at", ["patch", "view"])
def test_in_context_scores_and_labels_cells_of_the_finer_grid(score_at, tmp_path):
    evaluator, backbone, dataset = tiny("incontext", "hummingbird", tmp_path, score_at=score_at)
    with own_cache():
        [*_, nearest] = evaluator.run(upsampled(backbone, "nearest"), dataset, Run())
        [*_, plain] = evaluator.run(backbone, dataset, Run())
    assert nearest.value > plain.value - 10  # labels of a quarter of a patch are purer, features are the same


def test_a_protocol_that_trains_the_network_refuses_a_finer_grid(tmp_path):
    evaluator, _, dataset = tiny("segmenter", "mmseg", tmp_path)
    with pytest.raises(UserError, match="--upsample changes the features of a frozen network, and segmenter trains"):
        densebench.evaluate("random:test_vit", evaluator, dataset, upsample="guided", results=tmp_path)


def test_a_look_shows_finer_features_beside_the_attention_of_the_network(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))
    pictures = [Image.effect_noise((96, 64), 80 + 20 * number).convert("RGB") for number in range(2)]
    seen = densebench.look(pictures, "random:test_vit", upsample="guided", image_size=64, clusters=2, count=2)
    assert not seen.backbones[0].problem
    assert seen.backbones[0].stride == load_backbone("random:test_vit").stride // 2
    with pytest.raises(UserError, match="unknown --upsample"):
        densebench.look(pictures, "random:test_vit", upsample="gided")
