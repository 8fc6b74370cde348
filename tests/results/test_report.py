"""The report: one page with everything inside, well formed, and true to the records."""

from __future__ import annotations

import re

import pytest
from made_records import miou, write
from PIL import Image
from read_page import Page
from typer.testing import CliRunner

from densebench.cli import app
from densebench.errors import UserError
from densebench.results.report import report
from densebench.results.score import Score


@pytest.fixture
def results(tmp_path):
    record = write(tmp_path, "a <vit>", {(1, None): 61.24, (8, 0): 50.0, (8, 1): 54.0})
    for seed, ious in ((0, {"cat": 40.0, "dog": None}), (1, {"cat": 60.0, "dog": 10.0})):
        record.add([Score("miou", "identity", 55.0, axes={"fraction": 1, "seed": seed}, per_class=ious, direction="higher")])
    write(tmp_path, "b", {(1, None): 30.0, (8, 0): 20.0})
    write(tmp_path, "b", {(1, None): 31.0}, settings={"neighbours": [50]}, preset="cribo")
    write(tmp_path, "c", {(1, None): 77.7}, limit=3)
    folder = tmp_path / "pictures" / record.id
    folder.mkdir(parents=True)
    for number in range(6):
        Image.new("RGB", (3, 2), (number, 0, 0)).save(folder / f"image-{number}.png")
    return tmp_path


def test_the_page_needs_nothing_beside_it(results):
    page = Page(report(results))
    assert page.sources and all(source.startswith("data:image/") for source in page.sources)
    assert "#scenes-val" in page.of("href") and all(link.startswith("#") for link in page.of("href"))
    assert not re.search(r"https?://(?!www\.w3\.org)", report(results))


def test_tables_hold_the_numbers_of_the_records_and_names_are_escaped(results):
    text = report(results)
    page = Page(text)
    assert {"a <vit>", "b", "20.0", "30.0", "31.0", "52.0 ± 2.8"} <= set(page.cells)
    assert "77.7" not in page.cells  # a record with a limit stays out
    assert "a <vit>" not in text and "a &lt;vit&gt;" in text


def test_classes_are_means_over_seeds_at_the_last_point(results):
    cells = Page(report(results)).cells
    assert cells[cells.index("cat") + 1] == "50.0"
    assert cells[cells.index("dog") + 1] == "10.0"  # the seed in which it was absent is left out


def test_there_is_a_curve_where_there_are_two_points_and_a_few_pictures(results):
    sources = Page(report(results)).sources
    curves = [source for source in sources if "svg" in source]
    assert len(curves) == 1
    assert sum("image/png" in source for source in sources) == 4


def test_the_page_is_the_same_twice(results):
    assert re.sub(r"base64,[^\"]*", "", report(results)) == re.sub(r"base64,[^\"]*", "", report(results))


def test_the_command_writes_the_page(results, tmp_path):
    done = CliRunner().invoke(app, ["report", "--results", str(results), "--output", str(tmp_path / "page.html"), "--published"])
    assert done.exit_code == 0
    assert Page((tmp_path / "page.html").read_text()).cells


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(UserError, match="holds no record of a whole run"):
        report(tmp_path)


def test_scores_of_k_make_a_curve_too(tmp_path):
    record = write(tmp_path, "a", {(1, None): 1.0})
    record.add([miou(value, K=k, seed=0) for k, value in ((21, 5.0), (300, 9.0))])
    assert any("svg" in source for source in Page(report(tmp_path)).sources)
