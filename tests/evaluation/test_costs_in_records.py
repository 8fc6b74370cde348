"""A record says what scoring its points cost."""

import json

import pytest

from densebench import evaluate
from densebench.evaluation.run import iter_evaluate

HERE = {"image_size": 64, "memory_size": 200, "fractions": (1, 2), "limit": 6, "workers": 0}


def run_of(folder):
    [path] = (folder / "records").glob("*.json")
    return json.loads(path.read_text())["run"]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))


def test_a_record_says_what_it_cost(tmp_path, cache):
    evaluate("random:test_vit", "incontext", "scenes", **HERE, results=tmp_path)
    run = run_of(tmp_path)
    assert run["scored_points"] == 6
    assert run["images_per_second"]["features"] > 0
    assert run["tflop_per_second"]["search"] >= 0
    assert run["host_memory_mb"] > 100
    assert run["device_memory_mb"] is run["energy_joules"] is None  # there is no GPU
    stages = sum(seconds for name, seconds in run["seconds"].items() if name != "total")
    assert 0 < stages <= run["seconds"]["total"] + 0.01


def test_features_from_the_cache_have_no_speed(tmp_path, cache):
    for folder in ("one", "two"):
        evaluate("random:test_vit", "incontext", "scenes", **HERE, keep_features=True, results=tmp_path / folder)
    assert "features" not in run_of(tmp_path / "two")["images_per_second"]


def test_a_run_that_adds_points_counts_its_own(tmp_path, cache):
    evaluate("random:test_vit", "incontext", "scenes", **{**HERE, "fractions": (1,)}, results=tmp_path)
    evaluate("random:test_vit", "incontext", "scenes", **HERE, results=tmp_path)
    assert run_of(tmp_path)["scored_points"] == 5


def test_what_a_caller_does_between_two_scores_is_not_counted(tmp_path, cache):
    import time

    clock = time.perf_counter()
    for _ in iter_evaluate("random:test_vit", "incontext", "scenes", **HERE, results=tmp_path):
        time.sleep(0.05)
    run, scores = run_of(tmp_path), 18
    assert max(run["seconds"].values()) < time.perf_counter() - clock - scores * 0.05
