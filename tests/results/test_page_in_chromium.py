"""The page of the leaderboard and of the report in a real browser: read, sorted, filtered, searched and enlarged by keyboard."""

import pytest
from browser import NARROW, WIDE, chromium
from made_pages import HOSTILE, made, measured

from densebench.results.html import page as page_of
from densebench.results.tables import Block, Section

__all__ = ["chromium"]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    file = tmp_path_factory.mktemp("page") / "page.html"
    file.write_text(made({"record0": "records/record0.json"}), encoding="utf-8")
    return file


def names(page, table=0):
    """The names of the rows of a table that are seen, from above."""
    rows = page.locator("table.sortable").nth(table).locator("tbody th")
    return [rows.nth(index).inner_text() for index in range(rows.count()) if rows.nth(index).is_visible()]


def titles(page):
    """The titles of the tables that are seen."""
    return [each.inner_text() for each in page.locator("article h3").all() if each.is_visible()]


def sort(page, heading, table=0):
    page.locator("table.sortable").nth(table).get_by_role("button", name=heading, exact=True).click()


def choose(page, filter, choice):
    page.locator(f".choice[data-name={filter}] summary").click()
    page.locator(f".choice[data-name={filter}]").get_by_label(choice, exact=True).check()
    page.keyboard.press("Escape")


def search(page, words):
    page.get_by_role("searchbox").fill(words)
    page.get_by_role("searchbox").press("Enter")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_axe_finds_nothing(chromium, path, width, dark):
    with chromium.page(path, width, dark=dark) as page:
        assert chromium.violations(page) == []
        page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        assert chromium.violations(page) == []


@pytest.mark.parametrize("script", [False, True])
def test_nothing_is_wider_than_a_telephone(chromium, path, script):
    with chromium.page(path, NARROW, script=script) as page:
        for each in page.locator("details > summary").all():
            if each.is_visible():
                each.click()
        body = page.locator("body").bounding_box()
        assert body["width"] <= NARROW
        if script:
            assert page.evaluate("document.documentElement.scrollWidth") <= NARROW


def test_the_name_stays_when_a_table_is_scrolled(chromium, path):
    with chromium.page(path, NARROW) as page:
        scroll = page.locator(".scroll").first
        scroll.evaluate("(each) => { each.scrollLeft = 300; }")
        name, box = page.locator("tbody th").first.bounding_box(), scroll.bounding_box()
        assert name["x"] == pytest.approx(box["x"], abs=1)


def test_without_script_everything_is_there_and_no_control_is_dead(chromium, path):
    with chromium.page(path, script=False) as page:
        assert page.get_by_role("button").count() == 0
        assert page.get_by_role("searchbox").count() == 0
        assert len(titles(page)) == 3 and len(names(page)) == 5
        page.locator("summary", has_text="Reproduce these numbers").first.click()
        assert page.get_by_text("densebench eval --backbone '1'").first.is_visible()
        page.locator("summary", has_text="Pictures").click()
        assert page.locator(".gallery img").first.is_visible()
        assert page.locator("#term-rank").is_visible()


def test_no_name_does_any_harm(chromium, path):
    with chromium.page(path) as page:
        assert page.title() == "A page"
        assert HOSTILE in names(page)
        choose(page, "backbone", HOSTILE)
        assert names(page) == [HOSTILE]


def test_a_data_set_and_a_protocol_of_any_name_are_filtered(chromium, tmp_path):
    sections = [Section(f"{HOSTILE} val", [Block(measured(HOSTILE, HOSTILE))]), Section("voc val", [Block(measured(of="other"))])]
    (tmp_path / "page.html").write_text(page_of("A page", "", sections), encoding="utf-8")
    with chromium.page(tmp_path / "page.html") as page:
        choose(page, "dataset", HOSTILE)
        choose(page, "protocol", f"{HOSTILE}/plain")
        assert titles(page) == [f"{HOSTILE}/plain"]
        assert page.locator(".contents a:visible").all_inner_texts() == [f"{HOSTILE} val", f"{HOSTILE}/plain", "Glossary"]
        assert chromium.violations(page) == []


def test_numbers_are_sorted_as_numbers_best_first_then_worst_first_then_as_they_were(chromium, path):
    with chromium.page(path) as page:
        original = names(page)
        heading = page.locator("table.sortable").first.get_by_role("columnheader", name="1/1", exact=True)
        sort(page, "1/1")
        assert names(page) == ["ten", "nine", HOSTILE, "minus", "none"]  # 9.04 before 9.0, which both read 9.0
        assert heading.get_attribute("aria-sort") == "descending"
        sort(page, "1/1")
        assert names(page) == ["minus", HOSTILE, "nine", "ten", "none"]  # what has no value stays last
        assert heading.get_attribute("aria-sort") == "ascending"
        assert page.get_by_text("Sorted by 1/1, ascending.").count() == 1
        sort(page, "1/1")
        assert names(page) == original
        assert heading.get_attribute("aria-sort") is None


def test_equal_rows_keep_their_order_and_only_one_column_says_that_it_is_sorted(chromium, path):
    with chromium.page(path) as page:
        sort(page, "1/1")
        sort(page, "width")
        assert names(page) == ["minus", "none", HOSTILE, "nine", "ten"]  # 8, 8, 64, 384, 768
        assert page.locator("[aria-sort]").count() == 1


def test_costs_are_sorted_from_the_least_and_can_be_hidden(chromium, path):
    with chromium.page(path) as page:
        sort(page, "minutes")
        assert names(page) == [HOSTILE, "nine", "ten", "minus", "none"]
        page.get_by_label("Costs").uncheck()
        assert not page.locator("td.cost").first.is_visible()
        page.get_by_label("Costs").check()
        assert page.locator("td.cost").first.is_visible()


def test_filters_combine(chromium, path):
    with chromium.page(path) as page:
        choose(page, "dataset", "voc")
        assert titles(page) == ["incontext/plain", "linear/plain"]
        choose(page, "protocol", "incontext/plain")
        assert titles(page) == ["incontext/plain"]
        choose(page, "backbone", "nine")
        choose(page, "backbone", "minus")
        assert names(page) == ["nine", "minus"]
        assert page.locator(".count").inner_text() == "2 of 15 rows in 1 of 3 tables"
        page.locator("summary", has_text="Pictures").click()
        assert page.locator(".gallery figure:visible").count() == 4  # of two images
        page.locator("summary", has_text="Classes").click()
        columns = page.locator("table.sortable").nth(1).locator("thead th:visible")
        assert [name.split("\n")[0] for name in columns.all_inner_texts()] == ["class", "nine", "minus"]
        page.get_by_role("button", name="Show all").click()
        page.get_by_text("15 of 15 rows in 3 of 3 tables").wait_for()
        assert page.locator(".gallery figure:visible").count() == 10


def test_show_all_restores_the_order(chromium, path):
    with chromium.page(path) as page:
        original = names(page)
        sort(page, "1/1")
        page.get_by_role("button", name="Show all").click()
        page.wait_for_function("document.querySelector('[aria-sort]') === null")
        assert names(page) == original


def test_search_finds_rows_by_all_words_of_the_row_and_its_table(chromium, path):
    with chromium.page(path) as page:
        search(page, "ADE20K ten")
        assert page.locator(".count").inner_text() == "1 of 15 rows in 1 of 3 tables"
        assert page.locator(".contents a:visible").all_inner_texts() == ["ade20k val", "incontext/plain", "Glossary"]
        search(page, "fourth note")  # a folded note: its tables show, and what holds it opens
        assert len(titles(page)) == 3
        assert page.get_by_text("fourth note").first.is_visible()
        search(page, "nothing like that")
        assert page.get_by_text("Nothing on this page matches.").is_visible()
        search(page, "")
        assert page.locator(".count").inner_text() == "15 of 15 rows in 3 of 3 tables"


def test_a_table_is_sorted_by_keyboard(chromium, path):
    with chromium.page(path) as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
        page.locator(".scroll").first.focus()
        for _ in range(12):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.textContent") == "1/1":
                break
        page.keyboard.press("Enter")
        assert names(page)[0] == "ten"
        assert page.evaluate("document.activeElement.textContent") == "1/1"  # the focus stays


def test_a_term_is_explained_on_focus_until_escape(chromium, path):
    with chromium.page(path) as page:
        term = page.get_by_role("link", name="What rank means").first
        term.focus()
        tip = page.get_by_role("tooltip")
        assert "separably better" in tip.inner_text()
        assert term.get_attribute("aria-describedby") == tip.get_attribute("id")
        page.keyboard.press("Escape")
        assert not tip.is_visible()
        assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "What rank means"


def test_without_script_a_term_leads_to_the_glossary(chromium, path):
    with chromium.page(path, script=False) as page:
        page.get_by_role("link", name="What rank means").first.click()
        assert page.url.endswith("#term-rank")


def test_pictures_enlarge_by_keyboard_and_the_focus_returns(chromium, path):
    with chromium.page(path) as page:
        page.locator("summary", has_text="Pictures").click()
        first = page.get_by_role("button", name="Enlarge: street as nine sees it", exact=True)
        first.focus()
        page.keyboard.press("Enter")
        dialog = page.get_by_role("dialog")
        assert dialog.get_by_role("img").get_attribute("alt") == "street as nine sees it"
        page.keyboard.press("ArrowRight")
        assert dialog.get_by_role("img").get_attribute("alt") == "street as ten sees it"
        assert "2 of 10" in dialog.inner_text()
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("ArrowLeft")
        assert dialog.get_by_role("img").get_attribute("alt") == "field as none sees it"
        page.keyboard.press("Escape")
        assert not dialog.is_visible()
        assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Enlarge: street as nine sees it"


def test_a_link_to_a_command_unfolds_it(chromium, path):
    with chromium.page(path) as page:
        page.locator("td.record a", has_text="record1").first.click()
        assert page.get_by_text("densebench eval --backbone '1'").first.is_visible()


def test_a_command_is_copied_or_selected(chromium, path):
    with chromium.page(path) as page:
        page.locator("summary", has_text="Reproduce these numbers").first.click()
        page.get_by_role("button", name="Copy the command").first.click()
        page.wait_for_function("/Copied|Selected/.test(document.querySelector('button.copy').textContent)")


def test_on_paper_everything_is_unfolded_and_black_on_white(chromium, path):
    with chromium.page(path, dark=True) as page:
        page.emulate_media(media="print")
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.get_by_text("fifth note").first.is_visible()
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert not page.locator("form.tools").is_visible()
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert page.locator("main details[open]").count() == 1  # the contents
