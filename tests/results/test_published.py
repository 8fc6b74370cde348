"""The papers' numbers as they are shipped: of what kind they are, which protocols name them, and a few by hand."""

from __future__ import annotations

from typing import ClassVar

import pytest

from densebench import catalog
from densebench.results.published import load_published

RETRIEVAL = ("incontext-hummingbird", "knn-cribo", "incontext-dip")


def test_values_are_the_texts_of_the_papers():
    numbers = load_published()
    assert numbers.map(lambda cell: isinstance(cell, str)).all(axis=None)
    in_percent = numbers[~numbers.metric.isin(["hours", "seconds_per_epoch"])].value.astype(float)
    assert in_percent.between(0, 100).all()
    assert (numbers[["paper", "table", "protocol", "dataset", "metric", "value"]] != "").all(axis=None)


def test_no_number_of_a_retrieval_table_hides_another():
    numbers = load_published()
    numbers = numbers[numbers.protocol.isin(RETRIEVAL)]
    keys = ["protocol", "dataset", "paper", "table", "method", "backbone", "pretrain_data", "pretrain_epochs", "setting"]
    assert set(numbers.protocol) == set(RETRIEVAL)
    assert set(numbers.metric) == {"miou"}
    assert not numbers.duplicated(keys).any()


def test_two_protocols_two_numbers():
    numbers = load_published()
    numbers = numbers[(numbers.method == "CrIBo") & (numbers.backbone == "ViT-S/16") & (numbers.setting == "fraction=1/1")]
    numbers = numbers[(numbers.dataset == "voc") & (numbers.pretrain_data != "COCO")].set_index("protocol").value
    assert (numbers["knn-cribo"], numbers["incontext-hummingbird"]) == ("72.1", "71.2")


@pytest.mark.slow  # imports every protocol
def test_what_protocols_say_that_their_numbers_are_called_is_published():
    names = set()
    for protocol in catalog.entries("protocols"):
        for preset in catalog.find("protocols", protocol).all_presets:
            kind = catalog.load("protocols", protocol, preset)
            assert set(vars(kind).get("published_as", {})) <= set(kind.presets)
            names |= {name for layer in ("last", "8,9,10,11") for name in kind.published_names(preset, layer)}
    assert {"incontext-hummingbird", "knn-cribo", "linear-mmseg", "linear-mmseg-4layers", "vos-davis"} <= names
    assert names <= set(load_published().protocol)


def test_a_protocol_that_derives_from_another_reproduces_none_of_its_published_numbers():
    class Heir(catalog.load("protocols", "incontext")):
        pass

    class Says(Heir):
        published_as: ClassVar[dict[str, str]] = {"hummingbird": "incontext-hummingbird"}

    assert Heir.published_names("hummingbird", "last") == ()
    assert Says.published_names("hummingbird", "last") == ("incontext-hummingbird",)
