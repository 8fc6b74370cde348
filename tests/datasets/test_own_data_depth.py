"""The user's own folder: pictures in folders of any depth, and folders of a few images."""

from __future__ import annotations

import numpy as np
import pytest
from halved import labelled, save

from densebench.datasets import load_dataset
from densebench.errors import UserError


@pytest.fixture
def deep(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))
    for number, name in enumerate(("a", "in/b", "in/deep/c", "in/deep/d", "e/b")):
        save(tmp_path / "own" / "images" / f"{name}.jpg", np.zeros((4, 6, 3), np.uint8))
        save(tmp_path / "own" / "labels" / f"{name}.png", np.full((4, 6), number, np.uint8))
    (tmp_path / "own" / "classes.toml").write_text('classes = ["v", "w", "x", "y", "z"]\nnested = true\n')
    return tmp_path / "own"


def items_of(dataset):
    return {item.name: item for split in dataset.splits for item in dataset.items(split)}


def test_nested_images_are_called_by_their_paths_and_keep_their_labels(deep):
    dataset = load_dataset(deep)
    labels = {name: dataset.label(item)[0, 0] for name, item in items_of(dataset).items()}
    assert labels == {"a": 0, "in/b": 1, "in/deep/c": 2, "in/deep/d": 3, "e/b": 4}


def test_without_the_key_only_the_top_is_read(deep):
    """As ever: a folder that was opened without the key keeps its images, and so its digest."""
    (deep / "classes.toml").write_text('classes = ["v", "w", "x", "y", "z"]\n')
    assert set(items_of(load_dataset(deep, needs_splits=False))) == {"a"}


def test_nested_may_follow_the_name(deep):
    (deep / "classes.toml").unlink()
    dataset = load_dataset(f"folder:{deep}?nested=true")
    assert len(items_of(dataset)) == 5
    assert "nested = true" in dataset.classes_toml()


def test_nested_takes_two_folders(tmp_path):
    save(tmp_path / "own" / "x.jpg", np.zeros((4, 6, 3), np.uint8))
    with pytest.raises(UserError, match="nested in .* takes a folder of images and one of labels"):
        load_dataset(f"folder:{tmp_path / 'own'}?nested=true")


def test_few_images_are_one_split_only_where_that_is_asked(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))
    folder = labelled(tmp_path / "few", 3)
    with pytest.raises(UserError, match="a split by seed needs 4"):
        load_dataset(folder)
    few = load_dataset(folder, needs_splits=False)
    assert few.splits == ("all",)
    assert len(few.items("all")) == 3
    assert load_dataset(labelled(tmp_path / "more", 4), needs_splits=False).splits == ("train", "val")


def test_coloured_label_maps_are_shown_in_their_own_colours(tmp_path):
    labelled(tmp_path / "own")
    (tmp_path / "own" / "classes.toml").write_text('classes = ["red", "blue"]\nvalues = ["#c80a0a", "#0a14c8"]\n')
    assert load_dataset(tmp_path / "own").palette() == [(200, 10, 10), (10, 20, 200)]
