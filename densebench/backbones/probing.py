"""Where the patch features of a module are, found by probing: the module is called on images of two sizes and of two sides.

What is believed is then checked on noise: the features of an image must be the same again and beside other images, and the
feature of a patch must change most when that patch changes. That refuses dropout that is left on, batch statistics, rows taken for
columns, and class tokens taken for patches, each of which would give a plausible wrong number.
"""

from __future__ import annotations

import inspect
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from densebench.backbones.layouts import NAMED, Layout, Path, Size, layouts_of, leaves, spelled
from densebench.errors import UserError, out_of_memory
from densebench.numerics.arithmetic import float32

PAIRS = ((64, 128), (112, 224), (256, 384))
TOLERANCE = 1e-3  # of the norm of the features; other sizes of batch change float32 by far less
TINY = 1e-5  # of the largest feature; what rounding may change
BLOCK = 8  # px of a changed patch at least


@dataclass(frozen=True)
class Way:
    """A way to call a module on images. name: as the user would write it."""

    name: str
    call: Callable[[Any, Tensor], Any]


class Unread(Exception):  # noqa: N818
    """No patch features are given; the text says why.

    refused: they are there, but cannot be trusted. error: what the module raised, where it takes no image at all.
    """

    def __init__(self, reason: str, *, refused: bool = False, error: Exception | None = None) -> None:
        super().__init__(reason)
        self.refused, self.error = refused, error


@dataclass(frozen=True)
class Reading:
    """Where patch features are: in the tensor at `path` of what `way` returns, in a layout. sizes: the images that were tried."""

    way: Way
    path: Path
    layout: Layout
    sizes: tuple[Size, ...]
    remark: str = ""

    @property
    def fixed(self) -> bool:
        """Whether the module takes images of one size alone."""
        return len(self.sizes) == 1

    @property
    def words(self) -> str:
        """What was recognised, without the width and the stride."""
        at = f", for images of {self.sizes[0][0]} x {self.sizes[0][1]} px only" if self.fixed else ""
        return f"{self.way.name}{spelled(self.path)} gives {self.layout.words}{at}{self.remark}"


class Adapted(nn.Module):
    """A module as a trunk: the patch features of a reading."""

    def __init__(self, model: nn.Module, reading: Reading, name: str) -> None:
        super().__init__()
        self.model, self.reading, self.name = model, reading, name

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d gh gw"]:
        """Return patch features. Raises UserError for a size that a module of one size does not take."""
        height, width = images.shape[2:]
        try:
            output = self.reading.way.call(self.model, images)
        except (AssertionError, IndexError, RuntimeError, ValueError) as error:
            if out_of_memory(error) or not self.reading.fixed or (height, width) in self.reading.sizes:
                raise
            side = self.reading.sizes[0][0]
            raise UserError(
                f"{self.name} takes no images of {height} x {width} px ({_reason(error)}); use --image-size {side}, or another backbone"
            ) from error
        return self.reading.layout.grid(leaves(output)[self.reading.path], height, width)


def usual_ways(model: nn.Module) -> list[Way]:
    """Return the ways to call a module on images, the plainest first."""
    names = _parameters(model.forward)
    ways = []
    if "pixel_values" in names:
        more = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in names else {}
        ways.append(Way("forward(pixel_values=...)", lambda network, images: network(pixel_values=images, **more)))
    else:
        ways.append(Way("forward", lambda network, images: network(images)))
    return [*ways, *feature_ways(model)]


def feature_ways(model: Any) -> list[Way]:
    """Return the ways that models of torch hub have, whose forward gives the class token alone."""
    ways = []
    if callable(getattr(model, "forward_features", None)):
        ways.append(Way("forward_features", lambda network, images: network.forward_features(images)))
    if callable(getattr(model, "get_intermediate_layers", None)):
        ways.append(Way("get_intermediate_layers(images, 1)", lambda network, images: network.get_intermediate_layers(images, 1)))
    return ways


def _parameters(function: Callable[..., Any]) -> Sequence[str]:
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return []


def find(model: nn.Module, ways: Sequence[Way], device: torch.device) -> Reading:
    """Return the first reading of a module, whose parts before pooling are tried last. Raises Unread where there is none."""
    reasons: list[Unread] = []
    with _quiet(device):
        for way in ways:
            try:
                return _read(model, way, device)
            except Unread as reason:
                reasons.append(reason)
        try:
            if part := _last_part(model, ways[0], device):
                return _read(model, part, device)
        except Unread as reason:
            reasons.append(reason)
    refused = [reason for reason in reasons if reason.refused]
    raise refused[0] if refused else Unread("; ".join(str(reason) for reason in reasons), error=reasons[0].error)


@contextmanager
def _quiet(device: torch.device) -> Iterator[None]:
    """Run the block without gradients, in true float32, and leave every state of random numbers as it was."""
    states = random.getstate(), np.random.get_state()
    devices = [device] if device.type == "cuda" else []
    try:
        half = torch.autocast(device.type, enabled=False)
        with torch.no_grad(), torch.random.fork_rng(devices=devices), float32(tf32=False), half:
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def _read(model: nn.Module, way: Way, device: torch.device) -> Reading:
    hints = _hints(model)
    why, first, several = "", None, False
    for sizes in _attempts(model, hints):
        if several and len(sizes) == 1:
            break  # at one size more would fit than at several
        outputs, error = _outputs(model, way, sizes, device)
        if error is not None and not outputs:
            why, first = why or f"{way.name} fails on {_px(sizes[0])} ({_reason(error)})", first or error
            continue
        why, first, several = "" if first is not None else why, None, len(outputs) > 1
        shapes = {path: {size: found[path].shape for size, found in outputs.items()} for path in _common(list(outputs.values()))}
        fitting = {path: found for path, shape in shapes.items() if (found := layouts_of(shape, 2, hints))}
        if fitting:
            path = _chosen(fitting, way)
            return _checked(model, way, path, fitting[path], tuple(outputs), device)
        shown = [f"{_px(size)}: {_shown(found)}" for size, found in outputs.items()]
        why = why or f"{way.name} gives for two images of {', of '.join(shown)}"
        if not _spatial([[tensor.shape for tensor in found.values()] for found in outputs.values()]):
            break  # vectors alone, whatever the size
    raise Unread(why, error=first)


def _outputs(
    model: nn.Module, way: Way, sizes: Sequence[Size], device: torch.device
) -> tuple[dict[Size, dict[Path, Tensor]], Exception | None]:
    """Return the tensors that a way gives at each size that it takes, and the first error at the others."""
    found: dict[Size, dict[Path, Tensor]] = {}
    first: Exception | None = None
    for size in sizes:
        try:
            found[size] = leaves(way.call(model, noise(2, size, device)))
        except Exception as error:
            if out_of_memory(error):
                raise
            first = first or error
    return found, first


def _common(outputs: Sequence[Mapping[Path, Tensor]]) -> list[Path]:
    return [path for path in outputs[0] if all(path in output for output in outputs)]


def noise(count: int, size: Size, device: torch.device, seed: int = 0) -> Float[Tensor, "b 3 h w"]:
    """Return images of normal noise, of a generator of their own."""
    drawn = torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float32, device="cpu")
    return drawn.to(device)


def _hints(model: nn.Module) -> list[int]:
    """Return the patch sizes that a module names, or its first convolution has."""
    holders = [getattr(model, "patch_embed", None), model, getattr(model, "config", None)]
    named = [getattr(holder, "patch_size", None) for holder in holders] + [getattr(model, "stride", None)]
    patchify = next((part for part in model.modules() if isinstance(part, nn.Conv2d)), None)
    if patchify is not None and patchify.kernel_size == patchify.stride:
        named.append(patchify.stride)
    sides = [side[0] if isinstance(side, tuple | list) and len(set(side)) == 1 else side for side in named]
    return list(dict.fromkeys(int(side) for side in sides if isinstance(side, int) and side > 1))


def _attempts(model: nn.Module, hints: Sequence[int]) -> Iterator[list[Size]]:
    """Yield sizes to try together: two squares and an image of unequal sides, and last the one size that a module may name."""
    sides = [(4 * hint, 6 * hint) for hint in hints if hint >= 8]
    common = math.lcm(64, int(getattr(model, "stride", 1))) if isinstance(getattr(model, "stride", 1), int) else 64
    for small, large in dict.fromkeys([*sides, (common, 2 * common), *PAIRS]):
        yield [(small, small), (large, large), (small, large)]
    config = getattr(model, "config", None)
    own = [getattr(holder, name, None) for holder in (model, getattr(model, "patch_embed", None), config)
           for name in ("img_size", "image_size", "input_size")]  # fmt: skip
    for side in dict.fromkeys(side[-1] if isinstance(side, tuple | list) and side else side for side in own):
        if isinstance(side, int) and side > 0:
            yield [(side, side)]
    yield from [[(32, 32)], [(96, 96)], [(512, 512)]]


def _chosen(fitting: Mapping[Path, list[Layout]], way: Way) -> Path:
    """Return the tensor that has the patch features: a named one, else the deepest one. Raises Unread where two could be it."""
    for name in NAMED:
        if named := [path for path in fitting if name in path]:
            fitting = {path: fitting[path] for path in named}
            break
    stride = max(layouts[0].stride for layouts in fitting.values())
    deepest = [path for path, layouts in fitting.items() if layouts[0].stride == stride]
    in_order = all(path and isinstance(path[-1], int) and path[:-1] == deepest[0][:-1] for path in deepest)
    if len(deepest) > 1 and not in_order:
        raise Unread(f"{way.name} gives several features of stride {stride}: {', '.join(map(spelled, deepest))}", refused=True)
    return deepest[-1]


def _checked(
    model: nn.Module, way: Way, path: Path, layouts: Sequence[Layout], sizes: tuple[Size, ...], device: torch.device
) -> Reading:
    """Return the reading whose layout the features follow. Raises Unread for features that change by chance or with others."""
    block = max(layouts[0].stride, math.ceil(BLOCK / layouts[0].stride) * layouts[0].stride)
    size, changes, cells = sizes[-1], None, None
    wide = (6 * block, 8 * block) if block <= 64 else (3 * block, 4 * block)
    for size in dict.fromkeys((*([wide] if len(sizes) > 2 else []), *sizes[::-1])):
        cells = _cells(size[0] // block, size[1] // block)
        if len(cells) < 2:
            continue
        try:
            changes = _changes(model, way, path, size, cells, block, device)
            break
        except Unread:
            raise
        except Exception as error:
            if out_of_memory(error) or size in sizes:
                raise Unread(f"{way.name} fails on {_px(size)} ({_reason(error)})") from error
    if changes is None or cells is None:
        raise Unread(f"{way.name} gives a single feature for images of {_px(size)}, in which no patch can be told from another")
    centres = [(row * block + block // 2, column * block + block // 2) for row, column in cells]
    layout, remark = _settled(f"{way.name}{spelled(path)}", layouts, changes, size, centres)
    return Reading(way, path, layout, sizes, remark)


def _settled(
    title: str, layouts: Sequence[Layout], changes: Tensor, size: Size, centres: Sequence[tuple[int, int]]
) -> tuple[Layout, str]:
    """Return the layout whose features change most with their own patches, and a remark where none of them does.

    The usual one is left only where another agrees (nearly) everywhere. Features that change elsewhere are refused; those that change
    nowhere or everywhere alike (a collapsed model) leave open which layout it is, and lie as usual.
    """
    count = len(centres)
    agreement = [_agreement(layout, changes, size, centres) for layout in layouts]
    hits, strength = agreement[0]
    best = max(range(len(layouts)), key=lambda index: agreement[index])
    if count >= 4 and agreement[best][0] >= 0.8 * count:
        if hits <= count / 2 or (agreement[best][0] >= hits and agreement[best][1] > 1.25 * strength):
            return layouts[best], ""
    if hits > count / 2:
        return layouts[0], ""
    if _is_local(changes, layouts[0]):
        raise Unread(
            f"the features of {title} do not follow the patches: where one patch of an image changes, another one's feature "
            "changes most", refused=True,
        )  # fmt: skip
    return layouts[0], ", in which no feature changes most with its own patch (constant, or of the whole image)"


def _is_local(changes: Tensor, layout: Layout) -> bool:
    """Return whether each changed patch has some feature that changes far more with it than with the others."""
    table = changes.movedim(layout.axis, 1).norm(dim=1).flatten(1)
    share = table / table.sum(dim=0).clamp_min(1e-12)
    return bool((share.max(dim=1).values > 2 * share.median(dim=1).values).float().mean() > 0.5)


def _cells(rows: int, columns: int) -> list[tuple[int, int]]:
    """Return blocks of an image, spread along its borders, none of them on the diagonal; fewer in a small image."""
    spread = [(0.0, 1.0), (1.0, 0.0), (0.0, 0.5), (0.5, 0.0), (1.0, 0.5), (0.5, 1.0)]
    cells = [(round(down * (rows - 1)), round(right * (columns - 1))) for down, right in spread]
    return [cell for cell in dict.fromkeys(cells) if cell[0] != cell[1] or rows != columns]


def _changes(
    model: nn.Module, way: Way, path: Path, size: Size, cells: Sequence[tuple[int, int]], block: int, device: torch.device
) -> Tensor:
    """Return how the tensor at `path` changes when one block of an image does, for each of `cells`: differences, `[cells ...]`."""
    images = noise(1, size, device).repeat(len(cells) + 1, 1, 1, 1)
    for index, (row, column) in enumerate(cells):
        area = images[index, :, row * block : (row + 1) * block, column * block : (column + 1) * block]
        area.copy_(2 * noise(1, (block, block), device, seed=index + 1)[0] + 1.5)
    together, again, alone = (leaves(way.call(model, batch))[path].float() for batch in (images, images, images[-1:]))
    if together.shape[0] != len(images) or not torch.isfinite(together).all():
        raise Unread(f"{way.name} gives features that are not finite, or not one set an image", refused=True)
    if _differ(together, again):
        raise Unread(
            "the same images give other features the second time, in evaluation mode: something is drawn at random "
            "(dropout that is always on?) or kept from call to call", refused=True,
        )  # fmt: skip
    if _differ(together[-1:], alone):
        raise Unread(
            "the features of an image depend on the other images of its batch (batch statistics in evaluation mode?)",
            refused=True,
        )
    changes = together[:-1] - together[-1:]
    return torch.where(changes.abs() < TINY * together.abs().max(), 0.0, changes)


def _differ(first: Tensor, second: Tensor) -> bool:
    return bool((first - second).norm() > TOLERANCE * first.norm())


def _agreement(layout: Layout, changes: Tensor, size: Size, centres: Sequence[tuple[int, int]]) -> tuple[int, float]:
    """Return how many features change most, over all images, in the image whose patch they are; and how much they change in it."""
    try:
        grid = layout.grid(changes, *size).norm(dim=1)
    except (UserError, RuntimeError):
        return 0, 0.0
    if grid.shape[1:] != (size[0] // layout.stride, size[1] // layout.stride):
        return 0, 0.0
    rows, columns = ([position[axis] // layout.stride for position in centres] for axis in (0, 1))
    table = grid[:, rows, columns]
    own = table.diagonal()
    hits = (own >= table.max(dim=0).values) & (own > 0)
    return int(hits.sum()), float(own.sum())


def _last_part(model: nn.Module, way: Way, device: torch.device) -> Way | None:
    """Return a way to the output of the last part of a classifier that still has a grid or tokens; None without one.

    Only where the module itself gives nothing but vectors: then the parts behind that one only pool and classify.
    """
    hints = _hints(model)
    for sizes in _attempts(model, hints):
        seen = [order for size in sizes if (order := _parts(model, way, size, device)) is not None]
        if not seen:
            continue
        spatial = [name for name in seen[0] if all(name in order for order in seen) and _spatial([order[name] for order in seen])]
        if "" in spatial or not spatial:
            return None
        return Way(f"its part {spatial[-1]}", _Part(way, spatial[-1]))
    return None


def _parts(model: nn.Module, way: Way, size: Size, device: torch.device) -> dict[str, list[torch.Size]] | None:
    """Return the shapes that each part of a module gives for images of a size, in the order in which they end; None if it fails."""
    order: dict[str, list[torch.Size]] = {}
    hooks = []
    for name, part in model.named_modules():

        def note(_part: nn.Module, _inputs: Any, output: Any, name: str = name) -> None:
            order.pop(name, None)
            order[name] = [tensor.shape for tensor in leaves(output).values()]

        hooks.append(part.register_forward_hook(note))
    try:
        way.call(model, noise(2, size, device))
    except Exception as error:
        if out_of_memory(error):
            raise
        return None
    finally:
        for hook in hooks:
            hook.remove()
    return order


def _spatial(shapes: Sequence[Sequence[torch.Size]]) -> bool:
    """Return whether outputs still have a place for each patch: they grow with the image, or at one size have two more axes."""
    if len(shapes) > 1:
        return any(shape != shapes[0] for shape in shapes)
    return any(sum(side > 1 for side in shape) > 2 for shape in shapes[0])


@dataclass(frozen=True)
class _Part:
    """Calls a module and returns what one of its parts gives."""

    way: Way
    name: str

    def __call__(self, model: Any, images: Tensor) -> Any:
        outputs: list[Any] = []
        hook = model.get_submodule(self.name).register_forward_hook(lambda _part, _inputs, output: outputs.append(output))
        try:
            self.way.call(model, images)
        finally:
            hook.remove()
        if not outputs:
            raise RuntimeError(f"its part {self.name} was not called")
        output = outputs[-1]
        return output.clone() if isinstance(output, Tensor) else output  # what follows may write into it


def _px(size: Size) -> str:
    return f"{size[0]} x {size[1]} px"


def _shown(found: Mapping[Path, Tensor]) -> str:
    shown = [f"{spelled(path)} {list(tensor.shape)}".strip() for path, tensor in list(found.items())[:6]]
    return ", ".join(shown) or "no tensor"


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:120]}" if text else type(error).__name__
