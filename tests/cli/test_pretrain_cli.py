"""`densebench pretrain` in processes of its own: bare, killed, on two processes, as a sweep, and with wrong input."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

TINY = [
    "--arch", "test_vit", "--image-size", "32", "--batch-size", "8", "--hidden-dim", "32", "--bottleneck-dim", "16",
    "--out-dim", "64", "--object-dim", "48", "--objects", "4", "--memory", "16", "--limit", "24", "--data", "scenes",
    "--cache", "none", "--device", "cpu", "--log-every", "1",
]  # fmt: skip


@pytest.fixture
def start(tmp_path):
    environment = {**os.environ, "DENSEBENCH_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}

    def begin(*words, before="pass"):
        code = f"import sys; sys.argv[0] = 'densebench'; {before}; from densebench.cli import main; main()"
        command = [sys.executable, "-W", "ignore", "-c", code, *map(str, words)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=tmp_path, env=environment, **pipes)

    return begin


@pytest.fixture
def run(start):
    def call(*words, **more):
        process = start(*words, **more)
        out, err = process.communicate(timeout=300)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    return call


def backbone(folder):
    return load_file(folder / "backbone.safetensors")


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("words", [["pretrain", "--help"], ["pretrain", "cribo", "--help"], ["ls", "methods"]])
def test_help_does_not_import_torch(run, words):
    done = run(*words, before="import atexit; atexit.register(lambda: print('TORCH' if 'torch' in sys.modules else 'LIGHT'))")
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("LIGHT")


def test_help_lists_every_ablation_of_the_papers(run):
    text = run("pretrain", "cribo", "--help").stdout
    for flag in ("--lambda-pos", "--memory", "--objects", "--image-weight", "--object-weight", "--neighbour-weight", "--cycle"):
        assert f"{flag} " in text
    assert "Presets: tiny, coco, imagenet, imagenet-vitb" in text
    text = run("pretrain", "croc", "--help").stdout
    assert all(flag in text for flag in ("--lambda-pos ", "--k-start ", "--tokens query|key|value|last", "--object-weight "))


def test_methods_are_listed(run):
    found = json.loads(run("ls", "methods", "--json").stdout)["methods"]
    assert {"dino", "croc", "cribo"} <= {entry["name"] for entry in found}


def test_a_run_is_scored_with_no_further_flag(run, tmp_path):
    done = run("pretrain", "cribo", *TINY, "--steps", "3")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "runs/cribo-scenes-1"
    assert "3 steps of 8 images" in done.stderr
    again = run("pretrain", "cribo", *TINY, "--steps", "3")
    assert again.stdout.strip() == "runs/cribo-scenes-2"
    assert equal(backbone(tmp_path / "runs/cribo-scenes-1"), backbone(tmp_path / "runs/cribo-scenes-2"))
    done = run("eval", "--protocol", "incontext", "--limit", "12", "--fractions", "1", "--neighbours", "5", "--image-size", "64")
    assert done.returncode == 0, done.stderr
    assert "ckpt:runs/cribo-scenes-2 on scenes (12 of 64 images, 12 of 256 training images)" in done.stdout


def test_a_bare_run_says_what_it_does(run):
    done = run("pretrain", "cribo", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "no --data: pretraining on the generated data set scenes with preset tiny" in done.stderr
    assert done.stdout == ""


def test_kill_9_and_resume_end_like_an_uninterrupted_run(start, run, tmp_path):
    assert run("pretrain", "cribo", *TINY, "--steps", "40", "--output", "whole").returncode == 0
    process = start("pretrain", "cribo", *TINY, "--steps", "40", "--output", "cut", "--save-steps", "2")
    states = tmp_path / "cut" / "states"
    deadline = time.monotonic() + 120
    while len(list(states.glob("*.safetensors"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    done = run("pretrain", "cribo", "--output", "cut", "--resume")
    assert done.returncode == 0, done.stderr
    assert "resuming from" in done.stderr
    assert equal(backbone(tmp_path / "whole"), backbone(tmp_path / "cut"))


def test_ctrl_c_saves_and_exits_with_130(start, run, tmp_path):
    process = start("pretrain", "cribo", *TINY, "--epochs", "2000", "--output", "cut")
    deadline = time.monotonic() + 120
    while not (tmp_path / "cut" / "log.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "`densebench pretrain cribo --output cut --resume` resumes from there" in err
    assert list((tmp_path / "cut" / "states").glob("*.safetensors"))


def test_two_processes_are_started_by_gpus(run, tmp_path):
    done = run(
        "pretrain", "cribo", *TINY, "--steps", "2", "--gpus", "2", "--output", "two", "--group-size", "4", "--drop-path", "0"
    )
    assert done.returncode == 0, done.stderr
    assert "x 2" in done.stderr
    one = run("pretrain", "cribo", *TINY, "--steps", "2", "--output", "one", "--group-size", "4", "--drop-path", "0")
    assert one.returncode == 0, one.stderr
    two, one = backbone(tmp_path / "two"), backbone(tmp_path / "one")
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-4)


def test_a_sweep_runs_a_grid_and_tabulates_it(run, tmp_path):
    words = ["pretrain", "cribo", *TINY, "--steps", "2", "--output", "grid", "--sweep", "lambda_pos=0,2", "--sweep", "objects=3"]
    done = run(*words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[:5] == ["lambda_pos", "objects", "miou", "%", "0"]
    with (tmp_path / "grid" / "sweep.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["lambda_pos"], row["objects"]) for row in rows] == [("0", "3"), ("2", "3")]
    assert all(0 < float(row["miou %"]) < 60 for row in rows)
    settings = json.loads((tmp_path / "grid" / "lambda_pos=2,objects=3" / "run.json").read_text())["settings"]
    assert (settings["lambda_pos"], settings["objects"]) == (2.0, 3)
    again = run(*words)
    assert "is complete" in again.stderr
    assert again.stdout == done.stdout


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
def test_wrong_input_is_one_line_and_status_2(run, words, message):
    done = run("pretrain", *words)
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("densebench: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert "Traceback" not in done.stderr
