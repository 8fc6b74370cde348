"""A training with probes is bit for bit the training without them, and nothing of the process is left changed."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from growing import FEW, LIMIT, Net, train_step
from torch import nn

import densebench
from densebench.evaluation.undisturbed import undisturbed


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))


def probe(**given):
    return densebench.Probe("scenes", "incontext", limit=LIMIT, **FEW, **given)


def trained(asked=None, wrapped=lambda model: model, steps=20):
    """The weights, buffers and moments after some steps on noise."""
    torch.manual_seed(0)
    model = Net()
    called = wrapped(model)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(steps):
        if asked is not None:
            asked(called, step)
        train_step(called, optimiser)
    moments = {
        f"{number} {name}": value for number, one in optimiser.state_dict()["state"].items() for name, value in one.items()
    }
    return {**model.state_dict(), **moments}


def test_twenty_steps_with_probes_give_the_weights_of_twenty_without():
    asked = probe(every=4)
    one, other = trained(), trained(asked)
    assert len(asked.history) == 5
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_network_keeps_its_modes_and_grad_flags():
    model = Net()
    model.norm.eval()
    model.last.bias.requires_grad_(False)
    (model(torch.randn(2, 3, 32, 32)).sum()).backward()
    modes = [part.training for part in model.modules()]
    flags = [(value.requires_grad, value.dtype, value.device, value.data_ptr()) for value in model.parameters()]
    grads = [None if value.grad is None else value.grad.clone() for value in model.parameters()]
    probe()(model, 0)
    assert [part.training for part in model.modules()] == modes and not modes[2] and modes[0]
    assert [(value.requires_grad, value.dtype, value.device, value.data_ptr()) for value in model.parameters()] == flags
    for value, grad in zip(model.parameters(), grads, strict=True):
        assert (value.grad is None) == (grad is None) and (grad is None or torch.equal(value.grad, grad))


def drawn():
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_random_generators_go_on_as_if_nothing_had_happened():
    asked = probe()  # beartype draws from Python's generator while this is made
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = drawn()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    asked(Net(), 0)
    assert drawn() == expected


def test_generators_are_restored_after_an_error_too():
    asked = probe()
    torch.manual_seed(1)
    expected = torch.rand(())
    torch.manual_seed(1)
    with pytest.raises(densebench.errors.UserError):
        asked("nothing:such", 0)
    assert torch.equal(torch.rand(()), expected)


def test_numbers_that_the_scoring_itself_draws_change_nothing():
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = drawn()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    with undisturbed():
        drawn()
    assert drawn() == expected


def switches():
    cudnn = torch.backends.cudnn
    return {
        "gradients": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
        "cudnn": (cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32),
        "products": torch.get_float32_matmul_precision(),
        "dtype": torch.get_default_dtype(),
        "deterministic": (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        "device": torch.get_default_device(),
    }


@pytest.fixture
def unusual():
    """Switches that are all set to what they usually are not."""
    before = switches()
    cudnn = torch.backends.cudnn
    cudnn.benchmark, cudnn.deterministic = True, True
    torch.set_float32_matmul_precision("medium")
    torch.set_default_dtype(torch.float64)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32 = before["cudnn"]
    torch.set_float32_matmul_precision(before["products"])
    torch.set_default_dtype(before["dtype"])
    torch.use_deterministic_algorithms(before["deterministic"][0], warn_only=before["deterministic"][1])


def test_switches_stay_and_do_not_change_the_score(unusual):
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    model = Net()
    torch.set_default_dtype(usual)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), torch.device("meta"):
        before = switches()
        score = probe()(model, 0)
        assert switches() == before
    torch.set_default_dtype(torch.float32)
    assert score == probe()(model, 0)


def test_switches_that_the_scoring_itself_changes_are_set_back(unusual):
    before = switches()
    with undisturbed():
        torch.backends.cudnn.benchmark = torch.backends.cudnn.deterministic = torch.backends.cudnn.enabled = False
        torch.use_deterministic_algorithms(True)
        torch.set_default_dtype(torch.float16)
    assert switches() == before


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_a_probe_may_begin_where_no_gradient_is_kept(mode):
    asked, model = probe(), Net()
    with mode():
        first = asked(model, 0)
    assert asked(model, 1) == first
    model(torch.randn(2, 3, 32, 32)).sum().backward()


def test_wrappers_are_taken_off():
    model = Net()
    asked = probe()
    expected = asked(model, 0)
    assert asked(nn.DataParallel(model), 1) == expected
    compiled = torch.compile(model, backend="eager")
    assert asked(compiled, 2) == expected
    assert probe()(compiled, 0) == expected


def test_a_network_in_half_precision_is_scored_in_float32():
    model = Net()
    asked = probe()
    half = Net().bfloat16()
    rounded = Net()
    rounded.load_state_dict(half.state_dict())
    asked(model, 0)
    assert asked(half, 1) == probe()(rounded, 0)
    assert half.last.weight.dtype == torch.bfloat16
