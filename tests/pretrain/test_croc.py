"""CrOC's objective on a tiny network: what is clustered, the vectors of clusters, and the loss between them, against loops."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from cribo_reference import SIZE, TEMP, context, views

from densebench.pretrain.croc.method import PARTS, CrOC
from densebench.training.networks import Network, create_encoder

IMAGES, HEADS, PATCHES = 3, 2, 9


def build(**options):
    """Objective, student and teacher, which differ; the centre of objects is not at zero."""
    torch.manual_seed(0)
    small = {"arch": "test_vit", "image_size": SIZE, "out_dim": 10, "object_dim": 14, "hidden_dim": 16, "bottleneck_dim": 8}
    chosen = CrOC(**{**small, "batch_size": IMAGES, "k_start": 5, "k_max": 4, "group_size": 0, **options})
    student, teacher = (
        Network(encoder, chosen.head(encoder.dim)) for encoder in (create_encoder("test_vit", SIZE, 0.0) for _ in "st")
    )
    objective = chosen.objective(student.encoder)
    objective.object_centre.value.copy_(torch.randn(14))
    return objective, student, teacher


@pytest.mark.parametrize("part", ["query", "key", "value"])
def test_a_problem_is_one_head_of_one_image_with_both_views(part):
    objective, _, teacher = build(tokens=part, group_size=2)
    batch = views(IMAGES)
    with torch.no_grad():
        encoded = teacher.encode(torch.cat(batch.pixels), qkv=True)
        tokens, positions, scores, noise, rules = objective.problems(encoded, batch, context())
    assert len(tokens) == len(positions) == len(scores) == len(noise) == IMAGES * HEADS
    assert rules.group == 2 * HEADS
    assert encoded.qkv.shape[2] == HEADS
    for image in range(IMAGES):
        for head in range(HEADS):
            problem = image * HEADS + head
            for view in (0, 1):
                own = slice(view * PATCHES, (view + 1) * PATCHES)
                every = F.normalize(encoded.qkv[PARTS.index(part), view * IMAGES + image, head], dim=1)
                torch.testing.assert_close(tokens[problem, own], every[1:])
                torch.testing.assert_close(scores[problem, own], every[1:] @ every[0])
                assert torch.equal(positions[problem, own], batch.positions(view, (3, 3))[image])


def clustered(objective, teacher, batch):
    """The teacher's tokens, and the clusters of all heads."""
    with torch.no_grad():
        encoded = teacher.encode(torch.cat(batch.pixels), qkv=True)
        return encoded, objective.cluster(encoded, batch, context())


def summed(clusters, encoded, view, image, head, cluster):
    weights = clusters.weights[view][image * HEADS + head, :, cluster]
    return weights @ encoded.patches[view * IMAGES + image]


def test_a_vector_is_the_weighted_sum_of_its_views_patches():
    objective, _, teacher = build(object_norm="none")
    encoded, clusters = clustered(objective, teacher, views(IMAGES))
    vectors = objective.vectors(clusters, encoded)
    assert vectors.shape[:3] == (2, IMAGES, HEADS * 4)
    for view in (0, 1):
        for image in range(IMAGES):
            rows = [summed(clusters, encoded, view, image, head, cluster) for head in range(HEADS) for cluster in range(4)]
            torch.testing.assert_close(vectors[view, image], torch.stack(rows))


def test_the_loss_of_objects_is_the_mean_over_clusters_and_both_directions():
    objective, student, teacher = build(object_norm="none")
    batch = views(IMAGES)
    encoded, clusters = clustered(objective, teacher, batch)
    student_encoded = student.encode(torch.cat(batch.pixels))
    losses = []
    for problem, cluster in clusters.valid.nonzero().tolist():
        image, head = divmod(problem, HEADS)
        for view in (0, 1):
            one = teacher.project(summed(clusters, encoded, view, image, head, cluster)[None])[0]
            other = student.project(summed(clusters, student_encoded, 1 - view, image, head, cluster)[None])[0]
            logits = teacher.head.prototypes("object") @ one - objective.object_centre.value
            target = (logits / TEMP).softmax(0)
            losses.append(
                -(target * (student.head.prototypes("object") @ other / objective.options.student_temp).log_softmax(0)).sum()
            )
    assert len(losses) > 2 * IMAGES
    loss = objective(student, teacher, batch, context())
    torch.testing.assert_close(loss.terms["object"], torch.stack(losses).mean().detach(), rtol=1e-4, atol=1e-5)
