"""A network that changes between calls, as a backbone: recognised once, with the weights that it has at each call."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from densebench.backbones.backbone import Backbone
from densebench.backbones.loading import load_backbone
from densebench.backbones.private_copy import unwrapped
from densebench.backbones.recognising import renewed
from densebench.errors import UserError


class CurrentWeights:
    """Makes a backbone of a network at each call; where its features are is recognised at the first call only.

    Every backbone runs on a new private copy, so that nothing that a network derives from its weights (such as a resized table of
    positions) outlives them. The network is never changed. One of another class, or whose tensors have other names or shapes, is
    recognised anew.
    """

    def __init__(self, **adapting: Any) -> None:
        """adapting: arguments of `load_backbone`, which say how a network is read."""
        self._adapting = adapting
        self._grid: tuple[int, int] | None = None
        self._recognised: Backbone | None = None
        """What the module was recognised as, without its weights."""
        self._shapes: dict[str, Any] = {}
        self._calls = 0

    def backbone(self, model: Any) -> Backbone:
        """Return the backbone of a network as it is now. Raises UserError where its features have changed in width or stride."""
        self._calls += 1
        backbone = self._of_module(model) if isinstance(model, nn.Module) else load_backbone(model, **self._adapting)
        grid = (backbone.dim, backbone.stride)
        if self._grid not in (None, grid):
            before, now = ("{} features for every {} px".format(*values) for values in (self._grid or (), grid))
            raise _changed(before, now)
        self._grid = grid
        backbone.digest = f"call {self._calls} of a probe"  # weights change at every call, and nobody keeps their features
        backbone.register_forward_hook(self._check_width)
        return backbone

    def _of_module(self, model: nn.Module) -> Backbone:
        if isinstance(model, Backbone):
            return load_backbone(copy.deepcopy(model), **self._adapting)
        shapes = _shapes(unwrapped(model))
        if self._recognised is None or shapes != self._shapes:
            self._recognised = load_backbone(model, **self._adapting).to("meta")
            self._shapes = shapes
        return renewed(self._recognised, model)

    @staticmethod
    def _check_width(backbone: Backbone, _: Any, features: Tensor) -> None:
        if features.shape[1] != backbone.dim:
            raise _changed(f"{backbone.dim} features", f"{features.shape[1]} features")


def _changed(before: str, now: str) -> UserError:
    return UserError(
        f"the network gave {before} when it was probed first, and now gives {now}: scores would not be comparable; "
        "make a new Probe for it"
    )


def _shapes(module: nn.Module) -> dict[str, Any]:
    """Return the class of a network, and the shape of each of its tensors."""
    tensors = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    return {"": type(module), **{name: tuple(tensor.shape) for name, tensor in tensors}}
