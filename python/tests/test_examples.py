"""The examples in docstrings and on pages of documentation that need no framework."""

from __future__ import annotations

import doc_examples
import pytest

DOCSTRINGS = [example for name in doc_examples.modules(frameworks=False) for example in doc_examples.of_module(name)]


@pytest.mark.parametrize("example", DOCSTRINGS, ids=lambda example: example.name)
def test_docstrings(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    doc_examples.run(example)


@pytest.mark.parametrize("page", doc_examples.pages(frameworks=False), ids=lambda page: page.name)
def test_pages(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    doc_examples.run(doc_examples.of_page(page))
