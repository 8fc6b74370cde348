"""CrIBo's objective on a tiny network: every loss against loops, matches and masks, what reaches whom, memory between steps."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from densebench.pretrain.cribo import method as module
from densebench.pretrain.cribo.method import CrIBo

from densebench.errors import UserError
from densebench.numerics.crops import patch_positions
from densebench.training.augmentation import AugmentParams
from densebench.training.networks import Network, create_encoder
from densebench.training.objective import StepContext, Views

SIZE, TEMP = 48, 0.05
SMALL = {"arch": "test_vit", "image_size": SIZE, "objects": 4, "lambda_pos": 1.0, "memory": 12, "out_dim": 10, "object_dim": 14,
         "hidden_dim": 16, "bottleneck_dim": 8, "batch_size": 5, "group_size": 0, "centre_momentum": 0.9}  # fmt: skip


def views(images, seed=0, number=0, jitter=0.3):
    """Images of coloured blocks, seen twice with noise; `seed` decides the blocks, `number` the first image's number."""
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randn(images, 3, 3, 3, generator=generator).repeat_interleave(16, 2).repeat_interleave(16, 3) * 2
    generator = torch.Generator().manual_seed(seed + 1000 * number)
    pixels = tuple(blocks + jitter * torch.randn(blocks.shape, generator=generator) for _ in (0, 1))
    tables = []
    for _ in (0, 1):
        table = torch.zeros(images, 17)
        table[:, :2] = 100 * torch.rand(images, 2, generator=generator)
        table[:, 2:4] = 100 + 100 * torch.rand(images, 2, generator=generator)
        table[:, 4] = torch.arange(images) % 2
        tables.append(AugmentParams(table))
    return Views(pixels, tuple(tables), torch.arange(images) + number)


def context(epoch=3, step=7):
    return StepContext(step=step, epoch=epoch, epochs=10.0, scheduled={"teacher_temp": TEMP})


def build(**options):
    """Objective, student and teacher, which differ; the centre is not at zero."""
    torch.manual_seed(0)
    chosen = CrIBo(**{**SMALL, **options})
    student, teacher = (
        Network(encoder, chosen.head(encoder.dim)) for encoder in (create_encoder("test_vit", SIZE, 0.0) for _ in "st")
    )
    objective = chosen.objective(student.encoder)
    objective.image_centre.value.copy_(0.2 * torch.randn(10))
    objective.object_centre.value.copy_(0.2 * torch.randn(14))
    return objective, student, teacher


def remembered(**options):
    """The same with two batches in the bank: images like those to come, under other numbers."""
    objective, student, teacher = build(**options)
    for first in (100, 200):
        objective(student, teacher, views(5, number=first, jitter=1.0), context(step=first))
        objective.commit(teacher)
    return objective, student, teacher


def log_softmax(values):
    return values - values.exp().sum().log()


def entropy(teacher, student, target, vector, name, centre):
    """Cross-entropy of two vectors after their heads."""
    with torch.no_grad():
        wanted = (teacher.head.prototypes(name) @ teacher.head(target) - centre) / TEMP
        wanted = log_softmax(wanted - wanted.max()).exp()
    said = student.head.prototypes(name) @ student.head(vector) / 0.1
    return -(wanted * log_softmax(said)).sum()


def cosine(a, b):
    return (a @ b / a.norm() / b.norm()).item()


class Naive:
    """The losses of one batch in loops, from tokens and labels."""

    def __init__(self, objective, student, teacher, batch, when):
        self.options, self.objective, self.when = objective.options, objective, when
        self.student, self.teacher, self.batch = student, teacher, batch
        with torch.no_grad():
            self.told = [teacher.encoder(pixels) for pixels in batch.pixels]
            self.labels = objective.cluster(torch.cat([tokens.patches for tokens in self.told]), batch, when)[0].tolist()
        self.said = [student.encoder(pixels) for pixels in batch.pixels]
        self.objects = {}  # (image, k) -> what teacher and student say, per view
        for i, labels in enumerate(self.labels):
            half = len(labels) // 2
            for k in range(self.options.objects):
                members = [[n for n in range(half) if labels[view * half + n] == k] for view in (0, 1)]
                if all(members):
                    told = [self.told[view].patches[i, members[view]].mean(0) for view in (0, 1)]
                    said = [self.said[view].patches[i, members[view]].mean(0) for view in (0, 1)]
                    self.objects[i, k] = told, said

    def groups(self):
        images = len(self.labels)
        size = self.options.group_size or images
        return [range(first, min(first + size, images)) for first in range(0, images, size)]

    def ce(self, target, vector, name="object"):
        centre = self.objective.object_centre if name == "object" else self.objective.image_centre
        return entropy(self.teacher, self.student, target, vector, name, centre.value)

    def image(self):
        pairs = [(self.told[1 - v].image[i], self.said[v].image[i]) for i in range(len(self.labels)) for v in (0, 1)]
        return sum(self.ce(*pair, "image") for pair in pairs) / len(pairs)

    def object(self):
        means = []
        for group in self.groups():
            mine = [both for (i, _), both in self.objects.items() if i in group]
            losses = [(self.ce(told[0], said[1]) + self.ce(told[1], said[0])) / 2 for told, said in mine]
            means.append(sum(losses) / len(losses) if losses else 0.0)
        return sum(means) / len(means)

    def match(self, view, key):
        """The neighbour's vector in this view, or None where there is no match that holds."""
        bank, told = self.objective.bank, self.objects[key][0]
        best, place = -math.inf, None
        for slot, number in enumerate(bank.numbers.tolist()):
            for k in range(self.options.objects):
                if bank.valid[slot, k] and number != self.batch.numbers[key[0]]:
                    value = cosine(told[view], bank.objects[view, slot, k])
                    if value > best:
                        best, place = value, (slot, k)
        if place is None:
            return None
        if self.options.cycle:
            jumped = bank.objects[1 - view][place]
            scope = range(len(self.labels))
            if self.options.cycle_scope == "group":
                scope = next(group for group in self.groups() if key[0] in group)
            rivals = {other: cosine(jumped, both[0][1 - view]) for other, both in self.objects.items() if other[0] in scope}
            if max(rivals, key=rivals.__getitem__) != key:
                return None
        return bank.objects[view][place]

    def matches(self):
        return [{key: near for key in self.objects if (near := self.match(view, key)) is not None} for view in (0, 1)]

    def neighbour(self):
        matches = self.matches()
        losses = []
        for group in self.groups():
            sums, counts = [], []
            for view in (0, 1):
                mine = {key: near for key, near in matches[view].items() if key[0] in group}
                sums.append(sum(self.ce(near, self.objects[key][1][1 - view]) for key, near in mine.items()))
                counts.append(len(mine))
            if self.options.neighbour_norm == "official":
                losses.append((sums[0] + sums[1]) / counts[0] / 2 if counts[0] else 0.0)
            else:
                losses.append(sum(s / c if c else 0.0 for s, c in zip(sums, counts, strict=True)) / 2)
        return sum(losses) / len(losses)


def gradients(network):
    return {name: None if p.grad is None else p.grad.clone() for name, p in network.named_parameters()}


def close(found, expected):
    expected = expected.item() if isinstance(expected, torch.Tensor) else expected
    assert found.item() == pytest.approx(expected, rel=2e-4, abs=1e-5)


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


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
def test_every_loss_equals_the_naive_restatement(options):
    objective, student, teacher = remembered(**options)
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
        counts = {
            step: list(map(len, Naive(objective, student, teacher, batch, context(step=step)).matches())) for step in range(20)
        }
        unequal = next(step for step, (one, two) in counts.items() if 0 < one != two > 0)
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


def test_nothing_is_matched_before_the_first_epochs_are_over():
    objective, student, teacher = remembered(bootstrap_after=2)
    assert objective(student, teacher, views(5), context(epoch=1)).terms["neighbour"] == 0
    assert objective(student, teacher, views(5), context(epoch=2)).terms["neighbour"] > 0


def test_an_empty_bank_gives_no_loss():
    objective, student, teacher = build()
    loss = objective(student, teacher, views(5), context())
    assert loss.terms["neighbour"] == 0
    close(loss.total, loss.terms["image"] + loss.terms["object"])
    loss.total.backward()


def test_an_image_is_not_its_own_neighbour():
    objective, student, teacher = build(cycle=False)
    for step in (1, 2):
        loss = objective(student, teacher, views(1, number=4), context(step=step))
        assert loss.terms["neighbour"] == 0
        objective.commit(teacher)
    assert objective(student, teacher, views(1, number=5), context()).terms["neighbour"] > 0


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


def test_no_gradient_reaches_the_teacher():
    objective, student, teacher = remembered(cycle=False)
    teacher.requires_grad_()
    objective(student, teacher, views(5), context()).total.backward()
    assert all(gradient is None for gradient in gradients(teacher).values())
    assert all(not buffer.requires_grad for buffer in objective.buffers())


def apart(monkeypatch, objective):
    """Make the views share no object."""
    cluster = objective.cluster

    def split(*arguments):
        labels, _ = cluster(*arguments)
        labels = torch.arange(18).div(9, rounding_mode="floor").expand_as(labels).to(labels.dtype).contiguous()
        return labels, module.from_labels(labels, objective.options.objects)

    monkeypatch.setattr(objective, "cluster", split)


@pytest.mark.parametrize("norm", ["official", "paper"])
def test_a_batch_without_objects(monkeypatch, norm):
    objective, student, teacher = remembered(neighbour_norm=norm)
    before = objective.object_centre.value.clone()
    apart(monkeypatch, objective)
    loss = objective(student, teacher, views(5), context())
    assert loss.terms["object"] == 0
    assert loss.terms["neighbour"] == 0
    assert all(figure.isfinite() for figure in loss.figures.values())
    loss.total.backward()
    assert all(gradient is None or gradient.isfinite().all() for gradient in gradients(student).values())
    objective.commit(teacher)
    assert torch.equal(objective.object_centre.value, before)
    assert not objective.bank.valid[objective.bank.numbers < 5].any()
    objective(student, teacher, views(5, number=50), context())  # a bank with holes is searched


@pytest.mark.parametrize("options", [{}, {"group_size": 32}, {"neighbour_norm": "paper"}, {"objects": 2}])
def test_a_batch_of_one(options):
    objective, student, teacher = remembered(**options)
    batch = views(1)
    loss = objective(student, teacher, batch, context())
    naive = Naive(objective, student, teacher, batch, context())
    for name in ("image", "object", "neighbour"):
        close(loss.terms[name], getattr(naive, name)())
    loss.total.backward()
    objective.commit(teacher)


def state(objective):
    return copy.deepcopy(dict(objective.named_buffers()))


def test_forward_only_reads_the_memory_and_discard_forgets():
    objective, student, teacher = remembered()
    before = state(objective)
    first = objective(student, teacher, views(5, jitter=0.9), context())
    assert all(torch.equal(before[name], buffer) for name, buffer in objective.named_buffers())
    objective.discard()
    assert all(torch.equal(before[name], buffer) for name, buffer in objective.named_buffers())
    objective(student, teacher, views(3, seed=5, number=30), context())
    objective.commit(teacher)
    other, student, teacher = remembered()
    other(student, teacher, views(3, seed=5, number=30), context())
    other.commit(teacher)
    assert all(torch.equal(a, b) for a, b in zip(objective.buffers(), other.buffers(), strict=True))
    assert first.total.isfinite()


def test_commit_moves_centres_and_fills_the_bank():
    objective, student, teacher = build()
    batch = views(5, number=20)
    naive = Naive(objective, student, teacher, batch, context())
    before = state(objective)
    objective(student, teacher, batch, context())
    objective.commit(teacher)
    with torch.no_grad():
        logits = [teacher.head.prototypes("object") @ teacher.head(told) for both, _ in naive.objects.values() for told in both]
        expected = 0.9 * before["object_centre.value"] + 0.1 * torch.stack(logits).mean(0)
        torch.testing.assert_close(objective.object_centre.value, expected, atol=1e-5, rtol=1e-4)
        logits = [teacher.head.prototypes("image") @ teacher.head(vector) for told in naive.told for vector in told.image]
        expected = 0.9 * before["image_centre.value"] + 0.1 * torch.stack(logits).mean(0)
        torch.testing.assert_close(objective.image_centre.value, expected, atol=1e-5, rtol=1e-4)
    bank = objective.bank
    assert bank.numbers.tolist() == [20, 21, 22, 23, 24] + [-1] * 7
    assert set(map(tuple, bank.valid.nonzero().tolist())) == naive.objects.keys()
    for (i, k), (told, _) in naive.objects.items():
        for view in (0, 1):
            torch.testing.assert_close(bank.objects[view, i, k], told[view], atol=1e-5, rtol=1e-4)
    assert bank.labels[:5].tolist() == naive.labels
    for view in (0, 1):
        assert torch.equal(bank.crops[:5, view, :4], batch.draws[view].boxes)
        assert torch.equal(bank.crops[:5, view, 4] > 0.5, batch.draws[view].flips)


def test_all_parts_of_a_step_enter():
    objective, student, teacher = build()
    for part, size in enumerate((2, 3)):
        objective(student, teacher, views(size, number=10 * part), context())
    objective.commit(teacher)
    assert objective.bank.numbers[:5].tolist() == [0, 1, 10, 11, 12]
    objective(student, teacher, views(2, number=70), context())
    objective.commit(teacher)
    assert objective.bank.numbers[:7].tolist() == [0, 1, 10, 11, 12, 70, 71]  # nothing enters twice


def test_the_search_comes_before_the_batch_enters():
    objective, student, teacher = build(cycle=False)
    assert objective(student, teacher, views(5), context()).terms["neighbour"] == 0
    objective.commit(teacher)
    assert objective(student, teacher, views(5, number=50), context()).terms["neighbour"] > 0


def test_images_of_a_group_of_one_do_not_depend_on_their_batch():
    objective, _, teacher = remembered(group_size=1)
    batch = views(5)
    together = objective.cluster(torch.cat([teacher.encoder(pixels).patches for pixels in batch.pixels]), batch, context())[0]
    alone = Views(tuple(p[:2] for p in batch.pixels), tuple(AugmentParams(d.table[:2]) for d in batch.draws), batch.numbers[:2])
    few = objective.cluster(torch.cat([teacher.encoder(pixels).patches for pixels in alone.pixels]), alone, context())[0]
    assert torch.equal(few, together[:2])


def test_more_objects_than_patches_are_refused():
    with pytest.raises(UserError, match=r"--objects 19.*18 patches"):
        build(objects=19)
    build(objects=18)
