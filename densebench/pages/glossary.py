"""The glossary: the words of tables and pages, each defined once, in `glossary.toml`."""

from __future__ import annotations

import functools
import re
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markupsafe import Markup


@dataclass(frozen=True)
class Term:
    """A word and what it means. text: Markdown of code, emphasis and links. columns: a pattern of the headings it explains."""

    name: str
    text: str
    columns: str

    @property
    def anchor(self) -> str:
        """The identifier of its entry on a page."""
        return "term-" + re.sub(r"\W+", "-", self.name.replace("±", "spread")).lower()

    def html(self) -> Markup:
        """Return the text as HTML; links, which lead to the documentation, are their words only."""
        from markupsafe import Markup, escape

        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", str(escape(self.text)))
        text = re.sub(r"`([^`]*)`", r"<code>\1</code>", text)
        return Markup(re.sub(r"\*([^*]+)\*", r"<em>\1</em>", text))


@functools.cache
def terms() -> tuple[Term, ...]:
    """Return every term, in the order of the file, which is that of the alphabet."""
    entries = tomllib.loads((files("densebench.pages") / "glossary.toml").read_text(encoding="utf-8"))
    return tuple(Term(name, entry["text"], entry.get("columns", re.escape(name))) for name, entry in entries.items())


@functools.cache
def term_of(heading: str) -> Term | None:
    """Return the term that explains a heading of a column, a fact or a part; None where there is none."""
    return next((term for term in terms() if re.fullmatch(term.columns, heading)), None)


def markdown() -> str:
    """Return the glossary as it stands in the documentation: a `{glossary}` of MyST."""
    entries = (f"{term.name}\n    {term.text}" for term in terms())
    return "```{glossary}\n" + "\n\n".join(entries) + "\n```"
