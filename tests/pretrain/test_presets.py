"""The presets are the published runs: every number that the official argument files and the papers give, in one table."""

from __future__ import annotations

import pytest

from densebench import catalog
from densebench.training.run import build

SHARED = {  # what all official runs have in common
    "lr": 5e-4, "warmup_epochs": 10, "weight_decay": 0.04, "weight_decay_end": 0.4, "momentum": 0.996, "drop_path": 0.1,
    "hidden_dim": 2048, "bottleneck_dim": 256, "out_dim": 65536, "student_temp": 0.1, "centre_momentum": 0.9,
    "freeze_last_layer": 1, "blur_sigma": (0.1, 2.0),
    "image_size": 224, "arch": "vit_small_patch16_224", "colour_jitter": (0.4, 0.4, 0.2, 0.1), "grey": 0.2,
}  # fmt: skip
LONG = {"teacher_temp_start": 0.04, "teacher_temp": 0.07, "teacher_temp_epochs": 30, "norm_last_layer": False, "min_lr": 1e-5}
JOINT = {"global_scale": (0.25, 1.0), "sharpness": 20.0, "sinkhorn_iterations": 5}
CRIBO = {
    **JOINT,
    **LONG,
    "object_dim": 65536,
    "memory": 25000,
    "rounds": 5,
    "clip_grad": 0.0,
    "bootstrap_after": 1,
    "cycle": True,
}
FLAT = {"teacher_temp_start": 0.04, "teacher_temp": 0.04, "clip_grad": 3.0, "norm_last_layer": True, "min_lr": 1e-6}
DINO = {**FLAT, "global_scale": (0.4, 1.0), "local_scale": (0.05, 0.4), "local_crops": 8, "local_size": 96}
CROC = {
    **JOINT,
    **FLAT,
    "object_dim": 8192,
    "k_start": 12,
    "k_max": 12,
    "object_weight": 1.0,
    "marginal_temp": 2.0,
    "epochs": 300,
}

PUBLISHED = {
    ("dino", "coco"): {**DINO, "epochs": 300, "batch_size": 256},
    ("dino", "imagenet"): {
        **LONG, "clip_grad": 0.0, "epochs": 800, "batch_size": 1024, "global_scale": (0.25, 1.0), "local_scale": (0.05, 0.25),
        "local_crops": 10, "local_size": 96,
    },
    ("dino", "imagenet-100"): {**DINO, "epochs": 100, "batch_size": 512},
    ("croc", "coco"): {**CROC, "batch_size": 256, "group_size": 128, "lambda_pos": 4.0, "tokens": "value"},
    ("croc", "imagenet"): {**CROC, "batch_size": 1024, "lambda_pos": 3.0, "tokens": "key"},
    ("cribo", "coco"): {**CRIBO, "epochs": 300, "batch_size": 256, "group_size": 32, "objects": 64, "lambda_pos": 2.0},
    ("cribo", "imagenet"): {**CRIBO, "epochs": 800, "batch_size": 1024, "group_size": 128, "objects": 32, "lambda_pos": 1.0},
    ("cribo", "imagenet-vitb"): {
        **CRIBO, "arch": "vit_base_patch16_224", "epochs": 400, "batch_size": 1024, "group_size": 64, "objects": 32,
        "lambda_pos": 1.0, "lr": 7.5e-4, "min_lr": 2e-6, "clip_grad": 0.3, "freeze_last_layer": 3, "teacher_temp_epochs": 50,
        "norm_last_layer": True,
    },
}  # fmt: skip


def options_of(method, preset, variant="official"):
    return build(catalog.load("methods", method), method, preset, variant, None, {})


@pytest.mark.parametrize(("method", "preset"), PUBLISHED)
def test_presets_are_the_published_runs(method, preset):
    chosen = options_of(method, preset)
    expected = {**SHARED, **PUBLISHED[method, preset]}
    assert {name: getattr(chosen, name) for name in expected} == expected


def test_the_paper_of_cribo():
    """Section 3.2.3 (Z1 and Z2), the batch as scope of equation 4, and 12 objects on ImageNet (appendix A.1)."""
    for preset, objects in (("coco", 64), ("imagenet", 12), ("imagenet-vitb", 12)):
        chosen = options_of("cribo", preset, "paper")
        assert (chosen.objects, chosen.neighbour_norm, chosen.cycle_scope) == (objects, "paper", "batch")
    assert options_of("cribo", "coco").neighbour_norm == "official"


def test_the_paper_of_croc():
    """Section 3.3 and the hyper-parameters of section 4.1."""
    chosen = options_of("croc", "coco", "paper")
    assert (chosen.marginals, chosen.merge, chosen.follow) == ("attention", "cosine", "tokens")
    assert (chosen.quality, chosen.assign, chosen.object_norm) == ("semantic", "row", "none")
    assert (chosen.teacher_temp_start, chosen.teacher_temp) == (0.07, 0.07)


def test_views_are_the_published_ones():
    for preset, count, scale in (("imagenet", 10, (0.05, 0.25)), ("imagenet-100", 8, (0.05, 0.4))):
        first, second, *local = options_of("dino", preset).views()
        assert (first.blur, first.solarise, second.blur, second.solarise) == (1.0, 0.0, 0.1, 0.2)
        assert len(local) == count
        assert {(v.size, v.scale, v.blur, v.solarise, v.flip, v.jitter, v.kernel) for v in local} == {
            (96, scale, 0.5, 0.0, 0.5, 0.8, "bicubic")
        }
    for method in ("croc", "cribo"):
        views = options_of(method, "coco").views()
        assert [(v.size, v.scale, v.blur, v.solarise) for v in views] == [
            (224, (0.25, 1.0), 1.0, 0.0),
            (224, (0.25, 1.0), 0.1, 0.2),
        ]


NECO = {  # sections 4.1 and A.1, and the argument files of the released models
    "arch": "vit_small_patch14_reg4_dinov2", "global_scale": (0.25, 1.0), "local_scale": (0.05, 0.25), "local_crops": 4,
    "colour_jitter": (0.8, 0.8, 0.8, 0.2), "grey": 0.2, "blur_sigma": (0.1, 2.0), "overlap": 0.01, "epochs": 25, "batch_size": 64,
    "local_size": 98, "image_size": 224, "head_lr": 1e-4, "min_lr": 0.0, "lr_batch": 0, "warmup_epochs": 0, "weight_decay": 0.04,
    "weight_decay_end": 0.5, "momentum": 0.9995, "clip_grad": 0.0, "drop_path": 0.1, "hidden_dim": 2048, "bottleneck_dim": 256,
    "region_size": 7, "reference_count": 49, "queue_size": 8192, "queue_patches": 10, "network": "bitonic", "swap": "cauchy",
    "steepness": 100.0, "teacher_steepness": 100.0, "both_directions": False, "sort": "similarity", "nearest": 0,
    "patches": "both",
}  # fmt: skip


@pytest.mark.parametrize(
    ("preset", "given"),
    [
        ("coco", {"lr": 1e-6, "references": "queue"}),
        ("coco-518", {"lr": 1e-5, "references": "queue", "image_size": 518}),
        (
            "coco-dino",
            {
                "lr": 1e-5,
                "references": "batch",
                "arch": "vit_small_patch16_224",
                "batch_size": 45,
                "epochs": 50,
                "local_size": 96,
            },
        ),
    ],
)
def test_neco_is_the_published_run(preset, given):
    chosen = options_of("neco", preset)
    expected = {**NECO, **given}
    assert {name: getattr(chosen, name) for name in expected} == expected


def test_the_paper_of_neco():
    chosen = options_of("neco", "coco", "paper")
    assert (chosen.references, chosen.sort, chosen.both_directions) == ("fraction", "distance", True)


def test_views_of_neco():
    first, second, *local = options_of("neco", "coco").views()
    assert (first.meets, second.meets, second.overlap) == ((), (0,), 0.02)
    assert {(v.size, v.scale, v.meets, v.overlap) for v in local} == {(98, (0.05, 0.25), (0, 1), 0.01)}
    assert len(local) == 4
    assert {(v.kernel, v.flip, v.jitter, v.blur, v.solarise) for v in (first, second, *local)} == {
        ("bilinear", 0.0, 0.8, 0.5, 0.0)
    }


def test_flsl_is_the_published_run():
    """Section 5 and the defaults of the released code; 4,096 centroids as in the paper."""
    chosen = options_of("flsl", "imagenet")
    shared = {name: value for name, value in SHARED.items() if name not in ("out_dim", "warmup_epochs")}
    expected = {
        **shared, "out_dim": 4096, "warmup_epochs": 30, "epochs": 300, "batch_size": 512, "min_lr": 1e-6, "clip_grad": 3.0,
        "norm_last_layer": True, "teacher_temp_start": 0.04, "teacher_temp": 0.07, "teacher_temp_epochs": 30,
        "global_scale": (0.8, 1.0), "student_scale": (0.5, 1.0), "local_scale": (0.1, 0.4), "local_crops": 2, "local_size": 96,
        "intra_weight": 0.03, "inter_weight": 1.0, "volume_weight": 5.0, "self_attention": 0.1, "cross_attention": 0.2,
        "queries": "first", "window": 3, "local_window": 2, "centre": False, "sinkhorn": 0, "previous_share": 1.0,
        "previous_attention": 0.2,
    }  # fmt: skip
    assert {name: getattr(chosen, name) for name in expected} == expected
    assert options_of("flsl", "imagenet", "paper").queries == "random"
    whole, large, *small = chosen.views()
    assert (whole.inside, large.inside, large.size, large.scale) == (None, 0, 224, (0.5, 1.0))
    assert [(v.inside, v.size, v.scale) for v in small] == [(0, 96, (0.1, 0.4))] * 2
    assert {(v.kernel, v.flip, v.jitter, v.blur, v.solarise, v.other) for v in (whole, large, *small)} == {
        ("bicubic", 0.0, 0.8, 0.5, 0.0, (0.1, 0.2))
    }
