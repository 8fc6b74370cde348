"""Pictures of a record whose scores are there already: drawn when they are asked for, and the scores stay as they are."""

from __future__ import annotations

import json

import pytest
from PIL import Image
from tiers import late

from densebench.evaluation.protocol import shown_in_pictures
from densebench.evaluation.run import evaluate
from densebench.pictures.canvas import description_and_legend

FAST = {"limit": 8, "workers": "0", "image_size": "64"}
PROTOCOLS = {
    "incontext": {"neighbours": "3", "fractions": "1,2", "seeds": "2"},
    "linear": {"iterations": "5", "l2": "0.01"},
    "kmeans": {"clusters": "4", "seeds": "2"},
}


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))

    def call(protocol, **more):
        [record] = evaluate(
            "pixels:16", protocol, "scenes", results=tmp_path / "results", **FAST, **PROTOCOLS[protocol], **more
        ).records
        drawn = sorted(path.name for path in (tmp_path / "results" / "pictures").glob("*/*.png"))
        return record, drawn

    return call


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_finished_record_is_drawn_and_its_scores_stay(run, protocol, capfd):
    scored, none = run(protocol)
    assert none == []
    again, drawn = run(protocol, visualise="2")
    assert again["scores"] == scored["scores"] and again["status"] == "complete"
    assert len(drawn) >= 2
    assert again["run"]["started"] == scored["run"]["started"]  # no score was made anew


def test_pictures_say_what_they_show_and_what_their_colours_mean(run, tmp_path):
    _, drawn = run("incontext", visualise="1")
    [folder] = (tmp_path / "results" / "pictures").iterdir()
    said = {}
    for name in drawn:
        with Image.open(folder / name) as picture:
            said[name] = description_and_legend(picture)
    [(seen, legend)] = [each for name, each in said.items() if "neighbours" not in name]
    assert seen == "image, truth, prediction"
    assert len(legend) == 9 and legend[-1][0] == "not scored"
    assert all(seen for seen, _ in said.values())


@pytest.mark.parametrize("protocol", late(PROTOCOLS, "incontext"))
def test_the_pictures_are_those_that_a_run_draws(run, protocol, tmp_path):
    _, at_once = run(protocol, visualise="2")
    [folder] = (tmp_path / "results" / "pictures").iterdir()
    before = {name: (folder / name).read_bytes() for name in at_once}
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    _, later = run(protocol, visualise="2")
    assert {name: (folder / name).read_bytes() for name in later} == before


def test_what_is_drawn_is_not_drawn_again(run, tmp_path):
    _, names = run("kmeans", visualise="2")
    [folder] = (tmp_path / "results" / "pictures").iterdir()
    (folder / names[0]).unlink()
    assert run("kmeans", visualise="2")[1] == names[1:]
    assert len(run("kmeans", visualise="3")[1]) > len(names)


def test_a_run_that_was_killed_before_it_drew_is_drawn_by_the_same_command(run, tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("densebench.evals.incontext.protocol.draw", killed)
        run("incontext", visualise="2")
    record, drawn = run("incontext", visualise="2")
    assert record["status"] == "complete" and len(drawn) == 4
    assert len(record["scores"]) == 3 * 3  # the whole set and two subsets of half of it


def test_a_head_that_was_not_kept_is_not_trained_again_unasked(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))
    given = {**FAST, "limit": 4, "preset": "neco", "epochs": "1", "augment": "none", "mask_size": "16", "score_size": "16"}
    for visualise in ("0", "2"):
        [record] = evaluate("pixels:16", "linear", "scenes", results=tmp_path / "results", visualise=visualise, **given).records
    assert "--visualise 2: the head that the pictures show was not saved; --rerun trains it again" in capfd.readouterr().err
    assert record["status"] == "complete" and not (tmp_path / "results" / "pictures").exists()


def test_the_whole_data_and_the_first_seed_are_shown():
    points = [(("fraction", 8), ("seed", 0)), (("fraction", 1), ("seed", 1)), (("fraction", 1), ("seed", 0))]
    assert shown_in_pictures(points) == points[2]
    assert shown_in_pictures([(("fraction", 8), ("seed", 0)), (("fraction", 1), ("seed", None))])[0] == ("fraction", 1)
    assert json.dumps(shown_in_pictures([()])) == "[]"
