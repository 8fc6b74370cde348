"""Pages that renew themselves, in a real browser: the page of a run and of a table's work."""

import re

import pytest
from browser import NARROW, WIDE, chromium
from run_folders import made
from toy_cells import toy

from densebench.tables import page as tables
from densebench.tables.states import TableFolder, states
from densebench.training.page import write_page

__all__ = ["chromium"]
pytestmark = pytest.mark.slow
PICTURES = ("clusters-00000008.png", "clusters-00000016.png", "clusters-00000024.png", "matches-00000024.png")


@pytest.fixture
def run(tmp_path):
    folder = made(tmp_path / "a run", pictures=PICTURES)
    (folder / "warnings.txt").write_text("step 3: the loss is not finite\n")
    return folder


@pytest.fixture
def table(tmp_path):
    """Return the page of a table with a cell that failed and one that waits."""
    folder = TableFolder(tmp_path / "results", "table")
    cells = [toy(folder, "1"), toy(folder, "2")]
    (folder.jobs / "a").mkdir(parents=True)
    log = folder.jobs / "a" / "log.err"
    log.write_text("a line\n" * 40)
    folder.note(cells[0], {"state": "failed", "started": "", "problem": "no such file", "log": str(log)})
    return tables.write_page("A table", states(cells, folder), folder)


def caption(page):
    return page.locator("figure.shown figcaption").first.inner_text()


def picture(page):
    return page.locator("figure.shown img").first


def decoded(page):
    """Return width, height and name of the first picture, once the browser has decoded it."""
    return picture(page).evaluate(
        "image => image.decode().then(() => [image.naturalWidth, image.naturalHeight, image.currentSrc.split('/').pop()])"
    )


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_axe_finds_nothing_on_the_page_of_a_run(chromium, run, width, dark):
    with chromium.page(write_page(run, "running"), width, dark=dark) as page:
        page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
        assert chromium.violations(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_axe_finds_nothing_on_the_page_of_a_table(chromium, table, width, dark):
    with chromium.page(table, width, dark=dark) as page:
        page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
        assert chromium.violations(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") == width


def test_the_slider_is_moved_by_keys_and_changes_picture_and_caption(chromium, run):
    with chromium.page(write_page(run)) as page:
        assert caption(page) == "clusters, step 24, epoch 3"
        page.get_by_label("Drawn after").focus()
        page.keyboard.press("ArrowLeft")
        assert caption(page) == "clusters, step 16, epoch 2"
        assert decoded(page) == [40, 20, "clusters-00000016.png"]
        assert "after step 16" in picture(page).get_attribute("alt")
        page.keyboard.press("Home")
        assert decoded(page) == [40, 20, "clusters-00000008.png"]
        assert not page.locator("figure.shown").nth(1).is_visible()  # there are no matches yet


def test_without_script_the_newest_pictures_and_links_are_there(chromium, run):
    with chromium.page(write_page(run), script=False) as page:
        assert picture(page).get_attribute("src") == "pictures/clusters-00000024.png"
        assert not page.get_by_label("Drawn after").is_visible()
        assert page.locator("button:visible").count() == 0
        page.get_by_text("All pictures as files").click()
        assert page.get_by_role("link", name="step 8, epoch 1").is_visible()


@pytest.mark.parametrize("script", [True, False])
def test_the_page_of_a_run_that_goes_on_opens_itself_anew_and_stops_when_it_is_finished(chromium, run, script, monkeypatch):
    monkeypatch.setattr("densebench.training.page.EVERY", 1.0)
    with chromium.page(write_page(run, "running"), script=script) as page:
        write_page(run, "finished")
        page.get_by_text("The training is complete.").wait_for(timeout=10_000)
        (run / "index.html").write_text("gone")
        page.wait_for_timeout(2500)
        assert page.get_by_text("The training is complete.").is_visible()


def test_a_new_page_keeps_the_place_the_choice_and_the_theme(chromium, run, monkeypatch):
    monkeypatch.setattr("densebench.training.page.EVERY", 1.0)
    with chromium.page(write_page(run, "running"), NARROW) as page:
        page.get_by_role("button", name="Dark").click()
        page.get_by_label("Drawn after").focus()
        page.keyboard.press("ArrowLeft")
        page.get_by_text("Schedules, speed and failures").click()
        page.get_by_label("Drawn after").focus()
        page.evaluate("scrollTo(0, 700)")
        before = page.get_by_role("heading", name="Curves").bounding_box()["y"]
        write_page(run, "finished")
        page.get_by_text("The training is complete.").wait_for(state="attached", timeout=10_000)
        assert caption(page) == "clusters, step 16, epoch 2"
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"
        assert page.get_by_role("button", name="Light").count() == 1
        assert page.evaluate("document.querySelectorAll('details[open]').length") == 1
        assert page.evaluate("document.activeElement.id") == "moment"
        assert page.get_by_role("heading", name="Curves").bounding_box()["y"] == pytest.approx(before, abs=2)


def test_a_pause_holds_the_page(chromium, run, monkeypatch):
    monkeypatch.setattr("densebench.training.page.EVERY", 1.0)
    with chromium.page(write_page(run, "running")) as page:
        page.get_by_role("button", name="Pause").click()
        write_page(run, "finished")
        page.wait_for_timeout(2500)
        assert page.get_by_text("The training is running.").is_visible()
        page.get_by_role("button", name="Resume").click()
        page.get_by_text("The training is complete.").wait_for(timeout=10_000)


def test_a_run_that_has_ended_without_a_word_is_named(chromium, run):
    path = write_page(run, "running")
    path.write_text(re.sub(r"CHANGED = \d+", "CHANGED = 1000", path.read_text()))
    with chromium.page(path) as page:
        page.get_by_text("the process may have been killed").wait_for(timeout=5000)
