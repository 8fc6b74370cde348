"""Cluster maps against label maps: confusion matrices, scores and pictures of clusters that stand for classes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int, UInt8
from PIL import Image
from torch import Tensor

from densebench.console import notice, progress
from densebench.datasets.dataset import IGNORED, Item, limited
from densebench.errors import UserError
from densebench.evaluation.counts import miou_score
from densebench.evaluation.labels import LabelSpace
from densebench.evaluation.option_groups import Clustered
from densebench.evaluation.pictures import legend, panel
from densebench.evaluation.stages import Sample
from densebench.evaluation.whole_images import truth_map
from densebench.features.views import View
from densebench.numerics import segmentation as metrics
from densebench.numerics.device_copy import on_device
from densebench.numerics.kmeans import Clusters, labels
from densebench.pictures.canvas import row, save
from densebench.pictures.palette import distinct_palette
from densebench.processes import collected, in_any, in_order, resolve_device
from densebench.results.score import Point, Score

PIXELS = 2**23  # counted at once on a GPU: bounds the memory and changes no result
ASSIGNED = 20_000  # random tokens that are assigned to clusters, to see how long that takes


def truth_maps(
    space: LabelSpace, items: Sequence[Item], view: View, size: int | None, resample: str
) -> list[UInt8[Tensor, "h w"]]:
    """Return the label maps of this process's images, which clusters are compared with.

    Raises UserError where no pixel of the images of any process has a class.
    """
    maps = []
    with progress("labels", len(items)) as bar:
        for item in items:
            maps.append(truth_map(space, view, item, size, resample))
            bar.advance()
    if not in_any([any(bool((label != IGNORED).any()) for label in maps)])[0]:
        count = sum(collected([len(items)]))
        raise UserError(f"no pixel of the {count} images that are scored has a class; check their label maps")
    return maps


def truth_sample(space: LabelSpace, view: View, size: int | None, resample: str) -> Sample:
    """Return the sample of a stage that reads label maps."""

    def read(items: Sequence[Item]) -> None:
        for item in items:
            truth_map(space, view, item, size, resample)

    return read


def clustering_sample(options: Clustered, ks: Sequence[int], tokens: int, width: int) -> Sample | None:
    """Return the sample of a stage that clusters `tokens` of a width for every k of `ks`; None where a library does that.

    It assigns random tokens once; the clusterings do so as often as iterations and restarts allow, or less often.
    """
    if options.engine not in ("torch", "minibatch") or not ks:
        return None
    largest, fits = max(ks), options.iterations * options.restarts
    learned = [min(tokens, k * options.per_cluster) if options.per_cluster else tokens for k in ks]
    products = sum(k * (fits * count + tokens) for k, count in zip(ks, learned, strict=True))

    def assign(_: Sequence[Item]) -> float:
        device, draw = resolve_device(options.device), torch.Generator().manual_seed(0)
        points, centroids = (torch.randn(count, width, generator=draw).to(device) for count in (ASSIGNED, largest))
        labels(points, Clusters(centroids, 0.0, 0)).cpu()
        return largest * ASSIGNED / products

    return assign


def confusion(clusters: Int[Tensor, "gh gw"], truth: UInt8[Tensor, "h w"], k: int, classes: int) -> Int[Tensor, "c k"]:
    """Return the number of labelled pixels by class and cluster; the cluster map is upsampled by nearest neighbours."""
    large = F.interpolate(clusters[None, None].float(), truth.shape, mode="nearest")[0, 0].long().cpu()
    counted = truth != IGNORED
    pairs = truth[counted].long() * k + large[counted]
    return torch.from_numpy(np.bincount(pairs.numpy(), minlength=classes * k)).view(classes, k)


def confusions(maps: Int[Tensor, "n gh gw"], truth: Sequence[UInt8[Tensor, "h w"]], k: int, classes: int) -> Int[Tensor, "n c k"]:
    """Return the `confusion` of each image, on the CPU; maps on a GPU are counted there, and the host waits for it once."""
    if maps.is_cuda:
        return counted_together(maps, truth, k, classes).cpu()
    counted = [confusion(clusters, label, k, classes) for clusters, label in zip(maps, truth, strict=True)]
    return torch.stack(counted) if counted else torch.zeros(0, classes, k, dtype=torch.int64)


def whole_confusion(counted: Int[Tensor, "n c k"]) -> Int[Tensor, "c k"]:
    """Return the sum of confusions over the images of all processes."""
    return torch.stack(collected([counted.sum(0)])).sum(0)


def counted_together(
    maps: Int[Tensor, "n gh gw"], truth: Sequence[UInt8[Tensor, "h w"]], k: int, classes: int
) -> Int[Tensor, "n c k"]:
    """Return the same as `confusions`, on the device of `maps`: consecutive images of one size are counted together."""
    counts = torch.zeros(len(maps), classes * k + 1, dtype=torch.int64, device=maps.device)
    one, start = torch.ones((), dtype=torch.int64, device=maps.device), 0
    for (height, width), equal in itertools.groupby(truth, key=lambda label: tuple(label.shape)):
        rows, columns = (_nearest(*sides, maps.device) for sides in zip(maps.shape[1:], (height, width), strict=True))
        labels = torch.stack(list(equal))
        for part in labels.split(max(1, PIXELS // (height * width))):
            some = slice(start, start := start + len(part))
            classes_of = on_device(part, maps.device).flatten(1)
            clusters = maps[some][:, rows[:, None], columns].flatten(1).long()
            bins = torch.where(classes_of != IGNORED, classes_of.long() * k + clusters, classes * k)
            counts[some].scatter_add_(1, bins, one.expand_as(bins))
    return counts[:, :-1].unflatten(1, (classes, k))


def _nearest(cells: int, pixels: int, device: torch.device) -> Int[Tensor, "pixels"]:
    """Return the cell that each pixel shows along one side, as interpolation by nearest neighbours chooses it."""
    return F.interpolate(torch.arange(cells, device=device)[None, None].float(), pixels, mode="nearest")[0, 0].long()


def matched(whole: Int[Tensor, "c k"], name: str) -> Int[Tensor, "k"]:
    """Return the class of every cluster by a matching ("hungarian", "precision" or "iou"); -1 where it gets none."""
    return metrics.hungarian(whole) if name == "hungarian" else metrics.many_to_one(whole, name)  # type: ignore[arg-type]


def score(
    counted: Int[Tensor, "n c k"],
    classes: Int[Tensor, "k"],
    variant: str,
    space: LabelSpace,
    absent: str,
    point: Point,
    details: dict[str, Any],
    first: int = 0,
) -> Score:
    """Return the mIoU score once every cluster counts as its class in `classes`; one without a class (-1) counts as class 0.

    counted: confusions of this process's images, which are those of `dealt` from the image of number `first` on.
    """
    merged = [metrics.merged(of_image, classes) for of_image in counted]
    size = counted.shape[1]
    tallies = metrics.tallies(torch.stack(merged) if merged else torch.zeros(0, size, size, dtype=torch.int64))
    return miou_score(in_order(tallies, first), variant, space.names, absent, point, details)  # type: ignore[arg-type]


def draw(
    space: LabelSpace, view: View, items: Sequence[Item], maps: Tensor, named: Int[Tensor, "k"], count: int, folder: Path
) -> None:
    """Write `<image>.png` of some images: image, truth, clusters in the colours of their classes, and in colours of their own."""
    chosen = limited(range(len(items)), count)  # type: ignore[type-var]
    classes_of, dataset = named.clamp(min=0).to(torch.uint8), space.dataset
    colours = np.array(distinct_palette(len(named)), dtype=np.uint8)
    for index in chosen:
        item, clusters = items[index], maps[index].cpu().long()
        label = view.label(space.read_truth(item), dataset.image_digest(item))
        size = (int(label.shape[1]), int(label.shape[0]))
        coloured = Image.fromarray(colours[clusters.numpy()]).resize(size, Image.Resampling.NEAREST)
        classes = F.interpolate(classes_of[clusters][None, None], label.shape, mode="nearest-exact")[0, 0]
        picture = row([panel(dataset, space, view, item, label, classes), coloured], gap=4)
        description = "image, truth, clusters in the colours of their classes, and in colours of their own"
        save(picture, folder / f"{item.name.replace('/', '-')}.png", description=description, legend=legend(dataset))
    notice(f"pictures of {len(chosen)} images are in {folder}")
