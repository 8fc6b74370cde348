"""The protocols through MMSegmentation from the command line: records, pictures, marks, several processes, wrong input."""

from __future__ import annotations

import json

import command_line
import pytest
from command_line import measured, record

BACKBONE = "--backbone random:test_vit --dataset scenes"
RUN = "--crop-size 32 --iterations 2 --train-batch 4 --validations 2 --workers 0 --device cpu"
SHORT = f"{BACKBONE} --limit 4 {RUN}"


def linear(*more):
    return ["eval", "--protocol", "linear", "--preset", "mmseg", *SHORT.split(), *more]


def scores(record, metric="miou"):
    return {score["variant"]: score["value"] for score in record["scores"] if score["metric"] == metric}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("heads")


@pytest.fixture(scope="module")
def call(folder):
    return lambda *words: command_line.call(*words, folder=folder)


@pytest.fixture(scope="module")
def whole(call, folder):
    done = call(*linear("--visualise", "2", "--results", "whole/results"))
    assert done.status == 0, done.err
    return record(folder / "whole")


def test_the_best_learning_rate_is_the_headline_and_all_are_recorded(whole):
    values = scores(whole)
    rates = {variant: value for variant, value in values.items() if variant.startswith("lr ")}
    assert set(rates) == {"lr 0.0008", "lr 0.0003", "lr 0.0001", "lr 8e-05"}
    assert values["identity"] == max(rates.values())
    [headline] = [score for score in whole["scores"] if (score["metric"], score["variant"]) == ("miou", "identity")]
    details = headline["details"]
    assert {f"lr {rate}": value for rate, value in details["learning_rates"].items()} == rates
    assert details["iteration"] in (1, 2) and details["chosen_on"] == "the scored split"
    assert details["mmseg_miou"] == pytest.approx(values["identity"], abs=0.006)  # MMSegmentation rounds to two decimals


def test_a_record_says_how_it_was_made(whole, folder):
    assert whole["protocol"]["settings"]["comparable"] is False
    assert whole["environment"]["mmsegmentation"] and whole["status"] == "complete"
    pictures = {path.name for path in (folder / "whole" / "results" / "pictures" / whole["id"]).iterdir()}
    assert "learning-curves.png" in pictures and len(pictures) == 3


@pytest.mark.slow
def test_two_processes_give_the_record_of_one(whole, folder):
    done = command_line.run(*linear("--gpus", "2", "--results", "two/results"), folder=folder)
    assert done.status == 0, done.err
    assert done.out.count("linear/mmseg") == 1
    other = measured(record(folder / "two"))
    assert scores(other) == pytest.approx(scores(whole), abs=0.05)
    assert other["id"] == whole["id"]


def test_a_second_call_has_nothing_to_do(whole, call):
    done = call(*linear("--visualise", "2", "--results", "whole/results"))
    assert done.status == 0
    assert "holds all 1 points already" in done.err


@pytest.mark.slow
def test_a_learning_rate_that_diverges_is_noted_beside_the_others(call, folder):
    words = [*SHORT.split(), "--learning-rates", "1e-3,1e30", "--results", "tuned/results"]
    done = call("eval", "--protocol", "segmenter", *words)
    assert done.status == 0, done.err
    tuned = record(folder / "tuned")
    assert {"identity", "lr 0.001"} <= scores(tuned).keys()
    [headline] = [score for score in tuned["scores"] if (score["metric"], score["variant"]) == ("miou", "identity")]
    assert headline["details"]["learning_rates"]["1e+30"].startswith("diverged at iteration")


@pytest.mark.slow  # all 64 images are scored: a table takes no other runs
def test_a_shortened_run_is_marked_in_the_table(call):
    words = [*BACKBONE.split(), *RUN.split(), "--learning-rates", "1e-3", "--crop-size", "16", "--results", "short"]
    done = call("eval", "--protocol", "linear", "--preset", "mmseg", *words)
    assert done.status == 0, done.err
    assert "2 iterations (not comparable with published runs)" in call("leaderboard", "--results", "short").out


def test_presets_of_one_protocol_have_options_of_their_own(call):
    assert "--standardise" in call("eval", "--protocol", "linear", "--help").out
    text = call("eval", "--protocol", "linear", "--preset", "dinov3", "--help").out
    assert "--crop-size" in text and "--standardise" not in text
    assert "linear has lbfgs, mmseg, " in call("eval", "--protocol", "linear", "--preset", "typo").error
    protocols = {entry["name"]: entry["presets"] for entry in json.loads(call("ls", "protocols", "--json").out)["protocols"]}
    assert {"lbfgs", "mmseg", "neco"} <= set(protocols["linear"])


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
def test_wrong_input_is_one_line_and_status_2(call, words, message):
    assert message in call(*linear(*words)).error


def test_fine_tuning_needs_weights(call):
    done = call("eval", "--protocol", "segmenter", *SHORT.replace("random:test_vit", "pixels:16").split())
    assert "pixels:16 has no weights to fine-tune" in done.error


TWO = "--backbone random:test_vit --dataset scenes --limit 8 --image-size 64 --seeds 2 --fractions 1 --clusters 0"
BOTH = ["eval", "--protocol", "kmeans, incontext"]


def test_several_protocols_in_one_call(call, folder):
    words = [*TWO.split(), "--resize", "square", "--workers", "0", "--results", "both"]
    done = call(*BOTH, "--preset", "leopart,cribo", *words)
    assert done.status == 0, done.err
    lines = [line for line in done.out.splitlines() if " on scenes" in line]
    assert [line.partition("), ")[2].partition(" ")[0] for line in lines] == ["kmeans/leopart", "incontext/cribo"]
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
def test_what_is_wrong_for_one_of_several_protocols_stops_all(tmp_path, words, message):
    (tmp_path / "options.toml").write_text("imge-size = 64\n")
    done = command_line.call(*BOTH, *TWO.split(), *words, folder=tmp_path)
    assert message in done.error
    assert done.out == "" and not list((tmp_path / "results" / "records").glob("*.json"))
