"""The page of a look, as HTML."""

import itertools
import re
from dataclasses import replace
from html.parser import HTMLParser

import looks
import pytest

from densebench.looking.page import page

KINDS = ("colours", "similarity", "neighbours", "clusters", "attention", "norms", "tracks")
HOSTILE = ("<script>alert(1)</script>", "\"quoted\" & 'single'", "</style></script>", "\U0001f42b camel", "x" * 200)


class Parsed(HTMLParser):
    """Elements with their attributes, and all text outside of style and script."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.text, self.inside = [], "", []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag in ("style", "script"):
            self.inside.append(tag)

    def handle_endtag(self, tag):
        if self.inside and self.inside[-1] == tag:
            self.inside.pop()

    def handle_data(self, data):
        if not self.inside:
            self.text += data

    def named(self, tag):
        return [attributes for each, attributes in self.elements if each == tag]

    def words(self):
        """What a reader without eyes is told of pictures."""
        return [each.get("alt") or each.get("aria-label") or "" for _, each in self.elements]


@pytest.fixture(scope="module")
def seen():
    return looks.look()


@pytest.fixture(scope="module")
def html(seen):
    return page(seen)


@pytest.fixture(scope="module")
def parsed(html):
    return Parsed(html)


def test_every_kind_has_a_section(parsed):
    assert [each["id"] for each in parsed.named("section") if each.get("class") == "kind"] == list(KINDS)


def test_colours_come_first_of_all_maps(html):
    assert html.index('id="colours"') < html.index('id="similarity"')


@pytest.mark.parametrize("kind", ["PCA colours of", "K-means clusters in", "Token norms of"])
def test_each_backbone_has_a_map_of_each_picture(parsed, seen, kind):
    for backbone in ("trained", "random"):
        for picture in seen.pictures:
            assert any(kind in alt and picture.name in alt and f"by {backbone}" in alt for alt in parsed.words())


def test_every_query_has_a_static_map_of_every_backbone(parsed):
    for backbone in ("trained", "random"):
        for number in (1, 2):
            wanted = f"Cosine of query patch {number} of two.jpg with every patch of it by {backbone}"
            assert parsed.words().count(wanted) == 1


def test_near_patches_say_where_they_are_and_how_near(parsed, seen):
    near = seen.backbones[0].views[0].neighbours[0][0]
    name = seen.pictures[near.picture].name
    wanted = f"Nearest patch by trained: row {near.row + 1}, column {near.column + 1} of {name}, cosine {near.cosine:.2f}"
    assert wanted in parsed.words()


def test_a_backbone_without_class_token_says_so(parsed):
    assert "no class token" in parsed.text


def test_attention_is_left_out_where_no_backbone_has_a_class_token(seen):
    plain = replace(seen, backbones=(seen.backbones[1],))
    assert 'id="attention"' not in page(plain)


def test_a_failed_backbone_has_a_row_with_its_line(parsed):
    assert "its checkpoint lacks a tensor" in parsed.text
    assert not any("by broken" in alt for alt in parsed.words())


def test_a_look_whose_backbones_all_failed_is_a_page(seen):
    assert "its checkpoint lacks a tensor" in page(replace(seen, backbones=seen.backbones[-1:], tracks=()))


def test_figures_are_explained_and_have_their_source(parsed):
    assert "How many directions the features use." in parsed.text
    assert "Garrido et al., 2023" in parsed.text


def test_headings_of_the_table_lead_to_their_explanations(parsed):
    ids = {each["id"] for _, each in parsed.elements if "id" in each}
    links = [each["href"] for each in parsed.named("a")]
    assert {"#about-1", "#figure-1"} <= set(links)
    assert all(link[1:] in ids for link in links)


def test_a_figure_that_a_backbone_lacks_says_why(parsed):
    assert parsed.text.count("needs two pictures") == 2


def test_notes_size_and_command_stand_in_the_page(parsed):
    for words in ("3 of 20 pictures, chosen to differ.", "96 px", "densebench look photos --backbone timm:a"):
        assert words in parsed.text


def test_headings_are_in_order(parsed):
    levels = [int(tag[1]) for tag, _ in parsed.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_a_photograph_lies_in_the_page_once_for_all_sections(html, seen):
    assert html.count("data:image/webp") == len(seen.pictures) + 4  # and the frames of a video, two of each backbone


def test_nothing_comes_from_the_network(html):
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", html)
    assert not re.search(r"url\((?!data:)", html)


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_shown_and_never_run(name):
    html = page(looks.look((name, "b"), (name, "plain"), title=name, notes=(name,), command=name, problem=name))
    parsed = Parsed(html)
    assert len(parsed.named("script")) == 2
    assert f"PCA colours of {name} by {name}" in parsed.words()


def test_a_name_whose_bytes_are_no_text_can_be_written():
    assert page(looks.look(("\udcff.jpg", "b"))).encode("utf-8")


def test_one_picture_and_one_backbone():
    html = page(looks.look(("only.jpg",), ("one",), problem="", tracks=False))
    assert "1 picture as 1 backbone sees them" not in html
    assert "photos: 1 picture as 1 backbone sees it" in html


def test_backbones_of_one_name_keep_their_own_scales():
    named, twice = (looks.look(backbones=names, tracks=False) for names in (("a", "b"), ("a", "a")))
    images = [[each.get("src") for each in Parsed(page(seen)).named("img")] for seen in (named, twice)]
    assert images[0] == images[1]


def test_the_colours_of_the_first_pictures_stand_in_the_table(html, seen):
    table = html[html.index("<table") : html.index("</table>")]
    assert [alt for alt in Parsed(table).words() if "PCA" in alt] == [
        f"PCA colours of {picture.name} by {backbone}" for backbone in ("trained", "random") for picture in seen.pictures
    ]


def test_a_picture_without_queries_is_shown(seen):
    assert 'id="similarity"' in page(replace(seen, queries=((),) * len(seen.pictures)))


def test_backbones_of_other_strides_have_their_own_grids(seen):
    other = looks.look(backbones=("coarse",), grid=(3, 4)).backbones[0]
    assert "PCA colours of two.jpg by coarse" in Parsed(page(replace(seen, backbones=(*seen.backbones, other)))).words()


def test_the_same_look_gives_the_same_page(html):
    assert page(looks.look()) == html
