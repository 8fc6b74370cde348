"""True float32 where it says fp32, TF32 where it is asked for; and nothing that was set before is left changed."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from tiers import late_rows
from torch.overrides import TorchFunctionMode

from densebench import catalog
from densebench.backbones.backbone import Backbone, BackboneInfo
from densebench.datasets import load_dataset
from densebench.evaluation.run import evaluate
from densebench.features.extract import extract
from densebench.features.views import View
from densebench.numerics.arithmetic import float32
from densebench.training import run

PRODUCTS = (torch.mm, torch.addmm, torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, F.linear, F.conv2d)
PROTOCOLS = {"incontext": {}, "kmeans": {"seeds": 1, "pca": 8, "restarts": 1}, "linear": {"iterations": 2}}
TRUE, TF32 = ("highest", False), ("high", True)


def switches():
    """What torch says of products and of cuDNN's convolutions."""
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


def precisions():
    """The same by operation, where this torch knows it."""
    cudnn, mkldnn = torch.backends.cudnn, torch.backends.mkldnn
    if not hasattr(cudnn, "conv"):
        return []
    return [one.fp32_precision for one in (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv)]


class Watch(TorchFunctionMode):
    """Remembers the switches at every product; raises at one of them if it is told to."""

    def __init__(self, fails_at=None):
        super().__init__()
        self.seen, self.fails_at = [], fails_at

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in PRODUCTS:
            self.seen.append(switches())
            if len(self.seen) == self.fails_at:
                raise RuntimeError("the machine is on fire")
        return func(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def as_before(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))
    products, convolutions = switches()
    yield
    torch.set_float32_matmul_precision(products)
    torch.backends.cudnn.allow_tf32 = convolutions


@pytest.fixture
def watch(monkeypatch):
    """Watches what protocols compute; how a backbone is opened is left out."""
    watch = Watch()

    def watched(run):
        def generator(*arguments):
            with watch:
                yield from run(*arguments)

        return generator

    for kind in (catalog.load("protocols", name) for name in PROTOCOLS):
        monkeypatch.setattr(kind, "run", watched(kind.run))
    return watch


def train(output, **given):
    small = {"arch": "test_vit", "image_size": 32, "batch_size": 2, "hidden_dim": 32, "bottleneck_dim": 16, "out_dim": 64}
    small |= {"local_crops": 0, "device": "cpu", "cache": "none", "data": ["scenes"], "limit": 2, "steps": 2}
    return run.train("dino", output=output, **{**small, **given})


def scored(tmp_path, protocol="incontext", **given):
    small = {"limit": 2, "image_size": 64, "device": "cpu", "results": tmp_path / "results"}
    small |= PROTOCOLS[protocol] | ({} if protocol == "kmeans" else {"fractions": (1,)})
    [record] = evaluate("random:test_vit", protocol, "scenes", **{**small, **given}).records
    return record


def values(record):
    return [score["value"] for score in record["scores"]]


def by_switch(products, convolutions):
    torch.set_float32_matmul_precision(products)
    torch.backends.cudnn.allow_tf32 = convolutions


@contextmanager
def by_operation(operation, precision):
    """The newer way, undone even where the older one can no longer read it."""
    before = operation.fp32_precision
    operation.fp32_precision = precision
    try:
        yield
    finally:
        operation.fp32_precision = before


@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize("products", ["highest", "high", "medium"])
@pytest.mark.parametrize("convolutions", [False, True])
def test_both_switches_are_set_and_restored(products, convolutions, tf32):
    by_switch(products, convolutions)
    before = precisions()
    with float32(tf32=tf32):
        assert switches() == (TF32 if tf32 else TRUE)
        assert set(precisions()) <= {"tf32" if tf32 else "ieee"}
    assert switches() == (products, convolutions)
    assert precisions() == before


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="this torch has switches alone")
@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize("where", ["matmul", "conv"])
def test_what_was_set_by_operation_is_restored(where, tf32):
    """The two ways exclude each other: after the newer one torch refuses to read the older."""
    operation, other = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    operation, precision = (operation, "tf32") if where == "matmul" else (other, "ieee")
    with by_operation(operation, precision):
        before = precisions()
        with float32(tf32=tf32):
            assert set(precisions()) == {"tf32" if tf32 else "ieee"}
        assert precisions() == before


def test_switches_are_restored_after_an_error():
    by_switch("high", True)
    with pytest.raises(ZeroDivisionError), float32(tf32=False):
        raise ZeroDivisionError
    assert switches() == ("high", True)


def test_blocks_nest():
    with float32(tf32=True):
        with float32(tf32=False):
            assert switches() == TRUE
        assert switches() == TF32


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_evaluation_is_in_true_float32(protocol, watch, tmp_path):
    """Features, search, clustering and heads, whatever was set before."""
    by_switch("medium", True)
    scored(tmp_path, protocol)
    assert len(watch.seen) > 10
    assert set(watch.seen) == {TRUE}
    assert switches() == ("medium", True)


def test_evaluation_after_pretraining_is_in_true_float32(watch, tmp_path):
    train(tmp_path / "run", precision="bf16")
    scored(tmp_path)
    assert set(watch.seen) == {TRUE}


def test_half_precision_is_scored_in_true_float32(watch, tmp_path):
    by_switch("high", True)
    scored(tmp_path, precision="bf16")
    assert set(watch.seen) == {TRUE}


@pytest.mark.parametrize(("precision", "expected"), late_rows([("fp32", TRUE), ("bf16", TF32)], ("bf16", TF32)))
def test_training_restores_what_it_sets(precision, expected, tmp_path):
    before, more = switches(), precisions()
    with Watch() as watch:
        train(tmp_path / "run", precision=precision)
    assert set(watch.seen[-10:]) == {expected}
    assert (switches(), precisions()) == (before, more)


def test_a_failure_in_training_restores_what_was_set(tmp_path):
    by_switch("medium", True)
    with pytest.raises(RuntimeError, match="on fire"), Watch(fails_at=40):
        train(tmp_path / "run", precision="bf16")
    assert switches() == ("medium", True)


def test_a_failure_in_evaluation_restores_what_was_set(watch, tmp_path):
    by_switch("medium", True)
    watch.fails_at = 5
    with pytest.raises(RuntimeError, match="on fire"):
        scored(tmp_path)
    assert switches() == ("medium", True)


def test_a_probe_during_training_is_in_true_float32(watch, tmp_path):
    train(tmp_path / "run", precision="bf16", probe="scenes:2", probe_every=1)
    assert set(watch.seen) == {TRUE}


def test_tf32_is_allowed_where_it_is_asked_for(watch, tmp_path):
    record = scored(tmp_path, precision="tf32")
    assert set(watch.seen) == {TF32}
    assert record["run"]["precision"] == "tf32"


def test_tf32_is_another_setting(tmp_path):
    """On a CPU the numbers are the same; the groups are not."""
    one, other = scored(tmp_path), scored(tmp_path, precision="tf32")
    assert values(one) == values(other)
    assert one["protocol"]["settings"] == other["protocol"]["settings"] | {"precision": "fp32"}
    assert len(list((tmp_path / "results").rglob("*.json"))) == 2


def test_features_are_in_true_float32_without_an_evaluation_around_them(tmp_path, monkeypatch):
    """A protocol's `run`, or `extract`, may be called by a script that has allowed TF32: the cache is shared with evaluations."""
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path))
    seen = []

    class Watched(torch.nn.Module):
        def forward(self, images):
            seen.append((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))
            return images[:, :, ::8, ::8]

    backbone = Backbone(Watched(), BackboneInfo("watched", "watched", 3, 8), "watched")
    scenes = load_dataset("scenes")
    with float32(tf32=True):
        extract(backbone, scenes, scenes.part("val", 2), View(8, 32))
        assert torch.get_float32_matmul_precision() == "high"
    assert set(seen) == {("highest", False)}
