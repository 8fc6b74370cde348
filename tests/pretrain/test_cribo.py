"""CrIBo's objective on a tiny network: every loss against loops, matches, masks and weights."""

from __future__ import annotations

import pytest
import torch
from cribo_reference import Naive, build, close, context, gradients, remembered, views
from tiers import late

from densebench.errors import UserError
from densebench.numerics.crops import patch_positions
from densebench.pretrain.cribo import method as module

VARIANTS = {
    "default": {},
    "paper": {"neighbour_norm": "paper", "cycle_scope": "batch"},
    "groups": {"group_size": 2},
    "groups, paper": {"group_size": 2, "neighbour_norm": "paper", "cycle_scope": "batch"},
    "groups of one": {"group_size": 1},
    "no cycle": {"cycle": False},
    "no cycle, paper, groups": {"cycle": False, "neighbour_norm": "paper", "group_size": 3},
    "free prototypes": {"norm_last_layer": False},
    "crowded": {"objects": 9},
    "crowded, no cycle": {"objects": 9, "cycle": False},
}
SOON = ("default", "groups, paper", "no cycle, paper, groups", "crowded")


@pytest.mark.parametrize("name", late(VARIANTS, *SOON))
def test_every_loss_equals_the_naive_restatement(name):
    objective, student, teacher = remembered(**VARIANTS[name])
    batch = views(5)
    loss = objective(student, teacher, batch, context())
    naive = Naive(objective, student, teacher, batch, context())
    one, two = naive.matches()
    assert one
    assert two
    for name in ("image", "object", "neighbour"):
        close(loss.terms[name], getattr(naive, name)())
    close(loss.total, sum(loss.terms.values()))


@pytest.mark.parametrize("norm", ["official", "paper"])
def test_gradients_equal_the_naive_restatement(norm):
    objective, student, teacher = remembered(neighbour_norm=norm, image_weight=0.5, object_weight=2.0, neighbour_weight=3.0)
    batch = views(5)
    objective(student, teacher, batch, context()).total.backward()
    found = gradients(student)
    student.zero_grad()
    naive = Naive(objective, student, teacher, batch, context())
    (0.5 * naive.image() + 2 * naive.object() + 3 * naive.neighbour()).backward()
    expected = gradients(student)
    moved = [name for name, gradient in expected.items() if gradient is not None and gradient.abs().max() > 0]
    assert len(moved) > 20
    for name in moved:
        torch.testing.assert_close(found[name], expected[name], atol=2e-5, rtol=2e-3)


def test_the_two_norms_differ_where_the_directions_match_unequally():
    losses = {}
    for norm in ("official", "paper"):
        objective, student, teacher = remembered(neighbour_norm=norm)
        batch = views(5)
        counts = (list(map(len, Naive(objective, student, teacher, batch, context(step=step)).matches())) for step in range(20))
        unequal = next(step for step, (one, two) in enumerate(counts) if 0 < one != two > 0)
        losses[norm] = objective(student, teacher, batch, context(step=unequal)).terms["neighbour"].item()
    assert losses["paper"] != pytest.approx(losses["official"], rel=1e-3)


def test_without_matches_in_the_first_direction_the_code_counts_nothing_and_the_paper_the_second(monkeypatch):
    losses = {}
    for norm in ("official", "paper"):
        objective, student, teacher = remembered(neighbour_norm=norm, cycle=False)
        match = objective.match

        def second_only(*arguments, match=match):
            places, masks = match(*arguments)
            return places, torch.stack([torch.zeros_like(masks[0]), masks[1]])

        monkeypatch.setattr(objective, "match", second_only)
        loss = objective(student, teacher, views(5), context())
        losses[norm] = loss.terms["neighbour"].item()
        loss.total.backward()
    assert losses["official"] == 0
    assert losses["paper"] > 0.1


@pytest.mark.parametrize("objects", [4, 9])
def test_without_the_cycle_every_object_is_matched(objects):
    objective, student, teacher = remembered(cycle=False, objects=objects)
    naive = Naive(objective, student, teacher, views(5), context())
    assert objects == 4 or len(naive.objects) < 5 * objects  # some clusters are in one view only, or empty
    assert all(matches.keys() == naive.objects.keys() for matches in naive.matches())
    figures = objective(student, teacher, views(5), context()).figures
    assert figures["bootstrapping_ratio"].item() == 1
    assert figures["objects_per_image"].item() == pytest.approx(len(naive.objects) / 5)


def test_the_ratio_of_matches():
    objective, student, teacher = remembered()
    naive = Naive(objective, student, teacher, views(5), context())
    ratio = sum(map(len, naive.matches())) / 2 / len(naive.objects)
    assert 0 < ratio < 1
    assert objective(student, teacher, views(5), context()).figures["bootstrapping_ratio"].item() == pytest.approx(ratio)


def test_what_is_clustered(monkeypatch):
    seen = []
    real = module.partition

    def spy(tokens, positions, noise, count, lambda_pos, **more):
        seen.append((tokens, positions, noise, count, lambda_pos, more))
        return real(tokens, positions, noise, count, lambda_pos, **more)

    monkeypatch.setattr(module, "partition", spy)
    options = {
        "group_size": 2,
        "rounds": 3,
        "sharpness": 11.0,
        "sinkhorn_iterations": 4,
        "update_marginal": False,
        "lambda_pos": 1.5,
    }
    objective, student, teacher = build(**options)
    batch = views(5)
    objective(student, teacher, batch, context())
    tokens, positions, noise, count, lambda_pos, more = seen[0]
    with torch.no_grad():
        expected = torch.cat([teacher.encoder(pixels).patches for pixels in batch.pixels], dim=1)
    torch.testing.assert_close(tokens, expected, atol=1e-5, rtol=1e-4)
    expected = torch.cat([patch_positions(draws.boxes, draws.flips, (3, 3)) for draws in batch.draws], dim=1)
    assert torch.equal(positions, expected)
    assert noise.shape == (5, 18)
    assert (count, lambda_pos) == (4, 1.5)
    assert more == {"group": 2, "rounds": 3, "sharpness": 11.0, "iterations": 4, "update_marginal": False}


@pytest.mark.parametrize("name", ["image", "object", "neighbour"])
def test_each_loss_can_be_switched_off_and_weighed(name):
    plain, student, teacher = remembered()
    terms = plain(student, teacher, views(5), context()).terms
    weighed, student, teacher = remembered(**{f"{name}_weight": 2.5})
    loss = weighed(student, teacher, views(5), context())
    close(loss.total, sum(terms.values()) + 1.5 * terms[name])
    off, student, teacher = remembered(**{f"{name}_weight": 0.0})
    loss = off(student, teacher, views(5), context())
    close(loss.total, sum(term for other, term in terms.items() if other != name))
    loss.total.backward()
    prototypes = {n: g for n, g in gradients(student).items() if "image" in n and "head" in n}
    assert prototypes
    still = all(gradient is None or not gradient.any() for gradient in prototypes.values())
    assert still == (name == "image")


def test_only_one_loss_is_enough():
    for name in ("image", "object", "neighbour"):
        weights = {f"{other}_weight": float(other == name) for other in ("image", "object", "neighbour")}
        objective, student, teacher = remembered(**weights)
        loss = objective(student, teacher, views(5), context())
        close(loss.total, loss.terms[name])
        loss.total.backward()
        assert any(gradient is not None and gradient.any() for gradient in gradients(student).values())


def test_more_objects_than_patches_are_refused():
    with pytest.raises(UserError, match=r"--objects 19.*18 patches"):
        build(objects=19)
    build(objects=18)
