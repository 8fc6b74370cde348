"""The papers' tables as data: published.csv, one value a row.

Columns: paper, table, method, backbone, params_millions, pretrain_data, pretrain_epochs, protocol, dataset, setting, metric,
value, note, evaluation. `protocol` says how a number was made; numbers of different protocols are not comparable. A protocol of
ours itself says which of these names it reproduces (`Evaluator.published_names`). `evaluation` names the settings in which a
number differs from the protocol's preset, and how its features were read or changed before.
"""

from __future__ import annotations

import re
from contextlib import suppress

import pandas as pd

from densebench import catalog
from densebench.console import notice
from densebench.errors import UserError
from densebench.results.published.number_files import EVALUATION, load_published
from densebench.results.tables import About, Table, metric_name

__all__ = ["beside", "load_published", "tables"]


def beside(scores: pd.DataFrame, numbers: pd.DataFrame) -> pd.DataFrame:
    """Return those of the published numbers that are of the protocols and data sets measured; none beside a part of a split.

    A notice says what is left out for that reason, or that nothing is published.
    """
    built_in = catalog.entries("protocols")
    pairs: dict[tuple[str, str], bool] = {}  # published protocol and data set -> whether a group of them is partial
    columns = ["protocol", "preset", "dataset", "layer", "partial"]
    for protocol, preset, dataset, layer, partial in scores[columns].drop_duplicates().itertuples(index=False):
        if protocol in built_in:  # a file is never imported because a record names it
            with suppress(UserError):  # a plug-in that cannot be imported hides no other's numbers
                for name in catalog.load("protocols", protocol, preset).published_names(preset, str(layer)):
                    pairs[name, dataset] = pairs.get((name, dataset), False) or partial
    numbers = numbers.drop(columns=EVALUATION)
    numbers = numbers[numbers.protocol.isin({name for name, _ in pairs}) & numbers.dataset.isin(scores.dataset)]
    # Numbers of a protocol that was not run on a data set would stand beside those that were: a partial split excludes them too.
    parts = set(scores[scores.partial].dataset)
    stays = [not pairs.get((name, data), data in parts) for name, data in zip(numbers.protocol, numbers.dataset, strict=True)]
    if not all(stays):
        partial_sets = (scores.dataset + " (" + scores.coverage + ")")[scores.partial].unique()
        notice(f"no published numbers stand beside a part of a split or corrupted images: {', '.join(partial_sets)}")
    elif numbers.empty:
        names = ", ".join((scores.protocol + "/" + scores.preset).unique())
        notice(f"no published number goes with {names} on {', '.join(scores.dataset.unique())}")
    return numbers.loc[stays]


def tables(numbers: pd.DataFrame) -> list[Table]:
    """Return the papers' numbers, one table a protocol and data set, in the order of the papers, with their notes."""
    result = []
    for (protocol, dataset), rows in numbers.groupby(["protocol", "dataset"], sort=True):
        metrics = [metric_name(metric) for metric in rows.metric.unique()]
        settings = sorted(rows.setting.unique(), key=_share)
        if len(metrics) > 1:
            rows = rows.assign(setting=(rows.setting + " " + rows.metric.map(metric_name)).str.strip())
            settings = [f"{setting} {metric}".strip() for setting in settings for metric in metrics]
        cells = []
        for keys, row in rows.groupby(["paper", "table", "method", "backbone", "pretrain_data", "pretrain_epochs"], sort=False):
            paper, table, method, backbone, data, epochs = keys
            values = dict(zip(row.setting, row.value, strict=True))
            pretraining = ", ".join(part for part in (data, f"{epochs} epochs" if epochs else "") if part)
            notes = "; ".join(dict.fromkeys(note for note in row.note if note))
            label = {"method": method, "backbone": backbone, "pretraining": pretraining, "source": f"{paper} {table}"}
            columns = {setting.removeprefix("fraction=") or metrics[0]: values.get(setting, "") for setting in settings}
            cells.append({**label, **columns, "note": notes})
        texts = pd.DataFrame(cells).fillna("").astype(str)
        caption = f"published, not measured here: {protocol} on {dataset}, {', '.join(metrics)} in %"
        facts = (
            ("protocol", protocol),
            ("data set", dataset),
            ("score", f"{', '.join(metrics)} in %"),
        )
        about = About(f"published, not measured here: {protocol} on {dataset}", (dataset,), (protocol,), facts)
        result.append(Table(caption, texts, texts.map(lambda _: False), about=about))
    return result


def _share(setting: str) -> tuple[float, str]:
    """Return a key that sorts settings: the smallest share first, as in "fraction=1/8", "fraction=1/1;memory=1.02M"."""
    share = re.match(r"fraction=1/(\d+)", setting)
    return -float(share.group(1) if share else 1), setting
