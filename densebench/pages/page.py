"""One self-contained page: a template that extends `frame.html`, with style and script inside, and pictures as data."""

from __future__ import annotations

import base64
import functools
import io
from importlib.resources import files
from itertools import count
from typing import Any

from PIL import Image

from densebench.pages import glossary
from densebench.pages.public import public

ROOM = "densebench.pages"


def render(template: str, *, room: str, title: str, **values: Any) -> str:
    """Return a page: a template of a room, such as ("page.html", room="densebench.results"), which extends "frame.html".

    title: the heading of the page. values: what the template shows; texts are escaped, and `value|tojson` is safe in a script.
    A template may import the macros of "parts.html"; `term_of` and `terms` are those of the glossary,
    and `command|public` is a command without private folders.
    """
    environment = _environment(room)
    facts = {"title": title, "style": _text("style.css"), "script": _text("script.js"), "number": count(1).__next__}
    return environment.get_template(template).render(**facts, **values).strip() + "\n"


def source(picture: Image.Image, *, widest: int | None = None, exact: bool = False) -> str:
    """Return a picture as the source of an image in a page: a WebP, or a PNG whose pixels are `exact`.

    widest: px; a wider picture is reduced.
    """
    if widest is not None and picture.width > widest:
        height = max(1, round(picture.height * widest / picture.width))
        picture = picture.resize((widest, height), Image.Resampling.NEAREST if exact else Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    if exact:
        picture.save(stream, format="PNG", optimize=True)
        return data(stream.getvalue(), "image/png")
    picture.convert("RGB").save(stream, format="WEBP", quality=80)
    return data(stream.getvalue(), "image/webp")


def data(content: bytes, kind: str) -> str:
    """Return bytes of a media type, such as "image/svg+xml", as an address that holds them."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _text(name: str) -> str:
    return (files(ROOM) / name).read_text(encoding="utf-8")


@functools.cache
def _environment(room: str) -> Any:
    import jinja2

    def load(name: str) -> str | None:
        for package in (room, ROOM):
            if (path := files(package) / name).is_file():
                return path.read_text(encoding="utf-8")
        return None

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(load),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["public"] = public
    environment.globals |= {"terms": glossary.terms, "term_of": glossary.term_of}
    return environment
