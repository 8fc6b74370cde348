"""The protocol `discovery` as a whole: plain loops, presets, data sets of every kind, degenerate graphs, errors, pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import drawn_parts
import numpy as np
import pytest
import scipy.linalg
import torch
import toy_boxes
from discovery_toys import DATA, STRIDE, Rectangles, backbone, configured, named, score
from filmed import write
from PIL import Image

from densebench import options
from densebench.backbones.loading import load_backbone
from densebench.datasets import load_dataset
from densebench.errors import UserError
from densebench.evals.discovery import Discovery, search
from densebench.evaluation.protocol import Run
from densebench.evaluation.run import evaluate
from densebench.numerics.bootstrap import bootstrap_mean, interval
from densebench.results.score import decode

SHOWN = [item for item in DATA.items("val") if item.name not in ("val-3", "val-5", "val-7")]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))


def naive_tokens(dataset, item, model, kept):
    """The features of a picture's patches, and its grid."""
    image = dataset.image(item)
    width, height = image.size
    pixels = (torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255 - 0.5) / 0.25
    rows, columns = -(-height // STRIDE), -(-width // STRIDE)
    padded = torch.zeros(3, rows * STRIDE, columns * STRIDE)
    padded[:, :height, :width] = pixels
    with torch.no_grad():
        grid = model(padded[None])[0]
    if not kept:
        rows, columns = height // STRIDE, width // STRIDE
    return grid[:, :rows, :columns].movedim(0, -1).double().numpy()


def naive_box(grid, size, method, tau):
    """The box of one picture by loops over patches."""
    rows, columns, _ = grid.shape
    tokens = grid.reshape(rows * columns, -1)
    products = tokens @ tokens.T
    if method == "lost":
        degrees = [int(sum(products[p, q] > 0 for q in range(len(tokens)) if q != p)) for p in range(len(tokens))]
        order = sorted(range(len(tokens)), key=lambda p: (degrees[p], p))
        seed, alike = order[0], [p for p in order[:100] if products[order[0], p] > 0]
        mask = [products[alike, q].sum() > 0 for q in range(len(tokens))]
    else:
        lengths = np.linalg.norm(tokens, axis=1)
        weights = np.where(products / np.outer(lengths, lengths) > tau, 1.0, 1e-5)
        degrees = np.diag(weights.sum(1))
        vector = scipy.linalg.eigh(degrees - weights, degrees, subset_by_index=[1, 1])[1][:, 0]
        seed = int(np.flatnonzero(abs(vector) > (1 - 1e-7) * abs(vector).max())[0])
        mask = (vector > vector.mean()) if vector[seed] > vector.mean() else (vector <= vector.mean())
    reached, waiting = set(), [divmod(seed, columns)]
    while waiting:
        row, column = waiting.pop()
        if 0 <= row < rows and 0 <= column < columns and (row, column) not in reached and mask[row * columns + column]:
            reached.add((row, column))
            waiting += [(row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)]
    top, left = (STRIDE * min(place[axis] for place in reached) for axis in (0, 1))
    bottom, right = (STRIDE * (max(place[axis] for place in reached) + 1) for axis in (0, 1))
    return left, top, min(right, size[0]), min(bottom, size[1])


def naive_iou(one, other):
    sides = [min(one[axis + 2], other[axis + 2]) - max(one[axis], other[axis]) for axis in (0, 1)]
    common = max(0, sides[0]) * max(0, sides[1])
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return common / (sum(areas) - common)


@pytest.mark.parametrize(
    ("preset", "method"), [("clean", "tokencut"), ("clean", "lost"), ("lost", "lost"), ("tokencut", "tokencut")]
)
def test_every_number_is_that_of_plain_loops(preset, method):
    found, model = named(score(preset, method=method)), backbone()
    tau = None if method == "lost" else 0.2
    ious = []
    for item in SHOWN:
        grid = naive_tokens(DATA, item, model, kept=preset != "clean")
        box = naive_box(grid, DATA.image_size(item), method, tau)
        ious.append(naive_iou(box, DATA.objects(item).boxes[0]))
    hits = torch.tensor([100.0 * (iou >= 0.5) for iou in ious], dtype=torch.float64)
    best, corloc = found["box_iou", method, tau], found["corloc", method, tau]
    assert decode(best.details["of_pictures"]) == pytest.approx(100 * np.array(ious), rel=1e-5)
    assert best.value == pytest.approx(100 * np.mean(ious), rel=1e-5) and corloc.value == pytest.approx(float(hits.mean()))
    assert corloc.bootstrap == pytest.approx(bootstrap_mean(hits).tolist())
    assert corloc.ci95 == pytest.approx(interval(bootstrap_mean(hits)))
    classes = [DATA.classes[int(DATA.objects(item).classes[0])] for item in SHOWN]
    for name in DATA.classes:
        own = [hit for hit, label in zip(hits.tolist(), classes, strict=True) if label == name]
        assert corloc.per_class[name] == (pytest.approx(np.mean(own)) if own else None)
    assert corloc.value > 0 and corloc.details["images"] == len(SHOWN) and not corloc.details["degenerate"]


def test_guesses_stand_beside_the_method_and_the_headline_comes_last():
    scores = score()
    assert {"metric": scores[-1].metric, "variant": scores[-1].variant} == configured().headline()
    whole, centre = (named(scores)["corloc", variant, 0.2] for variant in ("whole picture", "centre box"))
    assert whole.details == centre.details == {"baseline": True}
    sizes = [DATA.image_size(item) for item in SHOWN]
    areas = [float(np.prod(DATA.objects(item).boxes[0, 2:] - DATA.objects(item).boxes[0, :2])) for item in SHOWN]
    ious = [area / (width * height) for area, (width, height) in zip(areas, sizes, strict=True)]
    assert named(scores)["box_iou", "whole picture", 0.2].value == pytest.approx(100 * np.mean(ious))


def test_every_tau_of_one_run_is_what_it_is_alone():
    together = named(score(tau=(0.0, 0.2, 0.6)))
    for tau in (0.0, 0.2, 0.6):
        for key, one in named(score(tau=(tau,))).items():
            assert one == together[key]
    densities = [together["edge_density", "tokencut", tau].value for tau in (0.0, 0.2, 0.6)]
    assert densities == sorted(densities, reverse=True) and densities[0] > densities[2]


def test_points_that_are_known_are_not_scored_again():
    rest = score(tau=(0.0, 0.2), run=Run(known=frozenset({(("tau", 0.0),)})))
    assert {one.axes["tau"] for one in rest} == {0.2}


def test_how_many_pictures_are_cut_together_changes_no_number(monkeypatch):
    usual = score()
    monkeypatch.setitem(search.BYTES, "cpu", 1)
    assert score() == usual


def test_a_mirrored_data_set_has_the_same_scores():
    plain, mirrored = (named(score(dataset=replace(DATA, flipped=flipped), fit="lanczos")) for flipped in (False, True))
    assert plain["corloc", "tokencut", 0.2].value == pytest.approx(mirrored["corloc", "tokencut", 0.2].value)
    assert plain["box_iou", "centre box", 0.2].value == pytest.approx(mirrored["box_iou", "centre box", 0.2].value)


@pytest.mark.parametrize("preset", ["clean", "lost", "tokencut"])
def test_constant_features_are_named_and_never_scored_in_silence(preset, capsys):
    found = named(score(preset, dataset=replace(DATA, plain=True)))
    method, tau = configured(preset).method, None if preset == "lost" else 0.2
    assert found["degenerate", method, tau].value == 100
    corloc = found["corloc", method, tau]
    assert corloc.details["degenerate"] == {"nearly all patches alike": [item.name for item in SHOWN]}
    if preset != "tokencut":  # whose cut of a graph that is one block is arbitrary, there as here
        assert corloc.value == (0 if preset == "clean" else found["corloc", "whole picture", tau].value)
    said = capsys.readouterr().err
    assert f"the graphs of {len(SHOWN)} of {len(SHOWN)} images are degenerate" in said and "first val-0" in said
    assert ("counted as misses" in said) == (preset == "clean")


def test_a_shared_component_joins_everything_and_centring_removes_it():
    joined, centred = (named(score(model=backbone(shared=9.0), centre=centre)) for centre in ("none", "mean"))
    assert joined["degenerate", "tokencut", 0.2].value == 100 and joined["corloc", "tokencut", 0.2].value == 0
    assert centred["degenerate", "tokencut", 0.2].value == 0 and centred["corloc", "tokencut", 0.2].value > 50


def test_pictures_of_one_patch_are_degenerate():
    class Tiny(Rectangles):
        def image(self, item):
            return super().image(item).crop((0, 0, 12, 12))

        def objects(self, item):
            whole = super().objects(item)
            return replace(whole, boxes=np.clip(whole.boxes, 0, 1) * 12 * np.array([0, 0, 1, 1]))

    found = named(score(dataset=Tiny(root=Path())))
    assert found["corloc", "tokencut", 0.2].details["degenerate"] == {"one patch": [item.name for item in SHOWN]}
    assert found["corloc", "tokencut", 0.2].value == 0 and found["corloc", "whole picture", 0.2].value == 100


def test_boxes_of_no_size_are_no_objects():
    class Flat(Rectangles):
        def truth(self, item):
            whole = super().objects(item)
            return replace(whole, boxes=whole.boxes[:, [0, 1, 0, 3]]) if item.name == "val-0" else whole

    assert len(configured().scored(Flat(root=Path()).items("val"), Flat(root=Path()))) == len(SHOWN) - 1


def test_features_that_are_not_finite_are_refused():
    for method in ("lost", "tokencut"):
        with pytest.raises(UserError, match="the features of val-0 are not finite"):
            score(method=method, model=backbone(broken=True))


def test_no_picture_with_an_object_is_an_error():
    class Empty(Rectangles):
        def truth(self, item):
            return replace(super().objects(item), crowd=np.ones(len(super().objects(item)), bool))

    with pytest.raises(UserError, match="no picture of one-rectangle val shows an object"):
        score(dataset=Empty(root=Path()))


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"method": "lost", "tau": (0.3,)}, "belong to TokenCut"),
        ({"method": "lost", "graph": "cosine"}, "belong to TokenCut"),
        ({"graph": "cosine", "tau": (-0.1,)}, "negative weight"),
        ({"truth": "masks"}, "one-rectangle has boxes alone"),
    ],
)
def test_options_without_effect_are_refused(given, problem):
    with pytest.raises(UserError, match=problem):
        configured(**given)


def test_data_sets_without_objects_are_refused_in_one_line(tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    for name, problem in (("scenes", "no background class"), (f"pictures:{tmp_path}", "boxes or masks")):
        with pytest.raises(UserError, match=problem) as refusal:
            configured(dataset=load_dataset(name))
        assert "\n" not in str(refusal.value)


def test_label_maps_are_scored_by_masks():
    found = named(score(dataset=drawn_parts.DATA, model=load_backbone("pixels:8")))
    assert {metric for metric, *_ in found} == {"accuracy", "max_f", "iou", "edge_density", "degenerate"}
    shown = [item for item in drawn_parts.DATA.items("val") if (drawn_parts.DATA.label(item) > 0).any()]
    assert found["iou", "tokencut", 0.2].details["images"] == len(shown) < len(drawn_parts.DATA.items("val"))
    shares = [float((drawn_parts.DATA.label(item) > 0).mean()) for item in shown]
    assert found["iou", "whole picture", 0.2].value == pytest.approx(100 * np.mean(shares))
    assert found["accuracy", "whole picture", 0.2].value == pytest.approx(100 * np.mean(shares))


def test_frames_of_a_video_are_drawn_together(tmp_path):
    write(tmp_path / "videos", "boat", 4, 1)
    write(tmp_path / "videos", "cart", 3, 2)
    videos = load_dataset(f"frames:{tmp_path / 'videos'}")
    iou = score(dataset=videos, model=backbone())[-1]
    assert iou.metric == "iou" and iou.details["images"] == 7 and iou.details["videos"] == 2
    of_frames = decode(iou.details["of_pictures"])
    means = [of_frames[:4].mean(), of_frames[4:].mean()]
    assert min(iou.bootstrap) == pytest.approx(min(means), rel=1e-5) and max(iou.bootstrap) == pytest.approx(max(means), rel=1e-5)


def test_one_video_has_no_interval(tmp_path):
    """Its frames say nothing of other videos."""
    write(tmp_path / "videos", "boat", 4, 1)
    iou = score(dataset=load_dataset(f"frames:{tmp_path / 'videos'}"), model=backbone())[-1]
    assert iou.ci95 is None and not iou.bootstrap and iou.details["videos"] == 1


@pytest.mark.parametrize(("preset", "layer", "told"), [("lost", "last", True), ("lost", "key", False), ("clean", "last", False)])
def test_a_reference_says_when_another_layer_is_read(preset, layer, told, capsys):
    details = score(preset, model=backbone(layer=layer))[-1].details
    assert ("--layer key reads them" in capsys.readouterr().err) == told
    assert details["layer"] == layer and details.get("reference_layer") == (None if preset == "clean" else "key")


def test_published_numbers_are_those_of_keys():
    for preset, name in (("lost", "discovery-lost"), ("tokencut", "discovery-tokencut"), ("saliency", "saliency-tokencut")):
        assert Discovery.published_names(preset, "key") == (name,) and not Discovery.published_names(preset, "last")
    assert not Discovery.published_names("clean", "key")


def test_pictures_show_what_was_found(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    score(run=Run(pictures=folder), visualise=2)
    paths = sorted(folder.glob("*.png"))
    assert [path.stem for path in paths] == [SHOWN[0].name, SHOWN[-1].name]
    width, height = DATA.image_size(SHOWN[0])
    with Image.open(paths[0]) as picture:
        assert picture.size == (3 * width + 8, height)
    paths[0].unlink()
    assert score(run=Run(pictures=folder, drawing=True), visualise=2) == [] and paths[0].is_file()


def test_an_evaluation_prints_the_guesses_beside_the_score(tmp_path):
    from densebench.results.summary import summary

    result = evaluate(backbone(), configured(), DATA, results=tmp_path / "results")
    text = summary(result.records[0])
    assert "tokencut corloc in %" in text and "without features: centre box" in text and "whole picture" in text
    assert result.records[0]["dataset"]["left_out"] == 3


@pytest.mark.parametrize("preset", Discovery.presets)
def test_options_of_a_preset_can_be_built(preset):
    evaluator = options.build(Discovery, Discovery.presets[preset], {})
    if preset != "saliency":
        assert evaluator.resolve(toy_boxes.DATA).truth == "boxes"
