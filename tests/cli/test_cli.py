"""The command line as users meet it: in processes of its own, with wrong input, and killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

FAST = ["--backbone", "pixels:16", "--dataset", "scenes", "--limit", "24", "--neighbours", "5"]


def runner(folder):
    """Runs the command line in a folder, with a cache of its own."""
    environment = {**os.environ, "DENSEBENCH_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}

    def call(*words, before="pass", **more):
        code = f"import sys; sys.argv[0] = 'densebench'; {before}; from densebench.cli import main; main()"
        command = [sys.executable, "-W", "ignore", "-c", code, *map(str, words)]
        return subprocess.run(
            command, capture_output=True, text=True, cwd=folder, env=environment | more, timeout=120, check=False
        )

    return call


@pytest.fixture
def run(tmp_path):
    return runner(tmp_path)


def record(folder):
    [path] = (folder / "results" / "records").glob("*.json")
    return json.loads(path.read_text())


def measured(record):
    """A record without what differs from run to run by nature: times, and the state of the checkout."""
    return {name: value for name, value in record.items() if name not in ("run", "code")}


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["eval", "--help"],
        ["eval", "--protocol", "incontext", "--help"],
        ["eval", "--protocol", "linear", "--preset", "mmseg", "--help"],
        ["ls"],
        ["data", "ls"],
    ],
)
def test_help_and_lists_do_not_import_torch(run, words):
    done = run(*words, before="import atexit; atexit.register(lambda: print('TORCH' if 'torch' in sys.modules else 'LIGHT'))")
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("LIGHT")


def test_help_of_a_protocol_lists_its_settings(run):
    text = run("eval", "--protocol", "incontext", "--help").stdout
    assert "--neighbours N,..." in text
    assert "--device auto|cpu|cuda" in text
    assert "open-hummingbird" in text


def test_ls_names_everything(run):
    found = json.loads(run("ls", "--json").stdout)
    protocols = ["bbox-knn", "detection", "incontext", "kmeans", "linear", "segmenter", "unsupervised", "vos"]
    assert [entry["name"] for entry in found["protocols"]] == protocols
    assert {"voc", "ade20k", "coco-things", "coco-stuff", "camvid", "cityscapes", "scenes"} <= {
        e["name"] for e in found["datasets"]
    }
    assert any(entry["name"].startswith("timm:") for entry in found["backbones"])


def test_eval_writes_a_record_and_a_second_run_has_nothing_to_do(run, tmp_path):
    words = ["eval", "--protocol", "incontext", "--fractions", "1,4", "--seeds", "2", *FAST]
    first = run(*words)
    assert first.returncode == 0, first.stderr
    kept = record(tmp_path)
    assert kept["status"] == "complete"
    assert kept["dataset"]["limit"] == 24
    assert [(s["fraction"], s["seed"]) for s in kept["scores"] if (s["metric"], s["variant"]) == ("miou", "identity")] == [
        (1, None),
        (4, 0),
        (4, 1),
    ]
    assert {"labels", "features", "memory", "search", "metrics", "total"} <= set(kept["run"]["seconds"])
    assert kept["run"]["command"].startswith("densebench eval --protocol incontext")
    again = run(*words, "--json")
    assert "holds all 3 points already" in again.stderr
    assert measured(json.loads(again.stdout)) == measured(kept)
    more = run(*words, "--fractions", "2,4", "--json")
    assert {s["fraction"] for s in json.loads(more.stdout)["scores"]} == {1, 2, 4}


def test_dry_run_writes_nothing(run, tmp_path):
    done = run("eval", "--protocol", "incontext", "--fractions", "1,4", *FAST, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "fraction 4, seed 4" in done.stdout
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["eval"], "name a protocol: --protocol bbox-knn|detection|incontext"),
        (["eval", "--protocol", "incontxt"], "did you mean 'incontext'"),
        (["eval", "--protocol", "incontext", "--preset", "humingbird"], "did you mean 'hummingbird'"),
        (["eval", "--protocol", "incontext", "--dataset", "scnes", "--backbone", "pixels:16"], "did you mean 'scenes'"),
        (["eval", "--protocol", "incontext", "--backbone", "random:vit_tiny_patch16_22"], "did you mean"),
        (["eval", "--protocol", "incontext", "--backbone", "tim:vit"], "did you mean"),
        (["eval", "--protocol", "incontext", "--neighbors", "3"], "did you mean '--neighbours'"),
        (["eval", "--protocol", "incontext", "--fractions", "1,x"], "--fractions x"),
        (["eval", "--protocol", "incontext", *FAST, "--fractions", "1024"], "1024"),
        (["eval", "--protocol", "incontext", *FAST, "--neighbours", "99999"], "--neighbours 99999"),
        (["eval", "--protocol", "incontext", *FAST, "--image-size", "100"], "112"),
        (["eval", "--protocol", "incontext", *FAST, "--device", "cuda"], "--device cuda"),
        (["eval", "--protocol", "incontext", *FAST, "--results", "/proc/nowhere"], "/proc/nowhere"),
        (["eval", "--protocol", "incontext", "--weights", "x.safetensors"], "--weights x.safetensors goes with one --backbone"),
        (
            ["eval", "--protocol", "incontext", "--backbone", "timm:vit_tiny_patch16_224", "--weights", "x.safetensors"],
            "x.safetensors",
        ),
        (["eval", "--protocol", "incontext", "--backbone", "pixels:16", "--dataset", "voc", "--data-root", "nowhere"], "nowhere"),
        (["ls", "method"], "did you mean 'methods'"),
        (["leaderboard", "--results", "nowhere"], "nowhere"),
    ],
    ids=lambda value: " ".join(value)[-40:] if isinstance(value, list) else "",
)
def test_wrong_input_is_one_line_and_status_2(run, words, message):
    if words[1:3] == ["--protocol", "incontext"] and "--device" in words:
        torch = pytest.importorskip("torch")
        if torch.cuda.is_available():
            pytest.skip("there is a CUDA device")
    done = run(*words)
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("densebench: ")
    assert message in last
    assert "Traceback" not in done.stderr


def test_bare_run_says_what_it_takes(run):
    done = run("eval", "--protocol", "incontext", "--limit", "2", "--neighbours", "1", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "no --backbone: scoring random:" in done.stderr
    assert "on scenes" in done.stdout + done.stderr or "scenes" in done.stderr


SLOW = "import time, densebench.features.views as v; p = v.View.image; v.View.image = lambda *a: (time.sleep(0.05), p(*a))[1]"
EAGER = "import densebench.features.extract as f; f.SHARD_BYTES = 1"
STEPS = "import time, densebench.evals.incontext.protocol as r, densebench.evals.incontext.voting as s; r.KEEP_EVERY = 0; \
s.QUERIES = 1; p = s.Voter.label_maps; s.Voter.label_maps = lambda *a: (time.sleep(0.2), p(*a))[1]"


@pytest.mark.parametrize(
    ("slowly", "folder"), [(f"{SLOW}; {EAGER}", "features"), (STEPS, "scoring")], ids=["features", "scoring"]
)
def test_kill_9_and_continue_to_the_same_record(run, tmp_path, slowly, folder):
    words = ["eval", "--protocol", "incontext", "--fractions", "1,4", "--seeds", "2", "--batch-size", "1", *FAST]
    assert run(*words, "--results", "whole/results", DENSEBENCH_CACHE=str(tmp_path / "other")).returncode == 0
    code = f"import sys; sys.argv[0] = 'densebench'; {slowly}; from densebench.cli import main; main()"
    cache = tmp_path / "cache"
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code, *words], cwd=tmp_path, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        env={**os.environ, "DENSEBENCH_CACHE": str(cache)},
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while len(list((cache / folder).glob("*/*.safetensors"))) < 3 and time.monotonic() < deadline:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = len(list((cache / folder).glob("*/*.safetensors")))
    assert kept >= 3
    assert record(tmp_path)["status"] == "running"
    done = run(*words)
    assert done.returncode == 0, done.stderr
    assert measured(record(tmp_path)) == measured(record(tmp_path / "whole"))
    assert not list((cache / "scoring").glob("*/*.safetensors"))
