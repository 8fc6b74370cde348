"""Which backbone to take, in one sentence that is made of the facts alone.

The rule: the backbone with the highest mean IoU by the protocol that decides, the first one, is taken. Each other backbone is
separable from it where the 95 % interval of the paired difference leaves out 0. Among those that are not, a faster one is named,
and how many more labels would separate the nearest; where all are separable, the next one is named, and one that is about
twice as fast or more and keeps most of the lead over predicting the most frequent class everywhere. Where another protocol puts
another backbone first, the sentence says so. Where no backbone is separably better than to predict the most frequent class, none
is recommended; where all are equal, the fastest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from densebench.few_labels.comparison import SAME, Comparison, Difference, Standing

FASTER = 1.25
"""How many times as fast a backbone must be to count as faster: less is within what timings vary."""
MUCH_FASTER = 1.8
"""From which factor on a faster backbone is named although it is separably worse."""
KEPT = 0.75
"""The share of the lead over the most frequent class that a faster backbone must keep to be named for its speed."""
NAMED = 3  # backbones that the sentence names at most as not separable


def recommendation(comparisons: Sequence[Comparison], speeds: Mapping[str, float], failed: Sequence[str] = ()) -> str:
    """Return the sentence.

    comparisons: one for each protocol, the first decides; speeds: images a second by backbone, those without one left out;
    failed: the backbones that could not be scored.
    """
    deciding = comparisons[0]
    best, *others = deciding.standings
    taken = best.backbone
    speed = {other.backbone: speeds[other.backbone] / speeds[best.backbone] for other in others if _known(speeds, best, other)}
    if deciding.over_chance.low <= 0:
        text = (
            f"Take none of them yet: the best, {best.backbone}, reaches {best.value:.1f} mIoU, which is not separably better "
            f"than the {deciding.chance:.1f} of predicting the most frequent class everywhere"
        )
    elif not others:
        text = (
            f"{best.backbone} reaches {best.value:.1f} mIoU ({best.low:.1f} to {best.high:.1f}); "
            "there is no other backbone to compare it with"
        )
    elif _equal(deciding):
        taken, text = _all_equal(best, others, speeds)
    else:
        text = _taken(deciding, speed)
    parts = [text, *(_of_other(deciding, other, taken) for other in comparisons[1:] if others)]
    if failed:
        parts.append(f"{_listed(failed)} failed and {'is' if len(failed) == 1 else 'are'} not compared")
    return "; ".join(part for part in parts if part) + "."


def _known(speeds: Mapping[str, float], best: Standing, other: Standing) -> bool:
    return bool(speeds.get(best.backbone)) and other.backbone in speeds


def _equal(comparison: Comparison) -> bool:
    """Return whether no backbone differs from the best at all, whichever images are left out."""
    differences = [each.behind for each in comparison.standings if each.behind is not None]
    return all(max(map(abs, (each.value, each.low, each.high))) < SAME for each in differences)


def _all_equal(best: Standing, others: Sequence[Standing], speeds: Mapping[str, float]) -> tuple[str, str]:
    """Return the backbone that is taken where all are equal, and what is said of it."""
    names = [best.backbone, *(other.backbone for other in others)]
    text = f"{_listed(names)} are equal on these images ({best.value:.1f} mIoU)"
    if known := sorted((name for name in names if speeds.get(name)), key=lambda name: -speeds[name]):
        return known[0], f"Take {known[0]}, the fastest: {text}"
    return best.backbone, f"Take any: {text}"


def _taken(comparison: Comparison, speed: Mapping[str, float]) -> str:
    best, *others = comparison.standings
    worth = comparison.chance + KEPT * (best.value - comparison.chance)
    quick = [other for other in others if other.value >= worth and speed.get(other.backbone, 0.0) >= MUCH_FASTER]
    near = [other for other in others if other.behind is not None and not other.behind.separable]
    opening = f"Take {best.backbone} ({best.value:.1f} mIoU)"
    return opening + (_beside(best, near, speed, comparison.limit) if near else _ahead(others, quick, speed))


def _beside(best: Standing, near: Sequence[Standing], speed: Mapping[str, float], limit: int) -> str:
    """Return what is said where some backbones are not separable from the best."""
    fastest = max(near, key=lambda other: speed.get(other.backbone, 0.0))
    named = list(near[:NAMED])
    if _faster(speed.get(fastest.backbone)) and fastest not in named:
        named[-1] = fastest
    each = [f"{other.backbone} ({_interval(other.behind)} mIoU)" for other in named]
    rest = len(near) - len(named)
    if len(near) == 1:
        other = near[0]
        text = f"; {other.backbone} is not separable from it ({_interval(other.behind)} mIoU)"
        if factor := _faster(speed.get(other.backbone)):
            text += f" and is {factor} as fast"
        elif longer := _faster(1 / speed[other.backbone] if other.backbone in speed else None):
            text += f" and takes {longer} as long"
    else:
        text = f"; not separable from it are {_listed([*each, *([f'{rest} more'] if rest else [])])}"
        if factor := _faster(speed.get(fastest.backbone)):
            text += f", of which {fastest.backbone} is {factor} as fast"
    if near[0].to_separate is None:
        who = "them" if len(near) == 1 else f"{best.backbone} and {near[0].backbone}"
        return f"{text}; even {limit} more labelled images would not separate {who}, so decide by something else, such as speed"
    who = "them" if len(near) == 1 else f"{best.backbone} and {near[0].backbone}"
    count = near[0].to_separate
    images = "image" if count == 1 else "images"
    return f"{text}; about {count} more labelled {images} would separate {who} if the difference stays as it is"


def _ahead(others: Sequence[Standing], quick: Sequence[Standing], speed: Mapping[str, float]) -> str:
    """Return what is said where the best is separable from every other."""
    second = others[0]
    text = f": {'it is separably better than every other; ' if len(others) > 1 else ''}"
    text += f"{'the next, ' if len(others) > 1 else ''}{second.backbone}{',' if len(others) > 1 else ''} is {_below(second)}"
    if second in quick:
        return f"{text}, but {_faster(speed[second.backbone])} as fast"
    if not quick:
        return text
    much = quick[0]
    return f"{text}, and {much.backbone} is {_faster(speed[much.backbone])} as fast but {_below(much)}"


def _of_other(deciding: Comparison, comparison: Comparison, taken: str) -> str:
    """Return what another protocol says: nothing more than that it agrees, or which backbone it puts first by how much."""
    name, (first, *others) = comparison.protocol, comparison.standings
    if comparison.over_chance.low <= 0:
        agreed = deciding.over_chance.low <= 0
        return f"{name} agrees" if agreed else f"by {name} none is separably better than predicting the most frequent class"
    if deciding.over_chance.low <= 0:
        return f"by {name}, {first.backbone} is separably better, with {first.value:.1f}"
    equal = _equal(deciding)
    if _equal(comparison):
        return f"{name} agrees" if equal else f"by {name} all are equal"
    if first.backbone == taken and not equal:
        sure = all(each.behind.separable for each in deciding.standings if each.behind is not None)
        if sure and others[0].behind is not None and not others[0].behind.separable:
            return f"{name} puts {taken} first too, but not separably ({_interval(others[0].behind)} mIoU)"
        return f"{name} agrees"
    behind = next((each.behind for each in others if each.backbone == taken), others[0].behind)
    assert behind is not None
    if not behind.separable:
        return f"{name} puts {first.backbone} first, but not separably ({_interval(behind)} mIoU)"
    return f"{name} puts {first.backbone} first, {behind.value:.1f} mIoU ahead ({_interval(behind)})"


def _below(other: Standing) -> str:
    assert other.behind is not None
    return f"{other.behind.value:.1f} mIoU below ({_interval(other.behind)})"


def _interval(difference: Difference | None) -> str:
    assert difference is not None
    return f"{_number(difference.low)} to {_number(difference.high)}"


def _number(value: float) -> str:
    """Return a number with one decimal, 0.0 without a sign."""
    text = f"{value:.1f}"
    return "0.0" if text == "-0.0" else text


def _faster(factor: float | None) -> str:
    """Return how many times as fast a backbone is, in words; "" where it is not faster, or that is not known."""
    if factor is None or factor < FASTER:
        return ""
    if MUCH_FASTER <= factor < 2.25:
        return "twice"
    return f"{factor:.0f} times" if factor >= 9.5 or abs(factor - round(factor)) < 0.15 else f"{factor:.1f} times"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
