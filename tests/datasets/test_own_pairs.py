"""The example of a data set of pairs of one's own reads what it says that it reads."""

from __future__ import annotations

import json
from pathlib import Path

from dataset_files import save_image, save_text

from densebench.conformance.datasets import check_dataset

TOOLS = Path(__file__).resolve().parents[2] / "docs" / "examples" / "tools.py"


def test_the_example_passes_its_checks(tmp_path):
    for name in ("a", "b"):
        save_image(tmp_path / "tools" / f"{name}.jpg", 20, 30)
    rows = [["a.jpg", "b.jpg", "saw", [[1, 2], [3, 4]], [[5, 6], [7, 8]]]]
    save_text(tmp_path / "tools" / "pairs.json", json.dumps(rows))
    checks = {check.name: check for check in check_dataset(str(TOOLS), tmp_path)}
    assert [name for name, check in checks.items() if check.passed is False] == []
    assert checks["labels"].message == "1 pairs with 2 keypoints"
