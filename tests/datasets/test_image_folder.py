"""A folder of the user's own images and label maps: folder:DIR."""

from __future__ import annotations

import pickle

import pytest
from dataset_files import grid, save_image, save_mask, save_text

from densebench.datasets import load_dataset
from densebench.errors import UserError


@pytest.fixture
def own(tmp_path):
    folder = tmp_path / "own"
    save_text(folder / "classes.toml", 'classes = ["cat", "dog"]\n')
    for split in ("train", "val"):
        save_image(folder / "images" / split / "x.PNG")
        save_image(folder / "images" / split / "a.jpg")
        save_text(folder / "images" / split / "notes.txt", "")
        for name in ("a", "x"):
            save_mask(folder / "labels" / split / f"{name}.png", grid(0, 1, 255))
    return folder


def test_a_folder_of_images_and_masks(own):
    dataset = load_dataset(f"folder:{own}")
    assert [item.name for item in dataset.items("train")] == ["a", "x"]
    assert dataset.label(dataset.items("val")[1]).ravel()[:4].tolist() == [0, 1, 255, 0]
    assert (dataset.name, dataset.train_split, dataset.val_split) == (f"folder:{own}", "train", "val")
    assert dataset.verify() == [] and dataset.state() == "present"
    plain = dataset.mapping
    (own / "classes.toml").write_text(
        'classes = ["cat", "dog"]\nreduce_zero_label = true\nignore_index = 9\nsplits = ["val"]\nbackground = "dog"\n'
    )
    save_mask(own / "labels" / "val" / "a.png", grid(0, 1, 2, 9))
    dataset = load_dataset(f"folder:{own}")
    assert dataset.label(dataset.items("val")[0]).ravel()[:5].tolist() == [255, 0, 1, 255, 255]
    assert (dataset.splits, dataset.train_split, dataset.background) == (("val",), "val", 1)
    assert dataset.mapping != plain
    assert pickle.loads(pickle.dumps(dataset)) == dataset


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("classes = 3", "classes in .* is 3, not a list"),
        ("classes = []", r"classes in .* is \[\], not a list of different names"),
        ('classes = ["a", "a"]', "not a list of different names"),
        ('classes = ["a"]\nsplit = ["x"]', "unknown key in .*'split': did you mean 'splits'"),
        ('classes = ["a"]\nignore_index = 0', r"ignore_index 0 in .* no class's id \(0..0\); use 255"),
        ('classes = ["a"]\nignore_index = 300', "ignore_index 300"),
        ('classes = ["a"]\nignore_index = true', "ignore_index in .* is True, not a whole number"),
        ('classes = ["a"]\nbackground = "b"', "unknown background class 'b'"),
        ("classes =", "is not valid TOML"),
        (f"classes = {[str(i) for i in range(255)]}", "lists 255 classes; label maps of 8 bits allow 254"),
    ],
)
def test_a_wrong_classes_toml_is_explained(own, text, message):
    (own / "classes.toml").write_text(text)
    with pytest.raises(UserError, match=message):
        load_dataset(f"folder:{own}")


def test_a_wrong_folder_is_explained(own):
    (own / "labels" / "train" / "x.png").unlink()
    with pytest.raises(UserError, match=r"x.PNG has no label map .*x.png; add it"):
        load_dataset(f"folder:{own}").items("train")
    save_image(own / "images" / "val" / "a.png")
    with pytest.raises(UserError, match=r"two images in .* are called a"):
        load_dataset(f"folder:{own}").items("val")
