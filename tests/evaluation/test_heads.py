"""Heads: the shape of DINO's, unit outputs, weight-normed prototypes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from densebench.training.heads import Head, Prototypes


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_rows_are_normed_by_hand():
    layer = Prototypes(2, 2, fixed_norm=False)
    with torch.no_grad():
        layer.weight_v.copy_(torch.tensor([[3.0, 4.0], [0.0, 0.1]]))
        layer.weight_g.copy_(torch.tensor([[1.0], [2.0]]))
    torch.testing.assert_close(layer.weight.detach(), torch.tensor([[0.6, 0.8], [0.0, 2.0]]))


def test_weight_norm_is_torchs_with_its_gradients():
    layer = Prototypes(5, 3, fixed_norm=False)
    other = nn.utils.parametrizations.weight_norm(nn.Linear(3, 5, bias=False))
    magnitude, direction = other.parametrizations.weight.original0, other.parametrizations.weight.original1
    with torch.no_grad():
        layer.weight_v.copy_(random(5, 3))
        layer.weight_g.copy_(random(5, 1, seed=1).abs() + 0.5)
        direction.copy_(layer.weight_v)
        magnitude.copy_(layer.weight_g)
    torch.testing.assert_close(layer.weight, other.weight)
    pull = random(5, 3, seed=2)
    (layer.weight * pull).sum().backward()
    (other.weight * pull).sum().backward()
    torch.testing.assert_close(layer.weight_v.grad, direction.grad)
    torch.testing.assert_close(layer.weight_g.grad, magnitude.grad)


@pytest.mark.parametrize("fixed", [True, False])
def test_prototypes_begin_at_length_one(fixed):
    layer = Prototypes(50, 16, fixed_norm=fixed)
    torch.testing.assert_close(layer.weight.norm(dim=1).detach(), torch.ones(50))
    assert layer.weight_g.requires_grad is not fixed
    assert layer.weight_v.requires_grad
    assert len({tuple(row) for row in layer.weight.tolist()}) == 50


def test_the_length_of_a_direction_changes_nothing():
    layer = Prototypes(4, 8, fixed_norm=True)
    before = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight_v *= torch.tensor([[0.1], [1.0], [7.0], [100.0]])
    torch.testing.assert_close(layer.weight.detach(), before)


def test_a_fixed_norm_stays_one_while_directions_learn():
    layer = Prototypes(6, 4, fixed_norm=True)
    trained = [parameter for parameter in layer.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=0.1, weight_decay=0.4)
    before = layer.weight.detach().clone()
    for step in range(3):
        optimiser.zero_grad()
        (layer.weight * random(6, 4, seed=step)).sum().backward()
        assert layer.weight_g.grad is None
        optimiser.step()
    assert torch.equal(layer.weight_g, torch.ones(6, 1))
    torch.testing.assert_close(layer.weight.norm(dim=1).detach(), torch.ones(6))
    assert (layer.weight - before).abs().max() > 0.01


def test_the_head_of_dino():
    head = Head(384, {"image": 1000})
    linears = [module for module in head.modules() if isinstance(module, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linears] == [(384, 2048), (2048, 2048), (2048, 256)]
    assert all(layer.bias is not None and not layer.bias.any() for layer in linears)
    assert all(layer.weight.std().item() == pytest.approx(0.02, rel=0.05) for layer in linears)
    assert sum(isinstance(module, nn.GELU) for module in head.modules()) == 2
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm | nn.LayerNorm | nn.Dropout) for module in head.modules())
    assert head.prototypes("image").shape == (1000, 256)
    expected = 384 * 2048 + 2048 + 2048 * 2048 + 2048 + 2048 * 256 + 256 + 1000 * 256
    assert sum(parameter.numel() for parameter in head.parameters() if parameter.requires_grad) == expected
    free = Head(384, {"image": 1000}, fixed_norm=False)
    assert sum(parameter.numel() for parameter in free.parameters() if parameter.requires_grad) == expected + 1000


def gelu(x):
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def test_the_forward_pass_step_by_step():
    head = Head(6, {"image": 5}, hidden=8, bottleneck=4)
    with torch.no_grad():
        for i, parameter in enumerate(head.mlp.parameters()):
            parameter.copy_(random(*parameter.shape, seed=i))
    first, second, third = (module for module in head.mlp.modules() if isinstance(module, nn.Linear))
    x = random(3, 6)
    y = gelu(F.linear(gelu(F.linear(x, first.weight, first.bias)), second.weight, second.bias))
    y = F.linear(y, third.weight, third.bias)
    y = y / y.square().sum(1, keepdim=True).sqrt()
    torch.testing.assert_close(head(x), y)


def test_outputs_have_length_one_and_logits_are_bounded():
    head = Head(10, {"image": 40, "object": 7}, hidden=16, bottleneck=8)
    out = head(5 * random(3, 4, 10))
    assert out.shape == (3, 4, 8)
    torch.testing.assert_close(out.norm(dim=-1), torch.ones(3, 4))
    assert (out @ head.prototypes("image").T).abs().max() <= 1 + 1e-5
    torch.testing.assert_close(out[1:2, 2:3], head(5 * random(3, 4, 10)[1:2, 2:3]))


def test_a_zero_vector_gives_no_nan():
    head = Head(4, {"image": 3}, hidden=4, bottleneck=2)  # biases start at zero
    out = head(torch.zeros(2, 4, requires_grad=True))
    out.sum().backward()
    assert out.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in head.mlp.parameters())


def test_the_mlp_is_shared_and_the_prototypes_are_not():
    head = Head(6, {"image": 9, "object": 5}, hidden=8, bottleneck=4)
    assert head.prototypes("image").shape == (9, 4)
    assert head.prototypes("object").shape == (5, 4)
    assert sum(isinstance(module, nn.Linear) for module in head.modules()) == 3
    (head(random(2, 6)) @ head.prototypes("object").T).sum().backward()
    touched = {name for name, parameter in head.named_parameters() if parameter.grad is not None}
    assert any(name.startswith("mlp") for name in touched)
    assert any("object" in name and name.endswith("weight_v") for name in touched)
    assert not any("image" in name for name in touched)


def test_prototype_parameters_are_named_so_that_they_can_be_frozen():
    head = Head(6, {"image": 9}, hidden=8, bottleneck=4)
    names = {name for name, _ in head.named_parameters() if "last_layer" in name}
    assert {name.rsplit(".", 1)[1] for name in names} == {"weight_v", "weight_g"}
    assert {name for name, _ in head.named_parameters()} - names == {
        f"mlp.{i}.{k}" for i in (0, 2, 4) for k in ("weight", "bias")
    }


def test_mixed_precision_keeps_the_length_at_one():
    head = Head(10, {"image": 40}, hidden=16, bottleneck=8)
    with torch.autocast("cpu", torch.bfloat16):
        out, rows = head(random(6, 10)), head.prototypes("image")
    assert out.dtype == rows.dtype == torch.float32
    torch.testing.assert_close(out.norm(dim=1), torch.ones(6))
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(40))
