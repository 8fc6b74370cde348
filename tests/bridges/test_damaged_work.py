"""Damaged work in progress: a run that goes on from it ends as one that was never stopped."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from detector_runs import ALONE, data_of, trained, weights
from drawn_maps import QUIET
from drawn_objects import options_of, small_vit
from segmentor_runs import Killed, killing, same, train
from tiers import late

from densebench.bridges.mmsegmentation import training
from densebench.bridges.torchvision import training as detector_training
from densebench.bridges.torchvision.detector import build
from densebench.bridges.torchvision.inference import detect, read_detections
from densebench.files.states import saved_states

pytestmark = QUIET


def flip(path, place=None):
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if place is None else place] ^= 2
    path.write_bytes(content)


@pytest.mark.parametrize("damaged", late(["newest state", "all states", "curves", "counts", "scores"], "newest state", "curves"))
def test_damaged_work_of_mmsegmentation_is_done_again(damaged, whole, pixels, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training, "POINTS", 3)
    killing(monkeypatch, "train_step", 8)
    with pytest.raises(Killed):
        train(pixels, tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(training, "POINTS", 3)
    states = sorted(tmp_path.glob("iter_*.pth"))
    for path in {
        "newest state": states[-1:],
        "all states": states,
        "curves": [tmp_path / "curves.json"],
        "counts": list(tmp_path.glob("validation-*.safetensors")),
        "scores": list(tmp_path.glob("validation-*.json")),
    }[damaged]:
        flip(path)
    seen = killing(monkeypatch, "train_step", -1)
    capsys.readouterr()
    same(train(pixels, tmp_path), whole)
    assert len(seen) == (4 if damaged == "newest state" else 8)
    assert ("is not whole" if "state" in damaged else "begins anew") in capsys.readouterr().err


@pytest.mark.parametrize("damaged", [1, 2])
@pytest.mark.slow
def test_of_damaged_states_of_a_detector_an_earlier_one_is_taken_or_none(tmp_path, monkeypatch, capsys, damaged):
    monkeypatch.setattr(detector_training, "LEAST", 1)
    data, options = data_of(tmp_path), {"width": 8, "iterations": 4, "regions": 8}
    complete, curve = trained(data, tmp_path / "whole", **options)
    trained(data, tmp_path / "killed", **options)
    for path in saved_states(tmp_path / "killed")[-damaged:]:
        flip(path)
    again, resumed = trained(data, tmp_path / "killed", **options)
    assert curve == resumed and "is damaged" in capsys.readouterr().err
    assert all(torch.equal(value, weights(again)[name]) for name, value in weights(complete).items())


def test_an_image_whose_detections_are_damaged_is_looked_at_again(tmp_path, capsys):
    data, options = data_of(tmp_path), options_of(width=8)
    detector = build(small_vit(dim=16), 2, options)
    folder = tmp_path / "look"
    detect(detector, data, options, folder, ALONE)
    [path] = folder.glob("found-*")
    before = {one.image: one for one in read_detections(folder)}
    flip(path, path.read_text().index("0.") + 3)
    assert len(list(read_detections(folder))) == len(before) - 1
    detect(detector, data, options, folder, ALONE)
    assert "1 lines" in capsys.readouterr().err
    after = {one.image: one for one in read_detections(folder)}
    assert before.keys() == after.keys() and all(np.array_equal(before[name].boxes, after[name].boxes) for name in before)


def test_detections_without_a_checksum_are_taken(tmp_path):
    line = {"image": "a", "boxes": [[0, 0, 1, 1]], "scores": [0.5], "classes": [0]}
    (tmp_path / "found-000.jsonl").write_text(json.dumps(line) + "\n")
    assert [one.image for one in read_detections(tmp_path)] == ["a"]
