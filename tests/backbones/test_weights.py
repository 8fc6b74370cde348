"""Checkpoints in the layouts of the field, all made from one small ViT, and everything that can be wrong with them."""

from __future__ import annotations

import argparse

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from densebench.backbones.backbone import IMAGENET_MEAN, IMAGENET_STD
from densebench.backbones.checkpoint import save_checkpoint
from densebench.backbones.loading import load_backbone
from densebench.backbones.weights import read_weights, weights_digest
from densebench.errors import UserError
from densebench.torchvision_ops import make_importable

make_importable()
timm = pytest.importorskip("timm")

SIZES = {"embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 0}
IMAGE = torch.randn(1, 3, 48, 80, generator=torch.Generator().manual_seed(5))


def register(name, **arguments):
    """Make a small architecture known to timm under a name."""

    def entry(pretrained=False, **kwargs):
        kwargs.pop("pretrained_cfg", None)
        kwargs.pop("pretrained_cfg_overlay", None)
        kwargs.pop("cache_dir", None)
        return timm.models.vision_transformer._create_vision_transformer(
            "vit_tiny_patch16_224", pretrained=False, **{**SIZES, **arguments, **kwargs}
        )

    entry.__name__, entry.__module__ = name, __name__
    timm.models._registry._model_entrypoints.setdefault(name, entry)
    return name


PLAIN = register("densebench_test_vit", img_size=64, patch_size=16)
SCALED = register("densebench_test_dinov2", img_size=64, patch_size=16, init_values=0.1)
REGISTERS = register("densebench_test_reg", img_size=64, patch_size=16, init_values=0.1, reg_tokens=4, no_embed_class=True)
CLASSLESS = register("densebench_test_classless", img_size=64, patch_size=16, class_token=False, global_pool="avg")
GATED = register(
    "densebench_test_gated",
    img_size=64,
    patch_size=16,
    init_values=0.1,
    mlp_layer=timm.layers.SwiGLUPacked,
    act_layer=torch.nn.SiLU,
)


def model(name=PLAIN, seed=0, **more):
    torch.manual_seed(seed)
    made = timm.create_model(name, **more)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return made.eval()


def state(name=PLAIN, seed=0, **more):
    return {key: tensor.clone() for key, tensor in model(name, seed, **more).state_dict().items()}


def prefixed(tensors, prefix):
    return {prefix + name: tensor for name, tensor in tensors.items()}


HEAD = {"head.mlp.0.weight": torch.zeros(3, 3), "head.last_layer.weight_v": torch.zeros(3, 3)}
TEACHER, STUDENT = state(seed=0), state(seed=1)
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
    "mae": {"model": {**TEACHER, **DECODER}},
    "compiled": prefixed(TEACHER, "_orig_mod."),
}


def written(tmp_path, content, name="weights.pth"):
    path = tmp_path / name
    torch.save(content, path)
    return path


def features(backbone):
    with torch.inference_mode():
        return backbone(IMAGE)


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


def test_a_damaged_teacher_is_never_replaced_by_the_student(tmp_path):
    damaged = {name: tensor for name, tensor in TEACHER.items() if name != "norm.bias"}
    path = written(tmp_path, {"teacher": damaged, "student": STUDENT})
    with pytest.raises(UserError, match="lacks 1 of 30 tensors of the model: norm.bias"):
        load_backbone(f"timm:{PLAIN}", weights=path)
    assert load_backbone(f"timm:{PLAIN}", weights=path, role="student").digest == weights_digest(model(seed=1))


@pytest.mark.parametrize("averaged", ["state_dict_ema.", "model_ema.module.", "momentum_encoder.", "module.teacher_backbone."])
def test_averaged_weights_are_the_teacher(averaged, tmp_path):
    path = written(tmp_path, prefixed(STUDENT, "state_dict.") | prefixed(TEACHER, averaged))
    for role, seed in (("teacher", 0), ("student", 1)):
        assert load_backbone(f"timm:{PLAIN}", weights=path, role=role).digest == weights_digest(model(seed=seed))


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


def test_a_deeper_checkpoint_is_not_cut_short(tmp_path):
    with pytest.raises(UserError, match="has 2 blocks more than the model"):
        load_backbone(f"timm:{PLAIN}", weights=written(tmp_path, state(PLAIN, depth=4)))


def test_a_larger_table_is_kept_at_its_size(tmp_path):
    larger = state(PLAIN, img_size=96)
    backbone = load_backbone(f"timm:{PLAIN}", weights=written(tmp_path, larger))
    assert backbone.trunk.model.pos_embed.shape[1] == 37
    image = torch.randn(1, 3, 96, 96)
    with torch.inference_mode():
        tokens = model(PLAIN, img_size=96).forward_features(image)[:, 1:]
        torch.testing.assert_close(backbone(image), tokens.transpose(1, 2).reshape(1, 32, 6, 6))


def test_the_report_counts_keys(tmp_path, capsys):
    load_backbone(
        f"timm:{PLAIN}", weights=written(tmp_path, {**TEACHER, "head.weight": torch.zeros(1), "odd.key": torch.zeros(1)})
    )
    said = capsys.readouterr().err
    assert f"{len(TEACHER)} tensors loaded" in said
    assert "1 of heads dropped, 0 missing, 1 unexpected (odd.key)" in said


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


class Unsafe:
    def __reduce__(self):
        return print, ("code ran",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"fc.weight": torch.zeros(2)}, "does not match the model: it holds fc.weight, ...; the model wants cls_token"),
        ({}, "does not match the model: it holds no tensor"),
        ({k: v for k, v in TEACHER.items() if "blocks.1.attn" not in k}, "lacks 4 of .*blocks.1.attn.proj.bias"),
        ({**TEACHER, "norm.weight": torch.zeros(64)}, r"norm.weight is \[64\], the model's is \[32\]"),
        ({"encoder_q": TEACHER, "encoder_k": STUDENT}, "no single teacher among"),
        ([1, 2], "holds a list, not a state dict"),
        (Unsafe(), r"holds more than tensors.*\(print\).*safetensors"),
    ],
    ids=["nothing", "empty", "missing", "shape", "branches", "list", "unsafe"],
)
def test_wrong_files_are_errors_that_name_them(content, message, tmp_path, capsys):
    path = written(tmp_path, content)
    with pytest.raises(UserError, match=message) as caught:
        load_backbone(f"timm:{PLAIN}", weights=path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "content",
    [
        b"<!DOCTYPE html>",
        b"version https://git-lfs.github.com/spec/v1\n",
        b"",
        b"\0" * 100,
        b"PK\x03\x04",
        b"\x80\x02]q",
        b"X\x03\0\0\0\xff",
    ],
)
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_other_files_are_no_checkpoints(content, suffix, tmp_path):
    path = tmp_path / f"other.{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError, match="is not a whole checkpoint") as caught:
        read_weights(path, TEACHER.keys())
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore")
@settings(deadline=None, max_examples=100)
@given(content=st.binary(max_size=60), at=st.integers(0, 400), legacy=st.booleans(), whole=st.booleans())
def test_no_damage_is_a_traceback(content, at, legacy, whole, tmp_path_factory):
    path = tmp_path_factory.mktemp("damage") / "weights.pth"
    torch.save({"norm.weight": TEACHER["norm.weight"]}, path, _use_new_zipfile_serialization=not legacy)
    original = path.read_bytes() if whole else b""
    path.write_bytes(original[:at] + content + original[at + len(content) :])
    with pytest.raises(UserError):  # one tensor never matches the model, damaged or not
        read_weights(path, TEACHER.keys())


@pytest.mark.parametrize("name", ["cut.pth", "cut.safetensors"])
def test_a_truncated_file_is_told(name, tmp_path):
    path = tmp_path / name
    torch.save(TEACHER, path) if name.endswith("pth") else save_file(TEACHER, path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match="not a whole checkpoint"):
        read_weights(path, TEACHER.keys())
    with pytest.raises(UserError, match="there is no such file"):
        read_weights(tmp_path / "nowhere.pth", TEACHER.keys())


def test_a_role_that_does_not_exist(tmp_path):
    with pytest.raises(UserError, match="--role teachr"):
        load_backbone(f"timm:{PLAIN}", weights=written(tmp_path, TEACHER), role="teachr")


def test_our_own_checkpoints(tmp_path):
    save_checkpoint(tmp_path / "run", model(), PLAIN, method="cribo", dataset="scenes", image_size=64, pos_embed="plain")
    backbone = load_backbone(f"ckpt:{tmp_path / 'run'}")
    assert backbone.digest == weights_digest(model())
    assert (backbone.pos_embed, backbone.info.origin) == ("plain", "cribo")
    with pytest.raises(UserError, match="is not a checkpoint"):
        load_backbone(f"ckpt:{tmp_path}")


def test_real_weights_load_whole(shared_data, capsys):
    folder = shared_data / "weights"
    vit = load_backbone("timm:vit_small_patch14_dinov2", weights=folder / "vit_small_patch14_dinov2_imgfocus.fp16.safetensors")
    assert (vit.dim, vit.stride, vit.pos_embed) == (384, 14, "plain")
    assert "174 tensors loaded, 0 of heads dropped, 0 missing, 0 unexpected" in capsys.readouterr().err
    with torch.inference_mode():
        assert vit(torch.zeros(1, 3, 56, 84)).shape == (1, 384, 4, 6)
    net = load_backbone("timm:tf_efficientnet_lite0", weights=folder / "tf_efficientnet_lite0_in1k.fp16.safetensors", layer="3")
    assert (net.dim, net.stride, net.pos_embed) == (112, 16, "none")


def test_conventions_change_real_features_as_much_as_its_readme_says(shared_data):
    """At 224 px: cosine of single tokens down to about 0.97 between plain and antialiased, far closer with the offset."""
    path = shared_data / "weights" / "vit_small_patch14_dinov2_imgfocus.fp16.safetensors"
    photo = Image.open(next(iter(sorted((shared_data / "CamVid").rglob("*.png"))))).convert("RGB").resize((224, 224))
    pixels = (torch.from_numpy(np.array(photo)).float() / 255 - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
    with torch.inference_mode():
        plain, antialias, offset = (
            load_backbone("timm:vit_small_patch14_dinov2", weights=path, pos_embed=how)(pixels.permute(2, 0, 1)[None])
            for how in ("plain", "antialias", "offset")
        )
    assert 0.95 < torch.cosine_similarity(plain, antialias, dim=1).min() < 0.997
    assert torch.cosine_similarity(plain, offset, dim=1).min() > 0.998
