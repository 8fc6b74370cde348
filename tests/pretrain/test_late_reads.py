"""Counts that the teacher decides are read late in a micro-batch, after the student's work has been queued."""

from __future__ import annotations

import cribo_reference
import pytest
from cribo_reference import context, views

from densebench.numerics.host_copy import HostCopy
from densebench.pretrain.croc.method import CrOC
from densebench.training.networks import Network, create_encoder


def croc():
    small = {"arch": "test_vit", "image_size": 48, "out_dim": 10, "object_dim": 14, "hidden_dim": 16, "bottleneck_dim": 8}
    chosen = CrOC(**small, k_start=5, k_max=4, batch_size=3)
    encoders = [create_encoder("test_vit", 48, 0.0) for _ in "st"]
    student, teacher = (Network(encoder, chosen.head(encoder.dim)) for encoder in encoders)
    return chosen.objective(student.encoder), student, teacher


@pytest.mark.parametrize(("build", "reads"), [(croc, 1), (cribo_reference.remembered, 2)], ids=["croc", "cribo"])
@pytest.mark.parametrize("images", [1, 3])
def test_counts_are_read_after_the_students_encoder(monkeypatch, build, reads, images):
    objective, student, teacher = build()
    events = []

    def note(owner, name, event):
        real = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *given, **more: events.append(event) or real(*given, **more))

    note(teacher, "encode", "teacher")
    note(student, "encode", "student")
    note(HostCopy, "value", "read")
    objective(student, teacher, views(images), context())
    assert events == ["teacher", "student", *reads * ["read"]]
