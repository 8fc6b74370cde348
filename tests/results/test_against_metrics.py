"""Which measured metrics stand beside the papers' detection and video numbers."""

from __future__ import annotations

import pytest
from published_records import record

from densebench.results.against import against
from densebench.results.agreement import metric_names


def measured(reference, made, scores):
    """The published metrics beside which scores {(metric, variant): value} of a record stand, and the notes of the table."""
    [first] = made["scores"]
    made["scores"] = [
        {**first, "metric": metric, "variant": variant, "value": value} for (metric, variant), value in scores.items()
    ]
    board = against([made], reference, {"mine": {"method": "FLSL", "backbone": "ViT-S/16"}})
    lines = board.comparison[board.comparison.measured.notna()]
    return dict(zip(lines.metric, lines.measured, strict=True)), board.tables[0].notes


def test_precision_of_boxes_and_of_masks_are_told_apart():
    made = record("mine", {(): 44.0}, protocol="detection", of="flsl", dataset="coco-boxes", variant="box")
    made["protocol"]["headline"]["metric"] = "ap"
    scores = {("ap", "box"): 44.0, ("ap50", "box"): 66.0, ("ap", "mask"): 40.0, ("ap75", "mask"): 44.1, ("ap_small", "box"): 9.0}
    found, _ = measured("flsl:1", made, scores)
    assert found == {"ap_bbox": 44.0, "ap50_bbox": 66.0, "ap_mask": 40.0, "ap75_mask": 44.1}


def test_the_means_of_videos():
    made = record("mine", {(): 60.0}, protocol="vos", of="dino", dataset="davis2017", variant="official")
    scores = {("jf_mean", "official"): 65.0, ("j_mean", "official"): 62.0, ("j_recall", "official"): 80.0}
    assert measured("flsl:4", made, scores)[0] == {"jf_mean": 65.0, "j_mean": 62.0}


def test_a_k_that_the_paper_does_not_say_leaves_the_cell_empty():
    made = record("mine", {(("k", 20),): 70.0}, protocol="bbox-knn", of="flsl", dataset="imagenet-boxes", variant="any-patch")
    board = against(
        [{**made, "scores": [{**made["scores"][0], "metric": "top1"}]}], "flsl:6", {"mine": {"setting": "centroids=4096"}}
    )
    assert board.comparison.measured.isna().all()
    assert any("the paper does not say which k: 10 or 20 or 100 or 200" in note for note in board.tables[0].notes)


@pytest.mark.parametrize(
    ("metric", "variant", "headline", "names"),
    [
        ("miou", "identity", "identity", {"miou", "miou_identity"}),
        ("miou", "hungarian", "identity", {"miou_hungarian"}),
        ("ap_large", "mask", "box", {"ap_mask_large"}),
        ("ap", "class-agnostic", "class-agnostic", {"ap", "ap_voc"}),
    ],
)
def test_names_of_metrics(metric, variant, headline, names):
    assert metric_names(metric, variant, headline) == names
