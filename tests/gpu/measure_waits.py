"""Print what every method costs a step and every protocol an image, and where it waits: the numbers behind `test_cuda_costs`.

    python tests/gpu/measure_waits.py [NAME ...]

Run it after a change that removes a wait, and lower the bounds in `test_cuda_costs.py` to the rows that it prints at the end.
"""

from __future__ import annotations

import math
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from device_costs import of_a_step, of_an_image

from densebench import catalog


def row(name, costs):
    """Return the bounds of costs as a line of the table: kernels with a fifth of air, blocking copies with a half."""
    numbers = (costs.waits, costs.overlapped, 1.5 * costs.copies, 1.2 * costs.kernels)
    return f'    "{name}": ({", ".join(str(math.ceil(number)) for number in numbers)}),'


def main(names):
    """Measure the methods and protocols that are named; by default all."""
    rows = []
    for method in catalog.entries("methods"):
        if not names or method in names:
            costs = of_a_step(method)
            print(f"{method}, a step: {costs}", flush=True)
            rows.append(row(method, costs))
    for name, entry in catalog.entries("protocols").items():
        for preset in [part.presets[0] for part in entry.parts if not names or name in names]:
            with tempfile.TemporaryDirectory() as folder:
                costs = of_an_image(name, preset, Path(folder))
            print(f"{name} {preset}, an image: {costs}", flush=True)
            rows.append(row(f"{name} {preset}", costs))
    print("\n".join(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
