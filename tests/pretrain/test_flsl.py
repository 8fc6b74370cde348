"""FLSL's objective on a tiny network: the three terms against loops, centres, views, and what gradients reach."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flsl_reference import CONTEXT, IMAGES, SMALL, TEMP, build_all, restated, seen
from tiers import late

from densebench import catalog
from densebench.errors import UserError
from densebench.pretrain.flsl.method import FLSL
from densebench.training.augmentation import AugmentParams
from densebench.training.objective import Views
from densebench.training.run import build


def volume_of(p):
    mean = p.mean(dim=0)
    return sum(share * share.log() for share in mean) + math.log(len(mean))


GIVEN = [{}, {"queries": "random"}, {"local_crops": 0}, {"window": 3}, {"student_temp": 0.3}]


@pytest.mark.parametrize("given", late(GIVEN, *GIVEN[:3]))
def test_the_three_terms_and_their_gradients(given):
    chosen, objective, student, teacher = build_all(**given)
    views = seen(chosen)
    loss = objective(student, teacher, views, CONTEXT)
    distance, p, logits = restated(chosen, student, teacher, views)
    inter = -(torch.softmax(logits / TEMP, dim=1) * p.log()).sum(dim=1).mean()
    for name, value in (("intra", distance), ("inter", inter), ("volume", volume_of(p))):
        torch.testing.assert_close(
            loss.terms[name], value.detach(), rtol=1e-4, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}"
        )
    expected = 0.03 * distance + inter + 5 * volume_of(p)
    torch.testing.assert_close(loss.total, expected, rtol=1e-4, atol=1e-5)
    loss.total.backward()
    found = [parameter.grad.clone() for parameter in student.parameters() if parameter.grad is not None]
    student.zero_grad()
    expected.backward()
    scale = max(float(g.abs().max()) for g in found)
    for one, parameter in zip(found, [q for q in student.parameters() if q.grad is not None], strict=True):
        torch.testing.assert_close(one, parameter.grad, rtol=1e-3, atol=1e-4 * scale)


def test_the_gradient_of_the_distance_reaches_query_and_mode():
    """By itself, since beside the other terms it is too small to see."""
    chosen, objective, student, teacher = build_all(inter_weight=0.0, volume_weight=0.0)
    views = seen(chosen)
    parameters = [parameter for parameter in student.encoder.parameters() if parameter.requires_grad]
    loss = objective(student, teacher, views, CONTEXT).total
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    expected = torch.autograd.grad(
        chosen.intra_weight * restated(chosen, student, teacher, views)[0], parameters, allow_unused=True
    )
    scale = max(float(gradient.abs().max()) for gradient in expected if gradient is not None)
    for one, other in zip(gradients, expected, strict=True):
        if other is not None:
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * scale)


def test_a_centre_is_subtracted_and_moves():
    chosen, objective, student, teacher = build_all(centre=True)
    views = seen(chosen)
    centre = objective.centre.value.clone()
    loss = objective(student, teacher, views, CONTEXT)
    _, p, logits = restated(chosen, student, teacher, views)
    inter = -(torch.softmax((logits - centre) / TEMP, dim=1) * p.log()).sum(dim=1).mean()
    torch.testing.assert_close(loss.terms["inter"], inter.detach(), rtol=1e-4, atol=1e-5)
    objective.commit(teacher)
    torch.testing.assert_close(objective.centre.value, 0.9 * centre + 0.1 * logits.mean(dim=0), rtol=1e-4, atol=1e-5)


def test_without_one_nothing_is_subtracted_and_nothing_moves():
    chosen, objective, student, teacher = build_all()
    objective(student, teacher, seen(chosen), CONTEXT)
    objective.commit(teacher)
    assert not objective.centre.value.any()


def test_sinkhorn_targets_use_all_centroids_alike():
    chosen, objective, student, teacher = build_all(sinkhorn=3)
    views = seen(chosen)
    loss = objective(student, teacher, views, CONTEXT)
    _, p, logits = restated(chosen, student, teacher, views)
    plan = torch.softmax(logits.double() / TEMP, dim=1)
    for _ in range(3):
        plan = plan / plan.mean(dim=0) / 12
        plan = plan / plan.sum(dim=1, keepdim=True)
    torch.testing.assert_close(loss.terms["inter"], -(plan.float() * p.log()).sum(dim=1).mean().detach(), rtol=1e-3, atol=1e-4)


def test_no_gradient_reaches_the_teacher():
    chosen, objective, student, teacher = build_all()
    objective(student, teacher.requires_grad_(True), seen(chosen), CONTEXT).total.backward()
    assert all(p.grad is None for p in teacher.parameters())


def test_the_target_is_a_constant_for_the_query():
    """The student's queries choose where the teacher is asked, but no gradient flows back through that choice."""
    chosen, objective, student, teacher = build_all(intra_weight=0.0, volume_weight=0.0)
    views = seen(chosen)
    objective(student, teacher, views, CONTEXT).total.backward()
    found = student.encoder.model.norm.weight.grad.clone()
    student.zero_grad()
    _, p, logits = restated(chosen, student, teacher, views)
    (-(torch.softmax(logits / TEMP, dim=1) * p.log()).sum(dim=1).mean()).backward()
    torch.testing.assert_close(found, student.encoder.model.norm.weight.grad, rtol=1e-3, atol=1e-6)


def test_images_do_not_look_at_each_other():
    """But for the volume term, a batch is the mean over its images."""
    chosen, objective, student, teacher = build_all(volume_weight=0.0)
    views = seen(chosen)
    whole = objective(student, teacher, views, CONTEXT)
    parts = []
    for image in range(IMAGES):
        index = slice(image, image + 1)
        some = Views(
            tuple(pixels[index] for pixels in views.pixels), tuple(AugmentParams(draws.table[index]) for draws in views.draws),
            views.numbers[index],
        )  # fmt: skip
        parts.append(objective(student, teacher, some, dataclasses.replace(CONTEXT, part=image, parts=IMAGES)).total.detach())
    torch.testing.assert_close(whole.total.detach(), torch.stack(parts).mean(), rtol=1e-5, atol=1e-6)


def test_crops_of_the_student_lie_in_the_teachers():
    chosen = FLSL(**SMALL)
    views = seen(chosen, images=40)
    outer = views.draws[0].boxes
    for draws in views.draws[1:]:
        inner = draws.boxes
        assert (inner[:, :2] >= outer[:, :2]).all()
        assert (inner[:, :2] + inner[:, 2:] <= outer[:, :2] + outer[:, 2:]).all()
        assert not draws.flips.any()


def test_blur_and_solarisation_are_the_published_mixture():
    """Half of the views: blur with probability 0.5; the others: 0.1, and solarisation 0.2."""
    [recipe, *_] = FLSL().views()
    tables = np.stack([recipe.draw(100, 100, np.random.default_rng(number)) for number in range(4000)])
    blurred, solarised = tables[:, 15] > 0, tables[:, 16] > 0
    assert blurred.mean() == pytest.approx(0.3, abs=0.03)
    assert solarised.mean() == pytest.approx(0.1, abs=0.02)
    assert (blurred & solarised).mean() == pytest.approx(0.01, abs=0.006)


def test_plain_views_repeat_boxes_without_colours():
    views = seen(FLSL(**SMALL, previous="ckpt:nowhere"), images=20)
    for one, plain in zip(views.draws[:4], views.draws[4:], strict=True):
        assert torch.equal(one.table[:, :5], plain.table[:, :5])
        assert not plain.table[:, 5].any()
        assert not plain.table[:, 14:].any()


def test_equal_tokens_are_their_own_modes_and_one_centroid_costs_ln_k():
    chosen, objective, student, teacher = build_all()
    blank = Views(tuple(torch.zeros_like(pixels) for pixels in seen(chosen).pixels), seen(chosen).draws, torch.arange(IMAGES))
    for network in (student, teacher):
        network.encoder.model.pos_embed.zero_()
        network.head.last_layer["mode"].weight_v.data.copy_(torch.eye(12, 8))
    student.head.mlp[-1].weight.data.zero_()
    student.head.mlp[-1].bias.data.copy_(F.one_hot(torch.tensor(3), 8).float())
    loss = objective(student, teacher, blank, dataclasses.replace(CONTEXT))
    assert loss.terms["intra"] < 1e-5
    expected = torch.softmax(torch.eye(12)[3] / 0.1, dim=0)
    torch.testing.assert_close(loss.terms["volume"], (expected * expected.log()).sum() + math.log(12))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"window": 5}, "a window of 5 x 5 patches does not fit"),
        ({"previous": "ckpt:nowhere"}, "nowhere is not a checkpoint"),
        ({"previous_share": 2}, "--previous-share 2: it is a share"),
        ({"previous_share": 0.5}, "are of a second stage; give --previous"),
        ({"centre": True, "sinkhorn": 2}, "--centre and --sinkhorn 2 both set"),
        ({"previous": "timm:resnet18"}, "--previous timm:resnet18 is no plain ViT"),
        ({"intra_weight": 0, "inter_weight": 0, "volume_weight": 0}, "nothing is left to learn from"),
    ],
)
def test_what_does_not_fit_is_said(given, message):
    with pytest.raises(UserError, match=message):
        chosen = build(catalog.load("methods", "flsl"), "flsl", "tiny", "official", None, {**SMALL, **given})
        chosen.objective(chosen.encoder())


def test_weights_of_zero_leave_terms_out_of_the_gradient():
    chosen, objective, student, teacher = build_all(inter_weight=0.0, volume_weight=0.0)
    objective(student, teacher, seen(chosen), CONTEXT).total.backward()
    assert all(p.grad is None or not p.grad.any() for p in student.head.parameters())
    assert any(p.grad is not None and p.grad.any() for p in student.encoder.parameters())
