"""Sweeps: a grid of hyper-parameters, one run a point, and a table of what each point scores in context."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from densebench import catalog, options
from densebench.console import notice
from densebench.errors import UserError, unknown
from densebench.evaluation.run import evaluate
from densebench.files.atomic import write_text
from densebench.results.score import SIGNS
from densebench.results.tables import csv_text
from densebench.training.method import Pretrainer
from densebench.training.run import RUN, RUNS, finished, pretrain

PROTOCOL = "incontext"


def sweep(method: str, axes: Sequence[str], asked: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """Run the grid of `NAME=A,B,...` axes, score every point, and return the table; `sweep.csv` has it too.

    Rows are in the order of the grid; one line names the best point, by the direction of the metric.
    A point that is finished is not trained again, one that was stopped goes on. Scores are of the data set that the runs were
    trained on where it has labels, else of `scenes`. Raises UserError for an axis that is no hyper-parameter of the method.
    """
    kind = catalog.load("methods", method)
    names, values = zip(*(parse(axis, kind, method) for axis in axes), strict=True)
    folder = asked["output"] or RUNS / f"{method}-sweep-{'-'.join(names)}"
    rows, scores = [], []
    for point in itertools.product(*values):
        chosen = dict(zip(names, point, strict=True))
        run = folder / ",".join(f"{name}={value}" for name, value in chosen.items())
        notice(f"sweep: {run.name}")
        _train(method, run, asked, {**given, **chosen})
        if not asked["dry_run"]:
            scores.append(_score(run, asked))
            rows.append({**chosen, _heading(scores[-1]): scores[-1]["value"], "run": str(run)})
    if not rows:
        return f"{len(list(itertools.product(*values)))} runs under {folder}"
    best = max(range(len(rows)), key=lambda row: SIGNS[scores[row]["direction"]] * scores[row]["value"])
    notice(f"sweep: the best is {Path(rows[best]['run']).name}")
    table = pd.DataFrame(rows)
    write_text(folder / "sweep.csv", csv_text(table))
    return table.drop(columns="run").to_string(index=False, float_format=f"{{:.{scores[0]['digits'] + 1}f}}".format)


def parse(axis: str, kind: type[Pretrainer], method: str) -> tuple[str, list[str]]:
    """`lambda_pos=0,1,2` as a field and its values, each checked. Raises UserError for what is wrong."""
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


def _train(method: str, run: Path, asked: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    there = (run / RUN).exists()
    if there and finished(run):
        notice(f"{run} is complete")
        return
    pretrain(method, **{**asked, "output": run, "resume": there}, **given)


def _heading(score: dict[str, Any]) -> str:
    """Return the name of the column of scores, such as "miou %"."""
    return " ".join(part for part in (score["metric"], score["unit"]) if part)


def _score(run: Path, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the headline of a run, as JSON values."""
    from densebench.backbones import read_checkpoint
    from densebench.datasets import built_in, titles

    trained = read_checkpoint(run)["dataset"]
    dataset = trained if trained in built_in() or (trained in titles() and trained in asked["data"]) else "scenes"
    where: dict[str, Any] = {"datasets": [dataset], "data_root": asked["data_root"], "results": run.parent / "results"}
    [record] = evaluate(PROTOCOL, backbones=[f"ckpt:{run}"], fractions="1", **where)
    headline = record["protocol"]["headline"]
    [score] = [score for score in record["scores"] if headline.items() <= score.items()]
    return score
