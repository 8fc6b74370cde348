"""One training step of CrIBo by part: ours against a naive restatement of how the public reference does it, in one run.

The restatement cuts and colours views image by image with Pillow and resizes a map of pixel indices with them; measures
positions by a tensor of patches x patches x objects; normalises and copies the whole memory bank every step and keeps all
similarities; keeps the logits of every object, view and neighbour, also of those that carry no loss; walks over parameters in a
loop. CrOC's clustering is no part of CrIBo's step and enters no sum; there it goes from problem to problem and reads every
merge back from the device.

Both sides get the same inputs and must give the same result: positions, clusters, neighbours, matches, losses, gradients,
centres, banks and the teacher's weights are compared, and what rounding may do is stated at the top of the file. Of views only
the positions are compared: Pillow rounds to bytes and blurs by boxes. Weights are random, so patch tokens and the bank are
drawn: each region of an image has one of 64 concepts, with noise. Decoding is left out of both sides. All is float32, but for
the backbone's --precision.

    python tests/benchmarks/bench_pretrain.py [--arch vit_tiny_patch16_224] [--batch-size 16] [--objects 32] [--memory 512]

Seconds are the best of --repeats. Memory is what a part needs at its peak beyond what was held before it: on a GPU what PyTorch
allocates there (the naive views are made outside of it), on a CPU the high-water mark of the process's resident memory, in the
first of the repeats (Linux only). The memory of a sum is that of its largest part. The naive views are made by one process, as
one worker of a loader would make them.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from measuring import peak, settle
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from densebench import options as densebench_options
from densebench.backbones.backbone import IMAGENET_MEAN, IMAGENET_STD
from densebench.numerics.crops import patch_positions
from densebench.numerics.late_indices import LateIndices
from densebench.pretrain.cribo.bank import Bank
from densebench.pretrain.cribo.cycles import cycle_consistent
from densebench.pretrain.cribo.method import CrIBo
from densebench.pretrain.cribo.objects import from_labels
from densebench.pretrain.cribo.partition import partition
from densebench.pretrain.croc.merging import Rules, merge_clusters
from densebench.training.augmentation import BLUR_FLAG, GREY_FLAG, SOLARISE_FLAG
from densebench.training.batches import collate
from densebench.training.image_level import by_image, image_loss
from densebench.training.networks import Network, create_encoder
from densebench.training.objective import StepContext
from densebench.training.optimisation import clip_each, follow, gradients, parameter_groups
from densebench.training.rendering import render_views

PIXELS = 0.05  # between positions
SAME = 0.995  # share of patches, objects and matches that must be equal: sums in another order may turn a near tie
ALIKE = 0.95  # share of CrOC's problems that must be equal: one turned near tie changes all later merges
ROUNDING = 1e-3  # of a tensor of sums in float32, as a share of its largest entry
WIDTH, HEIGHT = 640, 480  # of the images
CONCEPTS, REGIONS = 64, 12
MOMENTUM, CLIP = 0.996, 3.0


def parsed():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="vit_tiny_patch16_224")
    sizes = {"image_size": 224, "batch_size": 16, "objects": 32, "memory": 512, "out_dim": 16384, "repeats": 2}
    for name, value in sizes.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="fewer where other work shares the cores")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of the backbone")
    arguments = parser.parse_args()
    if arguments.memory < arguments.batch_size:
        parser.error("--memory must hold a batch at least")
    return arguments


# Clocks, memory, the table


@dataclass(frozen=True)
class Cost:
    """Seconds and MiB; nan for memory that cannot be told."""

    seconds: float
    memory: float


@dataclass(frozen=True)
class Row:
    """A line of the table. `equal` says how well the results agree; a part that both sides share has one cost."""

    part: str
    naive: Cost
    ours: Cost
    equal: str = ""


def measured(work, device, repeats, prepare=lambda: None):
    """The best time of `repeats`, the peak of the first one, and the result. `prepare` comes before each, unmeasured."""
    best, most, result = float("inf"), 0.0, None
    for number in range(repeats):
        result = None
        prepare()
        held = settle(device) if number == 0 else 0  # later runs find memory as training does: allocated before
        started = clock(device)
        result = work()
        best = min(best, clock(device) - started)
        most = most if number else peak(device) - held
    return Cost(best, most / 2**20), result


def clock(device):
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def total(part, rows):
    """The sum of rows; the memory is that of the largest."""
    naive, ours = (
        Cost(sum(cost.seconds for cost in costs), max(cost.memory for cost in costs))
        for costs in ([row.naive for row in rows], [row.ours for row in rows])
    )
    return Row(part, naive, ours)


def show(row):
    """Print a row at once and give it back."""
    slow, fast = row.naive, row.ours
    if slow is fast:
        print(f"{row.part:30} {fast.seconds:9.3f} {'same':>9} {'':7} {fast.memory:10.0f} {'same':>9}", flush=True)
        return row
    seconds = f"{slow.seconds:9.3f} {fast.seconds:9.3f} {slow.seconds / fast.seconds:7.2f}"
    ratio = f"{slow.memory / fast.memory:7.1f}" if min(slow.memory, fast.memory) >= 1 else f"{'-':>7}"
    print(f"{row.part:30} {seconds} {slow.memory:10.0f} {fast.memory:9.0f} {ratio}", flush=True)
    return row


def close(name, ours, theirs, bound=ROUNDING):
    """How far two tensors are apart, as a share of the largest entry; stops where it is too far."""
    apart = float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-12))
    if not apart <= bound:
        sys.exit(f"{name}: the two sides differ by {apart:.1e} of the largest entry; their ratio means nothing")
    return apart


def share(name, equal, bound=SAME):
    """The share of true entries; stops where it is too small."""
    found = float(equal.float().mean())
    if not found >= bound:
        sys.exit(f"{name}: only {found:.2%} of the two sides' results are equal; their ratio means nothing")
    return found


# Inputs


def draw_images(count, generator):
    """Smooth colours with grain, uint8 [h w 3]."""
    coarse = torch.rand(count, 3, 12, 16, generator=generator)
    smooth = F.interpolate(coarse, (HEIGHT, WIDTH), mode="bicubic")
    noisy = (smooth + 0.1 * torch.randn(smooth.shape, generator=generator)).clamp(0, 1)
    return [image.movedim(0, 2).contiguous().numpy() for image in (noisy * 255).byte()]


def draw_tokens(positions, concepts, generator):
    """Tokens [b joint d] of patches at `positions`: the concept of the nearest region, what is special about it, and noise."""
    b, joint, _ = positions.shape
    centres = torch.rand(b, REGIONS, 2, generator=generator) * torch.tensor([WIDTH, HEIGHT])
    region = torch.cdist(positions, centres).argmin(dim=2)
    kinds = torch.randint(len(concepts), (b, REGIONS), generator=generator)
    shapes = concepts[kinds] + 0.5 * torch.randn(b, REGIONS, concepts.shape[1], generator=generator)
    tokens = shapes.gather(1, region[:, :, None].expand(-1, -1, concepts.shape[1]))
    return tokens + 0.7 * torch.randn(b, joint, concepts.shape[1], generator=generator)


def fill_bank(bank, concepts, valid, generator):
    """Objects of other images in every place, of which a share of `valid` is there; the views of one differ a little."""
    kinds = torch.randint(len(concepts), bank.valid.shape, generator=generator)
    objects = concepts[kinds] + 0.5 * torch.randn(*kinds.shape, concepts.shape[1], generator=generator)
    for held in bank.objects:
        held.copy_(objects + 0.2 * torch.randn(objects.shape, generator=generator))
    bank.valid.copy_(torch.rand(bank.valid.shape, generator=generator) < valid)
    bank.numbers.copy_(10**6 + torch.arange(len(bank.numbers)))
    bank.inverse_lengths.copy_(1 / bank.objects.norm(dim=3))
    bank.load_state_dict(bank.state_dict())  # so that it counts anew which places hold an object


# Views


def compare_views(arguments, device, recipes, images, tables, patch):
    grid = (arguments.image_size // patch,) * 2

    def ours():
        batch = collate([(image, table, number, ()) for number, (image, table) in enumerate(zip(images, tables, strict=True))])
        if device.type == "cuda":
            batch = batch.on(device, recipes)
        views = render_views(batch.pixels, batch.offsets, batch.draws, recipes, batch.plans, IMAGENET_MEAN, IMAGENET_STD)
        there = [draws.on(device) for draws in batch.draws]
        return [(pixels, patch_positions(draws.boxes, draws.flips, grid)) for pixels, draws in zip(views, there, strict=True)]

    fast, found = measured(ours, device, arguments.repeats)
    slow, theirs = measured(lambda: naive_views(images, tables, arguments.image_size, patch, device), device, arguments.repeats)
    apart = max(float((a - b).abs().max()) for (_, a), (_, b) in zip(found, theirs, strict=True))
    if not apart <= PIXELS:
        sys.exit(f"positions differ by {apart:.3f} px")
    return Row("views", slow, fast, f"positions to {apart:.3f} px"), found


def naive_views(images, tables, size, patch, device):
    """Per view the pixels [b 3 s s] and the patch positions [b n 2]."""
    found = []
    for image, table in zip(images, tables, strict=True):
        height, width = image.shape[:2]
        down, across = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        index_map = torch.stack([across, down]).float()
        found.append([naive_view(Image.fromarray(image), index_map, numbers, size, patch) for numbers in table])
    return [tuple(torch.stack(parts).to(device) for parts in zip(*view, strict=True)) for view in zip(*found, strict=True)]


def naive_view(image, index_map, numbers, size, patch):
    top, left, height, width = (int(number) for number in numbers[:4])
    image = image.crop((left, top, left + width, top + height)).resize((size, size), Image.Resampling.BICUBIC)
    index_map = index_map[:, top : top + height, left : left + width]
    index_map = F.interpolate(index_map[None], (size, size), mode="bicubic", antialias=True)[0]
    if numbers[4]:
        image, index_map = ImageOps.mirror(image), index_map.flip(2)
    if numbers[5]:
        for operation in numbers[10:14]:
            image = naive_jitter(image, int(operation), float(numbers[6 + int(operation)]))
    if numbers[GREY_FLAG]:
        image = image.convert("L").convert("RGB")
    if numbers[BLUR_FLAG]:
        image = image.filter(ImageFilter.GaussianBlur(float(numbers[BLUR_FLAG])))
    if numbers[SOLARISE_FLAG]:
        image = ImageOps.solarize(image, 128)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div(255)
    pixels = (pixels - torch.tensor(IMAGENET_MEAN)[:, None, None]) / torch.tensor(IMAGENET_STD)[:, None, None]
    return pixels, F.avg_pool2d(index_map, patch).flatten(1).T


def naive_jitter(image, operation, strength):
    if operation < 3:
        return (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)[operation](image).enhance(strength)
    hue, saturation, value = image.convert("HSV").split()
    turned = (np.array(hue, dtype=np.int16) + int(strength * 255)) % 256
    return Image.merge("HSV", (Image.fromarray(turned.astype(np.uint8)), saturation, value)).convert("RGB")


# Clustering


def compare_clustering(arguments, device, options, tokens, positions, noise):
    settings = {"rounds": options.rounds, "sharpness": options.sharpness, "iterations": options.sinkhorn_iterations}

    def both(cluster):
        return lambda: cluster(tokens, positions, noise, options.objects, options.lambda_pos, **settings)

    fast, labels = measured(both(partition), device, arguments.repeats)
    slow, theirs = measured(both(naive_partition), device, arguments.repeats)
    return Row("clustering", slow, fast, f"{share('clusters', labels == theirs):.2%} of patches in the same cluster"), labels


def naive_partition(tokens, positions, noise, count, lambda_pos, rounds, sharpness, iterations):
    b, joint, _ = tokens.shape
    tokens = F.normalize(tokens, dim=2)
    apart = torch.cdist(positions, positions, compute_mode="donot_use_mm_for_euclid_dist")
    start = noise.topk(count, dim=1).indices
    assigned = F.one_hot(start, joint).float().transpose(1, 2)
    centroids = assigned.transpose(1, 2) @ tokens
    rows, columns = tokens.new_full((b, joint), 1 / joint), tokens.new_full((b, count), 1 / count)
    for _ in range(rounds):
        away = apart[:, :, :, None] * assigned[:, None]  # [b joint joint count]
        away = torch.where(away > 0, away, torch.inf).amin(dim=2)
        missing = away.isinf()
        away[missing] = 0
        away = torch.where(missing, away.mean(dim=(1, 2), keepdim=True), away)
        away = away / away.amax(dim=(1, 2), keepdim=True)
        cost = lambda_pos * away - tokens @ F.normalize(centroids, dim=2).transpose(1, 2)
        cost = (cost - cost.min()) / (cost.max() - cost.min())
        plan = naive_transport(cost, rows, columns, sharpness, iterations)
        assigned = (plan == plan.amax(dim=2, keepdim=True)).float()
        columns = assigned.sum(dim=1) + 0.01
        columns = columns / columns.sum(dim=1, keepdim=True)
        centroids = assigned.transpose(1, 2) @ tokens
    return assigned.argmax(dim=2)


def naive_transport(cost, rows, columns, sharpness, iterations):
    """One plan or many, [... n k]."""
    plan = torch.exp(-sharpness * cost)
    plan = plan / plan.sum(dim=(-2, -1), keepdim=True)
    for _ in range(iterations):
        plan = plan * rows[..., :, None] / plan.sum(dim=-1, keepdim=True)
        plan = plan * columns[..., None, :] / plan.sum(dim=-2, keepdim=True)
    return torch.nan_to_num(plan, nan=1e-8)


# The bank


def compare_bank(arguments, device, bank, teacher_objects, objects, labels, numbers):
    """The row, and the places of the nearest neighbours."""
    valid = objects.valid
    crops = torch.zeros(len(valid), 2, 5, device=device)
    full = copy.deepcopy(bank.state_dict())
    newest = torch.arange(len(bank.numbers) - 1, -1, -1, device=device)

    def ours():
        places = torch.stack([bank.nearest(view, teacher_objects[view], numbers, valid)[0] for view in (0, 1)])
        bank.add(teacher_objects, valid, numbers, labels, crops)
        return places

    held = bank.valid[newest]
    rows = torch.stack([side[newest][held] for side in bank.objects])
    queries = teacher_objects[:, valid]

    def naive():
        return naive_bank(rows, held.sum(dim=1), queries, valid.sum(dim=1))

    fast, places = measured(ours, device, arguments.repeats, lambda: bank.load_state_dict(full))
    slow, (best, after, counts) = measured(naive, device, arguments.repeats)

    order = torch.cat([torch.arange(len(valid), device=device), newest[: -len(valid)]])
    share("objects per image in the bank", counts == bank.valid[order].sum(dim=1), 1)
    for view in (0, 1):
        close("bank", bank.objects[view][order][bank.valid[order]], after[view], 0)
    bank.load_state_dict(full)
    found = torch.stack([bank.at(view, places[view][valid]) for view in (0, 1)])
    theirs = torch.stack([rows[view][best[view]] for view in (0, 1)])
    similar = [F.cosine_similarity(queries, match, dim=2) for match in (found, theirs)]
    close("similarity of neighbours", *similar, bound=1e-5)
    same = share("neighbours", (found == theirs).all(dim=2))
    return Row("bank: search and update", slow, fast, f"{same:.2%} of neighbours equal, banks equal"), places


def naive_bank(rows, counts, queries, added):
    """The best row for each query, and the bank after the batch has entered it: newest first, as many images as before."""
    best = []
    for view in (0, 1):
        similar = F.normalize(queries[view], dim=1) @ F.normalize(rows[view], dim=1).T
        best.append(similar.topk(1, dim=1).indices[:, 0])
    counts = torch.cat([added, counts])[: len(counts)]
    rows = torch.cat([queries, rows], dim=1)
    return torch.stack(best), rows[:, : int(counts.sum())].clone(), counts


def compare_cycles(arguments, device, bank, teacher_objects, objects, places):
    """The row, and which matches hold."""
    valid = objects.valid
    fast, masks = measured(
        lambda: torch.stack([cycle_consistent(bank.at(1 - v, places[v]), teacher_objects[1 - v], valid) & valid for v in (0, 1)]),
        device,
        arguments.repeats,
    )

    def naive():
        there, found = teacher_objects[:, valid], []
        for view in (0, 1):
            jumped = bank.objects[1 - view].flatten(0, 1)[places[view][valid]]
            similar = F.normalize(jumped, dim=1) @ F.normalize(there[1 - view], dim=1).T
            back = similar.topk(1, dim=1).indices[:, 0]
            found.append(back == torch.arange(len(back), device=device))
        return torch.stack(found)

    slow, theirs = measured(naive, device, arguments.repeats)
    return Row("cycle check", slow, fast, f"{share('cycles', masks[:, valid] == theirs):.2%} of matches equal"), masks


# Heads and losses


def compare_losses(arguments, device, options, objective, networks, vectors, images, objects, places, masks):
    """networks, vectors (of objects) and images (class tokens): the student's and the teacher's."""
    (student, teacher), (student_objects, teacher_objects), (student_views, teacher_views) = networks, vectors, images
    leaves = [student_objects, student_views, *student.head.parameters()]
    centres = objective.image_centre, objective.object_centre
    before = [centre.value.clone() for centre in centres]
    context = StepContext(step=0, epoch=options.bootstrap_after, epochs=1.0, scheduled={"teacher_temp": options.teacher_temp})
    objective.match = lambda *_: (places, masks)  # has its own lines in the table

    def prepare():
        for leaf in leaves:
            leaf.grad = None
        for centre, value in zip(centres, before, strict=True):
            centre.value.copy_(value)

    def ours():
        with torch.no_grad():
            z_t = by_image(teacher.head(teacher_views), 2)
        z_s = by_image(student.head(student_views), 2)
        losses = [image_loss(z_s, z_t, student, teacher, centres[0], options.student_temp, context)]
        centres[0].see(z_t)
        matches, _ = objective.matches([], teacher_objects, objects.valid, context)
        rows, *chosen = LateIndices(objects.valid, matches.used, matches.weights > 0).indices()
        student_logs = student.project(student_objects.flatten(1, 2)[:, rows])
        prototypes = student.head.prototypes("object"), teacher.head.prototypes("object")
        losses.append(objective.object_loss(student_logs, teacher_objects, objects.valid, rows, prototypes, teacher, context))
        losses.append(objective.neighbour_loss(student_logs, objects.valid, matches, chosen, prototypes, teacher, context))
        torch.stack(losses).sum().backward()
        for centre, name in zip(centres, ("image", "object"), strict=True):
            centre.commit(teacher.head.prototypes(name))
        return outcome(losses, [centre.value for centre in centres])

    def naive():
        near = torch.stack([side.flatten(0, 1)[places] for side in objective.bank.objects], dim=1)  # [of view, in bank, b, k, d]
        held = masks[:, objects.valid]
        rows = student_objects[:, objects.valid], teacher_objects[:, objects.valid], near[:, :, objects.valid]
        losses, moved = naive_losses(options, student.head, teacher.head, student_views, teacher_views, *rows, held, before)
        return outcome(losses, moved)

    def outcome(losses, moved):
        return (
            torch.stack(losses).detach(),
            [leaf.grad for leaf in leaves if leaf.requires_grad],
            [value.clone() for value in moved],
        )

    fast, found = measured(ours, device, arguments.repeats, prepare)
    slow, theirs = measured(naive, device, arguments.repeats, prepare)
    close("losses", found[0], theirs[0])
    apart = max(close("gradients", a, b) for a, b in zip(found[1], theirs[1], strict=True))
    for a, b in zip(found[2], theirs[2], strict=True):
        close("centres", a, b)
    prepare()
    return Row(
        "heads and losses", slow, fast, f"gradients to {apart:.0e}; losses {', '.join(f'{x:.4f}' for x in found[0].tolist())}"
    )


def naive_losses(options, student, teacher, student_views, teacher_views, student_objects, teacher_objects, near, held, centres):
    """The three losses, after their backward pass, and the centres that follow. Every row has its full logits."""

    def targets(logits, centre):
        return ((logits - centre) / options.teacher_temp).softmax(dim=-1)

    def predictions(logits):
        return (logits / options.student_temp).log_softmax(dim=-1)

    def entropies(target, prediction):
        return -(target * prediction).sum(dim=-1)

    image_logits = student(student_views) @ student.prototypes("image").T
    logits = student(student_objects) @ student.prototypes("object").T
    with torch.no_grad():
        image_aims = teacher(teacher_views) @ teacher.prototypes("image").T
        aims = teacher(teacher_objects) @ teacher.prototypes("object").T
        near_aims = teacher(near) @ teacher.prototypes("object").T
        asked, near_asked = targets(aims, centres[1]), targets(near_aims, centres[1])
        image_asked = targets(image_aims, centres[0]).chunk(2)
    student_view_logs, student_logs = predictions(image_logits).chunk(2), predictions(logits)
    losses = [
        (entropies(image_asked[0], student_view_logs[1]).mean() + entropies(image_asked[1], student_view_logs[0]).mean()) / 2,
        (entropies(asked[0], student_logs[1]).mean() + entropies(asked[1], student_logs[0]).mean()) / 2,
    ]
    across = [entropies(near_asked[view, view], student_logs[1 - view]) for view in (0, 1)]
    matched = int(held[0].sum())  # both directions are divided by the first one's, as in the code that was published
    losses.append((across[0][held[0]].sum() + across[1][held[1]].sum()) / matched / 2 if matched else 0 * across[0].sum())
    torch.stack(losses).sum().backward()
    m = options.centre_momentum
    return losses, [m * centres[0] + (1 - m) * image_aims.mean(dim=0), m * centres[1] + (1 - m) * aims.flatten(0, 1).mean(dim=0)]


# The optimiser's side


def compare_updates(arguments, device, student, teacher):
    generator = torch.Generator(device).manual_seed(1)
    parameters = [p for p in student.parameters() if p.requires_grad]
    grads = [torch.randn(p.shape, generator=generator, device=device) for p in parameters]
    weights = copy.deepcopy(teacher.state_dict())

    def prepare():
        for parameter, grad in zip(parameters, grads, strict=True):
            parameter.grad = grad.clone()
        teacher.load_state_dict(weights)

    def ours():
        clip_each(gradients(student), CLIP)
        follow(teacher, student, MOMENTUM)

    @torch.no_grad()
    def naive():
        for parameter in student.parameters():
            if parameter.grad is not None:
                scale = CLIP / (parameter.grad.norm() + 1e-6)
                if scale < 1:
                    parameter.grad.mul_(scale)
        for parameter, mine in zip(student.parameters(), teacher.parameters(), strict=True):
            mine.mul_(MOMENTUM).add_((1 - MOMENTUM) * parameter.detach())

    costs, results = [], []
    for work in (naive, ours):
        costs.append(measured(work, device, arguments.repeats, prepare)[0])
        results.append([*(p.grad for p in parameters), *(p.clone() for p in teacher.parameters())])
    apart = max(close("optimiser", a, b) for a, b in zip(*results[::-1], strict=True))
    return Row("clipping and moving average", *costs, f"gradients and teacher to {apart:.0e}")


def shared_parts(arguments, device, student, teacher, pixels):
    """What both sides do alike."""
    pixels = torch.cat(pixels)
    autocast = {"device_type": device.type, "dtype": torch.bfloat16, "enabled": arguments.precision == "bf16"}

    def forward():
        with torch.no_grad(), torch.autocast(**autocast):
            teacher.encoder(pixels)

    def both_ways():
        with torch.autocast(**autocast):
            tokens = student.encoder(pixels)
        torch.cat([tokens.image[:, None], tokens.patches], dim=1).float().square().mean().backward()

    def fill():
        for parameter in student.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.ones_like(parameter)

    optimiser = torch.optim.AdamW(parameter_groups([student]), lr=1e-4, fused=device.type == "cuda" or None)
    fill()
    optimiser.step()  # makes its state
    costs = {
        "backbone: teacher": measured(forward, device, arguments.repeats),
        "backbone: student, both ways": measured(both_ways, device, arguments.repeats, student.zero_grad),
        "AdamW": measured(optimiser.step, device, arguments.repeats, fill),
    }
    return [show(Row(part, cost, cost)) for part, (cost, _) in costs.items()]


# CrOC's clustering


def compare_merging(arguments, device, heads, tokens, positions, noise):
    rules = Rules()
    b, joint, dim = tokens.shape
    every = F.normalize(tokens.view(b, joint, heads, dim // heads).transpose(1, 2), dim=3)  # [b heads joint d]
    first, second = every.chunk(2, dim=2)
    scores = torch.cat([F.cosine_similarity(part, part.mean(dim=2, keepdim=True), dim=3) for part in (first, second)], dim=2)
    problems = every.flatten(0, 1), positions.repeat_interleave(heads, dim=0), scores.flatten(0, 1), noise.flatten(0, 1), rules
    fast, found = measured(lambda: merge_clusters(*problems), device, arguments.repeats)
    slow, theirs = measured(lambda: naive_merging(*problems), device, arguments.repeats)
    equal = []
    for number, views in enumerate(theirs):
        count = views[0].shape[1]
        apart = [float((ours[number, :, :count] - view).abs().max()) for ours, view in zip(found.weights, views, strict=True)]
        equal.append(int(found.count[number]) == count and max(apart) < ROUNDING)
    same = share("CrOC's clusters", torch.tensor(equal), ALIKE)
    return Row("CrOC: clustering (in no sum)", slow, fast, f"{same:.2%} of {len(equal)} problems equal")


def naive_merging(tokens, positions, scores, noise, rules):
    """For each problem the weights of its clusters in both views, [n count] each; columns of pruned clusters are 0."""
    numbers = range(len(tokens))
    rows, weights, columns = [], [], []
    for p in numbers:
        rows.append(torch.softmax(scores[p] / rules.score_temp, dim=0))
        chosen = (-torch.log1p(-noise[p]) / rows[p]).topk(rules.start, largest=False).indices  # a draw without replacement
        weights.append(F.one_hot(chosen, tokens.shape[1]).float().T)
        columns.append(torch.softmax(scores[p][chosen] / rules.score_temp, dim=0))
    plans, qualities = [[] for _ in numbers], [[] for _ in numbers]
    for count in range(rules.start, 1, -1):
        costs = []
        for p in numbers:
            centroids = F.normalize(weights[p].T @ tokens[p], dim=1)
            away = torch.cdist(positions[p], weights[p].T @ positions[p], compute_mode="donot_use_mm_for_euclid_dist")
            costs.append(rules.lambda_pos * away / away.max() - tokens[p] @ centroids.T)
        low, high = min(cost.min().item() for cost in costs), max(cost.max().item() for cost in costs)
        for p in numbers:
            cost = (costs[p] - low) / (high - low)
            plan = naive_transport(cost, rows[p], columns[p], rules.sharpness, rules.iterations)
            plans[p].append(plan)
            qualities[p].append((plan * cost).sum())
            if count > 2:
                centroids = (plan / plan.sum(dim=0)).T @ tokens[p]
                similar = centroids @ centroids.T - 2 * torch.eye(count, device=plan.device)
                [[i, j]] = (similar == similar.max()).nonzero()[:1].tolist()
                kept = [column for column in range(count) if column not in (i, j)]
                plan = torch.cat([plan[:, kept], plan[:, i : i + 1] + plan[:, j : j + 1]], dim=1)
                weights[p] = plan / plan.sum(dim=0)
                columns[p] = rows[p] @ weights[p] / (rows[p] @ weights[p]).sum()
    return [naive_split(plans[p][int(torch.stack(qualities[p]).argmin())]) for p in numbers]


def naive_split(plan):
    views = [part / part.sum(dim=0) for part in plan.chunk(2)]
    views = [view * F.one_hot(view.argmax(dim=1), plan.shape[1]) for view in views]
    shown = [set(view.sum(dim=0).nonzero()[:, 0].tolist()) for view in views]
    both = torch.tensor([float(column in shown[0] & shown[1]) for column in range(plan.shape[1])], device=plan.device)
    return [view * both for view in views]


def main():
    arguments = parsed()
    name = ("cuda" if torch.cuda.is_available() else "cpu") if arguments.device == "auto" else arguments.device
    device = torch.device(name)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    given = {field: getattr(arguments, field) for field in ("arch", "image_size", "batch_size", "objects", "memory", "out_dim")}
    given |= {"object_dim": arguments.out_dim, "group_size": 0, "precision": "fp32"}
    options = densebench_options.build(CrIBo, CrIBo.presets["coco"], given)
    networks = []
    for _ in range(2):  # of different weights, as after some training
        encoder = create_encoder(options.arch, options.image_size, options.drop_path)
        networks.append(Network(encoder, options.head(encoder.dim)).to(device))
    student, teacher = networks
    teacher.requires_grad_(False)
    objective = options.objective(encoder).to(device)
    machine = torch.cuda.get_device_name() if name == "cuda" else f"CPU, {arguments.threads} threads"
    print(f"{options.arch} at {options.image_size} px, {arguments.batch_size} images of {WIDTH} x {HEIGHT}, {machine}")
    print(f"{options.objects} objects, bank of {options.memory} images, {options.out_dim} prototypes", flush=True)

    recipes = options.views()
    draw = np.random.default_rng(0)
    images = draw_images(arguments.batch_size, generator)
    tables = [np.stack([recipe.draw(WIDTH, HEIGHT, draw) for recipe in recipes]) for _ in images]
    print(f"\n{'part':30} {'naive s':>9} {'ours s':>9} {'ratio':>7} {'naive MiB':>10} {'ours MiB':>9} {'ratio':>7}")
    row, views = compare_views(arguments, device, recipes, images, tables, encoder.patch)
    rows = [show(row)]

    positions = torch.cat([places for _, places in views], dim=1)
    concepts = torch.randn(CONCEPTS, encoder.dim, generator=generator)
    tokens = draw_tokens(positions.cpu(), concepts, generator).to(device)
    noise = torch.rand(positions.shape[:2], generator=generator).to(device)
    row, labels = compare_clustering(arguments, device, options, tokens, positions, noise)
    rows.append(show(row))

    objects = from_labels(labels, options.objects)
    teacher_objects = torch.stack([objects.vectors(view, part) for view, part in enumerate(tokens.chunk(2, dim=1))])
    bank: Bank = objective.bank
    fill_bank(bank, concepts, float(objects.valid.float().mean()), generator)
    numbers = torch.arange(arguments.batch_size, device=device)
    row, places = compare_bank(arguments, device, bank, teacher_objects, objects, labels, numbers)
    rows.append(show(row))
    row, masks = compare_cycles(arguments, device, bank, teacher_objects, objects, places)
    rows.append(show(row))

    student_objects = (
        teacher_objects + 0.3 * torch.randn(teacher_objects.shape, generator=generator).to(device)
    ).requires_grad_()
    classes = torch.cat([part.mean(dim=1) for part in tokens.chunk(2, dim=1)])
    student_logs = (classes + 0.3 * torch.randn(classes.shape, generator=generator).to(device)).requires_grad_()
    inputs = networks, (student_objects, teacher_objects), (student_logs, classes), objects, places, masks
    rows.append(show(compare_losses(arguments, device, options, objective, *inputs)))
    rows.append(show(compare_updates(arguments, device, student, teacher)))
    show(total("sum without the backbone", rows))
    shared = shared_parts(arguments, device, student, teacher, [pixels for pixels, _ in views])
    show(total("sum with the backbone", rows + shared))
    heads = encoder.model.blocks[-1].attn.num_heads
    noise = torch.rand(arguments.batch_size, heads, positions.shape[1], generator=generator).to(device)
    rows.append(show(compare_merging(arguments, device, heads, tokens, positions, noise)))

    there, matched = float(objects.valid.sum()), float(masks.sum())
    print(f"\n{there / len(images):.1f} objects an image are in both views, {matched / (2 * there):.0%} of them matched; equal:")
    for row in rows:
        print(f"  {row.part:30} {row.equal}")


if __name__ == "__main__":
    main()
