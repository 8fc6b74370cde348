"""What tables call backbones: of all tables of the same records, one backbone has one name, and two have two."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

PARTS = {
    "layer": "layer", "debias": "debiased by", "upsample": "upsampled by", "stride": "stride", "pos_embed": "positions",
    "digest": "weights", "identity": "identity",
}  # fmt: skip
"""What tells backbones of one name apart, the first that does, and how it is called in their names."""


def labelled(scores: pd.DataFrame) -> pd.DataFrame:
    """Return scores with the column `label`, what tables call the backbone of a row; as they are where they have it.

    Records of the same weights (of one identity) may have several names: the one that was given last counts, by the time at
    which the run of its record began; a spec stands only where no record gives a name. Where several backbones would have one
    name, each is followed by what tells it apart, as in "ViT-S/14 (layer 8)" and "ViT-S/14 (layer last)".
    """
    if scores.empty or ("label" in scores and scores.label.notna().all()):
        return scores
    rows = scores.assign(bare=scores["name"] == scores.spec, started=scores.get("started", pd.Series("", scores.index)))
    rows = rows.sort_values("name", kind="stable").sort_values("started", ascending=False, kind="stable", na_position="last")
    rows = rows.sort_values("bare", kind="stable").drop_duplicates("identity")
    labels = dict(zip(rows.identity, rows["name"], strict=True))
    for name, alike in rows.groupby("name"):
        if len(alike) > 1:
            labels |= dict(_told_apart(str(name), alike))
    if len({*labels.values()}) < len(labels):  # a given name that looks like one of these
        labels = {identity: f"{label} (identity {identity})" for identity, label in labels.items()}
    return scores.assign(label=scores.identity.map(labels))


def _told_apart(name: str, alike: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Yield the identity of each backbone of a name, and the name with as much as tells it apart."""
    columns: list[str] = []
    for column in PARTS:
        if column in alike and alike[column].nunique(dropna=False) > 1 and (not columns or alike.duplicated(columns).any()):
            columns.append(column)
    for row in alike.to_dict("records"):
        yield row["identity"], f"{name} ({', '.join(f'{PARTS[column]} {worded(row[column])}' for column in columns)})"


def worded(value: Any) -> str:
    """Return a value as text; `none` for one that is not there."""
    return "none" if pd.isna(value) else f"{value:g}" if isinstance(value, float) else str(value)
