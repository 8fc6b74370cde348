"""The table of a run on a GPU: rows are printed and saved at once, beside the values that arithmetic predicts."""

from __future__ import annotations

import datetime
import gc
import importlib
import json
import os
import re
import time
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch


@dataclass(frozen=True)
class Row:
    """One measurement. expected: the value that docs/gpu.md predicts for an H200; None where it predicts none."""

    part: str
    what: str
    value: float | str
    unit: str = ""
    expected: float | None = None
    note: str = ""

    def __str__(self) -> str:
        expected = "" if self.expected is None else f"(expected {number(self.expected)})"
        return f"{self.part:<10} {self.what:<64} {number(self.value):>12} {self.unit:<10} {expected:<20} {self.note}".rstrip()


def number(value):
    """A value in four digits; a text as it is."""
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


@dataclass
class Bench:
    """One run: its device, how long it may take, its rows so far, and the ceilings of the machine that parts refer to."""

    device: torch.device
    small: bool
    budget: float
    folder: Path
    """Where files are made for a part to read."""
    output: Path
    """The file that the rows are written to."""
    rows: list[Row] = field(default_factory=list)
    ceilings: dict[str, float] = field(default_factory=dict)
    """TFLOP/s by precision and TB/s of memory, as measured by the part "machine"."""
    started: float = field(default_factory=time.monotonic)

    @property
    def cuda(self):
        return self.device.type == "cuda"

    def left(self):
        """Seconds that are left."""
        return self.budget - (time.monotonic() - self.started)

    def size(self, full, small):
        """A size: the full one, or a small one for a rehearsal."""
        return small if self.small else full

    def save(self):
        """Write the rows so far. Raises OSError where the table cannot be written."""
        self.output.parent.mkdir(parents=True, exist_ok=True)
        facts = {**about(self.device), "small": self.small, "rows": list(map(asdict, self.rows))}
        self.output.write_text(json.dumps(facts, indent=1) + "\n")

    def add(self, part, what, value, unit="", expected=None, note=""):
        """Print a row and save all rows so far. Expected values are those of full sizes on a GPU."""
        self.rows.append(Row(part, what, value, unit, expected if self.cuda and not self.small else None, note))
        print(self.rows[-1], flush=True)
        self.save()

    def run(self, name, least, module, function):
        """Run one part if `least` seconds are left; a part that fails, or cannot be imported, says so in a row."""
        if self.left() < least:
            self.add(name, "left out: the time is spent", round(self.left(), 1), "s")
            return
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        began = time.monotonic()
        try:
            getattr(importlib.import_module(module), function)(self)
        except Exception as error:
            traceback.print_exc()
            self.add(name, f"FAILED: {type(error).__name__}", place(error), note=" ".join(str(error).split())[:200])
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()
        self.add(name, "seconds of this part", round(time.monotonic() - began, 1), "s")

    def failed(self):
        """The rows of parts that failed."""
        return [row for row in self.rows if "FAILED" in row.what]


def place(error):
    """Where in the project an error arose: file and line."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "site-packages" not in frame.filename]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""


def about(device):
    """What was measured, where and when."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    try:
        from densebench.results.provenance import code

        commit = code().get("commit")
    except Exception:
        commit = None
    facts = {"device": name, "cores": len(os.sched_getaffinity(0)), "torch": torch.__version__, "cuda": torch.version.cuda}
    return {**facts, "date": datetime.date.today().isoformat(), "commit": commit}


def slug(device):
    """The device's name as a file name."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
