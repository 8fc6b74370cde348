"""Patch features are recognised in models of many kinds, and are those that a hand would take."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F
from recognised_models import KINDS, Around, Convolution, Dino, as_grid, of_timm, of_transformers
from torch import nn

from densebench.backbones.backbone import IMAGENET_MEAN, IMAGENET_STD
from densebench.backbones.loading import load_backbone
from densebench.backbones.recognising import adapt
from densebench.errors import UserError


def images(height, width, count=2):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(7))


def made(make, seed=0):
    torch.manual_seed(seed)
    return make()


@pytest.mark.parametrize("kind", KINDS)
def test_patch_features_are_recognised_and_are_those_that_a_hand_takes(kind, capsys):
    make, dim, stride, said, by_hand = KINDS[kind]
    model = made(make)
    backbone = adapt(model)
    assert (backbone.dim, backbone.stride) == (dim, stride)
    assert said in backbone.identity()["recognised"]
    assert backbone.identity()["recognised"] in capsys.readouterr().err
    own_size = "px only" in backbone.identity()["recognised"]
    image = images(64, 64) if own_size else images(2 * 32, 3 * 32)
    if by_hand is not None:
        with torch.no_grad():
            torch.testing.assert_close(backbone(image), by_hand(model.eval(), image))


@pytest.mark.parametrize(
    ("kind", "more", "stride", "before"),
    [
        ("Dinov2", {"image_size": 28, "patch_size": 14}, 14, 1),
        ("ViT", {"image_size": 32, "patch_size": 16}, 16, 1),
        ("Dinov2WithRegisters", {"image_size": 28, "patch_size": 14, "num_register_tokens": 3}, 14, 4),
    ],
)
def test_models_of_transformers(kind, more, stride, before):
    pytest.importorskip("transformers")
    model = made(of_transformers(kind, **more))
    backbone, image = adapt(model), images(4 * stride, 2 * stride)
    accepts = {"interpolate_pos_encoding": True} if kind == "ViT" else {}
    with torch.no_grad():
        tokens = model.eval()(pixel_values=image, **accepts).last_hidden_state
    torch.testing.assert_close(backbone(image), as_grid(tokens, image, stride, before))


def test_a_swin_of_transformers_merges_its_patches():
    pytest.importorskip("transformers")
    sizes = {"embed_dim": 12, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4, "image_size": 64, "patch_size": 4}
    model = made(of_transformers("Swin", **sizes))
    backbone, image = adapt(model), images(64, 32)
    assert (backbone.dim, backbone.stride) == (24, 8)
    with torch.no_grad():
        tokens = model.eval()(pixel_values=image, interpolate_pos_encoding=True).last_hidden_state
    torch.testing.assert_close(backbone(image), as_grid(tokens, image, 8))


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("layer", ["last", "0", "key"])
def test_a_timm_model_gives_the_features_of_its_name(dynamic, layer):
    make = of_timm("test_vit3", dynamic_img_size=dynamic, pretrained=False)
    model = made(make)
    spec = load_backbone("random:test_vit3", layer=layer)
    weights = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("head.")}
    spec.trunk.model.load_state_dict(weights)
    backbone, image = load_backbone(model, layer=layer), images(48, 80)
    assert torch.equal(backbone(image), spec(image))
    assert backbone.pos_embed == spec.pos_embed == "antialias"
    assert (backbone.mean, backbone.std) == (spec.mean, spec.std)


def test_a_timm_class_with_a_forward_of_its_own_is_not_read_as_timms():
    from timm.models.vision_transformer import VisionTransformer

    class Mine(VisionTransformer):
        def forward_features(self, images):
            return 2 * super().forward_features(images)

    model = made(lambda: Mine(img_size=32, patch_size=16, embed_dim=16, depth=1, num_heads=2, num_classes=3)).eval()
    backbone, image = adapt(model), images(32, 32)
    with torch.no_grad():
        torch.testing.assert_close(backbone(image), as_grid(model.forward_features(image), image, 16, before=1))


class Pooling(Convolution):
    """Gives a vector; what comes behind its last part writes into the output of that part."""

    def forward(self, images):
        return self.patches(images).relu_().mean((2, 3))


def test_a_part_is_read_before_what_follows_writes_into_it():
    model, image = made(Pooling), images(16, 32)
    features = adapt(model)(image)
    torch.testing.assert_close(features, model.patches(image).detach())
    assert (features < 0).any()


class Shared(Convolution):
    """Uses one activation twice, and gives a vector."""

    def __init__(self):
        super().__init__()
        self.activation, self.second = nn.GELU(), nn.Conv2d(12, 12, 1)

    def encoded(self, images):
        return self.activation(self.second(self.activation(self.patches(images))))

    def forward(self, images):
        return self.encoded(images).mean((2, 3))


def test_a_part_that_runs_several_times_is_read_where_it_runs_last():
    model, image = made(Shared), images(16, 32)
    backbone = adapt(model)
    assert "its part activation gives" in backbone.identity()["recognised"]
    torch.testing.assert_close(backbone(image), model.encoded(image).detach())


def test_features_tells_where_they_are():
    model = made(KINDS["a U-Net encoder"][0])
    backbone, image = adapt(model, features=lambda m, x: m(x)[0]), images(16, 32)
    assert (backbone.dim, backbone.stride) == (8, 2)
    torch.testing.assert_close(backbone(image), model(image)[0])


def test_what_features_returns_is_laid_out_by_the_same_rules():
    model = made(lambda: Around(2, 0))
    backbone, image = adapt(model, features=lambda m, x: {"a": m(x)}), images(16, 32)
    torch.testing.assert_close(backbone(image), model.patches(image))


def functions():
    net, around = made(Convolution), made(lambda: Around(1, 0))

    class Caller:
        def __init__(self):
            self.net = net

        def __call__(self, images):
            return self.net(images)

    def with_default(images, net=net):
        return net(images)

    return {
        "closure": (lambda x: 1 * net(x), net),
        "default": (with_default, net),
        "partial": (functools.partial(lambda n, x: n(x), net), net),
        "method": (around.patches.forward, around.patches),
        "method of a model": (net.tokens, net),
        "object": (Caller(), net),
        "no module": (lambda x: F.avg_pool2d(x, 8), lambda x: F.avg_pool2d(x, 8)),
    }


@pytest.mark.parametrize("kind", functions())
def test_functions_of_images(kind):
    function, by_hand = functions()[kind]
    backbone, image = adapt(function), images(16, 32)
    assert torch.equal(backbone(image), by_hand(image))


held_by_name = None  # a function below reads it


def holding(net):
    """Functions that hold a module in every way that is known."""

    class Caller:
        def __init__(self):
            self.net = net

        def __call__(self, images):
            return self.net(images)

    def with_default(images, model=net):
        return model(images)

    def with_keyword(images, *, model=net):
        return model(images)

    globals()["held_by_name"] = net
    return {
        "closure": lambda x: 1 * net(x),
        "default": with_default,
        "default of a keyword": with_keyword,
        "global": lambda x: 1 * held_by_name(x),
        "argument of a partial": functools.partial(lambda n, x: n(x), net),
        "keyword of a partial": functools.partial(lambda x, n: n(x), n=net),
        "method": getattr(net, "forward", None),
        "object": Caller(),
    }


@pytest.mark.parametrize("way", holding(None))
def test_a_function_runs_on_a_copy_of_the_module_that_it_holds(way):
    net, image = made(Convolution), images(16, 16)
    backbone = adapt(holding(net)[way])
    before = backbone(image)
    with torch.no_grad():
        net.patches.weight.zero_()
    assert torch.equal(backbone(image), before) and before.any()


def test_colour_statistics_are_given_named_by_the_model_or_imagenets():
    model = made(Convolution)
    assert (adapt(model).mean, adapt(model).std) == (IMAGENET_MEAN, IMAGENET_STD)
    model.register_buffer("mean", torch.full((1, 3, 1, 1), 0.5))
    assert (adapt(model).mean, adapt(model).std) == ((0.5, 0.5, 0.5), IMAGENET_STD)
    model.std = (0.3, 0.3, 0.3)
    assert (adapt(model).mean, adapt(model).std) == ((0.5, 0.5, 0.5), (0.3, 0.3, 0.3))
    told = adapt(model, mean=(0.1, 0.2, 0.3), std=[0.3, 0.2, 0.1])
    assert (told.mean, told.std) == ((0.1, 0.2, 0.3), (0.3, 0.2, 0.1))


def test_a_model_of_one_size_refuses_others_by_name():
    backbone = adapt(made(KINDS["torchvision ViT"][0]))
    with pytest.raises(UserError, match="takes no images of 96 x 96 px .*--image-size 64"):
        backbone(images(96, 96))


def test_a_module_in_half_precision_is_read_in_float32():
    model, image = made(Dino), images(16, 24)
    backbone = adapt(model.bfloat16())
    assert backbone(image).dtype == torch.float32
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.bfloat16}
    assert torch.equal(backbone(image), adapt(model.float())(image))


def test_modules_whose_weights_are_made_in_hooks_keep_them():
    model, image = made(lambda: nn.utils.spectral_norm(nn.Conv2d(3, 4, 8, 8))), images(16, 24)
    torch.testing.assert_close(adapt(model)(image), model.eval()(image).detach())
