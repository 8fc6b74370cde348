"""Community detection (CD): clusters that lie side by side in many images become one object.

Ziegler and Asano, Leopart: Self-Supervised Learning of Object Parts for Semantic Segmentation, CVPR 2022, section 3.4. The
reference finds communities with Infomap (Rosvall and Bergstrom, PNAS 2008), whose licence is not permissive; the default here is
Louvain's method (Blondel et al., J. Stat. Mech. 2008) as networkx has it.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from densebench.extras import check_installed, require
from densebench.processes import collected

Offset = tuple[int, int]
Edge = tuple[int, int, float]
EIGHT = tuple(number * math.pi / 4 for number in range(8))
ANGLES = {"eight": EIGHT, "leopart": (*EIGHT[:5], 4 * math.pi / 3, *EIGHT[6:])}
INFOMAP = """
import infomap, json, sys
edges, options = json.load(sys.stdin)
modules = infomap.run([tuple(edge) for edge in edges], options=infomap.Options(**options)).modules()
print(json.dumps(list(modules.items())))
"""  # in a separate process: the generated bindings of infomap and faiss clash over a shared table of types
RESOLUTIONS = tuple(2.0**exponent for exponent in [number / 4 for number in range(-12, 17)])  # 1/8 to 16


def offsets(distances: Sequence[int] = (1, 2), angles: str = "eight") -> tuple[Offset, ...]:
    """Return the offsets (rows down, columns right) of the neighbours that count, one for each distance and angle.

    Distances are measured along the ray and rounded to whole pixels, as in scikit-image: at distance 2 the diagonal neighbour is
    the one at (1, 1), which therefore appears twice. angles: "eight" directions; "leopart" has 240 degrees in place of 225, a
    slip of the reference.
    """
    return tuple((_rounded(math.sin(a) * d), _rounded(math.cos(a) * d)) for d in distances for a in ANGLES[angles])


def _rounded(value: float) -> int:
    return int(math.copysign(math.floor(abs(value) + 0.5), value))


def cooccurrence(clusters: Int[Tensor, "n h w"], k: int, neighbours: Sequence[Offset]) -> Float[Tensor, "k k"]:
    """Return the share of each other cluster (column) among the neighbours of a cluster (row).

    Rows sum to 1, or to 0 for a cluster without neighbours. Shares are computed for each image and averaged over the images in
    which the cluster has a neighbour of another cluster. The maps are those of the images that `dealt` gives this process, and
    count together with those of the other processes.
    """
    total, images = torch.zeros(k, k, dtype=torch.float64), torch.zeros(k, dtype=torch.float64)
    for names, counts in collected([_counted(image, neighbours) for image in clusters]):
        rows = counts.sum(1)
        total[names[:, None], names] += counts / rows.clamp(min=1)[:, None]
        images[names] += rows > 0
    return total / images.clamp(min=1)[:, None]


def _counted(image: Int[Tensor, "h w"], neighbours: Sequence[Offset]) -> tuple[Int[Tensor, "m"], Float[Tensor, "m m"]]:
    """Return the clusters of an image, and how often each has each other one as a neighbour."""
    names, index = image.unique(return_inverse=True)
    pairs = torch.cat([(a * len(names) + b).flatten() for a, b in (_shifted(index, offset) for offset in neighbours)])
    counts = torch.bincount(pairs, minlength=len(names) ** 2).view(len(names), -1).double().cpu()
    return names.cpu(), counts.fill_diagonal_(0)


def _shifted(image: Tensor, offset: Offset) -> tuple[Tensor, Tensor]:
    """Return the pixels that have a neighbour at an offset, and these neighbours."""
    height, width = image.shape
    dy, dx = offset
    pixels = image[max(0, -dy) : height - max(0, dy), max(0, -dx) : width - max(0, dx)]
    neighbours = image[max(0, dy) : height - max(0, -dy), max(0, dx) : width - max(0, -dx)]
    return pixels, neighbours


def graph(matrix: Float[Tensor, "k k"], threshold: float) -> list[Edge]:
    """Return an edge for every two clusters with `threshold` or more of each other's neighbours, weighted by the lower share."""
    least = torch.minimum(matrix, matrix.T)
    pairs = ((least >= threshold) & (least > 0)).triu(1).nonzero()
    return [(i, j, float(least[i, j])) for i, j in pairs.tolist()]


def communities(
    edges: Sequence[Edge],
    k: int,
    *,
    method: str = "louvain",
    seed: int = 0,
    resolution: float | None = None,
    markov_time: float = 1.0,
    wanted: int | None = None,
) -> Int[Tensor, "k"]:
    """Return the community of each cluster, numbered from 1 in the order of its lowest cluster; 0 for clusters without an edge.

    method: "louvain" or "infomap". resolution (Louvain): higher values give more communities; None takes the value of RESOLUTIONS
    whose number of communities is nearest to `wanted`. markov_time (Infomap): lower values give more communities.
    Raises UserError where the package of the method, networkx or infomap, is not installed.
    """
    if not edges:
        return torch.zeros(k, dtype=torch.int64)
    if method == "infomap":
        groups = _infomap(edges, seed, markov_time, wanted)
    else:
        tried = [resolution] if resolution is not None else RESOLUTIONS
        partitions = [_louvain(edges, seed, value) for value in tried]
        groups = min(partitions, key=lambda groups: abs(len(groups) - (wanted or len(groups))))
    result = torch.zeros(k, dtype=torch.int64)
    for number, group in enumerate(sorted((sorted(group) for group in groups), key=lambda group: group[0]), start=1):
        result[torch.tensor(group)] = number
    return result


def _louvain(edges: Sequence[Edge], seed: int, resolution: float) -> list[Iterable[int]]:
    networkx = require("networkx", "--method louvain")
    whole = networkx.Graph()
    whole.add_weighted_edges_from(edges)
    return list(networkx.community.louvain_communities(whole, weight="weight", resolution=resolution, seed=seed))


def _infomap(edges: Sequence[Edge], seed: int, markov_time: float, wanted: int | None) -> list[Iterable[int]]:
    check_installed("infomap", "--method infomap")
    options = {"two_level": True, "silent": True, "seed": seed + 1, "markov_time": markov_time}  # Infomap refuses seed 0
    options |= {} if wanted is None else {"preferred_number_of_modules": wanted}
    text = json.dumps([edges, options])
    done = subprocess.run([sys.executable, "-c", INFOMAP], input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"infomap failed: {done.stderr.strip()}")
    groups: dict[int, list[int]] = {}
    for node, group in json.loads(done.stdout):
        groups.setdefault(group, []).append(node)
    return list(groups.values())
