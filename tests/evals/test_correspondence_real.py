"""Real pairs: the guesses that need no features get exactly the hits that can be counted without any program of ours."""

from __future__ import annotations

import pytest

from densebench import options
from densebench.backbones.loading import load_backbone
from densebench.datasets import load_dataset
from densebench.evals.correspondence import Correspondence
from densebench.evaluation.protocol import Run

HITS = {
    "pf-pascal": (270, {"same place": (34, 93, 163)}, {"same place": (11.99, 32.76, 58.86), "box centre": (3.30, 12.75, 26.92)}),
    "animal-pose": (2767, {"same place": (48, 161, 334)}, {"same place": (1.66, 5.61, 11.84)}),
}
ALPHAS = (0.05, 0.1, 0.15)
VIT = "vit_small_patch14_dinov2_imgfocus.fp16.safetensors"


def scored(dataset, backbone, **given):
    evaluator = options.build(Correspondence, {}, {"alphas": ALPHAS, "device": "cpu", "workers": 0, **given}).resolve(dataset)
    found = evaluator.run(backbone, dataset, Run())
    return {(score.variant, score.metric, score.axes["alpha"]): score for score in found}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path))


@pytest.mark.parametrize("name", HITS)
def test_the_hits_of_the_same_place_are_exact(name, shared_data):
    points, hits, shares = HITS[name]
    found = scored(load_dataset(name, shared_data), load_backbone("pixels:32"), image_size=64)
    for number, alpha in enumerate(ALPHAS):
        for guess, counts in hits.items():
            details = found[guess, "pck_image", alpha].details
            assert (details["hits"], details["points"]) == (counts[number], points)
        for guess, values in shares.items():
            assert round(found[guess, "pck_image", alpha].value, 2) == values[number]


@pytest.mark.slow
@pytest.mark.parametrize("name", HITS)
def test_pretrained_features_are_three_times_random_ones(name, shared_data):
    dataset, weights = load_dataset(name, shared_data), shared_data / "weights" / VIT
    spec = "vit_small_patch14_dinov2"
    for layer in ("last", "key"):
        real = load_backbone(f"timm:{spec}", weights=weights, layer=layer)
        trained, untrained = (
            scored(dataset, each, image_size=252)["features", "pck_image", 0.1].value
            for each in (real, load_backbone(f"random:{spec}", layer=layer))
        )
        assert trained > 3 * untrained
