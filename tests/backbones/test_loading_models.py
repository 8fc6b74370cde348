"""`load_backbone` takes specs, paths, modules and backbones, and refuses what does not go with them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from recognised_models import Convolution, of_timm

from densebench.backbones import without_labels
from densebench.backbones.checkpoint import save_checkpoint
from densebench.backbones.loading import load_backbone
from densebench.errors import UserError

FILE = """
import torch

def load():
    torch.manual_seed(0)
    return torch.nn.Conv2d(3, 4, 8, 8)
"""


def test_a_path_and_its_text_are_one_backbone(tmp_path):
    (tmp_path / "mine.py").write_text(FILE)
    assert load_backbone(tmp_path / "mine.py").identity() == load_backbone(str(tmp_path / "mine.py")).identity()


def test_the_folder_of_a_checkpoint_goes_by_its_path(tmp_path):
    vit = load_backbone("random:test_vit")
    save_checkpoint(tmp_path / "last", vit.trunk.model, "test_vit")
    spec = load_backbone(f"ckpt:{tmp_path / 'last'}").identity()
    assert load_backbone(tmp_path / "last").identity() == load_backbone(f"{tmp_path / 'last'}").identity() == spec


def test_weights_may_be_a_text(tmp_path):
    model = of_timm("test_vit")()
    torch.save(model.state_dict(), tmp_path / "vit.pth")
    path = tmp_path / "vit.pth"
    assert load_backbone("timm:test_vit", weights=str(path)).digest == load_backbone("timm:test_vit", weights=path).digest


def test_a_backbone_is_returned_as_it_is_and_may_be_named():
    backbone = load_backbone("pixels:8")
    assert load_backbone(backbone) is backbone
    named = load_backbone(backbone, name="mine")
    assert (named.identity()["name"], "name" in backbone.identity()) == ("mine", False)
    assert without_labels(named.identity()) == without_labels(backbone.identity())
    image = torch.randn(1, 3, 16, 16)
    assert torch.equal(named(image), backbone(image))


def test_a_spec_may_be_named():
    assert load_backbone("pixels:8", name="pixels").identity()["name"] == "pixels"


@pytest.mark.parametrize(
    ("model", "more", "message"),
    [
        (Convolution, {"weights": "x.pth"}, "weights=x.pth goes with a spec timm:NAME; load them into the module"),
        (Convolution, {"role": "student"}, "role=student goes with specs, not with the Convolution"),
        (Convolution, {"seed": 3}, "seed=3 goes with specs"),
        (Convolution, {"layer": "3"}, "go with specs and timm's models, not with Convolution; features="),
        (Convolution, {"pos_embed": "plain"}, "go with specs and timm's models"),
        (Convolution, {"name": "a\nb"}, "line break"),
        (lambda: "pixels:8", {"features": len}, "features=... goes with a module, not with the spec pixels:8"),
        (lambda: "pixels:8", {"mean": (0.5, 0.5, 0.5)}, "mean=... goes with a module"),
        (lambda: load_backbone("pixels:8"), {"layer": "3"}, "layer=3 goes .* pixels:8, which is a backbone already"),
        (lambda: load_backbone("pixels:8"), {"std": (1, 1, 1)}, "a backbone already"),
        (lambda: Path("weights.pth"), {}, "holds weights; name the architecture"),
        (of_timm("test_vit"), {"layer": "9"}, "numbered 0 to"),
    ],
)
def test_options_that_do_not_go_with_a_model_are_refused(model, more, message):
    with pytest.raises(UserError, match=message) as caught:
        load_backbone(model(), **more)
    assert "\n" not in str(caught.value)
