"""Finer grids, features without position and corrupted images, alone and together, before protocols of pictures and pairs."""

from __future__ import annotations

import math

import pytest
from tiers import late, late_rows
from tiny_protocols import tiny

import densebench
from densebench import catalog
from densebench.console import one_line
from densebench.results.leaderboard import leaderboard
from densebench.results.record import key_of
from densebench.results.showing import show
from densebench.results.summary import summary

NAMES = ("correspondence", "geometric-correspondence", "discovery", "position", "robustness")
PARTS = [(name, preset) for name in NAMES for part in catalog.find("protocols", name).parts for preset in part.presets]
QUICK = [("discovery", "clean")]
FINER, WITHOUT_POSITION, LOW_CONTRAST = {"upsample": "bilinear:2"}, {"debias": 4}, {"corrupt": "contrast:3"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))


def recorded(name, preset, folder, more=None, **changed):
    """The record of a tiny run on changed features or images."""
    evaluator, backbone, dataset = tiny(name, preset, folder, **(more or {}))
    [record] = densebench.evaluate(backbone, evaluator, dataset, results=folder / "results", **{"limit": 4, **changed}).records
    return record


def values(record):
    return {key_of(each): each["value"] for each in record["scores"]}


@pytest.mark.parametrize(("name", "preset"), late_rows(PARTS, *QUICK))
def test_a_protocol_takes_them_alone_and_together(name, preset, tmp_path):
    both = {**FINER, **WITHOUT_POSITION}
    ways = [{}, FINER, WITHOUT_POSITION, both, {**both, **LOW_CONTRAST}][: 4 if name == "robustness" else 5]
    records = [recorded(name, preset, tmp_path, **way) for way in ways]
    assert all(math.isfinite(value) for record in records for value in values(record).values())
    assert len({record["id"] for record in records}) == len(records)


@pytest.mark.parametrize("preset", late(["clean", "sd-dino"], "clean"))
def test_the_nearest_finer_cells_leave_every_match_in_its_patch(preset, tmp_path):
    """Four equal cells stand for each patch: the first of them is matched, a quarter of a patch before its centre."""
    at = {"alphas": (0.2,)}
    coarse, finer = (recorded("correspondence", preset, tmp_path, at, **way) for way in ({}, {"upsample": "nearest:2"}))
    for key, value in values(coarse).items():
        if "random patch" not in str(key):  # which has more patches to draw from
            assert values(finer)[key] == value, key


def test_features_looked_up_bilinearly_are_those_of_the_finer_grid_at_its_centres(tmp_path):
    """Points lie every 4 px, in the middle of the cells of the finer grid of patches of 8 px."""
    coarse, finer = (recorded("geometric-correspondence", "scannet1500", tmp_path, **way) for way in ({}, FINER))
    assert values(finer) == pytest.approx(values(coarse), abs=1e-6)


def test_squares_that_are_shuffled_are_patches_of_the_network(tmp_path):
    """A quarter of a patch shuffled would be another picture for the network, and read otherwise."""
    coarse, finer = (
        recorded("position", "readout-v1", tmp_path, {"inputs": ("shuffled",), "removed": (0,)}, **way)
        for way in ({}, {"upsample": "nearest:2"})
    )
    [share], [again] = ([value for key, value in values(each).items() if key[0] == "position_share"] for each in (coarse, finer))
    assert share == pytest.approx(again, abs=1e-6)


def test_every_place_that_shows_a_record_says_all_three(tmp_path):
    record = recorded("discovery", "clean", tmp_path, **FINER, **WITHOUT_POSITION, **LOW_CONTRAST, limit=None)
    text = one_line(str(show(record)))
    assert "corrupted by contrast:3" in summary(record)
    [table] = leaderboard(tmp_path / "results").tables
    assert "corrupted by contrast:3" in table.caption
    assert {"4", "bilinear:2"} <= {*map(str, table.cells[["debiased by", "upsampled by"]].iloc[0])}
    for part in ("4 positional directions projected out", "upsampled by bilinear:2", "corrupted by contrast:3"):
        assert part in text


@pytest.mark.parametrize(
    ("name", "preset"),
    late_rows([("correspondence", "clean"), ("geometric-correspondence", "clean")], ("correspondence", "clean")),
)
def test_pictures_are_filled_up_for_the_network_and_not_for_the_finer_grid(name, preset, tmp_path):
    """60 px are no multiple of the network's 8, but one of the finer grid's 4."""
    record = recorded(name, preset, tmp_path, {"image_size": 60}, **FINER)
    assert all(math.isfinite(value) for value in values(record).values())
