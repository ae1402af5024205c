"""MkDocs hooks for `make docs` (mkdocs.yml), which add the pages outside docs/ and the notebook, and convert links."""

import json
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]

# Maps the pages outside docs/ to their names in the site.
BESIDE = {name: name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")} | {"README.md": "index.md"}
NOTEBOOK = "tour"

LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
FENCE = re.compile(r"(^ *```.*?^ *```)", flags=re.DOTALL | re.MULTILINE)


def on_files(files: "Files", config: "MkDocsConfig") -> "Files":
    """Add the pages outside docs/ and the notebook."""
    from mkdocs.structure.files import File

    for source, name in BESIDE.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text(encoding="utf-8")))
    notebook = json.loads((ROOT / "docs" / f"{NOTEBOOK}.ipynb").read_text(encoding="utf-8"))
    files.append(File.generated(config, f"{NOTEBOOK}.md", content=as_markdown(notebook)))
    return files


def on_page_markdown(markdown: str, page: "Page", config: "MkDocsConfig", files: "Files") -> str:
    """Convert the links of a page into links within the site."""
    name = page.file.src_uri
    source = next((source for source, there in BESIDE.items() if there == name), f"docs/{name}")
    return with_links(markdown, source, config.repo_url or "")


def with_links(markdown: str, source: str, repository: str = "") -> str:
    """Return a page of the repository with its links converted for the site.

    Args:
        markdown: the page.
        source: the path of the page in the repository.
        repository: the URL at which code files are displayed. If empty, the names of code files are not linked.

    Raises:
        FileNotFoundError: a link refers to a file that does not exist in the repository.
    """
    place = posixpath.dirname(source)
    here = posixpath.dirname(_in_site(source) or source)

    def replaced(match: re.Match[str]) -> str:
        image, text, target = match.groups()
        file, mark, anchor = target.partition("#")
        if not file or re.match(r"\w+:", target):
            return match[0]
        path = posixpath.normpath(posixpath.join(place, file))
        if not (ROOT / path).exists():
            raise FileNotFoundError(
                f"{source} links to {path}, which does not exist in the repository; correct the link"
            )
        if (page := _in_site(path)) is not None:
            return f"{image}[{text}]({posixpath.relpath(page, here or '.')}{mark}{anchor})"
        return f"[{text}]({repository.rstrip('/')}/blob/main/{path})" if repository else _as_code(text)

    parts = FENCE.split(markdown)
    return "".join(part if part.lstrip().startswith("```") else LINK.sub(replaced, part) for part in parts)


def _in_site(path: str) -> str | None:
    """Return the path in the site for a file in the repository, or None if the site does not contain the file."""
    if path in BESIDE:
        return BESIDE[path]
    inside = path.removeprefix("docs/")
    if inside == path or (ROOT / path).is_dir():
        return None
    return f"{NOTEBOOK}.md" if inside == f"{NOTEBOOK}.ipynb" else inside


def _as_code(text: str) -> str:
    return text if "`" in text else f"`{text.replace(chr(92), '')}`"


def as_markdown(notebook: dict[str, Any]) -> str:
    """Return a notebook as a Markdown page with its stored outputs. Images are embedded in the page."""
    parts: list[str] = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for kind, content in _shown(cell["outputs"]):
            if kind == "image/png":
                parts.append(f"![Output of the cell above](data:image/png;base64,{''.join(content.split())})")
            else:
                parts.append(f"```text\n{content.rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def _shown(outputs: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Yield the type and content of each output of a cell: an image if there is one, otherwise text."""
    for output in outputs:
        data = output.get("data", {"text/plain": output.get("text", "")})
        kind = "image/png" if "image/png" in data else "text/plain"
        yield kind, "".join(data[kind])
