"""The papers' tables as data: published.csv, one value a row.

Columns: paper, table, method, backbone, params_millions, pretrain_data, pretrain_epochs, protocol, dataset, setting, metric,
value, note. `protocol` says how a number was made; numbers of different protocols are not comparable.
"""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def load_published() -> pd.DataFrame:
    """Every published value as text, as the papers print it; an empty text means that the table does not say."""
    import pandas as pd

    with (files(__name__) / "published.csv").open(encoding="utf-8") as stream:
        return pd.read_csv(stream, dtype=str, keep_default_na=False)
