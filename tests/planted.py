"""Plug-ins with a mistake planted in them, and the first check that finds it."""

from __future__ import annotations

from densebench.cli.new import written


def plugin(folder, kind, *changes):
    """Write the file of `densebench new` with texts replaced, and return its path."""
    text = written(kind, "mine")
    for before, after in changes:
        assert before in text, before
        text = text.replace(before, after)
    path = folder / "mine.py"
    path.write_text(text)
    return str(path)


def first_failed(checks):
    """Return the name and the message of the first check that fails; nothing after it is carried out."""
    for check in checks:
        if check.passed is False:
            return check.name, check.message
    return "", ""
