"""run.json and checkpoint.json that something has happened to: one line that names the file and the field."""

from __future__ import annotations

import json

import pytest
import torch

from densebench.backbones.checkpoint import newest_checkpoint, read_checkpoint, save_checkpoint
from densebench.errors import UserError
from densebench.evaluation.run import evaluate
from densebench.training.run import train

BROKEN = ["[]", "null", "{}", "7", '"a"', "", "[" * 100_000, '{"schema": 1}', '{"schema": true, "arch": "test_vit"}']
SHORT = {
    "arch": "test_vit", "image_size": 32, "batch_size": 2, "hidden_dim": 32, "bottleneck_dim": 16, "out_dim": 64,
    "local_crops": 0, "device": "cpu", "cache": "none", "steps": 1,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path


def one_line(caught, path):
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    assert len(text) < len(str(path)) + 400


@pytest.mark.parametrize(
    "content", [*BROKEN, '{"schema": 1, "arch": ["test_vit"]}', '{"schema": 1, "arch": "test_vit", "step": -1}']
)
def test_a_broken_checkpoint_is_named(folder, content):
    (folder / "checkpoint.json").write_text(content)
    with pytest.raises(UserError, match="is not a checkpoint .*give the folder that pretraining wrote") as caught:
        read_checkpoint(folder)
    one_line(caught, folder / "checkpoint.json")


def test_a_broken_newest_checkpoint_ends_a_bare_evaluation_in_one_line(folder):
    (folder / "runs" / "a").mkdir(parents=True)
    (folder / "runs" / "a" / "checkpoint.json").write_text("[]")
    assert newest_checkpoint(folder / "runs") == folder / "runs" / "a"
    with pytest.raises(UserError, match="is not a checkpoint"):
        evaluate(None, "incontext")


def test_a_checkpoint_reads_back(folder):
    save_checkpoint(folder, torch.nn.Linear(2, 3), "test_vit", method="dino", dataset="scenes", step=3, epoch=0.5, finished=True)
    assert read_checkpoint(folder) == {
        "schema": 1, "arch": "test_vit", "method": "dino", "dataset": "scenes", "step": 3, "epoch": 0.5, "finished": True,
    }  # fmt: skip


@pytest.mark.parametrize("content", BROKEN)
def test_a_broken_run_is_named(folder, content):
    run = folder / "runs" / "a"
    run.mkdir(parents=True)
    (run / "run.json").write_text(content)
    with pytest.raises(UserError, match="holds no run .*give the --output of one") as caught:
        train("dino", output=run, resume=True)
    one_line(caught, run / "run.json")


def started(folder):
    return train("dino", data=("scenes",), limit=4, output=folder, **SHORT)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What the run.json of a short run holds."""
    return json.loads((started(tmp_path_factory.mktemp("trained") / "run") / "run.json").read_text())


def test_every_field_of_a_run_that_is_missing_is_named(folder, trained):
    needed = ("schema", "method", "preset", "variant", "init", "weights", "seed", "settings", "runtime", "data")
    for *above, last in [(name,) for name in needed] + [("data", name) for name in ("specs", "root", "limit", "digest")]:
        content = json.loads(json.dumps(trained))
        part = content
        for key in above:
            part = part[key]
        del part[last]
        (folder / "run.json").write_text(json.dumps(content))
        with pytest.raises(UserError, match=rf"lacks {'.'.join((*above, last))}\W"):
            train("dino", output=folder, resume=True)


def test_a_broken_run_beside_others_does_not_keep_them_from_being_resumed(folder, capsys):
    started(folder / "runs" / "good")
    (folder / "runs" / "bad").mkdir()
    (folder / "runs" / "bad" / "run.json").write_text("[]")
    assert train("dino", resume=True).name == "good"
    assert "left out: " in capsys.readouterr().err
