"""The pictures of a look differ, are the same for the same seed, and are upright; a broken one is left out or named."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from few_images import Few
from look_pictures import folder_of, in_memory, picture
from PIL import Image

from densebench.datasets.unlabelled import open_images
from densebench.errors import UserError
from densebench.looking.choice import CANDIDATES, SHOWN, different, differing, named, pictures
from densebench.looking.opening import InMemory


def chosen(images, **options):
    return different(images, **{"count": 3, "seed": 0, **options})[0]


def test_near_copies_are_shown_once():
    copies = [picture(0, noise=2 + number) for number in range(20)]
    others = [picture(1), picture(2)]
    first, *rest = chosen(InMemory((*copies, *others)))
    assert first < 20
    assert rest == [20, 21]


def test_the_choice_follows_from_the_seed():
    points = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    assert differing(points, 6, 1) == differing(points, 6, 1)
    assert differing(points, 6, 1) != differing(points, 6, 2)


def test_of_each_kind_the_picture_nearest_to_its_centre_is_taken():
    points = np.array([[0.0], [1.0], [2.5], [100.0], [101.5], [102.5]], np.float32)  # centres 1.17 and 101.33
    assert differing(points, 2, 0) == [1, 4]


def test_copies_do_not_reduce_the_count():
    points = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
    rows = differing(points, 5, 0)
    assert len(set(rows)) == 5
    assert {row // 4 for row in rows} == {0, 1, 2}


def test_all_of_few_pictures_are_taken_in_order():
    assert chosen(in_memory(4), count=12) == [0, 1, 2, 3]


def test_of_many_pictures_a_sample_is_compared_and_the_note_says_so():
    opened = []

    class Counted(Few):
        def open(self, index):
            opened.append(index)
            return super().open(index % 200)

    indices, notes = different(Counted(2000), 3, 0)
    assert (len(set(opened)), len(indices)) == (CANDIDATES, 3)
    assert max(opened) > 1800
    different(Counted(2000), 3, 1)
    assert set(opened[:CANDIDATES]) != set(opened[CANDIDATES:])
    assert notes == ["the pictures were chosen from 240 of 2,000 that were drawn at random (seed 0)"]


def test_a_broken_picture_is_left_out_and_named(caplog):
    with caplog.at_level(logging.WARNING, "densebench"):
        indices, notes = different(Few(5, broken=[3]), 12, 0)
    assert indices == [0, 1, 2, 4]
    assert notes == ["left out: image 3 is broken"]
    assert "image 3 is broken" in caplog.text


def test_only_broken_pictures_are_an_error():
    with pytest.raises(UserError, match=r"none of 2 pictures can be decoded; the first: image 0 is broken"):
        different(Few(2, broken=[0, 1]), 12, 0)


def test_what_is_left_has_its_own_number():
    taken, found, notes = pictures(Few(4, broken=[1]), [0, 1, 3], explicit=False)
    assert (taken, [each.name for each in found]) == ([0, 3], [Few(4).title(number) for number in (0, 3)])
    assert notes == ["left out: image 1 is broken"]


def test_a_broken_picture_that_was_asked_for_is_an_error():
    with pytest.raises(UserError, match="image 1 is broken"):
        pictures(Few(3, broken=[1]), [0, 1], explicit=True)


@pytest.mark.parametrize("name", ["c2", "c2.png", "a0,c2", "inside/d"])
def test_pictures_are_found_by_path_file_name_and_stem(tmp_path, name):
    folder_of(tmp_path)
    (tmp_path / "inside").mkdir()
    picture(7).save(tmp_path / "inside" / "d.png")
    images = open_images(tmp_path)
    found = named(images, [f"{name}.png" if name == "inside/d" else name])
    wanted = {"a0,c2": ["a0.png", "c2.png"], "inside/d": ["inside/d.png"]}.get(name, ["c2.png"])
    assert [images.title(index) for index in found] == wanted


def test_a_name_with_a_comma_is_a_name(tmp_path):
    picture(0).save(tmp_path / "a,b.png")
    assert named(open_images(tmp_path), ["a,b.png"]) == [0]


def test_an_unknown_name_offers_the_nearest(tmp_path):
    with pytest.raises(UserError, match=r"unknown picture 'c3.png': did you mean 'c2.png'\?"):
        named(open_images(folder_of(tmp_path, 3)), ["c3.png"])


def test_a_name_of_several_pictures_is_an_error(tmp_path):
    folder_of(tmp_path / "x", 1)
    folder_of(tmp_path / "y", 1)
    with pytest.raises(UserError, match=r"--images a0: 2 pictures have that name; give x/a0.png or y/a0.png"):
        named(open_images(tmp_path), ["a0"])


def test_a_picture_is_turned_upright_by_its_exif(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.new("RGB", (60, 40), "black")
    image.paste((255, 255, 255), (0, 0, 30, 40))  # the left half, which is the upper one when the picture is turned
    image.save(tmp_path / "turned.png", exif=exif)
    _, [shown], notes = pictures(open_images(tmp_path), [0], explicit=True)
    pixels = np.asarray(shown.image)
    assert pixels.shape == (60, 40, 3)
    assert (pixels[:30] == 255).all()
    assert (pixels[30:] == 0).all()
    assert notes[0].startswith("1 picture was turned upright")


def test_sixteen_bits_grey_and_palettes_are_shown(tmp_path):
    Image.fromarray(np.full((20, 30), 257 * 100, np.uint16)).save(tmp_path / "deep.png")
    Image.new("L", (30, 20), 100).save(tmp_path / "grey.png")
    Image.new("RGB", (30, 20), (100, 100, 100)).quantize(4).save(tmp_path / "palette.png")
    _, found, _ = pictures(open_images(tmp_path), [0, 1, 2], explicit=True)
    assert all((np.asarray(each.image) == 100).all() for each in found)


def test_a_large_panorama_keeps_its_aspect_and_becomes_small():
    [shown] = pictures(InMemory((Image.new("RGB", (12_000, 600)),)), [0], explicit=True)[1]
    assert shown.image.width * shown.image.height <= 1.01 * SHOWN
    assert shown.image.width / shown.image.height == pytest.approx(20, rel=0.01)
