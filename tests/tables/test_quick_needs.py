"""The times of a dry run, without a trial of each cell: one forward pass of each network, and earlier records."""

from __future__ import annotations

import pytest
from table_files import BACKBONE, EVALUATION, PRETRAIN

import densebench
from densebench.backbones.backbone import Backbone
from densebench.backbones.loading import load_backbone
from densebench.tables.listing import render, summary, summary_lines
from densebench.tables.speeds import work_ratio

SMALL = EVALUATION + "limit = 4\nclusters = [2]\nseeds = 1\nimage_size = 32\nmask_size = 32\n"
TINY = PRETRAIN + 'preset = "tiny"\nlimit = 8\narch = "test_vit"\nbatch_size = 4\nsteps = 4\ndevice = "cpu"\n'


pytestmark = pytest.mark.usefixtures("own_cache")


def scored(places, **more):
    """Score the cell of SMALL."""
    asked = {"limit": 4, "clusters": [2], "seeds": 1, "image_size": 32, "mask_size": 32, **more}
    [record] = densebench.evaluate("random:test_vit", "kmeans", "scenes", results=places.results, **asked).records
    return record


def test_without_records_the_time_is_that_of_the_features_and_says_so(of):
    found = of(BACKBONE + SMALL)
    [need] = found
    assert need.size.seconds > 0
    assert (need.size.partly, need.size.by) == (True, "one forward pass")
    assert next(line for line in render(found, None) if line.startswith(need.cell.id)).split()[-2:] == ["~0.0", "+"]
    assert "at least" in " ".join(summary_lines(found))
    assert "--trial times a few images" in list(summary_lines(found))[-1]


def test_a_network_is_run_once_for_all_cells_that_share_it(of, monkeypatch):
    passes, forward = [], Backbone.forward

    def counted(backbone, images):
        passes.append(tuple(images.shape))
        return forward(backbone, images)

    monkeypatch.setattr(Backbone, "forward", counted)
    of(BACKBONE + SMALL)
    alone = len(passes)
    of(BACKBONE + SMALL + SMALL.replace("[2]", "[3]") + SMALL.replace("= 4", "= 5"))
    assert 0 < alone <= 2
    assert len(passes) == 2 * alone


def test_an_earlier_record_of_the_same_question_tells_the_rest(of, places):
    record = scored(places)
    seconds = record["run"]["seconds"]
    [need] = of(BACKBONE + SMALL)
    assert (need.size.partly, need.size.by) == (False, "one forward pass and an earlier record")
    assert need.size.seconds == pytest.approx(seconds["total"] - seconds["features"])  # the cache holds the features
    wider = BACKBONE.replace("test_vit", "test_vit3").replace('"net"', '"wider"')
    [other] = of(wider + SMALL)
    assert other.size.seconds > 1.5 * (seconds["total"] - seconds["features"])  # 96 channels, not 64


@pytest.mark.parametrize("other", [{"limit": 5}, {"clusters": [3, 4]}, {"mask_size": 64}], ids=repr)
def test_a_record_of_another_question_tells_nothing(of, places, other):
    scored(places, **other)
    [need] = of(BACKBONE + SMALL)
    assert need.size.partly or need.size.why.startswith("no earlier record says")


def test_storage_is_that_of_a_trial(of):
    text = BACKBONE + SMALL + TINY.replace("[[pretrain]]", "\n[[pretrain]]")
    quick, tried = of(text), of(text, trial=True)
    assert [need.size.bytes for need in quick] == [need.size.bytes for need in tried]
    assert quick.bytes == tried.bytes
    assert [need.size.by for need in tried if need.size.by] == ["a trial"] * 2
    [trained] = [need for need in quick if need.cell.kind == "pretrain"]
    assert trained.size.seconds > 0
    assert summary(quick)["by"] == ["one forward pass"]


def test_the_work_of_a_vit_grows_with_the_square_of_its_patches():
    vit = load_backbone("random:test_vit")  # 64 wide, stride 16
    assert work_ratio(vit, (32, 64), (32, 32)) == pytest.approx(8 * (6 * 64 + 8) / (4 * (6 * 64 + 4)))
    assert work_ratio(load_backbone("pixels:8"), (32, 64), (32, 32)) == 2
