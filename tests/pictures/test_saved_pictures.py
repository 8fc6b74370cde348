"""PNGs that say what they show, and what is read of those that say something else."""

from __future__ import annotations

import json

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from densebench.pictures.canvas import DESCRIPTION, LEGEND, description_and_legend, save

GREY = Image.new("RGB", (2, 1), (9, 9, 9))


def said(path):
    with Image.open(path) as opened:
        return description_and_legend(opened)


def test_what_is_said_comes_back_and_the_pixels_stay(tmp_path):
    legend = [("cat", "#00ff7f"), ('名前 "<b>"', "#000000"), ("bytes \udcff", "#010203")]
    save(GREY, tmp_path / "a.png", description="image, truth", legend=legend)
    assert said(tmp_path / "a.png") == ("image, truth", legend)
    with Image.open(tmp_path / "a.png") as opened:
        assert opened.convert("RGB").tobytes() == GREY.tobytes()


def test_the_file_is_the_same_twice_and_says_nothing_by_itself(tmp_path):
    for name in ("a.png", "b.png"):
        save(GREY, tmp_path / name, description="x", legend=[("cat", "#00ff7f")])
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    save(GREY, tmp_path / "c.png")
    assert said(tmp_path / "c.png") == ("", [])


@pytest.mark.parametrize(
    "legend",
    [
        "{", "{}", "[" * 9000,
        '[["cat"]]', '[["cat", "red"]]', '[["cat", "#00FF7F; x"]]', '[["cat", "url(x)"]]', '[[1, "#000000"]]',
        json.dumps([["x" * 201, "#000000"]]), json.dumps([["x", "#000000"]] * 1001), '[["cat", "#000000\\n"]]',
    ],
)  # fmt: skip
def test_a_legend_that_is_none_is_none(tmp_path, legend):
    texts = PngInfo()
    texts.add_itxt(LEGEND, legend)
    texts.add_itxt(DESCRIPTION, "two\nlines " + "x" * 999)
    GREY.save(tmp_path / "a.png", pnginfo=texts)
    seen, read = said(tmp_path / "a.png")
    assert read == []
    assert seen.startswith("two lines x") and len(seen) <= 200
