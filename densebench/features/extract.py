"""Patch features: extracted once per (weights, view, layer, precision, image bytes), cached on disk, shared by all protocols.

The key of a feature is made of digests alone: of the backbone (all of its identity but its names: weights, code, layer, stride,
...), of the view, of the code of plug-ins, and of the image's bytes. A change of one weight, one line of such code, one image
byte or one parameter of the view gives another key.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from densebench.backbones import without_labels
from densebench.backbones.backbone import Backbone
from densebench.console import Progress, progress
from densebench.costs import measured
from densebench.datasets.dataset import Dataset, Item
from densebench.datasets.io.loader import checked
from densebench.features.loading import equal_batches, load_views
from densebench.features.memory import Table, in_use
from densebench.features.padded_views import PaddedView
from densebench.features.pipeline import WRITERS, Piece, Writer, computed, gathered, images_at_once
from densebench.features.shared_store import see_all
from densebench.features.views import CentreCropView, View
from densebench.files.atomic import cache_root, digest
from densebench.files.cache import FEATURES, make_room
from densebench.files.locks import locked
from densebench.files.store import Store
from densebench.numerics.arithmetic import float32
from densebench.numerics.device_copy import joined_on_device
from densebench.processes import collected, dealt, from_main, world_size
from densebench.user_code import class_code

SCHEMA = 2  # increase it when the same inputs would give other features
SHARD_BYTES = 64 * 2**20
CLAIMS = "claims"  # the folder, in that of the features, of locks by which a run claims the features that it computes
CPU = torch.device("cpu")
DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Normalisation:
    """The colour statistics that a backbone expects, or those that a protocol prescribes."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        mean, std = (_channels(values, images.dtype, images.device) for values in (self.mean, self.std))
        return (images - mean) / std


@functools.lru_cache(maxsize=32)
def _channels(values: tuple[float, float, float], dtype: torch.dtype, device: torch.device) -> Float[Tensor, "3 1 1"]:
    """Return a number for each channel.

    It is cached on the device, since a copy to a GPU makes the host wait for all that is queued.
    """
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device).view(3, 1, 1)


class Features:
    """Patch features of many images: `features[item]` is `[gh gw d]`, or `[n d]` of chosen patches, mapped from disk."""

    def __init__(self, store: Store | Table, keys: dict[str, str]) -> None:
        self._store, self._keys = store, keys

    def __getitem__(self, item: Item) -> Float[Tensor, "*patches d"]:
        return self._store[self._keys[item.name]]

    def __len__(self) -> int:
        return len(self._keys)


@dataclass(frozen=True, eq=False)
class Extraction:
    """Features that are wanted: of which images, by which backbone, under which view. `features` computes what the cache lacks.

    patches: by the name of an image, the indices of the patches to keep, row by row; None: all of them.
    normalisation: the colour statistics; None: the backbone's own. label: what the progress bar says.
    """

    backbone: Backbone
    dataset: Dataset
    items: Sequence[Item]
    view: View | CentreCropView | PaddedView
    patches: Mapping[str, Int[Tensor, "n"]] | None = None
    normalisation: Normalisation | None = None
    precision: str = "fp32"
    label: str = "features"

    @functools.cached_property
    def normalise(self) -> Normalisation:
        """The colour statistics that are used."""
        return self.normalisation or Normalisation(self.backbone.mean, self.backbone.std)

    @functools.cached_property
    def about(self) -> dict[str, Any]:
        """What the folder of the features says about them: their identity, and the name of the backbone."""
        identity: dict[str, Any] = {
            "schema": SCHEMA,
            "backbone": without_labels(self.backbone.identity()),
            "view": self.view.identity(),
            "code": [self.dataset.code, class_code(type(self.view))],
            "mean": list(self.normalise.mean),
            "std": list(self.normalise.std),
            "precision": self.precision,
        }
        return {"spec": self.backbone.spec, **identity}

    @property
    def folder(self) -> Path:
        """The folder of the cache that holds the features of all images under this view."""
        identity = {name: value for name, value in self.about.items() if name != "spec"}
        return cache_root() / FEATURES / digest(identity, 24)

    @functools.cached_property
    def digests(self) -> dict[str, str]:
        """The digest of each image, by its name."""
        names = (item.name for item in self.items)
        return dict(zip(names, self.dataset.image_digests(self.items), strict=True))

    @functools.cached_property
    def keys(self) -> dict[str, str]:
        """The key of each image's features, by its name; images of the same bytes share one."""
        if self.patches is None:
            return self.digests
        return {name: digest([value, self.patches[name].tolist()]) for name, value in self.digests.items()}

    @property
    def augmented(self) -> bool:
        """Whether the view is a random one, drawn from a seed."""
        return bool(getattr(self.view, "augment", False))

    def lacking(self, stored: Container[str] | Store) -> list[Item]:
        """Return the images whose features are not `stored`, one for each key."""
        return list({self.keys[item.name]: item for item in self.items if self.keys[item.name] not in stored}.values())

    def nbytes(self, items: Iterable[Item]) -> int:
        """Return the bytes that the features of some images take in the cache."""
        if self.patches is not None:
            vectors = sum(len(self.patches[item.name]) for item in items)
        else:
            shapes = (self.view.shape(*self.dataset.image_size(item)) for item in items)
            vectors = sum((height // self.backbone.stride) * (width // self.backbone.stride) for height, width in shapes)
        return vectors * self.backbone.dim * DTYPES[self.precision].itemsize

    def decoded(self, item: Item) -> Float[Tensor, "3 h w"]:
        """Return an image under the view."""
        return self.view.image(self.dataset.image(item), self.dataset.image_digest(item))

    def passed(self, images: Float[Tensor, "b 3 h w"], device: torch.device) -> Float[Tensor, "b gh gw d"]:
        """Return the features of decoded images, as they are stored, on the device."""
        with torch.inference_mode(), autocast(device, self.precision):
            grids = self.backbone(self.normalise(images.to(device, non_blocking=True)))
            grids = grids.movedim(1, -1).to(DTYPES[self.precision])
            return grids.contiguous() if grids.is_cuda else grids

    def chosen(self, names: Sequence[str], grids: Float[Tensor, "b gh gw d"]) -> Float[Tensor, "*patches d"]:
        """Return the features that are stored: those of all patches, or of the chosen patches of each image, concatenated."""
        if self.patches is None:
            return grids
        area = grids.shape[1] * grids.shape[2]
        rows = joined_on_device([number * area + self.patches[name] for number, name in enumerate(names)], grids.device)
        with torch.inference_mode():
            return grids.flatten(0, 2).index_select(0, rows)

    def images_at_once(self, batch_size: int | None, device: torch.device, shape: tuple[int, int]) -> int:
        """Return how many views of a shape (height, width) go through the backbone together. batch_size: None: chosen."""
        return images_at_once(batch_size, device, shape, self.backbone.stride)

    def features(
        self, device: torch.device | str = "cpu", batch_size: int | None = None, workers: int = 0, limit: int | None = None
    ) -> Features:
        """Return the features, computing those that the cache does not hold; see `extract`.

        limit: the bytes that the cache may take; folders of features that no process uses are removed to keep it.
        Processes that work together each compute a share, batch by batch, and all get the whole from the store. Another run that
        wants the same features waits for this one. Raises UserError in processes that do not see what the others store.
        """
        device = torch.device(device)
        if (memory := in_use()) is not None:  # of this process alone
            table = memory.table(self.folder.name)
            if missing := self.lacking(table):
                self._compute(table, missing, device, batch_size, workers, None)
            return Features(table, self.keys)
        store = Store(self.folder, self.about)
        with ExitStack() as stack:
            if names := from_main(lambda: self._claimed(store, limit, stack)):
                by_name = {item.name: item for item in self.items}
                self._compute(store, [by_name[name] for name in names], device, batch_size, workers, limit)
            see_all(store, self.keys.values())  # while what is computed is claimed
        return Features(store, self.keys)

    def _claimed(self, store: Store, limit: int | None, stack: ExitStack) -> list[str]:
        """Return the names of the images to compute; if there are any, claim them until the stack ends, and make room for them.

        Where another run has claimed the same ones, wait for it first.
        """
        if missing := self.lacking(store):
            waiting = f"another run computes the same {self.label} of {self.backbone.spec}: waiting for it"
            stack.enter_context(locked(self.folder / CLAIMS, digest(sorted(self.keys.values()), 16), waiting, passing=True))
            store.refresh()
            missing = self.lacking(store)
        if missing and limit is not None:
            make_room(cache_root(), self.nbytes(missing), limit)
        return [item.name for item in missing]

    def _compute(
        self, store: Store | Table, missing: Sequence[Item], device: torch.device, batch_size: int | None, workers: int,
        limit: int | None,
    ) -> None:  # fmt: skip
        """Compute this process's share of the missing features, and write them to the store."""
        self.backbone.to(device)
        most: Callable[[tuple[int, int]], int] = functools.cache(functools.partial(self.images_at_once, batch_size, device))
        share = missing
        if world_size() > 1 and in_use() is None:
            most = self._most_in_all(missing, most)
            share = self._share(missing, most)
        if share:
            batches = gathered(checked(self._views(share, most, workers, device)), most)
            with progress(self.label, len(share)) as bar, measured("features", CPU, images=len(share)):
                self._fill(store, batches, device, limit, bar)  # it ends when all are stored

    def _most_in_all(self, missing: Sequence[Item], most: Callable[[tuple[int, int]], int]) -> Callable[[tuple[int, int]], int]:
        """Return how many images of a shape every process can pass through the backbone; GPUs may have unlike room for them."""
        shapes = list(dict.fromkeys(self.view.shape(*self.dataset.image_size(item)) for item in missing))
        of_processes = collected([[most(shape) for shape in shapes]])
        return dict(zip(shapes, map(min, zip(*of_processes, strict=True)), strict=True)).__getitem__

    def _share(self, missing: Sequence[Item], most: Callable[[tuple[int, int]], int]) -> list[Item]:
        """Return the images of this process: every n-th batch of those that one process would pass through the backbone.

        So every image is computed in the company in which one process computes it. most: the same in all processes.
        """
        shapes = [self.view.shape(*self.dataset.image_size(item)) for item in missing]
        return [missing[index] for batch in dealt(list(equal_batches(shapes, most))) for index in batch]

    def _views(
        self, items: Sequence[Item], most: Callable[[tuple[int, int]], int], workers: int, device: torch.device
    ) -> Iterable[Any]:
        """Return the names and views of images, loaded in pieces. Raises UserError where a size does not fit the backbone."""
        shapes = [self.view.shape(*self.dataset.image_size(item)) for item in items]
        for shape in sorted(set(shapes)):
            self.backbone.check_size(*shape)
        return load_views(self.dataset, items, self.view, self.digests, shapes, most, workers, device)

    def _fill(
        self, store: Store | Table, batches: Iterator[list[Piece]], device: torch.device, limit: int | None, bar: Progress
    ) -> None:
        """Write the features of batches of names and images to the store, in shards of about SHARD_BYTES."""

        def write(tensors: dict[str, Tensor]) -> None:
            if limit is not None:
                make_room(cache_root(), sum(grid.nbytes for grid in tensors.values()), limit)
            store.add(tensors)

        def compute(names: list[str], images: Tensor) -> Tensor:
            return self.chosen(names, self.passed(images, device))

        on_gpu = device.type == "cuda"
        threads = 0 if not on_gpu else 1 if limit is not None else WRITERS  # on a CPU the backbone needs the cores
        pending: dict[str, Tensor] = {}
        size = 0
        with Writer(write, threads) as writer:
            for names, kept in computed(batches, compute, device):
                for name, grid in zip(names, self._split(names, kept), strict=True):
                    pending[self.keys[name]] = grid
                    size += grid.nbytes
                    if size >= SHARD_BYTES and (on_gpu or name == names[-1]):  # a GPU's batch may fill several shards
                        writer.put(pending)
                        pending, size = {}, 0
                bar.advance(len(names))
            if pending:
                writer.put(pending)

    def _split(self, names: Sequence[str], kept: Tensor) -> Sequence[Tensor]:
        """Return what is stored of each image: a copy, unless the features were copied from a GPU for the store alone."""
        parts = kept.unbind(0) if self.patches is None else kept.split([len(self.patches[name]) for name in names])
        return parts if kept.is_pinned() and in_use() is None else [part.clone() for part in parts]


def extract(
    backbone: Backbone,
    dataset: Dataset,
    items: Sequence[Item],
    view: View | CentreCropView | PaddedView,
    *,
    patches: Mapping[str, Int[Tensor, "n"]] | None = None,
    normalisation: Normalisation | None = None,
    precision: str = "fp32",
    device: torch.device | str = "cpu",
    batch_size: int | None = None,
    workers: int = 0,
    label: str = "features",
) -> Features:
    """Return the features of `items` under `view`, computing those that the cache does not hold.

    Images of equal size go through the backbone together. Finished shards survive a kill; a second call resumes from there.
    patches: by the name of an image, the indices of the patches to keep, row by row; all others are dropped at once.
    batch_size: images in one forward pass; None: 16 on the CPU, on a GPU as many as fill it.
    Raises UserError naming the file of an image that cannot be read, or the nearest sizes where the stride does not fit.
    """
    extraction = Extraction(backbone, dataset, items, view, patches, normalisation, precision, label)
    return extraction.features(device, batch_size, workers)


@contextmanager
def autocast(device: torch.device, precision: str) -> Iterator[None]:
    """Compute the block in a precision on a device: true float32 for fp32, whatever was set outside; TF32 allowed for tf32."""
    half = nullcontext() if DTYPES[precision] == torch.float32 else torch.autocast(device.type, DTYPES[precision])
    with float32(tf32=precision == "tf32"), half:
        yield
