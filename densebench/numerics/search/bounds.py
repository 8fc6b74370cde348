"""Products in low precision that are never below the score in float32: the arithmetic of the first of two passes.

A query q and a row r, both scaled by powers of two to lengths of at most 1, are rounded to q' and r'. For any q and r

    <q, r> - <q', r'>  =  <q - q', r> + <q', r - r'>  <=  |q - q'| |r| + (|q| + |q - q'|) |r - r'|

by Cauchy and Schwarz. The lengths of the rounding errors are computed, not estimated: for rows that a format holds exactly they
are 0.
Each row is extended by columns that hold |r| and |r - r'|, each query by |q - q'| and |q| + |q - q'|: the product of extended
rows *is* the bound. It includes the errors of the product itself, since |r - r'| is enlarged by `slack` |r|:

- a sum of n products of two rounded numbers in float32, in any order, is wrong by at most n 2^-24 of the sum of absolute values
  where additions round, and by twice that where they truncate, as tensor cores do; 2^-22 is allowed;
- the score that is bounded is computed in float32 itself, and so are the lengths: n 2^-24 each; 2^-23 is allowed.

Distances need - |r|^2 and padding needs minus infinity: three more columns hold this number as a sum of three. A product that is
written in half precision is rounded once more; `ceiling` allows for that.

Near 0 errors are absolute: squares below 2^-149 vanish, so that a length may be wrong by sqrt(d) 2^-75 and a score by d 2^-148,
times its scale. The `least` of a format exceeds both, as long as the scale of scores lies within SCALES.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from densebench.numerics.arithmetic import float32
from densebench.numerics.search.neighbours import Metric

Precision = Literal["fp16", "bf16", "tf32"]
COLUMNS = 5  # - |r|^2 or padding in three parts, |r|, |r - r'|
ALIGNED = 16  # columns come in multiples: tensor cores need rows of whole 16 bytes, and one of their steps adds 16 products
SCALES = 2.0**-126, 2.0**70  # of scores: within them no scaled score overflows or vanishes, and no error near 0 exceeds `least`
SHORT_SUMS = ("allow_fp16_accumulation", "allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction")
"""Switches of torch by which sums of half-precision products may be kept in half precision; some versions lack the first."""
LARGEST_RATIO = 2.0**10  # of the scales of queries and rows, for distances: within it no part of - |r|^2 is lost


@dataclass(frozen=True)
class _Format:
    """A dtype for rounded numbers. step: the largest relative rounding error; least: the largest absolute one, near 0."""

    dtype: torch.dtype
    step: float
    least: float


FORMATS = {
    "fp16": _Format(torch.float16, 2.0**-11, 2.0**-24),
    "bf16": _Format(torch.bfloat16, 2.0**-8, 2.0**-60),
    "tf32": _Format(torch.float32, 2.0**-11, 2.0**-60),
}


@dataclass(frozen=True)
class BoundedQueries:
    """Extended queries. scale: the factor by which a score is compared with a bound. usable: which queries have valid bounds."""

    extended: Float[Tensor, "q columns"]
    scale: Float[Tensor, "q"]
    usable: Bool[Tensor, "q"]


def slack(dim: int) -> float:
    """Return the share of |q| |r| by which sums of `dim` products and the score itself may be wrong together."""
    return (dim + 16) * (2.0**-22 + 2.0**-23)


def scale_of(values: Float[Tensor, "n d"], along: tuple[int, ...]) -> Float[Tensor, "*kept"]:
    """Return the power of two that scales rows to a length of at most 1, by the largest absolute value along these axes."""
    largest = torch.linalg.vector_norm(values, math.inf, along)  # unlike `abs`, it makes no copy of the values
    exponent = torch.frexp(largest.float()).exponent
    shift = -(exponent + (values.shape[-1] - 1).bit_length() // 2 + 1).clamp(-120, 120)
    return ((shift + 127) << 23).view(torch.float32)  # set by its bits: `2.0**shift` need not be exact


def extended_rows(
    rows: Float[Tensor, "n d"], scale: Float[Tensor, ""], real: Bool[Tensor, "n"], metric: Metric, precision: Precision
) -> Float[Tensor, "n columns"]:
    """Return rows of a memory, scaled, rounded and extended by the columns of the bound.

    real: the others are padding, bounded by -inf.
    """
    kind = FORMATS[precision]
    scaled = rows.float() * scale
    low = rounded(scaled, precision)
    length = scaled.norm(dim=1)
    off = (scaled - low.float()).norm(dim=1) + slack(rows.shape[1]) * length
    parts = [torch.zeros_like(low[:, 0])] * 3 if metric == "dot" else _in_three(-length.square(), rows.shape[1], precision)
    parts[0] = torch.where(real, parts[0], -torch.inf)
    return _extended(low, [*parts, _at_least(length, precision), _at_least(off, precision)], kind.dtype)


def bounded_queries(
    queries: Float[Tensor, "q d"], row_scale: Float[Tensor, ""], metric: Metric, precision: Precision
) -> BoundedQueries:
    """Return queries, scaled, rounded and extended. For distances `queries` are doubled, since 2 <q, r> - |r|^2 is the score."""
    scale = scale_of(queries, (1,))
    scaled = queries.float() * scale[:, None]
    low = rounded(scaled, precision)
    off = (scaled - low.float()).norm(dim=1)
    ratio = scale / row_scale if metric == "l2" else torch.ones_like(scale)
    both = scale * row_scale
    usable = (ratio >= 1 / LARGEST_RATIO) & (ratio <= LARGEST_RATIO) & queries.isfinite().all(1)
    usable = usable & (both >= SCALES[0]) & (both <= SCALES[1])
    share = ratio.clamp(1 / LARGEST_RATIO, LARGEST_RATIO).to(low.dtype)
    columns = [share, share, share, _at_least(off, precision), _at_least(scaled.norm(dim=1) + off, precision)]
    return BoundedQueries(_extended(low, columns, low.dtype), both, usable)


@contextmanager
def summed_in_float32(device: torch.device, precision: Precision) -> Iterator[None]:
    """Compute products in the block in their own dtype, with all partial sums in float32; restore the settings after it."""
    matmul = torch.backends.cuda.matmul
    before = {name: getattr(matmul, name) for name in SHORT_SUMS if hasattr(matmul, name)}
    try:
        for name in before:
            setattr(matmul, name, False)
        with torch.autocast(device.type, enabled=False), float32(tf32=precision == "tf32"):
            yield
    finally:
        for name, value in before.items():
            setattr(matmul, name, value)


def product(queries: Float[Tensor, "q columns"], rows: Float[Tensor, "n columns"]) -> Float[Tensor, "q n"]:
    """Return the products of extended queries and rows, in their dtype. A CPU computes them in float32, as tensor cores sum."""
    return queries @ rows.T if queries.is_cuda else (queries.float() @ rows.float().T).to(queries.dtype)


def ceiling(written: Float[Tensor, "*n"], precision: Precision) -> Float[Tensor, "*n"]:
    """Return upper bounds of the exact values of products, which were rounded when they were written; minus infinity stays."""
    kind, value = FORMATS[precision], written.float()
    share = 2.0**-22 + (0.0 if written.dtype == torch.float32 else kind.step)
    return value + value.abs().nan_to_num(posinf=0.0) * share + kind.least


def rounded(values: Float[Tensor, "*n"], precision: Precision) -> Float[Tensor, "*n"]:
    """Return values rounded to nearest in a format. TF32, of 10 mantissa bits, is held in float32."""
    if precision != "tf32":
        return values.to(FORMATS[precision].dtype)
    return ((values.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def _at_least(values: Tensor, precision: Precision) -> Tensor:
    """Return values of a format that are at least these ones, which are not negative and were rounded to float32."""
    kind = FORMATS[precision]
    return rounded(values * (1 + 4 * kind.step) + 2 * kind.least, precision)


def _in_three(negative: Tensor, dim: int, precision: Precision) -> list[Tensor]:
    """Return three numbers of a format whose sum is at least `negative`, minus a squared length, and hardly greater."""
    kind, parts = FORMATS[precision], []
    rest = negative * (1 - slack(dim)) + 2 * kind.least
    for _ in range(3):
        parts.append(rounded(rest, precision))
        rest = rest - parts[-1].float()
    return parts


def _extended(low: Tensor, columns: list[Tensor], dtype: torch.dtype) -> Tensor:
    whole = torch.cat([low, torch.stack(columns, 1)], 1).to(dtype)
    return F.pad(whole, (0, -whole.shape[1] % ALIGNED))
