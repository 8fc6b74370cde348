"""Multinomial logistic regression on patch features, exact, for several strengths of regularisation in one pass over the rows.

    min over W, b of  (1 / N) sum_i sum_c y_ic (logsumexp(z_i) - z_ic) + (l2 / 2) |W|^2,    z_i = W' x_i + b,    N = sum y

Labels are distributions: a patch of which a quarter is sky counts a quarter for it. So the loss is that of all labelled pixels,
each of which has its patch's logits. scikit-learn's `LogisticRegression` minimises the same with C = 1 / (N l2).

The search is L-BFGS for several smooth convex problems at once, each with a history and a step of its own: Nocedal and Wright,
Numerical Optimization, 2006, algorithms 7.4 and 7.5, with backtracking (algorithm 3.1). All problems see the data in the same
pass, so that ten regularisations cost little more than one.

On a GPU the next directions are queued before the host reads whether every step was accepted; where one was not, they are
dropped. So the host never waits for work that it has just queued.

Several processes divide the rows: each passes `loss` its own, and an `adding` that adds the sums over all rows in every process.
From equal sums each makes the same steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from densebench.numerics.host_copy import HostCopy, is_asynchronous
from densebench.numerics.partial_sums import Adding, add_parts

ROUNDING = 2e-7  # of a mean over rows whose terms are float32

Rows = Callable[[], Iterable[tuple[Float[Tensor, "m d"], Float[Tensor, "m c"]]]]
"""Returns, at each call, an iterable over the features and labels of all rows, some rows at a time."""


def loss(
    rows: Rows, weights: Float[Tensor, "l d_plus_1 c"], l2: Float[Tensor, " l"], adding: Adding = add_parts
) -> tuple[Float[Tensor, " l"], Float[Tensor, "l d_plus_1 c"]]:
    """Return the objective of each problem and its gradient; the last row of the weights is the bias, which is not regularised.

    Products are in the type of the rows (float32, say), sums over rows and all else in that of the weights (float64, say).
    adding: adds the sums over some rows to the totals.
    """
    problems, d_plus_1, classes = weights.shape
    values, slopes = torch.zeros_like(l2), weights.new_zeros(d_plus_1, problems * classes)
    mass = torch.zeros((), dtype=torch.float64, device=weights.device)
    adding((slopes[:-1], slopes[-1], values, mass), _sums(rows, weights))
    gradient = slopes.view(-1, problems, classes).transpose(0, 1) / mass
    gradient[:, :-1] += l2[:, None, None] * weights[:, :-1]
    return values / mass + l2 / 2 * weights[:, :-1].square().sum(dim=(1, 2)), gradient


def _sums(rows: Rows, weights: Float[Tensor, "l d_plus_1 c"]) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Yield the sums over some rows at a time: gradients of slopes and of biases, losses, and the mass of labels."""
    problems, _, classes = weights.shape
    for x, y in rows():
        flat = weights.transpose(0, 1).flatten(1).to(x.dtype)
        logits = torch.addmm(flat[-1], x, flat[:-1]).view(len(x), problems, classes)
        norm, mass = logits.logsumexp(dim=2), y.sum(dim=1)
        value = (mass[:, None] * norm - torch.einsum("mlc,mc->ml", logits, y)).sum(dim=0, dtype=weights.dtype)
        slope = (logits - norm[:, :, None]).exp_().mul_(mass[:, None, None]).sub_(y[:, None]).flatten(1)
        yield x.T @ slope, slope.sum(dim=0, dtype=weights.dtype), value, mass.sum(dtype=torch.float64)


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
    adding: Adding = add_parts,
) -> tuple[Float[Tensor, "l d_plus_1 c"], Minimum]:
    """Return the weights for each strength of regularisation, and how the search ended; it begins at `start`, or at 0.

    adding: adds the sums over some rows to the totals, see `loss`.
    """
    strengths = torch.tensor(l2, dtype=torch.float64, device=device)
    shape = (len(l2), width + 1, classes)

    def function(points: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = loss(rows, points.view(shape), strengths, adding)
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
    values, gradients = function(start.clone())
    done = gradients.abs().amax(dim=1) <= tolerance
    stuck = ~(values.isfinite() & gradients.isfinite().all(dim=1))
    used = torch.zeros(len(start), dtype=torch.int64, device=start.device)
    state = _State(start.clone(), values, gradients, used, done, stuck, ())
    line = _line(state)
    for _ in range(iterations):
        if not line.going.value():
            break
        state, line = _search(function, state, line, tolerance, history, rounding)
    return Minimum(state.points, state.values, state.used, state.done)


Pair = tuple[Tensor, Tensor, Tensor]
"""For each problem: a step, the change of the gradient, and one over their inner product, or 0 to leave the pair out."""


@dataclass(frozen=True)
class _State:
    """Where each problem is.

    used: iterations so far. done: converged. stuck: no step improves it. memory: the last pairs, newest last.
    """

    points: Tensor
    values: Tensor
    gradients: Tensor
    used: Tensor
    done: Tensor
    stuck: Tensor
    memory: tuple[Pair, ...]


@dataclass(frozen=True)
class _Line:
    """The line along which each problem is searched, and its first step.

    going: whether any problem moves, on its way to the host.
    """

    active: Tensor
    going: HostCopy
    direction: Tensor
    slope: Tensor
    step: Tensor


def _line(state: _State) -> _Line:
    """Return the lines from a state: along the negative gradient where the quasi-Newton direction does not lead downhill."""
    active = ~(state.done | state.stuck)
    going = HostCopy(active.any())
    direction = -_two_loops(state.gradients, state.memory)
    slope = (direction * state.gradients).sum(dim=1)
    downhill = slope < 0
    direction = torch.where(downhill[:, None], direction, -state.gradients)
    slope = torch.where(downhill, slope, -state.gradients.square().sum(dim=1))
    step = torch.ones_like(state.values) if state.memory else 1 / state.gradients.norm(dim=1).clamp(min=1.0)
    return _Line(active, going, direction, slope, torch.where(active, step, 0.0))


def _search(
    function: Function, state: _State, line: _Line, tolerance: float, history: int, rounding: float
) -> tuple[_State, _Line]:
    """Return the state after a step, which is halved for each problem until its value falls enough, and the lines from there."""
    active, step, noise = line.active, line.step, rounding * state.values.abs()
    moved, took = state.points, torch.zeros_like(active)
    for _ in range(HALVINGS):
        moved = torch.where(active[:, None], state.points + step[:, None] * line.direction, state.points)
        values, gradients = function(moved)
        enough = values <= state.values + ARMIJO * step * line.slope + noise
        took = active & enough & values.isfinite() & gradients.isfinite().all(dim=1)
        settled = HostCopy((took | ~active).all())
        ahead = _advanced(state, active, moved, values, gradients, took, tolerance, history) if is_asynchronous(moved) else None
        if settled.value():
            return ahead or _advanced(state, active, moved, values, gradients, took, tolerance, history)
        step = torch.where(took | ~active, step, step / 2)
    moved = torch.where(took[:, None], moved, state.points)
    values, gradients = function(moved)
    return _advanced(state, active, moved, values, gradients, took, tolerance, history)


def _advanced(
    state: _State,
    active: Tensor,
    moved: Tensor,
    values: Tensor,
    gradients: Tensor,
    took: Tensor,
    tolerance: float,
    history: int,
) -> tuple[_State, _Line]:
    """Return the state after a step that some problems `took`, and the lines from there."""
    s, y = moved - state.points, gradients - state.gradients
    curvature = (s * y).sum(dim=1)
    useful = took & (curvature > 1e-10 * y.square().sum(dim=1).clamp(min=1e-30))
    pair = s, y, torch.where(useful, 1 / curvature.where(useful, torch.ones_like(curvature)), 0.0)
    done = state.done | (took & (gradients.abs().amax(dim=1) <= tolerance))
    stuck = state.stuck | (active & ~took)
    after = _State(moved, values, gradients, state.used + took, done, stuck, (*state.memory, pair)[-history:])
    return after, _line(after)


def _two_loops(gradients: Tensor, memory: Sequence[Pair]) -> Tensor:
    """Return each problem's inverse Hessian estimate times its gradient, by the two-loop recursion (algorithm 7.4)."""
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
