"""Masks that exist and masks that are saved: known scores, OSVOS's official ones, errors.

Caelles et al. (OSVOS), CVPR 2017; Pont-Tuset et al., 2017.
"""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from filmed import HEIGHT, LENGTHS, WIDTH, empty_cache, masks, run, values, videos
from PIL import Image

from densebench.errors import UserError
from densebench.evaluation.run import evaluate
from densebench.pictures.palette import voc_palette
from densebench.results import record as records

__all__ = ["empty_cache", "videos"]  # fixtures


def test_masks_that_exist_are_scored(videos, tmp_path):
    given = tmp_path / "given"
    shutil.copytree(videos / "Annotations" / "480p", given)
    for name, frames in LENGTHS.items():
        (given / name / "00000.png").unlink()
        (given / name / f"{frames - 1:05}.png").unlink()
    record = run(videos, backbone=None, predictions=str(given))
    assert values(record) == {
        **dict.fromkeys(("j_mean", "j_recall", "f_mean", "f_recall", "jf_mean"), 100.0),
        "j_decay": 0,
        "f_decay": 0,
    }
    assert record["backbone"]["spec"] == f"predictions:{given}" and record["protocol"]["settings"] == {
        "eval_split": "all",
        "masks": "given",
    }
    empty = np.zeros((HEIGHT, WIDTH), np.uint8)
    for t in range(1, LENGTHS["boat"] - 1):  # the one object of boat is lost: 5 of 6 objects stay right, 2 of 3 sequences
        Image.fromarray(empty).save(given / "boat" / f"{t:05}.png")
    again = run(videos, None, name="lost", predictions=str(given))
    assert values(again)["jf_mean"] == pytest.approx(100 * 5 / 6, abs=1e-3)
    assert again["id"] != record["id"] and again["group"] == record["group"]
    assert again["scores"][-1]["metric"] == "jf_mean"


def test_masks_that_get_better_have_a_negative_decay(videos, tmp_path):
    given = tmp_path / "given"
    shutil.copytree(videos / "Annotations" / "480p", given)
    for name in LENGTHS:
        for t in (1, 2):
            Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(given / name / f"{t:05}.png")
    record = run(videos, backbone=None, predictions=str(given))
    assert values(record)["j_decay"] < -50 and values(record)["f_decay"] < -50
    assert records.read(next((tmp_path / "results" / "records").glob("*.json")))["status"] == "complete"


def test_what_is_saved_scores_the_same_again(videos, tmp_path):
    record = run(videos, save_predictions=str(tmp_path / "saved"))
    again = run(videos, backbone=None, predictions=str(tmp_path / "saved"))
    assert values(again) == values(record)
    with Image.open(tmp_path / "saved" / "cow" / "00003.png") as picture:
        assert picture.mode == "P" and picture.size == (WIDTH, HEIGHT)
        assert picture.getpalette()[:12] == [part for colour in voc_palette(4) for part in colour]
    first, truth = masks(videos, tmp_path / "saved", "cow")[0]
    np.testing.assert_array_equal(first, truth)
    about = json.loads((tmp_path / "saved" / "predictions.json").read_text())
    assert about["backbone"]["spec"] == "pixels:8" and about["settings"]["short_side"] == 64


def test_other_masks_are_never_overwritten(videos, tmp_path):
    saved = str(tmp_path / "saved")
    run(videos, save_predictions=saved, limit=1)
    run(videos, save_predictions=saved, limit=1, rerun=True)
    with pytest.raises(UserError, match=r"holds the masks of another run \(pixels:8\); choose another folder"):
        run(videos, save_predictions=saved, temperature="0.3")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.txt").write_text("x")
    with pytest.raises(UserError, match=r"is not empty and holds no predictions.json"):
        run(videos, save_predictions=str(tmp_path / "mine"), temperature="0.4")


def test_masks_that_exist_stand_alone(videos, tmp_path):
    given = tmp_path / "given"
    shutil.copytree(videos / "Annotations" / "480p", given)
    with pytest.raises(UserError, match=r"predictions:.*given is scored as it is; leave out --backbone"):
        run(videos, predictions=str(given))
    with pytest.raises(UserError, match=r"--save-predictions goes with a backbone"):
        run(videos, backbone=None, predictions=str(given), save_predictions="x")
    with pytest.raises(UserError, match=r"--predictions nowhere: it holds no mask"):
        run(videos, backbone=None, predictions="nowhere")


def test_masks_that_are_wrong_are_named(videos, tmp_path):
    given = tmp_path / "given"
    shutil.copytree(videos / "Annotations" / "480p", given)
    path = given / "ant" / "00004.png"

    def refused(match):
        with pytest.raises(UserError, match=match):
            run(videos, backbone=None, predictions=str(given))

    kept = path.read_bytes()
    for number in (3, 255):
        mask = np.array(Image.open(path))
        mask[0, 0] = number
        Image.fromarray(mask).save(path)
        refused(rf"ant/00004.png holds the id {number}, but the sequence has 2 objects")
        path.write_bytes(kept)
    Image.fromarray(np.zeros((HEIGHT, WIDTH - 1), np.uint8)).save(path)
    refused(r"ant/00004.png is 149 x 70 but its frame 150 x 70")
    path.write_bytes(b"")
    refused(r"ant/00004.png cannot be decoded")
    path.unlink()
    (given / "boat" / "00001.png").unlink()
    refused(r"2 of 22 predicted masks are missing, the first is .*ant/00004.png")


@pytest.mark.slow
def test_osvos_has_its_official_scores(shared_data, tmp_path):
    """J and F as the official code gives them for OSVOS's masks, taken as one object."""
    predictions = shared_data / "DAVIS" / "Results" / "osvos"
    [record] = evaluate(None, "vos", "davis2016", data_root=shared_data, predictions=predictions).records
    official = {
        "blackswan": (0.9430, 0.9741), "car-shadow": (0.9284, 0.9174), "drift-straight": (0.6655, 0.7068),
        "horsejump-high": (0.7744, 0.8724), "kite-surf": (0.5981, 0.6604), "libby": (0.6230, 0.7512),
        "motocross-jump": (0.8156, 0.6207), "scooter-black": (0.6711, 0.7130),
    }  # fmt: skip
    found = record["scores"][-1]["details"]["by_sequence"]
    for name, (j, f) in official.items():
        assert (found[name]["j_mean"] / 100, found[name]["f_mean"] / 100) == pytest.approx((j, f), abs=5.1e-5)
    assert (values(record)["j_mean"], values(record)["f_mean"]) == pytest.approx((75.24, 77.70), abs=5.1e-3)
    assert values(record)["jf_mean"] == pytest.approx(76.47, abs=5.1e-3)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"temperature": "0.3"}, "--temperature .*changes nothing about --predictions"),
        ({"preset": "dinov3"}, "--short-side, --rounding.*preset other than dino"),
        ({"layer": "key"}, "leave out --backbone, --weights, --layer"),
    ],
)
def test_what_changes_nothing_about_given_masks_is_refused(videos, tmp_path, given, said):
    run(videos, save_predictions=str(tmp_path / "saved"))
    with pytest.raises(UserError, match=said):
        run(videos, **{"backbone": None, "predictions": str(tmp_path / "saved"), **given})


def test_masks_of_two_runs_are_not_saved_into_one_folder(videos, tmp_path):
    with pytest.raises(UserError, match=r"--save-predictions .*saved goes with one backbone and one data set; 2 and 1"):
        run(videos, ["pixels:8", "pixels:16"], save_predictions=str(tmp_path / "saved"))
    assert not (tmp_path / "saved").exists()
