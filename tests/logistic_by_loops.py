"""Rows for tests of logistic regression, and its objective restated as a double loop, differentiated by autograd:

(1/N) sum_i sum_c y_ic (logsumexp(z_i) - z_ic) + (l2/2) |W|^2,    z = W'x + b,    N = sum of y,    b not regularised.
"""

from __future__ import annotations

import torch

CPU = torch.device("cpu")


f64 = torch.float64


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def soft_rows(n=23, d=4, c=3, seed=0, dtype=f64):
    """Features and labels that are not distributions: each row's labels sum to anything from 0 to 1."""
    g = generator(seed)
    x = torch.randn(n, d, generator=g, dtype=f64) * torch.logspace(-0.5, 0.5, d, dtype=f64) + 0.3
    y = torch.rand(n, c, generator=g, dtype=f64)
    y = y / y.sum(1, keepdim=True) * torch.rand(n, 1, generator=g, dtype=f64)
    return x.to(dtype), y.to(dtype)


def hard_rows(n=90, d=4, c=3, seed=0, apart=1.0):
    """Overlapping clusters: features, the class of each row."""
    g = generator(seed)
    t = torch.randint(c, (n,), generator=g)
    t[:c] = torch.arange(c)
    x = torch.randn(c, d, generator=g)[t] * apart + torch.randn(n, d, generator=g)
    return x, t


def one_hot(t, c):
    return torch.nn.functional.one_hot(t, c).float()


def chunks(x, y, size=None):
    """A callable that gives a fresh, single-use iterator whenever it is called."""
    return lambda: ((x[i : i + (size or len(x))], y[i : i + (size or len(x))]) for i in range(0, len(x), size or len(x)))


def random_weights(count, d, c, seed=1, dtype=f64):
    return torch.randn(count, d + 1, c, generator=generator(seed), dtype=f64).to(dtype)


def naive_value(x, y, weights, l2):
    """The objective of one problem, number by number, in float64."""
    x, y, weights = x.to(f64), y.to(f64), weights.to(f64)
    d, c = weights.shape[0] - 1, weights.shape[1]
    total, mass = torch.zeros((), dtype=f64), 0.0
    for i in range(len(x)):
        z = [sum(weights[j, k] * x[i, j] for j in range(d)) + weights[d, k] for k in range(c)]
        top = max(float(number.detach()) for number in z)
        log_sum = top + sum((number - top).exp() for number in z).log()
        for k in range(c):
            total = total + y[i, k] * (log_sum - z[k])
            mass += float(y[i, k])
    norm = sum(weights[j, k] ** 2 for j in range(d) for k in range(c))
    return total / mass + 0.5 * float(l2) * norm


def naive(x, y, weights, l2):
    """Values [l] and gradients [l, d + 1, c] of every problem by autograd."""
    leaf = weights.detach().to(f64).clone().requires_grad_()
    values = torch.stack([naive_value(x, y, one, two) for one, two in zip(leaf, l2, strict=True)])
    (gradients,) = torch.autograd.grad(values.sum(), leaf)
    return values.detach(), gradients


def quick(x, y, weights, l2):
    """The same with matrices, for more rows; checked against the loops below."""
    leaf = weights.detach().to(f64).clone().requires_grad_()
    z = x.to(f64) @ leaf[:-1] + leaf[-1]
    y = y.to(f64)
    value = (y * (torch.logsumexp(z, 1, keepdim=True) - z)).sum() / y.sum() + 0.5 * l2 * (leaf[:-1] ** 2).sum()
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.detach(), gradient
