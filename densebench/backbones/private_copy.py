"""A private copy of a module: on the CPU, in float32, in evaluation mode, and nothing of it shared with the caller's module.

The caller's module is only read. Wrappers are taken off: those of data parallel training, which would wait for other processes,
and of torch.compile, which would compile for every size of the probes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from densebench.errors import UserError, out_of_memory

WRAPPERS = {
    "DistributedDataParallel": "module",
    "DataParallel": "module",
    "OptimizedModule": "_orig_mod",
    "AveragedModel": "module",
    "ModelEma": "module",
    "ModelEmaV2": "module",
    "ModelEmaV3": "module",
    "_FabricModule": "module",
}
"""Classes of torch, timm and Lightning that only wrap a module -> the attribute that holds it."""

SHARDED = ("FullyShardedDataParallel", "FSDPModule", "DeepSpeedEngine")
OWNERS = ("_trainer", "_fabric")  # of Lightning: they own a module, and do not belong to its features
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks")
OWN_HOOKS = ("torch.nn.utils.", "torch.ao.")  # weight_norm and spectral_norm make weights in hooks


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the module inside the wrappers of WRAPPERS."""
    while (name := type(model).__name__) in WRAPPERS and isinstance(inner := getattr(model, WRAPPERS[name], None), nn.Module):
        model = inner
    return model


def private_copy(model: nn.Module) -> tuple[nn.Module, int]:
    """Return a copy of a module without its wrappers, and how many of the caller's forward hooks it goes without.

    Raises UserError for a module that cannot be copied, or whose weights are spread over processes or have no values yet.
    """
    inner = unwrapped(model)
    _check_whole(inner)
    with torch.inference_mode(False), torch.no_grad():
        copied: nn.Module = copied_with(inner, [inner])
    left_out = sum(_without_hooks(part) for part in copied.modules())
    return frozen(copied), left_out


def frozen(model: nn.Module) -> nn.Module:
    """Return a module, which the caller must not use any more, converted to float32, without gradients, in evaluation mode."""
    for parameter in model.parameters():  # a scripted module has no requires_grad_ of its own
        parameter.requires_grad_(False)
    return model.float().eval()


def copied_with(value: Any, modules: list[nn.Module]) -> Any:
    """Return a deep copy of a value that holds modules, whose tensors are copied to the CPU. Raises UserError where it cannot."""
    memo: dict[int, Any] = {}
    for module in modules:
        for part in module.modules():
            memo |= {id(getattr(part, name)): None for name in OWNERS if getattr(part, "__dict__", {}).get(name) is not None}
            memo |= {id(tensor): _copied(tensor) for tensor in _tensors(part) if id(tensor) not in memo}
    try:
        for module in modules:
            for part in reversed(list(module.modules())):
                if (inside := unwrapped(part)) is not part:
                    memo[id(part)] = copy.deepcopy(inside, memo)
        return copy.deepcopy(value, memo)
    except Exception as error:
        if out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:120]
        raise UserError(
            f"{type(value).__name__} cannot be copied ({type(error).__name__}: {reason}{_culprit(modules)}); "
            "give the part that makes the features, such as model.backbone"
        ) from error


def _tensors(part: nn.Module) -> Iterator[Tensor]:
    """Yield the plain tensors that a module itself holds: parameters, buffers, and attributes such as weight_norm's weight."""
    for value in [*part._parameters.values(), *part._buffers.values(), *vars(part).values()]:
        if type(value) in (Tensor, nn.Parameter, nn.Buffer):
            yield value


def _copied(tensor: Tensor) -> Tensor:
    values = tensor.detach().to("cpu", copy=True)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(values, requires_grad=False)
    if type(tensor) is nn.Buffer:
        return nn.Buffer(values, persistent=tensor.persistent)
    return values


def _check_whole(model: nn.Module) -> None:
    """Raise UserError where a module's weights are not all in this process: sharded over several, or not yet initialised."""
    name = type(model).__name__
    kinds = {kind.__name__ for part in model.modules() for kind in type(part).__mro__}
    if sharded := kinds.intersection(SHARDED):
        raise UserError(
            f"{name} is spread over processes ({min(sharded)}); gather its whole state dict and give a plain module that loads it"
        )
    for key, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if type(tensor).__name__ == "DTensor":
            raise UserError(f"{name}: {key} is spread over processes; gather the whole weights into a plain module and give that")
        if isinstance(tensor, nn.UninitializedParameter | nn.UninitializedBuffer):
            raise UserError(f"{name}: {key} has no values yet (a lazy layer); call the module once before you give it")
        if tensor.is_meta:
            raise UserError(f"{name}: {key} has no values (it is on the meta device); load its weights before you give it")


def _without_hooks(part: nn.Module) -> int:
    """Remove the caller's hooks from a copy, since they would write into the caller's objects; return how many ran in forward."""
    count = 0
    for table in HOOKS:
        hooks = getattr(part, table, None) or {}
        for key in [key for key, hook in hooks.items() if not _is_torchs(hook)]:
            del hooks[key]
            count += table.startswith("_forward")
    return count


def _is_torchs(hook: Any) -> bool:
    module = getattr(hook, "__module__", None) or type(hook).__module__
    return module.startswith(OWN_HOOKS) or type(hook).__module__.startswith(OWN_HOOKS)


def _culprit(modules: list[nn.Module]) -> str:
    """Return the name of an attribute that cannot be copied, as words for a message; "" where none is at fault by itself."""
    for module in modules:
        for path, part in module.named_modules():
            for name, value in vars(part).items():
                if isinstance(value, nn.Module | Tensor) or name in ("_modules", "_parameters", "_buffers", *OWNERS):
                    continue
                try:
                    copy.deepcopy(value)
                except Exception:
                    return f", in its attribute {'.'.join(filter(None, (path, name)))}"
    return ""


def device_of(model: nn.Module) -> torch.device:
    """Return where a module's first tensor is; the CPU without any."""
    tensors = [*model.parameters(), *model.buffers()]
    return tensors[0].device if tensors else torch.device("cpu")
