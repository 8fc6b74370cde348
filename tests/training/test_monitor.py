"""The watch over a run: what counts as a collapse, when it is said, and when a run that is never finite ends."""

from __future__ import annotations

import math

import pytest

from densebench.errors import UserError
from densebench.training.monitor import MAX_SKIPPED_IN_A_ROW, PATIENCE, Monitor

HEALTHY = {"image": 8.0, "teacher_entropy": 5.0, "feature_std": 0.6}


def watch(figures, steps=PATIENCE, warmed_up=True):
    monitor = Monitor(65536)
    return [warning for step in range(steps) for warning in monitor.watch(step, figures, warmed_up)]


@pytest.mark.parametrize(
    ("figures", "word"),
    [
        ({"teacher_entropy": math.log(65536)}, "entropy is 11.090, uniform is ln K = 11.090; lower --teacher-temp"),
        ({"image": math.log(65536), "teacher_entropy": 0.99 * math.log(65536)}, "stays at ln K = 11.090, which is chance"),
        ({"feature_std": 0.001}, "the same features.*lower --lr"),
    ],
)
def test_each_way_to_collapse_is_said_once_with_a_remedy(figures, word, capsys):
    [warning] = watch({**HEALTHY, **figures}, 4 * PATIENCE)
    assert "collapse" in warning
    assert warning in capsys.readouterr().err
    import re

    assert re.search(word, warning)


def test_a_healthy_run_is_left_alone():
    assert watch(HEALTHY, 50) == []
    assert watch({**HEALTHY, "image": math.log(65536)}, 50) == []  # the student lags behind a decided teacher


def test_a_sign_must_last_and_comes_after_the_warm_up():
    collapsed = {**HEALTHY, "teacher_entropy": math.log(65536)}
    assert watch(collapsed, PATIENCE - 1) == []
    assert watch(collapsed, 50, warmed_up=False) == []
    monitor = Monitor(65536)
    for _ in range(3 * PATIENCE):
        assert monitor.watch(0, collapsed, True) == []
        assert monitor.watch(0, HEALTHY, True) == []
        for _ in range(PATIENCE - 2):
            assert monitor.watch(0, collapsed, True) == []
        assert monitor.watch(0, HEALTHY, True) == []


def test_a_skipped_step_in_fp16_is_said_to_be_usual(capsys):
    monitor = Monitor(64)
    monitor.skip(1)
    monitor.skip(2, scaled=True)
    plain, scaled = capsys.readouterr().err.splitlines()
    assert "fp16" not in plain
    assert "fp16: the scale of its gradients is halved" in scaled


def test_a_run_that_is_never_finite_ends():
    monitor = Monitor(64)
    for step in range(MAX_SKIPPED_IN_A_ROW - 1):
        monitor.skip(step)
    monitor.passed()
    for step in range(MAX_SKIPPED_IN_A_ROW - 1):
        monitor.skip(step)
    with pytest.raises(UserError, match=f"{MAX_SKIPPED_IN_A_ROW} steps in a row were not finite; lower --lr"):
        monitor.skip(0)
    assert monitor.skipped == 2 * MAX_SKIPPED_IN_A_ROW - 1
