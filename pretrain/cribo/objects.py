"""Objects: clusters of patches that two views of an image share, and their vectors in each view.

Source: CrOC (Stegmüller et al., CVPR 2023), equations 1, 2, 15 and 16; CrIBo (Lebailly et al., ICLR 2024), equation 1.
Clusters live on the joint axis, the patches of view 1 followed by those of view 2, so that the correspondence between views
comes for free.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Objects:
    """The objects of b images, as weights of their patches, with room for k objects per image.

    weights: of each patch in each object, in views 1 and 2. valid: which objects both views show; the weights of others are 0.
    """

    weights: tuple[Float[Tensor, "b n k"], Float[Tensor, "b n k"]]
    valid: Bool[Tensor, "b k"]

    def vectors(self, view: int, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b k d"]:
        """Return the weighted sums of the tokens of a view; gradients reach the tokens."""
        return torch.bmm(self.weights[view].transpose(1, 2), tokens)

    def of_both(self, tokens: Float[Tensor, "both n d"]) -> Float[Tensor, "2 b k d"]:
        """Return the `vectors` of both views, from the tokens of all first views, followed by those of all second views."""
        return torch.stack([self.vectors(view, part) for view, part in enumerate(tokens.chunk(2))])


def from_labels(labels: Int[Tensor, "b joint"], count: int) -> Objects:
    """Return the objects of a partition of the joint axis into `count` clusters; their vectors are means over a view's patches.

    Patches with a label of `count` or more belong to no object.
    """
    hard = F.one_hot(labels.clamp(max=count), count + 1)[:, :, :count].float()
    first, second = hard.chunk(2, dim=1)
    sizes = first.sum(dim=1), second.sum(dim=1)
    valid = (sizes[0] > 0) & (sizes[1] > 0)
    one, two = (part / size.clamp(min=1)[:, None] * valid[:, None] for part, size in zip((first, second), sizes, strict=True))
    return Objects((one, two), valid)
