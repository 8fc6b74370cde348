"""The shipped tables of papers: every published number has its place, and no backbone stands for another."""

from __future__ import annotations

import functools

import pytest
from claims import claims, published

from densebench.backbones.backbone import IMAGENET_MEAN, IMAGENET_STD
from densebench.tables.shipped import shipped, shipped_files
from densebench.tables.table_file import read_table
from densebench.torchvision_ops import make_importable

NAMES = list(shipped())
PAPERS = {
    "cribo": range(1, 8), "croc": range(1, 7), "flsl": range(1, 7), "neco": range(1, 11), "insid3": ["readme"],
    "lost": ["readme"], "tokencut": ["readme"],
}  # fmt: skip
HEAVY = ('protocol = "segmenter"', 'protocol = "detection"')
"""Protocols that import MMSegmentation or a detector."""

table = functools.cache(read_table)


def text(name):
    return shipped_files()[name].read_text(encoding="utf-8")


def test_every_table_of_these_papers_is_shipped_under_its_own_name():
    assert {f"{paper}-{number}" for paper, numbers in PAPERS.items() for number in numbers} <= set(NAMES)
    for name in NAMES:
        assert table(name).published.casefold() == name.replace("-", ":", 1)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if any(map(text(name).count, HEAVY)) else ()) for name in NAMES]
)
def test_every_published_number_is_claimed_once(name):
    numbers = published(str(table(name).published))
    counts = claims(table(name), numbers)
    assert len(numbers)
    wrong = numbers.assign(claimed=[counts[index] for index in numbers.index])
    wrong = wrong[wrong.claimed != 1]
    assert wrong.empty, wrong[["method", "pretrain_data", "dataset", "setting", "claimed"]].to_string()


@pytest.mark.parametrize("name", NAMES)
def test_what_is_missing_is_published(name):
    numbers = published(str(table(name).published))
    for entry in table(name).missing:
        for row in entry.row if isinstance(entry.row, list) else [entry.row]:
            assert all((numbers[column] == value).any() for column, value in row.items())


def test_no_architecture_is_scored_with_weights_of_timm():
    for name in NAMES:
        for backbone in table(name).backbones:
            assert backbone.weights or not backbone.spec.startswith("timm:"), f"{name}: {backbone.name}"


def test_one_file_of_weights_is_the_same_thing_in_every_table():
    facts: dict[str, set[tuple[str | None, ...]]] = {}
    for each in (each for name in NAMES for each in table(name).backbones if each.weights):
        facts.setdefault(each.weights, set()).add((each.spec, each.url, each.sha256, each.role))
    assert all(len(kinds) == 1 for kinds in facts.values()), {file: kinds for file, kinds in facts.items() if len(kinds) > 1}
    urls = [next(iter(kinds))[1] for kinds in facts.values()]
    assert all(url is None or url.startswith("https://") for url in urls)


def test_every_file_of_weights_is_read_with_the_colours_that_it_was_trained_with():
    make_importable()
    timm = pytest.importorskip("timm")
    specs = {each.spec for name in NAMES for each in table(name).backbones}
    names = {spec.removeprefix("timm:") for spec in specs if spec.startswith("timm:")}
    assert names
    for name in names:
        config = timm.get_pretrained_cfg(name)
        assert (config.mean, config.std) == (IMAGENET_MEAN, IMAGENET_STD), name


@pytest.mark.parametrize("name", NAMES)
def test_a_table_says_at_its_head_what_it_is_and_what_differs(name):
    head = text(name).partition("\ntitle")[0]
    assert head.startswith("# ")
    assert "\n# Table " in head
    assert len(head.splitlines()) >= 5
