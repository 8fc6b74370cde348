"""`densebench pretrain`: bare, killed, stopped, on two processes, as a sweep, and with wrong input."""

from __future__ import annotations

import csv
import json
import signal
import time

import command_line
import pytest
import torch
from safetensors.torch import load_file

TINY = [
    "--arch", "test_vit", "--image-size", "32", "--batch-size", "8", "--hidden-dim", "32", "--bottleneck-dim", "16",
    "--out-dim", "64", "--object-dim", "48", "--objects", "4", "--memory", "16", "--limit", "24", "--data", "scenes",
    "--cache", "none", "--device", "cpu", "--workers", "0", "--log-every", "1",
]  # fmt: skip


@pytest.fixture
def call(tmp_path):
    return lambda *words: command_line.call(*words, folder=tmp_path)


def backbone(folder):
    return load_file(folder / "backbone.safetensors")


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def wait_for(condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_help_lists_every_ablation_of_the_papers(call):
    text = call("pretrain", "cribo", "--help").out
    for flag in ("--lambda-pos", "--memory", "--objects", "--image-weight", "--object-weight", "--neighbour-weight", "--cycle"):
        assert f"{flag} " in text
    assert "Presets: tiny, coco, imagenet, imagenet-vitb" in text
    text = call("pretrain", "croc", "--help").out
    assert all(flag in text for flag in ("--lambda-pos ", "--k-start ", "--tokens query|key|value|last", "--object-weight "))


def test_methods_are_listed(call):
    methods = json.loads(call("ls", "methods", "--json").out)["methods"]
    assert {"dino", "croc", "cribo"} <= {entry["name"] for entry in methods}


def test_a_run_is_scored_with_no_further_flag(call, tmp_path):
    done = call("pretrain", "cribo", *TINY, "--steps", "3")
    assert done.status == 0, done.err
    assert done.out.strip() == "runs/cribo-scenes-1"
    assert "3 steps of 8 images" in done.err
    again = call("pretrain", "cribo", *TINY, "--steps", "3")
    assert again.out.strip() == "runs/cribo-scenes-2"
    assert equal(backbone(tmp_path / "runs/cribo-scenes-1"), backbone(tmp_path / "runs/cribo-scenes-2"))
    words = ["--limit", "12", "--fractions", "1", "--neighbours", "5", "--image-size", "64"]
    done = call("eval", "--protocol", "incontext", *words)
    assert done.status == 0, done.err
    assert "ckpt:runs/cribo-scenes-2 on scenes (12 of 64 images, 12 of 256 training images)" in done.out


@pytest.mark.slow
def test_a_bare_run_says_what_it_does(call):
    done = call("pretrain", "cribo", "--dry-run")
    assert done.status == 0, done.err
    assert "no --data: pretraining on the generated data set scenes with preset tiny" in done.err
    assert done.out == ""


@pytest.mark.slow
def test_kill_9_and_resume_end_like_an_uninterrupted_run(call, tmp_path):
    words = ["pretrain", "cribo", *TINY, "--steps", "12"]
    assert call(*words, "--output", "whole").status == 0
    process = command_line.start(*words, "--output", "cut", "--save-steps", "2", folder=tmp_path)
    wait_for(lambda: len(list((tmp_path / "cut" / "states").glob("*.safetensors"))) >= 2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    done = call("pretrain", "cribo", "--output", "cut", "--resume")
    assert done.status == 0, done.err
    assert "resuming from" in done.err
    assert equal(backbone(tmp_path / "whole"), backbone(tmp_path / "cut"))


@pytest.mark.slow
def test_ctrl_c_saves_and_exits_with_130(tmp_path):
    before = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # a process in the background ignores it
    words = ["pretrain", "cribo", *TINY, "--epochs", "2000", "--output", "cut"]
    process = command_line.start(*words, folder=tmp_path, before=before)
    wait_for((tmp_path / "cut" / "log.csv").exists)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "`densebench pretrain cribo --output cut --resume` resumes from there" in err
    assert list((tmp_path / "cut" / "states").glob("*.safetensors"))


@pytest.mark.slow
def test_two_processes_are_started_by_gpus(call, tmp_path):
    words = ["pretrain", "cribo", *TINY, "--steps", "2", "--group-size", "4", "--drop-path", "0"]
    done = command_line.run(*words, "--gpus", "2", "--output", "two", folder=tmp_path)
    assert done.status == 0, done.err
    assert "x 2" in done.err
    one = call(*words, "--output", "one")
    assert one.status == 0, one.err
    two, one = backbone(tmp_path / "two"), backbone(tmp_path / "one")
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_sweep_runs_a_grid_and_tabulates_it(call, tmp_path):
    words = ["pretrain", "cribo", *TINY, "--steps", "1", "--output", "grid", "--sweep", "lambda_pos=0,2", "--sweep", "objects=3"]
    done = call(*words)
    assert done.status == 0, done.err
    assert done.out.split()[:5] == ["lambda_pos", "objects", "miou", "%", "0"]
    with (tmp_path / "grid" / "sweep.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["lambda_pos"], row["objects"]) for row in rows] == [("0", "3"), ("2", "3")]
    assert all(0 < float(row["miou %"]) < 60 for row in rows)
    settings = json.loads((tmp_path / "grid" / "lambda_pos=2,objects=3" / "run.json").read_text())["settings"]
    assert (settings["lambda_pos"], settings["objects"]) == (2.0, 3)
    again = call(*words)
    assert "is complete" in again.err
    assert again.out == done.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give a method: densebench pretrain"),
        (["crib"], "unknown method 'crib': did you mean 'cribo'?"),
        (["cribo", "--lambda", "2"], "unknown option '--lambda': did you mean '--lambda-pos'?"),
        (["cribo", "--objects", "many"], "--objects many: it takes N"),
        (["cribo", "--data", "nowhere"], "unknown data 'nowhere'"),
        (["cribo", "--resume"], "there is no run of cribo under runs"),
        (["cribo", "--resume", "--output", "gone"], "gone holds no run"),
        (["cribo", "--sweep", "lambdapos=1"], "unknown hyper-parameter 'lambdapos': did you mean 'lambda_pos'"),
        (["cribo", "--sweep", "lambda_pos"], "--sweep lambda_pos: it takes NAME=A,B,..."),
        (["cribo", "--batch-size", "300"], "--batch-size 300: the data has 256 images"),
        (["cribo", "--image-size", "100"], "--image-size 100: the patches of"),
        (["cribo", "--image-weight", "0", "--object-weight", "0", "--neighbour-weight", "0"], "nothing is left to learn from"),
        (["dino", "--gpus", "3"], "--batch-size 64 is not a multiple of 3 processes"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(call, words, message):
    assert message in call("pretrain", *words).error
