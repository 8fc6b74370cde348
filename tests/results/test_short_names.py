"""A plug-in in a file is called by its short name, and is mistaken for nothing else."""

from __future__ import annotations

import pytest
from planted import plugin

from densebench import catalog
from densebench.cli.new import written
from densebench.evaluation.run import evaluate
from densebench.results.leaderboard import leaderboard


def scored(folder, path, backbone="pixels:16", **given):
    return evaluate(backbone, path, folder / "data.py", results=folder / "results", workers=0, **given).records[0]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.py").write_text(written("dataset", "discs"))


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("./mine.py", "mine"),
        ("./a/my_probe.py", "my-probe"),
        ("./mine/", "mine"),
        ("kmeans", "kmeans"),
        ("./kmeans.py", "kmeans.py"),
        ("./kmeans/", "kmeans/"),
    ],
)
def test_short_names(path, name):
    assert catalog.short_name("protocols", path) == name


def test_a_record_has_the_short_name_and_a_path_is_no_part_of_its_identity(tmp_path):
    relative = scored(tmp_path, plugin(tmp_path, "protocol").replace(str(tmp_path), "."))
    absolute = scored(tmp_path, tmp_path / "mine.py")
    assert relative["protocol"]["name"] == "mine"
    assert relative["id"] == absolute["id"]


def test_two_plug_ins_of_one_name_stay_apart(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        plugin(tmp_path / folder, "protocol", ("Nearest class mean", f"Nearest {folder}"))
        scored(tmp_path, tmp_path / folder / "mine.py")
    assert len(leaderboard(tmp_path / "results").tables) == 2


def test_a_plug_in_that_is_called_like_a_protocol_is_not_taken_for_it(tmp_path):
    (tmp_path / "kmeans.py").write_text(written("protocol", "kmeans"))
    scored(tmp_path, "./kmeans.py")
    [table] = leaderboard(tmp_path / "results").tables
    assert table.caption.startswith("kmeans.py/plain v1 on discs val")


def test_a_backbone_in_a_file_is_called_by_its_stem_and_keeps_its_path(tmp_path):
    (tmp_path / "net.py").write_text(
        "import torch\n\ndef load():\n    torch.manual_seed(0)\n    return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 16, 16))\n"
    )
    record = scored(tmp_path, plugin(tmp_path, "protocol"), "./net.py")
    assert (record["backbone"]["name"], record["backbone"]["spec"]) == ("net", "./net.py")
    [table] = leaderboard(tmp_path / "results").tables
    assert table.cells.backbone.tolist() == ["net"]


def test_a_failed_record_of_a_plug_in_is_not_taken_for_one_that_is_gone(tmp_path):
    from densebench.results.record_keeping import obsolete

    path = plugin(tmp_path, "protocol")
    record = scored(tmp_path, path, command=f"densebench eval --protocol {path} --dataset {tmp_path}/data.py")
    assert not obsolete(record)
    (tmp_path / "mine.py").unlink()
    assert obsolete(record)
