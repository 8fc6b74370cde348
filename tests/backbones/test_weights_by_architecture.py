"""Checkpoints of DINOv2, FLSL, registers, SwiGLU and others: their keys become those of timm's model."""

from __future__ import annotations

import pytest
import torch
from small_vits import CLASSLESS, GATED, PLAIN, REGISTERS, SCALED, features, model, prefixed, state, timm, written

from densebench.backbones.loading import load_backbone
from densebench.backbones.weights import read_weights, weights_digest
from densebench.errors import UserError


def test_dinov2_with_and_without_registers_and_in_chunks(tmp_path):
    source = state(SCALED)
    chunked = {name.replace("blocks.", "blocks.0."): tensor for name, tensor in source.items()}
    released = written(tmp_path, {**chunked, "mask_token": torch.zeros(1, 32)})
    exported = written(tmp_path, source, "exported.pth")
    first, second = (load_backbone(f"timm:{SCALED}", weights=path) for path in (released, exported))
    assert (first.pos_embed, second.pos_embed) == ("offset", "plain")
    assert first.digest == second.digest == weights_digest(model(SCALED))


def test_registers_fold_the_position_of_the_class_token(tmp_path):
    own = state(REGISTERS)
    official = {**own, "register_tokens": own["reg_token"], "mask_token": torch.zeros(1, 32)}
    del official["reg_token"]
    position = torch.randn(1, 1, 32)
    official["cls_token"] = own["cls_token"] - position
    official["pos_embed"] = torch.cat([position, own["pos_embed"]], dim=1)
    path = written(tmp_path, official)
    backbone = load_backbone(f"timm:{REGISTERS}", weights=path)
    assert backbone.pos_embed == "antialias"
    direct = load_backbone(f"timm:{REGISTERS}", weights=written(tmp_path, own, "timm.pth"), pos_embed="antialias")
    torch.testing.assert_close(features(backbone), features(direct))


def test_flsl_has_no_class_token(tmp_path):
    source = state(PLAIN, class_token=False, global_pool="")
    assert source["pos_embed"].shape[1] == 16
    backbone = load_backbone(f"timm:{PLAIN}", weights=written(tmp_path, {"teacher": prefixed(source, "module.backbone.")}))
    assert backbone.info.origin == "flsl"
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        tokens = model(PLAIN, class_token=False, global_pool="").forward_features(image)
        torch.testing.assert_close(backbone(image), tokens.transpose(1, 2).reshape(1, 32, 4, 4))


def test_flsl_as_its_code_saves_it_with_an_idle_class_token(tmp_path):
    source = state(PLAIN, class_token=False, global_pool="")
    saved = {**source, "cls_token": torch.zeros(1, 1, 32)}
    path = written(tmp_path, {"student": prefixed(saved, "module.backbone."), "teacher": prefixed(saved, "backbone.")})
    backbone = load_backbone(f"timm:{PLAIN}", weights=path)
    assert (backbone.info.origin, backbone.pos_embed) == ("flsl", "offset")
    bare = load_backbone(f"timm:{PLAIN}", weights=written(tmp_path, source, "bare.pth"))
    assert backbone.digest == bare.digest
    assert torch.equal(features(backbone), features(bare))


def test_registers_are_folded_as_timm_folds_them(tmp_path):
    own = state(REGISTERS)
    official = {**own, "register_tokens": own["reg_token"], "mask_token": torch.zeros(1, 32), "pos_embed": torch.randn(1, 17, 32)}
    del official["reg_token"]
    path = written(tmp_path, official)
    same = model(REGISTERS, seed=1)
    same.load_state_dict(timm.models.vision_transformer.checkpoint_filter_fn(dict(official), same))
    assert load_backbone(f"timm:{REGISTERS}", weights=path).digest == weights_digest(same)


HEAD_OF_CLASSES = {"head.weight": torch.zeros(10, 32), "head.bias": torch.zeros(10)}


@pytest.mark.parametrize(
    ("name", "extra", "origin", "convention"),
    [
        (REGISTERS, {}, "dinov2-reg", "antialias"),  # timm's own file has no mask token any more
        (SCALED, {}, "dinov2-exported", "plain"),
        (SCALED, HEAD_OF_CLASSES, "timm", "antialias"),  # DeiT III has layer scale too
        (PLAIN, HEAD_OF_CLASSES, "timm", "antialias"),
        (PLAIN, {"masked_embed": torch.zeros(1, 32)}, "dino", "offset"),  # iBOT
    ],
)
def test_origins_by_keys(name, extra, origin, convention, tmp_path):
    backbone = load_backbone(f"timm:{name}", weights=written(tmp_path, {**state(name), **extra}))
    assert (backbone.info.origin, backbone.pos_embed) == (origin, convention)


def test_a_model_without_class_token_is_not_taken_for_flsl(tmp_path):
    source = state(PLAIN, class_token=False, global_pool="")
    weights = read_weights(written(tmp_path, source), source.keys())
    assert weights.origin == "timm"
    assert weights.tensors.keys() == source.keys()


def test_a_model_without_class_token_loads(tmp_path):
    backbone = load_backbone(f"timm:{CLASSLESS}", weights=written(tmp_path, state(CLASSLESS)))
    assert backbone.digest == weights_digest(model(CLASSLESS))
    assert features(backbone).shape == (1, 32, 3, 5)


def test_swiglu_of_dinov2_is_timms(tmp_path):
    own = state(GATED)
    official = {name.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3"): tensor for name, tensor in own.items()}
    assert any("w12" in name for name in official)
    path = written(tmp_path, {**official, "mask_token": torch.zeros(1, 32)})
    assert load_backbone(f"timm:{GATED}", weights=path).digest == weights_digest(model(GATED))


def test_batch_norm_counters_may_be_missing(tmp_path):
    torch.manual_seed(0)
    net = timm.create_model("resnet10t", num_classes=0)
    old = {name: tensor for name, tensor in net.state_dict().items() if "num_batches_tracked" not in name}
    assert len(old) < len(net.state_dict())
    assert load_backbone("timm:resnet10t", weights=written(tmp_path, old)).digest == weights_digest(net)
    del old["bn1.running_mean"]
    with pytest.raises(UserError, match="lacks 1 of .*bn1.running_mean"):
        load_backbone("timm:resnet10t", weights=written(tmp_path, old))


def test_a_larger_table_is_kept_at_its_size(tmp_path):
    larger = state(PLAIN, img_size=96)
    backbone = load_backbone(f"timm:{PLAIN}", weights=written(tmp_path, larger))
    assert backbone.trunk.model.pos_embed.shape[1] == 37
    image = torch.randn(1, 3, 96, 96)
    with torch.inference_mode():
        tokens = model(PLAIN, img_size=96).forward_features(image)[:, 1:]
        torch.testing.assert_close(backbone(image), tokens.transpose(1, 2).reshape(1, 32, 6, 6))
