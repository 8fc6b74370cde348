"""Where the patch features of a module are, recognised by probing: the module is called on images of several sizes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from densebench.backbones.checking import checked
from densebench.backbones.layouts import NAMED, Layout, Path, Size, layouts_of, leaves, spelled
from densebench.backbones.ways import Call, FeatureSource, NotRecognised, noise, px, reason
from densebench.errors import out_of_memory
from densebench.numerics.arithmetic import float32
from densebench.numerics.seeds import random_states

PAIRS = ((64, 128), (112, 224), (256, 384))


def find(model: nn.Module, calls: Sequence[Call], device: torch.device) -> FeatureSource:
    """Return the source of patch features that the first of `calls` gives; the parts of the module before pooling are tried last.

    Raises NotRecognised where there is none.
    """
    reasons: list[NotRecognised] = []
    with isolated(device):
        for call in calls:
            try:
                return _read(model, call, device)
            except NotRecognised as error:
                reasons.append(error)
        try:
            if part := _last_part(model, calls[0], device):
                return _read(model, part, device)
        except NotRecognised as error:
            reasons.append(error)
    refused = [error for error in reasons if error.refused]
    raise refused[0] if refused else NotRecognised("; ".join(str(error) for error in reasons), error=reasons[0].error)


@contextmanager
def isolated(device: torch.device) -> Iterator[None]:
    """Run the block without gradients and autocast, in true float32, and restore the states of all random generators."""
    half = torch.autocast(device.type, enabled=False)
    with random_states(), torch.no_grad(), float32(tf32=False), half:
        yield


def _read(model: nn.Module, call: Call, device: torch.device) -> FeatureSource:
    hints = _hints(model)
    why, first, several = "", None, False
    for sizes in _attempts(model, hints):
        if several and len(sizes) == 1:
            break  # at one size more would fit than at several
        outputs, error = _outputs(model, call, sizes, device)
        if error is not None and not outputs:
            why, first = why or f"{call.name} fails on {px(sizes[0])} ({reason(error)})", first or error
            continue
        why, first, several = "" if first is not None else why, None, len(outputs) > 1
        shapes = {path: {size: found[path].shape for size, found in outputs.items()} for path in _common(list(outputs.values()))}
        fitting = {path: found for path, shape in shapes.items() if (found := layouts_of(shape, 2, hints))}
        if fitting:
            path = _chosen(fitting, call)
            return checked(model, call, path, fitting[path], tuple(outputs), device)
        shown = [f"{px(size)}: {_shown(found)}" for size, found in outputs.items()]
        why = why or f"{call.name} gives for two images of {', of '.join(shown)}"
        if not _spatial([[tensor.shape for tensor in found.values()] for found in outputs.values()]):
            break  # vectors alone, whatever the size
    raise NotRecognised(why, error=first)


def _outputs(
    model: nn.Module, call: Call, sizes: Sequence[Size], device: torch.device
) -> tuple[dict[Size, dict[Path, Tensor]], Exception | None]:
    """Return the tensors that a call gives at each size that the module takes, and the first error at the others."""
    found: dict[Size, dict[Path, Tensor]] = {}
    first: Exception | None = None
    for size in sizes:
        try:
            found[size] = leaves(call.run(model, noise(2, size, device)))
        except Exception as error:
            if out_of_memory(error):
                raise
            first = first or error
    return found, first


def _common(outputs: Sequence[Mapping[Path, Tensor]]) -> list[Path]:
    return [path for path in outputs[0] if all(path in output for output in outputs)]


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
    holders, names = (model, getattr(model, "patch_embed", None), config), ("img_size", "image_size", "input_size")
    own = [getattr(holder, name, None) for holder in holders for name in names]
    for side in dict.fromkeys(side[-1] if isinstance(side, tuple | list) and side else side for side in own):
        if isinstance(side, int) and side > 0:
            yield [(side, side)]
    yield from [[(32, 32)], [(96, 96)], [(512, 512)]]


def _chosen(fitting: Mapping[Path, list[Layout]], call: Call) -> Path:
    """Return the tensor that has the patch features: a named one, else the deepest one. Raises NotRecognised for a tie."""
    for name in NAMED:
        if named := [path for path in fitting if name in path]:
            fitting = {path: fitting[path] for path in named}
            break
    stride = max(layouts[0].stride for layouts in fitting.values())
    deepest = [path for path, layouts in fitting.items() if layouts[0].stride == stride]
    in_order = all(path and isinstance(path[-1], int) and path[:-1] == deepest[0][:-1] for path in deepest)
    if len(deepest) > 1 and not in_order:
        raise NotRecognised(
            f"{call.name} gives several features of stride {stride}: {', '.join(map(spelled, deepest))}", refused=True
        )
    return deepest[-1]


def _last_part(model: nn.Module, call: Call, device: torch.device) -> Call | None:
    """Return a call that gives the output of the last part of a classifier that still has a grid or tokens; None without one.

    Only where the module itself gives nothing but vectors: then the parts behind that one only pool and classify.
    """
    hints = _hints(model)
    for sizes in _attempts(model, hints):
        seen = [order for size in sizes if (order := _parts(model, call, size, device)) is not None]
        if not seen:
            continue
        spatial = [name for name in seen[0] if all(name in order for order in seen) and _spatial([order[name] for order in seen])]
        if "" in spatial or not spatial:
            return None
        return Call(f"its part {spatial[-1]}", _Part(call, spatial[-1]))
    return None


def _parts(model: nn.Module, call: Call, size: Size, device: torch.device) -> dict[str, list[torch.Size]] | None:
    """Return the shapes that each part of a module gives for images of a size, in order of their ends; None if it fails."""
    order: dict[str, list[torch.Size]] = {}
    hooks = []
    for name, part in model.named_modules():

        def note(_part: nn.Module, _inputs: Any, output: Any, name: str = name) -> None:
            order.pop(name, None)
            order[name] = [tensor.shape for tensor in leaves(output).values()]

        hooks.append(part.register_forward_hook(note))
    try:
        call.run(model, noise(2, size, device))
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

    call: Call
    name: str

    def __call__(self, model: Any, images: Tensor) -> Any:
        outputs: list[Any] = []

        def keep(_part: nn.Module, _inputs: Any, output: Any) -> None:
            outputs[:] = [output.clone() if isinstance(output, Tensor) else output]  # what follows may write into it

        hook = model.get_submodule(self.name).register_forward_hook(keep)
        try:
            self.call.run(model, images)
        finally:
            hook.remove()
        if not outputs:
            raise RuntimeError(f"its part {self.name} was not called")
        return outputs[0]


def _shown(found: Mapping[Path, Tensor]) -> str:
    shown = [f"{spelled(path)} {list(tensor.shape)}".strip() for path, tensor in list(found.items())[:6]]
    return ", ".join(shown) or "no tensor"
