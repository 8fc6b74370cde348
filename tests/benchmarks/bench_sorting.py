"""The loss between soft orders, forward and backward: ours against a naive dense restatement, in one run, on the same rows.

The restatement writes a sorting network as it is usually written: for every row and layer a dense matrix of R x R, which a
product of batches multiplies with the values and with the permutation matrix so far; autograd keeps all of it. The loss between
the student's and the teacher's matrices and its gradient follow. The teacher's side runs without a graph in both. The network is
the bitonic one, the swap that of Cauchy. Where the package `diffsort` is installed its network takes a turn, too: it costs four
dense products a layer. Last comes the time of `torch.argsort` of student and teacher, to show what the soft order costs.

    python tests/benchmarks/bench_sorting.py [--sizes 16,32,49,64,128] [--rows 1024] [--threads 1] [--device cpu] [--repeat 3]

Loss and gradient are compared first, and what rounding may do is stated at the top of the file. --rows is the most that is
asked for: where the restatement would keep more than BUDGET bytes all sides get fewer. Seconds are the best of --repeat. Memory
is what a side needs at its peak beyond its inputs, in the first of the repeats: on a GPU what PyTorch allocates there, on a CPU
the high-water mark of the process's resident memory (Linux only).
"""

from __future__ import annotations

import argparse
import math
import time

import torch
from measuring import peak, settle

from densebench.numerics.sorting import comparators, order_loss

try:
    import diffsort
except ImportError:
    diffsort = None

STEEPNESS = 100.0
VALUE, GRADIENT = 1e-4, 2e-3  # rounding of float32: as a share of the loss, and of the largest entry of the gradient
BUDGET = 1e9  # bytes that the restatement may keep
MEGABYTE = 1e6


def parsed():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="16,32,49,64,128", help="values in a row")
    parser.add_argument("--rows", type=int, default=1024, help="rows at most")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--repeat", type=int, default=3)
    return parser.parse_args()


def layers(size, device):
    """Indices of the lower and the higher wires of each layer."""
    return [tuple(torch.tensor(wires, device=device) for wires in layer) for layer in comparators("bitonic", size)]


def dense(values, network):
    """The permutation matrices `[n, r, r]`: one dense matrix a row and layer."""
    rows, size = values.shape
    permutation = torch.eye(size, device=values.device).expand(rows, size, size)
    for low, high in network:
        stays = torch.atan(STEEPNESS * (values[:, high] - values[:, low])) / math.pi + 0.5
        idle = torch.ones(size, device=values.device)
        idle[low] = idle[high] = 0
        step = torch.diag_embed(idle).expand(rows, size, size).clone()
        step[:, low, low] = stays
        step[:, high, high] = stays
        step[:, low, high] = 1 - stays
        step[:, high, low] = 1 - stays
        values = torch.bmm(values[:, None], step)[:, 0]
        permutation = torch.bmm(permutation, step)
    return permutation


def composed(permutations):
    """The loss of matrices as a function of student and teacher."""

    def loss(student, teacher):
        with torch.no_grad():
            target = permutations(teacher)
        entropies = -(target * permutations(student).clamp(min=1e-20).log()).sum((1, 2)) / student.shape[1]
        return entropies.mean()

    return loss


def ours(student, teacher):
    weights = torch.full((len(student),), 1 / len(student), device=student.device)
    steep = {"steepness": STEEPNESS, "teacher_steepness": STEEPNESS}
    return order_loss(student, teacher, weights, **steep, network="bitonic", swap="cauchy")


def sides(size, device):
    """Name and loss of every side: the restatement first, ours second."""
    network = layers(size, device)
    found = {"dense": composed(lambda values: dense(values, network)), "ours": ours}
    if diffsort is not None:
        public = diffsort.DiffSortNet("bitonic", size, steepness=STEEPNESS, distribution="cauchy", device=device)
        found["diffsort"] = composed(lambda values: public(values)[1])
    return found


def affordable(size, asked):
    """Rows for which the restatement, which keeps two matrices a layer and builds more on the way, stays within the budget."""
    return max(1, min(asked, int(BUDGET / (len(comparators("bitonic", size)) * size * size * 4 * 3))))


def step(loss, student, teacher):
    """Loss and gradient."""
    student = student.detach().requires_grad_(True)
    value = loss(student, teacher)
    value.backward()
    return value.detach(), student.grad


def check(name, found, expected):
    for part, one, other, share in zip(("loss", "gradient"), found, expected, (VALUE, GRADIENT), strict=True):
        off = float((one - other).abs().max() / other.abs().max())
        if not off <= share:
            raise SystemExit(f"{name}: the {part} differs by {off:.1e} of the largest entry, more than {share:.0e}")


def timed(work, device, repeats):
    """Milliseconds, the best of `repeats`, and megabytes, of the first of them."""
    best, memory = float("inf"), float("nan")
    for turn in range(repeats):
        held = settle(torch.device(device)) if turn == 0 else 0
        started = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
        if turn == 0:
            memory = (peak(torch.device(device)) - held) / MEGABYTE
    return 1000 * best, memory


def compare(size, arguments, generator):
    """Check and time every side at one size, and print a line for each."""
    device = arguments.device
    rows = affordable(size, arguments.rows)
    student, teacher = (0.125 * torch.randn(2, rows, size, generator=generator)).to(device)
    costs, expected = {}, None
    for name, loss in sides(size, device).items():
        found = step(loss, student, teacher)  # warms up, too
        expected = expected or found
        check(f"{name}, {size} values", found, expected)
        del found
        costs[name] = timed(lambda loss=loss: step(loss, student, teacher), device, arguments.repeat)
    milliseconds, megabytes = costs["ours"]
    for name, (ms, mb) in costs.items():
        ratios = "" if name == "ours" else f"{ms / milliseconds:7.1f} {mb / megabytes if megabytes >= 1 else math.nan:7.1f}"
        print(f"{size:4} {rows:6}   {name:9} {ms:9.2f} {1000 * ms / rows:9.2f} {mb:9.1f}   {ratios}".rstrip(), flush=True)
    ms, _ = timed(lambda: (student.argsort(1), teacher.argsort(1)), device, arguments.repeat)
    print(f"{size:4} {rows:6}   {'argsort':9} {ms:9.2f} {1000 * ms / rows:9.2f}", flush=True)


def main():
    arguments = parsed()
    torch.set_num_threads(arguments.threads)
    where = torch.cuda.get_device_name() if arguments.device == "cuda" else f"CPU, {arguments.threads} threads"
    print(f"bitonic, cauchy, steepness {STEEPNESS:g}, float32, {where}; forward and backward, best of {arguments.repeat}")
    print(f"{'':>4} {'rows':>6}   {'side':9} {'ms':>9} {'us a row':>9} {'MB':>9}   {'slower':>7} {'larger':>7}")
    generator = torch.Generator().manual_seed(0)
    for size in (int(one) for one in arguments.sizes.split(",")):
        compare(size, arguments, generator)
    print(f"equal losses (within {VALUE:g}) and gradients (within {GRADIENT:g} of the largest entry) at every size")


if __name__ == "__main__":
    main()
