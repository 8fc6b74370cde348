"""Room for features: limits of the cache, what a run holds, and random views that do not outlive their record."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from densebench.errors import UserError
from densebench.evals.incontext.retrieval import Retrieval
from densebench.evaluation.run import evaluate
from densebench.files import cache
from densebench.files.cache import Hold


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


OWN = {"incontext": {"neighbours": (3,)}, "kmeans": {"preset": "full", "seeds": 1}}


def score(protocol="incontext", size=64, **given):
    more = {"limit": 4, "image_size": size, **OWN[protocol]}
    return evaluate("pixels:16", protocol, "scenes", **more, **given).records[0]


def features(tmp_path):
    """The folders of the cache that hold features."""
    return [used for used in cache.usage(tmp_path / "cache") if used.folder.parent.name == "features"]


def folders(tmp_path):
    """Of every folder of features, whether its view is a random one."""
    return sorted(bool(used.about["view"]["augment"]) for used in features(tmp_path))


def scores(record):
    return [(entry["metric"], entry["variant"], entry["value"]) for entry in record["scores"]]


def test_random_views_are_removed_when_the_record_is_complete(tmp_path):
    score()
    assert folders(tmp_path) == [False]


def test_they_stay_on_request_and_a_rerun_extracts_them_again(tmp_path):
    kept = score(keep_features=True)
    assert folders(tmp_path) == [False, True]
    assert scores(score(rerun=True)) == scores(kept) and folders(tmp_path) == [False]
    assert scores(score(rerun=True)) == scores(kept)


def test_a_run_that_fails_keeps_them(tmp_path, monkeypatch):
    monkeypatch.setattr(Retrieval, "voter", lambda *_: (_ for _ in ()).throw(UserError("no memory today")))
    with pytest.raises(UserError, match="no memory today"):
        score()
    assert folders(tmp_path) == [False, True]
    monkeypatch.undo()


def test_what_another_process_uses_stays(tmp_path):
    score(keep_features=True)
    [random] = [used.folder for used in features(tmp_path) if used.about["view"]["augment"]]
    code = f"""
import pathlib, sys
from densebench.files.cache import Hold
hold = Hold(pathlib.Path({str(random)!r}), {{}})
print("held", flush=True)
sys.stdin.read()
"""
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    score(rerun=True)
    assert folders(tmp_path) == [False, True] and list(random.glob("*.safetensors"))
    other.communicate("")
    score(rerun=True)
    assert folders(tmp_path) == [False]


def test_a_folder_names_the_protocols_and_data_sets_that_used_it(tmp_path):
    score()
    score("kmeans")
    [used] = features(tmp_path)
    assert used.by("protocol") == ["incontext", "kmeans"] and used.by("dataset") == ["scenes"]


def test_a_run_beyond_the_limit_is_refused_before_it_starts_and_loses_nothing():
    before = score("kmeans")
    with pytest.raises(UserError, match=r"the features of this run take 0\.20 MB, more than the cache limit of 0\.10 MB"):
        score("kmeans", rerun=True, cache_limit=1e-4)
    assert score("kmeans")["scores"] == before["scores"]


def test_a_run_that_is_refused_leaves_no_record_that_says_it_is_running(tmp_path):
    with pytest.raises(UserError, match="more than the cache limit"):
        score("kmeans", cache_limit=1e-4)
    assert [json.loads(path.read_text())["status"] for path in tmp_path.glob("results/records/*.json")] == ["failed"]
    assert score("kmeans")["status"] == "complete"


def test_the_least_recently_used_features_make_room(tmp_path, capsys):
    for number, size in enumerate((64, 80, 96)):
        score("kmeans", size=size)
        [new] = [used for used in features(tmp_path) if used.about["view"]["size"] == size]
        os.utime(new.folder / "CACHEDIR.TAG", (1000 + number, 1000 + number))
    score("kmeans", size=64, rerun=True)  # so the one of 80 px is the least recently used
    total = sum(used.bytes for used in cache.usage(tmp_path / "cache"))
    score("kmeans", size=112, cache_limit=(total + 400_000) / 1e9)
    sizes = sorted(used.about["view"]["size"] for used in features(tmp_path))
    assert sizes == [64, 96, 112] and "cache limit" in capsys.readouterr().err
    assert sum(used.bytes for used in cache.usage(tmp_path / "cache")) <= total + 400_000


def test_the_limit_may_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE_LIMIT", "0.0001")
    with pytest.raises(UserError, match=r"cache limit of 0\.10 MB"):
        score("kmeans")
    score("kmeans", cache_limit=1)


def test_a_wrong_limit_is_refused_before_a_record_is_made(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE_LIMIT", "much")
    with pytest.raises(UserError, match="DENSEBENCH_CACHE_LIMIT=much: it takes a number of GB above 0"):
        score("kmeans")
    assert not list(tmp_path.glob("results/records/*"))


def test_a_limit_changes_no_score(tmp_path):
    free = score("kmeans")
    cache.clear(tmp_path / "cache")
    assert scores(score("kmeans", rerun=True, cache_limit=0.01)) == scores(free)


def test_a_disk_with_less_space_than_the_features_is_named(monkeypatch, capsys):
    monkeypatch.setattr("densebench.evaluation.estimate.free_bytes", lambda: 5_000)
    score("kmeans")
    assert "the features of this run take 0.20 MB more, but" in (err := capsys.readouterr().err) and "has 5000 bytes free" in err


def test_a_run_holds_its_features_while_it_runs(tmp_path, monkeypatch):
    seen = []
    original = Hold.note

    def noted(self, user):
        seen.append(cache.release(self.folder))
        original(self, user)

    monkeypatch.setattr(Hold, "note", noted)
    score("kmeans")
    assert seen == [False]
