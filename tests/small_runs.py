"""Runs of a few steps on a few small images, and what they leave."""

from __future__ import annotations

import torch
from safetensors.torch import load_file

from densebench import catalog
from densebench.files import states
from densebench.training import run as training_run

SMALL = {
    "arch": "test_vit", "image_size": 32, "batch_size": 8, "hidden_dim": 32, "bottleneck_dim": 16, "log_every": 1,
    "device": "cpu", "cache": "none",
}  # fmt: skip


OWN = {
    "dino": {"out_dim": 64, "local_crops": 1, "local_size": 16},
    "croc": {"out_dim": 64, "object_dim": 48, "k_start": 4, "k_max": 4},
    "cribo": {"out_dim": 64, "object_dim": 48, "objects": 4, "memory": 16, "bootstrap_after": 0},
    "neco": {"local_crops": 1, "local_size": 16, "region_size": 2, "reference_count": 6},
    "flsl": {"out_dim": 64, "local_crops": 1, "local_size": 32, "window": 1, "local_window": 1},
}


METHODS = list(catalog.entries("methods"))


def train(method, output, **given):
    more = {"data": ["scenes"], "limit": 24, "output": output, "steps": 6, **SMALL, **OWN.get(method, {}), **given}
    return training_run.train(method, **{name: value for name, value in more.items() if value is not None})


def tensors(run):
    return load_file(states.saved_states(run)[-1])


def same(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
