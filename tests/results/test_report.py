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
    page = Page(report(results))
    drawn = [text for tag, text in page.texts if tag == "text"]
    assert drawn.count("share of the training images") == 1
    assert {"1/8", "1/1", "a <vit>", "b"} <= set(drawn)
    assert sum("image/webp" in source for source in page.sources) == 4


def test_the_page_is_the_same_twice(results):
    assert report(results) == report(results)


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
    assert ("text", "clusters K") in Page(report(tmp_path)).texts


def test_numbers_of_a_paper_stand_beside_measured_ones(results, tmp_path):
    words = ["report", "--results", str(results), "--output", str(tmp_path / "page.html"), "--against", "neco:8"]
    assert CliRunner().invoke(app, words).exit_code == 0
    page = (tmp_path / "page.html").read_text()
    assert "neco:8 beside measured" in page and "published | measured | difference" in page
    with pytest.raises(UserError, match="neco"):
        report(results, against=["neco:800"])


def test_costs_are_columns_where_they_are_known(results):
    assert "images/s" not in Page(report(results)).cells
    write(results, "a <vit>", {(1, None): 61.24}, dataset="voc").finish(
        "complete", {"device": "a chip", "scored_points": 1, "images_per_second": {"features": 1234.0}}
    )
    assert {"images/s", "1234", "a chip"} <= set(Page(report(results)).cells)


def test_a_table_of_many_classes_is_of_the_best_backbones(tmp_path):
    classes = {f"class {number}": float(number % 7) for number in range(250)}
    for index in range(14):
        ious = {name: value + index for name, value in classes.items()}
        record = write(tmp_path, f"backbone {index:02}", {})
        record.add([Score("miou", "identity", 20.0 + index, axes={"fraction": 1}, per_class=ious, direction="higher")])
    assert "the best 12 of 14 backbones" in report(tmp_path)


def test_a_profile_leads_to_the_tables_that_name_the_records_of_its_numbers(results):
    page = Page(report(results))
    links = [link for link in page.of("href") if link.startswith("#table-") and "-row-" not in link]
    tables = [f"#{anchor}" for anchor in page.of("id")]
    assert "The records of these numbers:" in "".join(text for _, text in page.texts)
    assert sorted(links.count(link) for link in {*links}) == [1, 2, 2]  # the contents name all, the profile those of its groups
    assert {*links} <= {*tables}
