"""Pictures of features without labels: principal components as colours, and the foreground as one side of the first component.

As the figures of Oquab et al., DINOv2: Learning Robust Visual Features without Supervision, TMLR 2024 (figure 1): one basis for
the patches of all pictures of a backbone, so that like patches have like colours in all of them; the background is cut away by a
threshold of the first component, and the colours are then those of the foreground alone. The paper names neither the threshold
nor the side: here the threshold is Otsu's, and the foreground is the side that lies less on the borders of the pictures.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

CHANNELS = 3
LOW, HIGH = 0.01, 0.99  # quantiles of a component that become 0 and 255, so that a few artefacts do not take all the range
GREY = 128
ROUNDING = 1e-20  # share of the squares of features below which their variance is rounding, in float64


def principal_components(
    tokens: Float[Tensor, "n d"], count: int = CHANNELS, among: Bool[Tensor, " n"] | None = None
) -> Float[Tensor, "n count"]:
    """Return the first principal components of tokens, in float64 on the CPU.

    among: the tokens that decide basis and mean; None: all. The sign of a component is such that its third moment among them is
    not negative: so it does not depend on the basis of the features, and rotated features give the same components. Components
    that the tokens do not have (fewer features or tokens than `count`, features that do not vary) are 0.
    """
    rows = tokens.double().cpu()
    chosen = rows if among is None else rows[among.cpu()]
    components = torch.zeros(len(rows), count, dtype=torch.float64)
    if not chosen.numel():
        return components
    mean = chosen.mean(dim=0)
    axes = _axes(chosen - mean, count, float((chosen**2).sum()))
    found, of_chosen = (rows - mean) @ axes, (chosen - mean) @ axes
    components[:, : axes.shape[1]] = found * torch.where((of_chosen**3).sum(dim=0) < 0, -1.0, 1.0)
    return components


def _axes(centred: Float[Tensor, "n d"], count: int, squares: float) -> Float[Tensor, "d k"]:
    """Return unit axes of greatest variance, the greatest first: at most `count`, and none along which rows do not vary.

    squares: the sum of squares of the rows as they were, against which rounding errors are told from variance.
    """
    tall = len(centred) >= centred.shape[1]
    gram = centred.T @ centred if tall else centred @ centred.T
    size, total = len(gram), float(gram.diagonal().sum())
    if total <= ROUNDING * squares:
        return centred.new_zeros(centred.shape[1], 0)
    values, vectors = scipy.linalg.eigh(gram.numpy(), subset_by_index=[max(size - count, 0), size - 1])
    kept = values[::-1] > total * 1e-12
    axes = torch.from_numpy(np.ascontiguousarray(vectors[:, ::-1][:, kept]))
    return axes if tall else torch.nn.functional.normalize(centred.T @ axes, dim=0)


def principal_colours(tokens: Float[Tensor, "n d"], foreground: Bool[Tensor, " n"] | None = None) -> UInt8[Tensor, "n 3"]:
    """Return the first three principal components of tokens as red, green and blue, 0 to 255, on the CPU.

    tokens: patches of all pictures of one backbone, so that one basis and one scale hold for all. In each component the 1st
    percentile becomes 0 and the 99th 255; a component that does not vary is 128 everywhere. foreground: the tokens that decide
    basis and scale; all others are black. None: all tokens.
    """
    components = principal_components(tokens, CHANNELS, foreground)
    inside = torch.ones(len(tokens), dtype=torch.bool) if foreground is None else foreground.cpu()
    colours = torch.zeros(len(tokens), CHANNELS, dtype=torch.uint8)
    if inside.any():
        shown = components[inside]
        low, high = torch.from_numpy(np.quantile(shown.numpy(), [LOW, HIGH], axis=0))
        spread = high - low
        scaled = ((shown - low) / spread.where(spread > 0, 1.0)).clamp(0, 1) * 255
        colours[inside] = scaled.round().where(spread > 0, float(GREY)).to(torch.uint8)
    return colours


def foreground_side(tokens: Float[Tensor, "pictures rows columns d"]) -> Bool[Tensor, "pictures rows columns"]:
    """Return `foreground_among` of pictures with grids of one shape."""
    border = torch.ones(tokens.shape[:3], dtype=torch.bool)
    border[:, 1:-1, 1:-1] = False
    return foreground_among(tokens.flatten(0, 2), border.flatten()).view(tokens.shape[:3])


def foreground_among(tokens: Float[Tensor, "n d"], border: Bool[Tensor, " n"]) -> Bool[Tensor, " n"]:
    """Return the patches that the first principal component counts as foreground, for all pictures of one backbone together.

    border: which patches lie on the border of their picture. Otsu's threshold parts the component in two. The foreground is the
    side with the smaller share of its patches on borders; where both have the same share, the smaller side. All patches are
    foreground where features do not vary.
    """
    component = principal_components(tokens, 1)[:, 0]
    high = component > otsu(component)
    if not high.any() or high.all():
        return torch.ones_like(high)

    def rank(side: Tensor) -> tuple[float, int]:
        return float((side & border).sum() / side.sum()), int(side.sum())

    return high if rank(high) <= rank(~high) else ~high


def otsu(values: Float[Tensor, " n"]) -> float:
    """Return the threshold that parts values in two (those above it, and the others) with the least variance inside the parts.

    Otsu, A Threshold Selection Method from Gray-Level Histograms, IEEE Transactions on Systems, Man, and Cybernetics 1979, on
    the values themselves instead of a histogram. It lies half-way between the parts; infinity where all values are equal.
    """
    ordered = np.sort(values.double().cpu().numpy())
    count = np.arange(1, len(ordered))
    below = np.cumsum(ordered)[:-1]
    between = count * (len(ordered) - count) * (below / count - (ordered.sum() - below) / (len(ordered) - count)) ** 2
    between = np.where(ordered[1:] > ordered[:-1], between, -1.0)  # equal values stay together
    if not len(between) or between.max() <= 0:
        return float("inf")
    cut = int(between.argmax())
    return float(ordered[cut] + ordered[cut + 1]) / 2
