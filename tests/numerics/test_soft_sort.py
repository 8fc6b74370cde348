"""Soft sorting: values and gradients against loops and the public package, symmetries, and memory."""

from __future__ import annotations

import pytest
import torch
from sorting_reference import (
    EVERY,
    NETWORKS,
    SWAPS,
    Meter,
    cosines,
    normal,
    options,
    problem,
    reference_loss,
    reference_sort,
    value_and_gradient,
)
from tiers import late

from densebench.numerics.sorting import order_loss, soft_sort


@pytest.mark.parametrize(("network", "swap"), EVERY)
@pytest.mark.parametrize("count", late([3, 4, 7, 11, 16, 49], 4, 11))
def test_values_and_gradients_equal_the_restatement(count, network, swap):
    """The gradient of a random function of both outputs, with one tie among the inputs."""
    values = cosines(3, count, seed=count)
    values[0, 0] = values[0, 1]
    on_sorted, on_permutation = normal(3, count, seed=1), normal(3, count, count, seed=2)
    results = []
    for sort in (lambda x: soft_sort(x, 20.0, network=network, swap=swap), lambda x: reference_sort(x, 20.0, network, swap)):
        leaf = values.clone().requires_grad_(True)
        found, permutation = sort(leaf)
        ((found * on_sorted).sum() + (permutation * on_permutation).sum()).backward()
        results.append((found.detach(), permutation.detach(), leaf.grad))
    (found, permutation, gradient), (found_there, permutation_there, gradient_there) = results
    torch.testing.assert_close(found, found_there, atol=1e-13, rtol=0)
    torch.testing.assert_close(permutation, permutation_there, atol=1e-13, rtol=0)
    torch.testing.assert_close(gradient, gradient_there, atol=1e-11 * float(gradient_there.abs().max()), rtol=1e-9)


@pytest.mark.parametrize(("network", "swap"), EVERY)
@pytest.mark.parametrize("through", ["sorted", "permutation"])
def test_gradient_through_one_output_alone(through, network, swap):
    values = cosines(2, 6, seed=3)
    which = ["sorted", "permutation"].index(through)
    gradients = []
    for sort in (lambda x: soft_sort(x, 20.0, network=network, swap=swap), lambda x: reference_sort(x, 20.0, network, swap)):
        leaf = values.clone().requires_grad_(True)
        result = sort(leaf)[which]
        gradients.append(torch.autograd.grad((result * normal(*result.shape, seed=4)).sum(), leaf)[0])
    assert gradients[1].abs().max() > 0.1
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-11, rtol=1e-9)


@pytest.mark.parametrize(("network", "swap"), EVERY)
def test_float32_follows_float64(network, swap):
    values = cosines(8, 49, seed=6)
    on_permutation = normal(8, 49, 49, seed=7)
    results = []
    for dtype in (torch.float32, torch.float64):
        leaf = values.float().to(dtype).requires_grad_(True)
        found, permutation = soft_sort(leaf, 100.0, network=network, swap=swap)
        gradient = torch.autograd.grad((permutation * on_permutation.to(dtype)).sum() + found.square().sum(), leaf)[0]
        assert gradient.dtype == dtype
        results.append((found.detach().double(), permutation.detach().double(), gradient.double()))
    torch.testing.assert_close(results[0][0], results[1][0], atol=1e-5, rtol=0)
    torch.testing.assert_close(results[0][1], results[1][1], atol=1e-4, rtol=0)
    torch.testing.assert_close(results[0][2], results[1][2], atol=1e-3 * float(results[1][2].abs().max()), rtol=0)


@pytest.mark.parametrize("swap", SWAPS)
@pytest.mark.parametrize("steepness", [1e-6, 1e6, 1e12])
def test_gradients_stay_finite_at_any_steepness(steepness, swap):
    values = cosines(2, 9, dtype=torch.float32).requires_grad_(True)
    with torch.no_grad():
        values[0, 3] = values[0, 4]
    found, permutation = soft_sort(values, steepness, swap=swap)
    (found.square().sum() + permutation.square().sum()).backward()
    assert torch.isfinite(permutation).all()
    assert torch.isfinite(values.grad).all()


def cubes(sort):
    def loss(values):
        found, permutation = sort(values, 5.0)
        return (found**3).sum() + (permutation**3).sum()

    return loss


@pytest.mark.parametrize("which", ["soft_sort", "order_loss"])
def test_a_second_derivative_is_refused_or_right(which):
    values, teacher, weights = problem(2, 4, seed=8)
    values.requires_grad_(True)

    def second(loss):
        first = torch.autograd.grad(loss(values), values, create_graph=True)[0]
        return torch.autograd.grad(first.square().sum(), values)[0]

    if which == "soft_sort":
        ours, theirs = cubes(soft_sort), cubes(reference_sort)
    else:
        ours = lambda x: order_loss(x, teacher, weights, **options()).square()  # noqa: E731
        theirs = lambda x: reference_loss(x, teacher, weights, options()).square()  # noqa: E731
    expected = second(theirs)
    try:
        found = second(ours)
    except RuntimeError as refused:
        assert "differentiate" in str(refused) or "grad" in str(refused)
    else:
        torch.testing.assert_close(found, expected)


def permuted(values, network, steepness=10.0):
    return soft_sort(values, steepness, network=network)[1]


@pytest.mark.parametrize("count", [2, 4, 8, 16, 64])
def test_full_bitonic_network_mirrors_negated_and_reversed_inputs(count):
    values = cosines(3, count, seed=9)
    permutation = permuted(values, "bitonic")
    torch.testing.assert_close(permuted(-values, "bitonic"), permutation.flip(2), atol=1e-12, rtol=0)
    torch.testing.assert_close(permuted(values.flip(1), "bitonic"), permutation.flip(1), atol=1e-12, rtol=0)


@pytest.mark.parametrize("count", [2, 4, 6, 10, 50])
def test_even_odd_even_network_mirrors_inputs_negated_and_reversed_at_once(count):
    values = cosines(3, count, seed=11)
    mirrored = permuted(-values.flip(1), "odd-even")
    torch.testing.assert_close(mirrored, permuted(values, "odd-even").flip(1, 2), atol=1e-12, rtol=0)


@pytest.mark.parametrize(("network", "swap"), EVERY)
def test_a_constant_moves_the_values_and_not_their_order(network, swap):
    values = cosines(2, 11, seed=12)
    found, permutation = soft_sort(values, 10.0, network=network, swap=swap)
    moved, same = soft_sort(values + 3, 10.0, network=network, swap=swap)
    torch.testing.assert_close(moved, found + 3, atol=1e-10, rtol=0)
    torch.testing.assert_close(same, permutation, atol=1e-10, rtol=0)


@pytest.mark.parametrize("swap", SWAPS)
def test_steepness_undoes_the_scale_of_the_values_but_for_logistic_phi(swap):
    values = cosines(2, 11, seed=13)
    _, permutation = soft_sort(values, 10.0, swap=swap)
    _, scaled = soft_sort(16 * values, 10.0 / 16, swap=swap)
    if swap == "logistic_phi":  # 16^(3/4) undoes it there, up to the 1e-10 in the root
        assert (scaled - permutation).abs().max() > 1e-2
        _, scaled = soft_sort(16 * values, 10.0 / 8, swap=swap)
    torch.testing.assert_close(scaled, permutation, atol=1e-7 if swap == "logistic_phi" else 1e-13, rtol=0)


@pytest.mark.parametrize("network", NETWORKS)
def test_rows_do_not_leak_into_each_other(network):
    values = cosines(4, 13, seed=14)
    spoiled = values.clone()
    spoiled[2] = float("nan")
    others = [0, 1, 3]
    leaf, spoiled = values.clone().requires_grad_(True), spoiled.requires_grad_(True)
    gradients = []
    for one in (leaf, spoiled):
        found, permutation = soft_sort(one, 10.0, network=network)
        (found[others].square().sum() + permutation[others].square().sum()).backward()
        gradients.append((found.detach()[others], permutation.detach()[others], one.grad[others]))
    for clean, beside_nan in zip(*gradients, strict=True):
        assert torch.equal(clean, beside_nan)
    assert (leaf.grad[2] == 0).all()


def kept(work, rows, count):
    """Bytes that the autograd graph of `work` keeps."""
    total = 0

    def count_bytes(tensor):
        nonlocal total
        total += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count_bytes, lambda tensor: tensor):
        work(cosines(rows, count, dtype=torch.float32).requires_grad_(True))
    return total


@pytest.mark.parametrize(("network", "total"), [("bitonic", 483), ("odd-even", 1176)])
def test_what_is_kept_for_the_backward_pass_grows_with_the_comparators_only(network, total):
    count = 49
    limit = 4 * (total + 3 * count + count * count) * 1.5

    def sort(values):
        return soft_sort(values, 100.0, network=network)

    per_row = (kept(sort, 96, count) - kept(sort, 32, count)) / 64
    assert 4 * count <= per_row < limit
    values = cosines(64, count, dtype=torch.float32).requires_grad_(True)
    with Meter(values) as meter:
        outputs = sort(values)
        alive = meter.now()
    constants = 64 * total  # the wires themselves
    assert alive < 64 * (limit + 4 * (count + count * count)) + constants
    assert outputs[1].grad_fn is not None


@pytest.mark.parametrize(("network", "swap"), EVERY)
@pytest.mark.parametrize("count", late([2, 5, 8, 17, 33, 49, 64], 5, 17, 33))
def test_values_and_gradients_equal_the_public_package(count, network, swap):
    diffsort = pytest.importorskip("diffsort", reason="the oracle diffsort 0.2.0 is not installed")
    public = diffsort.DiffSortNet(network.replace("-", "_"), count, steepness=100.0, art_lambda=0.25, distribution=swap)
    values = cosines(3, count, seed=19)
    on_sorted, on_permutation = normal(3, count, seed=20), normal(3, count, count, seed=21)
    results = []
    for sort in (lambda x: soft_sort(x, 100.0, network=network, swap=swap), public):
        leaf = values.clone().requires_grad_(True)
        found, permutation = sort(leaf)
        ((found * on_sorted).sum() + (permutation * on_permutation).sum()).backward()
        results.append((found.detach(), permutation.detach(), leaf.grad))
    (found, permutation, gradient), (found_there, permutation_there, gradient_there) = results
    torch.testing.assert_close(found, found_there, atol=1e-12, rtol=0)
    torch.testing.assert_close(permutation, permutation_there, atol=1e-12, rtol=0)
    torch.testing.assert_close(gradient, gradient_there, atol=1e-10 * float(gradient_there.abs().max()), rtol=1e-8)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize(("network", "swap"), EVERY)
def test_a_gpu_gives_the_same(network, swap):
    student, teacher, weights = problem(300, 49, seed=40, dtype=torch.float32)
    how = options(steepness=100.0, teacher_steepness=100.0, network=network, swap=swap, both=True)
    here = value_and_gradient(lambda x: order_loss(x, teacher, weights, **how), student)
    there = value_and_gradient(lambda x: order_loss(x, teacher.cuda(), weights.cuda(), **how), student.cuda())
    torch.testing.assert_close(there[0].cpu(), here[0], atol=0, rtol=1e-4)
    torch.testing.assert_close(there[1].cpu(), here[1], atol=2e-3 * float(here[1].abs().max()), rtol=0)
    sorted_here, sorted_there = (
        soft_sort(student, 100.0, network=network, swap=swap),
        soft_sort(student.cuda(), 100.0, network=network, swap=swap),
    )
    for one, other in zip(sorted_here, sorted_there, strict=True):
        assert other.is_cuda
        torch.testing.assert_close(other.cpu(), one, atol=1e-4, rtol=0)
