"""Files of the user's own: what is wrong in them is one line that names file, line and error, with status 2."""

from __future__ import annotations

import numpy as np
import pytest
from command_line import call
from PIL import Image

from densebench import catalog
from densebench.backbones.loading import load_backbone
from densebench.datasets import load_dataset
from densebench.errors import UserError

TRUNK = """
import sys
from torch import nn

class Mine(nn.Module):
    def forward(self, images):
        {forward}

def load():
    {load}
    return Mine()
"""
GOOD = "return nn.functional.avg_pool2d(images, 16)"
UNREADABLE = {
    "syntax": (b"def load(:\n    pass\n", "SyntaxError"),
    "latin-1": ("name = 'Zürich'\n".encode("latin-1"), "SyntaxError"),
    "nul": (b"a = 1\0\n", "null bytes"),
    "deep": (b"a = " + b"(" * 5000 + b")" * 5000 + b"\n", "mine.py"),
}


@pytest.fixture
def mine(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def write(content):
        path = tmp_path / "mine.py"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def one_line(error):
    assert "\n" not in str(error.value) and "mine.py" in str(error.value)
    return str(error.value)


READERS = {
    "backbone": lambda: load_backbone("./mine.py"),
    "data set": lambda: load_dataset("./mine.py"),
    "protocol": lambda: catalog.find("protocols", "./mine.py"),
    "method": lambda: catalog.load("methods", "./mine.py"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_python_is_one_line(mine, kind, reader):
    content, message = UNREADABLE[kind]
    mine(content)
    with pytest.raises(UserError, match=message) as caught:
        READERS[reader]()
    one_line(caught)


@pytest.mark.parametrize("reader", ["backbone", "data set"])
@pytest.mark.parametrize(
    ("line", "message"), [("sys.exit()", r"line 2, fails on import: calls sys\.exit"), ("1 / 0", "ZeroDivision")]
)
def test_what_stops_or_fails_on_import_is_one_line(mine, reader, line, message):
    mine(f"import sys\n{line}\n")
    with pytest.raises(UserError, match=message) as caught:
        READERS[reader]()
    one_line(caught)


PROTOCOL = """
from dataclasses import dataclass
from densebench.evals.incontext import InContext
from densebench.options import setting

@dataclass(frozen=True)
class Zürich(InContext):
    presets = {"p": {}}
    a: int = setting(OPTION)
"""


def test_a_file_of_another_encoding_that_says_so_is_read(mine):
    mine(f"# -*- coding: latin-1 -*-{PROTOCOL.replace('OPTION', '1, chr(97)')}".encode("latin-1"))
    assert catalog.find("protocols", "./mine.py").class_name == "Zürich"


def test_an_option_that_cannot_be_made_is_one_line(mine):
    mine(PROTOCOL.replace("OPTION", "*WHAT"))
    with pytest.raises(UserError, match="line 9, fails on import: NameError") as caught:
        catalog.find("protocols", "./mine.py")
    one_line(caught)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"load": "raise KeyError('weights')"}, r"line 10, fails in load\(\): KeyError: 'weights'"),
        ({"load": "sys.exit()"}, r"line 10, fails in load\(\): calls sys\.exit\(None\)"),
        ({"load": "raise ValueError('a\\nb')"}, r"ValueError: a b"),
        ({"load": "return None"}, r"returns a NoneType; it must return a torch\.nn\.Module"),
        ({"forward": "raise RuntimeError('no')"}, r"line 7, fails on an image of noise: RuntimeError: no"),
        ({"forward": "sys.exit(3)"}, r"line 7, fails on an image of noise: calls sys\.exit\(3\)"),
        ({"forward": "return images.mean((2, 3))"}, r"gives for two images of 64 x 64 px: \[2, 3\], of 128 x 128 px"),
    ],
)
def test_what_load_and_the_first_forward_do_wrong_is_one_line(mine, given, message):
    mine(TRUNK.format(**{"load": "pass", "forward": GOOD, **given}))
    with pytest.raises(UserError, match=message) as caught:
        load_backbone("./mine.py")
    if "for two images" not in message:
        one_line(caught)


@pytest.mark.parametrize("error", ["KeyboardInterrupt", "MemoryError", "torch.cuda.OutOfMemoryError"])
def test_ctrl_c_and_a_lack_of_memory_keep_their_names(mine, error):
    mine(TRUNK.format(load=f"import torch; raise {error}('x')", forward=GOOD))
    with pytest.raises((KeyboardInterrupt, MemoryError, RuntimeError)) as caught:
        load_backbone("./mine.py")
    assert type(caught.value).__name__ == error.rpartition(".")[2]


def test_an_error_that_speaks_to_the_user_stays_as_it_is(mine):
    mine(TRUNK.format(load="from densebench.errors import UserError; raise UserError('give more')", forward=GOOD))
    with pytest.raises(UserError, match=r"^give more$"):
        load_backbone("./mine.py")


def test_a_hub_entry_that_exits_is_one_line(mine, tmp_path):
    (tmp_path / "hubconf.py").write_text("import sys\ndef entry(**options):\n    sys.exit()\n")
    with pytest.raises(UserError, match=r"hub:.*:entry cannot be loaded \(SystemExit"):
        load_backbone(f"hub:{tmp_path}:entry")


@pytest.mark.parametrize("content", ["DATASET = 5\n", "DATASET = lambda root: 5\n", "DATASET = lambda root: 1 / 0\n"])
def test_what_is_no_data_set_is_one_line(mine, content):
    mine(content)
    with pytest.raises(UserError) as caught:
        load_dataset("./mine.py")
    one_line(caught)


def run(tmp_path):
    """Evaluate the file as a backbone on one black image."""
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            folder = tmp_path / "data" / kind / split
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((32, 32), 0, np.uint8)).save(folder / "a.png")
    (tmp_path / "data" / "classes.toml").write_text('classes = ["a"]\n')
    more = "--protocol incontext --backbone ./mine.py --device cpu --image-size 32 --neighbours 1 --workers 0"
    return call("eval", "--dataset", f"folder:{tmp_path / 'data'}", *more.split(), folder=tmp_path)


@pytest.mark.parametrize("line", ["raise RuntimeError('no')", "sys.exit()", "sys.exit(0)"])
def test_a_forward_that_fails_later_is_status_2_and_one_line(mine, tmp_path, line):
    forward = f"if images.shape[2] == 32: {line}\n        {GOOD}"  # the larger ones, by which it is measured, pass
    path = mine(TRUNK.format(load="pass", forward=forward))
    assert run(tmp_path).error.startswith(f"densebench: {path}, line 7, fails: ")


def test_a_load_that_exits_is_status_2(mine, tmp_path):
    mine(TRUNK.format(load="sys.exit()", forward=GOOD))
    assert "mine.py, line 10, fails in load(): calls sys.exit" in run(tmp_path).error


def test_an_error_of_our_own_is_not_blamed_on_the_user(mine, monkeypatch, tmp_path):
    mine(TRUNK.format(load="pass", forward=GOOD))
    monkeypatch.setattr("densebench.features.extract.Store", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(tmp_path)
