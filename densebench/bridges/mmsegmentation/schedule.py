"""Learning rates over the iterations, for parameter groups whose rates differ."""

from __future__ import annotations

from typing import Any

from mmengine.optim import CosineAnnealingLR, LinearLR, PolyLR

from densebench.bridges.mmsegmentation.recipe import Recipe

POWER = 0.9
WARMUP_FROM = 1e-6  # share of the learning rate at which warm-up begins


class PolyToShare(PolyLR):
    """Polynomial decay in which every group ends at `share` of its own first learning rate."""

    def __init__(self, optimizer: Any, *, share: float, **settings: Any) -> None:
        self.share = share
        super().__init__(optimizer, **settings)

    def _get_value(self) -> list[float]:
        if self.last_step == 0:
            return [group[self.param_name] for group in self.optimizer.param_groups]
        factor = (1 - 1 / (self.total_iters - self.last_step + 1)) ** self.power
        lowest = [self.share * value for value in self.base_values]
        groups = zip(self.optimizer.param_groups, lowest, strict=True)
        return [(group[self.param_name] - low) * factor + low for group, low in groups]


def schedulers(recipe: Recipe, optimiser: Any) -> list[Any]:
    """The schedules of a recipe, stepped once an iteration."""
    if recipe.schedule == "poly":
        return [PolyToShare(optimiser, share=recipe.eta_min, power=POWER, begin=0, end=recipe.iterations, by_epoch=False)]
    rise = round(recipe.warmup * recipe.iterations)
    found: list[Any] = []
    rise = 0 if rise < 2 else rise  # a rise of one iteration would never leave its first value
    if rise:
        found.append(LinearLR(optimiser, start_factor=WARMUP_FROM, begin=0, end=rise, by_epoch=False))
    fall = {"T_max": recipe.iterations - rise, "begin": rise, "end": recipe.iterations, "by_epoch": False}
    return [*found, CosineAnnealingLR(optimiser, eta_min=0.0, **fall)]
