"""`densebench new` writes a file that runs, and refuses what could not run in one line."""

from __future__ import annotations

import ast
from importlib.resources import files

import pytest
from command_line import LIGHT, call, run

from densebench import catalog
from densebench.cli.check import kind_of
from densebench.cli.new import RUNS, written

PLURAL = {"protocol": "protocols", "method": "methods", "dataset": "datasets", "backbone": "backbones"}


@pytest.mark.parametrize("kind", RUNS)
def test_a_file_is_written_and_the_next_commands_are_said(kind, tmp_path):
    done = call("new", kind, "my-thing", folder=tmp_path)
    lines = done.out.splitlines()
    assert (done.status, lines[0], lines[2]) == (0, "wrote my_thing.py", "check  densebench check ./my_thing.py")
    assert lines[1].startswith("run    densebench ") and "./my_thing.py" in lines[1]
    assert kind_of(str(tmp_path / "my_thing.py")) == PLURAL[kind]


@pytest.mark.parametrize("kind", RUNS)
def test_the_name_is_put_in(kind):
    text = written(kind, "my-thing")
    assert [node.name for node in ast.parse(text).body if isinstance(node, ast.ClassDef)] == ["MyThing"]
    assert "mine" not in text.lower().replace("determine", "")


def test_the_name_of_a_data_set_is_the_one_that_was_given():
    assert 'name: str = "my-thing"' in written("dataset", "my-thing")


@pytest.mark.parametrize("kind", RUNS)
def test_a_template_is_short_and_documented(kind):
    text = (files("densebench.templates") / f"{kind}.py").read_text()
    assert len(text.splitlines()) < 80
    assert ast.get_docstring(ast.parse(text))
    assert max(map(len, text.splitlines())) <= 130


def test_the_written_protocol_and_method_are_entries_of_the_catalogue(tmp_path):
    for kind, presets in (("protocol", ("plain", "large")), ("method", ("tiny",))):
        path = tmp_path / f"{kind}.py"
        path.write_text(written(kind, "mine"))
        assert catalog.find(PLURAL[kind], str(path)).all_presets == presets


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("protocoll", "a"), "unknown kind 'protocoll': did you mean 'protocol'?"),
        (("protocol", "1a"), "the name '1a' is no name of a module"),
        (("protocol", "a b"), "the name 'a b' is no name of a module"),
        (("protocol", "../a"), "the name '../a' is no name of a module"),
        (("protocol", "class"), "the name 'class' is no name of a module"),
        (("method", "numpy"), "numpy.py would hide the installed module numpy from scripts"),
        (("protocol", "there"), "there.py exists already; remove it"),
        (("protocol", "a", "--output", "a.txt"), "--output a.txt: it does not end in .py"),
    ],
)
def test_what_cannot_be_written_is_refused_in_one_line(words, message, tmp_path):
    (tmp_path / "there.py").write_text("mine")
    assert message in call("new", *words, folder=tmp_path).error
    assert (tmp_path / "there.py").read_text() == "mine"
    assert [path.name for path in tmp_path.glob("*.py")] == ["there.py"]


def test_output_says_where_it_is_written(tmp_path):
    done = call("new", "backbone", "mine", "--output", "models/net.py", folder=tmp_path)
    assert (tmp_path / "models" / "net.py").is_file()
    assert "densebench check ./models/net.py" in done.out


def test_new_imports_no_torch(tmp_path):
    done = run("new", "protocol", "mine", folder=tmp_path, before=LIGHT)
    assert done.out.splitlines()[-1] == "LIGHT"


def test_the_written_protocol_and_data_set_and_backbone_are_scored_together(tmp_path):
    for kind in ("protocol", "dataset"):
        call("new", kind, f"my_{kind}", folder=tmp_path)
    words = ["--protocol", "./my_protocol.py", "--dataset", "./my_dataset.py", "--backbone", "pixels:16", "--workers", "0"]
    done = call("eval", *words, folder=tmp_path)
    first, second = done.out.splitlines()
    assert first == "pixels:16 on my_dataset (20 images), my-protocol/plain v1, patches accuracy in %"
    assert second.split()[:2] == ["share", "1"] and 60 < float(second.split()[2]) <= 100


@pytest.mark.slow
def test_the_written_method_trains_a_backbone_that_is_scored(tmp_path):
    call("new", "method", "my_method", folder=tmp_path)
    done = call(
        "pretrain", "./my_method.py", "--data", "scenes", "--limit", "16", "--batch-size", "8", "--steps", "2", folder=tmp_path
    )
    assert done.status == 0 and done.out.strip() == "runs/my_method-scenes-1"
