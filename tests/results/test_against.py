"""Published beside measured: which numbers stand beside each other, and which are marked as off."""

from __future__ import annotations

import pytest
from published_records import numbers, record

from densebench.results.against import against


def cells(board):
    """The texts of the first row after the columns that name it."""
    [table] = board.tables
    return table.cells.iloc[0][[name for name in table.cells if name.startswith(("voc", "ade20k", "scenes", "coco"))]].tolist()


def cell(tmp_path, *records, **published):
    """The one cell of a table of one number, with the footnotes of its table."""
    file = numbers(tmp_path / "mine.csv", {"value": "47.9", **published})
    board = against(list(records), "neco:99", published=file)
    [text] = cells(board)
    return text.partition(" [")[0], " ".join(board.tables[0].notes), board


def test_parameters_are_compared_roughly(tmp_path):
    assert cell(tmp_path, record(params=22_050_664))[0] == "47.9 | 48.0 | +0.1"


def test_a_number_of_the_same_preset_stands_beside_the_published_one(tmp_path):
    text, notes, board = cell(tmp_path, record(values=48.04))
    assert text == "47.9 | 48.0 | +0.1"
    assert "[" not in notes
    [line] = board.comparison.to_dict("records")
    assert (line["published"], line["measured"], line["difference"], line["off"]) == ("47.9", 48.04, 0.14, False)
    assert (line["record"], line["measured_backbone"]) == (board.scores.record.iloc[0], "DINO ViT-S/16")


@pytest.mark.parametrize(
    ("measured", "ends", "text"),
    [
        (48.4, (48.3, 48.5), "47.9 | 48.4 | +0.5"),
        (47.4, (47.3, 47.5), "47.9 | 47.4 | -0.5"),
        (48.5, (47.8, 49.2), "47.9 | 48.5 | +0.6"),
        (48.5, (48.0, 49.0), "47.9 | 48.5 | +0.6 !"),
        (47.3, (46.8, 47.8), "47.9 | 47.3 | -0.6 !"),
        (47.92, (47.0, 48.8), "47.9 | 47.9 | 0.0"),
        (47.88, (47.0, 48.8), "47.9 | 47.9 | 0.0"),
    ],
)
def test_off_is_more_than_half_a_point_and_beyond_the_interval(tmp_path, measured, ends, text):
    found, _, board = cell(tmp_path, record(values=measured, ends=ends))
    assert found == text
    assert bool(board.tables[0].best.any(axis=None)) == board.comparison.off.iloc[0] == text.endswith("!")


def test_the_difference_has_the_digits_of_the_published_value(tmp_path):
    assert cell(tmp_path, record(values=48.046), value="47.90")[0] == "47.90 | 48.05 | +0.15"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"of": "hummingbird", "variant": "identity"},
            "measured by incontext/hummingbird; the published number goes with incontext/neco",
        ),
        ({"changed": {"image_size": 224}}, "measured with image_size=224 (the preset: 512)"),
        ({"changed": {"eval_split": "train"}}, "measured with eval_split=train (the preset: val)"),
        ({"changed": {"precision": "fp16"}}, "measured with precision=fp16"),
        ({"about": {"images": 300, "official_images": 1449}}, "measured on 300 of 1,449 images"),
        ({"about": {"train_split": "train", "train_images": 9, "official_train_images": 10}}, "9 of 10 training images"),
        ({"limit": 8}, "(--limit 8)"),
        ({"stride": 8}, "measured with a backbone of stride 8; the paper's is ViT-S/16"),
        ({"params": 300_000}, "measured with a backbone of 0.3M parameters; the paper's has 21M"),
        ({"layer": "3"}, "measured on layer 3; the paper's number is of the last layer"),
        ({"debias": 20}, "measured with debias=20 of noise (the paper: none)"),
        ({"upsample": "guided"}, "measured with upsample=guided (the paper: none)"),
        ({"about": {"code": "abcd"}}, "a data set of the user's own that is called voc"),
    ],
)
def test_what_differs_leaves_the_cell_empty_and_is_named(tmp_path, changes, reason):
    text, notes, board = cell(tmp_path, record(**changes))
    assert text == "47.9"
    assert reason in notes
    assert board.comparison.measured.isna().all() and reason in board.comparison.footnotes[0]


def test_a_rehearsal_is_never_beside_a_published_number(tmp_path):
    rehearsed = record()
    rehearsed["run"]["rehearsal"] = True
    text, notes, _ = cell(tmp_path, rehearsed)
    assert text == "47.9" and "measured in a rehearsal of a table" in notes


def test_another_version_of_the_protocol_leaves_the_cell_empty(tmp_path):
    old = record()
    old["protocol"]["version"] = 0
    text, notes, _ = cell(tmp_path, old)
    assert text == "47.9" and "measured by version 0 of incontext" in notes


@pytest.mark.parametrize(
    "other",
    [
        {"dataset": "ade20k"},
        {"protocol": "kmeans", "of": "leopart", "variant": "matched"},
        {"values": {(("fraction", 8), ("seed", 0)): 48.0}},
    ],
)
def test_a_number_of_something_else_is_not_even_a_footnote(tmp_path, other):
    text, notes, _ = cell(tmp_path, record(**other))
    assert text == "47.9" and "measured on" not in notes and "[a]" not in notes


def test_a_record_that_agrees_silences_those_that_do_not(tmp_path):
    text, notes, _ = cell(tmp_path, record(changed={"image_size": 224}, values=30.0), record())
    assert text == "47.9 | 48.0 | +0.1" and "224" not in notes


def test_two_records_that_fit_one_cell_leave_it_empty(tmp_path):
    text, notes, _ = cell(tmp_path, record(), record(digest="other"))
    assert text == "47.9" and "2 records fit" in notes


def test_seeds_are_averaged_and_counted(tmp_path):
    values = {(("fraction", 8), ("seed", seed)): value for seed, value in enumerate((47.0, 48.0, 49.5))}
    text, notes, board = cell(
        tmp_path, record(values={**values, (("fraction", 1), ("seed", None)): 60.0}), setting="fraction=1/8"
    )
    assert text == "47.9 | 48.2 | +0.3"
    assert "[a] mean of 3 seeds" in notes and board.comparison.seeds.iloc[0] == 3


def test_a_score_without_an_interval_says_so_and_is_judged_by_its_difference(tmp_path):
    bare = record(values=48.6)
    del bare["scores"][0]["bootstrap"]
    text, notes, _ = cell(tmp_path, bare)
    assert text == "47.9 | 48.6 | +0.7 !" and "no interval" in notes


def test_notes_of_the_published_number_are_footnotes(tmp_path):
    text, notes, _ = cell(tmp_path, record(), note="known bug; 48.7 with the fix")
    assert text == "47.9 | 48.0 | +0.1" and "[a] known bug; 48.7 with the fix" in notes


def test_remarks_of_the_preset_are_footnotes(tmp_path):
    made = record(protocol="linear", of="mmseg", variant="identity")
    _, notes, _ = cell(tmp_path, made, protocol="linear-mmseg", setting="layers=1", table="Table 99")
    assert "the best of 10 validations on the scored split" in notes


def test_the_number_of_layers_must_agree(tmp_path):
    four = record(protocol="linear", of="mmseg", variant="identity", layer="8,9,10,11")
    said = {"protocol": "linear-mmseg-4layers", "setting": "layers=4"}
    text, notes, _ = cell(tmp_path, four, **said)
    assert text == "47.9 | 48.0 | +0.1" and "layers 8,9,10,11" in notes
    assert cell(tmp_path, four, **{**said, "setting": "layers=1"})[0] == "47.9"
    assert cell(tmp_path, record(protocol="linear", of="mmseg", variant="identity"), **said)[0] == "47.9"


def test_k_of_the_classes_and_other_ks(tmp_path):
    values = {(("K", k), ("seed", seed)): k + seed for k in (21, 300) for seed in (0, 1)}
    made = record(values=values, protocol="kmeans", of="neco", variant="matched")
    rows = [{"protocol": "overcluster-neco", "setting": setting, "value": "300.4"} for setting in ("K=GT", "K=300", "K=500")]
    board = against([made], "neco:99", published=numbers(tmp_path / "mine.csv", *rows))
    assert [text.partition(" [")[0] for text in cells(board)] == ["300.4 | 21.5 | -278.9 !", "300.4 | 300.5 | +0.1", "300.4"]


def test_an_axis_that_the_paper_does_not_name_has_the_usual_value(tmp_path):
    values = {(("K", k), ("seed", 0)): float(k) for k in (21, 300)}
    made = record(values=values, protocol="kmeans", of="neco", variant="matched")
    assert cell(tmp_path, made, protocol="overcluster-neco (ablation)", setting="lambda_pos=2")[0] == "47.9 | 21.0 | -26.9 !"


def test_the_paper_may_have_evaluated_otherwise_than_the_preset(tmp_path):
    file = tmp_path / "mine.csv"
    row = {"value": "47.9", "protocol": "incontext-hummingbird (ablation)", "evaluation": "image_size=448"}
    numbers(file, row, columns=[*row, *(name for name in ("paper", "table", "method", "backbone", "params_millions",
            "pretrain_data", "pretrain_epochs", "dataset", "setting", "metric", "note"))])  # fmt: skip
    usual, smaller = (against([made], "neco:99", published=file) for made in (record(), record(changed={"image_size": 448})))
    assert cells(usual) == ["47.9 [a]"] and "measured with image_size=512 (the paper: 448)" in usual.tables[0].notes[-1]
    assert cells(smaller) == ["47.9 | 48.0 | +0.1"]


def test_the_size_of_the_memory_is_a_setting(tmp_path):
    rows = [
        {"paper": "open-hummingbird", "setting": f"fraction=1/1;memory={size}", "value": "47.9"} for size in ("1.02M", "10.24M")
    ]
    file = numbers(tmp_path / "mine.csv", *rows)
    made = [record(of="open-hummingbird"), record(of="open-hummingbird", changed={"memory_size": 1_024_000}, values=40.0)]
    board = against(made, "open-hummingbird:99", published=file)
    assert cells(board) == ["47.9 | 40.0 | -7.9 !", "47.9 | 48.0 | +0.1"]


def test_the_first_preset_that_fits_stands_where_none_is_the_papers_own(tmp_path):
    made = [record(values=40.0), record(of="hummingbird", variant="identity", values=48.0)]
    text, notes, _ = _other(tmp_path, made)
    assert text == "47.9 | 48.0 | +0.1" and "preset hummingbird" in notes


def _other(tmp_path, made):
    board = against(made, "other:99", published=numbers(tmp_path / "other.csv", {"paper": "other", "value": "47.9"}))
    return cells(board)[0].partition(" [")[0], " ".join(board.tables[0].notes), board


def test_another_variant_of_the_metric_may_be_the_published_one():
    made = record("DINOv2R ViT-S/14", {(("seed", 0),): 35.0}, protocol="unsupervised", variant="cbfe+cd", stride=14)
    made["scores"].append({**made["scores"][0], "variant": "kmeans", "value": 12.0})
    board = against([made], "neco:6")
    assert [text.partition(" [")[0] for text in board.tables[0].cells["voc K=21"]] == [
        "12.2 | 12.0 | -0.2",
        "17.8",
        "41.3",
        "55.1",
    ]
