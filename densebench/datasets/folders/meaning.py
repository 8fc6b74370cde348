"""What the values or colours in a folder's label maps mean: which are classes, which is void."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from densebench.datasets.folders.mask_files import Summary, hexed
from densebench.datasets.folders.options import UNSIGNED, FolderOptions
from densebench.datasets.io.names import at, read_lines
from densebench.datasets.label_maps import IGNORED
from densebench.errors import UserError, unknown
from densebench.files.atomic import digest

BORDER = "#e0e0c0"
"""VOC's colour of void, in label maps that were converted to RGB."""
COLOURS = "labelmap.txt"
"""CVAT's list of colours, beside its masks."""
SHOWN = 12
HIGH, FAR = 240, 100
"""One value of at least HIGH, FAR above all others, may be void."""


@dataclass(frozen=True)
class Meaning:
    """What the numbers in label maps mean.

    classes: names. values: the number of each class in the files; coloured: it is 65536 R + 256 G + B. void: the numbers
    of unlabelled pixels. background: the id of the background class, or None. mapping: see `Dataset`. message: what is
    printed about the inferred parts; "" where the options state everything.
    """

    classes: tuple[str, ...]
    values: tuple[int, ...]
    coloured: bool
    void: tuple[int, ...]
    background: int | None
    mapping: str
    message: str = ""


def stated_meaning(options: FolderOptions) -> Meaning | None:
    """Return the meaning that the user (or labelmap.txt) gives; None where it has to be inferred from the label maps.

    Raises UserError where the void value is a class, and for a background that is no class.
    """
    if "values" in options.values:
        return _listed(options, options.values["values"], options.get("classes", None))
    if "classes" in options.values:
        return numbered(options)
    if (options.root / COLOURS).is_file():
        names, colours = _labelmap(options.root / COLOURS)
        return _listed(options, colours, names, f"classes {shortened(names)} from {COLOURS}")
    return None


def numbered(options: FolderOptions) -> Meaning:
    """Return the meaning of label maps that number the classes of classes.toml from 0, or from 1."""
    classes, void, reduce = tuple(options.values["classes"]), void_number(options), options.get("reduce_zero_label", False)
    ids = range(1, len(classes) + 1) if reduce else range(len(classes))
    if void in ids:
        raise _not_void(options, ids)
    mapping = f"folder-{len(classes)}-ignore-{void}-{'from-1' if reduce else 'from-0'}-v1"
    unlabelled = {void, 0 if reduce else IGNORED}
    return Meaning(classes, tuple(ids), False, tuple(sorted(unlabelled)), background(options, classes), mapping)


def void_number(options: FolderOptions) -> int:
    """Return the void value that the user gives; 255 where there is none. Raises UserError for one that no label map can hold."""
    void = options.get("ignore_index", IGNORED)
    if isinstance(void, str):
        raise UserError(f"ignore_index in {options.where('ignore_index')} is the colour {void}, but the label maps hold numbers")
    if void in (-1, UNSIGNED):
        return UNSIGNED
    if not 0 <= void <= IGNORED:
        classes = options.get("classes", ())
        raise _not_void(options, range(len(classes)))
    return int(void)


def _not_void(options: FolderOptions, ids: range) -> UserError:
    classes = f" and no class's id ({ids[0]}..{ids[-1]})" if ids else ""
    return UserError(
        f"ignore_index {options.get('ignore_index', IGNORED)} in {options.where('ignore_index')} must be in 0..255 "
        f"(or -1, for 16 bits){classes}; use 255"
    )


def background(options: FolderOptions, classes: Sequence[str], default: int | None = None) -> int | None:
    """Return the id of the background class that the user names. Raises UserError where no class is called so."""
    name = options.get("background", None)
    if name is None:
        return default
    if name not in classes:
        where = options.where("background")
        raise unknown("background class", name, classes, f"{where} has the classes {', '.join(classes)}")
    return tuple(classes).index(name)


def _listed(options: FolderOptions, values: Sequence[int | str], names: Sequence[str] | None, message: str = "") -> Meaning:
    """Return the meaning of values or colours that are listed, one a class."""
    coloured = isinstance(values[0], str)
    if names is None:
        names = [str(value) if coloured else f"class {value}" for value in values]
    numbers = tuple(int(value[1:], 16) if isinstance(value, str) else value for value in values)
    void = _void_colours(options, numbers) if coloured else tuple(sorted({void_number(options), IGNORED} - set(numbers)))
    default = list(names).index("background") if coloured and message and "background" in names else None
    return Meaning(
        tuple(names), numbers, coloured, void, background(options, names, default), mapping_of(numbers, coloured, void), message
    )


def _void_colours(options: FolderOptions, classes: Sequence[int]) -> tuple[int, ...]:
    void = options.get("ignore_index", BORDER)
    if not isinstance(void, str):
        raise UserError(
            f"ignore_index in {options.where('ignore_index')} is {void}, but the label maps hold colours; "
            f'write one, such as "{BORDER}"'
        )
    number = int(void[1:], 16)
    if number in classes and "ignore_index" in options.values:
        raise UserError(
            f"ignore_index {void} in {options.where('ignore_index')} is the colour of a class; take it out of one of them"
        )
    return () if number in classes else (number,)


def mapping_of(values: Sequence[int], coloured: bool, void: Sequence[int]) -> str:
    """Return the identity of a mapping from numbers to ids.

    That of classes numbered from 0 is the same as where classes.toml names them.
    """
    if coloured:
        return f"folder-colours-{digest([list(values), list(void)], 16)}-v1"
    odd = [value for value in void if value != IGNORED] or list(void)
    if tuple(values) == tuple(range(len(values))):
        return f"folder-{len(values)}-ignore-{odd[0] if odd else 'none'}-from-0-v1"
    return f"folder-values-{','.join(map(str, values))}-ignore-{odd[0] if odd else 'none'}-v1"


def inferred(options: FolderOptions, summary: Summary) -> Meaning:
    """Return the meaning of label maps by what occurs in them.

    Every value (or colour) is a class, in ascending order, except for void: 255 and the stated ignore_index; of colours, VOC's
    border. Where 0 and 255 are the only values, 255 is the foreground. Raises UserError where fewer than two classes occur, where
    a value does not fit into 8 bits, and where a lone high value may be void.
    """
    if summary.colours:
        void = _void_colours(options, ())
        values = tuple(value for value in summary.values if value not in void)
        names, default = tuple(hexed(value) for value in values), None
        message = f"classes {shortened(names)} from the colours of the label maps{_voids(void, summary)}"
    elif set(summary.values) - _given_void(options) == {0, IGNORED}:
        values, void, names, default = (0, IGNORED), tuple(_given_void(options)), ("background", "foreground"), 0
        message = "the label maps hold 0 and 255 alone: 0 is the background, 255 the foreground"
    else:
        zero = {0} if options.get("reduce_zero_label", False) else set()
        void = tuple(sorted({void_number(options), IGNORED} | zero))
        values = tuple(value for value in summary.values if value not in void)
        names, default = tuple(f"class {value}" for value in values), None
        message = f"classes {shortened(values)} from the values of the label maps{_voids(void, summary)}"
        _check_numbers(options, values, summary)
    if len(values) < 2:
        seen = " and ".join(_shown(value, summary) for value in summary.values)
        raise UserError(
            f"the label maps of {options.root} hold {seen or 'nothing'}, of which {len(values)} is a class; two are needed: "
            "check ignore_index, or list classes in classes.toml"
        )
    return Meaning(
        names,
        values,
        summary.colours,
        void,
        background(options, names, default),
        mapping_of(values, summary.colours, void),
        message,
    )


def _given_void(options: FolderOptions) -> set[int]:
    return {void_number(options)} if "ignore_index" in options.values else set()


def _check_numbers(options: FolderOptions, values: Sequence[int], summary: Summary) -> None:
    if values and values[-1] > IGNORED:
        raise UserError(
            f"the label map {summary.example(values[-1])} holds the value {values[-1]}; ids go up to 255"
            + (
                f"; if it is void, {options.example('ignore_index', UNSIGNED)}"
                if values[-1] == UNSIGNED
                else "; renumber the classes"
            )
        )
    if len(values) > 2 and values[-1] >= HIGH and values[-1] - values[-2] > FAR:
        listed = ", ".join(map(str, values))
        raise UserError(
            f"the label map {summary.example(values[-1])} holds the value {values[-1]}, far above all others "
            f"({shortened(values[:-1])}); if it is void, {options.example('ignore_index', values[-1])}; if it is a class, "
            f"write values = [{listed}] in classes.toml"
        )


def _voids(void: Sequence[int], summary: Summary) -> str:
    shown = [_shown(value, summary) for value in void if value in summary.values or not summary.colours]
    return f"; {' and '.join(shown)} {'is' if len(shown) == 1 else 'are'} void" if shown else ""


def _shown(value: int, summary: Summary) -> str:
    return hexed(value) if summary.colours else str(value)


def shortened(names: Sequence[object]) -> str:
    """Return a list in words, its middle left out where it is long."""
    words = [str(name) for name in names]
    return ", ".join(words) if len(words) <= SHOWN else f"{', '.join(words[:3])}, ..., {words[-1]} ({len(words)} in all)"


def _labelmap(path: Path) -> tuple[list[str], list[str]]:
    """Return the names and colours of CVAT's labelmap.txt: `name:r,g,b:parts:actions` a line.

    Raises UserError for any other line, and for a name or a colour that is listed twice.
    """
    names, colours = [], []
    for number, line in read_lines(path, "export it again"):
        if line.startswith("#"):
            continue
        name, *rest = line.split(":")
        parts = rest[0].split(",") if rest else []
        if not name or len(parts) != 3 or not all(part.strip().isdecimal() and int(part) <= 255 for part in parts):
            raise UserError(f"{at(path, number)} is {line[:100]!r}, not name:red,green,blue::; export it again")
        red, green, blue = (int(part) for part in parts)
        names.append(name)
        colours.append(hexed(65536 * red + 256 * green + blue))
    if len(set(names)) < len(names) or len(set(colours)) < len(colours) or not names:
        raise UserError(f"{path} lists {'a name or a colour twice' if names else 'no label'}; export it again")
    return names, colours
