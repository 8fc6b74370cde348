"""The arithmetic of float32: true float32, or TF32 where a device has it.

TF32 keeps 10 of the 23 bits of the factors of matrix products and convolutions. torch leaves it off for products and on for
cuDNN's convolutions, until somebody changes that in one of two ways: by switches, or (from torch 2.9) by a precision for each
operation. After only one way was used, the other reads wrong values or raises; so both are set and both are restored.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def float32(*, tf32: bool) -> Iterator[None]:
    """Compute float32 products and convolutions of the block in true float32, or allow TF32; restore what was set before."""
    products, convolutions, operations = _products(), _convolutions(), _operations()
    precisions = [operation.fp32_precision for operation in operations]
    try:
        _set(None if products is None else "high" if tf32 else "highest", None if convolutions is None else tf32)
        for operation in operations:
            operation.fp32_precision = "tf32" if tf32 else "ieee"
        yield
    finally:
        _set(products, convolutions)
        for operation, precision in zip(operations, precisions, strict=True):
            operation.fp32_precision = precision


def _products() -> str | None:
    """Return the switch of matrix products; None where torch cannot tell, since only precisions of operations were set."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None


def _convolutions() -> bool | None:
    """Return the switch of cuDNN's convolutions; None where torch cannot tell, as in `_products`."""
    try:
        return bool(torch.backends.cudnn.allow_tf32)
    except RuntimeError:
        return None


def _set(products: str | None, convolutions: bool | None) -> None:
    if products is not None:
        torch.set_float32_matmul_precision(products)
    if convolutions is not None:
        torch.backends.cudnn.allow_tf32 = convolutions


def _operations() -> list[Any]:
    """Return the operations that have a precision of their own in torch; none before torch 2.9."""
    if not hasattr(torch.backends.cudnn, "conv"):
        return []
    cudnn: Any = torch.backends.cudnn
    mkldnn: Any = torch.backends.mkldnn
    return [torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv, mkldnn.rnn]
