"""The glossary: words that explain headings of tables, on pages and in the documentation."""

import pytest

from densebench.pages.glossary import markdown, term_of, terms


@pytest.mark.parametrize(
    ("heading", "term"),
    [("1/128", "fraction"), ("1/8, K 21", "fraction"), ("K 300", "K"), ("95 % at K 300", "interval"), ("kJ", "cost columns"),
     ("identity mIoU in %", "identity and Hungarian mIoU"), ("rank", "rank")],
)  # fmt: skip
def test_headings_have_a_term(heading, term):
    assert term_of(heading).name == term


def test_a_heading_that_nothing_explains_has_no_term():
    assert term_of("a backbone of mine") is None


def test_terms_stand_once_in_the_order_of_the_alphabet_and_lead_to_different_places():
    names = [term.name for term in terms()]
    assert names == ["±", *sorted(names[1:], key=str.casefold)]
    assert len({term.anchor for term in terms()}) == len(names)


def test_the_text_of_a_term_is_html_without_its_links():
    [layer] = [term for term in terms() if term.name == "layer"]
    assert "see Score my model." in str(layer.html())
    [positions] = [term for term in terms() if term.name == "positions"]
    assert "<code>antialias</code>" in str(positions.html())


def test_the_documentation_lists_every_term():
    lines = markdown().splitlines()
    assert lines[0] == "```{glossary}" and lines[-1] == "```"
    assert [line for line in lines[1:-1] if line and not line.startswith(" ")] == [term.name for term in terms()]
