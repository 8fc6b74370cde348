"""Files of published numbers: what is wrong in one is a line, plug-ins ship theirs, and references name their tables."""

from __future__ import annotations

import pytest
from published_records import ROW, numbers, record

from densebench.errors import UserError
from densebench.results.against import against
from densebench.results.published import load_published
from densebench.results.published.number_files import COLUMNS
from densebench.results.published.references import of_reference, references


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot read .*mine.csv: No such file"),
        ("", "line 1: there is no column paper, table, .*; the columns are paper, "),
        ("a,b\n", "line 1: unknown column 'a'"),
        (",".join(COLUMNS).replace("metric", "metrik"), "line 1: unknown column 'metrik': did you mean 'metric'"),
        (",".join((*COLUMNS, "note")), "line 1: the column note stands there twice"),
        (",".join(COLUMNS), "holds no number"),
        (",".join(COLUMNS) + "\n\na,b\n", "line 3: 2 cells for 13 columns"),
        ("ä".encode("latin-1"), "is no CSV file in UTF-8"),
    ],
)
def test_a_file_that_is_none(tmp_path, text, message):
    file = tmp_path / "mine.csv"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message):
        load_published(file)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"value": "47,9"}, "line 3: the value '47,9' is no number; write it as the paper prints it"),
        ({"value": ""}, "line 3: the value '' is no number"),
        ({"value": "nan"}, "line 3: the value 'nan' is no number"),
        ({"value": "1", "dataset": ""}, "line 3: dataset must not be empty"),
        ({"value": "1"}, r"line 3: gives the number of line 2 again \(DINO ViT-S/16 on voc\)"),
        ({"value": "1", "table": "Table 8"}, "gives numbers of neco Table 8, which is there already"),
    ],
)
def test_a_row_that_is_wrong(tmp_path, row, message):
    with pytest.raises(UserError, match=message):
        load_published(numbers(tmp_path / "mine.csv", {"value": "47.9"}, row))


def test_a_file_adds_its_numbers_once(tmp_path):
    file = numbers(tmp_path / "mine.csv", {"paper": "mine", "value": "47.9"})
    shipped, both = load_published(), load_published(file, file)
    assert len(both) == len(shipped) + 1
    assert both.iloc[-1][[*ROW, "value", "note", "evaluation"]].tolist() == ["mine", *list(ROW.values())[1:], "47.9", "", ""]


def plug_in(folder, monkeypatch, point, *rows):
    """An installed package that ships published numbers, and fails where it is imported."""
    (folder / "other_paper").mkdir()
    (folder / "other_paper" / "__init__.py").write_text("raise RuntimeError('this package was imported')\n")
    numbers(folder / "other_paper" / "published.csv", *rows)
    (folder / "plug-1.0.dist-info").mkdir()
    (folder / "plug-1.0.dist-info" / "entry_points.txt").write_text(f"[densebench.published]\n{point}\n")
    (folder / "plug-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: plug\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(folder))


@pytest.mark.parametrize("point", ["ours = other_paper", "ours = other_paper:published.csv"])
def test_a_plug_in_ships_numbers_and_is_not_imported(tmp_path, monkeypatch, point):
    plug_in(tmp_path, monkeypatch, point, {"paper": "other", "value": "47.9"})
    table = against([record()], "other:99").tables[0]
    assert table.cells["voc 1/1"][0].startswith("47.9 | 48.0 | +0.1")


@pytest.mark.parametrize(
    ("point", "row", "message"),
    [
        ("ours = other_paper:numbers.csv", {"value": "1"}, "the package other_paper holds no file numbers.csv"),
        ("ours = gone_paper", {"value": "1"}, "the package gone_paper holds no file published.csv"),
        ("ours = other_paper", {"value": "x"}, "line 2: the value 'x' is no number"),
        ("ours = other_paper", {"value": "1", "table": "Table 8"}, "neco Table 8, which is there already"),
    ],
)
def test_a_broken_plug_in_hides_no_other_numbers(tmp_path, monkeypatch, capsys, point, row, message):
    shipped = load_published()
    plug_in(tmp_path, monkeypatch, point, row)
    assert load_published().equals(shipped)
    assert f"the published numbers of the plug-in ours are left out: {tmp_path if 'line' in message else ''}" in (
        err := capsys.readouterr().err
    )
    assert message in err


def tables(reference):
    return list(dict.fromkeys(of_reference(load_published(), reference).table))


@pytest.mark.parametrize(
    ("reference", "names"),
    [
        ("neco:8", ["Table 8"]),
        ("NeCo:table 8", ["Table 8"]),
        ("neco:9", ["Table 9a", "Table 9b", "Table 9c", "Table 9d"]),
        ("neco:9b", ["Table 9b"]),
        ("neco:1", ["Table 1b"]),
        ("dip:readme", ["README"]),
        ("open-hummingbird", ["README"]),
        ("croc", [f"Table {number}" for number in range(1, 7)]),
    ],
)
def test_a_reference_names_a_table_or_several(reference, names):
    assert tables(reference) == names


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("nceo:8", "unknown paper 'nceo': did you mean 'neco'.*write PAPER:TABLE"),
        ("neco:88", "unknown table 'neco:88': did you mean 'neco:8'"),
        ("neco:z", "there are neco:1b, neco:2, .*neco:10"),
        ("8", "unknown paper '8'.*there are cribo, croc"),
        ("", "no published table is named"),
        (8, "give a paper and its table"),
    ],
)
def test_a_reference_that_is_unknown(reference, message):
    with pytest.raises(UserError, match=message):
        tables(reference)


def test_every_table_has_a_reference_of_its_own():
    numbers_of_all = load_published()
    found = [list(dict.fromkeys(of_reference(numbers_of_all, name).table)) for name in references(numbers_of_all)]
    assert all(len(each) == 1 for each in found)
    assert len(found) == len(numbers_of_all[["paper", "table"]].drop_duplicates())
