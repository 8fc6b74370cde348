"""Shards of a record: every n-th point, scored apart, and joined into the record that one run writes."""

from __future__ import annotations

import json

import pytest
from tiny_protocols import fits, tiny

from densebench import catalog, options
from densebench.errors import UserError
from densebench.evaluation.run import evaluate
from densebench.results.merging import merge

SWEPT = {"seeds": 2, "fractions": (1, 2), "neighbours": (3, 2), "clusters": (3, 4)}


def swept(name, preset, tmp_path, **more):
    """A tiny protocol with two values of every axis that it has, with a backbone and a data set."""
    evaluator, _, _ = tiny(name, preset, tmp_path)
    axes = options.select(evaluator, "axis")
    known = {flag.name: flag for flag in options.flags(type(evaluator))}
    several = {axis: value for axis, value in SWEPT.items() if axis in axes and fits(known[axis], value)}
    return tiny(name, preset, tmp_path, **{**several, **more})


def score(case, folder, **more):
    evaluator, backbone, dataset = case
    return evaluate(backbone, evaluator, dataset, results=folder, **more)


def only(folder):
    """Return the only record of a results folder as text, without how it was run."""
    [path] = (folder / "records").glob("*.json")
    return json.dumps({name: value for name, value in json.loads(path.read_text()).items() if name != "run"})


def compare(case, of, tmp_path):
    """Score a case in one run and in shards; return both records."""
    score(case, tmp_path / "one")
    for index in range(of, 0, -1):
        score(case, tmp_path / f"shard{index}", shard=f"{index}/{of}")
    done = merge(*(tmp_path / f"shard{index}" for index in range(1, of + 1)), into=tmp_path / "merged")
    assert done.problems == []
    return only(tmp_path / "one"), only(tmp_path / "merged")


def test_shards_make_the_record_of_one_run(tmp_path):
    one, merged = compare(swept("kmeans", "leopart", tmp_path), 3, tmp_path)
    assert one == merged


ENDS = {
    (name, preset)
    for name, entry in catalog.entries("protocols").items()
    for part in (entry, *entry.others)
    for preset in (part.presets[0], part.presets[-1])
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "preset"), sorted(ENDS))
def test_shards_of_every_protocol_make_the_record_of_one_run(name, preset, tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))
    case = swept(name, preset, tmp_path)
    if len(case[0].points(case[2])) == 1:
        pytest.skip("one point is not dealt out")
    one, merged = compare(case, 3, tmp_path)
    assert one == merged


@pytest.mark.slow
def test_one_point_deals_out_the_extraction(tmp_path, monkeypatch):
    case = swept("incontext", "hummingbird", tmp_path, fractions=(1,))
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "apart"))
    score(case, tmp_path / "one")
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "common"))
    for index in (1, 2):
        score(case, tmp_path / "some", shard=f"{index}/2")
    done = merge(tmp_path / "some", into=tmp_path / "some")
    assert not list((tmp_path / "some" / "records").glob("*.json")) and done.problems == []
    assert "2 shards have extracted features" in done.notices[0]

    def never(*_):
        raise AssertionError("an image is passed through the backbone again")

    monkeypatch.setattr("densebench.features.extract.Extraction.passed", never)
    score(case, tmp_path / "some")
    assert only(tmp_path / "one") == only(tmp_path / "some")


def test_a_shard_is_resumed_and_scored_again_on_request(tmp_path, capsys):
    case = swept("kmeans", "leopart", tmp_path)
    [first] = score(case, tmp_path, shard="1/3").records
    [again] = score(case, tmp_path, shard="1/3").records
    assert "1-of-3.json holds all 2 points already" in capsys.readouterr().err
    assert again["run"] == first["run"]
    [rerun] = score(case, tmp_path, shard="1/3", rerun=True).records
    assert rerun["scores"] == first["scores"] and rerun["run"] != first["run"]


@pytest.mark.slow
def test_a_shard_of_more_points_than_before_scores_what_is_its_own_now(tmp_path):
    score(swept("kmeans", "leopart", tmp_path, clusters=(3,), seeds=2), tmp_path / "s", shard="1/2")
    case = swept("kmeans", "leopart", tmp_path)
    for index in (1, 2):
        score(case, tmp_path / "s", shard=f"{index}/2")
    merge(tmp_path / "s", into=tmp_path / "s")
    score(case, tmp_path / "one")
    assert only(tmp_path / "one") == only(tmp_path / "s")


@pytest.mark.slow
def test_a_shard_without_a_point_is_whole(tmp_path):
    case = swept("kmeans", "leopart", tmp_path, clusters=(3,), seeds=2)
    one, merged = compare(case, 3, tmp_path)
    assert one == merged


@pytest.mark.slow
def test_only_the_shard_with_the_pictured_point_draws(tmp_path):
    case = swept("kmeans", "leopart", tmp_path, visualise=1)
    score(case, tmp_path, shard="2/2")
    assert not (tmp_path / "pictures").exists()
    score(case, tmp_path, shard="1/2")
    assert list((tmp_path / "pictures").glob("*/*.png"))


def test_a_dry_run_names_the_points_of_the_shard(tmp_path):
    [planned] = score(swept("kmeans", "leopart", tmp_path), tmp_path / "s", shard="2/3", dry_run=True).records
    assert planned["points"] == [{"K": 3, "seed": 1}]
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("text", ["0/4", "5/4", "x", "1/0", "1/4/2", "-1/4", "1/999999999"])
def test_a_wrong_shard_is_one_line(text, tmp_path):
    with pytest.raises(UserError, match=f"--shard {text}: give i/n"):
        score(swept("kmeans", "leopart", tmp_path), tmp_path, shard=text)


def test_one_point_without_features_has_nothing_to_deal_out(tmp_path):
    case = tiny("vos", "dino", tmp_path)
    with pytest.raises(UserError, match="has one point and stores no features"):
        score(case, tmp_path / "s", shard="1/2")
