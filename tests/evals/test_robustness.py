"""The protocol: what it learns from, what it scores, what a killed run has to do again, and what is undefined."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from corruption_cases import photographs
from drawn_parts import DATA, SIDE, seeing
from PIL import Image

import densebench
from densebench.datasets.corrupted import FROST_FOLDER, corrupted
from densebench.errors import UserError
from densebench.evals.incontext import InContext
from densebench.evals.robustness import Robustness
from densebench.evaluation.protocol import Run
from densebench.numerics.corruptions import CORRUPTIONS, DETERMINISTIC
from densebench.numerics.corruptions.weather import PHOTOGRAPHS

SMALL = {"image_size": SIDE, "device": "cpu", "workers": 0}
TWO = Robustness(corruptions=("contrast", "pixelate"), levels=(1, 5), **SMALL)
NOISY = replace(DATA, noise=0.2)


def scored(evaluator, dataset=NOISY, backbone=None, run=None):
    evaluator = evaluator.resolve(dataset)
    return list(evaluator.run(backbone or seeing(), dataset, run or Run()))


def named(scores):
    """Scores by their points, metrics and variants."""
    return {(next(iter(score.axes.values())), score.metric, score.variant): score for score in scores}


class Constant:
    """A backbone that sees nothing."""

    def __new__(cls):
        def features(images):
            return torch.ones(len(images), 4, images.shape[2] // 8, images.shape[3] // 8)

        return densebench.load_backbone(features)


def incontext(dataset):
    """The mIoU of the protocol behind it, without augmentation."""
    evaluator = InContext(augment_epochs=0, neighbours=(30,), **SMALL).resolve(dataset)
    scores = list(evaluator.run(seeing(), dataset, Run()))
    return next(score for score in scores if (score.metric, score.variant) == ("miou", "identity"))


def test_clean_and_corrupted_scores_are_those_of_the_method_itself():
    found = named(scored(TWO))
    assert found[2, "miou", "clean"].value == incontext(NOISY).value
    assert found[2, "miou", "clean"].ci95 == incontext(NOISY).ci95
    for level in (1, 5):
        expected = incontext(corrupted(NOISY, f"pixelate:{level}", "val")).value
        assert found["pixelate", "miou", f"level {level}"].value == expected


def test_the_mean_is_over_levels_then_corruptions_and_the_headline_a_share_of_the_clean_score():
    found = named(scored(TWO))
    means = [np.mean([found[name, "miou", f"level {level}"].value for level in (1, 5)]) for name in ("contrast", "pixelate")]
    assert [found[name, "miou", "mean"].value for name in ("contrast", "pixelate")] == pytest.approx(means, abs=1e-3)
    assert found[2, "miou", "mean"].value == pytest.approx(np.mean(means), abs=1e-3)
    share = 100 * np.mean(means) / found[2, "miou", "clean"].value
    assert found[2, "retention", "mean"].value == pytest.approx(share, abs=1e-3)
    assert found[2, "retention", "digital"].value == found[2, "retention", "mean"].value, "both are digital"


def test_the_headline_is_the_last_score_of_every_point():
    scores = scored(TWO)
    last = {tuple(score.axes.items()): (score.metric, score.variant) for score in scores}
    assert set(last.values()) == {("retention", "mean")} and list(last) == TWO.resolve(NOISY).points(NOISY)


def test_a_point_that_is_known_is_not_scored_and_the_mean_does_not_change():
    whole, known = scored(TWO), frozenset({(("corruption", "contrast"),)})
    rest = scored(TWO, run=Run(known=known))
    assert [score for score in whole if score.axes != {"corruption": "contrast"}] == rest


def test_what_a_killed_run_has_counted_is_not_counted_again(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path))
    whole, applied = scored(TWO), []
    started = TWO.resolve(NOISY).run(seeing(), NOISY, Run(progress_key="some"))
    first = [next(started) for _ in range(4)]  # contrast
    started.close()
    monkeypatch.setattr(
        "densebench.evals.robustness.protocol.corrupted",
        lambda dataset, text, split: applied.append(text) or corrupted(dataset, text, split),
    )
    assert scored(TWO, run=Run(progress_key="some")) == whole and first == whole[:4]
    assert applied == ["pixelate:1", "pixelate:5"]


def test_no_corrupted_features_stay_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "a"))
    scored(TWO)
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "b"))
    incontext(NOISY)
    sizes = [sum(path.stat().st_size for path in (tmp_path / name / "features").rglob("*.safetensors")) for name in "ab"]
    assert sizes[0] == sizes[1] > 0


def test_the_linear_method_gives_another_number():
    one, other = (named(scored(replace(TWO, method=method)))[2, "retention", "mean"] for method in ("incontext", "linear"))
    assert one.value != other.value and 0 < other.value < 200


def test_corruptions_are_settings_in_one_order_and_spelling():
    given = Robustness(corruptions=("pixelate", "Gaussian_Noise", "pixelate"), levels=(5, 1, 1)).resolve(NOISY)
    assert given.corruptions == ("gaussian-noise", "pixelate") and given.levels == (1, 5)
    assert given.settings(NOISY)["corruptions"] == ["gaussian-noise", "pixelate"]


def test_frost_is_left_out_without_its_photographs_and_cannot_be_asked_for(monkeypatch, tmp_path):
    monkeypatch.setenv("DENSEBENCH_DATA", str(tmp_path))
    without = Robustness().resolve(NOISY)
    assert without.corruptions == tuple(name for name in CORRUPTIONS if name != "frost")
    assert without.points(NOISY)[-1] == (("corruptions", 14),)
    with pytest.raises(UserError, match="lacks some of frost1.png"):
        Robustness(corruptions=("frost",)).resolve(NOISY)


def test_frost_is_among_them_with_its_photographs(monkeypatch, tmp_path):
    monkeypatch.setenv("DENSEBENCH_DATA", str(tmp_path))
    (tmp_path / FROST_FOLDER).mkdir(parents=True)
    for name, photograph in zip(PHOTOGRAPHS, photographs(), strict=True):
        Image.fromarray(photograph).save(tmp_path / FROST_FOLDER / name)
    assert Robustness().resolve(NOISY).corruptions == CORRUPTIONS


@pytest.mark.parametrize(
    ("given", "said"),
    [({"corruptions": ("frog",)}, "did you mean 'fog'"), ({"levels": ()}, "--levels is empty")],
)
def test_wrong_options_are_refused(given, said):
    with pytest.raises(UserError, match=said):
        Robustness(**given).resolve(NOISY)


def test_a_corrupted_data_set_is_refused():
    with pytest.raises(UserError, match="robustness corrupts the images of parts itself"):
        TWO.resolve(corrupted(NOISY, "fog", "val"))


def test_a_backbone_that_sees_nothing_retains_what_it_has():
    found = named(scored(TWO, backbone=Constant()))
    assert found[2, "retention", "mean"].value == 100 and found[2, "miou", "clean"].value < 30


def test_a_clean_score_of_0_is_named_and_no_nan(monkeypatch):
    monkeypatch.setattr("densebench.evals.robustness.retained.iou", lambda tally: torch.zeros(tally.shape[-1]))
    found = named(scored(TWO))[2, "retention", "mean"]
    assert found.value == 0 and found.ci95 is None and found.details["undefined"] == "the clean score is 0"


def test_presets_are_all_and_the_six_without_random_numbers():
    assert list(Robustness.presets) == ["v1", "quick"]
    assert Robustness.presets["quick"] == {"corruptions": DETERMINISTIC, "levels": (2, 4)}


def test_its_stages_say_how_often_images_are_passed_and_store_clean_features_alone():
    evaluator = TWO.resolve(NOISY)
    stages = evaluator.stages(seeing(), NOISY, Run())
    assert stages[-1].name == "4 conditions" and stages[-1].images == 4 * len(NOISY.items("val"))
    assert sum(stage.extraction is not None for stage in stages) == 2


def test_pictures_show_every_corruption_and_level(tmp_path):
    scored(replace(TWO, visualise=1), run=Run(pictures=tmp_path))
    [path] = tmp_path.glob("*.png")
    with Image.open(path) as picture:
        assert picture.width > 4 * SIDE and picture.height > 3 * SIDE
