"""What `evaluate` refuses: a data set of another kind, and keywords that belong to `Backbones`."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from densebench.datasets import load_dataset
from densebench.datasets.boxes import Boxed
from densebench.datasets.catalog import titles, titles_of
from densebench.errors import UserError
from densebench.evaluation.run import evaluate


@dataclass(frozen=True, kw_only=True)
class Nothing(Boxed):
    name: str = "nothing"


def test_every_data_set_is_of_one_kind():
    kinds = {load_dataset(name).kind for name in titles()}
    assert sum(len(titles_of(kind)) for kind in kinds) == len(titles())
    assert "scenes" in titles_of("label maps")


def test_a_protocol_refuses_a_data_set_of_another_kind(monkeypatch, tmp_path):
    monkeypatch.setattr("densebench.evaluation.run.load_dataset", lambda *_: Nothing(root=tmp_path))
    with pytest.raises(UserError, match="nothing has boxes; kmeans takes label maps: .*voc"):
        list(evaluate("kmeans", backbones=["pixels:16"], datasets=["nothing"], results=tmp_path))


def test_how_backbones_are_read_is_no_option_of_a_protocol(tmp_path):
    with pytest.raises(UserError, match=r"^layer says how backbones are read: write backbones=Backbones\(\[...\], layer=...\)"):
        list(evaluate("kmeans", backbones=["pixels:16"], datasets=["scenes"], layer="last", results=tmp_path))
