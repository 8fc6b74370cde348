"""A protocol of one's own labels images: the example of the documentation."""

from __future__ import annotations

from pathlib import Path

import drawn_parts
import pytest
import torch

import densebench
from densebench import catalog
from densebench.evaluation.labelling import counted

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "class_means.py"


def test_an_own_protocol_labels_images_by_features_that_show_their_classes():
    data, val = drawn_parts.DATA, drawn_parts.DATA.items("val")
    found = dict(
        densebench.iter_segment(
            [data.image(item) for item in val], data, drawn_parts.seeing(), str(EXAMPLE), image_size=drawn_parts.SIDE
        )
    )
    for item, labels in zip(val, found.values(), strict=True):
        truth = data.label(item)
        known = truth != data.ignore_index
        assert labels.shape == truth.shape
        assert (labels == truth)[known].mean() > 0.8


def test_its_record_counts_the_pixels_of_its_label_maps(tmp_path):
    data, backbone = drawn_parts.DATA, drawn_parts.seeing()
    evaluator = catalog.load("protocols", str(EXAMPLE))(image_size=drawn_parts.SIDE).resolve(data)
    learned = evaluator.learn(backbone, data, data.items("train"))
    val = data.items("val")
    total = counted(learned, val).confusion([item.name for item in val])
    result = densebench.evaluate(backbone, str(EXAMPLE), data, image_size=drawn_parts.SIDE, results=tmp_path)
    accuracy = result.frame.query("metric == 'pixel_accuracy'").value.item()
    assert accuracy == pytest.approx(100 * float(torch.diagonal(total[0]).sum() / total.sum()))
