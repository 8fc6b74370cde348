"""Reference patches of NeCo, which are ordered by their similarity to each patch of an image.

Three sources: patches of the other images of the batch, dealt out as the official code does (but never to the image that they
come from); a queue of the teacher's patches; or one random fraction of the batch for all, as in the paper's text.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from densebench.processes import gather


def deal(
    noise: Float[Tensor, "b p"], shifts: Float[Tensor, "p others"], count: int, wanted: Bool[Tensor, "b p"] | None = None
) -> Int[Tensor, "b count"]:
    """Return `count` patches of the other images for each of b images, as flat indices (image * p + patch).

    Patches are dealt out like cards: an image gets no patch twice before it has had all of them, and none of its own. noise:
    uniform, shuffles the patches of each image. shifts: uniform, with b - 1 columns; decides from which other image each patch of
    a hand comes. Without columns an image gets its own patches. wanted: patches that may be dealt; where an image has too few,
    they repeat.
    """
    b, p = noise.shape
    card = torch.arange(count, device=noise.device) % p
    turns = torch.arange(count, device=noise.device) // p
    image = torch.arange(b, device=noise.device)[:, None].expand(b, count)
    if shifts.shape[1]:
        image = (image + 1 + shifts.argsort(dim=1)[card, turns % shifts.shape[1]]) % b
    if wanted is None:
        return image * p + noise.argsort(dim=1)[image, card]
    shuffled = (noise + (~wanted).float()).argsort(dim=1)  # noise is below 1: wanted patches come first
    enough = wanted.sum(dim=1).clamp(min=1)
    return image * p + shuffled[image, card % enough[image]]


def draw(noise: Float[Tensor, "b n"], count: int) -> Int[Tensor, " count"]:
    """Return the `count` patches of a batch with the lowest noise, as flat indices; they repeat if there are too few."""
    order = noise.flatten().argsort()
    return order[torch.arange(count, device=noise.device) % len(order)]


class PatchQueue(nn.Module):
    """The teacher's patches of recent images, newest first, one queue per global view: `[views, size, e]`.

    Rows that were never written are never read.
    """

    rows: Tensor
    filled: Tensor

    def __init__(self, views: int, size: int, width: int) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(views, size, width))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))
        self._count: int | None = 0
        self._fresh: list[Tensor] = []

    @torch.no_grad()
    def see(
        self, patches: Float[Tensor, "views b n e"], noise: Float[Tensor, "views b n"], each: int
    ) -> Float[Tensor, "views r e"]:
        """Return `each` patches of every image of all processes (those of the lowest noise), followed by the rows of the queue.

        The new patches enter the queue with the next `commit`. The result never has more rows than the queue.
        """
        chosen = noise.topk(min(each, noise.shape[2]), dim=2, largest=False).indices
        index = chosen[..., None].expand(-1, -1, -1, patches.shape[3])
        fresh = gather(patches.gather(2, index).transpose(0, 1)).transpose(0, 1).flatten(1, 2)
        self._fresh.append(fresh)
        return torch.cat([fresh, self.rows[:, : self.stored]], dim=1)[:, : self.rows.shape[1]]

    @property
    def stored(self) -> int:
        """The number of rows that hold patches."""
        if self._count is None:  # not known after a state was loaded: one wait for the device
            self._count = int(self.filled)
        return self._count

    @torch.no_grad()
    def commit(self) -> None:
        """Add the step's patches, in place of the oldest."""
        if not self._fresh:
            return
        stored = self.stored
        size = self.rows.shape[1]
        fresh = torch.cat(self._fresh, dim=1)
        self._fresh.clear()
        self.rows.copy_(torch.cat([fresh, self.rows], dim=1)[:, :size])
        self._count = min(stored + fresh.shape[1], size)
        self.filled.fill_(self._count)

    def discard(self) -> None:
        """Forget the step's patches, because its loss or a gradient was not finite."""
        self._fresh.clear()

    def _load_from_state_dict(self, *arguments: Any, **more: Any) -> None:
        super()._load_from_state_dict(*arguments, **more)  # type: ignore[no-untyped-call]
        self._count = None


def pick(
    pool: Float[Tensor, "r e"], order: Int[Tensor, " r"], first: int, images: int, count: int
) -> Float[Tensor, "images count e"]:
    """Return `count` rows of a pool for each image, by a random order that all images share.

    Image i of the whole batch takes the entries of the order from i * count on, and starts over where the order ends. first: the
    index in the batch of the first of `images`.
    """
    entries = torch.arange(first * count, (first + images) * count, device=order.device) % len(order)
    return pool[order[entries]].view(images, count, -1)


__all__ = ["PatchQueue", "deal", "draw", "pick"]
