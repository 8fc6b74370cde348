"""Evaluation: protocols x data sets x backbones, each a record that is written after every score and can be resumed."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from densebench.backbones.backbone import Backbone
from densebench.console import warn
from densebench.datasets.io.decoding import use_decoder
from densebench.errors import Stopped
from densebench.evaluation.cell import Scored, steps_of_cell
from densebench.evaluation.plan import Datasets, Models, Plan, Requested, planned
from densebench.evaluation.protocol import Evaluator
from densebench.evaluation.undisturbed import plain, random_states
from densebench.processes import World, from_main, joined, resolve_device, settled
from densebench.results import record as records
from densebench.results.result import Failure, Result
from densebench.user_code import guarded

Step = Scored | dict[str, Any] | Failure
"""A score; the record of a finished cell, as JSON values; or the reason why a cell has no record."""


def evaluate(
    model: Models = None,
    /,
    protocol: str | Path | Evaluator | None = None,
    dataset: Datasets = None,
    *,
    preset: str | None = None,
    name: str | Sequence[str | None] | None = None,
    weights: str | Path | Sequence[str | Path | None] | None = None,
    layer: str = "last",
    pos_embed: str = "auto",
    role: str = "teacher",
    seed: int = 0,
    features: Callable[..., Any] | None = None,
    mean: Sequence[float] | str | None = None,
    std: Sequence[float] | str | None = None,
    debias: int | None = None,
    upsample: str | None = None,
    corrupt: str | None = None,
    data_root: str | Path | None = None,
    limit: int | None = None,
    results: str | Path = "results",
    rerun: bool = False,
    dry_run: bool = False,
    command: str = "",
    shard: str | None = None,
    **options: Any,
) -> Result:
    """Score every backbone on every data set by a protocol, now, and return the result.

        result = evaluate(model, "incontext", "voc", fractions=(1, 8, 64))

    model: what `load_backbone` takes (a spec such as "timm:vit_small_patch14_dinov2", a module, a function, a `Backbone`), or a
    list of these; None: the newest checkpoint under `runs/`, on the data that it was trained on, else an untrained network.
    protocol: a name of `densebench ls protocols`, the path of a Python file, or a configured object such as
    `InContext(neighbours=(50,))`, which takes no preset and no options besides.
    dataset: a name of `densebench ls datasets`, the path of a folder or a file, a `Dataset`, or a list of these; None: scenes.
    name: what tables call the backbone; weights: the file for a `timm:` spec. For several models each is a list in their order.
    layer, pos_embed, role, seed, features, mean, std, debias, upsample: how a model is read, see `load_backbone`.
    corrupt: what the images of the scored split suffer, NAME[:LEVEL], see `corrupted`.
    data_root: the folder of the data sets. limit: use at most so many images of each split; such scores enter no table.
    results: the folder of the records; points that a record holds already are not scored again unless `rerun`.
    dry_run: score and write nothing; the result holds the plan. command: what the record names as the command that made it.
    shard: "2/4" scores every fourth point from the second on, into a part of the record; `densebench.merge` joins the parts.
    options: the protocol's own options by field name, as values or as the texts that the command line takes.

    A cell is one backbone on one data set. Where there are several, one that fails does not end the others: it is reported on
    stderr, and `Result.failures` has it. In a script that torchrun runs, every process makes the call, and the main one gets the
    records. Autocast, inference mode, a default
    device or dtype and the random state of the caller change no number, and are as they were afterwards.
    Raises UserError for whatever the caller can mend, before anything runs if the call as a whole is wrong; for one cell, and
    where all cells fail, the (first) error itself. Records written until then stay.
    """
    with random_states(), plain():
        plan = planned(
            model, protocol, dataset, preset=preset, name=name, weights=weights, layer=layer, pos_embed=pos_embed, role=role,
            seed=seed, features=features, mean=mean, std=std, debias=debias, upsample=upsample, corrupt=corrupt,
            data_root=data_root, limit=limit, results=results, rerun=rerun, dry_run=dry_run, command=command, shard=shard,
            **options,
        )  # fmt: skip
        done = [step for step in steps([plan]) if not isinstance(step, Scored)]
    failures = [step for step in done if isinstance(step, Failure)]
    if failures and len(failures) == len(done):
        raise failures[0].error
    return Result([step for step in done if isinstance(step, dict)], failures)


def iter_evaluate(
    model: Models = None, /, protocol: str | Path | Evaluator | None = None, dataset: Datasets = None, **given: Any
) -> Iterator[Scored]:
    """Yield the scores of what `evaluate` does with the same arguments, each once it is written to its record.

    Scores that a record holds already come first. The call is checked at once; what is scored waits for the loop. A loop that is
    left early leaves a record that the next call resumes. Raises UserError as `evaluate` does.
    """
    with random_states(), plain():
        plan = planned(model, protocol, dataset, **given)
    return _scores(plan)


def _scores(plan: Plan) -> Iterator[Scored]:
    failures = []
    coming = steps([plan])
    while True:
        with plain():  # between two scores the caller's own switches hold
            step = next(coming, None)
        if step is None:
            break
        if isinstance(step, Scored):
            yield step
        elif isinstance(step, Failure):
            failures.append(step)
    if failures and len(failures) == plan.size:
        raise failures[0].error


def steps(plans: Sequence[Plan], *, keep_going: bool = True) -> Iterator[Step]:
    """Carry out plans, and yield scores, records and failures as they come.

    Where there are several cells, one that fails is reported in one line, with a traceback if it is no mistake of the user's, and
    the others go on, unless `keep_going` is off. Of several processes that work together all must fail, or end, within seconds;
    else the error ends the call.
    """
    cells = sum(plan.size for plan in plans)
    failed = []
    with joined(resolve_device(plans[0].evaluator.device)) as world:
        for plan in plans:
            for step in _steps(plan, world, keep_going and cells > 1):
                if isinstance(step, Failure):
                    failed.append(step)
                yield step
    if failed:
        each = ", ".join(f"{failure.backbone} on {failure.dataset} ({failure.protocol})" for failure in failed)
        warn(f"{len(failed)} of {cells} evaluations failed: {each}")


def _steps(plan: Plan, world: World, keep_going: bool) -> Iterator[Step]:
    use_decoder(plan.evaluator.decoder)
    if not plan.dry_run:
        from_main(lambda: records.check_writable(plan.results))
    for requested in plan.backbones:
        yield from _of_backbone(plan, requested, world, keep_going)


def _of_backbone(plan: Plan, requested: Requested, world: World, keep_going: bool) -> Iterator[Step]:
    """Load one backbone and score it on every data set."""
    backbone: Backbone | None = None
    for dataset in plan.datasets:
        failure: Exception | SystemExit | None = None
        try:
            if backbone is None:
                backbone = requested.load()
            yield from steps_of_cell(plan, requested, backbone, dataset, world.is_main)
        except (Exception, SystemExit) as raised:
            if was_stopped(raised) or not (keep_going or world.size > 1):
                raise
            failure = raised
        if world.size > 1:  # all of them continue with the next cell, or none does
            failure = settled(RuntimeError(str(failure)) if isinstance(failure, SystemExit) else failure)
        if failure is None:
            continue
        if not keep_going:
            raise failure
        error = _as_user_error(failure)
        failed = [dataset] if backbone is not None else plan.datasets
        failures = [Failure(requested.label, each.name, plan.protocol, error) for each in failed]
        _report(failures)
        if world.is_main:
            yield from failures
        if backbone is None:
            return


def was_stopped(error: BaseException | None) -> bool:
    """Return whether Ctrl-C or `Stopped` is behind an error: it ends the whole call, and any error may have it as its cause."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt | Stopped):
            return True
        error = error.__cause__ or error.__context__
    return False


def _as_user_error(error: BaseException) -> BaseException:
    """Return the error itself, or, where the user's own code raised it, the UserError that states it in one line."""
    try:
        with guarded():
            raise error
    except BaseException as same:
        return same


def _report(failures: Sequence[Failure]) -> None:
    """Report on stderr what failed, and free the memory that the variables of the error's traceback hold."""
    first = failures[0]
    if not first.is_users:
        traceback.print_exception(first.error)
    warn(f"{first.backbone} on {', '.join(failure.dataset for failure in failures)}: {first.problem}")
    error: BaseException | None = first.error
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
