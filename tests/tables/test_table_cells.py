"""The cells of a table: their order, their ids, and the commands and requests that do the same."""

from __future__ import annotations

import json
from pathlib import Path

import command_line
import pytest
from table_files import BACKBONE, EVALUATION, PRETRAIN, SMALL, read

import densebench
from densebench.tables.cells import Places, cells

READ = "mean = [0.1, 0.2, 0.3]\n"
TINY = BACKBONE + READ + EVALUATION + "limit = 4\nclusters = [2]\nseeds = 1\nimage_size = 32\nmask_size = 32\n"


@pytest.fixture
def table(tmp_path):
    return read(tmp_path, SMALL)


def test_pretrainings_come_first_and_backbones_stay_together(table):
    labels = [cell.label for cell in cells(table, Places())]
    assert labels == [
        "CrIBo 0",
        "CrIBo 0.5",
        "first, incontext, scenes",
        "first, kmeans, scenes",
        "second, incontext, scenes",
        "CrIBo 0, incontext, scenes",
        "CrIBo 0.5, incontext, scenes",
    ]


def test_the_cells_of_one_data_set_are_neighbours(tmp_path):
    two = EVALUATION.replace('"scenes"', '"scenes", "voc"')
    order = cells(read(tmp_path, BACKBONE + two + two.replace("kmeans", "incontext")), Places())
    assert [(cell.dataset, cell.protocol) for cell in order] == [
        ("scenes", "kmeans"),
        ("scenes", "incontext"),
        ("voc", "kmeans"),
        ("voc", "incontext"),
    ]


def test_a_pretraining_follows_the_one_that_it_starts_from(tmp_path):
    later = PRETRAIN.replace('"run"', '"later"') + 'init = "pretrain:run"\n'
    first, second = cells(read(tmp_path, later + PRETRAIN), Places(runs=Path("all")))
    assert (first.label, second.label, second.needs) == ("run", "later", (first.id,))
    assert second.request["init"] == f"ckpt:all/small/run-{first.id}" == f"ckpt:{first.output}"
    assert second.command[second.command.index("--init") + 1] == second.request["init"]


def test_a_checkpoint_is_scored_where_its_pretraining_writes_it(table):
    order = cells(table, Places(runs=Path("all")))
    made, scored = order[0], order[5]
    assert scored.needs == (made.id,)
    assert scored.request["model"] == f"ckpt:{made.output}" == f"ckpt:all/small/CrIBo-0-{made.id}"
    assert scored.row == {"method": "CrIBo", "setting": "lambda_pos=0"}


def test_ids_follow_from_the_work_and_not_from_the_places_or_the_names(table, tmp_path):
    ids = [cell.id for cell in cells(table, Places())]
    assert len({*ids}) == len(ids)
    elsewhere = Places(tmp_path / "r", tmp_path / "runs", tmp_path / "w", tmp_path / "d")
    assert [cell.id for cell in cells(table, elsewhere)] == ids
    named = SMALL.replace('"first"', '"another"').replace('title = "Two', 'title = "Three')
    assert [cell.id for cell in cells(read(tmp_path, named, name="other.toml"), Places())] == ids


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("fractions = [1, 8]", "fractions = [1, 4]", {2, 4, 5, 6}),
        ("limit = 9", "limit = 8", {3}),
        ("seed = 5", "seed = 6", {4}),
        ("[0, 0.5]", "[0, 0.25]", {1, 6}),
        ('preset = "tiny"', 'preset = "coco"', {0, 1, 5, 6}),
        ("limit = 9", "limit = 9\nbatch_size = 2", set()),
        ("limit = 9", "limit = 9\nprocesses = 2", set()),
    ],
)
def test_ids_change_with_the_work(table, tmp_path, old, new, changed):
    before = [cell.id for cell in cells(table, Places())]
    after = [cell.id for cell in cells(read(tmp_path, SMALL.replace(old, new)), Places())]
    assert {index for index, (a, b) in enumerate(zip(before, after, strict=True)) if a != b} == changed


def test_weights_lie_in_their_folder_and_an_absolute_path_stays(tmp_path):
    text = BACKBONE.replace("random:", "timm:") + 'weights = "{}"\n' + EVALUATION
    places = Places(weights_dir=Path("files"))
    for given, found in (("a.pth", "files/a.pth"), (str(tmp_path / "a.pth"), str(tmp_path / "a.pth"))):
        [cell] = cells(read(tmp_path, text.format(given)), places)
        assert cell.request["weights"] == cell.weights == found
        assert cell.command[cell.command.index("--weights") + 1] == found


def test_requests_are_json_values(table):
    for cell in cells(table, Places(data_root=Path("data"))):
        assert json.loads(json.dumps(cell.request)) == cell.request
        assert cell.options.keys() <= cell.request.keys()


def test_an_option_with_the_name_of_a_keyword_reaches_the_protocol(tmp_path):
    text = BACKBONE + '[[evaluation]]\nprotocol = "detection"\ndatasets = ["coco-boxes"]\nmodel = "faster-rcnn"\n'
    [cell] = cells(read(tmp_path, text), Places())
    positional, keywords = cell.arguments()
    assert (positional, keywords["model"], cell.options) == (["random:test_vit"], "faster-rcnn", {"model": "faster-rcnn"})


def test_the_command_of_a_cell_makes_its_record(tmp_path):
    [cell] = cells(read(tmp_path, TINY), Places())
    done = command_line.call(*cell.command[1:], "--json", folder=tmp_path)
    assert done.status == 0, done.err
    positional, keywords = cell.arguments()
    [record] = densebench.evaluate(*positional, **{**keywords, "results": tmp_path / "again"}).records
    made = json.loads(done.out)
    assert record["id"] == made["id"]
    assert record["scores"] == made["scores"]
    assert record["backbone"]["name"] == "net" and record["backbone"]["mean"] == [0.1, 0.2, 0.3]


def test_the_command_of_a_pretraining_is_its_request(tmp_path):
    text = PRETRAIN + "epochs = 3\nlocal_crops = 1\nnorm_last_layer = false\nkeep_every = 2\nlimit = 8\nseed = 4\n"
    [cell] = cells(read(tmp_path, text), Places())
    words = {"--seed": "4", "--limit": "8", "--output": f"runs/small/run-{cell.id}"}
    for name, value in words.items():
        assert cell.command[cell.command.index(name) + 1] == value
    assert {"--epochs=3", "--local-crops=1", "--no-norm-last-layer", "--keep-every=2"} <= {*cell.command}
    positional, keywords = cell.arguments()
    assert (positional, keywords["data"].specs, keywords["seed"], keywords["epochs"]) == (["dino"], ("scenes",), 4, 3)
