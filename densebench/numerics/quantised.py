"""Features small enough for a page: few dimensions of 8 bits, from which the cosines of patches can be computed."""

from __future__ import annotations

from typing import NamedTuple

import scipy.linalg
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int8
from torch import Tensor

LARGEST = 127
SAMPLE = 1024  # patches whose cosines are compared


class Quantised(NamedTuple):
    """Features as whole numbers from -127 to 127, and how to read them.

        cosine of two different patches a and b = scale^2 sum_k codes_ak codes_bk        that of a patch and itself is 1

    codes: int8 [n rows columns k]. mean_error, largest_error: how far these cosines lie from the exact ones, over pairs of
    different patches of all pictures.
    """

    codes: Tensor
    scale: float
    mean_error: float
    largest_error: float


def quantised(grids: Float[Tensor, "n rows columns d"], dims: int = 48) -> Quantised:
    """Return features of at most `dims` dimensions of 8 bits for the pictures of one backbone, and the error of their cosines.

    Features are scaled to length 1 and projected to the subspace that keeps most of their squared length (not centred: cosines
    are about the origin). The lengths that are left are not scaled to 1 again: what is cut off differs from patch to patch, so it
    hardly adds to the product of two patches, and dividing by the shorter lengths would make all cosines too great (by 0.012 in
    the mean instead of 0.002, for a ViT-S/14 at 48 dimensions). A fixed rotation spreads the first axis, which is far longer than
    the others, over all numbers, so that one scale fits them. The error is measured on all pairs of at most 1,024 patches, evenly
    from all pictures.
    """
    tokens = F.normalize(grids.flatten(0, 2).double().cpu(), dim=1)
    count = min(dims, tokens.shape[1])
    gram = (tokens.T @ tokens).numpy()
    _, axes = scipy.linalg.eigh(gram, subset_by_index=[len(gram) - count, len(gram) - 1])
    reduced = tokens @ torch.from_numpy(axes) @ _rotation(count)
    scale = float(reduced.abs().max()) / LARGEST or 1.0
    codes = (reduced / scale).round().to(torch.int8)
    errors = _errors(tokens, codes, scale)
    return Quantised(codes.view(*grids.shape[:3], count), scale, *errors)


def _rotation(size: int) -> Float[Tensor, "size size"]:
    """Return a rotation (or reflection) that is drawn at random, the same one at each call."""
    drawn = torch.randn(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return torch.linalg.qr(drawn).Q


def _errors(tokens: Float[Tensor, "n d"], codes: Int8[Tensor, "n k"], scale: float) -> tuple[float, float]:
    """Return the mean and the largest error of cosines over pairs of different patches; 0 where there is one patch."""
    places = torch.linspace(0, len(tokens) - 1, min(SAMPLE, len(tokens))).round().long()
    exact, kept = tokens[places], codes[places].double() * scale
    error = (exact @ exact.T - kept @ kept.T).abs().fill_diagonal_(0.0)
    pairs = len(places) * (len(places) - 1)
    return float(error.sum()) / max(pairs, 1), float(error.max())
