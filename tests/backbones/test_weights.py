"""Checkpoints in the layouts of the field, all made from one small ViT, and the digest of weights."""

from __future__ import annotations

import argparse

import pytest
import torch
from safetensors.torch import save_file
from small_vits import PLAIN, STUDENT, TEACHER, features, model, prefixed, written

from densebench.backbones.checkpoint import save_checkpoint
from densebench.backbones.loading import load_backbone
from densebench.backbones.weights import weights_digest
from densebench.errors import UserError

HEAD = {"head.mlp.0.weight": torch.zeros(3, 3), "head.last_layer.weight_v": torch.zeros(3, 3)}

DECODER = {"decoder_embed.weight": torch.zeros(2), "mask_token": torch.zeros(1, 1, 32), "decoder_pos_embed": torch.zeros(1, 3, 2)}

LAYOUTS = {
    "timm": TEACHER,
    "dino backbone": TEACHER,
    "dino full": {
        "student": prefixed({**STUDENT}, "module.backbone.") | prefixed(HEAD, "module."),
        "teacher": prefixed({**TEACHER}, "backbone.") | HEAD,
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}},
        "epoch": 3,
        "args": argparse.Namespace(arch="vit_small"),
    },
    "ibot": {"state_dict": prefixed(TEACHER, "module.") | {"module.head.mlp.0.weight": torch.zeros(1)}},
    "croc and cribo": {"student": prefixed(STUDENT, "module.encoder."), "teacher": prefixed(TEACHER, "module.encoder.")},
    "leopart and neco": {
        "state_dict": prefixed(STUDENT, "model.backbone.")
        | prefixed(TEACHER, "teacher.backbone.")
        | {"model.head.0.weight": torch.zeros(1)},
        "pytorch-lightning_version": "2.0",
    },
    "timet": prefixed(TEACHER, "feature_extractor.backbone.") | {"prototypes": torch.zeros(3, 3)},
    "mae": {"model": {**TEACHER, **DECODER}},
    "compiled": prefixed(TEACHER, "_orig_mod."),
}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "timm.safetensors"
    save_file(TEACHER, path)
    return {
        how: features(load_backbone(f"timm:{PLAIN}", weights=path, pos_embed=how)) for how in ("antialias", "plain", "offset")
    }


ORIGINS = {"timm": "offset", "mae": "plain"}


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_every_layout_gives_the_features_of_its_source(layout, tmp_path, expected):
    backbone = load_backbone(f"timm:{PLAIN}", weights=written(tmp_path, LAYOUTS[layout]))
    assert backbone.pos_embed == ORIGINS.get(layout, "offset")
    assert torch.equal(features(backbone), expected[backbone.pos_embed])


def test_features_are_those_of_the_model_itself(tmp_path):
    backbone = load_backbone(f"timm:{PLAIN}", weights=written(tmp_path, TEACHER))
    image = torch.randn(2, 3, 64, 64)  # the native grid: no table is resized
    with torch.inference_mode():
        tokens = model(seed=0).forward_features(image)[:, 1:]
        torch.testing.assert_close(backbone(image), tokens.transpose(1, 2).reshape(2, 32, 4, 4))


def test_the_role_chooses_the_branch(tmp_path):
    path = written(tmp_path, LAYOUTS["dino full"])
    teacher, student = (load_backbone(f"timm:{PLAIN}", weights=path, role=role) for role in ("teacher", "student"))
    assert teacher.digest == weights_digest(model(seed=0))
    assert student.digest == weights_digest(model(seed=1))
    path = written(tmp_path, LAYOUTS["leopart and neco"])
    assert load_backbone(f"timm:{PLAIN}", weights=path, role="student").digest == student.digest


def test_half_precision_is_cast(tmp_path, expected):
    half = {name: tensor.half() for name, tensor in TEACHER.items()}
    backbone = load_backbone(f"timm:{PLAIN}", weights=written(tmp_path, half), pos_embed="plain")
    assert features(backbone).dtype == torch.float32
    assert not torch.equal(features(backbone), expected["plain"])
    torch.testing.assert_close(features(backbone), expected["plain"], atol=0.05, rtol=0.05)


@pytest.mark.parametrize("averaged", ["state_dict_ema.", "model_ema.module.", "momentum_encoder.", "module.teacher_backbone."])
def test_averaged_weights_are_the_teacher(averaged, tmp_path):
    path = written(tmp_path, prefixed(STUDENT, "state_dict.") | prefixed(TEACHER, averaged))
    for role, seed in (("teacher", 0), ("student", 1)):
        assert load_backbone(f"timm:{PLAIN}", weights=path, role=role).digest == weights_digest(model(seed=seed))


@pytest.mark.parametrize("online", ["state_dict.module.encoder_q.", "model.module.encoder."])  # ReSim; PixPro and SoCo
def test_the_encoder_of_keys_is_the_teacher(online, tmp_path):
    key_encoder = online.removesuffix("_q.").removesuffix(".") + "_k."
    path = written(tmp_path, prefixed(STUDENT, online) | prefixed(TEACHER, key_encoder))
    for role, seed in (("teacher", 0), ("student", 1)):
        assert load_backbone(f"timm:{PLAIN}", weights=path, role=role).digest == weights_digest(model(seed=seed))


def test_averaged_weights_go_before_the_encoder_of_keys(tmp_path):
    averaged = prefixed(TEACHER, "model_ema.encoder.")
    path = written(
        tmp_path, averaged | prefixed(STUDENT, "model.encoder.") | prefixed(model(seed=2).state_dict(), "model.encoder_k.")
    )
    for role, seed in (("teacher", 0), ("student", 1)):
        assert load_backbone(f"timm:{PLAIN}", weights=path, role=role).digest == weights_digest(model(seed=seed))


def test_one_changed_bit_changes_the_digest(tmp_path):
    other = {name: tensor.clone() for name, tensor in TEACHER.items()}
    other["blocks.1.mlp.fc2.bias"][3] = torch.nextafter(other["blocks.1.mlp.fc2.bias"][3], torch.tensor(9.0))
    first, second = (
        load_backbone(f"timm:{PLAIN}", weights=written(tmp_path, one, name)) for one, name in ((TEACHER, "a"), (other, "b"))
    )
    assert first.digest != second.digest


def test_the_digest_covers_every_tensor_its_name_type_and_shape():
    def of(**tensors):
        module = torch.nn.Module()
        for name, tensor in tensors.items():
            module.register_buffer(name, tensor)
        return weights_digest(module)

    ones = torch.ones(2, 3)
    assert of(a=ones, b=ones) == of(b=ones, a=ones)
    others = [
        of(a=ones, b=ones * 2),
        of(a=ones * 2, b=ones),
        of(a=ones, c=ones),
        of(a=ones.view(3, 2), b=ones),
        of(a=ones.view(torch.int32), b=ones),
    ]
    assert len({of(a=ones, b=ones), *others}) == 6


def test_our_own_checkpoints(tmp_path):
    save_checkpoint(tmp_path / "run", model(), PLAIN, method="cribo", dataset="scenes", image_size=64, pos_embed="plain")
    backbone = load_backbone(f"ckpt:{tmp_path / 'run'}")
    assert backbone.digest == weights_digest(model())
    assert (backbone.pos_embed, backbone.info.origin) == ("plain", "cribo")
    with pytest.raises(UserError, match="is not a checkpoint"):
        load_backbone(f"ckpt:{tmp_path}")
