"""What `train` takes: names and paths, as texts or as `Path`s, one or several; a wrong type is one line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from small_runs import same, tensors, train

from densebench.errors import UserError
from densebench.training.request import Data, Init


@pytest.mark.parametrize("given", ["scenes", ["scenes"], ("scenes",), Path("scenes"), [Path("scenes")], Data("scenes")])
def test_one_name_and_a_list_of_one_are_the_same(given):
    assert Data.of(given) == Data(("scenes",))


def test_texts_and_paths_are_interchangeable():
    assert Data("voc", "there") == Data(["voc"], Path("there")) == replace(Data("scenes", "there"), specs=Path("voc"))
    assert Init("timm:x", "file.pth") == Init("timm:x", Path("file.pth"))
    assert Init.of(Path("runs/one")) == Init.of("ckpt:runs/one") == Init("ckpt:runs/one")
    assert Data.of(()) == Data() and Init.of(None) == Init()


def test_a_run_may_be_asked_for_by_paths(tmp_path):
    first = train("dino", tmp_path / "first", data="scenes", steps=1)
    again = train("dino", str(tmp_path / "again"), data=[Path("scenes")], steps=1)
    same(tensors(first), tensors(again))
    assert json.loads((again / "run.json").read_text())["data"]["specs"] == ["scenes"]
    assert (
        json.loads((train("dino", tmp_path / "more", init=first, arch=None, steps=1) / "run.json").read_text())["init"]
        == f"ckpt:{first}"
    )


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"data": 5}, "data=5: give the name of a data set, a folder of images, or a list of them"),
        ({"data": ["scenes", None]}, r"data=\['scenes', None\]: give the name"),
        ({"data": {"scenes"}}, "data={'scenes'}: give the name"),
        ({"init": 5}, "init=5: give timm:NAME, ckpt:DIR or the path of a run"),
        ({"output": 5}, "output=5: give a path, as a text or a Path"),
        ({"launch": 2}, r"launch=2: give a Launch\(processes, command\), or leave it out"),
    ],
)
def test_a_wrong_type_is_one_line(tmp_path, given, line):
    with pytest.raises(UserError, match=line):
        train("dino", **{"output": tmp_path / "run", **given})


def test_a_wrong_root_or_file_of_weights_is_one_line():
    with pytest.raises(UserError, match="data_root=5: give a path, as a text or a Path"):
        Data("voc", 5)
    with pytest.raises(UserError, match="weights=5: give a path, as a text or a Path"):
        Init("timm:x", 5)
