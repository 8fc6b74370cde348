"""One step of NeCo, part by part: how long 25 epochs of COCO take, and what sorting costs in it, beside a dense sort.

    python tests/benchmarks/bench_neco.py [--device cuda] [--batch-size 64] [--arch ...] [--precision bf16] [--repeat 5]

The step is that of the preset `coco` (two views of 224 px, four of 98 px, 49 references, 10 pairs of views) on random pixels that
lie on the device: forward and backward of student, teacher, alignment and loss, the optimiser's step and the teacher's. Printed
are the seconds of the whole step with our sort and with the restatement (dense matrices, `bench_sorting.py`), in this run, with
the equality of their losses; the parts; images per second; and the hours of 25 epochs of COCO's 118,287 images at that rate.
Reading and augmenting images is not in it. On a CPU give a small --arch, --image-size and --batch-size.
"""

from __future__ import annotations

import argparse
import time

import bench_sorting
import numpy as np
import torch

from densebench.datasets.images import Images
from densebench.pretrain.neco import method as neco
from densebench.pretrain.neco.method import NeCo
from densebench.processes import World
from densebench.training.augmentation import AugmentParams, draw_views
from densebench.training.loop import assemble, update
from densebench.training.networks import create_encoder
from densebench.training.objective import Views

COCO, EPOCHS = 118_287, 25
TOLERANCE = 1e-4  # rounding of float32, as a share of the loss


class Count(Images):
    """So many images that nobody opens."""

    def __init__(self, count):
        self.name, self.count = "random", count

    def __len__(self):
        return self.count

    def title(self, index):
        return str(index)

    def open(self, index):
        raise NotImplementedError


def parsed():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--arch", default="vit_tiny_patch16_224")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--local-size", type=int, default=96)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeat", type=int, default=3)
    return parser.parse_args()


def prepared(given):
    """A run at its first step, and views of one batch on the device."""
    device = torch.device(given.device)
    options = NeCo(
        **{name: getattr(given, name) for name in ("arch", "image_size", "local_size", "batch_size", "precision", "compile")},
        references="queue", cache="none", steps=1000,
    )  # fmt: skip
    encoder = create_encoder(options.arch, options.image_size, options.drop_path)
    training = assemble(options, encoder, Count(options.batch_size), 0, World(0, 1, device))
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    tables = np.stack([draw_views(options.views(), 640, 480, rng) for _ in range(options.batch_size)])
    pixels = [
        torch.randn(options.batch_size, 3, view.size, view.size, generator=generator).to(device) for view in options.views()
    ]
    draws = tuple(AugmentParams(torch.from_numpy(tables[:, number].copy())) for number in range(len(pixels)))
    return training, Views(tuple(pixels), draws, torch.arange(options.batch_size))


def dense_order_loss(student, teacher, weights, *, steepness, teacher_steepness, **_):
    """`order_loss` by dense matrices: the restatement, of which autograd keeps everything."""
    network = bench_sorting.layers(student.shape[1], student.device)
    with torch.no_grad():
        target = bench_sorting.dense(teacher, network)
    entropies = -(target * bench_sorting.dense(student, network).clamp(min=1e-20).log()).sum((1, 2)) / student.shape[1]
    return (weights * entropies).sum()


def timed(action, device, repeat):
    """The best of `repeat` seconds, after one run that does not count."""
    action()
    best = float("inf")
    for _ in range(repeat):
        wait(device)
        start = time.perf_counter()
        action()
        wait(device)
        best = min(best, time.perf_counter() - start)
    return best


def wait(device):
    if device == "cuda":
        torch.cuda.synchronize()


def main():
    given = parsed()
    torch.set_num_threads(given.threads)
    torch.set_float32_matmul_precision("highest" if given.precision == "fp32" else "high")
    training, views = prepared(given)
    student, teacher, objective = training.student, training.teacher, training.objective
    batch = torch.cat(views.pixels[:2])

    def step():
        torch.manual_seed(0)
        found = objective(student, teacher, views, training.now(0, False))
        found.total.backward()
        update(training, [found])

    def under(sort, action):
        before = neco.order_loss
        neco.order_loss = sort
        try:
            return action()
        finally:
            neco.order_loss = before

    def loss():
        torch.manual_seed(0)
        with torch.no_grad():
            return float(objective(student, teacher, views, training.now(0, False)).total)

    rows, count = (
        given.batch_size * len(objective.pairs(views)) * training.options.region_size**2,
        training.options.reference_count,
    )
    values, taught = (torch.randn(rows, count, device=given.device) * 0.2 for _ in "st")
    weights = torch.full((rows,), 1 / rows, device=given.device)
    steep = {"steepness": 100.0, "teacher_steepness": 100.0}

    def sort(order_loss):
        return lambda: order_loss(values.requires_grad_(True), taught, weights, **steep).backward()

    def told():
        with torch.no_grad():
            return teacher.project(teacher.encode(batch).patches)

    def seen():
        sum(tokens.sum() for tokens in objective.projected(student, views)).backward()

    one, other = loss(), under(dense_order_loss, loss)
    objective.discard()
    if not abs(one / other - 1) < TOLERANCE:
        raise SystemExit(f"the losses differ: {one} with our sort, {other} with dense matrices")

    def clock(action):
        return timed(action, given.device, given.repeat)

    seconds, dense_seconds = clock(step), under(dense_order_loss, lambda: clock(step))
    parts = {"teacher": clock(told), "student, both ways": clock(seen)}
    parts |= {"sorting, ours": clock(sort(neco.order_loss)), "sorting, dense": clock(sort(dense_order_loss))}
    print(f"{given.arch}, {given.batch_size} images, {given.precision}, {name_of(given.device)}, {rows} rows of {count} to sort")
    for name, value in {**parts, "whole step, ours": seconds, "whole step, dense sort": dense_seconds}.items():
        print(f"  {name:24} {value * 1e3:9.1f} ms")
    rate = given.batch_size / seconds
    print(f"  dense / ours: step {dense_seconds / seconds:.2f}, sorting {parts['sorting, dense'] / parts['sorting, ours']:.2f}")
    print(f"  {rate:.1f} images/s; {EPOCHS} epochs of COCO at that rate: {COCO * EPOCHS / rate / 3600:.2f} h")


def name_of(device):
    return torch.cuda.get_device_name() if device == "cuda" else f"cpu ({torch.get_num_threads()} threads)"


if __name__ == "__main__":
    main()
