"""From what each picture got to scores: CorLoc, mean IoU of boxes, and IoU, F and accuracy of masks, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from densebench.evals.discovery.findings import Finding
from densebench.evals.discovery.marks import Marks
from densebench.evals.discovery.truth import BOXES, MASKS
from densebench.numerics.bootstrap import bootstrap_mean, bootstrap_mean_of_objects, interval
from densebench.results.baselines import MARK
from densebench.results.score import Point, Score, encode

WHOLE, CENTRE = "whole picture", "centre box"
"""Variants of scores: what a guess reaches that looks at no feature."""
METRICS = {MASKS: ("accuracy", "max_f", "iou"), BOXES: ("box_iou", "corloc")}
"""The metrics of masks and of boxes, the more important ones later."""


def metrics(truth: str) -> list[str]:
    """Return the metrics of a truth ("boxes", "masks" or "both"), the headline last."""
    return [metric for kind, names in METRICS.items() if truth in (kind, "both") for metric in names]


def values_of(marks: Sequence[Marks], metric: str) -> Float[np.ndarray, "n"]:
    """Return a metric of each picture, in %.

    max_f: F at the threshold at which its mean over pictures is greatest.
    """
    if metric in METRICS[BOXES]:
        return 100 * np.array([float(mark.hit if metric == "corloc" else mark.iou) for mark in marks])
    of_masks = [mark.mask for mark in marks if mark.mask is not None]
    if metric == "max_f":
        curves = np.array([mask.f for mask in of_masks])
        return 100 * curves[:, curves.mean(0).argmax()]
    return 100 * np.array([getattr(mask, metric) for mask in of_masks])


def score(
    metric: str, variant: str, marks: Sequence[Marks], sequences: Sequence[str] | None, classes: Sequence[str], point: Point,
    details: Mapping[str, Any],
) -> Score:  # fmt: skip
    """Return the mean of a metric over pictures.

    sequences: the video that each picture is a frame of, whose frames are drawn together by the bootstrap; None for pictures that
    have nothing to do with each other. One picture, or the frames of one video, have no interval: they say nothing of others.
    classes: the names of classes, for CorLoc of each.
    """
    values = values_of(marks, metric)
    resampled = _bootstrap(values, sequences)
    return Score(
        metric, variant, float(values.mean()), axes=dict(point), ci95=None if resampled is None else interval(resampled),
        per_class=_of_classes(marks, classes) if metric == "corloc" else {},
        bootstrap=() if resampled is None or MARK.items() <= details.items() else tuple(resampled.tolist()),
        details=dict(details), direction="higher",
    )  # fmt: skip


def _bootstrap(values: Float[np.ndarray, "n"], sequences: Sequence[str] | None) -> torch.Tensor | None:
    if sequences is None:
        return bootstrap_mean(torch.from_numpy(values)) if len(values) > 1 else None
    names, number, counts = np.unique(np.array(sequences), return_inverse=True, return_counts=True)
    if len(names) == 1:
        return None
    return torch.from_numpy(bootstrap_mean_of_objects(np.bincount(number, values), counts))


def _of_classes(marks: Sequence[Marks], names: Sequence[str]) -> dict[str, float | None]:
    """Return, for each class, the share in % of the pictures showing it whose box hits an object of it; None where none does."""
    shares = {}
    for label, name in enumerate(names):
        hits = [mark.classes[label] for mark in marks if label in mark.classes]
        shares[name] = 100 * float(np.mean(hits)) if hits else None
    return shares


def scores(
    marks: Mapping[str, Sequence[Marks]], findings: Sequence[Finding], names: Sequence[str], truth: str,
    sequences: Sequence[str] | None, classes: Sequence[str], point: Point, details: Mapping[str, Any],
) -> list[Score]:  # fmt: skip
    """Return the scores of a point: of the graphs, then each metric for the guesses and for the method, the headline last.

    marks: of all pictures, by variant, the method's last. findings: the method's. names: of the pictures.
    """
    *_, method = marks
    *_, headline = metrics(truth)
    found = [
        _plain("edge_density", method, [finding.density for finding in findings], point),
        _plain("degenerate", method, [float(bool(finding.flaw)) for finding in findings], point),
    ]
    for metric in metrics(truth):
        for variant, of_pictures in marks.items():
            own: dict[str, Any] = {**MARK}
            if variant == method:
                own = {"of_pictures": encode(values_of(of_pictures, metric).tolist())}
            if variant == method and metric == headline:
                own |= {**details, **graph_details(findings, names), **_videos(sequences)}
            found.append(score(metric, variant, of_pictures, sequences, classes, point, own))
    return found


def _videos(sequences: Sequence[str] | None) -> dict[str, int]:
    """Return how many videos intervals resample."""
    return {} if sequences is None else {"videos": len(set(sequences))}


def _plain(metric: str, variant: str, shares: Sequence[float], point: Point) -> Score:
    return Score(metric, variant, 100 * float(np.mean(shares)), axes=dict(point), direction="lower")


def graph_details(findings: Sequence[Finding], names: Sequence[str]) -> dict[str, Any]:
    """Return what a record says of the graphs: density and eigengap, and the pictures without an object, by the reason."""
    densities = np.array([finding.density for finding in findings])
    gaps = np.array([finding.eigengap for finding in findings if finding.eigengap is not None])
    flaws: dict[str, list[str]] = {}
    for finding, name in zip(findings, names, strict=True):
        if finding.flaw:
            flaws.setdefault(finding.flaw, []).append(name)
    details: dict[str, Any] = {"images": len(names), "edge_density": _spread(densities)}
    if len(gaps):
        details["eigengap"] = _spread(gaps)
    return {**details, "degenerate": flaws}


def _spread(values: Float[np.ndarray, "n"]) -> dict[str, float]:
    ends = {"least": values.min(), "median": np.median(values), "greatest": values.max()}
    return {name: float(f"{value:.6g}") for name, value in ends.items()}
