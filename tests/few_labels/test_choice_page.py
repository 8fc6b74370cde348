"""The page of a recommendation: it says what the result says, and holds no markup of the user's."""

import re

import pytest
from browser import NARROW, WIDE, chromium

from densebench.features.cost import Cost
from densebench.few_labels.choice import Choice
from densebench.few_labels.comparison import Comparison, Difference, Standing
from densebench.few_labels.drawings import Axis, ticks
from densebench.few_labels.learning_curve import Curve, Forecast, Law

__all__ = ["chromium"]
NAMES = ('A <script>alert("x")</script>', "B's 'quoted' & very " + "long " * 12 + "name", "ü ViT-S/14")


@pytest.fixture
def choice():
    """Three backbones with names that would break a careless page."""
    behind = (None, Difference(0.7, -0.4, 1.9), Difference(6.0, 4.0, 8.0))
    standings = tuple(
        Standing(name, 40 - 3 * i, 37 - 3 * i, 43 - 3 * i, {"sky": 80.0}, behind[i], (0, 40, 0)[i])
        for i, name in enumerate(NAMES)
    )
    comparisons = tuple(
        Comparison(protocol, "preset", standings, 9.0, Difference(31, 28, 34), 90) for protocol in ("incontext", "linear")
    )
    forecasts = (Forecast(30, 1.9, 0.8, 3.1), Forecast(60, 2.9, 1.0, 4.9))
    curves = {
        NAMES[0]: Curve((3, 6, 12, 24), (30.0, 34.0, 37.0, 40.0), ((28, 32),) * 4, Law(50, 40, 0.5), forecasts),
        NAMES[1]: Curve((6, 12, 24), (33.0, 36.0, 39.3), ((28, 32),) * 3, why="the scores lie on no <smooth> curve"),
        NAMES[2]: Curve((3, 24), (30.0, 34.0), ((28, 32),) * 2, why="few"),
    }
    costs = {name: Cost(224, 384, 14, 22_000_000, 10.0 * (i + 1), 11.0, 84.0) for i, name in enumerate(NAMES)}
    return Choice(
        "folder:<b>photos</b>", "<b>photos</b>", 30, 28, 5, "224 px", "cpu (2 threads)", comparisons, costs, curves,
        f"Take {NAMES[0]}; it is <i>good</i>.", ("A note with <em>.",), command="densebench choose '<x>'",
    )  # fmt: skip


def test_the_page_says_the_sentence_first(choice):
    page = choice.page()
    assert "Take A &lt;script&gt;" in page
    assert page.index("Take A") < page.index("<h2")


def test_what_the_user_gave_is_never_markup(choice):
    page = choice.page()
    for markup in ("<script>alert", "<i>good", "<em>.", "<b>photos", "<x>", "<smooth>"):
        assert markup not in page


def test_every_number_of_the_tables_is_there(choice):
    page = choice.page()
    for text in ("40.0", "37.0 to 43.0", "-0.4 to 1.9", "separable", "30 more: +1.9 [+0.8, +3.1]", "84"):
        assert text in page, text


def test_drawings_say_what_is_seen(choice):
    said = re.findall(r'<svg role="img" aria-label="([^"]+)"', choice.page())
    assert len(said) == 8
    assert "0.7 (-0.4 to 1.9)" in said[0] and "30 images a second" in said[4] and "37.0 with 12" in said[6]


def test_an_axis_by_hand():
    assert Axis(0, 10, 100, 200)(2.5) == 125 and Axis(1, 100, 0, 100, log=True)(10) == 50
    assert Axis(0, 10, 100, 200)(99) == 200


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3.2, 17.9), (28.1, 31), (0, 95), (12.3, 12.4)])
def test_ticks_are_a_handful_of_round_numbers_inside(low, high):
    found = ticks(low, high)
    assert 4 <= len(found) <= 10 and all(low - 1e-6 <= value <= high + 1e-6 for value in found)


def test_a_notebook_shows_escaped_tables(choice):
    shown = choice._repr_html_()
    assert "&lt;script&gt;" in shown and "<script>" not in shown and "<em>" not in shown


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_axe_finds_nothing(chromium, choice, tmp_path, width, dark):
    path = tmp_path / "choice.html"
    path.write_text(choice.page(), encoding="utf-8")
    with chromium.page(path, width, dark=dark) as page:
        assert chromium.violations(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
