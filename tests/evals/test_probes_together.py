"""Linear probes, heads through MMSegmentation and `vos` in one, two and three processes: the same scores in every rank."""

from __future__ import annotations

import pytest
from filmed import LENGTHS, OBJECTS, write
from probes_together import OPTIONS, outcomes

pytestmark = pytest.mark.slow
HEADS = ["mmseg", "dinov3", "segmenter"]
EXACT = [case for case in OPTIONS if case not in HEADS]
VIDEOS = [case for case in OPTIONS if case.startswith("vos")]


@pytest.fixture(scope="module")
def by_size(tmp_path_factory):
    """What every rank of 1, 2, 3 and 4 processes ends with, by case; four are more than there are videos."""
    root, found = tmp_path_factory.mktemp("together"), {}
    for size, cases in {1: list(OPTIONS), 2: list(OPTIONS), 3: [*EXACT, "segmenter"], 4: VIDEOS}.items():
        for name, frames in LENGTHS.items():
            write(root / str(size) / "videos", name, frames, OBJECTS[name])
        found[size] = outcomes(root / str(size), size, cases)
    return found


@pytest.mark.parametrize("case", EXACT)
def test_any_number_of_processes_ends_with_the_scores_of_one(by_size, case):
    [expected] = by_size[1][case]
    assert len(expected["scores"]) > 2
    for size in (2, 3, 4) if case in VIDEOS else (2, 3):
        for rank, found in enumerate(by_size[size][case]):
            assert found["scores"] == expected["scores"], (size, rank)


@pytest.mark.parametrize("case", HEADS)
def test_heads_trained_in_several_processes_score_as_those_of_one(by_size, case):
    """Gradients are added in another order. A trained backbone makes more of that than one convolution."""
    [expected], close = by_size[1][case], 1e-2 if case == "segmenter" else 1e-4
    for size in (2, 3) if case == "segmenter" else (2,):
        for found in by_size[size][case]:
            assert [score["variant"] for score in found["scores"]] == [score["variant"] for score in expected["scores"]]
            for got, wanted in zip(found["scores"], expected["scores"], strict=True):
                assert got["value"] == pytest.approx(wanted["value"], abs=close)


@pytest.mark.parametrize(
    ("case", "work"), [("neco", "images"), ("leopart", "images"), ("lbfgs by rows", "chunks"), *((v, "images") for v in VIDEOS)]
)
def test_the_work_is_divided(by_size, case, work):
    """Together the ranks pass as many images through the backbone, or make as many chunks, as one process; none does all."""
    [alone] = by_size[1][case]
    for size in (2, 3):
        shares = [found[work] for found in by_size[size][case]]
        assert sum(shares) == alone[work]
        assert max(shares) < 0.7 * alone[work]


def test_small_fits_are_dealt_out_whole(by_size):
    """Three fits of fraction 1/5 and 1/2 each, and the one of all images, of one chunk each; every fit is made once."""
    [alone] = by_size[1]["lbfgs by fits"]
    shares = [found["chunks"] for found in by_size[2]["lbfgs by fits"]]
    assert sum(shares) == alone["chunks"]
    assert max(shares) < 0.7 * alone["chunks"]
