"""Figures from beginning to end: trained, scored and drawn by `densebench run`, on drawn scenes."""

from __future__ import annotations

import json

import command_line
import numpy as np
import pytest
from PIL import Image

TABLE = """
title = "A toy"
[[backbone]]
spec = "random:test_vit"
name = "net"
[[backbone]]
spec = "timm:test_vit"
weights = "gone.pth"
name = "gone"
[[pretrain]]
name = "CrIBo"
method = "cribo"
preset = "tiny"
data = ["scenes"]
arch = "test_vit"
limit = 8
epochs = 2
batch_size = 4
memory = 8
bootstrap_after = 0
log_every = 1
workers = 0
[[evaluation]]
protocol = "incontext"
datasets = ["scenes"]
limit = 6
fractions = [1]
[[figure]]
number = 3
pictures = {pretraining = "matches", count = 2}
[[figure]]
number = 4
pictures = {protocol = "incontext", dataset = "scenes", limit = 6, fractions = [1], files = "*-neighbours.png", count = 2}
[[figure]]
number = 5
curve = {column = "bootstrapping_ratio"}
[[figure]]
number = 6
backbones = ["net"]
pictures = {protocol = "kmeans", dataset = "scenes", limit = 6, clusters = [9], seeds = 1, count = 2}
[[figure]]
number = 7
maps = {of = "attention", dataset = "scenes", images = 2, image_size = 64}
[[figure]]
number = 8
backbones = ["gone"]
maps = {of = "attention", dataset = "scenes", images = 2, image_size = 64}
"""


def found(text):
    return {cell["label"]: cell for cell in json.loads(text)["cells"]}


@pytest.mark.slow
def test_every_kind_of_figure_is_drawn_of_what_there_is_and_drawn_once(tmp_path):
    (tmp_path / "toy.toml").write_text(TABLE)
    done = command_line.run("run", "toy.toml", "--processes", "2", "--json", folder=tmp_path)
    cells = found(done.out)
    words = {label: cell["state"] for label, cell in cells.items()}
    assert [label for label, word in words.items() if word == "failed"] == ["gone, incontext, scenes", "Figure 8"], done.err
    sheets = {path.name: path for path in (tmp_path / "results" / "tables" / "toy").glob("*.png")}
    assert sorted(sheets) == [f"figure-{number}.png" for number in (3, 4, 5, 6, 7)]
    for path in sheets.values():
        assert np.asarray(Image.open(path)).std() > 5, path
    assert len(list((tmp_path / "results" / "records").glob("*.json"))) == 3  # the figure shares two with the table
    assert "figure-4.png" in done.err
    before = {name: path.stat().st_mtime_ns for name, path in sheets.items()}
    command_line.run("run", "toy.toml", "--json", folder=tmp_path)
    assert {name: path.stat().st_mtime_ns for name, path in sheets.items()} == before


@pytest.mark.slow
def test_pictures_are_drawn_of_records_that_were_complete_without_them(tmp_path):
    without = TABLE.split("[[figure]]")[0].replace("epochs = 2", "epochs = 1")
    (tmp_path / "toy.toml").write_text(without)
    command_line.run("run", "toy.toml", folder=tmp_path)
    record = {path.name: json.loads(path.read_text())["scores"] for path in (tmp_path / "results" / "records").glob("*.json")}
    (tmp_path / "toy.toml").write_text(without + "[[figure]]" + TABLE.split("[[figure]]")[2])
    command_line.run("run", "toy.toml", folder=tmp_path)
    assert (tmp_path / "results" / "tables" / "toy" / "figure-4.png").is_file()
    after = {path.name: json.loads(path.read_text())["scores"] for path in (tmp_path / "results" / "records").glob("*.json")}
    assert after == record
