"""Sources of backbones: hub, transformers, files, plug-ins, checkpoints, pixels, and what a spec may not be."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from densebench.backbones.checkpoint import newest_checkpoint, save_checkpoint
from densebench.backbones.loading import load_backbone
from densebench.backbones.sources import sources
from densebench.errors import UserError


def images(height, width, count=1, seed=0):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


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
        ("random:vit_tiny_patch16_224", {"weights": Path("x.pth")}, "--weights x.pth goes with"),
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
    statistics = types.SimpleNamespace(image_mean=[0.1, 0.2, 0.3], image_std=[1.0, 2.0, 3.0])
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


def test_a_timm_vit_that_a_file_returns_is_read_as_its_spec_is(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import timm, torch\n\ndef load():\n    torch.manual_seed(0)\n    return timm.create_model('test_vit')\n"
    )
    backbone = load_backbone(str(tmp_path / "mine.py"))
    torch.manual_seed(0)
    same = load_backbone(importlib.import_module("timm").create_model("test_vit"))
    image = images(96, 128)  # another size than the one that the model is made for
    torch.testing.assert_close(backbone(image), same(image), rtol=0, atol=0)
    assert (backbone.identity()["kind"], backbone.digest) == ("file", same.digest)


def test_the_newest_checkpoint(tmp_path):
    vit = load_backbone("random:test_vit")
    assert newest_checkpoint(tmp_path / "nowhere") is None
    for age, name in enumerate(("b", "a")):
        save_checkpoint(tmp_path / name / "last", vit.trunk.model, "test_vit", dataset="scenes")
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


PLUGIN = """
import torch

class Mean(torch.nn.Module):
    stride = 8

    def __init__(self, power):
        super().__init__()
        self.power = power

    def forward(self, images):
        return torch.nn.functional.avg_pool2d(images, 8) ** self.power

def plain(name):
    return Mean(int(name))

def layered(name, layer="last"):
    return Mean(9 if layer == "last" else int(layer))

def wrong(name):
    return name

def broken(name):
    return 1 / 0
"""
NAMES = ("plain", "layered", "wrong", "broken")
POINTS = "[densebench.backbones]\n" + "".join(f"{name} = models_of_a_plugin:{name}\n" for name in NAMES)


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    (tmp_path / "models_of_a_plugin.py").write_text(PLUGIN)
    (tmp_path / "plugin.dist-info").mkdir()
    (tmp_path / "plugin.dist-info" / "METADATA").write_text("Name: plugin\nVersion: 1.0\n")
    (tmp_path / "plugin.dist-info" / "entry_points.txt").write_text(POINTS)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield
    sys.modules.pop("models_of_a_plugin", None)


def test_a_plugin_may_return_a_module(plugin):
    backbone, image = load_backbone("plain:2"), images(16, 24)
    assert (backbone.spec, backbone.dim, backbone.stride, backbone.info.kind) == ("plain:2", 3, 8, "plugin:plain")
    torch.testing.assert_close(backbone(image), torch.nn.functional.avg_pool2d(image, 8) ** 2)


def test_a_plugin_that_names_layer_is_given_the_layer(plugin):
    image = images(16, 24)
    pooled = torch.nn.functional.avg_pool2d(image, 8)
    torch.testing.assert_close(load_backbone("layered:x", layer="3")(image), pooled**3)
    torch.testing.assert_close(load_backbone("layered:x")(image), pooled**9)


@pytest.mark.parametrize(
    ("spec", "more", "message"),
    [
        ("plain:2", {"layer": "3"}, "--layer 3 goes with"),
        ("plain:2", {"weights": Path("x.pth")}, "--weights x.pth goes with"),
        ("wrong:2", {}, "wrong:2 returns a str; it must return a torch.nn.Module"),
        ("broken:2", {}, "fails when it is loaded: ZeroDivisionError"),
    ],
)
def test_a_plugin_that_cannot_do_what_is_requested_is_one_line(plugin, spec, more, message):
    with pytest.raises(UserError, match=message):
        load_backbone(spec, **more)
