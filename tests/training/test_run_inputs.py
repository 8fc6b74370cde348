"""What a run reads and watches: broken files, workers, caches, probes, steps that are not finite, and wrong input."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import same, tensors, train
from told_probes import told

from densebench.backbones.backbone import IMAGENET_MEAN, IMAGENET_STD
from densebench.backbones.loading import load_backbone
from densebench.errors import UserError
from densebench.features.extract import Normalisation
from densebench.files.logs import read_log
from densebench.training import loop


def test_a_step_that_is_not_finite_is_skipped_and_counted(tmp_path, monkeypatch, capsys):
    step = loop.train_step

    def poisoned(training, batches, recipes):
        if training.step == 3:
            before = {name: value.clone() for name, value in training.objective.state_dict().items()}
            student = [p.clone() for p in training.student.parameters()]
            recolour = torch.full((8, 3, 32, 32), torch.nan)
            monkeypatch.setattr(loop, "render_views", lambda *_: (recolour, recolour))
            report = step(training, batches, recipes)
            monkeypatch.setattr(loop, "render_views", render_views)
            assert all(torch.equal(value, before[name]) for name, value in training.objective.state_dict().items())
            assert all(torch.equal(p, q) for p, q in zip(training.student.parameters(), student, strict=True))
            return report
        return step(training, batches, recipes)

    render_views = loop.render_views
    monkeypatch.setattr(loop, "train_step", poisoned)
    run = train("cribo", tmp_path / "run")
    assert "step 4: the loss or a gradient is not finite; the step is skipped (1 so far)" in capsys.readouterr().err
    assert [row["skipped"] for row in read_log(run / "log.csv")] == ["0", "0", "0", "1", "1", "1"]


def test_a_probe_is_logged_and_the_best_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("densebench.training.run_folder.Probe", told([5.0, 9.0, 7.0]))
    run = train("dino", tmp_path / "run", steps=None, epochs=3, probe="scenes", probe_every=1)
    assert [row["probe_miou"] for row in read_log(run / "log.csv") if "probe_miou" in row] == ["5", "9", "7"]
    assert json.loads((run / "best" / "probe.json").read_text()) == {"miou": 9.0, "epoch": 2}
    load_backbone(f"ckpt:{run / 'best'}")


@pytest.mark.parametrize(("named", "epoch"), [(True, 1), (False, 2)])
def test_a_best_that_was_scored_in_other_colours_counts_no_more(named, epoch, tmp_path, monkeypatch):
    """Checkpoints of earlier versions name no colours, and their probes saw those that timm names for the architecture."""
    facts = tmp_path / "run" / "best" / "checkpoint.json"

    class Resumed(told([9.0, 5.0])):
        def score(self, model, step):
            if facts.exists() and not named:
                content = json.loads(facts.read_text())
                facts.write_text(json.dumps({key: value for key, value in content.items() if key not in ("mean", "std")}))
            return super().score(model, step)

    monkeypatch.setattr("densebench.training.run_folder.Probe", Resumed)
    train("dino", tmp_path / "run", steps=None, epochs=2, probe="scenes", probe_every=1)
    assert json.loads((facts.parent / "probe.json").read_text())["epoch"] == epoch


def test_a_probe_of_data_that_are_not_there_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match="unknown data set 'scnes'"):
        train("dino", tmp_path / "run", probe="scnes")
    assert not (tmp_path / "run").exists()


def test_a_real_probe_scores_the_teacher_in_the_colours_of_its_training(tmp_path, monkeypatch):
    seen, normalise = set(), Normalisation.__call__

    def noted(statistics, images):
        seen.add((statistics.mean, statistics.std))
        return normalise(statistics, images)

    monkeypatch.setattr(Normalisation, "__call__", noted)
    run = train("dino", tmp_path / "run", steps=3, probe="scenes:12", probe_every=1)
    [value] = [float(row["probe_miou"]) for row in read_log(run / "log.csv") if "probe_miou" in row]
    assert 0 < value < 60
    assert seen == {(IMAGENET_MEAN, IMAGENET_STD)}


def test_broken_files_are_named_and_counted(tmp_path, capsys):
    folder = images(tmp_path / "images", 12)
    (folder / "03.jpg").write_bytes(b"no image")
    run = train("dino", tmp_path / "run", data=[str(folder)], limit=None, steps=3)
    assert "cannot decode 03.jpg; another image takes its place (1 so far)" in capsys.readouterr().err
    assert read_log(run / "log.csv")[-1]["broken_files"] == "1"
    with pytest.raises(UserError, match=r"1 images of images cannot be decoded, the limit is --max-broken 0: 03\.jpg"):
        train("dino", tmp_path / "other", data=[str(folder)], limit=None, steps=3, max_broken=0)


def images(folder, count):
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        size = (40 + number, 50, 3)
        Image.fromarray(rng.integers(0, 255, size, dtype=np.uint8)).save(folder / f"{number:02}.jpg")
    return folder


SLOW = [pytest.param(2, cache, marks=pytest.mark.slow) for cache in ("none", "gpu", "ram")]


@pytest.mark.parametrize(("workers", "cache"), [(0, "ram"), (0, "gpu"), *SLOW])
def test_workers_and_cache_change_nothing(cache, workers, tmp_path, plain):
    folder = tmp_path / "images"
    shutil.copytree(plain[0], folder)
    run = train("cribo", tmp_path / "run", data=[str(folder)], limit=None, steps=2, cache=cache, workers=workers)
    same(plain[1], tensors(run))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    root = tmp_path_factory.mktemp("plain")
    folder = images(root / "images", 10)
    return folder, tensors(train("cribo", root / "run", data=[str(folder)], limit=None, steps=2))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"batch_size": 25}, r"--batch-size 25: the data has 24 images"),
        ({"image_size": 40}, r"--image-size 40: the patches of test_vit have 16 px; use 32 or 48"),
        ({"arch": "vit_smal_patch16_224"}, "unknown timm model 'vit_smal_patch16_224': did you mean"),
        ({"arch": "resnet18"}, "--arch resnet18 is no plain ViT"),
        ({"data": ["nowhere"]}, "unknown data 'nowhere'"),
        ({"preset": "cocoo"}, "unknown preset 'cocoo': did you mean 'coco'"),
        ({"variant": "papr"}, "unknown variant 'papr': did you mean 'paper'"),
        ({"global_scale": (0.5, 0.2)}, "crop scale of 0.5,0.2"),
        ({"epochs": 3}, "--epochs 3 and --steps 6: give one of them"),
        ({"lr": -1}, "--lr -1: it must be at least 0"),
        ({"init": "hub:a:b", "arch": None}, "--init hub:a:b: it takes"),
        ({"init": "random:test_vit2"}, "--init random:test_vit2"),
        ({"accumulate": 3}, "--batch-size 8 is not a multiple of 1 processes x 3"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(given, message, tmp_path):
    with pytest.raises(UserError, match=message):
        train("dino", tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("method", "given"), [("cribo", {"objects": 9}), ("croc", {"k_start": 9}), ("croc", {"k_max": 5})])
def test_more_clusters_than_patches_are_refused(method, given, tmp_path):
    with pytest.raises(UserError, match="two views have 8 patches|starts with --k-start 4"):
        train(method, tmp_path / "run", **given)


def test_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no image"):
        train("dino", tmp_path / "run", data=[str(tmp_path / "empty")])
