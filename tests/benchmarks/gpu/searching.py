"""The search of in-context evaluation at the size of VOC: 10.24 million patches of 384 features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timing import memory as peak_memory
from timing import seconds

from densebench.numerics.search import Search

VOC = 1449 * 32 * 32  # patches of the validation images at 512 px, 16 px each
NEIGHBOURS = 30


def searching(bench):
    rows, width, images = bench.size(10_240_000, 8_000), 384, bench.size(10_240, 40)
    memory = torch.randn(rows, width, device=bench.device)
    memory /= memory.norm(dim=1, keepdim=True)
    queries = F.normalize(torch.randn(bench.size(4096, 64), width, device=bench.device), dim=1)
    segments = torch.full((images,), rows // images)
    for members, expected in ((_members(images)[:1], 390), (_members(images), 330)):  # 30 s and 35 s for VOC
        search = Search(memory, segments, members)
        each = seconds(bench, lambda search=search: search.search(queries, NEIGHBOURS), bench.size(3, 1), 1)
        rate = 2 * len(queries) * rows * width / each / 1e12
        minutes = each * VOC / len(queries) / 60
        whole = f"{each:.3f} s; VOC's {VOC / 1e6:.2f} M patches in {minutes:.2f} min{peak_memory(bench)}"
        if search.fallbacks is not None:
            whole += f"; {search.widened} queries took more candidates, {search.fallbacks} fell back"
        bench.add("search", f"{rows} x {width}, {len(members)} subsets, {len(queries)} queries", rate, "TFLOP/s", expected, whole)


def _members(images):
    """The subsets of an evaluation: all images, and five choices of 1/8, 1/64 and 1/128 of them."""
    rng = torch.Generator().manual_seed(0)
    shares = [1] + [8] * 5 + [64] * 5 + [128] * 5
    members = torch.stack([torch.rand(images, generator=rng) < 1 / share for share in shares])
    members[:, 0] = True
    return members
