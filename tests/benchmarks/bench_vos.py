"""Label propagation, label maps and their scores: ours against a restatement of how the public reference does it, in one run.

The restatement takes one video after the other: a window mask of all tokens by all tokens filled in Python loops, the whole
affinity of the frame with each context frame, multiplied by the mask; top-k over all keys; upsampled maps written as PNGs, which
the evaluation reads back as one array a video, with boundaries dilated by a disk for every object and frame. Ours compares
windows alone, several videos at once, and keeps nothing on disk. Both follow the same made-up features, so maps must be equal.

    python tests/benchmarks/bench_vos.py [--grid 30x52] [--patch 16] [--videos 2] [--frames 20] [--objects 2] [--threads 1]

Each side runs in a process of its own, so that its peak memory is its own. The backbone is left out: it is the same for both.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

STAGES = ("window", "propagation", "maps", "metrics")
RADIUS, K, TEMPERATURE, LAST = 12, 5, 0.1, 7
ALIKE = 1e-4  # share of pixels that may differ: channels that are equal but for rounding


class Videos:
    """Features of patterns that move, with noise, and masks that move with them."""

    def __init__(self, arguments):
        self.grid, self.patch = tuple(int(side) for side in arguments.grid.split("x")), arguments.patch
        self.size = (self.grid[0] * self.patch, self.grid[1] * self.patch + 22)  # as 854 px are to 832
        self.frames, self.objects, self.count, self.width = arguments.frames, arguments.objects, arguments.videos, arguments.width
        generator = torch.Generator().manual_seed(0)
        sides = [side + self.frames for side in self.grid]
        self._grounds = torch.randn(self.count, *sides, self.width, generator=generator)

    def features(self, video, t):
        (h, w), own = self.grid, torch.Generator().manual_seed(1000 * video + t)
        return self._grounds[video][t : t + h, t : t + w] + 0.5 * torch.randn(h, w, self.width, generator=own)

    def mask(self, video, t):
        found = np.zeros(self.size, np.uint8)
        for number in range(1, self.objects + 1):
            rng = np.random.default_rng(100 * video + number)
            y, x = (int(rng.integers(side // 5, side // 2)) - t * self.patch for side in self.size)
            found[max(0, y) : max(0, y + self.size[0] // 3), max(0, x) : max(0, x + self.size[1] // 4)] = number
        return found


class Seconds(dict):
    """Time by stage, of the clock on the wall or of the processor."""

    clocks: ClassVar = {"wall": time.perf_counter, "cpu": time.process_time}

    def __init__(self, clock):
        self.clock = self.clocks[clock]


@contextmanager
def timed(seconds, stage):
    started = seconds.clock()
    yield
    seconds[stage] = seconds.get(stage, 0.0) + seconds.clock() - started


def ours(videos, folder, seconds):
    """As `evals/vos_tracking.py` and `evals/vos_scoring.py` do it; maps are kept for the comparison alone."""
    from densebench.evals.vos.tracking import AT_ONCE, Context, best_ids, on_grid, one_hot, resized_ids
    from densebench.numerics.propagation import Window, propagate
    from densebench.numerics.video import object_scores, statistics

    values, context = defaultdict(list), None
    shape = (videos.grid[0] * videos.patch, videos.grid[1] * videos.patch)
    for t in range(videos.frames):
        features = torch.stack([videos.features(video, t) for video in range(videos.count)])
        with timed(seconds, "propagation"):
            features = F.normalize(features, dim=-1)
            if context is None:
                grids = [on_grid(videos.mask(video, 0), videos.grid) for video in range(videos.count)]
                context = Context(features, one_hot(grids, videos.objects + 1), LAST)
                continue
            found = propagate(features, *context.frames(videos.count), Window(RADIUS, "square", K, TEMPERATURE), AT_ONCE["cpu"])
            context.push(features, found)
        with timed(seconds, "maps"):
            ids = [best_ids(soft, shape, "bilinear").numpy() for soft in found]
            maps = [resized_ids(one, videos.size[::-1], "bilinear") for one in ids]
        for video, own in enumerate(maps):
            if t < videos.frames - 1:
                truth = videos.mask(video, t)
                with timed(seconds, "metrics"):
                    values[video].append(object_scores(own, truth, videos.objects))
            Image.fromarray(own).save(folder / f"{video}-{t}.png")
    means = [statistics(column).mean for own in values.values() for one in np.array(own).transpose(1, 2, 0) for column in one]
    return 100 * float(np.mean(means))


def loops_window(h, w):
    """Which token sees which, filled one by one."""
    found = torch.zeros(h, w, h, w)
    for i in range(h):
        for j in range(w):
            for y in range(i - RADIUS, i + RADIUS + 1):
                for x in range(j - RADIUS, j + RADIUS + 1):
                    if 0 <= y < h and 0 <= x < w:
                        found[i, j, y, x] = 1
    return found.view(h * w, h * w)


def dense(query, keys, labels, window):
    """The labels of a frame from all tokens of the context frames."""
    tokens, t = len(query), len(keys)
    source = F.normalize(torch.stack(keys), dim=1)  # [t, d, tokens]
    target = F.normalize(query, dim=1)[None].repeat(t, 1, 1)
    affinity = torch.exp(torch.bmm(target, source) / TEMPERATURE)
    affinity *= window
    affinity = affinity.transpose(2, 1).reshape(-1, tokens)
    least = affinity.topk(K, dim=0).values.min(dim=0).values
    affinity[affinity < least] = 0
    affinity = affinity / affinity.sum(0, keepdim=True)
    return torch.cat(labels).T @ affinity  # [c, tokens]


def naive(videos, folder, seconds):
    means = []
    for video in range(videos.count):
        naive_video(videos, video, folder, seconds)
        with timed(seconds, "metrics"):
            truth = np.stack([videos.mask(video, t) for t in range(1, videos.frames - 1)])
            found = np.stack([np.array(Image.open(folder / f"{video}-{t}.png")) for t in range(1, videos.frames - 1)])
            for number in range(1, videos.objects + 1):
                means += naive_measures(found == number, truth == number)
    return 100 * float(np.mean(means))


def naive_video(videos, video, folder, seconds):
    (h, w), window, queue = videos.grid, None, []
    first = videos.features(video, 0).flatten(0, 1).T
    small = Image.fromarray(videos.mask(video, 0)).resize((w, h), Image.Resampling.NEAREST)
    labels = F.one_hot(torch.from_numpy(np.array(small)).long(), videos.objects + 1).float().flatten(0, 1)
    for t in range(1, videos.frames):
        query = videos.features(video, t).flatten(0, 1)
        if window is None:
            with timed(seconds, "window"):
                window = loops_window(h, w)[None]
        with timed(seconds, "propagation"):
            soft = dense(query, [first, *(key for key, _ in queue)], [labels, *(label for _, label in queue)], window)
            queue = [*queue, (query.T, soft.T)][-LAST:]
        with timed(seconds, "maps"):
            large = F.interpolate(soft.view(1, -1, h, w), scale_factor=videos.patch, mode="bilinear", align_corners=False)[0]
            for channel in large:
                if channel.max() > 0:
                    channel -= channel.min().clone()
                    channel /= channel.max().clone()
            ids = Image.fromarray(large.max(0).indices.numpy().astype(np.uint8))
            ids.resize(videos.size[::-1], Image.Resampling.NEAREST).save(folder / f"{video}-{t}.png")


def naive_measures(found, truth):
    """Mean J and mean F of an object."""
    import cv2

    radius = int(np.ceil(0.008 * np.linalg.norm(truth.shape[1:])))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disk = (x**2 + y**2 <= radius**2).astype(np.uint8)
    both, either = (found & truth).sum((1, 2)), (found | truth).sum((1, 2))
    j = np.where(either == 0, 1.0, both / np.maximum(either, 1))
    f = []
    for own, there in zip(found, truth, strict=True):
        edges = [naive_edges(mask) for mask in (own, there)]
        wide = [cv2.dilate(edge.astype(np.uint8), disk) for edge in edges]
        counts = [edge.sum() for edge in edges]
        if not all(counts):
            f.append(float(counts[0] == counts[1]))
            continue
        precision, recall = (edges[0] * wide[1]).sum() / counts[0], (edges[1] * wide[0]).sum() / counts[1]
        f.append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
    return [float(j.mean()), float(np.mean(f))]


def naive_edges(mask):
    right, below, both = np.zeros_like(mask), np.zeros_like(mask), np.zeros_like(mask)
    right[:, :-1], below[:-1], both[:-1, :-1] = mask[:, 1:], mask[1:], mask[1:, 1:]
    found = (mask ^ right) | (mask ^ below) | (mask ^ both)
    found[-1], found[:, -1] = mask[-1] ^ right[-1], mask[:, -1] ^ below[:, -1]
    found[-1, -1] = False
    return found


def parsed():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", default="30x52")
    parser.add_argument("--patch", type=int, default=16)
    parser.add_argument("--videos", type=int, default=2)
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--objects", type=int, default=2)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: where others work beside it")
    parser.add_argument("--side", choices=("ours", "naive"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(side, folder):
    """Run one side in a fresh process; its maps go to a folder."""
    (folder / side).mkdir()
    command = [sys.executable, __file__, *sys.argv[1:], "--side", side, "--folder", str(folder / side)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{side} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main():
    arguments = parsed()
    torch.set_num_threads(arguments.threads)
    if arguments.side:
        videos, seconds = Videos(arguments), Seconds(arguments.clock)
        videos.features(0, 0)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        with torch.inference_mode():
            value = {"ours": ours, "naive": naive}[arguments.side](videos, arguments.folder, seconds)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        print(json.dumps({"value": value, "seconds": seconds, "mb": after - before}))
        return
    with tempfile.TemporaryDirectory() as folder:
        found = {side: measure(side, Path(folder)) for side in ("ours", "naive")}
        paths = sorted((Path(folder) / "ours").glob("*.png"))
        apart = [
            (np.array(Image.open(path)) != np.array(Image.open(Path(folder) / "naive" / path.name))).mean() for path in paths
        ]
    print(f"{arguments.videos} videos of {arguments.frames} frames, {arguments.grid} patches, {arguments.clock} clock")
    print(f"{'stage':12} {'naive s':>10} {'ours s':>10} {'ratio':>8}")
    for stage in (*STAGES, "total"):
        times = [found[side]["seconds"] for side in ("naive", "ours")]
        slow, fast = (sum(own.values()) if stage == "total" else own.get(stage, 0.0) for own in times)
        print(f"{stage:12} {slow:10.2f} {fast:10.2f} " + (f"{slow / fast:8.1f}" if fast else f"{'':>8}"))
    slow, fast = (found[side]["mb"] for side in ("naive", "ours"))
    print(f"{'peak MiB':12} {slow:10.0f} {fast:10.0f} {slow / max(fast, 1):8.1f}")
    values = [found[side]["value"] for side in ("naive", "ours")]
    print(f"J&F {values[0]:.3f} and {values[1]:.3f}; a map differs in {max(apart):.1e} of its pixels at most")
    if max(apart) > ALIKE or abs(values[0] - values[1]) > 0.02:
        sys.exit("the two sides disagree: the ratio means nothing")


if __name__ == "__main__":
    main()
