"""Projection heads: the MLP of DINO, shared, under one layer of weight-normed prototypes for each kind of input.

Source: DINO (Caron et al., ICCV 2021); CrOC and CrIBo share the MLP between images and objects and keep separate last layers.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Prototypes(nn.Module):
    """The weights of a linear layer without bias, whose rows are weight-normed: row k is g_k v_k / |v_k|.

    fixed_norm keeps g at 1, so that every logit of a unit vector lies in [-1, 1].
    """

    def __init__(self, count: int, dim: int, *, fixed_norm: bool) -> None:
        super().__init__()
        self.weight_v = nn.Parameter(nn.init.uniform_(torch.empty(count, dim), -(dim**-0.5), dim**-0.5))
        self.weight_g = nn.Parameter(torch.ones(count, 1), requires_grad=not fixed_norm)

    @property
    def weight(self) -> Float[Tensor, "k d"]:
        """The weight-normed rows."""
        return self.weight_g * F.normalize(self.weight_v.float(), dim=1)


class Head(nn.Module):
    """d -> hidden -> hidden -> bottleneck with GELU, then unit length; with one set of prototypes per name of `outputs`."""

    def __init__(
        self, dim: int, outputs: Mapping[str, int], *, hidden: int = 2048, bottleneck: int = 256, fixed_norm: bool = True
    ) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck)
        )
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.last_layer = nn.ModuleDict(
            {name: Prototypes(count, bottleneck, fixed_norm=fixed_norm) for name, count in outputs.items()}
        )

    def forward(self, vectors: Float[Tensor, "*n d"]) -> Float[Tensor, "*n bottleneck"]:
        """Return unit vectors of the bottleneck; their products with `prototypes` are logits."""
        return F.normalize(self.mlp(vectors).float(), dim=-1)

    def prototypes(self, name: str) -> Float[Tensor, "k bottleneck"]:
        """Return the weight-normed prototypes of one kind of input."""
        layer = self.last_layer[name]
        assert isinstance(layer, Prototypes)
        return layer.weight
