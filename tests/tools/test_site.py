"""The hooks of the documentation site: links of the repository's pages, and the notebook as a page."""

import runpy
from pathlib import Path

import pytest

SITE = runpy.run_path(str(Path(__file__).parents[2] / "tools" / "site.py"))
with_links, as_markdown = SITE["with_links"], SITE["as_markdown"]


@pytest.mark.parametrize(
    ("source", "markdown", "made"),
    [
        ("README.md", "[a](docs/api.md#moco-from-its-parts)", "[a](api.md#moco-from-its-parts)"),
        ("README.md", "![r](docs/images/report.png)", "![r](images/report.png)"),
        ("README.md", "[s](SECURITY.md) [u](https://a.b/c.md)", "[s](SECURITY.md) [u](https://a.b/c.md)"),
        ("CONTRIBUTING.md", "[r](README.md)", "[r](index.md)"),
        ("docs/api.md", "[s](../SECURITY.md), [r](../README.md#install)", "[s](SECURITY.md), [r](index.md#install)"),
        ("docs/lab/index.md", "[r](../results.md), [d](../tour.ipynb)", "[r](../results.md), [d](../tour.md)"),
        ("docs/lab/index.md", "[s](../../SECURITY.md)", "[s](../SECURITY.md)"),
        ("docs/api.md", "[b](../pretrain/config.py) [`c`](../configs/)", "`b` `c`"),
        ("docs/api.md", "[here](#below)", "[here](#below)"),
        ("docs/api.md", "```\n[a](../setup.py)\n```\n[a](../setup.py)", "```\n[a](../setup.py)\n```\n`a`"),
    ],
)
def test_links__lead_to_pages_of_the_site(source, markdown, made):
    assert with_links(markdown, source) == made


def test_links__to_code_lead_to_the_repository_where_its_address_is_known():
    made = with_links("[b](../pretrain/config.py)", "docs/api.md", "https://host/owner/name/")
    assert made == "[b](https://host/owner/name/blob/main/pretrain/config.py)"


def test_links__to_nowhere_are_refused():
    with pytest.raises(FileNotFoundError, match=r"docs/api\.md links to pretrain/none\.py, which does not exist"):
        with_links("[b](../pretrain/none.py)", "docs/api.md")


def test_notebook__keeps_text_code_and_outputs_in_their_order():
    notebook = {
        "cells": [
            {"cell_type": "markdown", "source": ["# Title\n", "Text."]},
            {
                "cell_type": "code",
                "source": ["1 + 1\n", "show()"],
                "outputs": [
                    {"output_type": "execute_result", "data": {"text/plain": ["2"]}},
                    {"output_type": "display_data", "data": {"image/png": "YWJj\n", "text/plain": ["<Figure>"]}},
                    {"output_type": "stream", "name": "stdout", "text": ["a line\n"]},
                ],
            },
        ]
    }
    assert as_markdown(notebook).split("\n\n") == [
        "# Title\nText.",
        "```python\n1 + 1\nshow()\n```",
        "```text\n2\n```",
        "![Output of the cell above](data:image/png;base64,YWJj)",
        "```text\na line\n```\n",
    ]
