"""The papers' numbers as they are shipped: how many, of what kind, and a few by hand."""

from __future__ import annotations

from densebench.results.published import load_published

COUNTS = {
    "cribo": {1: 96, 2: 44, 3: 44, 4: 50, 5: 6, 6: 44, 7: 12},
    "croc": {1: 39, 2: 8, 3: 39, 4: 36, 5: 24, 6: 24},
    "flsl": {1: 72, 2: 21, 3: 6, 4: 27, 5: 7, 6: 5},
    "neco": {1: 7, 2: 52, 3: 60, 4: 44, 5: 48, 6: 4, 7: 78, 8: 120, 9: 91, 10: 15},
}
COLUMNS = [
    "paper",
    "table",
    "method",
    "backbone",
    "params_millions",
    "pretrain_data",
    "pretrain_epochs",
    "protocol",
    "dataset",
    "setting",
    "metric",
    "value",
    "note",
]
RETRIEVAL = ("incontext-hummingbird", "knn-cribo", "incontext-dip")


def test_every_table_is_whole():
    numbers = load_published()
    assert list(numbers.columns) == COLUMNS
    assert len(numbers) == 1153
    readmes = numbers[numbers.table == "README"].groupby("paper").size().to_dict()
    assert readmes == {"dip": 12, "open-hummingbird": 18}
    tables = numbers[numbers.table != "README"]
    number = tables.table.str.extract(r"^Table (\d+)[a-e]?$", expand=False).astype(int)
    counted = tables.groupby(["paper", number]).size()
    assert {paper: counted[paper].to_dict() for paper in COUNTS} == COUNTS
    assert len(tables) + 30 == 1153


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
