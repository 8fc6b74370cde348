"""A protocol that takes pairs of keypoints is checked on drawn ones, and its records say how many it scored."""

from __future__ import annotations

from pathlib import Path

import matching
import pytest
from planted import first_failed

from densebench.conformance.protocols import check_protocol
from densebench.evaluation.run import evaluate
from densebench.results.coverage import images
from densebench.results.showing import dataset_facts, marks_of
from densebench.results.summary import summary

FILE = str(Path(matching.__file__))


def test_the_oracle_is_right_on_drawn_pairs_and_noise_is_at_chance():
    checks = {}
    for check in check_protocol(FILE):
        checks[check.name] = check.message
        if check.name == "noise":
            break
    assert "pck (points): 100 %" in checks["oracle"] and "at chance" in checks["noise"]


@pytest.mark.slow
def test_a_protocol_that_matches_passes_all_checks():
    assert first_failed(check_protocol(FILE)) == ("", "")


def test_a_protocol_that_guesses_by_the_place_is_found_out(tmp_path):
    matched = "(source[cells[:, 1], cells[:, 0]] @ target.flatten(0, 1).T).argmax(1).numpy()"
    text = Path(FILE).read_text()
    assert matched in text
    (tmp_path / "mine.py").write_text(text.replace(matched, "cells[:, 1] * columns + cells[:, 0]"))
    found, _ = first_failed(check_protocol(str(tmp_path / "mine.py")))
    assert found == "oracle"


def test_a_record_says_how_many_pairs_and_keypoints_were_scored(tmp_path):
    [record] = evaluate("pixels:16", FILE, "scenes-keypoints", results=tmp_path).records
    assert {key: record["dataset"][key] for key in ("images", "pairs", "official_pairs", "keypoints", "keypoints_outside")} == {
        "images": 32, "pairs": 96, "official_pairs": 96, "keypoints": 469, "keypoints_outside": 0,
    }  # fmt: skip
    assert "on scenes-keypoints (96 pairs of 32 images), matching" in summary(record)
    assert ("keypoints", "469") in dataset_facts(record["dataset"])


def test_a_limit_counts_pairs(tmp_path):
    [record] = evaluate("pixels:16", FILE, "scenes-keypoints", results=tmp_path, limit=5).records
    assert images(record["dataset"]) == "5 of 96 pairs, of 10 images"
    assert any("cut to 5 pairs of each split" in mark for mark in marks_of(record))


@pytest.mark.parametrize("dataset", ["scenes", "voc"])
def test_data_without_pairs_are_refused(dataset):
    with pytest.raises(
        Exception, match=r"has label maps; .* takes keypoint pairs: animal-pose, ap10k, pf-pascal, scenes-keypoints"
    ):
        evaluate("pixels:16", FILE, dataset, dry_run=True)
