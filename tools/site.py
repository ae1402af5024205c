"""What MkDocs is told for `make docs` (mkdocs.yml): the pages beside docs/, the notebook, and links to the code."""

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

# Pages that lie beside docs/ -> their names in the site.
BESIDE = {name: name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")} | {"README.md": "index.md"}
NOTEBOOK = "tour"

LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
FENCE = re.compile(r"(^ *```.*?^ *```)", flags=re.DOTALL | re.MULTILINE)


def on_files(files: "Files", config: "MkDocsConfig") -> "Files":
    """Add the pages beside docs/ and the notebook."""
    from mkdocs.structure.files import File

    for source, name in BESIDE.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text(encoding="utf-8")))
    notebook = json.loads((ROOT / "docs" / f"{NOTEBOOK}.ipynb").read_text(encoding="utf-8"))
    files.append(File.generated(config, f"{NOTEBOOK}.md", content=as_markdown(notebook)))
    return files


def on_page_markdown(markdown: str, page: "Page", config: "MkDocsConfig", files: "Files") -> str:
    """Turn the links of a page into links of the site."""
    name = page.file.src_uri
    source = next((source for source, there in BESIDE.items() if there == name), f"docs/{name}")
    return with_links(markdown, source, config.repo_url or "")


def with_links(markdown: str, source: str, repository: str = "") -> str:
    """Return a page of the repository with links that hold in the site.

    Args:
        markdown: the page.
        source: its path in the repository.
        repository: address where files of the code are shown; empty: their names are left without a link.

    Raises:
        FileNotFoundError: a link names a file that the repository lacks.
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
            raise FileNotFoundError(f"{source} links to {path}, which the repository lacks; mend the link")
        if (page := _in_site(path)) is not None:
            return f"{image}[{text}]({posixpath.relpath(page, here or '.')}{mark}{anchor})"
        return f"[{text}]({repository.rstrip('/')}/blob/main/{path})" if repository else _as_code(text)

    parts = FENCE.split(markdown)
    return "".join(part if part.lstrip().startswith("```") else LINK.sub(replaced, part) for part in parts)


def _in_site(path: str) -> str | None:
    """Return the path in the site of a file of the repository; None: the site does not have it."""
    if path in BESIDE:
        return BESIDE[path]
    inside = path.removeprefix("docs/")
    if inside == path or (ROOT / path).is_dir():
        return None
    return f"{NOTEBOOK}.md" if inside == f"{NOTEBOOK}.ipynb" else inside


def _as_code(text: str) -> str:
    return text if "`" in text else f"`{text.replace(chr(92), '')}`"


def as_markdown(notebook: dict[str, Any]) -> str:
    """Return a notebook as a page, with the outputs that it holds; the page itself holds its pictures."""
    parts: list[str] = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for kind, content in _shown(cell["outputs"]):
            if kind == "image/png":
                parts.append(f"![What the cell above draws](data:image/png;base64,{''.join(content.split())})")
            else:
                parts.append(f"```text\n{content.rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def _shown(outputs: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Yield type and content of what a cell has put out: pictures, else text."""
    for output in outputs:
        data = output.get("data", {"text/plain": output.get("text", "")})
        kind = "image/png" if "image/png" in data else "text/plain"
        yield kind, "".join(data[kind])
