"""`densebench check`: test whether a protocol, a method, a data set or a backbone does what it must."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from densebench import catalog
from densebench.cli import entry_options
from densebench.cli.backbone_options import DataRoot
from densebench.errors import UserError, unknown
from densebench.flag import Flag


def check(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="./file.py, a name of `densebench ls`, or a backbone's spec.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="The preset that is run; the first if not given.")] = None,
    data_root: DataRoot = None,
    show_help: Annotated[bool, typer.Option("--help", "-h", help="Show this message, with the options of NAME.")] = False,
) -> None:
    """Check a plug-in or a name of the catalogue on small made-up data, a line a check; status 1 if one fails.

    Options of a protocol or a method may follow; they override those that make the runs short.
    """
    if show_help or name is None:
        _help(context, name)
        return
    kind = kind_of(name, data_root)
    flags: list[Flag] = []
    if kind in ("protocols", "methods"):
        entry = catalog.find(kind, name)  # type: ignore[arg-type]
        catalog.check_preset(entry, name, preset)
        flags = entry.part(preset).flags()
    elif preset is not None:
        raise UserError(f"--preset {preset}: {name} is among the {kind}, which have none; leave it out")
    own = [spelling for parameter in context.command.params for spelling in parameter.opts]
    given = entry_options.parse(context.args, flags, own)
    failed = skipped = passed = 0
    print(f"{name}, a {'data set' if kind == 'datasets' else kind.removesuffix('s')}", flush=True)
    for outcome in _checks(kind, name, preset, given, data_root):
        print(outcome, flush=True)
        failed, skipped, passed = (
            failed + (outcome.passed is False), skipped + (outcome.passed is None), passed + (outcome.passed is True)
        )  # fmt: skip
    print(f"{passed} ok, {failed} failed, {skipped} skipped")
    raise typer.Exit(1 if failed else 0)


def _checks(kind: str, name: str, preset: str | None, given: dict[str, Any], data_root: Path | None) -> Iterator[Any]:
    if kind == "protocols":
        from densebench.conformance.protocols import check_protocol

        return check_protocol(name, preset, given)
    if kind == "methods":
        from densebench.conformance.methods import check_method

        return check_method(name, preset, given)
    if kind == "datasets":
        from densebench.conformance.datasets import check_dataset

        return check_dataset(name, data_root)
    from densebench.conformance.backbones import check_backbone

    return check_backbone(name)


def kind_of(name: str, data_root: Path | None = None) -> str:
    """Return what a name or a path is: one of protocols, methods, datasets and backbones.

    Raises UserError for a name that is unknown, and for a file that cannot be read or holds none of them.
    """
    if catalog.is_path(name):
        return _kind_of_file(name)
    from densebench.datasets.catalog import titles

    known = {kind: catalog.names(kind) for kind in catalog.BASES} | {"datasets": list(titles())}
    for kind, names in known.items():
        if name in names:
            return kind
    if name.partition(":")[0] in ("folder", "frames"):
        return "datasets"
    if ":" in name:
        return "backbones"
    names = [each for names in known.values() for each in names]
    raise unknown("name", name, names, "give ./file.py, a name of `densebench ls` or a backbone such as pixels:16")


def _kind_of_file(name: str) -> str:
    path = Path(name)
    file = path / "__init__.py" if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"there is no file {file}; give the path of a Python file")
    from densebench.datasets.dataset import Dataset
    from densebench.evaluation.protocol import Evaluator
    from densebench.training.method import Pretrainer
    from densebench.user_code import import_file

    module = import_file(file, f"densebench_checked_{path.resolve().stem}")
    classes = [value for value in vars(module).values() if isinstance(value, type)]
    own = [each for each in classes if f"{each.__module__}.".startswith(f"{module.__name__}.")]
    bases = {"protocols": Evaluator, "methods": Pretrainer, "datasets": Dataset}
    kinds = [kind for kind, base in bases.items() if any(issubclass(each, base) for each in own)]
    if "DATASET" in vars(module) and "datasets" not in kinds:
        kinds.append("datasets")
    if not kinds and callable(getattr(module, "load", None)):
        kinds.append("backbones")
    if not kinds:
        names = ", ".join(base.__name__ for base in bases.values())
        raise UserError(f"{name} holds no class that derives from {names}, and no function load(); see `densebench new`")
    if len(kinds) > 1:
        raise UserError(f"{name} is among {' and '.join(kinds)}; give each a file of its own")
    return kinds[0]


def _help(context: typer.Context, name: str | None) -> None:
    print(context.get_help())
    if name is None or (kind := kind_of(name)) not in ("protocols", "methods"):
        return
    print(entry_options.describe(catalog.find(kind, name).flags()))  # type: ignore[arg-type]
