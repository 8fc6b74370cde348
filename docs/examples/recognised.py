"""What densebench recognises in models of many kinds, as a Markdown table: `python docs/examples/recognised.py`."""

from __future__ import annotations

import importlib

import torch
from torch import nn

from densebench import load_backbone
from densebench.errors import UserError
from densebench.torchvision_ops import make_importable

make_importable()  # torchvision from the registry may have no operators beside a CPU build of torch
timm, tv, hf = map(importlib.import_module, ("timm", "torchvision.models", "transformers"))
SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
SWIN = {"embed_dim": 12, "depths": [1, 1], "num_heads": [1, 2]}


class Tokens(nn.Conv2d):
    """Patch tokens after a class token; with `turn` column by column, with `drop` under dropout that is always on."""

    def __init__(self, turn: bool = False, drop: float = 0.0) -> None:
        super().__init__(3, 16, 8, 8)
        self.turn, self.drop = turn, drop

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        grid = nn.functional.dropout(super().forward(images), self.drop)
        tokens = (grid.mT if self.turn else grid).flatten(2).mT
        return torch.cat([tokens.mean(1, keepdim=True), tokens], dim=1)


class Dino(Tokens):
    def get_intermediate_layers(self, images: torch.Tensor, n: int = 1) -> list[torch.Tensor]:
        return [super().forward(images)]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.get_intermediate_layers(images)[0][:, 0]


class Dinov2(Dino):
    def forward_features(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"x_norm_patchtokens": self.get_intermediate_layers(images)[0][:, 1:]}


class Pyramid(nn.ModuleList):
    """The encoder of a U-Net: a list of grids."""

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [images := stage(images) for stage in self]


def convolution(inputs: int = 3) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())


KINDS = {
    "timm ViT": lambda: timm.create_model("test_vit"),
    "timm ViT without class token": lambda: timm.create_model("test_vit", class_token=False, global_pool="avg"),
    "timm ViT with registers": lambda: timm.create_model("test_vit3", reg_tokens=4),
    "timm Swin": lambda: timm.create_model("swin_tiny_patch4_window7_224", **SWIN),
    "timm ConvNeXt": lambda: timm.create_model("test_convnext"),
    "timm ResNet": lambda: timm.create_model("resnet10t"),
    "timm EfficientNet": lambda: timm.create_model("test_efficientnet"),
    "timm features_only": lambda: timm.create_model("resnet10t", features_only=True),
    "torchvision ResNet": tv.resnet18,
    "torchvision ConvNeXt": tv.convnext_tiny,
    "torchvision Swin": tv.swin_t,
    "torchvision ViT": lambda: tv.VisionTransformer(64, 16, 1, 2, 32, 64),
    "torchvision segmentation": lambda: tv.segmentation.lraspp_mobilenet_v3_large(weights_backbone=None),
    "transformers Dinov2": lambda: hf.Dinov2Model(hf.Dinov2Config(image_size=28, patch_size=14, **SMALL)),
    "transformers ViT": lambda: hf.ViTModel(hf.ViTConfig(image_size=64, **SMALL)),
    "transformers ViT classifier": lambda: hf.ViTForImageClassification(hf.ViTConfig(image_size=64, **SMALL)),
    "transformers Swin": lambda: hf.SwinModel(hf.SwinConfig(image_size=64, window_size=4, **SWIN)),
    "DINO, as in torch hub": Dino,
    "DINOv2, as in torch hub": Dinov2,
    "a plain CNN": convolution,
    "a U-Net encoder": lambda: Pyramid([convolution(), convolution(8), convolution(8)]),
    "tokens after a class token": Tokens,
    "tokens column by column": lambda: Tokens(turn=True),
    "torch.compile": lambda: torch.compile(convolution()),
    "DataParallel": lambda: nn.DataParallel(convolution()),
    "torch.jit.script": lambda: torch.jit.script(convolution()),
    "a function": lambda: lambda images: nn.functional.avg_pool2d(images, 8),
    "an MLP": lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10)),
    "a 1D model": lambda: nn.Conv1d(3, 8, 3),
    "dropout that is always on": lambda: Tokens(drop=0.5),
    "batch statistics": lambda: nn.Sequential(convolution(), nn.BatchNorm2d(8, track_running_stats=False)),
}

if __name__ == "__main__":
    print("| model | what is recognised |\n|---|---|")
    for kind, make in KINDS.items():
        try:
            print(f"| {kind} | {load_backbone(make()).identity()['recognised']} |")
        except UserError as error:
            print(f"| {kind} | refused: {error} |")
