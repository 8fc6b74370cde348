"""The numbers of model cards and READMEs: how many of each, a few by hand, and what they may not stand beside."""

from __future__ import annotations

import pytest

from densebench import catalog
from densebench.results.published import load_published, tables
from densebench.results.published.layout import layouts
from densebench.results.published.references import of_reference

COUNTS = {
    "leopart": 3, "capi": 4, "franca": 10, "dinov3": 28, "dinov2": 4, "tips": 10, "pe": 10, "insid3": 8, "jafar": 16, "lost": 18,
    "tokencut": 27, "pixpro": 2,
}  # fmt: skip
BY_HAND = [
    ("lost", "DINO", "ViT-S/16", "discovery-lost", "voc2007", "corloc", "", "61.9"),
    ("lost", "supervised", "ResNet-50", "discovery-lost", "coco20k", "corloc", "", "25.5"),
    ("lost", "DINO + CAD", "ViT-S/16", "discovery-lost-cad", "voc2012", "corloc", "", "70.4"),
    ("tokencut", "DINO", "ViT-B/16", "discovery-tokencut", "coco20k", "corloc", "", "59.0"),
    ("tokencut", "DINO", "ViT-S/16", "saliency-tokencut", "ecssd", "max_f", "", "80.3"),
    ("tokencut", "DINO + bilateral solver", "ViT-S/16", "saliency-tokencut-solver", "dut-omron", "iou", "", "61.8"),
    ("dinov3", "DINOv3", "ViT-7B/16", "geometric-correspondence-dinov3", "navi", "recall", "", "64.4"),
    ("dinov3", "DINOv3", "ViT-H+/16", "semantic-correspondence-dinov3", "spair71k", "recall", "", "56.3"),
    ("dinov3", "DINOv3", "ConvNeXt-L", "linear-dinov3", "ade20k", "miou", "", "47.8"),
    ("dinov2", "DINOv2", "ViT-g/14", "linear-dinov2-multiscale", "ade20k", "miou", "", "53.0"),
    ("insid3", "DINOv3", "ViT-B/16", "semantic-correspondence-insid3", "spair71k", "pck_image", "alpha=0.10", "46.8"),
    ("jafar", "DINOv2 + JAFAR", "ViT-S/14", "linear-upsampled-jafar", "voc", "miou", "", "84.44"),
    ("jafar", "DINOv2 + bilinear", "ViT-S/14", "linear-upsampled-jafar", "cityscapes", "miou", "", "59.37"),
    ("pe", "PE-Spatial", "ViT-G/14", "vos-pe", "davis2017", "jf_mean", "", "61.5"),
    ("franca", "Franca", "ViT-B/14", "linear-franca", "ade20k", "miou", "", "39.1"),
]  # fmt: skip
OF_OTHERS = (
    "incontext-franca",
    "linear-pe",
    "vos-pe",
    "detection-maskrcnn-fpn1x-coco",
    "saliency-tokencut-solver",
    "discovery-lost-cad",
)
"""Names of numbers that resemble those of a preset and are not made as it makes them."""

NUMBERS = load_published()


def test_how_many_numbers_each_source_gives():
    newer = NUMBERS[NUMBERS.paper.isin(COUNTS)]
    assert newer.paper.value_counts().to_dict() == COUNTS
    assert (newer.note != "").all()


def test_what_was_done_to_features_before_a_protocol_is_said():
    said = NUMBERS[NUMBERS.paper.isin(COUNTS) & (NUMBERS.evaluation != "")]
    assert said.groupby(["method", "evaluation"]).size().to_dict() == {
        ("DINO", "centre=map"): 3,
        ("DINO", "layer=key"): 27,
        ("DINOv3 debiased by INSID3", "debias=20 of black"): 4,
        ("DINOv2 + FeatUp", "upsample=featup"): 4,
        ("DINOv2 + JAFAR", "upsample=jafar"): 4,
        ("DINOv2 + LiFT", "upsample=lift"): 4,
        ("supervised", "centre=map"): 3,
    }


@pytest.mark.parametrize(("paper", "method", "backbone", "protocol", "dataset", "metric", "setting", "value"), BY_HAND)
def test_numbers_by_hand(paper, method, backbone, protocol, dataset, metric, setting, value):
    key = (paper, method, backbone, protocol, dataset, metric, setting)
    columns = ["paper", "method", "backbone", "protocol", "dataset", "metric", "setting"]
    assert NUMBERS[(NUMBERS[columns] == list(key)).all(axis=1)].value.tolist() == [value]


def test_no_number_is_there_twice():
    keys = ["method", "backbone", "pretrain_data", "pretrain_epochs", "protocol", "dataset", "setting", "metric", "value"]
    newer = NUMBERS[NUMBERS.paper.isin(COUNTS)]
    assert not newer.duplicated([key for key in keys if key != "value"]).any()
    older = NUMBERS[~NUMBERS.paper.isin(COUNTS)]
    assert not newer[keys].merge(older[keys], how="inner").size


def test_what_is_only_quoted_or_noted_by_others_is_not_among_them():
    assert not NUMBERS.note.str.contains("check before use|reviewer quotes|quoted by a user").any()


def test_no_task_is_there_that_nothing_here_scores():
    assert not NUMBERS.protocol.str.startswith(("depth", "zeroshot", "finetune", "fcn")).any()


def test_a_threshold_is_a_column():
    [layout] = layouts(of_reference(NUMBERS, "insid3:README"))
    assert layout.headings() == ["alpha=0.05", "alpha=0.10", "alpha=0.15", "alpha=0.20"]
    assert [row.method for row in layout.rows] == ["DINOv3", "DINOv3 debiased by INSID3"]


def test_a_column_without_a_setting_is_called_by_its_metric():
    [discovery] = tables(NUMBERS[(NUMBERS.protocol == "discovery-lost") & (NUMBERS.dataset == "voc2007")])
    assert discovery.cells["corloc"].tolist() == ["61.9", "55.5", "60.1", "36.8", "33.5"]
    [saliency] = tables(NUMBERS[(NUMBERS.protocol == "saliency-tokencut") & (NUMBERS.dataset == "ecssd")])
    assert saliency.cells[["max_f", "iou", "accuracy"]].to_numpy().tolist() == [["80.3", "71.2", "91.8"]]


@pytest.mark.parametrize("reference", ["lost:README", "tokencut:README", "dinov3:MODEL_CARD", "jafar:README"])
def test_a_backbone_has_one_row(reference):
    [layout] = layouts(of_reference(NUMBERS, reference))
    names = [(row.method, row.backbone) for row in layout.rows]
    assert len(set(names)) == len(names)


@pytest.mark.slow  # imports every protocol
def test_no_preset_says_that_it_reproduces_what_others_made_otherwise():
    for protocol in catalog.entries("protocols"):
        for preset in catalog.find("protocols", protocol).all_presets:
            kind = catalog.load("protocols", protocol, preset)
            names = {name for layer in ("last", "key", "8,9,10,11") for name in kind.published_names(preset, layer)}
            assert names.isdisjoint(OF_OTHERS)
