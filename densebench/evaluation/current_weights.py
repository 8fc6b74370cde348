"""A network that changes between calls, as a backbone: recognised once, with the weights that it has at each call."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from densebench.backbones.backbone import Backbone
from densebench.backbones.loading import load_backbone
from densebench.backbones.private_copy import unwrapped
from densebench.errors import UserError


class CurrentWeights:
    """Makes a backbone of a network, and at later calls loads the network's parameters and buffers into it.

    The network is never changed. Whatever else it consists of (its code, its attributes that are no tensors) is as it was at the
    first call. Where its parameters have other names or shapes than before, it is recognised anew.
    """

    def __init__(self, **adapting: Any) -> None:
        """adapting: arguments of `load_backbone`, which say how a network is read."""
        self._adapting = adapting
        self._backbone: Backbone | None = None
        self._copy: nn.Module | None = None
        """The copy of the network inside the backbone; None where there is none whose weights are the network's own."""
        self._grid: tuple[int, int] | None = None
        self._calls = 0

    def backbone(self, model: Any) -> Backbone:
        """Return the backbone of a network as it is now. Raises UserError where its features have changed in width or stride."""
        self._calls += 1
        if not isinstance(model, nn.Module):
            return self._checked(load_backbone(model, **self._adapting))
        module = unwrapped(model)
        if self._backbone is None or self._copy is None or not _load(module, self._copy):
            whole = copy.deepcopy(module) if isinstance(module, Backbone) else module
            self._backbone = self._checked(load_backbone(whole, **self._adapting))
            self._copy = _copy_of(module, self._backbone)
        self._backbone.digest = f"call {self._calls} of a probe"  # its weights have changed, and nobody keeps its features
        return self._backbone

    def _checked(self, backbone: Backbone) -> Backbone:
        grid = (backbone.dim, backbone.stride)
        if self._grid not in (None, grid):
            (dim, stride), (now, step) = self._grid, grid  # type: ignore[misc]
            raise UserError(
                f"the network gave {dim} features for every {stride} px when it was probed first, and now gives {now} for every "
                f"{step} px: scores would not be comparable; make a new Probe for it"
            )
        self._grid = grid
        return backbone


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return all parameters and buffers by name; a part that torch.compile has wrapped has the name that it has by itself."""
    parameters, buffers = (named(remove_duplicate=False) for named in (module.named_parameters, module.named_buffers))
    return {name.replace("_orig_mod.", ""): tensor for name, tensor in (*parameters, *buffers)}


@torch.no_grad()
def _load(module: nn.Module, into: nn.Module) -> bool:
    """Copy all parameters and buffers; return False, and copy nothing, where names or shapes differ."""
    source, target = _tensors(module), _tensors(into)
    if source.keys() != target.keys() or any(source[name].shape != target[name].shape for name in source):
        return False
    for name, tensor in target.items():
        tensor.copy_(source[name])
    return True


def _copy_of(module: nn.Module, backbone: Backbone) -> nn.Module | None:
    """Return the part of a fresh backbone that is a copy of the network: of its class, and with equal tensors."""
    source = _tensors(module)
    for part in backbone.modules():
        target = _tensors(part) if type(part) is type(module) and part is not module else {}
        if target and source.keys() == target.keys() and all(_same(source[name], target[name]) for name in source):
            return part
    return None


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool(torch.equal(one.detach().to(other.device, other.dtype), other.detach()))
