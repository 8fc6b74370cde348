"""Training: a method on a set of images, in a run folder that can be resumed and scored.

OUTPUT/run.json              what was requested: method, settings, data, versions
OUTPUT/backbone.safetensors  the teacher's encoder, with checkpoint.json: what `densebench eval` takes as ckpt:OUTPUT
OUTPUT/states/               the last states, for --resume
OUTPUT/epochs/0010/          backbones of some epochs (--keep-every); OUTPUT/best/ the best by --probe
OUTPUT/log.csv, tensorboard/, warnings.txt, pictures/
OUTPUT/index.html            with --visualise, a page of the run that refreshes itself
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from densebench import catalog, options
from densebench.backbones.timm_models import is_plain_vit, probe
from densebench.console import notice, warn
from densebench.datasets.images import Images
from densebench.datasets.io.decoding import use_decoder
from densebench.datasets.unlabelled import open_images
from densebench.errors import Stopped, UserError, unknown
from densebench.files.atomic import Damaged
from densebench.files.states import load_newest
from densebench.processes import World, agree, describe, joined, resolve_device, resolve_precision, synchronise
from densebench.results.provenance import code, environment
from densebench.training.forecast import announce
from densebench.training.loop import Training, assemble, interruptible, run
from densebench.training.method import Pretrainer
from densebench.training.networks import arch_of, check_size, initial_encoder
from densebench.training.request import Data, Init, Launch, as_path
from densebench.training.run_file import (
    RUN,
    SCHEMA,
    check_consent,
    check_same,
    free_folder,
    newest_run,
    read_run,
    resume_command,
    stored_options,
    write_run,
)
from densebench.training.run_folder import RunFolder, probe_of

DEFAULT_DATA = "scenes"
PRECISIONS = {
    "bf16": "the networks compute in bf16 (--precision fp32 would take about seven times as long)",
    "fp16": "the networks compute in fp16, with scaled gradients",
    "fp32": "the networks compute in fp32 without TF32; on a GPU from Ampere on, --precision bf16 is about seven times as fast",
}
"""The line about its precision that a run on a GPU prints."""


def train(
    method: str,
    *,
    data: Data | Sequence[str | Path] | str | Path = (),
    limit: int | None = None,
    init: Init | str | Path | None = None,
    output: str | Path | None = None,
    resume: bool = False,
    preset: str | None = None,
    variant: str | None = None,
    seed: int | None = None,
    dry_run: bool = False,
    launch: Launch | None = None,
    **given: Any,
) -> Path:
    """Train a backbone by a method, and return the run folder, which is a checkpoint.

        densebench.train("cribo", data="coco", init="timm:vit_small_patch16_224", epochs=10, output="runs/mine")

    data: a name of a data set, a folder of images, or several; or a `Data` to say where the sets lie; by default `scenes`.
    limit: number of images to train on, evenly spaced; all if not given.
    init: a spec such as timm:NAME, the path of a run, or an `Init` with a file of weights; random weights if not given.
    resume: continue the run in `output`, or the newest run of the method under `runs/`; its settings must be the same.
    preset: named hyper-parameters; the method's first if not given.
    given: the method's hyper-parameters by field name, as values or as the texts that the command line takes.

    Raises UserError for whatever the caller can correct, and Stopped after Ctrl-C, once the state is saved.
    """
    data, init, output = Data.of(data), Init.of(init), as_path("output", output)
    launch = Launch() if launch is None else launch
    if not isinstance(launch, Launch):
        raise UserError(f"launch={launch!r}: give a Launch(processes, command), or leave it out")
    options.check_types(options.TEXT, method=method, preset=preset, variant=variant)
    options.check_types(options.SWITCH, resume=resume, dry_run=dry_run)
    options.check_run(seed, limit)
    seed, limit = (None if value is None else int(value) for value in (seed, limit))
    kind = catalog.load("methods", method)
    if given.get("epochs") is not None and given.get("steps") is not None:
        raise UserError(f"--epochs {given['epochs']} and --steps {given['steps']}: give one of them")
    stored: dict[str, Any] = {}
    if resume:
        output = output or newest_run(method)
        stored = read_run(output)
        check_consent(output, stored, {**given, "data": data.specs or None, "init": init.spec})
        data, init = _stored_data(data, stored["data"]), _stored_init(init, stored)
        limit = stored["data"]["limit"] if limit is None else limit
        preset, variant, seed = preset or stored["preset"], variant or stored["variant"], stored["seed"] if seed is None else seed
        changed = {name: value for name, value in given.items() if (name, value) != ("precision", "auto")}  # auto: as stored
        given = {**stored_options(kind, stored), **changed}
    elif not data.specs:
        data = replace(data, specs=(DEFAULT_DATA,))
        name = preset or next(iter(kind.presets))
        notice(f"no --data: pretraining on the generated data set {DEFAULT_DATA} with preset {name}")
    preset, variant = preset or next(iter(kind.presets)), variant or "official"
    chosen = build(kind, method, preset, variant, init.spec, given)
    if chosen.decoder == "reduced" and chosen.cache == "none":
        raise UserError("--decoder reduced needs images that are cached small; give --cache ram or gpu, or --decoder turbo")
    use_decoder(chosen.decoder)
    images = open_images(data.specs, data.root, limit)
    probe = probe_of(chosen.probe, chosen.device, data.root)
    facts = {
        **{"schema": SCHEMA, "method": method, "preset": preset, "variant": variant, "init": init.spec, "seed": seed or 0},
        "method_code": catalog.code_of("methods", method),
        "weights": str(init.weights) if init.weights else None,
        "settings": options.select(chosen, "setting"),
        "runtime": options.select(chosen, "runtime"),
        "data": _data_facts(images, data, limit),
    }
    if resume:
        check_same(output, stored, facts)
    with joined(resolve_device(chosen.device)) as world:
        folder = output or free_folder(method, images.name)
        if not resume and (folder / RUN).exists():
            raise UserError(f"--output {folder} holds a run already; --resume continues it, or give another --output")
        world = replace(world, size=max(world.size, launch.processes))
        synchronise()  # no process writes before all have looked
        training = _assemble(chosen, images, world, facts, init.weights)
        if world.is_main:
            _announce(training, facts, folder)
        if dry_run:
            if world.is_main:
                announce(training)
            return folder
        if resume:
            _restore(training, folder)
        elif world.is_main:
            write_run(folder, {**facts, "command": launch.command, "code": code(), "environment": environment()})
        with interruptible() as stopped:
            run_folder = RunFolder(training, folder, facts, probe) if world.is_main else None
            with run_folder or nullcontext():
                _loop(training, run_folder, stopped)
    return folder


def _stored_data(data: Data, stored: Mapping[str, Any]) -> Data:
    """Return the data of a run that is resumed: as stored, except for what was given again."""
    root = data.root or (Path(stored["root"]) if stored["root"] else None)
    return Data(data.specs or stored["specs"], root)


def _stored_init(init: Init, stored: Mapping[str, Any]) -> Init:
    """Return the initial backbone of a run that is resumed: as stored, except for what was given again."""
    return Init(init.spec or stored["init"], init.weights or (Path(stored["weights"]) if stored["weights"] else None))


def _data_facts(images: Images, data: Data, limit: int | None) -> dict[str, Any]:
    """Return the facts of `run.json` by which the data of a run are opened and verified again."""
    requested = {"specs": list(data.specs), "root": str(data.root) if data.root else None, "limit": limit}
    return {**requested, "name": images.name, "images": len(images), "digest": images.digest(), "code": images.code}


def build(
    kind: type[Pretrainer], method: str, preset: str, variant: str, init: str | None, given: Mapping[str, Any]
) -> Pretrainer:
    """Return the hyper-parameters: defaults, overridden by the preset, then by the variant, then by what was given.

    The precision `auto` is replaced by the one of the device, so that a run that is resumed elsewhere keeps it.
    Raises UserError for a name or value that is unknown or does not fit.
    """
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
    chosen = replace(chosen, precision=resolve_precision(chosen.precision, chosen.device))
    for low, high in (value for name, value in vars(chosen).items() if name.endswith("_scale")):
        if not 0 < low <= high <= 1:
            raise UserError(f"a crop scale of {low:g},{high:g}: it is two shares of the image's area, 0 < from <= to <= 1")
    if chosen.blur_sigma[0] > chosen.blur_sigma[1]:
        raise UserError(f"--blur-sigma {chosen.blur_sigma[0]:g},{chosen.blur_sigma[1]:g}: the first must not be above the second")
    return chosen


def _fit_sizes(chosen: Pretrainer, given: Mapping[str, Any]) -> Pretrainer:
    """Round the view sizes that were not given to multiples of the patch: local views of 96 px become 98 for patches of 14."""
    model = probe(chosen.arch)
    if not is_plain_vit(model):
        return chosen  # an unknown architecture is refused when the network is made
    patch = int(model.patch_embed.patch_size[0])
    sizes = {name: getattr(chosen, name, None) for name in ("image_size", "local_size")}
    fitting = {name: max(1, round(size / patch)) * patch for name, size in sizes.items() if size and name not in given}
    return replace(chosen, **fitting)


def _assemble(chosen: Pretrainer, images: Images, world: World, facts: Mapping[str, Any], weights: Path | None) -> Training:
    """Return the run at step 0; the seed decides the initial weights."""
    torch.manual_seed(facts["seed"])
    if facts["init"]:
        encoder = initial_encoder(
            facts["init"], weights, chosen.arch, chosen.image_size, chosen.drop_path, class_token=chosen.class_token
        )
    else:
        encoder = chosen.encoder()
    for spec in chosen.views():
        check_size("a view of", spec.size, encoder.patch, chosen.arch)
    return assemble(chosen, encoder, images, facts["seed"], world)


def _announce(training: Training, facts: Mapping[str, Any], folder: Path) -> None:
    """Print method, data, length, device and folder of a run, and warn of unusual options."""
    options, data = training.options, facts["data"]
    notice(
        f"{facts['method']}/{facts['preset']} ({facts['variant']}): {options.arch} at {options.image_size} px on {data['name']} "
        f"({data['images']} images), {training.steps} steps of {options.batch_size} images "
        f"({training.steps / training.order.steps:.1f} epochs), {describe(training.world.device)}"
        + (f" x {training.world.size}" if training.world.size > 1 else "")
        + f", into {folder}"
    )
    if training.world.device.type == "cuda":
        notice(PRECISIONS[options.precision])
    if options.post_pretraining and not facts["init"]:
        warn(f"{facts['method']} is made to train a pretrained backbone further; without --init it starts from random weights")
    if training.warmup == training.steps and options.warmup_epochs:
        warn(f"--warmup-epochs {options.warmup_epochs:g} is as long as the run: the learning rate only rises")


def _restore(training: Training, folder: Path) -> None:
    """Load the newest undamaged state into the run. Raises UserError where all states are damaged."""
    try:
        newest = load_newest(folder, training.modules, training.optimiser)
    except Damaged as damage:
        what = f"the state {damage.path} cannot be read ({damage.why}), and there is no other"
        raise UserError(f"{what}; remove it, and --resume starts at step 0") from damage
    if newest is None:
        notice(f"{folder} has no saved state yet: starting at step 0")
        return
    path, facts = newest
    training.step = facts["step"]
    training.scaler.load_state_dict(facts["scaler"])
    training.broken.update(facts["broken"])
    training.monitor.skipped = facts["skipped"]
    if training.world.is_main:
        notice(f"resuming from {path} at step {training.step} of {training.steps}")


def _loop(training: Training, folder: RunFolder | None, stopped: Callable[[], bool]) -> None:
    """Train to the last step; `folder` is None in all processes but the main one. Raises Stopped once a stop is saved."""
    if folder is not None and training.step >= training.steps:
        notice(f"{folder.folder} is complete: {training.steps} steps")
        folder.write_backbone(folder.folder)
    for report in run(training, training.steps):
        if folder is not None:
            folder.report(report)
        stop = agree(stopped(), training.world.device) if report.figures or training.world.size == 1 else False
        if stop or training.due(report.step):
            if folder is not None:
                folder.save()
            synchronise()  # the others wait here while the main process saves, draws and probes
        if stop and report.step < training.steps:
            if folder is None:
                raise Stopped("")
            again = resume_command(folder.folder, folder.run)
            raise Stopped(f"stopped after step {report.step}; `{again}` resumes from there")
