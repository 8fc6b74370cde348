"""The protocol `bbox-knn` as a whole: plain loops, what must not change a number, errors, files of COCO.

Su et al., FLSL, NeurIPS 2023; Wu et al., CVPR 2018 (the weighted vote).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from coco_files import instance, write_coco
from toy_boxes import COLOURS, DATA, SIDE, SMALL, Toys, backbone, naive_place, naive_rows, named, score

from densebench import options
from densebench.errors import UserError
from densebench.evals.bbox_knn import NINE, BboxKnn, Boxes
from densebench.evaluation.protocol import Run
from densebench.evaluation.run import evaluate
from densebench.features.extract import extract
from densebench.features.views import CentreCropView
from densebench.numerics import bootstrap
from densebench.numerics.boxes import largest
from densebench.numerics.votes import NO_VOTE


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("DENSEBENCH_CACHE", str(folder))
    return folder


@pytest.mark.parametrize("preset", ["flsl", "flsl-code"])
@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_every_number_is_that_of_plain_loops(preset, temperature):
    found = named(score(preset=preset, temperature=temperature))
    mapping = "right" if preset == "flsl" else "clipped"
    memory, labels = naive_rows(DATA, "train", mapping)
    queries, truth = naive_rows(DATA, "val", mapping)
    flat = memory.reshape(-1, memory.shape[-1])
    assert len(found) == 4 * len(SMALL["neighbours"])
    for k in SMALL["neighbours"]:
        right = np.zeros((2, len(truth), NINE))
        for n, own in enumerate(queries):
            for p, query in enumerate(own):
                cosine = flat @ query
                near = np.argsort(-cosine, kind="stable")[:k]
                place = naive_place(cosine[near], [labels[m // NINE] for m in near], truth[n], k, temperature, 5)
                right[:, n, p] = place < 1, place < 5
        for values, metric in zip(right, ("top1", "top5"), strict=True):
            for variant, own in (("patch", values.mean(1)), ("any-patch", values.max(1))):
                one = found[k, metric, variant]
                assert one.value == pytest.approx(100 * own.mean()), (k, metric, variant)
                resampled = 100 * bootstrap.bootstrap_mean(torch.from_numpy(own))
                assert one.bootstrap == pytest.approx(resampled.tolist())
                assert one.ci95 == pytest.approx(bootstrap.interval(resampled))
                for c, name in enumerate(DATA.classes):
                    members = [v for v, t in zip(own, truth, strict=True) if t == c]
                    assert one.per_class[name] == (pytest.approx(100 * np.mean(members)) if members else None)
                # Of 14 images train-3, train-5 and train-13, of 11 val-3 and val-5 have no box that counts.
                assert one.details == {"memory": 99, "images": 9, "without_box": 2, "memory_without_box": 3}


def test_the_toys_tell_variants_and_mappings_apart():
    """What the comparison with plain loops rests on: its data do not make all numbers equal."""
    found, code = named(score()), named(score(preset="flsl-code"))
    for k in (3, 7):
        assert found[k, "top1", "patch"].value < found[k, "top1", "any-patch"].value
    assert any(found[key].value != code[key].value for key in found)


def test_mappings_agree_on_square_images_to_the_last_number(monkeypatch):
    """Where all boxes lie in the crop."""
    real = Toys.drawn

    def square(self, item):
        pixels, objects = real(self, item)
        side = min(pixels.shape[:2])
        return pixels[:side, :side].copy(), replace(objects, boxes=np.clip(objects.boxes, 0.1 * side, 0.9 * side))

    monkeypatch.setattr(Toys, "drawn", square)
    assert [one.json() for one in score()] == [one.json() for one in score(preset="flsl-code")]


def test_features_that_tell_the_class_are_always_right(monkeypatch):
    real = Toys.drawn

    def plain(self, item):  # the whole image in the colour of the class that counts
        pixels, objects = real(self, item)
        index = largest(objects.boxes, objects.crowd)
        pixels[:] = 120 if index is None else COLOURS[objects.classes[index]]
        return pixels, objects

    monkeypatch.setattr(Toys, "drawn", plain)
    for one in score(neighbours=(1, 9)):
        assert one.value == 100 and one.ci95 == (100, 100)


def test_top_five_holds_top_one_and_no_share_exceeds_all():
    found = named(score())
    for k in SMALL["neighbours"]:
        for variant in ("patch", "any-patch"):
            assert found[k, "top1", variant].value <= found[k, "top5", variant].value <= 100
        for metric in ("top1", "top5"):
            assert found[k, metric, "patch"].value <= found[k, metric, "any-patch"].value
    # With one neighbour there is one class in the vote, so the first five are the first.
    assert found[1, "top1", "patch"].value == found[1, "top5", "patch"].value < 100


def test_every_k_of_one_search_is_what_it_is_alone():
    together = named(score())
    for k in SMALL["neighbours"]:
        for key, one in named(score(neighbours=(k,))).items():
            assert one == together[key]


def test_the_first_five_are_five():
    """Places of the true class for each patch of three images: never among the five, fifth at one patch, first at three."""
    found = torch.full((3, NINE), 5)
    found[0, 4], found[1, 2], found[2, :3] = NO_VOTE, 4, 0
    own = Boxes(DATA.items("val")[:3], torch.tensor([1, 1, 2]), {}, 0)
    scores = {(one.metric, one.variant): one for one in BboxKnn().scores(found, own, DATA, (("k", 7),), {})}
    expected = {("top5", "patch"): 4 / 27, ("top5", "any-patch"): 2 / 3, ("top1", "patch"): 3 / 27, ("top1", "any-patch"): 1 / 3}
    assert {key: one.value for key, one in scores.items()} == {key: pytest.approx(100 * v) for key, v in expected.items()}
    assert scores["top5", "any-patch"].per_class == {"a": None, "b": 50, "c": 100, "d": None, "never": None}


def test_points_that_are_known_are_not_scored_again():
    evaluator = options.build(BboxKnn, {}, SMALL).resolve(DATA)
    assert evaluator.points(DATA) == [(("k", k),) for k in (1, 3, 7, 20)]
    left = score(run=Run(known=frozenset({(("k", 3),), (("k", 20),)})))
    assert {one.axes["k"] for one in left} == {1, 7}
    assert [(one.metric, one.variant) for one in left][3::4] == [("top1", "any-patch")] * 2


@pytest.mark.parametrize("runtime", [{"batch_size": 1}, {"batch_size": 5}, {"device": "cpu"}])
def test_runtime_options_do_not_change_the_number(runtime, cache, monkeypatch):
    before = [one.json() for one in score()]
    monkeypatch.setenv("DENSEBENCH_CACHE", str(cache / "other"))
    assert [one.json() for one in score(**runtime)] == before


def test_searching_few_images_at_once_does_not_change_the_number(monkeypatch):
    before = score()
    monkeypatch.setattr("densebench.evals.bbox_knn.IMAGES", 2)
    assert score() == before


def test_engines():
    pytest.importorskip("faiss")
    before = score()
    assert score(engine="faiss") == before
    found = score(engine="faiss-ivf")
    assert all(one.details["engine"] == "faiss-ivf" and one.details["recall"] > 0.5 for one in found)
    settings = [options.build(BboxKnn, {}, {"engine": engine}).settings(DATA) for engine in ("exact", "faiss", "faiss-ivf")]
    assert settings[0] == settings[1] != settings[2]


def test_lower_precision_is_near():
    pairs = zip(score(), score(precision="bf16"), strict=True)
    assert all(abs(one.value - other.value) <= 25 for one, other in pairs)


def test_only_nine_vectors_an_image_are_kept(cache):
    score()
    vectors = 20 * NINE * 6 * 4
    size = sum(path.stat().st_size for path in (cache / "features").rglob("*.safetensors"))
    assert vectors <= size < vectors + 20 * 200 + 1000


def test_features_of_chosen_patches(cache):
    """They are rows of the whole grid, kept apart by what was chosen, and computed once."""
    model, view, items = backbone(), CentreCropView(SIDE, 36), DATA.items("val")[:3]
    whole = extract(model, DATA, items, view)
    one = {item.name: torch.tensor([5, 0, 15, 5]) for item in items}
    two = {item.name: torch.tensor([n]) for n, item in enumerate(items)}
    seen_before = model.trunk.seen
    for _ in range(2):
        first, second = (extract(model, DATA, items, view, patches=own) for own in (one, two))
        for n, item in enumerate(items):
            assert torch.equal(first[item], whole[item].flatten(0, 1)[[5, 0, 15, 5]])
            assert torch.equal(second[item], whole[item].flatten(0, 1)[[n]])
        assert model.trunk.seen == seen_before + 6
    assert torch.equal(extract(model, DATA, items, view)[items[0]], whole[items[0]])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"neighbours": (5, 100)}, "--neighbours 100: the memory holds 99 patches, 9 of each of 11 images with a box"),
        ({"image_size": 36, "short_side": 40}, "36 px does not fit"),
        ({"image_size": 40}, "a crop of 40 px does not fit a short side of 36 px"),
        ({"eval_split": "train"}, "--eval-split train is the split of the memory too"),
        ({"train_split": "test"}, "unknown split 'test'"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_the_work(given, message):
    model = backbone()
    with pytest.raises(UserError, match=message) as error:
        score(model=model, **given)
    assert "\n" not in str(error.value) and model.trunk.seen == 0


def test_data_sets_that_cannot_be_are_refused():
    with pytest.raises(UserError, match="none of the 14 images of toys train has a box"):
        score(Toys(root=Path(), bare=True))
    with pytest.raises(UserError, match="toys has one class, which is always right"):
        score(Toys(root=Path(), classes=("vehicle",)))


def test_features_that_are_not_finite_are_refused():
    model = backbone()
    model.trunk.weight.data.fill_(float("nan"))
    with pytest.raises(UserError, match="not finite"):
        score(model=model)


def test_a_run_on_files_of_coco(tmp_path):
    """Through `evaluate`: record, second run, and the data set of another kind."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 4)):
        images, annotations = {}, []
        for number in range(count):
            images[number] = rng.integers(0, 90, (48, 64, 3), dtype=np.uint8)
            if number:
                images[number][8:40, 12:60] = COLOURS[number % 2]
                annotations.append(instance(number, 17 + number % 2, (12, 8, 48, 32)))
        write_coco(tmp_path / "data", split, images, annotations)
    asked = {"data_root": tmp_path / "data", "results": tmp_path / "results"}
    asked |= {"image_size": "32", "short_side": "32", "neighbours": "1,9"}
    (record,) = evaluate("pixels:8", "bbox-knn", "coco-boxes", **asked).records
    assert record["status"] == "complete" and record["dataset"]["images"] == 3
    headlines = {s["k"]: s["value"] for s in record["scores"] if (s["metric"], s["variant"]) == ("top1", "any-patch")}
    assert headlines == {1: 100, 9: 100}
    assert record["scores"][0]["details"]["without_box"] == 1
    shown = {name for name, value in record["scores"][0]["per_class"].items() if value is not None}
    assert shown == {"cat", "dog"}
    (again,) = evaluate("pixels:8", "bbox-knn", "coco-boxes", **asked).records
    assert again["id"] == record["id"] and again["scores"] == record["scores"]
    (other,) = evaluate("pixels:8", "bbox-knn", "coco-boxes", preset="flsl-code", **asked).records
    assert other["group"] != record["group"]
    with pytest.raises(UserError, match="scenes has label maps; bbox-knn takes boxes: coco-boxes, coco20k, imagenet-boxes"):
        evaluate("pixels:8", "bbox-knn", "scenes", **asked)
