from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from densebench.datasets.dataset import limited
from densebench.errors import UserError
from densebench.evaluation.subsets import balanced_order, read_subset, subset_size, uniform_order

SEEDS = [42, 400, 783, 1293, 4019]


def test_limited_is_evenly_spaced():
    assert limited(list(range(10)), None) == list(range(10))
    assert limited(list(range(10)), 20) == list(range(10))
    assert limited(list(range(10)), 4) == [0, 3, 6, 9]
    assert limited(list(range(10)), 1) == [0]


def test_uniform_order_is_a_permutation_decided_by_the_seed():
    order = uniform_order(100, 3)
    assert sorted(order.tolist()) == list(range(100))
    assert (order == uniform_order(100, 3)).all()
    assert (order != uniform_order(100, 4)).any()
    assert order.tolist() != list(range(100))


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 40), st.integers(0, 6), st.integers(0, 10_000))
def test_balanced_order_takes_every_image_once(n_images, n_classes, seed):
    presence = np.random.default_rng(seed).random((n_images, n_classes)) < 0.3
    order = balanced_order(presence, seed)
    assert sorted(order.tolist()) == list(range(n_images))
    empty = ~presence.any(1)
    assert empty[order[n_images - empty.sum() :]].all()  # images without a class come last


def test_balanced_order_gives_each_class_its_image_in_every_round():
    # Image i shows class i % 5 only: every five images in a row must show five classes, in an order that changes.
    presence = np.eye(5, dtype=bool)[np.arange(50) % 5]
    order = balanced_order(presence, 0)
    rounds = (order % 5).reshape(10, 5)
    assert (np.sort(rounds, axis=1) == np.arange(5)).all()
    assert len({tuple(row) for row in rounds.tolist()}) > 1
    assert order.tolist() != sorted(order.tolist())


def test_balanced_order_passes_over_classes_that_have_run_out():
    presence = np.zeros((12, 2), bool)
    presence[:2, 0] = True  # a rare class
    presence[2:11, 1] = True
    order = balanced_order(presence, 1).tolist()
    assert {0, 1} <= set(order[:4])
    assert order[-1] == 11


def test_balanced_order_counts_an_image_of_two_classes_once():
    presence = np.array([[1, 1], [1, 0], [0, 1]], bool)
    for seed in range(10):
        assert sorted(balanced_order(presence, seed).tolist()) == [0, 1, 2]


def test_subsets_of_one_seed_are_nested():
    presence = np.random.default_rng(0).random((300, 20)) < 0.2
    order = balanced_order(presence, 7)
    sizes = [subset_size(300, fraction, 20) for fraction in (8, 4, 2)]
    assert sizes == [40, 80, 160]
    assert set(order[: sizes[0]]) < set(order[: sizes[1]]) < set(order[: sizes[2]])
    counts = presence[order[: sizes[0]]].sum(0)
    assert counts.min() >= 2  # two rounds


def test_subset_sizes_of_the_published_lists():
    assert [subset_size(10582, fraction, 20) for fraction in (128, 64, 8)] == [80, 160, 1320]
    assert [subset_size(20210, fraction, 150) for fraction in (128, 64, 8)] == [150, 300, 2550]
    assert subset_size(10582, 1, 20) == 10582
    assert [subset_size(10582, fraction) for fraction in (128, 64, 8, 1)] == [82, 165, 1322, 10582]


def test_subset_size_below_one_image_a_class():
    assert subset_size(497, 64, 20) == 7
    assert subset_size(2000, 128, 150) == 15
    assert subset_size(100, 5, 20) == 20
    assert subset_size(149, 5, 20) == 20  # 29.8 is nearer to 20 than to 40
    assert subset_size(150, 5, 20) == 40  # a tie goes up


def test_a_fraction_that_leaves_no_image_is_refused():
    with pytest.raises(UserError, match=r"1/128 of 100 images leaves no image; the smallest fraction that works is 1/100"):
        subset_size(100, 128)
    with pytest.raises(UserError, match="1/0"):
        subset_size(100, 0)


@pytest.fixture
def lists(tmp_path):
    folder = tmp_path / "voc" / "1_div_8"
    folder.mkdir(parents=True)
    (folder / "trainaug_8_42.txt").write_text("c\na\n")
    (folder / "trainaug_8_7.txt").write_text("b\n\nd\n")
    (folder / "trainaug_88_9.txt").write_text("a\n")
    (tmp_path / "voc" / "1_div_64").mkdir()
    return tmp_path


def test_read_subset_gives_places_by_seed_in_the_list_s_order(lists):
    for folder in (lists, lists / "voc"):
        subsets = read_subset(folder, "voc", 8, ["a", "b", "c", "d"])
        assert {seed: places.tolist() for seed, places in subsets.items()} == {7: [1, 3], 42: [2, 0]}
        assert list(subsets) == [7, 42]
    assert read_subset(lists, "voc", 1, ["a", "b"])[0].tolist() == [0, 1]


def test_read_subset_refuses_what_it_cannot_place(lists):
    with pytest.raises(
        UserError, match=r"1 of the 2 names in .*trainaug_8_7.txt are not in voc, the first is d; .*--subset-missing"
    ):
        read_subset(lists, "voc", 8, ["a", "b", "c"])
    assert read_subset(lists, "voc", 8, ["a", "b", "c"], missing="skip")[7].tolist() == [1]
    with pytest.raises(UserError, match="none of the 2 names"):
        read_subset(lists, "voc", 8, ["a", "c"], missing="skip")
    with pytest.raises(UserError, match=r"1/16 of voc .* fractions there: 1/8, 1/64"):
        read_subset(lists, "voc", 16, ["a"])
    with pytest.raises(UserError, match="fractions there: none"):
        read_subset(lists / "nowhere", "voc", 8, ["a"])


def test_the_published_lists(shared_data):
    folder = shared_data / "hummingbird_subsets"
    if not folder.is_dir():
        pytest.skip("no published lists")
    names = (folder / "voc" / "full" / "trainaug.txt").read_text().split()
    assert len(names) == 10582
    before = {seed: Counter() for seed in SEEDS}
    for fraction in (128, 64, 8):
        subsets = read_subset(folder, "voc", fraction, names)
        assert list(subsets) == SEEDS
        for seed, places in subsets.items():
            assert len(places) == subset_size(len(names), fraction, 20) == len(set(places.tolist()))
            assert not before[seed] - Counter(places.tolist())  # nested
            before[seed] = Counter(places.tolist())
            listed = (folder / "voc" / f"1_div_{fraction}" / f"trainaug_{fraction}_{seed}.txt").read_text().split()
            assert [names[place] for place in places] == listed
