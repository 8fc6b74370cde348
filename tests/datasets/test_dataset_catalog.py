"""Data sets by name: what is listed, what is loaded, and what one of the user's own must be."""

from __future__ import annotations

import importlib
import json
import pickle
import subprocess
import sys

import pytest
from dataset_files import GENERATED, SHIPPED, save_text

import densebench.datasets
from densebench.datasets import load_dataset
from densebench.datasets.catalog import built_in, present, titles, titles_of
from densebench.errors import UserError


@pytest.mark.skipif(titles().keys() > SHIPPED.keys(), reason="a file beside the shipped ones may have to be imported")
def test_listing_imports_nothing_heavy():
    code = (
        "import sys, densebench.datasets.catalog as c; names = c.titles(); "
        "print(' '.join(names)); print(sorted({'torch', 'numpy', 'PIL', 'timm'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names, heavy = result.stdout.splitlines()
    assert set(names.split()) >= SHIPPED.keys() and heavy == "[]"


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_data_set_loads(name, tmp_path):
    dataset = load_dataset(name, tmp_path)
    assert dataset.name == name and dataset.title == titles()[name] and dataset.root == tmp_path
    assert {dataset.train_split, dataset.val_split} <= set(dataset.splits)
    assert len(set(dataset.classes)) == len(dataset.classes) == len(set(dataset.palette())) == SHIPPED[name]
    assert dataset.mapping and dataset.licence and dataset.ignore_index == 255


def test_an_unknown_name_is_an_error_with_a_hint(tmp_path):
    with pytest.raises(UserError, match="unknown data set 'coco-thing': did you mean 'coco-things'"):
        load_dataset("coco-thing")
    with pytest.raises(UserError, match=r"no file nowhere.py"):
        load_dataset("nowhere.py")


def test_those_are_present_whose_images_are_there(voc, tmp_path):
    assert SHIPPED.keys() & set(present(tmp_path)) == {*GENERATED, "voc"}
    assert SHIPPED.keys() & set(present(tmp_path / "elsewhere")) == GENERATED


# Files that are dropped in, and plug-ins

HEAD = "from dataclasses import dataclass\nfrom densebench.datasets.scenes import Scenes\nNAME = 'dropped'\n"


@pytest.fixture
def drop(tmp_path, monkeypatch):
    """Drop a file into the folder of data sets, as far as Python can tell."""
    folder = tmp_path / "dropped"
    folder.mkdir()
    monkeypatch.setattr(densebench.datasets, "__path__", [*densebench.datasets.__path__, str(folder)])

    def dropped(name, text):
        (folder / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        built_in.cache_clear()

    yield dropped
    built_in.cache_clear()
    for name in [name for name in sys.modules if name.startswith("densebench.datasets.dropped_")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("literal", "from densebench.datasets.dataset import Dataset\nclass Mine(Dataset):\n    name: str = 'dropped'\n"),
        ("constant", HEAD + "@dataclass(frozen=True, kw_only=True)\nclass Mine(Scenes):\n    name: str = NAME\n"),
        ("far", HEAD + "class Base(Scenes):\n    pass\nclass Mine(Base):\n    name: str = 'dropped'\n"),
        ("alias", "import densebench.datasets.scenes as s\nD = s.Scenes\nclass Mine(D):\n    name = 'dropped'\n"),
    ],
)
def test_a_dropped_in_class_that_derives_from_dataset_is_a_name(drop, name, text):
    drop(f"dropped_{name}", text)
    assert "dropped" in titles()
    assert type(load_dataset("dropped")).__name__ == "Mine"


def test_a_class_that_is_no_data_set_is_no_name(drop):
    drop("dropped_other", "class Base:\n    pass\nclass Mine(Base):\n    name: str = 'dropped'\n")
    assert "dropped" not in titles()


@pytest.mark.parametrize(("name", "text"), [("syntax", "class ("), ("import", HEAD + "1 / 0\nclass Mine(D):\n    name = NAME\n")])
def test_a_broken_file_is_one_line_and_hides_nobody(drop, capsys, name, text):
    drop(f"dropped_{name}", text)
    assert titles().keys() >= SHIPPED.keys()
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dropped_")]
    assert line.startswith(f"dropped_{name}.py is left out: ")


def test_a_broken_plugin_is_one_line_and_hides_nobody(tmp_path, monkeypatch, capsys):
    write = {"broken_labels.py": "1 / 0\n", "broken.dist-info/METADATA": "Name: broken\nVersion: 1.0\n"}
    write["broken.dist-info/entry_points.txt"] = "[densebench.datasets]\nmine = broken_labels\n"
    for name, text in write.items():
        save_text(tmp_path / name, text)
    monkeypatch.syspath_prepend(tmp_path)
    assert "mine" in titles() and "scenes" in titles_of("label maps")
    [line] = [line for line in capsys.readouterr().err.splitlines() if "data set mine " in line]
    assert line.startswith("the data set mine is left out: ") and "ZeroDivisionError" in line


def test_the_root_is_the_argument_or_the_variable_or_data(monkeypatch, tmp_path):
    monkeypatch.delenv("DENSEBENCH_DATA", raising=False)
    assert str(load_dataset("voc").root) == "data"
    monkeypatch.setenv("DENSEBENCH_DATA", str(tmp_path))
    assert load_dataset("voc").root == tmp_path
    assert load_dataset("voc", tmp_path / "x").root == tmp_path / "x"


MINE = """
from dataclasses import dataclass
from densebench.datasets.dataset import Dataset, Item

@dataclass(frozen=True, kw_only=True)
class Mine(Dataset):
    name: str = "mine"
    classes: tuple[str, ...] = ("x",)

    def list_items(self, split):
        return [Item(split, None, None)]
"""


@pytest.mark.parametrize("text", [MINE, MINE + "DATASET = Mine\n"])
def test_a_file_is_a_data_set(text, tmp_path):
    save_text(tmp_path / "mine.py", text)
    dataset = load_dataset(str(tmp_path / "mine.py"), tmp_path)
    assert dataset.name == "mine" and [item.name for item in dataset.items("val")] == ["val"]


def test_a_data_set_of_a_file_passes_to_a_process_that_has_not_imported_it(tmp_path):
    save_text(tmp_path / "mine.py", MINE)
    dataset = load_dataset(str(tmp_path / "mine.py"), tmp_path)
    content = pickle.dumps(dataset)
    del sys.modules[type(dataset).__module__]
    copy = pickle.loads(content)
    assert type(copy) is not type(dataset) and (copy.name, copy.root) == ("mine", tmp_path)


def test_a_file_without_a_data_set_is_one_line(tmp_path):
    save_text(tmp_path / "empty.py", "x = 1\n")
    with pytest.raises(UserError, match="no class that derives from Dataset"):
        load_dataset(str(tmp_path / "empty.py"))


def test_pickling_leaves_digests_behind(voc):
    voc.digest("val", voc.items("val"))
    content = pickle.dumps(voc)
    assert pickle.loads(content) == voc
    assert len(content) == len(pickle.dumps(load_dataset("voc", voc.root)))


def test_the_data_commands(voc, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from densebench.cli.data import app

    monkeypatch.setenv("COLUMNS", "200")
    run = CliRunner().invoke
    listed = json.loads(run(app, ["ls", "--json", "--data-root", str(tmp_path)]).stdout)
    assert {row["name"] for row in listed if row["present"] == "present"} >= {"scenes", "voc"}
    assert {row["name"] for row in listed if row["present"] == "absent"} >= SHIPPED.keys() - GENERATED - {"voc", "voc2012"}
    assert next(row["present"] for row in listed if row["name"] == "voc2012") == "partly"  # one archive, not all of it here
    assert "Pascal VOC 2012" in run(app, ["ls"]).stdout
    result = run(app, ["verify", "voc", "--data-root", str(tmp_path)])
    assert result.exit_code == 1 and result.stdout.splitlines()[1] == "val: 1 of the official 1449 images"
    result = run(app, ["verify", "scenes"])
    assert (result.exit_code, result.stdout) == (0, "")
    result = run(app, ["get", "cityscapes", "--data-root", str(tmp_path)])
    assert result.exit_code == 0 and result.stdout.startswith("by hand: register")
    assert isinstance(run(app, ["verify", "vok"]).exception, UserError)
