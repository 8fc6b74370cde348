"""Corrupted data sets: only the chosen images, in every copy and process, and never under the digest of the clean ones."""

from __future__ import annotations

import copy
import dataclasses
import multiprocessing
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from corruption_cases import photographs
from filmed import write
from PIL import Image

from densebench.backbones.loading import load_backbone
from densebench.datasets import load_dataset
from densebench.datasets.corrupted import FROST_FOLDER, corrupted, has_frost
from densebench.datasets.dataset import Dataset
from densebench.datasets.scenes import Scenes
from densebench.errors import UserError
from densebench.features.extract import Extraction
from densebench.features.memory import Memory
from densebench.features.views import View
from densebench.numerics.corruptions import CORRUPTIONS
from densebench.numerics.corruptions.weather import PHOTOGRAPHS

CLEAN = load_dataset("scenes")
FOGGY = corrupted(CLEAN, "fog:3", "val")
ITEM, TRAIN = CLEAN.items("val")[0], CLEAN.items("train")[0]


def pixels(dataset, item=ITEM):
    return np.asarray(dataset.image(item))


def same(one, other):
    return one.shape == other.shape and bool((one == other).all())


def test_images_of_the_split_are_corrupted_and_others_are_not():
    assert not same(pixels(FOGGY), pixels(CLEAN))
    assert same(pixels(FOGGY, TRAIN), pixels(CLEAN, TRAIN))


def test_digests_differ_for_corrupted_images_alone():
    assert FOGGY.image_digest(ITEM) != CLEAN.image_digest(ITEM)
    assert FOGGY.image_digests([TRAIN, ITEM]) == [CLEAN.image_digest(TRAIN), FOGGY.image_digest(ITEM)]
    others = {corrupted(CLEAN, text, "val").image_digest(ITEM) for text in ("fog:2", "fog:3", "contrast:3")}
    assert len(others) == 3


def test_labels_stay_as_they_are():
    assert same(FOGGY.label(ITEM), CLEAN.label(ITEM)) and FOGGY.label_digest(ITEM) == CLEAN.label_digest(ITEM)


def test_it_is_a_data_set_of_the_same_class_with_the_same_facts_and_the_corruption():
    assert isinstance(FOGGY, Scenes) and FOGGY.kind == CLEAN.kind and FOGGY.name == CLEAN.name
    assert FOGGY.facts() == {**CLEAN.facts(), "corruption": "fog:3", "corrupted_at": "native size"}
    assert FOGGY.digest("val", CLEAN.items("val")) != CLEAN.digest("val", CLEAN.items("val"))
    assert FOGGY.digest("train", CLEAN.items("train")) == CLEAN.digest("train", CLEAN.items("train"))


@pytest.mark.parametrize("name", [name for name in CORRUPTIONS if name != "frost"])
def test_the_underscores_of_the_reference_and_level_3_are_understood(name):
    assert corrupted(CLEAN, name.replace("-", "_"), "val").facts()["corruption"] == f"{name}:3"


COPIES = {
    "pickled": lambda dataset: pickle.loads(pickle.dumps(dataset)),
    "replaced": lambda dataset: dataclasses.replace(dataset, title="another"),
    "copied": copy.copy,
    "copied deeply": copy.deepcopy,
    "in memory": lambda dataset: Memory(dataset, 2**30).dataset,
    "in no memory": lambda dataset: Memory(dataset, 0).dataset,
    "pickled from memory": lambda dataset: pickle.loads(pickle.dumps(Memory(dataset, 2**30).dataset)),
}


@pytest.mark.parametrize("way", COPIES)
def test_copies_are_corrupted_too(way):
    copied = COPIES[way](FOGGY)
    assert same(pixels(copied), pixels(FOGGY)) and same(pixels(copied, TRAIN), pixels(CLEAN, TRAIN))
    assert copied.image_digests([ITEM]) == FOGGY.image_digests([ITEM])
    assert copied.facts() == FOGGY.facts()


def test_what_a_memory_holds_of_the_clean_images_is_not_taken_for_corrupted_ones():
    memory = Memory(CLEAN, 2**30)
    assert same(pixels(memory.dataset), pixels(CLEAN))
    assert same(pixels(corrupted(memory.dataset, "fog:3", "val")), pixels(FOGGY))


def features(dataset, workers):
    view = View(16, 64)
    return Extraction(load_backbone("pixels:16"), dataset, [ITEM, TRAIN], view).features(workers=workers)


@pytest.mark.slow
def test_features_are_those_of_corrupted_images_with_and_without_workers(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "clean"))
    clean = features(CLEAN, 0)
    found = []
    for workers in (0, 1):
        monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / str(workers)))
        found.append(features(FOGGY, workers))
    assert torch.equal(found[0][ITEM], found[1][ITEM]) and not torch.equal(found[0][ITEM], clean[ITEM])
    assert torch.equal(found[0][TRAIN], clean[TRAIN])


@pytest.mark.slow
def test_a_spawned_process_has_the_same_pixels():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert same(pool.apply(pixels, (FOGGY,)), pixels(FOGGY))


def test_clean_and_corrupted_features_lie_in_one_cache_without_being_confused():
    clean, foggy = features(CLEAN, 0), features(FOGGY, 0)
    assert not torch.equal(clean[ITEM], foggy[ITEM]) and torch.equal(features(CLEAN, 0)[ITEM], clean[ITEM])


OWN = """
from dataclasses import dataclass
import numpy as np
from PIL import Image
from densebench.datasets.dataset import Dataset, Item

@dataclass(frozen=True, kw_only=True)
class Own(Dataset):
    name: str = "own"
    classes: tuple = ("a", "b")
    def list_items(self, split):
        return [Item(f"{split}-{i}", None, None) for i in range(2)]
    def image(self, item):
        return Image.fromarray(np.full((40, 48, 3), 100, np.uint8))
    def image_size(self, item):
        return 48, 40
    def label(self, item):
        return np.zeros((40, 48), np.uint8)
    def image_digest(self, item):
        return item.name
    label_digest = image_digest
"""
APART = "import pickle, sys; print(pickle.loads(sys.stdin.buffer.read()).image_digest.__self__.facts()['corruption'])"


def test_a_data_set_of_the_users_own_file_is_corrupted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(OWN)
    clean = load_dataset("./mine.py")
    noisy = corrupted(clean, "gaussian_noise:5", "val")
    item = clean.items("val")[0]
    assert not same(pixels(noisy, item), pixels(clean, item)) and noisy.code == clean.code != ""
    assert same(pixels(COPIES["pickled"](noisy), item), pixels(noisy, item))


@pytest.mark.slow
def test_a_data_set_of_the_users_own_file_reaches_another_process(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(OWN)
    dark = corrupted(load_dataset("./mine.py"), "gaussian_noise:5", "val")
    done = subprocess.run([sys.executable, "-c", APART], input=pickle.dumps(dark), capture_output=True, check=True)
    assert done.stdout.decode().strip() == "gaussian-noise:5"


def test_frames_of_videos_are_corrupted(tmp_path):
    write(tmp_path, "boat", 3, 1)
    clean = load_dataset(f"frames:{tmp_path}")
    item = clean.items(clean.val_split)[1]
    assert not same(pixels(corrupted(clean, "contrast:4", clean.val_split), item), pixels(clean, item))


def test_an_image_of_two_data_sets_is_corrupted_alike(tmp_path):
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3)).astype(np.uint8)).save(
            tmp_path / str(number) / "x.png"
        )
    sets = [corrupted(load_dataset(f"pictures:{tmp_path / str(number)}"), "impulse-noise:2", "all") for number in (1, 2)]
    first, second = (pixels(dataset, dataset.items("all")[0]) for dataset in sets)
    assert same(first, second)


def test_each_image_corruption_and_level_has_random_numbers_of_its_own(monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "densebench.datasets.corrupted.corrupt",
        lambda picture, name, level, generator, photographs: drawn.append(generator.random()) or picture,
    )
    for text in ("snow:1", "snow:2", "fog:1", "snow:1"):
        for item in CLEAN.items("val")[:2]:
            corrupted(CLEAN, text, "val").image(item)
    assert drawn[:2] == drawn[-2:] and len(set(drawn)) == 6


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("frog", "unknown corruption 'frog': did you mean 'fog'?"),
        ("fog:6", "the level is '6'; give one of 1, 2, 3, 4, 5"),
        ("fog:", "the level is ''; give one of 1, 2, 3, 4, 5"),
        ("fog:0", "the level is '0'"),
        ("fog:3:3", "the level is '3:3'"),
    ],
)
def test_wrong_names_and_levels_are_refused_in_a_line(text, said):
    with pytest.raises(UserError) as error:
        corrupted(CLEAN, text, "val")
    assert said in str(error.value) and "\n" not in str(error.value)


def test_two_corruptions_are_refused():
    with pytest.raises(UserError, match="scenes is corrupted by fog:3 already"):
        corrupted(FOGGY, "snow", "val")


def test_an_image_that_is_too_small_is_named(tmp_path):
    Image.fromarray(np.zeros((31, 50, 3), np.uint8)).save(tmp_path / "small.png")
    dataset = corrupted(load_dataset(f"pictures:{tmp_path}"), "contrast", "all")
    with pytest.raises(UserError, match="small is 50 x 31 px .* corruptions need 32 px a side"):
        dataset.image(dataset.items("all")[0])


def test_an_image_of_32_px_is_not_too_small(tmp_path):
    Image.fromarray(np.zeros((32, 50, 3), np.uint8)).save(tmp_path / "small.png")
    dataset = corrupted(load_dataset(f"pictures:{tmp_path}"), "brightness", "all")
    assert not same(pixels(dataset, dataset.items("all")[0]), np.zeros((32, 50, 3), np.uint8))


def test_frost_needs_its_photographs(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_DATA", str(tmp_path))
    assert not has_frost(CLEAN)
    with pytest.raises(UserError, match="lacks some of frost1.png"):
        corrupted(CLEAN, "frost", "val")
    (tmp_path / FROST_FOLDER).mkdir(parents=True)
    for name, photograph in zip(PHOTOGRAPHS, photographs(), strict=True):
        Image.fromarray(photograph).save(tmp_path / FROST_FOLDER / name)
    assert has_frost(CLEAN) and not same(pixels(corrupted(CLEAN, "frost", "val")), pixels(CLEAN))


def test_other_photographs_give_other_digests(tmp_path, monkeypatch):
    digests = []
    for number in (0, 1):
        root = tmp_path / str(number)
        monkeypatch.setenv("DENSEBENCH_DATA", str(root))
        (root / FROST_FOLDER).mkdir(parents=True)
        for name in PHOTOGRAPHS:
            Image.fromarray(photographs()[number]).save(root / FROST_FOLDER / name)
        digests.append(corrupted(CLEAN, "frost", "val").image_digest(ITEM))
    assert digests[0] != digests[1]


def test_a_data_set_without_corruption_is_left_alone():
    assert type(CLEAN) is Scenes and "corruption" not in CLEAN.facts() and issubclass(type(FOGGY), Dataset)
