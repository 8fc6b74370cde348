"""Damaged files: what was not read as it was written is computed again, or one line says what to do."""

from __future__ import annotations

import errno
import json
import os
import resource

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from densebench.backbones.checkpoint import save_checkpoint
from densebench.backbones.weights import read_weights
from densebench.datasets import load_dataset
from densebench.datasets.io.digests import FileDigests, shared_digests
from densebench.errors import UserError
from densebench.evaluation.run import evaluate
from densebench.files import tensors
from densebench.files.atomic import read_checked, write_checked
from densebench.files.states import load_newest, save_state
from densebench.files.store import Store


def flip(path, place, bit=0):
    """Turn over one bit of a file."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


def filled(folder):
    Store(folder, {}).add({"a": torch.arange(20.0), "b": torch.ones(5, dtype=torch.int64)})
    return next(folder.glob("*.safetensors"))


# Shards


def test_no_flipped_bit_of_a_shard_goes_unnoticed(tmp_path, capsys):
    shard = filled(tmp_path)
    whole = shard.read_bytes()
    for place in range(len(whole)):
        shard.write_bytes(whole)
        flip(shard, place, place % 8)
        opened = Store(tmp_path, {})
        kept = {key: opened[key].tolist() for key in ("a", "b") if key in opened}
        assert kept in ({}, {"a": list(range(20)), "b": [1] * 5}), place
    assert "is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("place", [-1, -100])
def test_a_shard_with_a_flipped_bit_is_removed_and_said(tmp_path, capsys, place):
    shard = filled(tmp_path)
    flip(shard, place)
    opened = Store(tmp_path, {})
    assert "a" not in opened and "b" not in opened and not shard.exists()
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"{shard} is damaged" in said and "computed again" in said
    opened.add({"a": torch.zeros(1)})
    assert opened["a"].tolist() == [0]


def test_a_shard_is_read_for_its_checksum_when_it_is_used_and_once(tmp_path, monkeypatch):
    filled(tmp_path)
    calls = []
    monkeypatch.setattr("densebench.files.store.check", lambda path: calls.append(path) or tensors.check(path))
    opened = Store(tmp_path, {})
    assert len(opened) == 2 and not calls
    assert "a" in opened and "b" in opened and opened["a"][3] == 3
    assert len(calls) == 1


def test_a_shard_of_an_earlier_version_is_computed_again_without_a_word(tmp_path, capsys):
    shard = filled(tmp_path)
    save_file({"a": torch.zeros(3)}, shard)
    assert "a" not in Store(tmp_path, {}) and not shard.exists()
    assert capsys.readouterr().err == ""


def test_a_folder_where_a_shard_should_be_is_removed(tmp_path, capsys):
    shard = filled(tmp_path)
    shard.unlink()
    (shard / "inside").mkdir(parents=True)
    opened = Store(tmp_path, {})
    assert "a" not in opened and f"{shard} is a folder" in capsys.readouterr().err
    filled(tmp_path)
    assert "a" in Store(tmp_path, {})


def test_too_many_open_files_remove_no_shard(tmp_path):
    shard = filled(tmp_path)
    opened = Store(tmp_path, {})
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        with pytest.raises(UserError, match=r"Too many open files.*nothing was removed.*ulimit -n"):
            _ = "a" in opened
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert shard.exists() and opened["a"][1] == 1


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ENOMEM])
@pytest.mark.parametrize("when", ["listed", "used"])
def test_a_shard_that_cannot_be_read_now_is_not_removed(tmp_path, monkeypatch, number, when):
    shard = filled(tmp_path)

    def refused(path):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(f"densebench.files.store.{'keys_of' if when == 'listed' else 'check'}", refused)
    with pytest.raises(UserError, match=f"cannot read {shard}: {os.strerror(number)}; nothing was removed"):
        _ = "a" in Store(tmp_path, {})
    assert shard.exists()


def test_flipped_features_are_computed_again_in_the_same_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))

    def score(results):
        given = {"limit": 4, "device": "cpu"}
        [record] = evaluate("pixels:16", "incontext", "scenes", results=tmp_path / results, **given).records
        return [score["value"] for score in record["scores"]]

    first = score("first")
    for shard in (tmp_path / "cache" / "features").glob("*/*.safetensors"):
        flip(shard, -2, 6)  # of an exponent
    capsys.readouterr()
    assert score("second") == first
    assert "is damaged" in capsys.readouterr().err
    assert score("third") == first
    assert "is damaged" not in capsys.readouterr().err


# Files of bytes


@pytest.mark.parametrize("damage", [lambda p: flip(p, 3), lambda p: p.write_bytes(p.read_bytes()[:-4]), lambda p: flip(p, -3)])
def test_damaged_bytes_count_as_missing_and_are_said(tmp_path, capsys, damage):
    path = tmp_path / "x"
    write_checked(path, b"content")
    assert read_checked(path) == b"content"
    damage(path)
    assert read_checked(path) is None and not path.exists()
    assert capsys.readouterr().err.count(f"{path} is unreadable") == 1
    assert read_checked(path) is None and capsys.readouterr().err == ""


def test_a_folder_in_the_place_of_a_file_is_removed(tmp_path):
    (tmp_path / "x" / "y").mkdir(parents=True)
    assert read_checked(tmp_path / "x") is None
    write_checked(tmp_path / "x", b"1")
    assert read_checked(tmp_path / "x") == b"1"


def damaged(path):
    flip(path, path.stat().st_size // 2, 1)


def folder_instead(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [damaged, folder_instead, lambda path: path.write_bytes(b"")])
def test_a_damaged_table_of_classes_is_made_again(tmp_path, monkeypatch, damage):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path))
    scenes = load_dataset("scenes")
    items = scenes.items("val")[:4]
    table = scenes.presence(items)
    [path] = (tmp_path / "presence").iterdir()
    damage(path)
    assert np.array_equal(scenes.presence(items), table) and path.is_file()


def test_a_digest_index_with_a_flipped_bit_is_not_believed(tmp_path, monkeypatch, capsys):
    path, index = tmp_path / "x", tmp_path / "index.json"
    path.write_bytes(b"one")
    monkeypatch.setattr("time.time", lambda: path.stat().st_ctime + 60)
    digests = FileDigests(index)
    right = digests.digest(path)
    digests.save()
    flip(index, index.read_bytes().index(right.encode()))
    assert FileDigests(index).digest(path) == right
    assert "is unreadable" in capsys.readouterr().err


def test_damaged_objects_of_a_coco_file_are_packed_again(tmp_path, monkeypatch):
    from densebench.datasets.io.instances import read_instances

    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "instances.json"
    entry = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0, "segmentation": []}
    image = {"id": 1, "file_name": "a.jpg", "width": 20, "height": 20}
    path.write_text(json.dumps({"images": [image], "categories": [{"id": 1, "name": "thing"}], "annotations": [entry]}))
    first = read_instances(path, "").arrays["boxes"].copy()
    [shard] = (tmp_path / "cache" / "instances").glob("*/*.safetensors")
    flip(shard, -9)
    copy = tmp_path / "copy.json"  # the same bytes, as another process would meet them
    copy.write_bytes(path.read_bytes())
    assert np.array_equal(read_instances(copy, "").arrays["boxes"], first)
    shared_digests.cache_clear()


# States and checkpoints


def optimised(value):
    model = torch.nn.Linear(2, 2)
    torch.nn.init.constant_(model.weight, value)
    return model, torch.optim.AdamW(model.parameters())


@pytest.mark.parametrize("damage", [damaged, lambda path: path.write_bytes(path.read_bytes()[:100])])
def test_of_a_damaged_state_the_one_before_is_taken(tmp_path, capsys, damage):
    for step in (1, 2, 3):
        model, optimiser = optimised(step)
        newest = save_state(tmp_path, step, {"m": model}, optimiser, {})
    damage(newest)
    model, optimiser = optimised(0)
    path, facts = load_newest(tmp_path, {"m": model}, optimiser)
    assert facts["step"] == 2 and model.weight[0, 0] == 2 and path != newest
    assert f"{newest} is damaged" in capsys.readouterr().err and newest.exists()


def test_a_state_without_a_checksum_is_taken(tmp_path):
    model, optimiser = optimised(5)
    path = save_state(tmp_path, 1, {"m": model}, optimiser, {})
    save_file(load_file(path), path, {"state": '{"step": 1}'})
    model, optimiser = optimised(0)
    load_newest(tmp_path, {"m": model}, optimiser)
    assert model.weight[0, 0] == 5


def test_a_checkpoint_with_a_flipped_bit_is_refused(tmp_path):
    model, _ = optimised(1)
    save_checkpoint(tmp_path, model, "linear")
    path = tmp_path / "backbone.safetensors"
    assert set(read_weights(path, ["weight", "bias"]).tensors) == {"weight", "bias"}
    flip(path, -1, 3)
    with pytest.raises(UserError, match=r"backbone\.safetensors is not a whole checkpoint \(its checksum is"):
        read_weights(path, ["weight", "bias"])
