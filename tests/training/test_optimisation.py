"""Optimisation: who decays, each tensor clipped by itself, the frozen last layer, the teacher that follows."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from densebench.training.heads import Head
from densebench.training.optimisation import clip_each, follow, freeze_last_layer, gradients, parameter_groups


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Toy(nn.Module):
    """One of each: tables, tokens, matrices, biases, norms, a two-dimensional bias, prototypes."""

    def __init__(self, *, fixed_norm=False):
        super().__init__()
        self.pos_embed = nn.Parameter(random(1, 5, 4))
        self.cls_token = nn.Parameter(random(1, 1, 4))
        self.scale = nn.Parameter(random(4))
        self.linear = nn.Linear(4, 4)
        self.odd = nn.Module()
        self.odd.bias = nn.Parameter(random(2, 2))
        self.norm = nn.LayerNorm(4)
        self.head = Head(4, {"image": 6, "object": 3}, hidden=8, bottleneck=4, fixed_norm=fixed_norm)
        for i, parameter in enumerate(self.parameters()):
            if not (fixed_norm and parameter.shape[-1] == 1):
                parameter.data = random(*parameter.shape, seed=i)

    def forward(self, x):
        x = self.norm(self.linear(x) * self.scale) + self.cls_token[0] + self.pos_embed[0].mean(0) + self.odd.bias.reshape(4)
        x = self.head(x)
        return x @ self.head.prototypes("image").T, x @ self.head.prototypes("object").T


def loss_of(module):
    return sum(out.square().sum() for out in module(random(7, 4, seed=1)))


def grouped(modules):
    groups = parameter_groups(modules)
    assert len(groups) == 2
    return [[id(parameter) for parameter in group["params"]] for group in groups]


def test_biases_and_vectors_do_not_decay_and_all_else_does():
    toy = Toy()
    decayed, plain = grouped([toy])
    names = {id(parameter): name for name, parameter in toy.named_parameters()}
    assert {names[i] for i in plain} == {
        "scale", "linear.bias", "odd.bias", "norm.weight", "norm.bias", "head.mlp.0.bias", "head.mlp.2.bias", "head.mlp.4.bias",
    }  # fmt: skip
    kept = {names[i] for i in decayed}
    assert {"pos_embed", "cls_token", "linear.weight", "head.mlp.0.weight"} <= kept
    assert sum(name.endswith("weight_g") for name in kept) == sum(name.endswith("weight_v") for name in kept) == 2
    assert len(decayed) + len(plain) == len(names)
    assert parameter_groups([toy])[1]["weight_decay"] == 0


def test_what_is_not_trained_is_in_no_group():
    toy = Toy(fixed_norm=True)
    magnitudes = {id(parameter) for name, parameter in toy.named_parameters() if name.endswith("weight_g")}
    assert len(magnitudes) == 2
    decayed, plain = grouped([toy])
    assert not magnitudes & {*decayed, *plain}
    assert len(decayed) + len(plain) == len(list(toy.parameters())) - 2


def test_several_modules_share_the_two_groups():
    first, second = Toy(), nn.Linear(3, 2)
    decayed, plain = grouped([first, second])
    assert id(second.weight) in decayed
    assert id(second.bias) in plain
    assert len(set(decayed + plain)) == len(decayed + plain) == len(list(first.parameters())) + 2


def test_the_decay_of_a_step_reaches_the_first_group_only():
    toy = Toy()
    groups = parameter_groups([toy])
    optimiser = torch.optim.AdamW(groups, lr=0.1, weight_decay=0.5)
    optimiser.param_groups[0]["weight_decay"] = 0.5
    before = [[parameter.detach().clone() for parameter in group["params"]] for group in optimiser.param_groups]
    for parameter in toy.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    for old, new in zip(before[0], optimiser.param_groups[0]["params"], strict=True):
        torch.testing.assert_close(new.detach(), old * 0.95)
    for old, new in zip(before[1], optimiser.param_groups[1]["params"], strict=True):
        assert torch.equal(new, old)


def test_clip_by_hand():
    long, short = torch.tensor([3.0, 4.0]), torch.tensor([0.3, 0.4])
    norms = clip_each([long, short], 1.0)
    assert norms.tolist() == pytest.approx([5, 0.5])
    assert long.tolist() == pytest.approx([0.6, 0.8], abs=2e-6)
    assert torch.equal(short, torch.tensor([0.3, 0.4]))


def test_clip_takes_each_tensor_by_itself_whatever_its_shape():
    shapes = [(3,), (4, 5), (1, 2, 3), (2, 1), ()]
    grads = [random(*shape, seed=i) * 10 ** (i - 2) for i, shape in enumerate(shapes)]
    expected, lengths = [], []
    for grad in grads:
        length = math.sqrt(sum(value**2 for value in grad.reshape(-1).tolist()))
        lengths.append(length)
        expected.append(grad * min(1.0, 0.3 / length))
    norms = clip_each(grads, 0.3)
    assert norms.shape == (5,)
    assert norms.tolist() == pytest.approx(lengths, rel=1e-5)
    for found, wanted in zip(grads, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-7)


def test_clip_of_a_matrix_is_by_all_its_entries():
    grad = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    clip_each([grad], 2.5)
    torch.testing.assert_close(grad, torch.tensor([[1.5, 0.0], [0.0, 2.0]]), rtol=1e-5, atol=0)


def test_clip_zero_measures_and_leaves_alone():
    grad = torch.tensor([30.0, 40.0])
    assert clip_each([grad], 0.0).tolist() == [50]
    assert grad.tolist() == [30, 40]


def test_clip_leaves_zeros_and_shows_what_is_not_finite():
    zero, broken, whole = torch.zeros(3), torch.tensor([1.0, float("nan")]), torch.tensor([3.0, 4.0])
    norms = clip_each([zero, broken, whole], 1.0)
    assert torch.equal(zero, torch.zeros(3))
    assert norms.isfinite().tolist() == [True, False, True]
    assert whole.tolist() == pytest.approx([0.6, 0.8], abs=2e-6)


def test_gradients_are_those_that_there_are_in_order():
    toy = Toy()
    assert gradients(toy) == []
    loss_of(toy).backward()
    toy.scale.grad = None
    expected = [parameter.grad for parameter in toy.parameters() if parameter.grad is not None]
    found = gradients(toy)
    assert len(found) == len(expected) == len(list(toy.parameters())) - 1
    assert all(one is other for one, other in zip(found, expected, strict=True))


def test_clipping_reaches_the_gradients_that_the_optimiser_uses():
    toy = Toy()
    loss_of(toy).backward()
    clip_each(gradients(toy), 1e-3)
    assert all(parameter.grad.norm() <= 1.0001e-3 for parameter in toy.parameters())


def test_a_frozen_last_layer_stays_bit_for_bit_through_adamw():
    toy = Toy()
    optimiser = torch.optim.AdamW(parameter_groups([toy]), lr=0.1, weight_decay=0.3)
    loss_of(toy).backward()
    optimiser.step()  # moments now exist: a gradient of zero would move the layer
    zeroed = copy.deepcopy(toy.state_dict())
    optimiser.zero_grad()
    loss_of(toy).backward()
    freeze_last_layer(toy)
    for name, parameter in toy.named_parameters():
        assert (parameter.grad is None) == ("last_layer" in name), name
    optimiser.step()
    for name, value in toy.state_dict().items():
        assert torch.equal(value, zeroed[name]) == ("last_layer" in name), name
    optimiser.zero_grad()
    loss_of(toy).backward()
    optimiser.step()
    assert not any(torch.equal(v, zeroed[name]) for name, v in toy.state_dict().items())


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.996, 1.0])
def test_follow_is_the_moving_average(momentum):
    student, teacher = Toy(), Toy()
    for i, parameter in enumerate(teacher.parameters()):
        parameter.data = random(*parameter.shape, seed=100 + i)
        parameter.requires_grad_(False)
    before = {name: value.double() for name, value in copy.deepcopy(teacher.state_dict()).items()}
    seen = copy.deepcopy(student.state_dict())
    follow(teacher, student, momentum)
    for name, value in teacher.state_dict().items():
        expected = momentum * before[name] + (1 - momentum) * seen[name].double()
        torch.testing.assert_close(value.double(), expected, rtol=0, atol=5e-7)
    assert all(torch.equal(value, seen[name]) for name, value in student.state_dict().items())
    assert all(parameter.grad_fn is None and not parameter.requires_grad for parameter in teacher.parameters())


def test_follow_never_shares_memory():
    student, teacher = Toy(), Toy()
    follow(teacher, student, 0.0)
    with torch.no_grad():
        student.scale += 1
    assert not torch.equal(student.scale, teacher.scale)


def test_following_a_student_at_rest_closes_in_geometrically():
    student, teacher = nn.Linear(2, 2), nn.Linear(2, 2)
    gap = (teacher.weight - student.weight).detach()
    for _ in range(5):
        follow(teacher, student, 0.9)
    torch.testing.assert_close((teacher.weight - student.weight).detach(), gap * 0.9**5, rtol=1e-4, atol=1e-6)
