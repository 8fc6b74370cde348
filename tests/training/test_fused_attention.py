"""Attention is torch's fused one in every block: no map of all pairs of tokens is made, in training or for features."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from small_runs import METHODS, train
from tiers import late
from torch.overrides import TorchFunctionMode

from densebench.backbones.loading import load_backbone

SOFTMAX = (torch.softmax, F.softmax, torch.Tensor.softmax)


class Watch(TorchFunctionMode):
    """Counts blocks' attention and calls of the fused one, and notes maps of all pairs `[b heads tokens tokens]`."""

    def __init__(self):
        super().__init__()
        self.blocks, self.fused, self.masked, self.maps = 0, 0, 0, []
        self.hook = torch.nn.modules.module.register_module_forward_hook(self.called)

    def called(self, module, _inputs, _output):
        self.blocks += type(module).__name__ == "Attention"

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            self.fused += 1
            self.masked += kwargs.get("attn_mask") is not None or bool(kwargs.get("dropout_p"))
        out = func(*args, **kwargs)
        if func in SOFTMAX and out.ndim == 4 and out.shape[2] == out.shape[3] > 1:
            self.maps.append(tuple(out.shape))
        return out

    def __exit__(self, *error):
        self.hook.remove()
        super().__exit__(*error)


@pytest.mark.parametrize("method", late(METHODS, "croc"))
def test_a_training_step_uses_fused_attention_in_every_block(method, tmp_path):
    with Watch() as watch:
        train(method, tmp_path / "run", steps=1)
    assert watch.blocks >= 12  # student and teacher, six blocks each
    assert watch.fused == watch.blocks
    assert not watch.masked and not watch.maps


@pytest.mark.parametrize("layer", late(["last", "2,5", "key", "attention"], "last", "attention"))
def test_features_use_fused_attention_in_every_block(layer):
    """Also those that are the class token's attention: one row of the map, of the last block alone, is computed beside it."""
    backbone = load_backbone("random:test_vit", layer=layer)
    with Watch() as watch, torch.inference_mode():
        backbone(torch.zeros(1, 3, 64, 64))
    assert watch.fused == watch.blocks == 6
    assert not watch.masked and not watch.maps
