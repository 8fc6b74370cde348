"""Learning rates side by side against one after the other, in one run.

1. `linear/mmseg`: the heads of four learning rates on one frozen backbone, trained side by side, against four runs of one head
   each: the same bridge, batches, iterations and one validation. Losses and mIoU of every rate are compared first.
2. Published probes: one step of `Heads` (logits are upsampled, all learning rates in one product) against the naive step of the
   reference for each learning rate (features are upsampled, a 1 x 1 convolution, autograd, torch.optim.SGD). The weights
   after three steps are compared first.

    python tests/benchmarks/bench_heads.py [--backbone random:vit_tiny_patch16_224] [--crop 224] [--iterations 10] [--threads 1]

Seconds of part 1 are of one turn each; part 2 gives the best of --repeat. Peak memory is what a side needs beyond its inputs.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from measuring import peak, settle
from torch import nn

from densebench.backbones.loading import load_backbone
from densebench.bridges.mmsegmentation import Data, train
from densebench.datasets import load_dataset
from densebench.evals.linear.mmseg import LinearMmseg
from densebench.evaluation.labels import LabelSpace
from densebench.evaluation.window_scores import setup_of
from densebench.numerics.sgd_layers import Heads
from densebench.processes import World, resolve_device

RATES = (8e-4, 3e-4, 1e-4, 8e-5)
MEGABYTE = 1e6


def parsed():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="random:vit_tiny_patch16_224")
    parser.add_argument("--crop", type=int, default=224)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--images", type=int, default=16, help="of part 2, in a batch")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    return parser.parse_args()


def runs(arguments):
    """Part 1: seconds side by side and one after the other."""
    dataset, backbone = load_dataset("scenes"), load_backbone(arguments.backbone)
    options = LinearMmseg(crop_size=arguments.crop, iterations=arguments.iterations, validations=1).resolve(dataset)
    setup = setup_of(options, backbone, dataset, head="linear", photometric=True, trained=False, warmup=0.0, drop_path=0.0)
    space = LabelSpace(dataset, "drop", "off")
    data = Data(dataset, dataset.items("train"), dataset.items("val"), space.names, space.read_truth)
    world = World(0, 1, resolve_device(arguments.device))

    def timed(groups):
        found, started = {}, time.perf_counter()
        for rates in groups:
            with tempfile.TemporaryDirectory() as folder:
                trained = train(backbone, data, setup, rates, Path(folder), world)
            found |= {r: (trained.losses[r], trained.validations[-1].mmseg[i]) for i, r in enumerate(rates)}
        return time.perf_counter() - started, found

    timed([RATES[:1]])  # warms up: imports, first allocations
    together, ours = timed([RATES])
    apart, theirs = timed([(rate,) for rate in RATES])
    for rate in RATES:
        assert abs(ours[rate][0] - theirs[rate][0]).max() < 1e-4, (rate, ours[rate][0], theirs[rate][0])
        assert abs(ours[rate][1] - theirs[rate][1]) < 0.05, (rate, ours[rate][1], theirs[rate][1])
    print(
        f"linear/mmseg, {arguments.backbone}, crops of {arguments.crop} px, "
        f"{arguments.iterations} iterations of 8, 64 images scored"
    )
    print(
        f"  four runs {apart:8.1f} s\n  together  {together:8.1f} s   {apart / together:.1f} times faster; equal losses and mIoU"
    )


def naive(features, labels, layers, optimisers):
    """One step of every learning rate as the reference takes it."""
    for layer, optimiser in zip(layers, optimisers, strict=True):
        large = F.interpolate(features, labels.shape[1:], mode="bilinear", align_corners=False)
        optimiser.zero_grad()
        F.cross_entropy(layer(large), labels.long(), ignore_index=255).backward()
        optimiser.step()


def probes(arguments):
    """Part 2: milliseconds of a step."""
    device, width, classes = resolve_device(arguments.device), 384, 21
    generator = torch.Generator().manual_seed(0)
    grids = torch.randn(arguments.images, 28, 28, width, generator=generator).to(device)
    labels = torch.randint(0, classes, (arguments.images, 100, 100), generator=generator).to(torch.uint8).to(device)
    print(
        f"a step of {len(RATES)} learning rates on {arguments.images} images: "
        f"28 x 28 x {width} features, {classes} classes, labels 100 x 100"
    )
    settings = {"momentum": 0.9, "weight_decay": 1e-4}
    heads = Heads(width, classes, [100 * rate for rate in RATES], [0], **settings, device=device)
    layers = [nn.Conv2d(width, classes, 1).to(device) for _ in RATES]
    first = heads.weights[0]
    for layer, weight in zip(layers, first, strict=True):
        layer.weight.data.copy_(weight[:-1].T[:, :, None, None])
        layer.bias.data.copy_(weight[-1])
    optimisers = [
        torch.optim.SGD(layer.parameters(), lr=100 * rate, **settings) for layer, rate in zip(layers, RATES, strict=True)
    ]
    features = grids.permute(0, 3, 1, 2).contiguous()
    sides = {
        "naive": lambda: naive(features, labels, layers, optimisers),
        "ours": lambda: heads.step(grids[None], labels[None]),
    }
    for _ in range(3):
        for step in sides.values():
            step()
    for layer, weight in zip(layers, heads.weights[0], strict=True):
        assert (layer.weight.detach()[:, :, 0, 0].T - weight[:-1]).abs().max() < 1e-5
    costs = {}
    for name, step in sides.items():
        seconds = []
        held = settle(device)
        for _ in range(arguments.repeat):
            started = time.perf_counter()
            step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
        costs[name] = min(seconds), peak(device) - held
    (slow, large), (fast, small) = costs["naive"], costs["ours"]
    print(
        f"  naive {1000 * slow:8.1f} ms {large / MEGABYTE:8.1f} MB\n  ours  {1000 * fast:8.1f} ms {small / MEGABYTE:8.1f} MB",
        end="   ",
    )
    print(f"{slow / fast:.1f} times faster, {large / max(small, 1):.1f} times less memory; equal weights")


def main():
    arguments = parsed()
    torch.set_num_threads(arguments.threads)
    probes(arguments)
    runs(arguments)


if __name__ == "__main__":
    main()
