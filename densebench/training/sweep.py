"""Sweeps: a grid of hyper-parameters, one run a point, and a table of their scores by the probing protocol."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from densebench import catalog, options
from densebench.console import notice
from densebench.errors import UserError, unknown
from densebench.evaluation.probe import probe_protocol
from densebench.evaluation.run import evaluate
from densebench.files.atomic import write_text
from densebench.results.score import SIGNS
from densebench.results.texts import csv_text
from densebench.training.method import Pretrainer
from densebench.training.run import train
from densebench.training.run_file import RUN, RUNS, is_finished


def sweep(method: str, axes: Sequence[str], request: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """Run the grid of `NAME=A,B,...` axes, score every point, and return the table; `sweep.csv` has it too.

    request: the keyword arguments of `train` that all points share; given: the hyper-parameters that they share. Rows are in the
    order of the grid; a notice names the best point, by the direction of the metric. A finished point is not trained again, a
    stopped one is resumed. Runs are scored on the data set that they were trained on where it has labels, else on `scenes`.
    Raises UserError for an axis that is no hyper-parameter of the method.
    """
    kind = catalog.load("methods", method)
    names, values = zip(*(parse(axis, kind, method) for axis in axes), strict=True)
    folder = request["output"] or RUNS / f"{method}-sweep-{'-'.join(names)}"
    rows, scores = [], []
    for point in itertools.product(*values):
        chosen = dict(zip(names, point, strict=True))
        run = folder / ",".join(f"{name}={value}" for name, value in chosen.items())
        notice(f"sweep: {run.name}")
        _train(method, run, request, {**given, **chosen})
        if not request["dry_run"]:
            scores.append(_score(run, request))
            rows.append({**chosen, _heading(scores[-1]): scores[-1]["value"], "run": str(run)})
    if not rows:
        return f"{len(list(itertools.product(*values)))} runs under {folder}"
    best = max(range(len(rows)), key=lambda row: SIGNS[scores[row]["direction"]] * scores[row]["value"])
    notice(f"sweep: the best is {Path(rows[best]['run']).name}")
    table = pd.DataFrame(rows)
    write_text(folder / "sweep.csv", csv_text(table))
    return table.drop(columns="run").to_string(index=False, float_format=f"{{:.{scores[0]['digits'] + 1}f}}".format)


def parse(axis: str, kind: type[Pretrainer], method: str) -> tuple[str, list[str]]:
    """Return the field and the checked values of an axis such as `lambda_pos=0,1,2`. Raises UserError where one is wrong."""
    name, equals, text = axis.partition("=")
    name = name.lstrip("-").replace("-", "_")
    known = {flag.name: flag for flag in options.flags(kind) if flag.kind == "setting"}
    if name not in known:
        raise unknown("hyper-parameter", name, known, f"--sweep takes NAME=A,B,... with a setting of {method}")
    values = [value for value in text.split(",") if value]
    if not equals or not values or known[name].annotation.startswith("tuple"):
        raise UserError(f"--sweep {axis}: it takes NAME=A,B,... with one value or more of a hyper-parameter that is no list")
    for value in values:
        known[name].read(value)
    return name, values


def _train(method: str, run: Path, request: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    begun = (run / RUN).exists()
    if begun and is_finished(run):
        notice(f"{run} is complete")
        return
    train(method, **{**request, "output": run, "resume": begun}, **given)


def _heading(score: dict[str, Any]) -> str:
    """Return the title of the column of scores, such as "miou %"."""
    return " ".join(part for part in (score["metric"], score["unit"]) if part)


def _score(run: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the headline score of a run, as JSON values."""
    from densebench.backbones.checkpoint import read_checkpoint
    from densebench.datasets.catalog import built_in, titles

    trained = read_checkpoint(run)["dataset"]
    dataset = trained if trained in built_in() or (trained in titles() and trained in request["data"].specs) else "scenes"
    where: dict[str, Any] = {"data_root": request["data"].root, "results": run.parent / "results"}
    protocol, chosen = probe_protocol()
    [record] = evaluate(f"ckpt:{run}", protocol, dataset, **chosen, **where).records
    headline = record["protocol"]["headline"]
    [score] = [score for score in record["scores"] if headline.items() <= score.items()]
    return score
