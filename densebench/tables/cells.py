"""The cells of a table: each is one pretraining, or one evaluation of one backbone on one data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Cell:
    """One unit of work of a table, which a process of its own carries out.

    id: 8 hexadecimal digits made from everything that decides the work. kind: pretrain, evaluation or figure.
    label: what people call it, such as "DINO ViT-S/16, incontext/neco, voc". needs: the ids of the cells that must be done first.
    command: the words of the `densebench` command that does the same. request: keywords of `train` or `evaluate`, JSON values.
    """

    id: str
    kind: str
    label: str
    command: tuple[str, ...]
    request: Mapping[str, Any]
    needs: tuple[str, ...] = ()
    backbone: str = ""
    dataset: str = ""
    protocol: str = ""
    processes: int = 1
    row: Mapping[str, Any] = field(default_factory=dict)
