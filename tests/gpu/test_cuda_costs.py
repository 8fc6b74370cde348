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

DEFAULT = (1, 2, 5, 4000)
STEPS = {  # a step: waits, overlapped reads, blocking copies to the device, kernels
    "cribo": (1, 4, 0, 2446),
    "croc": (1, 1, 0, 1863),
    "dino": (1, 0, 0, 1834),
    "flsl": (1, 0, 0, 1724),
    "neco": (1, 0, 0, 3494),
}
IMAGES = {  # an image in a batch of one, half of it an image that is learned from: the same
    "bbox-knn flsl": (0, 2, 0, 15),
    "correspondence clean": (0, 3, 0, 61),  # of two pictures and a pair
    "detection flsl": (0, 4, 5, 356),
    "geometric-correspondence homography": (2, 9, 8, 495),  # of a pair: a search for the two nearest, one for mutual matches
    "geometric-correspondence navi": (1, 6, 4, 172),
    "incontext hummingbird": (0, 2, 0, 76),
    "kmeans leopart": (0, 1, 0, 27),
    "linear jafar": (0, 4, 0, 118),  # features of the image, of its mirror image and of the scored one, and the counts
    "linear lbfgs": (0, 3, 0, 83),
    "linear mmseg": (9, 1, 5, 84),  # of which nine are in MMSegmentation's IoUMetric
    "linear neco": (0, 2, 0, 104),
    "position readout-v1": (4, 4, 0, 111),  # the waits are those of a fit: more images have more directions to be found
    "robustness v1": (5, 7, 0, 255),  # of five conditions: one wait each, for the label map
    "segmenter mmseg": (9, 1, 5, 146),
    "unsupervised leopart": (0, 4, 0, 111),
    "vos dino": (0, 2, 0, 77),
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


@pytest.mark.parametrize("method", late(catalog.entries("methods"), "cribo"))
def test_a_step_waits_no_more_than_it_may(method):
    within(of_a_step(method), STEPS.get(method, DEFAULT))


@pytest.mark.parametrize("part", late(PARTS, ("kmeans", "leopart"), ("incontext", "hummingbird")), ids=" ".join)
def test_an_image_waits_no_more_than_it_may(part, tmp_path):
    name, preset = part
    within(of_an_image(name, preset, tmp_path), IMAGES.get(f"{name} {preset}", DEFAULT))


def test_a_bound_is_of_something():
    assert set(STEPS) <= set(catalog.entries("methods"))
    assert set(IMAGES) <= {f"{name} {preset}" for name, preset in PARTS}
