"""Requirements of every page, checked by a parser that knows only the rules of HTML."""

import itertools
from html.parser import HTMLParser

VOID = {"meta", "img", "link", "br", "hr", "input"}
REFERENCES = ("href", "src", "srcset", "xlink:href", "data", "poster", "action")


class Parsed(HTMLParser):
    """A page's text, elements and what it refers to; raises AssertionError where elements do not nest.

    Attributes:
        elements: (tag, attributes) in order.
        texts: of the page, without style.
        cells: texts of table cells, in order.
    """

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.cells: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        assert len({name for name, _ in attributes}) == len(attributes), f"an attribute twice in {tag}"
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> does not close what was opened last"

    def handle_data(self, data):
        if "style" not in self.open:
            self.texts.append(data)
            if self.cells and ("td" in self.open or "th" in self.open):
                self.cells[-1] += data

    @property
    def text(self) -> str:
        """All text, with single spaces."""
        return " ".join(" ".join(self.texts).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of each element of a tag."""
        return [attributes for name, attributes in self.elements if name == tag]


def check_page(page: str) -> Parsed:
    """Parse a page, and check that it is self-contained and accessible."""
    parsed = Parsed(page)
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(set(ids)) == len(ids), "an id twice"
    for tag, attributes in parsed.elements:
        for name in REFERENCES:
            if tag != "a" and name in attributes:
                assert str(attributes[name]).startswith(("data:image/", "#")), (tag, attributes)
        if str(attributes.get("href", "")).startswith("#"):
            assert str(attributes["href"])[1:] in ids, f"{attributes['href']} leads nowhere"
        for name in str(attributes.get("aria-labelledby", "")).split():
            assert name in ids
    assert "url(" not in page
    assert "@import" not in page
    assert not parsed.all("script")
    assert not parsed.all("link")
    (html,) = parsed.all("html")
    assert html["lang"] == "en"
    assert "width=device-width, initial-scale=1" in [meta.get("content") for meta in parsed.all("meta")]
    levels = [int(tag[1]) for tag, _ in parsed.elements if tag in ("h1", "h2", "h3", "h4")]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels)), "a level is left out"
    tags = [tag for tag, _ in parsed.elements]
    assert tags.count("caption") == tags.count("table")
    assert tags.count("figcaption") == tags.count("figure")
    assert all(cell.get("scope") for cell in parsed.all("th"))
    assert all(image.get("alt") for image in parsed.all("img"))
    for picture in parsed.all("svg"):
        assert picture.get("aria-hidden") == "true" or (picture["role"] == "img" and picture["aria-label"])
    return parsed
