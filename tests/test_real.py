"""Real images and real backbones: trained features must win by a wide margin over the same architecture at random."""

from __future__ import annotations

import pytest

from densebench import evaluate


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))


def miou(shared_data, tmp_path, spec, weights=None, dataset="camvid", layer="last", limit=16, **given):
    [record] = evaluate(
        spec,
        "incontext",
        dataset,
        weights=weights and shared_data / "weights" / weights,
        layer=layer,
        data_root=shared_data,
        results=tmp_path / "results",
        limit=limit,
        **given,
    ).records
    return next(s["value"] for s in record["scores"] if (s["metric"], s["variant"]) == ("miou", "identity"))


@pytest.mark.slow
def test_trained_features_beat_random_ones_and_pixels_on_camvid(shared_data, tmp_path):
    given = {"image_size": 160, "augment_epochs": 0, "layer": "3"}
    trained = miou(shared_data, tmp_path, "timm:tf_efficientnet_lite0", "tf_efficientnet_lite0_in1k.fp16.safetensors", **given)
    random = miou(shared_data, tmp_path, "random:tf_efficientnet_lite0", **given)
    pixels = miou(shared_data, tmp_path, "pixels:16", image_size=160, augment_epochs=0)
    assert trained > random + 10
    assert trained > pixels + 10


@pytest.mark.slow
def test_trained_vit_beats_the_random_one_on_camvid(shared_data, tmp_path):
    given = {"image_size": 168, "augment_epochs": 0, "limit": 40}
    weights = "vit_small_patch14_dinov2_imgfocus.fp16.safetensors"
    trained = miou(shared_data, tmp_path, "timm:vit_small_patch14_dinov2", weights, **given)
    random = miou(shared_data, tmp_path, "random:vit_small_patch14_dinov2", **given)
    assert trained > random + 8


@pytest.mark.slow
def test_a_trained_backbone_tells_the_boxes_of_coco_apart(shared_data, tmp_path):
    given = {"dataset": "coco-boxes", "data_root": shared_data, "results": tmp_path / "results", "neighbours": "20"}
    weights = shared_data / "weights" / "tf_efficientnet_lite0_in1k.fp16.safetensors"
    [trained] = evaluate("timm:tf_efficientnet_lite0", "bbox-knn", weights=weights, **given).records
    [random] = evaluate("random:tf_efficientnet_lite0", "bbox-knn", **given).records
    headline = [next(s["value"] for s in record["scores"] if s["variant"] == "any-patch" and s["metric"] == "top1")
                for record in (trained, random)]  # fmt: skip
    assert headline[0] > headline[1] + 10


def test_lists_of_names_choose_the_subsets(shared_data, tmp_path):
    given = {"image_size": 64, "dataset": "voc", "neighbours": "3", "fractions": "8", "seeds": 2}
    lists = {"subset_dir": str(shared_data / "hummingbird_subsets"), "subset_missing": "skip"}
    assert 0 < miou(shared_data, tmp_path, "pixels:16", **given, **lists) < 30
