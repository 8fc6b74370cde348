"""Pages read for tests: what stands in a page of HTML, and that every tag is closed."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = ("meta", "img", "br", "link", "input")
CELLS = ("td", "th", "caption")


class Page(HTMLParser):
    """The texts, cells, attributes of a page; a tag that is not closed fails.

    texts: each with its innermost tag. cells: the text of each cell of a table, without what explains a heading. found: of every
    tag, its name and its attributes.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.cells: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        assert not self.open

    def of(self, attribute: str) -> list[str]:
        """Return the values of an attribute, in the order of the page."""
        return [str(attributes[attribute]) for _, attributes in self.found if attribute in attributes]

    def tags(self, name: str) -> list[dict[str, str | None]]:
        """Return the attributes of every tag of a name."""
        return [attributes for tag, attributes in self.found if tag == name]

    @property
    def sources(self) -> list[str]:
        return self.of("src")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag in CELLS:
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag in CELLS:
            self.cells[-1] = self.cells[-1].strip()

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))
        if set(CELLS) & set(self.open) and "a" not in self.open:
            self.cells[-1] += data
