"""The protocol `vos` as a whole: a restatement frame by frame, runs that are resumed, tables, frames that are wrong.

Caron et al. (DINO), ICCV 2021; Simeoni et al. (DINOv3), 2025.
"""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from filmed import HEIGHT, LENGTHS, OBJECTS, WIDTH, empty_cache, filmed, masks, run, values, videos, write
from PIL import Image
from propagation_by_loops import dino_stretch, naive
from tiers import late

from densebench.backbones.adapters import Pixels
from densebench.datasets.davis import Davis2017
from densebench.errors import UserError
from densebench.evaluation.run import evaluate
from densebench.numerics import video as video_metrics
from densebench.numerics.propagation import Window
from densebench.results.leaderboard import leaderboard
from densebench.results.report import report
from densebench.results.score import decode
from densebench.results.tables import render

__all__ = ["empty_cache", "videos"]  # fixtures


def restated(root, name, preset, radius, context):
    """The label maps of a sequence, frame by frame, with all frames kept and nothing shared."""
    dino = preset == "dino"
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.228 if dino else 0.229, 0.224, 0.225)))
    window = Window(radius, "square" if dino else "circle", 5, 0.1 if dino else 0.2)
    width, height = (128, 64) if dino else (144, 64)  # ceil(150 x 64 / 70 / 8) x 8
    features, labels, maps = [], [], []
    frames = list(filmed(name, LENGTHS[name], OBJECTS[name]))
    for t, (image, mask) in enumerate(frames):
        if dino:
            pixels = torch.tensor(image).permute(2, 0, 1).float()
            pixels = F.interpolate(pixels[None], (height, width), mode="bilinear", align_corners=False)[0].round() / 255
        else:
            large = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
            pixels = torch.tensor(np.array(large)).permute(2, 0, 1) / 255
        grid = F.pixel_unshuffle((pixels - mean) / std, 8).permute(1, 2, 0)
        features.append(grid / grid.norm(dim=-1, keepdim=True))
        if t == 0:
            small = Image.fromarray(mask).resize((width // 8, height // 8), Image.Resampling.NEAREST)
            labels.append(torch.eye(OBJECTS[name] + 1)[torch.tensor(np.array(small)).long()])
            maps.append(mask)
            continue
        seen = [0, *(s for s in range(t - context, t) if s > 0)]
        found = naive(features[t], torch.stack([features[s] for s in seen]), torch.stack([labels[s] for s in seen]), window)
        labels.append(torch.tensor(found).float())
        channels = labels[t].permute(2, 0, 1)[None]
        if dino:
            large = F.interpolate(channels, scale_factor=8, mode="bilinear", align_corners=False, recompute_scale_factor=False)
            ids = dino_stretch(large[0]).max(0).indices.numpy().astype(np.uint8)
            maps.append(np.array(Image.fromarray(ids).resize((WIDTH, HEIGHT), Image.Resampling.NEAREST)))
        else:
            large = F.interpolate(channels, size=(HEIGHT, WIDTH), mode="nearest")[0]
            low, high = large.amin((1, 2), keepdim=True), large.amax((1, 2), keepdim=True)
            maps.append(torch.nan_to_num((large - low) / (high - low), nan=0.0).argmax(0).numpy().astype(np.uint8))
    return maps, [mask for _, mask in frames]


@pytest.mark.parametrize("preset", late(["dino", "dinov3"], "dino"))
def test_against_a_restatement_frame_by_frame(videos, tmp_path, preset):
    record = run(videos, preset=preset, save_predictions=str(tmp_path / "saved"))
    per_object, j_and_f = {}, []
    for name in LENGTHS:
        expected, truth = restated(videos, name, preset, 3, 3)
        for own, (found, _) in zip(expected, masks(videos, tmp_path / "saved", name), strict=True):
            assert (found != own).sum() <= 3  # of 10,500: channels that are equal but for rounding
        assert (expected[-1] != truth[-1]).mean() > 0.005  # the task is not trivial
        for number in range(1, OBJECTS[name] + 1):
            pairs = [(own == number, there == number) for own, there in zip(expected[1:-1], truth[1:-1], strict=True)]
            j, f = ([measure(*pair) for pair in pairs] for measure in (video_metrics.jaccard, video_metrics.boundary_f))
            per_object[f"{name}_{number}"] = 50 * (np.mean(j) + np.mean(f))
            j_and_f.append((np.mean(j), np.mean(f)))
    found = next(score for score in record["scores"] if score["metric"] == "jf_mean")
    assert found["per_class"] == pytest.approx(per_object, abs=0.2)
    assert found["value"] == pytest.approx(np.mean(list(per_object.values())), abs=0.2)
    assert values(record)["j_mean"] == pytest.approx(100 * np.mean(j_and_f, 0)[0], abs=0.2)
    assert values(record)["f_mean"] == pytest.approx(100 * np.mean(j_and_f, 0)[1], abs=0.2)
    assert 30 < found["value"] < 99


def test_what_a_record_says(videos):
    record = run(videos, "pixels:8", name="patches")
    assert set(values(record)) == {f"{m}_{s}" for m in "jf" for s in ("mean", "recall", "decay")} | {"jf_mean"}
    assert record["protocol"]["headline"] == {"metric": "jf_mean", "variant": "official"}
    assert record["dataset"]["images"] == 28
    found = next(score for score in record["scores"] if score["metric"] == "jf_mean")
    assert found["details"] == {
        "sequences": 3, "objects": 6, "frames": 22, "sizes": ["128 x 64"], "by_sequence": found["details"]["by_sequence"],
    }  # fmt: skip
    assert found["value"] == pytest.approx((values(record)["j_mean"] + values(record)["f_mean"]) / 2, abs=1e-3)
    assert found["ci95"][0] <= found["value"] <= found["ci95"][1] and len(decode(found["bootstrap"])) == 1000
    assert record["protocol"]["settings"]["short_side"] == 64 and "predictions" not in record["protocol"]["settings"]
    text = render(leaderboard(), "md")
    assert "vos/dino v1 on frames:" in text and "64 px: official J&F in %" in text and f"{found['value']:.1f}" in text


def test_tables_stand_beside_the_published_ones(videos, tmp_path, monkeypatch):
    monkeypatch.setattr(Davis2017, "official_counts", {"val": sum(LENGTHS.values())})  # else it is a part of the split
    root = tmp_path / "root" / "DAVIS"
    shutil.copytree(videos, root)
    (root / "ImageSets" / "2017").mkdir(parents=True)
    (root / "ImageSets" / "2017" / "val.txt").write_text("\n".join(LENGTHS))
    evaluate("pixels:8", "vos", "davis2017", data_root=root.parent, short_side="64")
    text = render(leaderboard(published=True), "md")
    assert "published, not measured here: vos-davis on davis2017, J&F, J, F in %" in text
    assert "| k=5 J&F | k=5 J | k=5 F |" in text
    assert "| FLSL | ViT-S/16 | IN1K | flsl Table 4 | 65.6 | 62.4 | 69.4 |" in text
    assert "J&amp;F in % by object" in report()


@pytest.mark.slow
def test_runtime_options_change_no_number(videos, tmp_path):
    plain = values(run(videos))
    for number, runtime in enumerate((
        {"batch_size": "1"}, {"batch_size": "2", "workers": "1"}, {"visualise": "2", "save_predictions": str(tmp_path / "saved")},
    )):  # fmt: skip
        assert values(run(videos, results=tmp_path / str(number), **runtime)) == pytest.approx(plain, abs=0.05)


@pytest.mark.parametrize(
    "setting",
    [
        {"short_side": "80"}, {"rounding": "up"}, {"resample": "bicubic"}, {"colour": "backbone"}, {"context": "0"},
        {"radius": "none"}, {"window": "circle"}, {"neighbours": "9"}, {"temperature": "1"}, {"mask_upsample": "nearest"},
    ],
)  # fmt: skip
def test_settings_change_the_number_and_the_group(videos, setting):
    plain, changed = run(videos, limit=1), run(videos, limit=1, **setting)
    assert plain["group"] != changed["group"] and values(plain) != values(changed)


def test_pictures(videos, tmp_path):
    record = run(videos, visualise="2")
    folder = tmp_path / "results" / "pictures" / record["id"]
    assert sorted(path.name for path in folder.glob("*.png")) == ["ant.png", "cow.png"]
    with Image.open(folder / "cow.png") as sheet:
        assert sheet.size == (6 * 320 + 5 * 4, 2 * round(320 * HEIGHT / WIDTH) + 4)


class Killed(Exception):
    pass


def killed_after_ant(videos, monkeypatch):
    """Run until a few frames after the longest sequence. What the backbone saw, frame by frame, and its own forward pass."""
    seen, forward = [], Pixels.forward

    def dying(self, images):
        seen.append(len(images))
        if len(seen) == LENGTHS["ant"] + 4:
            raise Killed
        return forward(self, images)

    monkeypatch.setattr(Pixels, "forward", dying)
    with pytest.raises(Killed):
        run(videos, batch_size="1")
    return seen, forward


def test_a_killed_run_goes_on_with_the_sequence_it_was_at(videos, monkeypatch, tmp_path):
    whole = values(run(videos, results=tmp_path / "whole"))
    seen, forward = killed_after_ant(videos, monkeypatch)
    seen.clear()
    monkeypatch.setattr(Pixels, "forward", lambda self, images: seen.append(len(images)) or forward(self, images))
    assert values(run(videos, batch_size="1")) == pytest.approx(whole, abs=0.05)
    assert sum(seen) == LENGTHS["boat"] + LENGTHS["cow"]  # the longest, ant, was done
    assert not list((tmp_path / "cache" / "scoring").iterdir())
    seen.clear()
    run(videos, batch_size="1")
    assert not seen


def test_damaged_scores_of_a_sequence_are_taken_again(videos, monkeypatch, tmp_path, capsys):
    whole = values(run(videos, batch_size="1", results=tmp_path / "whole"))
    _, forward = killed_after_ant(videos, monkeypatch)
    monkeypatch.setattr(Pixels, "forward", forward)
    [path] = (tmp_path / "cache" / "scoring").glob("*/ant.scores.json")
    path.write_bytes(path.read_bytes().replace(b"0.", b"1.", 1))
    assert values(run(videos, batch_size="1")) == whole
    assert "ant.scores.json is unreadable" in capsys.readouterr().err


def test_a_run_that_goes_on_saves_what_it_had_not(videos, monkeypatch, tmp_path):
    _, forward = killed_after_ant(videos, monkeypatch)
    monkeypatch.setattr(Pixels, "forward", forward)
    run(videos, batch_size="1", save_predictions=str(tmp_path / "saved"), visualise="3")
    assert all(len(masks(videos, tmp_path / "saved", name)) == frames for name, frames in LENGTHS.items())
    assert len(list((tmp_path / "results" / "pictures").rglob("*.png"))) == 3


def test_a_data_set_must_be_named(videos):
    for backbone in (None, "pixels:8"):
        with pytest.raises(UserError, match=r"--protocol vos takes videos; name some with --dataset: davis2016, .*, frames:DIR"):
            evaluate(backbone, "vos")
    with pytest.raises(UserError, match=r"scenes has label maps; vos takes videos: davis2016, .*, frames:DIR"):
        evaluate("pixels:8", "vos", "scenes")
    with pytest.raises(UserError, match=r"has videos; incontext takes label maps: .*folder:DIR"):
        evaluate("pixels:8", "incontext", f"frames:{videos}")


def test_frames_that_are_wrong_are_named(videos, tmp_path):
    def broken(path, change, match):
        root = tmp_path / "copy"
        shutil.copytree(videos, root)
        change(root / path)
        with pytest.raises(UserError, match=match):
            run(root)
        shutil.rmtree(root)

    frame = "JPEGImages/480p/cow/00005.png"
    broken(frame, lambda path: path.write_bytes(path.read_bytes()[:300]), r"image .*cow/00005.png cannot be decoded")
    broken(frame, lambda path: Image.new("RGB", (WIDTH, 60)).save(path), r"cow/00005.png is 150 x 60 but .* first one 150 x 70")
    broken("Annotations/480p/cow/00004.png", lambda path: path.unlink(), r"frame .*cow/00004.png has no mask")
    broken("Annotations/480p/cow/00004.png", lambda path: path.write_bytes(b"x"), r"cow/00004.png cannot be decoded")

    def shorten(path):
        for part in ("JPEGImages", "Annotations"):
            for t in range(2, LENGTHS["cow"]):
                (path / part / "480p" / "cow" / f"{t:05}.png").unlink()

    broken("", shorten, r"the sequence cow has 2 frames; .* give three")


def test_features_that_are_no_numbers(videos, monkeypatch):
    forward = Pixels.forward
    monkeypatch.setattr(Pixels, "forward", lambda self, images: forward(self, images) / 0 * (images.mean() > -9))
    with pytest.raises(UserError, match=r"the features of ant/00000 are not finite numbers; check the weights"):
        run(videos, batch_size="1")


def test_frames_of_different_sizes_are_followed_apart(videos, tmp_path):
    root = tmp_path / "mixed"
    shutil.copytree(videos, root)
    write(root, "tall", 5, 1, width=70, height=100)
    record = run(root)
    assert record["scores"][-1]["details"]["sizes"] == ["128 x 64", "64 x 64"]
    alone = tmp_path / "alone"
    write(alone, "tall", 5, 1, width=70, height=100)
    assert run(alone)["scores"][-1]["per_class"]["tall_1"] == record["scores"][-1]["per_class"]["tall_1"]


@pytest.mark.slow
def test_a_trained_backbone_follows_real_objects_better_than_a_random_one(shared_data):
    asked = {"dataset": "davis2016", "data_root": shared_data, "limit": 1, "short_side": "240"}
    weights = shared_data / "weights" / "tf_efficientnet_lite0_in1k.fp16.safetensors"
    [trained] = evaluate("timm:tf_efficientnet_lite0", "vos", weights=weights, layer="3", **asked).records
    [random] = evaluate("random:tf_efficientnet_lite0", "vos", layer="3", **asked).records
    assert values(trained)["jf_mean"] > values(random)["jf_mean"] + 15
