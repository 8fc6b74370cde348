"""Which images belong together: near-duplicates by their pixels, folders, and what a pattern matches in names."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from densebench.datasets.dataset import Dataset, Item
from densebench.errors import UserError
from densebench.few_labels.groups import find_groups, near_duplicates, suggested_pattern, thumbnails


@dataclass(frozen=True, kw_only=True)
class Pictures(Dataset):
    """Pictures by name."""

    root: Path = Path()
    pixels: dict = field(default_factory=dict)

    def image(self, item):
        return Image.fromarray(self.pixels[item.name])


def pictures(count, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (8, 8, 3), np.uint8).repeat(6, 0).repeat(6, 1) for _ in range(count)]


def items_of(*names):
    return [Item(name, Path("a" if i < len(names) / 2 else f"b{i}") / f"{name}.png", None) for i, name in enumerate(names)]


def grouped(arrays, how="auto"):
    names = [f"{i}" for i in range(len(arrays))]
    return find_groups(Pictures(pixels=dict(zip(names, arrays, strict=True))), items_of(*names), how)


def test_pictures_that_differ_are_groups_of_one():
    groups = grouped(pictures(6))
    assert groups.of_image.tolist() == [0, 1, 2, 3, 4, 5] and groups.rule == "" and groups.count == 6


def test_a_brighter_noisy_copy_is_a_near_duplicate():
    first, *rest = pictures(5)
    noise = np.random.default_rng(1).normal(0, 8, first.shape)
    copy = np.clip(0.7 * first + 40 + noise, 0, 255).astype(np.uint8)
    groups = grouped([first, *rest, copy])
    assert groups.of_image.tolist() == [0, 1, 2, 3, 4, 0]
    assert groups.rule == "2 near-duplicates in 1 sets"


def test_a_negative_is_no_near_duplicate():
    first, *rest = pictures(4)
    assert grouped([first, *rest, 255 - first]).of_image.tolist() == [0, 1, 2, 3, 4]


def test_frames_are_joined_by_way_of_others():
    """Frames 0 and 2 differ, but both are like frame 1; loops over links say the same."""
    rng = np.random.default_rng(0)
    start, step, *others = (v / np.linalg.norm(v) for v in rng.normal(size=(9, 64)))
    rows = np.stack([start, start + 0.25 * step, start + 0.5 * step, *others])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    assert rows[0] @ rows[2] < 0.95 < min(rows[0] @ rows[1], rows[1] @ rows[2])
    assert near_duplicates(rows).of_image.tolist() == [0, 0, 0, 1, 2, 3, 4, 5, 6, 7]


def test_a_camera_that_does_not_move_makes_no_groups_but_a_notice(capsys):
    first, *rest = pictures(4)
    found = grouped([first, first, first, first, *rest])
    assert found.count == 7 and found.doubt.startswith("4 of 7 images look almost the same")
    assert "4 of 7 images look almost the same" in capsys.readouterr().err


def test_plain_images_are_no_duplicates():
    plain = [np.full((16, 16, 3), value, np.uint8) for value in (0, 90, 180, 255)]
    assert thumbnails(Pictures(pixels={"x": plain[1]}), items_of("x")).tolist() == [[0.0] * 256]
    assert grouped(plain).count == 4


@pytest.mark.parametrize("pattern", [r"^[^_]+", r"^([a-z]+)_\d+$"])
def test_a_pattern_groups_by_what_it_matches(pattern):
    items = items_of("a_1", "b_1", "a_2", "c_1", "d_9", "b_2")
    groups = find_groups(Pictures(), items, pattern)
    assert groups.of_image.tolist() == [0, 1, 0, 2, 3, 1]
    assert pattern in groups.rule


def test_folders_group():
    assert find_groups(Pictures(), items_of(*"uvwxyz"), "folder").of_image.tolist() == [0, 0, 0, 1, 2, 3]


@pytest.mark.parametrize(
    ("how", "names", "words"),
    [
        ("none", "abc", "3 labelled images: a cross-validation takes at least 4; label more"),
        (r"^(.)", ["a1", "a2", "b1", "c1", "c2"], r"5 labelled images in 3 groups \(by the pattern"),
        (r"\d", "abcd", "matches nothing in the name a"),
        ("(", "abcd", "not a regular expression"),
    ],
)
def test_what_cannot_be_grouped_is_said(how, names, words):
    with pytest.raises(UserError, match=words):
        find_groups(Pictures(), items_of(*names), how)


def test_generated_images_have_no_folder():
    with pytest.raises(UserError, match="lie in no folder"):
        find_groups(Pictures(), [Item(name, None, None) for name in "abcd"], "folder")


def test_names_of_videos_suggest_a_pattern_that_works():
    items = items_of(*(f"{video}_{frame:05}" for video in ("one", "two", "three", "four") for frame in range(3)))
    told = suggested_pattern(items)
    assert "4 videos (one, two, three, ...)" in told
    pattern = told.partition("--groups '")[2].partition("'")[0]
    assert find_groups(Pictures(), items, pattern).of_image.tolist() == [i // 3 for i in range(12)]


@pytest.mark.parametrize("names", ["abcdef", ["a_1", "b_1", "c_1", "d_1"], ["img_1", "img_2", "img_3", "img_4"]])
def test_names_that_tell_of_no_videos_suggest_nothing(names):
    assert suggested_pattern(items_of(*names)) == ""
