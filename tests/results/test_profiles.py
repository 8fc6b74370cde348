"""Profiles: one row a backbone, one column a group and point, on one data set."""

from __future__ import annotations

import pandas as pd

from densebench.results.profiles import profiles


def score(
    value, name="A", group="g1", protocol="incontext", preset="p", dataset="voc", size=224, digest=None, layer="last", **more
):
    axes = more.pop("axes", (("fraction", 1),))
    return {
        "value": value, "name": name, "spec": f"timm:{name}", "group": group, "protocol": protocol, "preset": preset,
        "dataset": dataset, "split": "val", "image_size": size, "digest": digest or f"w-{name}", "layer": layer,
        "pos_embed": "none", "headline": True, "point": axes, "identity": f"{digest or name} {layer}", "unit": "%",
        "direction": "higher", "digits": 1,
        "partial": False, "coverage": "1,449 images", **more,
    }  # fmt: skip


def shown(*rows):
    return profiles(pd.DataFrame(rows))


def test_one_row_a_backbone_and_one_column_a_group_and_point():
    [table] = shown(
        score(10.0, axes=(("fraction", 8),)),
        score(14.0, axes=(("fraction", 8),)),  # another seed: the mean counts
        score(20.0),
        score(30.0, group="g2", protocol="kmeans", axes=(("K", 300),)),
        score(25.0, "B"),
    )
    assert list(table.cells.columns) == ["backbone", "incontext/p 224 px 1/8", "incontext/p 224 px 1/1", "kmeans/p 224 px K 300"]
    assert table.cells.to_numpy().tolist() == [["A", "12.0", "20.0", "30.0"], ["B", "", "25.0", ""]]
    assert table.best.to_numpy().tolist() == [[False] * 4, [False, False, True, False]]  # two columns hold nothing to beat
    assert "voc val" in table.caption


def test_a_data_set_with_one_group_has_no_profile():
    assert shown(score(1.0), score(2.0, "B"), score(3.0, dataset="camvid", group="g2")) == []


def test_data_sets_and_scores_beside_the_headline_are_kept_apart():
    rows = [score(1.0), score(2.0, group="g2", preset="q"), score(3.0, dataset="camvid", group="g3")]
    [table] = shown(*rows, score(9.0, headline=False, axes=(("K", 9),)))
    assert list(table.cells.columns) == ["backbone", "incontext/p 224 px 1/1", "incontext/q 224 px 1/1"]


def test_groups_that_would_be_called_alike_name_their_group():
    [table] = shown(score(1.0), score(2.0, group="g2"))
    assert list(table.cells.columns) == ["backbone", "incontext/p 224 px 1/1 g1", "incontext/p 224 px 1/1 g2"]


def test_the_same_weights_are_one_row_by_the_name_that_was_given():
    bare = score(1.0, "A") | {"name": "timm:A"}
    [table] = shown(bare, score(2.0, "mine", group="g2", preset="q") | {"digest": bare["digest"], "identity": bare["identity"]})
    assert table.cells.to_numpy().tolist() == [["mine", "1.0", "2.0"]]


def test_rows_that_would_be_called_alike_say_what_parts_them():
    [table] = shown(score(1.0), score(2.0, group="g2", preset="q"), score(3.0, layer="8"))
    assert table.cells.backbone.tolist() == ["A (layer last)", "A (layer 8)"]


def test_rows_that_differ_in_code_alone_are_two():
    before, after = score(1.0, identity="before"), score(2.0, identity="after")
    [table] = shown(before, after, score(3.0, "B", group="g2", preset="q"))
    assert table.cells.backbone.tolist() == ["A (identity after)", "A (identity before)", "B"]


def test_rows_stand_by_columns_filled_and_then_by_name_which_is_no_ranking():
    both = [score(value, name, group=group, preset=group) for name, value in (("b 10", 1.0), ("B 9", 9.0)) for group in "pq"]
    [table] = shown(score(99.0, "a", group="p", preset="p"), *both)
    assert table.cells.backbone.tolist() == ["B 9", "b 10", "a"]
    assert "no ranking" in table.caption


def test_a_column_that_is_the_same_everywhere_as_it_is_shown_has_no_best_value():
    [table] = shown(
        score(0.01), score(0.02, "B"), score(3.0, group="g2", preset="q"), score(2.0, "B", group="g2", preset="q"),
    )  # fmt: skip
    assert table.cells.iloc[:, 1].tolist() == ["0.0", "0.0"]
    assert table.best.to_numpy().tolist() == [[False, False, True], [False, False, False]]


def test_native_images_have_no_size():
    [table] = shown(score(1.0, size=None), score(2.0, group="g2"))
    assert list(table.cells.columns) == ["backbone", "incontext/p 1/1", "incontext/p 224 px 1/1"]
