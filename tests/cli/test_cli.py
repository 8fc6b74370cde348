"""`densebench eval` and the lists as users meet them: with right and wrong input, and killed."""

from __future__ import annotations

import json
import signal
import time

import command_line
import pytest
import torch
from command_line import LIGHT, measured, record

from densebench import catalog

FAST = ["--backbone", "pixels:16", "--dataset", "scenes", "--limit", "12", "--neighbours", "5", "--image-size", "64"]
FAST += ["--device", "cpu", "--workers", "0"]
WORDS = ["eval", "--protocol", "incontext", "--fractions", "1,4", "--seeds", "2", *FAST]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module")
def call(folder):
    return lambda *words: command_line.call(*words, folder=folder)


@pytest.fixture(scope="module")
def first(call):
    """The first run of WORDS."""
    done = call(*WORDS)
    assert done.status == 0, done.err
    return done


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        pytest.param(["eval", "--help"], marks=pytest.mark.slow),
        pytest.param(["eval", "--protocol", "incontext", "--help"], marks=pytest.mark.slow),
        ["eval", "--protocol", "linear", "--preset", "mmseg", "--help"],
        pytest.param(["pretrain", "--help"], marks=pytest.mark.slow),
        ["pretrain", "cribo", "--help"],
        ["ls"],
        pytest.param(["data", "ls"], marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
def test_help_and_lists_do_not_import_torch(folder, words):
    done = command_line.run(*words, folder=folder, before=LIGHT)
    assert done.status == 0, done.err
    assert done.out.rstrip().endswith("LIGHT")


def test_help_of_a_protocol_lists_its_settings(call):
    text = call("eval", "--protocol", "incontext", "--help").out
    assert "--neighbours N,..." in text
    assert "--device auto|cpu|cuda" in text
    assert "open-hummingbird" in text


def test_ls_names_everything(call):
    kinds = json.loads(call("ls", "--json").out)
    assert [entry["name"] for entry in kinds["protocols"]] == list(catalog.entries("protocols"))
    assert [entry["name"] for entry in kinds["methods"]] == list(catalog.entries("methods"))
    assert {"incontext", "linear", "vos"} <= {entry["name"] for entry in kinds["protocols"]}
    assert {"voc", "ade20k", "coco-things", "cityscapes", "scenes"} <= {entry["name"] for entry in kinds["datasets"]}
    assert any(entry["name"].startswith("timm:") for entry in kinds["backbones"])


def test_eval_writes_a_record(first, folder):
    assert "incontext" in first.out
    written = record(folder)
    assert written["status"] == "complete"
    assert written["dataset"]["limit"] == 12
    points = [(s["fraction"], s["seed"]) for s in written["scores"] if (s["metric"], s["variant"]) == ("miou", "identity")]
    assert points == [(1, None), (4, 0), (4, 1)]
    assert {"labels", "features", "memory", "search", "metrics", "total"} <= set(written["run"]["seconds"])
    assert written["run"]["command"].startswith("densebench eval --protocol incontext")


def test_a_second_run_has_nothing_to_do(first, call, folder):
    again = call(*WORDS, "--json")
    assert "holds all 3 points already" in again.err
    assert measured(json.loads(again.out)) == measured(record(folder))


def test_more_points_are_added_to_a_record(folder, tmp_path):
    words = ["eval", "--protocol", "incontext", "--seeds", "1", *FAST, "--json"]
    assert command_line.call(*words, "--fractions", "1", folder=tmp_path).status == 0
    more = command_line.call(*words, "--fractions", "2", folder=tmp_path)
    assert {score["fraction"] for score in json.loads(more.out)["scores"]} == {1, 2}


def test_dry_run_writes_nothing(tmp_path):
    done = command_line.call("eval", "--protocol", "incontext", "--fractions", "1,4", *FAST, "--dry-run", folder=tmp_path)
    assert done.status == 0, done.err
    assert "fraction 4, seed 4" in done.out
    assert not (tmp_path / "results").exists()


def test_a_bare_run_says_what_it_takes(tmp_path):
    words = ["eval", "--protocol", "incontext", "--limit", "2", "--neighbours", "1", "--dry-run"]
    done = command_line.call(*words, folder=tmp_path)
    assert done.status == 0, done.err
    assert "no --backbone: scoring random:" in done.err
    assert "scenes" in done.out + done.err


INCONTEXT = ["eval", "--protocol", "incontext"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["eval"], "name a protocol: --protocol bbox-knn|"),
        (["eval", "--protocol", "incontxt"], "did you mean 'incontext'"),
        ([*INCONTEXT, "--preset", "humingbird"], "did you mean 'hummingbird'"),
        ([*INCONTEXT, "--dataset", "scnes", "--backbone", "pixels:16"], "did you mean 'scenes'"),
        ([*INCONTEXT, "--backbone", "random:vit_tiny_patch16_22"], "did you mean"),
        ([*INCONTEXT, "--backbone", "tim:vit"], "did you mean"),
        ([*INCONTEXT, "--neighbors", "3"], "did you mean '--neighbours'"),
        ([*INCONTEXT, "--fractions", "1,x"], "--fractions x"),
        ([*INCONTEXT, *FAST, "--fractions", "1024"], "1024"),
        ([*INCONTEXT, *FAST, "--neighbours", "99999"], "--neighbours 99999"),
        ([*INCONTEXT, *FAST, "--image-size", "100"], "112"),
        ([*INCONTEXT, *FAST, "--results", "/proc/nowhere"], "/proc/nowhere"),
        ([*INCONTEXT, "--weights", "x.safetensors"], "--weights x.safetensors goes with one --backbone"),
        ([*INCONTEXT, "--backbone", "timm:vit_tiny_patch16_224", "--weights", "x.safetensors"], "x.safetensors"),
        ([*INCONTEXT, "--backbone", "pixels:16", "--dataset", "voc", "--data-root", "nowhere"], "nowhere"),
        (["ls", "method"], "did you mean 'methods'"),
        (["leaderboard", "--results", "nowhere"], "nowhere"),
    ],
    ids=lambda value: " ".join(value)[-40:] if isinstance(value, list) else "",
)
def test_wrong_input_is_one_line_and_status_2(tmp_path, words, message):
    assert message in command_line.call(*words, folder=tmp_path).error


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there(tmp_path):
    assert "--device cuda" in command_line.call(*INCONTEXT, *FAST, "--device", "cuda", folder=tmp_path).error


def test_wrong_input_in_a_process_of_its_own(folder):
    assert "did you mean '--neighbours'" in command_line.run(*INCONTEXT, "--neighbors", "3", folder=folder).error


SLOW = "import time, densebench.features.views as v; p = v.View.image; v.View.image = lambda *a: (time.sleep(0.05), p(*a))[1]"
EAGER = "import densebench.features.extract as f; f.SHARD_BYTES = 1"
STEPS = "import time, densebench.evals.incontext.voting as s; s.KEEP_EVERY = 0; \
s.QUERIES = 1; p = s.Voter.label_maps; s.Voter.label_maps = lambda *a: (time.sleep(0.2), p(*a))[1]"


@pytest.mark.parametrize(
    ("slowly", "kind"),
    [(f"{SLOW}; {EAGER}", "features"), pytest.param(STEPS, "scoring", marks=pytest.mark.slow)],
    ids=["features", "scoring"],
)
def test_kill_9_and_continue_to_the_same_record(first, folder, tmp_path, slowly, kind):
    words = [*WORDS, "--batch-size", "1"]
    process = command_line.start(*words, folder=tmp_path, before=slowly)
    work = tmp_path / "cache" / kind
    deadline = time.monotonic() + 60
    while len(list(work.glob("*/*.safetensors"))) < 3 and time.monotonic() < deadline:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(list(work.glob("*/*.safetensors"))) >= 3
    assert record(tmp_path)["status"] == "running"
    done = command_line.call(*words, folder=tmp_path)
    assert done.status == 0, done.err
    assert measured(record(tmp_path)) == measured(record(folder))
    assert not list((tmp_path / "cache" / "scoring").glob("*/*.safetensors"))
