"""Multinomial logistic regression on patch features, exact, for several strengths of regularisation in one pass over the rows.

    min over W, b of  (1 / N) sum_i sum_c y_ic (logsumexp(z_i) - z_ic) + (l2 / 2) |W|^2,    z_i = W' x_i + b,    N = sum y

Labels are distributions: a patch of which a quarter is sky counts a quarter for it. So the loss is that of all labelled pixels,
each of which has its patch's logits. scikit-learn's `LogisticRegression` minimises the same with C = 1 / (N l2).

The search is L-BFGS for several smooth convex problems at once, each with a history and a step of its own: Nocedal and Wright,
Numerical Optimization, 2006, algorithms 7.4 and 7.5, with backtracking (algorithm 3.1). All problems see the data in the same
pass, so that ten regularisations cost little more than one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

ROUNDING = 2e-7  # of a mean over rows whose terms are float32

Rows = Callable[[], Iterable[tuple[Float[Tensor, "m d"], Float[Tensor, "m c"]]]]
"""Yields the features and labels of all rows, some at a time, each time that it is called."""


def loss(
    rows: Rows, weights: Float[Tensor, "l d_plus_1 c"], l2: Float[Tensor, " l"]
) -> tuple[Float[Tensor, " l"], Float[Tensor, "l d_plus_1 c"]]:
    """Return the objective of each problem and its gradient; the last row of the weights is the bias, which is not regularised.

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
    """Return the weights for each strength of regularisation, and how the search ended; it begins at `start`, or at 0."""
    strengths = torch.tensor(l2, dtype=torch.float64, device=device)
    shape = (len(l2), width + 1, classes)

    def function(points: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = loss(rows, points.view(shape), strengths)
        return value, gradient.flatten(1)

    begin = torch.zeros(shape, device=device) if start is None else start
    minimum = minimise(function, begin.double().flatten(1), iterations=iterations, tolerance=tolerance, rounding=ROUNDING)
    return minimum.points.view(shape).float(), minimum


Function = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Points [l, n] to values [l] and gradients [l, n], problem by problem."""

ARMIJO = 1e-4  # share of the predicted decrease that a step must reach
HALVINGS = 20
UNCERTAINTY = 4 * torch.finfo(torch.float64).eps  # share by which values are uncertain unless the caller says


@dataclass(frozen=True)
class Minimum:
    """Where each problem ended: its point, its value, the iterations used, and whether its gradient was small enough."""

    points: Float[Tensor, "l n"]
    values: Float[Tensor, " l"]
    iterations: Int[Tensor, " l"]
    converged: Bool[Tensor, " l"]


def minimise(
    function: Function,
    start: Float[Tensor, "l n"],
    *,
    iterations: int,
    tolerance: float,
    history: int = 10,
    rounding: float = UNCERTAINTY,
) -> Minimum:
    """Return the minimum of each problem, searched until the largest entry of its gradient is at most `tolerance`.

    rounding: the share by which values are uncertain; a step may raise a value by it, since near the minimum all changes are as
    small.

    A problem that is done, or that no step improves, stays where it is while others move on. A problem whose value is not finite
    never moves away from its last finite point.
    """
    points = start.clone()
    values, gradients = function(points)
    used = torch.zeros(len(points), dtype=torch.int64, device=points.device)
    done = gradients.abs().amax(dim=1) <= tolerance
    stuck = ~(values.isfinite() & gradients.isfinite().all(dim=1))
    memory: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=history)
    for _ in range(iterations):
        active = ~(done | stuck)
        if not active.any():
            break
        direction = -_two_loops(gradients, memory)
        slope = (direction * gradients).sum(dim=1)
        downhill = slope < 0
        direction = torch.where(downhill[:, None], direction, -gradients)
        slope = torch.where(downhill, slope, -gradients.square().sum(dim=1))
        step = torch.ones_like(values) if memory else 1 / gradients.norm(dim=1).clamp(min=1.0)
        moved, new_values, new_gradients, took = _backtrack(
            function, points, values, direction, slope, torch.where(active, step, 0.0), active, rounding * values.abs()
        )
        s, y = moved - points, new_gradients - gradients
        curvature = (s * y).sum(dim=1)
        useful = took & (curvature > 1e-10 * y.square().sum(dim=1).clamp(min=1e-30))
        memory.append((s, y, torch.where(useful, 1 / curvature.where(useful, torch.ones_like(curvature)), 0.0)))
        points, values, gradients = moved, new_values, new_gradients
        used += took
        done |= took & (gradients.abs().amax(dim=1) <= tolerance)
        stuck |= active & ~took
    return Minimum(points, values, used, done)


def _two_loops(gradients: Tensor, memory: deque[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """Return the product of each problem's inverse Hessian estimate with its gradient; a pair of weight 0 counts for nothing."""
    q, alphas = gradients.clone(), []
    for s, y, rho in reversed(memory):
        alpha = rho * (s * q).sum(dim=1)
        alphas.append(alpha)
        q -= alpha[:, None] * y
    scale = torch.ones_like(gradients[:, 0])
    for s, y, rho in memory:  # the newest pair that counts sets the scale
        scale = torch.where(rho > 0, (s * y).sum(dim=1) / y.square().sum(dim=1).clamp(min=1e-30), scale)
    q *= scale[:, None]
    for (s, y, rho), alpha in zip(memory, reversed(alphas), strict=True):
        q += (alpha - rho * (y * q).sum(dim=1))[:, None] * s
    return q


def _backtrack(
    function: Function,
    points: Tensor,
    values: Tensor,
    direction: Tensor,
    slope: Tensor,
    step: Tensor,
    active: Tensor,
    noise: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Halve each problem's step until its value falls enough; return points, values, gradients and which problems moved."""
    took = torch.zeros_like(active)
    for _ in range(HALVINGS):
        moved = torch.where(active[:, None], points + step[:, None] * direction, points)
        new_values, gradients = function(moved)
        enough = new_values <= values + ARMIJO * step * slope + noise
        took = active & enough & new_values.isfinite() & gradients.isfinite().all(dim=1)
        if bool((took | ~active).all()):
            return moved, new_values, gradients, took
        step = torch.where(took | ~active, step, step / 2)
    moved = torch.where(took[:, None], moved, points)
    new_values, gradients = function(moved)
    return moved, new_values, gradients, took
