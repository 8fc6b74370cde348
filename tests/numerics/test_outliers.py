"""Artefact tokens by their norms: two modes, one mode, a case worked out by hand, invariances."""

from __future__ import annotations

import math
import statistics

import pytest
import torch

from densebench.numerics.outliers import outlier_cutoff, outlier_tokens


def one_mode(count=4000, spread=0.1, seed=0):
    return 40 * torch.exp(spread * torch.randn(count, generator=torch.Generator().manual_seed(seed)).double())


def two_modes(share=0.02, factor=8.0, **more):
    norms = one_mode(**more)
    artefacts = torch.zeros(len(norms), dtype=torch.bool)
    artefacts[:: round(1 / share)] = True
    return torch.where(artefacts, norms * factor, norms), artefacts


@pytest.mark.parametrize("share", [0.005, 0.02, 0.1])
@pytest.mark.parametrize("factor", [4.0, 10.0])
def test_the_second_mode_is_found_exactly(share, factor):
    norms, artefacts = two_modes(share, factor)
    assert torch.equal(outlier_tokens(norms), artefacts)


@pytest.mark.parametrize("spread", [0.0, 0.01, 0.1, 0.5])
def test_one_mode_has_no_artefacts(spread):
    assert not outlier_tokens(one_mode(spread=spread)).any()


def test_norms_of_gaussian_features_have_no_artefacts():
    features = torch.randn(5000, 16, generator=torch.Generator().manual_seed(0))
    assert not outlier_tokens(features.norm(dim=1)).any()


def test_the_cutoff_of_five_norms():
    # median 10; |log(norm / 10)| of 9, 10 and 12 are 0.105, 0 and 0.182, of the others more: the median of the five is log 1.2
    norms = [9.0, 10.0, 12.0, 4.0, 100.0]
    assert outlier_cutoff(torch.tensor(norms)) == pytest.approx(10 * 1.2 ** (6 * 1.4826))
    logs = [math.log(norm) for norm in norms]
    middle = statistics.median(logs)
    deviation = 1.4826 * statistics.median(abs(value - middle) for value in logs)
    assert outlier_cutoff(torch.tensor(norms)) == pytest.approx(math.exp(middle + 6 * deviation))


def test_norms_that_are_nearly_equal_are_cut_at_twice_the_median():
    assert outlier_cutoff(one_mode(spread=0.001)) == pytest.approx(80, rel=1e-3)
    assert outlier_tokens(torch.tensor([1.0, 1.0, 1.0, 1.99, 2.01])).tolist() == [False, False, False, False, True]


def test_scale_and_order_do_not_matter():
    norms, artefacts = two_modes()
    order = torch.randperm(len(norms), generator=torch.Generator().manual_seed(1))
    assert torch.equal(outlier_tokens(norms[order] * 1e-3), artefacts[order])


def test_the_cutoff_is_that_of_all_pictures_together():
    norms, artefacts = two_modes()
    norms[:100], artefacts[:100] = norms[:100] * 8, norms[:100] * 8 > 150  # a picture of artefacts alone
    assert torch.equal(outlier_tokens(norms.view(40, 10, 10)), artefacts.view(40, 10, 10))


@pytest.mark.parametrize("norms", [torch.zeros(0), torch.zeros(5), torch.tensor([0.0, 0.0, 3.0])], ids=["none", "zeros", "one"])
def test_without_norms_nothing_is_an_artefact(norms):
    assert outlier_cutoff(norms) == math.inf
    assert not outlier_tokens(norms).any()
