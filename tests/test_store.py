"""The tensor store: shards appear whole, are found again, and never mixed up."""

from __future__ import annotations

import pytest
import torch

from densebench import store
from densebench.errors import UserError
from densebench.store import Store


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
    def full(*_):
        raise OSError(28, "No space left on device")

    opened = Store(tmp_path / "features" / "a", {})
    monkeypatch.setattr(store, "save_file", full)
    with pytest.raises(UserError, match="No space left"):
        opened.add({"x": torch.zeros(3)})
    assert [path.name for path in (tmp_path / "features" / "a").iterdir()] == ["about.json"]
    assert "x" not in opened


def test_usage_and_clear(tmp_path):
    Store(tmp_path / "features" / "a", {"spec": "s"}).add({"x": torch.zeros(1000)})
    Store(tmp_path / "scoring" / "b", {}).add({"x": torch.zeros(10)})
    (tmp_path / "file-digests").mkdir()
    found = store.usage(tmp_path)
    assert [usage.folder.name for usage in found] == ["a", "b"]
    assert found[0].bytes > 4000 > found[1].bytes
    assert store.clear(tmp_path) == sum(usage.bytes for usage in found)
    assert store.usage(tmp_path) == []
    assert (tmp_path / "file-digests").is_dir()
