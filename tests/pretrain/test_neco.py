"""NeCo's objective on a tiny network: the loss against loops, references, masks, and what gradients reach."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from neco_reference import CONTEXT, IMAGES, build_all, seen

from densebench.numerics.sorting import soft_sort
from densebench.pretrain.neco.alignment import align, overlaps
from densebench.pretrain.neco.references import deal
from densebench.training.augmentation import AugmentParams
from densebench.training.objective import Views


def grids(chosen):
    return [(view.size // 16, view.size // 16) for view in chosen.views()]


def aligned(tokens, views, g, v, chosen):
    """The patches of the part that views g and v share, in g and in v."""
    (in_g, in_v), _ = overlaps(views.draws[g].boxes, views.draws[v].boxes, grids(chosen)[g], grids(chosen)[v])
    size = chosen.region_size
    parts = [
        align(tokens[0].unflatten(1, grids(chosen)[g]), in_g, size), align(tokens[1].unflatten(1, grids(chosen)[v]), in_v, size)
    ]  # fmt: skip
    return [F.normalize(part.flatten(1, 2), dim=2) for part in parts]


def restated(chosen, student, teacher, views, references):
    """The loss in loops over pairs, images and entries; `references(g, v, teacher's aligned patches)` -> [b, r, e]."""
    with torch.no_grad():
        taught = [teacher.project(teacher.encode(pixels).patches) for pixels in views.pixels]
    ours = [student.project(student.encode(pixels).patches) for pixels in views.pixels]
    pairs = []
    for g in (0, 1):
        for v in range(len(views.pixels)):
            if v == g:
                continue
            one, other = aligned((taught[g], ours[v]), views, g, v, chosen)
            chosen_references = references(g, v, one).detach()
            d_t = F.cosine_similarity(one[:, :, None], chosen_references[:, None], dim=3)
            d_s = F.cosine_similarity(other[:, :, None], chosen_references[:, None], dim=3)
            pairs.append(torch.stack([entropy_between(t, s, chosen) for t, s in zip(d_t, d_s, strict=True)]).mean())
    return torch.stack(pairs).mean()


def entropy_between(d_t, d_s, chosen):
    if chosen.sort == "distance":
        d_t, d_s = 1 - d_t, 1 - d_s
    q = soft_sort(d_t, chosen.teacher_steepness, network=chosen.network, swap=chosen.swap)[1]
    p = soft_sort(d_s, chosen.steepness, network=chosen.network, swap=chosen.swap)[1]
    count = d_t.shape[1]
    nearest = chosen.nearest or count
    total = torch.zeros(len(d_t))
    for j in range(nearest) if chosen.sort == "distance" else range(count - nearest, count):
        for i in range(count):
            total = total - q[:, i, j] * p[:, i, j].log()
            if chosen.both_directions:
                total = total - p[:, i, j] * q[:, i, j].log()
    return total.mean() / nearest


def dealt(chosen, others):
    """References of the batch by the documented rule."""

    def of(g, v, patches):
        b, p, _ = patches.shape
        noise = CONTEXT.noise(b, p, device=torch.device("cpu"), name=f"references {g} {v}")
        shifts = CONTEXT.common(p, others, device=torch.device("cpu"), name=f"shifts {g} {v}")
        return patches.flatten(0, 1)[deal(noise, shifts, chosen.reference_count)]

    return of


@pytest.mark.parametrize(
    "given",
    [
        {},
        pytest.param({"nearest": 3}, marks=pytest.mark.slow),
        pytest.param({"sort": "distance"}, marks=pytest.mark.slow),
        {"sort": "distance", "nearest": 2},
        {"both_directions": True},
        pytest.param({"network": "odd-even"}, marks=pytest.mark.slow),
        {"swap": "logistic", "steepness": 3.0, "teacher_steepness": 4.0},
        pytest.param({"reference_count": 4, "region_size": 3}, marks=pytest.mark.slow),
        {"reference_images": "intra"},
        {"local_crops": 0},
    ],
)
def test_the_loss_is_the_mean_over_pairs_and_patches(given):
    chosen, objective, student, teacher = build_all(**given)
    views = seen(chosen)
    loss = objective(student, teacher, views, CONTEXT)
    others = 0 if chosen.reference_images == "intra" else IMAGES - 1
    expected = restated(chosen, student, teacher, views, dealt(chosen, others))
    torch.testing.assert_close(loss.total, expected, rtol=1e-4, atol=1e-5)
    loss.total.backward()
    found = [p.grad.clone() for p in student.parameters() if p.grad is not None]
    student.zero_grad()
    expected.backward()
    scale = max(float(p.grad.abs().max()) for p in student.parameters() if p.grad is not None)
    for one, other in zip(found, [p.grad for p in student.parameters() if p.grad is not None], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * scale)


def test_a_fraction_of_the_students_patches_serves_all_images():
    chosen, objective, student, teacher = build_all(references="fraction", reference_fraction=0.1)
    views = seen(chosen)
    noise = CONTEXT.common(2, IMAGES, 16, device=torch.device("cpu"), name="fraction 0")

    def of(g, v, patches):
        tokens = student.project(student.encode(views.pixels[g]).patches)
        count = round(0.1 * IMAGES * 16)
        return tokens.flatten(0, 1)[noise[g].flatten().argsort()[:count]].expand(IMAGES, -1, -1)

    loss = objective(student, teacher, views, CONTEXT)
    torch.testing.assert_close(loss.total, restated(chosen, student, teacher, views, of), rtol=1e-4, atol=1e-5)


def test_no_gradient_reaches_references_that_are_the_students_patches(monkeypatch):
    _, objective, student, teacher = build_all(references="fraction", reference_fraction=0.1, group_size=2)
    pools, drawn = objective.pools, []

    def spy(*arguments):
        drawn.append(pools(*arguments))
        return drawn[-1]

    monkeypatch.setattr(objective, "pools", spy)
    assert objective(student, teacher, seen(objective.options), CONTEXT).total.requires_grad
    assert not drawn[0].requires_grad


def test_the_queue_is_used_with_the_batch_and_moves_on():
    chosen, objective, student, teacher = build_all(references="queue", queue_size=20, queue_patches=3, reference_count=6)
    held: list[torch.Tensor] = [torch.zeros(2, 0, 8)]
    for step in range(3):
        context, views = dataclasses.replace(CONTEXT, step=step), seen(chosen, seed=step)
        with torch.no_grad():
            taught = torch.stack([teacher.project(teacher.encode(pixels).patches) for pixels in views.pixels[:2]])
        noise = context.noise(IMAGES, taught.shape[2], device=torch.device("cpu"), name="queue")
        fresh = torch.stack([taught[:, i, p] for i in range(IMAGES) for p in noise[i].argsort()[:3].tolist()], dim=1)
        pool = torch.cat([fresh, held[-1]], dim=1)[:, :20]

        def of(g, v, patches, context=context, pool=pool):
            order = context.common(pool.shape[1], device=torch.device("cpu"), name=f"references {g} {v}").argsort()
            places = [order[n % len(order)] for n in range(IMAGES * 6)]
            return pool[g][torch.stack(places)].view(IMAGES, 6, -1)

        loss = objective(student, teacher, views, context)
        torch.testing.assert_close(loss.total, restated(chosen, student, teacher, views, of), rtol=1e-4, atol=1e-5)
        objective.commit(teacher)
        held.append(pool)
        assert torch.equal(objective.queue.rows[:, : pool.shape[1]], pool)


def test_a_fraction_of_a_group_serves_that_group_and_groups_may_be_ragged():
    chosen, objective, student, teacher = build_all(references="fraction", reference_fraction=0.1, group_size=3)
    views = seen(chosen)
    noise = CONTEXT.noise(IMAGES, 2, 16, device=torch.device("cpu"), name="fraction")

    def of(g, v, patches):
        tokens = student.project(student.encode(views.pixels[g]).patches)
        rows = []
        for image in range(IMAGES):
            own = slice(0, 3) if image < 3 else slice(3, 4)
            rows.append(tokens[own].flatten(0, 1)[noise[own, g].flatten().argsort()[:5]])  # R is that of a whole group
        return torch.stack(rows)

    loss = objective(student, teacher, views, CONTEXT)
    expected = []
    for own in (slice(0, 3), slice(3, 4)):  # a mean over groups of means over their patches
        some = Views(
            tuple(p[own] for p in views.pixels), tuple(AugmentParams(d.table[own]) for d in views.draws), views.numbers[own]
        )
        expected.append(restated(chosen, student, teacher, some, lambda g, v, patches, own=own: of(g, v, patches)[own]))
    torch.testing.assert_close(loss.total, torch.stack(expected).mean(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("references", ["batch", "queue", "fraction"])
def test_masks_choose_references_too(references, monkeypatch):
    """Every reference is a patch that the mask of its own view allows (a cell that covers nothing else, if aligned)."""
    from densebench.pretrain.neco import method as neco

    chosen, objective, student, teacher = build_all(
        patches="foreground", references=references, region_size=4, reference_count=4, reference_fraction=0.05,
        attention_mass=0.5, queue_size=100, queue_patches=2, global_scale=(1.0, 1.0), local_crops=0,
    )  # fmt: skip
    views, used = seen(chosen), {}
    whole = neco.OrderConsistency.references

    def spy(self, pair, *rest):
        used[pair.g] = whole(self, pair, *rest)
        return used[pair.g]

    monkeypatch.setattr(neco.OrderConsistency, "references", spy)
    objective(student, teacher, views, CONTEXT)
    told = teacher.encode(torch.cat(views.pixels[:2]), qkv=True)
    wanted = objective.wanted(told)
    network = student if references == "fraction" else teacher
    for g in (0, 1):
        tokens = F.normalize(network.project(network.encode(views.pixels[g]).patches), dim=2)
        allowed = tokens[wanted[g]]
        distance = torch.cdist(used[g].flatten(0, 1), allowed).amin(dim=1)
        assert distance.max() < 1e-3
        assert torch.cdist(used[g].flatten(0, 1), tokens[~wanted[g]]).amin(dim=1).min() > 1e-2


def test_no_gradient_reaches_the_teacher_or_the_references():
    """The student's gradient with references of the student itself is that with the same references as constants (above);
    a teacher that could learn gets nothing."""
    for given in ({}, {"references": "queue", "queue_size": 16}, {"references": "fraction", "reference_fraction": 0.2}):
        chosen, objective, student, teacher = build_all(**given)
        objective(student, teacher.requires_grad_(True), seen(chosen), CONTEXT).total.backward()
        assert all(p.grad is None for p in teacher.parameters())
        assert any(p.grad is not None and p.grad.abs().max() > 0 for p in student.encoder.parameters())


def test_the_loss_of_an_image_depends_on_the_others_only_through_references():
    """Intra-image references: an image contributes the same in any batch."""
    alone = []
    for batch in (1, IMAGES):
        chosen, objective, student, teacher = build_all(reference_images="intra")
        views = seen(chosen)
        context = dataclasses.replace(CONTEXT)
        parts = []
        for image in range(IMAGES) if batch == 1 else [None]:
            index = slice(None) if image is None else slice(image, image + 1)
            some = Views(
                tuple(pixels[index] for pixels in views.pixels),
                tuple(AugmentParams(draws.table[index]) for draws in views.draws),
                views.numbers[index],
            )  # fmt: skip
            part = context if image is None else dataclasses.replace(context, parts=IMAGES, part=image)
            parts.append(objective(student, teacher, some, part).total.detach())
        alone.append(torch.stack(parts).mean())
    torch.testing.assert_close(alone[0], alone[1], rtol=1e-5, atol=1e-6)


def test_groups_deal_among_themselves():
    chosen, objective, student, teacher = build_all(group_size=2)
    views = seen(chosen)
    whole = objective(student, teacher, views, CONTEXT).total.detach()
    halves = []
    for part in (0, 1):
        index = slice(2 * part, 2 * part + 2)
        some = Views(
            tuple(pixels[index] for pixels in views.pixels), tuple(AugmentParams(draws.table[index]) for draws in views.draws),
            views.numbers[index],
        )  # fmt: skip
        halves.append(objective(student, teacher, some, dataclasses.replace(CONTEXT, part=part, parts=2)).total.detach())
    torch.testing.assert_close(whole, torch.stack(halves).mean(), rtol=1e-5, atol=1e-6)
    other = build_all()
    assert abs(float(other[1](other[2], other[3], views, CONTEXT).total.detach() - whole)) > 1e-4
