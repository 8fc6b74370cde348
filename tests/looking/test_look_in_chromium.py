"""The page of a look in a real browser: a query patch that is picked, with and without script."""

from dataclasses import replace

import looks
import numpy as np
import pytest
from browser import NARROW, WIDE, chromium

from densebench.looking.grids import packed
from densebench.looking.page import page as html_of

__all__ = ["chromium"]
pytestmark = pytest.mark.slow
BACKBONES = ("trained", "random", "another")
HOSTILE = '</script><b>"it\'s" & \U0001f42b ' + "x" * 200


@pytest.fixture(scope="module")
def seen():
    return looks.look(backbones=BACKBONES, grid=(9, 12), dims=60, size=(240, 180))


@pytest.fixture(scope="module")
def path(seen, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "index.html"
    path.write_text(html_of(seen), encoding="utf-8")
    return path


def canvases(page):
    """The pixels of every canvas, by its backbone and picture."""
    page.wait_for_timeout(100)
    return page.evaluate("[...document.querySelectorAll('#similarity canvas')].map(canvas => canvas.toDataURL())")


def photo(page, index):
    return page.locator("#similarity .row").nth(index).locator(".cells:not(.later) .photo")


def query(page):
    return page.locator("#similarity .probe p").inner_text()


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_axe_finds_nothing(chromium, path, width, dark):
    with chromium.page(path, width, dark=dark) as page:
        page.wait_for_selector("#similarity canvas")
        assert chromium.violations(page) == []


@pytest.mark.parametrize("script", [True, False])
@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_nothing_is_wider_than_the_window(chromium, path, width, script):
    with chromium.page(path, width, script=script) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_click_on_a_patch_changes_the_map_of_every_backbone_in_every_picture(chromium, path, seen):
    with chromium.page(path) as page:
        before = canvases(page)
        assert len(before) == len(BACKBONES) * len(seen.pictures)
        box = photo(page, 1).bounding_box()
        photo(page, 1).click(position={"x": box["width"] * 0.1, "y": box["height"] * 0.9})
        after = canvases(page)
        assert query(page) == "Query: row 9, column 2 of two.jpg"
        assert all(one != other for one, other in zip(before, after, strict=True))


def test_the_cosines_that_are_shown_are_exact_within_the_stated_error(chromium, path, seen):
    with chromium.page(path) as page:
        canvases(page)
        found = page.evaluate("[...document.querySelectorAll('#similarity canvas')].map(({dataset}) => ({...dataset}))")
        shown = page.locator("#similarity .value").all_inner_texts()
    numbers = [(picture, backbone) for picture in range(len(seen.pictures)) for backbone in range(len(BACKBONES))]
    for (picture, backbone), each, text in zip(numbers, found, shown, strict=True):
        grids = [view.grid for view in seen.backbones[backbone].views]
        asked = grids[0][4, 6]
        other = grids[picture].reshape(-1, grids[picture].shape[-1])[int(each["patch"])]
        exact = asked @ other / np.linalg.norm(asked) / np.linalg.norm(other)
        assert float(each["highest"]) == pytest.approx(exact, abs=packed(grids).error.largest + 1e-6)
        assert text == f"highest {float(each['highest']):.2f}".replace("-", "\N{MINUS SIGN}")


def test_the_highest_cosine_is_that_of_the_most_alike_patch(chromium, path, seen):
    with chromium.page(path) as page:
        canvases(page)
        found = float(page.locator("#similarity .row").nth(1).locator("canvas").first.get_attribute("data-highest"))
    one, other = (
        grid / np.linalg.norm(grid, axis=2, keepdims=True) for grid in (view.grid for view in seen.backbones[0].views[:2])
    )
    assert found == pytest.approx((other @ one[4, 6]).max(), abs=packed([v.grid for v in seen.backbones[0].views]).error.largest)


def test_arrow_keys_move_the_query_and_every_map_follows(chromium, path):
    with chromium.page(path) as page:
        before = canvases(page)
        photo(page, 0).focus()
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("ArrowUp")
        after = canvases(page)
        assert query(page) == "Query: row 4, column 6 of one.jpg"
        assert all(one != other for one, other in zip(before, after, strict=True))


def test_enter_takes_the_query_to_the_picture_with_the_focus(chromium, path):
    with chromium.page(path) as page:
        canvases(page)
        photo(page, 2).focus()
        page.keyboard.press("Enter")
        canvases(page)
        assert query(page) == "Query: row 5, column 7 of three.jpg"


def test_arrow_keys_stop_at_the_edge(chromium, path):
    with chromium.page(path) as page:
        canvases(page)
        photo(page, 0).focus()
        for _ in range(20):
            page.keyboard.press("ArrowRight")
            page.wait_for_timeout(30)
        assert query(page) == "Query: row 5, column 12 of one.jpg"


def test_each_backbone_takes_the_patch_of_its_own_grid(chromium, tmp_path, seen):
    coarse = looks.look(backbones=("coarse",), grid=(3, 4), dims=60).backbones[0]
    path = tmp_path / "page.html"
    path.write_text(html_of(replace(seen, backbones=(seen.backbones[0], coarse), tracks=())), encoding="utf-8")
    with chromium.page(path) as page:
        canvases(page)
        box = photo(page, 0).bounding_box()
        photo(page, 0).click(position={"x": box["width"] * 0.95, "y": box["height"] * 0.6})
        canvases(page)
        marks = page.locator("#similarity .row").first.locator(".cells:not(.later) .marks path:first-child")
        assert marks.evaluate_all("all => all.map(each => each.getAttribute('d'))") == ["M11 5h1v1h-1z", "M3 1h1v1h-1z"]


def test_the_pointer_reads_the_cosine_of_every_backbone_at_its_place(chromium, path, seen):
    with chromium.page(path) as page:
        canvases(page)
        box = photo(page, 1).bounding_box()
        photo(page, 1).hover(position={"x": box["width"] * 0.4, "y": box["height"] * 0.2})
        shown = page.locator("#similarity .row").nth(1).locator(".value").all_inner_texts()
    for backbone, text in zip(seen.backbones, shown, strict=False):
        grids = [view.grid for view in backbone.views]
        one, other = grids[0][4, 6], grids[1][1, 4]
        exact = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
        read = float(text.removeprefix("here ").replace("\N{MINUS SIGN}", "-"))
        assert read == pytest.approx(exact, abs=packed(grids).error.largest + 0.0051)


def test_colours_over_the_range_of_each_backbone_have_a_legend_of_their_own(chromium, path):
    with chromium.page(path) as page:
        before = canvases(page)
        page.get_by_role("checkbox", name="own range").check()
        assert canvases(page) != before
        assert "lowest of the backbone" in page.locator("#similarity .scales").inner_text()


def test_without_script_static_maps_of_all_queries_are_there(chromium, path, seen):
    with chromium.page(path, script=False) as page:
        maps = page.locator("#similarity .map img")
        assert maps.count() == 2 * len(BACKBONES) * len(seen.pictures)
        maps.last.scroll_into_view_if_needed()
        assert maps.last.is_visible()
        assert page.locator("canvas").count() == 0
        assert page.get_by_role("button").count() == 0
        assert page.get_by_role("combobox").count() == 0


@pytest.mark.parametrize("script", [True, False])
def test_a_reader_picks_one_kind(chromium, path, script):
    with chromium.page(path, script=script) as page:
        page.get_by_role("radio", name="Clusters").check()
        assert page.locator("section.kind:visible").evaluate_all("all => all.map(each => each.id)") == ["clusters"]
        page.get_by_role("radio", name="everything").check()
        assert page.locator("section.kind:visible").count() == 7


def test_a_reader_picks_one_picture(chromium, path):
    with chromium.page(path) as page:
        page.get_by_role("combobox", name="Picture").select_option(label="two.jpg")
        names = page.locator(".row:visible h3").evaluate_all("all => all.map(each => each.textContent)")
        assert set(names) == {"two.jpg"}


def test_background_is_veiled_only_on_demand(chromium, path):
    with chromium.page(path, script=False) as page:
        veils = page.locator("#colours .veil:visible")
        assert veils.count() == 0
        page.get_by_role("checkbox", name="grey out").check()
        assert veils.count() > 0


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_names_of_200_letters_and_with_tags_break_nothing(chromium, tmp_path, width):
    path = tmp_path / "page.html"
    seen = looks.look((HOSTILE, "b"), (HOSTILE, "c"), title=HOSTILE, notes=(HOSTILE,), command=HOSTILE, problem=HOSTILE)
    path.write_text(html_of(seen), encoding="utf-8")
    with chromium.page(path, width) as page:
        page.wait_for_selector("#similarity canvas")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert chromium.violations(page) == []
        assert HOSTILE in query(page)


def test_a_panorama_has_room_for_its_height(chromium, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(html_of(looks.look(BACKBONES, BACKBONES, grid=(4, 40), size=(1600, 160))), encoding="utf-8")
    with chromium.page(path) as page:
        heights = page.locator("section.kind .wide .map img").evaluate_all("all => all.map(each => each.clientHeight)")
        assert min(filter(None, heights)) > 60


def test_a_dozen_pictures_and_four_backbones_stay_below_five_megabytes(chromium, tmp_path):
    names = tuple(f"photograph {number}.jpg" for number in range(12))
    seen = looks.look(names, ("a", "b", "c", "d"), grid=(32, 32), dims=384, size=(448, 448), tracks=False, heads=6)
    path = tmp_path / "page.html"
    path.write_text(html_of(seen), encoding="utf-8")
    assert path.stat().st_size < 5e6
    with chromium.page(path) as page:
        page.wait_for_selector("#similarity canvas")
        assert page.evaluate("performance.now()") < 5000
