"""FLSL's encoder and its second stage."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from flsl_reference import CONTEXT, SIZE, SMALL, TEMP, build_all, restated, seen
from safetensors.torch import load_file

from densebench.backbones.loading import load_backbone
from densebench.backbones.position import resize_position_embedding
from densebench.errors import UserError
from densebench.files.states import saved_states
from densebench.pretrain.flsl.mean_shift import sharpened
from densebench.pretrain.flsl.method import FLSL
from densebench.training.networks import Network, create_encoder, sincos_positions
from densebench.training.run import train


@pytest.fixture(scope="module")
def first_stage(tmp_path_factory):
    small = {name: value for name, value in SMALL.items() if name != "batch_size"}
    given = {**small, "batch_size": 4, "limit": 8, "device": "cpu", "log_every": 1, "drop_path": 0.0, "warmup_epochs": 0}
    run = train("flsl", data=["scenes"], output=tmp_path_factory.mktemp("flsl") / "first", steps=2, **given)
    return given, run


def test_the_encoder_has_no_class_token_and_its_positions_stay(first_stage):
    run = first_stage[1]
    saved = load_file(run / "backbone.safetensors")
    assert "cls_token" not in saved
    assert torch.equal(saved["pos_embed"], sincos_positions(64, (4, 4)))
    state = load_file(saved_states(run)[-1])
    assert torch.equal(state["student/encoder.model.pos_embed"], saved["pos_embed"])
    backbone = load_backbone(f"ckpt:{run}")
    assert backbone(torch.zeros(2, 3, 64, 48)).shape == (2, 64, 4, 3)


def test_the_saved_backbone_gives_the_teachers_tokens(first_stage):
    run = first_stage[1]
    teacher = FLSL(**SMALL).encoder()
    prefix = "teacher/encoder."
    state = load_file(saved_states(run)[-1])
    teacher.load_state_dict({name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)})
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = load_backbone(f"ckpt:{run}")(pixels).flatten(2).transpose(1, 2)
    torch.testing.assert_close(found, teacher.eval()(pixels).patches, rtol=1e-4, atol=1e-4)


def test_the_second_stage_follows_the_first_ones_attention(first_stage):
    chosen, objective, student, teacher = build_all(previous=f"ckpt:{first_stage[1]}", previous_attention=3.0)
    views = seen(chosen)
    assert len(views.pixels) == 8
    previous = FLSL(**SMALL).encoder()
    previous.model.load_state_dict(load_file(first_stage[1] / "backbone.safetensors"))
    previous.eval()

    def features(pixels):
        patches = previous.model.patch_embed(pixels).flatten(1, -2)
        side = pixels.shape[2] // 16
        x = patches + resize_position_embedding(sincos_positions(64, (4, 4)), 0, (side, side), "offset")
        for block in previous.model.blocks[:-1]:
            x = block(x)
        return x

    told, seen_by = features(views.pixels[4]), [features(views.pixels[4 + crop]) for crop in range(4)]

    def guide(crop, image, place):
        weights = torch.softmax(3.0 / math.sqrt(384) * (told[image] @ seen_by[crop][image, place]), dim=0)
        return sharpened(weights[None, None], 1e4)[0, 0].detach()

    loss = objective(student, teacher, views, CONTEXT)
    _, p, logits = restated(chosen, student, teacher, views, guide)
    inter = -(torch.softmax(logits / TEMP, dim=1) * p.log()).sum(dim=1).mean()
    torch.testing.assert_close(loss.terms["inter"], inter.detach(), rtol=1e-3, atol=1e-4)
    assert not any("previous" in name for name in objective.state_dict())


def test_a_second_stage_runs_and_its_share_falls(first_stage, tmp_path):
    from densebench.files.logs import read_log

    given, first = first_stage
    more = {"previous": f"ckpt:{first}", "previous_share": 0.2}
    run = train("flsl", data=["scenes"], output=tmp_path / "second", steps=4, **given, **more)
    shares = [float(row["previous_share"]) for row in read_log(run / "log.csv")]
    assert shares[0] == 1
    assert shares == sorted(shares, reverse=True)
    assert 0.2 < shares[-1] < 0.4


def test_going_on_from_a_first_stage_keeps_its_positions_fixed(first_stage, tmp_path):
    given, first = first_stage
    more = {name: value for name, value in given.items() if name != "arch"}
    run = train("flsl", data=["scenes"], output=tmp_path / "second", steps=2, init=f"ckpt:{first}", **{**more, "lr": 0.1})
    assert torch.equal(load_file(run / "backbone.safetensors")["pos_embed"], sincos_positions(64, (4, 4)))
    facts = load_backbone(f"ckpt:{run}")
    assert facts(torch.zeros(1, 3, 64, 64)).shape == (1, 64, 4, 4)


def test_methods_that_need_a_class_token_refuse_a_backbone_without(first_stage, tmp_path):
    with pytest.raises(UserError, match="is no plain ViT with a class token"):
        train("dino", data=["scenes"], limit=8, batch_size=4, init=f"ckpt:{first_stage[1]}", output=tmp_path / "run", steps=1)


def test_a_vit_with_a_class_token_can_be_trained_on():
    chosen = FLSL(**SMALL)
    student = Network(create_encoder("test_vit", SIZE, 0.0), chosen.head(64))
    loss = chosen.objective(student.encoder)(student, copy.deepcopy(student), seen(chosen), CONTEXT)
    assert loss.total.isfinite()
