"""The protocol `correspondence` as a whole: the public codes restated, what must not change a number, odd pairs, errors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from matching_references import REFERENCES
from PIL import Image
from toy_pairs import PAIRS, SIZES, Conv, pair, scores, toys, without_box

from densebench.errors import UserError
from densebench.evals.correspondence import Correspondence
from densebench.evaluation.protocol import Run
from densebench.evaluation.run import evaluate
from densebench.numerics.bootstrap import bootstrap_mean

ALPHAS = (0.1, 0.3, 0.6)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.mark.parametrize(("preset", "size"), [*((preset, 64) for preset in REFERENCES), ("clean", 61), ("probe3d", 61)])
def test_hits_are_those_of_the_reference(preset, size):
    found, strict = scores(preset=preset, image_size=size, alphas=ALPHAS), Correspondence.presets[preset].get("strict")
    errors = [REFERENCES[preset](toys(), each, size) for each in PAIRS]
    for alpha in ALPHAS:
        hits = [sum(error < alpha if strict else error <= alpha for error in each) for each in errors]
        one = found[alpha, "pck_point", "features"] if preset != "clean" else found[alpha, "pck_image", "features"]
        headline = next(
            each for (a, _, v), each in found.items() if a == alpha and v == "features" and "hits_by_pair" in each.details
        )
        assert headline.details["hits_by_pair"] == hits
        assert headline.details["points_by_pair"] == [3, 2, 1, 4]
        if preset == "clean":
            shares = [h / len(e) for h, e in zip(hits, errors, strict=True)]
            assert one.value == pytest.approx(100 * np.mean(shares))
            assert one.bootstrap == pytest.approx((100 * bootstrap_mean(torch.tensor(shares))).tolist())
        else:
            assert one.value == pytest.approx(100 * sum(hits) / 10)


def test_the_toys_tell_presets_apart():
    """What the comparison with the references rests on: their hits are not all equal."""
    found = {
        preset: tuple(sum(np.array(REFERENCES[preset](toys(), each, 64)) < alpha) for each in PAIRS for alpha in ALPHAS)
        for preset in REFERENCES
    }
    assert len(set(found.values())) == len(found)


@pytest.mark.parametrize("size", ["wide", "square"])
def test_an_image_matches_itself_at_every_reachable_threshold(size):
    """With the containing patch read, no point is farther from its match than half a patch's diagonal."""
    width, height = SIZES[size]
    points = np.random.default_rng(0).uniform(0, 1, (40, 2)) * (width, height)
    scale = 64 / max(width, height)
    alpha = 8 / (np.sqrt(2) * max(width, height) * scale) * (1 + 1e-9)
    kept = points[(points < 0.9 * np.array((width, height))).all(1)]  # in patches whose centres lie in the image
    same = toys(pair("s", size, size, kept, kept))
    right = scores(same, source="containing", alphas=(float(alpha),))
    assert right[float(alpha), "pck_point", "features"].value == 100
    biased = scores(same, preset="probe3d", alphas=(float(alpha),))
    assert biased[float(alpha), "pck_point_class", "features"].value < 100


def test_guesses_are_marked_and_scored_like_the_headline():
    found = scores(alphas=(0.3,))
    for guess in ("same place", "box centre", "random patch"):
        assert found[0.3, "pck_image", guess].details["baseline"]
    spot = [(30, 20), (70, 50), (5, 5)] * np.array([50 / 90, 80 / 60])
    expected = np.hypot(*(spot - [(20, 40), (40, 70), (3, 9)]).T) <= 0.3 * 70
    one = found[0.3, "pck_image", "same place"]
    assert one.per_class["cat"] == pytest.approx(100 * np.mean([expected.mean(), *others(0.3)]))


def others(alpha):
    """The shares of pairs c and d that the same place gets."""
    c = np.hypot(32 * 40 / 64 - 20, 32 * 30 / 64 - 15) <= alpha * 20
    d = np.array([(1, 1), (63, 63), (10, 50), (33, 12)]) * np.array([90 / 64, 60 / 64])
    return [float(c), (np.hypot(*(d - [(2, 2), (80, 55), (9, 40), (44, 12)]).T) <= alpha * 90).mean()]


def test_a_random_patch_is_right_as_often_as_patches_are_near():
    near = scores(toys(PAIRS[2]), image_size=40, alphas=(0.3,))  # the target is 40 x 30 px, in patches of 8: 5 x 4 centres
    centres = [(4 + 8 * x, 4 + 8 * y) for x in range(5) for y in range(4) if 4 + 8 * y < 30]
    share = np.mean([np.hypot(x - 20, y - 15) <= 6 for x, y in centres])
    assert near[0.3, "pck_image", "random patch"].value == pytest.approx(100 * share)


def test_levels_are_variants_of_their_own():
    found = scores(alphas=(0.6,))
    assert found[0.6, "pck_image", "features, viewpoint 1"].details["pairs"] == 1
    alone = scores(toys(PAIRS[3]), alphas=(0.6,))
    assert found[0.6, "pck_image", "features, viewpoint 0"].value == alone[0.6, "pck_image", "features"].value
    assert "baseline" not in found[0.6, "pck_image", "same place, viewpoint 0"].details


def test_pairs_of_a_class_are_drawn_alike_everywhere():
    many = toys(*(replace(PAIRS[index % 4], name=f"n{index}") for index in range(24)))
    few = scores(many, per_class=3, alphas=(0.6,))[0.6, "pck_image", "features"]
    assert few.details["pairs"] == 6
    assert few == scores(many, per_class=3, alphas=(0.6,))[0.6, "pck_image", "features"]


def test_constant_features_match_the_first_patch_and_are_counted():
    found = scores(toys(PAIRS[2], flat=True), preset="sd-dino", alphas=(0.6,))[0.6, "pck_point_class", "features"]
    assert found.details["ties"] == 1 and found.value == 0
    same = scores(toys(replace(PAIRS[2], source=PAIRS[2].target), flat=True), fit="squash", alphas=(0.6,))
    assert same[0.6, "pck_image", "features"].details["constant_pairs"] == 1


def test_features_that_are_not_finite_are_refused(monkeypatch):
    """Nothing is the most similar patch then, and a place beyond the grid can still be near enough."""
    monkeypatch.setattr(Conv, "forward", lambda self, images: self.project(images) * float("nan"))
    with pytest.raises(UserError, match="features of tall are not finite numbers; check the weights"):
        scores()


def test_a_single_pair_has_an_interval_of_no_width():
    one = scores(toys(PAIRS[0]), alphas=(0.6,))[0.6, "pck_image", "features"]
    assert one.ci95 == (pytest.approx(one.value), pytest.approx(one.value))


def test_points_outside_are_matched_and_counted():
    odd = pair("o", "wide", "tall", ((-5, 20), (30, 20)), ((20, 40), (70, 40)), target_box=(5, 5, 45, 75))
    details = scores(toys(odd), alphas=(0.6,))[0.6, "pck_image", "features"].details
    assert details["source_points_outside"] == details["target_points_outside"] == 1 and details["points"] == 2


def test_pairs_that_cannot_be_scored_are_named():
    bare, sizeless = (
        pair("bare", source_points=(), target_points=()),
        replace(PAIRS[0], name="flat", target_box=(5.0, 5.0, 5.0, 5.0)),
    )
    found = scores(toys(*PAIRS, bare, sizeless), alphas=(0.6,))[0.6, "pck_image", "features"]
    assert found.details["without_keypoints"] == ["bare"] and found.details["box_without_size"] == ["flat"]
    assert found.value == scores(alphas=(0.6,))[0.6, "pck_image", "features"].value
    by_picture = scores(toys(*PAIRS, bare, sizeless), threshold="picture", alphas=(0.6,))[0.6, "pck_image", "features"]
    assert by_picture.details["pairs"] == 5 and "box_without_size" not in by_picture.details


def test_only_the_pair_itself_is_left_out_not_its_namesake():
    sizeless = replace(PAIRS[1], name="a", target_box=(5.0, 5.0, 5.0, 5.0))
    found = scores(toys(PAIRS[0], sizeless), alphas=(0.6,))[0.6, "pck_image", "features"]
    assert found.details["pairs"] == 1 and found.details["box_without_size"] == ["a"]


def test_without_any_pair_the_reason_is_said():
    with pytest.raises(UserError, match="none of the 1 pairs of toy-pairs val can be scored: 1 have no keypoint"):
        scores(toys(pair("bare", source_points=(), target_points=())))


@pytest.mark.parametrize("given", [{"temperature": 0.1}, {"outside": "zero"}])
def test_options_of_the_soft_argmax_need_a_window(given):
    with pytest.raises(UserError, match="give --window N too, or leave them out"):
        scores(**given)


def test_without_boxes_the_picture_counts():
    bare = toys(*map(without_box, PAIRS))
    found = scores(bare, alphas=(0.3,))[0.3, "pck_image", "features"]
    assert found.details["lengths"] == {"picture": 4}
    assert found.value == scores(bare, threshold="picture", alphas=(0.3,))[0.3, "pck_image", "features"].value


def test_one_class_only():
    found = scores(toys(PAIRS[1]), average="point-class", alphas=(0.6,))
    assert found[0.6, "pck_point_class", "features"].per_class.keys() == {"dog"}


def test_reverse_exchanges_source_and_target():
    turned = [
        replace(
            each, source=each.target, target=each.source, source_points=each.target_points, target_points=each.source_points,
            source_box=each.target_box, target_box=each.source_box,
        )
        for each in PAIRS
    ]  # fmt: skip
    given = {"threshold": "picture", "alphas": (0.4,)}
    both = [scores(toys(*pairs), reverse=back, **given) for pairs, back in ((PAIRS, True), (turned, False))]
    assert both[0][0.4, "pck_image", "features"].value == both[1][0.4, "pck_image", "features"].value


def test_a_mirrored_source_is_chosen_where_it_is_nearer(monkeypatch):
    """The target is the mirrored source: with --flip all is right, without it next to nothing."""
    data, real = type(toys()), type(toys()).image

    def image(self, item):
        seen = real(self, replace(item, name="square"))
        return seen.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if item.name == "small" else seen

    monkeypatch.setitem(SIZES, "small", SIZES["square"])
    monkeypatch.setattr(data, "image", image)
    points = np.array([[4 + 8 * x, 4 + 8 * y] for x in range(8) for y in range(8)], float)
    ends = np.stack([64 - points[:, 0], points[:, 1]], axis=1)
    flipped = toys(pair("f", "square", "small", points, ends))
    plain, chosen = (scores(flipped, flip=flip, alphas=(0.05,))[0.05, "pck_image", "features"] for flip in (False, True))
    assert plain.value < 20 and chosen.value == 100
    assert chosen.details["flipped_pairs"] == 1 and plain.details["flipped_pairs"] == 0


def test_an_image_is_not_mirrored_for_itself():
    same = toys(pair("s", "square", "square", ((20, 20),), ((20, 20),)))
    assert scores(same, flip=True, alphas=(0.2,))[0.2, "pck_image", "features"].details["flipped_pairs"] == 0


def test_keys_of_a_vit_are_matched(tmp_path):
    """`--layer key` needs nothing of the protocol: another record, and other matches."""
    found = [
        evaluate(
            "random:test_vit", "correspondence", toys(), layer=layer, image_size=64, alphas=(0.6,), results=tmp_path, device="cpu"
        )
        for layer in ("last", "key")
    ]
    records = [each.records[0] for each in found]
    assert [record["backbone"]["layer"] for record in records] == ["last", "key"] and records[0]["id"] != records[1]["id"]


def test_known_thresholds_are_not_scored_again():
    rest = scores(alphas=ALPHAS, run=Run(known=frozenset({(("alpha", 0.1),)})))
    every = scores(alphas=ALPHAS)
    assert {alpha for alpha, *_ in rest} == {0.3, 0.6}
    assert all(every[key] == one for key, one in rest.items())


def test_pictures_of_pairs_are_drawn(tmp_path, capsys):
    scores(visualise=2, run=Run(pictures=tmp_path))
    files = sorted(tmp_path.glob("*.png"))
    assert [file.name for file in files] == ["0000.png", "0001.png"]
    picture = Image.open(files[0])
    assert picture.height == 360 and "right at alpha 0.1" in picture.text["Description"]
    assert f"pictures of 2 pairs are in {tmp_path}" in capsys.readouterr().err


def test_the_colours_of_pictures_are_those_of_scores(tmp_path):
    """Of constant features the first patch matches, at (0, 0): 0.7 px from the truth, 0 from the truncated one."""
    point = np.array([[0.5, 0.5]])
    same = toys(pair("s", "square", "small", point, point, target_box=(0, 0, 40, 30)), flat=True)
    found = scores(same, preset="probe3d", alphas=(0.01,), visualise=1, run=Run(pictures=tmp_path))
    assert found[0.01, "pck_point_class", "features"].details["hits"] == 1
    assert "1 of 1 right" in Image.open(tmp_path / "0000.png").text["Description"]


def test_a_size_that_does_not_fit_is_refused_where_nothing_is_filled_up():
    with pytest.raises(UserError, match="use 56 or 64"):
        scores(preset="insid3", image_size=60)
