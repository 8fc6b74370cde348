"""No step of a method and no image of a protocol makes the host wait for the GPU more often than is written here.

A new method or protocol is bounded by the defaults: one wait and two reads that overlap with work. `measure_waits.py` prints
what is measured, with the lines that wait. Blocking copies and kernels are bounded with some air, so that a loop over images is
noticed and a small change is not.
"""

from __future__ import annotations

import pytest
from device_costs import of_a_step, of_an_image
from tiers import late

from densebench import catalog

DEFAULT = (1, 2, 150, 4000)
STEPS = {  # a step: waits, overlapped reads, blocking copies to the device, kernels
    "cribo": (9, 0, 102, 2038),
    "croc": (4, 0, 101, 1764),
    "dino": (2, 0, 140, 1637),
    "flsl": (2, 0, 162, 1781),
    "neco": (1, 0, 152, 3238),
}
IMAGES = {  # an image in a batch of one, with one that is learned from, or a frame of a video: the same
    "bbox-knn flsl": (2, 0, 5, 12),
    "detection flsl": (2, 0, 6, 524),
    "incontext hummingbird": (9, 0, 8, 76),
    "kmeans leopart": (2, 0, 3, 30),
    "linear lbfgs": (8, 0, 9, 74),
    "linear mmseg": (15, 0, 5, 75),
    "linear neco": (8, 0, 10, 94),
    "segmenter mmseg": (15, 0, 5, 136),
    "unsupervised leopart": (4, 0, 12, 111),
    "vos dino": (3, 0, 3, 72),
}
REMARKS = ("``build_loss`` would be deprecated", "Default ``avg_non_ignore`` is False")  # of mmseg, on every head that it builds
pytestmark = [pytest.mark.filterwarnings(f"ignore:{remark}") for remark in REMARKS]
PARTS = [(name, part.presets[0]) for name, entry in catalog.entries("protocols").items() for part in entry.parts]


def within(costs, bounds):
    waits, overlapped, copies, kernels = bounds
    assert costs.waits <= waits, costs
    assert costs.overlapped <= overlapped, costs
    assert costs.copies <= copies, costs
    assert costs.kernels <= kernels, costs


@pytest.mark.parametrize("method", catalog.entries("methods"))
def test_a_step_waits_no_more_than_it_may(method):
    within(of_a_step(method), STEPS.get(method, DEFAULT))


@pytest.mark.parametrize("part", late(PARTS, ("kmeans", "leopart"), ("incontext", "hummingbird")), ids=" ".join)
def test_an_image_waits_no_more_than_it_may(part, tmp_path):
    name, preset = part
    within(of_an_image(name, preset, tmp_path), IMAGES.get(f"{name} {preset}", DEFAULT))


def test_a_bound_is_of_something():
    assert set(STEPS) <= set(catalog.entries("methods"))
    assert set(IMAGES) <= {f"{name} {preset}" for name, preset in PARTS}
