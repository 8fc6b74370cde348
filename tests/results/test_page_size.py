"""A report of many backbones in many groups stays small enough to be sent and opened."""

import pytest
from many_records import many

from densebench.results.report import report

pytestmark = pytest.mark.slow


def test_forty_backbones_in_twelve_groups_are_under_five_megabytes(tmp_path):
    many(tmp_path)
    text = report(tmp_path, beside=tmp_path / "page.html")
    assert text.count("<article") == 12 + 4  # and a profile for each data set
    assert len(text.encode()) < 5e6
