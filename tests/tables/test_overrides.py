"""`--set KEY=VALUE` makes a table small: a rehearsal."""

from __future__ import annotations

import pytest
from table_files import BACKBONE, EVALUATION, PRETRAIN, SMALL, read

from densebench.errors import UserError
from densebench.tables.cells import Places, cells
from densebench.tables.entries import Kind
from densebench.tables.known import Known

WEIGHED = BACKBONE.replace("random:test_vit", "timm:vit_small_patch16_224") + 'weights = "a.pth"\nlayer = "10,11"\n'


def test_a_table_with_overrides_is_a_rehearsal(tmp_path):
    table = read(tmp_path, SMALL, "epochs=1", "fractions=1,2", "limit=4")
    assert table.rehearsal == {"epochs": "1", "fractions": "1,2", "limit": "4"}


def test_an_option_is_set_wherever_it_is_taken(tmp_path):
    table = read(tmp_path, SMALL, "epochs=1", "seeds=2", "batch_size=4", "fractions=[2, 4]")
    assert [(each.options["epochs"], each.options["batch_size"]) for each in table.pretrainings] == [(1, 4), (1, 4)]
    assert [each.options["seeds"] for each in table.evaluations] == [2, 2]
    assert [each.options["batch_size"] for each in table.evaluations] == [4, 4]
    assert [each.options.get("fractions") for each in table.evaluations] == [[2, 4], None]


def test_an_option_that_no_entry_takes_changes_nothing_and_is_named(tmp_path, capsys):
    table = read(tmp_path, BACKBONE + EVALUATION, "epochs=1")
    assert table.evaluations == read(tmp_path, BACKBONE + EVALUATION).evaluations
    assert "--set epochs changes nothing" in capsys.readouterr().err


def test_limit_is_that_of_every_entry(tmp_path):
    table = read(tmp_path, SMALL, "limit=4")
    assert [each.limit for each in (*table.pretrainings, *table.evaluations)] == [4, 4, 4, 4]


def test_steps_take_the_place_of_epochs(tmp_path):
    table = read(tmp_path, PRETRAIN + "epochs = 7\n", "steps=3")
    assert table.pretrainings[0].options == {"steps": 3}


def test_an_architecture_makes_backbones_random_each_with_a_seed_of_its_own(tmp_path):
    other = WEIGHED.replace('"net"', '"other"').replace("a.pth", "b.pth")
    table = read(tmp_path, WEIGHED + other + EVALUATION, "arch=test_vit")
    found = [(each.name, each.spec, each.weights, each.layer, each.seed) for each in table.backbones]
    assert found == [("net", "random:test_vit", None, "last", 0), ("other", "random:test_vit", None, "last", 1)]


def test_an_architecture_is_that_of_pretrainings_and_of_what_they_start_from(tmp_path):
    text = PRETRAIN + 'init = "timm:vit_small_patch16_224"\nweights = "a.pth"\n'
    [pretraining] = read(tmp_path, text, "arch=test_vit").pretrainings
    assert (pretraining.options["arch"], pretraining.init, pretraining.weights) == ("test_vit", "random:test_vit", None)


def test_checkpoints_and_pixels_stay_what_they_are(tmp_path):
    text = BACKBONE.replace("random:test_vit", "pixels:16") + PRETRAIN + EVALUATION
    table = read(tmp_path, text, "arch=test_vit")
    assert [each.spec for each in table.backbones] == ["pixels:16", "pretrain:run"]


def test_pretrainings_that_become_the_same_differ_in_their_seeds(tmp_path):
    text = PRETRAIN.replace('"run"', '"{epochs}"') + "sweep.epochs = [10, 20]\nseed = 1\n"
    table = read(tmp_path, text, "epochs=1")
    assert [(each.name, each.options["epochs"], each.seed) for each in table.pretrainings] == [("10", 1, 1), ("20", 1, 0)]


def test_pretrainings_that_become_the_same_differ_however_their_options_are_ordered(tmp_path):
    other = PRETRAIN.replace('"run"', '"other"')
    text = PRETRAIN + "epochs = 9\nbatch_size = 2\n" + other + "batch_size = 2\n"
    assert [each.seed for each in read(tmp_path, text, "epochs=1").pretrainings] == [0, 1]


def test_seeds_that_differ_already_stay(tmp_path):
    text = PRETRAIN.replace('"run"', '"{seed}"') + "sweep.seed = [1, 2, 0]\n"
    assert [each.seed for each in read(tmp_path, text, "epochs=1").pretrainings] == [1, 2, 0]


def test_data_replaces_what_is_trained_and_scored_on(tmp_path):
    text = BACKBONE + PRETRAIN.replace("scenes", "coco") + EVALUATION.replace('"scenes"', '"voc", "camvid"')
    table = read(tmp_path, text, "data=scenes")
    assert (table.pretrainings[0].data, table.evaluations[0].datasets) == (("scenes",), ("scenes",))
    scored = read(tmp_path, text, "datasets=scenes,voc")
    assert (scored.pretrainings[0].data, scored.evaluations[0].datasets) == (("coco",), ("scenes", "voc"))


VIDEOS = BACKBONE + EVALUATION + '[[evaluation]]\nprotocol = "vos"\ndatasets = ["davis2017"]\n'


def test_a_protocol_that_takes_other_labels_keeps_its_data(tmp_path):
    assert [each.datasets for each in read(tmp_path, VIDEOS, "data=voc").evaluations] == [("voc",), ("davis2017",)]
    assert [each.datasets for each in read(tmp_path, VIDEOS, "data=davis2016").evaluations] == [("scenes",), ("davis2016",)]


def test_scenes_are_pairs_for_a_kind_that_takes_pairs():
    assert Known().fitting(["scenes"], Kind({}, "keypoint pairs")) == ["scenes-keypoints"]


def test_scenes_are_videos_boxes_or_objects_where_a_protocol_needs_these(tmp_path):
    boxes = '[[evaluation]]\nprotocol = "bbox-knn"\ndatasets = ["imagenet-boxes"]\n'
    foreground = '[[evaluation]]\nprotocol = "unsupervised"\ndatasets = ["voc"]\n'
    found = [each.datasets for each in read(tmp_path, VIDEOS + boxes + foreground, "data=scenes").evaluations]
    assert found == [("scenes",), ("scenes-videos",), ("scenes-boxes",), ("scenes-objects",)]


def test_a_limit_leaves_out_numbers_of_neighbours_that_so_few_images_do_not_have(tmp_path):
    text = BACKBONE + '[[evaluation]]\nprotocol = "bbox-knn"\ndatasets = ["imagenet-boxes"]\n'
    assert read(tmp_path, text, "limit=20").evaluations[0].options == {"neighbours": [10, 20]}
    assert read(tmp_path, text, "limit=400").evaluations[0].options == {}


def test_a_limit_leaves_out_fractions_that_leave_no_image(tmp_path):
    text = BACKBONE + EVALUATION.replace("kmeans", "incontext") + "fractions = [128, 64, 8, 1]\n"
    assert read(tmp_path, text, "limit=8").evaluations[0].options == {"fractions": [8, 1]}
    assert read(tmp_path, text, "limit=64").evaluations[0].options == {"fractions": [64, 8, 1]}
    assert read(tmp_path, text.replace(", 1]", "]"), "limit=4").evaluations[0].options == {"fractions": [1]}
    assert read(tmp_path, text, "limit=4", "fractions=2").evaluations[0].options == {"fractions": [2]}


def test_cells_that_become_the_same_are_one_cell(tmp_path):
    text = BACKBONE + EVALUATION + EVALUATION.replace("scenes", "voc")
    assert len(cells(read(tmp_path, text), Places())) == 2
    assert len(cells(read(tmp_path, text, "data=scenes"), Places())) == 1


@pytest.mark.parametrize(
    ("text", "override", "message"),
    [
        (SMALL, "epoch=1", "--set epoch=1: unknown key 'epoch': did you mean 'epochs'"),
        (BACKBONE + EVALUATION, "epoch=1", "--set epoch=1: unknown key 'epoch'"),
        (SMALL, "epochs", "--set epochs: it takes KEY=VALUE"),
        (SMALL, "epochs=", "--set epochs=: it takes KEY=VALUE"),
        (SMALL, "epochs=none", "--set epochs=none: --epochs none: it takes N"),
        (SMALL, "data=scene", "--set data=scene: unknown data 'scene': did you mean 'scenes'"),
        (SMALL, "datasets=scene", "--set datasets=scene: unknown data set 'scene': did you mean 'scenes'"),
        (SMALL, "limit=0", "--set limit=0: limit = 0: it takes a whole number from 1"),
    ],
)
def test_wrong_overrides(tmp_path, text, override, message):
    with pytest.raises(UserError) as raised:
        read(tmp_path, text, override)
    assert message in str(raised.value)
