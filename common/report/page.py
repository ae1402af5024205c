"""The HTML page: its sections in order, rendered with the templates in this folder, which escape their input."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mocodet.common.study.tables import is_marked

from .numbers import between, fixed, signed


@dataclass(frozen=True)
class Figure:
    """A chart from :mod:`.charts` with a title."""

    title: str
    svg: Markup


@dataclass(frozen=True)
class Group:
    """Figures side by side under a heading, with a shared ``note``. If ``folded``, they are collapsed at first."""

    title: str
    figures: Sequence[Figure]
    note: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Section:
    """A section of the page.

    Attributes:
        title: heading of the section.
        template: file name of the template in ``templates/``.
        content: data for the template.
    """

    title: str
    template: str
    content: Any

    @property
    def anchor(self) -> str:
        """The anchor of this section in the page's table of contents."""
        return "-".join("".join(letter if letter.isalnum() else " " for letter in self.title.lower()).split())


@dataclass(frozen=True)
class Page:
    """The content of a report.

    Attributes:
        kind: kind of report, such as "Study".
        title: name of the study or run.
        summary: one sentence, displayed below the title.
        sections: the sections, in order.
        footer: statement of how the page was created.
    """

    kind: str
    title: str
    summary: str
    sections: Sequence[Section]
    footer: str


def render(page: Page) -> str:
    """Return the page as HTML that does not depend on other files."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"signed": signed, "fixed": fixed}
    environment.globals["between"] = between
    environment.tests["marked"] = is_marked
    return environment.get_template("page.html").render(page=page)
