"""Regions of the first frame stay on what they were on."""

from __future__ import annotations

import numpy as np
import torch
from look_pictures import film
from torch import nn

from densebench import load_backbone
from densebench.backbones.backbone import Backbone
from densebench.looking.arguments import checked
from densebench.looking.opening import opened
from densebench.looking.tracks import FOLLOWED, SHOWN, followed, spread, videos_to_follow

SETTINGS = checked(count=1, seed=0, image_size=160, clusters=2, foreground=False, device="cpu")


def frames_of(folder):
    [video], notes = videos_to_follow(opened(folder, video=True))
    return video, notes


def test_a_region_follows_its_square(tmp_path):
    video, _ = frames_of(film(tmp_path, frames=9))
    sheet, _ = followed(load_backbone("pixels:8"), video, SETTINGS, None)
    assert len(sheet) == SHOWN
    inside, outside = [], []
    for number, shown in zip(video.shown, sheet, strict=True):
        tint = np.asarray(shown) - 0.45 * np.asarray(video.frames[number])  # 0.55 times the colour of the region
        left = 8 + 4 * number
        inside.append(np.median(tint[28:44, left + 4 : left + 20], axis=(0, 1)))
        far = np.delete(tint, np.s_[max(0, left - 8) : left + 32], axis=1)
        outside.append((np.abs(far - inside[-1]).max(axis=2) < 3).mean())
    assert np.ptp(inside, axis=0).max() < 2
    assert max(outside) < 0.02


class Louder(nn.Module):
    """The features of a backbone, longer from column to column."""

    def __init__(self, trunk):
        super().__init__()
        self.trunk = trunk

    def forward(self, images):
        found = self.trunk(images)
        return found * torch.logspace(-1, 1, found.shape[3])


def test_lengths_of_features_do_not_matter(tmp_path):
    video, _ = frames_of(film(tmp_path, frames=3))
    backbone = load_backbone("pixels:8")
    sheet, [regions] = followed(backbone, video, SETTINGS, None)
    louder, [same] = followed(Backbone(Louder(backbone.trunk), backbone.info, "0" * 64), video, SETTINGS, None)
    assert (regions == same).all()
    for one, other in zip(sheet, louder, strict=True):
        assert (np.asarray(one) != np.asarray(other)).mean() < 0.01


def test_regions_take_the_numbers_of_the_reference(tmp_path):
    video, _ = frames_of(film(tmp_path, frames=3))
    backbone = load_backbone("pixels:8")
    _, first = followed(backbone, video, SETTINGS, None)
    turned = [first[0].max() - first[0]]
    _, second = followed(backbone, video, SETTINGS, turned)
    assert (second[0] == turned[0]).all()


def test_a_long_video_is_followed_in_steps_and_the_note_says_so(tmp_path):
    video, notes = frames_of(film(tmp_path, frames=30, width=16, height=16))
    assert (len(video.frames), video.numbers[0], video.numbers[-1]) == (FOLLOWED, 0, 29)
    assert any("24 of 30 frames were followed" in note for note in notes)


def test_of_many_videos_two_are_followed(tmp_path):
    for name in ("a", "b", "c"):
        film(tmp_path / name, frames=2)
    videos, notes = videos_to_follow(opened(tmp_path, video=True))
    assert [(video.name, video.numbers) for video in videos] == [("a", (0, 1)), ("c", (0, 1))]
    assert notes[-1] == "2 of 3 videos were followed"


def test_numbers_are_spread_evenly():
    assert (spread(9, 3), spread(2, 6), spread(1, 3), spread(0, 2)) == ([0, 4, 8], [0, 1], [0], [])


def test_features_are_of_frames_alone(tmp_path):
    """The same frame gives the same regions whatever follows it."""
    video, _ = frames_of(film(tmp_path, frames=6))
    backbone = load_backbone("pixels:8")
    with torch.inference_mode():
        short = followed(backbone, type(video)(video.name, video.numbers[:2], video.frames[:2]), SETTINGS, None)[0]
    long = followed(backbone, video, SETTINGS, None)[0]
    assert short[0].tobytes() == long[0].tobytes()
    assert short[1].tobytes() == long[1].tobytes()
