"""The protocols through MMSegmentation from the command line: records, pictures, marks, several processes, wrong input."""

from __future__ import annotations

import json

import pytest
from test_cli import measured, record, runner

BACKBONE = "--backbone random:test_vit --dataset scenes"
RUN = "--crop-size 32 --iterations 4 --train-batch 4 --validations 2 --workers 0"
SHORT = f"{BACKBONE} --limit 6 {RUN}"


def linear(*more):
    return ["eval", "--protocol", "linear", "--preset", "mmseg", *SHORT.split(), *more]


def scores(record, metric="miou"):
    return {score["variant"]: score["value"] for score in record["scores"] if score["metric"] == metric}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("heads")


@pytest.fixture(scope="module")
def run(folder):
    return runner(folder)


@pytest.fixture(scope="module")
def whole(run, folder):
    done = run(*linear("--visualise", "2", "--results", "whole/results"))
    assert done.returncode == 0, done.stderr
    return record(folder / "whole")


def test_the_best_learning_rate_is_the_headline_and_all_are_recorded(whole, folder):
    found = scores(whole)
    rates = {variant: value for variant, value in found.items() if variant.startswith("lr ")}
    assert set(rates) == {"lr 0.0008", "lr 0.0003", "lr 0.0001", "lr 8e-05"}
    assert found["identity"] == max(rates.values())
    [headline] = [score for score in whole["scores"] if (score["metric"], score["variant"]) == ("miou", "identity")]
    details = headline["details"]
    assert {f"lr {rate}": value for rate, value in details["learning_rates"].items()} == rates
    assert details["iteration"] in (2, 4) and details["chosen_on"] == "the scored split"
    assert details["mmseg_miou"] == pytest.approx(found["identity"], abs=0.006)  # MMSegmentation rounds to two decimals
    assert whole["protocol"]["settings"]["comparable"] is False
    assert whole["environment"]["mmsegmentation"] and whole["status"] == "complete"
    pictures = {path.name for path in (folder / "whole" / "results" / "pictures" / whole["id"]).iterdir()}
    assert "learning-curves.png" in pictures and len(pictures) == 3


def test_two_processes_give_the_record_of_one(whole, run, folder):
    done = run(*linear("--gpus", "2", "--results", "two/results"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("linear/mmseg") == 1
    other = measured(record(folder / "two"))
    assert scores(other) == pytest.approx(scores(whole), abs=0.05)
    assert other["id"] == whole["id"]


def test_a_second_call_has_nothing_to_do(whole, run):
    done = run(*linear("--visualise", "2", "--results", "whole/results"))
    assert done.returncode == 0
    assert "holds all 1 points already" in done.stderr


def test_segmenter_scores(run, folder):
    done = run("eval", "--protocol", "segmenter", *SHORT.split(), "--learning-rates", "1e-3,1e30", "--results", "tuned/results")
    assert done.returncode == 0, done.stderr
    tuned = record(folder / "tuned")
    assert {"identity", "lr 0.001"} <= scores(tuned).keys()
    [headline] = [score for score in tuned["scores"] if (score["metric"], score["variant"]) == ("miou", "identity")]
    assert headline["details"]["learning_rates"]["1e+30"].startswith("diverged at iteration")


def test_a_shortened_run_is_marked_in_the_table(run):
    words = [*BACKBONE.split(), *RUN.split(), "--learning-rates", "1e-3", "--crop-size", "16", "--results", "short"]
    done = run("eval", "--protocol", "linear", "--preset", "mmseg", *words)
    assert done.returncode == 0, done.stderr
    table = run("leaderboard", "--results", "short").stdout
    assert "4 iterations (not comparable with published runs)" in table


def test_presets_of_one_protocol_have_options_of_their_own(run):
    presets = ["lbfgs", "mmseg", "dinov3", "neco", "leopart", "croc"]
    assert "--standardise" in run("eval", "--protocol", "linear", "--help").stdout
    text = run("eval", "--protocol", "linear", "--preset", "dinov3", "--help").stdout
    assert "--crop-size" in text and "--standardise" not in text
    assert f"linear has {', '.join(presets)}" in run("eval", "--protocol", "linear", "--preset", "typo").stderr
    found = {entry["name"]: entry["presets"] for entry in json.loads(run("ls", "protocols", "--json").stdout)["protocols"]}
    assert found["linear"] == presets


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--stride", "64"], "--stride 64: windows of 32 px would leave gaps; give 32 at most"),
        (["--gpus", "3"], "--train-batch 4 cannot be divided among 3 processes"),
        (["--learning-rates", "1e30"], "every learning rate diverged (1e+30)"),
        (["--learning-rates", "fast"], "--learning-rates fast: it takes NUMBER,..."),
        (["--learning-rates", "1e-3,1e-4,0.001"], "0.001 is given twice"),
        (["--iterations", "0"], "--iterations 0: it must be at least 1"),
        (["--fractions", "8"], "unknown option '--fractions'"),
        (["--head", "lineal"], "did you mean 'linear'"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(run, words, message):
    done = run(*linear(*words))
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_fine_tuning_needs_weights(run):
    done = run("eval", "--protocol", "segmenter", *SHORT.replace("random:test_vit", "pixels:16").split())
    assert done.returncode == 2
    assert "pixels:16 has no weights to fine-tune" in done.stderr


TWO = "--backbone random:test_vit --dataset scenes --limit 8 --image-size 64 --seeds 2 --fractions 1 --clusters 0"


def test_several_protocols_in_one_call(run, folder):
    done = run(
        "eval",
        "--protocol",
        "kmeans, incontext",
        "--preset",
        "leopart,cribo",
        *TWO.split(),
        "--resize",
        "square",
        "--results",
        "both",
    )
    assert done.returncode == 0, done.stderr
    assert [line.partition("), ")[2].partition(" ")[0] for line in done.stdout.splitlines() if " on scenes" in line] == [
        "kmeans/leopart",
        "incontext/cribo",
    ]
    assert len(list((folder / "both" / "records").glob("*.json"))) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--preset", "leopart"], "2 protocols take 2 presets"),
        (["--preset", "leopart,typo"], "unknown preset 'typo'"),
        (["--stride", "3"], "unknown option '--stride'"),
        (["--engine", "sklearn"], "--engine"),
        (["--config", "options.toml"], "unknown option 'imge_size'"),
        (["--seeds", "x"], "--seeds x: it takes N"),
    ],
)
def test_what_is_wrong_for_one_of_several_protocols_stops_all(run, folder, words, message):
    (folder / "options.toml").write_text("imge-size = 64\n")
    done = run("eval", "--protocol", "kmeans,incontext", *TWO.split(), *words, "--results", "none")
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]
    assert done.stdout == "" and not list((folder / "none" / "records").glob("*.json"))


def test_gpus_go_with_one_protocol(run):
    done = run("eval", "--protocol", "linear,kmeans", "--preset", "mmseg,leopart", "--gpus", "2")
    assert done.returncode == 2 and "--gpus 2 goes with one protocol; 2 are named" in done.stderr
