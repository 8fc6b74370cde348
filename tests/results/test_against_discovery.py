"""CorLoc that was measured on VOC 2007 stands beside LOST's, if the keys were scored, and nothing else does."""

from __future__ import annotations

import pytest
from published_records import numbers
from voc_files import voc_object, write_voc

from densebench.datasets.voc_boxes import Voc2007
from densebench.evaluation.run import evaluate
from densebench.results.against import against
from densebench.results.published.number_files import COLUMNS, EVALUATION

LOST = {
    "paper": "mine", "table": "README", "method": "random", "backbone": "", "params_millions": "", "protocol": "discovery-lost",
    "dataset": "voc2007", "setting": "", "metric": "corloc", "value": "50.0", EVALUATION: "layer=key",
}  # fmt: skip


@pytest.fixture
def voc(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))
    images = {f"00000{i}": ((96, 64), [voc_object("dog", (1, 1, 96, 64 - i))]) for i in range(4)}
    write_voc(tmp_path, "2007", images, {"trainval": sorted(images)})
    monkeypatch.setattr(Voc2007, "official_counts", {"trainval": len(images)})
    return tmp_path


@pytest.mark.parametrize(("layer", "stands"), [("key", True), ("last", False)])
def test_measured_keys_stand_beside_the_published_ones(voc, layer, stands):
    asked = {"preset": "lost", "layer": layer, "name": "random", "data_root": voc, "results": voc / "results"}
    [record] = evaluate("random:test_vit", "discovery", "voc2007", **asked).records
    assert record["dataset"]["images"] == 4
    board = against([record], "mine:README", published=numbers(voc / "mine.csv", LOST, columns=(*COLUMNS, EVALUATION)))
    [cell] = board.comparison[board.comparison.in_paper.astype(bool)].to_dict("records")
    found, said = cell["measured"], "measured on layer last; the paper's number is of layer key" in cell["footnotes"]
    assert (found == pytest.approx(record["scores"][-1]["value"])) if stands else (found is None or found != found)
    assert said != stands
