"""What a dry run says of room and time: bytes by arithmetic, seconds by proportion, and nothing where neither is known."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from tiers import late_rows
from torch import nn

from densebench.backbones.backbone import Backbone, BackboneInfo
from densebench.backbones.loading import load_backbone
from densebench.datasets import load_dataset
from densebench.datasets.dataset import Dataset, Item
from densebench.errors import UserError
from densebench.evals.kmeans import KMeans
from densebench.evaluation import estimate
from densebench.evaluation.estimate import estimate_run, needed, table
from densebench.evaluation.run import evaluate
from densebench.evaluation.stages import Stage
from densebench.features.extract import Extraction
from densebench.features.views import View


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@dataclass(frozen=True, kw_only=True)
class Named(Dataset):
    """Images that are names alone, as wide as high."""

    name: str = "named"
    classes: tuple[str, ...] = ("a", "b")

    def image_size(self, item):
        return (500, 375)

    def image_digest(self, item):
        return item.name


DATA = Named(root=Path())
SQUARE = View(14, 504)
VIT_S = Backbone(nn.Identity(), BackboneInfo("vit-s", "vit-s", 384, 14), "digest")


def extraction(count, view=SQUARE, **more):
    return Extraction(VIT_S, DATA, [Item(f"{i}", None, None) for i in range(count)], view, **more)


@pytest.mark.parametrize(("images", "gigabytes"), late_rows([(101, 0.2011), (10_582, 21.06), (20_210, 40.23)], (101, 0.2011)))
def test_a_view_of_504_px_takes_what_arithmetic_says(images, gigabytes):
    total, missing = needed([Stage("features", [], extraction(images))])
    assert total == missing == images * 36 * 36 * 384 * 4 == pytest.approx(gigabytes * 1e9, rel=1e-3)


def test_half_precision_takes_half_and_chosen_patches_take_their_number():
    patches = {"0": torch.arange(9), "1": torch.arange(4)}
    assert needed([Stage("", [], extraction(2, precision="fp16"))])[0] == 2 * 36 * 36 * 384 * 2
    assert needed([Stage("", [], extraction(2, patches=patches))])[0] == 13 * 384 * 4


def test_native_sizes_count_image_by_image():
    assert needed([Stage("", [], extraction(3, View(14)))])[0] == 3 * 36 * 27 * 384 * 4


def test_stages_that_share_features_count_them_once():
    twice = [
        Stage("train", [], extraction(5)),
        Stage("scored", [], extraction(7)),
        Stage("other", [], extraction(5, View(14, 28))),
    ]
    assert needed(twice)[0] == (7 * 36 * 36 + 5 * 2 * 2) * 384 * 4


def scenes(limit=4, **given):
    return evaluate("pixels:16", "kmeans", "scenes", preset="full", limit=limit, image_size=64, seeds=1, **given).records[0]


def test_a_dry_run_subtracts_what_is_cached():
    before, _, after = scenes(dry_run=True)["estimate"], scenes(limit=2), scenes(dry_run=True)["estimate"]
    [features] = [stage for stage in after["stages"] if stage["bytes"]]
    assert before["bytes"] == after["bytes"] == 4 * 4 * 4 * 768 * 4 == features["bytes"]
    assert (features["cached_images"], features["cached_bytes"]) == (2, features["bytes"] // 2)
    assert all(stage["cached_bytes"] == 0 for stage in before["stages"])
    assert json.loads(json.dumps(after)) == after


def test_a_dry_run_leaves_no_features(tmp_path):
    scenes(dry_run=True)
    assert not list(tmp_path.glob("cache/features/*")) and not (tmp_path / "results").exists()


class Clock:
    """Time that passes only where a test says so."""

    now = 0.0

    def perf_counter(self):
        return self.now

    def time(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(estimate, "time", made)
    return made


def planned(stages, **given):
    kind = type("Declared", (KMeans,), {"stages": lambda *_: stages, "run": KMeans.run})
    evaluator = replace(kind(), **given)
    return estimate_run(evaluator, load_backbone("pixels:16"), load_dataset("scenes", None), None)


def test_a_sample_of_ten_images_is_scaled_to_all(clock):
    asked = []

    def work(items):
        asked.append(len(items))
        clock.now += 2.0 * len(items)

    items = [Item(f"{i}", None, None) for i in range(300)]
    [stage] = planned([Stage("work", items, sample=work, passes=2)])["stages"]
    assert asked == [1, 10]
    assert (stage["images"], stage["seconds"]) == (600, 1200.0)


def test_where_ten_images_would_take_long_one_is_all_that_is_tried(clock):
    asked = []

    def work(items):
        asked.append(len(items))
        clock.now += 30.0 * len(items)

    [stage] = planned([Stage("work", [Item(f"{i}", None, None) for i in range(20)], sample=work)])["stages"]
    assert asked == [1] and stage["seconds"] == 600.0


def test_images_whose_features_are_cached_take_no_time(clock, monkeypatch):
    def decoded(self, item, original=Extraction.decoded):
        clock.now += 2.0
        return original(self, item)

    dataset = load_dataset("scenes")
    items = dataset.items("val")[:20]
    wanted = Extraction(load_backbone("pixels:16"), dataset, items, View(16, 64))
    replace(wanted, items=items[:5]).features()
    monkeypatch.setattr(Extraction, "decoded", decoded)
    [stage] = planned([Stage("features", items, wanted)])["stages"]
    assert (stage["cached_images"], stage["seconds"]) == (5, 30.0)


def test_a_sample_may_say_which_share_of_the_stage_it_was(clock):
    def work(items):
        clock.now += 3.0
        return 0.01

    [stage] = planned([Stage("work", [Item("0", None, None)], sample=work)])["stages"]
    assert stage["seconds"] == 300.0


def test_what_nothing_measures_is_not_estimated(clock, capsys):
    told = planned([Stage("training", [Item("0", None, None)], passes=80_000)])
    assert told["stages"][0]["seconds"] is None and told["seconds"] is None
    assert "80,000" in (err := capsys.readouterr().err) and "not estimated" in err


def test_a_protocol_that_declares_nothing_says_so(capsys):
    told = planned([])
    assert told["seconds"] is None and "declares no stages" in capsys.readouterr().err


def test_images_pass_through_the_backbone_once_for_views_of_equal_cost(monkeypatch):
    passed, original = [], Extraction.passed

    def counted(self, images, device):
        passed.append(len(images))
        return original(self, images, device)

    monkeypatch.setattr(Extraction, "passed", counted)
    how = {"limit": 30, "image_size": 64, "augment_epochs": 3, "dry_run": True}
    [record] = evaluate("pixels:16", "incontext", "scenes", **how).records
    assert passed == [1, 10, 1, 10]  # the first random view, and the plain one
    assert len([stage for stage in record["estimate"]["stages"] if stage["bytes"]]) == 4


def test_the_table_has_a_line_for_each_stage_in_columns():
    nothing = {"bytes": 0, "cached_bytes": 0, "cached_images": 0, "seconds": None}
    stages = [
        {**nothing, "stage": "features of train", "images": 10582, "bytes": 21_060_000_000, "seconds": 90.0},
        {**nothing, "stage": "fits", "images": 7},
    ]
    lines = table({"stages": stages, "bytes": 21_060_000_000, "seconds": 90.0, "device": "cpu"})
    assert lines[1].split() == ["features", "of", "train", "10,582", "21.06", "GB", "-", "1.5"]
    assert lines[2].split()[-2:] == ["not", "estimated"] and lines[3].endswith("at least 1.5")
    assert len({len(line) for line in lines[:4]}) == 1


def test_a_plan_beyond_the_limit_of_the_cache_is_refused():
    with pytest.raises(
        UserError, match=r"take 0\.20 MB, more than the cache limit of 1000 bytes: raise --cache-limit, or .*--precision fp16"
    ):
        scenes(dry_run=True, cache_limit=1e-6)


def test_what_is_cached_already_counts_against_the_limit_of_the_cache():
    scenes(limit=2)
    with pytest.raises(UserError, match=r"take 0\.20 MB, more than the cache limit of 0\.15 MB"):
        scenes(dry_run=True, cache_limit=1.5e-4)
