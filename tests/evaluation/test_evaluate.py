"""`evaluate` and `iter_evaluate`: what they take, what they refuse, and what one failing cell leaves of the others."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from command_line import call
from drawn_objects import Drawn
from tiers import late
from torch import nn

import densebench
from densebench.backbones.backbone import Backbone, BackboneInfo
from densebench.backbones.loading import load_backbone
from densebench.backbones.weights import weights_digest
from densebench.catalog import load
from densebench.datasets.scenes import Scenes
from densebench.errors import UserError
from densebench.evals.incontext import InContext
from densebench.evaluation.plan import planned
from densebench.evaluation.run import steps

FAST = {"fractions": (1, 2), "seeds": 1, "neighbours": (3,), "workers": 0}
SMALL = {"limit": 4, **FAST}
PLUG_IN = """from dataclasses import dataclass
from densebench.evals.incontext import InContext
from densebench.options import setting

@dataclass(frozen=True)
class Mine(InContext):
    presets = {"plain": {}}
    OPTION: int = setting(1, "an option", minimum=0)
"""

NET = """import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 16, 16, 16)
        self.dropout = nn.Dropout(0.5)

    def forward(self, images):
        return self.dropout(self.conv(images))

def load():
    return Net()
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Records and features of a test lie in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))


class Pooled(nn.Module):
    """Features that need no weights; after `calls` images the forward pass fails."""

    stride = 16

    def __init__(self, calls: int = 1_000_000, error: BaseException | None = None) -> None:
        super().__init__()
        self.calls, self.error = calls, error or RuntimeError("no more")

    def forward(self, images):
        self.calls -= len(images)
        if self.calls < 0:
            raise self.error
        return torch.nn.functional.avg_pool2d(images, 16)


def backbone(**given):
    """A backbone of pooled pixels."""
    model = Pooled(**given)
    return Backbone(model, BackboneInfo("pooled", "pooled", 3, 16), weights_digest(model))


def ids(folder="results"):
    return sorted(path.stem for path in Path(folder, "records").glob("*.json"))


def test_a_call_scores_at_once():
    densebench.evaluate("pixels:16", "incontext", "scenes", **SMALL)
    assert len(ids()) == 1


@pytest.mark.parametrize(
    "protocol",
    ["incontext", InContext(**FAST)],
    ids=["name", "object"],
)
def test_names_objects_and_the_command_line_make_one_record(tmp_path, protocol):
    words = ["--fractions", "1,2", "--seeds", "1", "--neighbours", "3", "--limit", "4", "--json"]
    done = call("eval", "--protocol", "incontext", "--backbone", "pixels:16", "--dataset", "scenes", *words, folder=tmp_path)
    options = SMALL if isinstance(protocol, str) else {"limit": 4}
    [record] = densebench.evaluate(load_backbone("pixels:16"), protocol, Scenes(root=tmp_path), **options).records
    assert record["id"] == json.loads(done.out)["id"] and ids() == [record["id"]]
    assert record["protocol"]["preset"] == "hummingbird"


@pytest.mark.slow
def test_a_configured_protocol_is_labelled_by_the_nearest_preset():
    protocol = replace(InContext(**InContext.presets["capi"]), temperature=0.5)
    [record] = densebench.evaluate("pixels:16", protocol, "scenes", dry_run=True).records
    assert record["protocol"]["preset"] == "capi"


def test_options_of_a_configured_protocol_are_checked():
    with pytest.raises(UserError, match="--neighbours 0: it must be at least 1"):
        densebench.evaluate("pixels:16", InContext(neighbours=(0,)), "scenes", dry_run=True)


def test_a_module_scores_as_the_file_that_makes_it():
    Path("net.py").write_text(NET)
    names = {}
    exec(NET, names)
    module = names["load"]().train()
    of_file, of_module = densebench.evaluate(["./net.py", module], "incontext", "scenes", **SMALL).records
    assert of_module["scores"] == of_file["scores"]
    assert module.training and module.conv.weight.requires_grad


@pytest.mark.parametrize("given", [{"preset": "capi"}, {"neighbours": (3,)}])
def test_a_configured_protocol_takes_no_options_besides(given):
    with pytest.raises(UserError, match=f"InContext.* is configured already, so {next(iter(given))} cannot be given too"):
        densebench.evaluate("pixels:16", InContext(), "scenes", **given)


@pytest.mark.parametrize("path", late(["./mine.py", Path("mine.py")], "./mine.py"), ids=["text", "path"])
def test_a_protocol_in_a_file_has_one_name(path):
    Path("mine.py").write_text(PLUG_IN.replace("OPTION", "depth"))
    named, configured = (
        densebench.evaluate("pixels:16", protocol, "scenes", dry_run=True).records[0]["protocol"]
        for protocol in (path, load("protocols", "./mine.py")())
    )
    assert named == configured and named["name"] == "mine" and named["code"]


def test_an_option_with_the_name_of_a_parameter_is_refused():
    Path("mine.py").write_text(PLUG_IN.replace("OPTION", "limit"))
    with pytest.raises(
        UserError, match=r"^./mine.py: evaluate has a parameter limit already; give the option limit another name"
    ):
        densebench.evaluate("pixels:16", "./mine.py", "scenes")


def test_an_option_may_be_called_model():
    [record] = densebench.evaluate("pixels:16", "detection", Drawn(root=Path()), model="faster-rcnn", dry_run=True).records
    assert record["protocol"]["settings"]["model"] == "faster-rcnn"


def test_the_model_may_be_given_by_its_name():
    [record] = densebench.evaluate(model="pixels:8", protocol="kmeans", dataset="scenes", dry_run=True).records
    assert record["backbone"]["spec"] == "pixels:8"


def test_texts_and_paths_are_the_same(tmp_path):
    for results, root in (("out", str(tmp_path)), (Path("out"), tmp_path)):
        densebench.evaluate("pixels:16", "incontext", "scenes", results=results, data_root=root, **SMALL)
    assert len(ids("out")) == 1


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda: densebench.evaluate("incontext", backbones=["pixels:16"], datasets=["scenes"]),
            r"^evaluate takes the model first: evaluate\('pixels:16', 'incontext', 'scenes'\)$",
        ),
        (lambda: densebench.evaluate("incontext"), r"the model first: evaluate\('random:test_vit', 'incontext', 'scenes'\)$"),
        (lambda: densebench.evaluate("kmeans", "scenes"), r"the model first: evaluate\('random:test_vit', 'kmeans', 'scenes'\)$"),
        (lambda: densebench.evaluate([], "incontext", "scenes"), "the list of models is empty"),
        (lambda: densebench.evaluate("pixels:16", "incontext", []), "the list of data sets is empty"),
        (lambda: densebench.evaluate(["pixels:16", "pixl:8"], "incontext", "scenes"), "did you mean 'pixels:8'"),
        (lambda: densebench.evaluate("pixels:16", "incontext", ["scenes", "scnes"]), "did you mean 'scenes'"),
        (lambda: densebench.evaluate("pixels:16", "incontext", "scenes", neighbors=3), "did you mean 'neighbours'"),
        (lambda: densebench.evaluate(["pixels:16", "pixels:8"], "incontext", "scenes", name="a"), "--name a goes with one"),
        (lambda: densebench.evaluate("pixels:16", "incontext", "scenes", name=["a", "b"]), "2 --name for 1 backbones"),
        (lambda: densebench.iter_evaluate("pixels:16", "incontxt"), "did you mean 'incontext'"),
    ],
)
def test_a_wrong_call_is_refused_before_anything_runs(call, said):
    with pytest.raises(UserError, match=said):
        call()
    assert not Path("results").exists()


def test_weights_and_names_go_pairwise_with_models():
    for seed in (1, 2):
        torch.save(load_backbone("random:test_vit", seed=seed).trunk.model.state_dict(), f"{seed}.pth")
    result = densebench.evaluate(
        ["timm:test_vit", "pixels:16", "timm:test_vit"], "incontext", "scenes", weights=["1.pth", None, "2.pth"],
        name=["one", None, "two"], **SMALL,
    )  # fmt: skip
    assert [record["backbone"].get("name") for record in result.records] == ["one", None, "two"]
    for file, record in (("1.pth", result.records[0]), (Path("2.pth"), result.records[2])):
        [alone] = densebench.evaluate("timm:test_vit", "incontext", "scenes", weights=file, results="alone", **SMALL).records
        assert record["id"] == alone["id"] and record["scores"] == alone["scores"]
    assert result.records[0]["scores"] != result.records[2]["scores"]


def test_the_others_run_where_one_backbone_fails(capsys):
    result = densebench.evaluate(["pixels:16", "ckpt:nowhere", "pixels:8"], "incontext", "scenes", **SMALL)
    assert [record["backbone"]["spec"] for record in result.records] == ["pixels:16", "pixels:8"]
    [failure] = result.failures
    assert (failure.backbone, failure.dataset, failure.is_users) == ("ckpt:nowhere", "scenes", True)
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if failure.problem in line] == [f"ckpt:nowhere on scenes: {failure.problem}"]
    assert lines[-1] == "1 of 3 evaluations failed: ckpt:nowhere on scenes (incontext)"


def test_the_others_run_where_one_data_set_fails(tmp_path):
    result = densebench.evaluate("pixels:16", "incontext", ["voc", "scenes"], data_root=tmp_path / "nowhere", **SMALL)
    assert [record["dataset"]["name"] for record in result.records] == ["scenes"]
    assert [failure.dataset for failure in result.failures] == ["voc"]


def test_a_defect_shows_its_traceback_and_the_others_run(capsys):
    result = densebench.evaluate([backbone(calls=4), "pixels:16"], "incontext", "scenes", **SMALL)
    assert [record["backbone"]["spec"] for record in result.records] == ["pixels:16"]
    assert [(failure.problem, failure.is_users) for failure in result.failures] == [("RuntimeError: no more", False)]
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_a_lack_of_memory_is_the_users_and_one_line(capsys):
    result = densebench.evaluate(
        [backbone(calls=4, error=MemoryError("out of memory")), "pixels:16"], "incontext", "scenes", **SMALL
    )
    assert result.failures[0].is_users and "the memory does not suffice" in result.failures[0].problem
    assert "Traceback" not in capsys.readouterr().err


def test_one_cell_raises_its_error():
    with pytest.raises(RuntimeError, match="no more"):
        densebench.evaluate(backbone(calls=4), "incontext", "scenes", **SMALL)


def test_where_all_cells_fail_the_first_error_is_raised():
    with pytest.raises(UserError, match="first is not a checkpoint"):
        densebench.evaluate(["ckpt:first", "ckpt:second"], "incontext", "scenes", **SMALL)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ImportError("stopped")], ids=["plain", "disguised"])
def test_ctrl_c_stops_everything(error):
    if isinstance(error, ImportError):
        error.__cause__ = KeyboardInterrupt()
    with pytest.raises(type(error)):
        densebench.evaluate([backbone(calls=4, error=error), "pixels:16"], "incontext", "scenes", **SMALL)
    assert len(ids()) == 1


def test_scores_come_one_by_one_and_a_loop_that_is_left_is_resumed():
    whole = densebench.evaluate("pixels:16", "incontext", "scenes", results="whole", **SMALL)
    for scored in densebench.iter_evaluate("pixels:16", "incontext", "scenes", **SMALL):
        if scored.score.variant == "identity":
            break
    kept = json.loads(Path("results", "records", f"{scored.record}.json").read_text())
    assert 0 < len(kept["scores"]) < len(whole.records[0]["scores"])
    assert (scored.backbone, scored.dataset) == ("pixels:16", "scenes")
    again = densebench.evaluate("pixels:16", "incontext", "scenes", **SMALL).records[0]
    assert again["scores"] == whole.records[0]["scores"] and again["status"] == "complete"


def test_a_loop_over_a_finished_record_has_all_its_scores():
    first, again = ([*densebench.iter_evaluate("pixels:16", "kmeans", "scenes", limit=4, clusters=(6, 8), seeds=1)] for _ in "ab")
    values, again = ({json.dumps(scored.score.json(), sort_keys=True) for scored in scores} for scores in (first, again))
    assert values == again and len(values) == len(first) > 2


def test_a_loop_has_no_points_that_were_not_asked_for():
    densebench.evaluate("pixels:16", "incontext", "scenes", **SMALL)
    only = [*densebench.iter_evaluate("pixels:16", "incontext", "scenes", **{**SMALL, "fractions": (2,)})]
    assert {scored.score.axes["fraction"] for scored in only} == {2}


def test_nothing_goes_on_where_processes_must_go_the_same_way():
    plan = planned(["ckpt:nowhere", "pixels:16"], "incontext", "scenes", **SMALL)
    with pytest.raises(UserError, match="nowhere"):
        list(steps([plan], keep_going=False))
    assert ids() == []
