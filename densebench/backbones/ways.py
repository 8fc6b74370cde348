"""How a module is called on images, and where in its output the patch features are, once that is recognised."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from densebench.backbones.layouts import Layout, Path, Size, leaves, spelled
from densebench.errors import UserError, out_of_memory


@dataclass(frozen=True)
class Call:
    """One of the possible calls of a module on images. name: as the user would write it; run: calls a module on images."""

    name: str
    run: Callable[[Any, Tensor], Any]


class NotRecognised(Exception):  # noqa: N818
    """A call gives no patch features that can be used; the text says why.

    refused: there are some, but they cannot be trusted. error: what the module raised, where it takes no image at all.
    """

    def __init__(self, reason: str, *, refused: bool = False, error: Exception | None = None) -> None:
        super().__init__(reason)
        self.refused, self.error = refused, error


@dataclass(frozen=True)
class FeatureSource:
    """Where patch features are: in the tensor at `path` of what `call` returns, in a layout.

    sizes: the heights and widths of images, in px, at which the call was probed. remark: what else the user should know.
    """

    call: Call
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
        return f"{self.call.name}{spelled(self.path)} gives {self.layout.words}{at}{self.remark}"


class Adapted(nn.Module):
    """A module as a trunk: the patch features at a `FeatureSource` of its output."""

    def __init__(self, model: nn.Module, source: FeatureSource, name: str) -> None:
        super().__init__()
        self.model, self.source, self.name = model, source, name

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d gh gw"]:
        """Return patch features. Raises UserError for a size that a module of one size does not take."""
        height, width = images.shape[2:]
        try:
            output = self.source.call.run(self.model, images)
        except (AssertionError, IndexError, RuntimeError, ValueError) as error:
            if out_of_memory(error) or not self.source.fixed or (height, width) in self.source.sizes:
                raise
            side = self.source.sizes[0][0]
            raise UserError(
                f"{self.name} takes no images of {height} x {width} px ({reason(error)}); "
                f"use --image-size {side}, or another backbone"
            ) from error
        return self.source.layout.grid(leaves(output)[self.source.path], height, width)


def usual_calls(model: nn.Module) -> list[Call]:
    """Return the calls of a module on images to try, the plainest first."""
    names = _parameters(model.forward)
    calls = []
    if "pixel_values" in names:
        more = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in names else {}
        calls.append(Call("forward(pixel_values=...)", lambda network, images: network(pixel_values=images, **more)))
    else:
        calls.append(Call("forward", lambda network, images: network(images)))
    return [*calls, *feature_calls(model)]


def feature_calls(model: Any) -> list[Call]:
    """Return the calls that models of torch hub have, whose forward gives the class token alone."""
    calls = []
    if callable(getattr(model, "forward_features", None)):
        calls.append(Call("forward_features", lambda network, images: network.forward_features(images)))
    if callable(getattr(model, "get_intermediate_layers", None)):
        name = "get_intermediate_layers(images, 1)"
        calls.append(Call(name, lambda network, images: network.get_intermediate_layers(images, 1)))
    return calls


def _parameters(function: Callable[..., Any]) -> Sequence[str]:
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return []


def noise(count: int, size: Size, device: torch.device, seed: int = 0) -> Float[Tensor, "b 3 h w"]:
    """Return images of normal noise, of a generator of their own."""
    drawn = torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float32, device="cpu")
    return drawn.to(device)


def px(size: Size) -> str:
    """Return a size in words."""
    return f"{size[0]} x {size[1]} px"


def reason(error: Exception) -> str:
    """Return an error in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:120]}" if text else type(error).__name__
