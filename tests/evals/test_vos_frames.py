"""Frames, context, label maps and scores of `vos`, by hand."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from filmed import empty_cache, run, videos
from PIL import Image

from densebench.backbones.adapters import Pixels
from densebench.errors import UserError
from densebench.evals.vos.frames import FrameSize, resized, statistics
from densebench.evals.vos.scoring import scores
from densebench.evals.vos.tracking import Context, best_ids, on_grid, resized_ids
from densebench.features.extract import Normalisation

__all__ = ["empty_cache", "videos"]  # fixtures


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
        keys, labels = context.frames(2)
        expected = {0, *(s for s in range(t - 3, t) if s > 0)}
        assert sorted(keys[1].flatten().tolist()) == sorted(labels[0].flatten().tolist()) == sorted(expected)
        context.push(frame(t), frame(t))
    assert context.frames(1)[0].shape[0] == 1
    context.push(frame(9, b=1), frame(9, b=1))
    assert sorted(context.frames(1)[0].flatten().tolist()) == [0, 7, 8, 9]
    alone = Context(frame(0), frame(0), 0)
    alone.push(frame(1), frame(1))
    assert alone.frames(2)[0].flatten().tolist() == [0, 0]


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


def label_map(soft, shape, native, upsample):
    """The ids of a frame of size `native` that the backbone saw at `shape`."""
    size = native if upsample == "nearest" else shape
    return resized_ids(best_ids(soft, size, upsample).numpy(), native[::-1], upsample)


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
