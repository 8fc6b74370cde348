"""A ResNet-18, stride 16, untrained: replace it by your model."""

import timm
import torch
from torch import nn


class Features(nn.Module):
    """Images `[b 3 h w]`, normalised with `mean` and `std`, to features `[b d h/16 w/16]`."""

    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def __init__(self) -> None:
        super().__init__()
        self.model = timm.create_model("resnet18", pretrained=False, features_only=True, out_indices=[3])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model(images)[0]


def load() -> nn.Module:
    torch.manual_seed(0)
    return Features()
