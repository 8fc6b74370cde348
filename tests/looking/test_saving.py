"""The files of a look."""

from dataclasses import replace

import looks
import pytest
from PIL import Image

from densebench.errors import UserError
from densebench.looking.saving import write

FEW = ("one.jpg", "two.jpg")
SMALL = {"grid": (3, 4), "queries": ((0.5, 0.5),), "heads": 2}
SHEETS = {"colours.png", "similarity.png", "neighbours.png", "clusters.png", "attention.png", "norms.png", "tracks.png"}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("look") / "new" / "folder"
    return folder, write(looks.look(FEW, **SMALL), folder)


def test_a_page_and_a_sheet_for_each_kind(written):
    folder, paths = written
    assert paths[0] == folder / "index.html"
    assert {path.name for path in paths[1:]} == SHEETS


def test_nothing_else_is_left_in_the_folder(written):
    folder, paths = written
    assert sorted(folder.iterdir()) == sorted(paths)


def test_the_same_look_gives_the_same_bytes(written, tmp_path):
    for path, again in zip(written[1], write(looks.look(FEW, **SMALL), tmp_path), strict=True):
        assert path.read_bytes() == again.read_bytes()


def test_a_sheet_grows_with_pictures_and_with_backbones(written, tmp_path):
    write(looks.look(("a", "b", "c"), ("one", "two", "three"), tracks=False, **SMALL), tmp_path)
    with Image.open(written[0] / "clusters.png") as small, Image.open(tmp_path / "clusters.png") as large:
        assert large.width > small.width
        assert large.height > small.height


def test_names_of_200_letters_and_lines_do_not_widen_a_sheet(tmp_path):
    names = ("x" * 200, "two\nlines \udcff \U0001f42b")
    write(looks.look(names, ("y" * 200, "z"), title="t" * 200, tracks=False, **SMALL), tmp_path)
    with Image.open(tmp_path / "norms.png") as sheet:
        assert sheet.width < 2000


def test_one_sheet_for_each_of_several_videos(tmp_path):
    seen = looks.look(("a", "b"), ("one",), **SMALL)
    write(replace(seen, tracks=seen.tracks * 2), tmp_path)
    assert {path.name for path in tmp_path.glob("tracks*")} == {"tracks-1.png", "tracks-2.png"}


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file"):
        write(looks.look(("a", "b"), ("one",), grid=(2, 2), tracks=False), tmp_path / "file")
