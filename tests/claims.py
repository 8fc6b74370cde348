"""Which published numbers a table file claims: for each, how many pairs of a backbone and an evaluation measure it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

import pandas as pd

from densebench import catalog, options
from densebench.results.published import load_published
from densebench.tables.entries import BackboneEntry, EvaluationEntry, Row, Table

ABLATION = " (ablation)"
DATASETS = {"coco-boxes": "coco", "imagenet-boxes": "imagenet"}
"""What published numbers call the data sets of boxes."""


def published(reference: str) -> pd.DataFrame:
    """Return the numbers of a paper's table: "neco:8", or of all its parts: "neco:9" stands for 9a to 9d; "lost:README"."""
    paper, _, table = reference.partition(":")
    numbers = load_published()
    return numbers[(numbers.paper == paper) & numbers.table.str.fullmatch(f"(Table )?{re.escape(table)}[a-z]?")]


def claims(table: Table, numbers: pd.DataFrame) -> Counter[int]:
    """Return by a number's index how often a backbone and an evaluation of a table claim it, or it is said to be missing."""
    counts = Counter(dict.fromkeys(numbers.index, 0))
    records = dict(zip(numbers.index, numbers.to_dict("records"), strict=True))
    for evaluation in table.evaluations:
        for backbone in table.backbones_of(evaluation):
            names, reached = _measured(backbone, evaluation)
            datasets = [DATASETS.get(name, name) for name in evaluation.datasets]
            for index, number in records.items():
                same = number["protocol"].removesuffix(ABLATION) in names and number["dataset"] in datasets
                counts[index] += same and _is_row(number, backbone.row, reached)
    for missing in table.missing:
        counts.update(index for index, number in records.items() if _is_row(number, missing.row, _items(number["setting"])))
    return counts


def _measured(backbone: BackboneEntry, evaluation: EvaluationEntry) -> tuple[tuple[str, ...], set[str]]:
    """Return the names of the numbers that an evaluation of a backbone reproduces, and the items of `setting` that it reaches."""
    kind = catalog.load("protocols", evaluation.protocol, evaluation.preset)
    preset = evaluation.preset or next(iter(kind.presets))
    values = options.build(kind, kind.presets[preset], dict(evaluation.options))
    reached = {f"layers={backbone.layer.count(',') + 1}"}
    reached |= {f"fraction=1/{fraction}" for fraction in getattr(values, "fractions", ())}
    reached |= {f"K={clusters or 'GT'}" for clusters in getattr(values, "clusters", ())}
    reached |= {f"k={neighbours}"} if isinstance(neighbours := getattr(values, "neighbours", None), int) else set()
    reached |= {f"alpha={alpha:.2f}" for alpha in getattr(values, "alphas", ())}
    reached |= {f"masks={size}x{size}"} if isinstance(size := getattr(values, "score_size", None), int) else set()
    reached |= {"K=21"} if evaluation.protocol == "unsupervised" and evaluation.datasets == ("voc",) else set()
    return tuple(name.removesuffix(ABLATION) for name in kind.published_names(preset, backbone.layer)), reached


def _is_row(number: Mapping[str, str], row: Row, reached: set[str]) -> bool:
    """Return whether a number is of a row: its columns, and of its setting exactly what is not reached by the evaluation."""
    for each in row if isinstance(row, list) else [row] if row else []:
        columns = [column for column in each if column != "setting"]
        ablated = _items(number["setting"]) - reached
        if all(number[column] == each[column] for column in columns) and ablated == _items(each.get("setting", "")):
            return True
    return False


def _items(setting: str) -> set[str]:
    return {item.strip() for item in setting.split(";") if item.strip()}
