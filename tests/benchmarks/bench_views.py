"""The views of a step on a GPU: rendered together by a plan, against view by view with an index list for every operation.

What counts is the host: how many operations it starts, how many arrays it sends, and the CPU time, in one run on CPU tensors of a
size at which starting them is what takes the time. Two 32 px and eight 16 px views have the structure of DINO's 2 x 224 + 8 x 96.
Views that only share memory with their source start nothing and are not counted. Both sides must give the same views.

    python tests/benchmarks/bench_views.py [--batch-size 64] [--local-crops 8]

`bench_pretrain.py` times whole views on the device that is there, against a loader that makes them image by image.
"""

from __future__ import annotations

import argparse
import collections
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from densebench.backbones.backbone import IMAGENET_MEAN, IMAGENET_STD
from densebench.numerics.crops import chunks, matrix_crops
from densebench.pretrain.dino import DINO
from densebench.training.augmentation import BLUR_FLAG, GREY_FLAG, OPERATIONS, SOLARISE_FLAG, blur, draw_views, greyed, solarised
from densebench.training.batches import collate
from densebench.training.rendering import render_views

CPU = torch.device("cpu")
SIDE = 48  # of the images, px


class Counted(TorchDispatchMode):
    """Counts operations that compute or copy."""

    def __init__(self):
        super().__init__()
        self.names = collections.Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if not function.is_view and "empty" not in str(function):
            self.names[str(function)] += 1
        return function(*args, **(kwargs or {}))


class Naive:
    """View by view. `sent` counts the arrays that a GPU would get, each by a copy of its own."""

    def __init__(self):
        self.sent = 0

    def send(self, tensor):
        self.sent += 1
        return tensor.to(CPU, non_blocking=True)

    def render(self, batch, specs):
        data = self.send(batch.pixels.buffers[0])
        return [self.view(data, batch, draws, spec) for draws, spec in zip(batch.draws, specs, strict=True)]

    def view(self, data, batch, draws, spec):
        boxes = draws.boxes.clone()
        boxes[:, :2] -= batch.offsets
        sizes, flips = self.send(F.pad(boxes[:, 2:], (2, 0))), self.send(draws.flips)
        layout = torch.cat([batch.pixels.starts(boxes[:, :2].long())[:, None], batch.pixels.layout[:, 1:]], dim=1)
        table, parts = self.send(layout), []
        heights, widths = boxes[:, 2:].long().T.tolist()
        for begin, end in chunks(heights, widths):
            high, wide = (torch.arange(max(sides[begin:end])) for sides in (heights, widths))
            first, channel, row, column = table[begin:end].T[:, :, None, None, None]
            index = first + channel * torch.arange(3)[:, None, None] + row * high[:, None] + column * wide
            stack = data[index.clamp_(max=len(data) - 1)]
            parts.append(matrix_crops(stack, sizes[begin:end], flips[begin:end], spec.size, spec.kernel))
        pixels = torch.cat(parts)
        for position in range(4):
            for number, operation in enumerate(OPERATIONS):
                self.apply(pixels, draws.jittered(position, number), operation, draws.strength(number))
        self.apply(pixels, draws.where(GREY_FLAG), lambda x, _: greyed(x).expand_as(x), draws.sigmas)
        self.apply(pixels, draws.where(BLUR_FLAG), blur, draws.sigmas)
        self.apply(pixels, draws.where(SOLARISE_FLAG), lambda x, _: solarised(x), draws.sigmas)
        mean, std = (self.send(torch.tensor(values).view(3, 1, 1)) for values in (IMAGENET_MEAN, IMAGENET_STD))
        return (pixels - mean) / std

    def apply(self, pixels, chosen, operation, strength):
        if len(chosen):
            index, factor = self.send(chosen), self.send(strength[chosen]).view(-1, 1, 1, 1)
            pixels[index] = operation(pixels[index], factor)


def together(batch, specs):
    batch = batch.on(CPU, specs)
    return render_views(batch.pixels, batch.offsets, batch.draws, specs, batch.plans, IMAGENET_MEAN, IMAGENET_STD)


def measured(work, repeats):
    """The result, the operations, and the best time of several."""
    with Counted() as counted:
        result = work()
    best = float("inf")
    for _ in range(repeats):
        started = time.process_time()
        work()
        best = min(best, time.process_time() - started)
    return result, counted.names.total(), best


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"batch_size": 64, "local_crops": 8, "repeats": 5}.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    given = parser.parse_args()
    specs = DINO(image_size=32, local_size=16, local_crops=given.local_crops).views()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (given.batch_size, SIDE, SIDE, 3), dtype=np.uint8)
    started = time.process_time()
    tables = [draw_views(specs, SIDE, SIDE, rng) for _ in images]
    drawn = time.process_time() - started
    batch = collate([(image, table, number, ()) for number, (image, table) in enumerate(zip(images, tables, strict=True))], True)
    naive = Naive()
    slow, slow_operations, slow_seconds = measured(lambda: naive.render(batch, specs), given.repeats)
    sent = naive.sent // (given.repeats + 1)
    fast, fast_operations, fast_seconds = measured(lambda: together(batch, specs), given.repeats)
    apart = max(float((one - other).abs().max()) for one, other in zip(slow, fast, strict=True))
    if apart > 0:
        parser.error(f"the two sides differ by {apart:.1e}; their ratio means nothing")
    print(f"{given.batch_size} images, {len(specs)} views: drawn in {1e3 * drawn:.1f} ms; both sides give equal views")
    print(f"{'':24} {'operations':>10} {'arrays sent':>12} {'ms':>8}")
    print(f"{'view by view':24} {slow_operations:10} {sent:12} {1e3 * slow_seconds:8.1f}")
    print(f"{'together':24} {fast_operations:10} {2:12} {1e3 * fast_seconds:8.1f}")


if __name__ == "__main__":
    main()
