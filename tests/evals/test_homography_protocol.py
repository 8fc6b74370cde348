"""Pictures matched with their warps: what must be exact is, and what cannot be scored is counted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from processes_as_threads import in_threads

from densebench import evaluate, options
from densebench.backbones.loading import load_backbone
from densebench.conformance.checking import own_cache
from densebench.conformance.trial import difference
from densebench.datasets import load_dataset
from densebench.errors import UserError
from densebench.evals.geometric_correspondence import Homography
from densebench.evals.geometric_correspondence.homography import anywhere, matched, share_of
from densebench.evals.geometric_correspondence.truth import truth_of
from densebench.evaluation.protocol import Run
from densebench.numerics.homographies import warp

STRIDE, SIDE = 8, 64
STILL = {"jitter": 0.0, "rotation": 0.0, "scale": 1.0}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of pictures of noise, whose patches all differ, of unequal sizes."""
    folder = tmp_path_factory.mktemp("noise")
    generator = np.random.default_rng(0)
    for number in range(5):
        noise = Image.fromarray(generator.integers(0, 256, (12, 16 - number, 3), dtype=np.uint8))
        noise.resize((96, 72), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return load_dataset(f"pictures:{folder}")


def scores(dataset, backbone="pixels:8", run=None, **given):
    kind = options.build(Homography, {}, {"image_size": SIDE, "workers": 0, "device": "cpu", **given})
    model = load_backbone(backbone)
    with own_cache():
        return list(kind.resolve(dataset).run(model, dataset, run or Run()))


def values(found, variant="all", metric="recall"):
    return [score.value for score in found if (score.metric, score.variant) == (metric, variant)]


def test_the_identity_is_right_everywhere(pictures):
    found = scores(pictures, **STILL)
    for metric, variant in (("recall", "all"), ("recall", "kept"), ("recall", "same place"), ("precision", "mutual")):
        assert values(found, variant, metric) == [100] * 5
    details = next(score.details for score in found if score.variant == "all")
    assert details["median_error_px"] == 0 and details["queries"] == 5 * (SIDE // STRIDE) ** 2
    assert details["bins"]["rotation 0-15"] == 5 and details["bins"]["rotation 15-30"] == 0


def test_a_shift_by_one_patch_is_right_for_every_query():
    image = torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    homography = np.array([[1.0, 0, STRIDE], [0, 1, 0], [0, 0, 1]])
    truth = truth_of(homography, (SIDE, SIDE), STRIDE)
    grids = load_backbone("pixels:8")(torch.stack([image, warp(image, homography)])).movedim(1, -1)
    _, match = matched(grids[0], grids[1], truth.queries)
    columns = SIDE // STRIDE
    assert len(truth.queries) == columns * (columns - 1)
    assert torch.equal(match[:, 0], truth.queries + 1)
    assert (truth.centres[match[:, 0]] - truth.places).norm(dim=1).max() == 0
    assert match[:, 1].all()


def test_queries_are_the_patches_that_stay_inside():
    homography = np.array([[1.0, 0, 3], [0, 1, -STRIDE], [0, 0, 1]])
    truth = truth_of(homography, (4 * STRIDE, 4 * STRIDE), STRIDE)
    assert truth.queries.tolist() == [4, 5, 6, 8, 9, 10, 12, 13, 14]
    assert truth.places[0].tolist() == [STRIDE / 2 + 3, STRIDE / 2]


def test_chance_and_the_same_place_stand_beside_the_recall(pictures):
    found = scores(pictures)
    for variant in ("chance", "same place"):
        assert all(score.details == {"baseline": True} for score in found if score.variant == variant)
    [chance] = [score for score in scores(pictures, **STILL) if score.variant == "chance" and score.axes == {"patches": 2}]
    grid = SIDE // STRIDE  # of all pairs of cells, those less than two cells apart
    cells = [(row, column) for row in range(grid) for column in range(grid)]
    near = [(a - c) ** 2 + (b - d) ** 2 < 4 for a, b in cells for c, d in cells]
    assert chance.value == pytest.approx(100 * sum(near) / len(near))


def test_chance_on_fine_grids_is_that_of_some_queries(monkeypatch):
    truth = truth_of(np.array([[1.0, 0, 3], [0, 1, -5], [0, 0, 1]]), (256, 256), 16)
    every = (anywhere(truth) < 64).double().mean()
    monkeypatch.setattr("densebench.evals.geometric_correspondence.homography.AT_ONCE", 40 * len(truth.centres))
    some = anywhere(truth)
    assert len(some) == 40 * len(truth.centres)
    assert float((some < 64).double().mean()) == pytest.approx(float(every), abs=0.01)


@pytest.mark.parametrize(("share", "count", "kept"), [(0.29, 100, 29), (0.2, 15, 3), (0.2, 14, 2), (0.2, 4, 1), (1.0, 7, 7)])
def test_a_share_of_the_queries_is_rounded_down(share, count, kept):
    assert share_of(share, count) == kept


def test_features_on_a_finer_grid_have_finer_patches(pictures):
    found = scores(pictures, load_backbone("pixels:16", upsample="nearest:2"), **STILL)
    details = next(score.details for score in found if score.variant == "all")
    assert details["queries"] == 5 * (SIDE // 8) ** 2


def test_every_threshold_is_a_point_and_the_headline_comes_last(pictures):
    found = scores(pictures, px=(4, 16), patches=(1,))
    assert [score.axes for score in found if (score.metric, score.variant) == ("recall", "all")] == [
        {"patches": 1}, {"px": 4}, {"px": 16},
    ]  # fmt: skip
    assert found[-1].variant == "all"
    assert values(found)[1] <= values(found)[0] <= values(found)[2]  # within 4, 8 and 16 px


def test_a_known_threshold_is_not_scored_again(pictures):
    found = scores(pictures, run=Run(known=frozenset({(("px", 8),)})), px=(8, 16), patches=(1,))
    assert {tuple(score.axes.items()) for score in found} == {(("patches", 1),), (("px", 16),)}


def test_features_that_are_all_equal_are_named_and_score_no_nan(pictures, capsys):
    found = scores(pictures, lambda images: torch.ones(len(images), 4, images.shape[2] // 16, images.shape[3] // 16))
    details = next(score.details for score in found if score.variant == "all")
    assert details["one_target"] == details["pairs"] == 5
    assert "do not tell patches apart" in capsys.readouterr().err
    assert all(np.isfinite(score.value) for score in found)


def test_one_picture_is_enough(pictures):
    found = scores(pictures, run=Run(limit=1))
    assert all(np.isfinite(score.ci95).all() for score in found)


def test_a_picture_of_one_patch_has_no_query(pictures):
    with pytest.raises(UserError, match="no patch of .* lies in the warped picture as a whole; raise --image-size"):
        scores(pictures, "pixels:64", scale=1.4, jitter=0.3, overlap=0.0)


def test_a_size_that_does_not_fit_is_refused(pictures):
    with pytest.raises(UserError, match="60"):
        scores(pictures, image_size=60)


def test_noise_is_matched_better_than_by_chance_and_less_when_the_warp_is_larger(pictures):
    small, large = scores(pictures, rotation=2.0, scale=1.02, jitter=0.01), scores(pictures, rotation=90.0)
    assert values(small)[0] > 80 > values(large)[0]


def test_two_processes_give_the_scores_of_one(pictures):
    one = scores(pictures)

    def share():
        kind = options.build(Homography, {}, {"image_size": SIDE, "workers": 0, "device": "cpu"}).resolve(pictures)
        return list(kind.run(load_backbone("pixels:8"), pictures, Run()))

    with own_cache():
        found = in_threads(2, share)
    assert all(difference(one, each) == "" for each in found)


def test_any_data_set_has_pictures_and_thresholds_are_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))
    given = {"image_size": 64, "limit": 3, "workers": 0, "visualise": 1, "results": tmp_path}
    [record] = evaluate("pixels:8", "geometric-correspondence", "scenes", **given).records
    assert record["protocol"]["preset"] == "homography"
    headline = {"metric": "recall", "variant": "all"}
    points = [score.get("px") for score in record["scores"] if headline.items() <= score.items()]
    assert points == [None, None, 8, 16, 32]
    [picture] = (tmp_path / "pictures").rglob("*.png")
    with Image.open(picture) as image:
        assert image.size == (64 + 8 + 64, 64)
