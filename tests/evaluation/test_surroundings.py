"""What a caller has switched on in torch changes no score of `evaluate`, and is as it was afterwards."""

from __future__ import annotations

import contextlib
import random

import numpy as np
import pytest
import torch
from tiers import late
from torch import nn

import densebench

GIVEN = {"limit": 6, "memory_size": 200, "neighbours": (3,), "device": "cpu"}


@contextlib.contextmanager
def float64():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


SURROUNDINGS = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "default device": lambda: torch.device("meta"),
    "default dtype": float64,
}


def state():
    return (
        torch.is_autocast_enabled("cpu"), torch.is_inference_mode_enabled(), torch.is_grad_enabled(), torch.get_default_device(),
        torch.get_default_dtype(), torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[2],
    )  # fmt: skip


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 24, 16, 16), nn.BatchNorm2d(24), nn.ReLU())


@pytest.fixture(scope="module")
def usual(network, tmp_path_factory):
    return densebench.evaluate(
        network, "incontext", "scenes", results=tmp_path_factory.mktemp("usual"), **GIVEN
    ).frame.value.tolist()


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_the_scores_are_those_of_a_fresh_process(name, network, usual, tmp_path):
    with SURROUNDINGS[name]():
        before = state()
        result = densebench.evaluate(network, "incontext", "scenes", results=tmp_path, **GIVEN)
        assert state() == before
    assert result.frame.value.tolist() == usual


@pytest.mark.parametrize("name", late(SURROUNDINGS, *list(SURROUNDINGS)[:2]))
def test_scores_that_come_one_by_one_are_the_same(name, network, usual, tmp_path):
    with SURROUNDINGS[name]():
        before = state()[:5]
        values = []
        for scored in densebench.iter_evaluate(network, "incontext", "scenes", results=tmp_path, **GIVEN):
            assert state()[:5] == before
            values.append(scored.score.value)
    assert sorted(values) == pytest.approx(sorted(usual), abs=1e-4)
