"""Watching a run: count the steps that are skipped because they are not finite, and warn of a collapse with a remedy."""

from __future__ import annotations

import math
from collections.abc import Mapping

from densebench.console import warn
from densebench.errors import UserError

PATIENCE = 5  # logged steps in a row with the same sign before a warning
SAME = 0.02  # feature_std below this: all images look the same to the teacher
UNIFORM, NEARLY_UNIFORM = 0.999, 0.98  # shares of ln K above which the teacher's entropy counts as (nearly) uniform
MAX_SKIPPED_IN_A_ROW = 50


class Monitor:
    """Counts skipped steps and watches for the two ways to collapse: uniform targets, and equal features."""

    def __init__(self, prototypes: int | None) -> None:
        self.uniform = math.log(prototypes) if prototypes else math.inf
        self.skipped = self.in_a_row = 0
        self._signs: dict[str, int] = {}

    def skip(self, step: int, scaled: bool = False) -> None:
        """Count a step that was not finite. Raises UserError after MAX_SKIPPED_IN_A_ROW in a row.

        scaled: gradients are scaled for fp16; the scale begins high and is halved by each such step.
        """
        self.skipped += 1
        self.in_a_row += 1
        usual = ", as a few are in fp16: the scale of its gradients is halved then" if scaled else ""
        warn(f"step {step}: the loss or a gradient is not finite; the step is skipped ({self.skipped} so far){usual}")
        if self.in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise UserError(
                f"{self.in_a_row} steps in a row were not finite; lower --lr, set --clip-grad, or use "
                "--precision fp32, in a new run"
            )

    def passed(self) -> None:
        """Count a step that was finite."""
        self.in_a_row = 0

    def watch(self, step: int, figures: Mapping[str, float], warmed_up: bool) -> list[str]:
        """Check the figures of a logged step; return the warnings that were printed, each of which is printed once."""
        if not warmed_up:
            return []
        signs = {}
        if "teacher_entropy" in figures:
            signs["uniform"] = figures["teacher_entropy"] > UNIFORM * self.uniform
        if "image" in figures:  # a loss of ln K with a decided teacher is a student that lags, not a collapse
            blurred = figures.get("teacher_entropy", self.uniform) > NEARLY_UNIFORM * self.uniform
            signs["level"] = blurred and abs(figures["image"] / self.uniform - 1) < 1 - UNIFORM
        if "feature_std" in figures:
            signs["equal"] = figures["feature_std"] < SAME
        warnings = []
        for sign, present in signs.items():
            self._signs[sign] = self._signs.get(sign, 0) + 1 if present else 0
            if self._signs[sign] == PATIENCE:
                warnings.append(self._warning(sign, step, figures))
                warn(warnings[-1])
        return warnings

    def _warning(self, sign: str, step: int, figures: Mapping[str, float]) -> str:
        if sign == "uniform":
            return (
                f"step {step}: collapse: the teacher's entropy is {figures['teacher_entropy']:.3f}, "
                f"uniform is ln K = {self.uniform:.3f}; lower --teacher-temp (0.02), or --out-dim, or raise --batch-size"
            )
        if sign == "level":
            return (
                f"step {step}: collapse: the loss between views stays at ln K = {self.uniform:.3f}, which is chance; lower "
                "--teacher-temp (0.02), or --out-dim for small data, or raise --batch-size"
            )
        return (
            f"step {step}: collapse: all images have nearly the same features "
            f"(feature_std {figures['feature_std']:.4f}); lower --lr, raise --momentum (0.9995 for small batches), "
            "or lengthen --warmup-epochs"
        )
