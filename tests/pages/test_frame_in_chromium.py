"""The frame of every page, in a real browser."""

import pytest
from browser import NARROW, WIDE, chromium

from densebench.pages.page import render

__all__ = ["chromium"]
pytestmark = pytest.mark.slow


@pytest.fixture
def frame(tmp_path):
    path = tmp_path / "page.html"
    path.write_text(render("frame.html", room="densebench.pages", title="A page <b> & more"), encoding="utf-8")
    return path


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_axe_finds_nothing(chromium, frame, width, dark):
    with chromium.page(frame, width, dark=dark) as page:
        assert chromium.violations(page) == []


def test_the_button_turns_a_light_page_dark(chromium, frame):
    with chromium.page(frame) as page:
        before = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.get_by_role("button", name="Dark").click()
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before
        assert page.get_by_role("button", name="Light").is_visible()


def test_without_script_the_title_shows_and_no_dead_button(chromium, frame):
    with chromium.page(frame, script=False) as page:
        assert page.get_by_role("heading", level=1).inner_text() == "A page <b> & more"
        assert page.get_by_role("button").count() == 0
