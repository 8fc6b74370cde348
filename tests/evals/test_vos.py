"""The protocol `vos` as a whole: a restatement frame by frame, masks with known scores, OSVOS's masks, runs that go on, errors.

Caron et al. (DINO), ICCV 2021; Simeoni et al. (DINOv3), 2025; Caelles et al. (OSVOS), CVPR 2017; Pont-Tuset et al., 2017.
"""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from densebench.evals.vos.frames import FrameSize, resized, statistics
from densebench.evals.vos.scoring import scores
from densebench.evals.vos.tracking import Context, label_map, on_grid
from PIL import Image
from test_propagation import dino_stretch, naive

from densebench.backbones.pixels import Pixels
from densebench.datasets.davis import Davis2017
from densebench.errors import UserError
from densebench.evaluation.run import Backbones, evaluate
from densebench.features.extract import Normalisation
from densebench.numerics import video as video_metrics
from densebench.numerics.propagation import Reach
from densebench.pictures.palette import voc_palette
from densebench.results import record as records
from densebench.results.leaderboard import leaderboard
from densebench.results.report import report
from densebench.results.score import decode
from densebench.results.tables import render

WIDTH, HEIGHT = 150, 70  # px; 128 x 64 at a short side of 64
LENGTHS = {"boat": 6, "ant": 12, "cow": 10}
OBJECTS = {"boat": 1, "ant": 2, "cow": 3}


def filmed(name, frames, objects, width=WIDTH, height=HEIGHT):
    """Textured rectangles that move over a texture that moves: images and masks."""
    rng = np.random.default_rng(sum(map(ord, name)))

    def texture():
        small = rng.integers(0, 256, (24, 40, 3)).astype(np.uint8)
        return np.array(Image.fromarray(small).resize((240, 144), Image.Resampling.BICUBIC))

    ground, things = texture(), [texture() for _ in range(objects)]
    places = rng.integers(0, (height - 40, width - 60), (objects, 2))
    speeds = rng.integers(-2, 3, (objects, 2))
    for t in range(frames):
        image, mask = ground[10 : 10 + height, 2 * t : 2 * t + width].copy(), np.zeros((height, width), np.uint8)
        for number, (thing, place, speed) in enumerate(zip(things, places, speeds, strict=True), 1):
            y, x = np.clip(place + t * speed, 0, (height - 30, width - 40))
            image[y : y + 30, x : x + 40] = thing[:30, :40]
            mask[y : y + 30, x : x + 40] = number
        yield image, mask


def write(root, name, frames, objects, **more):
    for t, (image, mask) in enumerate(filmed(name, frames, objects, **more)):
        for folder, suffix, array in (("JPEGImages", "png", image), ("Annotations", "png", mask)):
            path = root / folder / "480p" / name / f"{t:05}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    for name, frames in LENGTHS.items():
        write(root, name, frames, OBJECTS[name])
    return root


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def run(root, backbones=("pixels:8",), **given):
    if "predictions" not in given:
        given = {"short_side": "64", "radius": "3", "context": "3", **given}
    [record] = evaluate("vos", backbones=backbones, datasets=[f"frames:{root}"], **given)
    return record


def values(record):
    return {score["metric"]: score["value"] for score in record["scores"]}


def masks(root, folder, name):
    """Predicted and true masks of a sequence."""
    paths = sorted((root / "Annotations" / "480p" / name).glob("*.png"))
    return [tuple(np.array(Image.open(path)) for path in (folder / name / own.name, own)) for own in paths]


def restated(root, name, preset, radius, context):
    """The label maps of a sequence, frame by frame, with all frames kept and nothing shared."""
    dino = preset == "dino"
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.228 if dino else 0.229, 0.224, 0.225)))
    reach = Reach(radius, "square" if dino else "circle", 5, 0.1 if dino else 0.2)
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
        found = naive(features[t], torch.stack([features[s] for s in seen]), torch.stack([labels[s] for s in seen]), reach)
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


@pytest.mark.parametrize("preset", ["dino", "dinov3"])
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
    record = run(videos, Backbones(["pixels:8"], name="patches"))
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
    list(evaluate("vos", backbones=["pixels:8"], datasets=["davis2017"], data_root=root.parent, short_side="64"))
    text = render(leaderboard(published=True), "md")
    assert "published, not measured here: vos-davis on davis2017, J&F, J, F in %" in text
    assert "| k=5 J&F | k=5 J | k=5 F |" in text
    assert "| FLSL | ViT-S/16 | IN1K | flsl Table 4 | 65.6 | 62.4 | 69.4 |" in text
    assert "J&amp;F in % by object" in report()


def test_means_change_no_number(videos, tmp_path):
    plain = values(run(videos))
    for number, means in enumerate((
        {"batch_size": "1"}, {"batch_size": "2", "workers": "1"}, {"visualise": "2", "save_predictions": str(tmp_path / "saved")},
    )):  # fmt: skip
        assert values(run(videos, results=tmp_path / str(number), **means)) == pytest.approx(plain, abs=0.05)


@pytest.mark.parametrize(
    "setting",
    [
        {"short_side": "80"}, {"rounding": "up"}, {"resample": "bicubic"}, {"colour": "backbone"}, {"context": "0"},
        {"radius": "none"}, {"window": "circle"}, {"neighbours": "9"}, {"temperature": "1"}, {"upsample": "nearest"},
    ],
)  # fmt: skip
def test_settings_change_the_number_and_the_group(videos, setting):
    plain, changed = run(videos, limit=1), run(videos, limit=1, **setting)
    assert plain["group"] != changed["group"] and values(plain) != values(changed)


def test_masks_that_exist_are_scored(videos, tmp_path):
    given = tmp_path / "given"
    shutil.copytree(videos / "Annotations" / "480p", given)
    for name, frames in LENGTHS.items():
        (given / name / "00000.png").unlink()
        (given / name / f"{frames - 1:05}.png").unlink()
    record = run(videos, backbones=(), predictions=str(given))
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
    again = run(videos, Backbones(name="lost"), predictions=str(given))
    assert values(again)["jf_mean"] == pytest.approx(100 * 5 / 6, abs=1e-3)
    assert again["id"] != record["id"] and again["group"] == record["group"]
    assert again["scores"][-1]["metric"] == "jf_mean"


def test_masks_that_get_better_have_a_negative_decay(videos, tmp_path):
    given = tmp_path / "given"
    shutil.copytree(videos / "Annotations" / "480p", given)
    for name in LENGTHS:
        for t in (1, 2):
            Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(given / name / f"{t:05}.png")
    record = run(videos, backbones=(), predictions=str(given))
    assert values(record)["j_decay"] < -50 and values(record)["f_decay"] < -50
    assert records.read(next((tmp_path / "results" / "records").glob("*.json")))["status"] == "complete"


def test_what_is_saved_scores_the_same_again(videos, tmp_path):
    record = run(videos, save_predictions=str(tmp_path / "saved"))
    again = run(videos, backbones=(), predictions=str(tmp_path / "saved"))
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


def test_every_frame_is_read_once_and_few_are_held(videos, monkeypatch):
    made, forward, seen = [], Pixels.forward, []
    monkeypatch.setattr(Pixels, "forward", lambda self, images: seen.append(len(images)) or forward(self, images))
    kept = Context.__init__

    def watched(self, *arguments):
        kept(self, *arguments)
        made.append(tuple(self._keys.shape[:2]))

    monkeypatch.setattr(Context, "__init__", watched)
    run(videos, batch_size="2")
    assert seen == [2] * 10 + [1] * 2 + [1] * 6  # ant and cow together, then boat alone
    assert made == [(2, 4), (1, 4)]


def test_the_context_is_the_first_frame_and_the_last_ones_none_twice():
    def frame(t, b=2):
        return torch.full((b, 1, 1, 1), float(t))

    context = Context(frame(0), frame(0), 3)
    for t in range(1, 9):
        keys, labels = context.seen(2)
        expected = {0, *(s for s in range(t - 3, t) if s > 0)}
        assert sorted(keys[1].flatten().tolist()) == sorted(labels[0].flatten().tolist()) == sorted(expected)
        context.push(frame(t), frame(t))
    assert context.seen(1)[0].shape[0] == 1
    context.push(frame(9, b=1), frame(9, b=1))
    assert sorted(context.seen(1)[0].flatten().tolist()) == [0, 7, 8, 9]
    alone = Context(frame(0), frame(0), 0)
    alone.push(frame(1), frame(1))
    assert alone.seen(2)[0].flatten().tolist() == [0, 0]


@pytest.mark.parametrize(
    ("size", "short", "rounding", "stride", "expected"),
    [
        ((854, 480), 480, "down", 16, (480, 832)),
        ((854, 480), 480, "down", 8, (480, 832)),
        ((854, 480), 480, "down", 14, (476, 826)),
        ((480, 854), 480, "down", 16, (832, 480)),
        ((500, 500), 480, "down", 16, (480, 448)),
        ((854, 480), 960, "up", 16, (960, 1712)),
        ((854, 480), 960, "up", 14, (966, 1722)),
        ((480, 854), 960, "up", 16, (1712, 960)),
        ((1920, 1080), 480, "down", 16, (480, 832)),
    ],
)
def test_sizes_of_frames(size, short, rounding, stride, expected):
    assert FrameSize(short, rounding, stride).shape(*size) == expected


def test_sizes_that_leave_nothing():
    for short, stride in ((480, 500), (40, 8)):
        with pytest.raises(UserError, match=f"--short-side {short} leaves no patch of {stride} px; give"):
            FrameSize(short, "down", stride).shape(60, 50)


def test_frames_are_resized_as_opencv_does_it():
    cv2 = pytest.importorskip("cv2")
    image = np.random.default_rng(0).integers(0, 256, (480, 854, 3)).astype(np.uint8)
    for shape, rounded in (((480, 832), 0.02), ((240, 384), 0.2), ((960, 1664), 0.2)):  # OpenCV's weights have 11 bits
        found = (255 * resized(Image.fromarray(image), shape, "bilinear").permute(1, 2, 0)).round().numpy()
        expected = cv2.resize(image, shape[::-1])
        assert np.abs(found - expected).max() <= 1 and (found != expected).mean() < rounded


def test_colour_statistics():
    imagenet = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    other = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert statistics(imagenet, "dino").std == (0.228, 0.224, 0.225)
    assert statistics(imagenet, "backbone").std == (0.229, 0.224, 0.225)
    assert statistics(other, "dino").std == other.std and statistics(imagenet, "dino").mean == imagenet.mean


def test_label_maps_by_hand():
    soft = torch.tensor([[[0.9, 0.1], [0.8, 0.2]]])  # the object is nowhere the likelier one, but is stretched
    assert label_map(soft, (1, 2), (1, 2), "bilinear").tolist() == label_map(soft, (1, 2), (1, 2), "nearest").tolist() == [[0, 1]]
    # to 6 px, corner rule: 0 0 0 1 1 1; to 5: floor(i x 2 / 5) = 0 0 0 1 1
    assert label_map(soft, (1, 2), (2, 5), "nearest").tolist() == [[0, 0, 0, 1, 1]] * 2
    # to 4 px bilinearly 0, 1/4, 3/4, 1 of the way; then the pixels under the centres of 3: 0.67, 2, 3.33
    assert label_map(soft, (1, 4), (1, 3), "bilinear").tolist() == [[0, 1, 1]]


def test_an_object_that_is_everywhere_wins_with_dino_and_not_with_dinov3():
    soft = torch.stack([torch.tensor([[0.0, 0.6], [0.2, 0.0]]), torch.full((2, 2), 0.5)], dim=-1)
    assert label_map(soft, (2, 2), (2, 2), "bilinear").tolist() == [[1, 1], [1, 1]]
    assert label_map(soft, (2, 2), (2, 2), "nearest").tolist() == [[0, 0], [0, 0]]
    apart = torch.stack([torch.full((2, 2), 0.01), torch.tensor([[0.0, 0.6], [0.2, 0.0]])], dim=-1)
    assert label_map(apart, (2, 2), (2, 2), "nearest").tolist() == [[0, 1], [1, 0]]


def test_masks_come_to_the_grid_by_the_patch_s_centre():
    mask = np.zeros((8, 12), np.uint8)
    mask[2, 2], mask[6, 10], mask[3, 9] = 1, 2, 3
    assert on_grid(mask, (2, 3)).tolist() == [[1, 0, 0], [0, 0, 2]]


def test_objects_that_the_grid_loses_are_named(videos, tmp_path, capsys):
    root = tmp_path / "small"
    shutil.copytree(videos, root)
    path = root / "Annotations" / "480p" / "boat" / "00000.png"
    mask = np.array(Image.open(path))
    mask[:2, :2] = 4
    Image.fromarray(mask).save(path)
    record = run(root)
    assert "1 of 9 objects are lost in the grid of patches: boat_4" in capsys.readouterr().err
    found = record["scores"][-1]
    assert found["details"]["vanished"] == ["boat_4"] and found["details"]["objects"] == 9
    assert found["per_class"]["boat_4"] == 100 and found["per_class"]["boat_2"] == 100  # in neither mask, as officially


def test_means_are_over_objects_and_not_over_sequences():
    values = {"a": np.full((5, 3, 2), 0.9), "b": np.full((5, 1, 2), 0.1)}
    values["b"][:, :, 1] = 0.3
    found = {score.metric: score for score in scores(values, {})}
    assert found["j_mean"].value == pytest.approx(70) and found["f_mean"].value == pytest.approx(75)
    assert found["jf_mean"].value == pytest.approx(72.5) and found["j_recall"].value == 75
    assert found["jf_mean"].per_class == {"a_1": 90, "a_2": 90, "a_3": 90, "b_1": 20}
    assert found["jf_mean"].ci95 == (20, 90) and list(found)[-1] == "jf_mean"
    assert found["j_recall"].per_class == {"a_1": 100, "a_2": 100, "a_3": 100, "b_1": 0}
    own = {"j_mean": 10, "j_recall": 0, "j_decay": 0, "f_mean": 30, "f_recall": 0, "f_decay": 0}
    assert found["jf_mean"].details["by_sequence"]["b"] == own


def test_recall_and_decay_are_of_each_object_and_of_its_sequence():
    falling, steady = np.linspace(1, 0.2, 9), np.full(9, 0.6)
    values = {"a": np.stack([np.stack([falling, steady], 1), np.stack([steady, steady], 1)], axis=1)}
    found = {score.metric: score for score in scores(values, {})}
    assert found["j_decay"].per_class == pytest.approx({"a_1": 60, "a_2": 0}, abs=1e-3)  # first three frames less the last three
    assert found["j_recall"].per_class == pytest.approx({"a_1": 100 * 5 / 9, "a_2": 100}, abs=1e-3)
    assert found["f_decay"].per_class == pytest.approx({"a_1": 0, "a_2": 0}, abs=1e-3)
    assert found["jf_mean"].details["by_sequence"]["a"]["j_decay"] == pytest.approx(30, abs=1e-3)


# What is wrong


def test_a_data_set_must_be_named(videos):
    for backbones in ((), ("pixels:8",)):
        with pytest.raises(
            UserError, match=r"--protocol vos takes videos; name some with --dataset: davis2016, davis2017, frames:DIR"
        ):
            list(evaluate("vos", backbones=backbones))
    with pytest.raises(UserError, match=r"scenes has label maps; vos takes videos: davis2016, davis2017, frames:DIR"):
        list(evaluate("vos", backbones=["pixels:8"], datasets=["scenes"]))
    with pytest.raises(UserError, match=r"has videos; incontext takes label maps: .*folder:DIR"):
        list(evaluate("incontext", backbones=["pixels:8"], datasets=[f"frames:{videos}"]))


def test_masks_that_exist_stand_alone(videos, tmp_path):
    given = tmp_path / "given"
    shutil.copytree(videos / "Annotations" / "480p", given)
    with pytest.raises(UserError, match=r"predictions:.*given is scored as it is; leave out --backbone"):
        run(videos, predictions=str(given))
    with pytest.raises(UserError, match=r"--save-predictions goes with a backbone"):
        run(videos, backbones=(), predictions=str(given), save_predictions="x")
    with pytest.raises(UserError, match=r"--predictions nowhere: it holds no mask"):
        run(videos, backbones=(), predictions="nowhere")


def test_masks_that_are_wrong_are_named(videos, tmp_path):
    given = tmp_path / "given"
    shutil.copytree(videos / "Annotations" / "480p", given)
    path = given / "ant" / "00004.png"

    def refused(match):
        with pytest.raises(UserError, match=match):
            run(videos, backbones=(), predictions=str(given))

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


# Real sequences


def test_osvos_has_its_official_scores(shared_data, tmp_path):
    """J and F as the official code gives them for OSVOS's masks, taken as one object."""
    [record] = evaluate(
        "vos", datasets=["davis2016"], data_root=shared_data, predictions=str(shared_data / "DAVIS" / "Results" / "osvos")
    )
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


def test_a_trained_backbone_follows_real_objects_better_than_a_random_one(shared_data):
    asked = {"datasets": ["davis2016"], "data_root": shared_data, "limit": 1, "short_side": "240"}
    weights = shared_data / "weights" / "tf_efficientnet_lite0_in1k.fp16.safetensors"
    [trained] = evaluate("vos", backbones=Backbones(["timm:tf_efficientnet_lite0"], weights, layer="3"), **asked)
    [random] = evaluate("vos", backbones=Backbones(["random:tf_efficientnet_lite0"], layer="3"), **asked)
    assert values(trained)["jf_mean"] > values(random)["jf_mean"] + 15


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"temperature": "0.3"}, "--temperature .*changes nothing about --predictions"),
        ({"preset": "dinov3"}, "--short-side, --rounding.*preset other than dino"),
        ({"backbones": Backbones(layer="key")}, "how to read them"),
    ],
)
def test_what_changes_nothing_about_given_masks_is_refused(videos, tmp_path, given, said):
    run(videos, save_predictions=str(tmp_path / "saved"))
    with pytest.raises(UserError, match=said):
        run(videos, **{"backbones": (), "predictions": str(tmp_path / "saved"), **given})


def test_masks_of_two_runs_are_not_saved_into_one_folder(videos, tmp_path):
    with pytest.raises(UserError, match=r"--save-predictions .*saved goes with one backbone and one data set; 2 and 1"):
        run(videos, backbones=("pixels:8", "pixels:16"), save_predictions=str(tmp_path / "saved"))
    assert not (tmp_path / "saved").exists()
