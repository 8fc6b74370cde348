"""The vectors of the second smallest eigenvalue of many graphs at once.

With u = D^(1/2) v the problem (D - W) v = lambda D v becomes A u = (1 - lambda) u for the symmetric A = D^(-1/2) W D^(-1/2). Its
greatest eigenvalue is 1, of the known vector D^(1/2) 1. The next two are found in a block Krylov space that is kept orthogonal
to that vector: products of A with a few vectors at a time, and nothing of cubic cost. A block, rather than one vector, finds an
eigenvalue twice where it occurs twice, so that the gap to the third one can be told. What has not converged after MOST products,
and graphs of up to DENSE patches, are solved as a whole (`torch.linalg.eigh`).
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

DENSE = 96
BLOCK, MOST, CHECKED = 4, 48, 4  # vectors of a block; products of A with a block; products between two looks at the residual
VANISHED = 1e-11  # length of what is left of a vector below which it is rounding
TOLERANCE, TOLERANCE_OF_NEXT = 1e-10, 1e-6  # norms of the residuals of u and of the vector after it, both of length 1


class Eigenvectors(NamedTuple):
    """Of each graph: the vector of the second smallest eigenvalue, that eigenvalue and the third, and the residual.

    vector: of length 1, its greatest entry by size positive. values: between 0 and 2. residual: the norm of
    A u - (1 - lambda) u for u of length 1.
    """

    vector: Float[Tensor, "b n"]
    values: Float[Tensor, "b 2"]
    residual: Float[Tensor, "b"]


class _Pairs(NamedTuple):
    """u [b n] of length 1; the two greatest eigenvalues of A beside 1, the greater one first; norms of both residuals."""

    vector: Tensor
    values: Tensor
    residuals: Tensor


def second_eigenvectors(weights: Float[Tensor, "b n n"]) -> Eigenvectors:
    """Return the solutions v of (D - W) v = lambda D v for the second smallest lambda of each graph, D the sums of W's rows.

    weights: float64, symmetric, of two patches at least; the sums of rows must be positive.
    """
    degrees = weights.sum(2)
    scale = degrees.rsqrt()
    matrix = (weights * scale[:, :, None]).mul_(scale[:, None, :])
    trivial = F.normalize(degrees.sqrt(), dim=1)
    pairs = _dense(matrix, trivial) if matrix.shape[1] <= DENSE else _krylov_or_dense(matrix, trivial)
    vector = F.normalize(pairs.vector * scale, dim=1)
    greatest = vector.gather(1, vector.abs().argmax(1, keepdim=True))
    return Eigenvectors(vector * greatest.sign(), 1 - pairs.values, pairs.residuals[:, 0])


def _dense(matrix: Tensor, trivial: Tensor) -> _Pairs:
    """Solve the whole problem, with the eigenvalue 1 of the trivial vector moved to -1, below which there is none."""
    values, vectors = torch.linalg.eigh(matrix - 2 * trivial[:, :, None] * trivial[:, None, :])
    two, values = vectors[:, :, -2:].flip(2), values[:, -2:].flip(1)
    return _Pairs(two[:, :, 0], values, (matrix @ two - two * values[:, None]).norm(dim=1))


def _krylov_or_dense(matrix: Tensor, trivial: Tensor) -> _Pairs:
    pairs = _krylov(matrix, trivial)
    late = (~_converged(pairs.residuals)).nonzero()[:, 0]
    if not len(late):
        return pairs
    exact = _dense(matrix[late], trivial[late])
    return _Pairs(*(of_all.index_copy(0, late, of_late) for of_all, of_late in zip(pairs, exact, strict=True)))


def _converged(residuals: Tensor) -> Tensor:
    return (residuals[:, 0] <= TOLERANCE) & (residuals[:, 1] <= TOLERANCE_OF_NEXT)


def _krylov(matrix: Tensor, trivial: Tensor) -> _Pairs:
    """Return the best pairs in a block Krylov space that grows until all have converged, or by MOST blocks.

    Each graph keeps the pairs with which it converged first, so that they do not depend on the graphs beside it. The first column
    of the basis is the trivial vector.
    """
    count, patches = trivial.shape
    blocks = min(MOST, (patches - 1) // BLOCK)
    basis = matrix.new_empty(count, patches, 1 + BLOCK * blocks)
    images = torch.empty_like(basis)
    basis[:, :, 0] = images[:, :, 0] = trivial
    start = _start(patches, matrix.device)
    block, pairs = start.expand(count, -1, -1), None
    for number in range(1, blocks + 1):
        first, last = 1 + BLOCK * (number - 1), 1 + BLOCK * number
        block = _orthonormal(block, basis[:, :, :first], start.roll(number, 0))
        basis[:, :, first:last] = block
        block = images[:, :, first:last] = matrix @ block
        if number % CHECKED == 0 or number == blocks:
            pairs = _kept(pairs, _best_pairs(basis[:, :, 1:last], images[:, :, 1:last]))
            if number == blocks or bool(_converged(pairs.residuals).all()):  # the one wait for the device
                break
    assert pairs is not None
    return pairs


def _kept(before: _Pairs | None, now: _Pairs) -> _Pairs:
    """Return the pairs before where they had converged, else those of now."""
    if before is None:
        return now
    done = _converged(before.residuals)[:, None]
    return _Pairs(*(torch.where(done, old, new) for old, new in zip(before, now, strict=True)))


def _orthonormal(block: Tensor, basis: Tensor, spare: Tensor) -> Tensor:
    """Return an orthonormal basis of a block's part that is orthogonal to `basis`.

    It is taken twice, since once leaves rounding where little is left. Vectors of which nothing is left, as in graphs of few
    different patches, are replaced by those of `spare`, which is random: they widen the space and harm nothing.
    """
    part, triangle = torch.linalg.qr(block - basis @ (basis.mT @ block))
    vanished = triangle.diagonal(dim1=1, dim2=2).abs() < VANISHED
    part = torch.where(vanished[:, None], spare, part)
    part, _ = torch.linalg.qr(part - basis @ (basis.mT @ part))
    return part


def _best_pairs(basis: Tensor, images: Tensor) -> _Pairs:
    """Return the two best pairs in the space of a basis [b n m] (Rayleigh and Ritz). images: the products of A with it."""
    small = basis.mT @ images
    values, vectors = torch.linalg.eigh((small + small.mT) / 2)
    two, values = vectors[:, :, -2:].flip(2), values[:, -2:].flip(1)
    of_space = basis @ two
    return _Pairs(of_space[:, :, 0], values, (images @ two - of_space * values[:, None]).norm(dim=1))


@functools.lru_cache(maxsize=64)
def _start(patches: int, device: torch.device) -> Tensor:
    """Return the first block, the same on every device and in every run."""
    with torch.inference_mode(False):
        drawn = torch.randn(patches, BLOCK, dtype=torch.float64, generator=torch.Generator().manual_seed(patches))
        return drawn.to(device)
