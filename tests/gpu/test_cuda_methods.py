"""Every method of the catalogue, on each path of its options, gives the numbers of the CPU on a simulated CUDA device."""

from __future__ import annotations

import pytest
import torch
from simulated_cuda import simulate
from small_runs import tensors
from tiers import late
from tiny_methods import BATCH, assembled, paths, tiny

from densebench import catalog
from densebench.files.logs import read_log
from densebench.files.states import saved_states
from densebench.numerics import crops
from densebench.training import augmentation, loop
from densebench.training.run import train

STEPS = 3
WHOLE_RUNS = ("visualise", "probe", "previous", "resume")
"""What happens around the steps, so that it takes a run with a folder."""
ROUNDED = {"figures": 1e-2, "weights": 1e-3}
"""Tolerances of bf16 and fp16: processors have different kernels for them, chosen by layout too."""
CASES = [(method, name) for method in catalog.entries("methods") for name in [*paths(method), "resume"]]
FIRST = [("dino", next(iter(paths("dino"))))]


@pytest.fixture(autouse=True)
def same_arithmetic(monkeypatch):
    """The CPU works as the GPU does where their sums differ: views are cut by products of matrices, and AdamW is fused."""
    monkeypatch.setattr(augmentation, "resized_crops", crops.matrix_crops)
    adamw = torch.optim.AdamW
    monkeypatch.setattr(torch.optim, "AdamW", lambda *given, **more: adamw(*given, **{**more, "fused": True}))


def is_whole_run(name):
    return name.partition(" ")[0] in WHOLE_RUNS


def steps(method, device, path):
    """The figures of each step, and the weights and memory after the last."""
    training = assembled(method, device, **path)
    figures = [report.figures for report in loop.run(training, STEPS)]
    state = {f"{name} {key}": value for name, part in training.modules.items() for key, value in part.state_dict().items()}
    return figures, {name: value.detach().cpu() for name, value in state.items()}


def whole_run(method, device, path, folder):
    """The figures of each step, and the weights after the last, of a run with a folder."""
    preset = catalog.find("methods", method).presets[0]
    given = {**tiny(method, preset), **path, "device": device, "save_steps": 2, "data": "scenes", "limit": 2 * BATCH}
    if given.pop("resume", False):
        train(method, output=folder, **given)
        saved_states(folder)[-1].unlink()
        train(method, output=folder, resume=True)
    else:
        train(method, output=folder, **given)
    rows = read_log(folder / "log.csv")
    return [{name: value for name, value in row.items() if name != "images_per_second"} for row in rows], tensors(folder)


def assert_equal(on_cpu, on_cuda, figures=1e-5, weights=3e-5):
    """Compare figures and weights: autograd may add gradients in another order, and Adam makes a tenth of a step of rounding."""
    assert len(on_cuda[0]) == len(on_cpu[0])
    for row, expected in zip(on_cuda[0], on_cpu[0], strict=True):
        assert {name: float(value) for name, value in row.items()} == pytest.approx(
            {name: float(value) for name, value in expected.items()}, rel=figures, nan_ok=True
        )
    assert on_cuda[1].keys() == on_cpu[1].keys()
    for name, value in on_cpu[1].items():
        compared = ...
        if name.endswith(
            "attn.qkv.bias"
        ):  # softmax cancels the keys' bias: its gradient is rounding, which Adam makes a whole step
            compared = torch.arange(len(value)) // (len(value) // 3) != 1
        pair = on_cuda[1][name][compared], value[compared]
        torch.testing.assert_close(*pair, rtol=1e-5, atol=weights, msg=lambda said, name=name: f"{name}: {said}")


@pytest.mark.parametrize("case", late([case for case in CASES if not is_whole_run(case[1])], *FIRST), ids=" ".join)
def test_steps_give_the_numbers_of_the_cpu(case):
    method, path = case[0], paths(case[0])[case[1]]
    on_cpu = steps(method, "cpu", path)
    with simulate() as report:
        on_cuda = steps(method, "cuda", path)
    assert report.total("kernel") > 1000
    assert_equal(on_cpu, on_cuda, **(ROUNDED if path.get("precision", "fp32") != "fp32" else {}))


@pytest.mark.slow
@pytest.mark.parametrize(("method", "name"), [case for case in CASES if is_whole_run(case[1])], ids=str)
def test_runs_give_the_numbers_of_the_cpu(method, name, tmp_path):
    path = {"resume": True} if name == "resume" else paths(method)[name]
    if name == "previous ckpt:":
        whole_run(method, "cpu", {}, tmp_path / "before")
        path = {"previous": f"ckpt:{tmp_path / 'before'}"}
    on_cpu = whole_run(method, "cpu", path, tmp_path / "cpu")
    with simulate():
        on_cuda = whole_run(method, "cuda", path, tmp_path / "cuda")
    assert_equal(on_cpu, on_cuda)
