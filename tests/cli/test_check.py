"""`densebench check` finds out what a file is, prints a line a check, and its status says whether all are ok."""

from __future__ import annotations

import pytest
from command_line import call
from planted import plugin

from densebench.cli.check import kind_of


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("incontext", "protocols"),
        ("dino", "methods"),
        ("scenes", "datasets"),
        ("folder:photos", "datasets"),
        ("pixels:16", "backbones"),
        ("timm:vit_small_patch14_dinov2", "backbones"),
    ],
)
def test_names_are_of_a_kind(name, kind):
    assert kind_of(name) == kind


def test_a_backbone_that_conforms_has_a_line_a_check_and_status_0(tmp_path):
    done = call("check", "pixels:16", folder=tmp_path)
    lines = done.out.splitlines()
    assert (done.status, lines[0], lines[-1]) == (0, "pixels:16, a backbone", "10 ok, 0 failed, 0 skipped")
    assert all(line.startswith("ok ") for line in lines[1:-1])


def test_a_mistake_has_its_line_and_status_1(tmp_path):
    plugin(tmp_path, "dataset", ("< radius**2).astype(np.uint8)", "< radius**2).astype(np.uint8) + np.uint8(1)"))
    done = call("check", "./mine.py", folder=tmp_path)
    assert done.status == 1
    first, second = [line for line in done.out.splitlines() if line.startswith("FAILED")]
    assert first.startswith("FAILED   labels: train-00: label() holds the id 2; ids are 0..1")
    assert second.startswith("FAILED   classes: no image shows 'background'")
    assert done.out.splitlines()[-1] == "7 ok, 2 failed, 0 skipped"


def test_what_hangs_on_a_failed_check_is_skipped(tmp_path):
    plugin(tmp_path, "protocol", (', direction="higher"', ""))
    done = call("check", "./mine.py", folder=tmp_path)
    assert done.status == 1
    assert "FAILED   runs: the score accuracy (patches) does not say which values are better" in done.out
    assert "skipped  oracle: needs 'runs', which failed" in done.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("./nowhere.py",), "there is no file nowhere.py"),
        (("./broken.py",), "SyntaxError"),
        (("./raises.py",), "raises.py, line 1, fails on import: ZeroDivisionError"),
        (("./empty.py",), "holds no class that derives from Evaluator, Pretrainer, Dataset, and no function load()"),
        (("incontxt",), "unknown name 'incontxt': did you mean 'incontext'?"),
        (("kmeans", "--preset", "leopard"), "unknown preset 'leopard': did you mean 'leopart'?"),
        (("kmeans", "--restart", "1"), "unknown option '--restart': did you mean '--restarts'?"),
        (("scenes", "--preset", "tiny"), "--preset tiny: scenes is among the datasets, which have none"),
    ],
)
def test_what_cannot_be_read_ends_with_one_line_and_status_2(words, message, tmp_path):
    for name, text in {"broken": "def", "raises": "1 / 0", "empty": "x = 1"}.items():
        (tmp_path / f"{name}.py").write_text(text)
    assert message in call("check", *words, folder=tmp_path).error


def test_nothing_is_left_behind(tmp_path):
    plugin(tmp_path, "dataset")
    call("check", "./mine.py", folder=tmp_path)
    plugin(tmp_path, "protocol", (', direction="higher"', ""))
    call("check", "./mine.py", folder=tmp_path)
    assert not (tmp_path / "results").exists()
    assert not [path for path in (tmp_path / "cache").rglob("*") if "features" in str(path) or "scoring" in str(path)]


def test_dash_h_is_help(tmp_path):
    done = call("check", "-h", folder=tmp_path)
    assert (done.status, done.out) == (0, call("check", "--help", folder=tmp_path).out)
