"""Records of corrupted images say so wherever they are shown, and compare with no clean or published number."""

from __future__ import annotations

import pytest
from drawn_parts import DATA, SIDE

import densebench
from densebench.console import one_line
from densebench.errors import UserError
from densebench.results import coverage
from densebench.results.comparable import reasons
from densebench.results.leaderboard import leaderboard
from densebench.results.summary import summary

CALL = {
    "protocol": "incontext", "dataset": DATA, "image_size": SIDE, "augment_epochs": 0, "neighbours": 3,
    "device": "cpu", "workers": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("corrupted")


@pytest.fixture(scope="module")
def records(folder):
    """A record of clean and one of foggy images."""
    results = [densebench.evaluate("pixels:8", results=folder, corrupt=corrupt, **CALL) for corrupt in (None, "fog:5")]
    return [result.records[0] for result in results]


def test_the_record_has_the_corruption_and_another_group(records):
    clean, foggy = (record["dataset"] for record in records)
    assert foggy["corruption"] == "fog:5" and foggy["corrupted_at"] == "native size" and "corruption" not in clean
    assert records[0]["group"] != records[1]["group"] and clean["digest"] != foggy["digest"]


def test_what_eval_prints_says_it(records):
    assert "(8 images corrupted by fog:5)" in summary(records[1]) and "corrupted" not in summary(records[0])


def test_captions_say_it_and_that_published_numbers_do_not_compare(records, folder):
    captions = [table.caption for table in leaderboard(folder).tables]
    [foggy] = [caption for caption in captions if "corrupted" in caption]
    assert "(8 images corrupted by fog:5)" in foggy and coverage.WARNING in foggy
    assert len(captions) == 2


def test_the_reason_why_two_records_do_not_compare_is_the_corruption(records):
    assert reasons(*records) == ["the images of A are corrupted by nothing, those of B by fog:5"]


def test_a_corrupted_split_is_not_whole(records):
    assert coverage.partial(records[1]["dataset"]) and not coverage.partial(records[0]["dataset"])
    assert one_line(coverage.images(records[1]["dataset"])) == "8 images corrupted by fog:5"


def test_training_images_that_are_scored_too_are_counted_in_a_notice(folder, capsys):
    densebench.evaluate("pixels:8", results=folder, corrupt="contrast", dry_run=True, **{**CALL, "train_split": "val"})
    assert "8 training images of parts are scored too: they are corrupted in both places" in capsys.readouterr().err


def test_an_unknown_corruption_ends_the_call_before_anything_is_done(folder):
    with pytest.raises(UserError, match="unknown corruption 'frog'"):
        densebench.evaluate("pixels:8", results=folder, corrupt="frog", **CALL)
