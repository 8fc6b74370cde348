"""Which labelled images are taken, by one rule."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from halved import labelled
from retrieval_by_loops import DATA

from densebench.datasets import load_dataset
from densebench.datasets.dataset import Dataset, Item
from densebench.errors import UserError
from densebench.few_labels.labelled import labelled_images, states_splits


def names(*given, **more):
    return [item.name for item in labelled_images(*given, **more)]


TRAIN, VAL = [f"train-{i}" for i in range(10)], [f"val-{i}" for i in range(4)]


def test_without_a_split_all_images_are_taken():
    assert names(DATA) == TRAIN + VAL


def test_splits_that_are_stated_stay_unseen_where_that_is_wanted():
    assert names(DATA, unseen=True) == TRAIN


@pytest.mark.parametrize("unseen", [False, True])
def test_a_split_that_is_named_is_taken(unseen):
    assert names(DATA, "val", unseen=unseen) == VAL
    assert names(DATA, ("val", "train"), unseen=unseen) == VAL + TRAIN
    with pytest.raises(UserError, match="did you mean 'train'"):
        names(DATA, "tain", unseen=unseen)


@pytest.mark.parametrize("count", [3, 6])
def test_a_folder_without_splits_is_taken_whole(tmp_path, monkeypatch, count, capsys):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))
    dataset = load_dataset(labelled(tmp_path / "few", count), needs_splits=False)
    assert not states_splits(dataset) and states_splits(DATA)
    assert len(names(dataset, unseen=True)) == len(set(names(dataset))) == count
    assert "by seed" not in capsys.readouterr().err


@dataclass(frozen=True, kw_only=True)
class Shared(Dataset):
    """Two splits that share a name; of one image or of two."""

    name: str = "shared"
    root: Path = Path()
    splits: tuple[str, ...] = ("train", "val")
    other: str = "a.png"

    def items(self, split):
        return (Item("a", Path("a.png" if split == "train" else self.other), None),)


def test_an_image_of_two_splits_is_taken_once_and_two_of_one_name_are_an_error():
    assert names(Shared()) == ["a"]
    with pytest.raises(UserError, match="two images called a"):
        names(Shared(other="b.png"))
