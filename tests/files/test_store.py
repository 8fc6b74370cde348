"""The tensor store: shards appear whole, are found again, and never mixed up."""

from __future__ import annotations

import pytest
import torch

from densebench.errors import UserError
from densebench.files import tensors
from densebench.files.store import Store


def test_what_is_added_is_found_again_after_reopening(tmp_path):
    first = Store(tmp_path / "features" / "a", {"what": "test"})
    first.add({"x": torch.arange(6).view(2, 3), "y": torch.ones(2, dtype=torch.float16)})
    first.add({"z": torch.zeros(1)})
    again = Store(tmp_path / "features" / "a", {})
    assert len(again) == 3
    assert again["x"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert again["y"].dtype == torch.float16
    assert "w" not in again
    with pytest.raises(KeyError):
        again["w"]


def test_a_broken_shard_is_dropped_and_said(tmp_path, capsys):
    folder = tmp_path / "features" / "a"
    Store(folder, {}).add({"x": torch.zeros(100)})
    shard = next(folder.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:40])
    assert "x" not in Store(folder, {})
    assert str(shard) in capsys.readouterr().err
    assert not shard.exists()


def test_a_failed_write_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    opened = Store(tmp_path / "features" / "a", {})
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(tensors, "save_file", full)
    with pytest.raises(UserError, match="No space left.*set DENSEBENCH_CACHE elsewhere"):
        opened.add({"x": torch.zeros(3)})
    assert sorted(tmp_path.rglob("*")) == before
    assert "x" not in opened
