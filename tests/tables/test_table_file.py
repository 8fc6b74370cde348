"""A table file is read: entries, sweeps, references."""

from __future__ import annotations

import command_line
import pytest
from table_files import BACKBONE, EVALUATION, PRETRAIN, SMALL, read

from densebench.backbones.position import check_convention
from densebench.backbones.weights import ROLES
from densebench.errors import UserError
from densebench.tables import keys


def test_every_kind_of_entry_is_read(tmp_path):
    table = read(tmp_path, SMALL)
    assert (table.name, table.title, table.published) == ("small", "Two networks on drawn scenes", "cribo:1")
    assert [(each.name, each.spec, each.seed) for each in table.backbones[:2]] == [
        ("first", "random:test_vit", 0),
        ("second", "random:test_vit", 5),
    ]
    assert [each.protocol for each in table.evaluations] == ["incontext", "kmeans"]
    assert table.evaluations[0].options == {"fractions": [1, 8]}
    assert table.evaluations[1].limit == 9
    assert table.rehearsal == {}


def test_a_sweep_is_one_pretraining_a_value_with_the_value_in_its_texts(tmp_path):
    table = read(tmp_path, SMALL)
    assert [(each.name, each.options["lambda_pos"]) for each in table.pretrainings] == [("CrIBo 0", 0), ("CrIBo 0.5", 0.5)]
    assert [each.row["setting"] for each in table.pretrainings] == ["lambda_pos=0", "lambda_pos=0.5"]


def test_several_swept_keys_give_their_product(tmp_path):
    swept = "sweep.epochs = [1, 2]\nsweep.seed = [0, 1, 2]\n"
    table = read(tmp_path, PRETRAIN.replace('"run"', '"run {epochs} {seed}"') + swept)
    assert [(each.options["epochs"], each.seed) for each in table.pretrainings] == [
        (1, 0),
        (1, 1),
        (1, 2),
        (2, 0),
        (2, 1),
        (2, 2),
    ]


def test_a_sweep_without_a_name_is_named_by_its_values(tmp_path):
    table = read(tmp_path, PRETRAIN.replace('name = "run"\n', "") + "sweep.norm_last_layer = [true, false]\n")
    assert [each.name for each in table.pretrainings] == ["dino norm_last_layer=yes", "dino norm_last_layer=no"]


def test_a_row_may_write_a_value_as_the_paper_does(tmp_path):
    text = PRETRAIN.replace('"run"', '"run {epochs}"') + 'sweep.epochs = [1, 2]\nrow = {setting = "E={epochs}"}\n'
    table = read(tmp_path, text + 'rows = {"2" = "two"}\n')
    assert [each.row["setting"] for each in table.pretrainings] == ["E=1", "E=two"]
    assert table == read(tmp_path, text + 'rows.epochs = {"2" = "two"}\n')


def test_the_checkpoint_of_a_pretraining_is_a_backbone(tmp_path):
    table = read(tmp_path, SMALL)
    assert [(each.name, each.pretraining) for each in table.backbones[2:]] == [("CrIBo 0", "CrIBo 0"), ("CrIBo 0.5", "CrIBo 0.5")]
    assert table.rows["CrIBo 0.5"] == {"method": "CrIBo", "setting": "lambda_pos=0.5"}


def test_a_checkpoint_may_be_listed_under_another_name_or_be_read_otherwise(tmp_path):
    listed = '[[backbone]]\nspec = "pretrain:run"\nname = "{}"\n{}'
    renamed = read(tmp_path, PRETRAIN + listed.format("ours", "") + EVALUATION)
    assert [each.name for each in renamed.backbones] == ["ours"]
    keys_too = read(tmp_path, PRETRAIN + listed.format("its keys", 'layer = "key"\n') + EVALUATION)
    assert [each.name for each in keys_too.backbones] == ["its keys", "run"]


def test_an_evaluation_scores_the_backbones_that_it_names(tmp_path):
    table = read(tmp_path, SMALL.replace('["first"]', '["second", "CrIBo {lambda_pos}"]'))
    assert [each.name for each in table.backbones_of(table.evaluations[1])] == ["second", "CrIBo 0", "CrIBo 0.5"]
    assert len(table.backbones_of(table.evaluations[0])) == 4


def test_options_are_stored_as_the_protocol_reads_them(tmp_path):
    table = read(tmp_path, BACKBONE + EVALUATION + 'clusters = "3,4"\nprecision = "fp16"\n')
    assert table.evaluations[0].options == {"clusters": [3, 4], "precision": "fp16"}


def test_a_figure_is_read(tmp_path):
    pictures = 'pictures = {protocol = "kmeans", dataset = "scenes", clusters = [9]}\n'
    [figure] = read(tmp_path, BACKBONE + '[[figure]]\nnumber = 5\nbackbones = ["net"]\n' + pictures).figures
    assert (figure.number, figure.draws, figure.backbones) == ("5", "protocol", ("net",))
    assert (figure.evaluation.datasets, figure.evaluation.options) == (("scenes",), {"clusters": [9], "visualise": 4})


def test_ways_of_reading_are_those_of_backbones():
    for convention in keys.POSITIONS:
        check_convention(convention)
    assert keys.ROLES == ROLES


def test_reading_a_table_does_not_import_torch(tmp_path):
    (tmp_path / "small.toml").write_text(SMALL)
    code = "from densebench.tables.table_file import read_table; read_table('small.toml', ['data=scenes', 'arch=test_vit'])"
    done = command_line.run("--version", folder=tmp_path, before=f"{command_line.LIGHT}; {code}")
    assert done.out.rstrip().endswith("LIGHT"), done.err


def test_a_backbone_may_be_made_finer_and_one_that_is_not_is_the_same_work_as_before(tmp_path):
    [plain] = read(tmp_path, BACKBONE + EVALUATION).backbones
    assert not {"upsample", "debias"} & plain.work().keys()
    [fine] = read(tmp_path, BACKBONE + 'upsample = "guided:4"\ndebias = 3\n' + EVALUATION).backbones
    assert fine.work() == {**plain.work(), "upsample": "guided:4", "debias": 3}
    with pytest.raises(UserError, match=r"upsample = gided: it takes NAME\[:FACTOR\]"):
        read(tmp_path, BACKBONE + 'upsample = "gided"\n' + EVALUATION)
