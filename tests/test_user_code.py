"""The user's own code: an edit of what is run is another number's code, and nothing else is."""

from __future__ import annotations

import importlib
import importlib.metadata
import pickle
import shutil
import subprocess
import sys

import pytest

from densebench import catalog
from densebench.backbones.loading import load_backbone
from densebench.datasets import load_dataset
from densebench.evals.incontext import InContext
from densebench.user_code import file_code, folder_code, import_file, plugin_code

FILES = {
    "mine.py": "import sibling\nfrom package.inner import deep\n\ndef value():\n    import late\n    return sibling.VALUE\n",
    "sibling.py": "VALUE = 1\n",
    "late.py": "VALUE = 1\n",
    "package/__init__.py": "",
    "package/inner/__init__.py": "from ..other import VALUE\n",
    "package/inner/deep.py": "",
    "package/other.py": "VALUE = 1\n",
    "unrelated.py": "VALUE = 1\n",
}


@pytest.fixture(autouse=True)
def afresh(tmp_path, monkeypatch):
    """Modules of one test are not those of the next."""
    known = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    yield
    for name in set(sys.modules) - known:
        del sys.modules[name]


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, FILES)
    return tmp_path


def write(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def imported(path):
    return import_file(path, f"tried_{path.stem}")


@pytest.mark.parametrize("name", [name for name in FILES if name != "unrelated.py"])
def test_an_edit_of_what_a_file_imports_is_seen(folder, name):
    imported(folder / "mine.py")
    before = file_code(folder / "mine.py")
    (folder / name).write_text(FILES[name] + "# edited\n")
    imported(folder / "mine.py")
    assert file_code(folder / "mine.py") != before


def test_what_a_file_does_not_import_plays_no_part(folder):
    imported(folder / "mine.py")
    before = file_code(folder / "mine.py")
    (folder / "unrelated.py").write_text("VALUE = 2\n")
    (folder / "__pycache__").mkdir(exist_ok=True)
    (folder / "__pycache__" / "sibling.cpython-311.pyc").write_bytes(b"")
    imported(folder / "mine.py")
    assert file_code(folder / "mine.py") == before


def test_the_place_plays_no_part(folder, tmp_path, monkeypatch):
    before = file_code(folder / "mine.py")
    for name in FILES:
        (tmp_path / "moved" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(folder / name, tmp_path / "moved" / name)
    monkeypatch.syspath_prepend(tmp_path / "moved")
    assert file_code(tmp_path / "moved" / "mine.py") == before


def test_an_edited_sibling_is_run_as_it_is_now(folder):
    assert imported(folder / "mine.py").value() == 1
    (folder / "sibling.py").write_text("VALUE = 2\n")  # of the same length, within the same second
    assert imported(folder / "mine.py").value() == 2


def test_a_module_between_two_files_is_run_again_too(folder):
    write(folder, {"mine.py": "import between\nVALUE = between.VALUE\n", "between.py": "from sibling import VALUE\n"})
    assert imported(folder / "mine.py").VALUE == 1
    (folder / "sibling.py").write_text("VALUE = 2\n")
    assert imported(folder / "mine.py").VALUE == 2


def test_an_unedited_sibling_stays_one_module(folder):
    write(folder, {"other.py": "import sibling\n"})
    assert imported(folder / "mine.py").sibling is imported(folder / "other.py").sibling


def test_a_sibling_that_somebody_else_imported_before_is_run_as_it_is_now(folder):
    importlib.import_module("sibling")
    (folder / "sibling.py").write_text("VALUE = 3\n")
    assert imported(folder / "mine.py").value() == 3


def test_a_sibling_counts_although_another_file_imported_it_first(folder):
    alone = file_code(folder / "mine.py")
    write(folder, {"other.py": "import sibling, package.inner\n"})
    imported(folder / "other.py")
    imported(folder / "mine.py")
    assert file_code(folder / "mine.py") == alone


def test_equal_names_in_two_folders_are_two_modules(tmp_path):
    for number in (1, 2):
        folder = tmp_path / str(number)
        own = f"import sys\nsys.path.insert(0, {str(folder)!r})\nimport sibling\n"
        write(folder, {"mine.py": own, "sibling.py": f"VALUE = {number}\n"})
        assert number == imported(folder / "mine.py").sibling.VALUE


def test_a_name_that_is_put_together_counts(folder):
    lines = ["import importlib", 'importlib.import_module("sib" + "ling")']
    write(folder, {"mine.py": "\n".join(lines)})
    imported(folder / "mine.py")
    before = file_code(folder / "mine.py")
    (folder / "sibling.py").write_text("VALUE = 2\n")
    imported(folder / "mine.py")
    assert file_code(folder / "mine.py") != before


def test_a_sibling_that_is_no_python_breaks_nothing(folder):
    (folder / "late.py").write_bytes(b"\x00(")
    before = file_code(folder / "mine.py")
    (folder / "late.py").write_bytes(b"\x00((")
    assert file_code(folder / "mine.py") != before


def test_a_folder_is_its_python_files(folder):
    before = folder_code(folder)
    write(folder, {"weights.bin": "", ".venv/site.py": "", "site-packages/a.py": "", "__pycache__/a.pyc": ""})
    assert folder_code(folder) == before
    write(folder, {"package/new.py": ""})
    assert folder_code(folder) != before


def test_a_plugin_is_its_version_and_its_package(folder):
    def installed(version, text):
        importlib.invalidate_caches()
        sys.modules.pop("package", None)
        write(folder, {"package/other.py": text, "a.dist-info/METADATA": f"Name: a\nVersion: {version}\n"})
        write(folder, {"a.dist-info/entry_points.txt": "[densebench.tried]\nmine = package.inner:Mine\n"})
        plugin_code.cache_clear()
        [point] = importlib.metadata.entry_points(group="densebench.tried")
        return plugin_code(point)

    first = installed("1.0", "VALUE = 1\n")
    assert installed("1.0", "VALUE = 1\n") == first
    assert len({first, installed("1.1", "VALUE = 1\n"), installed("1.0", "VALUE = 2\n")}) == 3


PLUGINS = {
    "labels.py": "from densebench.datasets.scenes import Scenes\n\nclass Mine(Scenes):\n    pass\n\nMine.name = 'mine'\n",
    "models.py": "from densebench.backbones.loading import load_backbone\n\ndef make(_):\n    return load_backbone('pixels:8')\n",
    "plugins.dist-info/METADATA": "Name: plugins\nVersion: 1.0\n",
    "plugins.dist-info/entry_points.txt": "[densebench.datasets]\nmine = labels\n[densebench.backbones]\nmine = models:make\n",
}


def test_what_an_installed_plugin_gives_carries_its_code(tmp_path):
    write(tmp_path, PLUGINS)
    codes = {point.group: plugin_code(point) for point in importlib.metadata.entry_points(name="mine")}
    backbone = load_backbone("mine:8").identity()
    assert (backbone["kind"], backbone["code"]) == ("plugin:mine", codes["densebench.backbones"])
    assert load_dataset("mine").code == codes["densebench.datasets"] != backbone["code"]


def test_data_sets_of_two_files_with_one_name_stay_two_in_other_processes(tmp_path):
    text = "from densebench.datasets.scenes import Scenes\n\nclass Mine(Scenes):\n    number = {}\n"
    write(tmp_path, {f"{number}/data.py": text.format(number) for number in (1, 2)})
    opened = [load_dataset(f"{tmp_path}/{number}/data.py") for number in (1, 2)]
    assert [pickle.loads(pickle.dumps(dataset)).number for dataset in opened] == [1, 2]


PROTOCOL = f"""from {InContext.__module__} import InContext

class Mine(InContext):
    presets = {{"p": {{}}}}
"""


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("mine.py", {"mine.py": PROTOCOL}),
        pytest.param(
            "mine/",
            {"mine/__init__.py": "from .protocol import Mine\n", "mine/protocol.py": PROTOCOL},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_protocols_of_a_file_or_folder_reach_worker_processes(name, files, tmp_path):
    """Loaders hand options to their workers, which have imported neither."""
    write(tmp_path, files)
    options = catalog.load("protocols", f"{tmp_path}/{name}")(image_size=96)
    text = "import pickle, sys; print(pickle.loads(bytes.fromhex(sys.argv[1])).image_size)"
    command = [sys.executable, "-c", text, pickle.dumps(options).hex()]
    assert subprocess.run(command, check=True, capture_output=True, text=True, cwd="/").stdout == "96\n"


def test_what_is_built_in_has_no_code():
    point = importlib.metadata.EntryPoint("scenes", "densebench.datasets.scenes", "densebench.datasets")
    assert plugin_code(point) == ""
