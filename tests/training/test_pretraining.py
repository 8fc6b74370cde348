"""Pretraining as users meet it: a run, its folder, going on after a kill, and what is refused."""

from __future__ import annotations

import json
import shutil
import signal

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from densebench import catalog, options
from densebench.backbones.loading import load_backbone
from densebench.errors import Stopped, UserError
from densebench.files import states
from densebench.results.score import Score
from densebench.training import loop
from densebench.training import run as training_run
from densebench.training.logs import read_log
from densebench.training.run import build
from densebench.training.run_file import is_finished

SMALL = {
    "arch": "test_vit", "image_size": 32, "batch_size": 8, "hidden_dim": 32, "bottleneck_dim": 16, "log_every": 1,
    "device": "cpu", "cache": "none",
}  # fmt: skip
OWN = {
    "dino": {"out_dim": 64, "local_crops": 1, "local_size": 16},
    "croc": {"out_dim": 64, "object_dim": 48, "k_start": 4, "k_max": 4},
    "cribo": {"out_dim": 64, "object_dim": 48, "objects": 4, "memory": 16, "bootstrap_after": 0},
    "neco": {"local_crops": 1, "local_size": 16, "region_size": 2, "reference_count": 6},
    "flsl": {"out_dim": 64, "local_crops": 1, "local_size": 32, "window": 1, "local_window": 1},
}
METHODS = list(catalog.entries("methods"))
WITH_PROTOTYPES = [name for name, entry in catalog.entries("methods").items() if entry.base == "PrototypePretrainer"]


def train(method, output, **given):
    more = {"data": ["scenes"], "limit": 24, "output": output, "steps": 6, **SMALL, **OWN.get(method, {}), **given}
    return training_run.train(method, **{name: value for name, value in more.items() if value is not None})


def go_on(method, output, **given):
    return training_run.train(method, output=output, resume=True, **given)


def tensors(run):
    return load_file(states.saved_states(run)[-1])


def same(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def timeless(run):
    return [{n: v for n, v in row.items() if n != "images_per_second"} for row in read_log(run / "log.csv")]


@pytest.mark.parametrize("method", METHODS)
def test_a_run_writes_a_backbone_that_loads(method, tmp_path):
    run = train(method, tmp_path / "run")
    backbone = load_backbone(f"ckpt:{run}")
    assert backbone(torch.zeros(1, 3, 32, 32)).shape == (1, 64, 2, 2)
    facts = json.loads((run / "checkpoint.json").read_text())
    assert (facts["method"], facts["dataset"], facts["step"], facts["pos_embed"]) == (method, "scenes", 6, "offset")
    assert is_finished(run)


@pytest.mark.parametrize("method", METHODS)
def test_the_backbone_is_the_teacher(method, tmp_path):
    run = train(method, tmp_path / "run")
    saved, state = load_file(run / "backbone.safetensors"), tensors(run)
    prefix = "teacher/encoder.model."
    assert {name for name in state if name.startswith(prefix)} == {prefix + name for name in saved}
    assert all(torch.equal(value, state[prefix + name]) for name, value in saved.items())
    assert not torch.equal(state["student/encoder.model.norm.weight"], state["teacher/encoder.model.norm.weight"])


@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_was_stopped_ends_like_one_that_was_not(method, tmp_path, monkeypatch):
    whole = train(method, tmp_path / "whole", drop_path=0.2)

    class Killed(BaseException):
        pass

    step = loop._step

    def killed(training, *rest):
        if training.step == 4:
            raise Killed
        return step(training, *rest)

    monkeypatch.setattr(loop, "_step", killed)
    with pytest.raises(Killed):
        train(method, tmp_path / "cut", drop_path=0.2, save_steps=3)
    monkeypatch.setattr(loop, "_step", step)
    cut = go_on(method, tmp_path / "cut")
    same(tensors(whole), tensors(cut))
    same(load_file(whole / "backbone.safetensors"), load_file(cut / "backbone.safetensors"))
    assert timeless(whole) == timeless(cut)


@pytest.mark.parametrize("method", METHODS)
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


@pytest.mark.parametrize(
    ("method", "name"),
    [
        (method, flag.name)
        for method in METHODS
        for flag in options.flags(catalog.load("methods", method))
        if flag.kind == "setting"
        and flag.annotation.split()[0] in ("int", "float")
        and flag.name not in IRRELEVANT
        and (method, flag.name) not in NOT_USED
    ],
)
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


def test_resume_with_other_settings_is_refused_and_names_them(tmp_path):
    train("dino", tmp_path / "run")
    with pytest.raises(UserError, match=r"lr was 0\.008, is 0\.1; out-dim was 64, is 32"):
        go_on("dino", tmp_path / "run", lr=0.1, out_dim=32)
    with pytest.raises(UserError, match="seed was 0, is 3"):
        go_on("dino", tmp_path / "run", seed=3)
    with pytest.raises(UserError, match="data was"):
        go_on("dino", tmp_path / "run", limit=16)


def test_resume_may_change_the_means(tmp_path):
    train("dino", tmp_path / "run", steps=3)
    go_on("dino", tmp_path / "run", log_every=2, workers=0, cache="ram")


def test_a_finished_run_is_not_begun_again(tmp_path, capsys):
    run = train("dino", tmp_path / "run")
    before = tensors(run)
    go_on("dino", run)
    same(before, tensors(run))
    assert "is complete: 6 steps" in capsys.readouterr().err


def test_a_folder_that_holds_a_run_is_not_overwritten(tmp_path):
    train("dino", tmp_path / "run")
    with pytest.raises(UserError, match="holds a run already; --resume"):
        train("dino", tmp_path / "run")


def test_a_full_disk_leaves_the_last_state(tmp_path, monkeypatch):
    def full(tensors, path, metadata=None):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    run = train("dino", tmp_path / "run", steps=3)
    whole = states.saved_states(run)
    monkeypatch.setattr("densebench.files.tensors.save_file", full)
    with pytest.raises(UserError, match="No space left on device; free some space"):
        states.save_state(run, 9, {}, torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))]), {})
    assert states.saved_states(run) == whole
    assert not list((run / "states").glob("*.part"))


def test_states_beyond_keep_are_removed(tmp_path):
    run = train("dino", tmp_path / "run", save_steps=1, keep=2)
    assert [path.name for path in states.saved_states(run)] == ["step-00000005.safetensors", "step-00000006.safetensors"]


def test_a_broken_state_is_named(tmp_path):
    run = train("dino", tmp_path / "run", steps=3)
    [path] = states.saved_states(run)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"step-00000003\.safetensors cannot be read.*remove it"):
        go_on("dino", run)


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path, monkeypatch):
    whole = train("cribo", tmp_path / "whole")
    step = loop._step

    def interrupted(training, *rest):
        if training.step == 2:
            signal.raise_signal(signal.SIGINT)
        return step(training, *rest)

    monkeypatch.setattr(loop, "_step", interrupted)
    with pytest.raises(Stopped, match=r"stopped after step 3; `densebench pretrain cribo --output .* --resume`"):
        train("cribo", tmp_path / "cut")
    monkeypatch.setattr(loop, "_step", step)
    same(tensors(whole), tensors(go_on("cribo", tmp_path / "cut")))


def test_a_step_that_is_not_finite_is_skipped_and_counted(tmp_path, monkeypatch, capsys):
    step = loop._step

    def poisoned(training, batches, recipes):
        if training.step == 3:
            before = {name: value.clone() for name, value in training.objective.state_dict().items()}
            student = [p.clone() for p in training.student.parameters()]
            recolour = torch.full((8, 3, 32, 32), torch.nan)
            monkeypatch.setattr(loop, "render", lambda *_: recolour)
            report = step(training, batches, recipes)
            monkeypatch.setattr(loop, "render", render)
            assert all(torch.equal(value, before[name]) for name, value in training.objective.state_dict().items())
            assert all(torch.equal(p, q) for p, q in zip(training.student.parameters(), student, strict=True))
            return report
        return step(training, batches, recipes)

    render = loop.render
    monkeypatch.setattr(loop, "_step", poisoned)
    run = train("cribo", tmp_path / "run")
    assert "step 4: the loss or a gradient is not finite; the step is skipped (1 so far)" in capsys.readouterr().err
    assert [row["skipped"] for row in read_log(run / "log.csv")] == ["0", "0", "0", "1", "1", "1"]


def test_accumulation_changes_no_gradient_of_dino(tmp_path):
    """Two halves of a batch give the gradients of the whole one; sums are rounded differently."""
    one = tensors(train("dino", tmp_path / "one", steps=1, drop_path=0.0, lr=0.01, warmup_epochs=0))
    two = tensors(train("dino", tmp_path / "two", steps=1, drop_path=0.0, lr=0.01, warmup_epochs=0, accumulate=2))
    keys = [name for name in one if name.endswith("exp_avg")]
    assert keys
    for name in keys:
        torch.testing.assert_close(one[name], two[name], rtol=1e-3, atol=1e-7)
    torch.testing.assert_close(one["objective/centre.value"], two["objective/centre.value"], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("method", METHODS)
def test_the_teacher_receives_no_gradient(method, tmp_path, monkeypatch):
    seen = []
    update = loop._update

    def spy(training, losses):
        seen.append([p.grad is None and not p.requires_grad for p in training.teacher.parameters()])
        assert any(p.grad is not None for p in training.student.encoder.parameters())
        update(training, losses)

    monkeypatch.setattr(loop, "_update", spy)
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


@pytest.mark.parametrize("method", METHODS)
def test_pictures_are_drawn(method, tmp_path):
    run = train(method, tmp_path / "run", visualise=2)
    found = sorted((run / "pictures").glob("*.png")) if (run / "pictures").exists() else []
    if method == "dino":
        assert not found
        return
    name = {"neco": "neighbours", "flsl": "modes"}.get(method, "clusters")
    assert any(name in path.name for path in found)
    with Image.open(found[-1]) as picture:
        assert picture.width > 300
        assert np.asarray(picture).std() > 10


def test_a_probe_is_logged_and_the_best_is_kept(tmp_path, monkeypatch):
    values = iter([5.0, 9.0, 7.0])
    monkeypatch.setattr(
        "densebench.training.run_folder.probe", lambda *_: Score("miou", "identity", next(values), direction="higher")
    )
    run = train("dino", tmp_path / "run", steps=None, epochs=3, probe="scenes", probe_every=1)
    assert [row["probe_miou"] for row in read_log(run / "log.csv") if "probe_miou" in row] == ["5", "9", "7"]
    assert json.loads((run / "best" / "probe.json").read_text()) == {"miou": 9.0, "epoch": 2}
    load_backbone(f"ckpt:{run / 'best'}")


def test_a_real_probe_scores_the_teacher(tmp_path):
    run = train("dino", tmp_path / "run", steps=3, probe="scenes:12", probe_every=1)
    [value] = [float(row["probe_miou"]) for row in read_log(run / "log.csv") if "probe_miou" in row]
    assert 0 < value < 60


def test_training_goes_on_from_a_checkpoint(tmp_path):
    first = train("dino", tmp_path / "first")
    second = train("croc", tmp_path / "second", init=f"ckpt:{first}", arch=None, steps=1, lr=0, momentum=1.0)
    one, other = (load_file(run / "backbone.safetensors") for run in (first, second))
    same(one, other)


def test_broken_files_are_named_and_counted(tmp_path, capsys):
    folder = images(tmp_path / "images", 12)
    (folder / "03.jpg").write_bytes(b"no image")
    run = train("dino", tmp_path / "run", data=[str(folder)], limit=None, steps=3)
    assert "cannot decode 03.jpg; another image takes its place (1 so far)" in capsys.readouterr().err
    assert read_log(run / "log.csv")[-1]["broken_files"] == "1"
    with pytest.raises(UserError, match=r"1 images of images cannot be decoded, the limit is --max-broken 0: 03\.jpg"):
        train("dino", tmp_path / "other", data=[str(folder)], limit=None, steps=3, max_broken=0)


def images(folder, count):
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        size = (40 + number, 50, 3)
        Image.fromarray(rng.integers(0, 255, size, dtype=np.uint8)).save(folder / f"{number:02}.jpg")
    return folder


@pytest.mark.parametrize("cache", ["none", "ram", "gpu"])
@pytest.mark.parametrize("workers", [0, 2])
def test_workers_and_cache_change_nothing(cache, workers, tmp_path, plain):
    folder = tmp_path / "images"
    shutil.copytree(plain[0], folder)
    run = train("cribo", tmp_path / "run", data=[str(folder)], limit=None, steps=2, cache=cache, workers=workers)
    same(plain[1], tensors(run))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    root = tmp_path_factory.mktemp("plain")
    folder = images(root / "images", 10)
    return folder, tensors(train("cribo", root / "run", data=[str(folder)], limit=None, steps=2))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"batch_size": 25}, r"--batch-size 25: the data has 24 images"),
        ({"image_size": 40}, r"--image-size 40: the patches of test_vit have 16 px; use 32 or 48"),
        ({"arch": "vit_smal_patch16_224"}, "unknown timm model 'vit_smal_patch16_224': did you mean"),
        ({"arch": "resnet18"}, "--arch resnet18 is no plain ViT"),
        ({"data": ["nowhere"]}, "unknown data 'nowhere'"),
        ({"preset": "cocoo"}, "unknown preset 'cocoo': did you mean 'coco'"),
        ({"variant": "papr"}, "unknown variant 'papr': did you mean 'paper'"),
        ({"global_scale": (0.5, 0.2)}, "crop scale of 0.5,0.2"),
        ({"epochs": 3}, "--epochs 3 and --steps 6: give one of them"),
        ({"lr": -1}, "--lr -1: it must be at least 0"),
        ({"init": "hub:a:b", "arch": None}, "--init hub:a:b: it takes"),
        ({"init": "random:test_vit2"}, "--init random:test_vit2"),
        ({"accumulate": 3}, "--batch-size 8 is not a multiple of 1 processes x 3"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(given, message, tmp_path):
    with pytest.raises(UserError, match=message):
        train("dino", tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("method", "given"), [("cribo", {"objects": 9}), ("croc", {"k_start": 9}), ("croc", {"k_max": 5})])
def test_more_clusters_than_patches_are_refused(method, given, tmp_path):
    with pytest.raises(UserError, match="two views have 8 patches|starts with --k-start 4"):
        train(method, tmp_path / "run", **given)


def test_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no image"):
        train("dino", tmp_path / "run", data=[str(tmp_path / "empty")])


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


def test_steps_are_the_length_of_the_run(tmp_path):
    assert len(read_log(train("dino", tmp_path / "run", steps=5) / "log.csv")) == 5


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("method", METHODS)
def test_half_precision_trains(method, precision, tmp_path):
    """Networks in half precision; the memory stays fp32 or as it was made, and weights stay fp32."""
    whole = tensors(train(method, tmp_path / "whole", precision=precision, steps=2))
    assert all(value.isfinite().all() for value in whole.values() if value.is_floating_point())
    assert {whole[name].dtype for name in whole if name.startswith(("student/", "teacher/"))} == {torch.float32}
    exact = tensors(train(method, tmp_path / "exact", steps=2))
    name = "student/encoder.model.blocks.0.mlp.fc1.weight"
    assert not torch.equal(whole[name], exact[name])


def test_the_newest_run_is_found_and_not_its_parts(tmp_path, monkeypatch):
    from densebench.backbones.checkpoint import newest_checkpoint

    monkeypatch.setattr("densebench.training.run_folder.probe", lambda *_: Score("miou", "identity", 1.0, direction="higher"))
    run = train("dino", tmp_path / "runs" / "one", steps=None, epochs=1, probe="scenes", probe_every=1, keep_every=1)
    assert (run / "best" / "checkpoint.json").exists()
    assert (run / "epochs" / "0001" / "checkpoint.json").exists()
    assert newest_checkpoint(tmp_path / "runs") == run


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_of_one_image(method, tmp_path):
    run = train(method, tmp_path / "run", batch_size=1, limit=4, steps=3)
    assert all(np.isfinite(float(row["loss"])) for row in read_log(run / "log.csv"))
    assert read_log(run / "log.csv")[-1]["skipped"] == "0"
