"""Identity: what decides features or scores tells records and cached features apart, and what only names them does not."""

from __future__ import annotations

import shutil
import sys

import pytest
import torch
from safetensors.torch import save_file
from tiers import late

from densebench.backbones import without_labels
from densebench.backbones.loading import load_backbone
from densebench.datasets import load_dataset
from densebench.evaluation.run import evaluate
from densebench.features.extract import extract
from densebench.results.leaderboard import leaderboard
from densebench.user_code import import_file

GIVEN = {"fractions": (1,), "neighbours": (3,), "augment_epochs": 0, "image_size": 64, "device": "cpu", "workers": 0}
BACKBONE = """import torch
from part import FACTOR

class Means(torch.nn.Module):
    def forward(self, images):
        return FACTOR * torch.nn.functional.avg_pool2d(images, 8)

def load():
    return Means()
"""
HUB = BACKBONE.replace("forward(self, images)", "get_intermediate_layers(self, images, n)").replace("load()", "entry()")
HUB = HUB.replace("avg_pool2d(images, 8)", "avg_pool2d(images, 8).flatten(2).transpose(1, 2),").replace(
    "    def get", "    patch_size = 8\n    def get"
)
PROTOCOL = """from dataclasses import dataclass, replace
from densebench.evals.incontext.protocol import InContext
from densebench.evaluation.option_groups import FewShot
from part import FACTOR

@dataclass(frozen=True)
class Mine(InContext, FewShot):
    def run(self, backbone, dataset, run):
        for score in super().run(backbone, dataset, run):
            yield replace(score, value=round(score.value / FACTOR, 4), bootstrap=(), ci95=None)
"""
DATA = """from dataclasses import dataclass
from densebench.datasets.scenes import Scenes
from PIL import Image
from part import FACTOR

@dataclass(frozen=True, kw_only=True)
class Mine(Scenes):
    name: str = "mine"

    def image(self, item):
        return super().image(item).point(lambda value: value // FACTOR)
"""

FEW = """from dataclasses import dataclass
from densebench.datasets.scenes import Scenes

@dataclass(frozen=True, kw_only=True)
class Few(Scenes):
    name: str = "few"

    def list_items(self, split):
        return list(super().list_items(split))[:3]
"""


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    """A folder of the user's own code, from which it imports; modules of one test are not those of the next."""
    known = set(sys.modules)
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(tmp_path)
    files = {"mine.py": BACKBONE, "hubconf.py": HUB, "proto.py": PROTOCOL, "data.py": DATA, "part.py": "FACTOR = 1\n"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    yield
    for name in set(sys.modules) - known:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


def scored(folder, backbone="pixels:8", protocol="incontext", dataset="scenes", **given):
    asked = {"results": folder / "results", "limit": 2, **GIVEN, **given}
    [record] = evaluate(backbone, protocol, dataset, **asked).records
    return record


def records(folder):
    return len(list((folder / "results" / "records").glob("*.json")))


def edited(path, before, after):
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def test_patches_of_other_sizes_are_other_backbones(tmp_path):
    (tmp_path / "data.py").write_text(FEW)
    whole = {"dataset": f"{tmp_path}/data.py", "limit": None}  # tables show no runs with a limit
    alone = scored(tmp_path / "alone", "pixels:8", **whole)
    names = ("pixels:16", "pixels:8")
    found = [scored(tmp_path, name, **whole) for name in names]
    assert [record["backbone"]["spec"] for record in found] == list(names)
    assert found[1]["scores"] == alone["scores"] != found[0]["scores"]
    assert records(tmp_path) == 2
    [table] = leaderboard(tmp_path / "results").tables
    assert sorted(table.cells.backbone) == sorted(names)


CODE = {
    "a file": ({"backbone": "{}/mine.py"}, ("mine.py", "FACTOR * torch", "FACTOR + torch")),
    "what a file imports": ({"backbone": "{}/mine.py"}, ("part.py", "1", "0")),
    "a hub repository": ({"backbone": "hub:{}:entry"}, ("hubconf.py", "FACTOR * torch", "FACTOR + torch")),
    "what a hub repository imports": ({"backbone": "hub:{}:entry"}, ("part.py", "1", "0")),
    "a protocol": ({"protocol": "{}/proto.py"}, ("proto.py", "/ FACTOR", "/ 2 / FACTOR")),
    "what a protocol imports": ({"protocol": "{}/proto.py"}, ("part.py", "1", "2")),
    "a data set": ({"dataset": "{}/data.py"}, ("data.py", "// FACTOR", "// 3 // FACTOR")),
    "what a data set imports": ({"dataset": "{}/data.py"}, ("part.py", "1", "5")),
}


@pytest.mark.parametrize("name", late(CODE, "a file", "what a hub repository imports", "a protocol", "what a data set imports"))
def test_edited_code_is_scored_anew_and_unedited_code_is_not(tmp_path, name, capsys):
    given, (file, before, after) = CODE[name]
    given = {key: value.format(tmp_path) for key, value in given.items()}
    first = scored(tmp_path, **given)
    again = scored(tmp_path, **given)
    assert "holds all 1 points already" in capsys.readouterr().err
    assert again["id"] == first["id"]
    edited(tmp_path / file, before, after)
    second = scored(tmp_path, **given)
    assert records(tmp_path) == 2
    shutil.rmtree(tmp_path / "cache")
    fresh = scored(tmp_path, **given, rerun=True)
    assert fresh["id"] == second["id"] and fresh["scores"] == second["scores"] != first["scores"]


def test_features_of_unedited_code_are_taken_from_the_cache(tmp_path, monkeypatch):
    scored(tmp_path, f"{tmp_path}/mine.py", protocol=f"{tmp_path}/proto.py", dataset=f"{tmp_path}/data.py")
    shutil.rmtree(tmp_path / "results")
    monkeypatch.setattr("densebench.features.extract.autocast", None)  # computing any would fail
    assert scored(tmp_path, f"{tmp_path}/mine.py", protocol=f"{tmp_path}/proto.py", dataset=f"{tmp_path}/data.py")["scores"]


VIEW = """from densebench.features.views import View

class Mine(View):
    def image(self, image, digest):
        return FACTOR * super().image(image, digest)
"""


def test_features_of_a_view_of_the_users_own_follow_its_code(tmp_path):
    dataset, backbone = load_dataset("scenes"), load_backbone("pixels:8")
    items = dataset.items("val")[:1]
    found = []
    for factor in ("0", "1"):
        (tmp_path / "view.py").write_text(VIEW.replace("FACTOR", factor))
        view = import_file(tmp_path / "view.py", "tried_view").Mine(8, 32)
        found.append(extract(backbone, dataset, items, view)[items[0]])
    assert not torch.equal(*found)


def test_the_same_file_elsewhere_is_the_same_backbone(tmp_path, monkeypatch):
    before = load_backbone(f"{tmp_path}/mine.py").identity()
    (tmp_path / "moved").mkdir()
    for name in ("mine.py", "part.py"):
        shutil.move(tmp_path / name, tmp_path / "moved" / name)
    monkeypatch.syspath_prepend(tmp_path / "moved")
    after = load_backbone(f"{tmp_path}/moved/mine.py").identity()
    assert without_labels(after) == without_labels(before)
    assert after["spec"] != before["spec"]


def test_equal_weights_in_two_files_are_one_record(tmp_path, capsys):
    weights = load_backbone("random:test_vit").trunk.model.state_dict()
    for name in ("a", "b"):
        save_file(weights, tmp_path / f"{name}.safetensors")
    first, second = (scored(tmp_path, "timm:test_vit", weights=tmp_path / f"{name}.safetensors") for name in ("a", "b"))
    assert "holds all 1 points already" in capsys.readouterr().err
    assert first["id"] == second["id"] and second["backbone"]["spec"] == "timm:test_vit a.safetensors"


def test_other_statistics_are_another_backbone(tmp_path):
    found = []
    for mean in (0.5, 0.4):
        (tmp_path / "mine.py").write_text(BACKBONE.replace("    def forward", f"    mean = ({mean},) * 3\n    def forward"))
        found.append(without_labels(load_backbone(f"{tmp_path}/mine.py").identity()) | {"code": ""})
    assert found[0] != found[1]
