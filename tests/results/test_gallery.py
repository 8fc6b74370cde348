"""Pictures of a report: those of one image side by side, as many as a page may hold, and what their colours mean."""

from __future__ import annotations

import base64
import io
import os

import numpy as np
from PIL import Image

from densebench.pictures.canvas import save
from densebench.results import gallery
from densebench.results.gallery import galleries


def draw(folder, record, *images, size=(8, 4), legend=(), noise=False):
    path = folder / "pictures" / record
    path.mkdir(parents=True, exist_ok=True)
    for image in images:
        pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8) * noise
        save(Image.fromarray(pixels.astype(np.uint8)), path / f"{image}.png", description="image, truth", legend=legend)


def opened(source):
    return Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))


def shown(found):
    return [(row.image, [name for name, _, _ in row.pictures]) for row in found.rows]


def test_a_row_is_an_image_and_its_columns_are_backbones_the_best_first(tmp_path):
    draw(tmp_path, "r1", "street", "alley")
    draw(tmp_path, "r2", "street", "yard")
    [found] = galleries([[("best", "r2"), ("undrawn", "r3"), ("worse", "r1")]], [tmp_path])
    assert shown(found) == [("street", ["best", "worse"]), ("alley", ["worse"]), ("yard", ["best"])]
    assert found.rows[0].pictures[0][2] == "best: image, truth of street"
    assert found.note == ""


def test_few_images_of_the_best_backbones_are_shown_and_it_is_said(tmp_path):
    names = [f"b{i}" for i in range(9)]
    for name in names:
        draw(tmp_path, name, *(f"image-{i}" for i in range(7)))
    [found] = galleries([list(zip(names, names, strict=True))], [tmp_path])
    assert shown(found) == [(f"image-{i}", names[: gallery.BACKBONES]) for i in range(gallery.IMAGES)]
    assert found.note.startswith("4 of 7 images shown, of 6 of 9 backbones")


def test_wide_pictures_are_reduced_and_keep_their_shape(tmp_path):
    draw(tmp_path, "r", "wide", size=(1600, 400))
    draw(tmp_path, "r", "small", size=(30, 20))
    [found] = galleries([[("a", "r")]], [tmp_path])
    sizes = {row.image: opened(row.pictures[0][1]).size for row in found.rows}
    assert sizes == {"wide": (640, 160), "small": (30, 20)}


def test_pictures_of_all_groups_together_have_room(tmp_path):
    for index in range(3):
        draw(tmp_path, f"r{index}", *(f"image-{i}" for i in range(4)), size=(64, 64), noise=True)
    found = galleries([[("a", f"r{index}")] for index in range(3)] + [[("none", "r9")]], [tmp_path], 40_000)
    size = sum(len(source) for each in found for row in each.rows for _, source, _ in row.pictures)
    assert 20_000 < size <= 40_000
    assert all(0 < len(each.rows) < 4 for each in found[:3]) and found[3].rows == []
    assert "of 4 images shown" in found[0].note


def test_a_row_that_does_not_fit_is_left_out_unless_it_is_the_first(tmp_path):
    names = ["a", "b", "c"]
    for name in names:
        draw(tmp_path, name, "image-0", "image-1", size=(64, 64), noise=True)
    group = [list(zip(names, names, strict=True))]
    [everything] = galleries(group, [tmp_path])
    one = everything.size // 6
    assert shown(galleries(group, [tmp_path], 5 * one)[0]) == [("image-0", names)]
    [few] = galleries(group, [tmp_path], 2 * one + 9)
    assert shown(few) == [("image-0", ["a", "b"])]
    assert few.note.startswith("1 of 2 images shown, of 2 of 3 backbones")


def test_the_legend_is_what_the_pictures_say(tmp_path):
    draw(tmp_path, "old", "street")
    draw(tmp_path, "new", "street", legend=[("cat", "#112233")])
    assert galleries([[("a", "old"), ("b", "new")]], [tmp_path])[0].legend == [("cat", "#112233")]
    assert galleries([[("a", "old")]], [tmp_path])[0].legend == []


def test_a_file_that_is_no_picture_is_left_out_and_named(tmp_path, capsys):
    draw(tmp_path, "r", "good")
    (tmp_path / "pictures" / "r" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnonsense")
    assert shown(galleries([[("a", "r")]], [tmp_path])[0]) == [("good", ["a"])]
    assert "broken.png" in capsys.readouterr().err


def test_a_picture_that_is_dangerously_large_is_left_out(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    draw(tmp_path, "r", "large", size=(20, 9))
    assert galleries([[("a", "r")]], [tmp_path])[0].rows == []
    assert "large.png" in capsys.readouterr().err


def test_the_first_folder_that_has_pictures_of_a_record_counts(tmp_path):
    draw(tmp_path / "two", "r", "second")
    draw(tmp_path / "three", "r", "third")
    folders = [tmp_path / "one", tmp_path / "two", tmp_path / "three"]
    assert shown(galleries([[("a", "r")]], folders)[0]) == [("second", ["a"])]


def test_a_picture_that_is_a_link_out_of_the_folder_is_not_put_into_a_page(tmp_path, capsys):
    results = tmp_path / "results"
    draw(results, "r", "street")
    draw(tmp_path / "mine", "r", "private")
    (results / "pictures/r/linked.png").symlink_to(tmp_path / "mine/pictures/r/private.png")
    (results / "pictures/whole").symlink_to(tmp_path / "mine/pictures/r")
    found, elsewhere = galleries([[("a", "r")], [("b", "whole")]], [results])
    assert shown(found) == [("street", ["a"])]
    assert elsewhere.rows == []
    assert "linked.png is no file, or a link out of" in capsys.readouterr().err


def test_a_pipe_among_pictures_is_not_waited_for(tmp_path):
    draw(tmp_path, "r", "street")
    os.mkfifo(tmp_path / "pictures/r/alley.png")
    [found] = galleries([[("a", "r")]], [tmp_path])
    assert shown(found) == [("street", ["a"])]


def test_a_results_folder_may_itself_be_a_link(tmp_path):
    draw(tmp_path / "disk", "r", "street")
    (tmp_path / "results").symlink_to(tmp_path / "disk")
    [found] = galleries([[("a", "r")]], [tmp_path / "results"])
    assert shown(found) == [("street", ["a"])]
