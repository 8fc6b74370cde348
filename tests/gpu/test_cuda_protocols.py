"""Every protocol of the catalogue, with every preset and switch, gives the scores of the CPU on a simulated CUDA device."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from gpu_libraries import libraries_on, one_way_of_suppressing
from simulated_cuda import simulate
from tiers import late
from tiny_protocols import paths, tiny

from densebench import catalog
from densebench.conformance.checking import own_cache
from densebench.conformance.trial import difference
from densebench.errors import UserError
from densebench.evaluation.protocol import Run
from densebench.numerics.arithmetic import float32

CASES = [(name, path) for name in catalog.entries("protocols") for path in paths(name)]
FIRST = [(name, "leopart" if name == "kmeans" else next(iter(paths(name)))) for name in ("kmeans", "incontext", "vos")]
REMARKS = ("``build_loss`` would be deprecated", "Default ``avg_non_ignore`` is False")  # of mmseg, on every head that it builds
pytestmark = [pytest.mark.filterwarnings(f"ignore:{remark}") for remark in REMARKS]


def scores(name, device, path, folder):
    """The scores of a run on a device."""
    torch.manual_seed(0)
    evaluator, backbone, dataset = tiny(name, tmp_path=folder, **{**path, "device": device})
    run = Run(pictures=folder / "pictures" if path.get("visualise") else None)
    (folder / "pictures").mkdir(exist_ok=True)
    with libraries_on(device), one_way_of_suppressing(), own_cache(), float32(tf32=False):
        return list(evaluator.run(copy.deepcopy(backbone), dataset, run))


@pytest.mark.parametrize("case", late(CASES, *FIRST), ids=" ".join)
def test_scores_are_those_of_the_cpu(case, tmp_path):
    name, path = case[0], paths(case[0])[case[1]]
    try:
        on_cpu = scores(name, "cpu", path, tmp_path)
    except UserError as error:
        if len(path) == 1:
            raise
        on_cpu = str(error)
    try:
        with simulate() as report:
            on_cuda = scores(name, "cuda", path, tmp_path)
    except UserError as error:
        if on_cpu != str(error):
            raise
        pytest.skip(on_cpu)  # the protocol says which other option this switch needs
    assert report.total("kernel") > 10
    assert all(math.isfinite(score.value) for score in on_cuda)
    assert isinstance(on_cpu, str) or difference(on_cpu, on_cuda) == ""
