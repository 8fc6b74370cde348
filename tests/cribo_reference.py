"""CrIBo's losses in loops on a tiny network, for the tests to compare with."""

from __future__ import annotations

import math

import pytest
import torch

from densebench.pretrain.cribo.method import CrIBo
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
