"""Whole runs through MMSegmentation on tiny data: rates side by side, frozen and trained backbones, what is learnt."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from drawn_maps import MEAN, QUIET, STD, bridge, data_of, equal
from segmentor_runs import CLASSES, RATES, SMALL, counts, same, train
from tiers import late, late_rows

from densebench.backbones.backbone import Backbone, BackboneInfo
from densebench.errors import UserError
from densebench.numerics import segmentation as metrics

pytestmark = QUIET


def test_counts_are_those_of_the_label_maps_and_give_the_score_of_mmseg(whole):
    assert [validation.iteration for validation in whole.validations] == [4, 8]
    for validation in whole.validations:
        found = counts(validation, 2)
        assert found.keys() == validation.maps.keys() == {item.name for item in SMALL.val}
        total = torch.zeros(2, CLASSES, CLASSES, dtype=torch.int64)
        for item in SMALL.val:
            truth, maps = SMALL.read(item), validation.maps[item.name].numpy()
            assert maps.shape == (2, *truth.shape)
            expected = np.zeros((2, CLASSES, CLASSES), dtype=np.int64)
            for head in range(2):
                np.add.at(expected[head], (truth, maps[head]), 1)
            assert np.array_equal(found[item.name].numpy(), expected)
            total += found[item.name]
        ours = 100 * metrics.mean_iou(metrics.iou(metrics.tallies(total)))
        assert validation.mmseg == pytest.approx(ours.tolist(), abs=0.0051)
    assert not equal(whole.validations[0].maps, whole.validations[1].maps)


def test_the_curves_reach_from_the_loss_of_knowing_nothing_to_a_smaller_one(whole):
    assert whole.iterations[-1] == 8 and set(whole.losses) == set(RATES[:2])
    for losses in whole.losses.values():
        assert len(losses) == len(whole.iterations) and np.isfinite(losses).all()
    assert whole.losses[RATES[0]][-1] != whole.losses[RATES[1]][-1]


@pytest.mark.parametrize(
    "given",
    [
        {"optimiser": "sgd", "weight_decay": 1e-2, "photometric": True, "schedule": "cosine", "warmup": 0.3},
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({"head": "batchnorm"}, marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_four_rates_side_by_side_give_what_each_gives_alone(given, pixels, tmp_path):
    together = train(pixels, tmp_path / "all", RATES, **given)
    for number in (0, 3):
        alone = train(pixels, tmp_path / f"{number}", RATES[number : number + 1], **given)
        assert together.losses[RATES[number]] == pytest.approx(alone.losses[RATES[number]], rel=1e-6)
        for a, b in zip(together.validations, alone.validations, strict=True):
            for name, found in counts(a, 4).items():
                assert torch.equal(found[number], counts(b, 1)[name][0])


def test_a_rate_that_diverges_leaves_the_others_as_they_are(pixels, tmp_path):
    found = train(pixels, tmp_path / "with", (1e-2, 1e37, 1e-3))
    without = train(pixels, tmp_path / "without", (1e-2, 1e-3))
    assert not np.isfinite(found.losses[1e37]).all()
    for rate in (1e-2, 1e-3):
        assert np.array_equal(found.losses[rate], without.losses[rate])
    for a, b in zip(found.validations, without.validations, strict=True):
        for name, one in counts(a, 3).items():
            assert torch.equal(one[[0, 2]], counts(b, 2)[name])


@pytest.mark.slow
def test_the_seed_decides_everything(pixels, tmp_path):
    first = train(pixels, tmp_path / "first", photometric=True, head="batchnorm")
    np.random.seed(0), torch.manual_seed(7)
    same(first, train(pixels, tmp_path / "again", photometric=True, head="batchnorm"))
    other = train(pixels, tmp_path / "other", photometric=True, head="batchnorm", train_seed=1)
    assert not np.array_equal(first.losses[RATES[0]], other.losses[RATES[0]])


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_file_that_cannot_be_read_ends_the_run_with_its_own_error(split, pixels, tmp_path):
    def read(item):
        if item.name == f"{split}1":
            raise UserError(f"{item.name} is broken")
        return SMALL.read(item)

    broken = bridge.Data(SMALL.dataset, SMALL.train, SMALL.val, SMALL.classes, read)
    with pytest.raises(UserError, match=f"^{split}1 is broken"):
        train(pixels, tmp_path, source=broken)


def state_of(folder):
    path = next(folder.glob("iter_*.pth"))
    return torch.load(path, weights_only=False)["state_dict"]  # a file that this test has just written


@pytest.mark.parametrize(("head", "drop_path"), late_rows([("linear", 0.0), ("batchnorm", 0.2)], ("batchnorm", 0.2)))
def test_a_frozen_backbone_stays_as_it_is_and_is_not_saved(head, drop_path, vit, tmp_path):
    before = copy.deepcopy(vit.state_dict())
    train(vit, tmp_path, (1e-1,), head=head, drop_path=drop_path, iterations=3, validations=1)
    assert equal(before, vit.state_dict())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in vit.parameters())
    assert not any(module.training for module in vit.modules())
    state = state_of(tmp_path)
    assert state and all(key.startswith("decode_head.0.") for key in state)
    assert sum(value.numel() for key, value in state.items() if "conv_seg" in key) == CLASSES * (vit.dim + 1)


def test_fine_tuning_changes_a_copy_of_the_backbone(vit, tmp_path):
    before = copy.deepcopy(vit.state_dict())
    train(vit, tmp_path, (1e-3,), head="segmenter", trained=True, optimiser="adam", iterations=3, validations=1)
    assert equal(before, vit.state_dict()) and not any(module.training for module in vit.modules())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in vit.parameters())
    tuned = {key: value for key, value in state_of(tmp_path).items() if key.startswith("backbone.")}
    assert len(tuned) == len(before)
    for key, value in before.items():
        name = key.removeprefix("trunk.model.")
        own = [v for k, v in tuned.items() if k.endswith("." + name)]
        assert len(own) == 1 and not torch.equal(own[0], value), key


class Telling(torch.nn.Module):
    """Features of every second pixel: its colour and the products of its channels."""

    def forward(self, images):
        colour = images[:, :, ::2, ::2]
        return torch.cat([colour, colour.square(), colour[:, [0, 1, 2]] * colour[:, [1, 2, 0]]], 1)


def repeated(source):
    """Scored on what it was trained on."""
    return bridge.Data(source.dataset, source.train, source.train, source.classes, source.read)


@pytest.mark.parametrize("head", late(["linear", "batchnorm"], "batchnorm"))
def test_linear_heads_learn_a_handful_of_images_by_heart(head, tmp_path):
    backbone = Backbone(Telling(), BackboneInfo("telling", "telling", 9, 2, MEAN, STD), "0" * 64)
    source = repeated(data_of({f"train{n}": (48, 64) for n in range(4)}))
    found = train(backbone, tmp_path, (0.1, 1e-5), source, head=head, crop=32, scale=48, iterations=80, validations=1)
    score = found.validations[-1].mmseg
    assert score[0] > 95 and score[1] < 90
    assert found.losses[0.1][-1] < 0.3 < 0.7 * math.log(CLASSES) < found.losses[1e-5][-1]


def test_fine_tuning_lowers_the_loss(vit, tmp_path):
    source = repeated(data_of({"train0": (48, 48)}, side=24))
    given = {"crop": 48, "scale": 48, "stride": 48, "optimiser": "adam", "iterations": 10, "validations": 1}
    found = train(vit, tmp_path, (3e-4,), source, head="segmenter", trained=True, **given)
    assert found.losses[3e-4][-1] < 0.9 * found.losses[3e-4][0]


@pytest.mark.slow
def test_a_fine_tuned_vit_learns_a_handful_of_images_by_heart(vit, tmp_path):
    source = repeated(data_of({f"train{n}": (96, 96) for n in range(2)}, side=48))
    given = {"crop": 96, "scale": 96, "stride": 96, "optimiser": "adam", "iterations": 60, "validations": 1, "eta_min": 0.1}
    found = train(vit, tmp_path, (3e-4,), source, head="segmenter", trained=True, **given)
    assert found.validations[-1].mmseg[0] > 95
    assert found.losses[3e-4][-1] < 0.5 < found.losses[3e-4][0]  # mask logits are normalised, so 0 is out of reach
