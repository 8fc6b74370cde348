"""A warped view is another one for every setting, seed and picture, so that the cache mixes no two warps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from densebench.backbones.loading import load_backbone
from densebench.datasets import load_dataset
from densebench.errors import UserError
from densebench.features.extract import Extraction
from densebench.features.views import View
from densebench.features.warped import WarpedView
from densebench.numerics import homographies

USUAL = {"jitter": 0.1, "rotation": 45.0, "scale": 1.4, "overlap": 0.5}
CHANGES = [{}, {"jitter": 0.2}, {"rotation": 30.0}, {"scale": 1.2}, {"overlap": 0.6}, {"warp_seed": 1}]


def view(**changed):
    return WarpedView(16, 64, **{**USUAL, **changed})


def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8))


def test_the_picture_s_bytes_decide_the_warp():
    first, second = (view().homography(70, 50, digest) for digest in ("a", "b"))
    assert not np.allclose(first, second)
    assert np.array_equal(first, view().homography(70, 50, "a"))


def test_a_view_without_ranges_is_the_plain_view():
    plain = View(16, 64).image(picture(), "a")
    assert torch.equal(WarpedView(16, 64).image(picture(), "a"), plain)


def test_every_setting_gives_other_pixels_and_another_identity():
    views = [view(**change) for change in CHANGES]
    images = [each.image(picture(), "a") for each in views]
    assert all(not torch.equal(images[0], other) for other in images[1:])
    assert len({repr(each.identity()) for each in [*views, View(16, 64)]}) == len(CHANGES) + 1


def test_no_two_warps_share_a_folder_of_the_cache():
    backbone, dataset = load_backbone("pixels:16"), load_dataset("scenes")
    items = dataset.items("val")[:2]
    views = [View(16, 64), *(view(**change) for change in CHANGES)]
    assert len({Extraction(backbone, dataset, items, each).folder for each in views}) == len(views)


def test_extracted_features_are_those_of_the_warped_pixels(monkeypatch, tmp_path):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path))
    backbone, dataset = load_backbone("pixels:16"), load_dataset("scenes")
    [item] = dataset.items("val")[:1]
    plain, warped = (Extraction(backbone, dataset, [item], each) for each in (View(16, 64), view()))
    assert not torch.allclose(plain.features()[item], warped.features()[item])
    again = Extraction(backbone, dataset, [item], view())
    assert torch.equal(again.features()[item], warped.passed(warped.decoded(item)[None], torch.device("cpu"))[0])


def test_ranges_without_an_overlap_name_the_options(monkeypatch):
    monkeypatch.setattr(homographies, "TRIES", 20)
    with pytest.raises(UserError, match=r"--overlap 0.99: no homography with --jitter 0.4"):
        view(jitter=0.4, rotation=0.0, scale=1.0, overlap=0.99).homography(70, 50, "a")
