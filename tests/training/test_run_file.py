"""What a stored file names is loaded only where that runs no code but our own; all else is to be named again."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import signal
import sys

import pytest

from densebench.backbones.checkpoint import save_checkpoint
from densebench.backbones.loading import load_backbone
from densebench.cli import main
from densebench.datasets import load_dataset
from densebench.errors import Stopped, UserError
from densebench.evaluation.run import evaluate
from densebench.training import loop
from densebench.training.run import train
from densebench.training.run_file import free_folder, read_run, runs_code

EVIL = "from pathlib import Path\nPath('executed').touch()\n"
DATA = """from dataclasses import dataclass
from densebench.datasets.scenes import Scenes

@dataclass(frozen=True, kw_only=True)
class Mine(Scenes):
    name: str = "mine"
"""
SMALL = {
    "arch": "test_vit", "image_size": 32, "batch_size": 8, "hidden_dim": 32, "bottleneck_dim": 16, "steps": 2, "limit": 16,
    "out_dim": 64, "local_crops": 1, "local_size": 16, "device": "cpu", "cache": "none", "workers": 0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))
    for name in ("evil.py", "hubconf.py"):
        (tmp_path / name).write_text(EVIL)
    return tmp_path


@pytest.fixture
def call(monkeypatch, capsys):
    """The exit status of a command and the lines that it says on stderr."""

    def command(*words):
        monkeypatch.setattr(sys, "argv", ["densebench", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        return caught.value.code or 0, capsys.readouterr().err.splitlines()

    return command


def trained(folder, method="dino", **given):
    return train(method, **{"data": ["scenes"], "output": folder, **SMALL, **given})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DENSEBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        return trained(tmp_path_factory.mktemp("trained") / "run")


def tampered(run, *keys, value):
    stored = json.loads((run / "run.json").read_text())
    part = stored
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = value
    (run / "run.json").write_text(json.dumps(stored))


def test_what_runtime_options_were_called_before_is_read(run, tmp_path):
    stored = json.loads((run / "run.json").read_text())
    (tmp_path / "run.json").write_text(
        json.dumps({("means" if key == "runtime" else key): value for key, value in stored.items()})
    )
    assert read_run(tmp_path) == stored
    assert stored["runtime"]["device"] == "cpu"


@pytest.mark.parametrize("more", [[], ["--dry-run"]], ids=["run", "dry run"])
def test_a_checkpoint_cannot_name_a_file_to_run(here, call, more):
    model = load_backbone("random:test_vit").trunk.model
    save_checkpoint(here / "runs" / "a", model, "test_vit", dataset="./evil.py")
    status, lines = call("eval", "--protocol", "incontext", *more)
    assert status == 2
    assert lines == [
        "densebench: ckpt:runs/a was trained on './evil.py', which is not built in; name what to score on with --dataset"
    ]
    assert not (here / "executed").exists()


@pytest.mark.parametrize(
    ("keys", "value", "again"),
    [
        (("data", "specs"), ["./evil.py"], "--data ./evil.py"),
        (("data", "specs"), ["scenes", "./evil.py"], "--data scenes --data ./evil.py"),
        (("init",), "hub:.:entry", "--init hub:.:entry"),
        (("init",), "./evil.py", "--init ./evil.py"),
        (("init",), "ckpt:evil.py", "--init ckpt:evil.py"),
        (("runtime", "probe"), "./evil.py", "--probe ./evil.py"),
        (("runtime", "probe"), "./evil.py:20", "--probe ./evil.py:20"),
    ],
)
def test_a_run_cannot_name_code_to_run(here, call, run, keys, value, again):
    shutil.copytree(run, here / "run")
    tampered(here / "run", *keys, value=value)
    status, lines = call("pretrain", "dino", "--output", "run", "--resume")
    assert status == 2
    assert len(lines) == 1
    assert lines[0].endswith(f"a stored file cannot ask for it: add {again} to the command")
    assert not (here / "executed").exists()


def test_a_stored_checkpoint_with_the_name_of_a_file_is_no_file(here):
    (here / "ckpt:evil.py").write_text(EVIL)
    with pytest.raises(UserError, match="is not a checkpoint"):
        load_backbone("ckpt:evil.py")
    assert not (here / "executed").exists()


def test_what_the_user_names_again_is_loaded(here):
    (here / "mine.py").write_text(DATA)
    run = trained(here / "run", data=["./mine.py"])
    resumed = train("dino", output=run, resume=True, data=["./mine.py"])
    assert resumed == run


def test_the_line_that_resumes_a_run_names_code_again(here, monkeypatch):
    step = loop.train_step

    def interrupted(*arguments):
        signal.raise_signal(signal.SIGINT)
        return step(*arguments)

    (here / "mine.py").write_text(DATA)
    monkeypatch.setattr(loop, "train_step", interrupted)
    with pytest.raises(Stopped, match=r"--output \S+ --resume --data ./mine.py`"):
        trained(here / "run", data=["./mine.py"])


def test_a_folder_of_images_needs_no_second_word(here):
    scenes = load_dataset("scenes")
    (here / "photos").mkdir()
    for item in scenes.items("train")[:16]:
        scenes.image(item).save(here / "photos" / f"{item.name}.png")
    run = trained(here / "run", data=["photos"])
    assert train("dino", output=run, resume=True) == run


@pytest.mark.parametrize(
    "name", ["scenes", "voc:200", "folder:a", "frames:a", "ckpt:a", "timm:a", "random:a", "a/photos", "coco+"]
)
def test_names_that_run_nothing(name):
    assert not runs_code(name)


@pytest.mark.parametrize("name", ["a.py", "./a.py:20", "hub:a:b", "hf:a", "other:a", "timm:a.py", "folder:a.py"])
def test_names_that_run_code(name):
    assert runs_code(name)


def test_an_installed_plugin_runs_code(monkeypatch):
    points = {"densebench.datasets": "labels", "densebench.backbones": "models"}

    def found(group, **_):
        return [importlib.metadata.EntryPoint(points[group], "a:b", group)] if group in points else []

    monkeypatch.setattr(importlib.metadata, "entry_points", found)
    assert runs_code("labels")
    assert runs_code("models:small")


METHOD = """from dataclasses import dataclass
from densebench.pretrain.dino import DINO
from densebench.training.method import PrototypePretrainer

@dataclass(frozen=True)
class Mine(DINO, PrototypePretrainer):
    pass
"""


@pytest.mark.parametrize(("name", "what"), [("method.py", "method's"), ("mine.py", "data's")])
def test_a_run_is_not_resumed_with_other_code(here, name, what):
    (here / "method.py").write_text(METHOD)
    (here / "mine.py").write_text(DATA)
    run = trained(here / "run", method="./method.py", data=["./mine.py"])
    assert train("./method.py", output=run, resume=True, data=["./mine.py"]) == run
    (here / name).write_text((here / name).read_text() + "# edited\n")
    with pytest.raises(UserError, match=f"the {what} code is not what it was; restore it, or start a new --output"):
        train("./method.py", output=run, resume=True, data=["./mine.py"])


def test_scores_are_of_the_data_that_a_checkpoint_names(here):
    model = load_backbone("random:test_vit").trunk.model
    save_checkpoint(here / "runs" / "a", model, "test_vit", dataset="scenes")
    [planned] = evaluate(None, "incontext", dry_run=True).records
    assert planned["dataset"]["name"] == "scenes"


@pytest.mark.parametrize("method", ["mine", "./mine.py", "./mine/", "elsewhere/mine.py"])
def test_a_run_is_called_after_its_method_and_its_data(method, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert free_folder(method, "a+b/c").as_posix() == "runs/mine-a-b-c-1"
    (tmp_path / "runs" / "mine-a-b-c-1").mkdir(parents=True)
    (tmp_path / "runs" / "mine-a-b-c-1" / "run.json").touch()
    assert free_folder(method, "a+b/c").as_posix() == "runs/mine-a-b-c-2"
