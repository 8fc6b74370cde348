"""Runs of every method: what they write, what lowers the loss, what reaches the teacher, and which options matter."""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from small_runs import METHODS, OWN, SMALL, tensors, train
from tiers import late

from densebench import catalog, options
from densebench.backbones.loading import load_backbone
from densebench.files import states
from densebench.files.logs import read_log
from densebench.pretrain.dino import ImageDistillation
from densebench.training import loop
from densebench.training.method import PrototypePretrainer
from densebench.training.run import build
from densebench.training.run_file import is_finished

WITH_PROTOTYPES = [name for name in catalog.entries("methods") if issubclass(catalog.load("methods", name), PrototypePretrainer)]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Runs that no test changes, by method and length."""
    return functools.cache(lambda method, steps=6: train(method, tmp_path_factory.mktemp("plain") / "run", steps=steps))


@pytest.mark.parametrize("method", METHODS)
def test_a_run_writes_a_backbone_that_loads(method, plain):
    run = plain(method)
    backbone = load_backbone(f"ckpt:{run}")
    assert backbone(torch.zeros(1, 3, 32, 32)).shape == (1, 64, 2, 2)
    facts = json.loads((run / "checkpoint.json").read_text())
    assert (facts["method"], facts["dataset"], facts["step"], facts["pos_embed"]) == (method, "scenes", 6, "offset")
    assert is_finished(run)


@pytest.mark.parametrize("method", late(METHODS, "dino"))
def test_the_backbone_is_the_teacher(method, plain):
    run = plain(method)
    saved, state = load_file(run / "backbone.safetensors"), tensors(run)
    prefix = "teacher/encoder.model."
    assert {name for name in state if name.startswith(prefix)} == {prefix + name for name in saved}
    assert all(torch.equal(value, state[prefix + name]) for name, value in saved.items())
    assert not torch.equal(state["student/encoder.model.norm.weight"], state["teacher/encoder.model.norm.weight"])


@pytest.mark.parametrize("method", late(METHODS, "dino"))
def test_a_few_steps_lower_the_loss(method, tmp_path, monkeypatch):
    """A student with another head than its teacher's learns to say what the teacher says, of a few images."""
    assemble = loop.assemble

    def apart(*arguments):
        training = assemble(*arguments)
        for layer in training.student.head.mlp:
            if isinstance(layer, torch.nn.Linear):
                layer.reset_parameters()
        return training

    monkeypatch.setattr("densebench.training.run.assemble", apart)
    given = {"limit": 8, "steps": 30, "lr": 0.1, "warmup_epochs": 0, "momentum": 1.0, "centre_momentum": 1.0, "clip_grad": 0}
    given |= {"colour_jitter": (0, 0, 0, 0), "global_scale": (1.0, 1.0), "freeze_last_layer": 0}
    given |= {  # cribo: matches come and go; neco: weights that are told how often they are used; flsl: what the term can do
        "dino": {"steps": 20},
        "cribo": {"neighbour_weight": 0},
        "neco": {"head_lr": 1e-2, "lr": 1e-2, "local_scale": (0.9, 1.0)},
        "flsl": {"volume_weight": 0, "student_scale": (1.0, 1.0), "local_scale": (0.9, 1.0)},
    }.get(method, {})
    if method not in WITH_PROTOTYPES:
        given = {name: value for name, value in given.items() if name not in ("centre_momentum", "freeze_last_layer")}
    run = train(method, tmp_path / "run", **given)
    losses = [float(row["loss"]) for row in read_log(run / "log.csv")]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:2])


@pytest.mark.parametrize("method", METHODS)
def test_every_preset_and_variant_is_made_of_known_values(method):
    kind = catalog.load("methods", method)
    assert next(iter(kind.presets)) == "tiny"
    assert {"coco", "imagenet"} & set(kind.presets)
    for preset in kind.presets:
        for variant in ("official", "paper"):
            build(kind, method, preset, variant, None, {})
    assert set(kind.paper) <= {"", *kind.presets}


IRRELEVANT = {  # numbers that cannot change six steps of these runs by themselves
    "epochs", "warmup_epochs", "teacher_temp_epochs", "freeze_last_layer", "accumulate", "steps",
}  # fmt: skip


NOT_USED = {  # losses of DINO and FLSL are means over images: groups change nothing
    ("dino", "group_size"), ("flsl", "group_size"),
    ("flsl", "previous_attention"), ("flsl", "previous_share"),  # of a second stage: tests/test_flsl.py
}  # fmt: skip


USED_WITH = {  # what a number needs to matter at all
    ("neco", "queue_size"): {"references": "queue"}, ("neco", "queue_patches"): {"references": "queue"},
    ("neco", "reference_fraction"): {"references": "fraction"}, ("neco", "attention_mass"): {"patches": "foreground"},
    ("flsl", "centre_momentum"): {"centre": True},
}  # fmt: skip


OTHER = {
    "head_lr": 0.1, "lr_batch": 64, "nearest": 3, "queue_size": 12, "reference_fraction": 0.4, "attention_mass": 0.2,
    "overlap": 0.04, "sinkhorn": 2, "window": 2, "local_window": 2, "queue_patches": 1,
    "image_size": 48, "batch_size": 4, "group_size": 2, "momentum": 0.5, "local_size": 48, "k_max": 2, "objects": 3,
    "memory": 9, "bootstrap_after": 2, "out_dim": 32, "object_dim": 32, "clip_grad": 0.01, "grey": 1.0, "min_lr": 1e-3,
}  # fmt: skip


def numbers():
    """Every method and number that it uses; all but three of DINO's are slow."""
    for method in METHODS:
        kind = catalog.load("methods", method)
        for flag in options.flags(kind):
            number = flag.kind == "setting" and flag.annotation.split()[0] in ("int", "float")
            if number and flag.name not in IRRELEVANT and (method, flag.name) not in NOT_USED:
                soon = method == "dino" and flag.name in ("lr", "out_dim", "weight_decay")
                yield pytest.param(method, flag.name, marks=() if soon else pytest.mark.slow)


@pytest.mark.parametrize(("method", "name"), list(numbers()))
def test_every_number_changes_something(method, name, tmp_path, reference):
    needed = USED_WITH.get((method, name), {})
    first = reference(method, **needed)
    before = getattr(
        build(catalog.load("methods", method), method, "tiny", "official", None, {**SMALL, **OWN.get(method, {})}), name
    )
    other = OTHER[name] if name in OTHER else 1 if before == 0 else before * 2
    if name == "k_start":
        other = 6
    run = train(method, tmp_path / "run", **{**conformance(method), **needed, name: other})
    found = tensors(run)
    assert found.keys() != first.keys() or any(
        found[key].shape != first[key].shape or not torch.equal(found[key], first[key]) for key in first
    )


def conformance(method):
    given = {"drop_path": 0.1, "warmup_epochs": 1}
    prototypes = {"freeze_last_layer": 0, "teacher_temp_epochs": 1, "norm_last_layer": False}
    return given | (prototypes if method in WITH_PROTOTYPES else {})


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    known = {}

    def of(method, **needed):
        key = method + str(needed)
        if key not in known:
            folder = tmp_path_factory.mktemp("reference") / method
            known[key] = tensors(train(method, folder, **conformance(method), **needed))
        return known[key]

    return of


def test_accumulation_changes_no_gradient_of_dino(tmp_path):
    """Two halves of a batch give the gradients of the whole one; sums are rounded differently."""
    one = tensors(train("dino", tmp_path / "one", steps=1, drop_path=0.0, lr=0.01, warmup_epochs=0))
    two = tensors(train("dino", tmp_path / "two", steps=1, drop_path=0.0, lr=0.01, warmup_epochs=0, accumulate=2))
    keys = [name for name in one if name.endswith("exp_avg")]
    assert keys
    for name in keys:
        torch.testing.assert_close(one[name], two[name], rtol=1e-3, atol=1e-7)
    torch.testing.assert_close(one["objective/centre.value"], two["objective/centre.value"], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("method", late(METHODS, "dino", "croc"))
def test_the_teacher_receives_no_gradient(method, tmp_path, monkeypatch):
    seen = []
    update = loop.update

    def spy(training, losses):
        seen.append([p.grad is None and not p.requires_grad for p in training.teacher.parameters()])
        assert any(p.grad is not None for p in training.student.encoder.parameters())
        update(training, losses)

    monkeypatch.setattr(loop, "update", spy)
    train(method, tmp_path / "run", steps=2)
    assert all(map(all, seen))


def test_stochastic_depth_is_the_students_alone(tmp_path, monkeypatch):
    rates = {}
    assemble = loop.assemble

    def spy(*arguments):
        training = assemble(*arguments)
        for name in ("student", "teacher"):
            blocks = getattr(training, name).modules()
            rates[name] = [module.drop_prob for module in blocks if type(module).__name__ == "DropPath"]
        return training

    monkeypatch.setattr("densebench.training.run.assemble", spy)
    train("dino", tmp_path / "run", steps=1, drop_path=0.3)
    assert max(rates["student"]) == pytest.approx(0.3)
    assert set(rates["teacher"]) == {0.0}


def test_every_micro_batch_has_its_own_stochastic_depth(tmp_path, monkeypatch):
    draws = []
    forward = ImageDistillation.forward

    def spy(*arguments):
        draws.append(torch.rand(()).item())
        return forward(*arguments)

    monkeypatch.setattr(ImageDistillation, "forward", spy)
    train("dino", tmp_path / "run", steps=3, accumulate=2)
    assert len(set(draws)) == 6


@pytest.mark.parametrize("method", late(METHODS, "croc"))
def test_pictures_are_drawn_beside_a_page_of_the_run(method, tmp_path):
    run = train(method, tmp_path / "run", visualise=2)
    found = sorted((run / "pictures").glob("*.png")) if (run / "pictures").exists() else []
    assert 'class="state finished"' in (run / "index.html").read_text()
    if method == "dino":
        assert not found
        return
    name = {"neco": "neighbours", "flsl": "modes"}.get(method, "clusters")
    assert any(name in path.name for path in found)
    with Image.open(found[-1]) as picture:
        assert picture.width > 300
        assert np.asarray(picture).std() > 10


@pytest.mark.slow
def test_schedules_follow_epochs_warm_up_and_the_frozen_layer(tmp_path):
    """The numbers that six steps cannot tell apart, in a run of four epochs of three steps."""
    given = {
        "steps": None,
        "epochs": 4,
        "warmup_epochs": 2,
        "teacher_temp_start": 0.02,
        "teacher_temp": 0.06,
        "teacher_temp_epochs": 3,
    }
    rows = read_log(train("dino", tmp_path / "run", **given, freeze_last_layer=4) / "log.csv")
    assert len(rows) == 12
    base = 0.008 * 8 / 256
    assert [float(row["lr"]) for row in rows[:7]] == pytest.approx([base * i / 5 for i in range(6)] + [base], rel=1e-4)
    assert [float(row["teacher_temp"]) for row in rows] == pytest.approx([0.02] * 3 + [0.04] * 3 + [0.06] * 6, rel=1e-4)
    state = tensors(tmp_path / "run")
    fresh = tensors(train("dino", tmp_path / "fresh", steps=1, lr=0, momentum=1.0, freeze_last_layer=4))
    name = "student/head.last_layer.image.weight_v"
    assert torch.equal(state[name], fresh[name])


def test_the_last_layer_is_trained_from_the_first_step_after_its_frozen_epochs(tmp_path):
    run = train("dino", tmp_path / "run", steps=4, save_steps=1, keep=4, warmup_epochs=0, freeze_last_layer=1)
    layers = [load_file(path)["student/head.last_layer.image.weight_v"] for path in states.saved_states(run)]
    assert [torch.equal(layer, layers[0]) for layer in layers] == [True, True, True, False]  # three steps are an epoch


def test_the_centre_is_updated_by_the_teacher_as_it_was_in_the_step(tmp_path):
    given = {"steps": 1, "lr": 0.1, "warmup_epochs": 0, "freeze_last_layer": 0}
    still, moved = (tensors(train("dino", tmp_path / str(momentum), momentum=momentum, **given)) for momentum in (1.0, 0.0))
    assert not torch.equal(still["teacher/head.last_layer.image.weight_v"], moved["teacher/head.last_layer.image.weight_v"])
    assert torch.equal(still["objective/centre.value"], moved["objective/centre.value"])


def test_steps_are_the_length_of_the_run(tmp_path):
    assert len(read_log(train("dino", tmp_path / "run", steps=5) / "log.csv")) == 5


@pytest.mark.parametrize("precision", late(["bf16", "fp16"], "fp16"))
@pytest.mark.parametrize("method", late(METHODS, "cribo", "neco"))
def test_half_precision_trains(method, precision, plain, tmp_path):
    """Networks in half precision; the memory stays fp32 or as it was made, and weights stay fp32."""
    whole = tensors(train(method, tmp_path / "whole", precision=precision, steps=2))
    assert all(value.isfinite().all() for value in whole.values() if value.is_floating_point())
    assert {whole[name].dtype for name in whole if name.startswith(("student/", "teacher/"))} == {torch.float32}
    exact = tensors(plain(method, 2))
    name = "student/encoder.model.blocks.0.mlp.fc1.weight"
    assert not torch.equal(whole[name], exact[name])


@pytest.mark.parametrize("method", late(METHODS, "croc", "cribo"))
def test_a_batch_of_one_image(method, tmp_path):
    run = train(method, tmp_path / "run", batch_size=1, limit=4, steps=3)
    assert all(np.isfinite(float(row["loss"])) for row in read_log(run / "log.csv"))
    assert read_log(run / "log.csv")[-1]["skipped"] == "0"
