"""A plain loop in torch: a small network learns by how much an image is turned (RotNet), and is probed while it learns."""

from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import densebench


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 64, 128)
        layers = [nn.Sequential(nn.Conv2d(a, b, 4, 2, 1), nn.BatchNorm2d(b), nn.ReLU()) for a, b in pairwise(widths)]
        self.encoder = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(images).mean((2, 3)))


def main(steps: int = 100, folder: str = "rotnet", **options: Any) -> densebench.Probe:
    torch.manual_seed(0)
    data = densebench.load_dataset("scenes")
    pixels = [torch.tensor(np.array(data.image(item).resize((64, 64)))) for item in data.part("train", 64)]
    images = torch.stack(pixels).permute(0, 3, 1, 2) / 127.5 - 1

    model = Network()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    probe = densebench.Probe(
        "scenes", "incontext", every=20, limit=32, image_size=64, folder=folder, save_best=f"{folder}/best.safetensors",
        mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), **options,
    )  # fmt: skip
    for step in range(steps + 1):
        score = probe(model.encoder, step)
        if score is not None:
            print(f"step {step}: {score:.2f} % mIoU")
        turns = torch.randint(4, (16,))
        some = images[torch.randint(len(images), (16,))]
        turned = torch.stack([image.rot90(int(turn), (1, 2)) for image, turn in zip(some, turns, strict=True)])
        loss = F.cross_entropy(model(turned), turns)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return probe


if __name__ == "__main__":
    best = main().best
    print(f"the best is step {best[0]} with {best[1]:.2f} %")
