"""The identity of files and splits, and when a remembered digest holds."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from dataset_files import grid, save_image, save_mask

from densebench.datasets import load_dataset
from densebench.datasets.dataset import Dataset
from densebench.datasets.io.digests import FileDigests
from densebench.errors import UserError
from densebench.files.atomic import file_digest


def test_digests_follow_bytes_and_not_places(voc, tmp_path):
    items = voc.items("trainval")
    assert voc.image_digests(items) == [file_digest(item.image) for item in items]
    before, item = voc.digest("trainval", items), items[0]
    parts = voc.image_digest(item), voc.label_digest(item)
    (tmp_path / "VOCdevkit").rename(tmp_path / "elsewhere")
    (tmp_path / "root2").mkdir()
    (tmp_path / "elsewhere").rename(tmp_path / "root2" / "VOCdevkit")
    moved = load_dataset("voc", tmp_path / "root2")
    assert moved.digest("trainval", moved.items("trainval")) == before
    assert moved.digest("trainval", moved.items("trainval")[:2]) != before
    assert moved.digest("trainval", moved.items("trainval")[::-1]) != before
    item = moved.items("trainval")[0]
    save_image(item.image, value=101)
    assert moved.image_digest(item) != parts[0] and moved.label_digest(item) == parts[1]
    other_image = moved.digest("trainval", moved.items("trainval"))
    save_mask(item.label, grid(0, 4))
    assert moved.label_digest(item) != parts[1]
    assert len({before, other_image, moved.digest("trainval", moved.items("trainval"))}) == 3


def test_presence_is_decoded_once(voc, monkeypatch):
    items = voc.items("trainval")
    table = voc.presence(items)
    assert table.shape == (3, 21) and table.dtype == bool
    assert [np.flatnonzero(row).tolist() for row in table] == [[0, 3], [0], [0, 20]]
    monkeypatch.setattr(Dataset, "label", lambda self, item: pytest.fail("decoded again"))
    assert (voc.presence(items) == table).all()
    monkeypatch.undo()


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A file that has been at rest for a minute: the change time of a file cannot be set, so the clock moves on."""
    path = tmp_path / "x"
    path.write_bytes(b"one")
    monkeypatch.setattr(time, "time", lambda: path.stat().st_ctime + 60)
    return path


@pytest.fixture
def hashed(monkeypatch):
    """The files that are hashed, in order."""
    paths = []
    monkeypatch.setattr("densebench.datasets.io.digests.file_digest", lambda path: paths.append(path) or file_digest(path))
    return paths


def test_a_file_at_rest_is_hashed_once(file, hashed, tmp_path):
    digests = FileDigests(tmp_path / "index.json")
    first = digests.digest(file)
    assert digests.digest(file) == first == file_digest(file) and len(hashed) == 1
    digests.save()
    assert FileDigests(tmp_path / "index.json").digest(file) == first and len(hashed) == 1
    file.write_bytes(b"two")  # same size; the change time differs
    assert FileDigests(tmp_path / "index.json").digest(file) == file_digest(file) != first
    assert len(hashed) == 2


def test_a_fresh_file_is_not_remembered(tmp_path, hashed):
    path = tmp_path / "x"
    path.write_bytes(b"one")
    for times in (1, 2):
        digests = FileDigests(tmp_path / "index.json")
        digests.digest(path)
        digests.save()
        assert len(hashed) == times


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UserError, match="cannot read .*none"):
        FileDigests(tmp_path / "index.json").digest(tmp_path / "none")


@pytest.mark.parametrize("field", ["st_size", "st_mtime_ns", "st_ctime_ns", "st_ino"])
def test_a_file_is_hashed_again_after_a_change_of_any_of(field, file, hashed, tmp_path, monkeypatch):
    digests = FileDigests(tmp_path / "index.json")
    digests.digest(file)
    true = file.stat()

    class Changed:
        def __getattr__(self, name):
            return getattr(true, name) + (name == field)

    monkeypatch.setattr(Path, "stat", lambda self, **_: Changed())
    digests.digest(file)
    assert len(hashed) == 2


def test_two_writers_lose_nothing(file, hashed, tmp_path):
    other, index = tmp_path / "y", tmp_path / "index.json"
    other.write_bytes(b"other")
    first, second = FileDigests(index), FileDigests(index)
    first.digest(file)
    second.digest(other)
    first.save()
    second.save()
    third = FileDigests(index)
    assert [third.digest(file), third.digest(other)] == [file_digest(file), file_digest(other)]
    assert hashed == [file, other]


@pytest.mark.parametrize("broken", ["{", "[1]", '{"x": [1]}'])
def test_a_broken_index_is_replaced(broken, file, tmp_path, capsys):
    index = tmp_path / "index.json"
    index.write_text(broken)
    assert FileDigests(index).digest(file) == file_digest(file)
    assert "is unreadable" in capsys.readouterr().err
