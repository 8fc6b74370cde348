"""What a table file says about published numbers: which rows a backbone's are, and which nothing in the file measures."""

from __future__ import annotations

import json

import command_line
import pytest

from densebench.errors import UserError
from densebench.tables.table_file import read_table

HEAD = """
[[pretrain]]
name = "CrIBo K={objects}"
method = "cribo"
data = ["scenes"]
sweep.objects = [4, 8]
row = [{method = "CrIBo", setting = "K={objects};L_ci=yes"}, {setting = "S=25k"}]
"""


def table(tmp_path, text):
    (tmp_path / "mine.toml").write_text(HEAD + text)
    return read_table(tmp_path / "mine.toml")


def test_a_backbone_may_have_several_rows_and_swept_values_are_filled_into_each(tmp_path):
    rows = table(tmp_path, "").rows
    for objects in (4, 8):
        assert rows[f"CrIBo K={objects}"] == [{"method": "CrIBo", "setting": f"K={objects};L_ci=yes"}, {"setting": "S=25k"}]


def test_missing_numbers_are_read_with_their_reason(tmp_path):
    (entry,) = table(tmp_path, '[[missing]]\nrow = {method = "LOCA", pretrain_epochs = 600}\nwhy = "it is in JAX"\n').missing
    assert (entry.row, entry.why) == ({"method": "LOCA", "pretrain_epochs": "600"}, "it is in JAX")


def test_a_dry_run_says_what_is_not_measured_and_why(tmp_path):
    entry = '[[missing]]\nrow = [{method = "LOCA", backbone = "ViT-B/16"}, {method = "TimeT"}]\nwhy = "It is in JAX."\n'
    table(tmp_path, entry)
    said = command_line.call("run", "mine.toml", "--dry-run", folder=tmp_path).err
    assert "nothing here measures LOCA, ViT-B/16 or TimeT: It is in JAX." in said
    found = json.loads(command_line.call("run", "mine.toml", "--dry-run", "--json", folder=tmp_path).out)
    assert [each["why"] for each in found["not_measured"]] == ["It is in JAX."]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('row = {method = "LOCA"}', r"\[\[missing\]\] 1: why is missing"),
        ('why = "no"', r"\[\[missing\]\] 1: row is missing"),
        ('row = {methods = "LOCA"}\nwhy = "no"', "did you mean 'method'"),
        ('row = []\nwhy = "no"', "it takes columns of published.csv"),
        ('row = {method = ["LOCA"]}\nwhy = "no"', "it takes columns of published.csv"),
        ('row = {method = "LOCA"}\nwhy = ""', "why = : it takes"),
    ],
)
def test_missing_numbers_that_are_written_wrongly(text, said, tmp_path):
    with pytest.raises(UserError, match=said):
        table(tmp_path, f"[[missing]]\n{text}\n")


def test_a_table_of_missing_numbers_alone_is_no_table(tmp_path):
    (tmp_path / "mine.toml").write_text('[[missing]]\nrow = {method = "LOCA"}\nwhy = "no"\n')
    with pytest.raises(UserError, match="it is no table"):
        read_table(tmp_path / "mine.toml")
