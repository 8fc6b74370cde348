"""Pretraining: a method on a set of images, in a run folder that can be gone on with and scored.

OUTPUT/run.json              what was asked for: method, settings, data, versions
OUTPUT/backbone.safetensors  the teacher's encoder, with checkpoint.json: what `densebench eval` takes as ckpt:OUTPUT
OUTPUT/states/               the last states, for --resume
OUTPUT/epochs/0010/          backbones that stay (--keep-every); OUTPUT/best/ the best by --probe
OUTPUT/log.csv, tensorboard/, pictures/
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ConfigDict, TypeAdapter, with_config
from typing_extensions import TypedDict

from densebench import catalog, options
from densebench.backbones.checkpoint import read_checkpoint
from densebench.backbones.timm_models import is_plain_vit, probe
from densebench.console import notice
from densebench.datasets.unlabelled import Images, open_images
from densebench.distributed import World, agree, joined, launch, synchronise
from densebench.errors import Stopped, UserError, unknown
from densebench.files.atomic import Damaged, write_text
from densebench.files.stored_json import Count, Integer, ShapeError, Text, Word, check, load
from densebench.processes import describe, resolve_device
from densebench.results.provenance import code, environment
from densebench.training.chief import Chief
from densebench.training.loop import Training, assemble, interruptible, run
from densebench.training.method import Pretrainer
from densebench.training.networks import arch_of, check_size, initial_encoder
from densebench.training.states import load_newest
from densebench.training.stored_names import as_flags, with_code

SCHEMA = 1
RUNS = Path("runs")
RUN = "run.json"
BARE = "scenes"


@with_config(ConfigDict(extra="allow"))
class RunData(TypedDict):
    """What a run is trained on."""

    specs: list[Word]
    root: Word | None
    limit: Count | None
    name: Text
    images: Count
    digest: Word


@with_config(ConfigDict(extra="allow"))
class RunFile(TypedDict):
    """What `run.json` holds. Keys that are not named here may stand beside the others."""

    schema: Count
    method: Word
    preset: Word
    variant: Word
    init: Word | None
    weights: Word | None
    seed: Integer
    settings: dict[Text, Any]
    runtime: dict[Text, Any]
    data: RunData


SHAPE = TypeAdapter(RunFile)


def pretrain(
    method: str,
    *,
    data: Sequence[str] = (),
    data_root: Path | None = None,
    preset: str | None = None,
    variant: str | None = None,
    init: str | None = None,
    weights: Path | None = None,
    output: Path | None = None,
    resume: bool = False,
    seed: int | None = None,
    limit: int | None = None,
    dry_run: bool = False,
    processes: int = 1,
    command: str = "",
    **given: Any,
) -> Path:
    """Pretrain and return the run folder, which is a checkpoint.

    `given` are the method's hyper-parameters by field name, as values or as the texts that the command line takes. Without
    data the run is on `scenes`, without a preset it is the method's first. `resume` goes on with the run in `output` (or with
    the newest of the method under `runs/`), whose settings must be the same. Raises UserError for whatever the caller can
    mend, and Stopped after Ctrl-C, once the state is saved.
    """
    options.check_run(seed, limit)
    kind = catalog.load("methods", method)
    if given.get("epochs") is not None and given.get("steps") is not None:
        raise UserError(f"--epochs {given['epochs']} and --steps {given['steps']}: give one of them")
    if not data and not resume:
        data = (BARE,)
        notice(f"no --data: pretraining on the generated data set {BARE} with preset {preset or next(iter(kind.presets))}")
    if resume:
        output = output or _newest(method)
        stored = _read_run(output)
        _check_consent(output, stored, {**given, "data": data or None, "init": init})
        data = data or stored["data"]["specs"]
        data_root = data_root or (Path(stored["data"]["root"]) if stored["data"]["root"] else None)
        limit, seed = limit if limit is not None else stored["data"]["limit"], stored["seed"] if seed is None else seed
        preset, variant, init = preset or stored["preset"], variant or stored["variant"], init or stored["init"]
        weights = weights or (Path(stored["weights"]) if stored["weights"] else None)
        given = {**_changed(kind, stored), **given}
    preset, variant, seed = preset or next(iter(kind.presets)), variant or "official", seed or 0
    chosen = build(kind, method, preset, variant, init, given)
    images = open_images(data, data_root, limit)
    about = {
        **{"schema": SCHEMA, "method": method, "preset": preset, "variant": variant, "init": init, "seed": seed},
        "method_code": catalog.code_of("methods", method),
        "weights": str(weights) if weights else None,
        "settings": options.select(chosen, "setting"),
        "runtime": options.select(chosen, "runtime"),
        "data": _about_data(images, data, data_root, limit),
    }
    if resume:
        _check_same(output, stored, about)
    with joined(resolve_device(chosen.device)) as world:
        folder = output or _free_folder(method, images.name)
        if not resume and (folder / RUN).exists():
            raise UserError(f"--output {folder} holds a run already; --resume goes on with it, or give another --output")
        world = replace(world, size=max(world.size, processes))
        synchronise()  # nobody writes before everybody has looked
        return _train(chosen, images, world, folder, about, weights, resume=resume, dry_run=dry_run, command=command)


def _about_data(images: Images, specs: Sequence[str], root: Path | None, limit: int | None) -> dict[str, Any]:
    """What a run is trained on, so that it can be opened again and recognised."""
    asked = {"specs": list(specs), "root": str(root) if root else None, "limit": limit}
    return {**asked, "name": images.name, "images": len(images), "digest": images.digest(), "code": images.code}


def build(
    kind: type[Pretrainer], method: str, preset: str, variant: str, init: str | None, given: Mapping[str, Any]
) -> Pretrainer:
    """The hyper-parameters: defaults, preset, variant, what was given. Raises UserError for what is unknown or does not fit."""
    if preset not in kind.presets:
        raise unknown("preset", preset, kind.presets, f"{method} has {', '.join(kind.presets)}")
    if variant not in ("official", "paper"):
        raise unknown("variant", variant, ("official", "paper"), "it is official (the code) or paper (the text)")
    settings = dict(kind.presets[preset])
    if variant == "paper":
        settings |= {**kind.paper.get("", {}), **kind.paper.get(preset, {})}
    given = dict(given)
    if init is not None and "arch" not in given:
        settings["arch"] = arch_of(init)
    chosen = _fit_sizes(options.build(kind, settings, given), given)
    for low, high in (value for name, value in vars(chosen).items() if name.endswith("_scale")):
        if not 0 < low <= high <= 1:
            raise UserError(f"a crop scale of {low:g},{high:g}: it is two shares of the image's area, 0 < from <= to <= 1")
    if chosen.blur_sigma[0] > chosen.blur_sigma[1]:
        raise UserError(f"--blur-sigma {chosen.blur_sigma[0]:g},{chosen.blur_sigma[1]:g}: the first must not be above the second")
    return chosen


def _fit_sizes(chosen: Pretrainer, given: Mapping[str, Any]) -> Pretrainer:
    """Round view sizes that were not asked for to what the patch divides: local views of 96 px become 98 for patches of 14."""
    like = probe(chosen.arch)
    if not is_plain_vit(like):
        return chosen  # which is refused when the network is made
    patch = int(like.patch_embed.patch_size[0])
    sizes = {name: getattr(chosen, name, None) for name in ("image_size", "local_size")}
    fitting = {name: max(1, round(size / patch)) * patch for name, size in sizes.items() if size and name not in given}
    return replace(chosen, **fitting)


def _train(
    chosen: Pretrainer,
    images: Images,
    world: World,
    folder: Path,
    about: dict[str, Any],
    weights: Path | None,
    *,
    resume: bool,
    dry_run: bool,
    command: str,
) -> Path:
    torch.manual_seed(about["seed"])
    if about["init"]:
        encoder = initial_encoder(
            about["init"], weights, chosen.arch, chosen.image_size, chosen.drop_path, class_token=chosen.class_token
        )
    else:
        encoder = chosen.encoder()
    for recipe in chosen.views():
        check_size("a view of", recipe.size, encoder.patch, chosen.arch)
    training = assemble(chosen, encoder, images, about["seed"], world)
    if world.is_main:
        _describe(training, about, folder)
    if dry_run:
        return folder
    if resume:
        _restore(training, folder)
    elif world.is_main:
        _write_run(folder, {**about, "command": command, "code": code(), "environment": environment()})
    chief = Chief(training, folder, about) if world.is_main else None
    with interruptible() as stopped:
        _loop(training, chief, stopped)
    return folder


def _loop(training: Training, chief: Chief | None, stopped: Any) -> None:
    if chief is not None and training.step >= training.steps:
        notice(f"{chief.folder} is complete: {training.steps} steps")
        chief.write_backbone(chief.folder)
    for report in run(training, training.steps):
        if chief is not None:
            chief.report(report)
        stop = agree(bool(stopped()), training.world.device) if report.figures or training.world.size == 1 else False
        if stop or training.due(report.step):
            if chief is not None:
                chief.save()
            synchronise()  # the others wait here while one saves, draws and probes
        if stop and report.step < training.steps:
            if chief is not None:
                raise Stopped(f"stopped after step {report.step}; `{chief.resume_command}` goes on from there")
            raise Stopped("")


def _describe(training: Training, about: dict[str, Any], folder: Path) -> None:
    options, data = training.options, about["data"]
    notice(
        f"{about['method']}/{about['preset']} ({about['variant']}): {options.arch} at {options.image_size} px on {data['name']} "
        f"({data['images']} images), {training.steps} steps of {options.batch_size} images "
        f"({training.steps / training.order.steps:.1f} epochs), {describe(training.world.device)}"
        + (f" x {training.world.size}" if training.world.size > 1 else "")
        + f", into {folder}"
    )
    if options.post_pretraining and not about["init"]:
        notice(f"{about['method']} is made to go on from a pretrained backbone; without --init it starts from random weights")
    if training.warmup == training.steps and options.warmup_epochs:
        notice(f"--warmup-epochs {options.warmup_epochs:g} is as long as the run: the learning rate only rises")


def _restore(training: Training, folder: Path) -> None:
    try:
        found = load_newest(folder, training.modules, training.optimiser)
    except Damaged as damage:
        what = f"the state {damage.path} cannot be read ({damage.why}), and there is no other"
        raise UserError(f"{what}; remove it, and --resume starts at step 0") from damage
    if found is None:
        notice(f"{folder} has no saved state yet: starting at step 0")
        return
    path, facts = found
    training.step = facts["step"]
    training.scaler.load_state_dict(facts["scaler"])
    training.broken.update(facts["broken"])
    training.monitor.skipped = facts["skipped"]
    if training.world.is_main:
        notice(f"going on with {path} at step {training.step} of {training.steps}")


def _write_run(folder: Path, run: dict[str, Any]) -> None:
    write_text(folder / RUN, json.dumps(run, indent=1) + "\n")


def finished(folder: Path) -> bool:
    """Whether the backbone of a run is that of its last step."""
    try:
        return bool(read_checkpoint(folder).get("finished"))
    except UserError:
        return False


def _newest(method: str) -> Path:
    """Return the run of a method that was written last. A run that cannot be read is skipped, with a notice."""
    runs = []
    for path in RUNS.glob(f"*/{RUN}"):
        try:
            if _read_run(path.parent)["method"] == method:
                runs.append(path)
        except UserError as error:
            notice(f"left out: {error}")
    if not runs:
        raise UserError(f"--resume: there is no run of {method} under {RUNS}; start one without --resume, or give its --output")
    return max(runs, key=lambda path: path.stat().st_mtime).parent


def _read_run(folder: Path) -> dict[str, Any]:
    """Return what a run was asked for, shaped as `RunFile`. Raises UserError where the folder holds none, or a broken one."""
    try:
        stored: dict[str, Any] = load(folder / RUN)
        schema = stored.get("schema") if isinstance(stored, dict) else None
        if type(schema) is int and schema != SCHEMA:
            raise UserError(f"{folder}/{RUN} has schema {schema}, this version reads {SCHEMA}; start a new --output")
        if isinstance(stored, dict) and "means" in stored:  # what runtime options were called before
            stored.setdefault("runtime", stored.pop("means"))
        check(stored, SHAPE)
    except ShapeError as error:
        what = f"--resume: {folder} holds no run ({folder / RUN} {error})"
        raise UserError(f"{what}; give the --output of one, or leave --resume out") from error
    return stored


def _check_consent(folder: Path, stored: dict[str, Any], given: Mapping[str, Any]) -> None:
    """Raise UserError where a stored run names something that runs code when it is loaded, unless the user names it again."""
    named = {key: values for key, values in with_code(stored).items() if given.get(key) is None}
    if named:
        names = ", ".join(value for values in named.values() for value in values)
        raise UserError(
            f"{folder / RUN} names {names}; loading that may run code, so a stored file cannot ask for it: "
            f"add {shlex.join(as_flags(named))} to the command"
        )


def _changed(kind: type[Pretrainer], stored: dict[str, Any]) -> dict[str, Any]:
    """The stored settings, which a run that goes on keeps unless it is told otherwise (and is then refused)."""
    known = {flag.name for flag in options.flags(kind)}
    return {
        name: value for name, value in {**stored["settings"], **stored["runtime"]}.items() if name in known and value is not None
    }


def _check_same(folder: Path | None, stored: dict[str, Any], about: dict[str, Any]) -> None:
    """Raise UserError naming every setting in which a resumed run would differ from the stored one."""
    before = {**stored["settings"], "method": stored["method"], "preset": stored["preset"], "seed": stored["seed"]}
    after = {**about["settings"], "method": about["method"], "preset": about["preset"], "seed": about["seed"]}
    before |= {"variant": stored["variant"], "init": stored["init"], "data": stored["data"]["digest"]}
    after |= {"variant": about["variant"], "init": about["init"], "data": about["data"]["digest"]}
    for what, own, other in (
        ("method's", stored.get("method_code", ""), about["method_code"]),
        ("data's", stored["data"].get("code", ""), about["data"]["code"]),
    ):
        if own != other:
            raise UserError(f"--resume {folder}: the {what} code is not what it was; restore it, or start a new --output")
    different = [
        f"{name.replace('_', '-')} was {value}, is {after.get(name)}"
        for name, value in before.items()
        if value != after.get(name)
    ]
    if different:
        raise UserError(f"--resume {folder}: {'; '.join(different)}; give the same, or start a new --output")


def _free_folder(method: str, data: str) -> Path:
    """`runs/METHOD-DATA-N` with the first free N."""
    base = f"{method.removesuffix('.py').rpartition('/')[2]}-{data.replace('+', '-').replace('/', '-')}"
    number = 1
    while (RUNS / f"{base}-{number}" / RUN).exists():
        number += 1
    return RUNS / f"{base}-{number}"


__all__ = ["Stopped", "launch", "pretrain"]
