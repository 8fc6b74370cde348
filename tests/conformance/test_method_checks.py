"""A mistake planted in a method is found by the check that is made for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from planted import first_failed, plugin
from small_runs import METHODS, OWN, SMALL

from densebench.conformance.methods import check_method

GIVEN = {"image_size": 32, "hidden_dim": 32, "bottleneck_dim": 16, "out_dim": 64, "local_crops": 1, "local_size": 16}
GIVEN |= {"warmup_epochs": 0}
OBJECTIVE = """

from densebench.pretrain.dino import ImageDistillation


class Changed(ImageDistillation):
    seen = 0

    def forward(self, student, teacher, views, context):
        loss = super().forward(student, teacher, views, context)
        self.seen += 1
        CHANGE
        return loss
"""
OWN_OBJECTIVE = "    def objective(self, encoder):\n        return Changed(self)\n\n    def views"
MISTAKES = {
    "no gradient": ("step", "loss.total = loss.total * 0", "no gradient reaches the student's encoder"),
    "not finite": ("step", "loss.total = loss.total * float('nan')", "the loss of the first step is nan"),
    "a teacher with gradient": ("teacher", "teacher.requires_grad_(True)", "gets a gradient"),
    "a teacher that is moved": ("teacher", "next(teacher.parameters()).data.add_(1)", "only the loop changes it"),
    "unseeded": ("same seed", "loss.total = loss.total * (1 + __import__('os').urandom(1)[0])", "StepContext"),
    "memory that is no buffer": ("resume", "loss.total = loss.total * self.seen", "must be a buffer"),
}  # fmt: skip


def checks(path):
    return check_method(path, given=GIVEN)


LATE = ("memory that is no buffer", "unseeded")  # found by the last checks, after several trainings


@pytest.mark.parametrize("mistake", [pytest.param(name, marks=pytest.mark.slow) if name in LATE else name for name in MISTAKES])
def test_a_planted_mistake_is_found_by_its_check(mistake, tmp_path):
    check, change, message = MISTAKES[mistake]
    path = plugin(tmp_path, "method", ("    def views", OWN_OBJECTIVE))
    Path(path).write_text(Path(path).read_text() + OBJECTIVE.replace("CHANGE", change))
    found, said = first_failed(checks(path))
    assert found == check, said
    assert message in said


@pytest.mark.parametrize(
    ("change", "check", "message"),
    [
        (('"local_size": 32}', '"local_sise": 32}'), "presets", "the preset tiny (official) cannot be built"),
        (('"local_size": 32}', '"local_size": 32, "lr": 0.0, "min_lr": 0.0}'), "learns", "no weight"),
    ],
)  # fmt: skip
def test_a_wrong_preset_is_found(change, check, message, tmp_path):
    found, said = first_failed(checks(plugin(tmp_path, "method", change)))
    assert found == check, said
    assert message in said


@pytest.mark.slow
def test_the_method_that_is_written_passes(tmp_path):
    assert all(check.passed for check in checks(plugin(tmp_path, "method")))


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_of_the_catalogue_conforms(method):
    given = {**SMALL, **OWN.get(method, {}), "warmup_epochs": 0}
    assert first_failed(check_method(method, given=given)) == ("", "")
