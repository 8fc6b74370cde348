"""`densebench eval` with several backbones: weights and names in pairs, and what one failure leaves of the others."""

from __future__ import annotations

import json

import pytest
from command_line import call

FAST = ["--dataset", "scenes", "--limit", "4", "--fractions", "1", "--neighbours", "3"]
DEFECT = """from dataclasses import dataclass
import torch
from torch import nn

class Late(nn.Module):
    def forward(self, images):
        if len(images) > 1:
            raise ERROR
        return torch.nn.functional.avg_pool2d(images, 16)

def load():
    return Late()
"""

PROTOCOL = """from dataclasses import dataclass
from densebench.evals.incontext import InContext

@dataclass(frozen=True)
class Mine(InContext):
    presets = {"plain": {}}

    def run(self, backbone, dataset, run):
        raise ValueError("boo")
"""


def score(folder, *words, protocol="incontext"):
    return call("eval", "--protocol", protocol, *FAST, *words, folder=folder)


def test_names_go_pairwise_with_backbones(tmp_path):
    words = ["--backbone", "pixels:16", "--name", "sixteen", "--backbone", "pixels:8", "--name", "none", "--json"]
    done = score(tmp_path, *words)
    found = [json.loads(line)["backbone"] for line in done.out.splitlines()]
    assert [(backbone["spec"], backbone.get("name")) for backbone in found] == [("pixels:16", "sixteen"), ("pixels:8", None)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--name", "a"], "--name a goes with one --backbone; 2 are given"),
        (["--name", "a", "--name", "b", "--name", "c"], "3 --name for 2 backbones"),
        (["--weights", "x.pth", "--weights", "y.pth", "--weights", "z.pth"], "3 --weights for 2 backbones"),
    ],
)
def test_a_wrong_count_is_one_line(tmp_path, words, said):
    done = score(tmp_path, "--backbone", "pixels:16", "--backbone", "pixels:8", *words)
    assert said in done.error and not (tmp_path / "results").exists()


def test_weights_go_pairwise_with_backbones(tmp_path):
    words = ["--backbone", "pixels:16", "--weights", "none", "--backbone", "timm:test_vit", "--weights", "lost.pth"]
    done = score(tmp_path, *words)
    assert done.status == 2 and "timm:test_vit on scenes: " in done.err and "lost.pth" in done.err
    assert done.out.startswith("pixels:16 on scenes")


def test_the_others_run_where_one_fails_and_the_status_says_so(tmp_path):
    done = score(tmp_path, "--backbone", "ckpt:nowhere", "--backbone", "pixels:16")
    assert done.status == 2 and done.out.startswith("pixels:16 on scenes")
    assert "Traceback" not in done.err
    lines = done.err.splitlines()
    assert len([line for line in lines if "is not a checkpoint" in line]) == 1
    assert lines[-1] == "1 of 2 evaluations failed: ckpt:nowhere on scenes (incontext)"


def test_the_other_protocols_run_where_one_fails(tmp_path):
    words = ["--backbone", "pixels:16", "--pca", "10000", "--clusters", "6"]
    done = score(tmp_path, *words, protocol="kmeans,incontext")
    assert done.status == 2 and "incontext/hummingbird" in done.out and "kmeans" not in done.out
    assert done.err.splitlines()[-1] == "1 of 2 evaluations failed: pixels:16 on scenes (kmeans)"


def test_a_defect_of_a_protocol_of_the_users_is_one_line(tmp_path):
    (tmp_path / "mine.py").write_text(PROTOCOL)
    done = score(tmp_path, "--backbone", "pixels:16", protocol="./mine.py,incontext")
    assert done.status == 2 and "mine.py, line 9, fails: ValueError: boo" in done.err and "Traceback" not in done.err
    assert "incontext/hummingbird" in done.out


def test_a_defect_that_is_not_the_users_is_status_1_and_a_traceback(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("a defect")

    monkeypatch.setattr("densebench.backbones.adapters.Pixels.forward", broken)
    (tmp_path / "late.py").write_text(DEFECT.replace("> 1", "> 1000"))
    done = score(tmp_path, "--backbone", "pixels:16", "--backbone", "ckpt:nowhere", "--backbone", "./late.py")
    assert done.status == 1 and "Traceback (most recent call last)" in done.err and done.out.startswith("late on scenes")
    assert "pixels:16 on scenes: RuntimeError: a defect" in done.err
    assert "2 of 3 evaluations failed" in done.err.splitlines()[-1]


def test_ctrl_c_stops_the_call(tmp_path):
    (tmp_path / "late.py").write_text(DEFECT.replace("ERROR", "KeyboardInterrupt"))
    done = score(tmp_path, "--backbone", "./late.py", "--backbone", "pixels:16")
    assert done.status == 130 and done.out == ""
