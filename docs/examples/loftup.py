"""LoftUp as an upsampler: densebench eval --backbone timm:vit_small_patch14_dinov2 --upsample ./loftup.py:7 ..."""

import os
from pathlib import Path

import torch
from torch.nn import functional as F

HUB = os.environ.get("LOFTUP", "andrehuang/loftup")  # or a clone of it; its licence is its own
SOURCE = "local" if Path(HUB).is_dir() else "github"

mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # what images are normalised with
network = torch.hub.load(HUB, "loftup_dinov2s", source=SOURCE, trust_repo=True)


def upsample(image: torch.Tensor, features: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Return features of `size`: LoftUp takes the features first, and gives as many rows and columns as its image has."""
    guidance = F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)
    return network(features, guidance)
