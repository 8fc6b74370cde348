"""Two views of a surface: presets, counts and guesses; a perfect matcher is right, and what has no depth is named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from processes_as_threads import in_threads
from view_files import write_navi, write_scannet

from densebench import options
from densebench.backbones.loading import load_backbone
from densebench.conformance.checking import own_cache
from densebench.conformance.trial import difference
from densebench.datasets import load_dataset
from densebench.datasets.scenes_views import ScenesViews
from densebench.errors import UserError
from densebench.evals.geometric_correspondence import Views
from densebench.evals.geometric_correspondence.errors import errors, guessed
from densebench.evals.geometric_correspondence.frames import Surface
from densebench.evaluation.protocol import Run

SMALL = {"image_size": 64, "workers": 0, "device": "cpu", "kept": 20}
DATA = load_dataset("scenes-views")


def evaluator(preset="clean", dataset=DATA, **given):
    return options.build(Views, Views.presets[preset], {**SMALL, **given}).resolve(dataset)


def scores(preset="clean", dataset=DATA, backbone="pixels:16", run=None, **given):
    with own_cache():
        return list(evaluator(preset, dataset, **given).run(load_backbone(backbone), dataset, run or Run()))


def headline(found, **axes):
    return next(each for each in found if each.variant == "20 kept" and each.metric == "recall" and each.axes == axes)


class Still(ScenesViews):
    """Pairs of a picture with itself."""

    def list_pairs(self, split):
        pairs = super().list_pairs(split)
        return [replace(pair, target=pair.source, rotation=np.eye(3), translation=np.zeros(3)) for pair in pairs]


class Blind(ScenesViews):
    """The first two pairs have a picture without depth."""

    def depth(self, item):
        return np.zeros((128, 128)) if item.name in ("pair-00/0", "pair-01/1") else super().depth(item)


@pytest.mark.parametrize("preset", Views.presets)
def test_a_picture_and_itself_match(preset):
    found = scores(preset, Still(root=DATA.root), run=Run(limit=2))
    assert {each.value for each in found if each.variant in ("20 kept", "same place") and each.metric == "recall"} == {100}


def test_the_presets_are_the_reference_s():
    navi, scannet, clean = (evaluator(preset, **{"image_size": size, "kept": 1000}) for preset, size in
                            (("navi", 512), ("scannet1500", 640), ("clean", 640)))  # fmt: skip
    assert (navi.sampling, navi.every, navi.cm, navi.px) == ("bicubic", 4, (1, 2, 5), (5, 25, 50))
    assert navi.rotation_bins == (0, 30, 60, 90, 120) and navi.headline() == {"metric": "recall", "variant": "1000 kept"}
    assert (scannet.sampling, scannet.every, scannet.cm, scannet.px) == ("bilinear", 1, None, (5, 10, 20))
    assert scannet.rotation_bins == (0, 15, 30, 60, 180) and scannet.colour == "half"
    assert (clean.every, clean.frame) == (1, "whole")


def test_every_fourth_pair_is_scored_from_the_first_on():
    names = [pair.name for pair in evaluator("navi").pairs(DATA, None)]
    assert names == ["pair-00", "pair-04", "pair-08", "pair-12"]
    scored = evaluator("navi").scored(DATA.items("test"), DATA)
    assert [item.name for item in scored] == [f"{name}/{view}" for name in names for view in range(2)]


def test_the_record_says_which_pairs_were_scored_and_how_many_points():
    details = headline(scores("navi"), cm=2).details
    assert details["pairs"] == 4 and details["left_out"] == [] and len(details["pairs_sha256"]) == 64
    assert details["bins"]["rotation 0-30"] == 2 and details["bins"]["rotation elsewhere"] == 0
    other = headline(scores("navi", run=Run(limit=3)), cm=2).details
    assert other["pairs_sha256"] != details["pairs_sha256"]


def test_an_empty_bin_is_counted_and_has_no_score():
    found = scores(rotation_bins=(0, 30, 100, 180), run=Run(limit=3))
    assert headline(found, cm=1).details["bins"]["rotation 100-180"] == 0
    assert "rotation 100-180" not in {each.variant for each in found}
    assert all(np.isfinite(each.value) for each in found)


def test_pairs_without_depth_are_left_out_and_named(capsys):
    found = scores(dataset=Blind(root=DATA.root))
    details = headline(found, px=5).details
    assert details["left_out"] == ["pair-00", "pair-01"] and details["pairs"] == 14
    assert "2 of 16 pairs show no surface" in capsys.readouterr().err


def test_a_data_set_without_any_depth_is_refused():
    class Dark(ScenesViews):
        def depth(self, item):
            return np.zeros((128, 128))

    with pytest.raises(UserError, match="no pair of scenes-views has two pictures with a known depth"):
        scores(dataset=Dark(root=DATA.root))


def test_fewer_points_than_are_kept_are_all_kept_and_counted():
    found = scores(run=Run(limit=2), kept=100_000)
    every = [each.value for each in found if each.variant == "all"]
    assert [each.value for each in found if each.variant == "100000 kept" and each.metric == "recall"] == every
    assert next(each for each in found if each.variant == "100000 kept" and each.details).details["fewer_than_kept"] == 2


def test_features_that_are_all_equal_are_named(capsys):
    found = scores(backbone=lambda x: torch.ones(len(x), 4, x.shape[2] // 16, x.shape[3] // 16), run=Run(limit=2))
    assert headline(found, px=5).details["one_target"] == 2
    assert "do not tell patches apart" in capsys.readouterr().err
    assert all(np.isfinite(each.value) for each in found)


def test_a_guess_at_the_same_place_is_wrong_where_nothing_is_known():
    points = torch.tensor([[0.0, 0, 1], [1, 0, 1]], dtype=torch.float64)
    places = torch.zeros(2, 2, dtype=torch.float64)
    source = Surface(points, torch.tensor([0, 3]), (2, 2), places, (10.0, 10.0))
    target = Surface(points[:1], torch.tensor([3]), (2, 2), places[:1], (10.0, 10.0))
    found = guessed(points, source, target)
    assert found["cm"].tolist() == [torch.inf, 1] and found["px"].tolist() == [torch.inf, 10]


def test_errors_are_in_metres_and_px():
    true, there = torch.tensor([[0.0, 0, 2]]).double(), torch.tensor([[0.1, 0, 2]]).double()
    found = errors(true, there, (100.0, 100.0))
    assert found["cm"].tolist() == pytest.approx([0.1]) and found["px"].tolist() == pytest.approx([5])


def test_chance_is_marked_as_a_baseline():
    found = scores(run=Run(limit=2), cm=(1,), px=(5,))
    assert all(each.details == {"baseline": True} for each in found if each.variant in ("chance", "same place"))
    assert all(0 < each.value < 60 for each in found if each.variant == "chance")


def test_two_processes_give_the_scores_of_one():
    one = scores(run=Run(limit=3))

    def share():
        return list(evaluator().run(load_backbone("pixels:16"), DATA, Run(limit=3)))

    with own_cache():
        assert all(difference(one, each) == "" for each in in_threads(2, share))


def test_the_official_layouts_are_scored_by_their_presets(tmp_path):
    write_navi(tmp_path)
    write_scannet(tmp_path)
    found = scores("navi", load_dataset("navi", tmp_path), every=1)
    assert headline(found, cm=1).details["pairs"] == 4
    found = scores("scannet1500", load_dataset("scannet1500", tmp_path))
    assert headline(found, px=5).details["pairs"] == 2


@pytest.mark.parametrize("preset", Views.presets)
def test_a_finer_grid_of_features_leaves_the_pictures_as_they_are(preset):
    kind, coarse = evaluator(preset, image_size=56), load_backbone("pixels:16")
    pairs = kind.pairs(DATA, 1)
    pictures = []
    for backbone in (coarse, load_backbone("pixels:16", upsample="bilinear:2")):
        [stage] = [stage for stage in kind.stages(backbone, DATA, Run(limit=1)) if stage.extraction is not None]
        pictures.append(stage.extraction.decoded(pairs[0].source))
        assert all(np.isfinite(score.value) for score in scores(preset, backbone=backbone, run=Run(limit=1), image_size=56))
    assert torch.equal(*pictures)


def test_colours_of_scannet_are_one_half_for_every_backbone():
    with own_cache():
        kind = evaluator("scannet1500")
        pairs = kind.pairs(DATA, 1)
        extraction = kind.extraction(load_backbone("pixels:16"), kind.framed(DATA, pairs, 16), pairs)
    assert extraction.normalise.mean == extraction.normalise.std == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cm": None, "px": None}, "--cm none and --px none leave no threshold"),
        ({"rotation_bins": (30, 0)}, "--rotation-bins 30,0: give two edges or more, in rising order"),
        ({"rotation_bins": (30,)}, "give two edges or more"),
    ],
)
def test_options_that_make_no_sense_are_refused(given, message):
    with pytest.raises(UserError, match=message):
        evaluator(**given)


def test_pictures_are_drawn(tmp_path):
    with own_cache():
        list(evaluator(visualise=2).run(load_backbone("pixels:16"), DATA, Run(limit=2, pictures=tmp_path, drawing=True)))
    assert [path.name for path in sorted(tmp_path.glob("*.png"))] == ["pair-00.png", "pair-15.png"]
