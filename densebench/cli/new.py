"""`densebench new`: write a protocol, a method, a data set or a backbone that runs, to start from."""

from __future__ import annotations

import keyword
import re
import shlex
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from densebench.errors import UserError, unknown
from densebench.files.atomic import write_text

RUNS = {
    "protocol": "densebench eval --protocol {file} --dataset scenes --backbone random:test_vit",
    "method": "densebench pretrain {file} --data scenes",
    "dataset": "densebench eval --protocol kmeans --image-size 128 --dataset {file} --backbone pixels:16",
    "backbone": "densebench eval --protocol incontext --dataset scenes --backbone {file}",
}
"""Kind -> the command that runs what is written."""


def new(
    kind: Annotated[str, typer.Argument(metavar="protocol|method|dataset|backbone", help="What to write.", show_default=False)],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its name, such as my_probe.", show_default=False)],
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="Where to write it; ./NAME.py if not given.")] = None,
) -> None:
    """Write a file that runs as it is, to start a plug-in from; print how to run and how to check it."""
    if kind not in RUNS:
        raise unknown("kind", kind, RUNS, f"there are {', '.join(RUNS)}")
    text = written(kind, name)
    path = Path(f"{name.replace('-', '_')}.py") if output is None else output
    if path.suffix != ".py":
        raise UserError(f"--output {path}: it does not end in .py; give the path of a Python file")
    if path.exists():
        raise UserError(f"{path} exists already; remove it, or give another name or --output")
    if find_spec(path.stem) is not None:  # a script beside it would import this file instead
        raise UserError(f"{path} would hide the installed module {path.stem} from scripts in its folder; give another name")
    write_text(path, text)
    file = shlex.quote(str(path) if path.is_absolute() else f"./{path}")
    print(f"wrote {path}\nrun    {RUNS[kind].format(file=file)}\ncheck  densebench check {file}")


def written(kind: str, name: str) -> str:
    """Return the text of a new file of a kind under a name. Raises UserError for a name that no module can have."""
    module = name.replace("-", "_")
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", module) or keyword.iskeyword(module) or len(module) > 60:
        raise UserError(
            f"the name {name!r} is no name of a module: it begins with a letter, has letters, digits, - and _ only, at most 60, "
            "and is no word of Python; my_probe is one"
        )
    text = (files("densebench.templates") / f"{kind}.py").read_text(encoding="utf-8")
    class_name = "".join(part[:1].upper() + part[1:] for part in module.split("_"))
    return re.sub(r"\bmine\b", name, re.sub(r"\bMine\b", class_name, text))
