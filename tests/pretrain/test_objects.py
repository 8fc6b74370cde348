"""Objects from hard labels: means by hand and in loops, pruning, gradients."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from densebench.pretrain.cribo.objects import from_labels

LABELS = torch.tensor([[0, 0, 1, 3, 0, 1, 1, 2]])  # views (0, 0, 1, 3) and (0, 1, 1, 2)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_means_by_hand():
    objects = from_labels(LABELS, 4)
    assert objects.valid.tolist() == [[True, True, False, False]]  # 2 is only in the second view, 3 only in the first
    one = objects.vectors(0, torch.tensor([[[1.0, 2.0], [3.0, 6.0], [7.0, 7.0], [9.0, 9.0]]]))
    two = objects.vectors(1, torch.tensor([[[5.0, 0.0], [1.0, 1.0], [3.0, 5.0], [8.0, 8.0]]]))
    assert one.tolist() == [[[2, 4], [7, 7], [0, 0], [0, 0]]]
    assert two.tolist() == [[[5, 0], [2, 3], [0, 0], [0, 0]]]


def test_weights_of_a_view_are_those_of_its_own_patches():
    objects = from_labels(LABELS, 4)
    assert objects.weights[0][0].T.tolist() == [[0.5, 0.5, 0, 0], [0, 0, 1, 0], [0] * 4, [0] * 4]
    assert objects.weights[1][0].T.tolist() == [[1, 0, 0, 0], [0, 0.5, 0.5, 0], [0] * 4, [0] * 4]


def test_labels_beyond_the_count_belong_to_nothing():
    objects = from_labels(LABELS, 1)
    assert objects.valid.tolist() == [[True]]
    assert objects.weights[0][0, :, 0].tolist() == [0.5, 0.5, 0, 0]
    assert objects.weights[1][0, :, 0].tolist() == [1, 0, 0, 0]


def naive(labels, tokens, count):
    """Means per view in loops; an object that a view lacks is dropped from both."""
    n = len(labels) // 2
    found = []
    for k in range(count):
        sides = []
        for view in (0, 1):
            members = [tokens[view][i] for i in range(n) if labels[view * n + i] == k]
            sides.append(sum(members) / len(members) if members else None)
        found.append(None if any(side is None for side in sides) else sides)
    return found


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 5), st.integers(0, 99))
def test_equals_the_naive_restatement(b, n, count, seed):
    labels = torch.randint(0, count + 1, (b, 2 * n), generator=torch.Generator().manual_seed(seed))
    tokens = random(2, b, n, 3, seed=seed)
    objects = from_labels(labels, count)
    vectors = [objects.vectors(view, tokens[view]) for view in (0, 1)]
    for image in range(b):
        expected = naive(labels[image].tolist(), tokens[:, image], count)
        for k in range(count):
            assert objects.valid[image, k] == (expected[k] is not None)
            for view in (0, 1):
                wanted = torch.zeros(3) if expected[k] is None else expected[k][view]
                torch.testing.assert_close(vectors[view][image, k], wanted, atol=1e-6, rtol=1e-5)


def test_swapped_views_swap_the_weights():
    swapped, objects = from_labels(LABELS.roll(4, 1), 4), from_labels(LABELS, 4)
    assert torch.equal(swapped.valid, objects.valid)
    assert torch.equal(swapped.weights[0], objects.weights[1])
    assert torch.equal(swapped.weights[1], objects.weights[0])


def test_gradients_reach_the_patches_of_valid_objects_only():
    tokens = random(1, 4, 2).requires_grad_()
    from_labels(LABELS, 4).vectors(0, tokens).sum().backward()
    assert tokens.grad[0].tolist() == [[0.5, 0.5], [0.5, 0.5], [1, 1], [0, 0]]


def test_no_object_at_all():
    objects = from_labels(torch.tensor([[0, 0, 1, 1]]), 2)
    assert not objects.valid.any()
    tokens = random(1, 2, 3).requires_grad_()
    vectors = objects.vectors(0, tokens)
    assert vectors.tolist() == [[[0] * 3] * 2]
    vectors.sum().backward()
    assert (tokens.grad == 0).all()
