"""Small ViTs that timm knows by name, their weights, and features of one image."""

from __future__ import annotations

import pytest
import torch

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


TEACHER, STUDENT = state(seed=0), state(seed=1)


def written(tmp_path, content, name="weights.pth"):
    path = tmp_path / name
    torch.save(content, path)
    return path


def features(backbone):
    with torch.inference_mode():
        return backbone(IMAGE)
