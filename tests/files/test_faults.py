"""Broken data: every fault is one line that names the file and the remedy, and what was finished stays."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from tiers import late

from densebench import evaluate
from densebench.errors import UserError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A plain folder of six images and label maps of two classes."""
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))
    root, rng = tmp_path / "mine", np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for i in range(count):
            label = rng.integers(0, 2, (4, 4)).repeat(16, 0).repeat(16, 1).astype(np.uint8)
            image = (label[..., None] * 120 + rng.integers(0, 90, (64, 64, 3))).astype(np.uint8)
            Image.fromarray(image).save(root / "images" / split / f"{i}.jpg", quality=95)
            Image.fromarray(label).save(root / "labels" / split / f"{i}.png")
    (root / "classes.toml").write_text('classes = ["dark", "light"]\n')
    return root


def score(folder, tmp_path, **given):
    options = {"image_size": 64, "neighbours": "3", **given}
    return evaluate("pixels:16", "incontext", f"folder:{folder}", results=tmp_path / "results", **options).records


def miou(record):
    [value] = [s["value"] for s in record["scores"] if (s["metric"], s["variant"], s["fraction"]) == ("miou", "identity", 1)]
    return value


def test_a_plain_folder_is_scored(folder, tmp_path):
    [record] = score(folder, tmp_path, fractions="1,2", seeds=2)
    assert miou(record) > 60
    assert len(record["scores"]) == 9


def truncate(folder):
    path = folder / "images" / "train" / "2.jpg"
    path.write_bytes(path.read_bytes()[:300])
    return path


def shrink(folder):
    path = folder / "labels" / "val" / "1.png"
    Image.open(path).resize((32, 64)).save(path)
    return path


def overflow(folder):
    path = folder / "labels" / "train" / "0.png"
    label = np.array(Image.open(path))
    label[5, 5] = 7
    Image.fromarray(label).save(path)
    return path


def remove_label(folder):
    path = folder / "labels" / "train" / "3.png"
    path.unlink()
    return path


@pytest.mark.parametrize(
    ("fault", "message"), [(truncate, r"2\.jpg"), (shrink, "32 x 64.*64 x 64"), (overflow, "value 7"), (remove_label, r"3\.png")]
)
@pytest.mark.parametrize("workers", late([0, 1], 0))
def test_a_broken_file_is_named(folder, tmp_path, fault, message, workers):
    path = fault(folder)
    with pytest.raises(UserError, match=message) as caught:
        score(folder, tmp_path, workers=workers)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_after_the_repair_the_run_goes_on(folder, tmp_path):
    whole = miou(score(folder, tmp_path / "other")[0])
    path = folder / "images" / "train" / "2.jpg"
    kept = path.read_bytes()
    truncate(folder)
    with pytest.raises(UserError):
        score(folder, tmp_path)
    path.write_bytes(kept)
    assert miou(score(folder, tmp_path)[0]) == whole


def test_one_changed_image_is_another_data_set_and_misses_the_cache(folder, tmp_path):
    [first] = score(folder, tmp_path, keep_features=True)
    stores = list((tmp_path / "cache" / "features").glob("*/*.safetensors"))
    path = folder / "images" / "train" / "2.jpg"
    changed = np.array(Image.open(path))
    changed[:16, :16] = 255 - changed[:16, :16]
    Image.fromarray(changed).save(path, quality=95)
    [second] = score(folder, tmp_path, keep_features=True)
    assert first["group"] != second["group"]
    assert len(list((tmp_path / "cache" / "features").glob("*/*.safetensors"))) == len(stores) + 1


def test_labels_without_a_single_class_are_told(folder, tmp_path):
    for path in (folder / "labels" / "val").iterdir():
        Image.fromarray(np.full((64, 64), 255, np.uint8)).save(path)
    with pytest.raises(UserError, match="no pixel of the 2 images that are scored has a class"):
        score(folder, tmp_path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"fractions": "8"}, "8.*4"),
        ({"neighbours": "1000"}, "--neighbours 1000: the memory of fraction 1 holds"),
        ({"eval_split": "test"}, "test"),
    ],
)
def test_what_cannot_be_scored_fails_before_features(folder, tmp_path, given, message):
    with pytest.raises(UserError, match=message):
        score(folder, tmp_path, **given)
    assert not list((tmp_path / "cache").glob("features/*/*.safetensors"))
