"""Pictures of every kind are labelled, each at its own size, and a broken one among many costs only itself."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from halved import BACKBONE, OPTIONS, halves, labelled, new_pictures, save
from PIL import Image
from tiers import late

import densebench
from densebench.datasets import load_dataset
from densebench.errors import UserError
from densebench.few_labels.pictures import open_pictures


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))
    labelled(tmp_path / "known")
    return tmp_path


def segment(images="photos"):
    return densebench.segment(images, "known", BACKBONE, **OPTIONS)


def map_of(path):
    return np.array(Image.open(path))


@pytest.mark.parametrize("orientation", late(range(1, 9), 6, 7))
def test_a_turned_picture_is_labelled_upright_and_its_map_lies_pixel_on_pixel(place, orientation):
    """What is displayed is red on the left; what is stored, and its label map, may be turned or mirrored."""
    picture, labels = halves(96, 64, share=0.25)
    turns = {
        2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1], 5: lambda a: a.swapaxes(0, 1),
        6: np.rot90, 7: lambda a: np.rot90(a, 2).swapaxes(0, 1), 8: lambda a: np.rot90(a, -1),
    }  # fmt: skip
    turn = turns.get(orientation, lambda a: a)
    exif = Image.Exif()
    exif[0x0112] = orientation
    save(place / "photos" / "a.png", np.ascontiguousarray(turn(picture)), exif=exif)
    pictures = open_pictures(["photos"])
    assert np.array_equal(np.array(pictures.image(pictures.items("all")[0])), picture)
    done = segment()
    assert (map_of(done.paths["a"]) == turn(labels)).mean() > 0.97
    with Image.open(done.paths["a"]) as image:
        assert image.getexif().get(0x0112, 1) == orientation
    again = load_dataset(str(done.folder), needs_splits=False)
    assert again.verify() == []


def test_grey_wide_tiny_and_16_bit_pictures(place):
    red = halves()[0]
    grey = red[..., 0]
    save(place / "photos" / "grey.png", grey)
    save(place / "photos" / "deep.png", grey.astype(np.uint16) * 257)
    save(place / "photos" / "panorama.png", halves(900, 30)[0])
    save(place / "photos" / "tiny.png", halves(4, 3)[0])
    save(place / "photos" / "one.png", halves(1, 1)[0])
    maps = {name: map_of(path) for name, path in segment().paths.items()}
    assert {name: found.shape for name, found in maps.items()} == {
        "deep": (64, 64), "grey": (64, 64), "one": (1, 1), "panorama": (30, 900), "tiny": (3, 4),
    }  # fmt: skip
    assert np.array_equal(maps["grey"], maps["deep"])
    assert (maps["panorama"] == halves(900, 30)[1]).mean() > 0.97
    assert (maps["tiny"] == halves(4, 3)[1]).all()


def test_a_broken_picture_is_named_and_the_others_are_labelled(place, capsys):
    new_pictures(place / "photos", "a.png", "b.png", "c.png", "d.png")
    (place / "photos" / "b.png").write_bytes(b"no picture")
    whole = (place / "photos" / "c.png").read_bytes()
    (place / "photos" / "c.png").write_bytes(whole[: len(whole) - 40])  # its header is whole
    done = segment()
    assert sorted(done.paths) == ["a", "d"]
    assert all(path.is_file() for path in done.paths.values())
    assert sorted(done.failed) == ["b", "c"]
    errors = capsys.readouterr().err
    assert all(f"photos/{name}.png" in errors and f"photos/{name}.png" in done.failed[name] for name in "bc")


def test_nothing_but_broken_pictures_is_an_error(place):
    (place / "photos").mkdir()
    (place / "photos" / "a.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="none of the 1 pictures can be read: .*a.jpg"):
        segment()


def names(*specs, **given):
    return [item.name for item in open_pictures(specs, **given).items("all")]


def test_names_are_paths_below_the_deepest_common_folder(place):
    new_pictures(place / "p", "x.png", "in/y.png", "in/deep/z.JPG", ".hidden.png", ".cache/w.png")
    assert names("p") == ["in/deep/z", "in/y", "x"]
    assert names("p/in/y.png", "p/x.png") == ["in/y", "x"]
    assert names("p/in", "p/in/y.png") == ["deep/z", "y"]
    assert names("p/in/y.png") == ["y"]
    assert names("p", limit=2) == ["in/deep/z", "x"]


def test_names_that_differ_in_the_ending_alone_keep_it(place):
    new_pictures(place / "p", "x.png", "x.jpg", "y.png")
    assert names("p") == ["x.jpg", "x.png", "y"]


def test_names_that_differ_in_case_alone_are_refused(place):
    new_pictures(place / "p", "x.png", "X.png")
    with pytest.raises(UserError, match="where case does not matter; rename one"):
        names("p")


def test_odd_names_are_kept(place):
    odd = 'it\'s <b>&amp;</b> "größe" 写真?*.png'
    new_pictures(place / "photos", odd)
    done = segment()
    assert list(done.paths) == [odd.removesuffix(".png")]
    assert load_dataset(str(done.folder), needs_splits=False).verify() == []


def test_images_of_a_data_set_are_those_of_all_its_splits(place):
    assert len(names("scenes")) == 320
    assert sorted(names("folder:known")) == [f"known-{number}" for number in range(4)]


def test_a_folder_without_a_picture_is_refused(place):
    (place / "empty").mkdir()
    with pytest.raises(UserError, match="empty holds no picture"):
        names("empty")


def test_arrays_of_another_kind_are_refused(place):
    with pytest.raises(UserError, match=r"picture 0 is float64 \[2, 2\]; give uint8"):
        open_pictures([np.zeros((2, 2))])
    with pytest.raises(UserError, match="all of one kind, not int"):
        open_pictures([5])


def test_links_follow_a_picture_that_moves(place):
    new_pictures(place / "photos", "a.png")
    segment()
    shutil.move(place / "photos", place / "moved")
    segment("moved")
    assert (place / "segmented" / "images" / "a.png").exists()
