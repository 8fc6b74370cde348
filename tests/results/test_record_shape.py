"""Records of the wrong shape: each is one line that names the field, and none stops what reads the others."""

from __future__ import annotations

import base64
import copy
import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from densebench.cli import app
from densebench.errors import UserError
from densebench.results import record as records
from densebench.results.leaderboard import leaderboard, render
from densebench.results.report import report
from densebench.results.score import Score

HEADER = {
    "backbone": {
        "spec": "random:vit", "digest": "d" * 64, "arch": "vit", "dim": 4, "stride": 16, "params": 12, "layer": "last",
        "pos_embed": "plain", "origin": "timm", "name": "mine", "kind": "timm", "mean": [0.5, 0.5, 0.5],
        "std": [0.2, 0.2, 0.2], "code": "",
    },
    "protocol": {
        "name": "incontext", "preset": "hummingbird", "version": 1, "code": "",
        "settings": {"neighbours": [30], "temperature": 0.02, "image_size": 224, "comparable": True, "chosen_with_labels": ["k"]},
        "headline": {"metric": "miou", "variant": "identity"},
    },
    "dataset": {
        "name": "scenes", "split": "val", "images": 64, "train_images": 64, "train_split": "train", "digest": "abc",
        "limit": None, "code": "", "official_images": 64, "official_train_images": None,
    },
}  # fmt: skip


def whole(results, spec="random:vit"):
    """The path of a record that has everything that a record may have."""
    record = records.open_or_create(results, {**HEADER, "backbone": {**HEADER["backbone"], "spec": spec, "digest": spec}})
    record.start({"command": "densebench eval", "started": "2026-01-01T00:00:00Z", "device": "cpu", "runtime": {}})
    for fraction, seed in ((1, None), (8, 0), (8, 1)):
        more = {"per_class": {"sky": 60.0, "gap": None}, "bootstrap": (50.5, 52.0), "details": {"images": 3, "absent": ["gap"]}}
        axes = {"fraction": fraction, "seed": seed, "K": 3}
        record.add([Score("miou", "identity", 51.0 + (seed or 0), axes=axes, ci95=(50.0, 52.0), direction="higher", **more)])
    record.finish("complete", {"seconds": {"total": 1.5}, "peak_memory_mb": 3})
    return record.path


def put(path, change):
    """Change the values of a record on disk."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def in_score(**values):
    return lambda record: record["scores"][0].update(values)


def in_part(part, **values):
    return lambda record: record[part].update(values)


def encoded(*values):
    return base64.b64encode(np.array(values, "<f4").tobytes()).decode()


FLAWS = {
    "schema a text": (lambda record: record.update(schema="1"), "schema '1'"),
    "status unknown": (
        lambda record: record.update(status="done"), "status 'done': it should be 'running', 'complete' or 'failed'",
    ),
    "no data set": (lambda record: record.update(dataset={}), "lacks dataset.name, "),
    "no limit": (lambda record: record["dataset"].pop("limit"), "lacks dataset.limit;"),
    "no headline": (lambda record: record["protocol"].pop("headline"), "lacks protocol.headline;"),
    "preset a number": (in_part("protocol", preset=7), "has protocol.preset 7: it should be a valid string"),
    "spec null": (in_part("backbone", spec=None), "has backbone.spec None: it should be a valid string"),
    "scores no list": (lambda record: record.update(scores={}), "has scores {}: it should be a valid list"),
    "no value": (lambda record: record["scores"][0].pop("value"), "lacks scores.0.value;"),
    "value a text": (in_score(value="50"), "has scores.0.value '50': it should be a valid number"),
    "value above 100 %": (in_score(value=100.5), "has scores.0.value 100.5: % should be from 0 to 100"),
    "value NaN": (in_score(value=float("nan")), "has scores.0.value nan: it should be a finite number"),
    "ci95 below 0 %": (in_score(ci95=[-1.0, 50.0]), "has scores.0.ci95 -1.0: % should be from 0 to 100"),
    "huge value": (in_score(value=10**400), "scores.0.value"),
    "huge integer": (in_part("backbone", dim=10**30), "backbone.dim"),
    "huge setting": (lambda record: record["protocol"]["settings"].update(k=10**30), "protocol.settings.k"),
    "ci95 of one": (in_score(ci95=[50.0]), "scores.0.ci95"),
    "ci95 of three": (in_score(ci95=[50.0, 51.0, 52.0]), "scores.0.ci95"),
    "ci95 a number": (in_score(ci95=50.0), "scores.0.ci95"),
    "ci95 downwards": (in_score(ci95=[52.0, 50.0]), "scores.0.ci95"),
    "headline without variant": (in_part("protocol", headline={"metric": "miou"}), "protocol.headline.variant"),
    "settings null": (in_part("protocol", settings=None), "protocol.settings"),
    "digest a number": (in_part("backbone", digest=7), "backbone.digest"),
    "group a list": (lambda record: record.update(group=[1]), "group"),
    "id a path": (lambda record: record.update(id="../../x"), "id"),
    "name a list": (in_part("backbone", name=["a"]), "backbone.name"),
    "bootstrap no base64": (in_score(bootstrap="?" * 8), "scores.0.bootstrap"),
    "bootstrap of half a number": (in_score(bootstrap="AAAA"), "scores.0.bootstrap"),
    "bootstrap of other length": (in_score(bootstrap=encoded(1, 2, 3)), "scores.1.bootstrap"),
    "bootstrap infinite": (in_score(bootstrap=encoded(1, np.inf)), "scores.0.bootstrap"),
    "true for a number": (in_score(value=True), "scores.0.value"),
    "true for a count": (in_part("dataset", images=True), "dataset.images"),
    "surrogate": (in_part("backbone", name="\ud800"), "is not JSON"),
    "NUL": (in_part("backbone", name="a\0b"), "backbone.name"),
    "NUL in a setting's name": (lambda record: record["protocol"]["settings"].update({"a\0b": 1}), "protocol.settings"),
    "class infinite": (in_score(per_class={"sky": float("inf")}), "scores.0.per_class.sky"),
    "axis a list": (in_score(K=[1]), "scores.0.K"),
    "fraction of nothing": (in_score(fraction=0), "scores.0.fraction"),
    "twice the same": (lambda record: record["scores"].append(record["scores"][0]), "scores.3"),
    "chosen a number": (in_part("protocol", settings={"chosen_with_labels": 3}), "settings.chosen_with_labels"),
    "mean of two": (in_part("backbone", mean=[1.0, 2.0]), "backbone.mean"),
    "direction unknown": (in_score(direction="up"), "scores.0.direction"),
    "official a text": (in_part("dataset", official_images="all"), "dataset.official_images"),
    "environment a list": (lambda record: record.update(environment=[]), "environment"),
}  # fmt: skip


@pytest.mark.parametrize("flaw", FLAWS)
def test_a_flaw_is_one_line_with_the_name_of_the_field(tmp_path, flaw):
    change, field = FLAWS[flaw]
    path = whole(tmp_path)
    put(path, change)
    with pytest.raises(UserError) as caught:
        records.read(path)
    text = str(caught.value)
    assert text.startswith(f"the record {path} ")
    assert field in text
    assert text.endswith("; remove it and score again")
    assert "\n" not in text
    assert len(text) < len(str(path)) + 250


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "is not JSON"), ("\xff", "is not JSON"), ("", "is not JSON"), ("[" * 100_000, ""),
        ('{"schema": ' + "1" * 5000 + "}", ""),
        ("[]", "it should be a valid dictionary"), ("null", ""), ("7", ""), ('"a"', ""), ('{"schema": true}', ""),
        ('{"schema": 2}', "lacks id"),
    ],
)  # fmt: skip
def test_what_is_no_record_is_one_line(tmp_path, content, problem):
    path = tmp_path / "abcd.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=f"{problem}.*remove it and score again") as caught:
        records.read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        ('{"schema": 1, "results": []}', "has schema 1, this version reads 2; score again and remove it"),
        ('{"schema": 3, "results": []}', "has schema 3, this version reads 2; upgrade densebench"),
    ],
)
def test_a_record_of_another_schema_is_not_called_broken(tmp_path, content, remedy):
    path = tmp_path / "abcd.json"
    path.write_text(content)
    with pytest.raises(UserError, match=rf"abcd\.json {remedy}$"):
        records.read(path)


def test_a_score_in_another_unit_than_percent_may_be_large(tmp_path):
    record = records.open_or_create(tmp_path, HEADER)
    record.add([Score("seconds", "mean", 250.0, unit="s", direction="lower", digits=0)])
    assert records.read(record.path)["scores"][0]["value"] == 250.0


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "abcd.json")
    with pytest.raises(UserError, match="is not a file"):
        records.read(tmp_path / "abcd.json")


def test_whatever_is_broken_leaderboard_and_report_show_the_others(tmp_path, capsys):
    whole(tmp_path, "good")
    for number, (change, _) in enumerate(FLAWS.values()):
        put(whole(tmp_path, f"bad {number}"), change)
    [table] = leaderboard(tmp_path).tables
    assert len(table.cells) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == len(FLAWS)
    assert all(line.startswith("left out: the record ") for line in said)
    assert report(tmp_path).startswith("<!doctype html>")
    assert CliRunner().invoke(app, ["leaderboard", "--results", str(tmp_path)]).exit_code == 0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.sampled_from([10**400, 1e300, "\0"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=4,
)  # fmt: skip
REMOVED = object()


def places(value, path=()):
    """The path of every value inside JSON values."""
    if path:
        yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inside:
        yield from places(one, (*path, key))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A folder with two good records, and one of them as values."""
    folder = tmp_path_factory.mktemp("pair")
    whole(folder, "good")
    path = whole(folder, "changed")
    return folder, path, json.loads(path.read_text())


@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_value_in_any_field_gives_a_record_or_one_line(pair, data):
    folder, path, content = pair
    content = copy.deepcopy(content)
    *above, last = data.draw(st.sampled_from(list(places(content))))
    part = content
    for key in above:
        part = part[key]
    new = data.draw(st.just(REMOVED) | JSON)
    if new is REMOVED:
        del part[last]
    else:
        part[last] = new
    path.write_text(json.dumps(content))
    try:
        records.read(path)
    except UserError as error:
        assert "\n" not in str(error)
    board = leaderboard(folder)
    assert "good" in render(board, "csv")
    assert render(board, "md")


def test_a_score_that_cannot_be_kept_is_one_line_and_the_record_stays(tmp_path):
    path = whole(tmp_path)
    before = path.read_text()
    record = records.open_or_create(tmp_path, {**HEADER, "backbone": {**HEADER["backbone"], "digest": "random:vit"}})
    for value in (float("nan"), 101.0, np.float32(3.0), "50"):
        with pytest.raises(UserError, match=r"what incontext gave cannot be saved in .*\.json.*; what was there before stays"):
            record.add([Score("miou", "identity", value, axes={"fraction": 2, "seed": None}, direction="higher")])
    assert json.loads(path.read_text())["scores"] == json.loads(before)["scores"]


def test_an_axis_that_is_called_like_a_column_moves_no_row(tmp_path):
    for spec, group in (("a", "x"), ("b", "y")):
        record = records.open_or_create(tmp_path, {**HEADER, "backbone": {**HEADER["backbone"], "digest": spec, "name": spec}})
        record.add([Score("miou", "identity", 50.0, axes={"group": group, "record": 3}, direction="higher")])
    assert len(leaderboard(tmp_path).tables) == 1
