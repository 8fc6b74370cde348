"""What all data sets of pairs have in common: limits, identities, what lies outside, what is refused."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from dataset_files import levels_of

from densebench.datasets import load_dataset
from densebench.datasets.catalog import titles_of
from densebench.datasets.dataset import Item
from densebench.datasets.keypoints import KeypointPairs, Pair, pictures_of_pairs
from densebench.errors import UserError
from densebench.files.atomic import digest

ONE = np.array([[1.0, 2.0]])


def pair(first, second, points=ONE, **changed):
    source, target = (Item(str(each), None, None) for each in (first, second))
    values = {
        "name": f"{first}-{second}", "source": source, "target": target, "category": "a",
        "source_points": points, "target_points": points + 1, "parts": np.arange(len(points)), **changed,
    }  # fmt: skip
    return Pair(**values)


@dataclass(frozen=True, kw_only=True)
class Numbers(KeypointPairs):
    """Pairs of pictures of 10 x 20 px that are numbers."""

    name: str = "numbers"
    splits: tuple[str, ...] = ("all",)
    classes: tuple[str, ...] = ("b", "a")
    listed: tuple[Pair, ...] = ()

    def list_pairs(self, split):
        return iter(self.listed)

    def image_size(self, item):
        return 10, 20

    def image_digest(self, item):
        return digest(["number", item.name])


def numbers(*pairs):
    return Numbers(root=Path(), listed=pairs)


def test_a_limit_counts_pairs_evenly_spaced():
    dataset = numbers(*(pair(number, number + 1) for number in range(5)))
    assert [each.name for each in dataset.pairs("all", 3)] == ["0-1", "2-3", "4-5"]
    assert [item.name for item in dataset.part("all", 3)] == ["0", "1", "2", "3", "4", "5"]
    assert len(dataset.part("all", 1)) == 2 and dataset.pairs("all", 9) == dataset.pairs("all")


def test_each_picture_is_one_item():
    dataset = numbers(pair(1, 2), pair(2, 1), pair(3, 1))
    assert (
        [item.name for item in dataset.items("all")]
        == ["1", "2", "3"]
        == [item.name for item in pictures_of_pairs(dataset.pairs("all"))]
    )


CHANGES = {
    "points": {"target_points": ONE + 2},
    "parts": {"parts": np.array([3])},
    "box": {"source_box": (0, 0, 1, 2)},
    "no box": {"source_box": None},
    "category": {"category": "b"},
    "level": {"levels": (("viewpoint", 1),)},
    "direction": {"source": Item("2", None, None), "target": Item("1", None, None)},
}


@pytest.mark.parametrize("what", CHANGES)
def test_the_digest_follows_all_that_a_pair_says(what):
    base = pair(1, 2, source_box=(0, 0, 1, 1))
    items = numbers(base).items("all")
    assert numbers(base).digest("all", items) == numbers(replace(base)).digest("all", items)
    assert numbers(replace(base, **CHANGES[what])).digest("all", items) != numbers(base).digest("all", items)


def test_the_digest_of_a_part_has_the_pairs_that_lie_in_it():
    few, more = numbers(pair(1, 2)), numbers(pair(1, 2), pair(2, 3))
    assert few.digest("all", few.items("all")) == more.digest("all", few.items("all"))
    assert few.digest("all", few.items("all")) != more.digest("all", more.items("all"))


def test_the_edge_belongs_to_the_picture_and_what_is_beyond_is_counted():
    points = np.array([[0, 0], [10, 20], [10.5, 3], [-0.1, 3], [3, 20.01]])
    inside = np.full((5, 2), 5.0)
    dataset = numbers(pair(1, 2, points, target_points=inside), pair(1, 2, inside, source_points=inside, target_points=points))
    assert dataset.outside(dataset.pairs("all")) == 6
    assert dataset.extent("all", 1) == {"pairs": 1, "official_pairs": None, "keypoints": 5, "keypoints_outside": 3}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(bad):
    with pytest.raises(UserError, match="pair 1-2 has a keypoint or a box that is not finite"):
        pair(1, 2, np.array([[bad, 1.0]]))
    with pytest.raises(UserError, match="not finite"):
        pair(1, 2, target_box=(0, 0, 1, bad))


@pytest.mark.parametrize("shape", [(2, 2), (1, 3), (2,), (0, 2)])
def test_keypoints_of_another_shape_are_refused(shape):
    with pytest.raises(UserError, match=r"pair 1-2 has keypoints of shapes .* for 1 parts"):
        pair(1, 2, source_points=np.zeros(shape), target_points=ONE)


def test_a_pair_without_keypoints_is_a_pair():
    dataset = numbers(pair(1, 2, np.empty((0, 2))))
    assert len(dataset.pairs("all")) == 1 and dataset.outside(dataset.pairs("all")) == 0


def test_categories_are_in_the_order_of_the_classes():
    dataset = numbers(pair(1, 2), pair(3, 4, category="z"), pair(3, 5, category="b"))
    assert dataset.categories("all") == ("b", "a", "z")


def test_levels_are_the_values_that_occur():
    levels = [(("viewpoint", 2), ("scale", 0)), (("viewpoint", 0),), ()]
    assert levels_of([pair(1, 2, levels=each) for each in levels]) == {"scale": [0], "viewpoint": [0, 2]}


def test_no_pair_is_an_error_and_so_is_an_unknown_split():
    with pytest.raises(UserError, match="numbers has no image in split 'all'"):
        numbers().pairs("all")
    with pytest.raises(UserError, match="unknown split 'val'"):
        numbers(pair(1, 2)).pairs("val")


def test_a_name_that_leaves_its_folder_is_refused():
    with pytest.raises(UserError, match="leaves its folder"):
        numbers(pair("../1", 2)).pairs("all")


def test_there_are_no_label_maps():
    dataset = numbers(pair(1, 2))
    with pytest.raises(UserError, match="has pairs with keypoints, no label maps"):
        dataset.label(dataset.items("all")[0])


def test_another_process_reads_the_files_again():
    dataset = load_dataset("scenes-keypoints")
    dataset.pairs("val")
    assert len(pickle.dumps(dataset)) == len(pickle.dumps(load_dataset("scenes-keypoints")))


def test_the_catalogue_knows_those_with_pairs():
    assert titles_of("keypoint pairs").keys() == {"animal-pose", "ap10k", "pf-pascal", "scenes-keypoints", "spair71k"}
