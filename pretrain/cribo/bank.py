"""The memory banks of CrIBo, and the nearest neighbours of objects in them.

Source: CrIBo (Lebailly et al., ICLR 2024), section 3.2.2, equation 2. The paper's arg min in equation 2 is read as arg max.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from densebench.numerics.arithmetic import float32
from densebench.numerics.device_copy import on_device
from densebench.numerics.host_copy import HostCopy
from densebench.numerics.late_indices import true_indices
from densebench.pretrain.cribo.bank_search import Held, Layout, bounded_objects, fullest_first, nearest_objects
from densebench.processes import gather

TILE_BYTES = 128 * 2**20  # most bytes of an array of similarities
# With the preset `coco`, two passes take 52 ms a step (`bank_search`) and one pass takes 400 (20 TFLOP in float32 at 50 TFLOP/s).
# Unproven queries are searched in one pass as well, which takes their share of 400 ms: two passes pay while it is below 0.87.
MOST_UNPROVEN = 0.75  # share of a search's queries; where more are unproven, the next steps search in one pass
ONE_PASS_STEPS = 20  # how many steps, before two passes are tried again; a try in vain costs less than 1 % of them
Nearest = tuple[Int[Tensor, "b k"], Bool[Tensor, "b k"]]


class Pending:
    """A search that was queued on the device. `result` waits only until it is known which queries are proven.

    finish: returns the result, given which of the doubtful queries are unproven, on the CPU. doubtful: the same on the device;
    empty for a search in one pass.
    """

    def __init__(self, finish: Callable[[Tensor], Nearest], doubtful: Bool[Tensor, " n"]) -> None:
        self._finish, self.doubtful = finish, doubtful
        self.copied: tuple[HostCopy, slice] | None = None

    def result(self) -> Nearest:
        """Return the indices and which of them are matches, as `Bank.nearest` does."""
        if not len(self.doubtful):
            return self._finish(torch.zeros(0, dtype=torch.bool))
        if self.copied is None:
            read_together([self])
        assert self.copied is not None
        copy, part = self.copied
        return self._finish(copy.value()[part])


def read_together(searches: Sequence[Pending]) -> None:
    """Begin a single copy to the host of which queries of several searches are unproven; the first `result` waits for it."""
    copy, first = HostCopy(torch.cat([search.doubtful for search in searches])), 0
    for search in searches:
        search.copied = copy, slice(first, first := first + len(search.doubtful))


class Bank(nn.Module):
    """A ring buffer of the teacher's objects of the last `images` images, in both views, with room for `count` objects per image.

    Empty rows are never matched, and neither are objects of the query's own image from an earlier epoch. Adding costs O(batch).
    """

    objects: Tensor
    inverse_lengths: Tensor
    valid: Tensor
    numbers: Tensor
    pointer: Tensor
    labels: Tensor
    crops: Tensor
    two_pass: bool | None = None
    """Whether to search in two passes as long as they prove enough; the matches are the same. None: on a GPU only."""

    def __init__(self, images: int, count: int, dim: int, patches: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.register_buffer("objects", torch.zeros(2, images, count, dim, dtype=dtype))
        self.register_buffer("inverse_lengths", torch.zeros(2, images, count))
        self.register_buffer("valid", torch.zeros(images, count, dtype=torch.bool))
        self.register_buffer("numbers", torch.full((images,), -1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))
        # the patches of the objects and the crops of the views, so that a match can be drawn
        self.register_buffer("labels", torch.zeros(images, 2 * patches, dtype=torch.int16))
        self.register_buffer("crops", torch.zeros(images, 2, 5))
        self.fallbacks = 0
        """How many queries so far were searched again in one pass, since two passes had not proven their answers."""
        self.one_pass_steps = 0
        """How many steps, this one included, still search in one pass, since two passes have proven too little."""
        self._rows: Tensor | None = None
        self._count: HostCopy | None = None  # of valid objects
        self._bounded: Tensor | None = None  # not saved: computed from the objects
        self._layout: Layout | None = None
        self.register_load_state_dict_post_hook(lambda *_: self._forget())

    def _forget(self) -> None:
        self._rows = self._count = self._bounded = self._layout = None

    def add(
        self,
        objects: Float[Tensor, "2 b k d"],
        valid: Bool[Tensor, "b k"],
        numbers: Int[Tensor, " b"],
        labels: Int[Tensor, "b joint"],
        crops: Float[Tensor, "b 2 5"],
    ) -> None:
        """Write the objects of a batch, gathered from all processes in the order of ranks, over the oldest ones.

        numbers: of the images in the data set. labels: the object of each patch of both views. crops: top, left, height, width,
        flip.
        """
        given = {"objects": objects.transpose(0, 1), "valid": valid, "numbers": numbers, "labels": labels, "crops": crops}
        joined = {name: gather(part)[-len(self.numbers) :] for name, part in given.items()}
        slots = (self.pointer + torch.arange(len(joined["numbers"]), device=self.pointer.device)) % len(self.numbers)
        entered = joined["objects"].transpose(0, 1)
        self.objects[:, slots] = entered.to(self.objects.dtype)
        self.inverse_lengths[:, slots] = 1 / entered.norm(dim=3).clamp(min=1e-12)
        for name in ("valid", "numbers", "labels", "crops"):
            held = getattr(self, name)
            held[slots] = joined[name].to(held.dtype)
        self._rows = self._count = self._layout = None
        if self.valid.is_cuda:  # the copies that the next search reads begin now
            self._count, self._layout = HostCopy(self.valid.sum()), fullest_first(self.valid)
        if self._bounded is not None:
            parts = self.objects[:, slots], self.inverse_lengths[:, slots], self.valid[slots].expand(2, -1, -1)
            self._bounded[:, slots] = bounded_objects(*parts)
        self.pointer.copy_((self.pointer + len(slots)) % len(self.numbers))
        self.one_pass_steps = max(0, self.one_pass_steps - 1)

    def nearest(
        self,
        view: int,
        queries: Float[Tensor, "b k d"],
        numbers: Int[Tensor, " b"],
        valid: Bool[Tensor, "b k"] | None = None,
        count: HostCopy | None = None,
    ) -> tuple[Int[Tensor, "b k"], Bool[Tensor, "b k"]]:
        """Return the index (slot * count + object) of the most similar object by cosine, and whether there is one (equation 2).

        view: which view's objects are searched, 0 or 1. numbers: of the queries' images; objects of the same image are skipped.
        valid: the queries to search for; the others have no match. count: the number of these, whose copy has begun earlier:
        without it a GPU searches for all queries. Ties go to the first index.
        """
        return self.begin(view, queries, numbers, valid, count).result()

    def begin(
        self,
        view: int,
        queries: Float[Tensor, "b k d"],
        numbers: Int[Tensor, " b"],
        valid: Bool[Tensor, "b k"] | None = None,
        count: HostCopy | None = None,
    ) -> Pending:
        """Begin the search of `nearest`, whose arguments these are, and return it.

        On a GPU, call `read_together`, then queue other work, then ask for the result; this must happen before the next `add`.
        """
        b, k, _ = queries.shape
        requested = _requested(b * k, valid, count, queries.device)
        vectors, image = queries.flatten(0, 1)[requested], numbers[requested // k]
        two_pass = self.objects.is_cuda if self.two_pass is None else self.two_pass
        if not two_pass or self.one_pass_steps:
            found = self._in_one_pass(view, vectors, image)
            return Pending(lambda _: _spread(requested, *found, valid, b, k), vectors.new_empty(0, dtype=torch.bool))
        nearest = nearest_objects(self._held(view), vectors, image)
        proven = nearest.proven if valid is None else nearest.proven | ~valid.flatten()[requested]

        def finish(doubtful: Tensor) -> Nearest:
            index, matched = nearest.index, nearest.matched
            unproven = doubtful.nonzero()[:, 0]
            if len(unproven) > MOST_UNPROVEN * len(vectors):
                self.one_pass_steps = 1 + ONE_PASS_STEPS
            if len(unproven):
                self.fallbacks += len(unproven)
                unproven = on_device(unproven, index.device)
                better = self._in_one_pass(view, vectors[unproven], image[unproven])
                index, matched = index.index_copy(0, unproven, better[0]), matched.index_copy(0, unproven, better[1])
            return _spread(requested, index, matched, valid, b, k)

        return Pending(finish, ~proven)

    def _in_one_pass(self, view: int, queries: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return for each query `[n d]` the index of the most similar object, and whether there is one. image: of each query."""
        with float32(tf32=False), torch.autocast(queries.device.type, enabled=False):
            return self._tile_by_tile(view, queries, image)

    def _tile_by_tile(self, view: int, queries: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        unit = F.normalize(queries.float(), dim=1)
        best = unit.new_full((len(unit),), -torch.inf)
        nearest = torch.zeros_like(image, dtype=torch.long)
        step = max(1, TILE_BYTES // (4 * max(1, len(unit))))
        for rows in self.rows.split(step) if len(self.rows) else ():
            keys = self.objects[view].flatten(0, 1)[rows].float() * self.inverse_lengths[view].flatten()[rows, None]
            similar = unit @ keys.T
            similar.masked_fill_(image[:, None] == self.numbers[rows // self.valid.shape[1]], -torch.inf)
            value, index = similar.max(dim=1)
            better = value > best
            best, nearest = torch.where(better, value, best), torch.where(better, rows[index], nearest)
        return nearest, best > -torch.inf

    def _held(self, view: int) -> Held:
        """Return one view with its rounded objects, which are computed anew after a state was loaded, 1024 images at a time."""
        if self._bounded is None or self._bounded.device != self.objects.device:
            parts = zip(self.objects.split(1024, 1), self.inverse_lengths.split(1024, 1), self.valid.split(1024), strict=True)
            self._bounded = torch.cat([bounded_objects(o, i, v.expand(2, -1, -1)) for o, i, v in parts], 1)
        if self._layout is None or self._layout.slots.device != self.valid.device:
            self._layout = fullest_first(self.valid)
        return Held(self.objects[view], self.inverse_lengths[view], self.numbers, self._bounded[view], self._layout)

    @property
    def rows(self) -> Int[Tensor, " rows"]:
        """The flat indices that hold an object; computed once after each `add`, which on a GPU begins to copy their number."""
        if self._rows is None:
            self._rows = _indices(self.valid, self._count)
        return self._rows

    def at(self, view: int, indices: Int[Tensor, "*n"]) -> Float[Tensor, "*n d"]:
        """Return the objects at these indices, not normalised."""
        return self.objects[view].flatten(0, 1)[indices].float()


def _requested(slots: int, valid: Tensor | None, count: HostCopy | None, device: torch.device) -> Tensor:
    """Return the indices of the queries to search for: on a GPU all, unless their number is on its way to the host."""
    if valid is None or (valid.is_cuda and count is None):
        return torch.arange(slots, device=device)
    return _indices(valid, count)


def _indices(mask: Tensor, count: HostCopy | None) -> Tensor:
    """Return the flat indices of the true entries of a mask. count: their number, whose copy has begun earlier, for a GPU."""
    if not mask.is_cuda:
        return mask.flatten().nonzero()[:, 0]
    return true_indices(mask.flatten(), int((count or HostCopy(mask.sum())).value()))


def _spread(requested: Tensor, index: Tensor, matched: Tensor, valid: Tensor | None, b: int, k: int) -> Nearest:
    """Return the indices and matches of requested queries as `[b k]`: 0 and no match for all others and for invalid ones."""
    indices, found = index.new_zeros(b * k), matched.new_zeros(b * k)
    indices[requested], found[requested] = index, matched
    if valid is not None:
        indices, found = indices * valid.flatten(), found & valid.flatten()
    return indices.view(b, k), found.view(b, k)
