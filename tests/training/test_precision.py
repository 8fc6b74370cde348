"""Which precision a run computes in: what the device is fast at unless told otherwise, recorded, and the same after resuming."""

from __future__ import annotations

import json

import pytest
import torch
from small_runs import SMALL, train
from tiers import late

from densebench import catalog, options
from densebench.features.extract import autocast
from densebench.numerics.arithmetic import float32
from densebench.processes import resolve_precision
from densebench.training import run as training_run
from densebench.training.run import build

METHOD = "dino"


def on_a_gpu(monkeypatch, capability):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda _=None: capability)


def built(**given):
    return build(catalog.load("methods", METHOD), METHOD, "tiny", "official", None, given).precision


def settings(run):
    return json.loads((run / "run.json").read_text())["settings"]


@pytest.mark.parametrize(("capability", "expected"), [((9, 0), "bf16"), ((8, 0), "bf16"), ((7, 5), "fp32")])
def test_a_gpu_computes_in_bf16_where_it_has_it_and_never_in_fp16_by_itself(capability, expected, monkeypatch):
    on_a_gpu(monkeypatch, capability)
    assert built() == built(precision="auto") == expected
    assert built(device="cpu") == "fp32"


def test_a_precision_that_is_given_is_taken(monkeypatch):
    on_a_gpu(monkeypatch, (9, 0))
    for given in ("fp32", "bf16", "fp16"):
        assert built(precision=given) == resolve_precision(given, "auto") == given


def test_the_cpu_computes_in_fp32_and_the_run_records_that(tmp_path):
    assert settings(train(METHOD, tmp_path / "run", steps=1))["precision"] == "fp32"


@pytest.mark.parametrize("begun", late(["fp32", "bf16"], "fp32"))
def test_a_resumed_run_keeps_its_precision_on_another_device(begun, tmp_path, monkeypatch):
    run = train(METHOD, tmp_path / "run", steps=1, precision=begun)
    other = "bf16" if begun == "fp32" else "fp32"
    monkeypatch.setattr(training_run, "resolve_precision", lambda name, _: other if name == "auto" else name)
    training_run.train(METHOD, output=run, resume=True)
    training_run.train(METHOD, output=run, resume=True, precision="auto")
    assert settings(run)["precision"] == begun


@pytest.mark.parametrize(("given", "expected"), [(None, None), (True, True), ("yes", True), ("no", False), (False, False)])
def test_compiling_is_a_switch_or_left_to_the_device(given, expected):
    kind = catalog.load("methods", METHOD)
    chosen = build(kind, METHOD, "tiny", "official", None, {**SMALL, **({} if given is None else {"compile": given})})
    assert options.select(chosen, "runtime")["compile"] is expected


@pytest.mark.parametrize("allowed", [True, False])
def test_features_on_a_gpu_are_in_true_float32_whatever_was_allowed_outside(allowed):
    """Matrix products and cuDNN's convolutions, which embed the patches; in those, torch itself allows TF32."""
    with float32(tf32=allowed):
        with autocast(torch.device("cuda"), "fp32"):
            assert not torch.backends.cudnn.allow_tf32
            assert not torch.backends.cuda.matmul.allow_tf32
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.backends.cudnn.allow_tf32 is allowed
        assert torch.backends.cuda.matmul.allow_tf32 is allowed
