"""Smooth convex problems for tests of L-BFGS."""

from __future__ import annotations

import math

import torch
from logistic_by_loops import f64, generator


def quadratics(conditions, n, seed=0, scales=None, dtype=f64):
    """One quadratic a condition number, 0.5 (x - m)'A(x - m) + v with its own rotation, minimum m, value v and scale."""
    g = generator(seed)
    matrices, minima, floors = [], [], []
    for number, condition in enumerate(conditions):
        rotation, _ = torch.linalg.qr(torch.randn(n, n, generator=g, dtype=f64))
        spectrum = torch.logspace(0, math.log10(condition), n, dtype=f64) * (1.0 if scales is None else scales[number])
        matrices.append(rotation @ torch.diag(spectrum) @ rotation.T)
        minima.append(torch.randn(n, generator=g, dtype=f64))
        floors.append(torch.randn((), generator=g, dtype=f64))
    A, m, v = torch.stack(matrices).to(dtype), torch.stack(minima).to(dtype), torch.stack(floors).to(dtype)

    def function(points):
        apart = points - m
        gradients = torch.einsum("lij,lj->li", A, apart)
        return 0.5 * (gradients * apart).sum(1) + v, gradients

    return function, m, v


def by_autograd(one):
    """A batch's values and gradients from `one(number, point)`, a scalar for each problem on its own."""

    def function(points):
        leaf = points.detach().clone().requires_grad_()
        values = torch.stack([one(number, point) for number, point in enumerate(leaf)])
        (gradients,) = torch.autograd.grad(values.sum(), leaf)
        return values.detach(), gradients

    return function


def alone(function, number, count):
    """Problem `number` of `count`, as a function of a batch of one; the others are asked at the same point and left out."""

    def single(points):
        assert points.shape[0] == 1
        values, gradients = function(points.expand(count, -1).clone())
        return values[number : number + 1], gradients[number : number + 1]

    return single


def largest(gradients):
    return gradients.abs().amax(1)


def three_exponentials(_, x):
    """Boyd and Vandenberghe (2004), equation 9.20: convex, curved, its minimum (-log(2)/2, 0) of value 2 sqrt(2) exp(-0.1)."""
    return (x[0] + 3 * x[1] - 0.1).exp() + (x[0] - 3 * x[1] - 0.1).exp() + (-x[0] - 0.1).exp()


def softplus_problem(number, x):
    """A regularised two-class logistic regression that differs with `number`; no minimum in closed form."""
    g = generator(100 + number)
    rows = torch.randn(25, x.numel(), generator=g, dtype=f64) * torch.logspace(-1, 0.5, x.numel(), dtype=f64)
    side = torch.sign(torch.randn(25, generator=g, dtype=f64))
    return torch.nn.functional.softplus(-side * (rows @ x)).mean() + 0.5 * 10.0 ** (-number - 1) * (x * x).sum()


def valley(number, x):
    """Convex relative of Rosenbrock's valley: steep across, flat and quartic along; its minimum is 0 at (number, ..., number)."""
    steep = 10.0 ** (number + 1)
    return (steep * (x[1:] - x[:-1]) ** 2).sum() + ((x - number) ** 4).sum() + 0.01 * ((x - number) ** 2).sum()
