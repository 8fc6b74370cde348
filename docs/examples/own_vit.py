"""A PhD student's own ViT: scored inside its training loop, and put beside other backbones afterwards."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import densebench


class MaskedViT(nn.Module):
    """A small ViT that paints images whose patches are partly hidden. Its forward gives a class token and patch tokens."""

    def __init__(self, dim: int = 96, depth: int = 4, patch: int = 16) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, dim, patch, patch)
        self.place = nn.Conv2d(2, dim, 1)  # where a patch lies, so that every image size will do
        self.token = nn.Parameter(torch.zeros(1, 1, dim))
        layer = nn.TransformerEncoderLayer(dim, 4, 4 * dim, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, depth, nn.LayerNorm(dim), enable_nested_tensor=False)
        self.pixels = nn.Linear(dim, 3 * patch**2)

    def forward(self, images: torch.Tensor, hidden: torch.Tensor | None = None) -> torch.Tensor:
        patches = self.embed(images)
        if hidden is not None:
            patches = patches * ~hidden[:, None]
        rows, columns = (torch.linspace(-1, 1, size) for size in patches.shape[2:])
        places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))[None]
        tokens = (patches + self.place(places)).flatten(2).transpose(1, 2)
        return self.blocks(torch.cat([self.token.expand(len(images), -1, -1), tokens], 1))


def loss(model: MaskedViT, images: torch.Tensor) -> torch.Tensor:
    """Return the mean squared difference of the pixels and what the model paints where three patches of ten are hidden."""
    hidden = torch.rand(len(images), 8, 8) < 0.3
    painted = model.pixels(model(images, hidden)[:, 1:])
    pixels = F.pixel_unshuffle(images, 16).flatten(2).transpose(1, 2)
    return (painted - pixels).square().mean()


torch.manual_seed(0)
scenes = densebench.load_dataset("scenes")
pictures = [np.asarray(scenes.image(item)) for item in scenes.items("train")]
images = (torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 255 - 0.45) / 0.225

model = MaskedViT()
optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
probe = densebench.Probe("scenes", "incontext", every=100, limit=64, folder="runs/masked-vit")
for step in range(301):
    if (value := probe(model, step)) is not None:
        print(f"step {step}: {value:.2f} % mIoU")
    optimiser.zero_grad()
    loss(model, images[torch.randint(len(images), (32,))]).backward()
    optimiser.step()

print(densebench.evaluate(model, "incontext", "scenes", name="masked ViT", fractions=(1, 8)))
densebench.evaluate(["pixels:16", "random:test_vit"], "incontext", "scenes", fractions=(1, 8))
print(densebench.leaderboard())
