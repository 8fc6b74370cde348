"""Means of gradients over two processes (gloo), sent in the backward pass: bit for bit those of one exchange after it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest
import torch

from densebench.training.gradients import GradientMean

SCRIPT = """
import json, os, sys
import torch
import torch.distributed as dist
from torch import nn
from densebench.processes import in_all
from densebench.training.gradients import GradientMean

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank = dist.get_rank()
facts = {}


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Linear(16, 16) for _ in range(6)])
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        self.unused = nn.Parameter(torch.ones(5))
        self.of_one_rank = nn.Parameter(torch.ones(7, dtype=torch.float16))
        self.of_the_first_part = nn.Parameter(torch.ones(16))

    def forward(self, x, part):
        order = self.layers if rank == 0 else reversed(self.layers)  # gradients come in another order
        for layer in order:
            x = layer(x).tanh()
        if part == 0:
            x = x * self.of_the_first_part
        return x.square().sum() + (self.of_one_rank.sum() if rank == 0 else 0)


def grads(mean_of, poison=False):
    model = Layers()
    mean = mean_of(model)
    for step in range(2):
        model.zero_grad()
        sent.clear()
        before.clear()
        for part in range(2):
            torch.manual_seed(100 * step + 10 * rank + part)
            loss = model(torch.randn(4, 16), part)
            if poison and rank == 1:
                loss = loss * float("nan")
            if part == 1:
                mean.begin()
            loss.backward()
        mean.finish()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


class AfterIt:
    "One exchange of all gradients after the backward pass, zeros for those that are missing."

    def __init__(self, model):
        self.model = model

    def begin(self):
        pass

    def finish(self):
        for parameter in self.model.parameters():
            has = torch.tensor([float(parameter.grad is not None)])
            dist.all_reduce(has)
            if not has:
                continue
            grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
            dist.all_reduce(grad)
            parameter.grad = grad / 2


sent, before = [], []  # of the last step: what was sent, and what of it in the backward pass
reduce = dist.all_reduce


def spy(tensor, *rest, **more):
    if more.get("async_op"):
        sent.append(tensor.numel())
    return reduce(tensor, *rest, **more)


expected = grads(AfterIt)
for size in (1, 2000, 2**30):  # a bucket for each parameter, several, and one
    dist.all_reduce = spy
    finish = GradientMean.finish

    def watched(self):
        before.extend(sent)
        finish(self)

    GradientMean.finish = watched
    found = grads(lambda model: GradientMean(model.parameters(), size))
    dist.all_reduce, GradientMean.finish = reduce, finish
    same = all(
        (found[name] is None) == (expected[name] is None) and (found[name] is None or torch.equal(found[name], expected[name]))
        for name in expected
    )
    facts[size] = {"same": same, "before": len(before), "sent": list(sent)}
facts["none"] = [name for name, grad in found.items() if grad is None]
broken = grads(lambda model: GradientMean(model.parameters(), 2000), poison=True)
facts["finite"] = bool(torch.stack([grad.isfinite().all() for name, grad in broken.items() if "layers" in name]).any())
facts["in all"] = [in_all(torch.tensor(rank < true_in)) for true_in in range(3)]
print(json.dumps(facts))
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def facts():
    """What the two processes found."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT],
            env={**common, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    told = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    return [json.loads(out.splitlines()[-1]) for out, _ in told]


def test_buckets_give_the_means_of_one_exchange(facts):
    """In the second step, with two micro-batches, layers in different orders, and parameters of one process or part alone."""
    assert all(each[size]["same"] for each in facts for size in ("1", "2000", str(2**30)))


def test_buckets_are_sent_while_the_backward_pass_runs(facts):
    """The 12 parameters of the layers come first, from the last layer on; what no process uses is sent at the end."""
    first = facts[0]
    assert first["1"]["before"] == 12 and len(first["1"]["sent"]) == 15
    assert first["1"]["sent"][:4] == [16, 256, 16, 256]
    assert 0 < first["2000"]["before"] < len(first["2000"]["sent"])


def test_all_processes_send_the_same_buckets_in_the_same_order(facts):
    one, other = facts
    for size in ("1", "2000", str(2**30)):
        assert one[size]["sent"] == other[size]["sent"]
    assert one[str(2**30)]["sent"] == [6 * (16 * 16 + 16) + 16, 7, 5]  # the second one is of another type


def test_a_gradient_that_no_process_has_stays_none(facts):
    assert all(each["none"] == ["frozen", "unused"] for each in facts)


def test_what_is_not_finite_in_one_process_is_so_in_all(facts):
    assert not any(each["finite"] for each in facts)


def test_a_flag_is_true_in_all_where_it_is_true_in_each(facts):
    assert all(each["in all"] == [False, False, True] for each in facts)


def test_one_process_keeps_its_gradients():
    weight = torch.nn.Parameter(torch.ones(3))
    mean = GradientMean([weight])
    mean.begin()
    (weight * torch.arange(3.0)).sum().backward()
    mean.finish()
    assert weight.grad is not None
    assert weight.grad.tolist() == [0.0, 1.0, 2.0]
