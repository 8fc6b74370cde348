"""Positions read from the features of pictures: known answers, what is removed, and which pictures are read by whom."""

from __future__ import annotations

import shutil

import filmed
import numpy as np
import pytest
import torch
from PIL import Image
from placed_features import DATA, GRID, SIDE, STRIDE, Constant, Known, Mixed, backbone, scores

from densebench.backbones.backbone import Backbone, BackboneInfo
from densebench.backbones.debiased import debiased
from densebench.backbones.timm_models import make_trunk
from densebench.conformance.drawn import drawn
from densebench.datasets import load_dataset
from densebench.errors import UserError
from densebench.evals.position.protocol import Position, halved
from densebench.evaluation.protocol import Run
from densebench.torchvision_ops import make_importable

INPUTS = ("natural", "shuffled")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))


def pictures(folder, count, side=40):
    folder.mkdir()
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    return folder


def test_row_and_column_among_the_channels_are_read_and_are_gone_once_removed():
    found = scores(backbone(Known()), removed=(0, 5), l2=1e-9)
    for name in INPUTS:
        for metric in ("r2", "r2_row", "r2_column"):
            assert found[name, 0, "noise", metric].value == pytest.approx(1.0, abs=1e-6)
            assert [found[name, 5, kind, metric].value for kind in ("noise", "black", "readout")] == [0.0] * 3
        assert found[name, 0, "noise", "patch_error"].value == pytest.approx(0.0, abs=1e-4)
        assert found[name, 0, "noise", "position_share"].value == pytest.approx(100.0, abs=1e-4)
        gone = found[name, 5, "noise", "r2"]
        assert gone.details["directions"] == 3, "there are no more"
        assert gone.details["degenerate"] == "the features do not vary"
        assert found[name, 5, "noise", "patch_error"].value == pytest.approx(GRID / 4), "as far off as the middle is"


def test_features_that_do_not_vary_are_flagged_and_hold_nothing():
    for score in scores(backbone(Constant()), removed=(0, 5)).values():
        assert score.value == (0.0 if score.metric != "patch_error" else pytest.approx(GRID / 4))
        if score.metric != "position_share":
            assert score.details["degenerate"] == "the features do not vary"


def test_as_many_directions_as_dimensions_leave_nothing_and_are_named(capsys):
    found = scores(backbone(Mixed()), removed=(5, 24, 50))
    assert found["natural", 5, "noise", "r2"].value > 0.1
    for count in (24, 50):
        score = found["shuffled", count, "readout", "r2"]
        assert (score.value, score.details["degenerate"]) == (0.0, "the features do not vary")
    assert "--removed 24, 50: mixed has 24 dimensions, so nothing is left to be read" in capsys.readouterr().err


def test_what_is_removed_by_the_backbone_is_what_the_protocol_removes():
    before, after = (
        scores(each, removed=removed) for each, removed in ((backbone(Mixed()), (5,)), (debiased(backbone(Mixed()), 5), (0,)))
    )
    for name in INPUTS:
        for metric in ("r2", "patch_error", "position_share"):
            expected = before[name, 5, "noise", metric].value
            assert after[name, 0, "noise", metric].value == pytest.approx(expected, abs=1e-4)


def test_a_removed_number_does_not_depend_on_the_others():
    alone, among = scores(backbone(Mixed()), removed=(3,)), scores(backbone(Mixed()), removed=(0, 3, 7))
    for key, score in alone.items():
        assert among[key].value == pytest.approx(score.value, abs=1e-9)


def vit(position):
    make_importable()
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(1)
    model = VisionTransformer(img_size=SIDE, patch_size=STRIDE, embed_dim=24, depth=2, num_heads=2, num_classes=0)
    torch.nn.init.normal_(model.pos_embed, 0.0, position) if position else torch.nn.init.zeros_(model.pos_embed)
    return Backbone(make_trunk(model.eval(), "last", "antialias"), BackboneInfo("vit", "vit", 24, STRIDE), f"vit {position}")


def test_a_vit_without_position_embeddings_knows_no_position_of_shuffled_patches():
    without, with_them = (scores(vit(position), inputs=("shuffled",), removed=(0,)) for position in (0.0, 1.0))
    assert -0.1 < without["shuffled", 0, "noise", "r2"].value < 0.02
    assert with_them["shuffled", 0, "noise", "r2"].value > 0.2


def test_natural_pictures_tell_positions_by_what_they_show_and_shuffled_ones_do_not(tmp_path):
    folder = pictures(tmp_path / "skies", 12)
    for path in folder.glob("*.png"):
        pixels = np.asarray(Image.open(path)) // 8
        pixels[: len(pixels) // 2] += 200
        Image.fromarray(pixels).save(path)
    found = scores(backbone(Mixed(0.0)), load_dataset(f"pictures:{folder}"), removed=(0,))
    assert found["natural", 0, "noise", "r2_row"].value > 0.5
    assert found["natural", 0, "noise", "r2_column"].value < 0.05
    assert found["shuffled", 0, "noise", "r2"].value < 0.05


@pytest.mark.parametrize("kind", ["label maps", "boxes", "videos"])
def test_data_sets_of_any_kind_are_pictures(kind):
    found = scores(backbone(Known()), drawn(kind)[0], removed=(0,), inputs=("natural",))
    assert found["natural", 0, "noise", "r2"].value > 0.99


def test_halves_of_one_split_read_each_other_and_every_picture_once(tmp_path):
    folder = pictures(tmp_path / "pictures", 7)
    shutil.copy(folder / "03.png", folder / "copy.png")
    dataset = load_dataset(f"pictures:{folder}")
    first, second = Position().resolve(dataset).folds(dataset, None)
    assert (first.fit, first.read) == (second.read, second.fit)
    names = [{item.name for item in half} for half in (first.fit, first.read)]
    assert names[0] | names[1] == {item.name for item in dataset.items("all")}
    assert not names[0] & names[1]
    assert min(map(len, names)) >= 3
    assert any({"03", "copy"} <= half for half in names), "copies lie in one half"
    score = scores(backbone(Mixed()), dataset, removed=(0,))["shuffled", 0, "noise", "r2"]
    assert sum(score.details["images"]) == 8


def test_sequences_of_a_video_stay_in_one_half(tmp_path):
    for name in ("boat", "car", "dog"):
        filmed.write(tmp_path, name, 3, 1)
    dataset = load_dataset(f"frames:{tmp_path}")
    halves = halved(dataset, dataset.items(dataset.val_split))
    assert sorted(map(len, halves)) == [3, 6]
    groups = [{item.name.split("/")[0] for item in half} for half in halves]
    assert not groups[0] & groups[1]


def test_splits_of_their_own_are_fitted_on_and_read(tmp_path):
    [fold] = Position(fit_images=4).resolve(DATA).folds(DATA, None)
    assert [item.name for item in fold.fit] == ["train-0", "train-3", "train-6", "train-9"]
    assert fold.read == list(DATA.items("val"))


def test_pictures_that_are_read_are_not_fitted_on_whatever_splits_share(monkeypatch):
    mark = type(DATA).image_digest
    monkeypatch.setattr(
        type(DATA), "image_digest", lambda self, item: "same" if item.name in ("train-3", "val-2") else mark(self, item)
    )
    [fold] = Position().resolve(DATA).folds(DATA, None)
    assert len(fold.read) == 8
    assert {item.name for item in fold.fit} == {item.name for item in DATA.items("train")} - {"train-3"}
    monkeypatch.setattr(type(DATA), "image_digest", lambda self, item: "same")
    with pytest.raises(UserError, match="every picture of blocks train is in val too: name another --train-split"):
        Position().resolve(DATA).folds(DATA, None)


def test_a_single_picture_is_refused(tmp_path):
    dataset = load_dataset(f"pictures:{pictures(tmp_path / 'one', 1)}")
    with pytest.raises(UserError, match="all has no two different pictures: a map is fitted on one part and reads the other"):
        scores(backbone(Mixed()), dataset)


def test_a_single_patch_and_a_size_that_does_not_fit_are_refused():
    with pytest.raises(UserError, match="--image-size 16 is one patch of mixed; give 32 or more"):
        scores(backbone(Mixed()), image_size=16)
    with pytest.raises(UserError, match="an image side of 100 px does not fit mixed, whose stride is 16: use 96 or 112"):
        scores(backbone(Mixed()), image_size=100)


def test_fewer_patches_than_dimensions_are_flagged():
    found = scores(backbone(Mixed()), fit_images=1, image_size=64, removed=(0,))
    score = found["natural", 0, "noise", "r2"]
    assert score.details["degenerate"] == "no more patches than dimensions to fit on"
    assert score.details["fit_patches"] == 16
    assert abs(score.value) < 100


def test_what_is_extracted_is_declared():
    protocol = Position(image_size=SIDE).resolve(DATA)
    stages = protocol.stages(backbone(Mixed()), DATA, Run())
    assert [stage.images for stage in stages] == [10, 8, 10, 8, 8 * 2 * (1 + 3 * 3)]
    known = frozenset(point for point in protocol.points(DATA) if dict(point)["input"] == "natural")
    assert [stage.images for stage in protocol.stages(backbone(Mixed()), DATA, Run(known=known))] == [10, 8, 80]
