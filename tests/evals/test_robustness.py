"""The protocol: what it learns from, what it scores, what a killed run has to do again, and what is undefined."""

from __future__ import annotations

import re
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
from densebench.evaluation.headline import headline_points
from densebench.evaluation.protocol import Run
from densebench.numerics.corruptions import CORRUPTIONS, DETERMINISTIC
from densebench.numerics.corruptions.weather import PHOTOGRAPHS
from densebench.results.leaderboard import leaderboard
from densebench.results.summary import summary

SMALL = {"image_size": SIDE, "device": "cpu", "workers": 0}
TWO = Robustness(corruptions=("contrast", "pixelate"), levels=(1, 5), **SMALL)
NOISY = replace(DATA, noise=0.2)
MEAN = "of 2 corruptions"


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
    assert found["images", "miou", "mean"].value == incontext(NOISY).value
    assert found["images", "miou", "mean"].ci95 == incontext(NOISY).ci95
    for level in (1, 5):
        expected = incontext(corrupted(NOISY, f"pixelate:{level}", "val")).value
        assert found["pixelate", "miou", f"level {level}"].value == expected


def test_the_mean_is_over_levels_and_then_over_corruptions():
    found = named(scored(TWO))
    means = [np.mean([found[name, "miou", f"level {level}"].value for level in (1, 5)]) for name in ("contrast", "pixelate")]
    assert [found[name, "miou", "mean"].value for name in ("contrast", "pixelate")] == pytest.approx(means, abs=1e-3)
    assert found[MEAN, "miou", "mean"].value == pytest.approx(np.mean(means), abs=1e-3)


def test_retention_is_the_share_of_the_clean_score_overall_by_corruption_and_by_family():
    found = named(scored(replace(TWO, corruptions=("fog", "contrast"))))
    clean = found["images", "miou", "mean"].value
    for point, variant, of in (("fog", "mean", "fog"), (MEAN, "weather", "fog"), (MEAN, "digital", "contrast"), (MEAN,) * 3):
        share = found[point, "retention", "mean" if variant == MEAN else variant]
        assert share.value == pytest.approx(100 * found[of, "miou", "mean"].value / clean, abs=1e-2)
        assert share.unit == "% of clean" and share.ci95[0] <= share.value <= share.ci95[1]


def test_the_headline_is_the_last_score_of_every_point():
    scores = scored(TWO)
    last = {tuple(score.axes.items()): (score.metric, score.variant) for score in scores}
    assert set(last.values()) == {("miou", "mean")} and list(last) == TWO.resolve(NOISY).points(NOISY)


def test_tables_have_the_clean_images_first_and_rank_by_the_mean(tmp_path):
    # What sees nothing retains all of its score, and comes last.
    for backbone, name in ((seeing(), "seeing"), (Constant(), "blind")):
        densebench.evaluate(backbone, TWO, NOISY, name=name, results=tmp_path)
    [table] = leaderboard(tmp_path).tables
    points = ["clean images", "corruption contrast", "corruption pixelate", "mean of 2 corruptions"]
    assert [column for column in table.cells if column in points] == points
    assert "95 % at mean of 2 corruptions" in table.cells and list(table.cells["backbone"]) == ["seeing", "blind"]


def test_the_number_of_a_run_is_the_mean_under_corruption_not_the_clean_one():
    assert headline_points(TWO.resolve(NOISY), NOISY) == [(("mean", MEAN),)]


def test_what_eval_prints_has_the_retained_share_with_its_interval_beside_the_mean(tmp_path):
    [record] = densebench.evaluate(seeing(), TWO, NOISY, results=tmp_path).records
    clean, *_, mean = summary(record).splitlines()[1:]
    assert "retention" not in clean
    assert record["protocol"]["decides"] == {"mean": MEAN}
    assert re.search(r"mean of 2 corruptions +[0-9.]+ \(retention [0-9.]+ % of clean, 95 % [0-9.]+ to [0-9.]+\)$", mean)


def test_a_point_that_is_known_is_not_scored_and_the_mean_does_not_change():
    whole, known = scored(TWO), frozenset({(("corruption", "contrast"),)})
    rest = scored(TWO, run=Run(known=known))
    assert [score for score in whole if score.axes != {"corruption": "contrast"}] == rest


def test_what_a_killed_run_has_counted_is_not_counted_again(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path))
    whole, applied = scored(TWO), []
    started = TWO.resolve(NOISY).run(seeing(), NOISY, Run(progress_key="some"))
    first = [next(started) for _ in range(5)]  # clean and contrast
    started.close()
    monkeypatch.setattr(
        "densebench.evals.robustness.protocol.corrupted",
        lambda dataset, text, split: applied.append(text) or corrupted(dataset, text, split),
    )
    assert scored(TWO, run=Run(progress_key="some")) == whole and first == whole[:5]
    assert applied == ["pixelate:1", "pixelate:5"]


def test_no_corrupted_features_stay_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "a"))
    scored(TWO)
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "b"))
    incontext(NOISY)
    sizes = [sum(path.stat().st_size for path in (tmp_path / name / "features").rglob("*.safetensors")) for name in "ab"]
    assert sizes[0] == sizes[1] > 0


def test_the_linear_method_gives_another_number():
    one, other = (named(scored(replace(TWO, method=method)))[MEAN, "miou", "mean"] for method in ("incontext", "linear"))
    assert one.value != other.value and 0 < other.value < 100


def test_corruptions_are_settings_in_one_order_and_spelling():
    given = Robustness(corruptions=("pixelate", "Gaussian_Noise", "pixelate"), levels=(5, 1, 1)).resolve(NOISY)
    assert given.corruptions == ("gaussian-noise", "pixelate") and given.levels == (1, 5)
    assert given.settings(NOISY)["corruptions"] == ["gaussian-noise", "pixelate"]


def test_frost_is_left_out_without_its_photographs_and_cannot_be_asked_for(monkeypatch, tmp_path):
    monkeypatch.setenv("DENSEBENCH_DATA", str(tmp_path))
    without = Robustness().resolve(NOISY)
    assert without.corruptions == tuple(name for name in CORRUPTIONS if name != "frost")
    assert without.points(NOISY)[-1] == (("mean", "of 14 corruptions"),)
    with pytest.raises(UserError, match="lacks some of frost1.png"):
        Robustness(corruptions=("frost",)).resolve(NOISY)


def test_frost_is_among_them_with_its_photographs(monkeypatch, tmp_path):
    monkeypatch.setenv("DENSEBENCH_DATA", str(tmp_path))
    (tmp_path / FROST_FOLDER).mkdir(parents=True)
    for name, photograph in zip(PHOTOGRAPHS, photographs(), strict=True):
        Image.fromarray(photograph).save(tmp_path / FROST_FOLDER / name)
    every = Robustness().resolve(NOISY)
    before = every.settings(NOISY)["frost"]
    assert every.corruptions == CORRUPTIONS and "frost" not in TWO.resolve(NOISY).settings(NOISY)
    Image.fromarray(photographs()[0]).save(tmp_path / FROST_FOLDER / PHOTOGRAPHS[1])
    assert every.settings(NOISY)["frost"] != before, "other photographs are another group of records"


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
    assert found[MEAN, "retention", "mean"].value == 100 and found["images", "miou", "mean"].value < 30


def test_of_a_clean_score_of_0_no_share_is_given_and_the_headline_says_so(monkeypatch):
    monkeypatch.setattr("densebench.evals.robustness.retained.iou", lambda tally: torch.zeros(tally.shape[-1]))
    found = named(scored(TWO))
    assert found[MEAN, "miou", "mean"].value == 0 and not any(metric == "retention" for _, metric, _ in found)
    assert found[MEAN, "miou", "mean"].details["undefined"] == "retention, since the clean mIoU is 0"


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
