"""Patch features: extracted once per (weights, view, layer, precision, image bytes), cached on disk, shared by all protocols.

The key of a feature is made of digests alone: of the backbone (all of its identity but its names: weights, code, layer, stride,
...), of the view, of the code of plug-ins, and of the image's bytes. A change of one weight, one line of such code, one image
byte or one parameter of the view gives another key.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from densebench.backbones import without_labels
from densebench.backbones.backbone import Backbone
from densebench.console import Progress, progress
from densebench.datasets.dataset import Dataset, Item
from densebench.datasets.io.loader import Samples, checked, make_loader
from densebench.features.memory import Table, in_use
from densebench.features.views import CentreCropView, View
from densebench.files.atomic import cache_root, digest
from densebench.files.store import Store
from densebench.numerics.arithmetic import float32
from densebench.user_code import class_code

SCHEMA = 2  # increase it when the same inputs would give other features
SHARD_BYTES = 64 * 2**20
DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Normalisation:
    """The colour statistics that a backbone expects, or those that a protocol prescribes."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        return (images - mean) / std


class Features:
    """Patch features of many images: `features[item]` is `[gh gw d]`, or `[n d]` of chosen patches, mapped from disk."""

    def __init__(self, store: Store | Table, keys: dict[str, str]) -> None:
        self._store, self._keys = store, keys

    def __getitem__(self, item: Item) -> Float[Tensor, "*patches d"]:
        return self._store[self._keys[item.name]]

    def __len__(self) -> int:
        return len(self._keys)


def extract(
    backbone: Backbone,
    dataset: Dataset,
    items: Sequence[Item],
    view: View | CentreCropView,
    *,
    patches: Mapping[str, Int[Tensor, "n"]] | None = None,
    normalisation: Normalisation | None = None,
    precision: str = "fp32",
    device: torch.device | str = "cpu",
    batch_size: int = 16,
    workers: int = 0,
    label: str = "features",
) -> Features:
    """Return the features of `items` under `view`, computing those that the cache does not hold.

    Images of equal size go through the backbone together. Finished shards survive a kill; a second call resumes from there.
    patches: by the name of an image, the indices of the patches to keep, row by row; all others are dropped at once.
    Raises UserError naming the file of an image that cannot be read, or the nearest sizes where the stride does not fit.
    """
    normalisation = normalisation or Normalisation(backbone.mean, backbone.std)
    identity: dict[str, Any] = {
        "schema": SCHEMA,
        "backbone": without_labels(backbone.identity()),
        "view": view.identity(),
        "code": [dataset.code, class_code(type(view))],
        "mean": list(normalisation.mean),
        "std": list(normalisation.std),
        "precision": precision,
    }
    store = _store(digest(identity, 24), {"spec": backbone.spec, **identity})
    digests = dict(zip((item.name for item in items), dataset.image_digests(items), strict=True))
    keys = digests
    if patches is not None:
        keys = {name: digest([value, patches[name].tolist()]) for name, value in digests.items()}
    missing = list({keys[item.name]: item for item in items if keys[item.name] not in store}.values())
    if missing:
        device = torch.device(device)
        loader = _loader(dataset, missing, digests, view, backbone, batch_size, workers, pin=device.type == "cuda")
        with progress(label, len(missing)) as bar:
            _fill(store, keys, checked(loader), backbone.to(device), normalisation, precision, device, patches, bar)
    return Features(store, keys)


def _store(name: str, about: dict[str, Any]) -> Store | Table:
    """Return where features go: a folder of the cache, or the memory that is in use."""
    memory = in_use()
    return Store(cache_root() / "features" / name, about) if memory is None else memory.table(name)


@torch.inference_mode()
def _fill(
    store: Store | Table,
    keys: Mapping[str, str],
    batches: Iterator[tuple[list[str], Float[Tensor, "b 3 h w"]]],
    backbone: Backbone,
    normalisation: Normalisation,
    precision: str,
    device: torch.device,
    patches: Mapping[str, Int[Tensor, "n"]] | None,
    bar: Progress,
) -> None:
    """Write the features of batches of names and images to the store, in shards of about SHARD_BYTES."""
    pending: dict[str, Tensor] = {}
    for names, images in batches:
        with autocast(device, precision):
            grids = backbone(normalisation(images.to(device, non_blocking=True)))
        grids = grids.movedim(1, -1).to("cpu", DTYPES[precision])
        for name, grid in zip(names, grids, strict=True):
            pending[keys[name]] = grid.clone() if patches is None else grid.flatten(0, 1)[patches[name]]
        if sum(grid.nbytes for grid in pending.values()) >= SHARD_BYTES:
            store.add(pending)
            pending = {}
        bar.advance(len(names))
    if pending:
        store.add(pending)


class _Images(Samples):
    """Decodes images and makes their views, in worker processes."""

    def __init__(self, dataset: Dataset, items: Sequence[Item], digests: dict[str, str], view: View | CentreCropView) -> None:
        self.dataset, self.items, self.digests, self.view = dataset, items, digests, view

    def __len__(self) -> int:
        return len(self.items)

    def sample(self, key: int) -> tuple[str, Float[Tensor, "3 h w"]]:
        item = self.items[key]
        return item.name, self.view.image(self.dataset.image(item), self.digests[item.name])


def _loader(
    dataset: Dataset,
    items: Sequence[Item],
    digests: dict[str, str],
    view: View | CentreCropView,
    backbone: Backbone,
    batch_size: int,
    workers: int,
    *,
    pin: bool,
) -> Iterable[Any]:
    shapes = [view.shape(*dataset.image_size(item)) for item in items]
    for shape in sorted(set(shapes)):
        backbone.check_size(*shape)
    batches = list(_equal_batches(shapes, batch_size))
    memory = in_use()
    if memory is None:
        images = _Images(dataset, items, digests, view)
        return make_loader(images, _collate, min(workers, len(items)), pin, batch_sampler=batches)
    images = _Images(memory.source if dataset is memory.dataset else dataset, items, digests, view)  # views are kept, images not
    what = [view.identity(), class_code(type(view))]
    keys = [digest([*what, *((items[i].name, digests[items[i].name]) for i in batch)]) for batch in batches]
    return memory.batches(
        keys, batches, lambda some: make_loader(images, _collate, min(workers, len(items)), pin=False, batch_sampler=some)
    )


def _collate(batch: list[tuple[str, Tensor]]) -> tuple[list[str], Float[Tensor, "b 3 h w"]]:
    names, images = zip(*batch, strict=True)
    return list(names), torch.stack(images)


def _equal_batches(shapes: Sequence[tuple[int, int]], batch_size: int) -> Iterator[list[int]]:
    """Yield batches of indices whose images have one shape, in order of first appearance."""
    by_shape: dict[tuple[int, int], list[int]] = {}
    for index, shape in enumerate(shapes):
        by_shape.setdefault(shape, []).append(index)
    for indices in by_shape.values():
        for start in range(0, len(indices), batch_size):
            yield indices[start : start + batch_size]


@contextmanager
def autocast(device: torch.device, precision: str) -> Iterator[None]:
    """Compute the block in a precision on a device: true float32 for fp32, whatever was set outside; TF32 allowed for tf32."""
    half = nullcontext() if DTYPES[precision] == torch.float32 else torch.autocast(device.type, DTYPES[precision])
    with float32(tf32=precision == "tf32"), half:
        yield
