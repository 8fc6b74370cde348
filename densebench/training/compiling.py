"""Compilation of the networks' blocks by torch.compile.

All blocks of a ViT share one graph for each size of a view, with and without gradients. For that, whatever differs between blocks
must be a tensor: torch.compile makes a graph of its own for every Python number, and beyond a number of graphs (eight by default)
it silently runs the rest uncompiled, even in a later training of the same process. So the probability of dropping a block, a
number in timm, becomes a tensor (`StochasticDepth`). Shapes are static (`dynamic=False`): a run has one or two sizes of views,
and a graph for each is faster than one for all.
"""

from __future__ import annotations

import copy
import importlib.util

import torch
import torch._dynamo.config
from torch import Tensor, nn

from densebench.console import notice, warn
from densebench.training.networks import Network

BACKEND = "inductor"
GRAPHS = 64  # most graphs of the blocks in a process: a training makes four or five


class StochasticDepth(nn.Module):
    """timm's `DropPath` with its probability in a tensor, which is no part of the state dict.

    In training, the residual branch of an image is dropped with that probability, and otherwise divided by 1 - probability. The
    random numbers differ from those of timm.
    """

    keep: Tensor

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.register_buffer("keep", torch.tensor(1.0 - probability), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return `[b ...]` with whole images dropped; x itself outside training."""
        if not self.training:
            return x
        kept = torch.rand((len(x), *[1] * (x.ndim - 1)), device=x.device) < self.keep
        return x * (kept / self.keep).to(x.dtype)


def compile_blocks(student: Network, teacher: Network, wanted: bool | None, device: torch.device) -> bool:
    """Compile the blocks of both networks if that is wanted and works; return whether they are compiled.

    wanted: None means on a GPU only. Where Triton is missing or a trial of one block fails, a line says so and the networks stay
    uncompiled. Parameters and the keys of state dicts never change.
    """
    if wanted is False or (wanted is None and device.type != "cuda"):
        return False
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        warn("torch.compile is off: Triton is not installed; training is slower without it (--no-compile hides this line)")
        return False
    torch._dynamo.config.recompile_limit = max(GRAPHS, torch._dynamo.config.recompile_limit)
    try:
        _try(student, device)
    except Exception as error:  # of the compiler, the driver, the C++ compiler of the machine, ...
        warn(f"torch.compile is off: it fails here ({_reason(error)}); training is slower without it")
        return False
    for block in _blocks(student):
        _compile(block)
    for block in _blocks(teacher):
        _compile(block)
    notice("the blocks of the networks are compiled: the first steps take a minute or two longer (--no-compile)")
    return True


def _reason(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:160]


def _try(network: Network, device: torch.device) -> None:
    """Compile a copy of the last block, and run it forward and backward. Raises whatever the compiler raises."""
    block = copy.deepcopy(network.encoder.model.blocks[-1])
    _compile(block)
    tokens = torch.zeros(2, 2, network.encoder.dim, device=device, requires_grad=True)
    with network.arithmetic(device):
        out = block(tokens)
    out.float().sum().backward()


def _compile(block: nn.Module) -> None:
    block.compile(backend=BACKEND, dynamic=False)


def _blocks(network: Network) -> list[nn.Module]:
    """Return the blocks of a network, with stochastic depth replaced by `StochasticDepth`, or removed where no block drops."""
    blocks = list(network.encoder.model.blocks)
    places = [(block, name) for block in blocks for name, _ in block.named_children() if name.startswith("drop_path")]
    rates = [float(getattr(getattr(block, name), "drop_prob", 0.0) or 0.0) for block, name in places]
    for (block, name), rate in zip(places, rates, strict=True):
        part = StochasticDepth(rate).to(next(block.parameters()).device) if any(rates) else nn.Identity()
        setattr(block, name, part.train(block.training))
    return blocks
