"""Images are normalised with the colours that the weights were trained with, unless others are given."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_runs import train
from small_vits import STUDENT, TEACHER, prefixed, register, written

import densebench
from densebench.backbones.backbone import IMAGENET_MEAN, IMAGENET_STD
from densebench.backbones.checkpoint import save_checkpoint
from densebench.backbones.loading import load_backbone
from densebench.backbones.timm_loading import trained_with
from densebench.backbones.timm_models import create, probe
from densebench.backbones.weights import Weights
from densebench.datasets import load_dataset
from densebench.errors import UserError
from densebench.features.extract import extract
from densebench.features.views import View
from densebench.training import loop

ARCH = "test_vit"  # timm names 0.5 for it, as for vit_small_patch16_224
HALF = (0.5, 0.5, 0.5)
OTHER = (0.1, 0.2, 0.3)
IMAGENET = (IMAGENET_MEAN, IMAGENET_STD)
SHAPE = register("densebench_test_half", img_size=64, patch_size=16)
"""An architecture for which timm names 0.5, too."""
HEAD = {"head.weight": torch.zeros(3, 32), "head.bias": torch.zeros(3)}


def colours(backbone):
    identity = backbone.identity()
    assert (backbone.mean, backbone.std) == (tuple(identity["mean"]), tuple(identity["std"]))
    return backbone.mean, backbone.std


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)

    def save(**facts):
        save_checkpoint(tmp_path / "run", create(ARCH, probe(ARCH)), ARCH, method="dino", **facts)
        return f"ckpt:{tmp_path / 'run'}"

    return save


def test_a_trained_checkpoint_sees_the_colours_that_its_training_saw(tmp_path, monkeypatch):
    seen, render = [], loop.render_views

    def noted(*arguments):
        seen.append(arguments[-2:])
        return render(*arguments)

    monkeypatch.setattr(loop, "render_views", noted)
    backbone = load_backbone(f"ckpt:{train('dino', tmp_path / 'run', steps=1)}")
    assert {colours(backbone)} == {*seen} == {IMAGENET}

    dataset, view = load_dataset("scenes"), View(16, 64)
    items = dataset.items("val")[:3]
    found = extract(backbone, dataset, items, view)
    pixels = torch.stack([view.image(dataset.image(item), item.name) for item in items])
    mean, std = (torch.tensor(values)[:, None, None] for values in IMAGENET)
    with torch.inference_mode():
        expected = backbone.trunk((pixels - mean) / std).permute(0, 2, 3, 1)
        others = backbone.trunk((pixels - 0.5) / 0.5).permute(0, 2, 3, 1)
    assert torch.allclose(torch.stack([found[item] for item in items]), expected, atol=1e-5)
    assert not torch.allclose(expected, others, atol=1e-2)


def test_a_checkpoint_of_an_earlier_version_was_trained_with_imagenets_colours(saved):
    assert colours(load_backbone(saved())) == IMAGENET


def test_a_checkpoint_says_its_colours(saved):
    assert colours(load_backbone(saved(mean=OTHER, std=HALF))) == (OTHER, HALF)


@pytest.mark.parametrize(
    "facts", [{"mean": [0.5]}, {"mean": HALF, "std": [0.5, 0.5, 0.0]}, {"mean": "0.5,0.5,0.5"}, {"std": [255.0] * 3}]
)
def test_a_checkpoint_with_colours_that_are_none_is_refused(saved, facts):
    with pytest.raises(UserError, match=r"checkpoint.json.*(mean|std)"):
        load_backbone(saved(**facts))


@pytest.mark.parametrize("given", [OTHER, "0.1,0.2,0.3"], ids=repr)
def test_given_colours_win_over_a_checkpoints(saved, given):
    assert colours(load_backbone(saved(), mean=given)) == (OTHER, IMAGENET_STD)
    assert colours(load_backbone(saved(), std=given)) == (IMAGENET_MEAN, OTHER)


def test_an_untrained_network_sees_the_colours_that_timm_names_or_that_are_given():
    assert colours(load_backbone(f"random:{ARCH}")) == (HALF, HALF)
    assert colours(load_backbone(f"random:{ARCH}", mean=OTHER)) == (OTHER, HALF)


@pytest.mark.parametrize(
    ("given", "message"),
    [({"mean": "0.5"}, "mean has 1"), ({"std": "a,b,c"}, "std .*three numbers"), ({"std": (1, 1, 0)}, "above 0")],
    ids=repr,
)
def test_wrong_colours_are_refused(given, message):
    with pytest.raises(UserError, match=message):
        load_backbone(f"random:{ARCH}", **given)
    with pytest.raises(UserError, match=message):
        densebench.evaluate(f"random:{ARCH}", "kmeans", "scenes", dry_run=True, **given)


FOREIGN = {
    "a release of DINO": TEACHER,
    "DINO in full": {"student": prefixed(STUDENT, "module.backbone."), "teacher": prefixed(TEACHER, "backbone.")},
    "CrIBo": {"student": prefixed(STUDENT, "module.encoder."), "teacher": prefixed(TEACHER, "module.encoder.")},
    "MAE": {"model": {**TEACHER, "mask_token": torch.zeros(1, 1, 32), "decoder_pos_embed": torch.zeros(1, 3, 2)}},
}


@pytest.mark.parametrize("layout", list(FOREIGN))
def test_weights_of_a_known_project_see_imagenets_colours(layout, tmp_path, capsys):
    path = written(tmp_path, FOREIGN[layout])
    assert colours(load_backbone(f"timm:{SHAPE}", weights=path)) == IMAGENET
    [line] = [line for line in capsys.readouterr().err.splitlines() if "colour" in line]
    assert "weights.pth" in line
    assert "ImageNet" in line
    assert "--mean 0.5,0.5,0.5 --std 0.5,0.5,0.5" in line


def test_given_colours_win_over_a_projects_without_a_word(tmp_path, capsys):
    path = written(tmp_path, TEACHER)
    assert colours(load_backbone(f"timm:{SHAPE}", weights=path, mean=HALF, std=HALF)) == (HALF, HALF)
    assert "colour" not in capsys.readouterr().err
    assert colours(load_backbone(f"timm:{SHAPE}", weights=path, mean=OTHER)) == (OTHER, IMAGENET_STD)


def test_a_tag_of_timm_chooses_its_colours(tmp_path, capsys):
    file = written(tmp_path, load_backbone(f"random:{ARCH}").trunk.model.state_dict())
    assert colours(load_backbone(f"timm:{ARCH}.r160_in1k", weights=file)) == (HALF, HALF)
    assert "colour" not in capsys.readouterr().err


def test_weights_of_timm_see_the_colours_that_timm_names(tmp_path, capsys):
    assert colours(load_backbone(f"timm:{SHAPE}", weights=written(tmp_path, {**TEACHER, **HEAD}))) == (HALF, HALF)
    assert "colour" not in capsys.readouterr().err


def test_weights_of_an_unknown_training_are_read_with_a_word(tmp_path, capsys):
    path = written(tmp_path, {"model": {**TEACHER, **HEAD}})
    assert colours(load_backbone(f"timm:{SHAPE}", weights=path)) == (HALF, HALF)
    assert "add --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["vit_small_patch14_dinov2", "vit_base_patch16_clip_224", "vit_base_patch16_224_miil"])
def test_an_architecture_of_another_project_keeps_its_own_colours(name):
    like, headless = probe(name), Weights({}, "", "dino", (), Path("weights.pth"))
    assert trained_with(name, like, headless) == (like.pretrained_cfg["mean"], like.pretrained_cfg["std"])


def test_a_record_names_the_colours_that_were_used(saved, tmp_path):
    spec = saved()
    ask = {"image_size": 32, "limit": 4, "results": tmp_path / "results"}
    records = [densebench.evaluate(spec, "kmeans", "scenes", **ask, **given).records[0] for given in ({}, {"mean": HALF})]
    first, second = records
    assert (first["backbone"]["mean"], second["backbone"]["mean"]) == (list(IMAGENET_MEAN), list(HALF))
    assert first["id"] != second["id"]
