"""The card of a repository of records: what lies in it, the tables, and how to compare and to pull."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from densebench.results.leaderboard import Leaderboard

TAGS = ("densebench", "benchmark", "computer-vision", "self-supervised-learning", "dense-features")


def card(name: str, records: Sequence[dict[str, Any]], board: Leaderboard | None) -> str:
    """Return the README.md of the repository hf:`name`, in Markdown with the Hub's header; it follows from the records alone.

    board: the tables of the records that may stand in one; None where there is none.
    """
    backbones = {json.dumps(record["backbone"], sort_keys=True) for record in records}
    protocols = sorted({f"{record['protocol']['name']}/{record['protocol']['preset']}" for record in records})
    datasets = sorted({record["dataset"]["name"] for record in records})
    title = name.partition("/")[2]
    header = ["---", f"pretty_name: {json.dumps(title)}", "tags:", *(f"- {tag}" for tag in TAGS)]
    if board is not None:  # what the Hub's viewer shows
        header += ["configs:", "- config_name: leaderboard", "  data_files: leaderboard.csv"]
    tables = board.render("md").rstrip("\n") if board is not None else "No record here is of a whole run, so there is no table."
    return f"""{chr(10).join([*header, "---"])}

# {title}

{len(records)} records of {len(backbones)} backbones: how good their dense (patch-level) features are, measured by densebench.

- Protocols: {", ".join(protocols)}
- Data sets: {", ".join(datasets)}

## What is in it

- `records/ID.json`: one record for each backbone, protocol and data set. It holds every score with its bootstrap values,
  what decides the number (weights, code, settings, digests of the data), and how it was run.
- `leaderboard.md`, `leaderboard.csv`, `leaderboard.html`: the tables. Only the CSV file has every metric.
- `pictures/ID/`: pictures of predictions, where they were uploaded.

## How to compare

Numbers compare within a table only. Its records share the protocol with its settings and its version, the data set and its
digest, which the group in the caption stands for. A rank is 1 + the number of backbones that are separably better by a paired
bootstrap over images.

Get these records, and put your own beside them:

    densebench pull hf:{name} --into results
    densebench eval --protocol {protocols[0].partition("/")[0] if protocols else "incontext"} --backbone ... --dataset ...
    densebench leaderboard

## Tables

{tables}
"""
