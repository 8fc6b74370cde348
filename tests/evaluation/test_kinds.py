"""What `evaluate` refuses: a data set of another kind."""

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


def test_a_protocol_refuses_a_data_set_of_another_kind(tmp_path):
    with pytest.raises(UserError, match="nothing has boxes; kmeans takes label maps: .*voc"):
        evaluate("pixels:16", "kmeans", Nothing(root=tmp_path), results=tmp_path)
