"""Backbones of every family and source: shapes, geometry, layers, sizes, seeds."""

from __future__ import annotations

import subprocess
import sys
import types

import pytest
import torch

from densebench.backbones.checkpoint import newest_checkpoint, save_checkpoint
from densebench.backbones.loading import load_backbone
from densebench.backbones.sources import sources
from densebench.errors import UserError

FAMILIES = {
    "vit_tiny_patch16_224": (192, 16, "antialias"),
    "vit_small_patch14_reg4_dinov2": (384, 14, "antialias"),
    "eva02_tiny_patch14_224": (192, 14, "antialias"),
    "vit_small_patch16_dinov3": (384, 16, "none"),
    "swin_tiny_patch4_window7_224": (768, 32, "none"),
    "convnext_atto": (320, 32, "none"),
    "resnet10t": (512, 32, "none"),
    "tf_efficientnet_lite0": (320, 32, "none"),
}


def images(height, width, count=1, seed=0):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def vit():
    return load_backbone("random:vit_tiny_patch16_224")


@pytest.mark.parametrize("name", list(FAMILIES))
def test_families_give_a_grid_in_the_images_own_geometry(name):
    backbone = load_backbone(f"random:{name}")
    dim, stride, pos_embed = FAMILIES[name]
    assert (backbone.dim, backbone.stride, backbone.pos_embed) == (dim, stride, pos_embed)
    assert not backbone.training
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    height, width = 6 * stride, 9 * stride
    pair = images(height, width, 2)
    with torch.inference_mode():
        grid = backbone(pair)
        assert grid.shape == (2, dim, 6, 9)
        assert torch.isfinite(grid).all()
        torch.testing.assert_close(backbone(pair[:1]), grid[:1], atol=2e-4, rtol=2e-3)  # no image sees its batch-mates
        changed = pair[:1].clone()
        changed[:, :, :stride, -stride:] += 3  # the patch at the top right
        moved = (backbone(changed) - grid[:1]).norm(dim=1)[0]
    row, column = divmod(int(moved.argmax()), 9)  # borders may push the greatest change one cell inwards
    assert row <= 1
    assert column >= 7


def test_identity_is_json_and_tells_seeds_apart(vit):
    again, other = load_backbone("random:vit_tiny_patch16_224"), load_backbone("random:vit_tiny_patch16_224", seed=1)
    assert vit.identity() == again.identity()
    assert vit.digest != other.digest
    assert {"spec", "arch", "dim", "stride", "params", "digest", "layer", "pos_embed"} <= set(vit.identity())
    assert {"kind", "mean", "std", "code"} <= set(vit.identity())
    assert vit.params == 5_524_416


def test_random_weights_leave_the_global_generator_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    load_backbone("random:vit_tiny_patch16_224")
    assert torch.equal(torch.rand(3), expected)


def test_conventions_change_features_at_another_grid_only():
    found = {how: load_backbone("random:vit_tiny_patch16_224", pos_embed=how) for how in ("antialias", "plain", "offset")}
    with torch.inference_mode():
        native = [backbone(images(224, 224)) for backbone in found.values()]
        other = [backbone(images(96, 144)) for backbone in found.values()]
    assert all(torch.equal(grid, native[0]) for grid in native)
    assert not torch.allclose(other[0], other[1], atol=1e-5)
    assert not torch.allclose(other[1], other[2], atol=1e-6)


def test_antialias_is_what_timm_does_by_itself(vit):
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model("vit_tiny_patch16_224", num_classes=0, dynamic_img_size=True).eval()
    image = images(96, 144)
    with torch.inference_mode():
        tokens = model.forward_features(image)[:, 1:]
        torch.testing.assert_close(vit(image), tokens.transpose(1, 2).reshape(1, 192, 6, 9))


def test_layers_are_concatenated_in_the_order_asked_for(vit):
    single = {layer: load_backbone("random:vit_tiny_patch16_224", layer=layer) for layer in ("2", "9", "11", "9,2")}
    image = images(64, 96)
    with torch.inference_mode():
        grids = {layer: backbone(image) for layer, backbone in single.items()}
        assert torch.equal(grids["11"], vit(image))
        assert torch.equal(grids["9,2"], torch.cat([grids["9"], grids["2"]], dim=1))
    assert single["9,2"].dim == 384


@pytest.mark.parametrize(("layer", "part"), [("query", 0), ("key", 1), ("value", 2)])
def test_projections_equal_a_recomputation(vit, layer, part):
    backbone = load_backbone("random:vit_tiny_patch16_224", layer=layer)
    image = images(224, 224)
    model = backbone.trunk.model
    with torch.inference_mode():
        tokens = model._pos_embed(model.patch_embed(image))
        for block in model.blocks[:-1]:
            tokens = block(tokens)
        last = model.blocks[-1]
        projected = torch.nn.functional.linear(last.norm1(tokens), last.attn.qkv.weight, last.attn.qkv.bias)
        expected = projected[:, 1:, 192 * part : 192 * (part + 1)].transpose(1, 2).reshape(1, 192, 14, 14)
        torch.testing.assert_close(backbone(image), expected)


def test_stages_of_convolutional_nets():
    backbone = load_backbone("random:tf_efficientnet_lite0", layer="3")
    assert (backbone.dim, backbone.stride) == (112, 16)
    with pytest.raises(UserError, match="stages of different strides cannot be concatenated"):
        load_backbone("random:tf_efficientnet_lite0", layer="2,3")


def test_sizes_that_do_not_fit_name_the_nearest_two(vit):
    with pytest.raises(UserError, match="100 px does not fit random:vit_tiny_patch16_224, whose stride is 16: use 96 or 112"):
        vit.check_size(224, 100)
    with pytest.raises(UserError, match="5 px .* use 16"):
        vit(images(5, 16))


def test_pixels_are_the_pixels():
    backbone = load_backbone("pixels:4")
    image = images(8, 12)
    grid = backbone(image)
    assert grid.shape == (1, 48, 2, 3)
    patch = image[0, :, 4:8, 8:12]
    assert torch.equal(grid[0, :, 1, 2].sort().values, patch.flatten().sort().values)


@pytest.mark.parametrize(
    ("spec", "more", "message"),
    [
        ("random:vit_tny_patch16_224", {}, "did you mean 'vit_tiny_patch16_224'"),
        ("tim:vit_tiny_patch16_224", {}, "unknown backbone .*timm:NAME"),
        ("vit_tiny_patch16_224", {}, "unknown backbone"),
        ("pixels:x", {}, "pixels:16"),
        ("hub:here", {}, "REPO:ENTRY"),
        ("./nowhere.py", {}, "there is no file ./nowhere.py"),
        ("random:vit_tiny_patch16_224", {"layer": "12"}, "numbered 0 to 11"),
        ("random:vit_tiny_patch16_224", {"layer": "lst"}, "--layer lst"),
        ("random:resnet10t", {"layer": "key"}, "no joint query-key-value"),
        ("pixels:16", {"layer": "3"}, "--layer 3"),
        ("random:vit_tiny_patch16_224", {"pos_embed": "plane"}, "did you mean 'plain'"),
        ("random:vit_tiny_patch16_224", {"weights": "x.pth"}, "--weights x.pth goes with"),
    ],
)
def test_errors(spec, more, message):
    with pytest.raises(UserError, match=message):
        load_backbone(spec, **more)


def test_weights_that_cannot_be_fetched_name_the_remedy(monkeypatch):
    import timm

    plain = timm.create_model

    def offline(name, pretrained=False, **more):
        if pretrained:
            raise OSError("no route to host")
        return plain(name, pretrained=False, **more)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(UserError, match="no route to host.*--weights FILE"):
        load_backbone("timm:vit_tiny_patch16_224")


FILE = """
import torch

class Mean(torch.nn.Module):
    mean, std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    def forward(self, images):
        return torch.nn.functional.avg_pool2d(images, 8)

def load():
    return Mean()
"""


def test_a_file_is_a_backbone(tmp_path):
    path = tmp_path / "mean.py"
    path.write_text(FILE)
    backbone = load_backbone(str(path))
    assert (backbone.dim, backbone.stride, backbone.mean) == (3, 8, (0.5, 0.5, 0.5))
    image = images(16, 24)
    torch.testing.assert_close(backbone(image)[0, :, 1, 2], image[0, :, 8:, 16:].mean((1, 2)))
    path.write_text(FILE.replace("avg_pool2d", "max_pool2d"))
    assert load_backbone(str(path)).identity()["code"] != backbone.identity()["code"]
    path.write_text("load = 1")
    with pytest.raises(UserError, match="no function load"):
        load_backbone(str(path))
    path.write_text("1 / 0")
    with pytest.raises(UserError, match="ZeroDivisionError"):
        load_backbone(str(path))


HUB = """
import torch

class Dino(torch.nn.Module):
    patch_size = 8
    def get_intermediate_layers(self, images, n=1):
        patches = torch.nn.functional.avg_pool2d(images, 8).flatten(2).transpose(1, 2)
        return [torch.cat([torch.full_like(patches[:, :1], 9.0), patches], dim=1)]

def entry(**kwargs):
    return Dino()
"""


def test_a_local_hub_repository(tmp_path):
    (tmp_path / "hubconf.py").write_text(HUB)
    backbone = load_backbone(f"hub:{tmp_path}:entry")
    image = images(16, 24)
    torch.testing.assert_close(backbone(image), torch.nn.functional.avg_pool2d(image, 8))
    with pytest.raises(UserError, match="cannot be loaded"):
        load_backbone(f"hub:{tmp_path}:entri")


def test_transformers_models(monkeypatch, tmp_path):
    class Model(torch.nn.Module):
        config = types.SimpleNamespace(patch_size=8, _commit_hash="0123abcd")

        def forward(self, pixel_values, interpolate_pos_encoding=False):
            assert interpolate_pos_encoding
            patches = torch.nn.functional.avg_pool2d(pixel_values, 8).flatten(2).transpose(1, 2)
            prefix = torch.full((len(patches), 5, 3), 9.0)  # class and four registers
            return types.SimpleNamespace(last_hidden_state=torch.cat([prefix, patches], dim=1))

    fake = types.ModuleType("transformers")
    fake.AutoModel = types.SimpleNamespace(from_pretrained=lambda name: Model())
    statistics = types.SimpleNamespace(image_mean=[0.1, 0.2, 0.3], image_std=[1, 2, 3])
    fake.AutoImageProcessor = types.SimpleNamespace(from_pretrained=lambda name: statistics)
    monkeypatch.setitem(sys.modules, "transformers", fake)
    backbone = load_backbone("hf:some/model")
    assert (backbone.dim, backbone.stride, backbone.mean) == (3, 8, (0.1, 0.2, 0.3))
    assert (backbone.identity()["kind"], backbone.identity()["code"]) == ("hf", "0123abcd")
    image = images(16, 24)
    torch.testing.assert_close(backbone(image), torch.nn.functional.avg_pool2d(image, 8))
    (tmp_path / "config.json").write_text("{}")
    before = load_backbone(f"hf:{tmp_path}").identity()["code"]
    (tmp_path / "config.json").write_text("{ }")
    assert load_backbone(f"hf:{tmp_path}").identity()["code"] != before
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"pip install 'densebench\[hf\]'"):
        load_backbone("hf:some/model")


def test_the_newest_checkpoint(tmp_path, vit):
    import os

    assert newest_checkpoint(tmp_path / "nowhere") is None
    for age, name in enumerate(("b", "a")):
        save_checkpoint(tmp_path / name / "last", vit.trunk.model, "vit_tiny_patch16_224", dataset="scenes")
        os.utime(tmp_path / name / "last" / "checkpoint.json", (age, age))
    assert newest_checkpoint(tmp_path) == tmp_path / "a" / "last"
    assert load_backbone(f"ckpt:{tmp_path / 'a' / 'last'}").digest == vit.digest


def test_listing_sources_imports_nothing_heavy():
    code = "import sys; from densebench.backbones.sources import sources; print(len(sources()), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(len(sources())), "False"]


@pytest.mark.parametrize(
    "statistics",
    ["(0.5, 0.25, 0.125)", "np.array([0.5, 0.25, 0.125], np.float32)", "torch.tensor([0.5, 0.25, 0.125]).view(1, 3, 1, 1)"],
)
def test_statistics_of_a_file_may_be_arrays(tmp_path, statistics):
    (tmp_path / "mine.py").write_text(f"""
import numpy as np
import torch

class Mine(torch.nn.Module):
    mean = std = {statistics}

    def forward(self, images):
        return images[:, :, ::8, ::8]

def load():
    return Mine()
""")
    identity = load_backbone(str(tmp_path / "mine.py")).identity()
    assert identity["mean"] == identity["std"] == [0.5, 0.25, 0.125]
    assert all(type(value) is float for value in identity["mean"])
