"""From neighbours to label maps: hand-computed cases, loops, invariances."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from densebench.evals.incontext import votes, voting
from densebench.evals.incontext.memory import Layout, Memory, Scaling
from densebench.numerics.patch_labels import patch_pixels


def test_attend_by_hand():
    labels = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    cosine, index = torch.tensor([[0.9, 0.8]]), torch.tensor([[0, 1]])
    found = votes.attend(cosine, index, labels, temperature=0.1)
    weight = math.exp(9) / (math.exp(9) + math.exp(8))
    assert found[0].tolist() == pytest.approx([weight, 1 - weight])


def test_attend_equals_a_loop_and_rows_sum_to_one():
    g = torch.Generator().manual_seed(0)
    labels = torch.rand(20, 4, generator=g)
    labels /= labels.sum(1, keepdim=True)
    cosine = torch.rand(6, 5, generator=g)
    index = torch.randint(0, 20, (6, 5), generator=g)
    found = votes.attend(cosine, index, labels, 0.02)
    for q in range(6):
        weights = torch.exp(cosine[q] / 0.02 - (cosine[q] / 0.02).max())
        expected = sum(w * labels[i] for w, i in zip(weights / weights.sum(), index[q], strict=True))
        torch.testing.assert_close(found[q], expected)
    torch.testing.assert_close(found.sum(1), torch.ones(6))


def test_cold_attention_takes_the_nearest_and_hot_attention_votes():
    labels = torch.eye(3)
    cosine, index = torch.tensor([[0.9, 0.8, 0.1]]), torch.tensor([[2, 0, 1]])
    assert votes.attend(cosine, index, labels, 1e-4)[0].tolist() == pytest.approx([0, 0, 1])
    torch.testing.assert_close(votes.attend(cosine, index, labels, 1e6), votes.vote(index, labels))


@pytest.mark.parametrize("metric", ["dot", "l2"])
def test_cosines_need_no_keys(metric):
    g = torch.Generator().manual_seed(0)
    queries, keys = torch.randn(4, 8, generator=g), torch.randn(4, 3, 8, generator=g)
    difference = queries[:, None] - keys
    score = (queries[:, None] * keys).sum(-1) if metric == "dot" else -difference.square().sum(-1)
    found = votes.cosines(score, queries.norm(dim=1), keys.norm(dim=2), metric)
    torch.testing.assert_close(found, torch.cosine_similarity(queries[:, None], keys, dim=-1))


def test_vote_pixels_takes_the_mode_and_the_lowest_of_a_tie():
    pixels = torch.tensor([[1, 4], [1, 3], [2, 3], [2, 4]], dtype=torch.uint8)
    assert votes.vote_pixels(torch.tensor([[0, 1, 2]]), pixels).tolist() == [[1, 3]]
    assert votes.vote_pixels(torch.tensor([[0, 1, 2, 3]]), pixels).tolist() == [[1, 3]]


VOTES = pytest.mark.parametrize("votes", [votes.vote_pixels, votes.counted_votes])


@VOTES
@settings(deadline=None, max_examples=30)
@given(st.integers(1, 7), st.integers(1, 6), st.integers(0, 999))
def test_votes_of_pixels_equal_a_loop_in_which_the_lowest_label_wins_a_tie(votes, k, p, seed):
    g = torch.Generator().manual_seed(seed)
    pixels = torch.tensor([0, 1, 2, 3, 200, 255], dtype=torch.uint8)[torch.randint(0, 6, (9, p), generator=g)]
    index = torch.randint(0, 9, (5, k), generator=g)
    found = votes(index, pixels)
    for q in range(5):
        for pixel in range(p):
            labels = [int(pixels[i, pixel]) for i in index[q].tolist()]
            assert int(found[q, pixel]) == min(labels, key=lambda label: (-labels.count(label), label))


def test_votes_do_not_depend_on_how_many_are_counted_at_once(monkeypatch):
    g = torch.Generator().manual_seed(0)
    pixels, index = torch.randint(0, 4, (8, 6), generator=g).to(torch.uint8), torch.randint(0, 8, (7, 4), generator=g)
    whole = votes.counted_votes(index, pixels)
    monkeypatch.setattr(votes, "AT_ONCE", 2 * 6 * 256)
    assert torch.equal(votes.counted_votes(index, pixels), whole)


def test_unfold_works_on_several_images_and_subsets():
    labels = torch.randint(0, 9, (2, 3, 6, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    rows = torch.stack([torch.stack([patch_pixels(label, 2) for label in images]) for images in labels])
    assert torch.equal(votes.unfold_pixels(rows, 3, 4), labels)


@pytest.mark.parametrize("at_once", [1, 200, 2**27])
def test_images_are_segmented_together_as_they_are_alone(monkeypatch, at_once):
    monkeypatch.setattr(votes, "AT_ONCE", at_once)
    g = torch.Generator().manual_seed(0)
    scores = torch.rand(6, 3, 4, 5, generator=g) * (torch.rand(6, 1, 1, 5, generator=g) > 0.4)  # some classes score nowhere
    scores[2], scores[3, :, :, 1] = 0.0, scores[3, :, :, 4]  # an image without scores, and one with ties
    scores[4, :2], scores[4, ..., 0], scores[5, ..., 0] = 0.0, 0.0, 1.0  # cells without scores, in an image without class 0
    alone = torch.stack([votes.segment(image, 7, 9) for image in scores])
    assert torch.equal(votes.segmented_together(scores, 7, 9), alone)
    assert torch.equal(votes.segments(scores, 7, 9), alone)


def test_unfold_is_the_inverse_of_patch_pixels():
    label = torch.randint(0, 9, (6, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    assert torch.equal(votes.unfold_pixels(patch_pixels(label, 2), 3, 4), label)


def test_segment_by_hand_at_the_size_of_the_grid():
    scores = torch.tensor([[[0.6, 0.4], [0.5, 0.5]], [[0.1, 0.9], [0.0, 1.0]]])
    assert votes.segment(scores, 2, 2).tolist() == [[0, 0], [1, 1]]  # the tie goes to the lowest class


def test_segment_interpolates_scores_not_labels():
    # one row: class 1 wins at both ends by different rivals; between them it wins although neither rival reaches
    scores = torch.tensor([[[0.55, 0.45, 0.0], [0.0, 0.45, 0.55]]])
    assert votes.segment(scores, 1, 6).tolist() == [[0, 0, 1, 1, 2, 2]]


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 7), st.integers(0, 99))
def test_segment_equals_plain_upsampling_of_all_classes(gh, gw, classes, seed):
    scores = torch.rand(gh, gw, classes, generator=torch.Generator().manual_seed(seed))
    scores *= torch.rand(classes, generator=torch.Generator().manual_seed(seed)) > 0.4  # some classes score nowhere
    height, width = 4 * gh + 1, 3 * gw
    plain = torch.nn.functional.interpolate(scores.permute(2, 0, 1)[None], (height, width), mode="bilinear")[0]
    found = votes.segment(scores, height, width)
    taken = plain.gather(0, found.long()[None])[0]
    torch.testing.assert_close(taken, plain.max(0).values)


def test_segment_of_nothing_is_class_zero():
    assert votes.segment(torch.zeros(1, 1, 3), 2, 2).tolist() == [[0, 0], [0, 0]]


def voter(device, labels):
    """A memory of 50 random patches, and how its nearest patches vote for three classes."""
    g = torch.Generator().manual_seed(0)
    features = torch.nn.functional.normalize(torch.randn(50, 8, generator=g), dim=1)
    votes = torch.rand(50, 3, generator=g) if labels == "shares" else torch.randint(0, 3, (50, 4), generator=g).to(torch.uint8)
    layout = Layout(torch.tensor([50]), torch.tensor([50]), torch.ones(2, 1, dtype=torch.bool))
    index = torch.zeros(50, dtype=torch.int32)
    memory = Memory(features, votes, torch.ones(50), index, index, [], layout, Scaling("cosine", "vector"))
    return voting.Voter(memory, voting.Voting(labels, "equal", 0.1, "exact", 3), torch.device(device))


@pytest.mark.parametrize("labels", ["shares", "pixels"])
def test_images_of_sizes_that_alternate_get_their_own_label_maps_on_a_gpu(labels, cuda):
    sizes = [(2, 3), (2, 3), (4, 2), (2, 3), (3, 2), (4, 2), (4, 2)]
    grids = [torch.randn(*size, 8, generator=torch.Generator().manual_seed(number)) for number, size in enumerate(sizes)]
    shapes = [(2 * height, 2 * width) for height, width in sizes]
    found = [maps.cpu() for maps in voter("cuda", labels).label_maps(grids, shapes, 3)]
    for maps, grid, shape in zip(found, grids, shapes, strict=True):
        [alone] = voter("cpu", labels).label_maps([grid], [shape], 3)
        assert maps.shape == (2, *shape)
        assert torch.equal(maps, alone)
