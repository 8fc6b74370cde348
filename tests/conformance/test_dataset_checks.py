"""A mistake planted in a data set is found by the check that is made for it."""

from __future__ import annotations

import pytest
from planted import first_failed, plugin

from densebench.conformance.datasets import check_dataset
from densebench.conformance.drawn import drawn
from densebench.datasets.catalog import present

LABEL = "< radius**2).astype(np.uint8)"
MISTAKES = {
    "no title": ("description", ('"Discs on a background (2 classes)"', '""'), "give both"),
    "a class twice": ("description", ('"background", "disc"', '"disc", "disc"'), "names 'disc' twice"),
    "no mapping": ("description", ('mapping: str = "mine-v1"', 'mapping: str = ""'), "raise it when ids mean something else"),
    "a split that is not": ("splits", ("    image_size_hint", '    val_split: str = "test"\n    image_size_hint'), "val_split"),
    "a name twice": ("names", ('f"{split}-{number:02}"', 'f"{split}-0"'), "40 images called train-0"),
    "another order": ("names", ("for number in range(", "for number in np.random.permutation("), "sort it"),
    "grey images": ("sizes", ("grain.astype(np.uint8))", 'grain.astype(np.uint8)).convert("L")'), "128 x 128 L"),
    "width and height": ("sizes", ("return 128, 128", "return 64, 128"), "image_size() 64 x 128"),
    "ids one too large": ("labels", (LABEL, f"{LABEL} + np.uint8(1)"), "holds the id 2"),
    "ids one too small": ("classes", (LABEL, f"{LABEL} - np.uint8(1)"), "no image shows 'disc'"),
    "another type": ("labels", (LABEL, "< radius**2).astype(np.int64)"), "int64"),
    "shared": ("disjoint", ('["image", self.mapping, item.name]', '["image", item.name[-2:]]'), "learned by heart"),
    "a digest that changes": (
        "digests",
        ('["label", self.mapping, item.name]', '["label", id(self), item.name]'),
        "label_digest() gives another value",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_planted_mistake_is_found_by_its_check(mistake, tmp_path):
    check, change, message = MISTAKES[mistake]
    found, said = first_failed(check_dataset(plugin(tmp_path, "dataset", change)))
    assert found == check, said
    assert message in said


def test_a_label_of_another_size_is_found(tmp_path):
    unused = ("        grain[..., 0] += 60 * (self.label(item) == 1)\n", "")
    found, said = first_failed(check_dataset(plugin(tmp_path, "dataset", unused, (LABEL, f"{LABEL}[:64]"))))
    assert (found, "expected uint8 [h, w], (128, 128)" in said) == ("labels", True)


def test_the_data_set_that_is_written_passes(tmp_path):
    assert all(check.passed for check in check_dataset(plugin(tmp_path, "dataset")))


@pytest.mark.parametrize("kind", ["label maps", "boxes", "videos", "keypoint pairs"])
def test_drawn_data_sets_conform(kind, monkeypatch):
    for dataset in drawn(kind):
        monkeypatch.setattr("densebench.conformance.datasets.load_dataset", lambda *_, dataset=dataset: dataset)
        assert first_failed(check_dataset("drawn")) == ("", "")


PAIRS = """
from dataclasses import dataclass

import numpy as np

from densebench.conformance.drawn import Spots
from densebench.datasets.keypoints import Pair


@dataclass(frozen=True, kw_only=True)
class Mine(Spots):
    name: str = "mine"

    def list_pairs(self, split):
        for pair in super().list_pairs(split):
            yield self.changed(pair)

    def changed(self, pair):
        return pair
"""
PAIR_MISTAKES = {
    "a name twice": ("labels", "Pair(**{**vars(pair), 'name': 'x'})", "20 pairs called x"),
    "parts below -1": ("labels", "Pair(**{**vars(pair), 'parts': pair.parts - 3})", "a part is -3"),
    "points outside": (
        "labels",
        "Pair(**{**vars(pair), 'source_points': pair.source_points + 500})",
        "lie outside their pictures",
    ),
    "no keypoints": (
        "labels",
        "Pair(**{**vars(pair), 'parts': pair.parts[:0], 'source_points': np.empty((0, 2)), 'target_points': np.empty((0, 2))})",
        "has a keypoint",
    ),
    "pairs that change": (
        "digests",
        "Pair(**{**vars(pair), 'source_points': pair.source_points + id(self) % 97 / 97})",
        "make pairs of the files alone",
    ),
}


@pytest.mark.parametrize("mistake", PAIR_MISTAKES)
def test_a_mistake_in_pairs_is_found_by_its_check(mistake, tmp_path):
    check, changed, message = PAIR_MISTAKES[mistake]
    path = tmp_path / "mine.py"
    path.write_text(PAIRS.replace("return pair", f"return {changed}"))
    found, said = first_failed(check_dataset(str(path)))
    assert found == check, said
    assert message in said


@pytest.mark.slow
@pytest.mark.parametrize("name", present())
def test_every_data_set_that_is_there_conforms(name):
    whole = [check for check in check_dataset(name) if check.passed is False and "of the official" not in check.message]
    assert whole == []
