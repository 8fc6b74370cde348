"""Multinomial logistic regression on patch features, exact, for several strengths of regularisation in one pass over the rows.

    min over W, b of  (1 / N) sum_i sum_c y_ic (logsumexp(z_i) - z_ic) + (l2 / 2) |W|^2,    z_i = W' x_i + b,    N = sum y

Labels are distributions: a patch of which a quarter is sky counts a quarter for it. So the loss is that of all labelled pixels,
each of which has its patch's logits. scikit-learn's `LogisticRegression` minimises the same with C = 1 / (N l2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from densebench.numerics.lbfgs import Minimum, minimise

ROUNDING = 2e-7  # of a mean over rows whose terms are float32

Rows = Callable[[], Iterable[tuple[Float[Tensor, "m d"], Float[Tensor, "m c"]]]]
"""Gives the features and labels of all rows, some at a time, as often as it is called."""


def loss(
    rows: Rows, weights: Float[Tensor, "l d_plus_1 c"], l2: Float[Tensor, " l"]
) -> tuple[Float[Tensor, " l"], Float[Tensor, "l d_plus_1 c"]]:
    """The objective of each problem and its gradient; the last row of the weights is the bias, which is not regularised.

    Products are in the type of the rows (float32, say), sums over rows and all else in that of the weights (float64, say).
    """
    problems, _, classes = weights.shape
    value, gradient, total = torch.zeros_like(l2), torch.zeros_like(weights).transpose(0, 1).flatten(1), 0.0
    for x, y in rows():
        flat = weights.transpose(0, 1).flatten(1).to(x.dtype)
        logits = torch.addmm(flat[-1], x, flat[:-1]).view(len(x), problems, classes)
        norm, mass = logits.logsumexp(dim=2), y.sum(dim=1)
        value += (mass[:, None] * norm - torch.einsum("mlc,mc->ml", logits, y)).sum(dim=0, dtype=value.dtype)
        slope = (logits - norm[:, :, None]).exp_().mul_(mass[:, None, None]).sub_(y[:, None]).flatten(1)
        gradient[:-1] += x.T @ slope
        gradient[-1] += slope.sum(dim=0, dtype=gradient.dtype)
        total += float(mass.sum(dtype=torch.float64))
    gradient = gradient.view(-1, problems, classes).transpose(0, 1) / total
    gradient[:, :-1] += l2[:, None, None] * weights[:, :-1]
    return value / total + l2 / 2 * weights[:, :-1].square().sum(dim=(1, 2)), gradient


def fit(
    rows: Rows,
    width: int,
    classes: int,
    l2: Sequence[float],
    *,
    iterations: int,
    tolerance: float,
    device: torch.device,
    start: Float[Tensor, "l d_plus_1 c"] | None = None,
) -> tuple[Float[Tensor, "l d_plus_1 c"], Minimum]:
    """The weights for each strength of regularisation, and how the search for them ended; it begins at `start`, or at 0."""
    strengths = torch.tensor(l2, dtype=torch.float64, device=device)
    shape = (len(l2), width + 1, classes)

    def function(points: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = loss(rows, points.view(shape), strengths)
        return value, gradient.flatten(1)

    begin = torch.zeros(shape, device=device) if start is None else start
    found = minimise(function, begin.double().flatten(1), iterations=iterations, tolerance=tolerance, rounding=ROUNDING)
    return found.points.view(shape).float(), found
