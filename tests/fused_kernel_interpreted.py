"""Run the fused kernel in Triton's interpreter on small made-up products; stop with an error where it differs from its mirror.

A script, since Triton reads TRITON_INTERPRET once, when it is imported.
"""

from __future__ import annotations

import torch

from densebench.numerics.search.fused import by_blocks
from densebench.numerics.search.fused_kernel import launch

SHAPES = [(1, 32, 16, 32), (130, 320, 80, 32), (128, 256, 64, 64), (200, 576, 160, 64), (1100, 64, 16, 64)]


def main():
    generator = torch.Generator().manual_seed(0)
    for queries, slots, columns, group in SHAPES:
        for dtype in (torch.float16, torch.float32):
            one = torch.randint(-4, 5, (queries, columns), generator=generator).to(dtype)  # so that sums are exact
            other = torch.randint(-4, 5, (slots, columns), generator=generator).to(dtype)
            one[:, -1] = 1
            other[slots // 2 :: 3, -1] = -torch.inf
            maxima = torch.full((queries, slots // group), torch.nan)
            launch(one, other, maxima, group)
            assert torch.equal(maxima, by_blocks(one, other, group)), (queries, slots, columns, group, dtype)
            assert torch.equal(maxima, (one.float() @ other.float().T).unflatten(1, (-1, group)).amax(2))
    print("equal")


if __name__ == "__main__":
    main()
